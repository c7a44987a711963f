//! `boxes.csv`: where defects are, as rectangles in pixels of the original pictures.
//!
//! Never here: masks (see [`super`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use inspect_core::card::Input;
use inspect_core::image::{Image, Roi};

use super::RealError;

/// Most rows of `boxes.csv`.
pub const MAX_BOXES: usize = 100_000;

/// A box in pixels of the original picture, with the line that it stands on.
#[derive(Debug, Clone, Copy)]
struct Region {
    line: u64,
    corners: [f64; 4],
}

/// The boxes of a folder of defects.
pub struct Boxes {
    path: PathBuf,
    by_name: BTreeMap<String, Vec<Region>>,
}

impl Boxes {
    /// For a folder that has none.
    pub fn none() -> Self {
        Self { path: PathBuf::new(), by_name: BTreeMap::new() }
    }

    /// Reads `path`; no boxes where there is no such file. `names`: the pictures that there are.
    ///
    /// Errors: [`RealError::Boxes`], with the line.
    pub fn read(path: PathBuf, names: &BTreeSet<&str>) -> Result<Self, RealError> {
        let by_name = if path.exists() { read(&path, names)? } else { BTreeMap::new() };
        Ok(Self { path, by_name })
    }

    /// Whether there are boxes for a picture.
    pub fn have(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Shape: `[S, S]` over the region `seen` of the picture, 0.5 in every pixel that a box touches; all 0 if
    /// every box lies outside it.
    ///
    /// Errors: [`RealError::Boxes`] for a box that leaves its picture.
    pub fn mask(&self, name: &str, image: &Image, seen: Roi, input: Input) -> Result<Vec<f32>, RealError> {
        let mut mask = vec![0.0; (input.width * input.height) as usize];
        let (width, height) = (f64::from(image.width()), f64::from(image.height()));
        for region in self.by_name.get(name).into_iter().flatten() {
            let [x1, y1, x2, y2] = region.corners;
            if !(0.0 <= x1 && x1 < x2 && x2 <= width && 0.0 <= y1 && y1 < y2 && y2 <= height) {
                let reason = format!(
                    "the box from ({x1}, {y1}) to ({x2}, {y2}) does not lie in its picture of {width} x {height} pixels"
                );
                return Err(RealError::Boxes { path: self.path.clone(), line: region.line, reason });
            }
            let columns = touched(x1, x2, seen.x, seen.width, input.width);
            for y in touched(y1, y2, seen.y, seen.height, input.height) {
                mask[y * input.width as usize..][columns.clone()].fill(0.5);
            }
        }
        Ok(mask)
    }
}

/// Pixels of the model's input, `side` of them over `length` from `start` on, that `from` to `to` touches.
fn touched(from: f64, to: f64, start: u32, length: u32, side: u32) -> std::ops::Range<usize> {
    let (start, length, side) = (f64::from(start), f64::from(length), f64::from(side));
    let (from, to) = (from.max(start) - start, to.min(start + length) - start);
    if from >= to {
        return 0..0;
    }
    let scale = side / length;
    (from * scale).floor() as usize..(to * scale).ceil().min(side) as usize
}

fn read(path: &Path, names: &BTreeSet<&str>) -> Result<BTreeMap<String, Vec<Region>>, RealError> {
    let mut boxes = BTreeMap::<String, Vec<Region>>::new();
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
