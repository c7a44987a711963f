//! What a small classifier can tell: made from real, and one class from another.
//!
//! The classifier is ridge regression on the features, each brought to mean 0 and deviation 1, solved in closed
//! form: with some dozen defects nothing larger can be fitted, and what it says of one label is a linear function
//! of all labels, so that hundreds of permutations cost one product of matrices. It is always asked about defects
//! of *groups* that it has not seen.
//!
//! Never here: pictures; networks.

use std::collections::{BTreeMap, BTreeSet};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::metrics::intervals::{Bootstrap, CONFIDENCE, Interval, clopper_pearson};

/// Parts of the cross-validation.
const FOLDS: usize = 5;
/// Permutations of the labels.
const PERMUTATIONS: usize = 499;
/// Weight of the ridge, of the mean square of a point.
const RIDGE: f64 = 0.1;
/// Deviations below this share of the mean deviation count as this.
const FLOOR: f64 = 1e-3;
/// Fewest groups of a kind: one to learn from, one to be asked about.
const MIN_GROUPS: usize = 2;

/// Whether made defects can be told from real ones.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TwoSample {
    /// Share told right, the mean of that of real and of made ones: 0.5 is chance, 1 is never wrong.
    pub accuracy: f64,
    /// Of `accuracy`, over groups; `null` where they cannot be drawn otherwise.
    pub interval: Option<Interval>,
    /// Chance of such an accuracy if labels meant nothing.
    pub p_value: f64,
}

/// Puts groups into folds, kind by kind, the largest kinds' groups evenly. Returns the fold of each point.
pub(super) fn folds(groups: &[&str], kinds: &[usize], parts: usize, seed: u64) -> Vec<usize> {
    let mut sizes: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (group, kind) in groups.iter().zip(kinds) {
        sizes.entry(group).or_insert((*kind, 0)).1 += 1;
    }
    let mut all: Vec<(&str, (usize, usize))> = sizes.into_iter().collect();
    all.shuffle(&mut StdRng::seed_from_u64(seed));
    let mut filled = BTreeMap::<(usize, usize), usize>::new(); // kind and fold: points
    let mut fold_of = BTreeMap::new();
    for (group, (kind, size)) in all {
        let least = (0..parts).min_by_key(|f| filled.get(&(kind, *f)).copied().unwrap_or(0)).unwrap_or(0);
        *filled.entry((kind, least)).or_default() += size;
        fold_of.insert(group, least);
    }
    groups.iter().map(|g| fold_of[g]).collect()
}

fn count_groups(groups: &[&str], of: impl Fn(usize) -> bool) -> usize {
    groups.iter().enumerate().filter(|(i, _)| of(*i)).map(|(_, g)| g).collect::<BTreeSet<_>>().len()
}

/// What turns labels of the learnt points into answers on the asked ones. Shape: `[asked, learnt]`.
///
/// Ridge regression in its dual form (Saunders et al. 1998); the mean of the labels is taken out, which is
/// the intercept, so that an answer above 0 means more than the mean label.
fn answers_of_labels(learnt: &Tensor, asked: &Tensor) -> Tensor {
    let (n, d) = (learnt.size()[0], learnt.size()[1] as f64);
    let over = [0i64];
    let mean = learnt.mean_dim(over.as_slice(), true, Kind::Double);
    let deviation =
        (learnt - &mean).square().mean_dim(over.as_slice(), true, Kind::Double).sqrt().clamp_min(1e-12);
    let floor = deviation.mean(Kind::Double) * FLOOR;
    let scale = deviation.maximum(&floor);
    let (x, y) = ((learnt - &mean) / &scale, (asked - &mean) / &scale);
    let gram = x.matmul(&x.tr()) / d;
    let ridge = gram.trace() / n as f64 * RIDGE + 1e-9;
    let options = (Kind::Double, learnt.device());
    let solved = Tensor::linalg_inv(&(gram + Tensor::eye(n, options) * ridge));
    let cross = y.matmul(&x.tr()) / d;
    let centre = Tensor::eye(n, options) - 1.0 / n as f64;
    cross.matmul(&solved).matmul(&centre)
}

fn rows(points: &Tensor, places: &[usize]) -> Tensor {
    let index: Vec<i64> = places.iter().map(|i| *i as i64).collect();
    points.index_select(0, &Tensor::from_slice(&index))
}

fn values(tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.contiguous().view(-1);
    let mut out = vec![0f64; flat.numel()];
    flat.copy_data(&mut out, flat.numel());
    out
}

/// Answers on every point, by those of the other folds. Shape: `labels` `[n, L]` → `[n, L]`, row by row.
fn cross_validated(points: &Tensor, labels: &Tensor, fold: &[usize]) -> Vec<f64> {
    let (n, width) = (fold.len(), labels.size()[1] as usize);
    let mut out = vec![0f64; n * width];
    for part in fold.iter().collect::<BTreeSet<_>>() {
        let (asked, learnt): (Vec<usize>, Vec<usize>) = (0..n).partition(|i| fold[*i] == *part);
        if learnt.is_empty() {
            continue;
        }
        let operator = answers_of_labels(&rows(points, &learnt), &rows(points, &asked));
        let answers = values(&operator.matmul(&rows(labels, &learnt)));
        for (row, i) in answers.chunks_exact(width).zip(&asked) {
            out[i * width..(i + 1) * width].copy_from_slice(row);
        }
    }
    out
}

/// Mean of the shares told right of either kind, each point counting `times`.
fn balanced(made: &[bool], right: &[bool], times: &[u32]) -> f64 {
    let share = |kind: bool| {
        let of = |wanted: bool| -> f64 {
            let all = made.iter().zip(right).zip(times).filter(|((m, r), _)| **m == kind && (wanted || **r));
            all.map(|(_, t)| f64::from(*t)).sum()
        };
        of(false) / of(true)
    };
    (share(false) + share(true)) / 2.0
}

/// Classifier two-sample test. `real`, `made`: `[n, d]`, with a group for each. `None` with fewer than two groups
/// of either kind.
///
/// Source: Lopez-Paz & Oquab 2017; the p-value by permuting the labels of whole groups (Good 2005), since
/// answers of a cross-validation are not independent, as their normal distribution of the accuracy wants.
pub fn two_sample(real: (&Tensor, &[&str]), made: (&Tensor, &[&str]), seed: u64) -> Option<TwoSample> {
    // A real and a made group of one name are two groups.
    let named = |kind: &'static str, groups: &[&str]| -> Vec<String> {
        groups.iter().map(|g| format!("{kind} {g}")).collect()
    };
    let names = [named("real", real.1), named("made", made.1)].concat();
    let groups: Vec<&str> = names.iter().map(String::as_str).collect();
    let (split, n) = (real.1.len(), groups.len());
    let least = count_groups(&groups, |i| i < split).min(count_groups(&groups, |i| i >= split));
    if least < MIN_GROUPS {
        return None;
    }
    let is_made: Vec<bool> = (0..n).map(|i| i >= split).collect();
    let kinds: Vec<usize> = is_made.iter().map(|m| usize::from(*m)).collect();
    let fold = folds(&groups, &kinds, FOLDS.min(least), seed);
    // The first column is the truth, the others are permutations of it over groups.
    let mut columns = vec![is_made.clone()];
    let mut order: Vec<&str> = groups.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let truth: BTreeMap<&str, bool> = groups.iter().copied().zip(is_made.iter().copied()).collect();
    let labels: Vec<bool> = order.iter().map(|g| truth[g]).collect();
    let mut r = StdRng::seed_from_u64(seed);
    for _ in 0..PERMUTATIONS {
        order.shuffle(&mut r);
        let drawn: BTreeMap<&str, bool> = order.iter().copied().zip(labels.iter().copied()).collect();
        columns.push(groups.iter().map(|g| drawn[g]).collect());
    }
    let width = columns.len();
    let flat: Vec<f64> =
        (0..n).flat_map(|i| columns.iter().map(move |c| if c[i] { 1.0 } else { -1.0 })).collect();
    let labels = Tensor::from_slice(&flat).view([n as i64, width as i64]);
    let answers = cross_validated(&Tensor::cat(&[real.0, made.0], 0), &labels, &fold);
    let once = vec![1u32; n];
    let right = |column: usize| -> Vec<bool> {
        (0..n).map(|i| (answers[i * width + column] > 0.0) == columns[column][i]).collect()
    };
    let own = right(0);
    let accuracy = balanced(&is_made, &own, &once);
    let as_good =
        (1..width).filter(|c| balanced(&columns[*c], &right(*c), &once) >= accuracy - 1e-12).count();
    let is_real: Vec<bool> = is_made.iter().map(|m| !m).collect();
    let drawn = Bootstrap::new(&groups, &is_real).intervals(|times| vec![balanced(&is_made, &own, times)]);
    let p_value = (as_good + 1) as f64 / width as f64;
    Some(TwoSample { accuracy, interval: drawn.first().copied().flatten(), p_value })
}

/// How often a classifier of real defects finds the class that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Right ones.
    pub right: usize,
    /// Of so many.
    pub of: usize,
    /// `right / of`.
    pub accuracy: f64,
    /// Exact, each defect an independent trial.
    pub interval: Interval,
}

impl Share {
    /// `right` of `of` trials.
    pub(super) fn new(right: usize, of: usize) -> Self {
        let accuracy = right as f64 / of.max(1) as f64;
        Self { right, of, accuracy, interval: clopper_pearson(right, of, CONFIDENCE) }
    }
}

/// Whether made defects are of the class that they were asked to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    /// On held-out real defects: what the classifier itself is worth.
    pub real: Share,
    /// On made ones.
    pub made: Share,
    /// On made ones, class by class.
    pub classes: BTreeMap<String, Share>,
    /// Classes of made defects that the classifier does not know, with how many there are: real ones lack them, or
    /// have them in one group only.
    pub unknown: BTreeMap<String, usize>,
}

/// Points with class and group of each.
#[derive(Clone, Copy)]
pub struct Labelled<'a> {
    /// Shape: `[n, d]`.
    pub points: &'a Tensor,
    /// Class of each.
    pub classes: &'a [&'a str],
    /// Group of each.
    pub groups: &'a [&'a str],
}

/// Learns the classes of `real` that have two groups or more, and asks about `made`. `None` where there are fewer
/// than two such classes, or `made` has none of them.
pub fn condition(real: Labelled, made: Labelled, seed: u64) -> Option<Condition> {
    let groups_of = |name: &str| count_groups(real.groups, |i| real.classes[i] == name);
    let names: BTreeSet<&str> = real.classes.iter().copied().filter(|c| groups_of(c) >= MIN_GROUPS).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let place = |class: &str| names.iter().position(|n| *n == class);
    let known = |set: Labelled| -> Vec<usize> {
        (0..set.classes.len()).filter(|i| place(set.classes[*i]).is_some()).collect()
    };
    let (known_real, known_made) = (known(real), known(made));
    if names.len() < 2 || known_made.is_empty() {
        return None;
    }
    let points = rows(real.points, &known_real);
    let kinds: Vec<usize> = known_real.iter().filter_map(|i| place(real.classes[*i])).collect();
    let groups: Vec<&str> = known_real.iter().map(|i| real.groups[*i]).collect();
    let width = names.len();
    let one_hot: Vec<f64> =
        kinds.iter().flat_map(|k| (0..width).map(move |c| f64::from(u8::from(c == *k)))).collect();
    let labels = Tensor::from_slice(&one_hot).view([kinds.len() as i64, width as i64]);
    let best = |row: &[f64]| (0..width).max_by(|a, b| row[*a].total_cmp(&row[*b]));
    let fold = folds(&groups, &kinds, FOLDS.min(groups.len()), seed);
    let own = cross_validated(&points, &labels, &fold);
    let right = own.chunks_exact(width).zip(&kinds).filter(|(row, k)| best(row) == Some(**k)).count();

    let asked = rows(made.points, &known_made);
    let answers = values(&answers_of_labels(&points, &asked).matmul(&labels));
    let mut counts = BTreeMap::<String, (usize, usize)>::new();
    for (row, i) in answers.chunks_exact(width).zip(&known_made) {
        let entry = counts.entry(made.classes[*i].to_owned()).or_default();
        entry.0 += usize::from(best(row) == place(made.classes[*i]));
        entry.1 += 1;
    }
    let mut unknown = BTreeMap::new();
    for class in made.classes.iter().filter(|c| place(c).is_none()) {
        *unknown.entry((*class).to_owned()).or_default() += 1;
    }
    let all = counts.values().fold((0, 0), |(k, n), (right, of)| (k + right, n + of));
    Some(Condition {
        real: Share::new(right, kinds.len()),
        made: Share::new(all.0, all.1),
        classes: counts.into_iter().map(|(name, (k, n))| (name, Share::new(k, n))).collect(),
        unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::distance::tests::cloud;

    fn numbered(n: usize, of_a_group: usize) -> Vec<String> {
        (0..n).map(|i| format!("{:03}", i / of_a_group)).collect()
    }

    fn told(real: &Tensor, made: &Tensor, of_a_group: usize) -> TwoSample {
        let [a, b] = [real, made].map(|t| numbered(t.size()[0] as usize, of_a_group));
        let [a, b]: [Vec<&str>; 2] = [&a, &b].map(|v| v.iter().map(String::as_str).collect());
        two_sample((real, &a), (made, &b), 0).unwrap()
    }

    #[test]
    fn sets_of_one_kind_cannot_be_told_apart_and_sets_of_two_can() {
        let mut chance = Vec::new();
        for seed in 0..10 {
            let same = told(&cloud(30, 0.0, 2 * seed), &cloud(60, 0.0, 2 * seed + 1), 1);
            chance.push(same.accuracy);
            assert!(same.p_value > 0.01, "{same:?}");
            let other = told(&cloud(30, 0.0, 2 * seed), &cloud(60, 2.0, 2 * seed + 1), 1);
            assert!(other.accuracy > 0.95 && other.p_value < 0.01, "{other:?}");
            assert!(other.interval.is_some_and(|i| i.low > 0.85), "{other:?}");
        }
        let mean = chance.iter().sum::<f64>() / chance.len() as f64;
        assert!((mean - 0.5).abs() < 0.07, "{chance:?}");
    }

    #[test]
    fn what_makes_groups_differ_is_not_taken_for_what_makes_kinds_differ() {
        // Ten groups of six points each, every group around a place of its own; the kinds are the same.
        let set = |seed: u64| {
            let at = |g: u64| (((seed * 5 + g) * 7919 % 97) as f64 / 97.0 - 0.5) * 6.0;
            let groups: Vec<Tensor> = (0..5).map(|g| cloud(6, at(g), seed * 5 + g)).collect();
            Tensor::cat(&groups, 0)
        };
        let got = told(&set(1), &set(2), 6);
        assert!(got.p_value > 0.02 && got.accuracy < 0.9, "{got:?}");
        let none = two_sample((&set(1), &["one"; 30]), (&set(2), &["a", "b"].repeat(15)), 0);
        assert_eq!(none, None, "one group of real defects");
    }

    #[test]
    fn a_made_defect_of_the_wrong_class_is_seen_and_a_class_that_real_ones_lack_is_named() {
        let real = Tensor::cat(&[&cloud(20, -1.5, 1), &cloud(20, 1.5, 2)], 0);
        let real_classes = [vec!["pit"; 20], vec!["scratch"; 20]].concat();
        let names = numbered(40, 1);
        let groups: Vec<&str> = names.iter().map(String::as_str).collect();
        let real = Labelled { points: &real, classes: &real_classes, groups: &groups };
        // Ten of either class and five of a third; all of them look like pits.
        let made = cloud(25, -1.5, 3);
        let made_classes = [vec!["pit"; 10], vec!["scratch"; 10], vec!["burr"; 5]].concat();
        let made = Labelled { points: &made, classes: &made_classes, groups: &groups[..25] };
        let got = condition(real, made, 0).unwrap();
        assert!(got.real.accuracy > 0.95 && got.made.of == 20, "{got:?}");
        assert!(got.classes["pit"].right >= 9 && got.classes["scratch"].right <= 1, "{got:?}");
        assert_eq!(got.unknown, BTreeMap::from([("burr".to_owned(), 5)]));
        let alone = Labelled { classes: &["pit"; 40], ..real };
        assert_eq!(condition(alone, made, 0), None, "one class cannot be mistaken");
    }
}
