//! From goods and real defects to a generator.
//!
//! Two parts: the first [`PROCEDURAL_PART`] of the steps on procedural defects, which teach what a defect on this part
//! can look like at all; the rest on real ones, with some procedural ones among them, if there is a class of at least
//! [`LEAST_TO_LEARN`]. Where there are many real ones, both shares are smaller ([`Source::procedural_weight`]). Classes
//! of fewer are not learnt from: the generator would repeat them. They are pasted.
//!
//! Crops, noise and learning rate of a step follow from the seed and the step's number, so that a fit that goes on
//! from a checkpoint makes the same steps as one that was never stopped (to the bit, with one thread).
//!
//! libtorch has one generator of numbers for the whole process: one fit at a time in it.
//!
//! Never here: the command line; whether what comes out is worth anything.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tch::Device;

use super::crops::Source;
use super::file::{self, Header};
use super::known::{Found, LEAST_TO_LEARN};
use super::{Catalogue, ConditionError, CropShape, Kind, Losses, Network, Progress, Stage};
use crate::batches::Symmetry;
use crate::checkpoint::{CheckpointError, Identity};
use crate::clock::{Clock, Pacing};
use crate::data::Goods;
use crate::defects::Family;
use crate::fit::{FitError, seen};
use crate::learn::{self, Budget, Learnt, MAX_STEPS, Run};
use crate::threads::Threads;

/// Share of the steps that is spent on procedural defects where few real ones follow.
pub const PROCEDURAL_PART: f64 = 0.6;
/// Share by which a mean loss moves towards that of a step.
const MEAN_SHARE: f64 = 0.02;
/// Share of a time budget that is kept for the file.
const RESERVE: f64 = 0.01;
/// What a step does to the weights, by number: raised when that changes.
const LEARNING: &str = "2";

/// Why a generator was not fitted.
#[derive(Debug, thiserror::Error)]
pub enum GeneratorError {
    /// Time, or a loss that is no number.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// What is said of the pictures.
    #[error("what manifest.csv says of the real defects: {0}")]
    Condition(#[from] ConditionError),
    /// Crops larger than the pictures.
    #[error("--side {side}: expected a multiple of 16 from 16 to {most} pixels, at most --size {size}")]
    Side {
        /// What was given.
        side: u32,
        /// Most there can be.
        most: u32,
        /// Side of the pictures.
        size: u32,
    },
}

/// What a fit is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How it is built.
    pub kind: Kind,
    /// When to stop.
    pub budget: Budget,
    /// Side of the crops, pixels.
    pub side: u32,
    /// Channels at the finest level.
    pub width: i64,
    /// Crops a step.
    pub batch: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// How the part may lie.
    pub symmetry: Symmetry,
    /// Families of procedural defects; none: all.
    pub families: Vec<Family>,
    /// Threads; `None`: one or all cores, whichever is faster.
    pub threads: Option<usize>,
    /// Where it learns.
    pub device: Device,
    /// Where to keep what a stopped fit goes on from; goes on from it where it is there.
    pub checkpoint: Option<PathBuf>,
    /// Time between two checkpoints.
    pub checkpoint_every: Duration,
}

impl Settings {
    /// Ten minutes on the processor at crops of 64 pixels; no checkpoint.
    pub fn of(kind: Kind) -> Self {
        Self {
            kind,
            budget: Budget::Time(Duration::from_secs(600)),
            side: 64,
            width: kind.width(),
            batch: kind.batch(),
            seed: 0,
            symmetry: Symmetry::None,
            families: Vec::new(),
            threads: None,
            device: Device::Cpu,
            checkpoint: None,
            checkpoint_every: Duration::from_secs(60),
        }
    }

    /// What has to be the same for a fit to go on from a checkpoint.
    fn identity(&self, goods: &Goods, found: &Found) -> Identity {
        let budget = match self.budget {
            Budget::Steps(steps) => ("--steps", steps.to_string()),
            Budget::Time(time) => ("--minutes", (time.as_secs_f64() / 60.0).to_string()),
        };
        let families: Vec<String> = self.families.iter().map(Family::to_string).collect();
        let all = [
            ("way of learning", LEARNING.to_owned()),
            ("--kind", self.kind.to_string()),
            ("goods (SHA-256)", goods.sha256.clone()),
            ("goods as seen: order, lots, region, mask (SHA-256)", seen(goods)),
            ("real defects (SHA-256)", found.sha256.clone()),
            ("--device", format!("{:?}", self.device)),
            ("--size", goods.input.width.to_string()),
            ("channels", goods.input.channels.to_string()),
            ("--side", self.side.to_string()),
            ("--width", self.width.to_string()),
            ("--batch", self.batch.to_string()),
            ("--seed", self.seed.to_string()),
            ("--symmetry", self.symmetry.to_string()),
            ("--family", families.join(",")),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            budget,
        ];
        all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// What a step gives: which part of the fit it belongs to, and losses, averaged over some 50 steps.
pub type Step = (Stage, Losses);

/// A fitted generator that is in no file yet.
pub struct Fitted {
    /// What its file will say of it.
    pub header: Header,
    /// The network with its averaged weights.
    pub network: Network,
}

/// Fits a generator.
///
/// Errors: [`GeneratorError`].
pub fn fit(
    goods: &Goods,
    found: &Found,
    settings: &Settings,
    run: Run<Step>,
) -> Result<Fitted, GeneratorError> {
    let (side, size) = (settings.side, goods.input.width);
    let most = *file::SIDES_PX.end();
    if !side.is_multiple_of(16) || !file::SIDES_PX.contains(&side) || side > size {
        return Err(GeneratorError::Side { side, most, size });
    }
    let real = found.learnable();
    let source =
        Source::new(goods, &real, side as usize, settings.symmetry, &settings.families, settings.seed);
    let catalogue = source.catalogue()?;
    let crop = CropShape { side: i64::from(side), channels: i64::from(goods.input.channels) };
    tch::manual_seed(settings.seed as i64);
    let mut network = Network::new(settings.kind, settings.device, crop, &catalogue.shape(), settings.width);
    let identity = settings.identity(goods, found);
    let mut resumed = Learnt { steps: 0, of: None };
    if let Some(path) = &settings.checkpoint
        && let Some(earlier) = file::load(path, &identity, &mut network)?
    {
        resumed = earlier;
    }
    let lesson = Lesson { source: &source, catalogue: &catalogue, has_real: !real.is_empty(), settings };
    let save = |network: &Network, learnt: &Learnt| match &settings.checkpoint {
        Some(path) => file::save(path, &identity, learnt, network),
        None => Ok(()),
    };
    let learnt = learn(&mut network, &lesson, resumed, run, &save)?;
    network.finish();
    let counts = found.counts();
    let (enough, pasted): (BTreeMap<_, _>, _) = counts.into_iter().partition(|(_, n)| *n >= LEAST_TO_LEARN);
    let header = Header {
        format: Header::FORMAT,
        kind: settings.kind,
        crop,
        width: settings.width,
        size_px: size,
        roi: goods.roi,
        symmetry: settings.symmetry.to_string(),
        catalogue,
        learnt: enough,
        pasted,
        steps: learnt.steps,
        of: learnt.of,
        settings: identity,
    };
    Ok(Fitted { header, network })
}

/// What is learnt, and how.
struct Lesson<'a> {
    source: &'a Source<'a>,
    catalogue: &'a Catalogue,
    has_real: bool,
    settings: &'a Settings,
}

impl Lesson<'_> {
    fn at(&self, step: u64, of: Option<u64>) -> Progress {
        let seed = self.settings.seed ^ (step + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let progress = Progress { step, of, stage: Stage::Procedural, seed };
        let real = self.has_real && progress.spent() >= PROCEDURAL_PART * self.source.procedural_weight();
        Progress { stage: if real { Stage::Real } else { Stage::Procedural }, ..progress }
    }
}

/// Steps until the budget is spent or the fit is stopped.
fn learn(
    network: &mut Network,
    lesson: &Lesson,
    resumed: Learnt,
    run: Run<Step>,
    save: &dyn Fn(&Network, &Learnt) -> Result<(), CheckpointError>,
) -> Result<Learnt, GeneratorError> {
    let settings = lesson.settings;
    let pacing = Pacing {
        budget: settings.budget,
        threads: settings.threads,
        checkpoint_every: settings.checkpoint_every,
        reserve: RESERVE,
    };
    let mut clock = Clock::new(&pacing, &resumed, run.start, Instant::now())?;
    let mut threads = Threads::new(settings.threads);
    let (first, begin) = (resumed.steps, Instant::now());
    let (mut step, mut mean) = (first, None::<Losses>);
    while clock.of.is_none_or(|of| step < of) && step < MAX_STEPS {
        if run.stop.load(Ordering::Relaxed) && step > 0 {
            break;
        }
        threads.before(step - first);
        let step_start = Instant::now();
        let at = lesson.at(step, clock.of);
        let crops = lesson.source.crops(lesson.catalogue, step, settings.batch, at.stage)?;
        tch::manual_seed(at.seed as i64);
        let losses = network.step(&crops, at);
        threads.after(step - first, step_start.elapsed().as_secs_f64());
        step += 1;
        clock.after(step - first, Instant::now());
        if let Some((_, loss)) = losses.0.iter().find(|(_, v)| !v.is_finite()) {
            return Err(FitError::Diverged { step, loss: *loss }.into());
        }
        let since_start = step - first;
        let earlier = mean.take();
        let losses = mean.insert(mean_of(earlier, losses, since_start)).clone();
        let (elapsed, gave) = (begin.elapsed(), (at.stage, losses));
        (run.report)(&learn::Progress { step, of: clock.of, elapsed, since_start, gave });
        if clock.save_due() {
            save(network, &Learnt { steps: step, of: clock.of })?;
        }
    }
    let learnt = Learnt { steps: step, of: clock.of };
    save(network, &learnt)?;
    Ok(learnt)
}

fn mean_of(mean: Option<Losses>, now: Losses, since_start: u64) -> Losses {
    let share = (1.0 / since_start.max(1) as f64).max(MEAN_SHARE);
    let Some(mean) = mean else { return now };
    let earlier = |name: &str| mean.0.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
    let moved = |(name, v): (&'static str, f64)| {
        (name, earlier(name).map_or(v, |earlier| earlier + (v - earlier) * share))
    };
    Losses(now.0.into_iter().map(moved).collect())
}
