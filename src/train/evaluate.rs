//! What a finished model file is worth on labelled pictures, by the daemon's own scorer.
//!
//! Truth is the folder ([`crate::truth`]), the figures are [`crate::report`]'s. Pictures are scored one by
//! one and dropped; of the maps only counts of pixels are kept, so memory does not grow with the pictures.
//! A picture that cannot be read or scored ends the evaluation: figures over the rest would flatter.
//!
//! Never here: a choice of anything by these figures. They judge what is finished.

use std::path::{Path, PathBuf};
use std::time::Instant;

use inspect_core::card::Input;
use inspect_core::image::{Image, ImageError, Roi};
use inspect_core::model::{ModelError, ModelFile, hex};
use inspect_core::resize::Resizer;
use inspect_core::runtime::{Provider, Runtime};
use inspect_core::scorer::{OnnxScorer, Scorer, ScorerError, golden_inputs};
use inspect_core::verdict::{Verdict, judge};
use sha2::{Digest, Sha256};

use crate::data::{DataError, Labelled};
use crate::floor::FloorError;
use crate::metrics::pixels::{PixelCounts, enlarge, regions};
use crate::report::count::{Circumstances, Judged, report};
use crate::report::{PixelScope, not_shown};
use crate::truth::{self, TestPicture, Truth, TruthError, drawn, read_mask};

pub use crate::report::{ClassReport, Report};
pub use crate::truth::find_test;

/// Runs before the first timed one, over the card's golden images: caches and clocks settle.
const WARM_UP_RUNS: usize = 10;

/// Why there is no evaluation.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// The model file is refused.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// It cannot be run.
    #[error(transparent)]
    Scorer(#[from] ScorerError),
    /// A picture cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A picture has no such region as the model looks at.
    #[error("{path}: {source}; expected a picture of the camera that the model was fitted for")]
    Region {
        /// The picture.
        path: PathBuf,
        /// What is wrong.
        source: ImageError,
    },
    /// Labels, manifest or masks are wrong.
    #[error(transparent)]
    Truth(#[from] TruthError),
    /// A picture has no score.
    #[error(
        "{path}: the model's {what} is not a finite number; the daemon would answer a fault. Check the picture, fit the model again"
    )]
    NotFinite {
        /// The picture.
        path: PathBuf,
        /// Score or map.
        what: &'static str,
    },
    /// The linear floor cannot be computed.
    #[error(transparent)]
    Floor(#[from] FloorError),
}

/// Figures, with what it takes to show single pictures.
pub struct Evaluation {
    /// Every figure.
    pub report: Report,
    /// The pictures, in the order of [`Report::scores`].
    pub pictures: Vec<TestPicture>,
    scorer: OnnxScorer,
    input: Input,
    roi: Option<Roi>,
    map: (usize, usize),
    resizer: Resizer,
}

/// Judges a model file on the labelled pictures below `dir`.
///
/// Errors: [`EvaluateError`].
pub fn evaluate(model: &Path, dir: &Path, floor: bool) -> Result<Report, EvaluateError> {
    Ok(evaluate_to_show(model, dir, floor)?.report)
}

/// The same, ready to show single pictures.
///
/// Errors: [`EvaluateError`].
pub fn evaluate_to_show(model: &Path, dir: &Path, floor: bool) -> Result<Evaluation, EvaluateError> {
    let Truth { pictures, mut notes } = truth::find(dir)?;
    let file = ModelFile::read(model)?;
    let runtime = Runtime { providers: vec![Provider::Cpu], ..Runtime::default() };
    let mut scorer = OnnxScorer::load(&file, &runtime)?;
    let mut map = Vec::new();
    for golden in golden_inputs(&file.card)?.iter().cycle().take(WARM_UP_RUNS) {
        scorer.score(golden, &mut map)?;
    }
    let (resizer, sha256) = (Resizer::default(), Sha256::new());
    let mut pass = Pass { file: &file, scorer, resizer, sha256, pixels: None, outside: 0 };
    if pictures.iter().any(|p| p.mask.is_some()) {
        let Input { width: width_px, height: height_px, .. } = file.card.input;
        let scope = PixelScope { width_px, height_px, good: 0, masked: 0, unmasked: 0, regions: 0 };
        pass.pixels = Some((scope, PixelCounts::default()));
    }
    let judged = pictures.into_iter().map(|p| pass.judge(p)).collect::<Result<Vec<_>, _>>()?;
    if pass.outside > 0 {
        notes.push(format!(
            "The masks of {} defective pictures show nothing inside the region that the model looks at; there \
             they count as clean.",
            pass.outside
        ));
    }
    let labelled: Vec<Labelled> = judged.iter().map(|j| j.picture.labelled.clone()).collect();
    let roi = file.card.preprocessing.roi;
    let circumstances = Circumstances {
        file: &file,
        data: dir.display().to_string(),
        data_sha256: hex(&pass.sha256.finalize()),
        provider: pass.scorer.provider().to_string(),
        machine: machine(),
        threads: runtime.threads,
        floor_auroc: if floor { Some(crate::floor::floor(dir, &labelled, roi)?) } else { None },
        pixels: pass
            .pixels
            .map(|(scope, counts)| (PixelScope { regions: counts.regions(), ..scope }, counts.figures())),
    };
    let mut report = report(&judged, circumstances);
    report.not_shown = not_shown::sentences(&report, &notes);
    let pictures = judged.into_iter().map(|j| j.picture).collect();
    let (scorer, resizer) = (pass.scorer, pass.resizer);
    Ok(Evaluation { report, pictures, scorer, input: file.card.input, roi, map: file.map, resizer })
}

/// One pass over the pictures.
struct Pass<'a> {
    file: &'a ModelFile,
    scorer: OnnxScorer,
    resizer: Resizer,
    sha256: Sha256,
    pixels: Option<(PixelScope, PixelCounts)>,
    /// Masks without a defect inside the model's region.
    outside: usize,
}

impl Pass<'_> {
    fn judge(&mut self, picture: TestPicture) -> Result<Judged, EvaluateError> {
        let path = &picture.labelled.path;
        let image = |source: ImageError| EvaluateError::Data(source.into());
        let bytes =
            std::fs::read(path).map_err(|source| image(ImageError::Io { path: path.clone(), source }))?;
        self.sha256.update(picture.name.as_bytes());
        self.sha256.update(&bytes);
        let decoded = Image::decode(&bytes, path).map_err(image)?;
        let input = self.file.card.input;
        let mut pixels = vec![0; input.bytes()];
        self.resizer
            .run(&decoded, self.file.card.preprocessing.roi, input, &mut pixels)
            .map_err(|source| EvaluateError::Region { path: path.clone(), source })?;
        let mut map = Vec::new();
        let start = Instant::now();
        let score = self.scorer.score(&pixels, &mut map)?;
        let took_ms = start.elapsed().as_secs_f64() * 1000.0;
        let thresholds = self.file.card.thresholds;
        let not_finite = |what| EvaluateError::NotFinite { path: path.clone(), what };
        let verdict = match judge(1, &[Ok((score, thresholds))]) {
            Verdict::Fault(_) => return Err(not_finite("score")),
            verdict => verdict,
        };
        if map.iter().any(|v| !v.is_finite()) {
            return Err(not_finite("map"));
        }
        self.count_pixels(&picture, (decoded.width(), decoded.height()), &map)?;
        Ok(Judged { picture, score, verdict, took_ms })
    }

    fn count_pixels(
        &mut self,
        picture: &TestPicture,
        size: (u32, u32),
        map: &[f32],
    ) -> Result<(), EvaluateError> {
        let Some((scope, counts)) = &mut self.pixels else { return Ok(()) };
        let (input, roi) = (self.file.card.input, self.file.card.preprocessing.roi);
        let defects = match &picture.mask {
            Some(mask) => {
                scope.masked += 1;
                let mask = read_mask(mask, &picture.labelled.path, size, roi, input, &mut self.resizer)?;
                self.outside += usize::from(!mask.contains(&true));
                regions(&mask, input.width as usize)
            }
            None if picture.labelled.good => {
                scope.good += 1;
                Vec::new()
            }
            None => {
                // Where its defect is, nobody said.
                scope.unmasked += 1;
                return Ok(());
            }
        };
        let to = (input.height as usize, input.width as usize);
        counts.add(&enlarge(map, self.file.map, to), &defects);
        Ok(())
    }
}

/// What the model sees of a picture with its map and mask, to be shown.
pub struct Look {
    /// The model's region of the picture as it was read.
    pub image: Image,
    /// Shape: `[h, w]` of `map_shape`.
    pub map: Vec<f32>,
    /// Height and width of the map.
    pub map_shape: (usize, usize),
    /// The same region of the mask, where there is one: 255 is defect, else 0.
    pub mask: Option<Image>,
}

impl Evaluation {
    /// Scores one picture again to see its map. `place`: in [`Evaluation::pictures`].
    ///
    /// Errors: [`EvaluateError`] if the files have changed since.
    pub fn look(&mut self, place: usize) -> Result<Look, EvaluateError> {
        let picture = &self.pictures[place];
        let whole = Image::read(&picture.labelled.path).map_err(DataError::from)?;
        let mut pixels = vec![0; self.input.bytes()];
        self.resizer.run(&whole, self.roi, self.input, &mut pixels).map_err(DataError::from)?;
        let mut map = Vec::new();
        self.scorer.score(&pixels, &mut map)?;
        let mask = picture.mask.as_deref().map(drawn).transpose().map_err(DataError::from)?;
        let mut cut = |whole| cut(whole, self.roi, &mut self.resizer).map_err(DataError::from);
        let (image, mask) = (cut(whole)?, mask.map(cut).transpose()?);
        Ok(Look { image, map, map_shape: self.map, mask })
    }
}

/// The region of a picture, in its own pixels.
fn cut(whole: Image, roi: Option<Roi>, resizer: &mut Resizer) -> Result<Image, ImageError> {
    let Some(roi) = roi else { return Ok(whole) };
    let shape = Input { width: roi.width, height: roi.height, channels: whole.channels() };
    let mut pixels = vec![0; shape.bytes()];
    resizer.run(&whole, Some(roi), shape, &mut pixels)?;
    Image::new(shape.width, shape.height, shape.channels, pixels)
}

/// Processor and number of its cores, as the system names them.
fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let name = name.map_or("unknown processor", |(_, name)| name.trim());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{name}, {cores} {}", if cores == 1 { "core" } else { "cores" })
}
