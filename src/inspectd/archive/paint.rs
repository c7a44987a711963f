//! An anomaly map in colours: black is 0, yellow the reject threshold, red twice that and more, magenta not a number.
//!
//! Never here: files.

use inspect_core::image::{Image, ImageError};

/// The map in colours. Shape: `[h, w]` → RGB. Source of the ramp: ours; see the module's head.
///
/// Errors: [`ImageError::Shape`] if the map is not as long as its shape says.
pub fn paint(
    map: &[f32],
    (height, width): (usize, usize),
    reject_threshold: f32,
) -> Result<Image, ImageError> {
    // What does not fit a u32 is no image's side: 0 is refused as such.
    let side = |px: usize| u32::try_from(px).unwrap_or(0);
    let (height, width) = (side(height), side(width));
    let data = map.iter().flat_map(|&value| colour(value / reject_threshold)).collect();
    Image::new(width, height, 3, data)
}

/// 0 black, 1 yellow, 2 red, straight lines between.
fn colour(relative: f32) -> [u8; 3] {
    if relative.is_nan() {
        return [255, 0, 255];
    }
    let byte = |share: f32| (share.clamp(0.0, 1.0) * 255.0).round() as u8;
    [byte(relative), byte(if relative <= 1.0 { relative } else { 2.0 - relative }), 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ramp_goes_from_black_over_yellow_to_red_and_shows_what_is_no_number() {
        let map = paint(&[0.0, 1.0, 2.0, f32::NAN], (2, 2), 1.0).unwrap();
        assert_eq!(map.data(), [0, 0, 0, 255, 255, 0, 255, 0, 0, 255, 0, 255]);
        assert!(paint(&[0.0; 4], (9, 9), 1.0).is_err());
    }
}
