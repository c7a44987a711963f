//! The reader: a small network that learns from real defects to tell what a picture of one shows.
//!
//! Six convolutions; all places of their result, since the defect lies in the middle; one hidden layer; an answer for
//! each question ([`super::questions`]). Norms are over batches: one over the picture itself would hide how plain a
//! defect is. Beside the pixels it sees how they differ from the twin's, where there are twins, and where each of them
//! is in the whole picture, since captions say where a defect is. It learns from all cuts, moved by some pixels and
//! turned as the part may lie, for a fixed number of steps; the same cases and seed give the same reader with one
//! thread.
//!
//! Never here: files; shares of right answers.

use std::sync::atomic::{AtomicBool, Ordering};

use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tch::{Device, Kind, Reduction, Tensor, no_grad};

use super::cases::{Case, Look, MARGIN_PX};
use super::questions::{Questions, Wanted};
use crate::defects::Random;
use crate::generators::layers::{Layers, Start};
use crate::infer::floats_of;
use crate::optimiser::{Optimiser, Pace};
use crate::pose::{Pose, Window, lay};
use crate::torch::{Norm, Precision, Torch, Weights};

/// Channels of the convolutions at full, half and a quarter of the resolution, and of the hidden layer.
const WIDTHS: [i64; 3] = [16, 32, 64];
const HIDDEN: i64 = 128;
/// Cases of a step.
const BATCH: usize = 32;
/// Steps: each case is seen about so often, within these limits.
const TIMES_SEEN: usize = 40;
const STEPS: std::ops::RangeInclusive<usize> = 600..=2_500;
/// Peak learning rate, and steps over which it rises.
const RATE: f64 = 2e-3;
const RISE: usize = 50;
const PACE: Pace = Pace { beta: (0.9, 0.999), weight_decay: 0.02, max_gradient: 1.0, average_decay: 0.995 };
/// Where it looks from when it is asked, pixels beside the middle: the answers' mean counts.
const LOOKS_PX: [[i64; 2]; 4] = [[0, 0], [-1, 1], [1, 1], [0, -2]];
/// Cases that are asked about together.
const CHUNK: usize = 64;
/// Batches from which the norms' statistics are taken in the end.
const ESTIMATED: usize = 40;
/// A process parameter that is off by more deviations than this counts as off by it, not its square.
const HUBER: f64 = 1.0;

/// How it learns.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How the part may lie ([`Pose::turn`]).
    pub turns: Vec<u8>,
    /// Seed of everything random.
    pub seed: u64,
    /// Steps; `None`: by the number of cases.
    pub steps: Option<usize>,
}

/// What has learnt.
pub struct Reader {
    weights: Weights,
    precision: Precision,
    look: Look,
    answers: i64,
    seed: u64,
}

impl Reader {
    /// Learns from cases. `None` if it was stopped.
    pub fn learn(
        cases: &[&Case],
        questions: &Questions,
        look: Look,
        plan: &Plan,
        stop: &AtomicBool,
    ) -> Option<Self> {
        let device = Device::Cpu;
        let (answers, precision) = (questions.answers as i64, Precision::fastest(device));
        let mut reader = Self { weights: Weights::new(device), precision, look, answers, seed: plan.seed };
        let wanted: Vec<Wanted> = cases.iter().map(|c| questions.wanted(c)).collect();
        let mut r = Random::seed_from_u64(plan.seed);
        let see = |i: usize, r: &mut Random, out: &mut Vec<f32>| {
            let reach = MARGIN_PX as i64;
            let shift = [0, 1].map(|_| r.random_range(-reach..=reach));
            let turn = plan.turns.get(r.random_range(0..plan.turns.len().max(1))).copied().unwrap_or(0);
            look.see(cases[i], &Pose { turn, shift, ..Pose::PLAIN }, out);
        };
        let steps =
            plan.steps.unwrap_or((cases.len() * TIMES_SEEN / BATCH).clamp(*STEPS.start(), *STEPS.end()));
        let mut order = Vec::new();
        let mut draw = |r: &mut Random| {
            let (mut pixels, mut batch) = (Vec::new(), Vec::with_capacity(BATCH));
            while batch.len() < BATCH && !cases.is_empty() {
                if order.is_empty() {
                    order = (0..cases.len()).collect();
                    order.shuffle(r);
                }
                let i: usize = order.pop().unwrap_or(0);
                see(i, r, &mut pixels);
                batch.push(&wanted[i]);
            }
            (look.tensor(&pixels, batch.len()), batch)
        };
        let (x, _) = draw(&mut r);
        drop(no_grad(|| reader.answers(&x, Norm::Estimate(1.0)))); // makes the weights
        let mut optimiser = Optimiser::with(&reader.weights, PACE);
        for step in 0..steps {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let (x, batch) = draw(&mut r);
            let told = reader.answers(&x, Norm::Batch);
            let gradient = optimiser.gradient(&loss(&told, &batch, questions.classes.len() as i64 + 1));
            optimiser.step(gradient, rate(step, steps));
        }
        optimiser.apply_average();
        reader.precision = Precision::F32;
        for k in 0..ESTIMATED {
            let (x, _) = draw(&mut r);
            drop(no_grad(|| reader.answers(&x, Norm::Estimate(1.0 / (k + 1) as f64))));
        }
        Some(reader)
    }

    /// What it says of cases, the mean of several looks. Shape: → one for each case, `[answers]`.
    pub fn read(&self, cases: &[Case]) -> Vec<Vec<f32>> {
        let chunk = |cases: &[Case]| -> Vec<Vec<f32>> {
            let mut pixels = Vec::new();
            for shift in LOOKS_PX {
                cases.iter().for_each(|c| self.look.see(c, &Pose { shift, ..Pose::PLAIN }, &mut pixels));
            }
            let looks = LOOKS_PX.len() as i64;
            let x = self.look.tensor(&pixels, cases.len() * LOOKS_PX.len());
            let told =
                no_grad(|| self.answers(&x, Norm::Stored)).view([looks, cases.len() as i64, self.answers]);
            let told = floats_of(&told.mean_dim([0i64].as_slice(), false, Kind::Float));
            told.chunks_exact(self.answers as usize).map(<[f32]>::to_vec).collect()
        };
        cases.chunks(CHUNK).flat_map(chunk).collect()
    }

    /// Shape: `[N, C + 2, s, s]`, with twins `[N, 2 C + 2, s, s]` → `[N, answers]`, f32
    fn answers(&self, x: &Tensor, norm: Norm) -> Tensor {
        let layers = Layers { precision: self.precision, ..Layers::new(&self.weights, self.seed) };
        let mut torch = Torch { weights: &self.weights, norm, precision: self.precision };
        let half = |h: &Tensor| h.max_pool2d([2; 2], [2; 2], [0; 2], [1; 2], false);
        let mut h = x.shallow_clone();
        for (level, width) in WIDTHS.into_iter().enumerate() {
            for part in 0..2 {
                let name = format!("conv{level}{part}");
                h = layers.conv(&h, &name, (width, 3, 1), Start::Usual);
                h = torch.batch_norm(&h, &name, width).relu();
            }
            h = half(&h);
        }
        let hidden = layers.linear(&h.flatten(1, -1), "hidden", HIDDEN, Start::Usual).relu();
        layers.linear(&hidden, "answers", self.answers, Start::Small).to_kind(Kind::Float)
    }
}

impl Look {
    /// Appends what is seen of a case: its pixels, with twins how they differ, and where each of them is.
    /// Shape: `[C + 2, s, s]`, with twins `[2 C + 2, s, s]`
    fn see(&self, case: &Case, pose: &Pose, out: &mut Vec<f32>) {
        let window = Window { at: [MARGIN_PX; 2], side: self.input_px };
        let first = out.len();
        lay(out, &case.pixels, self.cut_px(), self.channels, pose, window, |v| (f32::from(v) - 128.0) / 64.0);
        if self.twins {
            let second = out.len();
            let differences = |v: u8| (128.0 - f32::from(v)) / 64.0;
            lay(out, &case.twin, self.cut_px(), self.channels, pose, window, differences);
            for i in second..out.len() {
                out[i] += out[first + i - second];
            }
        }
        // The part's place turns with the part.
        let sign = [1u8, 2].map(|bit| if pose.turn & bit != 0 { -1.0 } else { 1.0 });
        let mut at = [0, 1].map(|k| case.at[k] * sign[k]);
        if pose.turn & 4 != 0 {
            at.swap(0, 1);
        }
        let (pixel, middle) = (2.0 * self.pixel as f32, (self.input_px as f32 - 1.0) / 2.0);
        let place = |k: usize, i: usize| at[k] + (i as f32 - middle + pose.shift[k] as f32) * pixel;
        let side = self.input_px;
        out.extend((0..side * side).map(|i| place(0, i % side)));
        out.extend((0..side * side).map(|i| place(1, i / side)));
    }

    fn tensor(&self, pixels: &[f32], n: usize) -> Tensor {
        let side = self.input_px as i64;
        let planes = self.channels as i64 * if self.twins { 2 } else { 1 } + 2;
        Tensor::from_slice(pixels).view([n as i64, planes, side, side])
    }
}

/// Linear rise, then half a cosine down to nothing.
fn rate(step: usize, steps: usize) -> f64 {
    let rise = ((step + 1) as f64 / RISE as f64).min(1.0);
    let spent = step as f64 / steps.max(1) as f64;
    RATE * rise * (1.0 + (spent * std::f64::consts::PI).cos()) / 2.0
}

/// Cross-entropy of the class, mean cross-entropy of the words asked, mean Huber loss of the parameters known.
fn loss(told: &Tensor, wanted: &[&Wanted], classes: i64) -> Tensor {
    let rows = |of: fn(&Wanted) -> &Vec<f32>| {
        let all: Vec<f32> = wanted.iter().flat_map(|w| of(w).iter().copied()).collect();
        Tensor::from_slice(&all).view_as(told)
    };
    let class: Vec<i64> = wanted.iter().map(|w| w.class).collect();
    let by_class = told.narrow(1, 0, classes).cross_entropy_for_logits(&Tensor::from_slice(&class));
    let (value, word, parameter) = (rows(|w| &w.value), rows(|w| &w.word), rows(|w| &w.parameter));
    let mean = |each: Tensor, weight: &Tensor| {
        (each * weight).sum(Kind::Float) / weight.sum(Kind::Float).clamp_min(1.0)
    };
    let none = None::<&Tensor>;
    let by_word = told.binary_cross_entropy_with_logits(&value, none, none, Reduction::None);
    by_class + mean(by_word, &word) + mean(told.huber_loss(&value, Reduction::None, HUBER), &parameter)
}
