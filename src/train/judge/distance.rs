//! How far two sets of features lie apart: kernel distance, density and coverage, copies, diversity.
//!
//! *Points* are `[n, d]` f64, a defect each, in one [`super::features::Space`].
//!
//! Never here: pictures; what the points stand for.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::metrics::{auroc, percentile};

/// Half samples that the standard error of the kernel distance comes from.
const HALVES: usize = 100;
/// Fewest points of each set for a kernel distance: halves of two each.
const MIN_POINTS: usize = 4;
/// Neighbours of density and coverage. Source: Naeem et al. 2020.
pub const NEIGHBOURS: usize = 5;
/// Share of the held-out real defects that lie nearer to a training defect than the limit for copies.
const COPY_SHARE: f64 = 0.05;

/// Rows of numbers.
struct Matrix {
    width: usize,
    values: Vec<f64>,
}

impl Matrix {
    fn new(tensor: &Tensor) -> Self {
        let width = tensor.size().get(1).copied().unwrap_or(0) as usize;
        let flat = tensor.contiguous().view(-1);
        let mut values = vec![0f64; flat.numel()];
        flat.copy_data(&mut values, flat.numel());
        Self { width, values }
    }

    fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks_exact(self.width.max(1))
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        self.values[i * self.width + j]
    }
}

fn count(points: &Tensor) -> usize {
    points.size()[0] as usize
}

/// Euclidean distances. Shape: `[n, d]`, `[m, d]` → n x m. Exact for equal points.
fn distances(a: &Tensor, b: &Tensor) -> Matrix {
    Matrix::new(&Tensor::cdist(a, b, 2.0, Some(2)))
}

/// Kernel distance of two sets.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Kid {
    /// Unbiased: around 0 for sets of one kind, and then as often below as above it.
    pub value: f64,
    /// Deviation over half samples.
    pub standard_error: f64,
}

/// Kernel inception distance's estimator in our own feature space: the squared maximum mean discrepancy with the
/// kernel (x·y/d + 1)³, unbiased. `None` with fewer than four points in either set.
///
/// Source: Bińkowski et al. 2018. Its standard error comes from half samples drawn without replacement, whose
/// spread is that of the whole (Shao & Wu 1989): subsets of 1,000, as are usual, need more pictures than
/// there are defects. For sets of one kind it is too large, about √3 times: there the true error falls with
/// the number of points, not with its root.
pub fn kid(x: &Tensor, y: &Tensor, seed: u64) -> Option<Kid> {
    let (n, m) = (count(x), count(y));
    if n.min(m) < MIN_POINTS {
        return None;
    }
    let d = x.size()[1] as f64;
    let kernel = |a: &Tensor, b: &Tensor| Matrix::new(&((a.matmul(&b.tr()) / d) + 1.0).pow_tensor_scalar(3));
    let (xx, yy, xy) = (kernel(x, x), kernel(y, y), kernel(x, y));
    let own = |k: &Matrix, rows: &[usize]| {
        let all: f64 = rows.iter().map(|&i| rows.iter().map(|&j| k.at(i, j)).sum::<f64>()).sum();
        let same: f64 = rows.iter().map(|&i| k.at(i, i)).sum();
        (all - same) / (rows.len() * (rows.len() - 1)) as f64
    };
    let mmd = |a: &[usize], b: &[usize]| {
        let cross: f64 = a.iter().map(|&i| b.iter().map(|&j| xy.at(i, j)).sum::<f64>()).sum();
        own(&xx, a) + own(&yy, b) - 2.0 * cross / (a.len() * b.len()) as f64
    };
    let (mut a, mut b): (Vec<usize>, Vec<usize>) = ((0..n).collect(), (0..m).collect());
    let value = mmd(&a, &b);
    let mut r = StdRng::seed_from_u64(seed);
    let halves: Vec<f64> = (0..HALVES)
        .map(|_| {
            a.shuffle(&mut r);
            b.shuffle(&mut r);
            mmd(&a[..n / 2], &b[..m / 2])
        })
        .collect();
    let mean = halves.iter().sum::<f64>() / HALVES as f64;
    let variance = halves.iter().map(|h| (h - mean).powi(2)).sum::<f64>() / (HALVES - 1) as f64;
    Some(Kid { value, standard_error: variance.sqrt() })
}

/// Whether made defects lie where real ones do, and whether they reach all of them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DensityCoverage {
    /// Real neighbourhoods that hold a made defect, over what real ones would give: about 1 for sets of one kind,
    /// lower where made ones lie outside, higher where they crowd.
    pub density: f64,
    /// Share of real defects with a made one in their neighbourhood.
    pub coverage: f64,
    /// Neighbours that a neighbourhood reaches to.
    pub neighbours: usize,
}

/// Density and coverage; `None` with too few real points for `k` neighbours, or without a made one.
///
/// Source: Naeem et al. 2020.
pub fn density_coverage(real: &Tensor, made: &Tensor, k: usize) -> Option<DensityCoverage> {
    let (n, m) = (count(real), count(made));
    if k == 0 || n <= k || m == 0 {
        return None;
    }
    let own = distances(real, real);
    let radius = |row: &[f64]| {
        let mut sorted = row.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[k] // the first is the point itself
    };
    let radii: Vec<f64> = own.rows().map(radius).collect();
    let to_made = distances(real, made);
    let held = |(row, radius): (&[f64], &f64)| row.iter().filter(|d| *d <= radius).count();
    let held: Vec<usize> = to_made.rows().zip(&radii).map(held).collect();
    let density = held.iter().sum::<usize>() as f64 / (k * m) as f64;
    let coverage = held.iter().filter(|h| **h > 0).count() as f64 / n as f64;
    Some(DensityCoverage { density, coverage, neighbours: k })
}

/// A made defect and the training defect next to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// Place of the made one.
    pub made: usize,
    /// Place of the training defect.
    pub trained: usize,
    /// Between them.
    pub distance: f64,
}

/// Whether made defects are copies.
#[derive(Debug, Clone, PartialEq)]
pub struct Copies {
    /// Nearer than this to a training defect are at most 5 % of the held-out real ones.
    pub limit: f64,
    /// Chance that a made defect lies nearer to its training defect than a held-out real one to its own.
    pub nearer: f64,
    /// Every made defect with its nearest training defect, nearest first.
    pub pairs: Vec<Pair>,
}

impl Copies {
    /// Made defects nearer than the limit.
    pub fn count(&self) -> usize {
        self.pairs.iter().filter(|p| p.distance < self.limit).count()
    }
}

/// Looks for copies of training defects. `held_out`: real defects that no generator saw; `None`: there are none
/// apart, so each training defect stands for one, against those of other `groups`. `None` where nothing can be
/// compared.
///
/// Source: the distances of Meehan et al. 2020 (data copying), and their rank statistic.
pub fn copies(trained: &Tensor, groups: &[&str], held_out: Option<&Tensor>, made: &Tensor) -> Option<Copies> {
    let nearest = |row: &[f64], allowed: &dyn Fn(usize) -> bool| {
        let among = row.iter().copied().enumerate().filter(|(j, _)| allowed(*j));
        among.min_by(|a, b| a.1.total_cmp(&b.1))
    };
    let fresh: Vec<f64> = match held_out {
        Some(points) => {
            distances(points, trained).rows().filter_map(|row| Some(nearest(row, &|_| true)?.1)).collect()
        }
        None => {
            let own = distances(trained, trained);
            let apart = |(i, row): (usize, &[f64])| Some(nearest(row, &|j| groups[j] != groups[i])?.1);
            own.rows().enumerate().filter_map(apart).collect()
        }
    };
    let from_made = distances(made, trained);
    let pair = |(made, row): (usize, &[f64])| {
        nearest(row, &|_| true).map(|(trained, distance)| Pair { made, trained, distance })
    };
    let mut pairs: Vec<Pair> = from_made.rows().enumerate().filter_map(pair).collect();
    if fresh.is_empty() || pairs.is_empty() {
        return None;
    }
    pairs.sort_by(|a, b| a.distance.total_cmp(&b.distance));
    let of_made: Vec<f32> = pairs.iter().map(|p| p.distance as f32).collect();
    let of_fresh: Vec<f32> = fresh.iter().map(|d| *d as f32).collect();
    Some(Copies { limit: percentile(&fresh, COPY_SHARE), nearer: auroc(&of_made, &of_fresh), pairs })
}

/// Mean distance between two defects of one class, a mean over the classes that have two or more in both sets.
/// `None` where there is no such class. Returns that of `a` and of `b`.
pub fn diversity(a: (&Tensor, &[&str]), b: (&Tensor, &[&str])) -> Option<(f64, f64)> {
    let mut names: Vec<&str> = a.1.to_vec();
    names.sort_unstable();
    names.dedup();
    let (own_a, own_b) = (distances(a.0, a.0), distances(b.0, b.0));
    let of = |d: &Matrix, classes: &[&str], name: &str| {
        let places: Vec<usize> = (0..classes.len()).filter(|i| classes[*i] == name).collect();
        let n = places.len();
        let sum: f64 = places.iter().map(|&i| places.iter().map(|&j| d.at(i, j)).sum::<f64>()).sum();
        (n > 1).then(|| sum / (n * (n - 1)) as f64)
    };
    let both = names.iter().filter_map(|name| Some((of(&own_a, a.1, name)?, of(&own_b, b.1, name)?)));
    let both: Vec<(f64, f64)> = both.collect();
    let n = both.len() as f64;
    (!both.is_empty())
        .then(|| (both.iter().map(|v| v.0).sum::<f64>() / n, both.iter().map(|v| v.1).sum::<f64>() / n))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rand::RngExt;

    fn points(rows: &[&[f64]]) -> Tensor {
        let flat: Vec<f64> = rows.iter().flat_map(|r| r.iter().copied()).collect();
        Tensor::from_slice(&flat).view([rows.len() as i64, -1])
    }

    /// `n` points around `middle`, each of 8 coordinates.
    pub fn cloud(n: usize, middle: f64, seed: u64) -> Tensor {
        let mut r = StdRng::seed_from_u64(seed);
        // The sum of twelve uniform numbers less six is nearly normal.
        let mut normal = || (0..12).map(|_| r.random_range(0.0..1.0f64)).sum::<f64>() - 6.0;
        let flat: Vec<f64> = (0..n * 8).map(|_| middle + normal()).collect();
        Tensor::from_slice(&flat).view([n as i64, 8])
    }

    #[test]
    fn kid_by_hand() {
        // One coordinate: X = {0, 1, 0, 1}, Y = {2, 2, 2, 2}; k(x, y) = (xy + 1)³.
        // Pairs in X: 0-0 1 time, 1-1 1 time, 0-1 4 times, of 6: (1 + 8 + 4) / 6; in Y 5³; across (1 + 27) / 2.
        let x = points(&[&[0.0], &[1.0], &[0.0], &[1.0]]);
        let y = points(&[&[2.0], &[2.0], &[2.0], &[2.0]]);
        let got = kid(&x, &y, 0).unwrap();
        assert!((got.value - (13.0 / 6.0 + 125.0 - 28.0)).abs() < 1e-9, "{got:?}");
        assert!(kid(&x.narrow(0, 0, 3), &y, 0).is_none());
    }

    #[test]
    fn kid_is_about_0_for_one_kind_and_above_for_two() {
        let mut inside = 0;
        for seed in 0..20 {
            let (a, b) = (cloud(40, 0.0, 2 * seed), cloud(60, 0.0, 2 * seed + 1));
            let same = kid(&a, &b, 0).unwrap();
            inside += usize::from(same.value.abs() < 2.0 * same.standard_error);
            let other = kid(&a, &cloud(60, 0.7, 2 * seed + 1), 0).unwrap();
            assert!(other.value > 3.0 * other.standard_error, "{other:?}");
        }
        assert!(inside >= 17, "{inside} of 20 within two standard errors of 0");
    }

    #[test]
    fn density_and_coverage_by_hand() {
        // Real at 0, 1, 2, 10; with one neighbour the radii are 1, 1, 1, 8. Made at 0.5, 2.5, 30.
        let real = points(&[&[0.0], &[1.0], &[2.0], &[10.0]]);
        let made = points(&[&[0.5], &[2.5], &[30.0]]);
        // 0.5 is held by 0 and 1; 2.5 by 2 and 10; 30 by none: 4 / (1 · 3); all four hold one.
        let got = density_coverage(&real, &made, 1).unwrap();
        assert!((got.density - 4.0 / 3.0).abs() < 1e-12 && got.coverage == 1.0, "{got:?}");
        let far = density_coverage(&real, &points(&[&[30.0]]), 1).unwrap();
        assert_eq!((far.density, far.coverage), (0.0, 0.0));
        assert!(density_coverage(&real, &made, 4).is_none() && density_coverage(&real, &made, 0).is_none());
        let same = density_coverage(&cloud(200, 0.0, 1), &cloud(200, 0.0, 2), NEIGHBOURS).unwrap();
        assert!((same.density - 1.0).abs() < 0.3 && same.coverage > 0.85, "{same:?}");
    }

    #[test]
    fn planted_copies_are_found_and_fresh_ones_are_not_taken_for_copies() {
        let (trained, held_out) = (cloud(40, 0.0, 1), cloud(40, 0.0, 2));
        let names: Vec<String> = (0..40).map(|i| i.to_string()).collect();
        let groups: Vec<&str> = names.iter().map(String::as_str).collect();
        let fresh = cloud(30, 0.0, 3);
        let made = Tensor::cat(&[&fresh, &(trained.narrow(0, 5, 6) + 0.01)], 0);
        for held_out in [Some(&held_out), None] {
            let found = copies(&trained, &groups, held_out, &made).unwrap();
            let planted: Vec<usize> = found.pairs[..6].iter().map(|p| p.trained).collect();
            assert!((5..11).all(|i| planted.contains(&i)), "{planted:?}");
            assert!((6..=9).contains(&found.count()), "{}", found.count());
            let none = copies(&trained, &groups, held_out, &fresh).unwrap();
            assert!(none.count() <= 3 && (0.3..0.7).contains(&none.nearer), "{none:?}");
        }
        assert!(copies(&trained, &["one"; 40], None, &made).is_none(), "one group has no others");
    }

    #[test]
    fn diversity_is_taken_within_classes_that_both_have() {
        let a = points(&[&[0.0], &[2.0], &[100.0], &[5.0]]);
        let b = points(&[&[0.0], &[1.0], &[7.0]]);
        let got = diversity((&a, &["x", "x", "y", "y"]), (&b, &["x", "x", "z"]));
        assert_eq!(got, Some((2.0, 1.0)));
        assert_eq!(diversity((&a, &["x", "x", "y", "y"]), (&b, &["z"; 3])), None);
    }
}
