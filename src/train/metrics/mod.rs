//! Figures of merit for scores with known truth.
//!
//! Terms: *escape*, a defective part that passes; *false reject*, a good part that does not.
//! Figures over whole pictures are here, how sure they are in [`intervals`], where in the picture the
//! defect is seen in [`pixels`]; [`ranks`] correlates two series.
//!
//! Never here: files, thresholds of a model.

pub mod intervals;
pub mod pixels;
pub mod ranks;

/// Area under the ROC curve: the chance that a defective part scores above a good one, ties half.
///
/// `NaN` if either is empty. Source: Mann & Whitney 1947.
pub fn auroc(good: &[f32], defective: &[f32]) -> f64 {
    let mut sorted = good.to_vec();
    sorted.sort_by(f32::total_cmp);
    let above: f64 = defective
        .iter()
        .map(|d| {
            let below = sorted.partition_point(|g| g < d);
            let not_above = sorted.partition_point(|g| g <= d);
            (below + not_above) as f64 / 2.0
        })
        .sum();
    above / (good.len() as f64 * defective.len() as f64)
}

/// Average precision: the mean over recall steps of the precision there. Ties are one step.
///
/// `NaN` if there are no defective parts. Source: scikit-learn, `average_precision_score`.
pub fn average_precision(good: &[f32], defective: &[f32]) -> f64 {
    let (mut found, mut sum) = (0, 0.0);
    for step in steps(good, defective) {
        sum += (step.found - found) as f64 * step.precision();
        found = step.found;
    }
    sum / defective.len() as f64
}

/// What a threshold just below one of the scores does, from the highest score downwards.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// The score; parts at or above it are flagged.
    pub score: f32,
    /// Flagged parts that are defective.
    pub found: usize,
    /// Flagged parts that are good.
    pub alarms: usize,
}

impl Step {
    /// Share of the flagged parts that are defective.
    pub fn precision(&self) -> f64 {
        self.found as f64 / (self.found + self.alarms) as f64
    }
}

/// One step for each distinct score, from the highest downwards: what ROC and PR curves are drawn from.
pub fn steps(good: &[f32], defective: &[f32]) -> Vec<Step> {
    let mut all: Vec<(f32, bool)> = good.iter().map(|&s| (s, false)).collect();
    all.extend(defective.iter().map(|&s| (s, true)));
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut found, mut alarms) = (0, 0);
    let step = |ties: &[(f32, bool)]| {
        let new = ties.iter().filter(|(_, defective)| *defective).count();
        found += new;
        alarms += ties.len() - new;
        Step { score: ties[0].0, found, alarms }
    };
    all.chunk_by(|a, b| a.0 == b.0).map(step).collect()
}

/// Cohen's kappa: agreement of two judges on good and bad beyond what chance gives them.
///
/// `both_good`, `both_bad`: where they agree; the others: where only the one judge says good.
/// 1 is full agreement, 0 that of chance; `NaN` where chance alone agrees always, or nothing was judged.
/// Source: Cohen 1960.
pub fn kappa(both_good: usize, first_good: usize, second_good: usize, both_bad: usize) -> f64 {
    let total = (both_good + first_good + second_good + both_bad) as f64;
    let observed = (both_good + both_bad) as f64 / total;
    let first = (both_good + first_good) as f64 / total;
    let second = (both_good + second_good) as f64 / total;
    let chance = first * second + (1.0 - first) * (1.0 - second);
    (observed - chance) / (1.0 - chance)
}

/// The smallest value that at least `share` (0 to 1) of the values do not exceed; `NaN` if there is none.
///
/// Source: the nearest-rank percentile.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auroc_by_hand() {
        // Pairs (good, defective): 1<2, 1<4, 3>2, 3<4: three of four.
        assert_eq!(auroc(&[1.0, 3.0], &[2.0, 4.0]), 0.75);
        assert_eq!(auroc(&[1.0], &[1.0]), 0.5);
        assert_eq!(auroc(&[1.0, 2.0], &[3.0]), 1.0);
        assert!(auroc(&[], &[1.0]).is_nan());
    }

    #[test]
    fn average_precision_by_hand() {
        // Down the ranking: 4 d (1/1), 3 g, 2 d (2/3), 1 g.
        let expected = (1.0 + 2.0 / 3.0) / 2.0;
        assert!((average_precision(&[1.0, 3.0], &[2.0, 4.0]) - expected).abs() < 1e-12);
        assert_eq!(average_precision(&[1.0], &[1.0]), 0.5);
        assert!(average_precision(&[1.0], &[]).is_nan());
    }

    #[test]
    fn a_step_holds_all_parts_of_one_score() {
        let got = steps(&[1.0, 2.0, 2.0], &[2.0, 3.0]);
        let expected = [(3.0, 1, 0), (2.0, 2, 2), (1.0, 2, 3)];
        assert_eq!(got.iter().map(|s| (s.score, s.found, s.alarms)).collect::<Vec<_>>(), expected);
        assert!(steps(&[], &[]).is_empty());
    }

    #[test]
    fn kappa_by_hand() {
        // Cohen's own kind of table: 20 both good, 15 both bad, 5 and 10 apart: (0.70 - 0.50) / 0.50.
        assert!((kappa(20, 5, 10, 15) - 0.4).abs() < 1e-12);
        assert_eq!(kappa(10, 0, 0, 10), 1.0);
        assert_eq!(kappa(5, 5, 5, 5), 0.0);
        // A judge that passes everything agrees with a mixed truth by chance alone.
        assert_eq!(kappa(10, 0, 10, 0), 0.0);
        assert!(kappa(0, 0, 0, 0).is_nan());
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=10).rev().map(f64::from).collect();
        assert_eq!([0.5, 0.9, 0.99, 1.0].map(|p| percentile(&values, p)), [5.0, 9.0, 10.0, 10.0]);
        assert_eq!(percentile(&[7.0], 0.5), 7.0);
        assert!(percentile(&[], 0.5).is_nan());
    }
}
