//! Pictures of good parts: finding them, their groups, loading them at the model's size.
//!
//! Two layouts. *MVTec AD*: `DIR/train/good/…`, groups from `DIR/manifest.csv` (columns `file`, `group`)
//! where there is one. *Plain*: any folder of goods, read recursively, its subfolders being the groups.
//! A picture without a group is a group of its own. Links to folders are not followed.
//!
//! [`find`] finds, [`manifest`] reads what is said of single pictures, [`load`] reads pictures, [`mask`] the mask
//! of what matters.
//!
//! Never here: the test split of an MVTec AD folder as training data; a picture left out silently.

use std::path::PathBuf;

use inspect_core::card::{Input, MAX_INPUT_SIDE_PX};
use inspect_core::image::{ImageError, Roi};

pub mod find;
pub mod load;
pub mod manifest;
pub mod mask;

pub use find::{exclude, find_goods, find_some, images_below, name_below};
pub use load::{Colour, Look, check_size, load, load_for, load_one};

/// Fewest goods that a fit starts with: some are needed to fit, some to calibrate.
pub const MIN_GOODS: usize = 12;
/// Most goods that are looked for.
pub const MAX_GOODS: usize = 100_000;
/// Most bytes of pictures at the model's size that are held in memory.
pub const MAX_GOODS_BYTES: u64 = 8 << 30;
/// And no more than this share of the machine's memory.
pub const MEMORY_SHARE: f64 = 0.5;
/// Largest picture file that is read, bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 30;
/// Most bad pictures that an error lists.
pub const MAX_LISTED: usize = 20;

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
    /// Some pictures cannot be used.
    #[error("{} cannot be used; replace or remove the files:\n  {}{}", pictures(*.count), .listed.join("\n  "), more(*.count, .listed.len()))]
    Bad {
        /// How many.
        count: usize,
        /// The first of them: file and reason, at most [`MAX_LISTED`].
        listed: Vec<String>,
    },
    /// The pictures do not fit into memory.
    #[error(
        "{got} pictures of {size}x{size} pixels take {bytes} bytes, and at most {most_bytes} may be used (half of the memory, 8 GiB at most); {fit} pictures fit: take a sample of them, or a smaller --size"
    )]
    Memory {
        /// Pictures found.
        got: usize,
        /// Side of the model's input, pixels.
        size: u32,
        /// What they take.
        bytes: u64,
        /// What there is.
        most_bytes: u64,
        /// How many pictures that is.
        fit: u64,
    },
    /// Almost black pictures.
    #[error(
        "the brightest pixel of all {got} pictures is {brightest} of 255: nothing can be learnt from so few levels; a 12-bit camera that stores 0 to 4095 in 16 bits must be scaled to the full range first"
    )]
    Dark {
        /// Pictures.
        got: usize,
        /// Their largest value.
        brightest: u8,
    },
    /// The mask cannot be used.
    #[error("--mask {path}: {reason}")]
    Mask {
        /// The mask.
        path: PathBuf,
        /// What is wrong, what is expected.
        reason: String,
    },
    /// The list of pictures to leave out is wrong.
    #[error(
        "--exclude {path}: {reason}; expected one picture a line, as `inspect-train suspects --list` writes them (path below --data)"
    )]
    Exclude {
        /// The list.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The manifest is broken.
    #[error(
        "{path}: {reason}; expected a CSV file with the column `file` (path below this folder) and any of `group`, `mask`, `part`"
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

fn pictures(count: usize) -> String {
    if count == 1 { "1 picture".into() } else { format!("{count} pictures") }
}

fn more(count: usize, listed: usize) -> String {
    if count > listed { format!("\n  and {} more", count - listed) } else { String::new() }
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
    /// The name of each: its path below the data folder.
    pub names: Vec<String>,
    /// The region of the pictures that was taken; goes on the card.
    pub roi: Option<Roi>,
    /// What matters (1) and what is ignored (0), if anything is. Shape: `[H, W]`.
    pub mask: Option<Vec<f32>>,
    /// Pictures that the user left out.
    pub excluded: usize,
    /// SHA-256 over the sorted SHA-256s of the files, hex; names do not matter.
    pub sha256: String,
    /// Things that the user should know about the pictures; not errors.
    pub notes: Vec<String>,
}

impl Goods {
    /// Goods that come from no files, numbered. Shape: `pixels` each `[H, W, C]`, as many as `groups`.
    pub fn new(input: Input, pixels: Vec<Vec<u8>>, groups: Vec<String>) -> Self {
        let names = (0..pixels.len()).map(|i| i.to_string()).collect();
        let sha256 = String::new();
        Self { input, pixels, groups, names, roi: None, mask: None, excluded: 0, sha256, notes: Vec::new() }
    }
}
