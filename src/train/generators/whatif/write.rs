//! The answer to a question as files and figures: the strip, a table with a line a tile, the pictures themselves.
//!
//! `OUT/strip.png` for people: a row for each good, first the whole good with the mask tinted, then a tile a step.
//! The asked tile has a red frame, a guess a dashed one. `OUT/whatif.csv` with a line a tile. `OUT/pictures` in the
//! MVTec AD layout with its manifest ([`super::super::write`]); the masks there mark where the generator may paint,
//! which is the same along a row, so that a measure of what is inside does not depend on what changed;
//! `OUT/pictures/twin` has the good of each picture under the picture's name. All is written into `OUT.part` and
//! renamed at the end. Of an OUT that ends in .png only the strip is written.
//!
//! Never here: half an answer under its final name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use inspect_core::card::Input;
use inspect_core::image::ImageError;
use serde::Serialize;

use super::super::Generator;
use super::super::crops::{bounds, interleaved, lit};
use super::super::known::Known;
use super::super::near::NEAR;
use super::super::sample::{SampleError, Sampled};
use super::super::write::{Set, WriteError, check_out, failed};
use super::draw::Drawn;
use super::measures::{Measures, NAMES, Trend, mean, measure, trends};
use super::{Basis, Question, Step, Sweep, WhatIfError};
use crate::data::Goods;
use crate::file::{part_of, write_whole};
use crate::pose::{Pose, Window};
use crate::sheet::{Row, Tile, draw as page, resized, tinted};

/// Side of a tile on the strip, pixels: 20 letters of a caption.
const TILE_PX: u32 = 160;
/// Files and folder of an answer.
pub const STRIP_NAME: &str = "strip.png";
/// See [`STRIP_NAME`].
pub const TABLE_NAME: &str = "whatif.csv";
/// See [`STRIP_NAME`].
pub const PICTURES_NAME: &str = "pictures";

/// A step and what its tiles show.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shown {
    /// The step.
    #[serde(flatten)]
    pub step: Step,
    /// Name of a measure ([`NAMES`]) → its mean over the rows; `null` where it cannot be measured.
    #[serde(flatten)]
    pub measures: BTreeMap<&'static str, Option<f64>>,
}

/// The answer in figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// SHA-256 of the generator's file, hex.
    pub generator: String,
    /// Its kind.
    pub kind: String,
    /// What was drawn.
    #[serde(flatten)]
    pub sweep: Sweep,
    /// Distance up to which a picture that was learnt from counts as near, standard deviations.
    pub near_within: f64,
    /// Rows.
    pub rows: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// The steps of [`Sweep::steps`] with their measures, in order of value.
    pub values: Vec<Shown>,
    /// One for each of [`NAMES`].
    pub trends: Vec<Trend>,
}

/// Whether only a strip is asked for.
pub fn is_strip(out: &Path) -> bool {
    out.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"))
}

/// An answer that is being written.
pub struct Answering<'a> {
    generator: &'a Generator,
    goods: &'a Goods,
    question: &'a Question,
    sweep: &'a Sweep,
    out: PathBuf,
    /// The folder under its other name and the pictures in it.
    folder: Option<(Part, Set<'a>)>,
    strip: Vec<Row>,
    table: Vec<Vec<String>>,
    measured: Vec<Measures>,
}

/// A folder that goes away if it does not get its name.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

impl<'a> Answering<'a> {
    /// Makes the folder under another name, but where only a strip is asked for.
    ///
    /// Errors: [`WriteError`] if `out` is there and not an empty folder, or its folder is not there.
    pub fn new(
        generator: &'a Generator,
        goods: &'a Goods,
        (question, sweep): (&'a Question, &'a Sweep),
        out: &Path,
    ) -> Result<Self, WriteError> {
        let folder = if is_strip(out) {
            None
        } else {
            check_out(out, false)?;
            let part = part_of(out);
            std::fs::create_dir(&part).map_err(|e| failed(&part, e.to_string()))?;
            let part = Part(part);
            let set = Set::new(generator, goods, &part.0.join(PICTURES_NAME))?;
            Some((part, set))
        };
        let (out, strip, table, measured) = (out.to_owned(), Vec::new(), Vec::new(), Vec::new());
        Ok(Self { generator, goods, question, sweep, out, folder, strip, table, measured })
    }

    /// Takes the next tile, in the order of [`super::draw::draw`].
    ///
    /// Errors: [`WhatIfError`] if it cannot be written.
    pub fn add(&mut self, drawn: &Drawn) -> Result<(), WhatIfError> {
        let measures = measure(drawn, self.goods).map_err(WriteError::from)?;
        if drawn.step == 0 {
            let row = self.row(drawn).map_err(WriteError::from)?;
            self.strip.push(row);
        }
        let tile = self.tile(drawn).map_err(WriteError::from)?;
        if let Some(row) = self.strip.last_mut() {
            row.tiles.push(tile);
        }
        let file = self.write_picture(drawn)?;
        self.table.push(self.line(drawn, &measures, file));
        self.measured.push(measures);
        Ok(())
    }

    /// Writes what remains and gives the folder its name. `known`: real defects for comparison.
    ///
    /// Errors: [`WhatIfError`].
    pub fn finish(mut self, known: &[Known]) -> Result<Answer, WhatIfError> {
        let strip = page(&self.strip, TILE_PX as usize).and_then(|p| p.encode_png());
        let strip = strip.map_err(WriteError::from)?;
        let save = |path: &Path| write_whole(path, &strip).map_err(|e| failed(path, e.to_string()));
        match self.folder.take() {
            None => save(&self.out)?,
            Some((part, set)) => {
                set.finish()?;
                save(&part.0.join(STRIP_NAME))?;
                let table = part.0.join(TABLE_NAME);
                self.write_table(&table).map_err(|e| failed(&table, e.to_string()))?;
                let named = |e: std::io::Error| failed(&self.out, e.to_string());
                if self.out.exists() {
                    std::fs::remove_dir(&self.out).map_err(named)?; // empty, as was checked
                }
                std::fs::rename(&part.0, &self.out).map_err(named)?;
            }
        }
        Ok(self.answer(known))
    }

    fn answer(&self, known: &[Known]) -> Answer {
        let sweep = self.sweep.clone();
        let steps = sweep.steps.len();
        let shown = |(k, step): (usize, &Step)| {
            let tiles = || self.measured.iter().skip(k).step_by(steps);
            let of = |n: usize| mean(&tiles().filter_map(|m| m[n]).collect::<Vec<_>>());
            let measures = NAMES.iter().enumerate().map(|(n, name)| (*name, of(n))).collect();
            Shown { step: step.clone(), measures }
        };
        Answer {
            generator: self.generator.sha256.clone(),
            kind: self.generator.header.kind.to_string(),
            near_within: NEAR,
            rows: self.question.rows,
            seed: self.question.seed,
            values: sweep.steps.iter().enumerate().map(shown).collect(),
            trends: trends(&sweep, &self.measured, known, self.goods),
            sweep,
        }
    }

    /// A row of the strip with the whole good, its mask tinted.
    fn row(&self, drawn: &Drawn) -> Result<Row, ImageError> {
        let (input, good) = (self.goods.input, &self.goods.pixels[drawn.good]);
        let large = resized(&drawn.mask, Input { channels: 1, ..input }, TILE_PX)?;
        let mask: Vec<f32> = large.chunks_exact(3).map(|p| f32::from(p[0])).collect();
        let pixels = tinted(&resized(good, input, TILE_PX)?, &mask);
        let name = self.goods.names[drawn.good].clone();
        let caption = vec!["the good, and where".to_owned(), name];
        let Sweep { parameter, class, .. } = self.sweep;
        let also: String = self.sweep.fixed.iter().map(|(name, v)| format!(", {name} {v}")).collect();
        let label = format!("{parameter}{also}, {class}");
        Ok(Row { label, tiles: vec![Tile { pixels, caption, ..Tile::default() }] })
    }

    fn tile(&self, drawn: &Drawn) -> Result<Tile, ImageError> {
        let input = self.goods.input;
        let view = view(drawn, input.width as usize);
        let crop = lit(&drawn.picture, input, &Pose::PLAIN, view);
        let side = view.side as u32;
        let crop_input = Input { width: side, height: side, channels: input.channels };
        let pixels = resized(&interleaved(&crop, usize::from(input.channels)), crop_input, TILE_PX)?;
        let Step { value, asked, basis, nearness } = &self.sweep.steps[drawn.step];
        let distance = nearness.distance.map_or("none known".to_owned(), |d| format!("{d:.2} sd"));
        let mut caption = vec![
            format!("{value}{}", if *asked { " (asked)" } else { "" }),
            format!("{distance}, {} near", nearness.near),
        ];
        caption.extend(match basis {
            Basis::Learnt => None,
            Basis::NoneNear => Some("none near: a guess".to_owned()),
            Basis::Beyond => Some("beyond: a guess".to_owned()),
        });
        Ok(Tile { pixels, caption, framed: *asked, dashed: *basis != Basis::Learnt })
    }

    /// Writes the picture, its mask and its twin. Returns its path below the folder; empty if there is none.
    fn write_picture(&mut self, drawn: &Drawn) -> Result<String, WhatIfError> {
        let Some((_, set)) = &mut self.folder else { return Ok(String::new()) };
        let sampled = Sampled {
            class: self.sweep.class.clone(),
            wish: self.sweep.wish(self.sweep.steps[drawn.step].value),
            picture: drawn.picture.clone(),
            mask: drawn.mask.clone(),
            good: drawn.good,
            seed: drawn.seed,
        };
        set.add(std::slice::from_ref(&sampled))?;
        let file = set.last();
        Ok(format!("{PICTURES_NAME}/{file}"))
    }

    fn line(&self, drawn: &Drawn, measures: &Measures, file: String) -> Vec<String> {
        let Step { value, asked, basis, nearness } = &self.sweep.steps[drawn.step];
        let mut line = vec![file, (drawn.row + 1).to_string()];
        line.extend([self.sweep.class.clone(), self.sweep.parameter.clone(), value.to_string()]);
        line.extend([
            if *asked { "yes" } else { "no" }.to_owned(),
            basis.to_string(),
            figure(nearness.distance),
        ]);
        line.extend([nearness.near.to_string(), nearness.of.to_string()]);
        line.extend(measures.iter().copied().map(figure));
        line.extend([self.goods.names[drawn.good].clone(), drawn.seed.to_string()]);
        line
    }

    fn write_table(&self, path: &Path) -> Result<(), csv::Error> {
        let mut writer = csv::Writer::from_path(path)?;
        let first =
            ["file", "row", "class", "parameter", "value", "asked", "basis", "distance", "near", "of"];
        writer.write_record(first.into_iter().chain(NAMES).chain(["good", "seed"]))?;
        for line in &self.table {
            writer.write_record(line)?;
        }
        Ok(writer.flush()?)
    }
}

/// What a tile shows: the mask in the middle, as far as the generator's window goes, and as much again around it.
fn view(drawn: &Drawn, whole: usize) -> Window {
    let Window { at, side } = drawn.window;
    let mask: Vec<f32> = drawn.mask.iter().map(|m| f32::from(*m)).collect();
    let (from, to) = bounds(&mask, whole).unwrap_or((at, at.map(|v| v + side)));
    let box_px = (to[0] - from[0]).max(to[1] - from[1]);
    let shown = (2 * box_px).clamp(side / 2, side);
    let place = |k: usize| {
        let left = ((from[k] + to[k]) / 2).saturating_sub(shown / 2);
        left.clamp(at[k], at[k] + side - shown)
    };
    Window { at: [place(0), place(1)], side: shown }
}

/// Four digits after the point; empty for what is not known.
pub fn figure(value: Option<f64>) -> String {
    value.map(|v| format!("{v:.4}")).unwrap_or_default()
}

impl From<WriteError> for WhatIfError {
    fn from(error: WriteError) -> Self {
        Self::Sample(SampleError::Write(error))
    }
}
