//! From loaded goods to a network with its statistics and thresholds.
//!
//! In order: deal the goods out, learn until the budget is spent (or Ctrl-C), put the averaged weights in
//! place, estimate BatchNorm anew, take statistics, calibrate. A stopped fit goes the same way with the
//! steps that it has, and leaves a checkpoint to go on from.
//!
//! Never here: the test split; what a step does ([`crate::learn`]).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use inspect_core::card::{Calibration, Thresholds};
use inspect_core::model::hex;
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

use crate::backbone::{Backbone, BackboneError, Frozen};
use crate::batches::{Batches, Options, Symmetry};
use crate::calibrate::{CalibrateError, calibrate, check_alpha};
use crate::checkpoint::{self, CheckpointError, Identity};
use crate::data::Goods;
use crate::defects::Family;
use crate::infer::{Part, estimate_norm, scores, to_pixels};
use crate::learn::{BATCH, Budget, Learner, Learnt, Run, learn};
use crate::made::MadeSet;
use crate::net::{Shape, Variant, features};
use crate::real::RealDefect;
use crate::score::{self, Fusion};
use crate::split::{Split, SplitError, split};
use crate::torch::{Precision, Torch, Weights};

/// Copies of goods that the statistics are drawn from.
const STATISTICS_COPIES: usize = 512;
/// Most goods that normalisation is estimated from.
const SAMPLE: usize = 128;
/// Share of the damaged pictures that generators make in the end, where nothing else is said.
pub const MADE_SHARE: f64 = 0.35;
/// Share of the steps over which it rises to that.
const MADE_RISE: f64 = 0.4;
/// The steps of it where a time budget leaves their number open: the first steps must not depend on it.
const MADE_RISE_STEPS: u64 = 400;
/// Batches that BatchNorm is estimated from.
const NORM_BATCHES: u64 = 32;

/// What a fit is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Width of the network.
    pub variant: Variant,
    /// The user's network whose features are looked at instead of pixels, tried at the goods' size. `crop` and
    /// `exposure` cannot be had with it.
    pub backbone: Option<Arc<Backbone>>,
    /// When to stop.
    pub budget: Budget,
    /// Seed of everything random.
    pub seed: u64,
    /// How the part may lie.
    pub symmetry: Symmetry,
    /// Whether each picture's brightness and contrast are taken out.
    pub exposure: bool,
    /// Side of the windows that the network learns from, pixels; `None`: whole pictures.
    pub crop: Option<u32>,
    /// Families of made defects that the network never learns from; it is then judged on those.
    pub without: Vec<Family>,
    /// Known defects to learn from beside the made ones, at the model's size.
    pub real: Vec<RealDefect>,
    /// Defects of generators to learn from beside those, at the model's size; none is the rule.
    pub made: Vec<MadeSet>,
    /// Share of the damaged pictures without a real defect that show one of them in the end, 0 to 1.
    pub made_share: f64,
    /// What makes the score.
    pub fusion: Fusion,
    /// False-reject budget of the reject threshold.
    pub alpha: f64,
    /// False-reject budget of the review threshold.
    pub review_alpha: f64,
    /// Threads; `None`: one or all cores, whichever is faster.
    pub threads: Option<usize>,
    /// Where the network learns.
    pub device: Device,
    /// And in what numbers.
    pub precision: Precision,
    /// Where to keep what a stopped fit goes on from; goes on from it where it is there.
    pub checkpoint: Option<PathBuf>,
    /// Time between two checkpoints.
    pub checkpoint_every: Duration,
}

impl Default for Settings {
    /// Ten minutes on the processor, for a part that always lies the same way; no checkpoint.
    fn default() -> Self {
        Self {
            variant: Variant::Xs,
            backbone: None,
            budget: Budget::Time(Duration::from_secs(600)),
            seed: 0,
            symmetry: Symmetry::None,
            exposure: false,
            crop: None,
            without: Vec::new(),
            real: Vec::new(),
            made: Vec::new(),
            made_share: MADE_SHARE,
            fusion: Fusion::Fused,
            alpha: 0.05,
            review_alpha: 0.05,
            threads: None,
            device: Device::Cpu,
            precision: Precision::F32,
            checkpoint: None,
            checkpoint_every: Duration::from_secs(60),
        }
    }
}

impl Settings {
    /// Families of made defects to learn from.
    fn families(&self) -> Vec<Family> {
        Family::ALL.iter().copied().filter(|f| !self.without.contains(f)).collect()
    }

    /// Steps over which the share of generators' defects rises.
    fn made_rise(&self) -> u64 {
        match self.budget {
            Budget::Steps(steps) => (steps as f64 * MADE_RISE) as u64,
            Budget::Time(_) => MADE_RISE_STEPS,
        }
    }

    /// What has to be the same for a fit to go on from a checkpoint.
    pub(crate) fn identity(&self, goods: &Goods) -> Identity {
        let text = |name: &str, value: String| (name.to_owned(), value);
        let mut identity = Identity::from([
            text("way of learning", LEARNING.to_owned()),
            text("goods (SHA-256)", goods.sha256.clone()),
            text("goods as seen: order, lots, region, mask (SHA-256)", seen(goods)),
            text("--real (SHA-256)", real_sha256(&self.real)),
            text("--device", format!("{:?}", self.device)),
            text("--size", goods.input.width.to_string()),
            text("channels", goods.input.channels.to_string()),
            text("--variant", self.variant.to_string()),
            text("--seed", self.seed.to_string()),
            text("--symmetry", self.symmetry.to_string()),
            text("--normalise", self.exposure.to_string()),
            text("--crop", self.crop.map_or("none".into(), |c| c.to_string())),
            text("--without", self.without.iter().map(Family::to_string).collect::<Vec<_>>().join(",")),
            text("--precision", self.precision.to_string()),
            text("--alpha", self.alpha.to_string()),
            text("version", env!("CARGO_PKG_VERSION").to_owned()),
        ]);
        if let Some(backbone) = &self.backbone {
            identity.extend([text("--backbone (SHA-256)", backbone.sha256.clone())]);
            identity.extend([text("--backbone-mean and --backbone-std", format!("{:?}", backbone.scale))]);
        }
        for set in &self.made {
            identity.extend([text(&format!("--defects {} (SHA-256)", set.name), set.sha256.clone())]);
            identity.extend([text("--defects-share", self.made_share.to_string())]);
        }
        identity.extend([match self.budget {
            Budget::Steps(steps) => text("--steps", steps.to_string()),
            Budget::Time(time) => text("--minutes", (time.as_secs_f64() / 60.0).to_string()),
        }]);
        identity
    }
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
    /// Loading or drawing took the time.
    #[error(
        "reading (and, with --defects, drawing) the pictures took {used_s} of {of_s} seconds, so too little is left to train; give more --minutes or fewer pictures"
    )]
    NoTime {
        /// Seconds that are gone.
        used_s: u64,
        /// Seconds of the budget.
        of_s: u64,
    },
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The backbone.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// The thread that makes batches is gone.
    #[error(
        "the thread that prepares pictures ended early at step {step}; this is a fault of inspect-train, please report it"
    )]
    Feed {
        /// Where.
        step: u64,
    },
}

/// What a step does to the weights, by number: raised when that changes, so that no checkpoint of another way
/// is taken up.
const LEARNING: &str = "1";

/// Pixels, lots and mask in their order, as one number.
pub fn seen(goods: &Goods) -> String {
    let mut digest = Sha256::new();
    for (pixels, group) in goods.pixels.iter().zip(&goods.groups) {
        digest.update(pixels);
        digest.update(group.as_bytes());
        digest.update([0]);
    }
    goods.mask.iter().flatten().for_each(|m| digest.update(m.to_le_bytes()));
    hex(&digest.finalize())
}

fn real_sha256(real: &[RealDefect]) -> String {
    let mut digest = Sha256::new();
    for defect in real {
        digest.update(&defect.pixels);
        defect.mask.iter().for_each(|m| digest.update(m.to_le_bytes()));
    }
    hex(&digest.finalize())
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
    pub learnt: Learnt,
}

/// The goods that a fit's weights see, and nothing that holds its limit to account.
///
/// Errors: [`FitError::Split`].
pub fn fitting_goods(goods: &Goods, settings: &Settings) -> Result<Goods, FitError> {
    let split = split(&goods.groups, settings.alpha, settings.seed)?;
    let of = |all: &[String]| split.fit.iter().map(|&i| all[i].clone()).collect();
    let pixels = split.fit.iter().map(|&i| goods.pixels[i].clone()).collect();
    Ok(Goods {
        pixels,
        groups: of(&goods.groups),
        names: of(&goods.names),
        mask: goods.mask.clone(),
        sha256: goods.sha256.clone(),
        notes: Vec::new(),
        ..*goods
    })
}

/// Fits a network on the goods.
///
/// Errors: [`FitError`].
pub fn fit(goods: &Goods, settings: &Settings, run: Run) -> Result<Fitted, FitError> {
    check_alpha(settings.alpha, settings.review_alpha)?;
    let split = split(&goods.groups, settings.alpha, settings.seed)?;
    let mut shape = Shape {
        size: i64::from(goods.input.width),
        channels: i64::from(goods.input.channels),
        variant: settings.variant,
        exposure: settings.exposure,
        masked: goods.mask.is_some(),
        features: None,
    };
    let weights = Weights::new(settings.device);
    let fit_pixels: Vec<&[u8]> = split.fit.iter().map(|&i| goods.pixels[i].as_slice()).collect();
    let sample = &sample(&fit_pixels);
    let pixels: Vec<Tensor> = to_pixels(sample, goods.input).collect();
    let pixels = Tensor::cat(&pixels, 0).to_device(weights.device);
    if let Some(matters) = &goods.mask {
        score::set_mask(&weights, matters, &pixels, shape);
    }
    match &settings.backbone {
        Some(backbone) => shape.features = Some(set_backbone(&weights, backbone, &pixels, settings)?),
        None => score::set_normalisation(&weights, &pixels, shape),
    }
    drop(pixels);
    let options = Options {
        symmetry: settings.symmetry,
        seed: settings.seed,
        families: settings.families(),
        crop: settings.crop.map(|c| c as usize),
        matters: goods.mask.as_deref(),
        real: &settings.real,
        made: &settings.made,
        made_share: settings.made_share,
        made_rise: settings.made_rise(),
        ..Options::default()
    };
    let mut batches = Batches::new(fit_pixels.clone(), goods.input, options.clone());
    let learnt = learn_or_resume(&weights, shape, &mut batches, goods, settings, run);
    let learnt = learnt.map_err(|error| broken(&weights).unwrap_or(error))?;

    let whole = Options { crop: None, ..options };
    let mut batches = Batches::new(fit_pixels.clone(), goods.input, whole.clone());
    estimate_norm(&weights, clean(&weights, &mut batches, shape), shape, Part::Vae);
    estimate_norm(&weights, mixed(&weights, &mut batches, shape), shape, Part::Head);
    let copies = statistics_copies(&weights, goods, &split, whole, shape);
    score::set_statistics(&weights, copies, shape, settings.fusion);

    let held_out: Vec<&[u8]> = split.calibration.iter().map(|&i| goods.pixels[i].as_slice()).collect();
    let scores = scores(&weights, shape, &held_out, goods.input);
    let groups: Vec<&str> = split.calibration.iter().map(|&i| goods.groups[i].as_str()).collect();
    if let Some(error) = broken(&weights) {
        return Err(error);
    }
    let (thresholds, calibration) = calibrate(&scores, &groups, settings.alpha, settings.review_alpha)?;
    Ok(Fitted { weights, shape, split, thresholds, calibration, learnt })
}

/// Puts the backbone before the network, whitened by fitting goods. Returns the channels of its features.
fn set_backbone(
    weights: &Weights,
    backbone: &Arc<Backbone>,
    pixels: &Tensor,
    settings: &Settings,
) -> Result<i64, FitError> {
    let most = features::widths(settings.variant).features;
    let frozen = Frozen::new(backbone.clone(), &score::painted(weights, pixels), most, settings.threads)?;
    let channels = frozen.channels();
    weights.set_frozen(frozen);
    Ok(channels)
}

/// Why the backbone failed, which is why whatever came after it is no number.
fn broken(weights: &Weights) -> Option<FitError> {
    weights.frozen()?.failure().map(FitError::Backbone)
}

/// Steps from the checkpoint on, where there is one; afterwards the weights are the averaged ones.
fn learn_or_resume(
    weights: &Weights,
    shape: Shape,
    batches: &mut Batches,
    goods: &Goods,
    settings: &Settings,
    run: Run,
) -> Result<Learnt, FitError> {
    let mut learner = Learner::new(weights, shape, settings.seed, settings.precision);
    let mut identity = settings.identity(goods);
    if let Some(frozen) = weights.frozen() {
        // Learnt anew in each run: weights that were learnt with others would read other features in their places.
        identity.insert("features of the backbone (SHA-256)".into(), frozen.whitening.sha256());
    }
    let mut resumed = Learnt { steps: 0, of: None };
    if let Some(path) = &settings.checkpoint
        && let Some(found) = checkpoint::load(path, &identity, &mut learner.optimiser)?
    {
        resumed = found;
    }
    let mut save = |learner: &Learner, learnt: &Learnt| match &settings.checkpoint {
        Some(path) => Ok(checkpoint::save(path, &identity, learnt, &learner.optimiser)?),
        None => Ok(()),
    };
    let learnt = learn(&mut learner, batches, settings, resumed, run, &mut save)?;
    learner.optimiser.apply_average();
    Ok(learnt)
}

/// At most [`SAMPLE`] pictures, evenly spread.
fn sample<'a>(pictures: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let step = pictures.len().div_ceil(SAMPLE).max(1);
    pictures.iter().step_by(step).copied().collect()
}

/// Clean goods as they may also lie, shuffled: pictures of one lot together would hide how lots differ.
fn clean<'a>(
    weights: &'a Weights,
    batches: &'a mut Batches<'_>,
    shape: Shape,
) -> impl Iterator<Item = Tensor> {
    (0..NORM_BATCHES).map(move |i| as_input(weights, &batches.copies(i, 2 * BATCH, true), shape))
}

/// Batches as the head learnt from them, but others: from the far end of the numbering, which no fit reaches.
fn mixed<'a>(
    weights: &'a Weights,
    batches: &'a mut Batches<'_>,
    shape: Shape,
) -> impl Iterator<Item = Tensor> {
    (0..NORM_BATCHES).map(move |i| as_input(weights, &batches.batch(u64::MAX - i, 2 * BATCH).input, shape))
}

/// Shape: `[N, C, S, S]`, 0 to 255 → the same in the network's unit.
fn as_input(weights: &Weights, pixels: &[f32], shape: Shape) -> Tensor {
    let pixels = Tensor::from_slice(pixels).view([-1, shape.channels, shape.size, shape.size]);
    score::normalise(&mut Torch::eval(weights), &pixels.to_device(weights.device), shape)
}

/// Goods for the statistics, normalised: those kept for it in every turn that the symmetry allows;
/// where there are none, turned and shifted copies of the goods that were fitted on, since a small network
/// knows those too well as they are.
fn statistics_copies<'a>(
    weights: &'a Weights,
    goods: &'a Goods,
    split: &'a Split,
    options: Options<'a>,
    shape: Shape,
) -> impl Iterator<Item = Tensor> + 'a {
    let own = !split.statistics.is_empty();
    let chosen = if own { &split.statistics } else { &split.fit };
    let pixels = chosen.iter().map(|&i| goods.pixels[i].as_slice()).collect();
    // Goods of their own are taken as they are, but for the ways that they may lie.
    let exposure = if own { 0.0 } else { options.exposure };
    let mut batches =
        Batches::new(pixels, goods.input, Options { seed: options.seed ^ 1, exposure, ..options });
    (0..STATISTICS_COPIES.div_ceil(BATCH))
        .map(move |index| as_input(weights, &batches.copies(index as u64, BATCH, !own), shape))
}

#[cfg(test)]
mod tests {
    use super::*;
    use inspect_core::card::Input;
    use std::sync::atomic::AtomicBool;
    use std::time::Instant;

    #[test]
    fn a_stopped_fit_has_taken_a_step() {
        let pixels = (0..20u8).map(|i| vec![i * 9; 1024]).collect();
        let groups = (0..20).map(|i| i.to_string()).collect();
        let input = Input { width: 32, height: 32, channels: 1 };
        let goods = Goods::new(input, pixels, groups);
        let budget = Budget::Time(Duration::from_secs(3600));
        let settings = Settings { variant: Variant::Xxs, budget, ..Settings::default() };
        let stopped = AtomicBool::new(true);
        let run = Run { start: Instant::now(), stop: &stopped, report: &mut |_| {} };
        let fitted = fit(&goods, &settings, run).unwrap();
        assert_eq!(fitted.learnt.steps, 1);
        assert!(fitted.thresholds.are_sound() && fitted.thresholds.reject > 0.0);
    }
}
