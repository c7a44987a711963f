//! How far a measure is from what is usual, what that amounts to, and when it is over.
//!
//! Never here: what is measured.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What drift amounts to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DriftLevel {
    /// As it was calibrated, or not enough parts yet to tell.
    #[default]
    Ok,
    /// Somebody should look at it.
    Warning,
    /// Results are in doubt.
    Alarm,
}

impl DriftLevel {
    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Alarm => "alarm",
        }
    }
}

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DriftMeasure {
    /// Mean level of the pictures, 0 to 255.
    Brightness,
    /// Mean difference of neighbouring pixels as a share of the brightness.
    Sharpness,
    /// Share of values that are black or white, 0 to 1.
    Clipped,
    /// Kolmogorov's distance between scores and those of the calibration, 0 to 1.
    ScoresKs,
    /// Population stability index of scores.
    ScoresPsi,
    /// Rejected parts that are more than usual.
    RejectSurplus,
}

impl DriftMeasure {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Brightness => "brightness",
            Self::Sharpness => "sharpness",
            Self::Clipped => "clipped share",
            Self::ScoresKs => "scores (KS)",
            Self::ScoresPsi => "scores (PSI)",
            Self::RejectSurplus => "surplus of rejects",
        }
    }
}

/// Drift of a station, as it is shown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DriftState {
    /// The worst of its measures.
    pub level: DriftLevel,
    /// Some are compared with the first parts since the start, the model's or the recipe's change, because the model's
    /// card has no reference.
    pub provisional: bool,
    /// Each measure that has enough parts to tell.
    pub readings: Vec<DriftReading>,
}

/// What one measure says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DriftReading {
    /// What is measured.
    pub measure: DriftMeasure,
    /// Of which view; none: of the station.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<String>,
    /// What it amounts to; it stands until the measure was within the warning limit for a whole window.
    pub level: DriftLevel,
    /// The numbers.
    #[serde(flatten)]
    pub reading: Reading,
}

impl DriftReading {
    /// In one line, for people.
    pub fn words(&self) -> String {
        let Reading { value, usual, warning, alarm } = self.reading;
        let view = self.view.as_ref().map(|view| format!("view {view}, ")).unwrap_or_default();
        format!(
            "{view}{}: {} {value:.3}, usual {usual:.3} (warning beyond {warning:.3}, alarm beyond {alarm:.3} of it)",
            self.measure.words(),
            self.level.word()
        )
    }
}

/// A measured value, what is usual, and how far from it is too far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reading {
    /// Measured over the window.
    pub value: f64,
    /// What it is compared with.
    pub usual: f64,
    /// Farther away than this is a warning.
    pub warning: f64,
    /// Farther away than this is an alarm.
    pub alarm: f64,
}

impl Reading {
    /// What it amounts to by itself.
    pub fn level(&self) -> DriftLevel {
        let away = (self.value - self.usual).abs();
        if away > self.alarm {
            DriftLevel::Alarm
        } else if away > self.warning {
            DriftLevel::Warning
        } else {
            DriftLevel::Ok
        }
    }
}

/// A measure's level, which rises at once and falls when it is over.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Latch {
    pub level: DriftLevel,
    pub reading: Option<Reading>,
    /// Looks in a row within the warning limit.
    calm: u32,
}

impl Latch {
    /// Takes the next reading in; it is over after `over_after` looks in a row within the warning limit. Gives back
    /// the level where that is another than before.
    pub fn take(&mut self, reading: Reading, over_after: u32) -> Option<DriftLevel> {
        let (before, now) = (self.level, reading.level());
        self.reading = Some(reading);
        self.calm = if now == DriftLevel::Ok { self.calm.saturating_add(1) } else { 0 };
        if now > before || self.calm >= over_after {
            self.level = now;
        }
        (self.level != before).then_some(self.level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_rises_at_once_and_falls_only_after_a_calm_window() {
        let mut latch = Latch::default();
        let mut take = |value| latch.take(Reading { value, usual: 10.0, warning: 1.0, alarm: 2.0 }, 3);
        assert_eq!([take(10.5), take(11.5), take(11.5)], [None, Some(DriftLevel::Warning), None]);
        assert_eq!([take(7.0), take(9.5), take(8.5)], [Some(DriftLevel::Alarm), None, None]);
        assert_eq!([take(9.5), take(10.0), take(10.0), take(10.0)], [None, None, Some(DriftLevel::Ok), None]);
    }
}
