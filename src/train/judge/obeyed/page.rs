//! The part of the page that says whether made defects are what was asked for.
//!
//! Never here: figures of its own.

use maud::{Markup, html};

use super::{Both, Obeyed, TELLABLE, Told};
use crate::judge::classify::Share;
use crate::judge::figures::{Report, SetReport};

/// Tables of it; nothing where no set was asked.
pub fn section(report: &Report) -> Markup {
    html! {
        @for (name, obeyed) in report.sets.iter().filter_map(|s| Some((&s.set.name, s.obeyed.as_ref()?))) {
            (conditions(name, obeyed))
        }
        (classes(report))
    }
}

fn share(share: Option<Share>) -> String {
    let text = |s: Share| {
        let Share { right, of, accuracy, interval } = s;
        format!(
            "{:.1} %, {right} of {of} ({:.1} to {:.1})",
            accuracy * 100.0,
            interval.low * 100.0,
            interval.high * 100.0
        )
    };
    share.map_or_else(|| "–".into(), text)
}

fn row(name: &str, part: &str, both: Both) -> Markup {
    html! { tr { th scope="row" { (name) } td { (part) } td.n { (share(both.real)) } td.n { (share(both.made)) } } }
}

fn told(name: &str, told: &Told) -> Markup {
    html! {
        (row(name, "all", told.all))
        @for (class, both) in &told.classes { (row("", class, *both)) }
    }
}

fn head(first: &str, second: &str) -> Markup {
    html! { thead { tr { th { (first) } th { (second) } th.n { "Real, held out" } th.n { "Made" } } } }
}

/// A parameter's classes, and where it cannot be told.
fn parameters(obeyed: &Obeyed) -> Markup {
    let rank = |r: Option<f64>| r.map_or_else(|| "–".into(), |r| format!("{r:.2}"));
    html! {
        @for parameter in &obeyed.parameters {
            (row(&parameter.name, "where it can be told", parameter.side))
            tr {
                th {} td { "rank correlation there" }
                td.n { (rank(parameter.correlation.real)) } td.n { (rank(parameter.correlation.made)) }
            }
            @for (class, both) in &parameter.classes {
                @if parameter.told_in.contains(class) { (row("", class, *both)) } @else { tr {
                    th {} td { (class) } td.n { (share(both.real)) } td.n { "cannot be told" }
                } }
            }
        }
    }
}

fn conditions(name: &str, obeyed: &Obeyed) -> Markup {
    html! {
        section {
            h2 { "Is it what was asked for? " (name) }
            table {
                (head("Told right", "Class"))
                tbody {
                    (told("class", &obeyed.class))
                    @if let Some(text) = &obeyed.text { (told("text, all words", text)) }
                    (parameters(obeyed))
                    @for (class, count) in &obeyed.unknown { tr {
                        th {} td { (class) } td {} td.n { (count) ", unknown to the reader" }
                    } }
                }
            }
            @if !obeyed.words.is_empty() {
                table {
                    (head("Word", "Class"))
                    tbody { @for word in &obeyed.words { (row(&word.word, &word.class, word.told)) } }
                }
            }
            p.note {
                "By a reader that learnt from " (obeyed.learnt) " real defects and was asked about " (obeyed.held_out)
                " of other groups: what it tells of those is the most that it can tell of made ones. It does not see the \
                 masks, and a made defect that shows nothing is told wrong. Process parameters: right side of the median, of \
                 values in the outer thirds; a class counts where held-out real defects are told right at "
                (format!("{:.0} %", TELLABLE * 100.0)) " or more. Brackets: exact interval at 95 %."
            }
        }
    }
}

/// The class alone, where real defects are too few for a reader.
fn classes(report: &Report) -> Markup {
    let told: Vec<_> = report
        .sets
        .iter()
        .filter(|s: &&SetReport| s.obeyed.is_none())
        .filter_map(|s| Some((s, s.condition.as_ref()?)))
        .collect();
    if told.is_empty() {
        return html! {};
    }
    html! {
        section {
            h2 { "Is it the class that was asked for?" }
            table {
                thead { tr { th { "Set" } th { "Class" } th.n { "Told right" } } }
                tbody {
                    tr { th scope="row" { "real, held out" } td { "all" } td.n { (share(Some(told[0].1.real))) } }
                    @for (set, condition) in &told {
                        tr { th scope="row" { (set.set.name) } td { "all" } td.n { (share(Some(condition.made))) } }
                        @for (class, one) in &condition.classes {
                            tr { th {} td { (class) } td.n { (share(Some(*one))) } }
                        }
                        @for (class, count) in &condition.unknown {
                            tr { th {} td { (class) } td.n { (count) ", unknown to the classifier" } }
                        }
                    }
                }
            }
            p.note { "By a classifier of real defects in the feature space; its own worth is the first row." }
        }
    }
}
