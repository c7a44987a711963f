//! Guards over the process: when so many parts are rejected that something other than the parts must be wrong.
//!
//! Terms. *Rejected* is whatever the gate pushes out: reject, fault, and review where it goes there. Challenge
//! parts do not count.
//!
//! Never here: a verdict; stopping the line (the PLC is asked to, by `stop_request`).

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Most parts that a reject rate is taken over.
pub const MAX_WINDOW: u16 = 10_000;

/// When the line should be stopped. Both are off by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardConfig {
    /// So many rejected parts one after the other.
    pub rejects_in_a_row: Option<u16>,
    /// More than a share of the latest parts.
    pub reject_rate: Option<RejectRate>,
    /// Longest time between two challenge parts that were rejected, minutes; later, one is due.
    pub challenge_every_min: Option<u32>,
}

/// More than `limit` of the last `window` parts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RejectRate {
    /// Share of rejected parts, above which the line should stop; more than 0, less than 1.
    pub limit: f64,
    /// Parts that it is taken over, 2 to [`MAX_WINDOW`]; fewer parts are not judged.
    pub window: u16,
}

impl GuardConfig {
    /// Every setting that cannot work, in words that say what was expected.
    pub fn check(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.rejects_in_a_row == Some(0) {
            problems.push("rejects_in_a_row: expected 1 or more, or to be left out".to_owned());
        }
        if let Some(RejectRate { limit, window }) = self.reject_rate {
            if !(limit > 0.0 && limit < 1.0) {
                problems
                    .push(format!("reject_rate.limit: expected more than 0 and less than 1, got {limit}"));
            }
            if !(2..=MAX_WINDOW).contains(&window) {
                problems.push(format!("reject_rate.window: expected 2 to {MAX_WINDOW}, got {window}"));
            }
        }
        if self.challenge_every_min == Some(0) {
            problems.push("challenge_every_min: expected 1 or more, or to be left out".to_owned());
        }
        problems
    }
}

/// Watches the parts of one station.
#[derive(Debug)]
pub struct Guard {
    config: GuardConfig,
    in_a_row: u32,
    /// Of the latest parts, whether each was rejected.
    latest: VecDeque<bool>,
    rejected: usize,
}

impl Guard {
    /// One that has seen nothing.
    pub fn new(config: GuardConfig) -> Self {
        let window = config.reject_rate.map_or(0, |r| usize::from(r.window));
        Self { config, in_a_row: 0, latest: VecDeque::with_capacity(window), rejected: 0 }
    }

    /// Takes the next part in. Returns, in words, why the line should stop; then all is counted from 0.
    pub fn take(&mut self, rejected: bool) -> Option<String> {
        self.in_a_row = if rejected { self.in_a_row + 1 } else { 0 };
        let row = self.config.rejects_in_a_row.filter(|n| self.in_a_row >= u32::from(*n));
        let mut why = row.map(|n| format!("{n} parts rejected in a row"));
        if let Some(RejectRate { limit, window }) = self.config.reject_rate {
            if self.latest.len() >= usize::from(window) {
                self.rejected -= usize::from(self.latest.pop_front() == Some(true));
            }
            self.latest.push_back(rejected);
            self.rejected += usize::from(rejected);
            let full = self.latest.len() == usize::from(window);
            if full && self.rejected as f64 > limit * f64::from(window) {
                let share = 100.0 * limit;
                why = why.or(Some(format!(
                    "{} of the last {window} parts rejected, more than {share} %",
                    self.rejected
                )));
            }
        }
        if why.is_some() {
            *self = Self::new(self.config);
        }
        why
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn guard(in_a_row: Option<u16>, rate: Option<(f64, u16)>) -> Guard {
        let reject_rate = rate.map(|(limit, window)| RejectRate { limit, window });
        Guard::new(GuardConfig { rejects_in_a_row: in_a_row, reject_rate, challenge_every_min: None })
    }

    #[test]
    fn a_row_is_broken_by_one_good_part() {
        let mut guard = guard(Some(3), None);
        let alarms: Vec<bool> =
            [true, true, false, true, true, true, true].map(|rejected| guard.take(rejected).is_some()).into();
        assert_eq!(alarms, [false, false, false, false, false, true, false]);
    }

    proptest! {
        #[test]
        fn the_rate_alarms_exactly_where_a_full_window_is_above_its_limit(
            parts in prop::collection::vec(any::<bool>(), 0..80),
            window in 2u16..12,
            limit in 0.05f64..0.95,
        ) {
            let mut guard = guard(None, Some((limit, window)));
            let window = usize::from(window);
            let mut from = 0; // counted anew after an alarm
            for (i, rejected) in parts.iter().enumerate() {
                let seen = &parts[from..=i];
                let latest = &seen[seen.len().saturating_sub(window)..];
                let share = latest.iter().filter(|r| **r).count() as f64;
                let expected = latest.len() == window && share > limit * window as f64;
                prop_assert_eq!(guard.take(*rejected).is_some(), expected);
                if expected {
                    from = i + 1;
                }
            }
        }
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        let reject_rate = Some(RejectRate { limit: f64::NAN, window: 1 });
        let config = GuardConfig { rejects_in_a_row: Some(0), reject_rate, challenge_every_min: Some(0) };
        let problems = config.check().join("\n");
        for name in ["rejects_in_a_row", "limit", "window", "challenge_every_min"] {
            assert!(problems.contains(name), "{problems}");
        }
        assert!(GuardConfig::default().check().is_empty());
    }
}
