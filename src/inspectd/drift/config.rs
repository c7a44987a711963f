//! A station's settings of its drift watch. Nobody has to set one.
//!
//! Never here: what they lead to.

use serde::{Deserialize, Serialize};

/// Parts that a window may hold.
pub const MAX_WINDOW: u16 = 10_000;
/// Pictures that a mean may be taken over.
pub const MAX_PICTURES: u16 = 1_000;
/// Fewest of either, and of parts that a reference is learnt from.
pub const MIN_PARTS: u16 = 20;

/// When drift is told, and what then happens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DriftConfig {
    /// Whether it is watched.
    pub watch: bool,
    /// What an alarm does beside being told.
    pub on_alarm: OnAlarm,
    /// Parts that scores are compared over, [`MIN_PARTS`] to [`MAX_WINDOW`].
    pub score_window: u16,
    /// Pictures that brightness, sharpness and clipped share are averaged over, [`MIN_PARTS`] to [`MAX_PICTURES`].
    pub picture_window: u16,
    /// Parts that a reference is learnt from where the model's card has none, [`MIN_PARTS`] to [`MAX_WINDOW`].
    pub reference_parts: u16,
    /// Share of parts that are rejected usually, more than 0, at most 0.5; absent: learnt from the first parts.
    pub usual_reject_rate: Option<f64>,
    /// The station warns without cause at most once in so many parts, 1,000 or more.
    pub false_warning_parts: f64,
    /// The same for alarms; not less.
    pub false_alarm_parts: f64,
}

/// What an alarm does beside being told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnAlarm {
    /// Nothing.
    #[default]
    Tell,
    /// Asks the PLC to stop the line.
    Stop,
}

impl Default for DriftConfig {
    fn default() -> Self {
        Self {
            watch: true,
            on_alarm: OnAlarm::Tell,
            score_window: 500,
            picture_window: 50,
            reference_parts: 1000,
            usual_reject_rate: None,
            false_warning_parts: 1e6,
            false_alarm_parts: 1e8,
        }
    }
}

impl DriftConfig {
    /// Every setting that cannot work, in words that say what was expected.
    pub fn check(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, parts, most) in [
            ("score_window", self.score_window, MAX_WINDOW),
            ("picture_window", self.picture_window, MAX_PICTURES),
            ("reference_parts", self.reference_parts, MAX_WINDOW),
        ] {
            if !(MIN_PARTS..=most).contains(&parts) {
                problems.push(format!("{name}: expected {MIN_PARTS} to {most}, got {parts}"));
            }
        }
        if let Some(rate) = self.usual_reject_rate.filter(|rate| !(*rate > 0.0 && *rate <= 0.5)) {
            problems.push(format!("usual_reject_rate: expected more than 0 and at most 0.5, got {rate}"));
        }
        let (warning, alarm) = (self.false_warning_parts, self.false_alarm_parts);
        if !(warning >= 1e3 && warning <= alarm && alarm.is_finite()) {
            problems.push(format!(
                "false_warning_parts, false_alarm_parts: expected 1000 or more, and alarms not more often than warnings, got {warning} and {alarm}"
            ));
        }
        problems
    }
}
