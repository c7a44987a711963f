//! Dealing the goods out: some to fit on, some for residual statistics, some to calibrate with.
//!
//! Groups stay whole, since pictures of one lot resemble each other more than they resemble the next
//! lot's: a threshold from the same lot would be too low. Calibration goods are seen by nothing else.
//!
//! Never here: the test split.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// From this many goods on, residual statistics have goods of their own.
pub const OWN_STATISTICS_FROM: usize = 200;

/// Indices of goods, by what they are for. No group is in two of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The weights see these.
    pub fit: Vec<usize>,
    /// Residual statistics; empty: use `fit`.
    pub statistics: Vec<usize>,
    /// Thresholds, and nothing else.
    pub calibration: Vec<usize>,
}

/// Why the goods cannot be dealt out.
#[derive(Debug, thiserror::Error)]
#[error(
    "{goods} good pictures in {groups} group(s) cannot be split: the largest group holds {largest}; calibration needs groups that the fit has not seen. Take pictures from more lots or sessions, or put them into one folder without subfolders if they are all of one lot"
)]
pub struct SplitError {
    /// Pictures.
    pub goods: usize,
    /// Groups.
    pub groups: usize,
    /// Pictures in the largest group.
    pub largest: usize,
}

/// Calibration goods wanted of `n`: a quarter of a small set, a fifth of a large one, and as many as the
/// conformal threshold at `alpha` needs where a third of the set is enough for that.
fn calibration_wanted(n: usize, alpha: f64) -> usize {
    let share = if n < OWN_STATISTICS_FROM { n.div_ceil(4) } else { n.div_ceil(5) };
    let needed = (1.0 / alpha).ceil() as usize;
    if needed <= n / 3 { share.max(needed) } else { share }
}

/// Splits by group, at random by `seed`.
///
/// Errors: [`SplitError`] if the groups leave nothing to fit on or to calibrate with.
pub fn split(groups: &[String], alpha: f64, seed: u64) -> Result<Split, SplitError> {
    let n = groups.len();
    let mut by_group = BTreeMap::<&str, Vec<usize>>::new();
    for (i, group) in groups.iter().enumerate() {
        by_group.entry(group).or_default().push(i);
    }
    let count = by_group.len();
    let largest = by_group.values().map(Vec::len).max().unwrap_or(0);
    let mut dealt: Vec<Vec<usize>> = by_group.into_values().collect();
    dealt.shuffle(&mut StdRng::seed_from_u64(seed));
    let calibration = take(&mut dealt, calibration_wanted(n, alpha), n / 2);
    let statistics =
        if n >= OWN_STATISTICS_FROM { take(&mut dealt, n.div_ceil(8), n / 4) } else { Vec::new() };
    let mut fit: Vec<usize> = dealt.into_iter().flatten().collect();
    fit.sort_unstable();
    if fit.len() < 4 || calibration.len() < 3 {
        return Err(SplitError { goods: n, groups: count, largest });
    }
    Ok(Split { fit, statistics, calibration })
}

/// Takes whole groups until `wanted` pictures are there, leaving groups that would exceed `most`.
fn take(groups: &mut Vec<Vec<usize>>, wanted: usize, most: usize) -> Vec<usize> {
    let mut taken = Vec::new();
    let mut left = Vec::new();
    for group in groups.drain(..) {
        if taken.len() < wanted && taken.len() + group.len() <= most.max(wanted) {
            taken.extend(group);
        } else {
            left.push(group);
        }
    }
    *groups = left;
    taken.sort_unstable();
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn names(sizes: &[usize]) -> Vec<String> {
        let each = |(g, &n): (usize, &usize)| std::iter::repeat_n(format!("g{g}"), n);
        sizes.iter().enumerate().flat_map(each).collect()
    }

    #[test]
    fn groups_never_straddle_and_every_picture_has_one_place() {
        for seed in 0..200 {
            for sizes in [&[4; 6][..], &[31, 1, 7, 20, 3, 3, 9, 40][..], &[10; 30][..], &[1; 34][..]] {
                let groups = names(sizes);
                let split = split(&groups, 0.05, seed).unwrap();
                let parts = [&split.fit, &split.statistics, &split.calibration];
                let mut all: Vec<usize> = parts.iter().flat_map(|p| p.iter().copied()).collect();
                all.sort_unstable();
                assert_eq!(all, (0..groups.len()).collect::<Vec<_>>());
                let of = |p: &Vec<usize>| p.iter().map(|&i| &groups[i]).collect::<BTreeSet<_>>();
                for (a, b) in [(0, 1), (0, 2), (1, 2)] {
                    assert!(of(parts[a]).is_disjoint(&of(parts[b])));
                }
                assert!(split.fit.len() * 2 >= groups.len() - 1, "{sizes:?}: {}", split.fit.len());
            }
        }
    }

    #[test]
    fn a_budget_that_the_set_can_prove_gets_its_goods() {
        let groups = names(&[1; 600]);
        assert!(split(&groups, 0.01, 0).unwrap().calibration.len() >= 99);
        assert!(!split(&groups, 0.01, 0).unwrap().statistics.is_empty());
        assert!(split(&groups[..100], 0.05, 0).unwrap().statistics.is_empty());
        assert_eq!(split(&groups[..24], 0.05, 0).unwrap().calibration.len(), 6);
    }

    #[test]
    fn one_group_cannot_be_split() {
        let error = split(&names(&[40]), 0.05, 0).unwrap_err();
        assert_eq!((error.goods, error.groups, error.largest), (40, 1, 40));
    }
}
