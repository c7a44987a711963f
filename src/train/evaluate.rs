//! What a finished model file is worth on labelled pictures, by the daemon's own scorer.
//!
//! Truth is the folder: `DIR/test/good` holds good parts, every other `DIR/test/<class>` defective ones.
//!
//! Never here: a choice of anything by these figures. They judge what is finished.

use std::path::{Path, PathBuf};

use inspect_core::card::Thresholds;
use inspect_core::model::{ModelError, ModelFile};
use inspect_core::resize::Resizer;
use inspect_core::runtime::{Provider, Runtime};
use inspect_core::scorer::{OnnxScorer, Scorer, ScorerError};
use inspect_core::verdict::{Verdict, judge};
use serde::Serialize;

use crate::data::{DataError, Labelled, images_below, load_one};
use crate::floor::FloorError;
use crate::metrics::{auroc, average_precision};

/// Why there is no evaluation.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// The model file is refused.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// It cannot be run.
    #[error(transparent)]
    Scorer(#[from] ScorerError),
    /// A picture or folder cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// No labelled pictures.
    #[error(
        "{path}: found {good} good and {defective} defective pictures; expected both in test/good and test/<class> below it (MVTec AD layout)"
    )]
    NoTest {
        /// The data folder.
        path: PathBuf,
        /// Good ones.
        good: usize,
        /// Defective ones.
        defective: usize,
    },
    /// The linear floor cannot be computed.
    #[error(transparent)]
    Floor(#[from] FloorError),
}

/// Figures of one class of defects.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassReport {
    /// Folder below `test`.
    pub class: String,
    /// Pictures.
    pub count: usize,
    /// Of them rejected or reviewed, i.e. not passed.
    pub not_passed: usize,
    /// Against all goods.
    pub auroc: f64,
}

/// What a model is worth.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The model's name.
    pub model: String,
    /// SHA-256 of its file.
    pub sha256: String,
    /// The data folder as it was given.
    pub data: String,
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
    /// Those, counted.
    pub escapes: usize,
    /// Those, counted.
    pub false_rejects: usize,
    /// The card's thresholds.
    pub thresholds: Thresholds,
    /// Whether the threshold is provisional.
    pub provisional: bool,
    /// Provider that ran the model.
    pub provider: String,
    /// Each class of defects.
    pub classes: Vec<ClassReport>,
    /// The linear floor's AUROC on the same pictures, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor_auroc: Option<f64>,
}

/// Finds labelled pictures.
///
/// Errors: [`EvaluateError::NoTest`], [`EvaluateError::Data`].
pub fn find_test(dir: &Path) -> Result<Vec<Labelled>, EvaluateError> {
    let test = dir.join("test");
    let mut found = Vec::new();
    if test.is_dir() {
        for path in images_below(&test)? {
            let below = path.strip_prefix(&test).unwrap_or(&path).components().next();
            let class = below.map(|c| c.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
            found.push(Labelled { good: class == "good", class, path });
        }
    }
    let good = found.iter().filter(|l| l.good).count();
    let defective = found.len() - good;
    if good == 0 || defective == 0 {
        return Err(EvaluateError::NoTest { path: dir.to_owned(), good, defective });
    }
    Ok(found)
}

/// Judges a model file on the labelled pictures below `dir`.
///
/// Errors: [`EvaluateError`].
pub fn evaluate(model: &Path, dir: &Path, floor: bool) -> Result<Report, EvaluateError> {
    let labelled = find_test(dir)?;
    let file = ModelFile::read(model)?;
    let runtime = Runtime { providers: vec![Provider::Cpu], ..Runtime::default() };
    let mut scorer = OnnxScorer::load(&file, &runtime)?;
    let (mut resizer, mut map) = (Resizer::default(), Vec::new());
    let mut scores = Vec::with_capacity(labelled.len());
    let roi = file.card.preprocessing.roi;
    for picture in &labelled {
        let pixels = load_one(&picture.path, roi, file.card.input, &mut resizer)?;
        scores.push(scorer.score(&pixels, &mut map)?);
    }
    let floor_auroc = if floor { Some(crate::floor::floor(dir, &labelled, roi)?) } else { None };
    let provider = scorer.provider().to_string();
    Ok(Report { provider, floor_auroc, ..report(&file, dir, &labelled, &scores) })
}

fn report(file: &ModelFile, dir: &Path, labelled: &[Labelled], scores: &[f32]) -> Report {
    let thresholds = file.card.thresholds;
    let passes = |score: f32| judge(1, &[Ok((score, thresholds))]) == Verdict::Pass;
    let of = |wanted: &dyn Fn(&Labelled) -> bool| -> Vec<f32> {
        labelled.iter().zip(scores).filter(|(l, _)| wanted(l)).map(|(_, &s)| s).collect()
    };
    let (good, defective) = (of(&|l| l.good), of(&|l| !l.good));
    let mut names: Vec<&String> = labelled.iter().filter(|l| !l.good).map(|l| &l.class).collect();
    names.dedup();
    let class = |name: &String| {
        let scores = of(&|l| l.class == *name);
        let not_passed = scores.iter().filter(|s| !passes(**s)).count();
        ClassReport { class: name.clone(), count: scores.len(), not_passed, auroc: auroc(&good, &scores) }
    };
    let escapes = defective.iter().filter(|s| passes(**s)).count();
    let false_rejects = good.iter().filter(|s| !passes(**s)).count();
    Report {
        model: file.card.name.clone(),
        sha256: file.sha256.clone(),
        data: dir.display().to_string(),
        good: good.len(),
        defective: defective.len(),
        auroc: auroc(&good, &defective),
        average_precision: average_precision(&good, &defective),
        escape_rate: escapes as f64 / defective.len() as f64,
        false_reject_rate: false_rejects as f64 / good.len() as f64,
        escapes,
        false_rejects,
        thresholds,
        provisional: file.card.calibration.provisional,
        provider: String::new(),
        classes: names.into_iter().map(class).collect(),
        floor_auroc: None,
    }
}

impl Report {
    /// The report as a table for people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "model            {} ({})\ndata             {}\npictures         {} good, {} defective\n\
             AUROC            {:.3}\naverage prec.    {:.3}\n",
            self.model,
            self.provider,
            self.data,
            self.good,
            self.defective,
            self.auroc,
            self.average_precision,
        );
        if let Some(floor) = self.floor_auroc {
            text += &format!("linear floor     {floor:.3}\n");
        }
        text += &format!(
            "threshold        {:.3} (review {:.3}){}\nfalse rejects    {} of {} ({:.1} %)\n\
             escapes          {} of {} ({:.1} %)\n",
            self.thresholds.reject,
            self.thresholds.review,
            if self.provisional { ", provisional" } else { "" },
            self.false_rejects,
            self.good,
            self.false_reject_rate * 100.0,
            self.escapes,
            self.defective,
            self.escape_rate * 100.0,
        );
        for class in &self.classes {
            text += &format!(
                "  {:<22} {:>4} of {:>4} found, AUROC {:.3}\n",
                class.class, class.not_passed, class.count, class.auroc,
            );
        }
        text
    }
}
