//! How sure a gain is: the same seeds and the same pictures in both arms.
//!
//! A gain is seen on a few seeds and on pictures of a few groups, and would be another one on others. How much it
//! varies over groups the bootstrap says, drawing whole groups, the same for both arms and all seeds; how much over
//! seeds, the seeds themselves. Both variances are brought up by n/(n-1), which the bootstrap leaves out and which
//! matters with three seeds, and added; the interval is Student's, its degrees of freedom by Welch and
//! Satterthwaite. What neither seeds nor groups explain is in both, so that the interval is rather too wide.
//!
//! Never here: what a gain is of.

use std::f64::consts::FRAC_PI_2;

use serde::{Deserialize, Serialize};

use crate::metrics::intervals::{Bootstrap, Interval};

/// Rounds over groups.
pub const ROUNDS: usize = 1_000;
/// Share of the rounds that must have a gain: some lack the pictures for it.
const MIN_ROUNDS: f64 = 0.5;
/// Steps of the integral behind Student's distribution, and halvings of its inverse.
const INTEGRAL_STEPS: usize = 2_000;
const BISECTIONS: usize = 60;
/// From so many degrees of freedom on, Student's is the normal distribution.
const MANY: f64 = 300.0;

/// A gain with its interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gain {
    /// Mean over seeds.
    pub gain: f64,
    /// Of each seed.
    pub seeds: Vec<f64>,
    /// `null` with one seed, with one group, or where a figure cannot be computed.
    pub interval: Option<Interval>,
}

impl Gain {
    /// Whether 0 lies below the interval.
    pub fn is_proven(&self) -> bool {
        self.interval.is_some_and(|i| i.low > 0.0)
    }

    /// Whether 0 lies above it.
    pub fn is_harm(&self) -> bool {
        self.interval.is_some_and(|i| i.high < 0.0)
    }
}

/// The pictures that both arms were judged on.
pub struct Drawn<'a> {
    /// Draws them.
    pub bootstrap: &'a Bootstrap,
    /// Pictures.
    pub pictures: usize,
    /// Groups of good or of defective pictures, whichever are fewer.
    pub groups: usize,
}

/// A gain over `seeds` seeds. `gain` gets the seed's number and how often each picture counts.
///
/// Source: paired differences over both, after Bouthillier et al. 2021 (variance in benchmarks), who show
/// that to vary one of them alone is too sure; degrees of freedom: Satterthwaite 1946.
pub fn gain(seeds: usize, drawn: &Drawn<'_>, confidence: f64, gain: impl Fn(usize, &[u32]) -> f64) -> Gain {
    let once = vec![1; drawn.pictures];
    let each: Vec<f64> = (0..seeds).map(|seed| gain(seed, &once)).collect();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let variance = |values: &[f64]| {
        let middle = mean(values);
        values.iter().map(|v| (v - middle).powi(2)).sum::<f64>() / (values.len() - 1) as f64
    };
    let middle = mean(&each);
    let none = Gain { gain: middle, seeds: each.clone(), interval: None };
    if seeds < 2 || drawn.groups < 2 || !middle.is_finite() {
        return none;
    }
    let mut rounds = Vec::with_capacity(ROUNDS);
    drawn.bootstrap.rounds(ROUNDS, |times| {
        let of_round: Vec<f64> = (0..seeds).map(|seed| gain(seed, times)).collect();
        rounds.extend(Some(mean(&of_round)).filter(|v| v.is_finite()));
    });
    if (rounds.len() as f64) < MIN_ROUNDS * ROUNDS as f64 {
        return none;
    }
    let (seeds, groups) = (seeds as f64, drawn.groups as f64);
    let by_seed = variance(&each) / seeds;
    let by_group = variance(&rounds) * groups / (groups - 1.0);
    let both = by_seed + by_group;
    let parts = by_seed.powi(2) / (seeds - 1.0) + by_group.powi(2) / (groups - 1.0);
    // Two arms that never differ: no spread, and no doubt that the gain is 0.
    let freedom = if parts > 0.0 { both.powi(2) / parts } else { 1.0 };
    let reach = student(1.0 - (1.0 - confidence) / 2.0, freedom) * both.sqrt();
    Gain { interval: Some(Interval { low: middle - reach, high: middle + reach }), ..none }
}

/// Quantile of Student's distribution; `share` above 0.5 and below 1, `freedom` at least 1.
///
/// With t = √ν tan θ its density is proportional to cos(θ)^(ν-1), which Simpson's rule sums from 0 to π/2.
pub fn student(share: f64, freedom: f64) -> f64 {
    let freedom = freedom.clamp(1.0, MANY);
    let integral = |to: f64| {
        let h = to / INTEGRAL_STEPS as f64;
        let value = |i: usize| (i as f64 * h).cos().max(0.0).powf(freedom - 1.0);
        let weight = |i: usize| match i {
            0 | INTEGRAL_STEPS => 1.0,
            i if i % 2 == 1 => 4.0,
            _ => 2.0,
        };
        (0..=INTEGRAL_STEPS).map(|i| weight(i) * value(i)).sum::<f64>() * h / 3.0
    };
    let wanted = (2.0 * share - 1.0) * integral(FRAC_PI_2);
    let (mut low, mut high) = (0.0, FRAC_PI_2);
    for _ in 0..BISECTIONS {
        let middle = (low + high) / 2.0;
        if integral(middle) < wanted { low = middle } else { high = middle }
    }
    freedom.sqrt() * low.tan()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    #[test]
    fn student_as_in_the_tables() {
        for (freedom, expected) in [(1.0, 12.706), (2.0, 4.303), (5.0, 2.571), (30.0, 2.042), (1e9, 1.968)] {
            let got = student(0.975, freedom);
            assert!((got - expected).abs() < 2e-3, "{freedom}: {got}");
        }
        assert!((student(0.95, 10.0) - 1.812).abs() < 1e-3);
    }

    /// A simulated comparison: a gain that varies by seed, by group and by both.
    fn simulated(truth: f64, seeds: usize, groups: usize, r: &mut StdRng) -> Gain {
        let mut normal =
            |scale: f64| ((0..12).map(|_| r.random_range(0.0..1.0f64)).sum::<f64>() - 6.0) * scale;
        let of_seed: Vec<f64> = (0..seeds).map(|_| normal(0.02)).collect();
        let of_group: Vec<f64> = (0..groups).map(|_| normal(0.1)).collect();
        let of_both: Vec<f64> = (0..seeds * groups).map(|_| normal(0.05)).collect();
        let names: Vec<String> = (0..groups).map(|g| g.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let bootstrap = Bootstrap::new(&names, &vec![false; groups]);
        let drawn = Drawn { bootstrap: &bootstrap, pictures: groups, groups };
        gain(seeds, &drawn, 0.95, |seed, times| {
            let value = |g: usize| truth + of_seed[seed] + of_group[g] + of_both[seed * groups + g];
            let all: f64 = times.iter().map(|t| f64::from(*t)).sum();
            (0..groups).map(|g| value(g) * f64::from(times[g])).sum::<f64>() / all
        })
    }

    #[test]
    fn the_interval_covers_and_no_gain_is_seldom_proven() {
        let mut r = StdRng::seed_from_u64(1);
        for (seeds, groups) in [(3, 12), (5, 40)] {
            let (mut covered, mut proven, mut found) = (0, 0, 0);
            for _ in 0..150 {
                let none = simulated(0.0, seeds, groups, &mut r);
                let interval = none.interval.unwrap();
                covered += usize::from(interval.low <= 0.0 && 0.0 <= interval.high);
                proven += usize::from(none.is_proven());
                found += usize::from(simulated(0.2, seeds, groups, &mut r).is_proven());
            }
            // 95 % of 150 are 142; three standard errors below that are 134.
            assert!(covered >= 134, "{seeds} seeds, {groups} groups: {covered} of 150 covered");
            assert!(proven <= 10 && found >= 120, "{proven} proven without a gain, {found} with one");
        }
    }

    #[test]
    fn what_cannot_be_drawn_otherwise_proves_nothing() {
        let mut r = StdRng::seed_from_u64(2);
        for (seeds, groups) in [(1, 12), (3, 1)] {
            let got = simulated(5.0, seeds, groups, &mut r);
            assert!(got.interval.is_none() && !got.is_proven() && !got.is_harm(), "{got:?}");
        }
        let bootstrap = Bootstrap::new(&["a", "b"], &[false; 2]);
        let drawn = Drawn { bootstrap: &bootstrap, pictures: 2, groups: 2 };
        let same = gain(3, &drawn, 0.95, |_, _| 0.0);
        assert!(!same.is_proven() && !same.is_harm() && same.gain == 0.0, "{same:?}");
        let nan = gain(3, &drawn, 0.95, |_, _| f64::NAN);
        assert!(nan.interval.is_none() && !nan.is_proven());
    }
}
