//! Made pictures as a folder in the MVTec AD layout, which every tool here reads as it reads real ones.
//!
//! `OUT/test/CLASS/NNNN.png`, `OUT/ground_truth/CLASS/NNNN_mask.png`, `OUT/twin/CLASS/NNNN.png` (the good that it was
//! made on, at the generator's size), `OUT/manifest.csv` (file, group of the good, caption, process parameters,
//! origin, seed, generator as SHA-256, good), `OUT/sheet.png` for people and `OUT/order.json`, which says what was asked for. Written
//! into `OUT.part` and renamed at the end; what is in there, a stopped run goes on from.
//!
//! Never here: a folder that is half written under its final name; goods.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use inspect_core::card::Input;
use inspect_core::image::{Image, ImageError};

use super::Generator;
use super::crops::{centred, lit, plane};
use super::sample::{Order, Sampled, gone_on_from, number_of};
use crate::checkpoint::{self, CheckpointError, Identity};
use crate::data::Goods;
use crate::file::{part_of, write_whole};
use crate::pose::Pose;
use crate::sheet::{Row, Tile, draw, resized, tinted};

/// Pictures of a class on the sheet.
const SHOWN: usize = 6;
/// Most classes on the sheet.
const SHOWN_CLASSES: usize = 16;
/// Side of a picture on the sheet, pixels.
const TILE_PX: u32 = 128;
const MANIFEST: &str = "manifest.csv";
/// Column of the manifest: [`DRAWN`] by the generator, or [`PASTED`] out of the picture of a real defect, of a class of
/// which there were too few to learn from.
pub const ORIGIN: &str = "origin";
/// See [`ORIGIN`].
pub const DRAWN: &str = "drawn";
/// See [`ORIGIN`].
pub const PASTED: &str = "pasted";
/// Name of the file that says what was asked for.
pub const ORDER: &str = "order.json";

/// Why a set was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Something stands in the way.
    #[error("--out {path}: {reason}")]
    Out {
        /// The folder.
        path: PathBuf,
        /// What is wrong, what to do.
        reason: String,
    },
    /// A file cannot be written.
    #[error("{path}: {reason}; the set is not whole, and --resume goes on with it. Is the disk full?")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// What is there is of another call.
    #[error(transparent)]
    Other(#[from] CheckpointError),
    /// A picture has no shape.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// A set that is being written.
pub struct Set<'a> {
    generator: &'a Generator,
    goods: &'a Goods,
    out: PathBuf,
    part: PathBuf,
    rows: Vec<Vec<String>>,
    manifest: csv::Writer<File>,
    /// Number of the first picture that is not there yet.
    from: usize,
    done: bool,
}

impl<'a> Set<'a> {
    /// Makes the folder under another name.
    ///
    /// Errors: [`WriteError`].
    pub fn new(generator: &'a Generator, goods: &'a Goods, out: &Path) -> Result<Self, WriteError> {
        let part = part_of(out);
        std::fs::create_dir(&part).map_err(|e| failed(&part, e.to_string()))?;
        Self::with(generator, goods, out, (Vec::new(), 0))
    }

    /// The same, or goes on with what is there of the same call; `asked` says all that its pictures follow from.
    ///
    /// Errors: [`WriteError`].
    pub fn open(
        generator: &'a Generator,
        goods: &'a Goods,
        order: &Order,
        out: &Path,
        asked: &Identity,
    ) -> Result<Self, WriteError> {
        let part = part_of(out);
        if !part.exists() {
            let set = Self::new(generator, goods, out)?;
            let path = part.join(ORDER);
            let json = serde_json::to_vec_pretty(asked).map_err(|e| failed(&path, e.to_string()))?;
            write_whole(&path, &json).map_err(|e| failed(&path, e.to_string()))?;
            return Ok(set);
        }
        check_order(&part, asked)?;
        let mut rows = whole_rows(&part, order, columns(generator).len());
        let from = rows.last().map_or(0, |row| gone_on_from(number(row, order)));
        rows.retain(|row| number(row, order) < from);
        Self::with(generator, goods, out, (rows, from))
    }

    fn with(
        generator: &'a Generator,
        goods: &'a Goods,
        out: &Path,
        (rows, from): (Vec<Vec<String>>, usize),
    ) -> Result<Self, WriteError> {
        let (out, part) = (out.to_owned(), part_of(out));
        let path = part.join(MANIFEST);
        let mut whole = csv::Writer::from_writer(Vec::new());
        for row in std::iter::once(&columns(generator)).chain(&rows) {
            whole.write_record(row).map_err(|e| failed(&path, e.to_string()))?;
        }
        // In one piece: a run that is killed here has lost nothing of the one before.
        let whole = whole.into_inner().map_err(|e| failed(&path, e.to_string()))?;
        let appended = || std::fs::OpenOptions::new().append(true).open(&path);
        let manifest = write_whole(&path, &whole).and_then(|()| appended());
        let manifest = csv::Writer::from_writer(manifest.map_err(|e| failed(&path, e.to_string()))?);
        Ok(Self { generator, goods, out, part, rows, manifest, from, done: false })
    }

    /// Number of the first picture that is not there yet.
    pub fn from(&self) -> usize {
        self.from
    }

    /// Writes pictures that were drawn together.
    ///
    /// Errors: [`WriteError`].
    pub fn add(&mut self, pictures: &[Sampled]) -> Result<(), WriteError> {
        for sampled in pictures {
            let row = self.add_one(sampled)?;
            self.manifest.write_record(&row).map_err(|e| self.unlisted(e.to_string()))?;
            self.rows.push(row);
        }
        self.manifest.flush().map_err(|e| self.unlisted(e.to_string()))
    }

    /// Path of the last picture below the folder; empty before the first.
    pub fn last(&self) -> &str {
        self.rows.last().map_or("", |row| row[0].as_str())
    }

    fn unlisted(&self, reason: String) -> WriteError {
        failed(&self.part.join(MANIFEST), reason)
    }

    fn add_one(&self, sampled: &Sampled) -> Result<Vec<String>, WriteError> {
        let Input { width, height, channels } = self.goods.input;
        let class = &sampled.class;
        let number = self.rows.len();
        let file = format!("test/{class}/{number:04}.png");
        let mask = format!("ground_truth/{class}/{number:04}_mask.png");
        self.write(&file, Image::new(width, height, channels, sampled.picture.clone())?)?;
        self.write(&mask, Image::new(width, height, 1, sampled.mask.clone())?)?;
        let good = Image::new(width, height, channels, self.goods.pixels[sampled.good].clone())?;
        self.write(&format!("twin/{class}/{number:04}.png"), good)?;
        let mut row = vec![file, mask, self.goods.groups[sampled.good].clone()];
        row.push(sampled.wish.text.clone().unwrap_or_default());
        for parameter in &self.generator.header.catalogue.parameters {
            let value = sampled.wish.process.get(&parameter.name);
            row.push(value.map(f64::to_string).unwrap_or_default());
        }
        let is_pasted = self.generator.header.pasted.contains_key(class);
        row.push(if is_pasted { PASTED } else { DRAWN }.to_owned());
        row.push(sampled.seed.to_string());
        row.push(self.generator.sha256.clone());
        row.push(self.goods.names[sampled.good].clone());
        Ok(row)
    }

    fn write(&self, name: &str, image: Image) -> Result<(), WriteError> {
        let path = self.part.join(name);
        let folder = path.parent().unwrap_or(&self.part);
        std::fs::create_dir_all(folder).map_err(|e| failed(folder, e.to_string()))?;
        image.write_png(&path).map_err(|e| failed(&path, e.to_string()))
    }

    /// The surroundings of what is marked in a picture, and the same with the label tinted.
    fn tiles(&self, row: &[String]) -> Result<[Tile; 2], WriteError> {
        let input = self.goods.input;
        let [picture, mask] =
            [Image::read(&self.part.join(&row[0]))?, Image::read(&self.part.join(&row[1]))?];
        let mask: Vec<f32> = mask.data().iter().map(|m| f32::from(*m)).collect();
        let side = self.generator.header.crop.side as usize;
        let window = centred(&mask, input.width as usize, side);
        let crop = lit(picture.data(), input, &Pose::PLAIN, window);
        let pixels = super::crops::interleaved(&crop, usize::from(input.channels));
        let mask = plane(&mask, input.width as usize, &Pose::PLAIN, window);
        let shape = Input { width: side as u32, height: side as u32, channels: input.channels };
        let plain = resized(&pixels, shape, TILE_PX)?;
        let grey: Vec<u8> = mask.iter().map(|m| *m as u8).collect();
        let large = resized(&grey, Input { channels: 1, ..shape }, TILE_PX)?;
        let large: Vec<f32> = large.chunks_exact(3).map(|p| f32::from(p[0].saturating_sub(127))).collect();
        let marked = tinted(&plain, &large);
        Ok([plain, marked].map(|pixels| Tile { pixels, ..Tile::default() }))
    }

    fn sheet(&self) -> Result<Image, WriteError> {
        let mut classes = BTreeMap::<&str, Vec<&[String]>>::new();
        for row in &self.rows {
            classes.entry(row[0].split('/').nth(1).unwrap_or_default()).or_default().push(row);
        }
        let mut shown = Vec::new();
        for (class, rows) in classes.iter().take(SHOWN_CLASSES) {
            let mut tiles = Vec::new();
            for row in rows.iter().take(SHOWN) {
                tiles.extend(self.tiles(row)?);
            }
            shown.push(Row { label: (*class).to_owned(), tiles });
        }
        Ok(draw(&shown, TILE_PX as usize)?)
    }

    /// Pictures that are there.
    pub fn count(&self) -> usize {
        self.rows.len()
    }

    /// Leaves the folder under its other name, to go on from. Returns the number of pictures in it.
    pub fn stop(mut self) -> usize {
        self.done = true;
        self.rows.len()
    }

    /// Writes the sheet and gives the folder its name. Returns the number of pictures.
    ///
    /// Errors: [`WriteError`].
    pub fn finish(mut self) -> Result<usize, WriteError> {
        self.write("sheet.png", self.sheet()?)?;
        if self.out.exists() {
            std::fs::remove_dir(&self.out).map_err(|e| failed(&self.out, e.to_string()))?; // empty, as was checked
        }
        std::fs::rename(&self.part, &self.out).map_err(|e| failed(&self.out, e.to_string()))?;
        self.done = true;
        Ok(self.rows.len())
    }
}

impl Drop for Set<'_> {
    /// A folder without a picture is of no use to anybody.
    fn drop(&mut self) {
        if !self.done && self.rows.is_empty() {
            drop(std::fs::remove_dir_all(&self.part));
        }
    }
}

fn columns(generator: &Generator) -> Vec<String> {
    let parameters = generator.header.catalogue.parameters.iter().map(|p| p.name.as_str());
    let all = ["file", "mask", "group", "caption"].into_iter().chain(parameters);
    all.chain([ORIGIN, "seed", "generator", "good"]).map(str::to_owned).collect()
}

/// Rows of a stopped run up to the first that was not written whole.
fn whole_rows(part: &Path, order: &Order, columns: usize) -> Vec<Vec<String>> {
    let Ok(mut manifest) = csv::Reader::from_path(part.join(MANIFEST)) else { return Vec::new() };
    let rows = manifest.records().map_while(Result::ok).map(|r| r.iter().map(str::to_owned).collect());
    let is_there = |name: &String| std::fs::metadata(part.join(name)).is_ok_and(|file| file.len() > 0);
    let is_whole = |row: &Vec<String>| {
        row.len() == columns && row[..2].iter().all(is_there) && number(row, order) < order.count
    };
    rows.take_while(is_whole).collect()
}

/// Number of a row's picture; beyond all if the row is torn.
fn number(row: &[String], order: &Order) -> usize {
    let seed = row.iter().rev().nth(2).and_then(|seed| seed.parse().ok());
    seed.map_or(usize::MAX, |seed| number_of(seed, order))
}

pub(super) fn failed(path: &Path, reason: String) -> WriteError {
    WriteError::Write { path: path.to_owned(), reason }
}

/// Whether a folder is of a call that asked for the same.
fn check_order(dir: &Path, asked: &Identity) -> Result<(), WriteError> {
    let bad = |reason: String| WriteError::Out {
        path: dir.to_owned(),
        reason: format!(
            "{ORDER}: {reason}; it is no set that could be gone on with, so give a new name or remove it"
        ),
    };
    let json = std::fs::read(dir.join(ORDER)).map_err(|e| bad(e.to_string()))?;
    let was: Identity = serde_json::from_slice(&json).map_err(|e| bad(e.to_string()))?;
    Ok(checkpoint::check(dir, &was, asked)?)
}

/// Number of pictures of a set that is whole, if there is one. `asked`: what it must have been asked for.
///
/// Errors: [`WriteError::Other`] if it was asked for something else, [`WriteError::Out`].
pub fn count_whole(out: &Path, asked: &Identity) -> Result<Option<usize>, WriteError> {
    if !out.join(MANIFEST).exists() {
        return Ok(None);
    }
    check_order(out, asked)?;
    let bad = |e: csv::Error| WriteError::Out { path: out.to_owned(), reason: e.to_string() };
    let mut manifest = csv::Reader::from_path(out.join(MANIFEST)).map_err(bad)?;
    Ok(Some(manifest.records().count()))
}

/// Whether a set can be written there; `resume`: or gone on with, or is there.
///
/// Errors: [`WriteError::Out`].
pub fn check_out(out: &Path, resume: bool) -> Result<(), WriteError> {
    let bad = |reason: String| Err(WriteError::Out { path: out.to_owned(), reason });
    let is_set = resume && out.join(ORDER).is_file();
    if !is_set && out.exists() && std::fs::read_dir(out).map_or(true, |mut entries| entries.next().is_some())
    {
        return bad("is there already and not an empty folder; give a new name".into());
    }
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return bad("the folder that it should lie in is not there; make it first".into());
    }
    let part = part_of(out);
    if part.exists() && !resume {
        return bad(format!(
            "{} is left of a stopped run; remove it (`defects sample` goes on with it by --resume)",
            part.display()
        ));
    }
    Ok(())
}
