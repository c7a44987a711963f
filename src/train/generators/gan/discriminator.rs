//! What tells real from made: patches of the picture by class and process parameters, and whether the picture
//! matches its mask.
//!
//! Source: projection as in Miyato & Koyama 2018, on patches as in Isola et al. 2017, section 3.2; the match
//! with the mask after Duan et al. 2023 (DFMGAN); the penalty of Mescheder et al. 2018, eq. 9.
//!
//! Never here: losses of the generator.

use tch::Tensor;

use crate::generators::layers::{Layers, Start};
use crate::generators::{ConditionShape, Conditions, embed};

/// Strided convolutions of each part.
const LEVELS: usize = 3;
/// The smallest side that is halved once more.
const MIN_SIDE: i64 = 8;
/// Of them, how many stay as they are in the second phase. Source: Mo et al. 2020 (FreezeD).
const FROZEN: usize = 2;

/// Both parts.
#[derive(Debug, Clone, Copy)]
pub struct Discriminator {
    /// Channels after the first convolution.
    pub width: i64,
    /// Whether the lower convolutions learn no more.
    pub frozen: bool,
}

impl Discriminator {
    /// Two logits a picture, above 0 for real: patches under the mask, match with the mask.
    /// Shapes: x `[N, C, S, S]` in -1..1, mask `[N, 1, S, S]` → `[N, 2]`
    pub fn logits(
        &self,
        layers: &Layers,
        (x, mask): (&Tensor, &Tensor),
        conditions: &Conditions,
        shape: &ConditionShape,
    ) -> Tensor {
        let patches = self.features(layers, x, "patch");
        let size = patches.size();
        let told = embed::signal(layers, conditions, shape, ("patch_told", size[1]));
        let told = told.view([-1, size[1], 1, 1]) / (size[1] as f64).sqrt();
        let projected = (&patches * told).sum_dim_intlist([1i64].as_slice(), true, None);
        let logits = layers.conv(&patches, "patch_out", (1, 1, 1), Start::Usual) + projected; // [N, 1, h, w]
        // Most patches show nothing but the good, which is the same in both.
        let share = mask.adaptive_max_pool2d([size[2], size[3]]).0;
        let sum = |t: &Tensor| t.sum_dim_intlist([1i64, 2, 3].as_slice(), false, None);
        let patch = sum(&(logits * &share)) / sum(&share).clamp_min(1.0);
        let whole = self.features(layers, &Tensor::cat(&[x, mask], 1), "match");
        let whole = whole.mean_dim([2i64, 3].as_slice(), false, None);
        let matches = layers.linear(&whole, "match_out", 1, Start::Usual).view([-1]);
        Tensor::stack(&[patch, matches], 1)
    }

    fn features(&self, layers: &Layers, x: &Tensor, name: &str) -> Tensor {
        let mut h = x.shallow_clone();
        for level in 0..LEVELS {
            let learns = layers.learns && !(self.frozen && level < FROZEN);
            let layers = Layers { learns, ..*layers };
            let stride = if h.size()[2] >= MIN_SIDE { 2 } else { 1 };
            let out = self.width << level;
            h = leaky(&layers.conv(&h, &format!("{name}{level}"), (out, 3, stride), Start::Usual));
        }
        leaky(&layers.conv(&h, &format!("{name}_last"), (self.width << (LEVELS - 1), 3, 1), Start::Usual))
    }
}

/// Slope 0.2 below 0, as in Karras et al. 2019; scaled so that variance stays.
fn leaky(x: &Tensor) -> Tensor {
    x.maximum(&(x * 0.2)) * std::f64::consts::SQRT_2
}

/// R1 without its gamma / 2: the squared length of the gradient of both logits' sum by a real picture, mean
/// over the pictures. Scalar, can be learnt from.
/// `x`: the pictures, `logits`: what is said of them, all from `x` on recorded.
pub fn r1(logits: &Tensor, x: &Tensor) -> Tensor {
    let gradient = Tensor::run_backward(&[logits.sum(logits.kind())], &[x], true, true).remove(0);
    gradient.square().sum_dim_intlist([1i64, 2, 3].as_slice(), false, None).mean(x.kind())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generators::chance::Chance;
    use crate::generators::toy;
    use crate::torch::Weights;
    use tch::{Device, Kind, no_grad};

    /// In 64 bits and by steps so small that no rectifier switches: there R1 has no gradient.
    #[test]
    fn the_gradient_of_r1_is_that_of_finite_differences() {
        let weights = Weights::new(Device::Cpu);
        let layers = Layers::new(&weights, 4);
        let tiny = Discriminator { width: 4, frozen: false };
        let crops = toy::crops(1, 4);
        let double = |t: &Tensor| t.detach().to_kind(Kind::Double).set_requires_grad(true);
        let mask = crops.mask.to_kind(Kind::Double);
        let told = Conditions {
            process: crops.conditions.process.to_kind(Kind::Double),
            known: crops.conditions.known.to_kind(Kind::Double),
            ..crops.conditions.to_device(Device::Cpu)
        };
        let said = |x: &Tensor| tiny.logits(&layers, (x, &mask), &told, &toy::CONDITIONS);
        let _ = tiny.logits(&layers, (&crops.defect, &crops.mask), &crops.conditions, &toy::CONDITIONS);
        for (name, weight) in weights.all_learned() {
            weights.set(&name, double(&weight));
        }
        let penalty = || {
            let x = double(&crops.defect);
            r1(&said(&x), &x)
        };
        let value = penalty();
        assert!(value.double_value(&[]) > 1e-6);
        let named = weights.all_learned();
        let leaves: Vec<Tensor> = named.iter().map(|(_, t)| t.shallow_clone()).collect();
        let gradients = Tensor::run_backward(&[&value], &leaves, false, false);
        let mut checked = 0;
        for ((name, leaf), gradient) in named.iter().zip(&gradients) {
            let length = if gradient.defined() { gradient.norm().double_value(&[]) } else { 0.0 };
            // Along its own gradient, where the difference is largest; along anything where there is none.
            let along = if length > 0.0 { gradient / length } else { leaf.detach().ones_like() };
            let step = along * 1e-7;
            let shifted = |sign: f64| {
                let _ = no_grad(|| leaf.shallow_clone().g_add_(&(&step * sign)));
                let value = penalty().double_value(&[]);
                let _ = no_grad(|| leaf.shallow_clone().g_sub_(&(&step * sign)));
                value
            };
            let difference = (shifted(1.0) - shifted(-1.0)) / 2e-7;
            assert!(
                (difference - length).abs() < 1e-3 * length + 1e-5,
                "{name}: {difference}, expected {length}"
            );
            checked += usize::from(length > 1e-3);
        }
        assert!(checked >= 8, "only {checked} weights matter");
    }

    #[test]
    fn frozen_convolutions_get_no_gradient_but_pass_it_on() {
        let weights = Weights::new(Device::Cpu);
        let layers = Layers::new(&weights, 4);
        let crops = toy::crops(1, 2);
        let x = Chance::new(1).uniform(&crops.good.size()).set_requires_grad(true);
        let frozen = Discriminator { width: 8, frozen: true };
        let logits = frozen.logits(&layers, (&x, &crops.mask), &crops.conditions, &toy::CONDITIONS);
        let mut leaves = vec![x.shallow_clone()];
        leaves.extend(["patch0_w", "match1_w", "patch2_w"].map(|name| weights.find(name).unwrap()));
        let gradients = Tensor::run_backward(&[logits.sum(Kind::Float)], &leaves, false, false);
        assert_eq!(gradients.iter().map(Tensor::defined).collect::<Vec<_>>(), [true, false, false, true]);
    }
}
