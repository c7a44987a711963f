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

#[cfg(test)]
mod tests {
    use super::*;
    use inspect_core::image::Image;

    const INPUT: Input = Input { width: 32, height: 32, channels: 1 };

    /// Grey `side` x `side`, with a square of `level` in the part from 1/4 to 1/2 of either side.
    fn square(side: u32, ground: u8, level: u8) -> Image {
        let inside = |v: u32| (side / 4..side / 2).contains(&v);
        let value = |i: u32| if inside(i % side) && inside(i / side) { level } else { ground };
        Image::new(side, side, 1, (0..side * side).map(value).collect()).unwrap()
    }

    fn write(dir: &Path, name: &str, image: &Image) {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image.write_png(&path).unwrap();
    }

    /// A picture of a dark square and, at `mask` if that is said, its mask.
    fn defect(dir: &Path, name: &str, side: u32, mask: Option<&str>) {
        write(dir, name, &square(side, 120, 10));
        if let Some(mask) = mask {
            write(dir, mask, &square(side, 0, 255));
        }
    }

    fn found(dir: &Path) -> Found {
        find(dir, INPUT, None, true).unwrap()
    }

    fn refused(dir: &Path, roi: Option<Roi>) -> String {
        find(dir, INPUT, roi, true).unwrap_err().to_string()
    }

    #[test]
    fn both_layouts_are_read_and_goods_are_not() {
        for below in ["test/", ""] {
            let dir = tempfile::tempdir().unwrap();
            for (class, name) in [("rust", "0"), ("burr", "1"), ("rust", "lot/2")] {
                let stem = format!("{class}/{name}");
                let mask = format!("ground_truth/{stem}_mask.png");
                defect(dir.path(), &format!("{below}{stem}.png"), 32, Some(&mask));
            }
            for other in ["good/0.png", "train/good/0.png"] {
                write(dir.path(), &format!("{below}{other}"), &square(32, 120, 120));
            }
            let found = found(dir.path());
            let names: Vec<&str> = found.defects.iter().map(|d| d.name.as_str()).collect();
            let expected = ["burr/1.png", "rust/0.png", "rust/lot/2.png"].map(|n| format!("{below}{n}"));
            assert_eq!(names, expected);
            assert_eq!(found.counts(), BTreeMap::from([("burr".into(), 1), ("rust".into(), 2)]));
            assert!(found.notes.is_empty() && found.learnable().is_empty());
        }
    }

    #[test]
    fn the_manifest_says_where_a_mask_is_and_what_is_known() {
        let dir = tempfile::tempdir().unwrap();
        defect(dir.path(), "test/rust/0.png", 32, Some("masks/zero.png"));
        defect(dir.path(), "test/rust/1.png", 32, Some("ground_truth/rust/1_mask.png"));
        let rows = "file,mask,caption,wear\ntest/rust/0.png,masks/zero.png,dark square,0.5\n";
        std::fs::write(dir.path().join("manifest.csv"), rows).unwrap();
        let first = found(dir.path());
        let wishes: Vec<&Wish> = first.defects.iter().map(|d| &d.wish).collect();
        assert_eq!(wishes[0].text.as_deref(), Some("dark square"));
        assert_eq!((wishes[0].process["wear"], wishes[1].process.len()), (0.5, 0));
        assert_eq!((wishes[1].class.as_deref(), wishes[1].text.as_deref()), (Some("rust"), None));
        // What is said of a picture is part of what a fit goes on from.
        std::fs::write(dir.path().join("manifest.csv"), rows.replace("0.5", "0.6")).unwrap();
        assert_ne!(found(dir.path()).sha256, first.sha256);
        // A mask that the manifest names and that is not there is no mask.
        std::fs::remove_file(dir.path().join("masks/zero.png")).unwrap();
        let found = found(dir.path());
        assert_eq!(found.defects.len(), 1);
        assert!(found.notes[0].contains("1 of 2 pictures of defects have no mask"), "{:?}", found.notes);
    }

    #[test]
    fn pictures_of_any_size_come_to_one_and_their_masks_with_them() {
        let dir = tempfile::tempdir().unwrap();
        for side in [32, 48, 64, 256] {
            let mask = format!("ground_truth/rust/{side}_mask.png");
            defect(dir.path(), &format!("test/rust/{side}.png"), side, Some(&mask));
        }
        for known in found(dir.path()).defects {
            assert_eq!((known.pixels.len(), known.mask.len()), (1024, 1024));
            for (i, (v, m)) in known.pixels.iter().zip(&known.mask).enumerate() {
                let inside = (8..16).contains(&(i % 32)) && (8..16).contains(&(i / 32));
                assert_eq!(*m, f32::from(u8::from(inside)), "{}, pixel {i}", known.name);
                assert_eq!(*v < 65, inside, "{}, pixel {i}", known.name);
            }
        }
    }

    #[test]
    fn a_mask_of_another_size_and_a_torn_picture_are_named() {
        let dir = tempfile::tempdir().unwrap();
        defect(dir.path(), "rust/0.png", 64, None);
        write(dir.path(), "ground_truth/rust/0_mask.png", &square(32, 0, 255));
        let error = refused(dir.path(), None);
        assert!(error.contains("0_mask.png") && error.contains("32") && error.contains("64"), "{error}");
        defect(dir.path(), "rust/0.png", 32, None);
        std::fs::write(dir.path().join("rust/0.png"), b"no picture").unwrap();
        let error = refused(dir.path(), None);
        assert!(error.contains("rust/0.png") && error.contains("replace or remove"), "{error}");
    }

    #[test]
    fn defects_outside_of_the_region_are_left_out_and_told() {
        let dir = tempfile::tempdir().unwrap();
        defect(dir.path(), "rust/0.png", 64, Some("ground_truth/rust/0_mask.png"));
        defect(dir.path(), "rust/1.png", 64, Some("ground_truth/rust/1_mask.png"));
        write(dir.path(), "ground_truth/rust/1_mask.png", &Image::new(64, 64, 1, vec![255; 4096]).unwrap());
        let roi = Roi { x: 32, y: 32, width: 32, height: 32 };
        let found = find(dir.path(), INPUT, Some(roi), true).unwrap();
        assert_eq!(found.defects.len(), 1);
        assert!(found.defects[0].mask.iter().all(|m| *m == 1.0));
        assert!(found.notes[0].contains("1 of 2 pictures lie outside --roi"), "{:?}", found.notes);
        let beyond = Roi { x: 60, y: 0, width: 32, height: 32 };
        assert!(refused(dir.path(), Some(beyond)).contains("rust/0.png"));
    }

    #[test]
    fn nothing_no_masks_and_too_many_are_told_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        assert!(refused(dir.path(), None).contains("no picture of a defect"));
        assert!(find(dir.path(), INPUT, None, false).unwrap().defects.is_empty());
        for name in ["rust/0.png", "rust/1.png"] {
            defect(dir.path(), name, 32, None);
        }
        let error = refused(dir.path(), None);
        assert!(error.contains("none of its 2 pictures") && error.contains("NAME_mask.png"), "{error}");
        for i in 0..MAX_REAL {
            std::fs::write(dir.path().join(format!("rust/{i}.bmp")), b"").unwrap();
        }
        let error = refused(dir.path(), None);
        assert!(error.contains("5002 pictures") && error.contains("at most 5000"), "{error}");
    }
}
