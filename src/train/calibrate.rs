//! From the scores of held-out goods to thresholds and to what may be claimed of them.
//!
//! Terms: *alpha*, the false-reject budget; *conformal*, a threshold whose false-reject rate holds for
//! any distribution of scores as long as parts are exchangeable; *tolerance bound*, one that assumes
//! normal log scores, for sets too small to prove a rate.
//!
//! Never here: test pictures; an infinite threshold, which would pass everything.

use inspect_core::card::{Calibration, Method, Thresholds};

/// Share of good parts below the tolerance bound, and the confidence of that.
pub const TOLERANCE: (f64, f64) = (0.99, 0.95);
/// Fewest goods that a tolerance bound is drawn from.
pub const MIN_TOLERANCE_GOODS: usize = 3;

/// Why there is no threshold.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// A budget makes no sense.
    #[error(
        "--alpha {alpha} --review-alpha {review_alpha}: expected 0.0001 <= alpha <= review-alpha < 1 (0.05 rejects at most 5 % of good parts)"
    )]
    Alpha {
        /// Budget of the reject threshold.
        alpha: f64,
        /// Budget of the review threshold.
        review_alpha: f64,
    },
    /// Too few goods for any threshold.
    #[error(
        "{got} held-out goods, expected at least {MIN_TOLERANCE_GOODS} for a threshold; take more pictures"
    )]
    TooFew {
        /// Held-out goods.
        got: usize,
    },
    /// Scores that no threshold can be drawn from.
    #[error(
        "held-out good {index} has the score {score}; expected finite numbers above 0: the fit has failed, try another --seed or more --minutes"
    )]
    Score {
        /// Which one.
        index: usize,
        /// Its score.
        score: f32,
    },
    /// A threshold that would pass everything.
    #[error(
        "the reject threshold is {got}, expected a finite number above 0; take more pictures of good parts"
    )]
    Threshold {
        /// What came out.
        got: f64,
    },
}

/// Smallest budget: 0.01 %, for which 9,999 held-out goods are needed.
const MIN_ALPHA: f64 = 1e-4;

/// Checks the budgets before a fit is started on them. Errors: [`CalibrateError::Alpha`].
pub fn check_alpha(alpha: f64, review_alpha: f64) -> Result<(), CalibrateError> {
    if alpha >= MIN_ALPHA && alpha <= review_alpha && review_alpha < 1.0 {
        Ok(())
    } else {
        Err(CalibrateError::Alpha { alpha, review_alpha })
    }
}

/// Thresholds from the scores of `groups` groups of goods that nothing else saw.
///
/// Goods of one group are alike and count as little more than one: where the groups are fewer than the goods
/// that the budget needs, the threshold stands but no rate is claimed.
///
/// Errors: [`CalibrateError`].
pub fn calibrate(
    scores: &[f32],
    groups: usize,
    alpha: f64,
    review_alpha: f64,
) -> Result<(Thresholds, Calibration), CalibrateError> {
    check_alpha(alpha, review_alpha)?;
    if let Some(index) = scores.iter().position(|s| !s.is_finite() || *s <= 0.0) {
        return Err(CalibrateError::Score { index, score: scores[index] });
    }
    let n = scores.len();
    let mut sorted: Vec<f64> = scores.iter().map(|&s| f64::from(s)).collect();
    sorted.sort_by(f64::total_cmp);
    let proven = conformal(&sorted, alpha);
    let reject = match proven {
        Some(threshold) => threshold,
        None => tolerance(&sorted)?,
    };
    let review = match (review_alpha > alpha, conformal(&sorted, review_alpha)) {
        (true, Some(threshold)) => threshold.min(reject),
        _ => reject,
    };
    let (review, reject) = (review as f32, reject as f32);
    if !reject.is_finite() || reject <= 0.0 {
        return Err(CalibrateError::Threshold { got: f64::from(reject) });
    }
    let claimed = proven.is_some() && (groups == n || groups >= goods_needed(alpha));
    let calibration = Calibration {
        method: if proven.is_some() { Method::Conformal } else { Method::Tolerance },
        goods: n,
        groups,
        alpha,
        review_alpha,
        provisional: !claimed,
        claim: claim(claimed, proven.is_some(), n, groups, alpha),
    };
    Ok((Thresholds { review, reject }, calibration))
}

fn claim(claimed: bool, conformal: bool, n: usize, groups: usize, alpha: f64) -> String {
    let percent = alpha * 100.0;
    let needed = goods_needed(alpha);
    if claimed {
        format!(
            "On average over such calibrations at most {percent} % of good parts like these are rejected \
             ({n} held-out goods in {groups} groups; parts assumed exchangeable)."
        )
    } else if conformal {
        format!(
            "Provisional, no rate is claimed: the {n} held-out goods come from {groups} groups only, and goods \
             of a group are alike; {percent} % needs {needed} groups."
        )
    } else {
        format!(
            "Provisional, no rate is claimed: {n} held-out goods are too few for {percent} %, \
             which needs {needed}; the limit is a 99 %/95 % tolerance bound on normal log scores."
        )
    }
}

/// Goods that the conformal threshold needs at `alpha`: 19 at 5 %, 99 at 1 %.
pub fn goods_needed(alpha: f64) -> usize {
    (1..).find(|&n| rank(n, alpha) <= n).unwrap_or(usize::MAX)
}

/// ceil((n+1)(1-alpha)), with a guard against 19.000000000000004.
fn rank(n: usize, alpha: f64) -> usize {
    ((n as f64 + 1.0) * (1.0 - alpha) - 1e-9).ceil() as usize
}

/// The ceil((n+1)(1-alpha))-th smallest of the sorted scores; `None` if there are too few of them.
///
/// Source: Vovk et al. 2005; Angelopoulos & Bates 2021, eq. 1.
pub fn conformal(sorted: &[f64], alpha: f64) -> Option<f64> {
    sorted.get(rank(sorted.len(), alpha).max(1) - 1).copied()
}

/// exp(mean + k·sd) of the log scores: with 95 % confidence above 99 % of good parts, if log scores are normal.
///
/// Errors: [`CalibrateError::TooFew`].
pub fn tolerance(scores: &[f64]) -> Result<f64, CalibrateError> {
    let n = scores.len();
    if n < MIN_TOLERANCE_GOODS {
        return Err(CalibrateError::TooFew { got: n });
    }
    let logs: Vec<f64> = scores.iter().map(|s| s.ln()).collect();
    let mean = logs.iter().sum::<f64>() / n as f64;
    let variance = logs.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / (n as f64 - 1.0);
    Ok((mean + tolerance_factor(n) * variance.sqrt()).exp())
}

/// The k of a one-sided normal tolerance bound: P(mean + k·sd >= z_99 quantile) = 95 % for n draws.
///
/// Solved by bisection over an integral against the chi distribution of the standard deviation.
/// Source: Krishnamoorthy & Mathew 2009, section 2.2 (non-central t form).
pub fn tolerance_factor(n: usize) -> f64 {
    let (content, confidence) = TOLERANCE;
    let z = bisect(-10.0, 10.0, |x| normal_cdf(x) - content);
    let (n, freedom) = (n as f64, n as f64 - 1.0);
    let covered = |k: f64| {
        // s ~ chi/sqrt(freedom): density s^(v-1) exp(-v s²/2), normalised by its own sum.
        let (mut sum, mut total) = (0.0, 0.0);
        for i in 1..4000 {
            let s = f64::from(i) * 1e-3;
            let weight = ((freedom - 1.0) * s.ln() - freedom * s * s / 2.0 + freedom / 2.0).exp();
            sum += weight * normal_cdf(n.sqrt() * (k * s - z));
            total += weight;
        }
        sum / total
    };
    bisect(0.0, 200.0, |k| covered(k) - confidence)
}

/// The zero of a rising function.
fn bisect(mut lo: f64, mut hi: f64, f: impl Fn(f64) -> f64) -> f64 {
    for _ in 0..60 {
        let middle = (lo + hi) / 2.0;
        if f(middle) < 0.0 { lo = middle } else { hi = middle }
    }
    (lo + hi) / 2.0
}

/// Standard normal distribution function. Source: Abramowitz & Stegun 7.1.26, error below 1.5e-7.
fn normal_cdf(x: f64) -> f64 {
    let u = x.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * u);
    let coefficients = [0.254_829_592, -0.284_496_736, 1.421_413_741, -1.453_152_027, 1.061_405_429];
    let polynomial = coefficients.iter().rev().fold(0.0, |sum, c| (sum + c) * t);
    let upper = polynomial * (-u * u).exp() / 2.0;
    if x > 0.0 { 1.0 - upper } else { upper }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};

    #[test]
    fn five_percent_needs_nineteen_goods_and_one_percent_ninety_nine() {
        assert_eq!((goods_needed(0.05), goods_needed(0.01)), (19, 99));
        let scores = |n: usize| (1..=n).map(|i| i as f64).collect::<Vec<_>>();
        assert_eq!(conformal(&scores(18), 0.05), None);
        assert_eq!(conformal(&scores(19), 0.05), Some(19.0));
        assert_eq!(conformal(&scores(99), 0.05), Some(95.0));
    }

    #[test]
    fn goods_of_few_groups_claim_no_rate() {
        let scores: Vec<f32> = (1..=40).map(|i| i as f32).collect();
        let of = |groups| calibrate(&scores, groups, 0.05, 0.05).unwrap();
        let (alone, _) = of(40);
        let (two, calibration) = of(2);
        assert_eq!(alone, two, "the threshold is the same");
        assert!(calibration.provisional && calibration.claim.contains("2 groups only"), "{calibration:?}");
        assert!(!of(40).1.provisional && !of(19).1.provisional && of(18).1.provisional);
        assert!(check_alpha(1e-12, 0.5).is_err());
    }

    #[test]
    fn the_conformal_threshold_keeps_its_budget() {
        let mut r = rand::rngs::StdRng::seed_from_u64(1);
        let mut rejected = 0;
        let rounds = 20_000;
        for _ in 0..rounds {
            let mut scores: Vec<f64> = (0..39).map(|_| r.random::<f64>().powi(7)).collect();
            scores.sort_by(f64::total_cmp);
            let threshold = conformal(&scores, 0.05).unwrap();
            rejected += usize::from(r.random::<f64>().powi(7) > threshold);
        }
        let rate = rejected as f64 / rounds as f64;
        assert!((0.04..=0.055).contains(&rate), "{rate}");
    }

    #[test]
    fn tolerance_factors_are_those_of_the_tables() {
        // Krishnamoorthy & Mathew 2009, table B1, content 0.99, confidence 0.95.
        for (n, k) in [(5, 5.741), (10, 3.981), (20, 3.295), (50, 2.862), (100, 2.684)] {
            assert!((tolerance_factor(n) - k).abs() < 2e-3, "n {n}: {}", tolerance_factor(n));
        }
    }

    #[test]
    fn few_goods_are_provisional_and_claim_no_rate() {
        let scores = [1.0, 1.2, 0.9, 1.1, 1.05, 0.95];
        let (thresholds, calibration) = calibrate(&scores, 6, 0.05, 0.05).unwrap();
        assert!(calibration.provisional && calibration.method == Method::Tolerance);
        assert!(calibration.claim.contains("no rate"), "{}", calibration.claim);
        assert!(thresholds.reject > 1.2 && thresholds.reject.is_finite());
        assert_eq!(thresholds.review, thresholds.reject);
    }

    #[test]
    fn a_review_band_lies_below_the_reject_threshold() {
        let scores: Vec<f32> = (1..=99).map(|i| i as f32).collect();
        let (thresholds, calibration) = calibrate(&scores, 99, 0.01, 0.1).unwrap();
        assert_eq!((thresholds.review, thresholds.reject), (90.0, 99.0));
        assert!(!calibration.provisional);
    }

    #[test]
    fn what_gives_no_sound_threshold_is_an_error() {
        assert!(calibrate(&[1.0, f32::NAN, 1.0], 3, 0.05, 0.05).is_err());
        assert!(calibrate(&[1.0, f32::INFINITY, 1.0], 3, 0.05, 0.05).is_err());
        assert!(calibrate(&[1.0, 1.1], 2, 0.05, 0.05).is_err());
        assert!(calibrate(&[1.0; 30], 30, 0.0, 0.05).is_err());
        assert!(calibrate(&[1.0; 30], 30, 0.1, 0.05).is_err());
    }
}
