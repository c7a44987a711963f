//! How sure a figure is: exact intervals of a share, and the bootstrap over groups.
//!
//! The exact interval takes every picture for an independent trial. Pictures of one lot are not, so the
//! bootstrap draws whole groups; but it cannot see what never happened (no escape seen: it says 0 to 0),
//! and with few groups it is too narrow. Both are shown, and the wider one is the one to believe.
//!
//! Never here: figures themselves (see [`super`]).

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

/// Two-sided confidence of every interval.
pub const CONFIDENCE: f64 = 0.95;
/// Rounds of the bootstrap.
pub const ROUNDS: usize = 2_000;
/// Seed of the bootstrap: the same scores give the same intervals.
pub const SEED: u64 = 1;
/// Halvings of an interval of 1 until its ends are the same number.
const BISECTIONS: usize = 60;

/// From where to where a figure may lie at [`CONFIDENCE`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Exact two-sided interval of a share of which `k` of `n` were seen; 0 to 1 if nothing was tried.
///
/// Source: Clopper & Pearson 1934.
pub fn clopper_pearson(k: usize, n: usize, confidence: f64) -> Interval {
    let tail = (1.0 - confidence) / 2.0;
    Interval {
        low: 1.0 - upper_bound(n.saturating_sub(k), n, 1.0 - tail),
        high: upper_bound(k, n, 1.0 - tail),
    }
}

/// Exact one-sided upper bound of a share of which `k` of `n` were seen.
///
/// Source: as [`clopper_pearson`], the whole error on one side.
pub fn upper_bound(k: usize, n: usize, confidence: f64) -> f64 {
    if k >= n {
        return 1.0;
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..BISECTIONS {
        let middle = (low + high) / 2.0;
        if at_most(k, n, middle) > 1.0 - confidence { low = middle } else { high = middle }
    }
    high
}

/// Chance of `k` or fewer of `n` at a share `p`, which is neither 0 nor 1: the binomial distribution.
fn at_most(k: usize, n: usize, p: f64) -> f64 {
    let odds = (p / (1.0 - p)).ln();
    let mut term = n as f64 * (-p).ln_1p(); // logarithm of the chance of exactly i, from i = 0 on
    let mut sum = term.exp();
    for i in 0..k {
        term += ((n - i) as f64 / (i + 1) as f64).ln() + odds;
        sum += term.exp();
    }
    sum
}

/// Draws whole groups with replacement, separately among groups of goods only, of defectives only, and
/// of both, so that no round lacks the one or the other.
///
/// Source: Davison & Hinkley 1997 (resampling of hierarchical data, percentile intervals).
pub struct Bootstrap {
    /// Group of each picture.
    group_of: Vec<usize>,
    /// Groups of each kind.
    strata: Vec<Vec<usize>>,
}

impl Bootstrap {
    /// Takes the group of each picture and whether it shows a good part.
    pub fn new(groups: &[&str], good: &[bool]) -> Self {
        let mut ids = BTreeMap::new();
        let mut kinds: Vec<(bool, bool)> = Vec::new();
        let mut group_of = Vec::with_capacity(groups.len());
        for (&group, &good) in groups.iter().zip(good) {
            let next = kinds.len();
            let id = *ids.entry(group).or_insert(next);
            if id == next {
                kinds.push((false, false));
            }
            let kind = &mut kinds[id];
            *kind = (kind.0 | good, kind.1 | !good);
            group_of.push(id);
        }
        let mut strata: BTreeMap<(bool, bool), Vec<usize>> = BTreeMap::new();
        for (id, kind) in kinds.into_iter().enumerate() {
            strata.entry(kind).or_default().push(id);
        }
        Self { group_of, strata: strata.into_values().collect() }
    }

    /// Intervals of several figures at once. `figures` gets how often each picture was drawn.
    ///
    /// A figure that is NaN in a round is left out of it; `None` for one that always is.
    pub fn intervals(&self, figures: impl Fn(&[u32]) -> Vec<f64>) -> Vec<Option<Interval>> {
        let mut rounds: Vec<Vec<f64>> = Vec::new();
        self.rounds(ROUNDS, |drawn| {
            let values = figures(drawn);
            rounds.resize(values.len(), Vec::new());
            rounds.iter_mut().zip(values).for_each(|(all, v)| all.extend(Some(v).filter(|v| !v.is_nan())));
        });
        rounds.into_iter().map(middle).collect()
    }

    /// Draws `rounds` times and tells `each` how often each picture was drawn.
    pub fn rounds(&self, rounds: usize, mut each: impl FnMut(&[u32])) {
        let mut random = StdRng::seed_from_u64(SEED);
        let groups = self.strata.iter().map(Vec::len).sum();
        let (mut times, mut drawn) = (vec![0u32; groups], vec![0u32; self.group_of.len()]);
        for _ in 0..rounds {
            times.fill(0);
            for stratum in &self.strata {
                for _ in 0..stratum.len() {
                    times[stratum[random.random_range(0..stratum.len())]] += 1;
                }
            }
            drawn.iter_mut().zip(&self.group_of).for_each(|(d, &g)| *d = times[g]);
            each(&drawn);
        }
    }
}

/// The part of the values that leaves out half of 1 - [`CONFIDENCE`] at either end.
fn middle(mut values: Vec<f64>) -> Option<Interval> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    let at = |share: f64| {
        let place = share * last as f64;
        let (below, above) = (values[place as usize], values[(place.ceil() as usize).min(last)]);
        below + (above - below) * place.fract()
    };
    let tail = (1.0 - CONFIDENCE) / 2.0;
    Some(Interval { low: at(tail), high: at(1.0 - tail) })
}

/// Scores in order, for an AUROC of any number of resamples without sorting again.
pub struct Ranked {
    order: Vec<usize>,
    scores: Vec<f32>,
    good: Vec<bool>,
}

impl Ranked {
    /// Takes the score of each picture and whether it shows a good part.
    pub fn new(scores: Vec<f32>, good: Vec<bool>) -> Self {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        Self { order, scores, good }
    }

    /// AUROC where each picture counts so many times; as [`super::auroc`] if each counts once.
    pub fn auroc(&self, times: &[u32]) -> f64 {
        let (mut goods, mut defectives, mut above) = (0.0, 0.0, 0.0);
        for ties in self.order.chunk_by(|&a, &b| self.scores[a] == self.scores[b]) {
            let count = |good: bool| -> f64 {
                ties.iter().filter(|&&i| self.good[i] == good).map(|&i| f64::from(times[i])).sum()
            };
            let (good, defective) = (count(true), count(false));
            above += defective * (goods + good / 2.0);
            goods += good;
            defectives += defective;
        }
        above / (goods * defectives)
    }

    /// Average precision where each picture counts so many times; as [`super::average_precision`] if each counts
    /// once. NaN without a defective picture.
    pub fn average_precision(&self, times: &[u32]) -> f64 {
        let (mut found, mut flagged, mut sum) = (0.0, 0.0, 0.0);
        let ties = self.order.chunk_by(|&a, &b| self.scores[a] == self.scores[b]);
        for ties in ties.collect::<Vec<_>>().into_iter().rev() {
            let count = |i: &usize| f64::from(times[*i]);
            let new: f64 = ties.iter().filter(|i| !self.good[**i]).map(count).sum();
            flagged += ties.iter().map(count).sum::<f64>();
            found += new;
            if new > 0.0 {
                sum += new * found / flagged;
            }
        }
        sum / found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{auroc, average_precision};

    #[test]
    fn clopper_pearson_as_in_the_tables() {
        // Table values, two-sided 95 %: 0/10, 1/10, 5/10, 3/107; and by R's binom.test.
        let cases = [
            (0, 10, 0.0, 0.3085),
            (1, 10, 0.0025, 0.4450),
            (5, 10, 0.1871, 0.8129),
            (10, 10, 0.6915, 1.0),
            (0, 1, 0.0, 0.975),
        ];
        for (k, n, low, high) in cases {
            let got = clopper_pearson(k, n, 0.95);
            assert!((got.low - low).abs() < 5e-5 && (got.high - high).abs() < 5e-5, "{k}/{n}: {got:?}");
        }
        assert_eq!(clopper_pearson(0, 0, 0.95), Interval { low: 0.0, high: 1.0 });
    }

    #[test]
    fn none_of_299_shows_less_than_one_percent() {
        assert!(upper_bound(0, 299, 0.95) < 0.01 && upper_bound(0, 298, 0.95) > 0.01);
        // With none seen the bound has a closed form.
        let closed = 1.0 - 0.05f64.powf(1.0 / 59.0);
        assert!((upper_bound(0, 59, 0.95) - closed).abs() < 1e-9);
        assert_eq!(upper_bound(3, 3, 0.95), 1.0);
    }

    fn scores() -> (Vec<f32>, Vec<bool>) {
        let scores = (0..40).map(|i| ((i * 17) % 23) as f32 + if i % 2 == 0 { 4.0 } else { 0.0 }).collect();
        (scores, (0..40).map(|i| i % 2 == 1).collect())
    }

    #[test]
    fn the_ranked_auroc_is_the_auroc_and_counts_copies() {
        let (scores, good) = scores();
        let of = |wanted: bool| -> Vec<f32> {
            scores.iter().zip(&good).filter(|(_, g)| **g == wanted).map(|(s, _)| *s).collect()
        };
        let plain = auroc(&of(true), &of(false));
        let ranked = Ranked::new(scores.clone(), good.clone());
        assert!((ranked.auroc(&[1; 40]) - plain).abs() < 1e-12);
        assert!((ranked.auroc(&[3; 40]) - plain).abs() < 1e-12);
        let two = Ranked::new(vec![1.0, 2.0, 2.0], vec![true, true, false]);
        assert_eq!(two.auroc(&[1, 1, 1]), 0.75);
        assert_eq!(two.auroc(&[0, 2, 5]), 0.5);
        assert!(two.auroc(&[0, 0, 1]).is_nan());
        let plain = average_precision(&of(true), &of(false));
        assert!((ranked.average_precision(&[1; 40]) - plain).abs() < 1e-12);
        assert_eq!(two.average_precision(&[1, 1, 2]), 2.0 / 3.0);
        assert!(two.average_precision(&[1, 1, 0]).is_nan());
    }

    #[test]
    fn the_bootstrap_repeats_itself_and_draws_whole_groups() {
        let (scores, good) = scores();
        let names: Vec<String> = (0..40).map(|i| format!("lot{}", i / 8)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let ranked = Ranked::new(scores, good.clone());
        let run = |groups: &[&str]| {
            Bootstrap::new(groups, &good).intervals(|times| {
                for lot in times.chunks(8).filter(|_| groups[0] == "lot0") {
                    assert!(lot.iter().all(|t| *t == lot[0]), "a torn group: {lot:?}");
                }
                vec![ranked.auroc(times), f64::NAN]
            })
        };
        let first = run(&names);
        assert_eq!(first, run(&names));
        assert_eq!(first[1], None);
        let interval = first[0].unwrap();
        assert!(interval.low < ranked.auroc(&[1; 40]) && ranked.auroc(&[1; 40]) < interval.high);
        let alone: Vec<String> = (0..40).map(|i| i.to_string()).collect();
        let alone: Vec<&str> = alone.iter().map(String::as_str).collect();
        assert_ne!(first, run(&alone));
    }

    #[test]
    fn alike_pictures_of_a_lot_widen_the_interval() {
        // Ten lots of ten: all of a lot fail or none does. The exact interval would take 100 trials.
        let good = vec![true; 100];
        let fails = |i: usize| i / 10 < 3;
        let share = |times: &[u32]| {
            let failed: u32 = times.iter().enumerate().filter(|(i, _)| fails(*i)).map(|(_, t)| t).sum();
            vec![f64::from(failed) / f64::from(times.iter().sum::<u32>())]
        };
        let lots: Vec<String> = (0..100).map(|i| format!("lot{}", i / 10)).collect();
        let lots: Vec<&str> = lots.iter().map(String::as_str).collect();
        let by_lot = Bootstrap::new(&lots, &good).intervals(share)[0].unwrap();
        let exact = clopper_pearson(30, 100, 0.95);
        assert!(by_lot.high - by_lot.low > 2.0 * (exact.high - exact.low), "{by_lot:?} {exact:?}");
        // Drawing 10 lots of which 3 fail: the 2.5 % and 97.5 % points of Binomial(10, 0.3) / 10.
        assert_eq!((by_lot.low, by_lot.high), (0.0, 0.6));
    }
}
