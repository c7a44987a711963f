//! Diffusion: a denoising model on crops that paints a defect into a mask, steered by class, text and process
//! parameters, each of which can be missing.
//!
//! The network sees the noisy crop, the good crop without what is under the mask, and the mask; it learns v
//! (Salimans & Ho 2022) at 1000 times of a cosine schedule, weighted by min-SNR, mostly under the mask. While it
//! learns, conditions are dropped, so that it also knows what is likely without them, and can be guided away
//! from that (Ho & Salimans 2022). Drawn by DDIM ([`sample`]).
//!
//! Terms: *signal* in [`super::layers`]; *guidance* how far beyond the unconditioned answer it goes: 1 none.
//!
//! Never here: pasting into whole pictures, files.

mod sample;
mod schedule;
#[cfg(test)]
mod tests;
mod text;

pub use sample::{How, MAX_DRAW_STEPS};

use tch::{Device, Kind, Tensor};

use super::chance::{self, Chance};
use super::layers::{GROUP, Layers, waves};
use super::unet::UNet;
use super::{
    ConditionShape, Conditions, CropShape, Crops, Losses, Progress, StateError, Tensors, embed,
    optimiser_state, restore_optimiser,
};
use crate::optimiser::{Optimiser, Pace};
use crate::torch::{Precision, Weights};
use schedule::{STEPS, Schedule};

/// Widths of the levels as multiples of the first.
const FACTORS: [i64; 4] = [1, 2, 3, 4];
/// From this width on, two blocks a level, as on a GPU.
const WIDE: i64 = 64;
/// Channels of signal and text, as a multiple of the first level's.
const SIGNAL_FACTOR: i64 = 4;
/// sin and cos pairs that tell the time.
const TIME_WAVES: i64 = 32;
/// Probability with which each condition, and with which all of them are dropped.
const DROP: f64 = 0.1;
/// What the pixels outside the mask count: the model has to see that nothing happens there.
const OUTSIDE_WEIGHT: f64 = 0.1;
/// Peak learning rate at the first level's width of 64; narrower networks bear more.
const RATE_AT_WIDE: f64 = 2e-4;
/// The highest at any width.
const MAX_RATE: f64 = 1e-3;
/// Steps over which the learning rate rises.
const RISE: u64 = 100;
/// Mean of the weights over about a ninth of the steps so far, up to this decay.
const PACE: Pace = Pace { beta: (0.9, 0.999), weight_decay: 0.0, max_gradient: 1.0, average_decay: 0.9999 };

/// The model as it learns.
pub struct Diffusion {
    /// How [`Diffusion::sample`] draws.
    pub how: How,
    network: Network,
    optimiser: Optimiser,
}

/// The network with its weights: what drawing needs.
struct Network {
    weights: Weights,
    schedule: Schedule,
    net: UNet,
    signal_width: i64,
    conditions: ConditionShape,
    precision: Precision,
    seed: u64,
}

impl Diffusion {
    /// Makes the weights from libtorch's generator. `width`: channels of the first level, rounded up to a
    /// multiple of 8; 16 for two cores, 64 for a GPU.
    pub fn new(device: Device, crop: CropShape, conditions: &ConditionShape, width: i64) -> Self {
        Self::from_seed(device, crop, *conditions, width, chance::drawn_seed())
    }

    fn from_seed(device: Device, crop: CropShape, conditions: ConditionShape, width: i64, seed: u64) -> Self {
        let widths = UNet::widths(crop.side, width, &FACTORS);
        let blocks = if widths[0] >= WIDE { 2 } else { 1 };
        let signal_width = (SIGNAL_FACTOR * widths[0]).max(8 * GROUP);
        let network = Network {
            weights: Weights::new(device),
            schedule: Schedule::cosine(device),
            net: UNet { blocks, out: crop.channels, attends: true, widths },
            signal_width,
            conditions,
            precision: Precision::fastest(device),
            seed,
        };
        let x = Tensor::zeros([1, crop.channels, crop.side, crop.side], (Kind::Float, device));
        let t = Tensor::ones([1], (Kind::Int64, device));
        let none = Conditions::none(1, &conditions, device);
        let _ = tch::no_grad(|| network.v(&x, (&x, &x.narrow(1, 0, 1)), &t, &none)); // makes the weights
        let optimiser = Optimiser::with(&network.weights, PACE);
        Self { how: How::default(), network, optimiser }
    }

    /// One step down the gradient of the weighted squared error of v.
    pub fn step(&mut self, batch: &Crops, at: Progress) -> Losses {
        let mut chance = Chance::new(at.seed);
        let device = self.network.weights.device;
        let [good, x0, mask] = [&batch.good, &batch.defect, &batch.mask].map(|t| t.to_device(device));
        let (x0, good) = (x0 * 2.0 - 1.0, good * 2.0 - 1.0);
        let n = x0.size()[0];
        let t = times_of_batch(&mut chance, n).to_device(device);
        let e = chance.normal(&x0.size()).to_device(device);
        let conditions = dropped(&batch.conditions, &mut chance).to_device(device);
        let mix = self.network.schedule.at(&t);
        let v = schedule::v_of(&x0, &e, &mix);
        let told = self.network.v(&schedule::noisy(&x0, &e, &mix), (&good, &mask), &t, &conditions);
        let error = (told - v).square().mean_dim([1i64].as_slice(), true, Kind::Float); // [N, 1, S, S]
        let inside = mean_where(&error, &mask);
        let outside = mean_where(&error, &(1.0 - &mask));
        let weight = self.network.schedule.weight(&t);
        let (inside, outside) = ((inside * &weight).mean(Kind::Float), (outside * weight).mean(Kind::Float));
        let loss = &inside + &outside * OUTSIDE_WEIGHT;
        let gradient = self.optimiser.gradient(&loss);
        let peak = (RATE_AT_WIDE * WIDE as f64 / self.network.net.widths[0] as f64).min(MAX_RATE);
        self.optimiser.step(gradient, peak * rate(at));
        Losses(vec![("inside", inside.double_value(&[])), ("outside", outside.double_value(&[]))])
    }

    /// Puts the averages in place of the weights: the end of learning.
    pub fn finish(&mut self) {
        self.optimiser.use_average();
        self.network.precision = Precision::F32; // pictures, unlike gradients, are not averaged
    }

    /// All that a checkpoint has to hold.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        optimiser_state("", &self.optimiser)
    }

    /// The reverse of [`Diffusion::state`]. Errors: [`StateError`]; then nothing is changed.
    pub fn restore(&mut self, tensors: &Tensors) -> Result<(), StateError> {
        restore_optimiser("", &mut self.optimiser, tensors)
    }

    /// What [`Diffusion::sample`] needs, for a generator file.
    pub fn kept(&self) -> Vec<(String, Tensor)> {
        super::kept(&self.network.weights)
    }

    /// The reverse of [`Diffusion::kept`]. Errors: [`StateError`]; then nothing is changed.
    pub fn take(&mut self, tensors: &Tensors) -> Result<(), StateError> {
        self.network.precision = Precision::F32;
        super::take(&self.network.weights, tensors)
    }
}

impl Network {
    /// What the network says of the noisy crops `x_t` `[N, C, S, S]`, -1 to 1, at times `t` `[N]`.
    fn v(
        &self,
        x_t: &Tensor,
        (good, mask): (&Tensor, &Tensor),
        t: &Tensor,
        conditions: &Conditions,
    ) -> Tensor {
        let layers = Layers { precision: self.precision, ..Layers::new(&self.weights, self.seed) };
        let width = self.signal_width;
        let has_text = self.conditions.text > 0;
        let text = has_text.then(|| text::encode(&layers, &conditions.words, self.conditions.words, width));
        let time = waves(&(t.to_kind(Kind::Float) / STEPS as f64), TIME_WAVES, STEPS as f64);
        let time = layers.perceptron(&time, "time", (width, width)).to_kind(Kind::Float);
        let told = embed::signal(&layers, conditions, &self.conditions, ("told", width));
        // The whole text steers the blocks too, beside the words that places look at (Saharia et al. 2022,
        // Imagen, section 2.5): a small model then obeys it much sooner.
        let mut signal = time + told;
        if let Some(text) = &text {
            let whole = layers.perceptron(&text.tokens.select(1, 0), "text_whole", (width, width));
            signal += whole.to_kind(Kind::Float);
        }
        let known = good * (1.0 - mask);
        let x = Tensor::cat(&[x_t, &known, mask], 1);
        self.net.forward(&layers, &x, &signal, text.as_ref())
    }
}

/// Mean over the places where `at` `[N, 1, S, S]` is 1; 0 where there is none. Shape: → `[N]`
fn mean_where(error: &Tensor, at: &Tensor) -> Tensor {
    let sum = |t: &Tensor| t.sum_dim_intlist([1i64, 2, 3].as_slice(), false, Kind::Float);
    sum(&(error * at)) / sum(at).clamp_min(1.0)
}

/// Times of a batch, 1..=STEPS, spread evenly over it with a common offset, which makes the loss vary less
/// (Kingma et al. 2021, appendix I.1), in no order.
fn times_of_batch(chance: &mut Chance, n: i64) -> Tensor {
    let at = Tensor::arange(n, (Kind::Float, tch::Device::Cpu)) / n.max(1) as f64 + chance.uniform(&[1]);
    let order = chance.uniform(&[n]).argsort(0, false);
    let share = at.frac().index_select(0, &order);
    (share * STEPS as f64).floor().to_kind(Kind::Int64).clamp(0, STEPS - 1) + 1
}

/// Learning rate as a share of the peak: linear rise, then half a cosine down to 1 %.
fn rate(at: Progress) -> f64 {
    let rise = ((at.step + 1) as f64 / RISE as f64).min(1.0);
    (rise * (1.0 + (at.spent() * std::f64::consts::PI).cos()) / 2.0).max(0.01)
}

/// The conditions without those that are dropped: class, text, each process parameter, and all process
/// parameters, each with probability [`DROP`], and then all at once with [`DROP`] too.
fn dropped(conditions: &Conditions, chance: &mut Chance) -> Conditions {
    let device = conditions.class.device();
    let (n, parameters) = (conditions.known.size()[0], conditions.known.size()[1]);
    let mut keep = |columns: i64| chance.uniform(&[n, columns]).ge(DROP).to_device(device);
    let all = keep(1); // [N, 1]
    let (class, words, process) = (keep(1), keep(1), keep(1));
    let each = keep(parameters);
    let known = each.logical_and(&process).logical_and(&all);
    Conditions {
        class: &conditions.class * class.logical_and(&all).view([-1]),
        words: &conditions.words * words.logical_and(&all),
        process: conditions.process.shallow_clone(),
        known: &conditions.known * known,
    }
}
