//! What is known of the test pictures: good or which defect, group, physical part, where the defect is.
//!
//! The folder says what a part is: `DIR/test/good` or `DIR/test/<class>`. `DIR/manifest.csv` may say more,
//! see [`manifest`]. Without it the group is the folder below the class, or
//! the picture is a group of its own, and the mask is `DIR/ground_truth/<class>/<stem>_mask.png` if that is
//! there. Every pixel of a mask that is not black is defect.
//!
//! Never here: scores.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use inspect_core::card::Input;
use inspect_core::image::{Image, ImageError, Roi};
use inspect_core::resize::Resizer;

use crate::data::manifest::{self, Row};
use crate::data::{DataError, Labelled, images_below, name_below};

/// Name of the class of good parts.
pub const GOOD: &str = "good";
/// A mask's pixel counts as defect from this share of its area on, of 255.
const HALF: u8 = 128;

/// Why the truth is not known.
#[derive(Debug, thiserror::Error)]
pub enum TruthError {
    /// A folder or the manifest cannot be read.
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
    /// A mask cannot be read.
    #[error("mask of {picture}: {source}; replace the mask or take it away")]
    Mask {
        /// The picture.
        picture: PathBuf,
        /// What is wrong with the mask; names its file.
        source: ImageError,
    },
    /// A mask of another picture, or of another resolution.
    #[error(
        "mask {mask} has {mask_width}x{mask_height} pixels, but its picture {picture} has {width}x{height}; they must be the same"
    )]
    MaskSize {
        /// The mask.
        mask: PathBuf,
        /// Pixels.
        mask_width: u32,
        /// Pixels.
        mask_height: u32,
        /// The picture.
        picture: PathBuf,
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// A mask without a defect.
    #[error(
        "mask {mask} is black all over, but its picture {picture} lies in a folder of defective parts; draw the defect, take the mask away, or move the picture to test/good"
    )]
    MaskEmpty {
        /// The mask.
        mask: PathBuf,
        /// The picture.
        picture: PathBuf,
    },
}

/// One test picture with what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestPicture {
    /// File and class.
    pub labelled: Labelled,
    /// Path below the data folder, with `/`.
    pub name: String,
    /// Its group; its own name where none was given.
    pub group: String,
    /// The physical part that it shows, where that was given.
    pub part: Option<String>,
    /// The mask of its defect; never for a good part.
    pub mask: Option<PathBuf>,
}

/// Test pictures with what was found beside them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truth {
    /// The pictures, in order of name.
    pub pictures: Vec<TestPicture>,
    /// Things that the user should know about the data; not errors.
    pub notes: Vec<String>,
}

/// Finds labelled pictures.
///
/// Errors: [`TruthError::NoTest`], [`TruthError::Data`].
pub fn find_test(dir: &Path) -> Result<Vec<Labelled>, TruthError> {
    let found = labelled(dir)?;
    let good = found.iter().filter(|l| l.good).count();
    let defective = found.len() - good;
    if good == 0 || defective == 0 {
        return Err(TruthError::NoTest { path: dir.to_owned(), good, defective });
    }
    Ok(found)
}

/// Every picture below `dir/test`, in order of name.
fn labelled(dir: &Path) -> Result<Vec<Labelled>, TruthError> {
    let test = dir.join("test");
    let mut found = Vec::new();
    if test.is_dir() {
        for path in images_below(&test)? {
            let below = path.strip_prefix(&test).unwrap_or(&path).components().next();
            let class = below.map(|c| c.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
            found.push(Labelled { good: class == GOOD, class, path });
        }
    }
    Ok(found)
}

/// Finds labelled pictures with group, part and mask: some of good and some of defective parts.
///
/// Errors: [`TruthError`] but for what is wrong inside a mask, see [`read_mask`].
pub fn find(dir: &Path) -> Result<Truth, TruthError> {
    truth(dir, find_test(dir)?)
}

/// The same where one of the kinds, or both, may be missing.
///
/// Errors: as [`find`], but for [`TruthError::NoTest`].
pub fn find_some(dir: &Path) -> Result<Truth, TruthError> {
    truth(dir, labelled(dir)?)
}

fn truth(dir: &Path, labelled: Vec<Labelled>) -> Result<Truth, TruthError> {
    let path = dir.join("manifest.csv");
    let manifest = manifest::read(&path)?;
    let listed = labelled.iter().filter(|l| manifest.contains_key(&name_below(dir, &l.path))).count();
    let mut notes = Vec::new();
    if path.exists() && listed < labelled.len() {
        notes.push(format!("manifest.csv names {listed} of the {} test pictures.", labelled.len()));
    }
    let pictures = labelled.into_iter().map(|l| known(dir, l, &manifest)).collect();
    Ok(Truth { pictures, notes })
}

fn known(dir: &Path, labelled: Labelled, manifest: &HashMap<String, Row>) -> TestPicture {
    let name = name_below(dir, &labelled.path);
    let row = manifest.get(&name);
    let given = |field: fn(&Row) -> &String| row.map(field).filter(|f| !f.is_empty()).cloned();
    // name: test / class / lot / … / file
    let below: Vec<&str> = name.split('/').collect();
    let lot = if below.len() > 3 { Some(below[2].to_owned()) } else { None };
    let folder = below.get(1..below.len() - 1).unwrap_or_default().join("/");
    let beside = dir.join("ground_truth").join(folder);
    let stem = labelled.path.file_stem().unwrap_or_default().to_string_lossy();
    let beside = Some(beside.join(format!("{stem}_mask.png"))).filter(|m| m.exists());
    let mask = given(|r| &r.mask).map(|m| dir.join(m)).or(beside).filter(|_| !labelled.good);
    let group = given(|r| &r.group).or(lot).unwrap_or_else(|| name.clone());
    TestPicture { part: given(|r| &r.part), labelled, name, group, mask }
}

/// A mask as one channel: 255 where a defect is drawn in whatever colour, else 0.
///
/// Errors: those of [`Image::read`] and [`Image::new`].
pub fn drawn(mask: &Path) -> Result<Image, ImageError> {
    let image = Image::read(mask)?;
    let pixels = image.data().chunks_exact(usize::from(image.channels()));
    let drawn = pixels.map(|p| if p.iter().any(|v| *v > 0) { u8::MAX } else { 0 }).collect();
    Image::new(image.width(), image.height(), 1, drawn)
}

/// Reads a mask and brings the region `roi` of it (all where `None`) to the model's input, as the picture is:
/// a pixel is defect where half its area is; of a mask that would vanish that way the pixels with the largest
/// share stay. A defect that lies outside of the region is none of the model's.
///
/// Shape: → `[input.height · input.width]`. `size`: width and height of the picture.
/// Errors: [`TruthError::Mask`], [`TruthError::MaskSize`], [`TruthError::MaskEmpty`].
pub fn read_mask(
    mask: &Path,
    picture: &Path,
    size: (u32, u32),
    roi: Option<Roi>,
    input: Input,
    resizer: &mut Resizer,
) -> Result<Vec<bool>, TruthError> {
    let bad = |source| TruthError::Mask { picture: picture.to_owned(), source };
    let drawn = drawn(mask).map_err(bad)?;
    let (mask_width, mask_height) = (drawn.width(), drawn.height());
    if (mask_width, mask_height) != size {
        return Err(TruthError::MaskSize {
            mask: mask.to_owned(),
            mask_width,
            mask_height,
            picture: picture.to_owned(),
            width: size.0,
            height: size.1,
        });
    }
    if drawn.data().iter().all(|v| *v == 0) {
        return Err(TruthError::MaskEmpty { mask: mask.to_owned(), picture: picture.to_owned() });
    }
    marked(&drawn, roi, input, resizer).map_err(bad)
}

/// Where a mask that marks something marks the region `roi` of it (all where `None`) at the model's input, as
/// [`read_mask`] says it. `drawn`: one channel, 0 or 255. Shape: → `[input.height · input.width]`.
///
/// Errors: [`ImageError`] if the region leaves the mask.
pub fn marked(
    drawn: &Image,
    roi: Option<Roi>,
    input: Input,
    resizer: &mut Resizer,
) -> Result<Vec<bool>, ImageError> {
    let shape = Input { channels: 1, ..input };
    let mut share = vec![0u8; shape.bytes()];
    resizer.run(drawn, roi, shape, &mut share)?;
    let most = share.iter().copied().max().unwrap_or(0);
    if most == 0 {
        // Less than 1/510 of every pixel: the one that holds the defect's first pixel stays.
        let only = first_drawn(drawn, roi, input);
        return Ok((0..share.len()).map(|place| only == Some(place)).collect());
    }
    Ok(share.iter().map(|s| *s >= HALF.min(most)).collect())
}

/// The pixel of the model's input that holds the first drawn one of the region.
fn first_drawn(drawn: &Image, roi: Option<Roi>, input: Input) -> Option<usize> {
    let (width, height) = (drawn.width(), drawn.height());
    let roi = roi.unwrap_or(Roi { x: 0, y: 0, width, height });
    let is_drawn = |&(x, y): &(u32, u32)| {
        let at = (roi.y + y) as usize * width as usize + (roi.x + x) as usize;
        drawn.data().get(at).is_some_and(|v| *v > 0)
    };
    let (x, y) = (0..roi.height).flat_map(|y| (0..roi.width).map(move |x| (x, y))).find(is_drawn)?;
    let scaled = |at: u32, to: u32, of: u32| at as usize * to as usize / of as usize;
    Some(scaled(y, input.height, roi.height) * input.width as usize + scaled(x, input.width, roi.width))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUT: Input = Input { width: 4, height: 4, channels: 3 };

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap(); // finding does not read pictures
        }
        dir
    }

    #[test]
    fn folders_tell_class_lot_and_mask() {
        let files = [
            "test/good/0.png",
            "test/scratch/1.png",
            "test/scratch/lot2/2.png",
            "ground_truth/scratch/1_mask.png",
            "ground_truth/good/0_mask.png",
        ];
        let dir = folder(&files);
        let truth = find(dir.path()).unwrap();
        let groups: Vec<&str> = truth.pictures.iter().map(|p| p.group.as_str()).collect();
        assert_eq!(groups, ["test/good/0.png", "test/scratch/1.png", "lot2"]);
        let masks: Vec<bool> = truth.pictures.iter().map(|p| p.mask.is_some()).collect();
        assert_eq!(masks, [false, true, false], "a good part has no defect to show");
        assert!(truth.notes.is_empty());
    }

    #[test]
    fn the_manifest_tells_group_mask_and_part() {
        let dir = folder(&["test/good/0.png", "test/dent/1.png", "test/dent/2.png", "m/1.png"]);
        let rows = "mask,file,part,group\n,test/good/0.png,p1,lot1\nm/1.png,test/dent/1.png,p2,\n";
        std::fs::write(dir.path().join("manifest.csv"), rows).unwrap();
        let truth = find(dir.path()).unwrap();
        let [dent, other, good] = &truth.pictures[..] else { panic!("{truth:?}") };
        assert_eq!((good.group.as_str(), good.part.as_deref()), ("lot1", Some("p1")));
        assert_eq!(dent.mask.as_deref(), Some(dir.path().join("m/1.png").as_path()));
        assert_eq!((dent.group.as_str(), other.part.as_deref()), ("test/dent/1.png", None));
        assert_eq!(truth.notes, ["manifest.csv names 2 of the 3 test pictures."]);
    }

    #[test]
    fn a_manifest_without_file_names_is_an_error() {
        let dir = folder(&["test/good/0.png", "test/dent/1.png"]);
        std::fs::write(dir.path().join("manifest.csv"), "name,group\na,b\n").unwrap();
        let error = find(dir.path()).unwrap_err().to_string();
        assert!(error.contains("manifest.csv") && error.contains("`file`"), "{error}");
    }

    fn mask(width: u32, height: u32, white: &[usize]) -> Result<Vec<bool>, TruthError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.png");
        let mut pixels = vec![0; (width * height) as usize];
        white.iter().for_each(|&i| pixels[i] = 1); // masks of class numbers are dark, and count
        Image::new(width, height, 1, pixels).unwrap().write_png(&path).unwrap();
        read_mask(&path, Path::new("p.png"), (8, 8), None, INPUT, &mut Resizer::default())
    }

    #[test]
    fn a_defect_outside_of_the_region_is_none_and_a_speck_inside_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.png");
        let mut pixels = vec![0; 128 * 128];
        (pixels[0], pixels[100 * 128 + 70]) = (255, 255);
        Image::new(128, 128, 1, pixels).unwrap().write_png(&path).unwrap();
        let marked = |roi| {
            let mut resizer = Resizer::default();
            let got = read_mask(&path, Path::new("p.png"), (128, 128), Some(roi), INPUT, &mut resizer);
            got.unwrap().iter().enumerate().filter(|(_, d)| **d).map(|(i, _)| i).collect::<Vec<_>>()
        };
        assert_eq!(marked(Roi { x: 64, y: 0, width: 64, height: 64 }), [0; 0]);
        assert_eq!(marked(Roi { x: 32, y: 32, width: 96, height: 96 }), [9], "third row, second column");
    }

    #[test]
    fn a_mask_pixel_counts_from_half_its_area_and_none_vanishes() {
        // 8x8 → 4x4: two of the four pixels of the first cell, one of the last.
        let got = mask(8, 8, &[0, 1, 63]).unwrap();
        assert_eq!(got.iter().filter(|d| **d).count(), 1);
        assert!(got[0]);
        let got = mask(8, 8, &[63]).unwrap();
        assert!(got[15] && got.iter().filter(|d| **d).count() == 1, "the only one stays");
    }

    #[test]
    fn a_mask_that_does_not_fit_says_which_and_how() {
        let error = mask(9, 8, &[0]).unwrap_err().to_string();
        assert!(["9x8", "8x8", "m.png", "p.png"].iter().all(|w| error.contains(w)), "{error}");
        let error = mask(8, 8, &[]).unwrap_err().to_string();
        assert!(error.contains("black all over") && error.contains("m.png"), "{error}");
    }
}
