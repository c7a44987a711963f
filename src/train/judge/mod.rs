//! What made defects are worth: `inspect-train defects judge`.
//!
//! It works on folders, so that any generator's pictures can be judged, those of another program too. What decides
//! is [`fits`]: whether a model that learnt from them finds real defects better than one that learnt from procedural
//! defects alone; [`kept`] lets a judgement that was stopped go on. The rest says why. [`sets`] cuts crops out of pictures of one size ([`sizes`]), [`features`] is the space where they are
//! compared, [`distance`] and [`classify`] compare them, [`obeyed`] asks whether they are what was asked for,
//! [`paired`] says how sure a gain is, [`blind`] mixes a sheet for people; [`figures`] holds the result, [`page`] and
//! [`table`] show it.
//!
//! Terms: *real* defects are photographed, *made* ones come from a generator, *procedural* ones from
//! [`crate::defects`]. *Held out*: no generator was fitted on it.
//!
//! Never here: generators; FID (there is no Inception network here); a generator called good because its pictures
//! look good.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backbone::{Backbone, BackboneError};
use crate::batches::Symmetry;
use crate::data::DataError;
use crate::fit::FitError;
use crate::made::{MadeError, Named};
use crate::metrics::intervals::CONFIDENCE;
use crate::net::Variant;
use crate::real::RealError;
use crate::report::ReportError;
use crate::truth::TruthError;

pub mod blind;
pub mod classify;
mod compare;
pub mod curve;
pub mod distance;
pub mod features;
pub mod figures;
pub mod fits;
pub mod kept;
mod load;
mod not_shown;
pub mod obeyed;
pub mod page;
pub mod paired;
pub mod sets;
pub mod sizes;
mod sum;
mod table;
mod write;

pub use figures::Report;
pub use write::{HTML_NAME, JSON_NAME, KEY_NAME, SHEET_NAME, prepare, write};

/// Most seeds.
pub const MAX_SEEDS: u64 = 100;

/// Why there is no judgement.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// Folders or goods.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Labels, manifest or masks of real defects.
    #[error(transparent)]
    Truth(#[from] TruthError),
    /// The folder of training defects.
    #[error(transparent)]
    Real(#[from] RealError),
    /// A made set.
    #[error(transparent)]
    Made(#[from] MadeError),
    /// The backbone.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// A fit.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// What fits said, kept to go on from.
    #[error(transparent)]
    Kept(#[from] kept::KeptError),
    /// The report's files.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// No real defects.
    #[error(
        "{path}: no pictures of defects; expected DIR/test/CLASS/NAME.png beside DIR/train/good (MVTec AD layout)"
    )]
    NoReal {
        /// The folder.
        path: PathBuf,
    },
    /// None of them has a mask.
    #[error(
        "{path}: none of its {got} pictures of defects has a mask; draw them as DIR/ground_truth/CLASS/NAME_mask.png, white where the defect is: without masks nobody knows what to compare"
    )]
    NoMasks {
        /// The folder.
        path: PathBuf,
        /// Pictures of defects.
        got: usize,
    },
    /// All masks are black.
    #[error("`{name}`: all of its {got} masks are black, so it shows no defect; look into the folder")]
    AllEmpty {
        /// The set.
        name: String,
        /// Its masks.
        got: usize,
    },
    /// A picture cannot be read.
    #[error("{reason}; replace or remove the file")]
    Picture {
        /// What is wrong; names the file.
        reason: String,
    },
    /// A made set's manifest is broken.
    #[error("{path}: {reason}; expected a CSV file with the column `file` (path below this folder)")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A made set shows a region of the parts alone.
    #[error(
        "`{name}` ({path}): its generator was fitted with --roi {roi}, so its pictures show that region alone, and the judge knows whole pictures only; cut the pictures and masks of --data to the region, fit and sample without --roi on those, and judge with them"
    )]
    Region {
        /// The set.
        name: String,
        /// Its folder.
        path: PathBuf,
        /// The region: left, top, width, height.
        roi: String,
    },
    /// A generator was fitted on what it is judged by.
    #[error(
        "{trained} of --trained-on is the same defect as {judged} of --data: a generator must not be judged by what it was fitted on; `inspect-train split --real N` parts them"
    )]
    Leak {
        /// The training defect.
        trained: String,
        /// The real defect.
        judged: String,
    },
    /// No goods to judge by.
    #[error(
        "{path}: no pictures of good parts to judge by: test/good is not there, and of {goods} in train/good in {groups} group(s) none can be spared; put some into test/good, or give --seeds 0 to compare without fits"
    )]
    NoGoods {
        /// The folder.
        path: PathBuf,
        /// Goods to fit on.
        goods: usize,
        /// Their groups.
        groups: usize,
    },
    /// The baseline is none of the sets.
    #[error("--against {got}: expected `procedural`{}", names(.known))]
    Against {
        /// What was given.
        got: String,
        /// Names of the made sets.
        known: Vec<String>,
    },
    /// A fit's scores are broken.
    #[error("the fit of seed {seed} gives scores that are no numbers; try other --steps or another --seed")]
    NotFinite {
        /// Its seed.
        seed: u64,
    },
}

fn names(known: &[String]) -> String {
    known.iter().map(|name| format!(" or `{name}`")).collect()
}

/// What is judged, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Goods and real defects with masks, in the MVTec AD layout.
    pub data: PathBuf,
    /// The made sets, at least one.
    pub made: Vec<Named>,
    /// The baseline: `procedural` or the name of a made set.
    pub against: String,
    /// Real defects that the generators were fitted on.
    pub trained_on: Option<PathBuf>,
    /// Fits of each arm; 0: none.
    pub seeds: u64,
    /// Steps of a fit.
    pub steps: u64,
    /// Side of its input, pixels.
    pub size: u32,
    /// Width of its network.
    pub variant: Variant,
    /// How the part may lie.
    pub symmetry: Symmetry,
    /// The user's network by whose features crops are compared, tried at [`sets::CROP_PX`]; `None`: a random one.
    pub backbone: Option<Arc<Backbone>>,
    /// Share of the damaged pictures that a made set gets in the end.
    pub made_share: f64,
    /// Seed of all else that is drawn.
    pub seed: u64,
    /// Threads of a fit.
    pub threads: usize,
}

/// Where a judgement goes on, how it is stopped, and who is told of it.
pub struct Run<'a> {
    /// Folder of the report; fits that an earlier run of the same judgement left there are not made again.
    pub dir: &'a Path,
    /// Set to end early with what there is.
    pub stop: &'a AtomicBool,
    /// Told what is being done.
    pub report: &'a mut dyn FnMut(&Doing),
}

/// What is being done.
pub enum Doing {
    /// Something that takes seconds.
    Words(String),
    /// Fits.
    Fits(fits::Progress),
}

/// A judgement with the pictures to show it.
pub struct Judged {
    /// Every figure.
    pub report: Report,
    /// Real defects.
    pub real: sets::Set,
    /// What the generators were fitted on, where that was given.
    pub trained: Option<sets::Set>,
    /// Procedural ones, then the made sets.
    pub sets: Vec<sets::Set>,
}

/// Confidence of each of `compared` intervals, so that all of them hold together (Bonferroni).
fn confidence(compared: usize) -> f64 {
    1.0 - (1.0 - CONFIDENCE) / compared.max(1) as f64
}

/// Judges made sets.
///
/// Errors: [`JudgeError`]; all folders are read before the first fit. Then fits that were done stay to be gone on with.
pub fn judge(settings: &Settings, run: Run) -> Result<Judged, JudgeError> {
    let against = baseline(settings)?;
    let mut say = |words: &str| (run.report)(&Doing::Words(words.to_owned()));
    say("reading the sets");
    let mut loaded = load::load(settings)?;
    let material = loaded.material.take();
    let plan = material.as_ref().map(|material| fits::Plan {
        goods: &material.goods,
        tests: &material.tests,
        sets: &material.sets,
        seeds: settings.seeds,
        settings: fit_settings(settings),
    });
    let kept = plan.as_ref().map(|plan| kept::Kept::open(run.dir, plan)).transpose()?;
    say("comparing crops");
    let space = match &settings.backbone {
        Some(backbone) => features::FeatureNet::of(backbone.clone(), settings.threads)?,
        None => features::FeatureNet::default(),
    };
    let mut reports = compare::compare(&space, &loaded, settings.seed)?;
    say("learning to read class, words and parameters off real defects");
    let asked = obeyed::ask(&loaded.real, settings, run.stop)?;
    reports.iter_mut().skip(1).zip(asked.sets).for_each(|(report, obeyed)| report.obeyed = Some(obeyed));
    loaded.notes.extend(asked.notes);
    let (mut fits, mut stopped) = (None, run.stop.load(Ordering::Relaxed));
    if let (Some(plan), Some(kept)) = (&plan, &kept) {
        let measured = fits::measure(plan, kept, run.stop, &mut |p| {
            (run.report)(&Doing::Fits(fits::Progress { ..*p }));
        })?;
        stopped = (measured.seeds as u64) < settings.seeds;
        if measured.seeds > 0 {
            fits = Some(sum::sum(plan, &measured, against, settings));
        }
    }
    let notes = std::mem::take(&mut loaded.notes);
    let report = sum::report(settings, &space, &loaded, reports, fits, stopped, against);
    let not_shown = not_shown::sentences(&report, settings, &notes);
    let load::Loaded { real, trained, sets, .. } = loaded;
    Ok(Judged { report: Report { not_shown, ..report }, real, trained, sets })
}

/// The arm that others are compared with: 0 is procedural alone, `k + 1` made set `k`.
fn baseline(settings: &Settings) -> Result<usize, JudgeError> {
    if settings.against == "procedural" {
        return Ok(0);
    }
    let place = settings.made.iter().position(|set| set.name == settings.against);
    place.map(|k| k + 1).ok_or_else(|| JudgeError::Against {
        got: settings.against.clone(),
        known: settings.made.iter().map(|set| set.name.clone()).collect(),
    })
}

fn fit_settings(settings: &Settings) -> crate::fit::Settings {
    crate::fit::Settings {
        variant: settings.variant,
        budget: crate::learn::Budget::Steps(settings.steps),
        symmetry: settings.symmetry,
        made_share: settings.made_share,
        threads: Some(settings.threads),
        precision: crate::torch::Precision::fastest(tch::Device::Cpu),
        ..crate::fit::Settings::default()
    }
}
