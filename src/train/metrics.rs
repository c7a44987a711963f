//! Figures of merit for scores with known truth.
//!
//! Terms: *escape*, a defective part that passes; *false reject*, a good part that does not.
//!
//! Never here: intervals, since these figures go with the counts that they come from.

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
    let mut all: Vec<(f32, bool)> = good.iter().map(|&s| (s, false)).collect();
    all.extend(defective.iter().map(|&s| (s, true)));
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut hits, mut seen, mut sum) = (0usize, 0usize, 0.0);
    for step in all.chunk_by(|a, b| a.0 == b.0) {
        let new = step.iter().filter(|(_, defective)| *defective).count();
        hits += new;
        seen += step.len();
        sum += new as f64 * hits as f64 / seen as f64;
    }
    sum / defective.len() as f64
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
}
