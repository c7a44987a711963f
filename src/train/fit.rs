//! The training loop, from loaded goods to a network with its statistics and thresholds.
//!
//! In order: deal the goods out, step until the budget is spent (or Ctrl-C), put the averaged weights in
//! place, estimate BatchNorm anew on clean goods, take residual statistics, calibrate. A stopped fit goes
//! the same way with the steps that it has.
//!
//! Never here: the test split; a choice of the best checkpoint (the last averaged weights are taken).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use inspect_core::card::{Calibration, Input, Thresholds};
use tch::nn::OptimizerConfig;
use tch::{Device, Kind, Tensor, nn};

use crate::batches::{Batch, Batches, Symmetry};
use crate::calibrate::{CalibrateError, calibrate, check_alpha};
use crate::data::Goods;
use crate::infer::{estimate_norm, normalised, scores, to_pixels};
use crate::loss::{Output, loss};
use crate::net::{self, POSITION, Shape, Variant};
use crate::residual;
use crate::split::{Split, SplitError, split};
use crate::threads::Threads;
use crate::torch::{Ema, Torch, Weights, channels_last};

/// Pictures a step; half of them damaged.
pub const BATCH: usize = 8;
/// Peak learning rate of AdamW.
const LEARNING_RATE: f64 = 2e-3;
/// Share of the budget over which the learning rate and the KL term rise.
const WARM_UP: f64 = 0.05;
const KL_WARM_UP: f64 = 0.2;
/// Largest norm of the gradient.
const MAX_GRADIENT: f64 = 5.0;
/// Share of the time budget that is kept for what comes after the last step.
const RESERVE: f64 = 0.05;
/// The most of it, seconds.
const MAX_RESERVE_S: f64 = 15.0;
/// Copies of goods that the residual statistics are drawn from.
const STATISTICS_COPIES: usize = 512;
/// Most goods that normalisation and BatchNorm are estimated from.
const SAMPLE: usize = 512;
/// Most steps of any fit.
pub const MAX_STEPS: u64 = 10_000_000;

/// What a fit is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Width of the network.
    pub variant: Variant,
    /// When to stop.
    pub budget: Budget,
    /// Seed of everything random.
    pub seed: u64,
    /// How the part may lie.
    pub symmetry: Symmetry,
    /// False-reject budget of the reject threshold.
    pub alpha: f64,
    /// False-reject budget of the review threshold.
    pub review_alpha: f64,
    /// Threads; `None`: one or all cores, whichever is faster.
    pub threads: Option<usize>,
}

/// When a fit stops by itself.
#[derive(Debug, Clone, Copy)]
pub enum Budget {
    /// After so many optimiser steps.
    Steps(u64),
    /// When the whole fit has taken so long.
    Time(Duration),
}

/// Why a fit failed.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    /// The goods cannot be dealt out.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// No threshold.
    #[error(transparent)]
    Calibrate(#[from] CalibrateError),
    /// The loss is no number any more.
    #[error(
        "the loss became {loss} at step {step}; try another --seed, and look for blank or broken pictures among the goods"
    )]
    Diverged {
        /// Where.
        step: u64,
        /// What it was.
        loss: f64,
    },
    /// Loading took the time.
    #[error(
        "reading the pictures took {used_s} of {of_s} seconds, so too little is left to train; give more --minutes or fewer pictures"
    )]
    NoTime {
        /// Seconds that are gone.
        used_s: u64,
        /// Seconds of the budget.
        of_s: u64,
    },
    /// The thread that makes batches is gone.
    #[error(
        "the thread that prepares pictures ended early at step {step}; this is a fault of inspect-train, please report it"
    )]
    Feed {
        /// Where.
        step: u64,
    },
}

/// A fitted network.
pub struct Fitted {
    /// Weights and the constants of the score.
    pub weights: Weights,
    /// Its shape.
    pub shape: Shape,
    /// Which goods did what.
    pub split: Split,
    /// The limits.
    pub thresholds: Thresholds,
    /// How they were got.
    pub calibration: Calibration,
    /// Optimiser steps taken.
    pub steps: u64,
}

/// Told after every step.
pub struct Progress {
    /// Steps taken.
    pub step: u64,
    /// Loss, averaged over some 50 steps.
    pub loss: f64,
    /// Share of the budget that is spent, 0 to 1.
    pub spent: f64,
    /// Time since the first step.
    pub elapsed: Duration,
}

/// Fits a network on the goods.
///
/// `stop`: set to end early with what there is. `start`: when the clock of [`Budget::Time`] began.
/// Errors: [`FitError`].
pub fn fit(
    goods: &Goods,
    settings: &Settings,
    start: Instant,
    stop: &AtomicBool,
    report: &mut dyn FnMut(&Progress),
) -> Result<Fitted, FitError> {
    check_alpha(settings.alpha, settings.review_alpha)?;
    let split = split(&goods.groups, settings.alpha, settings.seed)?;
    tch::manual_seed(settings.seed as i64);
    let shape = Shape {
        size: i64::from(goods.input.width),
        channels: i64::from(goods.input.channels),
        variant: settings.variant,
    };
    let weights = Weights::default();
    let fit_pixels: Vec<&[u8]> = split.fit.iter().map(|&i| goods.pixels[i].as_slice()).collect();
    let sample = &sample(&fit_pixels);
    let pixels: Vec<Tensor> = to_pixels(sample, goods.input).collect();
    residual::set_normalisation(&weights, &Tensor::cat(&pixels, 0));
    let steps = run_steps(&weights, shape, &fit_pixels, goods.input, settings, start, stop, report)?;

    estimate_norm(&weights, normalised(&weights, sample, goods.input), shape);
    let copies = statistics_copies(&weights, goods, &split, settings);
    residual::set_statistics(&weights, copies, shape);

    let held_out: Vec<&[u8]> = split.calibration.iter().map(|&i| goods.pixels[i].as_slice()).collect();
    let scores = scores(&weights, shape, &held_out, goods.input);
    let groups: Vec<&str> = split.calibration.iter().map(|&i| goods.groups[i].as_str()).collect();
    let (thresholds, calibration) = calibrate(&scores, &groups, settings.alpha, settings.review_alpha)?;
    Ok(Fitted { weights, shape, split, thresholds, calibration, steps })
}

/// The loop. Returns the steps taken; afterwards the weights are the averaged ones.
#[allow(clippy::too_many_arguments, reason = "private, called once, each is one thing")]
fn run_steps(
    weights: &Weights,
    shape: Shape,
    goods: &[&[u8]],
    input: Input,
    settings: &Settings,
    start: Instant,
    stop: &AtomicBool,
    report: &mut dyn FnMut(&Progress),
) -> Result<u64, FitError> {
    let [.., w3] = shape.widths();
    let _position =
        weights.get(POSITION, true, || Tensor::zeros([1, w3, shape.cells(), shape.cells()], FLOAT));
    let mut batches = Batches::new(goods.to_vec(), input, settings.symmetry, settings.seed);
    forward(weights, &to_tensors(weights, batches.make(2), shape).0, shape); // makes the weights
    let mut optimiser = nn::AdamW { wd: 1e-4, ..Default::default() }
        .build(&weights.store, LEARNING_RATE)
        .expect("AdamW takes any set of weights");
    let mut ema = Ema::new(weights);
    let mut threads = Threads::new(settings.threads);
    let steps_time = steps_time(settings.budget, start)?;
    let first_step = Instant::now();
    let (mut step, mut mean_loss) = (0u64, 0f64);

    // Batches are made on a thread of their own, at most two ahead.
    let (send, receive) = sync_channel::<Batch>(2);
    let result = std::thread::scope(|scope| {
        let receive = receive; // dropped at the end of the scope, which ends the thread
        scope.spawn(move || while send.send(batches.make(BATCH)).is_ok() {});
        loop {
            let spent = spent(settings.budget, step, first_step, steps_time);
            if step > 0 && (spent >= 1.0 || step >= MAX_STEPS || stop.load(Ordering::Relaxed)) {
                return Ok(step);
            }
            threads.before(step);
            let step_start = Instant::now();
            let batch = receive.recv().map_err(|_| FitError::Feed { step })?;
            let (x, target, mask) = to_tensors(weights, batch, shape);
            let out = forward(weights, &x, shape);
            let kl_weight = (spent / KL_WARM_UP).min(1.0);
            let loss = loss(&out, &target, &mask, (BATCH / 2) as i64, kl_weight);
            optimiser.set_lr(LEARNING_RATE * schedule(spent));
            optimiser.backward_step_clip_norm(&loss, MAX_GRADIENT);
            ema.update();
            threads.after(step, step_start.elapsed().as_secs_f64());
            step += 1;

            let value = loss.double_value(&[]);
            if !value.is_finite() {
                return Err(FitError::Diverged { step, loss: value });
            }
            let share = (1.0 / step as f64).max(0.02);
            mean_loss += (value - mean_loss) * share;
            report(&Progress { step, loss: mean_loss, spent, elapsed: first_step.elapsed() });
        }
    });
    ema.apply();
    result
}

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

/// Share of the budget that is spent; `steps_time` is what [`Budget::Time`] leaves for steps.
fn spent(budget: Budget, step: u64, first_step: Instant, steps_time: Duration) -> f64 {
    match budget {
        Budget::Steps(steps) => step as f64 / steps.max(1) as f64,
        Budget::Time(_) => first_step.elapsed().as_secs_f64() / steps_time.as_secs_f64(),
    }
}

/// What is left of the budget for steps, after loading and before what comes after the last step.
///
/// Errors: [`FitError::NoTime`] if that is less than half of it: a network that has hardly been trained is none.
fn steps_time(budget: Budget, start: Instant) -> Result<Duration, FitError> {
    let Budget::Time(time) = budget else { return Ok(Duration::MAX) };
    let reserve = time.mul_f64(RESERVE).min(Duration::from_secs_f64(MAX_RESERVE_S));
    let used = start.elapsed();
    let left = time.saturating_sub(reserve).saturating_sub(used);
    if left * 2 < time {
        Err(FitError::NoTime { used_s: used.as_secs(), of_s: time.as_secs() })
    } else {
        Ok(left)
    }
}

/// Learning rate as a share of the peak: linear rise, then half a cosine down to 1 %.
fn schedule(spent: f64) -> f64 {
    let rise = (spent / WARM_UP).min(1.0);
    let cosine = (1.0 + (spent.min(1.0) * std::f64::consts::PI).cos()) / 2.0;
    (rise * cosine).max(0.01)
}

/// Forward pass in training: the latent is drawn. Shape: `[N, C, S, S]`, normalised.
/// Source: Kingma & Welling 2014, eq. 4 (reparametrisation).
fn forward(weights: &Weights, x: &Tensor, shape: Shape) -> Output {
    let mut g = Torch { weights, norm_momentum: Some(0.1) };
    let (mu, logvar) = net::encode(&mut g, x, shape);
    let logvar = logvar.clamp(-10.0, 5.0);
    let z = &mu + mu.randn_like() * (&logvar * 0.5).exp();
    let (reconstruction, log_variance) = net::decode(&mut g, &z, shape);
    Output { mu, logvar, reconstruction, log_variance }
}

/// A batch as tensors: input and target normalised, mask. Input in channels_last order.
fn to_tensors(weights: &Weights, batch: Batch, shape: Shape) -> (Tensor, Tensor, Tensor) {
    let view = |values: &[f32], channels: i64| {
        channels_last(&Tensor::from_slice(values).view([-1, channels, shape.size, shape.size]))
    };
    let normalise = |t: &Tensor| residual::normalise(&mut Torch::eval(weights), t);
    let (x, target) = (view(&batch.input, shape.channels), view(&batch.target, shape.channels));
    (normalise(&x), normalise(&target), view(&batch.mask, 1))
}

/// At most [`SAMPLE`] pictures, evenly spread.
fn sample<'a>(pictures: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let step = pictures.len().div_ceil(SAMPLE).max(1);
    pictures.iter().step_by(step).copied().collect()
}

/// Goods for the residual statistics, normalised: those kept for it in every turn that the symmetry allows;
/// where there are none, turned and shifted copies of the goods that were fitted on, since a small network
/// knows those too well as they are.
fn statistics_copies(
    weights: &Weights,
    goods: &Goods,
    split: &Split,
    settings: &Settings,
) -> impl Iterator<Item = Tensor> {
    let own = !split.statistics.is_empty();
    let chosen = if own { &split.statistics } else { &split.fit };
    let pixels = chosen.iter().map(|&i| goods.pixels[i].as_slice()).collect();
    let input = goods.input;
    let mut batches = Batches::new(pixels, input, settings.symmetry, settings.seed ^ 1);
    let [h, w, c] = [input.height, input.width, u32::from(input.channels)].map(i64::from);
    (0..STATISTICS_COPIES.div_ceil(BATCH)).map(move |_| {
        let copies = Tensor::from_slice(&batches.copies(BATCH, !own)).view([-1, c, h, w]);
        residual::normalise(&mut Torch::eval(weights), &copies)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_batch_can_be_learnt_by_heart() {
        tch::manual_seed(1);
        let shape = Shape { size: 32, channels: 1, variant: Variant::Xxs };
        let input = Input { width: 32, height: 32, channels: 1 };
        let good: Vec<u8> = (0..1024u32).map(|i| if (i / 32 + i % 32) % 16 < 8 { 200 } else { 40 }).collect();
        let weights = Weights::default();
        residual::set_normalisation(
            &weights,
            &Tensor::cat(&to_pixels(&[&good], input).collect::<Vec<_>>(), 0),
        );
        let position = weights.get(POSITION, true, || Tensor::zeros([1, 48, 2, 2], FLOAT));
        assert_eq!(position.size(), [1, 48, 2, 2]);
        let batch = Batches::new(vec![&good], input, Symmetry::None, 1).make(BATCH);
        let (x, target, mask) = to_tensors(&weights, batch, shape);
        forward(&weights, &x, shape);
        let mut optimiser = nn::AdamW::default().build(&weights.store, 3e-3).unwrap();
        let mut error = || {
            let out = forward(&weights, &x, shape);
            let loss = loss(&out, &target, &mask, 4, 0.0);
            optimiser.backward_step_clip_norm(&loss, MAX_GRADIENT);
            (out.reconstruction - &target).abs().mean(Kind::Float).double_value(&[])
        };
        let first = error();
        let last = (0..250).map(|_| error()).last().unwrap();
        assert!(last < first * 0.2, "mean absolute error {first} -> {last}");
    }

    #[test]
    fn the_learning_rate_rises_and_falls() {
        assert!(schedule(0.0) < 0.05 && schedule(1.0) < 0.05 && schedule(2.0) > 0.0);
        assert!(schedule(WARM_UP) > 0.98 && schedule(0.5) < schedule(0.2));
    }

    #[test]
    fn a_stopped_fit_has_taken_a_step() {
        let pixels = (0..20u8).map(|i| vec![i * 9; 1024]).collect();
        let groups = (0..20).map(|i| i.to_string()).collect();
        let input = Input { width: 32, height: 32, channels: 1 };
        let goods = Goods::new(input, pixels, groups);
        let settings = Settings {
            variant: Variant::Xxs,
            budget: Budget::Time(Duration::from_secs(3600)),
            seed: 0,
            symmetry: Symmetry::None,
            alpha: 0.05,
            review_alpha: 0.05,
            threads: None,
        };
        let fitted = fit(&goods, &settings, Instant::now(), &AtomicBool::new(true), &mut |_| {}).unwrap();
        assert_eq!(fitted.steps, 1);
        assert!(fitted.thresholds.are_sound() && fitted.thresholds.reject > 0.0);
    }
}
