//! What the camera sends, as RGB or grey.
//!
//! Colour filters (Bayer) are interpolated by OpenCV, bilinearly.
//!
//! Never here: more than 8 bits; white balance and gamma, which are the camera's.

use aravis::PixelFormat as Code;
use inspect_core::image::{Image, ImageError};
use opencv::core::{Mat, MatTraitConst, MatTraitConstManual};
use opencv::imgproc::{
    COLOR_BayerBG2RGB, COLOR_BayerGB2RGB, COLOR_BayerGR2RGB, COLOR_BayerRG2RGB, cvt_color_def,
};
use serde::{Deserialize, Serialize};

/// Pixels by their names in GenICam's naming convention (PFNC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum PixelFormat {
    /// Grey.
    #[default]
    Mono8,
    /// Red, green, blue.
    #[serde(rename = "RGB8")]
    Rgb8,
    /// Blue, green, red.
    #[serde(rename = "BGR8")]
    Bgr8,
    /// Colour filter, first row red and green.
    #[serde(rename = "BayerRG8")]
    BayerRg8,
    /// Colour filter, first row green and red.
    #[serde(rename = "BayerGR8")]
    BayerGr8,
    /// Colour filter, first row green and blue.
    #[serde(rename = "BayerGB8")]
    BayerGb8,
    /// Colour filter, first row blue and green.
    #[serde(rename = "BayerBG8")]
    BayerBg8,
}

impl PixelFormat {
    /// The number by which the camera knows it.
    pub(super) fn code(self) -> Code {
        match self {
            Self::Mono8 => Code::MONO_8,
            Self::Rgb8 => Code::RGB_8_PACKED,
            Self::Bgr8 => Code::BGR_8_PACKED,
            Self::BayerRg8 => Code::BAYER_RG_8,
            Self::BayerGr8 => Code::BAYER_GR_8,
            Self::BayerGb8 => Code::BAYER_GB_8,
            Self::BayerBg8 => Code::BAYER_BG_8,
        }
    }

    /// Bytes of a pixel on the wire.
    fn bytes(self) -> usize {
        match self {
            Self::Rgb8 | Self::Bgr8 => 3,
            _ => 1,
        }
    }

    /// OpenCV names a filter by its second row's second and third pixel, PFNC by the first row's first two.
    fn filter(self) -> Option<i32> {
        match self {
            Self::Mono8 | Self::Rgb8 | Self::Bgr8 => None,
            Self::BayerRg8 => Some(COLOR_BayerBG2RGB),
            Self::BayerGr8 => Some(COLOR_BayerGB2RGB),
            Self::BayerGb8 => Some(COLOR_BayerGR2RGB),
            Self::BayerBg8 => Some(COLOR_BayerRG2RGB),
        }
    }

    /// The picture of what was sent: grey, or RGB.
    ///
    /// Errors: [`ImageError::Shape`] if there are fewer bytes than the sides demand, or a side is senseless;
    /// [`ImageError::Decode`] with OpenCV's words.
    pub(super) fn image(self, width: u32, height: u32, mut data: Vec<u8>) -> Result<Image, ImageError> {
        // Cameras may pad the end of a frame, never its front.
        let wanted = (width as usize).saturating_mul(height as usize).saturating_mul(self.bytes());
        data.truncate(wanted);
        match (self.filter(), self) {
            (Some(filter), _) => {
                let raw = Image::new(width, height, 1, data)?;
                let rgb = interpolate(&raw, filter).map_err(|e| ImageError::Decode {
                    path: format!("(frame, {self:?})").into(),
                    reason: e.to_string(),
                })?;
                Image::new(width, height, 3, rgb)
            }
            (None, Self::Bgr8) => {
                data.chunks_exact_mut(3).for_each(|pixel| pixel.swap(0, 2));
                Image::new(width, height, 3, data)
            }
            (None, Self::Rgb8) => Image::new(width, height, 3, data),
            (None, _) => Image::new(width, height, 1, data),
        }
    }
}

/// `raw`: `[h, w, 1]`, at least 2 × 2. Result: `[h, w, 3]`.
fn interpolate(raw: &Image, filter: i32) -> opencv::Result<Vec<u8>> {
    let flat = Mat::from_slice(raw.data())?;
    // No side is over the limit that Image holds it to.
    let shaped = flat.reshape(1, i32::try_from(raw.height()).unwrap_or(i32::MAX))?;
    let mut rgb = Mat::default();
    cvt_color_def(&shaped, &mut rgb, filter)?;
    Ok(rgb.data_bytes()?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a sensor behind a filter sees of a plain colour. `filter`: the channels of its first 2 × 2 pixels.
    fn behind(filter: [usize; 4], colour: [u8; 3]) -> Vec<u8> {
        (0..64).map(|i| colour[filter[2 * (i / 8 % 2) + i % 2]]).collect()
    }

    #[test]
    fn a_plain_colour_behind_each_filter_comes_out_as_itself() {
        let colour = [200, 90, 30];
        for (format, filter) in [
            (PixelFormat::BayerRg8, [0, 1, 1, 2]),
            (PixelFormat::BayerGr8, [1, 0, 2, 1]),
            (PixelFormat::BayerGb8, [1, 2, 0, 1]),
            (PixelFormat::BayerBg8, [2, 1, 1, 0]),
        ] {
            let image = format.image(8, 8, behind(filter, colour)).unwrap();
            assert_eq!((image.width(), image.height(), image.channels()), (8, 8, 3));
            assert!(image.data().chunks(3).all(|p| *p == colour), "{format:?}: {:?}", image.data());
        }
    }

    #[test]
    fn bgr_turns_rgb_and_too_few_bytes_are_an_error() {
        let bgr = PixelFormat::Bgr8.image(1, 2, vec![1, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(bgr.data(), [3, 2, 1, 6, 5, 4]);
        let rgb = PixelFormat::Rgb8.image(1, 1, vec![1, 2, 3]).unwrap();
        assert_eq!(rgb.data(), [1, 2, 3]);
        let grey = PixelFormat::Mono8.image(2, 1, vec![7, 8, 0, 0]).unwrap();
        assert_eq!((grey.channels(), grey.data()), (1, &[7, 8][..]), "padding at the end is cut off");
        for format in [PixelFormat::Mono8, PixelFormat::Rgb8, PixelFormat::BayerBg8] {
            assert!(format.image(4, 4, vec![0; 11]).is_err(), "{format:?}");
            assert!(format.image(0, 4, vec![]).is_err(), "{format:?}");
        }
    }
}
