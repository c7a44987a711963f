//! A contact sheet: pictures in rows on one page, with words, for people to look at.
//!
//! A *tile* is a square picture, u8 RGB `[side, side, 3]`, with a caption below; all tiles of a page have one side.
//! Rows run down the page, each under its label.
//!
//! Never here: which pictures are on it, and why.

use font8x8::UnicodeFonts as _;
use inspect_core::card::Input;
use inspect_core::image::{Image, ImageError, MAX_SIDE_PX};
use inspect_core::resize::Resizer;

/// Pixels between tiles; a frame lies in them.
const GAP_PX: usize = 6;
const FRAME_PX: usize = 3;
/// Dots of a letter, each way.
const LETTER: usize = 8;
/// Pixels of a dot in labels and in captions.
const LABEL_DOT_PX: usize = 2;
const CAPTION_DOT_PX: usize = 1;
/// Pixels between lines.
const LEADING_PX: usize = 2;
const PAPER: [u8; 3] = [24, 24, 28];
const INK: [u8; 3] = [235, 235, 235];
const FRAME: [u8; 3] = [230, 30, 30];
/// Of a dashed frame, unless it is red too.
const DOUBT: [u8; 3] = [240, 170, 40];
/// Length of a dash and of what is left out after it, pixels.
const DASH_PX: usize = 8;
/// What marks a mask: rare on parts.
const MARK: [f32; 3] = [255.0, 0.0, 160.0];
/// How much of the mark shows over the picture.
const MARK_SHARE: f32 = 0.55;

/// One picture of a sheet.
#[derive(Debug, Clone, Default)]
pub struct Tile {
    /// Shape: `[side, side, 3]`.
    pub pixels: Vec<u8>,
    /// Lines below it; of a long one the end is shown.
    pub caption: Vec<String>,
    /// Whether it has a red frame.
    pub framed: bool,
    /// Whether its frame is dashed: what it shows is in doubt. Orange if not red.
    pub dashed: bool,
}

/// Tiles side by side.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// A line above them; empty: none.
    pub label: String,
    /// The pictures.
    pub tiles: Vec<Tile>,
}

impl Row {
    fn label_px(&self) -> usize {
        if self.label.is_empty() { 0 } else { LETTER * LABEL_DOT_PX + GAP_PX }
    }

    fn caption_px(&self) -> usize {
        let lines = self.tiles.iter().map(|t| t.caption.len()).max().unwrap_or(0);
        if lines == 0 { 0 } else { GAP_PX + lines * (LETTER * CAPTION_DOT_PX + LEADING_PX) }
    }

    fn height(&self, side: usize) -> usize {
        self.label_px() + side + self.caption_px() + GAP_PX
    }
}

/// Draws the rows on one page, their tiles `side` pixels wide and high.
///
/// Errors: [`ImageError::Shape`] if a tile is not of that size, or the page would be larger than an image may be.
pub fn draw(rows: &[Row], side: usize) -> Result<Image, ImageError> {
    let most = rows.iter().map(|r| r.tiles.len()).max().unwrap_or(0).max(1);
    let width = GAP_PX + most * (side + GAP_PX);
    let height = GAP_PX + rows.iter().map(|r| r.height(side)).sum::<usize>();
    let limit = MAX_SIDE_PX as usize;
    if width > limit || height > limit {
        let shown = |v: usize| u32::try_from(v).unwrap_or(u32::MAX);
        return Image::new(shown(width), shown(height), 3, Vec::new()); // refused with its size
    }
    let mut page = Page { width, pixels: PAPER.repeat(width * height) };
    let mut top = GAP_PX;
    for row in rows {
        page.text([GAP_PX, top], &row.label, LABEL_DOT_PX);
        let picture_top = top + row.label_px();
        for (j, tile) in row.tiles.iter().enumerate() {
            // Checks the shape.
            let image = Image::new(side as u32, side as u32, 3, tile.pixels.clone())?;
            let left = GAP_PX + j * (side + GAP_PX);
            if tile.framed || tile.dashed {
                page.frame([left, picture_top].map(|v| v - FRAME_PX), side + 2 * FRAME_PX, tile);
            }
            for (y, line) in image.data().chunks_exact(side * 3).enumerate() {
                page.put([left, picture_top + y], line);
            }
            let letters = side / (LETTER * CAPTION_DOT_PX);
            for (n, line) in tile.caption.iter().enumerate() {
                let down = GAP_PX + n * (LETTER * CAPTION_DOT_PX + LEADING_PX);
                let from = line.chars().count().saturating_sub(letters);
                let end: String = line.chars().skip(from).collect();
                page.text([left, picture_top + side + down], &end, CAPTION_DOT_PX);
            }
        }
        top += row.height(side);
    }
    Image::new(width as u32, height as u32, 3, page.pixels)
}

struct Page {
    width: usize,
    /// Shape: `[height, width, 3]`.
    pixels: Vec<u8>,
}

impl Page {
    fn put(&mut self, [left, top]: [usize; 2], line: &[u8]) {
        let at = (top * self.width + left) * 3;
        self.pixels[at..at + line.len()].copy_from_slice(line);
    }

    fn fill(&mut self, [left, top]: [usize; 2], [width, height]: [usize; 2], colour: [u8; 3]) {
        let line = colour.repeat(width);
        (top..top + height).for_each(|y| self.put([left, y], &line));
    }

    /// Around a tile that will be put into it.
    fn frame(&mut self, [left, top]: [usize; 2], around: usize, tile: &Tile) {
        self.fill([left, top], [around; 2], if tile.framed { FRAME } else { DOUBT });
        for from in (DASH_PX..around).step_by(2 * DASH_PX).filter(|_| tile.dashed) {
            let length = DASH_PX.min(around - from);
            self.fill([left + from, top], [length, around], PAPER);
            self.fill([left, top + from], [around, length], PAPER);
        }
    }

    /// What the font does not have is a question mark; what goes beyond the page is cut off.
    fn text(&mut self, [left, top]: [usize; 2], text: &str, dot: usize) {
        for (n, letter) in text.chars().enumerate() {
            let at = left + n * LETTER * dot;
            if at + LETTER * dot > self.width {
                return;
            }
            let glyph = font8x8::BASIC_FONTS.get(letter).or_else(|| font8x8::BASIC_FONTS.get('?'));
            for (y, row) in glyph.unwrap_or_default().iter().enumerate() {
                for x in (0..LETTER).filter(|x| row >> x & 1 == 1) {
                    self.fill([at + x * dot, top + y * dot], [dot; 2], INK);
                }
            }
        }
    }
}

/// Planes as a tile's pixels. Shape: `[C, S, S]` (C 1 or 3, 0 to 255) → `[S, S, 3]`.
pub fn from_planes(picture: &[f32], channels: usize) -> Vec<u8> {
    let area = picture.len() / channels.max(1);
    let value = |c: usize, i: usize| picture[c.min(channels - 1) * area + i].round() as u8;
    (0..area).flat_map(|i| [0, 1, 2].map(|c| value(c, i))).collect()
}

/// A picture as a tile's pixels of another side. Shape: `[H, W, C]` → `[side, side, 3]`.
///
/// Errors: [`ImageError::Shape`] if the picture is not of the shape `input`.
pub fn resized(pixels: &[u8], input: Input, side: u32) -> Result<Vec<u8>, ImageError> {
    let image = Image::new(input.width, input.height, input.channels, pixels.to_vec())?;
    let shown = Input { width: side, height: side, channels: 3 };
    let mut out = vec![0; shown.bytes()];
    Resizer::default().run(&image, None, shown, &mut out)?;
    Ok(out)
}

/// A tile's pixels with what is marked (over 0) tinted. Shape: `[S, S, 3]`, `mask` `[S, S]` → `[S, S, 3]`.
pub fn tinted(pixels: &[u8], mask: &[f32]) -> Vec<u8> {
    let mut out = pixels.to_vec();
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

    fn tile(grey: u8, side: usize) -> Tile {
        Tile { pixels: vec![grey; side * side * 3], ..Tile::default() }
    }

    fn count(page: &Image, value: [u8; 3]) -> usize {
        page.data().chunks_exact(3).filter(|p| **p == value).count()
    }

    #[test]
    fn rows_lie_below_one_another_under_their_labels() {
        let row = |label: &str, grey, n| Row { label: label.into(), tiles: vec![tile(grey, 16); n] };
        let page =
            draw(&[row("I", 90, 3), row("ß not ASCII, and longer than the page", 200, 1)], 16).unwrap();
        assert_eq!((page.width(), page.height()), (6 + 3 * 22, 6 + 2 * (16 + 6 + 16 + 6)));
        assert_eq!((count(&page, [90; 3]), count(&page, [200; 3])), (3 * 256, 256));
        assert!(count(&page, INK) > 40, "no letters");
        let plain = draw(&[row("", 90, 3)], 16).unwrap();
        assert_eq!((plain.height(), count(&plain, INK)), (28, 0), "no label, no room for one");
    }

    #[test]
    fn captions_stand_below_their_tiles_and_frames_around_them() {
        let named =
            |name: &str, framed| Tile { caption: vec![name.into(), "z".into()], framed, ..tile(90, 32) };
        let page = draw(&[Row { tiles: vec![named("a", true), named("b", false)], ..Row::default() }], 32);
        let page = page.unwrap();
        assert_eq!((page.width(), page.height()), (6 + 2 * 38, 6 + 32 + 6 + 20 + 6));
        assert_eq!(count(&page, FRAME), 38 * 38 - 32 * 32);
        let doubted =
            |framed| Row { tiles: vec![Tile { framed, dashed: true, ..tile(90, 32) }], ..Row::default() };
        for (framed, colour) in [(true, FRAME), (false, DOUBT)] {
            let dashed = count(&draw(&[doubted(framed)], 32).unwrap(), colour);
            assert!((100..300).contains(&dashed), "{dashed} pixels of a frame of 420");
        }
        let short = draw(&[Row { tiles: vec![named("6789", false)], ..Row::default() }], 32).unwrap();
        let long = draw(&[Row { tiles: vec![named("123456789", false)], ..Row::default() }], 32).unwrap();
        assert_eq!(short, long, "four letters fit, and the end tells pictures apart");
    }

    #[test]
    fn a_mask_tints_what_it_marks() {
        let pixels = from_planes(&[10.0, 20.0], 1);
        assert_eq!(pixels, [10, 10, 10, 20, 20, 20]);
        let tinted = tinted(&pixels, &[0.0, 1.0]);
        assert_eq!(tinted[..3], [10, 10, 10]);
        assert!(tinted[3] > 100 && tinted[4] < 20);
    }

    #[test]
    fn pictures_of_any_size_become_tiles_and_wrong_ones_are_errors() {
        let input = Input { width: 32, height: 64, channels: 1 };
        assert_eq!(resized(&vec![40; 2048], input, 16).unwrap(), vec![40; 16 * 16 * 3]);
        assert!(resized(&vec![40; 2047], input, 16).is_err());
        assert!(draw(&[Row { tiles: vec![tile(1, 15)], ..Row::default() }], 16).is_err());
        let rows: Vec<Row> = (0..40).map(|_| Row { label: "x".into(), tiles: vec![] }).collect();
        assert!(draw(&rows, 4096).is_err(), "larger than an image may be");
        assert!(draw(&[], 16).is_ok());
    }
}
