//! Pictures of good parts: finding them, their groups, loading them at the model's size.
//!
//! Two layouts. *MVTec AD*: `DIR/train/good/…`, groups from `DIR/manifest.csv` (columns `file`, `group`)
//! where there is one. *Plain*: any folder of goods, read recursively, its subfolders being the groups.
//! A picture without a group is a group of its own.
//!
//! Never here: the test split of an MVTec AD folder as training data.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use inspect_core::card::{Input, MAX_INPUT_SIDE_PX};
use inspect_core::image::{Image, ImageError, is_image_path, luma};
use inspect_core::model::hex;
use inspect_core::resize::Resizer;
use sha2::{Digest, Sha256};

/// Fewest goods that a fit starts with: some are needed to fit, some to calibrate.
pub const MIN_GOODS: usize = 12;
/// Most goods that are held in memory.
pub const MAX_GOODS: usize = 100_000;
/// Mean difference between colour channels (0 to 255) up to which a picture counts as grey.
const GREY_DIFFERENCE: f64 = 1.0;

/// Why there are no usable pictures.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A folder cannot be read.
    #[error("{path}: {source}; expected a folder of pictures (--data)")]
    Io {
        /// Folder or file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No folder there.
    #[error(
        "{path}: is not a folder; --data takes the folder that holds the pictures, or an MVTec AD folder with train/good in it"
    )]
    NotAFolder {
        /// What was given.
        path: PathBuf,
    },
    /// It looks like MVTec AD but holds no goods where they belong.
    #[error(
        "{path}: has a test or ground_truth folder but no train/good; put the good pictures into {path}/train/good, so that no test picture is trained on"
    )]
    NoTrainGood {
        /// The folder.
        path: PathBuf,
    },
    /// Too few or too many pictures.
    #[error("{path}: found {got} pictures (png, jpg, bmp, tif), expected {expected}; {advice}")]
    Count {
        /// The folder.
        path: PathBuf,
        /// Pictures found.
        got: usize,
        /// What is needed.
        expected: String,
        /// What to do.
        advice: &'static str,
    },
    /// One picture cannot be read.
    #[error("{source}; replace or remove the file")]
    Image {
        /// What is wrong with it; names the file.
        #[from]
        source: ImageError,
    },
    /// The manifest is broken.
    #[error(
        "{path}: {reason}; expected a CSV file with the columns `file` (path below this folder) and `group`"
    )]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The model's size cannot be had.
    #[error("--size {got}: expected a multiple of 16 from 32 to {MAX_INPUT_SIDE_PX} pixels")]
    Size {
        /// What was given.
        got: u32,
    },
}

/// A picture file and the group that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// The file.
    pub path: PathBuf,
    /// Its path below the data folder, with `/`.
    pub name: String,
    /// Its group; a picture without one has its own name here.
    pub group: String,
}

/// One labelled picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// The file.
    pub path: PathBuf,
    /// Folder below `test`.
    pub class: String,
    /// Whether the part is good.
    pub good: bool,
}

/// Goods at the model's size.
#[derive(Debug, Clone)]
pub struct Goods {
    /// Shape of each of `pixels`.
    pub input: Input,
    /// Shape: each `[H, W, C]`, as the daemon's preprocessing makes it.
    pub pixels: Vec<Vec<u8>>,
    /// The group of each.
    pub groups: Vec<String>,
    /// SHA-256 over names and bytes of the files, in order of name.
    pub sha256: String,
    /// Things that the user should know about the pictures; not errors.
    pub notes: Vec<String>,
}

/// Finds the goods under `dir`, in order of name.
///
/// Errors: [`DataError`].
pub fn find_goods(dir: &Path) -> Result<Vec<Picture>, DataError> {
    if !dir.is_dir() {
        return Err(DataError::NotAFolder { path: dir.to_owned() });
    }
    let train = dir.join("train").join("good");
    let layout = train.is_dir();
    let base = if layout { train.as_path() } else { dir };
    let paths = images_below(base)?;
    // A plain folder of goods holds no test pictures, at whatever depth: they would be taken for goods.
    if !layout && (dir.join("test").is_dir() || paths.iter().any(|p| is_judged(dir, p))) {
        return Err(DataError::NoTrainGood { path: dir.to_owned() });
    }
    let pictures = grouped(dir, base, paths)?;
    check_count(dir, &pictures)?;
    Ok(pictures)
}

fn check_count(dir: &Path, pictures: &[Picture]) -> Result<(), DataError> {
    let count = |expected: String, advice| {
        Err(DataError::Count { path: dir.to_owned(), got: pictures.len(), expected, advice })
    };
    match pictures.len() {
        0 => count(
            format!("at least {MIN_GOODS}"),
            "check the path; `inspectd capture` takes pictures through a station's camera",
        ),
        n if n < MIN_GOODS => count(
            format!("at least {MIN_GOODS}"),
            "take more pictures of good parts: some 30 give a provisional threshold, 100 and more a proven one",
        ),
        n if n > MAX_GOODS => count(format!("at most {MAX_GOODS}"), "take a sample of them"),
        _ => Ok(()),
    }
}

/// Whether a picture lies in a folder of test pictures or masks.
fn is_judged(dir: &Path, path: &Path) -> bool {
    let below = path.strip_prefix(dir).unwrap_or(path);
    below.components().any(|c| {
        let name = c.as_os_str().to_string_lossy().to_lowercase();
        name == "test" || name == "ground_truth"
    })
}

/// The group of each: by `manifest.csv` in `dir`, else the folder right below `base` where there are several,
/// else the picture is a group of its own.
fn grouped(dir: &Path, base: &Path, paths: Vec<PathBuf>) -> Result<Vec<Picture>, DataError> {
    let manifest = manifest_groups(&dir.join("manifest.csv"))?;
    let folder = |path: &Path| {
        let below = path.strip_prefix(base).unwrap_or(path);
        let first = below.parent().and_then(|p| p.components().next());
        first.map(|c| c.as_os_str().to_string_lossy().into_owned()).unwrap_or_default()
    };
    let folders: BTreeSet<String> = paths.iter().map(|p| folder(p)).collect();
    let mut listed = 0;
    let mut named = |path: PathBuf| {
        let name = name_below(dir, &path);
        let row = manifest.get(&name);
        listed += usize::from(row.is_some());
        let group = match row.filter(|group| !group.is_empty()) {
            Some(group) => group.clone(),
            None => {
                Some(folder(&path)).filter(|f| folders.len() > 1 && !f.is_empty()).unwrap_or(name.clone())
            }
        };
        Picture { path, group, name }
    };
    let pictures: Vec<Picture> = paths.into_iter().map(&mut named).collect();
    if listed == 0 && !manifest.is_empty() && !pictures.is_empty() {
        let reason = format!("none of its rows names a good picture, such as `{}`", pictures[0].name);
        return Err(DataError::Manifest { path: dir.join("manifest.csv"), reason });
    }
    Ok(pictures)
}

fn name_below(dir: &Path, path: &Path) -> String {
    let below = path.strip_prefix(dir).unwrap_or(path);
    below.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// Every image file below `dir`, in order of name. Hidden folders are left out.
///
/// Errors: [`DataError::Io`].
pub fn images_below(dir: &Path) -> Result<Vec<PathBuf>, DataError> {
    let io = |source| DataError::Io { path: dir.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        } else if path.is_dir() && !path.is_symlink() {
            found.extend(images_below(&path)?);
        } else if is_image_path(&path) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// File name → group; empty where there is no manifest.
fn manifest_groups(path: &Path) -> Result<HashMap<String, String>, DataError> {
    if !path.exists() {
        return Ok(HashMap::new());
    }
    let bad = |reason: String| DataError::Manifest { path: path.to_owned(), reason };
    let mut reader = csv::Reader::from_path(path).map_err(|e| bad(e.to_string()))?;
    let headers = reader.headers().map_err(|e| bad(e.to_string()))?.clone();
    let column =
        |name: &str| headers.iter().position(|h| h == name).ok_or_else(|| bad(format!("no column `{name}`")));
    let (file, group) = (column("file")?, column("group")?);
    let mut groups = HashMap::new();
    for record in reader.records() {
        let record = record.map_err(|e| bad(e.to_string()))?;
        let field = |i: usize| record.get(i).unwrap_or_default().trim().to_owned();
        groups.insert(field(file), field(group));
    }
    Ok(groups)
}

/// Reads one picture as the daemon would see it. Shape: `[input.height, input.width, input.channels]`.
///
/// Errors: [`ImageError`], which names the file.
pub fn load_one(path: &Path, input: Input, resizer: &mut Resizer) -> Result<Vec<u8>, ImageError> {
    let mut pixels = vec![0; input.bytes()];
    resizer.run(&Image::read(path)?, None, input, &mut pixels)?;
    Ok(pixels)
}

/// Loads pictures at `size` x `size` pixels, grey if all of them are grey, else RGB.
///
/// Errors: [`DataError::Size`], [`DataError::Image`] for the first file that cannot be read.
pub fn load(pictures: &[Picture], size: u32) -> Result<Goods, DataError> {
    if !size.is_multiple_of(16) || !(32..=MAX_INPUT_SIDE_PX).contains(&size) {
        return Err(DataError::Size { got: size });
    }
    let colour = Input { width: size, height: size, channels: 3 };
    let mut resizer = Resizer::default();
    let mut digest = Sha256::new();
    let mut sizes = BTreeMap::<(u32, u32), usize>::new();
    let mut pixels = Vec::with_capacity(pictures.len());
    for picture in pictures {
        let bytes = std::fs::read(&picture.path)
            .map_err(|source| ImageError::Io { path: picture.path.clone(), source })?;
        digest.update(picture.name.as_bytes());
        digest.update(&bytes);
        let image = Image::decode(&bytes, &picture.path)?;
        *sizes.entry((image.width(), image.height())).or_default() += 1;
        let mut rgb = vec![0; colour.bytes()];
        resizer.run(&image, None, colour, &mut rgb)?;
        pixels.push(rgb);
    }
    let channels = if pixels.iter().all(|p| is_grey(p)) { 1 } else { 3 };
    if channels == 1 {
        // What the daemon's preprocessing does: resize first, then luma.
        for p in &mut pixels {
            *p = p.chunks_exact(3).map(|c| luma([c[0], c[1], c[2]])).collect();
        }
    }
    Ok(Goods {
        input: Input { channels, ..colour },
        pixels,
        groups: pictures.iter().map(|p| p.group.clone()).collect(),
        sha256: hex(&digest.finalize()),
        notes: size_notes(&sizes, size),
    })
}

fn is_grey(rgb: &[u8]) -> bool {
    let difference = |c: &[u8]| f64::from(c[0].abs_diff(c[1]).max(c[1].abs_diff(c[2])));
    let sum: f64 = rgb.chunks_exact(3).map(difference).sum();
    sum / (rgb.len() as f64 / 3.0) <= GREY_DIFFERENCE
}

fn size_notes(sizes: &BTreeMap<(u32, u32), usize>, size: u32) -> Vec<String> {
    let mut notes = Vec::new();
    if let (true, Some((first, _)), Some((last, _))) =
        (sizes.len() > 1, sizes.first_key_value(), sizes.last_key_value())
    {
        notes.push(format!(
            "the pictures have {} different sizes ({}x{} to {}x{} pixels); each is squeezed to \
             {size}x{size}. If one camera took them, look for foreign files among them.",
            sizes.len(),
            first.0,
            first.1,
            last.0,
            last.1,
        ));
    }
    if sizes.keys().any(|&(w, h)| w < size || h < size) {
        notes.push(format!(
            "some pictures are smaller than --size {size} and are enlarged; a smaller --size loses nothing."
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap(); // finding does not read pictures
        }
        dir
    }

    fn groups(dir: &Path) -> Vec<String> {
        find_goods(dir).unwrap().into_iter().map(|p| p.group).collect()
    }

    /// `count` names below each of two lots.
    fn lots(below: &str, count: usize) -> Vec<String> {
        let names = |lot: &str| (0..count).map(|i| format!("{below}{lot}/{i:02}.png")).collect::<Vec<_>>();
        [names("lot1/a"), names("lot2")].concat()
    }

    #[test]
    fn the_top_folder_is_the_group_in_both_layouts() {
        for below in ["train/good/", ""] {
            let files = lots(below, 8);
            let dir = folder(&files.iter().map(String::as_str).collect::<Vec<_>>());
            let expected = [vec!["lot1"; 8], vec!["lot2"; 8]].concat();
            assert_eq!(groups(dir.path()), expected, "{below:?}");
        }
    }

    #[test]
    fn test_pictures_are_never_taken_for_goods_at_whatever_depth() {
        for stray in ["bottle/test/broken/1.png", "bottle/ground_truth/broken/1.png", "Test/good/1.png"] {
            let mut files = lots("bottle/train/good/", 8);
            files.push(stray.to_owned());
            let dir = folder(&files.iter().map(String::as_str).collect::<Vec<_>>());
            assert!(matches!(find_goods(dir.path()), Err(DataError::NoTrainGood { .. })), "{stray}");
        }
    }

    #[test]
    fn a_manifest_groups_both_layouts_and_one_that_fits_nothing_is_an_error() {
        for below in ["train/good/", ""] {
            let files = lots(below, 8);
            let dir = folder(&files.iter().map(String::as_str).collect::<Vec<_>>());
            let manifest = dir.path().join("manifest.csv");
            std::fs::write(&manifest, format!("file,group\n{},shift9\n", files[0])).unwrap();
            assert_eq!(groups(dir.path())[0], "shift9");
            std::fs::write(&manifest, "file,group\nelsewhere.png,shift9\n").unwrap();
            let error = find_goods(dir.path()).unwrap_err().to_string();
            assert!(error.contains("manifest.csv") && error.contains("00.png"), "{error}");
        }
    }
}
