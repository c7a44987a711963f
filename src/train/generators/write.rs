//! Made pictures as a folder in the MVTec AD layout, which every tool here reads as it reads real ones.
//!
//! `OUT/test/CLASS/NNNN.png`, `OUT/ground_truth/CLASS/NNNN_mask.png`, `OUT/twin/CLASS/NNNN.png` (the good that it was
//! made on, at the generator's size), `OUT/manifest.csv` (file, group of the good,
//! caption, process parameters, seed, generator as SHA-256, good) and `OUT/sheet.png` for people. Written into
//! `OUT.part` and renamed at the end.
//!
//! Never here: a folder that is half written under its final name; goods.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use inspect_core::card::Input;
use inspect_core::image::{Image, ImageError};

use super::Generator;
use super::crops::{lit, plane};
use super::sample::Sampled;
use crate::data::Goods;
use crate::file::part_of;
use crate::pose::{Pose, Window};
use crate::sheet::{Row, Tile, draw, resized, tinted};

/// Pictures of a class on the sheet.
const SHOWN: usize = 6;
/// Most classes on the sheet.
const SHOWN_CLASSES: usize = 16;
/// Side of a picture on the sheet, pixels.
const TILE_PX: u32 = 128;

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
    #[error("{path}: {reason}; the set was not written. Is the disk full?")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
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
    shown: BTreeMap<String, Vec<Tile>>,
    done: bool,
}

impl<'a> Set<'a> {
    /// Makes the folder under another name.
    ///
    /// Errors: [`WriteError::Out`] if `out` is there and not an empty folder, or its folder is not there.
    pub fn new(generator: &'a Generator, goods: &'a Goods, out: &Path) -> Result<Self, WriteError> {
        check_out(out)?;
        let part = part_of(out);
        std::fs::create_dir(&part).map_err(|e| failed(&part, e.to_string()))?;
        let (out, rows) = (out.to_owned(), Vec::new());
        Ok(Self { generator, goods, out, part, rows, shown: BTreeMap::new(), done: false })
    }

    /// Writes one picture. Returns its path below the folder.
    ///
    /// Errors: [`WriteError`].
    pub fn add(&mut self, sampled: &Sampled) -> Result<String, WriteError> {
        let Input { width, height, channels } = self.goods.input;
        let class = &sampled.class;
        let number = self.rows.len();
        let file = format!("test/{class}/{number:04}.png");
        let mask = format!("ground_truth/{class}/{number:04}_mask.png");
        self.write(&file, Image::new(width, height, channels, sampled.picture.clone())?)?;
        self.write(&mask, Image::new(width, height, 1, sampled.mask.clone())?)?;
        let good = Image::new(width, height, channels, self.goods.pixels[sampled.good].clone())?;
        self.write(&format!("twin/{class}/{number:04}.png"), good)?;
        let mut row = vec![file.clone(), mask, self.goods.groups[sampled.good].clone()];
        row.push(sampled.wish.text.clone().unwrap_or_default());
        for parameter in &self.generator.header.catalogue.parameters {
            let value = sampled.wish.process.get(&parameter.name);
            row.push(value.map(f64::to_string).unwrap_or_default());
        }
        row.push(sampled.seed.to_string());
        row.push(self.generator.sha256.clone());
        row.push(self.goods.names[sampled.good].clone());
        self.rows.push(row);
        let known = self.shown.len() < SHOWN_CLASSES || self.shown.contains_key(class);
        if known && self.shown.get(class).is_none_or(|tiles| tiles.len() < 2 * SHOWN) {
            let tiles = self.tiles(sampled)?;
            self.shown.entry(class.clone()).or_default().extend(tiles);
        }
        Ok(file)
    }

    fn write(&self, name: &str, image: Image) -> Result<(), WriteError> {
        let path = self.part.join(name);
        let folder = path.parent().unwrap_or(&self.part);
        std::fs::create_dir_all(folder).map_err(|e| failed(folder, e.to_string()))?;
        image.write_png(&path).map_err(|e| failed(&path, e.to_string()))
    }

    /// What was drawn, and the same with the label tinted.
    fn tiles(&self, sampled: &Sampled) -> Result<[Tile; 2], WriteError> {
        let input = self.goods.input;
        let Window { side, .. } = sampled.window;
        let channels = usize::from(input.channels);
        let crop = lit(&sampled.picture, input, &Pose::PLAIN, sampled.window);
        let pixels = super::crops::interleaved(&crop, channels);
        let mask: Vec<f32> = sampled.mask.iter().map(|m| f32::from(*m)).collect();
        let mask = plane(&mask, input.width as usize, &Pose::PLAIN, sampled.window);
        let rgb = Input { width: side as u32, height: side as u32, channels: input.channels };
        let plain = resized(&pixels, rgb, TILE_PX)?;
        let grey: Vec<u8> = mask.iter().map(|m| *m as u8).collect();
        let large = resized(&grey, Input { channels: 1, ..rgb }, TILE_PX)?;
        let large: Vec<f32> = large.chunks_exact(3).map(|p| f32::from(p[0].saturating_sub(127))).collect();
        let marked = tinted(&plain, &large);
        Ok([plain, marked].map(|pixels| Tile { pixels, ..Tile::default() }))
    }

    /// Writes manifest and sheet, and gives the folder its name. Returns the number of pictures.
    ///
    /// Errors: [`WriteError`].
    pub fn finish(mut self) -> Result<usize, WriteError> {
        let path = self.part.join("manifest.csv");
        self.manifest(&path).map_err(|e| failed(&path, e.to_string()))?;
        let rows: Vec<Row> = self
            .shown
            .iter()
            .map(|(class, tiles)| Row { label: class.clone(), tiles: tiles.clone() })
            .collect();
        self.write("sheet.png", draw(&rows, TILE_PX as usize)?)?;
        if self.out.exists() {
            std::fs::remove_dir(&self.out).map_err(|e| failed(&self.out, e.to_string()))?; // empty, as was checked
        }
        std::fs::rename(&self.part, &self.out).map_err(|e| failed(&self.out, e.to_string()))?;
        self.done = true;
        Ok(self.rows.len())
    }

    fn manifest(&self, path: &Path) -> Result<(), csv::Error> {
        let mut writer = csv::Writer::from_path(path)?;
        let parameters = self.generator.header.catalogue.parameters.iter().map(|p| p.name.as_str());
        let header = ["file", "mask", "group", "caption"].into_iter().chain(parameters);
        writer.write_record(header.chain(["seed", "generator", "good"]))?;
        for row in &self.rows {
            writer.write_record(row)?;
        }
        Ok(writer.flush()?)
    }
}

impl Drop for Set<'_> {
    /// What was not finished is of no use to anybody.
    fn drop(&mut self) {
        if !self.done {
            drop(std::fs::remove_dir_all(&self.part));
        }
    }
}

pub(super) fn failed(path: &Path, reason: String) -> WriteError {
    WriteError::Write { path: path.to_owned(), reason }
}

/// Whether a set can be written there.
///
/// Errors: [`WriteError::Out`].
pub fn check_out(out: &Path) -> Result<(), WriteError> {
    let bad = |reason: String| Err(WriteError::Out { path: out.to_owned(), reason });
    if out.exists() && std::fs::read_dir(out).map_or(true, |mut entries| entries.next().is_some()) {
        return bad("is there already and not an empty folder; give a new name".into());
    }
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return bad("the folder that it should lie in is not there; make it first".into());
    }
    let part = part_of(out);
    if part.exists() {
        return bad(format!("{} is left from an earlier run; remove it", part.display()));
    }
    Ok(())
}
