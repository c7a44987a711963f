//! What the network is fitted by: the ELBO and three terms that sharpen the reconstruction; for the head,
//! four that say where the defect is.
//!
//! Never here: the optimiser ([`crate::optimiser`]).

use tch::{Kind, Tensor};

use crate::net::Decoded;

/// Window of the structure term, pixels, and the step between windows.
const WINDOW: i64 = 8;
const WINDOW_STEP: i64 = 4;
/// Keeps the structure term calm where both pictures are flat; squared normalised intensity.
const STRUCTURE_FLOOR: f64 = 0.02;
/// How much more a damaged pixel counts than a clean one, less one.
const MASK_WEIGHT: f64 = 2.0;

/// Weight of the focal term: its factors (1-p)² make it small.
const FOCAL_WEIGHT: f64 = 5.0;
/// Share of a batch's clean cells that count once more: those that look most like defects.
const HARD_SHARE: f64 = 0.01;
/// Share of a region "with a defect somewhere in it" that is taken for the defect.
const SOMEWHERE_SHARE: f64 = 0.1;
/// Weights of the head's other terms.
const OVERLAP_WEIGHT: f64 = 0.5;
const HARD_WEIGHT: f64 = 0.2;
const PICTURE_WEIGHT: f64 = 0.2;

/// Weights of likelihood and KL beside the cosine of features.
const FEATURE_LIKELIHOOD_WEIGHT: f64 = 0.1;
const FEATURE_KL_WEIGHT: f64 = 0.01;

/// What the network gave for a batch.
pub struct Output {
    /// Latent mean. Shape: `[N, latent, S/16, S/16]`.
    pub mu: Tensor,
    /// Latent log-variance. Shape: that of `mu`.
    pub logvar: Tensor,
    /// Reconstruction and its log-variance.
    pub decoded: Decoded<Tensor>,
    /// The head's. Shape: `[N, 1, S/4, S/4]`.
    pub logits: Tensor,
}

/// What it should have given.
pub struct Truth {
    /// The goods, normalised. Shape: `[N, C, S, S]`.
    pub target: Tensor,
    /// 1 where the target is known, else 0: such a picture teaches the head alone. Shape: `[N, 1, 1, 1]`.
    pub has_target: Tensor,
    /// 1 where there is a defect, 0 where there is none, 0.5 where one is somewhere. Shape: `[N, 1, S, S]`.
    pub mask: Tensor,
    /// How many of the first pictures are undamaged.
    pub clean: i64,
}

/// The loss of the VAE. `kl_weight` 0 to 1. Returns a scalar.
///
/// The likelihood is learnt from undamaged pictures only: else the decoder learns to expect much variance
/// where it sees a defect, which would hide it.
pub fn reconstruction_loss(out: &Output, truth: &Truth, kl_weight: f64) -> Tensor {
    let known = &truth.has_target;
    let reconstruction = &out.decoded.reconstruction * known;
    let target = &truth.target * known;
    let difference = &reconstruction - &target;
    let weight = &truth.mask * MASK_WEIGHT + 1.0;
    let l1 = (difference.abs() * weight).mean(Kind::Float);
    negative_elbo(out, &difference, truth.clean, kl_weight)
        + l1
        + structure(&reconstruction, &target)
        + edges(&difference) * 0.5
}

/// The loss of a VAE that draws features. `kl_weight` 0 to 1. Returns a scalar.
///
/// 1 - cosine of features and reconstruction, cell by cell (Guo et al. 2025, Dinomaly, eq. 1), with the Gaussian
/// likelihood of the clean pictures, which also tells the length, and KL, both a number of the latent or the features.
pub fn feature_loss(out: &Output, truth: &Truth, kl_weight: f64) -> Tensor {
    let (drawn, target) = (&out.decoded.reconstruction, &truth.target);
    let length =
        |t: &Tensor| (t.square().sum_dim_intlist([1i64].as_slice(), true, Kind::Float) + 1e-6).sqrt();
    let product = (drawn * target).sum_dim_intlist([1i64].as_slice(), true, Kind::Float);
    let cosine = product / (length(drawn) * length(target));
    let known = truth.has_target.sum(Kind::Float).clamp_min(1.0);
    let apart = ((-cosine + 1.0) * &truth.has_target).mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float);
    let clean = truth.clean.max(1);
    let difference = (drawn - target).narrow(0, 0, clean);
    let log_variance = out.decoded.log_variance.narrow(0, 0, clean);
    let likelihood = (difference.square() * log_variance.neg().exp() + &log_variance) * 0.5;
    let weight = (&log_variance * 0.5).exp().detach(); // as in `negative_elbo`
    let kl = (out.mu.square() + out.logvar.exp() - 1.0 - &out.logvar) * 0.5;
    apart.sum(Kind::Float) / known
        + (likelihood * weight).mean(Kind::Float) * FEATURE_LIKELIHOOD_WEIGHT
        + kl.mean(Kind::Float) * (kl_weight * FEATURE_KL_WEIGHT)
}

/// The loss of the head. Returns a scalar.
///
/// Focal loss over cells (Lin et al. 2017, eq. 4), Tversky overlap (Salehi et al. 2017, eq. 3) so that small
/// defects count, the clean cells that look worst once more (Batzner et al. 2024, EfficientAD's hard
/// feature loss), and one decision a picture, since one number a picture is what a line acts on.
pub fn head_loss(logits: &Tensor, mask: &Tensor) -> Tensor {
    // A cell that a defect touches is a cell with a defect.
    let cells = mask.max_pool2d([4; 2], [4; 2], [0; 2], [1; 2], false);
    let (sure, clean) = (cells.gt(0.75).to_kind(Kind::Float), cells.lt(0.25).to_kind(Kind::Float));
    let p = logits.sigmoid();
    let (miss, alarm) = (logits.neg().softplus(), logits.softplus()); // -log p, -log (1 - p)
    let focal = &miss * (-&p + 1.0).square() * &sure + &alarm * p.square() * &clean;
    let known = sure.sum(Kind::Float) + clean.sum(Kind::Float);
    let (hit, false_, missed) = (
        (&p * &sure).sum(Kind::Float),
        (&p * &clean).sum(Kind::Float),
        ((-&p + 1.0) * &sure).sum(Kind::Float),
    );
    let overlap = (&hit + 1.0) / (&hit + false_ * 0.3 + missed * 0.7 + 1.0);
    let hard = top_mean(&(alarm * clean), HARD_SHARE);
    focal.sum(Kind::Float) / (known + 1.0) * FOCAL_WEIGHT
        + (-overlap + 1.0) * OVERLAP_WEIGHT
        + hard * HARD_WEIGHT
        + picture_loss(logits, &cells) * PICTURE_WEIGHT
}

/// Cross-entropy of the picture's largest logit, smoothed a little so that it moves more than one cell; where
/// a defect is only known to be somewhere, of the highest logits in that region.
fn picture_loss(logits: &Tensor, cells: &Tensor) -> Tensor {
    let n = logits.size()[0];
    let pooled = logits.avg_pool2d([3; 2], [1; 2], [1; 2], false, false, None).view([n, -1]);
    let flat = cells.view([n, -1]);
    let largest = pooled.amax([1i64].as_slice(), false);
    let defective = flat.amax([1i64].as_slice(), false).gt(0.25).to_kind(Kind::Float);
    let each = largest.neg().softplus() * &defective + largest.softplus() * (-&defective + 1.0);
    let vague = (flat.gt(0.25).logical_and(&flat.lt(0.75))).to_kind(Kind::Float);
    if vague.sum(Kind::Float).double_value(&[]) == 0.0 {
        return each.mean(Kind::Float);
    }
    // Outside the region a logit cannot be among the highest: it counts as very low.
    let inside = &pooled * &vague + (&vague - 1.0) * 1e3;
    let most = ((flat.size()[1] as f64 * SOMEWHERE_SHARE) as i64).max(1);
    let (highest, _) = inside.topk(most, 1, true, false);
    // Of a small region fewer count: the share is one of the region.
    let wanted = (vague.sum_dim_intlist([1i64].as_slice(), true, Kind::Float) * SOMEWHERE_SHARE).ceil();
    let counts = Tensor::arange(most, (Kind::Float, logits.device())).lt_tensor(&wanted).to_kind(Kind::Float);
    each.mean(Kind::Float) + (highest.neg().softplus() * counts).mean(Kind::Float)
}

/// Mean of the largest `share` of all elements.
fn top_mean(values: &Tensor, share: f64) -> Tensor {
    let count = ((values.numel() as f64 * share) as i64).max(1);
    values.view(-1).topk(count, 0, true, false).0.mean(Kind::Float)
}

/// -ELBO a pixel: Gaussian negative log-likelihood of the clean pictures + KL to the unit Gaussian.
///
/// Source: Kingma & Welling 2014, eq. 10 and appendix B; the likelihood weighted by its own (detached)
/// standard deviation after Seitzer et al. 2022 (beta-NLL, beta = 0.5), which keeps precise pixels from
/// drowning the others.
fn negative_elbo(out: &Output, difference: &Tensor, clean: i64, kl_weight: f64) -> Tensor {
    let clean = clean.max(1);
    let difference = difference.narrow(0, 0, clean);
    let log_variance = out.decoded.log_variance.narrow(0, 0, clean);
    let squared = difference.square().mean_dim([1i64].as_slice(), true, Kind::Float);
    let likelihood = (squared * log_variance.neg().exp() + &log_variance) * 0.5;
    let weight = (&log_variance * 0.5).exp().detach();
    let pixels = difference.size()[2..].iter().product::<i64>() as f64;
    let kl = (out.mu.square() + out.logvar.exp() - 1.0 - &out.logvar) * 0.5;
    let kl = kl.sum(Kind::Float) / (out.mu.size()[0] as f64 * pixels);
    (likelihood * weight).mean(Kind::Float) + kl * kl_weight
}

/// 1 - contrast-structure term of SSIM, over 8x8 windows every 4 pixels. Scalar, 0 to 2.
///
/// Source: Wang et al. 2004, eq. 9 and 10 (the luminance term is left to L1: the values have zero mean).
fn structure(x: &Tensor, y: &Tensor) -> Tensor {
    let pool = |t: &Tensor| t.avg_pool2d([WINDOW; 2], [WINDOW_STEP; 2], [0; 2], false, false, None);
    let (mx, my) = (pool(x), pool(y));
    let vx = pool(&x.square()) - mx.square();
    let vy = pool(&y.square()) - my.square();
    let covariance = pool(&(x * y)) - mx * my;
    let ratio = (covariance * 2.0 + STRUCTURE_FLOOR) / (vx + vy + STRUCTURE_FLOOR);
    -ratio.mean(Kind::Float) + 1.0
}

/// Mean absolute difference of neighbouring pixels' errors: edges in the right place.
fn edges(difference: &Tensor) -> Tensor {
    let side = difference.size()[3];
    let along = |dim: i64| {
        let step = difference.narrow(dim, 1, side - 1) - difference.narrow(dim, 0, side - 1);
        step.abs().mean(Kind::Float)
    };
    along(2) + along(3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn the_structure_term_is_zero_for_equal_pictures_and_that_of_overlapping_windows_for_others() {
        tch::manual_seed(1);
        let [x, y] = [0; 2].map(|_| Tensor::randn([2, 3, 32, 32], (Kind::Float, Device::Cpu)));
        assert!(structure(&x, &x).double_value(&[]).abs() < 1e-5);
        // Window by window, as the source has it.
        let windows = |t: &Tensor| t.unfold(2, WINDOW, WINDOW_STEP).unfold(3, WINDOW, WINDOW_STEP);
        let mean = |t: &Tensor| windows(t).mean_dim([-2i64, -1].as_slice(), false, Kind::Float);
        let (mx, my) = (mean(&x), mean(&y));
        let variance = |t: &Tensor, m: &Tensor| mean(&t.square()) - m.square();
        let covariance = mean(&(&x * &y)) - &mx * &my;
        let ratio =
            (covariance * 2.0 + STRUCTURE_FLOOR) / (variance(&x, &mx) + variance(&y, &my) + STRUCTURE_FLOOR);
        let expected = 1.0 - ratio.mean(Kind::Float).double_value(&[]);
        let got = structure(&x, &y).double_value(&[]);
        assert!((got - expected).abs() < 1e-5, "{got}, expected {expected}");
    }
}
