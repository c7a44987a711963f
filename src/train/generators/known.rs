//! Real defects with their masks, and what is said of them: class, caption, process parameters.
//!
//! Two layouts: `DIR/test/CLASS` with masks in `DIR/ground_truth/CLASS` (MVTec AD), or `DIR/CLASS` with masks in
//! `DIR/ground_truth/CLASS`, which is what `inspect-train split --real N` writes. `DIR/manifest.csv` may say more
//! ([`crate::data::manifest`]). Pictures of any size are brought to the goods' size, as the goods are.
//!
//! Never here: a picture without a mask (a generator must know where its defect is); goods.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use inspect_core::card::Input;
use inspect_core::image::Roi;
use inspect_core::model::hex;
use inspect_core::resize::Resizer;
use sha2::{Digest, Sha256};

use super::conditions::Wish;
use crate::data::load::{check_memory, read};
use crate::data::manifest::{self, Row};
use crate::data::{DataError, images_below, name_below};
use crate::real::MAX_REAL;
use crate::truth::{GOOD, TruthError, read_mask};

/// Fewest real defects of a class that a generator learns from. Of fewer it would learn these very pictures, so they
/// are pasted instead. A choice, not a measured limit.
pub const LEAST_TO_LEARN: usize = 5;
const MASKS: &str = "ground_truth";

/// Why there are no usable real defects.
#[derive(Debug, thiserror::Error)]
pub enum KnownError {
    /// A folder, the manifest or a picture cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A mask cannot be used.
    #[error(transparent)]
    Truth(#[from] TruthError),
    /// Not one mask.
    #[error(
        "{path}: none of its {got} pictures of defects has a mask, and a generator has to know where the defects are; draw {MASKS}/CLASS/NAME_mask.png (white where the defect is), or take the pictures away to learn from procedural defects alone"
    )]
    NoMasks {
        /// The folder.
        path: PathBuf,
        /// Pictures of defects.
        got: usize,
    },
    /// Too many.
    #[error("{path}: {got} pictures of defects, expected at most {MAX_REAL}; take a sample of them")]
    TooMany {
        /// The folder.
        path: PathBuf,
        /// Pictures of defects.
        got: usize,
    },
    /// Nothing there although it was asked for.
    #[error("{path}: holds no picture of a defect; expected test/CLASS/NAME.png or CLASS/NAME.png below it")]
    Nothing {
        /// The folder.
        path: PathBuf,
    },
}

/// A real defect at the goods' size.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// Path below the folder, with `/`.
    pub name: String,
    /// Folder that it lies in.
    pub class: String,
    /// All that is said of it, its class among that.
    pub wish: Wish,
    /// Shape: `[S, S, C]`.
    pub pixels: Vec<u8>,
    /// 1 where the defect is, else 0. Shape: `[S, S]`.
    pub mask: Vec<f32>,
}

/// Real defects and what was found beside them.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// In order of name.
    pub defects: Vec<Known>,
    /// Things that the user should know about them; not errors.
    pub notes: Vec<String>,
    /// SHA-256 over pixels, masks and conditions, hex.
    pub sha256: String,
}

impl Found {
    /// How many there are of each class.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        self.defects.iter().for_each(|d| *counts.entry(d.class.clone()).or_default() += 1);
        counts
    }

    /// Those of the classes that there are enough of to learn from.
    pub fn learnable(&self) -> Vec<&Known> {
        let counts = self.counts();
        self.defects.iter().filter(|d| counts[&d.class] >= LEAST_TO_LEARN).collect()
    }
}

/// Loads the real defects of a folder; none where it has no pictures of defects and `needed` is not set.
///
/// Errors: [`KnownError`], for the first thing that is wrong.
pub fn find(dir: &Path, input: Input, roi: Option<Roi>, needed: bool) -> Result<Found, KnownError> {
    let pictures = listed(dir)?;
    let path = || dir.to_owned();
    match pictures.len() {
        0 if needed => return Err(KnownError::Nothing { path: path() }),
        0 => return Ok(Found::default()),
        got if got > MAX_REAL => return Err(KnownError::TooMany { path: path(), got }),
        _ => {}
    }
    check_memory(pictures.len(), input.width, input.bytes() + 4 * (input.width * input.height) as usize)?;
    let rows = manifest::read(&dir.join("manifest.csv"))?;
    let mut found = Found::default();
    let (mut unmarked, mut outside) = (0, 0);
    let mut resizer = Resizer::default();
    let got = pictures.len();
    for picture in pictures {
        let row = rows.get(&picture.name).cloned().unwrap_or_default();
        let Some(mask) = mask_of(dir, &picture, &row) else {
            unmarked += 1;
            continue;
        };
        match load_one(picture, &mask, row, (input, roi), &mut resizer)? {
            Some(known) => found.defects.push(known),
            None => outside += 1,
        }
    }
    if unmarked == got {
        return Err(KnownError::NoMasks { path: path(), got });
    }
    if unmarked > 0 {
        found.notes.push(format!("{unmarked} of {got} pictures of defects have no mask and are left out"));
    }
    if outside > 0 {
        found
            .notes
            .push(format!("the defects of {outside} of {got} pictures lie outside --roi and are left out"));
    }
    found.sha256 = sha256(&found.defects);
    Ok(found)
}

struct Listed {
    name: String,
    class: String,
    path: PathBuf,
}

/// The pictures of defects, in order of name.
fn listed(dir: &Path) -> Result<Vec<Listed>, KnownError> {
    let test = dir.join("test");
    let base = if test.is_dir() { test } else { dir.to_owned() };
    let not_classes = [GOOD, "train", "test", MASKS];
    let named = |path: PathBuf| {
        let below = name_below(&base, &path);
        let (class, _) = below.split_once('/')?;
        let class = class.to_owned();
        (!not_classes.contains(&class.as_str())).then(|| Listed { name: name_below(dir, &path), class, path })
    };
    Ok(images_below(&base)?.into_iter().filter_map(named).collect())
}

/// The mask of a picture: by the manifest, else by its place.
fn mask_of(dir: &Path, picture: &Listed, row: &Row) -> Option<PathBuf> {
    let by_row = (!row.mask.is_empty()).then(|| dir.join(&row.mask));
    let below = picture.name.strip_prefix("test/").unwrap_or(&picture.name);
    let stem = picture.path.file_stem().unwrap_or_default().to_string_lossy();
    let beside = dir.join(MASKS).join(below).with_file_name(format!("{stem}_mask.png"));
    by_row.or(Some(beside)).filter(|m| m.is_file())
}

/// `None` if nothing of the defect lies in the region.
fn load_one(
    picture: Listed,
    mask: &Path,
    row: Row,
    (input, roi): (Input, Option<Roi>),
    resizer: &mut Resizer,
) -> Result<Option<Known>, KnownError> {
    let bad = |reason: String| DataError::Bad { count: 1, listed: vec![reason] };
    let (image, _) = read(&picture.path).map_err(bad)?;
    let mut pixels = vec![0; input.bytes()];
    let named = |e| bad(format!("{}: {e}", picture.path.display()));
    resizer.run(&image, roi, input, &mut pixels).map_err(named)?;
    let size = (image.width(), image.height());
    let mask = read_mask(mask, &picture.path, size, roi, input, resizer)?;
    let mask: Vec<f32> = mask.iter().map(|m| f32::from(u8::from(*m))).collect();
    let Listed { name, class, .. } = picture;
    let text = Some(row.caption).filter(|c| !c.is_empty());
    let wish = Wish { class: Some(class.clone()), text, process: row.parameters };
    Ok(mask.contains(&1.0).then_some(Known { name, class, wish, pixels, mask }))
}

fn sha256(defects: &[Known]) -> String {
    let mut digest = Sha256::new();
    for defect in defects {
        digest.update(&defect.pixels);
        defect.mask.iter().for_each(|m| digest.update([*m as u8]));
        digest.update(format!("{:?}", defect.wish));
    }
    hex(&digest.finalize())
}
