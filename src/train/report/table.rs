//! The report as a table for a terminal.
//!
//! Never here: figures that the page does not have.

use super::{Report, ShareIntervals};
use crate::metrics::intervals::Interval;

fn percents(interval: Interval) -> String {
    format!("{:.1} to {:.1} %", interval.low * 100.0, interval.high * 100.0)
}

fn share(name: &str, k: usize, n: usize, intervals: &ShareIntervals) -> String {
    let by_group = intervals.bootstrap.map(|i| format!("; by group {}", percents(i))).unwrap_or_default();
    let rate = k as f64 / n as f64 * 100.0;
    format!("{name:<17}{k} of {n} ({rate:.1} %; 95 %: {}{by_group})\n", percents(intervals.exact))
}

impl Report {
    /// The report as a table for people.
    pub fn table(&self) -> String {
        let sure = self
            .intervals
            .auroc
            .map(|i| format!(" (95 %: {:.3} to {:.3})", i.low, i.high))
            .unwrap_or_default();
        let mut text = format!(
            "model            {} ({})\ndata             {}\npictures         {} good, {} defective\n\
             AUROC            {:.3}{sure}\naverage prec.    {:.3}\n",
            self.model,
            self.provider,
            self.data,
            self.good,
            self.defective,
            self.auroc,
            self.average_precision,
        );
        if let Some(floor) = self.floor_auroc {
            text += &format!("linear floor     {floor:.3}\n");
        }
        if let (Some(auroc), Some(precision), Some(usual), Some(strict)) =
            (self.pixel_auroc, self.pixel_average_precision, self.aupro_30, self.aupro_05)
        {
            text += &format!(
                "pixels           AUROC {auroc:.3}, average prec. {precision:.3}, AUPRO {usual:.3} up to \
                 0.30, {strict:.3} up to 0.05\n"
            );
        }
        text += &format!(
            "threshold        {:.3} (review {:.3}){}\n",
            self.thresholds.reject,
            self.thresholds.review,
            if self.provisional { ", provisional" } else { "" },
        );
        let intervals = &self.intervals;
        text += &share("false rejects", self.false_rejects, self.good, &intervals.false_reject_rate);
        text += &share("escapes", self.escapes, self.defective, &intervals.escape_rate);
        let (agreement, time) = (&self.attribute_agreement, &self.latency_ms);
        text += &format!(
            "agreement        effectiveness {:.1} %, kappa {:.3}\nscoring time     p50 {:.2} ms, p99 {:.2} ms, \
             max {:.2} ms\n",
            agreement.effectiveness * 100.0,
            agreement.kappa,
            time.p50,
            time.p99,
            time.max,
        );
        for class in &self.classes {
            text += &format!(
                "  {:<22} {:>4} of {:>4} found (95 %: {}), AUROC {:.3}\n",
                class.class,
                class.not_passed,
                class.count,
                percents(class.recall_intervals.exact),
                class.auroc,
            );
        }
        text
    }
}
