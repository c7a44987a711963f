//! Dealing the goods out: some to fit on, some for residual statistics, some to calibrate with.
//!
//! Groups stay whole, since pictures of one lot resemble each other more than they resemble the next
//! lot's: a threshold from the same lot would be too low. Calibration goods are seen by nothing else.
//!
//! Of few goods a quarter calibrates: the provisional limit of eight goods keeps its budget nearly as well as
//! that of twelve (see [`crate::calibrate`]), while every good less to fit on is felt.
//!
//! Never here: the test split.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::calibrate::{MIN_CALIBRATION_GOODS, goods_needed};

/// From this many goods on, residual statistics have goods of their own.
pub const OWN_STATISTICS_FROM: usize = 200;
/// Groups to calibrate with where there are groups: the variance between two of them is hardly known (the
/// limit is then four times too high in one calibration of ten), between three it is.
pub const MIN_CALIBRATION_GROUPS: usize = 3;

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

/// What calibration should get: pictures and groups.
struct Wanted {
    goods: usize,
    groups: usize,
}

/// A quarter of a small set, a fifth of a large one, of at least [`MIN_CALIBRATION_GROUPS`] groups; and as many
/// groups as the conformal limit at `alpha` needs where a third of them is enough for that. Of groups with
/// several goods twice as many: with just enough that limit is the largest of all scores.
fn wanted(goods: usize, groups: usize, alpha: f64) -> Wanted {
    let share = if goods < OWN_STATISTICS_FROM { goods.div_ceil(4) } else { goods.div_ceil(5) };
    let needed = if groups == goods { goods_needed(alpha) } else { 2 * goods_needed(alpha) };
    let groups = if needed <= groups / 3 { needed } else { MIN_CALIBRATION_GROUPS.min(groups) };
    Wanted { goods: share, groups }
}

/// Splits by group, at random by `seed`. At least half of the goods are left to fit on where the groups allow it.
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
    let calibration = take(&mut dealt, &wanted(n, count, alpha), n / 2);
    let statistics = if n >= OWN_STATISTICS_FROM {
        let most = (n / 2).saturating_sub(calibration.len());
        take(&mut dealt, &Wanted { goods: n.div_ceil(8), groups: 1 }, most)
    } else {
        Vec::new()
    };
    let mut fit: Vec<usize> = dealt.into_iter().flatten().collect();
    fit.sort_unstable();
    if fit.len() < 4 || calibration.len() < MIN_CALIBRATION_GOODS {
        return Err(SplitError { goods: n, groups: count, largest });
    }
    Ok(Split { fit, statistics, calibration })
}

/// Takes whole groups until as many pictures and groups are there as wanted, leaving groups that would bring
/// more than `most` pictures.
fn take(groups: &mut Vec<Vec<usize>>, wanted: &Wanted, most: usize) -> Vec<usize> {
    let (mut taken, mut left) = (Vec::new(), Vec::new());
    let mut count = 0;
    for group in groups.drain(..) {
        if (taken.len() < wanted.goods || count < wanted.groups) && taken.len() + group.len() <= most {
            taken.extend(group);
            count += 1;
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
                assert!(split.fit.len() * 2 >= groups.len(), "{sizes:?}: {}", split.fit.len());
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
    fn few_goods_leave_most_to_the_fit_and_few_groups_leave_three_to_the_threshold() {
        for (sizes, calibration) in [
            (&[1; 34][..], 9),
            (&[1; 24], 6),
            (&[1; 12], 3),
            (&[4; 6], 12),
            (&[4; 7], 12),
            (&[10; 2], 10),
            (&[8; 43], 72),
            (&[5; 60], 60),
            (&[3; 130], 114), // 38 groups: proves 5 % of a new group's parts without waste
        ] {
            let groups = names(sizes);
            assert_eq!(split(&groups, 0.05, 7).unwrap().calibration.len(), calibration, "{sizes:?}");
        }
    }

    #[test]
    fn one_group_cannot_be_split() {
        let error = split(&names(&[40]), 0.05, 0).unwrap_err();
        assert_eq!((error.goods, error.groups, error.largest), (40, 1, 40));
        assert!(split(&names(&[20, 2]), 0.05, 0).is_err(), "two goods are too few to calibrate with");
    }
}
