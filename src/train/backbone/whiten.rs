//! Principal components of the features of goods, each brought to variance 1: one constant 1x1 convolution.
//!
//! A backbone's channels differ in size by orders of magnitude and say the same thing many times over; whitened, a
//! distance counts each thing once. Each map is first brought to deviation 1 as a whole, so that the one with the
//! larger numbers does not take all components.
//!
//! Never here: pictures other than the fitting goods.

use inspect_core::model::hex;
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor, no_grad};

use crate::infer::floats_of;

/// Components with less than this share of the largest one's variance are noise of the arithmetic.
const MIN_VARIANCE: f64 = 1e-6;
/// Components in multiples of this run best.
const MULTIPLE: usize = 16;

/// The convolution: features = weight · channels + bias.
#[derive(Debug, Clone, PartialEq)]
pub struct Whitening {
    /// Shape: `[K, C]`, row by row.
    pub weight: Vec<f32>,
    /// Shape: `[K]`.
    pub bias: Vec<f32>,
}

impl Whitening {
    /// Of its numbers, hex.
    pub fn sha256(&self) -> String {
        let mut digest = Sha256::new();
        self.weight.iter().chain(&self.bias).for_each(|v| digest.update(v.to_le_bytes()));
        hex(&digest.finalize())
    }

    /// At most `most` components of `cells`, `[n, C]`; `groups`: channels of each map, C in all. `None` if the cells
    /// are all the same, or no numbers.
    pub fn learn(cells: &Tensor, groups: &[i64], most: usize) -> Option<Self> {
        no_grad(|| {
            let cells = cells.to_kind(Kind::Double);
            let n = cells.size()[0].max(1) as f64;
            let mean = cells.mean_dim([0i64].as_slice(), true, Kind::Double);
            let centred = &cells - &mean;
            let deviations = centred.square().mean_dim([0i64].as_slice(), false, Kind::Double);
            let mut at = 0;
            let scales = groups.iter().map(|&channels| {
                let variance = deviations.narrow(0, at, channels).mean(Kind::Double).double_value(&[]);
                at += channels;
                let scale = if variance > 0.0 { variance.sqrt().recip() } else { 0.0 };
                Tensor::full([channels], scale, (Kind::Double, cells.device()))
            });
            let scales = Tensor::cat(&scales.collect::<Vec<_>>(), 0); // (C)
            let scaled = centred * &scales;
            let covariance = scaled.tr().matmul(&scaled) / n;
            let (variances, directions) = covariance.f_linalg_eigh("L").ok()?; // ascending; directions in columns
            let variances: Vec<f64> = Vec::try_from(&variances).ok()?;
            let largest = variances.last().copied().filter(|v| v.is_finite() && *v > 0.0)?;
            let told = variances.iter().filter(|v| **v > largest * MIN_VARIANCE).count().min(most);
            let kept = if told > MULTIPLE { told / MULTIPLE * MULTIPLE } else { told };
            let (c, k) = (variances.len() as i64, kept as i64);
            let factor: Vec<f64> =
                variances[variances.len() - kept..].iter().map(|v| v.sqrt().recip()).collect();
            let directions = directions.narrow(1, c - k, k) * Tensor::from_slice(&factor); // (C, K)
            let weight = directions.tr() * scales; // (K, C)
            let bias = -weight.matmul(&mean.view([-1]));
            let single = |t: &Tensor| floats_of(&t.to_kind(Kind::Float));
            Some(Self { weight: single(&weight), bias: single(&bias) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn features_of_the_goods_are_white_whatever_the_size_of_a_map() {
        tch::manual_seed(3);
        let own = Tensor::randn([4000, 3], (Kind::Double, Device::Cpu));
        let mix = Tensor::randn([3, 5], (Kind::Double, Device::Cpu));
        // Five channels of which only three say something, in two maps of which one is a thousand times as large.
        let cells = own.matmul(&mix) * Tensor::from_slice(&[1e3f64, 1e3, 1e3, 1.0, 1.0]) + 7.0;
        let w = Whitening::learn(&cells, &[3, 2], 8).unwrap();
        assert_eq!(w.bias.len(), 3, "the rank");
        let weight = Tensor::from_slice(&w.weight).view([3, 5]).to_kind(Kind::Double);
        let white = cells.matmul(&weight.tr()) + Tensor::from_slice(&w.bias);
        let covariance = white.tr().matmul(&white) / 4000.0;
        let off = (covariance - Tensor::eye(3, (Kind::Double, Device::Cpu))).abs().max().double_value(&[]);
        assert!(off < 1e-2, "{off}");
        assert_eq!(Whitening::learn(&cells, &[3, 2], 2).unwrap().bias.len(), 2);
        assert!(Whitening::learn(&Tensor::ones([50, 5], (Kind::Double, Device::Cpu)), &[5], 8).is_none());
        assert!(Whitening::learn(&(own * f64::NAN), &[3], 8).is_none());
    }
}
