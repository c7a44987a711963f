//! A contact sheet: pictures side by side with a line of text below each, as one image.
//!
//! Never here: which pictures are on it, and why.

use font8x8::UnicodeFonts as _;
use inspect_core::card::Input;
use inspect_core::image::{Image, ImageError};
use inspect_core::resize::Resizer;

/// Most pictures on a sheet.
pub const MOST_CELLS: usize = 60;
/// Pictures side by side.
const COLUMNS: usize = 6;
/// Side of a picture on the sheet, pixels.
const CELL: usize = 160;
/// Space around it, pixels; the frame lies in it.
const MARGIN: usize = 6;
/// Height of a line of text, pixels.
const LINE: usize = 10;
/// Letters that fit below a picture.
const LETTERS: usize = CELL / 8;

/// One picture of a sheet.
pub struct Cell<'a> {
    /// Shape: `[H, W, C]`, as the sheet's `input`.
    pub pixels: &'a [u8],
    /// Two lines below it; of a long one the end is shown.
    pub lines: [String; 2],
    /// Whether it has a red frame.
    pub framed: bool,
}

/// Draws up to [`MOST_CELLS`] pictures of the shape `input`.
///
/// Errors: [`ImageError::Shape`] if a picture is not of that shape.
pub fn sheet(cells: &[Cell], input: Input) -> Result<Image, ImageError> {
    let cells = &cells[..cells.len().min(MOST_CELLS)];
    let (across, down) = (CELL + 2 * MARGIN, CELL + 2 * MARGIN + 2 * LINE);
    let columns = cells.len().clamp(1, COLUMNS);
    let (width, height) = (columns * across, cells.len().div_ceil(columns).max(1) * down);
    let mut canvas = Canvas { width, data: vec![255; width * height * 3] };
    let shown = Input { width: CELL as u32, height: CELL as u32, channels: 3 };
    let (mut resizer, mut pixels) = (Resizer::default(), vec![0; shown.bytes()]);
    for (i, cell) in cells.iter().enumerate() {
        let image = Image::new(input.width, input.height, input.channels, cell.pixels.to_vec())?;
        resizer.run(&image, None, shown, &mut pixels)?;
        let (left, top) = (i % columns * across + MARGIN, i / columns * down + MARGIN);
        if cell.framed {
            canvas.fill(left - 3, top - 3, CELL + 6, CELL + 6, [220, 0, 0]);
        }
        for (y, row) in pixels.chunks_exact(CELL * 3).enumerate() {
            let at = ((top + y) * width + left) * 3;
            canvas.data[at..at + row.len()].copy_from_slice(row);
        }
        for (n, line) in cell.lines.iter().enumerate() {
            canvas.text(left, top + CELL + 5 + n * LINE, line);
        }
    }
    Image::new(width as u32, height as u32, 3, canvas.data)
}

struct Canvas {
    width: usize,
    /// Shape: `[height, width, 3]`.
    data: Vec<u8>,
}

impl Canvas {
    fn fill(&mut self, left: usize, top: usize, width: usize, height: usize, colour: [u8; 3]) {
        for y in top..top + height {
            for x in left..left + width {
                let at = (y * self.width + x) * 3;
                self.data[at..at + 3].copy_from_slice(&colour);
            }
        }
    }

    /// The last [`LETTERS`] letters of `line`; what the font does not have is a question mark.
    fn text(&mut self, left: usize, top: usize, line: &str) {
        let letters: Vec<char> = line.chars().collect();
        let from = letters.len().saturating_sub(LETTERS);
        for (n, &letter) in letters[from..].iter().enumerate() {
            let glyph = font8x8::BASIC_FONTS.get(letter).or_else(|| font8x8::BASIC_FONTS.get('?'));
            for (y, row) in glyph.unwrap_or_default().iter().enumerate() {
                for x in (0..8).filter(|x| row >> x & 1 == 1) {
                    self.fill(left + n * 8 + x, top + y, 1, 1, [0, 0, 0]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_names_and_frames_are_where_they_belong() {
        let input = Input { width: 32, height: 32, channels: 1 };
        let (dark, light) = (vec![40; 1024], vec![200; 1024]);
        let cell =
            |pixels, framed| Cell { pixels, lines: ["train/good/ä.png".into(), "x".repeat(99)], framed };
        let cells: Vec<Cell> = (0..8).map(|i| cell(if i == 7 { &light } else { &dark }, i == 0)).collect();
        let image = sheet(&cells, input).unwrap();
        let across = (CELL + 2 * MARGIN) as u32;
        let down = across + 2 * LINE as u32;
        assert_eq!((image.width(), image.height()), (6 * across, 2 * down));
        let at = |x: u32, y: u32| {
            let i = ((y * image.width() + x) * 3) as usize;
            [image.data()[i], image.data()[i + 1], image.data()[i + 2]]
        };
        assert_eq!(at(across / 2, across / 2), [40; 3]);
        assert_eq!(at(across + across / 2, down + across / 2), [200; 3]);
        assert_eq!((at(4, 50), at(across + 4, 50)), ([220, 0, 0], [255; 3]));
        let black = image.data().chunks_exact(3).filter(|p| *p == [0; 3]).count();
        assert!(black > 1000, "{black} black pixels are too few for 16 lines of text");
    }

    #[test]
    fn more_than_a_sheet_holds_are_left_out_and_a_wrong_shape_is_an_error() {
        let input = Input { width: 32, height: 32, channels: 1 };
        let pixels = vec![1; 1024];
        let cells = |n, pixels| -> Vec<Cell> {
            (0..n).map(|_| Cell { pixels, lines: Default::default(), framed: false }).collect()
        };
        let all = sheet(&cells(MOST_CELLS + 9, &pixels), input).unwrap();
        assert_eq!(all.height(), sheet(&cells(MOST_CELLS, &pixels), input).unwrap().height());
        assert!(sheet(&cells(1, &pixels[1..]), input).is_err());
        assert!(sheet(&[], input).is_ok());
    }
}
