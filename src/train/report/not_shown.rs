//! What the figures do not show, in sentences: the part of a report that is left out most often.
//!
//! Never here: figures of its own; every number comes out of the [`Report`].

use super::Report;
use crate::metrics::intervals::{CONFIDENCE, Interval, upper_bound};

/// Classes with fewer pictures are named: their recall says little.
const FEW_PICTURES: usize = 20;
/// With fewer groups the bootstrap's interval is said to be too narrow.
const FEW_GROUPS: usize = 10;
/// Defective parts without an escape that show less than 1 % escapes at 95 %.
const NEEDED_FOR_ONE_PERCENT: usize = 299;

/// The sentences, the weightiest first. `found` are notes on the data, which come last.
pub fn sentences(report: &Report, found: &[String]) -> Vec<String> {
    let mut all = limits(report);
    all.extend(rates(report));
    all.extend(few(report));
    all.extend(groups(report));
    all.extend(scope(report));
    all.extend(found.iter().cloned());
    all
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn rates(report: &Report) -> Vec<String> {
    let mut all = Vec::new();
    let allowed = |seen: usize, of: usize| percent(upper_bound(seen, of, CONFIDENCE));
    if report.escapes == 0 {
        all.push(format!(
            "No escape among {} defective parts does not mean that none will escape: it still allows an \
             escape rate of up to {} (one-sided, 95 % sure).{}",
            report.defective,
            allowed(0, report.defective),
            if report.defective < NEEDED_FOR_ONE_PERCENT {
                format!(
                    " To show less than 1 % takes {NEEDED_FOR_ONE_PERCENT} defective parts without an escape."
                )
            } else {
                String::new()
            }
        ));
    }
    if report.false_rejects == 0 {
        all.push(format!(
            "No false reject among {} good parts still allows a false-reject rate of up to {} (one-sided, \
             95 % sure).",
            report.good,
            allowed(0, report.good),
        ));
    }
    all
}

fn limits(report: &Report) -> Vec<String> {
    let mut all = Vec::new();
    if report.provisional {
        all.push(format!(
            "The thresholds are provisional, and no false-reject rate is claimed. The model's card says: \
             {}",
            report.card.calibration.claim,
        ));
    }
    all
}

fn few(report: &Report) -> Option<String> {
    let few: Vec<String> = report
        .classes
        .iter()
        .filter(|c| c.count < FEW_PICTURES)
        .map(|c| format!("{} ({})", c.class, c.count))
        .collect();
    let named = format!("Too few pictures for a recall of their own: {}.", few.join(", "));
    Some(named).filter(|_| !few.is_empty())
}

fn groups(report: &Report) -> Vec<String> {
    let intervals = &report.intervals;
    let mut all = Vec::new();
    if intervals.singletons {
        all.push(
            "No picture shares a group (lot, shift, session) with another, so every picture counts as \
             independent. Where pictures of one lot are alike, all intervals here are too narrow: name the \
             groups in manifest.csv."
                .to_owned(),
        );
    } else {
        for (what, count) in [("good", intervals.good_groups), ("defective", intervals.defective_groups)] {
            if count == 1 {
                all.push(format!(
                    "All {what} pictures are of one group: nothing here shows how other lots would do."
                ));
            } else if count < FEW_GROUPS {
                all.push(format!(
                    "The {what} pictures are of only {count} groups: intervals by group are too narrow."
                ));
            }
        }
    }
    let flat = |i: Option<Interval>| i.is_some_and(|i| i.low == i.high);
    let shares = [intervals.escape_rate.bootstrap, intervals.false_reject_rate.bootstrap];
    if flat(intervals.auroc) || shares.into_iter().any(flat) {
        all.push(
            "An interval by group without width means that what was never seen cannot be drawn again, not \
             that the figure is certain; believe the exact interval there."
                .into(),
        );
    }
    all
}

fn scope(report: &Report) -> Vec<String> {
    let mut all = vec![
        "Only the defect types listed here, on this part, with this camera, lens and light were judged. The \
         share of defective pictures in this set is not that of the line; average precision and \
         effectiveness depend on it."
            .to_owned(),
    ];
    match report.pixels {
        None => all.push("There are no masks: whether the map points at the defect was not judged.".into()),
        Some(scope) if report.pixel_auroc.is_none() => all.push(format!(
            "The map's values over {} pictures lie too close together to be told apart: no pixel figures.",
            scope.good + scope.masked
        )),
        Some(scope) if scope.unmasked > 0 => all.push(format!(
            "{} of {} defective pictures have no mask and are left out of the pixel figures.",
            scope.unmasked,
            scope.masked + scope.unmasked
        )),
        Some(_) => {}
    }
    all.push(
        "If the model, a threshold or a setting was chosen after a look at figures on these pictures, the \
         figures here are too good; then only new pictures tell."
            .into(),
    );
    all.push(
        "Scoring times were taken on the machine and provider named here; time for exposure, transfer and \
         resizing is not in them."
            .into(),
    );
    all
}
