//! The conditional VAE: a latent for what a defect looks like beyond what was asked for.
//!
//! The encoder sees defect, good and mask and gives a latent (mean and log-variance); the decoder draws the defect
//! from latent, conditions, good and mask, as what is added to the good. (An opacity would learn to be 0, from where
//! nothing leads back: on real pictures no change at all is the safest guess while the latent says nothing.)
//!
//! Class, words (their mean: the order is not told) and process parameters make one signal, which the decoder and
//! the prior of the latent get. The prior follows the signal, so that a latent drawn for a class is one of that
//! class.
//!
//! Two real defects have two latents, and what lies between them can be drawn ([`Vae::between`]).
//!
//! Source: Kingma & Welling 2014 (ELBO, eq. 10); Sohn et al. 2015 (conditional prior); Kingma et al. 2016
//! (free bits).
//!
//! Never here: pasting; a sharpness that a VAE does not have.

use tch::{Device, Kind, Tensor, no_grad};

use super::chance::{Chance, drawn_seed, rows};
use super::layers::{Layers, Start};
use super::{
    ConditionShape, Conditions, CropShape, Crops, Losses, Progress, Stage, StateError, Tensors, embed, kept,
    optimiser_state, restore_optimiser, take,
};
use crate::optimiser::Optimiser;
use crate::torch::Weights;

/// Numbers of the latent.
const LATENT: i64 = 16;
/// Numbers of the signal.
const SIGNAL: i64 = 64;
/// Halvings of the side on the way to the latent.
const LEVELS: usize = 4;
/// Limits of log-variances.
const LOG_VARIANCE: (f64, f64) = (-8.0, 4.0);
/// What the level of a whole defect starts from, of 1.
const LEVEL: f64 = 0.2;
/// Brings the strength of a usual change to about 1.
const STRENGTH: f64 = 4.0;
/// Where the posterior's starts: a latent of mere noise would be ignored before it says anything.
const FIRST_LOG_VARIANCE: f64 = -3.0;
/// Expected error of a pixel, of 1: the scale of its Laplace distribution.
const PIXEL_SCALE: f64 = 0.04;
/// What the pixels of a mask count as: so many that know nothing of each other. They do, of their neighbours.
const PIXELS_COUNT: f64 = 48.0;
/// Weight of the differences of neighbouring pixels beside that of the pixels.
const EDGES: f64 = 0.5;
/// Nats of each latent number that cost nothing.
const FREE_NATS: f64 = 0.1;
/// Shares of the steps from which and to which the KL term rises: a latent that costs before the decoder has learnt
/// to read it stays empty.
const KL_RISE: (f64, f64) = (0.25, 0.75);
/// Share of the crops whose class, text or parameters are hidden, each by itself: what is missing must mean "any".
const HIDDEN: f64 = 0.1;
/// Peak learning rate; in the second part, on few real defects, a third of it.
const LEARNING_RATE: f64 = 3e-3;
const REAL_RATE: f64 = 0.33;
/// Steps over which the learning rate rises.
const RISE: f64 = 50.0;

/// The network with its optimiser.
pub struct Vae {
    net: Net,
    optimiser: Optimiser,
}

/// Weights and what determines their shapes.
struct Net {
    weights: Weights,
    crop: CropShape,
    conditions: ConditionShape,
    width: i64,
    seed: u64,
}

/// A normal distribution a picture. Shape: each `[N, LATENT]`.
struct Normal {
    mean: Tensor,
    log_variance: Tensor,
}

impl Vae {
    /// Makes the weights from libtorch's generator. `width`: channels at the finest level, a multiple of 8.
    pub fn new(device: Device, crop: CropShape, conditions: &ConditionShape, width: i64) -> Self {
        let weights = Weights::new(device);
        let net = Net { weights, crop, conditions: *conditions, width, seed: drawn_seed() };
        no_grad(|| {
            let picture = Tensor::zeros([1, crop.channels, crop.side, crop.side], (Kind::Float, device));
            let mask = Tensor::ones([1, 1, crop.side, crop.side], (Kind::Float, device));
            let told = net.signal(&Conditions::none(1, conditions, device));
            let latent = net.posterior(&picture, &picture, &mask, &told).mean;
            let _ = (net.prior(&told), net.draw(&picture, &mask, &told, &latent));
        });
        let optimiser = Optimiser::new(&net.weights);
        Self { net, optimiser }
    }

    /// One step down the negative ELBO.
    pub fn step(&mut self, crops: &Crops, at: Progress) -> Losses {
        let device = self.net.weights.device;
        let mut chance = Chance::new(at.seed);
        let [good, defect, mask] = [&crops.good, &crops.defect, &crops.mask].map(|t| t.to_device(device));
        let n = good.size()[0];
        let mut shown = || chance.uniform(&[n]).ge(HIDDEN).to_kind(Kind::Float).to_device(device);
        let conditions = crops.conditions.to_device(device).kept_where(&shown(), &shown(), &shown());
        let told = self.net.signal(&conditions);
        let posterior = self.net.posterior(&defect, &good, &mask, &told);
        let prior = self.net.prior(&told);
        let noise = chance.normal(&[n, LATENT]).to_device(device);
        let latent = &posterior.mean + noise * (&posterior.log_variance * 0.5).exp();
        let drawn = self.net.draw(&good, &mask, &told, &latent);
        let pixels = error(&drawn, &defect, &mask);
        let kl = divergence(&posterior, &prior); // [LATENT]
        let share = ((at.spent() - KL_RISE.0) / (KL_RISE.1 - KL_RISE.0)).clamp(0.0, 1.0);
        let free = kl.clamp_min(FREE_NATS).sum(Kind::Float);
        let loss = &pixels * (PIXELS_COUNT / PIXEL_SCALE) + free * share;
        let gradient = self.optimiser.gradient(&loss);
        self.optimiser.step(gradient, rate(at));
        let value = |t: &Tensor| t.double_value(&[]);
        Losses(vec![("loss", value(&loss)), ("pixels", value(&pixels)), ("kl", value(&kl.sum(Kind::Float)))])
    }

    /// Draws latents from the prior and the crops from them. Shapes: `[N, C, S, S]`, `[N, 1, S, S]` → `[N, C, S, S]`,
    /// 0..1. The i-th picture is the first of `seed + i`.
    pub fn sample(&self, good: &Tensor, mask: &Tensor, conditions: &Conditions, seed: u64) -> Tensor {
        no_grad(|| {
            let device = self.net.weights.device;
            let (good, mask) = (good.to_device(device), mask.to_device(device));
            let told = self.net.signal(&conditions.to_device(device));
            let prior = self.net.prior(&told);
            let noise = rows(seed, good.size()[0], &[LATENT], device);
            let latent = prior.mean + noise * (prior.log_variance * 0.5).exp();
            self.net.draw(&good, &mask, &told, &latent)
        })
    }

    /// From one defect to another in `count` pictures: latent and signal go in equal steps; `good` and `masks` are
    /// what they are drawn on. `ends`: two crops. Shapes: good `[count, C, S, S]`, masks `[count, 1, S, S]` →
    /// `[count, C, S, S]`, 0..1.
    pub fn between(&self, ends: &Crops, good: &Tensor, masks: &Tensor) -> Tensor {
        no_grad(|| {
            let device = self.net.weights.device;
            let [own, defect, mask] = [&ends.good, &ends.defect, &ends.mask].map(|t| t.to_device(device));
            let told = self.net.signal(&ends.conditions.to_device(device));
            let latent = self.net.posterior(&defect, &own, &mask, &told).mean;
            let count = good.size()[0];
            let at = Tensor::arange(count, (Kind::Float, device)) / (count - 1).max(1) as f64;
            let at = at.unsqueeze(1);
            let along = |t: &Tensor| t.get(0) * (1.0 - &at) + t.get(1) * &at;
            self.net.draw(&good.to_device(device), &masks.to_device(device), &along(&told), &along(&latent))
        })
    }

    /// All that a checkpoint has to hold.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        optimiser_state("", &self.optimiser)
    }

    /// The reverse of [`Vae::state`].
    ///
    /// Errors: [`StateError`]; then nothing is changed.
    pub fn restore(&mut self, tensors: &Tensors) -> Result<(), StateError> {
        restore_optimiser("", &mut self.optimiser, tensors)
    }

    /// The averaged weights in place of the last ones.
    pub fn finish(&mut self) {
        self.optimiser.use_average();
    }

    /// What a generator file holds.
    pub fn kept(&self) -> Vec<(String, Tensor)> {
        kept(&self.net.weights)
    }

    /// The reverse of [`Vae::kept`].
    ///
    /// Errors: [`StateError`]; then nothing is changed.
    pub fn take(&mut self, tensors: &Tensors) -> Result<(), StateError> {
        take(&self.net.weights, tensors)
    }
}

impl Net {
    fn layers(&self) -> Layers<'_> {
        Layers::new(&self.weights, self.seed)
    }

    /// Channels at 1, 1/2, 1/4, 1/8 and 1/16 of the side.
    fn widths(&self) -> [i64; LEVELS + 1] {
        [1, 2, 3, 4, 4].map(|k| k * self.width)
    }

    /// Shape: → `[N, SIGNAL]`
    fn signal(&self, conditions: &Conditions) -> Tensor {
        let layers = self.layers();
        let signal = embed::signal(&layers, conditions, &self.conditions, ("told", SIGNAL));
        if self.conditions.words == 0 {
            return signal;
        }
        let table = layers.table(&conditions.words, "words", (self.conditions.words + 1, SIGNAL)); // (N, L, SIGNAL)
        let known = conditions.words.ne(0).to_kind(Kind::Float).unsqueeze(-1);
        let count = known.sum_dim_intlist([1i64].as_slice(), false, Kind::Float).clamp_min(1.0);
        signal + (table * known).sum_dim_intlist([1i64].as_slice(), false, Kind::Float) / count
    }

    /// Features from the finest level to the coarsest. Shape: → each `[N, widths[k], S/2^k, S/2^k]`
    fn features(&self, x: &Tensor, name: &str) -> Vec<Tensor> {
        let layers = self.layers();
        let mut all: Vec<Tensor> = Vec::with_capacity(LEVELS + 1);
        for (k, width) in self.widths().into_iter().enumerate() {
            let name = format!("{name}{k}");
            let stride = if k == 0 { 1 } else { 2 };
            let y = layers.conv(all.last().unwrap_or(x), &name, (width, 3, stride), Start::Usual);
            all.push(layers.group_norm(&y, &name).silu());
        }
        all
    }

    fn posterior(&self, defect: &Tensor, good: &Tensor, mask: &Tensor, told: &Tensor) -> Normal {
        let change = (defect - good) * mask * 2.0;
        let seen = Tensor::cat(&[&centred(defect), &change, mask], 1);
        let coarse = self.features(&seen, "seen").pop().expect("there is at least one level");
        // Norms take the strength of a change away, so it is told beside.
        let seen = Tensor::cat(&[&coarse.flatten(1, -1), &strength(&change, mask), told], 1);
        self.normal(&seen, "posterior", Start::Usual, FIRST_LOG_VARIANCE)
    }

    fn prior(&self, told: &Tensor) -> Normal {
        let hidden = self.layers().linear(&told.silu(), "prior_in", SIGNAL, Start::Usual).silu();
        self.normal(&hidden, "prior", Start::Small, 0.0)
    }

    /// `first`: the log-variance that it starts from.
    fn normal(&self, x: &Tensor, name: &str, start: Start, first: f64) -> Normal {
        let both = self.layers().linear(x, name, 2 * LATENT, start);
        let log_variance = (both.narrow(1, LATENT, LATENT) + first).clamp(LOG_VARIANCE.0, LOG_VARIANCE.1);
        Normal { mean: both.narrow(1, 0, LATENT), log_variance }
    }

    /// The crop with the defect; the good itself outside of the mask. Shape: → `[N, C, S, S]`, 0..1
    fn draw(&self, good: &Tensor, mask: &Tensor, told: &Tensor, latent: &Tensor) -> Tensor {
        let (layers, widths, channels) = (self.layers(), self.widths(), self.crop.channels);
        let context = self.features(&Tensor::cat(&[&centred(good), mask], 1), "good");
        let signal = Tensor::cat(&[told, latent], 1);
        let signal = layers.perceptron(&signal, "signal", (2 * SIGNAL, 2 * SIGNAL));
        let cells = self.crop.side >> LEVELS;
        let start = layers.linear(&signal.silu(), "start", widths[LEVELS] * cells * cells, Start::Usual);
        let mut x = start.view([-1, widths[LEVELS], cells, cells]);
        for k in (0..=LEVELS).rev() {
            if k < LEVELS {
                let side = self.crop.side >> k;
                x = x.upsample_nearest2d([side, side], None, None);
            }
            let joined = Tensor::cat(&[&x, &context[k]], 1);
            let y = layers.conv(&joined, &format!("draw{k}"), (widths[k], 3, 1), Start::Usual);
            x = layers.adaptive_norm(&y, &signal, &format!("steer{k}")).silu();
        }
        // How light it is as a whole comes by a way of its own: norms are slow to learn it.
        let level = layers.linear(&signal.silu(), "level", channels, Start::Usual).view([-1, channels, 1, 1]);
        let change = layers.conv(&x, "out", (channels, 3, 1), Start::Small) + level * LEVEL;
        (good + change * mask).clamp(0.0, 1.0)
    }
}

/// 0..1 → -1..1
fn centred(picture: &Tensor) -> Tensor {
    picture * 2.0 - 1.0
}

/// Mean and deviation of a change inside the masks, of some tenths. Shape: `[N, C, S, S]` → `[N, 2C]`
fn strength(change: &Tensor, mask: &Tensor) -> Tensor {
    let sum = |t: &Tensor| t.sum_dim_intlist([2i64, 3].as_slice(), false, Kind::Float);
    let count = sum(mask).clamp_min(1.0);
    let mean = sum(change) / &count;
    let deviation = (sum(&change.square()) / &count - mean.square()).clamp_min(1e-6).sqrt();
    Tensor::cat(&[mean, deviation], 1) * STRENGTH
}

/// Mean absolute error inside the masks, of pixels and of the differences between neighbours.
fn error(drawn: &Tensor, defect: &Tensor, mask: &Tensor) -> Tensor {
    let difference = (drawn - defect) * mask;
    let side = difference.size()[2];
    let count = mask.sum(Kind::Float).clamp_min(1.0) * difference.size()[1] as f64;
    let step = |dim: i64| difference.narrow(dim, 1, side - 1) - difference.narrow(dim, 0, side - 1);
    let edges = step(2).abs().sum(Kind::Float) + step(3).abs().sum(Kind::Float);
    (difference.abs().sum(Kind::Float) + edges * EDGES) / count
}

/// KL divergence of the posterior from the prior, mean over the pictures, nats. Shape: → `[LATENT]`
fn divergence(posterior: &Normal, prior: &Normal) -> Tensor {
    let difference = (&posterior.mean - &prior.mean).square();
    let ratio = (posterior.log_variance.exp() + difference) / prior.log_variance.exp();
    let nats = (&prior.log_variance - &posterior.log_variance + ratio - 1.0) * 0.5;
    nats.mean_dim([0i64].as_slice(), false, Kind::Float)
}

/// Learning rate: a linear rise, then half a cosine down to a twentieth.
fn rate(at: Progress) -> f64 {
    let rise = ((at.step as f64 + 1.0) / RISE).min(1.0);
    let cosine = (1.0 + (at.spent() * std::f64::consts::PI).cos()) / 2.0;
    let part = if at.stage == Stage::Real { REAL_RATE } else { 1.0 };
    LEARNING_RATE * part * rise * cosine.max(0.05)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CROP: CropShape = CropShape { side: 16, channels: 1 };
    const CONDITIONS: ConditionShape = ConditionShape { classes: 2, words: 0, text: 0, parameters: 0 };

    /// Class 1 brightens a square of the crop, class 2 darkens it, more or less.
    fn crops(seed: u64, n: i64) -> Crops {
        let mut chance = Chance::new(seed);
        let class = (chance.uniform(&[n]) * 2.0).floor().to_kind(Kind::Int64) + 1;
        let sign = (&class * -2 + 3).to_kind(Kind::Float).view([n, 1, 1, 1]);
        let mask = Tensor::zeros([n, 1, 16, 16], (Kind::Float, Device::Cpu));
        let _ = mask.narrow(2, 4, 7).narrow(3, 5, 8).fill_(1.0);
        let good = chance.normal(&[n, 1, 16, 16]) * 0.03 + 0.5;
        let strength = chance.uniform(&[n, 1, 1, 1]) * 0.25 + 0.1;
        let defect = (&good + &mask * sign * strength).clamp(0.0, 1.0);
        let conditions = Conditions { class, ..Conditions::none(n, &CONDITIONS, Device::Cpu) };
        Crops { good, defect, mask, conditions }
    }

    fn at(step: u64, of: u64) -> Progress {
        Progress { step, of: Some(of), stage: Stage::Procedural, seed: step ^ 77 }
    }

    fn change(made: &Tensor, crops: &Crops) -> Tensor {
        ((made - &crops.good) * &crops.mask).mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float)
    }

    #[test]
    fn it_learns_that_one_class_is_bright_and_the_other_dark_and_samples_vary() {
        tch::set_num_threads(1); // tests run side by side
        let mut vae = Vae::new(Device::Cpu, CROP, &CONDITIONS, 8);
        let of = 200;
        for step in 0..of {
            let losses = vae.step(&crops(step, 16), at(step, of));
            assert!(losses.are_finite(), "{losses}");
        }
        vae.finish();
        let asked = crops(1_000_000, 200);
        let made = vae.sample(&asked.good, &asked.mask, &asked.conditions, 5);
        let outside = ((&made - &asked.good) * asked.mask.eq(0.0)).abs().max().double_value(&[]);
        assert_eq!(outside, 0.0, "outside the mask");
        let sign = asked.conditions.class.eq(1).to_kind(Kind::Float) * 2.0 - 1.0;
        let obeyed = (change(&made, &asked) * sign).gt(0.0).to_kind(Kind::Float).mean(Kind::Float);
        assert!(obeyed.double_value(&[]) >= 0.95, "obeyed by {obeyed:?}");
        let again = vae.sample(&asked.good, &asked.mask, &asked.conditions, 5);
        assert!(again.equal(&made), "the same seed, the same pictures");
        let one = |t: &Tensor| t.narrow(0, 0, 1).repeat([50, 1, 1, 1]);
        let index = Tensor::zeros([50], (Kind::Int64, Device::Cpu));
        let same = vae.sample(&one(&asked.good), &one(&asked.mask), &asked.conditions.pick(&index), 9);
        let spread = same.std_dim([0i64].as_slice(), true, false).max().double_value(&[]);
        assert!(spread > 0.02, "one wish gives one picture: spread {spread}");

        // Between a bright and a dark one lies what is neither.
        let class = Tensor::from_slice(&[1i64, 2]);
        let ends = crops(3, 2);
        let sign = Tensor::from_slice(&[0.25f32, -0.25]).view([2, 1, 1, 1]);
        let defect = &ends.good + &ends.mask * sign;
        let ends = Crops { defect, conditions: Conditions { class, ..ends.conditions }, ..ends };
        let strip = |t: &Tensor| t.narrow(0, 0, 1).repeat([5, 1, 1, 1]);
        let (good, masks) = (strip(&ends.good), strip(&ends.mask));
        let way = vae.between(&ends, &good, &masks);
        let on = Crops { good, mask: masks, ..crops(3, 5) };
        let level: Vec<f32> = Vec::try_from(change(&way, &on)).unwrap();
        assert!(level[0] > level[2] && level[2] > level[4], "{level:?}");
        assert!(level[0] > 0.0 && level[4] < 0.0, "{level:?}");
    }

    #[test]
    fn a_checkpoint_and_a_file_bring_the_same_network_back() {
        tch::set_num_threads(1);
        let new = || Vae::new(Device::Cpu, CROP, &CONDITIONS, 8);
        let mut straight = new();
        let mut resumed = new();
        straight.step(&crops(0, 4), at(0, 4));
        let state: Tensors = straight.state().into_iter().map(|(name, t)| (name, t.copy())).collect();
        resumed.restore(&state).unwrap();
        for vae in [&mut straight, &mut resumed] {
            vae.step(&crops(1, 4), at(1, 4));
            vae.finish();
        }
        let mut read = new();
        read.take(&resumed.kept().into_iter().collect()).unwrap();
        let asked = crops(9, 3);
        let pictures =
            [&straight, &resumed, &read].map(|v| v.sample(&asked.good, &asked.mask, &asked.conditions, 1));
        assert!(pictures[0].equal(&pictures[1]) && pictures[1].equal(&pictures[2]));
        let mut wider = Vae::new(Device::Cpu, CROP, &CONDITIONS, 16);
        assert!(wider.restore(&state).is_err() && wider.take(&read.kept().into_iter().collect()).is_err());
    }
}
