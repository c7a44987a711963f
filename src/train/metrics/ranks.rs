//! Whether two series rise and fall together.
//!
//! Never here: how sure that is.

/// Fewest pairs: of three, one in three orders is a perfect one.
const LEAST: usize = 4;

/// Rank correlation, -1 to 1, equal values sharing the mean of their ranks. `None` for fewer than 4 pairs, or where one
/// side has only one value, or what is no number.
///
/// Source: Spearman 1904, "The proof and measurement of association between two things".
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    let numbers = x.iter().chain(y).all(|v| v.is_finite());
    if x.len() != y.len() || x.len() < LEAST || !numbers {
        return None;
    }
    let (x, y) = (ranks(x), ranks(y));
    let centre = (x.len() - 1) as f64 / 2.0;
    let product =
        |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - centre) * (b - centre)).sum::<f64>();
    let scale = (product(&x, &x) * product(&y, &y)).sqrt();
    (scale > 0.0).then(|| (product(&x, &y) / scale).clamp(-1.0, 1.0))
}

/// Ranks from 0; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let (mut ranks, mut first) = (vec![0.0; values.len()], 0);
    for equal in order.chunk_by(|a, b| values[*a] == values[*b]) {
        equal.iter().for_each(|i| ranks[*i] = first as f64 + (equal.len() - 1) as f64 / 2.0);
        first += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_correlation_is_that_of_the_books() {
        // 1 - 6 Σd² / (n (n² - 1)) with ranks that are 1, 1, 2, 1 and 1 apart.
        let y = [20.0, 10.0, 50.0, 30.0, 40.0];
        let rho = spearman(&[1.0, 2.0, 3.0, 4.0, 5.0], &y).unwrap();
        assert!((rho - (1.0 - 6.0 * 8.0 / 120.0)).abs() < 1e-12, "{rho}");
        // However it grows, and equal values share their ranks.
        let x = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(spearman(&x, &[0.1, 0.2, 70.0, 1e9]), Some(1.0));
        let tied = spearman(&x, &[5.0, 5.0, 6.0, 7.0]).unwrap();
        assert!((tied - 4.5 / (5.0f64 * 4.5).sqrt()).abs() < 1e-12, "{tied}");
        for bad in [&[3.0, 3.0, 3.0, 3.0][..], &[1.0, 2.0, 3.0], &[1.0, 2.0, f64::NAN, 4.0]] {
            assert_eq!(spearman(&x[..bad.len()], bad), None, "{bad:?}");
        }
    }
}
