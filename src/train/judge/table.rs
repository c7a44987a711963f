//! The judgement as a table for a terminal, a line a set.
//!
//! Never here: figures that the page does not have.

use super::figures::{Gains, Report, SetReport, Worth};
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

fn line(set: &SetReport) -> String {
    let gain = |gains: Option<&Gains>| {
        let gain = gains.map(|g| &g.image_precision).filter(|g| g.gain.is_finite());
        let sure = |g: &Gain| g.interval.map(|i| format!(" ({:+.3} to {:+.3})", i.low, i.high));
        gain.map_or_else(|| "-".into(), |g| format!("{:+.3}{}", g.gain, sure(g).unwrap_or_default()))
    };
    let copies =
        set.copies.as_ref().map_or_else(|| "-".into(), |c| format!("{} of {}", c.count, set.set.crops));
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
        or_dash(set.condition.as_ref().map(|c| c.made.accuracy), 2),
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
        text
    }
}
