//! Defects that no picture shows: noise on the features of goods, which the head must tell from the goods.
//!
//! Source: Liu et al. 2023, SimpleNet, section 3.3; here in patches, since the head learns where a defect is.
//!
//! Never here: defects in pictures ([`crate::defects`]).

use tch::{Kind, Tensor, no_grad};

use crate::loss::Truth;

/// Deviation of the noise, in those of the features: least and most.
const DEVIATION: [f64; 2] = [0.3, 1.5];
/// Cells of the features for each cell of the pattern that cuts patches out.
const PATCH: i64 = 4;
/// Where the pattern, a standard normal value at each of its cells, is above this, there is noise.
const CUT: f64 = 1.0;

/// Appends the clean pictures of a batch with noise in places, marked as defects. `kept`: 1 where the
/// part matters. Shape: `x` `[N, K, h, w]`, `kept` `[1, 1, S, S]`.
pub fn with_noise(x: Tensor, truth: Truth, kept: Option<Tensor>) -> (Tensor, Truth) {
    let Truth { target, has_target, mask, clean } = truth;
    no_grad(|| {
        let good = target.narrow(0, 0, clean);
        let (size, side) = (good.size(), mask.size()[3]);
        let float = (Kind::Float, x.device());
        let pattern = Tensor::randn([clean, 1, (size[2] / PATCH).max(1), (size[3] / PATCH).max(1)], float);
        let noisy =
            pattern.upsample_bilinear2d([size[2], size[3]], false, None, None).gt(CUT).to_kind(Kind::Float);
        let pool = |kept: Tensor| kept.adaptive_avg_pool2d([size[2], size[3]]).gt(0.5).to_kind(Kind::Float);
        let noisy = kept.map_or(noisy.shallow_clone(), |kept| noisy * pool(kept));
        let deviation = Tensor::rand([clean, 1, 1, 1], float) * (DEVIATION[1] - DEVIATION[0]) + DEVIATION[0];
        let noise = good.randn_like() * deviation * &noisy;
        let marked = noisy.upsample_nearest2d([side, side], None, None);
        let truth = Truth {
            target: Tensor::cat(&[&target, &good], 0),
            has_target: Tensor::cat(&[&has_target, &Tensor::ones([clean, 1, 1, 1], float)], 0),
            mask: Tensor::cat(&[&mask, &marked], 0),
            clean,
        };
        (Tensor::cat(&[x, good + noise], 0), truth)
    })
}
