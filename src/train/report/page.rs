//! The page: one HTML file with everything in it, for the screen and for paper.
//!
//! Never here: scripts, references to anything outside the file, unescaped text of others (`maud` escapes
//! all that is not marked; only this crate's style sheet and the SVG of [`super::curves`] are marked).

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{JSON_NAME, Report, ReportError, curves, pictures, sections};
use crate::evaluate::Evaluation;
use crate::metrics::intervals::Interval;

/// Of every page.
pub(crate) const STYLE: &str = include_str!("style.css");

/// The whole page.
///
/// Errors: [`ReportError::Figure`], [`ReportError::Evaluate`] if a picture is gone since it was judged.
pub fn html(evaluation: &mut Evaluation) -> Result<String, ReportError> {
    let kinds = pictures::worst(evaluation)?;
    let report = &evaluation.report;
    let figures = figures(report)?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Evaluation of " (report.model) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (top(report))
                main {
                    (headline(report))
                    (sections::not_shown(report))
                    (sections::verdicts(report))
                    (figures)
                    (sections::classes(report))
                    (sections::places(report))
                    (sections::agreement(report))
                    (sections::worst(report, &kinds))
                    (sections::latency(report))
                    (sections::card(report))
                    (sections::definitions())
                }
                (bottom(report))
            }
        }
    };
    Ok(page.into_string())
}

/// A share as per cent.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// An interval of a share as per cent.
pub fn percents(interval: Interval) -> String {
    format!("{:.1} to {:.1} %", interval.low * 100.0, interval.high * 100.0)
}

/// The same where there may be none.
pub fn percents_or(interval: Option<Interval>) -> String {
    interval.map_or_else(|| "one group only".into(), percents)
}

fn top(report: &Report) -> Markup {
    html! {
        header {
            h1 { "Evaluation of " (report.model) }
            p.soft {
                "Inspection model judged on " (report.good + report.defective) " labelled pictures, "
                (report.evaluated.strftime("%Y-%m-%d %H:%M UTC")) br;
                "Model SHA-256 " code { (report.sha256) } br;
                "Pictures " code { (report.data) } ", SHA-256 " code { (report.data_sha256) }
            }
        }
    }
}

fn tile(name: &str, bad: bool, figure: &str, notes: &[String]) -> Markup {
    html! {
        div.tile.bad[bad] {
            span.name { (name) }
            b { (figure) }
            @for note in notes { span { (note) } }
        }
    }
}

fn headline(report: &Report) -> Markup {
    let intervals = &report.intervals;
    let auroc = intervals.auroc.map_or_else(
        || "no interval: one group only".to_owned(),
        |i| format!("95 %: {:.3} to {:.3}, by group", i.low, i.high),
    );
    let counted = |k: usize, n: usize, of: &str| format!("{k} of {n} {of}");
    let exact = |i: Interval| format!("95 %: {} (exact)", percents(i));
    let by_group = |i: Option<Interval>| format!("by group: {}", percents_or(i));
    html! {
        section.tiles {
            (tile("Escape rate", report.escapes > 0, &percent(report.escape_rate), &[
                counted(report.escapes, report.defective, "defective parts passed"),
                exact(intervals.escape_rate.exact),
                by_group(intervals.escape_rate.bootstrap),
            ]))
            (tile("False-reject rate", report.false_rejects > 0, &percent(report.false_reject_rate), &[
                counted(report.false_rejects, report.good, "good parts did not pass"),
                exact(intervals.false_reject_rate.exact),
                by_group(intervals.false_reject_rate.bootstrap),
            ]))
            (tile("AUROC", false, &format!("{:.3}", report.auroc), &[
                auroc,
                match report.floor_auroc {
                    Some(floor) => format!("linear method on the same pictures: {floor:.3}"),
                    None => format!("average precision {:.3}", report.average_precision),
                },
            ]))
            @match (report.aupro_30, report.pixel_auroc) {
                (Some(aupro), Some(pixel)) => (tile("AUPRO up to 0.30", false, &format!("{aupro:.3}"), &[
                    "does the map point at the defect?".into(),
                    format!("pixel AUROC {pixel:.3}"),
                ])),
                _ => (tile("Scoring time, p99", false, &format!("{:.1} ms", report.latency_ms.p99), &[
                    format!("median {:.1} ms, {}", report.latency_ms.p50, report.provider),
                    report.machine.clone(),
                ])),
            }
        }
    }
}

fn figures(report: &Report) -> Result<Markup, ReportError> {
    let svg = |text: String| PreEscaped(text);
    let [histogram, by_class] = [curves::histogram(report)?, curves::by_class(report)?].map(svg);
    let [roc, precision_recall] = [curves::roc(report)?, curves::precision_recall(report)?].map(svg);
    let lines = if report.thresholds.review < report.thresholds.reject {
        "The solid line is the reject threshold (1.00), the dashed one the review threshold."
    } else {
        "The line is the reject threshold (1.00); there is no review zone."
    };
    Ok(html! {
        section {
            h2 { "Scores" }
            figure role="img" aria-label="Histograms of the scores of good and of defective parts" {
                (histogram)
                figcaption { "How often each score occurred. " (lines) }
            }
            figure role="img" aria-label="Scores by class" {
                (by_class)
                figcaption { "Each point is a picture (of a large class, 400 of them, the extremes included). " (lines) }
            }
            div.two {
                figure role="img" aria-label="ROC curve" {
                    (roc)
                    figcaption {
                        "ROC: what share of the defects is found at what price in false rejects. AUROC "
                        (format!("{:.3}", report.auroc)) ". Dashed: guessing."
                    }
                }
                figure role="img" aria-label="Precision-recall curve" {
                    (precision_recall)
                    figcaption {
                        "Precision and recall. Average precision " (format!("{:.3}", report.average_precision))
                        ". Dashed: the share of defective pictures in this set."
                    }
                }
            }
        }
    })
}

fn bottom(report: &Report) -> Markup {
    html! {
        section.sign {
            div { "Evaluated by, date" }
            div { "Reviewed by, date" }
            div { "Released for, date" }
        }
        footer {
            "Made by inspect-train " (report.evaluator_version) " evaluate --report. The same figures, and the score of every \
             picture, are in " code { (JSON_NAME) } "."
        }
    }
}
