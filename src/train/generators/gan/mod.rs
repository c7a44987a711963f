//! GAN: a generator that lays a texture over a good crop within a mask, against a discriminator that is shown real
//! and made ones.
//!
//! The generator is told z, class and process parameters; text is not told to it. Outside the mask its pictures
//! are the good by construction: x = g (1 - a m) + t a m with texture t, alpha a, and the mask m softened inside.
//!
//! Losses: non-saturating (Goodfellow et al. 2014, section 3), R1 every 16 steps (Mescheder et al. 2018;
//! lazily as in Karras et al. 2020, StyleGAN2, appendix B), mode seeking (Mao et al. 2019). With real defects
//! ([`Stage::Real`]) the discriminator's lower convolutions stay as they are and both learn more slowly.
//!
//! Never here: pasting into whole pictures, files.

mod augment;
mod discriminator;
#[cfg(test)]
mod tests;

use tch::{Device, Kind, Tensor, no_grad};

use super::chance::{self, Chance};
use super::layers::Layers;
use super::unet::UNet;
use super::{
    ConditionShape, Conditions, CropShape, Crops, Losses, Progress, Stage, StateError, Tensors, embed,
    optimiser_state, restore_optimiser,
};
use crate::optimiser::{Optimiser, Pace};
use crate::torch::{Precision, Weights};
use augment::augment;
use discriminator::{Discriminator, r1};

/// Numbers in z.
const Z: i64 = 64;
/// Widths of the generator's levels as multiples of the first.
const FACTORS: [i64; 4] = [1, 2, 4, 8];
/// Channels of the generator's signal, as a multiple of the first level's; not less than 64.
const SIGNAL_FACTOR: i64 = 4;
/// Learning rate at [`RATE_WIDTH`], and that with real defects. Narrower networks bear more, and need it where a
/// fit has a thousand steps: the toy's class is obeyed by 0.98 instead of 0.93 after 300 steps.
const RATE: f64 = 2e-4;
const REAL_RATE: f64 = 5e-5;
const RATE_WIDTH: f64 = 32.0;
const MAX_RATE: f64 = 1e-3;
/// Both networks. Gradients are not limited: R1 does that.
const PACE: Pace = Pace { beta: (0.0, 0.99), weight_decay: 0.0, max_gradient: 1e9, average_decay: 0.9995 };
/// gamma of R1 for crops of [`R1_SIDE`] pixels; in proportion to their area for others, as in Karras et al.
/// 2020, ADA (who also divide by the batch): a small crop has as large a gradient in fewer pixels.
const R1_GAMMA: f64 = 10.0;
const R1_SIDE: f64 = 128.0;
/// Every how many steps R1 is added, so many times as heavy.
const R1_EVERY: u64 = 16;
/// Weight of the mode-seeking term, and what limits it to 1 / this: without it the first steps, in which z changes
/// nothing yet, would have no other aim.
const MODE_WEIGHT: f64 = 0.1;
const MODE_FLOOR: f64 = 0.1;
/// What the mask counts at a place all of whose neighbours are outside, as a share.
const EDGE: f64 = 0.4;

/// Both networks as they learn.
pub struct Gan {
    painter: Painter,
    painter_optimiser: Optimiser,
    critic: Weights,
    critic_width: i64,
    critic_optimiser: Optimiser,
}

/// The generator with its weights: what drawing needs.
struct Painter {
    weights: Weights,
    net: UNet,
    signal_width: i64,
    conditions: ConditionShape,
    channels: i64,
    precision: Precision,
    seed: u64,
}

impl Gan {
    /// Makes the weights from libtorch's generator. `width`: channels of the first level of both networks, rounded
    /// up to a multiple of 8; 8 for two cores, 32 for a GPU.
    pub fn new(device: Device, crop: CropShape, conditions: &ConditionShape, width: i64) -> Self {
        Self::from_seed(device, crop, *conditions, width, chance::drawn_seed())
    }

    fn from_seed(device: Device, crop: CropShape, conditions: ConditionShape, width: i64, seed: u64) -> Self {
        let widths = UNet::widths(crop.side, width, &FACTORS);
        let critic_width = widths[0];
        let painter = Painter {
            weights: Weights::new(device),
            signal_width: (SIGNAL_FACTOR * critic_width).max(Z),
            net: UNet { blocks: 1, out: crop.channels + 1, attends: false, widths },
            conditions,
            channels: crop.channels,
            precision: Precision::fastest(device),
            seed,
        };
        let float = (Kind::Float, device);
        let x = Tensor::zeros([1, crop.channels, crop.side, crop.side], float);
        let mask = x.narrow(1, 0, 1);
        let none = Conditions::none(1, &conditions, device);
        let critic = Weights::new(device);
        no_grad(|| {
            let _ = painter.make((&x, &mask), &none, &Tensor::zeros([1, Z], float)); // makes the weights
            let layers = Layers::new(&critic, !seed);
            let both = Discriminator { width: critic_width, frozen: false };
            let _ = both.logits(&layers, (&x, &mask), &none, &conditions);
        });
        let painter_optimiser = Optimiser::with(&painter.weights, PACE);
        let critic_optimiser = Optimiser::with(&critic, PACE);
        Self { painter, painter_optimiser, critic, critic_width, critic_optimiser }
    }

    /// One step of the discriminator, one of the generator.
    pub fn step(&mut self, batch: &Crops, at: Progress) -> Losses {
        let mut chance = Chance::new(at.seed);
        let device = self.critic.device;
        let [good, defect, mask] = [&batch.good, &batch.defect, &batch.mask].map(|t| t.to_device(device));
        let batch = &Crops { good, defect, mask, conditions: batch.conditions.to_device(device) };
        let rate = if at.stage == Stage::Real { REAL_RATE } else { RATE };
        let rate = (rate * RATE_WIDTH / self.critic_width as f64).min(MAX_RATE);
        let discriminator = self.learn_to_tell(batch, at, rate, &mut chance);
        let (generator, variety) = self.learn_to_make(batch, at, rate, &mut chance);
        Losses(vec![("discriminator", discriminator), ("generator", generator), ("variety", variety)])
    }

    fn told(&self, pair: (&Tensor, &Tensor), conditions: &Conditions, at: Progress, learns: bool) -> Tensor {
        let layers = Layers { learns, ..Layers::new(&self.critic, 0) };
        let both = Discriminator { width: self.critic_width, frozen: at.stage == Stage::Real };
        both.logits(&layers, pair, conditions, &self.painter.conditions)
    }

    fn z(&self, n: i64, chance: &mut Chance) -> Tensor {
        chance.normal(&[n, Z]).to_device(self.critic.device)
    }

    /// Returns the loss without the penalty.
    fn learn_to_tell(&mut self, batch: &Crops, at: Progress, rate: f64, chance: &mut Chance) -> f64 {
        let Crops { good, defect, mask, conditions } = batch;
        let z = self.z(good.size()[0], chance);
        let made = no_grad(|| self.painter.make((good, mask), conditions, &z));
        let (made, made_mask) = seen(&made, mask, chance);
        let (real, real_mask) = seen(defect, mask, chance);
        let penalised = at.step.is_multiple_of(R1_EVERY);
        let real = real.detach().set_requires_grad(penalised);
        let said_real = self.told((&real, &real_mask), conditions, at, true);
        let said_made = self.told((&made, &made_mask), conditions, at, true);
        let loss = (said_made.softplus() + said_real.neg().softplus()).mean(Kind::Float) * 2.0;
        let value = loss.double_value(&[]);
        let share = made.size()[3] as f64 / R1_SIDE;
        let gamma = R1_GAMMA * share * share;
        let loss =
            if penalised { loss + r1(&said_real, &real) * (gamma / 2.0 * R1_EVERY as f64) } else { loss };
        let gradient = self.critic_optimiser.gradient(&loss);
        self.critic_optimiser.step(gradient, rate);
        value
    }

    /// Returns its loss, and how far two pictures of the same wish differ by what their z differ.
    fn learn_to_make(&mut self, batch: &Crops, at: Progress, rate: f64, chance: &mut Chance) -> (f64, f64) {
        let Crops { good, mask, conditions, .. } = batch;
        let n = good.size()[0];
        let z = self.z(n, chance);
        let made = self.painter.make((good, mask), conditions, &z);
        let (shown, shown_mask) = seen(&made, mask, chance);
        let said = self.told((&shown, &shown_mask), conditions, at, false);
        let fooled = said.neg().softplus().mean(Kind::Float) * 2.0;
        // Half of the batch once more, with another z.
        let half = (n / 2).max(1);
        let part = |t: &Tensor| t.narrow(0, 0, half);
        let (good, mask, first) = (part(good), part(mask), part(&z));
        let index = Tensor::arange(half, (Kind::Int64, self.critic.device));
        let other = self.z(half, chance);
        let again = self.painter.make((&good, &mask), &conditions.pick(&index), &other);
        let change =
            ((again - part(&made)).abs() * &mask).sum(Kind::Float) / mask.sum(Kind::Float).clamp_min(1.0);
        let variety = change / (other - first).abs().mean(Kind::Float);
        let loss = &fooled + (&variety + MODE_FLOOR).reciprocal() * MODE_WEIGHT;
        let gradient = self.painter_optimiser.gradient(&loss);
        self.painter_optimiser.step(gradient, rate);
        (fooled.double_value(&[]), variety.double_value(&[]))
    }

    /// Draws a defect under each mask; picture i is that of `seed` + i drawn alone, but for rounding.
    ///
    /// Shapes: good `[N, C, S, S]` in 0..1, mask `[N, 1, S, S]` of 0 and 1 → `[N, C, S, S]` in 0..1.
    pub fn sample(&self, good: &Tensor, mask: &Tensor, conditions: &Conditions, seed: u64) -> Tensor {
        let device = self.critic.device;
        let [good, mask] = [good, mask].map(|t| t.to_device(device));
        let z = chance::rows(seed, good.size()[0], &[Z], device);
        no_grad(|| self.painter.make((&good, &mask), &conditions.to_device(device), &z)).clamp(0.0, 1.0)
    }

    /// Puts the averages in place of the generator's weights: the end of learning.
    pub fn finish(&mut self) {
        self.painter_optimiser.use_average();
        self.painter.precision = Precision::F32; // pictures, unlike gradients, are not averaged
    }

    /// All that a checkpoint has to hold.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut all = optimiser_state("generator_", &self.painter_optimiser);
        all.extend(optimiser_state("discriminator_", &self.critic_optimiser));
        all
    }

    /// The reverse of [`Gan::state`]. Errors: [`StateError`]; then the fit must not go on.
    pub fn restore(&mut self, tensors: &Tensors) -> Result<(), StateError> {
        restore_optimiser("discriminator_", &mut self.critic_optimiser, tensors)?;
        restore_optimiser("generator_", &mut self.painter_optimiser, tensors)
    }

    /// What [`Gan::sample`] needs, for a generator file.
    pub fn kept(&self) -> Vec<(String, Tensor)> {
        super::kept(&self.painter.weights)
    }

    /// The reverse of [`Gan::kept`]. Errors: [`StateError`]; then nothing is changed.
    pub fn take(&mut self, tensors: &Tensors) -> Result<(), StateError> {
        self.painter.precision = Precision::F32;
        super::take(&self.painter.weights, tensors)
    }
}

impl Painter {
    /// Shapes: good `[N, C, S, S]`, mask `[N, 1, S, S]`, z `[N, Z]` → `[N, C, S, S]`, 0..1 as far as the good is
    fn make(&self, (good, mask): (&Tensor, &Tensor), conditions: &Conditions, z: &Tensor) -> Tensor {
        let layers = Layers { precision: self.precision, ..Layers::new(&self.weights, self.seed) };
        let width = self.signal_width;
        let told = embed::signal(&layers, conditions, &self.conditions, ("told", width));
        let signal = layers.perceptron(z, "z", (width, width)).to_kind(Kind::Float) + told;
        let out = self.net.forward(&layers, &Tensor::cat(&[&(good * 2.0 - 1.0), mask], 1), &signal, None);
        let texture = out.narrow(1, 0, self.channels).sigmoid();
        let alpha = out.narrow(1, self.channels, 1).sigmoid() * softened(mask);
        good * (1.0 - &alpha) + texture * alpha
    }
}

/// What the discriminator is shown of pictures: changed by chance, -1..1.
fn seen(x: &Tensor, mask: &Tensor, chance: &mut Chance) -> (Tensor, Tensor) {
    let (x, mask) = augment(x, mask, chance);
    (x * 2.0 - 1.0, mask)
}

/// 1 well inside, less at the border, 0 outside. Shape: `[N, 1, S, S]` → the same.
fn softened(mask: &Tensor) -> Tensor {
    let around = mask.avg_pool2d([3; 2], [1; 2], [1; 2], false, true, None);
    mask * (around * (1.0 - EDGE) + EDGE)
}
