//! Sets of defects that a generator made, to learn from.
//!
//! A *made set* is a folder in the MVTec AD layout: `DIR/test/CLASS/NAME.png` and, for each of them,
//! `DIR/ground_truth/CLASS/NAME_mask.png`. It is said as `NAME=DIR`; the name goes on the model's card. `fit` takes
//! `NAME=FILE` too, a generator, which has to see parts as the fit does ([`check`]) and then draws such a folder
//! ([`order`], [`path_of`]): there is one way into a fit.
//!
//! Never here: which sets are worth it ([`crate::judge`] says so); how they are drawn; pictures without a mask.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use inspect_core::card::Input;
use inspect_core::image::Roi;
use inspect_core::model::hex;
use inspect_core::resize::Resizer;
use sha2::{Digest, Sha256};

use crate::batches::Symmetry;
use crate::checkpoint;
use crate::data::load::check_memory;
use crate::data::{DataError, Goods, images_below, name_below};
use crate::generators::Generator;
use crate::generators::sample::Order;
use crate::real::{Folder, MAX_REAL, RealDefect, RealError, mask_path};
use crate::truth::GOOD;

/// Most made sets at once.
pub const MAX_SETS: usize = 16;
/// Longest name of a set, characters.
const MAX_NAME: usize = 32;
/// Digits of a set's SHA-256 that stand on a card.
const SHORT: usize = 12;

/// Why a made set cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MadeError {
    /// Not a set.
    #[error(
        "made set {path}: {reason}; expected DIR/test/CLASS/NAME.png with DIR/ground_truth/CLASS/NAME_mask.png, as `inspect-train defects sample` writes them"
    )]
    Layout {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A picture without its mask.
    #[error(
        "made defect {picture}: its mask {mask} is not there; made defects always have one, so the set is not whole"
    )]
    NoMask {
        /// The picture.
        picture: PathBuf,
        /// Where its mask should be.
        mask: PathBuf,
    },
    /// A generator that sees parts otherwise.
    #[error(
        "`{name}`: the generator {path} was fitted with {what} {was}, and this fit has {now}; give this fit the same, or fit a generator that is told the same as this fit"
    )]
    Unlike {
        /// What the set is called.
        name: String,
        /// The generator file.
        path: PathBuf,
        /// Which setting.
        what: &'static str,
        /// Of the generator.
        was: String,
        /// Of the fit.
        now: String,
    },
    /// A folder cannot be read, or the pictures do not fit into memory.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A picture or mask cannot be used.
    #[error(transparent)]
    Real(#[from] RealError),
}

/// Made defects and what they are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The name: letters, digits, `-` and `_`.
    pub name: String,
    /// The folder, or the file of a generator that is to draw them.
    pub path: PathBuf,
}

/// `NAME=DIR` or `NAME=FILE`. Errors: in words.
pub fn named(text: &str) -> Result<Named, String> {
    let (name, path) = text.split_once('=').ok_or_else(|| format!("`{text}`: expected NAME=PATH"))?;
    let letters = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(letters) {
        return Err(format!(
            "`{name}`: expected a name of 1 to {MAX_NAME} letters, digits, `-` or `_` before the `=`"
        ));
    }
    if ["procedural", "real"].contains(&name) {
        return Err(format!("`{name}` is what others are compared with; choose another name"));
    }
    Ok(Named { name: name.to_owned(), path: PathBuf::from(path) })
}

/// Whether all names differ and there are no more than [`MAX_SETS`]. Errors: in words.
pub fn check_names(sets: &[Named]) -> Result<(), String> {
    for (i, set) in sets.iter().enumerate() {
        if sets[..i].iter().any(|other| other.name == set.name) {
            return Err(format!("two made sets are called `{}`; give each a name of its own", set.name));
        }
    }
    if sets.len() > MAX_SETS {
        return Err(format!("{} made sets, expected at most {MAX_SETS}", sets.len()));
    }
    Ok(())
}

/// Made defects at the model's size.
#[derive(Debug, Clone, PartialEq)]
pub struct MadeSet {
    /// What it is called.
    pub name: String,
    /// SHA-256 over the pixels and masks as the model sees them, hex.
    pub sha256: String,
    /// SHA-256 of the generator's file, hex, if the set says which it is.
    pub generator: Option<String>,
    /// In order of name; at least one.
    pub defects: Vec<RealDefect>,
}

impl std::fmt::Display for MadeSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let short = |hash: &str| hash.get(..SHORT).unwrap_or(hash).to_owned();
        write!(f, "{}: {} ({})", self.name, self.defects.len(), short(&self.sha256))?;
        self.generator.as_ref().map_or(Ok(()), |hash| write!(f, " of generator {}", short(hash)))
    }
}

/// Pictures of a made set: name below `DIR/test` and path, in order of name. Goods among them are left out.
///
/// Errors: [`MadeError::Layout`], [`MadeError::Data`].
pub fn find(dir: &Path) -> Result<Vec<(String, PathBuf)>, MadeError> {
    let layout = |reason: String| MadeError::Layout { path: dir.to_owned(), reason };
    let test = dir.join("test");
    if !test.is_dir() {
        return Err(layout("has no folder `test`".into()));
    }
    let below = images_below(&test)?.into_iter().map(|path| (name_below(&test, &path), path));
    let found: Vec<_> = below.filter(|(name, _)| name.split('/').next() != Some(GOOD)).collect();
    if let Some((name, _)) = found.iter().find(|(name, _)| !name.contains('/')) {
        return Err(layout(format!("test/{name} is a picture without a class")));
    }
    match found.len() {
        0 => Err(layout("holds no picture of a defect".into())),
        n if n > MAX_REAL => Err(layout(format!("holds {n} pictures, and at most {MAX_REAL} are taken"))),
        _ => Ok(found),
    }
}

/// Whether a generator sees parts as a fit on `goods` does.
///
/// Errors: [`MadeError::Unlike`].
pub fn check(set: &Named, generator: &Generator, goods: &Goods, symmetry: Symmetry) -> Result<(), MadeError> {
    let header = &generator.header;
    let colour = |channels: i64| (if channels == 1 { "grey" } else { "rgb" }).to_owned();
    let region =
        |roi: Option<Roi>| roi.map_or("none".into(), |r| format!("{},{},{},{}", r.x, r.y, r.width, r.height));
    let Input { width, channels, .. } = goods.input;
    let all = [
        ("--size", header.size_px.to_string(), width.to_string()),
        ("--colour", colour(header.crop.channels), colour(i64::from(channels))),
        ("--roi", region(header.roi), region(goods.roi)),
        ("--symmetry", header.symmetry.clone(), symmetry.to_string()),
    ];
    let Some((what, was, now)) = all.into_iter().find(|(_, was, now)| was != now) else { return Ok(()) };
    Err(MadeError::Unlike { name: set.name.clone(), path: set.path.clone(), what, was, now })
}

/// What a fit of that seed asks of a generator: `count` defects of all its classes in turn.
pub fn order(generator: &Generator, seed: u64, count: usize) -> Order {
    // Neighbouring seeds share pictures, and two generators must not draw on the same goods in the same places.
    let own = u64::from_str_radix(generator.sha256.get(..16).unwrap_or_default(), 16).unwrap_or(0);
    let seed = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ own;
    Order { count, seed, ..Order::default() }
}

/// Where the defects that a fit of `model` has drawn lie until it is done: beside its checkpoint.
pub fn path_of(model: &Path, name: &str) -> PathBuf {
    let mut path = checkpoint::path_of(model).into_os_string();
    path.push(format!(".{name}"));
    PathBuf::from(path)
}

/// What `manifest.csv` says of a made set.
#[derive(Default)]
struct Said {
    /// SHA-256 of the generator by which `defects sample` made it. Such a set shows what the model sees, and no more.
    generator: Option<String>,
    /// Picture below the folder → the good that it was drawn on.
    goods: HashMap<String, String>,
}

/// Another program's set may say nothing.
fn said(dir: &Path) -> Said {
    let Ok(mut manifest) = csv::Reader::from_path(dir.join("manifest.csv")) else { return Said::default() };
    let headers = manifest.headers().cloned().unwrap_or_default();
    let column = |name: &str| headers.iter().position(|h| h == name);
    let (file, generator, good) = (column("file"), column("generator"), column("good"));
    let mut said = Said::default();
    for record in manifest.records().map_while(Result::ok) {
        let cell = |at: Option<usize>| record.get(at?).filter(|c| !c.is_empty()).map(str::to_owned);
        said.generator = said.generator.or(cell(generator));
        said.goods.extend(cell(file).zip(cell(good)));
    }
    said
}

/// Loads a made set at the model's size; `roi`: the part of each picture that the model sees, as of the goods; sets of
/// `defects sample` show no more than that. `apart`: names of goods that must not be learnt from, since a limit or a
/// figure is computed of them: a defect that was drawn on one of them shows it everywhere but in its mask, and is left
/// out. Returns it with what the user should know of it.
///
/// Errors: [`MadeError`], naming the file.
pub fn load(
    set: &Named,
    input: Input,
    roi: Option<Roi>,
    apart: &HashSet<String>,
) -> Result<(MadeSet, Vec<String>), MadeError> {
    let pictures = find(&set.path)?;
    check_memory(pictures.len(), input.width, input.bytes() + 4 * (input.width * input.height) as usize)?;
    let Said { generator, goods } = said(&set.path);
    let folder = Folder::masked(&set.path, input, roi.filter(|_| generator.is_none()));
    let (mut defects, mut unseen, mut on_apart) = (Vec::with_capacity(pictures.len()), 0, 0);
    let mut resizer = Resizer::default();
    for (name, path) in &pictures {
        if goods.get(&format!("test/{name}")).is_some_and(|good| apart.contains(good)) {
            on_apart += 1;
            continue;
        }
        let mask = mask_path(&set.path, name);
        if !mask.is_file() {
            return Err(MadeError::NoMask { picture: path.clone(), mask });
        }
        match folder.load_one(name, path, &mut resizer) {
            Ok(Some(defect)) => defects.push(defect),
            // A generator that drew nothing: no defect to learn from, and no fault of the set.
            Ok(None) | Err(RealError::EmptyMask { .. }) => unseen += 1,
            Err(error) => return Err(error.into()),
        }
    }
    if defects.is_empty() {
        let reason = format!(
            "{on_apart} of its defects are drawn on goods that are kept apart, the masks of {unseen} mark nothing \
             that the model sees, and no others are left"
        );
        return Err(MadeError::Layout { path: set.path.clone(), reason });
    }
    let mut notes = Vec::new();
    let mut left_out = |count: usize, why: &str| {
        if count > 0 {
            notes.push(format!(
                "{count} of {} defects of `{}` {why} and are left out",
                pictures.len(),
                set.name
            ));
        }
    };
    left_out(unseen, "mark nothing");
    left_out(on_apart, "are drawn on goods that set the limit or that are judged by");
    if !apart.is_empty() && goods.is_empty() {
        notes.push(format!(
            "`{}` does not say on which goods its defects were drawn (column `good` of manifest.csv); if they are among \
             those that set the limit or that are judged by, the figures flatter",
            set.name
        ));
    }
    let mut digest = Sha256::new();
    for defect in &defects {
        digest.update(&defect.pixels);
        defect.mask.iter().for_each(|m| digest.update(m.to_le_bytes()));
    }
    let sha256 = hex(&digest.finalize());
    Ok((MadeSet { name: set.name.clone(), sha256, generator, defects }, notes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use inspect_core::image::Image;

    const INPUT: Input = Input { width: 32, height: 32, channels: 1 };

    fn write(path: PathBuf, side: u32, value: impl Fn(u32) -> u8) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let data = (0..side * side).map(value).collect();
        Image::new(side, side, 1, data).unwrap().write_png(&path).unwrap();
    }

    fn set(dir: &Path) -> Named {
        Named { name: "gan".into(), path: dir.to_owned() }
    }

    #[test]
    fn a_set_is_pictures_with_masks_and_what_marks_nothing_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = |p: &str| dir.path().join(p);
        for (side, name) in [(32, "a/0001"), (64, "a/0002"), (48, "b/0001")] {
            write(path(&format!("test/{name}.png")), side, |_| 90);
            let marked = move |i: u32| if name != "b/0001" && i < side * 4 { 255 } else { 0 };
            write(path(&format!("ground_truth/{name}_mask.png")), side, marked);
        }
        write(path("test/good/1.png"), 32, |_| 90);
        let (made, notes) = load(&set(dir.path()), INPUT, None, &HashSet::new()).unwrap();
        let names: Vec<&str> = made.defects.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["a/0001.png", "a/0002.png"]);
        assert!(notes[0].contains("1 of 3"), "{notes:?}");
        assert_eq!(made.defects[0].mask.iter().sum::<f32>(), 128.0);
        assert_eq!(made.to_string(), format!("gan: 2 ({})", &made.sha256[..12]));
        // One of them was drawn on a good that must not be learnt from.
        let manifest = "file,good\ntest/a/0001.png,train/good/1.png\ntest/a/0002.png,train/good/2.png\n";
        std::fs::write(path("manifest.csv"), manifest).unwrap();
        let apart = HashSet::from(["train/good/1.png".to_owned()]);
        let (made, notes) = load(&set(dir.path()), INPUT, None, &apart).unwrap();
        assert_eq!(made.defects.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["a/0002.png"]);
        assert!(notes.iter().any(|n| n.contains("1 of 3") && n.contains("set the limit")), "{notes:?}");
        std::fs::remove_file(path("ground_truth/a/0002_mask.png")).unwrap();
        let error = load(&set(dir.path()), INPUT, None, &HashSet::new()).unwrap_err().to_string();
        assert!(error.contains("0002_mask.png") && error.contains("not there"), "{error}");
    }

    #[test]
    fn what_is_no_set_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let error = |dir: &Path| load(&set(dir), INPUT, None, &HashSet::new()).unwrap_err().to_string();
        assert!(error(dir.path()).contains("no folder `test`"));
        std::fs::create_dir(dir.path().join("test")).unwrap();
        assert!(error(dir.path()).contains("no picture of a defect"));
        write(dir.path().join("test/1.png"), 32, |_| 1);
        assert!(error(dir.path()).contains("without a class"));
    }

    #[test]
    fn a_name_stands_before_the_folder() {
        assert_eq!(named("gan-2=a=b/c").unwrap(), Named { name: "gan-2".into(), path: "a=b/c".into() });
        for (text, words) in
            [("gan", "NAME=PATH"), ("=x", "letters"), ("a b=x", "letters"), ("real=x", "another name")]
        {
            assert!(named(text).unwrap_err().contains(words), "{text}");
        }
        let twice = [named("a=x").unwrap(), named("a=y").unwrap()];
        assert!(check_names(&twice).unwrap_err().contains("`a`") && check_names(&twice[..1]).is_ok());
    }
}
