//! New thresholds for a finished model, from goods that it was not fitted on.
//!
//! For a line whose light, camera or lots have changed a little, or a model whose thresholds are provisional:
//! the graph stays as it is, byte for byte; thresholds, calibration, claim, reference and date on the card are new. Scores
//! come from the daemon's own scorer.
//!
//! Never here: a change of the network; goods that the model was fitted on, as far as the card can tell (it
//! knows the whole set, not single pictures); half a file under the final name.

use std::path::{Path, PathBuf};

use inspect_core::card::{CARD_KEY, Card, CardError, Golden, MAX_GOLDEN_BYTES, Thresholds};
use inspect_core::image::{Image, ImageError};
use inspect_core::model::{ModelError, ModelFile};
use inspect_core::onnx::ModelProto;
use inspect_core::reference::Reference;
use inspect_core::runtime::{Provider, Runtime};
use inspect_core::scorer::{OnnxScorer, Scorer, ScorerError};
use inspect_core::verdict::judge;
use prost::Message;

use crate::calibrate::{CalibrateError, calibrate, check_alpha};
use crate::data::{DataError, Goods};
use crate::file::write_whole;

/// Fewest goods that new thresholds are drawn from.
pub const MIN_GOODS: usize = 6;
/// A golden image this near a threshold (share of it) would flip by rounding.
const GOLDEN_MARGIN: f32 = 1e-2;
/// Golden goods made where none of the old golden images can stay.
const NEW_GOLDEN: usize = 4;

/// Why there is no new model file.
#[derive(Debug, thiserror::Error)]
pub enum RecalibrateError {
    /// The model file is refused.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// It cannot be run.
    #[error(transparent)]
    Scorer(#[from] ScorerError),
    /// A picture or folder cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// No threshold.
    #[error(transparent)]
    Calibrate(#[from] CalibrateError),
    /// The new card is refused by its own check.
    #[error(transparent)]
    Card(#[from] CardError),
    /// A golden image cannot be made.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The goods are those of the fit.
    #[error(
        "the goods are the very pictures that {model} was fitted on, which it knows too well: thresholds from them would be too low; take new pictures of good parts"
    )]
    FittedOn {
        /// The model file.
        model: PathBuf,
    },
    /// Somebody else's file.
    #[error(
        "model {model}: holds parts that this program does not know and would lose; it can only write files of inspect-train anew"
    )]
    Foreign {
        /// The model file.
        model: PathBuf,
    },
    /// Something stands where the new file should.
    #[error(
        "{out}: is there already and would be lost; give another --out, or that of --model to put the new thresholds into it"
    )]
    Exists {
        /// The file.
        out: PathBuf,
    },
    /// No golden image.
    #[error(
        "every picture scores within {GOLDEN_MARGIN} of a threshold or is too large for the card; take other pictures of good parts"
    )]
    NoGolden,
    /// The file cannot be written.
    #[error("{out}: {source}; nothing was written")]
    Write {
        /// The file.
        out: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What has changed.
#[derive(Debug, Clone)]
pub struct Recalibrated {
    /// The card as it was.
    pub old: Card,
    /// The card as it is now.
    pub new: Card,
    /// Goods that the old thresholds do not pass.
    pub old_not_passed: usize,
    /// Goods that the new thresholds do not pass.
    pub new_not_passed: usize,
    /// Golden images that were kept.
    pub golden_kept: usize,
    /// Golden images that were dropped, since they lie at a threshold or have another verdict now.
    pub golden_dropped: usize,
}

/// Checks what can be checked before pictures are read. Errors: [`RecalibrateError`].
pub fn check(model: &Path, out: &Path, alpha: f64, review_alpha: f64) -> Result<ModelFile, RecalibrateError> {
    check_alpha(alpha, review_alpha)?;
    let file = ModelFile::read(model)?;
    let same = match (std::fs::canonicalize(model), std::fs::canonicalize(out)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    };
    if !same && out.exists() {
        return Err(RecalibrateError::Exists { out: out.to_owned() });
    }
    Ok(file)
}

/// Writes `out`: the model of `file` with thresholds from `goods`, loaded by [`crate::data::load_for`].
///
/// Errors: [`RecalibrateError`]; then `out` is what it was.
pub fn recalibrate(
    file: &ModelFile,
    goods: &Goods,
    out: &Path,
    alpha: f64,
    review_alpha: f64,
) -> Result<Recalibrated, RecalibrateError> {
    if goods.sha256 == file.card.training.data_sha256 {
        return Err(RecalibrateError::FittedOn { model: file.path.clone() });
    }
    let runtime = Runtime { providers: vec![Provider::Cpu], ..Runtime::default() };
    let mut scorer = OnnxScorer::load(file, &runtime)?;
    let mut map = Vec::new();
    let scores = goods.pixels.iter().map(|p| scorer.score(p, &mut map)).collect::<Result<Vec<f32>, _>>()?;
    let groups: Vec<&str> = goods.groups.iter().map(String::as_str).collect();
    let (thresholds, calibration) = calibrate(&scores, &groups, alpha, review_alpha)?;

    let old = file.card.clone();
    let pixels = goods.pixels.iter().map(|pixels| pixels.as_slice());
    let reference = Reference::of(scores.iter().copied().zip(pixels), goods.input);
    let created = jiff::Timestamp::now();
    let mut new = Card { thresholds, calibration, created, reference, ..old.clone() };
    new.golden.retain(|g| {
        let verdict = |limits| judge(1, &[Ok((g.score, limits))]);
        clear(g.score, thresholds) && verdict(thresholds) == verdict(old.thresholds)
    });
    let golden_kept = new.golden.len();
    if new.golden.is_empty() {
        new.golden = golden(goods, &scores, thresholds)?;
    }
    let bytes = with_card(file, &new)?;
    let written = ModelFile::decode(bytes, out)?;
    OnnxScorer::load(&written, &runtime)?; // reproduces the golden images under the new thresholds
    write_whole(out, &written.bytes)
        .map_err(|source| RecalibrateError::Write { out: out.to_owned(), source })?;
    let not_passed = |limits: Thresholds| scores.iter().filter(|s| **s > limits.review).count();
    Ok(Recalibrated {
        old_not_passed: not_passed(old.thresholds),
        new_not_passed: not_passed(thresholds),
        golden_dropped: old.golden.len() - golden_kept,
        golden_kept,
        old,
        new,
    })
}

fn clear(score: f32, limits: Thresholds) -> bool {
    [limits.review, limits.reject].iter().all(|l| (score - l).abs() > GOLDEN_MARGIN * l)
}

/// Golden images of goods that pass clearly, evenly spread, as many as the card holds.
fn golden(goods: &Goods, scores: &[f32], limits: Thresholds) -> Result<Vec<Golden>, RecalibrateError> {
    let passing: Vec<usize> =
        (0..scores.len()).filter(|&i| clear(scores[i], limits) && scores[i] <= limits.review).collect();
    let step = passing.len().div_ceil(NEW_GOLDEN).max(1);
    let (mut golden, mut bytes) = (Vec::new(), 0);
    for i in passing.into_iter().step_by(step) {
        let input = goods.input;
        let image = Image::new(input.width, input.height, input.channels, goods.pixels[i].clone())?;
        let one = Golden::new(format!("good {i}"), &image, scores[i])?;
        bytes += one.png_base64.len();
        if bytes <= MAX_GOLDEN_BYTES {
            golden.push(one);
        }
    }
    if golden.is_empty() { Err(RecalibrateError::NoGolden) } else { Ok(golden) }
}

/// The model file's bytes with another card; all else stays byte for byte.
fn with_card(file: &ModelFile, card: &Card) -> Result<Vec<u8>, RecalibrateError> {
    let foreign = || RecalibrateError::Foreign { model: file.path.clone() };
    let mut proto = ModelProto::decode(file.bytes.as_slice()).map_err(|_| foreign())?;
    if proto.encode_to_vec() != file.bytes {
        return Err(foreign());
    }
    let json = card.to_json()?;
    let entries = proto.metadata_props.iter_mut().filter(|p| p.key == CARD_KEY);
    entries.for_each(|p| p.value.clone_from(&json));
    Ok(proto.encode_to_vec())
}
