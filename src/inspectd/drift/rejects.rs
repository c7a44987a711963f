//! Whether a station rejects more parts than usual: a CUSUM over rejected or not.
//!
//! # Why a CUSUM and not ADWIN
//!
//! ADWIN keeps a window of changing length and compares all ways to cut it in two: what it says depends on a cut that
//! nobody chose. A CUSUM counts one number that a quality engineer can follow with a pencil: each rejected part adds
//! 1 - k, each other takes k away, never below 0. It is the *surplus*: how many parts more than k in each hundred were
//! rejected since things were last in order. It finds a rise sooner than any other rule with as few false alarms
//! (Moustakides 1986), and how few is proven: at most one in exp(limit x weight) parts (Lorden 1971), whatever the line's
//! length of memory.
//!
//! Terms. The *usual* rate is set, or the upper 99 % bound of that of the first parts. The rate *watched for* is twice
//! that, and at least 2 parts in a hundred more; k lies between the two.
//!
//! Never here: which part is rejected; parts without a verdict.

use super::level::{DriftLevel, Latch, Reading};

/// Parts that the usual rate is learnt from, where it is not set.
pub const LEARN_PARTS: u32 = 500;
/// The rate watched for is so many times the usual one...
const TIMES_USUAL: f64 = 2.0;
/// ...and at least this much above it.
const LEAST_RISE: f64 = 0.02;
/// Above this nothing can be told from a rise.
const MOST_USUAL: f64 = 0.5;
/// Standard normal quantile of the bound of a learnt rate.
const LEARN_BOUND: f64 = 2.326;
/// A surplus within the warning limit for so many parts is over.
const OVER_AFTER_PARTS: u32 = 500;

/// Watches the reject rate of one station.
#[derive(Debug)]
pub(super) struct RejectWatch {
    /// Parts between false warnings, and false alarms.
    parts: (f64, f64),
    /// None while the usual rate is learnt.
    test: Option<Test>,
    learnt: (u32, u32),
    pub is_set: bool,
    pub latch: Latch,
}

#[derive(Debug)]
struct Test {
    usual: f64,
    /// What one part may be rejected of.
    k: f64,
    warning: f64,
    alarm: f64,
    surplus: f64,
}

impl RejectWatch {
    /// `usual`: share of parts that are rejected usually, where that is set. `parts`: between two false warnings, alarms.
    pub fn new(usual: Option<f64>, parts: (f64, f64)) -> Self {
        let test = usual.map(|usual| Test::new(usual, parts));
        Self { parts, is_set: usual.is_some(), test, learnt: (0, 0), latch: Latch::default() }
    }

    /// Counts from 0 again; the usual rate stays.
    pub fn clear(&mut self) {
        self.latch = Latch::default();
        self.test.iter_mut().for_each(|test| test.surplus = 0.0);
    }

    /// Takes the next part in. Gives back the level where it changes.
    pub fn take(&mut self, rejected: bool) -> Option<DriftLevel> {
        let Some(test) = &mut self.test else {
            self.learnt.0 += 1;
            self.learnt.1 += u32::from(rejected);
            if self.learnt.0 >= LEARN_PARTS {
                self.test = Some(Test::new(upper_bound(self.learnt), self.parts));
            }
            return None;
        };
        let step = if rejected { 1.0 - test.k } else { -test.k };
        // Beyond the alarm it need not grow: it would only take longer until it is over.
        test.surplus = (test.surplus + step).clamp(0.0, test.alarm + 1.0);
        let Test { warning, alarm, surplus, .. } = *test;
        self.latch.take(Reading { value: surplus, usual: 0.0, warning, alarm }, OVER_AFTER_PARTS)
    }

    /// In words, for people.
    pub fn words(&self) -> String {
        let Some(Test { usual, surplus, warning, alarm, .. }) = &self.test else { return String::new() };
        let from = if self.is_set { "as set" } else { "upper bound of the first parts'" };
        format!(
            "{surplus:.1} parts more were rejected than usual ({:.1} %, {from}; warning over {warning:.1}, alarm over {alarm:.1})",
            100.0 * usual
        )
    }
}

impl Test {
    fn new(usual: f64, (warning, alarm): (f64, f64)) -> Self {
        let usual = usual.clamp(1e-4, MOST_USUAL);
        let watched = (TIMES_USUAL * usual).max(usual + LEAST_RISE).min((1.0 + usual) / 2.0);
        // The logarithm of the likelihood ratio is a reject's `weight` times (rejected - k).
        let weight = (watched * (1.0 - usual) / (usual * (1.0 - watched))).ln();
        let k = ((1.0 - usual) / (1.0 - watched)).ln() / weight;
        Self { usual, k, warning: warning.ln() / weight, alarm: alarm.ln() / weight, surplus: 0.0 }
    }
}

/// Upper 99 % bound of a rate of which (parts, rejected) were seen. Source: Wilson 1927.
fn upper_bound((parts, rejected): (u32, u32)) -> f64 {
    let (n, z) = (f64::from(parts.max(1)), LEARN_BOUND);
    let share = f64::from(rejected) / n;
    let root = (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    (share + z * z / (2.0 * n) + z * root) / (1.0 + z * z / n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_surplus_is_that_counted_with_a_pencil() {
        let mut watch = RejectWatch::new(Some(0.05), (1e6, 1e8));
        let test = watch.test.as_ref().unwrap();
        // weight ln(0.1 x 0.95 / (0.05 x 0.9)) = 0.7472; k = ln(0.95 / 0.9) / weight = 0.07236.
        assert!((test.k - 0.07236).abs() < 1e-4, "{test:?}");
        assert!((test.warning - 13.8155 / 0.7472).abs() < 0.01 && test.alarm > test.warning, "{test:?}");
        let (k, alarm) = (test.k, test.alarm);
        let surplus = |watch: &RejectWatch| watch.test.as_ref().unwrap().surplus;
        watch.take(false);
        assert_eq!(surplus(&watch), 0.0, "never below");
        watch.take(true);
        watch.take(true);
        watch.take(false);
        assert!((surplus(&watch) - (2.0 - 3.0 * k)).abs() < 1e-12);
        let parts = (0..200).position(|_| watch.take(true) == Some(DriftLevel::Alarm)).unwrap();
        assert!((parts as f64 - alarm / (1.0 - k)).abs() < 3.0, "{parts}");
        assert!((0..5_000).any(|_| watch.take(false) == Some(DriftLevel::Ok)));
    }

    #[test]
    fn a_learnt_rate_is_its_upper_bound() {
        assert!((upper_bound((500, 10)) - 0.0405).abs() < 5e-4, "{}", upper_bound((500, 10)));
        assert!((0.005..0.02).contains(&upper_bound((500, 0))));
    }
}
