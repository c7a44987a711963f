//! A contact sheet: pictures in rows on one page, with labels, for people to look at.
//!
//! A *tile* is a picture at its own size, u8 RGB. Rows run down the page, each under its label.
//!
//! Never here: what the pictures show.

use font8x8::legacy::BASIC_LEGACY;
use inspect_core::image::{Image, ImageError, MAX_SIDE_PX};

/// Pixels between tiles.
const GAP_PX: usize = 4;
/// A letter is 8 x 8 dots, each so many pixels wide and high.
const DOT_PX: usize = 2;
const LETTER_PX: usize = 8 * DOT_PX;
const PAPER: [u8; 3] = [24, 24, 28];
const INK: [u8; 3] = [235, 235, 235];
/// What marks a mask: rare on parts.
const MARK: [f32; 3] = [255.0, 0.0, 160.0];
/// How much of the mark shows over the picture.
const MARK_SHARE: f32 = 0.55;

/// A row of tiles and what it is called.
pub struct Row {
    /// Plain ASCII; other letters are left blank.
    pub label: String,
    /// Shape: each `[side, side, 3]`.
    pub tiles: Vec<Vec<u8>>,
}

/// Draws the rows on one page.
///
/// Errors: [`ImageError::Shape`] if the page would be larger than an image may be.
pub fn draw(rows: &[Row], side: usize) -> Result<Image, ImageError> {
    let most = rows.iter().map(|r| r.tiles.len()).max().unwrap_or(0).max(1);
    let width = GAP_PX + most * (side + GAP_PX);
    let high = GAP_PX + LETTER_PX + GAP_PX + side;
    let height = GAP_PX + rows.len() * high;
    let limit = MAX_SIDE_PX as usize;
    if width > limit || height > limit {
        return Image::new(width as u32, height as u32, 3, Vec::new()); // refused with its size
    }
    let mut page: Vec<u8> = PAPER.repeat(width * height);
    for (k, row) in rows.iter().enumerate() {
        let top = GAP_PX + k * high;
        write(&mut page, width, [GAP_PX, top], &row.label);
        for (j, tile) in row.tiles.iter().enumerate() {
            let left = GAP_PX + j * (side + GAP_PX);
            for (y, line) in tile.chunks_exact(side * 3).take(side).enumerate() {
                let at = ((top + LETTER_PX + GAP_PX + y) * width + left) * 3;
                page[at..at + line.len()].copy_from_slice(line);
            }
        }
    }
    Image::new(width as u32, height as u32, 3, page)
}

fn write(page: &mut [u8], width: usize, [left, top]: [usize; 2], text: &str) {
    for (k, letter) in text.chars().enumerate() {
        let dots = BASIC_LEGACY.get(letter as usize).copied().unwrap_or_default();
        for y in 0..LETTER_PX {
            for x in 0..LETTER_PX {
                let column = left + k * LETTER_PX + x;
                if column < width && dots[y / DOT_PX] >> (x / DOT_PX) & 1 == 1 {
                    let at = ((top + y) * width + column) * 3;
                    page[at..at + 3].copy_from_slice(&INK);
                }
            }
        }
    }
}

/// A picture as a tile. Shape: `[C, S, S]` (C 1 or 3, 0 to 255) → `[S, S, 3]`.
pub fn tile(picture: &[f32], channels: usize) -> Vec<u8> {
    let area = picture.len() / channels.max(1);
    let value = |c: usize, i: usize| picture[c.min(channels - 1) * area + i].round() as u8;
    (0..area).flat_map(|i| [0, 1, 2].map(|c| value(c, i))).collect()
}

/// The tile with what is marked (over 0) tinted. Shape: `tile` `[S, S, 3]`, `mask` `[S, S]` → `[S, S, 3]`.
pub fn tinted(tile: &[u8], mask: &[f32]) -> Vec<u8> {
    let mut out = tile.to_vec();
    for (pixel, _) in out.chunks_exact_mut(3).zip(mask).filter(|(_, m)| **m > 0.0) {
        for (v, mark) in pixel.iter_mut().zip(MARK) {
            *v = (f32::from(*v) * (1.0 - MARK_SHARE) + mark * MARK_SHARE).round() as u8;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_lie_below_one_another_under_their_labels() {
        let row = |label: &str, grey: u8, count: usize| Row {
            label: label.into(),
            tiles: vec![vec![grey; 16 * 16 * 3]; count],
        };
        let page =
            draw(&[row("I", 90, 3), row("ß not ASCII, and longer than the page", 200, 1)], 16).unwrap();
        assert_eq!((page.width(), page.height()), (4 + 3 * 20, 4 + 2 * 40));
        let count = |value: [u8; 3]| page.data().chunks_exact(3).filter(|p| **p == value).count();
        assert_eq!((count([90; 3]), count([200; 3])), (3 * 256, 256));
        assert!(count(INK) > 40, "no letters");
    }

    #[test]
    fn a_mask_tints_what_it_marks() {
        let tile = tile(&[10.0, 20.0], 1);
        assert_eq!(tile, [10, 10, 10, 20, 20, 20]);
        let tinted = tinted(&tile, &[0.0, 1.0]);
        assert_eq!(tinted[..3], [10, 10, 10]);
        assert!(tinted[3] > 100 && tinted[4] < 20);
    }

    #[test]
    fn a_page_that_no_image_can_be_is_an_error() {
        let rows: Vec<Row> = (0..40).map(|_| Row { label: String::new(), tiles: vec![] }).collect();
        assert!(draw(&rows, 4096).is_err());
    }
}
