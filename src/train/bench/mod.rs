//! How long a training step takes, where the time goes, and how that compares with PyTorch.
//!
//! What is timed is the step of a fit itself: [`crate::learn`], fed by its batch thread, tells the *phases*
//! ([`crate::phase`]) of each step. Against PyTorch ([`peer`]) both arms make steps with batches that are
//! already there, in alternating *rounds*: the load of a machine changes from second to second, so only
//! neighbouring rounds are compared, and the ratio is the median over such pairs. PyTorch does what
//! `step.py` says: the same network, losses and optimiser, eager, with PyTorch's own means for speed. That
//! both networks are the same is checked by the shapes of all weights.
//!
//! Never here: a step of its own; a GPU (the phases would be the times of launching).

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use inspect_core::card::Input;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use tch::{Device, Tensor};

use crate::batches::{Batch, Batches, Options, Symmetry};
use crate::defects::Random;
use crate::fit::{FitError, Settings};
use crate::infer::to_pixels;
use crate::learn::{BATCH, Budget, Learner, Learnt, Progress, Run, learn};
use crate::net::{Shape, Variant};
use crate::phase::{Phase, Watch};
use crate::score;
use crate::torch::{Precision, Weights};

pub mod peer;

use peer::{Peer, PeerError, Told};

/// Steps before the timed ones: memory is being got, kernels are being chosen.
const WARM: usize = 5;
/// Pairs of rounds, ours and PyTorch's: many short ones, since the machine's load comes and goes.
const ROUNDS: usize = 21;
/// A round has this part of the planned steps, and three at least.
const ROUND_PART: usize = 3;
const LEAST_IN_ROUND: usize = 3;
/// Batches that are made beforehand, for rounds; also how many are timed.
const MADE: usize = 16;
/// Most steps that can be asked for.
pub const MAX_STEPS: usize = 10_000;
/// After so long no further step or round begins.
const MAX_TIME: Duration = Duration::from_secs(600);
/// Pictures that are rendered where none are given, from this seed.
const RENDERED: usize = 24;
const SEED: u64 = 0;
/// Pictures that the normalisation is taken from.
const SAMPLE: usize = 16;

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A step failed.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// PyTorch failed.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The two networks are not the same.
    #[error(
        "PyTorch's network has {theirs} weights and ours {ours}, or they are shaped otherwise: src/train/bench/step.py does not follow src/train/net.rs; please report it"
    )]
    Differs {
        /// Weights of ours.
        ours: i64,
        /// Weights of PyTorch's.
        theirs: i64,
    },
    /// The time is up.
    #[error("no step was timed within {} s; take a smaller --size or --variant", MAX_TIME.as_secs())]
    Slow,
}

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Width of the network.
    pub variant: Variant,
    /// In what numbers.
    pub precision: Precision,
    /// Threads of libtorch and of PyTorch; the batch thread comes on top.
    pub threads: usize,
    /// Timed steps.
    pub steps: usize,
}

impl Plan {
    /// Steps of one round.
    fn round(&self) -> usize {
        (self.steps / ROUND_PART).max(LEAST_IN_ROUND)
    }
}

/// What came out.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Side of the pictures, pixels.
    pub size: u32,
    /// 1 or 3.
    pub channels: u8,
    /// Width of the network.
    pub variant: String,
    /// Numbers.
    pub precision: String,
    /// Threads of libtorch.
    pub threads: usize,
    /// Pictures a step.
    pub batch: usize,
    /// Steps that were timed.
    pub steps: usize,
    /// Learned numbers of the network.
    pub weights: i64,
    /// Median time to make a batch; a thread of its own does it, beside the step, milliseconds.
    pub make_batch_ms: f64,
    /// Median step, milliseconds.
    pub step_ms: f64,
    /// Mean step, milliseconds; the phases' means add up to it.
    pub mean_step_ms: f64,
    /// Steps a second, by the mean.
    pub steps_per_s: f64,
    /// Pictures a second.
    pub pictures_per_s: f64,
    /// Parts of the step.
    pub phases: Vec<PhaseTime>,
    /// Beside PyTorch, if that was asked for.
    pub pytorch: Option<Beside>,
}

/// One phase's part.
#[derive(Debug, Serialize)]
pub struct PhaseTime {
    /// Which.
    pub phase: String,
    /// Median, milliseconds.
    pub median_ms: f64,
    /// Mean, milliseconds.
    pub mean_ms: f64,
    /// Of the mean step.
    pub share: f64,
}

/// Both arms.
#[derive(Debug, Serialize)]
pub struct Beside {
    /// PyTorch's version.
    pub version: String,
    /// Learned numbers of its network: as many as ours.
    pub weights: i64,
    /// Median steps of each pair of rounds, milliseconds: ours, PyTorch's.
    pub rounds_ms: Vec<[f64; 2]>,
    /// Median over the rounds, milliseconds: ours, PyTorch's.
    pub step_ms: [f64; 2],
    /// Ours by PyTorch's: median of the pairs' ratios; below 1 ours is faster.
    pub ratio: f64,
    /// Lowest and highest ratio of a pair.
    pub ratio_range: [f64; 2],
}

/// Pictures of a disc with a ring on a rough ground, each a little different. Shape: each `[S, S, C]`.
pub fn rendered(input: Input) -> Vec<Vec<u8>> {
    let mut r = Random::seed_from_u64(SEED);
    let (side, channels) = (input.width as f32, input.channels);
    let mut picture = || {
        let [x0, y0] = [0.0; 2].map(|_: f32| side * r.random_range(0.48..0.52f32));
        let mut pixels = Vec::with_capacity(input.bytes());
        for i in 0..input.width * input.height {
            let (x, y) = ((i % input.width) as f32, (i / input.width) as f32);
            let radius = (x - x0).hypot(y - y0) / side;
            let level = match radius {
                0.2..0.25 => 90.0,
                ..0.4 => 180.0,
                _ => 60.0 + 10.0 * (x * 0.3).sin(),
            };
            let noise = r.random_range(-6.0..6.0f32);
            pixels.extend((0..channels).map(|c| (level + noise + 12.0 * f32::from(c)) as u8));
        }
        pixels
    };
    (0..RENDERED).map(|_| picture()).collect()
}

/// Measures steps on the goods, and PyTorch's beside them if `python` is given. Shape: `goods` each `[S, S, C]`.
///
/// `say` is told what is being done. Errors: [`BenchError`].
pub fn bench(
    goods: &[Vec<u8>],
    input: Input,
    plan: Plan,
    python: Option<&Path>,
    say: &mut dyn FnMut(&str),
) -> Result<Report, BenchError> {
    let start = Instant::now();
    let shape = Shape {
        size: i64::from(input.width),
        channels: i64::from(input.channels),
        variant: plan.variant,
        exposure: false,
        masked: false,
        features: None,
    };
    let goods: Vec<&[u8]> = goods.iter().map(Vec::as_slice).collect();
    let weights = Weights::new(Device::Cpu);
    let pixels: Vec<Tensor> = to_pixels(&goods[..goods.len().min(SAMPLE)], input).collect();
    score::set_normalisation(&weights, &Tensor::cat(&pixels, 0), shape);
    let mut batches =
        Batches::new(goods, input, Options { symmetry: Symmetry::Rotate, ..Options::default() });
    let mut learner = Learner::new(&weights, shape, SEED, plan.precision);

    let (made, make_ms): (Vec<Batch>, Vec<f64>) = (0..MADE as u64)
        .map(|i| {
            let start = Instant::now();
            let batch = batches.batch(i, BATCH);
            (batch, start.elapsed().as_secs_f64() * 1e3)
        })
        .unzip();
    say(&format!("timing {} steps", plan.steps));
    let steps = time_steps(&mut learner, &mut batches, plan, start)?;
    let mut report = report(&steps, shape, plan, median(&make_ms));
    report.weights = shapes(&weights).iter().map(|s| count(s)).sum();
    if let Some(python) = python {
        say(&format!("{ROUNDS} rounds of {} steps, ours and PyTorch's in turn", plan.round()));
        report.pytorch = Some(beside(&mut learner, &made, shape, plan, python, start)?);
    }
    Ok(report)
}

/// Milliseconds of a step, and of its phases.
struct Step {
    ms: f64,
    phases: [f64; Phase::ALL.len()],
}

/// Steps of a fit, as many as planned or as the time allows.
fn time_steps(
    learner: &mut Learner,
    batches: &mut Batches,
    plan: Plan,
    start: Instant,
) -> Result<Vec<Step>, BenchError> {
    let mut steps = Vec::with_capacity(plan.steps);
    let stop = AtomicBool::new(false);
    let mut keep = |progress: &Progress| {
        if progress.since_start as usize > WARM {
            let phases = progress.gave.took.map(|took| took.as_secs_f64() * 1e3);
            steps.push(Step { ms: progress.gave.seconds * 1e3, phases });
        }
        stop.store(start.elapsed() > MAX_TIME, Ordering::Relaxed);
    };
    let run = Run { start, stop: &stop, report: &mut keep };
    learn(learner, batches, &settings(plan), Learnt { steps: 0, of: None }, run, &mut |_, _| Ok(()))?;
    if steps.is_empty() { Err(BenchError::Slow) } else { Ok(steps) }
}

/// Those of a fit with nothing but steps.
fn settings(plan: Plan) -> Settings {
    Settings {
        variant: plan.variant,
        budget: Budget::Steps((WARM + plan.steps) as u64),
        seed: SEED,
        symmetry: Symmetry::Rotate,
        threads: Some(plan.threads),
        precision: plan.precision,
        checkpoint_every: MAX_TIME,
        ..Settings::default()
    }
}

fn report(steps: &[Step], shape: Shape, plan: Plan, make_batch_ms: f64) -> Report {
    let all: Vec<f64> = steps.iter().map(|s| s.ms).collect();
    let mean_step_ms = mean(&all);
    let phase = |phase: Phase| {
        let ms: Vec<f64> = steps.iter().map(|s| s.phases[phase as usize]).collect();
        let mean_ms = mean(&ms);
        PhaseTime { phase: phase.to_string(), median_ms: median(&ms), mean_ms, share: mean_ms / mean_step_ms }
    };
    Report {
        size: shape.size as u32,
        channels: shape.channels as u8,
        variant: plan.variant.to_string(),
        precision: plan.precision.to_string(),
        threads: plan.threads,
        batch: BATCH,
        steps: steps.len(),
        weights: 0,
        make_batch_ms,
        step_ms: median(&all),
        mean_step_ms,
        steps_per_s: 1e3 / mean_step_ms,
        pictures_per_s: 1e3 / mean_step_ms * BATCH as f64,
        phases: Phase::ALL.map(phase).into(),
        pytorch: None,
    }
}

/// Rounds in turn.
fn beside(
    learner: &mut Learner,
    made: &[Batch],
    shape: Shape,
    plan: Plan,
    python: &Path,
    start: Instant,
) -> Result<Beside, BenchError> {
    let (mut peer, hello) = Peer::start(python, &told(shape, plan))?;
    let ours = shapes(learner.weights);
    let total = |shapes: &[Vec<i64>]| shapes.iter().map(|s| count(s)).sum();
    if ours != hello.shapes {
        return Err(BenchError::Differs { ours: total(&ours), theirs: total(&hello.shapes) });
    }
    let mut next = (WARM + plan.steps) as u64; // the steps of our arm are numbered on
    let mut our_round = |steps: usize| -> Vec<f64> {
        let one = |_| {
            let start = Instant::now();
            learner.step(&made[next as usize % made.len()], next, Some(u64::MAX), &mut Watch::start());
            next += 1;
            start.elapsed().as_secs_f64() * 1e3
        };
        (0..steps).map(one).collect()
    };
    our_round(WARM);
    peer.round(WARM)?;
    let mut rounds_ms: Vec<[f64; 2]> = Vec::with_capacity(ROUNDS);
    while rounds_ms.len() < ROUNDS && (rounds_ms.is_empty() || start.elapsed() < MAX_TIME) {
        let ours = median(&our_round(plan.round()));
        let theirs = median(&peer.round(plan.round())?);
        rounds_ms.push([ours, theirs]);
    }
    let ratios: Vec<f64> = rounds_ms.iter().map(|[ours, theirs]| ours / theirs).collect();
    let step_ms = [0, 1].map(|arm| median(&rounds_ms.iter().map(|r| r[arm]).collect::<Vec<f64>>()));
    let lowest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = ratios.iter().copied().fold(0.0, f64::max);
    Ok(Beside {
        version: hello.version,
        weights: total(&hello.shapes),
        rounds_ms,
        step_ms,
        ratio: median(&ratios),
        ratio_range: [lowest, highest],
    })
}

fn told(shape: Shape, plan: Plan) -> Told {
    Told {
        size: shape.size,
        channels: shape.channels,
        widths: shape.widths(),
        latent: shape.latent(),
        depth: shape.depth(),
        batch: BATCH,
        precision: plan.precision.to_string(),
        threads: plan.threads,
        seed: SEED,
    }
}

/// Shapes of all learned weights, sorted.
fn shapes(weights: &Weights) -> Vec<Vec<i64>> {
    let mut shapes: Vec<Vec<i64>> = weights.all_learned().iter().map(|(_, t)| t.size()).collect();
    shapes.sort();
    shapes
}

fn count(shape: &[i64]) -> i64 {
    shape.iter().product()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{} {}, {} at {}x{}, {} weights, {} pictures a step, {} thread(s), {} steps\n\n",
            self.variant,
            self.precision,
            if self.channels == 1 { "grey" } else { "RGB" },
            self.size,
            self.size,
            self.weights,
            self.batch,
            self.threads,
            self.steps
        );
        text += "phase        p50 ms   mean ms   share\n";
        for p in &self.phases {
            text += &format!(
                "{:<10} {:>8.2} {:>9.2} {:>6.1} %\n",
                p.phase,
                p.median_ms,
                p.mean_ms,
                p.share * 100.0
            );
        }
        text += &format!("{:<10} {:>8.2} {:>9.2}\n\n", "step", self.step_ms, self.mean_step_ms);
        text += &format!(
            "{:.1} steps/s, {:.0} pictures/s; a batch is made in {:.2} ms on its own thread, beside the step\n",
            self.steps_per_s, self.pictures_per_s, self.make_batch_ms
        );
        if let Some(b) = &self.pytorch {
            text += &format!(
                "PyTorch {}, {} weights: ours {:.2} ms, PyTorch's {:.2} ms a step; ours / PyTorch's {:.3} ({:.3} to {:.3} in {} rounds)\n",
                b.version,
                b.weights,
                b.step_ms[0],
                b.step_ms[1],
                b.ratio,
                b.ratio_range[0],
                b.ratio_range[1],
                b.rounds_ms.len()
            );
        }
        text
    }
}
