//! The judgement as a table for a terminal, a line a set, and a line for what each set obeyed.
//!
//! Never here: figures that the page does not have.

use super::classify::Share;
use super::figures::{Gains, Report, SetReport, Worth};
use super::obeyed::Both;
use super::paired::Gain;

impl Worth {
    /// As it stands in the JSON.
    pub fn word(self) -> &'static str {
        match self {
            Worth::Baseline => "baseline",
            Worth::Proven => "proven",
            Worth::NotProven => "not_proven",
            Worth::Harmful => "harmful",
            Worth::NotMeasured => "not_measured",
        }
    }

    /// What follows from it.
    pub fn meaning(self) -> &'static str {
        match self {
            Worth::Baseline => "what the others are compared with",
            Worth::Proven => "its gain is proven: `fit --defects` may use it",
            Worth::NotProven => "no gain is proven, so it is not used by default",
            Worth::Harmful => "fits with it are worse: it is not used",
            Worth::NotMeasured => "no gain was measured, so it is not used by default",
        }
    }
}

/// A number, or a dash where there is none.
fn or_dash(value: Option<f64>, digits: usize) -> String {
    value.filter(|v| v.is_finite()).map_or_else(|| "-".into(), |v| format!("{v:.digits$}"))
}

/// Share of made defects of the class that was asked for, by the better of two classifiers that there is.
fn obeyed_class(set: &SetReport) -> Option<f64> {
    let by_reader = set.obeyed.as_ref().map(|o| o.class.all.made.map(|s| s.accuracy));
    by_reader.unwrap_or_else(|| set.condition.as_ref().map(|c| c.made.accuracy))
}

/// What a made set obeyed beside its class, and beside it what the reader tells of held-out real defects.
fn obeyed_line(set: &SetReport) -> Option<String> {
    let obeyed = set.obeyed.as_ref()?;
    let percent =
        |share: Option<Share>| share.map_or_else(|| "-".into(), |s| format!("{:.1} %", s.accuracy * 100.0));
    let both = |b: &Both| format!("{} (real, held out: {})", percent(b.made), percent(b.real));
    let mut parts = vec![format!("class {}", both(&obeyed.class.all))];
    parts.extend(obeyed.text.iter().map(|t| format!("text {}", both(&t.all))));
    parts.extend(obeyed.parameters.iter().map(|p| match p.told_in.is_empty() {
        true => format!("{} cannot be told", p.name),
        false => format!("{} {} in {}", p.name, both(&p.side), p.told_in.join(", ")),
    }));
    Some(format!("{} obeyed: {}\n", set.set.name, parts.join("; ")))
}

fn line(set: &SetReport) -> String {
    let gain = |gains: Option<&Gains>| {
        let gain = gains.map(|g| &g.image_precision).filter(|g| g.gain.is_finite());
        let sure = |g: &Gain| g.interval.map(|i| format!(" ({:+.3} to {:+.3})", i.low, i.high));
        gain.map_or_else(|| "-".into(), |g| format!("{:+.3}{}", g.gain, sure(g).unwrap_or_default()))
    };
    let copies = set
        .copies
        .as_ref()
        .map_or_else(|| "-".into(), |c| format!("{} of {}", c.count, set.set.crops - set.set.pasted));
    format!(
        "{:<14} {:<13} {:<26} {:<26} {:>8} {:>8} {:>8} {:>7} {:>11} {:>9} {:>7}\n",
        set.set.name,
        set.verdict.word(),
        gain(set.gain.as_ref().map(|g| &g.shown)),
        gain(set.gain.as_ref().and_then(|g| g.left_out.as_ref())),
        or_dash(set.kid.map(|k| k.value), 3),
        or_dash(set.density_coverage.map(|d| d.density), 2),
        or_dash(set.density_coverage.map(|d| d.coverage), 2),
        or_dash(set.two_sample.map(|t| t.accuracy), 2),
        copies,
        or_dash(set.diversity.map(|d| d.ratio), 2),
        or_dash(obeyed_class(set), 2),
    )
}

impl Report {
    /// The judgement as a table for people and scripts: name and verdict are the first words of each line.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<14} {:<13} {:<26} {:<26} {:>8} {:>8} {:>8} {:>7} {:>11} {:>9} {:>7}\n",
            "set",
            "verdict",
            "gain in image AP",
            "of a class left out",
            "kid",
            "density",
            "coverage",
            "c2st",
            "copies",
            "diversity",
            "obeyed"
        );
        self.sets.iter().for_each(|set| text += &line(set));
        self.sets.iter().filter_map(obeyed_line).for_each(|line| text += &line);
        text
    }
}
