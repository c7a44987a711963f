//! A sheet for people: real and made defects mixed, numbered, the key in a file of its own.
//!
//! As many real ones as made ones, of every made set equally many, in an order drawn by seed. All come as crops of
//! one size out of pictures of one size ([`super::sizes`]), so that sharpness gives nobody away. Whoever looks writes down the numbers that look made; the key says
//! which are.
//!
//! Never here: procedural defects (nobody takes them for photographs); what people answered.

use inspect_core::card::Input;
use inspect_core::image::{Image, ImageError};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::sets::{CROP_PX, Crop, Set};
use crate::sheet::{Row, Tile, draw, resized};

/// Most real ones on the sheet, and most made ones.
const MAX_EACH: usize = 24;
/// Pictures side by side, and their side, pixels.
const ACROSS: usize = 8;
const TILE_PX: u32 = 160;

/// One picture of the sheet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// `real`, or the name of the made set.
    pub origin: &'a str,
    /// The defect's file.
    pub file: &'a str,
    /// Its class.
    pub class: &'a str,
}

/// A sheet with its key.
pub struct Sheet<'a> {
    /// The pictures.
    pub page: Image,
    /// In the order of their numbers, from 1.
    pub key: Vec<Entry<'a>>,
}

impl Sheet<'_> {
    /// The key as a table. Errors: what the writer of tables says.
    pub fn key_csv(&self) -> Result<Vec<u8>, csv::Error> {
        let mut table = csv::Writer::from_writer(Vec::new());
        table.write_record(["number", "origin", "class", "file"])?;
        for (i, entry) in self.key.iter().enumerate() {
            table.write_record([&(i + 1).to_string(), entry.origin, entry.class, entry.file])?;
        }
        table.into_inner().map_err(|e| e.into_error().into())
    }

    /// Real ones on it.
    pub fn real(&self) -> usize {
        self.key.iter().filter(|e| e.origin == "real").count()
    }
}

/// A tile's pixels of a crop. Errors: [`ImageError`].
pub fn tile(crop: &Crop, side: u32) -> Result<Vec<u8>, ImageError> {
    resized(&crop.pixels, Input { width: CROP_PX, height: CROP_PX, channels: 3 }, side)
}

/// `count` crops of a set, at random.
fn some<'a>(set: &'a Set, name: &'a str, count: usize, r: &mut StdRng) -> Vec<(Entry<'a>, &'a Crop)> {
    let mut all: Vec<&Crop> = set.crops.iter().collect();
    all.shuffle(r);
    let entry = |crop: &'a Crop| (Entry { origin: name, file: &crop.name, class: &crop.class }, crop);
    all.into_iter().take(count).map(entry).collect()
}

/// Mixes real defects and those of the made sets; `made` holds at least one set.
///
/// Errors: [`ImageError`] if the page cannot be drawn.
pub fn mix<'a>(real: &'a Set, made: &'a [Set], seed: u64) -> Result<Sheet<'a>, ImageError> {
    let mut r = StdRng::seed_from_u64(seed);
    // The smallest set says how many: else its pictures would be rare, and rare is a hint.
    let least = made.iter().map(|set| set.crops.len()).min().unwrap_or(0);
    let each = real.crops.len().min(MAX_EACH) / made.len().max(1);
    let each = each.max(1).min(least);
    let mut all = Vec::new();
    for set in made {
        all.extend(some(set, &set.name, each, &mut r));
    }
    all.truncate(MAX_EACH.max(made.len()));
    let count = all.len();
    all.extend(some(real, "real", count, &mut r));
    all.shuffle(&mut r);
    let mut tiles = Vec::with_capacity(all.len());
    for (i, (_, crop)) in all.iter().enumerate() {
        let caption = vec![(i + 1).to_string()];
        tiles.push(Tile { pixels: tile(crop, TILE_PX)?, caption, ..Tile::default() });
    }
    let rows: Vec<Row> =
        tiles.chunks(ACROSS).map(|t| Row { label: String::new(), tiles: t.to_vec() }).collect();
    let page = draw(&rows, TILE_PX as usize)?;
    Ok(Sheet { page, key: all.into_iter().map(|(entry, _)| entry).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, count: usize) -> Set {
        let area = (CROP_PX * CROP_PX) as usize;
        let crop = |i: usize| Crop {
            name: format!("{name}{i}"),
            class: "pit".into(),
            group: i.to_string(),
            pixels: vec![(i * 5) as u8; area * 3],
            mask: vec![1.0; area],
            is_pasted: false,
        };
        Set { name: name.into(), found: count, crops: (0..count).map(crop).collect(), notes: Vec::new() }
    }

    #[test]
    fn real_and_made_are_as_many_and_the_key_says_which_is_which() {
        let (real, made) = (set("photo", 40), [set("gan", 30), set("vae", 50)]);
        let sheet = mix(&real, &made, 1).unwrap();
        let count = |origin: &str| sheet.key.iter().filter(|e| e.origin == origin).count();
        assert_eq!([count("gan"), count("vae"), sheet.real()], [12, 12, 24]);
        assert!(
            sheet.key[..24].iter().any(|e| e.origin == "real")
                && sheet.key[..24].iter().any(|e| e.origin != "real")
        );
        let key = String::from_utf8(sheet.key_csv().unwrap()).unwrap();
        assert_eq!(key.lines().count(), 49);
        assert!(key.starts_with("number,origin,class,file\n1,"));
        assert_ne!(mix(&real, &made, 2).unwrap().key, sheet.key, "another seed, another order");
    }

    #[test]
    fn one_defect_of_a_kind_makes_a_sheet_too() {
        let (one, many) = (set("photo", 1), [set("gan", 1), set("vae", 9)]);
        let sheet = mix(&one, &many, 1).unwrap();
        assert_eq!((sheet.real(), sheet.key.len()), (1, 3));
    }
}
