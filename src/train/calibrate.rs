//! From the scores of held-out goods to thresholds and to what may be claimed of them.
//!
//! Terms: *alpha*, the false-reject budget: the share of good parts that may be rejected, on average over
//! calibrations like this one. *Group*: lot, shift or session, see [`crate::data`]. *Conformal limit*: a rank
//! of the held-out scores, right for any distribution of scores. *Prediction limit*: right for normal log
//! scores, for sets too small for a rank.
//!
//! # Why these limits
//!
//! What is wanted is a limit for the next part, which comes from a new group, so groups and not pictures are
//! what is counted: 72 goods out of 9 lots say little of the tenth lot. With enough groups (19 at 5 %, 99 at
//! 1 %) the limit is a quantile in which each group weighs the same and one more group counts as infinite
//! (Lee, Barber & Willett 2023, HCP, eq. 5); where each picture is a group of its own that is the usual
//! ceil((n+1)(1-alpha))-th score. It assumes that groups are exchangeable and nothing else. With hardly more groups
//! than needed it is the largest of all scores, and then rejects fewer than alpha where groups are alike.
//!
//! With fewer, the limit is a one-sided prediction bound on normal log scores, with a variance between groups
//! and one within: it makes the same promise as the rank (alpha on average), so the limit does not jump where
//! a set gets large enough. A tolerance bound promises something else, the share alpha with 95 % confidence:
//! for nine log-normal scores its limit is 1.6 times (content 95 %) or 2.3 times (99 %) the true quantile, the
//! prediction bound's 1.1 times; what lies between escapes. The limit is never below the conformal one that the pictures alone allow (with too few of
//! them: the largest held-out score), which also bounds the rate where log scores are not normal: by
//! 1/(groups+1) if no held-out good lies above it.
//!
//! Logarithms, because scores are maxima over a map, positive and skewed to the right. Simulated mean rates at
//! alpha 5 %, for 6 to 18 goods drawn from seven kinds of scores (normal, Gumbel, gamma, log-normal, log-Gumbel,
//! log-t with 4 degrees of freedom, with 5 % outliers): 3.0 to 7.9 % with logarithms, 4.0 to 10.0 % without.
//! With 2 to 9 groups of 4 to 60 goods and up to 60 % of the variance between groups: 3.4 to 8.3 %, where the
//! same bound without groups gives up to 13.6 %. The tests below repeat a part of this.
//!
//! Never here: test pictures; an infinite threshold, which would pass everything.

use std::collections::BTreeMap;

use inspect_core::card::{Calibration, Limits, MAX_VIEWS, Method, Thresholds};

/// Fewest goods that a prediction limit is drawn from.
pub const MIN_CALIBRATION_GOODS: usize = 3;
/// Fewest groups for a predicted limit of one of several views.
const MIN_SHARED_GROUPS: usize = 6;
/// Smallest budget: 0.01 %, for which 9,999 held-out groups are needed.
const MIN_ALPHA: f64 = 1e-4;

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
        "{got} held-out goods, expected at least {MIN_CALIBRATION_GOODS} for a threshold; take more pictures"
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

/// Checks the budgets before a fit is started on them. Errors: [`CalibrateError::Alpha`].
pub fn check_alpha(alpha: f64, review_alpha: f64) -> Result<(), CalibrateError> {
    if alpha >= MIN_ALPHA && alpha <= review_alpha && review_alpha < 1.0 {
        Ok(())
    } else {
        Err(CalibrateError::Alpha { alpha, review_alpha })
    }
}

/// Thresholds from the scores of goods that nothing else saw, and the group of each.
///
/// Shape: `scores` and `groups` are equally long. Units: the model's score.
/// Errors: [`CalibrateError`].
pub fn calibrate(
    scores: &[f32],
    groups: &[&str],
    alpha: f64,
    review_alpha: f64,
) -> Result<(Thresholds, Calibration), CalibrateError> {
    check_alpha(alpha, review_alpha)?;
    if let Some(index) = scores.iter().position(|s| !s.is_finite() || *s <= 0.0) {
        return Err(CalibrateError::Score { index, score: scores[index] });
    }
    let mut by_group = BTreeMap::<&str, Vec<f64>>::new();
    for (&score, group) in scores.iter().zip(groups) {
        by_group.entry(group).or_default().push(f64::from(score));
    }
    let by_group: Vec<Vec<f64>> = by_group.into_values().collect();
    let (reject, method) = limit(&by_group, alpha)?;
    let review = limit(&by_group, review_alpha)?.0.min(reject);
    let (review, reject) = (review as f32, reject as f32);
    if !reject.is_finite() || reject <= 0.0 {
        return Err(CalibrateError::Threshold { got: f64::from(reject) });
    }
    let mut claim = claim(method, scores.len(), by_group.len(), alpha);
    if review_alpha > alpha && review >= reject {
        claim += &format!(
            " No review band: with these goods the limits for {} % and {} % are the same.",
            percent(review_alpha),
            percent(alpha)
        );
    }
    let calibration = Calibration {
        method,
        goods: scores.len(),
        groups: by_group.len(),
        alpha,
        review_alpha,
        provisional: method != Method::Conformal,
        claim,
        shares: shares(&by_group, alpha, review_alpha, Thresholds { review, reject }),
    };
    Ok((Thresholds { review, reject }, calibration))
}

/// Limits at `alpha / V` for V = 2 to [`MAX_VIEWS`] views of one part, see [`inspect_core::card::Card::limits`];
/// none lower than `alone`, the limits of one view, or than those of fewer views.
///
/// The list ends where nothing sound can be said: with fewer than [`MIN_SHARED_GROUPS`] groups a prediction far out
/// in the tail is a guess at hundreds of times the limit, which would pass every defect.
fn shares(by_group: &[Vec<f64>], alpha: f64, review_alpha: f64, alone: Thresholds) -> Vec<Limits> {
    let mut least = alone;
    let mut shares = Vec::new();
    for views in 2..=MAX_VIEWS {
        let of = |alpha: f64| limit(by_group, alpha / views as f64).ok();
        let (Some((reject, method)), Some((review, _))) = (of(alpha), of(review_alpha)) else { break };
        let reject = (reject as f32).max(least.reject);
        let thresholds = Thresholds { review: (review as f32).min(reject).max(least.review), reject };
        let provisional = method != Method::Conformal;
        if !thresholds.are_sound() || provisional && by_group.len() < MIN_SHARED_GROUPS {
            break;
        }
        least = thresholds;
        shares.push(Limits { thresholds, provisional });
    }
    shares
}

/// The limit for a budget: by rank where there are groups enough, else by prediction.
fn limit(by_group: &[Vec<f64>], alpha: f64) -> Result<(f64, Method), CalibrateError> {
    if let Some(limit) = conformal(by_group, alpha) {
        return Ok((limit, Method::Conformal));
    }
    let alone: Vec<Vec<f64>> = by_group.iter().flatten().map(|&s| vec![s]).collect();
    let largest = by_group.iter().flatten().copied().fold(0.0, f64::max);
    let floor = conformal(&alone, alpha).unwrap_or(largest);
    Ok((prediction(by_group, alpha)?.max(floor), Method::Prediction))
}

/// What may be said of the reject threshold, for people.
fn claim(method: Method, goods: usize, groups: usize, alpha: f64) -> String {
    let (rate, needed) = (percent(alpha), goods_needed(alpha));
    let alone = groups == goods;
    if method == Method::Conformal {
        let (of, each) = if alone {
            ("good parts like these", format!("{goods} held-out goods, each taken by itself"))
        } else {
            (
                "good parts of a new group (lot, shift, session)",
                format!("{goods} held-out goods of {groups} groups, each group counting the same"),
            )
        };
        let same = if alone { "parts" } else { "groups" };
        return format!(
            "On average over such calibrations at most {rate} % of {of} are rejected, whatever the \
             distribution of scores ({each}; new {same} assumed to be like these). Not claimed for another \
             product, light or camera."
        );
    }
    let why = if alone {
        format!("{goods} held-out goods are too few to prove {rate} %, which needs {needed}")
    } else if groups == 1 {
        format!("the {goods} held-out goods are all of one group, so nothing is known of other groups")
    } else {
        format!(
            "the {goods} held-out goods come from {groups} groups only, and {rate} % of a new group's parts \
             needs {needed} groups"
        )
    };
    let bound = if goods < needed && (alone || groups > 1) {
        let bound = percent(1.0 / (groups as f64 + 1.0));
        format!(", at most {bound} % on average whatever their distribution")
    } else if goods >= needed {
        format!(", and at most {rate} % on average of new parts of these same groups")
    } else {
        String::new()
    };
    format!(
        "Provisional, no rate is proven: {why}. Some {rate} % are rejected if log scores are normal{bound}."
    )
}

/// A share in percent, as short as it can be said.
fn percent(share: f64) -> String {
    let text = format!("{:.2}", share * 100.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Groups (or goods without groups) that the conformal limit needs at `alpha`: 19 at 5 %, 99 at 1 %.
pub fn goods_needed(alpha: f64) -> usize {
    (1.0 / alpha - 1.0 - 1e-9).ceil().max(1.0) as usize
}

/// The smallest score at which the groups' mean share of scores at or below it, one more group counted as
/// infinite, reaches 1-alpha; `None` if there are too few groups. Groups of one good each: the
/// ceil((n+1)(1-alpha))-th score.
///
/// Source: Lee, Barber & Willett 2023, "Distribution-free inference with hierarchical data", eq. 5 (HCP);
/// Vovk et al. 2005 for groups of one.
pub fn conformal(by_group: &[Vec<f64>], alpha: f64) -> Option<f64> {
    let weight = 1.0 / (by_group.len() as f64 + 1.0);
    let each = by_group.iter().flat_map(|group| group.iter().map(|&s| (s, weight / group.len() as f64)));
    let mut weighted: Vec<(f64, f64)> = each.collect();
    weighted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut below = 0.0;
    weighted.into_iter().find_map(|(score, weight)| {
        below += weight;
        (below >= 1.0 - alpha - 1e-9).then_some(score)
    })
}

/// exp(m + t·sqrt(v)): the next part, of a new group, lies below it with probability 1-alpha if log scores are
/// normal with one variance between and one within groups. One group: the next part of that group.
///
/// m is the mean of the group means. With G groups of n_g, h the mean of 1/n_g, B the variance of the group means
/// and W the pooled variance within: v = (1+1/G)·B + (1-h)·W, which has the expectation of the squared distance
/// of a new score to m; t has Satterthwaite's degrees of freedom. Groups of one: m + t·s·sqrt(1+1/n), exact.
/// Errors: [`CalibrateError::TooFew`].
/// Source: Krishnamoorthy & Mathew 2009, sections 2.3 and 5.3; Satterthwaite 1946.
pub fn prediction(by_group: &[Vec<f64>], alpha: f64) -> Result<f64, CalibrateError> {
    let goods = by_group.iter().map(Vec::len).sum::<usize>();
    if goods < MIN_CALIBRATION_GOODS {
        return Err(CalibrateError::TooFew { got: goods });
    }
    let (n, g) = (goods as f64, by_group.len() as f64);
    let logs: Vec<Vec<f64>> = by_group.iter().map(|group| group.iter().map(|s| s.ln()).collect()).collect();
    let means: Vec<f64> = logs.iter().map(|group| mean(group)).collect();
    let centre = mean(&means);
    let squares = |(group, mean): (&Vec<f64>, &f64)| group.iter().map(|l| (l - mean).powi(2)).sum::<f64>();
    let within = logs.iter().zip(&means).map(squares).sum::<f64>() / (n - g).max(1.0);
    let (a, b) = if by_group.len() == 1 {
        (0.0, (1.0 + 1.0 / n) * within)
    } else {
        let between = means.iter().map(|m| (m - centre).powi(2)).sum::<f64>() / (g - 1.0);
        let inverse = by_group.iter().map(|group| 1.0 / group.len() as f64).sum::<f64>() / g;
        ((1.0 + 1.0 / g) * between, (1.0 - inverse) * within)
    };
    let variance = a + b;
    let spread = a * a / (g - 1.0).max(1.0) + b * b / (n - g).max(1.0);
    if spread <= 0.0 {
        return Ok(centre.exp()); // all scores are the same
    }
    let freedom = (variance * variance / spread).clamp(1.0, MAX_FREEDOM);
    Ok((centre + t_quantile(1.0 - alpha, freedom) * variance.sqrt()).exp())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// From here on Student's t is taken as it is here: its 99.99 % quantile is within 0.1 % of the normal's.
const MAX_FREEDOM: f64 = 5e3;

/// Quantile of Student's t: its distribution function is 1/2 + I(x)/2I(inf), where I is the integral of
/// cos^(freedom-1) from 0 to atan(x/sqrt(freedom)).
pub fn t_quantile(probability: f64, freedom: f64) -> f64 {
    const PARTS: usize = 4000;
    let step = std::f64::consts::FRAC_PI_2 / PARTS as f64;
    let at = |i: usize| ((i as f64 + 0.5) * step).cos().powf(freedom - 1.0);
    let total: f64 = (0..PARTS).map(at).sum();
    let wanted = (2.0 * probability - 1.0).abs() * total;
    let mut sum = 0.0;
    for i in 0..PARTS {
        let part = at(i);
        if sum + part >= wanted {
            let angle = (i as f64 + (wanted - sum) / part) * step;
            return (freedom.sqrt() * angle.tan()).copysign(probability - 0.5);
        }
        sum += part;
    }
    f64::INFINITY // probability 1: the caller refuses an infinite limit
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    fn alone(scores: impl IntoIterator<Item = f64>) -> Vec<Vec<f64>> {
        scores.into_iter().map(|s| vec![s]).collect()
    }

    fn names(n: usize, groups: usize) -> Vec<String> {
        (0..n).map(|i| format!("g{}", i % groups)).collect()
    }

    fn of(scores: &[f32], groups: usize, alpha: f64, review_alpha: f64) -> (Thresholds, Calibration) {
        let names = names(scores.len(), groups);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        calibrate(scores, &names, alpha, review_alpha).unwrap()
    }

    #[test]
    fn five_percent_needs_nineteen_groups_and_one_percent_ninety_nine() {
        assert_eq!((goods_needed(0.05), goods_needed(0.01), goods_needed(0.5)), (19, 99, 1));
        let scores = |n: usize| alone((1..=n).map(|i| i as f64));
        assert_eq!(conformal(&scores(18), 0.05), None);
        assert_eq!(conformal(&scores(19), 0.05), Some(19.0));
        assert_eq!(conformal(&scores(99), 0.05), Some(95.0));
        assert_eq!(conformal(&scores(99), 0.01), Some(99.0));
    }

    #[test]
    fn each_group_weighs_the_same_however_many_goods_it_has() {
        let mut groups = alone((1..=38).map(f64::from));
        let before = conformal(&groups, 0.05).unwrap();
        assert_eq!(before, 38.0, "rank 37.05 of 39");
        groups[0] = vec![100.0; 1000]; // one strange lot, however large
        assert_eq!(conformal(&groups, 0.05), Some(100.0));
        assert_eq!(conformal(&groups, 0.1), Some(37.0));
    }

    #[test]
    fn goods_of_few_groups_are_provisional() {
        let scores: Vec<f32> = (1..=40).map(|i| i as f32).collect();
        let (_, two) = of(&scores, 2, 0.05, 0.05);
        assert!(two.provisional && two.method == Method::Prediction, "{two:?}");
        assert!(two.claim.contains("2 groups only") && two.claim.contains("no rate is proven"), "{two:?}");
        assert!(!of(&scores, 40, 0.05, 0.05).1.provisional && !of(&scores, 19, 0.05, 0.05).1.provisional);
        assert!(of(&scores, 18, 0.05, 0.05).1.provisional);
        assert!(of(&scores, 1, 0.05, 0.05).1.claim.contains("all of one group"));
        assert!(check_alpha(1e-12, 0.5).is_err());
    }

    #[test]
    fn a_provisional_limit_is_never_below_a_held_out_good() {
        let scores = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 9.0];
        let (thresholds, calibration) = of(&scores, 7, 0.05, 0.05);
        assert!(thresholds.reject >= 9.0);
        assert!(calibration.claim.contains("at most 12.5 %"), "{}", calibration.claim);
        assert_eq!(of(&[2.0; 5], 5, 0.05, 0.05).0.reject, 2.0);
    }

    #[test]
    fn quantiles_of_t_are_those_of_the_tables() {
        for (p, freedom, t) in [
            (0.95, 1.0, 6.3138),
            (0.95, 5.0, 2.0150),
            (0.95, 17.0, 1.7396),
            (0.99, 8.0, 2.8965),
            (0.95, 5e3, 1.6452),
            (0.25, 3.0, -0.7649),
        ] {
            assert!((t_quantile(p, freedom) - t).abs() < 1e-3, "{p} {freedom}: {}", t_quantile(p, freedom));
        }
        assert!(t_quantile(0.5, 4.0).abs() < 1e-9);
    }

    /// Log scores: normal, or Gumbel's, which is skewed to the right as maxima are.
    fn draw(r: &mut StdRng, gumbel: bool) -> f64 {
        if gumbel {
            return -(-r.random_range(1e-12..1.0f64).ln()).ln() / 1.2825;
        }
        let (u, v) = (r.random_range(1e-12..1.0f64), r.random::<f64>());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// Mean share of new goods, each of a new group, above the limit.
    fn rejected(groups: usize, each: usize, between: f64, gumbel: bool, seed: u64) -> f64 {
        let mut r = StdRng::seed_from_u64(seed);
        let rounds = 6000;
        let mut group = |n: usize| -> Vec<f64> {
            let shift = between.sqrt() * draw(&mut r, gumbel);
            (0..n).map(|_| (0.2 * (shift + (1.0 - between).sqrt() * draw(&mut r, gumbel))).exp()).collect()
        };
        let mut above = 0.0;
        for _ in 0..rounds {
            let held_out: Vec<Vec<f64>> = (0..groups).map(|_| group(each)).collect();
            let (limit, _) = limit(&held_out, 0.05).unwrap();
            above += group(20).iter().filter(|s| **s > limit).count() as f64 / 20.0;
        }
        above / f64::from(rounds)
    }

    #[test]
    fn enough_groups_keep_the_budget_whatever_the_distribution() {
        for (groups, each, between, gumbel) in
            [(19, 1, 0.0, true), (39, 1, 0.0, false), (20, 4, 0.5, true), (25, 3, 0.9, false)]
        {
            let rate = rejected(groups, each, between, gumbel, 1);
            assert!(rate <= 0.055, "{groups} groups of {each}: {rate}");
            assert!(rate >= 0.01, "wasteful: {groups} groups of {each}: {rate}");
        }
    }

    #[test]
    fn few_goods_come_near_the_budget_when_log_scores_are_normal() {
        for (groups, each, between) in [(6, 1, 0.0), (9, 1, 0.0), (18, 1, 0.0), (3, 4, 0.3), (9, 8, 0.6)] {
            let rate = rejected(groups, each, between, false, 2);
            assert!((0.03..0.06).contains(&rate), "{groups} groups of {each}: {rate}");
        }
    }

    #[test]
    fn few_skewed_goods_or_few_unlike_groups_stay_below_twice_the_budget() {
        for (groups, each, between) in [(6, 1, 0.0), (9, 1, 0.0), (2, 4, 0.6), (3, 40, 0.6), (4, 4, 0.6)] {
            let rate = rejected(groups, each, between, true, 3);
            assert!((0.03..0.10).contains(&rate), "{groups} groups of {each}: {rate}");
        }
    }

    #[test]
    fn a_part_of_many_views_keeps_the_budget_of_one() {
        let scores: Vec<f32> = (1..=99).map(|i| i as f32).collect();
        let (one, calibration) = of(&scores, 99, 0.05, 0.05);
        let rejects: Vec<f32> = calibration.shares.iter().map(|s| s.thresholds.reject).collect();
        assert_eq!((one.reject, &rejects[..4]), (95.0, &[98.0, 99.0, 99.0, 99.0][..]));
        assert_eq!(calibration.shares.len(), MAX_VIEWS - 1);
        assert!(!calibration.shares[3].provisional, "1 % needs 99");
        assert!(calibration.shares[4].provisional && rejects[4] >= 99.0, "0.83 % needs 119");

        // Of few groups no limit is guessed: that of one view stays, which is lower.
        for groups in [2, 3, 5] {
            let few: Vec<f32> =
                (0..40).map(|i| ((i % groups) as f32 * 0.7 + i as f32 * 0.01).exp()).collect();
            assert!(of(&few, groups, 0.01, 0.01).1.shares.is_empty(), "{groups} groups");
        }

        // Views that have nothing in common are the worst case.
        let mut r = StdRng::seed_from_u64(4);
        let (rounds, views) = (4000, 3);
        let mut above = |_: &i32| {
            (0..views).any(|_| {
                let goods = alone((0..119).map(|_| draw(&mut r, true).exp()));
                draw(&mut r, true).exp() > limit(&goods, 0.05 / f64::from(views)).unwrap().0
            })
        };
        let rate = (0..rounds).filter(|n| above(n)).count() as f64 / f64::from(rounds);
        assert!((0.02..=0.06).contains(&rate), "{rate}");
    }

    #[test]
    fn a_review_band_lies_below_the_reject_threshold_and_one_that_is_none_is_said() {
        let scores: Vec<f32> = (1..=99).map(|i| i as f32).collect();
        let (thresholds, calibration) = of(&scores, 99, 0.01, 0.1);
        assert_eq!((thresholds.review, thresholds.reject), (90.0, 99.0));
        assert!(!calibration.provisional && !calibration.claim.contains("review"));
        let (thresholds, calibration) = of(&[2.0; 6], 6, 0.05, 0.1);
        assert_eq!(thresholds.review, thresholds.reject);
        assert!(calibration.claim.contains("No review band"), "{}", calibration.claim);
        let (thresholds, _) = of(&[1.0, 1.1, 1.2, 1.3, 1.4, 1.5], 6, 0.05, 0.2);
        assert!(thresholds.review < thresholds.reject, "few goods have a band too");
    }

    #[test]
    fn what_gives_no_sound_threshold_is_an_error() {
        let names = ["a"; 30];
        assert!(calibrate(&[1.0, f32::NAN, 1.0], &names[..3], 0.05, 0.05).is_err());
        assert!(calibrate(&[1.0, f32::INFINITY, 1.0], &names[..3], 0.05, 0.05).is_err());
        assert!(calibrate(&[1.0, 1.1], &names[..2], 0.05, 0.05).is_err());
        assert!(calibrate(&[1.0; 30], &names, 0.0, 0.05).is_err());
        assert!(calibrate(&[1.0; 30], &names, 0.1, 0.05).is_err());
    }
}
