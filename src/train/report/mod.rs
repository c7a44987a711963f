//! What a model is worth on labelled pictures, as a structure, a table, JSON and a page to sign.
//!
//! [`Report`] holds every figure; the JSON is its serde form and the page shows the same numbers. The
//! fields are explained below.
//!
//! Why SVG by `plotters` and HTML by `maud`: one file that needs no script, no font and no network, with
//! everything that comes out of file names and cards escaped.
//!
//! Never here: a figure that is not in [`Report`].
#![doc = include_str!("fields.md")]

pub mod count;
pub(crate) mod curves;
pub mod not_shown;
pub(crate) mod page;
pub(crate) mod pictures;
mod sections;
mod table;
mod write;

use inspect_core::card::{Calibration, Input, Thresholds, Training};
use inspect_core::verdict::Verdict;
use serde::{Deserialize, Serialize};

use crate::metrics::intervals::Interval;

pub use write::{HTML_NAME, JSON_NAME, ReportError, prepare, write, write_json};

/// Version of the JSON's structure: fields are added without changing it.
pub const SCHEMA: u32 = 1;

/// Exact and bootstrap interval of one share.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ShareIntervals {
    /// Clopper–Pearson: every picture an independent trial.
    pub exact: Interval,
    /// Over groups; `None` with fewer than two of them.
    pub bootstrap: Option<Interval>,
}

/// How sure the figures are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intervals {
    /// Two-sided confidence of each.
    pub confidence: f64,
    /// Rounds of the bootstrap.
    pub bootstrap_rounds: usize,
    /// Its seed.
    pub bootstrap_seed: u64,
    /// Groups with good pictures.
    pub good_groups: usize,
    /// Groups with defective pictures.
    pub defective_groups: usize,
    /// Every picture is a group of its own.
    pub singletons: bool,
    /// Of `false_reject_rate`.
    pub false_reject_rate: ShareIntervals,
    /// Of `escape_rate`.
    pub escape_rate: ShareIntervals,
    /// Of `recall`.
    pub recall: ShareIntervals,
    /// Of `auroc`, over groups; `None` with fewer than two of goods or of defectives.
    pub auroc: Option<Interval>,
}

/// Verdicts on pictures of one truth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdicts {
    /// At or below the review threshold.
    pub pass: usize,
    /// Above it, at or below the reject threshold.
    pub review: usize,
    /// Above the reject threshold.
    pub reject: usize,
}

/// Verdicts by truth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    /// On good parts.
    pub good: Verdicts,
    /// On defective parts.
    pub defective: Verdicts,
}

/// Figures of one class of defects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassReport {
    /// Folder below `test`.
    pub class: String,
    /// Pictures.
    pub count: usize,
    /// Groups among them.
    pub groups: usize,
    /// Of them rejected or reviewed, i.e. not passed.
    pub not_passed: usize,
    /// `not_passed / count`.
    pub recall: f64,
    /// Of `recall`.
    pub recall_intervals: ShareIntervals,
    /// Against all goods.
    pub auroc: f64,
}

/// What the pixel figures were computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PixelScope {
    /// Width that maps and masks were brought to: the model's input.
    pub width_px: u32,
    /// Height.
    pub height_px: u32,
    /// Good pictures, all clean.
    pub good: usize,
    /// Defective pictures with a mask.
    pub masked: usize,
    /// Defective pictures without, which are left out.
    pub unmasked: usize,
    /// Connected defect regions.
    pub regions: u64,
}

/// Time from input to score and map, without reading and resizing the picture.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half of the pictures took no longer.
    pub p50: f64,
    /// Nine of ten.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
    /// Pictures that were timed, after warm-up.
    pub count: usize,
    /// Threads of the session.
    pub threads: usize,
}

/// The model as an appraiser against the reference. Not passed counts as "bad".
///
/// Source: AIAG, Measurement Systems Analysis, 4th edition, attribute study.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AttributeAgreement {
    /// Right verdicts of all.
    pub effectiveness: f64,
    /// Defective parts called good.
    pub miss_rate: f64,
    /// Good parts called bad.
    pub false_alarm_rate: f64,
    /// Cohen's kappa against the reference.
    pub kappa: f64,
    /// Agreement with itself, where the manifest says which pictures show the same part.
    pub trials: Option<Trials>,
}

/// The model's agreement with itself on several pictures of one part.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Trials {
    /// Parts with two pictures or more.
    pub parts: usize,
    /// Pictures of them.
    pub pictures: usize,
    /// Parts whose pictures all got the same answer (passed or not).
    pub agreeing: usize,
    /// Parts whose pictures all got the right answer.
    pub right: usize,
    /// Of `agreeing / parts`.
    pub exact: Interval,
}

/// What the model file says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CardFacts {
    /// When it was fitted, UTC.
    pub created: jiff::Timestamp,
    /// What it takes.
    pub input: Input,
    /// How the limits were got.
    pub calibration: Calibration,
    /// Where it came from.
    pub training: Training,
}

/// One picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PictureScore {
    /// Path below the data folder.
    pub file: String,
    /// Folder below `test`.
    pub class: String,
    /// In the model's own unit; divided by `thresholds.reject` it is what people see.
    pub score: f32,
    /// pass, review or reject.
    pub verdict: String,
    /// Its group; its own name where none was given.
    pub group: String,
}

/// What a model is worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// See [`SCHEMA`].
    pub schema: u32,
    /// The model's name.
    pub model: String,
    /// SHA-256 of its file.
    pub sha256: String,
    /// The data folder as it was given.
    pub data: String,
    /// SHA-256 over the test pictures' names and bytes, in order of name; hex.
    pub data_sha256: String,
    /// When the pictures were scored, UTC.
    pub evaluated: jiff::Timestamp,
    /// Version of `inspect-train` that did it.
    pub evaluator_version: String,
    /// Good test pictures.
    pub good: usize,
    /// Defective test pictures.
    pub defective: usize,
    /// Area under the ROC curve, over pictures.
    pub auroc: f64,
    /// Average precision, over pictures.
    pub average_precision: f64,
    /// Share of defective parts that pass.
    pub escape_rate: f64,
    /// Share of good parts that do not pass.
    pub false_reject_rate: f64,
    /// Share of defective parts that do not pass.
    pub recall: f64,
    /// Defective parts that pass.
    pub escapes: usize,
    /// Good parts that do not pass.
    pub false_rejects: usize,
    /// Verdicts by truth.
    pub confusion: Confusion,
    /// How sure all this is.
    pub intervals: Intervals,
    /// Area under the ROC curve, over pixels; `None` without masks.
    pub pixel_auroc: Option<f64>,
    /// Average precision, over pixels.
    pub pixel_average_precision: Option<f64>,
    /// AUPRO up to a false-positive rate of 0.30.
    pub aupro_30: Option<f64>,
    /// AUPRO up to a false-positive rate of 0.05.
    pub aupro_05: Option<f64>,
    /// What the pixel figures were computed from.
    pub pixels: Option<PixelScope>,
    /// The card's thresholds.
    pub thresholds: Thresholds,
    /// Whether the threshold is provisional.
    pub provisional: bool,
    /// Provider that ran the model.
    pub provider: String,
    /// Processor and its cores.
    pub machine: String,
    /// Scoring time of a picture, milliseconds.
    pub latency_ms: Latency,
    /// The model as an appraiser.
    pub attribute_agreement: AttributeAgreement,
    /// Each class of defects.
    pub classes: Vec<ClassReport>,
    /// The linear floor's AUROC on the same pictures, if asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub floor_auroc: Option<f64>,
    /// What the model file says of itself.
    pub card: CardFacts,
    /// What these figures do not show, in sentences.
    pub not_shown: Vec<String>,
    /// Every picture.
    pub scores: Vec<PictureScore>,
}

impl Report {
    /// A score as people see it: 1.00 is the reject threshold.
    pub fn relative(&self, score: f32) -> f64 {
        f64::from(score) / f64::from(self.thresholds.reject)
    }
}

impl PictureScore {
    /// Whether the picture shows a good part.
    pub fn is_good(&self) -> bool {
        self.class == crate::truth::GOOD
    }

    /// Whether the part would go on down the line.
    pub fn passed(&self) -> bool {
        self.verdict == Verdict::Pass.word()
    }
}
