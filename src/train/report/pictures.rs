//! The pictures that a report shows: the worst of each kind, each beside its anomaly map.
//!
//! The map is laid over a grey copy. It is scaled so that its highest place has the picture's own score,
//! then coloured from half the reject threshold (clear) over the threshold (orange) to one and a half of
//! it (red), the same for every picture of the report. A mask is a cyan outline.
//!
//! Pictures are shrunk and stored as JPEG: a report is to be sent by mail.
//!
//! Never here: HTML.

use base64::Engine as _;
use image::codecs::jpeg::JpegEncoder;
use inspect_core::card::Input;
use inspect_core::image::{Image, luma};
use inspect_core::resize::Resizer;

use super::{PictureScore, Report, ReportError};
use crate::evaluate::{EvaluateError, Evaluation, Look};
use crate::metrics::pixels::enlarge;

/// Most pictures of one kind.
pub const MAX_OF_A_KIND: usize = 6;
/// Longest side of a shown picture, pixels.
const MAX_SIDE_PX: u32 = 288;
/// Shortest side, pixels: however long and thin the picture is.
const MIN_SIDE_PX: u32 = 16;
/// JPEG quality, 1 to 100.
const JPEG_QUALITY: u8 = 85;
/// Brightness that the grey copy keeps, so that colours stand out.
const GREY_SHARE: f32 = 0.75;
/// Outline of a mask.
const OUTLINE: [u8; 3] = [0, 220, 255];

/// Pictures of one kind.
pub struct Kind {
    /// Heading.
    pub title: &'static str,
    /// What is to be seen in them.
    pub meaning: &'static str,
    /// How many there are in all.
    pub of: usize,
    /// The worst of them.
    pub shown: Vec<Shown>,
}

/// One picture.
pub struct Shown {
    /// Its place in [`Report::scores`].
    pub place: usize,
    /// `data:` URI.
    pub picture: String,
    /// `data:` URI, with the map and the mask's outline.
    pub overlay: String,
    /// Width, pixels.
    pub width: u32,
    /// Height, pixels.
    pub height: u32,
    /// Whether a mask is outlined.
    pub outlined: bool,
}

/// The worst of each kind. Kinds without a picture are there too: none is good news worth telling.
///
/// Errors: [`ReportError::Evaluate`].
pub fn worst(evaluation: &mut Evaluation) -> Result<Vec<Kind>, ReportError> {
    let report = &evaluation.report;
    let kinds = [
        (
            "Escapes",
            "Defective parts that passed, lowest score first.",
            places(report, false, |s| !s.is_good() && s.passed()),
        ),
        (
            "False rejects",
            "Good parts that did not pass, highest score first.",
            places(report, true, |s| s.is_good() && !s.passed()),
        ),
        (
            "Good parts nearest to the limit",
            "Good parts that passed, highest score first: the next false rejects.",
            places(report, true, |s| s.is_good() && s.passed()),
        ),
        (
            "Weakest finds",
            "Defective parts that did not pass, lowest score first: the next escapes.",
            places(report, false, |s| !s.is_good() && !s.passed()),
        ),
        (
            "Strongest defects",
            "Defective parts with the highest scores.",
            places(report, true, |s| !s.is_good() && !s.passed()),
        ),
    ];
    let mut all = Vec::new();
    for (title, meaning, places) in kinds {
        let of = places.len();
        let most = if title.starts_with("Strongest") { MAX_OF_A_KIND / 2 } else { MAX_OF_A_KIND };
        let shown = places.into_iter().take(most).map(|place| show(evaluation, place));
        all.push(Kind { title, meaning, of, shown: shown.collect::<Result<_, _>>()? });
    }
    Ok(all)
}

fn places(report: &Report, highest_first: bool, wanted: impl Fn(&PictureScore) -> bool) -> Vec<usize> {
    let all = report.scores.iter().enumerate();
    let mut places: Vec<(f32, usize)> = all.filter(|(_, s)| wanted(s)).map(|(i, s)| (s.score, i)).collect();
    places.sort_by(|a, b| if highest_first { b.0.total_cmp(&a.0) } else { a.0.total_cmp(&b.0) });
    places.into_iter().map(|(_, place)| place).collect()
}

fn show(evaluation: &mut Evaluation, place: usize) -> Result<Shown, ReportError> {
    let look = evaluation.look(place)?;
    let relative = evaluation.report.relative(evaluation.report.scores[place].score);
    let (width, height) = shown_size(look.image.width(), look.image.height());
    let picture = shrink(&look.image, Input { width, height, channels: 3 })?;
    let overlay = overlay(&picture, &look, relative as f32, (width, height))?;
    let uri = |pixels: &[u8]| jpeg_uri(pixels, width, height);
    Ok(Shown {
        place,
        picture: uri(&picture)?,
        overlay: uri(&overlay)?,
        width,
        height,
        outlined: look.mask.is_some(),
    })
}

/// The longest side at most [`MAX_SIDE_PX`], the same shape as far as that goes.
fn shown_size(width: u32, height: u32) -> (u32, u32) {
    let scale = (f64::from(MAX_SIDE_PX) / f64::from(width.max(height))).min(1.0);
    let side = |px: u32| ((f64::from(px) * scale).round() as u32).clamp(MIN_SIDE_PX, MAX_SIDE_PX);
    (side(width), side(height))
}

fn shrink(image: &Image, to: Input) -> Result<Vec<u8>, ReportError> {
    let mut pixels = vec![0; to.bytes()];
    let shrunk = Resizer::default().run(image, None, to, &mut pixels);
    shrunk.map_err(|e| EvaluateError::Data(e.into()))?;
    Ok(pixels)
}

/// Shape: `picture` `[h, w, 3]` → the same, with map and outline.
fn overlay(
    picture: &[u8],
    look: &Look,
    relative: f32,
    (width, height): (u32, u32),
) -> Result<Vec<u8>, ReportError> {
    let highest = look.map.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // A map in another unit than the score still shows where the score came from.
    let scale = if highest > 0.0 && relative > 0.0 { relative / highest } else { 1.0 };
    let map = enlarge(&look.map, look.map_shape, (height as usize, width as usize));
    let mut out = Vec::with_capacity(picture.len());
    for (i, pixel) in picture.chunks_exact(3).enumerate() {
        let grey = f32::from(luma([pixel[0], pixel[1], pixel[2]])) * GREY_SHARE;
        let (colour, opacity) = heat(map.get(i).copied().unwrap_or(0.0) * scale);
        out.extend(colour.map(|c| (grey + (c - grey) * opacity) as u8));
    }
    if let Some(mask) = &look.mask {
        let mut share = shrink(mask, Input { width, height, channels: 1 })?;
        // A defect of less than half a shown pixel is outlined all the same.
        share.iter_mut().for_each(|s| *s = u8::from(*s > 0));
        outline(&mut out, &share, width as usize);
    }
    Ok(out)
}

/// Colour and opacity of a map value in units of the reject threshold.
fn heat(value: f32) -> ([f32; 3], f32) {
    let along = (value - 0.5).clamp(0.0, 1.0);
    // Yellow at half the limit, orange at the limit, red from one and a half of it.
    ([255.0, 235.0 * (1.0 - along), 40.0 * (1.0 - along)], (along * 1.6).min(0.72))
}

/// Paints the clean pixels that touch a defect one, so that the defect itself stays visible.
fn outline(picture: &mut [u8], mask: &[u8], width: usize) {
    let height = mask.len() / width;
    for place in (0..mask.len()).filter(|p| mask[*p] == 0) {
        let (x, y) = (place % width, place / width);
        let near = |nx: usize, ny: usize| nx < width && ny < height && mask[ny * width + nx] == 1;
        let touches =
            near(x + 1, y) || near(x, y + 1) || near(x.wrapping_sub(1), y) || (y > 0 && near(x, y - 1));
        if touches {
            picture[place * 3..place * 3 + 3].copy_from_slice(&OUTLINE);
        }
    }
}

/// `data:` URI of a picture. Shape: `[height, width, 3]`.
pub(crate) fn jpeg_uri(pixels: &[u8], width: u32, height: u32) -> Result<String, ReportError> {
    let mut jpeg = Vec::new();
    let encoded = JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY).encode(
        pixels,
        width,
        height,
        image::ExtendedColorType::Rgb8,
    );
    encoded.map_err(|e| ReportError::Figure { figure: "picture", reason: e.to_string() })?;
    Ok(format!("data:image/jpeg;base64,{}", base64::engine::general_purpose::STANDARD.encode(jpeg)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_picture_gets_a_size_that_can_be_shown() {
        assert_eq!(shown_size(1000, 500), (288, 144));
        assert_eq!(shown_size(64, 32), (64, 32));
        assert_eq!(shown_size(30_000, 1), (288, 16));
        assert_eq!(shown_size(1, 1), (16, 16));
    }

    #[test]
    fn colours_begin_at_half_the_limit_and_end_at_one_and_a_half() {
        assert_eq!(heat(0.5).1, 0.0);
        assert_eq!(heat(-3.0).1, 0.0);
        assert!(heat(1.0).1 > 0.5 && heat(1.0).0[1] > 80.0, "orange at the limit");
        assert_eq!(heat(1.5).0, heat(99.0).0);
    }

    #[test]
    fn the_outline_lies_around_the_defect_and_never_on_it() {
        let mut mask = vec![0u8; 25];
        mask[12] = 1;
        let mut picture = vec![9u8; 75];
        outline(&mut picture, &mask, 5);
        let painted: Vec<usize> = (0..25).filter(|p| picture[p * 3..p * 3 + 3] == OUTLINE).collect();
        assert_eq!(painted, [7, 11, 13, 17]);
        mask.fill(1);
        outline(&mut picture, &mask, 5); // all defect: nothing to paint, nothing out of bounds
    }
}
