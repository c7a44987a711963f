//! The sections of the page, in its order.
//!
//! Never here: figures of its own.

use maud::{Markup, html};

use super::page::{percent, percents, percents_or};
use super::pictures::{Kind, Shown};
use super::{Report, Verdicts};
use crate::metrics::intervals::CONFIDENCE;

/// AIAG's limits for an appraiser that can be accepted.
const EFFECTIVENESS_AT_LEAST: f64 = 0.90;
const MISS_RATE_AT_MOST: f64 = 0.02;
const FALSE_ALARM_RATE_AT_MOST: f64 = 0.05;
const KAPPA_AT_LEAST: f64 = 0.75;

pub fn not_shown(report: &Report) -> Markup {
    html! {
        aside {
            h2 { "What this does not show" }
            ul { @for sentence in &report.not_shown { li { (sentence) } } }
        }
    }
}

pub fn verdicts(report: &Report) -> Markup {
    let intervals = &report.intervals;
    let (good, defective) = (report.confusion.good, report.confusion.defective);
    let cell = |count: usize, of: usize, right: bool| {
        html! { td.n.right[right].wrong[!right && count > 0] { (count) " (" (percent(count as f64 / of as f64)) ")" } }
    };
    let row = |name: &str, v: Verdicts, of: usize, good: bool| {
        html! { tr {
            th scope="row" { (name) } td.n { (of) }
            (cell(v.pass, of, good)) (cell(v.review, of, !good)) (cell(v.reject, of, !good))
        } }
    };
    let rates = [
        ("False rejects", report.false_rejects, report.good, &intervals.false_reject_rate),
        ("Escapes", report.escapes, report.defective, &intervals.escape_rate),
        ("Recall", report.defective - report.escapes, report.defective, &intervals.recall),
    ];
    html! {
        section {
            h2 { "Verdicts" }
            table {
                thead { tr {
                    th { "Truth" } th.n { "Pictures" } th.n { "Pass" } th.n { "Review" } th.n { "Reject" }
                } }
                tbody {
                    (row("Good", good, report.good, true))
                    (row("Defective", defective, report.defective, false))
                }
            }
            table {
                thead { tr {
                    th { "Rate" } th.n { "Count" } th.n { "Rate" }
                    th.n { "95 % exact" } th.n { "95 % by group" }
                } }
                tbody { @for (name, k, n, shares) in rates { tr {
                    th scope="row" { (name) } td.n { (k) " of " (n) } td.n { (percent(k as f64 / n as f64)) }
                    td.n { (percents(shares.exact)) } td.n { (percents_or(shares.bootstrap)) }
                } } }
            }
            p.note {
                "Review counts as not passed: the part goes to the reject gate unless the station says otherwise. "
                "Exact: Clopper–Pearson, every picture an independent trial. By group: bootstrap over "
                (intervals.good_groups) " groups of good and " (intervals.defective_groups) " of defective pictures, "
                (intervals.bootstrap_rounds) " rounds, seed " (intervals.bootstrap_seed)
                @if intervals.singletons { "; here every picture is a group of its own" }
                ". Believe the wider one."
            }
        }
    }
}

pub fn classes(report: &Report) -> Markup {
    html! {
        section {
            h2 { "Recall by type of defect" }
            table {
                thead { tr {
                    th { "Type" } th.n { "Pictures" } th.n { "Groups" } th.n { "Not passed" } th.n { "Recall" }
                    th.n { "95 % exact" } th.n { "95 % by group" } th.n { "AUROC" }
                } }
                tbody { @for class in &report.classes { tr {
                    th scope="row" { (class.class) } td.n { (class.count) } td.n { (class.groups) }
                    td.n { (class.not_passed) } td.n { (percent(class.recall)) }
                    td.n { (percents(class.recall_intervals.exact)) }
                    td.n { (percents_or(class.recall_intervals.bootstrap)) }
                    td.n { (format!("{:.3}", class.auroc)) }
                } } }
            }
        }
    }
}

pub fn places(report: &Report) -> Markup {
    let Some(scope) = report.pixels else { return html! {} };
    let rows = [
        ("Pixel AUROC", report.pixel_auroc, "the chance that a defect pixel stands above a clean one"),
        (
            "Pixel average precision",
            report.pixel_average_precision,
            "share of defect among the pixels flagged, over all limits",
        ),
        (
            "AUPRO up to 0.30",
            report.aupro_30,
            "mean overlap with each defect region, false-positive rate up to 0.30",
        ),
        ("AUPRO up to 0.05", report.aupro_05, "the same, strict: up to 0.05"),
    ];
    html! {
        section {
            h2 { "Does the map point at the defect?" }
            table {
                thead { tr { th { "Figure" } th.n { "Value" } th { "Meaning" } } }
                tbody { @for (name, value, meaning) in rows { tr {
                    th scope="row" { (name) }
                    td.n { (value.map_or_else(|| "none".into(), |v| format!("{v:.3}"))) } td { (meaning) }
                } } }
            }
            p.note {
                "At the model's input, " (scope.width_px) "×" (scope.height_px) " pixels: " (scope.masked)
                " masks with " (scope.regions) " regions, " (scope.good) " good pictures as all clean"
                @if scope.unmasked > 0 { "; " (scope.unmasked) " defective pictures without a mask left out" }
                ". 1 is perfect; a map that says the same everywhere has AUROC 0.5 and AUPRO 0.15 and 0.025."
            }
        }
    }
}

pub fn agreement(report: &Report) -> Markup {
    let a = &report.attribute_agreement;
    let least = |value: f64, limit: f64| value >= limit;
    let most = |value: f64, limit: f64| value <= limit;
    let rows = [
        (
            "Effectiveness",
            percent(a.effectiveness),
            format!("at least {:.0} %", EFFECTIVENESS_AT_LEAST * 100.0),
            least(a.effectiveness, EFFECTIVENESS_AT_LEAST),
            "right verdicts of all",
        ),
        (
            "Miss rate",
            percent(a.miss_rate),
            format!("at most {:.0} %", MISS_RATE_AT_MOST * 100.0),
            most(a.miss_rate, MISS_RATE_AT_MOST),
            "defective parts called good",
        ),
        (
            "False alarm rate",
            percent(a.false_alarm_rate),
            format!("at most {:.0} %", FALSE_ALARM_RATE_AT_MOST * 100.0),
            most(a.false_alarm_rate, FALSE_ALARM_RATE_AT_MOST),
            "good parts called bad",
        ),
        (
            "Cohen's kappa",
            format!("{:.3}", a.kappa),
            format!("at least {KAPPA_AT_LEAST}"),
            least(a.kappa, KAPPA_AT_LEAST),
            "agreement with the reference beyond chance",
        ),
    ];
    html! {
        section {
            h2 { "Attribute agreement (MSA)" }
            table {
                thead { tr { th { "Figure" } th.n { "Value" } th.n { "AIAG" } th { "Met" } th { "Meaning" } } }
                tbody { @for (name, value, limit, met, meaning) in rows { tr {
                    th scope="row" { (name) } td.n { (value) } td.n { (limit) }
                    td { span.yes[met].no[!met] { (if met { "yes" } else { "no" }) } } td { (meaning) }
                } } }
            }
            @if let Some(t) = a.trials {
                p {
                    "Agreement with itself on several pictures of one part: " (t.agreeing) " of " (t.parts)
                    " parts got the same answer on all their pictures (" (percents(t.exact)) ", 95 % exact; "
                    (t.pictures) " pictures); " (t.right) " got the right one on all."
                }
            }
            p.note {
                "The model is the appraiser, the folder the reference, criteria as in AIAG MSA, 4th edition, attribute \
                 study; the figures are single values, their intervals are under Verdicts. On the same picture the model \
                 always says the same, so repeatability from one picture is perfect and says nothing. A real study \
                 presents each part several times, taken out and put in again"
                @if a.trials.is_none() { " (column " code { "part" } " in manifest.csv names the part; then it is counted here)" }
                "."
            }
        }
    }
}

pub fn worst(report: &Report, kinds: &[Kind]) -> Markup {
    html! {
        section {
            h2 { "The pictures to look at" }
            p.note {
                "Left as it was taken, right with the anomaly map: " span.scale {} " clear up to half the reject \
                 threshold, orange at it, red from one and a half of it. Cyan: outline of the mask."
            }
            @for kind in kinds {
                h3 { (kind.title) }
                @if kind.of == 0 {
                    p.soft { "None." }
                } @else {
                    p.soft { (kind.meaning) " " (kind.shown.len()) " of " (kind.of) "." }
                    div.shown { @for shown in &kind.shown { (picture(report, shown)) } }
                }
            }
        }
    }
}

fn picture(report: &Report, shown: &Shown) -> Markup {
    let score = &report.scores[shown.place];
    let alone = score.group == score.file;
    html! {
        figure {
            div.pair {
                img src=(shown.picture) width=(shown.width) height=(shown.height) alt={ "Picture " (score.file) };
                img src=(shown.overlay) width=(shown.width) height=(shown.height) alt={ "Anomaly map of " (score.file) };
            }
            figcaption {
                b { (format!("{:.3}", report.relative(score.score))) } " " (score.verdict) ", " (score.class) br;
                (score.file)
                @if !alone { " (group " (score.group) ")" }
                @if shown.outlined { ", mask outlined" }
            }
        }
    }
}

pub fn latency(report: &Report) -> Markup {
    let t = &report.latency_ms;
    html! {
        section {
            h2 { "Scoring time" }
            table {
                thead { tr { th.n { "p50" } th.n { "p90" } th.n { "p99" } th.n { "max" } th { "Measured on" } } }
                tbody { tr {
                    @for value in [t.p50, t.p90, t.p99, t.max] { td.n { (format!("{value:.2} ms")) } }
                    td {
                        (report.provider) ", " (t.threads) (if t.threads == 1 { " thread" } else { " threads" }) ", "
                        (report.machine)
                    }
                } }
            }
            p.note {
                "From the model's input to score and map, each of " (t.count) " pictures once after warm-up, whatever else \
                 the machine did meanwhile. Exposure, transfer, reading and resizing are not in it."
            }
        }
    }
}

pub fn card(report: &Report) -> Markup {
    let (card, calibration, training) = (&report.card, &report.card.calibration, &report.card.training);
    let groups = if calibration.groups == calibration.goods {
        "no grouping".to_owned()
    } else {
        format!("{} groups", calibration.groups)
    };
    let method = format!("{:?}", calibration.method).to_lowercase();
    let colour = if card.input.channels == 1 { "grey" } else { "RGB" };
    let facts = [
        ("Model", report.model.clone()),
        ("File, SHA-256", report.sha256.clone()),
        (
            "Fitted",
            format!(
                "{}, by inspect-train {}",
                card.created.strftime("%Y-%m-%d %H:%M UTC"),
                training.trainer_version
            ),
        ),
        ("Input", format!("{}×{} pixels, {colour}", card.input.width, card.input.height)),
        ("Reject threshold", format!("{} in the model's unit, shown as 1.00", report.thresholds.reject)),
        (
            "Review threshold",
            format!(
                "{}, shown as {:.3}",
                report.thresholds.review,
                report.relative(report.thresholds.review)
            ),
        ),
        (
            "Calibration",
            format!(
                "{method}, {} held-out good parts ({groups}), false-reject budget {} (review {}){}",
                calibration.goods,
                percent(calibration.alpha),
                percent(calibration.review_alpha),
                if report.provisional { ", provisional" } else { "" },
            ),
        ),
        ("Claim", calibration.claim.clone()),
        (
            "Fitted on",
            format!("{} good pictures, {} steps, seed {}", training.goods, training.steps, training.seed),
        ),
        ("Training data, SHA-256", training.data_sha256.clone()),
        ("Provider here", report.provider.clone()),
    ];
    html! {
        section {
            h2 { "The model" }
            dl {
                @for (name, value) in facts { dt { (name) } dd { (value) } }
                @for (name, value) in &training.settings { dt { "Setting " code { (name) } } dd { (value) } }
            }
        }
    }
}

pub fn definitions() -> Markup {
    let sure = format!("{:.0} %", CONFIDENCE * 100.0);
    let rows = [
        ("Score", "one number a picture, higher is more anomalous, shown divided by the reject threshold: 1.00 is the limit".to_owned()),
        ("Pass, review, reject", "up to the review threshold; up to the reject threshold; above it".into()),
        ("Escape", "a defective part that passes; the rate is of all defective parts, not of all parts".into()),
        ("False reject", "a good part that does not pass; the rate is of all good parts".into()),
        ("Recall", "share of the defective parts that do not pass: 1 - escape rate".into()),
        ("AUROC", "the chance that a defective part scores above a good one, ties half; 0.5 is guessing. It does not depend on the thresholds".into()),
        ("Average precision", "mean precision over the steps of recall (as scikit-learn)".into()),
        ("Interval", format!("where the true figure may lie, {sure} two-sided; exact by Clopper & Pearson, or percentiles of a bootstrap that draws whole groups")),
        ("AUPRO", "overlap with each defect region, averaged over regions, integrated over the share of clean pixels flagged, divided by the limit (Bergmann et al. 2020)".into()),
    ];
    html! {
        section {
            h2 { "What the words mean" }
            dl { @for (name, value) in rows { dt { (name) } dd { (value) } } }
        }
    }
}
