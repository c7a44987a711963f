//! Pictures of real defects to learn from: finding them, their masks and boxes, loading them.
//!
//! `DIR/<class>/<stem>.png` are the pictures, with folders below the class if there are lots. What is known of
//! each:
//! - a *mask* `DIR/ground_truth/<class>/<stem>_mask.png`, black where there is no defect: 0 there, 1 elsewhere;
//! - else *boxes* in `DIR/boxes.csv` (columns `file`, `x1`, `y1`, `x2`, `y2`: path below DIR and pixels of
//!   that picture, x2 and y2 not in it): 0.5 inside ("somewhere in this region"), 0 elsewhere;
//! - else nothing but that it shows a defect: 0.5 everywhere.
//!
//! Never here: pictures of goods; the test split (real defects are first moved out of it).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use inspect_core::card::Input;
use inspect_core::image::{Image, ImageError, Roi, is_image_path};
use inspect_core::resize::Resizer;

use crate::data::find::name_below;
use crate::data::load::{check_memory, read};
use crate::data::{DataError, images_below};

mod boxes;
#[cfg(test)]
mod tests;

use boxes::Boxes;

/// Most pictures of real defects.
pub const MAX_REAL: usize = 5_000;
/// A pixel of the shrunk mask is defect from this covered share on, so that thin ones do not vanish.
const MIN_COVERED: f32 = 0.1;
const MASKS: &str = "ground_truth";
const BOXES: &str = "boxes.csv";

/// Why there are no usable real defects.
#[derive(Debug, thiserror::Error)]
pub enum RealError {
    /// A folder or file cannot be read.
    #[error("{path}: {source}; expected a folder with one folder of pictures for each class of defect")]
    Io {
        /// Folder or file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not a folder of defects.
    #[error("{path}: {reason}; expected DIR/<class of defect>/<picture>.png")]
    Layout {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// Too few or too many.
    #[error("{path}: found {got} pictures in folders of classes, expected 1 to {MAX_REAL}")]
    Count {
        /// The folder.
        path: PathBuf,
        /// Pictures found.
        got: usize,
    },
    /// A folder of a class cannot be read, or the pictures do not fit into memory.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A picture or a mask cannot be used.
    #[error("{reason}; replace or remove the file")]
    Picture {
        /// What is wrong with it; names the file.
        reason: String,
    },
    /// None of the defects can be seen.
    #[error(
        "{path}: the defects of all {got} pictures lie outside --roi; give a larger region, or no --real"
    )]
    Outside {
        /// The folder.
        path: PathBuf,
        /// Pictures.
        got: usize,
    },
    /// A mask of another size.
    #[error(
        "{mask} is {} x {} pixels, but its picture {picture} is {} x {}; draw the mask on the picture as it is",
        mask_px.0, mask_px.1, picture_px.0, picture_px.1
    )]
    MaskSize {
        /// The mask.
        mask: PathBuf,
        /// Its width and height.
        mask_px: (u32, u32),
        /// The picture.
        picture: PathBuf,
        /// Its width and height.
        picture_px: (u32, u32),
    },
    /// A mask that marks nothing.
    #[error("{mask} is black all over, so it marks no defect; paint the defect white, or remove the file")]
    EmptyMask {
        /// The mask.
        mask: PathBuf,
    },
    /// A mask that belongs to no picture.
    #[error(
        "{mask}: no picture belongs to it; the mask of {folder}/NAME.png is {MASKS}/{folder}/NAME_mask.png"
    )]
    LostMask {
        /// The mask.
        mask: PathBuf,
        /// Folder that it lies in, below the masks'.
        folder: String,
    },
    /// `boxes.csv` is broken.
    #[error(
        "{path}, line {line}: {reason}; expected the columns file, x1, y1, x2, y2: a picture's path below this folder, and pixels of that picture"
    )]
    Boxes {
        /// The file.
        path: PathBuf,
        /// Line, 1 is the header.
        line: u64,
        /// What is wrong.
        reason: String,
    },
}

/// A picture of a real defect at the model's size.
#[derive(Debug, Clone, PartialEq)]
pub struct RealDefect {
    /// Path below the folder, with `/`.
    pub name: String,
    /// Folder that it lies in.
    pub class: String,
    /// Shape: `[S, S, C]`.
    pub pixels: Vec<u8>,
    /// 0 clean, 1 defect, 0.5 "a defect is somewhere in this region". Shape: `[S, S]`.
    pub mask: Vec<f32>,
}

impl RealDefect {
    /// Whether the mask says of every pixel what it is.
    pub fn is_exact(&self) -> bool {
        self.mask.iter().all(|m| *m == 0.0 || *m == 1.0)
    }

    /// Whether a window of so many pixels can show it so that its mask says something of the window: any part of
    /// an exact mask does, a region only if the window holds it whole.
    pub fn fits(&self, window_px: usize) -> bool {
        if self.mask.contains(&1.0) {
            return true;
        }
        let side = self.mask.len().isqrt().max(1);
        let marked = || self.mask.iter().enumerate().filter(|(_, m)| **m > 0.0).map(|(i, _)| i);
        let extent = |at: fn(usize, usize) -> usize| {
            let along = || marked().map(|i| at(i, side));
            along().max().zip(along().min()).map_or(0, |(last, first)| last - first + 1)
        };
        extent(|i, side| i % side) <= window_px && extent(|i, side| i / side) <= window_px
    }

    /// Whether a part of it lies where the part matters. Shape: `matters` `[S, S]`, under 0.5: ignored.
    pub fn is_seen(&self, matters: &[f32]) -> bool {
        self.mask.iter().zip(matters).any(|(m, w)| *m > 0.0 && *w >= 0.5)
    }
}

/// What is known of real defects.
#[derive(Debug)]
pub struct Known {
    /// In order of name.
    pub defects: Vec<RealDefect>,
    /// Things that the user should know about them; not errors.
    pub notes: Vec<String>,
}

/// Loads every picture under `dir` at the model's size, in order of name. `roi`: the part of each picture that
/// the model sees, as of the goods; a picture whose defect lies elsewhere is left out with a note.
///
/// Errors: [`RealError`], naming the file, for the first thing that is wrong.
pub fn load(dir: &Path, input: Input, roi: Option<Roi>) -> Result<Known, RealError> {
    let pictures = find(dir)?;
    check_memory(pictures.len(), input.width, input.bytes() + 4 * (input.width * input.height) as usize)?;
    let names: BTreeSet<&str> = pictures.iter().map(|(name, _)| name.as_str()).collect();
    check_masks(dir, &names)?;
    let folder = Folder { dir, boxes: Boxes::read(dir.join(BOXES), &names)?, input, roi };
    let mut resizer = Resizer::default();
    let (mut defects, mut outside) = (Vec::with_capacity(pictures.len()), Vec::new());
    for (name, path) in &pictures {
        match folder.load_one(name, path, &mut resizer)? {
            Some(defect) => defects.push(defect),
            None => outside.push(name.as_str()),
        }
    }
    if defects.is_empty() {
        return Err(RealError::Outside { path: dir.to_owned(), got: outside.len() });
    }
    let mut notes = Vec::new();
    if let Some(first) = outside.first() {
        notes.push(format!(
            "{} of {} known defects lie outside --roi and are left out, such as {first}",
            outside.len(),
            pictures.len()
        ));
    }
    Ok(Known { defects, notes })
}

/// Where pictures come from and how the model sees them.
pub(crate) struct Folder<'a> {
    dir: &'a Path,
    boxes: Boxes,
    input: Input,
    roi: Option<Roi>,
}

impl<'a> Folder<'a> {
    /// A folder whose masks say where defects are, and nothing else does.
    pub(crate) fn masked(dir: &'a Path, input: Input, roi: Option<Roi>) -> Self {
        Self { dir, boxes: Boxes::none(), input, roi }
    }

    /// `None` if the defect lies outside the region.
    pub(crate) fn load_one(
        &self,
        name: &str,
        path: &Path,
        resizer: &mut Resizer,
    ) -> Result<Option<RealDefect>, RealError> {
        let (image, _) = read(path).map_err(|reason| RealError::Picture { reason })?;
        let (width, height) = (image.width(), image.height());
        let whole = Roi { x: 0, y: 0, width, height };
        let named = |e: ImageError| RealError::Picture { reason: format!("{}: {e}", path.display()) };
        let seen = self.roi.unwrap_or(whole).within(width, height).map_err(named)?;
        let mut pixels = vec![0; self.input.bytes()];
        resizer.run(&image, Some(seen), self.input, &mut pixels).map_err(named)?;
        let mask_path = mask_path(self.dir, name);
        let mask = if mask_path.is_file() {
            self.mask(&mask_path, path, &image, seen, resizer)?
        } else if self.boxes.have(name) {
            self.boxes.mask(name, &image, seen, self.input)?
        } else {
            vec![0.5; (self.input.width * self.input.height) as usize]
        };
        let class = name.split('/').next().unwrap_or_default().to_owned();
        let marked = mask.iter().any(|m| *m > 0.0);
        Ok(marked.then(|| RealDefect { name: name.to_owned(), class, pixels, mask }))
    }

    /// Shape: `[S, S]`, 0 and 1; all 0 if nothing in `seen` is marked.
    fn mask(
        &self,
        path: &Path,
        picture_path: &Path,
        picture: &Image,
        seen: Roi,
        resizer: &mut Resizer,
    ) -> Result<Vec<f32>, RealError> {
        let (image, _) = read(path).map_err(|reason| RealError::Picture { reason })?;
        let named = |e: ImageError| RealError::Picture { reason: format!("{}: {e}", path.display()) };
        let size = |image: &Image| (image.width(), image.height());
        if size(&image) != size(picture) {
            return Err(RealError::MaskSize {
                mask: path.to_owned(),
                mask_px: size(&image),
                picture: picture_path.to_owned(),
                picture_px: size(picture),
            });
        }
        // Masks of class numbers are dark, and count, as they do for `evaluate`.
        let pixel = usize::from(image.channels());
        let drawn = image.data().chunks_exact(pixel).map(|p| if p.iter().any(|v| *v > 0) { 255 } else { 0 });
        let drawn = Image::new(image.width(), image.height(), 1, drawn.collect()).map_err(named)?;
        if drawn.data().iter().all(|v| *v == 0) {
            return Err(RealError::EmptyMask { mask: path.to_owned() });
        }
        let drawn = drawn.crop(seen).map_err(named)?;
        let grey = Input { channels: 1, ..self.input };
        let mut covered = vec![0; grey.bytes()];
        resizer.run(&drawn, None, grey, &mut covered).map_err(named)?;
        let most = f32::from(covered.iter().copied().max().unwrap_or(0));
        if most == 0.0 {
            return Ok(speck(&drawn, self.input));
        }
        // A defect that covers no pixel by that much still lies where it covers most.
        let limit = (MIN_COVERED * 255.0).min(most);
        Ok(covered.iter().map(|v| if f32::from(*v) >= limit { 1.0 } else { 0.0 }).collect())
    }
}

/// Name below `dir` and path of each picture.
///
/// Errors: [`RealError::Layout`], [`RealError::Io`], [`RealError::Count`].
pub(crate) fn find(dir: &Path) -> Result<Vec<(String, PathBuf)>, RealError> {
    let layout = |path: &Path, reason| Err(RealError::Layout { path: path.to_owned(), reason });
    if !dir.is_dir() {
        return layout(dir, "is not a folder");
    }
    let mut pictures = Vec::new();
    for folder in entries(dir)? {
        let class = file_name(&folder);
        if !folder.is_dir() {
            if is_image_path(&folder) {
                return layout(&folder, "is a picture without a class");
            }
            continue;
        }
        match class.to_lowercase().as_str() {
            MASKS => continue,
            "good" => return layout(&folder, "holds goods by its name, and goods are no defects"),
            "train" | "test" => {
                return layout(
                    &folder,
                    "belongs to a data set that is judged by; `inspect-train split` takes real defects out of one",
                );
            }
            _ => {}
        }
        pictures.extend(images_below(&folder)?.into_iter().map(|path| (name_below(dir, &path), path)));
    }
    if pictures.is_empty() || pictures.len() > MAX_REAL {
        return Err(RealError::Count { path: dir.to_owned(), got: pictures.len() });
    }
    Ok(pictures)
}

/// What lies in a folder, in order of name; hidden things are left out.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, RealError> {
    let io = |source| RealError::Io { path: dir.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if !file_name(&path).starts_with('.') {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The mask of the picture `name`.
pub(crate) fn mask_path(dir: &Path, name: &str) -> PathBuf {
    let stem = Path::new(name).file_stem().unwrap_or_default().to_string_lossy();
    dir.join(MASKS).join(name).with_file_name(format!("{stem}_mask.png"))
}

/// Every mask must belong to a picture: a name that is spelt wrongly would make its picture an unmarked one.
fn check_masks(dir: &Path, names: &BTreeSet<&str>) -> Result<(), RealError> {
    let root = dir.join(MASKS);
    if !root.is_dir() {
        return Ok(());
    }
    let expected: BTreeSet<PathBuf> = names.iter().map(|name| mask_path(dir, name)).collect();
    if let Some(mask) = images_below(&root)?.into_iter().find(|mask| !expected.contains(mask)) {
        let folder = name_below(&root, mask.parent().unwrap_or(&root));
        return Err(RealError::LostMask { mask, folder });
    }
    Ok(())
}

/// A defect too small for the rounding of the shrunk mask: the pixel that its first pixel falls into, if it
/// has one.
fn speck(mask: &Image, input: Input) -> Vec<f32> {
    let mut out = vec![0.0; (input.width * input.height) as usize];
    let Some(first) = mask.data().iter().position(|v| *v > 0) else { return out };
    let (x, y) = (first % mask.width() as usize, first / mask.width() as usize);
    let along = |v: usize, from: u32, to: u32| (v * to as usize / from as usize).min(to as usize - 1);
    let (x, y) = (along(x, mask.width(), input.width), along(y, mask.height(), input.height));
    out[y * input.width as usize + x] = 1.0;
    out
}
