//! Pictures of real defects to learn from: finding them, their masks and boxes, loading them.
//!
//! `DIR/<class>/<stem>.png` are the pictures. What is known of each:
//! - a *mask* `DIR/ground_truth/<class>/<stem>_mask.png`, white where the defect is: 1 there, 0 elsewhere;
//! - else *boxes* in `DIR/boxes.csv` (columns `file`, `x1`, `y1`, `x2`, `y2`: path below DIR and pixels of
//!   that picture, x2 and y2 not in it): 0.5 inside ("somewhere in this region"), 0 elsewhere;
//! - else nothing but that it shows a defect: 0.5 everywhere.
//!
//! Never here: pictures of goods; the test split (real defects are first moved out of it).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use inspect_core::card::Input;
use inspect_core::image::{Image, ImageError, is_image_path};
use inspect_core::resize::Resizer;

/// Most pictures of real defects.
pub const MAX_REAL: usize = 5_000;
/// Most rows of `boxes.csv`.
pub const MAX_BOXES: usize = 100_000;
/// Mask pixels from this value on are defect.
const WHITE: u8 = 128;
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
    /// A picture or a mask cannot be read.
    #[error("{source}; replace or remove the file")]
    Image {
        /// What is wrong with it; names the file.
        #[from]
        source: ImageError,
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
    #[error(
        "{mask}: no pixel is {WHITE} or more, so it marks no defect; paint the defect white, or remove the file"
    )]
    EmptyMask {
        /// The mask.
        mask: PathBuf,
    },
    /// A mask that belongs to no picture.
    #[error(
        "{mask}: no picture belongs to it; the mask of {class}/NAME.png is {MASKS}/{class}/NAME_mask.png"
    )]
    LostMask {
        /// The mask.
        mask: PathBuf,
        /// Folder that it lies in.
        class: String,
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
}

/// A box in pixels of the original picture, with the line that it stands on.
#[derive(Debug, Clone, Copy)]
struct Region {
    line: u64,
    corners: [f64; 4],
}

/// Loads every picture under `dir` at the model's size, in order of name.
///
/// Errors: [`RealError`], naming the file, for the first thing that is wrong.
pub fn load(dir: &Path, input: Input) -> Result<Vec<RealDefect>, RealError> {
    let pictures = find(dir)?;
    let names: BTreeSet<&str> = pictures.iter().map(|(name, _)| name.as_str()).collect();
    check_masks(dir, &names)?;
    let boxes = read_boxes(&dir.join(BOXES), &names)?;
    let mut resizer = Resizer::default();
    let mut defects = Vec::with_capacity(pictures.len());
    for (name, path) in &pictures {
        let image = Image::read(path)?;
        let mut pixels = vec![0; input.bytes()];
        resizer.run(&image, None, input, &mut pixels)?;
        let class = name.split('/').next().unwrap_or_default().to_owned();
        let mask_path = mask_path(dir, &class, path);
        let mask = if mask_path.is_file() {
            load_mask(&mask_path, path, &image, input, &mut resizer)?
        } else if let Some(regions) = boxes.get(name) {
            regions_mask(&dir.join(BOXES), regions, &image, input)?
        } else {
            vec![0.5; (input.width * input.height) as usize]
        };
        defects.push(RealDefect { name: name.clone(), class, pixels, mask });
    }
    Ok(defects)
}

/// Name below `dir` and path of each picture.
fn find(dir: &Path) -> Result<Vec<(String, PathBuf)>, RealError> {
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
                return layout(&folder, "belongs to a data set; real defects need a folder of their own");
            }
            _ => {}
        }
        let files = entries(&folder)?.into_iter().filter(|p| is_image_path(p) && p.is_file());
        pictures.extend(files.map(|path| (format!("{class}/{}", file_name(&path)), path)));
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

fn mask_path(dir: &Path, class: &str, picture: &Path) -> PathBuf {
    let stem = picture.file_stem().map(|s| s.to_string_lossy()).unwrap_or_default();
    dir.join(MASKS).join(class).join(format!("{stem}_mask.png"))
}

/// Every mask must belong to a picture: a name that is spelt wrongly would make its picture an unmarked one.
fn check_masks(dir: &Path, names: &BTreeSet<&str>) -> Result<(), RealError> {
    let root = dir.join(MASKS);
    if !root.is_dir() {
        return Ok(());
    }
    let expected: BTreeSet<PathBuf> = names
        .iter()
        .map(|name| mask_path(dir, name.split('/').next().unwrap_or_default(), &dir.join(name)))
        .collect();
    for folder in entries(&root)?.into_iter().filter(|p| p.is_dir()) {
        let masks = entries(&folder)?.into_iter().filter(|p| is_image_path(p));
        if let Some(mask) = masks.into_iter().find(|mask| !expected.contains(mask)) {
            return Err(RealError::LostMask { mask, class: file_name(&folder) });
        }
    }
    Ok(())
}

/// Shape: `[S, S]`, 0 and 1.
fn load_mask(
    path: &Path,
    picture_path: &Path,
    picture: &Image,
    input: Input,
    resizer: &mut Resizer,
) -> Result<Vec<f32>, RealError> {
    let mut mask = Image::read(path)?.with_channels(1)?;
    let size = |image: &Image| (image.width(), image.height());
    if size(&mask) != size(picture) {
        return Err(RealError::MaskSize {
            mask: path.to_owned(),
            mask_px: size(&mask),
            picture: picture_path.to_owned(),
            picture_px: size(picture),
        });
    }
    mask.data_mut().iter_mut().for_each(|v| *v = if *v >= WHITE { 255 } else { 0 });
    if mask.data().iter().all(|v| *v == 0) {
        return Err(RealError::EmptyMask { mask: path.to_owned() });
    }
    let grey = Input { channels: 1, ..input };
    let mut covered = vec![0; grey.bytes()];
    resizer.run(&mask, None, grey, &mut covered)?;
    let most = f32::from(covered.iter().copied().max().unwrap_or(0));
    if most == 0.0 {
        return Ok(speck(&mask, input));
    }
    // A defect that covers no pixel by that much still lies where it covers most.
    let limit = (MIN_COVERED * 255.0).min(most);
    Ok(covered.iter().map(|v| if f32::from(*v) >= limit { 1.0 } else { 0.0 }).collect())
}

/// A defect too small for the rounding of the shrunk mask: the pixel that its first pixel falls into.
fn speck(mask: &Image, input: Input) -> Vec<f32> {
    let mut out = vec![0.0; (input.width * input.height) as usize];
    let first = mask.data().iter().position(|v| *v > 0).unwrap_or(0);
    let (x, y) = (first % mask.width() as usize, first / mask.width() as usize);
    let along = |v: usize, from: u32, to: u32| (v * to as usize / from as usize).min(to as usize - 1);
    let (x, y) = (along(x, mask.width(), input.width), along(y, mask.height(), input.height));
    out[y * input.width as usize + x] = 1.0;
    out
}

/// Shape: `[S, S]`, 0.5 in every pixel that a box touches.
fn regions_mask(path: &Path, regions: &[Region], image: &Image, input: Input) -> Result<Vec<f32>, RealError> {
    let mut mask = vec![0.0; (input.width * input.height) as usize];
    let (width, height) = (f64::from(image.width()), f64::from(image.height()));
    for region in regions {
        let [x1, y1, x2, y2] = region.corners;
        if !(0.0 <= x1 && x1 < x2 && x2 <= width && 0.0 <= y1 && y1 < y2 && y2 <= height) {
            let reason = format!(
                "the box from ({x1}, {y1}) to ({x2}, {y2}) does not lie in its picture of {width} x {height} pixels"
            );
            return Err(RealError::Boxes { path: path.to_owned(), line: region.line, reason });
        }
        let range = |from: f64, to: f64, of: f64, side: u32| {
            let scale = f64::from(side) / of;
            (from * scale).floor() as usize..((to * scale).ceil() as usize).min(side as usize)
        };
        for y in range(y1, y2, height, input.height) {
            for x in range(x1, x2, width, input.width) {
                mask[y * input.width as usize + x] = 0.5;
            }
        }
    }
    Ok(mask)
}

/// The boxes of each picture; none where there is no file.
fn read_boxes(path: &Path, names: &BTreeSet<&str>) -> Result<BTreeMap<String, Vec<Region>>, RealError> {
    let mut boxes = BTreeMap::<String, Vec<Region>>::new();
    if !path.exists() {
        return Ok(boxes);
    }
    let bad = |line: u64, reason: String| RealError::Boxes { path: path.to_owned(), line, reason };
    let at = |e: &csv::Error| e.position().map_or(1, csv::Position::line);
    let mut reader =
        csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(path).map_err(|e| bad(1, e.to_string()))?;
    let headers = reader.headers().map_err(|e| bad(1, e.to_string()))?.clone();
    let column = |name: &str| {
        headers.iter().position(|h| h == name).ok_or_else(|| bad(1, format!("no column `{name}`")))
    };
    let file = column("file")?;
    let corners = [column("x1")?, column("y1")?, column("x2")?, column("y2")?];
    for (row, record) in reader.records().enumerate() {
        let record = record.map_err(|e| bad(at(&e), e.to_string()))?;
        let line = record.position().map_or(0, csv::Position::line);
        if row >= MAX_BOXES {
            return Err(bad(line, format!("more than {MAX_BOXES} boxes")));
        }
        let name = record.get(file).unwrap_or_default();
        if !names.contains(name) {
            return Err(bad(line, format!("there is no picture `{name}`")));
        }
        let mut region = Region { line, corners: [0.0; 4] };
        for (corner, column) in region.corners.iter_mut().zip(corners) {
            let text = record.get(column).unwrap_or_default();
            *corner = text.parse().map_err(|_| bad(line, format!("`{text}` is not a number of pixels")))?;
        }
        boxes.entry(name.to_owned()).or_default().push(region);
    }
    Ok(boxes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUT: Input = Input { width: 32, height: 32, channels: 1 };

    fn write(path: &Path, width: u32, height: u32, value: impl Fn(u32, u32) -> u8) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let data = (0..width * height).map(|i| value(i % width, i / width)).collect();
        Image::new(width, height, 1, data).unwrap().write_png(path).unwrap();
    }

    /// One picture `scratch/1.png` of 320 x 160 pixels.
    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("scratch/1.png"), 320, 160, |_, _| 90);
        dir
    }

    fn error(dir: &Path) -> String {
        load(dir, INPUT).unwrap_err().to_string()
    }

    #[test]
    fn a_mask_marks_exactly_and_a_thin_scratch_does_not_vanish() {
        let dir = folder();
        let mask = dir.path().join("ground_truth/scratch/1_mask.png");
        write(&mask, 320, 160, |x, y| if y == 52 && x < 160 { 255 } else { 0 });
        let real = load(dir.path(), INPUT).unwrap();
        assert_eq!(
            (real.len(), real[0].name.as_str(), real[0].class.as_str()),
            (1, "scratch/1.png", "scratch")
        );
        assert!(real[0].is_exact() && real[0].pixels == vec![90; 1024]);
        let marked: Vec<usize> = (0..1024).filter(|i| real[0].mask[*i] == 1.0).collect();
        assert_eq!(marked, (10 * 32..10 * 32 + 16).collect::<Vec<_>>());

        write(&mask, 320, 160, |x, y| if (x, y) == (319, 159) { 255 } else { 0 });
        let real = load(dir.path(), INPUT).unwrap();
        assert_eq!((real[0].mask.iter().sum::<f32>(), real[0].mask[1023]), (1.0, 1.0), "one pixel of 51,200");
    }

    #[test]
    fn boxes_say_somewhere_here_and_nothing_says_somewhere() {
        let dir = folder();
        assert_eq!(load(dir.path(), INPUT).unwrap()[0].mask, vec![0.5; 1024]);
        std::fs::write(
            dir.path().join("boxes.csv"),
            "file,x1,y1,x2,y2,type\nscratch/1.png,0,0,20,10,a\nscratch/1.png,300,150,320,160,b\n",
        )
        .unwrap();
        let mask = &load(dir.path(), INPUT).unwrap()[0].mask;
        assert_eq!(mask.iter().filter(|m| **m == 0.5).count(), 8);
        assert_eq!((mask[0], mask[33], mask[2], mask[1023]), (0.5, 0.5, 0.0, 0.5));
    }

    #[test]
    fn a_mask_of_another_size_or_without_mark_or_picture_is_told() {
        let dir = folder();
        let mask = dir.path().join("ground_truth/scratch/1_mask.png");
        write(&mask, 160, 320, |_, _| 255);
        let said = error(dir.path());
        for words in ["1_mask.png is 160 x 320", "1.png is 320 x 160"] {
            assert!(said.contains(words), "{said}");
        }
        write(&mask, 320, 160, |_, _| 1);
        assert!(error(dir.path()).contains("marks no defect"), "{}", error(dir.path()));
        std::fs::rename(&mask, mask.with_file_name("1.png")).unwrap();
        assert!(error(dir.path()).contains("scratch/NAME_mask.png"), "{}", error(dir.path()));
    }

    #[test]
    fn a_broken_box_is_told_with_its_line() {
        let dir = folder();
        for (rows, words) in [
            ("file,x1,y1,x2\n", "line 1: no column `y2`"),
            ("file,x1,y1,x2,y2\nscratch/2.png,0,0,1,1\n", "line 2: there is no picture `scratch/2.png`"),
            ("file,x1,y1,x2,y2\nscratch/1.png,0,0,x,1\n", "`x` is not a number"),
            ("file,x1,y1,x2,y2\nscratch/1.png,0,0,9,9\nscratch/1.png,5,0,5,9\n", "line 3: the box"),
            ("file,x1,y1,x2,y2\nscratch/1.png,0,0,321,9\n", "320 x 160"),
            ("file,x1,y1,x2,y2\nscratch/1.png,NaN,0,3,9\n", "does not lie"),
            ("file,x1,y1,x2,y2\nscratch/1.png,0,0\n", "line 2"),
        ] {
            std::fs::write(dir.path().join("boxes.csv"), rows).unwrap();
            assert!(error(dir.path()).contains(words), "expected {words}: {}", error(dir.path()));
        }
    }

    #[test]
    fn goods_and_test_sets_are_not_taken_for_defects() {
        for (stray, words) in
            [("good/1.png", "goods are no defects"), ("test/a.png", "data set"), ("1.png", "without a class")]
        {
            let dir = folder();
            write(&dir.path().join(stray), 32, 32, |_, _| 90);
            assert!(error(dir.path()).contains(words), "{stray}: {}", error(dir.path()));
        }
        let empty = tempfile::tempdir().unwrap();
        assert!(error(empty.path()).contains("found 0 pictures"));
        assert!(error(&empty.path().join("nowhere")).contains("not a folder"));
    }
}
