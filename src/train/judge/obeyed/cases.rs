//! Defects with all that is said of them, as the reader sees them.
//!
//! A *cut* is a square of the picture around the middle of its mask, of the same share of the picture for all, so
//! that small and large, here and there can be told. The reader is not shown the mask: a generator is given it, and
//! what shows in the mask alone would count as obeyed. That cannot be kept from it altogether: where a made defect
//! changes all of its mask, its outline is that of the mask, and with it its size and place and often its class. What
//! a generator owes to its conditions shows beside a set that the same one made without any (`--guidance 0`).
//!
//! Cuts are wider than what the reader sees at a time, so that it can look from a few pixels beside.
//!
//! Pictures are taken to be the same view at any size: a made set of 128 x 128 pixels beside photographs of 900 x 600
//! is told from the photographs brought to as many pixels.
//!
//! A *twin* is the picture of the same part without its defect: `DIR/twin/CLASS/NAME.png`, as `defects sample` and a
//! labelled capture of simulated parts write it. Where all defects have one, the reader sees beside each picture how
//! it differs from its twin, and tells far more: small defects are lost among what parts differ by anyway.
//!
//! Never here: networks; what can be asked.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use inspect_core::card::Input;
use inspect_core::image::Roi;
use inspect_core::resize::Resizer;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::super::JudgeError;
use super::super::sets::{Found, bounds, list_made, list_real};
use crate::data::find_some;
use crate::data::load::{is_grey, read};
use crate::data::manifest::{self, Row};
use crate::defects::Random;
use crate::made::Named;
use crate::truth::{TruthError, drawn};

/// Most defects of a set that are looked at; of more, so many are taken, evenly by name.
const MAX_CASES: usize = 8_000;
/// Sides of what the reader sees, pixels, a multiple of [`STEP_PX`].
const INPUT_PX: std::ops::RangeInclusive<usize> = 32..=96;
const STEP_PX: usize = 8;
/// Pixels that a cut is wider than that, on each side.
pub const MARGIN_PX: usize = 3;
/// What the reader sees is so much wider than nearly all masks.
const AROUND: f64 = 1.5;
/// Nearly all masks: this share of them.
const NEARLY_ALL: f64 = 0.95;

/// A defect, or a place of a good without one.
pub struct Case {
    /// Class of the defect; `None`: a good.
    pub class: Option<String>,
    /// Cases that belong together have one group.
    pub group: String,
    /// What it shows or was asked to show, in words; empty where nothing is said.
    pub caption: String,
    /// Process parameters that are known of it.
    pub process: BTreeMap<String, f64>,
    /// Shape: `[cut, cut, C]`.
    pub pixels: Vec<u8>,
    /// The same place of its twin; empty unless all have one. Shape: `[cut, cut, C]`.
    pub twin: Vec<u8>,
    /// Middle of the cut: -1 is the picture's left or upper edge, 1 its right or lower one.
    pub at: [f32; 2],
}

/// How pictures are cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Look {
    /// Side of what the reader sees, pixels.
    pub input_px: usize,
    /// Share of the picture's width, and of its height, that a pixel covers.
    pub pixel: f64,
    /// 1 or 3.
    pub channels: usize,
    /// Whether all have twins.
    pub twins: bool,
}

impl Look {
    /// Side of a cut, pixels.
    pub fn cut_px(&self) -> usize {
        self.input_px + 2 * MARGIN_PX
    }
}

/// A picture whose mask was looked at.
struct Boxed {
    found: Found,
    /// Middle of the mask, shares of width and height.
    middle: [f64; 2],
    /// Longer side of the mask, share of the same side of the picture.
    longest: f64,
    row: Row,
    twin: Option<PathBuf>,
}

/// What a reader learns from and what it is asked about.
pub struct Cases {
    /// How they were cut.
    pub look: Look,
    /// Real defects, then goods cut at the places of real defects.
    pub real: Vec<Case>,
    /// By made set.
    pub made: Vec<Vec<Case>>,
    /// Things that the user should know.
    pub notes: Vec<String>,
}

/// Reads and cuts. `kept`: classes that are learnt; real defects of others are left out.
///
/// Errors: [`JudgeError`].
pub fn load(
    data: &Path,
    made: &[Named],
    kept: &dyn Fn(&str) -> bool,
    seed: u64,
) -> Result<Cases, JudgeError> {
    let mut notes = Vec::new();
    let mut real = list_real(data)?;
    real.retain(|f| kept(&f.class));
    let real = boxed(data, real, &mut notes)?;
    let sets = made.iter().map(|set| boxed(&set.path, list_made(set)?, &mut notes));
    let sets = sets.collect::<Result<Vec<_>, JudgeError>>()?;
    let look = look(&real, &sets)?;
    let mut resizer = Resizer::default();
    let mut all = |of: &[Boxed]| -> Result<Vec<Case>, JudgeError> {
        of.iter().map(|b| case(b, &look, &mut resizer)).collect()
    };
    let (mut cases, made) = (all(&real)?, sets.iter().map(|s| all(s)).collect::<Result<Vec<_>, _>>()?);
    cases.extend(goods(data, &real, &look, seed)?);
    Ok(Cases { look, real: cases, made, notes })
}

/// Finds the middle of each mask and what the manifest says; those that mark nothing are left out.
fn boxed(dir: &Path, found: Vec<Found>, notes: &mut Vec<String>) -> Result<Vec<Boxed>, JudgeError> {
    // Other programs' sets may have columns that say nothing here: then nothing is known of them.
    let rows = manifest::read(&dir.join("manifest.csv")).unwrap_or_else(|e| {
        notes.push(format!("Captions and process parameters could not be had: {e}"));
        HashMap::new()
    });
    let step = found.len().div_ceil(MAX_CASES).max(1);
    let mut all = Vec::new();
    for mut found in found.into_iter().step_by(step) {
        let Some(mask) = &found.mask else { continue };
        let drawn = drawn(mask)
            .map_err(|source| TruthError::Mask { picture: found.picture.clone(), source })
            .map_err(JudgeError::Truth)?;
        let Some((low, high)) = bounds(&drawn) else { continue };
        let size = [f64::from(drawn.width()), f64::from(drawn.height())];
        let middle = [0, 1].map(|k| f64::from(low[k] + high[k]) / 2.0 / size[k]);
        let longest = [0, 1].map(|k| f64::from(high[k] - low[k]) / size[k]).into_iter().fold(0.0, f64::max);
        let row = rows.get(&found.name).cloned().unwrap_or_default();
        if !row.part.is_empty() {
            found.group = row.part.clone();
        }
        let twin = twin_of(dir, &found.name);
        all.push(Boxed { found, middle, longest, row, twin });
    }
    Ok(all)
}

/// Where the twin of a defect is, if it has one.
fn twin_of(dir: &Path, name: &str) -> Option<PathBuf> {
    let below = Path::new(name.strip_prefix("test/")?).with_extension("png");
    Some(dir.join("twin").join(below)).filter(|path| path.is_file())
}

/// Wide enough for nearly all real masks, at the pixels of the set that has fewest.
fn look(real: &[Boxed], made: &[Vec<Boxed>]) -> Result<Look, JudgeError> {
    let mut longest: Vec<f64> = real.iter().map(|b| b.longest).collect();
    longest.sort_by(f64::total_cmp);
    let place = (longest.len() as f64 * NEARLY_ALL) as usize;
    let wide = longest.get(place.min(longest.len().saturating_sub(1))).copied().unwrap_or(1.0) * AROUND;
    let (mut side_px, mut channels) = (usize::MAX, 1);
    for first in std::iter::once(real).chain(made.iter().map(Vec::as_slice)).filter_map(<[Boxed]>::first) {
        let (image, _) = read(&first.found.picture).map_err(|reason| JudgeError::Picture { reason })?;
        side_px = side_px.min(image.width().max(image.height()) as usize);
        let grey = image.channels() == 1 || is_grey(image.data());
        channels = if grey { channels } else { 3 };
    }
    let wanted = (wide * side_px as f64 / STEP_PX as f64).ceil() as usize * STEP_PX;
    let input_px = wanted.clamp(*INPUT_PX.start(), *INPUT_PX.end());
    // More of it than the reader has pixels for: coarser ones.
    let pixel = (1.0 / side_px as f64).max(wide / input_px as f64);
    let most = 1.0 / (input_px + 2 * MARGIN_PX) as f64;
    let twins = real.iter().chain(made.iter().flatten()).all(|b| b.twin.is_some());
    Ok(Look { input_px, pixel: pixel.min(most), channels, twins })
}

fn case(boxed: &Boxed, look: &Look, resizer: &mut Resizer) -> Result<Case, JudgeError> {
    let Boxed { found, middle, row, twin, .. } = boxed;
    let (pixels, at) = cut(&found.picture, *middle, look, resizer)?;
    let twin = match twin {
        Some(twin) if look.twins => cut(twin, *middle, look, resizer)?.0,
        _ => Vec::new(),
    };
    let (caption, process) = (row.caption.clone(), row.parameters.clone());
    Ok(Case {
        class: Some(found.class.clone()),
        group: found.group.clone(),
        caption,
        process,
        pixels,
        twin,
        at,
    })
}

/// The square around `middle`, moved inside the picture. Shape: → `[cut, cut, C]`, and where its middle is.
fn cut(
    picture: &Path,
    middle: [f64; 2],
    look: &Look,
    resizer: &mut Resizer,
) -> Result<(Vec<u8>, [f32; 2]), JudgeError> {
    let (image, _) = read(picture).map_err(|reason| JudgeError::Picture { reason })?;
    let side = look.cut_px() as u32;
    let size = [image.width(), image.height()];
    let place = [0, 1].map(|k| {
        let length = ((f64::from(side) * look.pixel * f64::from(size[k])).round() as u32).clamp(1, size[k]);
        let from = (middle[k] * f64::from(size[k]) - f64::from(length) / 2.0).round().max(0.0) as u32;
        (from.min(size[k] - length), length)
    });
    let [(x, width), (y, height)] = place;
    let shape = Input { width: side, height: side, channels: look.channels as u8 };
    let mut pixels = vec![0; shape.bytes()];
    let named = |e| JudgeError::Picture { reason: format!("{}: {e}", picture.display()) };
    resizer.run(&image, Some(Roi { x, y, width, height }), shape, &mut pixels).map_err(named)?;
    let at = [0, 1].map(|k| {
        let (from, length) = place[k];
        ((f64::from(from) + f64::from(length) / 2.0) / f64::from(size[k]) * 2.0 - 1.0) as f32
    });
    Ok((pixels, at))
}

/// Goods at the places of real defects, as many as there are of a class: what shows nothing must not be told as
/// what would be there.
fn goods(data: &Path, real: &[Boxed], look: &Look, seed: u64) -> Result<Vec<Case>, JudgeError> {
    let goods: Vec<(String, PathBuf)> = find_some(data, 1)?.into_iter().map(|p| (p.group, p.path)).collect();
    let classes: std::collections::BTreeSet<&str> = real.iter().map(|b| b.found.class.as_str()).collect();
    let mut r = Random::seed_from_u64(seed);
    let mut places: Vec<[f64; 2]> = real.iter().map(|b| b.middle).collect();
    places.shuffle(&mut r);
    places.truncate(real.len().div_ceil(classes.len().max(1)));
    let mut resizer = Resizer::default();
    let one = |middle: &[f64; 2]| {
        let (group, path) = &goods[r.random_range(0..goods.len())];
        let (pixels, at) = cut(path, *middle, look, &mut resizer)?;
        let (caption, process) = (String::new(), BTreeMap::new());
        let twin = if look.twins { pixels.clone() } else { Vec::new() };
        Ok(Case { class: None, group: format!("good {group}"), caption, process, pixels, twin, at })
    };
    places.iter().map(one).collect()
}
