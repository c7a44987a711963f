//! The training loop: steps until the budget is spent, the fit is stopped, or the loss breaks.
//!
//! Batch, latent noise and learning rate of a step follow from the seed and the step's number alone, so a
//! fit that goes on from a checkpoint makes the same steps as one that was never stopped.
//!
//! libtorch has one generator for the whole process: one fit at a time in it.
//!
//! Never here: which goods are for what, statistics, thresholds ([`crate::fit`]); a choice of the best
//! checkpoint (the last averaged weights are taken).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::time::{Duration, Instant};

use tch::{Kind, Tensor};

use crate::backbone::{CELL_PX, with_noise};
use crate::batches::{Batch, Batches};
use crate::clock::{Clock, Pacing};
use crate::fit::{FitError, Settings};
use crate::loss::{Output, Truth, feature_loss, head_loss, reconstruction_loss};
use crate::net::{self, POSITION, Shape};
use crate::optimiser::Optimiser;
use crate::phase::{Phase, Took, Watch};
use crate::score;
use crate::threads::Threads;
use crate::torch::{Norm, Precision, Torch, Weights};

/// Pictures a step; half of them damaged.
pub const BATCH: usize = 8;
/// Most steps of any fit.
pub const MAX_STEPS: u64 = 10_000_000;
/// Peak learning rate of AdamW.
const LEARNING_RATE: f64 = 5e-3;
/// Steps over which the learning rate rises. No share of the budget: the first steps must not depend on
/// what a time budget will turn out to allow.
const RISE: u64 = 100;
/// Share of the budget over which the KL term rises, after that.
const KL_RISE: f64 = 0.2;

/// When learning ends by itself.
#[derive(Debug, Clone, Copy)]
pub enum Budget {
    /// After so many optimiser steps.
    Steps(u64),
    /// When the whole fit has taken so long: becomes a number of steps, which follows the pace of the fit.
    Time(Duration),
}

/// Where a fit is, the model's or a generator's.
pub struct Progress<T = Step> {
    /// Steps taken.
    pub step: u64,
    /// Steps in all, once that is known.
    pub of: Option<u64>,
    /// Time since the first step of this run, and steps in it.
    pub elapsed: Duration,
    /// Steps in this run: fewer than `step` where a stopped fit goes on.
    pub since_start: u64,
    /// What the last step gave.
    pub gave: T,
}

/// What a step of the model's fit gives.
pub struct Step {
    /// Loss, averaged over some 50 steps.
    pub loss: f64,
    /// How long this step took, with what it waited for.
    pub seconds: f64,
    /// Where in the step that time went.
    pub took: Took,
}

/// How this run of a fit began, how it is stopped, and who is told of it.
pub struct Run<'a, T = Step> {
    /// When the clock of [`Budget::Time`] began: loading counts.
    pub start: Instant,
    /// Set to end early with what there is.
    pub stop: &'a AtomicBool,
    /// Told after every step.
    pub report: &'a mut dyn FnMut(&Progress<T>),
}

/// What a fit has reached when learning ends.
pub struct Learnt {
    /// Steps taken.
    pub steps: u64,
    /// Steps that the budget holds; more than `steps` if the fit was stopped.
    pub of: Option<u64>,
}

/// Learns until the budget is spent or `stop` is set; afterwards the optimiser holds weights and averages.
///
/// `resumed`: what a checkpoint brings, its number of steps too where a time budget had become one.
/// `save` is called where a checkpoint is due.
/// Errors: [`FitError::Diverged`], [`FitError::Feed`], [`FitError::NoTime`], and those of `save`.
pub fn learn(
    learner: &mut Learner,
    batches: &mut Batches,
    settings: &Settings,
    resumed: Learnt,
    run: Run,
    save: &mut dyn FnMut(&Learner, &Learnt) -> Result<(), FitError>,
) -> Result<Learnt, FitError> {
    let first = resumed.steps;
    let pacing = Pacing {
        budget: settings.budget,
        threads: settings.threads,
        checkpoint_every: settings.checkpoint_every,
        reserve: RESERVE,
    };
    let mut clock = Clock::new(&pacing, &resumed, run.start, Instant::now())?;
    let mut threads = Threads::new(settings.threads);
    let begin = Instant::now();
    let (mut step, mut mean_loss) = (first, 0f64);
    // Batches are made on a thread of their own, at most two ahead, in the memory of those that are done.
    let (send, receive) = sync_channel::<Batch>(2);
    let (give_back, given_back) = channel::<Batch>();
    let result = std::thread::scope(|scope| {
        let receive: Receiver<Batch> = receive; // dropped at the end of the scope, which ends the thread
        let feed = scope.spawn(move || {
            for i in first.. {
                let mut batch = given_back.try_recv().unwrap_or_default();
                batches.batch_into(&mut batch, i, BATCH);
                if send.send(batch).is_err() {
                    break;
                }
            }
        });
        while clock.of.is_none_or(|of| step < of) && step < MAX_STEPS {
            if run.stop.load(Ordering::Relaxed) && step > 0 {
                break;
            }
            threads.before(step - first);
            let step_start = Instant::now();
            let mut watch = Watch::start();
            let Ok(batch) = receive.recv() else {
                let _ = feed.join(); // it panicked: here that is an error, and not the end of this thread too
                return Err(FitError::Feed { step });
            };
            watch.lap(Phase::Wait);
            let loss = learner.step(&batch, step, clock.of, &mut watch);
            let _ = give_back.send(batch); // the thread may be gone: the next recv tells
            let seconds = step_start.elapsed();
            threads.after(step - first, seconds.as_secs_f64());
            step += 1;
            clock.after(step - first, Instant::now());
            if !loss.is_finite() {
                return Err(FitError::Diverged { step, loss });
            }
            let since_start = step - first;
            let share = (1.0 / since_start as f64).max(0.02);
            mean_loss += (loss - mean_loss) * share;
            (run.report)(&Progress {
                step,
                of: clock.of,
                elapsed: begin.elapsed(),
                since_start,
                gave: Step { loss: mean_loss, seconds: seconds.as_secs_f64(), took: watch.took },
            });
            if clock.save_due() {
                learner.check(step)?;
                save(learner, &Learnt { steps: step, of: clock.of })?;
            }
        }
        Ok(())
    });
    result?;
    learner.check(step)?;
    let learnt = Learnt { steps: step, of: clock.of };
    save(learner, &learnt)?;
    Ok(learnt)
}

/// Share of the time budget that is kept for what comes after the last step.
const RESERVE: f64 = 0.05;

/// Network and optimiser: what a step changes.
pub struct Learner<'a> {
    /// The weights.
    pub weights: &'a Weights,
    /// What moves them.
    pub optimiser: Optimiser,
    shape: Shape,
    seed: u64,
    precision: Precision,
}

impl<'a> Learner<'a> {
    /// Makes the weights from `seed`.
    pub fn new(weights: &'a Weights, shape: Shape, seed: u64, precision: Precision) -> Self {
        tch::manual_seed(seed as i64);
        let float = (Kind::Float, weights.device);
        let _ = weights
            .learned(POSITION, || Tensor::zeros([1, shape.coarsest(), shape.cells(), shape.cells()], float));
        let (channels, side) = match shape.features {
            Some(channels) => (channels, shape.size / CELL_PX),
            None => (shape.channels, shape.size.min(64)),
        };
        let x = Tensor::zeros([2, channels, side, side], float);
        forward(weights, &x, (0, 0), shape, precision); // makes the others
        Self { weights, optimiser: Optimiser::new(weights), shape, seed, precision }
    }

    /// A checkpoint of broken weights would replace a sound one.
    fn check(&self, step: u64) -> Result<(), FitError> {
        if self.optimiser.is_finite() { Ok(()) } else { Err(FitError::Diverged { step, loss: f64::NAN }) }
    }

    /// Step number `step` of `of`, timed by `watch`. Returns its loss.
    pub fn step(&mut self, batch: &Batch, step: u64, of: Option<u64>, watch: &mut Watch) -> f64 {
        // Noise and thus the result depend on nothing but the step's number.
        tch::manual_seed((self.seed ^ (step + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) as i64);
        let (x, truth) = to_tensors(self.weights, batch, self.shape);
        watch.lap(Phase::Input);
        let out = forward(self.weights, &x, batch.at, self.shape, self.precision);
        watch.lap(Phase::Forward);
        let spent = spent(step, of);
        let kl_weight = (spent / KL_RISE).min(1.0);
        let drawn = match self.shape.features {
            Some(_) => feature_loss(&out, &truth, kl_weight),
            None => reconstruction_loss(&out, &truth, kl_weight),
        };
        let loss = drawn + head_loss(&out.logits, &truth.mask);
        watch.lap(Phase::Loss);
        let gradient = self.optimiser.gradient(&loss);
        watch.lap(Phase::Backward);
        self.optimiser.step(gradient, LEARNING_RATE * schedule(step, of));
        let value = loss.double_value(&[]);
        drop((loss, out, truth, x)); // and with them what the gradient was made of
        watch.lap(Phase::Update);
        value
    }
}

/// Share of the steps after the rise that is done; 0 until the number of steps is known.
fn spent(step: u64, of: Option<u64>) -> f64 {
    of.map_or(0.0, |of| step.saturating_sub(RISE) as f64 / of.saturating_sub(RISE).max(1) as f64)
}

/// Learning rate as a share of the peak: linear rise, then half a cosine down to 1 %.
fn schedule(step: u64, of: Option<u64>) -> f64 {
    let rise = (step as f64 / RISE as f64).min(1.0);
    let cosine = (1.0 + (spent(step, of).min(1.0) * std::f64::consts::PI).cos()) / 2.0;
    (rise * cosine).max(0.01)
}

/// Forward pass in learning: the latent is drawn. Shape: `[N, C, S, S]`, normalised; `at`: pixels from the
/// picture's corner where a crop lies.
/// Source: Kingma & Welling 2014, eq. 4 (reparametrisation).
fn forward(weights: &Weights, x: &Tensor, at: (usize, usize), shape: Shape, precision: Precision) -> Output {
    let mut g = Torch { weights, norm: Norm::Batch, precision };
    let features = net::encode(&mut g, x, shape);
    let mu = net::mean(&mut g, &features, shape);
    let logvar = net::log_variance(&mut g, &features, shape).clamp(-10.0, 5.0);
    let z = &mu + mu.randn_like() * (&logvar * 0.5).exp();
    let cells = mu.size()[2];
    let place = |pixels: usize| pixels as i64 / net::STRIDE;
    let position = weights.find(POSITION).expect("made with the network");
    let position = position.narrow(2, place(at.1), cells).narrow(3, place(at.0), cells);
    let decoded = net::decode(&mut g, &z, &position, shape);
    // Plane by plane: with one to three channels libtorch's element-wise work is slow in channels_last.
    let decoded = net::Decoded {
        reconstruction: decoded.reconstruction.contiguous(),
        log_variance: decoded.log_variance.contiguous(),
    };
    // The head learns from what the VAE gives, and does not teach it to show defects.
    let seen = net::Decoded {
        reconstruction: decoded.reconstruction.detach(),
        log_variance: decoded.log_variance.detach(),
    };
    let residual = net::residual(&mut g, x, &seen);
    let logits = net::head(&mut g, x, &seen, &residual, shape);
    Output { mu, logvar, decoded, logits }
}

/// A batch as tensors: input and truth, both normalised by the input's exposure.
fn to_tensors(weights: &Weights, batch: &Batch, shape: Shape) -> (Tensor, Truth) {
    let n = batch.has_target.len().max(1);
    let side = (batch.mask.len() / n).isqrt() as i64;
    let view = |values: &[f32], channels: i64| {
        Tensor::from_slice(values).view([-1, channels, side, side]).to_device(weights.device)
    };
    let (x, target) = (view(&batch.input, shape.channels), view(&batch.target, shape.channels));
    let (x, target) = score::normalise_pair(&x, &target, batch.at, weights, shape);
    let has_target = Tensor::from_slice(&batch.has_target).view([-1, 1, 1, 1]).to_device(weights.device);
    let truth = Truth { target, has_target, mask: view(&batch.mask, 1), clean: n as i64 / 2 };
    if shape.features.is_some() { with_noise(x, truth, score::kept(weights)) } else { (x, truth) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batches::Options;
    use crate::infer::to_pixels;
    use crate::net::Variant;
    use inspect_core::card::Input;
    use tch::Device;

    #[test]
    fn one_batch_can_be_learnt_by_heart() {
        for precision in [Precision::F32, Precision::Bf16] {
            learn_by_heart(precision);
        }
    }

    fn learn_by_heart(precision: Precision) {
        tch::set_num_threads(1); // tests run side by side
        let shape = Shape {
            size: 32,
            channels: 1,
            variant: Variant::Xxs,
            exposure: false,
            masked: false,
            features: None,
        };
        let input = Input { width: 32, height: 32, channels: 1 };
        let good: Vec<u8> = (0..1024u32).map(|i| if (i / 32 + i % 32) % 16 < 8 { 200 } else { 40 }).collect();
        let weights = Weights::new(Device::Cpu);
        let pixels: Vec<_> = to_pixels(&[&good], input).collect();
        score::set_normalisation(&weights, &pixels[0], shape);
        let batch = Batches::new(vec![&good], input, Options::default()).batch(0, BATCH);
        let mut learner = Learner::new(&weights, shape, 1, precision);
        let (x, truth) = to_tensors(&weights, &batch, shape);
        let errors = || {
            let out = forward(&weights, &x, batch.at, shape, precision);
            let error = (out.decoded.reconstruction - &truth.target).abs().mean(Kind::Float);
            (error.double_value(&[]), head_loss(&out.logits, &truth.mask).double_value(&[]))
        };
        let first = errors();
        for step in 0..250 {
            learner.step(&batch, RISE + step, Some(1000), &mut Watch::start());
        }
        let last = errors();
        assert!(last.0 < first.0 * 0.25, "mean absolute error {} -> {}", first.0, last.0);
        assert!(last.1 < first.1 * 0.25, "loss of the head {} -> {}", first.1, last.1);
    }

    #[test]
    fn the_learning_rate_rises_and_falls() {
        assert!(schedule(0, None) < 0.05 && schedule(2000, Some(2000)) < 0.05);
        assert!(schedule(RISE, Some(2000)) > 0.98);
        assert!(schedule(1000, Some(2000)) < schedule(300, Some(2000)));
    }

    #[test]
    fn the_first_steps_do_not_depend_on_how_many_there_will_be() {
        for step in 0..=RISE {
            assert_eq!(schedule(step, None), schedule(step, Some(5000)));
            assert_eq!(spent(step, None), spent(step, Some(5000)));
        }
    }
}
