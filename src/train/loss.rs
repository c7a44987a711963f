//! What the network is fitted by: the ELBO, and three terms that sharpen the reconstruction.
//!
//! Never here: the optimiser ([`crate::fit`]).

use tch::{Kind, Tensor};

/// Window of the structure term, pixels, and the step between windows.
const WINDOW: i64 = 8;
const WINDOW_STEP: i64 = 4;
/// Keeps the structure term calm where both pictures are flat; squared normalised intensity.
const STRUCTURE_FLOOR: f64 = 0.02;
/// How much more a damaged pixel counts than a clean one, less one.
const MASK_WEIGHT: f64 = 2.0;

/// What the network gave for a batch.
pub struct Output {
    /// Latent mean. Shape: `[N, 16, S/16, S/16]`.
    pub mu: Tensor,
    /// Latent log-variance. Shape: that of `mu`.
    pub logvar: Tensor,
    /// Reconstruction. Shape: `[N, C, S, S]`.
    pub reconstruction: Tensor,
    /// Its log-variance. Shape: `[N, 1, S, S]`.
    pub log_variance: Tensor,
}

/// The whole loss. Shape: `target` `[N, C, S, S]` normalised, `mask` `[N, 1, S, S]`; `clean`: how many of
/// the first pictures are undamaged; `kl_weight` 0 to 1. Returns a scalar.
///
/// The likelihood is learnt from undamaged pictures only: else the decoder learns to expect much variance
/// where it sees a defect, which would hide it.
pub fn loss(out: &Output, target: &Tensor, mask: &Tensor, clean: i64, kl_weight: f64) -> Tensor {
    let difference = &out.reconstruction - target;
    let weight = mask * MASK_WEIGHT + 1.0;
    let l1 = (difference.abs() * weight).mean(Kind::Float);
    negative_elbo(out, &difference, clean, kl_weight)
        + l1
        + structure(&out.reconstruction, target)
        + edges(&difference) * 0.5
}

/// -ELBO a pixel: Gaussian negative log-likelihood of the clean pictures + KL to the unit Gaussian.
///
/// Source: Kingma & Welling 2014, eq. 10 and appendix B; the likelihood weighted by its own (detached)
/// standard deviation after Seitzer et al. 2022 (beta-NLL, beta = 0.5), which keeps precise pixels from
/// drowning the others.
fn negative_elbo(out: &Output, difference: &Tensor, clean: i64, kl_weight: f64) -> Tensor {
    let clean = clean.max(1);
    let difference = difference.narrow(0, 0, clean);
    let log_variance = out.log_variance.narrow(0, 0, clean);
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
