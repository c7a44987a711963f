//! Sets of defects as crops: what the figures without a fit are computed from.
//!
//! A *crop* here is the square around one picture's mask, half as wide again as the mask, brought to
//! [`CROP_PX`] pixels, with the mask beside it. Pictures of all sets are brought to one size before ([`super::sizes`]),
//! so that crops of photographs are no sharper than those of made pictures, which are smaller. How large a defect is on
//! the part is not seen.
//!
//! Never here: pictures of goods; figures.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use inspect_core::card::Input;
use inspect_core::image::{Image, Roi};
use inspect_core::resize::Resizer;
use rand::{RngExt, SeedableRng};

use super::JudgeError;
use super::sizes::{Size, brought};
use crate::checkpoint::Identity;
use crate::data::load::{is_grey, read};
use crate::defects::{Ground, Random, make};
use crate::generators::folder::ORDER_ROI;
use crate::generators::write::{ORDER, ORIGIN, PASTED};
use crate::made::{self, MadeError, Named};
use crate::pose::planes;
use crate::real::{self, mask_path};
use crate::truth::{TruthError, drawn, find_some};

/// Side of a crop, pixels.
pub const CROP_PX: u32 = 64;
/// Most crops of a set; of more, so many are taken, evenly by name.
pub const MAX_CROPS: usize = 1_000;
/// Side of the crop as a share of the mask's longer side.
const AROUND: f64 = 1.5;
/// Least side of the crop in the picture, pixels.
const LEAST_PX: u32 = 16;
/// Manifest columns that say which made pictures belong together, the first that is there.
const GROUP_COLUMNS: [&str; 2] = ["group", "good"];

/// One defect.
#[derive(Debug, Clone, PartialEq)]
pub struct Crop {
    /// Path of the picture below its folder, with `/`.
    pub name: String,
    /// Class of the defect.
    pub class: String,
    /// Pictures that belong together have one group.
    pub group: String,
    /// Shape: `[CROP_PX, CROP_PX, 3]`.
    pub pixels: Vec<u8>,
    /// Share of each pixel that the mask covers, not 0 everywhere. Shape: `[CROP_PX, CROP_PX]`.
    pub mask: Vec<f32>,
    /// Whether it is a real defect out of a photograph, put on a good: no generator drew it.
    pub is_pasted: bool,
}

/// Defects of one origin.
#[derive(Debug, Clone, PartialEq)]
pub struct Set {
    /// What it is called.
    pub name: String,
    /// Pictures of defects in the folder.
    pub found: usize,
    /// In order of name; at least one.
    pub crops: Vec<Crop>,
    /// Things that the user should know; not errors.
    pub notes: Vec<String>,
}

impl Set {
    /// Crops by class.
    pub fn classes(&self) -> BTreeMap<String, usize> {
        let mut all = BTreeMap::new();
        self.crops.iter().for_each(|c| *all.entry(c.class.clone()).or_default() += 1);
        all
    }

    /// How many crops are pasted.
    pub fn pasted(&self) -> usize {
        self.crops.iter().filter(|c| c.is_pasted).count()
    }
}

/// A picture with its mask, found but not read.
pub(super) struct Found {
    /// As [`Crop::name`].
    pub name: String,
    /// Class of the defect.
    pub class: String,
    /// As [`Crop::group`].
    pub group: String,
    /// File of the picture.
    pub picture: PathBuf,
    /// File of its mask, where it has one.
    pub mask: Option<PathBuf>,
    /// As [`Crop::is_pasted`].
    pub is_pasted: bool,
}

/// Defects of one origin that are found but not read.
pub struct Listed {
    name: String,
    /// As [`Set::found`].
    all: usize,
    /// With a mask, and no more than are looked at.
    found: Vec<Found>,
    notes: Vec<String>,
}

/// The real defects of `dir`, an MVTec AD folder; those without a mask are left out with a note.
///
/// Errors: [`JudgeError::NoReal`], [`JudgeError::NoMasks`], and what is wrong with the folder or its manifest.
pub fn real(dir: &Path) -> Result<Listed, JudgeError> {
    list_known("real", dir, list_real(dir)?)
}

/// Real defects, with or without a mask. Errors: what is wrong with the folder or its manifest.
pub(super) fn list_real(dir: &Path) -> Result<Vec<Found>, JudgeError> {
    let pictures = find_some(dir)?.pictures.into_iter().filter(|p| !p.labelled.good);
    let found = pictures.map(|p| Found {
        name: p.name,
        class: p.labelled.class,
        group: p.group,
        picture: p.labelled.path,
        mask: p.mask,
        is_pasted: false,
    });
    Ok(found.collect())
}

/// Real defects that generators were fitted on: a folder as [`real`] takes it, or one with a folder for each class.
///
/// Errors: as [`real`].
pub fn trained_on(dir: &Path) -> Result<Listed, JudgeError> {
    if dir.join("test").is_dir() {
        return real(dir);
    }
    let found = real::find(dir)?.into_iter().map(|(name, picture)| {
        let mask = Some(mask_path(dir, &name)).filter(|m| m.is_file());
        let class = name.split('/').next().unwrap_or_default().to_owned();
        Found { class, group: name.clone(), picture, mask, name, is_pasted: false }
    });
    list_known("trained on", dir, found.collect())
}

fn list_known(name: &str, dir: &Path, mut found: Vec<Found>) -> Result<Listed, JudgeError> {
    let all = found.len();
    if all == 0 {
        return Err(JudgeError::NoReal { path: dir.to_owned() });
    }
    found.retain(|f| f.mask.is_some());
    if found.is_empty() {
        return Err(JudgeError::NoMasks { path: dir.to_owned(), got: all });
    }
    let without = all - found.len();
    let mut listed = Listed::new(name, all, found);
    if without > 0 {
        listed.notes.push(format!(
            "{without} of the {all} real defects in {} have no mask and are left out of all figures but the image \
             figures of the fits",
            dir.display()
        ));
    }
    Ok(listed)
}

/// A made set.
///
/// Errors: [`JudgeError::Made`], [`JudgeError::Manifest`].
pub fn made(set: &Named) -> Result<Listed, JudgeError> {
    let found = list_made(set)?;
    Ok(Listed::new(&set.name, found.len(), found))
}

/// Made defects, each with a mask. Errors: as [`made`].
pub(super) fn list_made(set: &Named) -> Result<Vec<Found>, JudgeError> {
    check_region(set)?;
    let rows = rows(&set.path)?;
    let mut found = Vec::new();
    for (name, picture) in made::find(&set.path)? {
        let mask = mask_path(&set.path, &name);
        if !mask.is_file() {
            return Err(MadeError::NoMask { picture, mask }.into());
        }
        let class = name.split('/').next().unwrap_or_default().to_owned();
        let file = format!("test/{name}");
        let (group, is_pasted) = rows.get(&file).cloned().unwrap_or_default();
        let group = if group.is_empty() { file.clone() } else { group };
        found.push(Found { name: file, class, group, picture, mask: Some(mask), is_pasted });
    }
    Ok(found)
}

/// A generator that sees a region alone makes pictures of that region, and the judge knows whole ones only.
fn check_region(set: &Named) -> Result<(), JudgeError> {
    // Another program's set may have a file of that name that says something else.
    let said = std::fs::read(set.path.join(ORDER)).ok().and_then(|json| serde_json::from_slice(&json).ok());
    let said: Identity = said.unwrap_or_default();
    match said.get(ORDER_ROI) {
        Some(roi) => {
            Err(JudgeError::Region { name: set.name.clone(), path: set.path.clone(), roi: roi.clone() })
        }
        None => Ok(()),
    }
}

/// Picture → its group (which made pictures belong together: those on one good), and whether it is pasted.
fn rows(dir: &Path) -> Result<HashMap<String, (String, bool)>, JudgeError> {
    let path = dir.join("manifest.csv");
    if !path.exists() {
        return Ok(HashMap::new());
    }
    let bad = |e: csv::Error| JudgeError::Manifest { path: path.clone(), reason: e.to_string() };
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(&path).map_err(bad)?;
    let headers = reader.headers().map_err(bad)?.clone();
    let column = |name: &str| headers.iter().position(|h| h == name);
    let Some(file) = column("file") else {
        return Err(JudgeError::Manifest { path: path.clone(), reason: "no column `file`".into() });
    };
    let (group, origin) = (GROUP_COLUMNS.iter().find_map(|name| column(name)), column(ORIGIN));
    let mut all = HashMap::new();
    for record in reader.records() {
        let record = record.map_err(bad)?;
        let field = |at: Option<usize>| at.and_then(|at| record.get(at)).unwrap_or_default().to_owned();
        all.insert(field(Some(file)), (field(group), field(origin) == PASTED));
    }
    Ok(all)
}

impl Listed {
    fn new(name: &str, all: usize, found: Vec<Found>) -> Self {
        let (of, step) = (found.len(), found.len().div_ceil(MAX_CROPS).max(1));
        let mut notes = Vec::new();
        if step > 1 {
            notes.push(format!("of the {of} pictures of `{name}` every {step}th is looked at"));
        }
        Self { name: name.to_owned(), all, found: found.into_iter().step_by(step).collect(), notes }
    }

    /// Paths of the pictures.
    pub fn pictures(&self) -> Vec<&Path> {
        self.found.iter().map(|f| f.picture.as_path()).collect()
    }

    /// Reads the pictures, brings them to one size and cuts the crops out.
    ///
    /// Errors: [`JudgeError::AllEmpty`], and what is wrong with a file.
    pub fn cut(self, size: Size) -> Result<Set, JudgeError> {
        let Self { name, all, found, mut notes } = self;
        let (mut crops, mut empty, mut small, mut resizer) = (Vec::new(), 0, 0, Resizer::default());
        for Found { name, class, group, picture, mask, is_pasted } in found {
            let Some(mask) = &mask else { continue };
            let (cut, own) = cut(&picture, mask, size, &mut resizer)?;
            small += usize::from(own.0.max(own.1) < size.0.max(size.1));
            match cut {
                Some((pixels, mask)) => crops.push(Crop { name, class, group, pixels, mask, is_pasted }),
                None => empty += 1,
            }
        }
        if crops.is_empty() {
            return Err(JudgeError::AllEmpty { name, got: empty });
        }
        if empty > 0 {
            notes.push(format!("{empty} masks of `{name}` mark nothing; those pictures are left out"));
        }
        if small > 0 {
            notes.push(format!(
                "{small} pictures of `{name}` are smaller than the {} x {} pixels that all are brought to, so they are \
                 less sharp than others",
                size.0, size.1
            ));
        }
        Ok(Set { name, found: all, crops, notes })
    }
}

/// Crop and mask of a picture; `None` if the mask marks nothing.
type Cut = Option<(Vec<u8>, Vec<f32>)>;

/// The crop of a picture that is brought to `size`, and the picture's own size.
fn cut(picture: &Path, mask: &Path, size: Size, resizer: &mut Resizer) -> Result<(Cut, Size), JudgeError> {
    let (image, _) = read(picture).map_err(|reason| JudgeError::Picture { reason })?;
    let own = (image.width(), image.height());
    let drawn = drawn(mask).map_err(|source| TruthError::Mask { picture: picture.to_owned(), source })?;
    if own != (drawn.width(), drawn.height()) {
        return Err(JudgeError::Truth(TruthError::MaskSize {
            mask: mask.to_owned(),
            mask_width: drawn.width(),
            mask_height: drawn.height(),
            picture: picture.to_owned(),
            width: own.0,
            height: own.1,
        }));
    }
    if drawn.data().iter().all(|v| *v == 0) {
        return Ok((None, own));
    }
    let cut = brought(&image, &drawn, size, resizer).and_then(|(p, m)| cut_image(&p, &m, resizer));
    let cut = cut.map_err(|e| JudgeError::Picture { reason: format!("{}: {e}", picture.display()) })?;
    Ok((cut, own))
}

fn cut_image(
    image: &Image,
    drawn: &Image,
    resizer: &mut Resizer,
) -> Result<Cut, inspect_core::image::ImageError> {
    let Some(roi) = around(drawn) else { return Ok(None) };
    let shape = Input { width: CROP_PX, height: CROP_PX, channels: 3 };
    let mut pixels = vec![0; shape.bytes()];
    resizer.run(image, Some(roi), shape, &mut pixels)?;
    let grey = Input { channels: 1, ..shape };
    let mut covered = vec![0; grey.bytes()];
    resizer.run(drawn, Some(roi), grey, &mut covered)?;
    // A defect finer than 1/510 of every pixel of its crop: the whole crop stands for it.
    let none = covered.iter().all(|v| *v == 0);
    let share = |v: &u8| if none { 1.0 } else { f32::from(*v) / 255.0 };
    Ok(Some((pixels, covered.iter().map(share).collect())))
}

/// The box around what is drawn: left and top, right and bottom (not in it). `None` if nothing is.
pub(super) fn bounds(drawn: &Image) -> Option<([u32; 2], [u32; 2])> {
    let width = drawn.width() as usize;
    let (mut low, mut high) = ([u32::MAX; 2], [0u32; 2]);
    for i in drawn.data().iter().enumerate().filter(|(_, v)| **v > 0).map(|(i, _)| i) {
        for (k, v) in [(i % width) as u32, (i / width) as u32].into_iter().enumerate() {
            low[k] = low[k].min(v);
            high[k] = high[k].max(v + 1);
        }
    }
    (low[0] <= high[0]).then_some((low, high))
}

/// The square around what is drawn, inside the picture as far as that goes.
fn around(drawn: &Image) -> Option<Roi> {
    let (low, high) = bounds(drawn)?;
    let longest = (high[0] - low[0]).max(high[1] - low[1]);
    let side = ((f64::from(longest) * AROUND).ceil() as u32).max(LEAST_PX);
    let place = |k: usize, of: u32| {
        let length = side.min(of);
        let middle = (low[k] + high[k]) / 2;
        (middle.saturating_sub(length / 2).min(of - length), length)
    };
    let ((x, width), (y, height)) = (place(0, drawn.width()), place(1, drawn.height()));
    Some(Roi { x, y, width, height })
}

/// A good as a square. Shape: → `[side, side, 3]`.
fn square(path: &Path, side: u32, resizer: &mut Resizer) -> Result<Vec<u8>, JudgeError> {
    let (image, _) = read(path).map_err(|reason| JudgeError::Picture { reason })?;
    let shape = Input { width: side, height: side, channels: 3 };
    let mut pixels = vec![0; shape.bytes()];
    let named = |e| JudgeError::Picture { reason: format!("{}: {e}", path.display()) };
    resizer.run(&image, None, shape, &mut pixels).map_err(named)?;
    Ok(pixels)
}

/// Procedural defects on goods, one each of `count`, for comparison; made on squares of the longer side of `size` and
/// brought to it. `goods`: at least one picture.
///
/// Errors: [`JudgeError::Picture`].
pub fn procedural(
    goods: &[(String, PathBuf)],
    count: usize,
    size: Size,
    seed: u64,
) -> Result<Set, JudgeError> {
    let (mut crops, mut resizer) = (Vec::with_capacity(count), Resizer::default());
    let side = size.0.max(size.1);
    let mut r = Random::seed_from_u64(seed);
    for k in 0..count.min(MAX_CROPS) {
        let [at, by] = [0; 2].map(|_: usize| r.random_range(0..goods.len()));
        let good = square(&goods[at].1, side, &mut resizer)?;
        let other = square(&goods[by].1, side, &mut resizer)?;
        // On a grey part a coloured defect would give the set away.
        let channels = if is_grey(&good) { 1 } else { 3 };
        let planes = |rgb: &[u8]| {
            let picked: Vec<u8> = rgb.chunks_exact(3).flat_map(|p| &p[..channels]).copied().collect();
            planes(&picked, side as usize, channels, 0, (0, 0))
        };
        let (good, other) = (planes(&good), planes(&other));
        let ground = Ground { good: &good, other: &other, side: side as usize, channels, matters: None };
        let defect = make(&mut r, &ground, &[]);
        let marked: Vec<u8> = defect.mask.iter().map(|m| if *m > 0.0 { 255 } else { 0 }).collect();
        // A good so blank that nothing shows on it gives none.
        if marked.iter().all(|m| *m == 0) {
            continue;
        }
        let picture = Image::new(side, side, 3, crate::sheet::from_planes(&defect.picture, channels));
        let both = picture.and_then(|p| Ok((p, Image::new(side, side, 1, marked)?)));
        let cut = both.and_then(|(p, m)| brought(&p, &m, size, &mut resizer));
        let cut = cut.and_then(|(p, m)| cut_image(&p, &m, &mut resizer));
        let cut = cut.map_err(|e| JudgeError::Picture { reason: e.to_string() })?;
        if let Some((pixels, mask)) = cut {
            let (name, group) = (format!("{k:04} on {}", goods[at].0), goods[at].0.clone());
            let class = defect.family.to_string();
            crops.push(Crop { name, class, group, pixels, mask, is_pasted: false });
        }
    }
    Ok(Set { name: "procedural".into(), found: crops.len(), crops, notes: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crop_holds_the_mask_inside_the_picture_whatever_its_shape() {
        let drawn = |w: u32, h: u32, inside: &dyn Fn(u32, u32) -> bool| {
            let data = (0..w * h).map(|i| if inside(i % w, i / w) { 255 } else { 0 }).collect();
            Image::new(w, h, 1, data).unwrap()
        };
        let spot = drawn(200, 100, &|x, y| (90..110).contains(&x) && (40..50).contains(&y));
        assert_eq!(around(&spot), Some(Roi { x: 85, y: 30, width: 30, height: 30 }));
        let corner = drawn(200, 100, &|x, y| x > 197 && y > 97);
        assert_eq!(around(&corner), Some(Roi { x: 184, y: 84, width: 16, height: 16 }));
        let line = drawn(200, 20, &|_, y| y == 3);
        assert_eq!(around(&line), Some(Roi { x: 0, y: 0, width: 200, height: 20 }));
        assert_eq!(around(&drawn(20, 20, &|_, _| false)), None);
        let tiny = drawn(8, 8, &|x, y| x == 4 && y == 4);
        assert_eq!(around(&tiny), Some(Roi { x: 0, y: 0, width: 8, height: 8 }));
    }

    #[test]
    fn what_a_set_says_of_itself_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, data: Vec<u8>| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            Image::new(32, 32, 1, data).unwrap().write_png(&path).unwrap();
        };
        for k in 0..3 {
            write(&format!("test/pit/{k}.png"), vec![90; 1024]);
            write(&format!("ground_truth/pit/{k}_mask.png"), (0..1024).map(|i| u8::from(i < 99)).collect());
        }
        let rows = "file,group,origin\ntest/pit/0.png,lot,pasted\ntest/pit/1.png,,drawn\n";
        std::fs::write(dir.path().join("manifest.csv"), rows).unwrap();
        let named = Named { name: "gan".into(), path: dir.path().to_owned() };
        let set = made(&named).unwrap().cut((32, 32)).unwrap();
        let said: Vec<(&str, bool)> = set.crops.iter().map(|c| (c.group.as_str(), c.is_pasted)).collect();
        assert_eq!(said, [("lot", true), ("test/pit/1.png", false), ("test/pit/2.png", false)]);
        assert_eq!(set.pasted(), 1);

        let order = dir.path().join("order.json");
        for another in ["[1]", "{\"--count\": \"3\"}", "{"] {
            std::fs::write(&order, another).unwrap();
            assert!(made(&named).is_ok(), "{another}");
        }
        std::fs::write(&order, format!("{{\"{ORDER_ROI}\": \"8,8,16,16\"}}")).unwrap();
        let error = made(&named).err().unwrap().to_string();
        assert!(error.contains("`gan`") && error.contains("--roi 8,8,16,16"), "{error}");
    }

    #[test]
    fn procedural_defects_lie_on_the_goods_and_are_grey_on_grey_ones() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, channels: u8| {
            let data = (0..80 * 60 * u32::from(channels)).map(|i| (90 + i * 31 % 40) as u8).collect();
            Image::new(80, 60, channels, data).unwrap().write_png(&dir.path().join(name)).unwrap();
            (name.to_owned(), dir.path().join(name))
        };
        let set = procedural(&[write("a.png", 1), write("b.png", 1)], 12, (60, 45), 3).unwrap();
        assert!(set.crops.len() >= 10 && set.classes().len() > 3, "{:?}", set.classes());
        assert!(set.crops.iter().all(|c| is_grey(&c.pixels) && c.mask.iter().any(|m| *m > 0.0)));
        assert!(set.crops.iter().any(|c| c.group == "a.png") && set.crops.iter().any(|c| c.group == "b.png"));
        let error =
            procedural(&[("c".into(), dir.path().join("c.png"))], 1, (60, 45), 0).unwrap_err().to_string();
        assert!(error.contains("c.png"), "{error}");
    }
}
