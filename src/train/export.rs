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
use inspect_core::reference::Reference;
use inspect_core::runtime::{Provider, Runtime};
use inspect_core::scorer::{GOLDEN_TOLERANCE, OnnxScorer, Scorer, ScorerError};
use prost::Message;
use rand::SeedableRng;

use crate::backbone::Scale;
use crate::data::Goods;
use crate::defects::{Ground, Random, make};
use crate::file::{part_of, write_whole};
use crate::fit::{Fitted, Settings};
use crate::infer::{maps, scores};
use crate::metrics::auroc;
use crate::onnx;
use crate::pose::planes;
use crate::score::{self, Fusion};

/// Golden goods and as many golden made defects.
const GOLDEN_GOODS: usize = 4;
/// Goods, and made defects, whose maps are compared too.
const MAPS: usize = 8;
/// Made defects that a model is judged on, at least.
const MADE_PROBES: usize = 240;
/// The most of goods, and of made defects, that both programs score.
const MAX_PROBES: usize = 1000;
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
        "{picture}: libtorch scores {torch}, ONNX Runtime {onnx}, threshold {threshold}, their maps differ by up to {difference} of it: both must agree within {GOLDEN_TOLERANCE} on the same side; no file was written. Please report this"
    )]
    Parity {
        /// Which picture.
        picture: String,
        /// Score by libtorch.
        torch: f32,
        /// Score by ONNX Runtime.
        onnx: f32,
        /// Largest difference of scores and maps, as a share of the reject threshold.
        difference: f32,
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
    /// AUROC of held-out goods against made defects: of the score, and of what else could have made it.
    pub made_auroc: Vec<(Fusion, f64)>,
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
    let probes = probes(fitted, goods, settings);
    let card = card(fitted, goods, settings, name, &probes)?;
    let mut model = onnx::model(&fitted.weights, fitted.shape).map_err(ExportError::Weight)?;
    model.metadata_props = vec![StringStringEntryProto { key: CARD_KEY.into(), value: card.to_json()? }];
    let bytes = model.encode_to_vec();
    let file = ModelFile::decode(bytes, path)?;
    let runtime = Runtime { providers: vec![Provider::Cpu], ..Runtime::default() };
    let mut scorer = OnnxScorer::load(&file, &runtime)?;
    let largest_difference = compare(&mut scorer, &file, fitted, &probes)?;

    write_whole(path, &file.bytes).map_err(|source| ExportError::Write { path: path.to_owned(), source })?;
    let made_rejected = probes.made.iter().filter(|p| p.score > fitted.thresholds.reject).count();
    Ok(Written {
        made_auroc: made_auroc(fitted, goods, settings.fusion, &probes),
        bytes: file.bytes.len(),
        compared: probes.all().count(),
        largest_difference,
        made: probes.made.len(),
        made_rejected,
    })
}

/// Pictures that both programs score, with libtorch's scores.
struct Probes {
    good: Vec<Probe>,
    made: Vec<Probe>,
}

impl Probes {
    fn all(&self) -> impl Iterator<Item = &Probe> {
        self.good.iter().chain(&self.made)
    }
}

/// Calibration goods, and made defects on them in turn: of the families that were held out if any were.
fn probes(fitted: &Fitted, goods: &Goods, settings: &Settings) -> Probes {
    let (side, channels) = (goods.input.width as usize, usize::from(goods.input.channels));
    let mut random = Random::seed_from_u64(settings.seed ^ 0x60_1d);
    let held_out = &fitted.split.calibration;
    let mut made = Vec::with_capacity(MADE_PROBES);
    for k in 0..held_out.len().clamp(MADE_PROBES, MAX_PROBES) {
        let pixels =
            |k: usize| planes(&goods.pixels[held_out[k % held_out.len()]], side, channels, 0, (0, 0));
        let (good, other) = (pixels(k), pixels(k + 1));
        let matters = goods.mask.as_deref();
        let ground = Ground { good: &good, other: &other, side, channels, matters };
        let defect = make(&mut random, &ground, &settings.without);
        if defect.mask.iter().all(|m| *m == 0.0) {
            continue; // nothing that could be seen came of it
        }
        made.push((format!("made defect {k} ({})", defect.family), interleaved(&defect.picture, channels)));
    }
    let good =
        held_out.iter().enumerate().map(|(k, &i)| (format!("good {k}"), goods.pixels[i].clone())).collect();
    let scored = |pictures: Vec<(String, Vec<u8>)>| {
        let views: Vec<&[u8]> = pictures.iter().map(|(_, p)| p.as_slice()).collect();
        let scores = scores(&fitted.weights, fitted.shape, &views, goods.input);
        let probe = |((name, pixels), score)| Probe { name, pixels, score };
        pictures.into_iter().zip(scores).map(probe).collect()
    };
    Probes { good: scored(good), made: scored(made) }
}

/// AUROC of the probes for each way to make the score, the file's own first.
fn made_auroc(fitted: &Fitted, goods: &Goods, own: Fusion, probes: &Probes) -> Vec<(Fusion, f64)> {
    let of = |probes: &[Probe]| -> Vec<f32> { probes.iter().map(|p| p.score).collect() };
    let mut found = vec![(own, auroc(&of(&probes.good), &of(&probes.made)))];
    let pixels: Vec<&[u8]> = probes.all().map(|p| p.pixels.as_slice()).collect();
    for fusion in [Fusion::Fused, Fusion::Head, Fusion::Residual].into_iter().filter(|f| *f != own) {
        score::set_fusion(&fitted.weights, fusion);
        let scores = scores(&fitted.weights, fitted.shape, &pixels, goods.input);
        let (good, made) = scores.split_at(probes.good.len());
        found.push((fusion, auroc(good, made)));
    }
    score::set_fusion(&fitted.weights, own);
    found
}

/// `[C, S, S]` → `[S, S, C]`
fn interleaved(picture: &[f32], channels: usize) -> Vec<u8> {
    let area = picture.len() / channels;
    let pixel = |i: usize| (0..channels).map(move |c| picture[c * area + i].round() as u8);
    (0..area).flat_map(pixel).collect()
}

/// Largest difference of scores and maps between the two programs, as a share of the reject threshold.
fn compare(
    scorer: &mut OnnxScorer,
    file: &ModelFile,
    fitted: &Fitted,
    probes: &Probes,
) -> Result<f32, ExportError> {
    let (mut map, mut largest) = (Vec::new(), 0f32);
    let limits = file.card.thresholds;
    // Maps take room: those of a few of each kind are proof enough.
    let with_map: Vec<&Probe> =
        [&probes.good, &probes.made].into_iter().flat_map(|p| p.iter().take(MAPS)).collect();
    let pixels: Vec<&[u8]> = with_map.iter().map(|p| p.pixels.as_slice()).collect();
    let mut maps = maps(&fitted.weights, fitted.shape, &pixels, file.card.input).into_iter();
    let mut with_map = with_map.into_iter().peekable();
    for probe in probes.all() {
        let onnx = scorer.score(&probe.pixels, &mut map)?;
        let mut difference = (onnx - probe.score).abs() / limits.reject;
        if with_map.next_if(|p| std::ptr::eq(*p, probe)).is_some() {
            let torch = maps.next().unwrap_or_default();
            let pairs = torch.iter().zip(&map).map(|(a, b)| (a - b).abs() / limits.reject);
            difference = pairs.fold(difference, f32::max);
        }
        // A threshold is the score of a calibration good: there rounding may fall on either side.
        let same_side = |limit: f32| {
            (onnx <= limit) == (probe.score <= limit) || (probe.score - limit).abs() <= 1e-5 * limit
        };
        if !(difference <= GOLDEN_TOLERANCE && same_side(limits.review) && same_side(limits.reject)) {
            return Err(ExportError::Parity {
                picture: probe.name.clone(),
                torch: probe.score,
                onnx,
                difference,
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
    probes: &Probes,
) -> Result<Card, ExportError> {
    let text = |name: &str, value: &dyn std::fmt::Display| (name.to_owned(), value.to_string());
    let mut settings_text = BTreeMap::from([
        text("variant", &settings.variant),
        text("size", &goods.input.width),
        text("symmetry", &settings.symmetry),
        text("normalise", &if settings.exposure { "exposure" } else { "none" }),
        text("score", &settings.fusion),
        text("precision", &settings.precision),
        text("goods_statistics", &fitted.split.statistics.len()),
        text("goods_calibration", &fitted.split.calibration.len()),
        text("goods_excluded", &goods.excluded),
        text("real_defects", &settings.real.len()),
    ]);
    if !settings.made.is_empty() {
        let sets: Vec<String> = settings.made.iter().map(ToString::to_string).collect();
        settings_text.extend([text("made_defects", &sets.join(", "))]);
        settings_text.extend([text("made_share", &settings.made_share)]);
    }
    if let Some(frozen) = fitted.weights.frozen() {
        let backbone = &frozen.backbone;
        let maps: Vec<String> = backbone.maps.iter().map(|map| map.said(backbone.size)).collect();
        let Scale { mean, std } = backbone.scale;
        settings_text.extend([
            text("backbone_sha256", &backbone.sha256),
            text("backbone_opset", &backbone.opset),
            text("backbone_maps", &maps.join("; ")),
            text("backbone_scale", &format!("mean {mean:?}, std {std:?}")),
            text("backbone_features", &frozen.channels()),
        ]);
    }
    if let Some(crop) = settings.crop {
        settings_text.extend([text("crop", &crop)]);
    }
    if let Some(mask) = &goods.mask {
        let matters = mask.iter().filter(|m| **m > 0.5).count() as f64 / mask.len().max(1) as f64;
        settings_text.extend([text("mask_matters", &format!("{matters:.3}"))]);
    }
    if !settings.without.is_empty() {
        let names: Vec<String> = settings.without.iter().map(ToString::to_string).collect();
        settings_text.extend([text("without", &names.join(","))]);
    }
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
            steps: fitted.learnt.steps,
            settings: settings_text,
        },
        reference: Reference::of(
            probes.good.iter().map(|probe| (probe.score, probe.pixels.as_slice())),
            goods.input,
        ),
    })
}

/// Up to [`GOLDEN_GOODS`] goods and as many made defects that lie clear of both thresholds.
fn golden(fitted: &Fitted, goods: &Goods, probes: &Probes) -> Result<Vec<Golden>, ExportError> {
    let limits = fitted.thresholds;
    let clear =
        |p: &&Probe| [limits.review, limits.reject].iter().all(|l| (p.score - l).abs() > GOLDEN_MARGIN * l);
    // Made defects that can be seen come first: they prove the reject side.
    let (seen, unseen): (Vec<_>, Vec<_>) = probes.made.iter().partition(|p| p.score > limits.reject);
    let made = seen.into_iter().chain(unseen).filter(clear).take(GOLDEN_GOODS);
    let good = probes.good.iter().filter(clear).take(GOLDEN_GOODS);
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
