//! The mask of what matters in the pictures: white counts, black is ignored.
//!
//! For a region whose look says nothing of the part: a conveyor, a label, a reflection. It lies in the
//! picture's own pixels, or in those of the region of interest.
//!
//! Never here: a mask that is stretched to fit, or one that ignores everything.

use std::collections::BTreeMap;
use std::path::Path;

use inspect_core::card::Input;
use inspect_core::image::Roi;
use inspect_core::resize::Resizer;

use super::DataError;
use super::load::read;

/// A place counts if at least so much of it is white, 0 to 255.
const WHITE: u8 = 128;

/// Reads a mask for pictures of `sizes` (width and height → how many), cut to `roi`, as `input`.
///
/// Shape: `[input.height, input.width]`, 1 counts, 0 is ignored; `None` if everything counts.
/// Errors: [`DataError::Mask`].
pub fn read_mask(
    path: &Path,
    sizes: &BTreeMap<(u32, u32), usize>,
    roi: Option<Roi>,
    input: Input,
) -> Result<Option<Vec<f32>>, DataError> {
    let bad = |reason: String| DataError::Mask { path: path.to_owned(), reason };
    let (image, _) = read(path).map_err(|reason| {
        // The file is named once.
        bad(reason.strip_prefix(&format!("{}: ", path.display())).unwrap_or(&reason).to_owned())
    })?;
    let mut image = image.with_channels(1).map_err(|e| bad(e.to_string()))?;
    let size = (image.width(), image.height());
    let cut = roi.map(|roi| (roi.width, roi.height));
    let whole = sizes.len() == 1 && sizes.contains_key(&size);
    if cut != Some(size) && !whole {
        return Err(bad(wrong_size(size, sizes, cut)));
    }
    // Black or white first: what is grey at the edges is so by the resizing alone.
    image.data_mut().iter_mut().for_each(|v| *v = if *v >= WHITE { 255 } else { 0 });
    let part = roi.filter(|_| cut != Some(size));
    let mut pixels = vec![0; input.width as usize * input.height as usize];
    let grey = Input { channels: 1, ..input };
    Resizer::default().run(&image, part, grey, &mut pixels).map_err(|e| bad(e.to_string()))?;
    let mask: Vec<f32> = pixels.iter().map(|&v| f32::from(u8::from(v >= WHITE))).collect();
    if mask.iter().all(|&m| m == 0.0) {
        return Err(bad(
            "it is black everywhere, so nothing would be inspected; white is what matters".into()
        ));
    }
    Ok(Some(mask).filter(|mask| mask.contains(&0.0)))
}

fn wrong_size(got: (u32, u32), sizes: &BTreeMap<(u32, u32), usize>, cut: Option<(u32, u32)>) -> String {
    let cut = cut.map(|(w, h)| format!(", or {w}x{h} as --roi is")).unwrap_or_default();
    let expected = match sizes.keys().next() {
        Some((w, h)) if sizes.len() == 1 => format!("{w}x{h} as the pictures are{cut}"),
        _ if cut.is_empty() => {
            format!("pictures of one size where there is a mask; these have {} sizes", sizes.len())
        }
        _ => format!("one size{cut}, since the pictures have {} sizes", sizes.len()),
    };
    format!("it has {}x{} pixels, expected {expected}", got.0, got.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use inspect_core::image::Image;

    const INPUT: Input = Input { width: 32, height: 32, channels: 3 };

    /// Black left of `edge`, white from there on.
    fn mask(
        width: u32,
        height: u32,
        edge: u32,
        sizes: &[(u32, u32)],
        roi: Option<Roi>,
    ) -> Result<Option<Vec<f32>>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mask.png");
        let data = (0..width * height).map(|i| if i % width >= edge { 255 } else { 0 }).collect();
        Image::new(width, height, 1, data).unwrap().write_png(&path).unwrap();
        let sizes = sizes.iter().map(|&s| (s, 1)).collect();
        read_mask(&path, &sizes, roi, INPUT).map_err(|e| e.to_string())
    }

    #[test]
    fn white_counts_in_the_pictures_pixels_and_in_the_regions() {
        let left =
            |m: &[f32]| m.chunks(32).map(|row| row.iter().filter(|&&v| v == 0.0).count()).collect::<Vec<_>>();
        let whole = mask(128, 64, 32, &[(128, 64)], None).unwrap().unwrap();
        assert_eq!(left(&whole), [8; 32]);
        let roi = Roi { x: 16, y: 0, width: 64, height: 64 };
        let cut = mask(128, 64, 32, &[(128, 64)], Some(roi)).unwrap().unwrap();
        assert_eq!(left(&cut), [8; 32], "32 - 16 of 64 pixels");
        let own = mask(64, 64, 32, &[(128, 64)], Some(roi)).unwrap().unwrap();
        assert_eq!(left(&own), [16; 32]);
        assert_eq!(mask(128, 64, 0, &[(128, 64)], None).unwrap(), None, "all white ignores nothing");
    }

    #[test]
    fn a_mask_that_does_not_fit_is_an_error_with_both_sizes() {
        let error = mask(100, 64, 10, &[(128, 64)], None).unwrap_err();
        assert!(error.contains("100x64") && error.contains("128x64"), "{error}");
        let roi = Roi { x: 0, y: 0, width: 50, height: 40 };
        let error = mask(100, 64, 10, &[(128, 64)], Some(roi)).unwrap_err();
        assert!(error.contains("128x64") && error.contains("50x40"), "{error}");
        let error = mask(128, 64, 10, &[(128, 64), (90, 90)], None).unwrap_err();
        assert!(error.contains("2 sizes"), "{error}");
        let error = mask(128, 64, 128, &[(128, 64)], None).unwrap_err();
        assert!(error.contains("black everywhere"), "{error}");
    }
}
