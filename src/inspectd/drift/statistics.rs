//! How far apart two distributions are, and how far chance alone takes them: pure functions.
//!
//! Terms. *Slots* are the values that a conformal p-value can take: slot j of K is p = (j+1)/K. Where parts are as the
//! reference was, each slot is as likely as any other. *Counts* says how many parts of the window fell into each.
//!
//! Never here: state; a limit that no source stands behind.

/// The reference's own error is allowed for at this level: one calibration in a hundred is worse.
const REFERENCE_LEVEL: f64 = 0.01;
/// Most bins of the stability index: deciles.
const MAX_BINS: usize = 10;
/// Fewest slots in one bin.
const SLOTS_A_BIN: usize = 5;

/// Kolmogorov's distance between the counts and the uniform distribution over their slots, 0 to 1, and its sign: +1
/// where small p-values (high scores) are the more. `None` of no parts.
pub fn ks(counts: &[u32]) -> Option<(f64, f64)> {
    let total = counts.iter().map(|c| u64::from(*c)).sum::<u64>();
    let slots = counts.len() as f64;
    let (mut below, mut farthest) = (0_u64, 0.0_f64);
    for (j, count) in counts.iter().enumerate() {
        below += u64::from(*count);
        let apart = below as f64 / total as f64 - (j + 1) as f64 / slots;
        if apart.abs() > farthest.abs() {
            farthest = apart;
        }
    }
    (total > 0).then_some((farthest.abs(), farthest.signum()))
}

/// What chance alone brings [`ks`] to, with the probability `level` for one look at `parts` parts and a reference of
/// `goods`: the window's share, and the reference's own, which stays the same from look to look.
///
/// Source: Dvoretzky, Kiefer & Wolfowitz 1956 with Massart's constant (1990): P(D > e) <= 2 exp(-2 n e²), whatever the
/// distribution; once for each of the two samples.
pub fn ks_limit(level: f64, parts: u32, goods: f64) -> f64 {
    let bound = |level: f64, n: f64| ((2.0 / level).ln() / (2.0 * n.max(1.0))).sqrt();
    bound(level, f64::from(parts)) + bound(REFERENCE_LEVEL, goods)
}

/// Bins that so many slots are put into; `None` where they are too few to say anything.
pub fn bins(slots: usize) -> Option<usize> {
    Some((slots / SLOTS_A_BIN).min(MAX_BINS)).filter(|bins| *bins >= 2)
}

/// Population stability index over [`bins`] of about equal shares: sum of (a - e) ln(a / e), where a is the window's
/// share and e the expected one. Half a part is added to each bin, so that an empty one does not make it infinite.
pub fn psi(counts: &[u32]) -> Option<f64> {
    let (slots, bins) = (counts.len(), bins(counts.len())?);
    let total = counts.iter().map(|c| u64::from(*c)).sum::<u64>();
    let index = |bin: usize| {
        let range = (bin * slots).div_ceil(bins)..((bin + 1) * slots).div_ceil(bins);
        let expected = range.len() as f64 / slots as f64;
        let parts = counts[range].iter().map(|c| u64::from(*c)).sum::<u64>();
        let share = (parts as f64 + 0.5) / (total as f64 + 0.5 * bins as f64);
        (share - expected) * (share / expected).ln()
    };
    (total > 0).then(|| (0..bins).map(index).sum())
}

/// What chance alone brings [`psi`] to, with the probability `level` for one look: under no drift it is about
/// (1/parts + 1/goods) times chi-squared with bins - 1 degrees of freedom.
///
/// Source: Yurdakul & Naranjo 2020, "Statistical properties of the population stability index", section 3; the
/// quantile by Wilson & Hilferty 1931.
pub fn psi_limit(level: f64, parts: u32, goods: f64, bins: usize) -> f64 {
    let freedom = bins.saturating_sub(1).max(1) as f64;
    let spread = 2.0 / (9.0 * freedom);
    let chi_squared = freedom * (1.0 - spread + normal_quantile(level) * spread.sqrt()).powi(3);
    chi_squared * (1.0 / f64::from(parts.max(1)) + 1.0 / goods.max(1.0))
}

/// The value that a standard normal one exceeds with probability `level`, which is at most one half; within 0.0005.
///
/// Source: Abramowitz & Stegun 1964, 26.2.23.
pub fn normal_quantile(level: f64) -> f64 {
    let t = (-2.0 * level.clamp(1e-300, 0.5).ln()).sqrt();
    let over = 2.515_517 + t * (0.802_853 + t * 0.010_328);
    let under = 1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308));
    t - over / under
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-3, "{got}, expected {expected}");
    }

    #[test]
    fn ks_is_that_worked_out_by_hand() {
        assert_eq!(ks(&[5, 5, 5, 5]), Some((0.0, 1.0)));
        // Shares 0.4 0.7 0.9 1.0 of 0.25 0.5 0.75 1.0: farthest at the second, by 0.2.
        let (distance, sign) = ks(&[4, 3, 2, 1]).unwrap();
        close(distance, 0.2);
        assert_eq!(sign, 1.0);
        let (distance, sign) = ks(&[0, 0, 0, 7]).unwrap();
        close(distance, 0.75);
        assert_eq!(sign, -1.0);
        assert_eq!((ks(&[]), ks(&[0, 0])), (None, None));
    }

    #[test]
    fn psi_is_that_worked_out_by_hand() {
        // 10 slots, 2 bins of a half each. 30 and 10 parts: shares 30.5/41 and 10.5/41.
        let counts = [6, 6, 6, 6, 6, 2, 2, 2, 2, 2];
        let (a, b) = (30.5 / 41.0, 10.5 / 41.0);
        close(psi(&counts).unwrap(), (a - 0.5) * (a / 0.5_f64).ln() + (b - 0.5) * (b / 0.5_f64).ln());
        close(psi(&[4; 50]).unwrap(), 0.0);
        assert!(psi(&[0; 50]).is_none() && psi(&[1; 9]).is_none());
        // Slots that the bins do not divide evenly are expected as they are.
        assert!(psi(&[10; 57]).unwrap() < 1e-4);
    }

    #[test]
    fn limits_are_those_of_the_tables() {
        for (level, z) in [(0.5, 0.0), (0.05, 1.6449), (0.001, 3.0902), (1e-6, 4.7534)] {
            close(normal_quantile(level), z);
        }
        // Chi-squared with 9 degrees of freedom is over 16.919 in 5 % of cases.
        assert!((psi_limit(0.05, 100, 100.0, 10) * 50.0 - 16.919).abs() < 0.05);
        // DKW, one per cent, n = 100: sqrt(ln 200 / 200) = 0.1628.
        close(ks_limit(0.01, 100, 1e12), 0.1628);
        close(ks_limit(0.01, 100, 100.0), 0.3255);
    }
}
