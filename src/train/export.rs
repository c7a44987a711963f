//! From a fitted network to the one file: card, golden images, the proof that ONNX Runtime agrees.
//!
//! The file is scored by the daemon's own scorer before it gets its name: every calibration good and as
//! many damaged ones must come out within 1e-3 of the threshold of libtorch's score, no verdict flipped.
//!
//! Never here: half a file under the final name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use inspect_core::card::{
    CARD_KEY, Card, CardError, Golden, MAX_GOLDEN_BYTES, Preprocessing, Resize, SCHEMA, Training,
};
use inspect_core::image::{Image, ImageError};
use inspect_core::model::{ModelError, ModelFile};
use inspect_core::onnx::StringStringEntryProto;
use inspect_core::runtime::{Provider, Runtime};
use inspect_core::scorer::{GOLDEN_TOLERANCE, OnnxScorer, Scorer, ScorerError};
use prost::Message;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::data::Goods;
use crate::file::{part_of, write_whole};
use crate::fit::{Fitted, Settings};
use crate::infer::scores;
use crate::onnx;
use crate::{batches::planes, defects::damage};

/// Golden goods and as many golden made defects.
const GOLDEN_GOODS: usize = 4;
/// A golden image this near a threshold (share of it) would flip by rounding.
const GOLDEN_MARGIN: f32 = 1e-2;

/// Why no file was written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A weight is missing: a fault of this program.
    #[error("the network has no weight `{0}`; this is a fault of inspect-train, please report it")]
    Weight(String),
    /// The card is refused by its own check.
    #[error(transparent)]
    Card(#[from] CardError),
    /// A golden image cannot be made.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The model is refused by the check that the daemon makes.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// ONNX Runtime cannot run it.
    #[error(transparent)]
    Scorer(#[from] ScorerError),
    /// The two programs disagree.
    #[error(
        "{picture}: libtorch scores {torch}, ONNX Runtime {onnx}, threshold {threshold}: they must agree within {GOLDEN_TOLERANCE} of it on the same side; no file was written. Please report this"
    )]
    Parity {
        /// Which picture.
        picture: String,
        /// Score by libtorch.
        torch: f32,
        /// Score by ONNX Runtime.
        onnx: f32,
        /// The reject threshold.
        threshold: f32,
    },
    /// No golden image fits on the card.
    #[error(
        "the pictures of {size} px are too large for the card's 1 MiB of golden images; fit with a smaller --size"
    )]
    GoldenTooLarge {
        /// Side of the input, pixels.
        size: u32,
    },
    /// No picture can stand on the card.
    #[error(
        "every golden candidate scores within {GOLDEN_MARGIN} of a threshold; fit again with another --seed"
    )]
    NoGolden,
    /// The file cannot be written.
    #[error("{path}: {source}; the model was not written")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What was written.
pub struct Written {
    /// Bytes of the file.
    pub bytes: usize,
    /// Pictures that both programs scored.
    pub compared: usize,
    /// Largest difference, as a share of the reject threshold.
    pub largest_difference: f32,
    /// Defects that were made on held-out goods.
    pub made: usize,
    /// Those of them that the reject threshold catches.
    pub made_rejected: usize,
}

/// A picture that both programs score.
struct Probe {
    name: String,
    pixels: Vec<u8>,
    score: f32,
}

/// Checks that `path` can be written before a fit is spent on it.
///
/// Errors: [`ExportError::Write`].
pub fn check_writable(path: &Path) -> Result<(), ExportError> {
    let part = part_of(path);
    let write = |source| ExportError::Write { path: path.to_owned(), source };
    if path.is_dir() {
        return Err(write(std::io::Error::other("is a folder; --out takes the name of a file")));
    }
    std::fs::write(&part, b"").and_then(|()| std::fs::remove_file(&part)).map_err(write)
}

/// Writes the model file, after the proof.
///
/// Errors: [`ExportError`]; then nothing stands under `path` that was not there before.
pub fn export(
    fitted: &Fitted,
    goods: &Goods,
    settings: &Settings,
    name: &str,
    path: &Path,
) -> Result<Written, ExportError> {
    let probes = probes(fitted, goods, settings.seed);
    let card = card(fitted, goods, settings, name, &probes)?;
    let mut model = onnx::model(&fitted.weights, fitted.shape).map_err(ExportError::Weight)?;
    model.metadata_props = vec![StringStringEntryProto { key: CARD_KEY.into(), value: card.to_json()? }];
    let bytes = model.encode_to_vec();
    let file = ModelFile::decode(bytes, path)?;
    let runtime = Runtime { providers: vec![Provider::Cpu], ..Runtime::default() };
    let mut scorer = OnnxScorer::load(&file, &runtime)?;
    let largest_difference = compare(&mut scorer, &file, &probes)?;

    write_whole(path, &file.bytes).map_err(|source| ExportError::Write { path: path.to_owned(), source })?;
    let made = &probes[probes.len() / 2..];
    let made_rejected = made.iter().filter(|p| p.score > fitted.thresholds.reject).count();
    Ok(Written {
        bytes: file.bytes.len(),
        compared: probes.len(),
        largest_difference,
        made: made.len(),
        made_rejected,
    })
}

/// Calibration goods, then a made defect on each, with libtorch's scores.
fn probes(fitted: &Fitted, goods: &Goods, seed: u64) -> Vec<Probe> {
    let (side, channels) = (goods.input.width as usize, usize::from(goods.input.channels));
    let mut random = StdRng::seed_from_u64(seed ^ 0x60_1d);
    let held_out = &fitted.split.calibration;
    let mut pictures: Vec<(String, Vec<u8>)> = Vec::new();
    for (k, &i) in held_out.iter().enumerate() {
        pictures.push((format!("good {k}"), goods.pixels[i].clone()));
    }
    for (k, &i) in held_out.iter().enumerate() {
        let other = &goods.pixels[held_out[(k + 1) % held_out.len()]];
        let (good, other) =
            (planes(&goods.pixels[i], side, channels, 0, (0, 0)), planes(other, side, channels, 0, (0, 0)));
        let (damaged, _) = damage(&mut random, &good, &other, side, channels);
        pictures.push((format!("made defect {k}"), interleaved(&damaged, channels)));
    }
    let views: Vec<&[u8]> = pictures.iter().map(|(_, p)| p.as_slice()).collect();
    let scores = scores(&fitted.weights, fitted.shape, &views, goods.input);
    pictures.into_iter().zip(scores).map(|((name, pixels), score)| Probe { name, pixels, score }).collect()
}

/// `[C, S, S]` → `[S, S, C]`
fn interleaved(picture: &[f32], channels: usize) -> Vec<u8> {
    let area = picture.len() / channels;
    let pixel = |i: usize| (0..channels).map(move |c| picture[c * area + i].round() as u8);
    (0..area).flat_map(pixel).collect()
}

fn compare(scorer: &mut OnnxScorer, file: &ModelFile, probes: &[Probe]) -> Result<f32, ExportError> {
    let (mut map, mut largest) = (Vec::new(), 0f32);
    let limits = file.card.thresholds;
    for probe in probes {
        let onnx = scorer.score(&probe.pixels, &mut map)?;
        let difference = (onnx - probe.score).abs() / limits.reject;
        // A threshold is the score of a calibration good: there rounding may fall on either side.
        let same_side = |limit: f32| {
            (onnx <= limit) == (probe.score <= limit) || (probe.score - limit).abs() <= 1e-5 * limit
        };
        if !(difference <= GOLDEN_TOLERANCE && same_side(limits.review) && same_side(limits.reject)) {
            return Err(ExportError::Parity {
                picture: probe.name.clone(),
                torch: probe.score,
                onnx,
                threshold: limits.reject,
            });
        }
        largest = largest.max(difference);
    }
    Ok(largest)
}

fn card(
    fitted: &Fitted,
    goods: &Goods,
    settings: &Settings,
    name: &str,
    probes: &[Probe],
) -> Result<Card, ExportError> {
    let settings_text = BTreeMap::from([
        ("variant".to_owned(), settings.variant.to_string()),
        ("symmetry".to_owned(), settings.symmetry.to_string()),
        ("size".to_owned(), goods.input.width.to_string()),
        ("goods_statistics".to_owned(), fitted.split.statistics.len().to_string()),
        ("goods_calibration".to_owned(), fitted.split.calibration.len().to_string()),
    ]);
    Ok(Card {
        schema: SCHEMA,
        name: name.to_owned(),
        created: jiff::Timestamp::now(),
        input: goods.input,
        preprocessing: Preprocessing { roi: goods.roi, resize: Resize::Area },
        thresholds: fitted.thresholds,
        calibration: fitted.calibration.clone(),
        golden: golden(fitted, goods, probes)?,
        training: Training {
            trainer_version: env!("CARGO_PKG_VERSION").to_owned(),
            data_sha256: goods.sha256.clone(),
            goods: fitted.split.fit.len(),
            seed: settings.seed,
            steps: fitted.steps,
            settings: settings_text,
        },
    })
}

/// Up to [`GOLDEN_GOODS`] goods and as many made defects that lie clear of both thresholds.
fn golden(fitted: &Fitted, goods: &Goods, probes: &[Probe]) -> Result<Vec<Golden>, ExportError> {
    let limits = fitted.thresholds;
    let clear =
        |p: &&Probe| [limits.review, limits.reject].iter().all(|l| (p.score - l).abs() > GOLDEN_MARGIN * l);
    let (good, made) = probes.split_at(probes.len() / 2);
    // Made defects that can be seen come first: they prove the reject side.
    let (seen, unseen): (Vec<_>, Vec<_>) = made.iter().partition(|p| p.score > limits.reject);
    let made = seen.into_iter().chain(unseen).filter(clear).take(GOLDEN_GOODS);
    let good = good.iter().filter(clear).take(GOLDEN_GOODS);
    // In turn, so that both kinds are there where the room is small.
    let mut queues: [Vec<&Probe>; 2] = [made.collect(), good.collect()];
    queues.iter_mut().for_each(|q| q.reverse());
    let (mut golden, mut bytes, mut too_large) = (Vec::new(), 0, 0);
    while let Some(probe) = queues.iter_mut().max_by_key(|q| q.len()).and_then(Vec::pop) {
        let input = goods.input;
        let image = Image::new(input.width, input.height, input.channels, probe.pixels.clone())?;
        let one = Golden::new(probe.name.clone(), &image, probe.score)?;
        let size = one.png_base64.len();
        if bytes + size <= MAX_GOLDEN_BYTES {
            bytes += size;
            golden.push(one);
        } else {
            too_large += 1;
        }
    }
    if golden.is_empty() && too_large > 0 {
        return Err(ExportError::GoldenTooLarge { size: goods.input.width });
    }
    if golden.is_empty() { Err(ExportError::NoGolden) } else { Ok(golden) }
}
