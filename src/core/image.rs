//! Images as both programs see them, and how files become images.
//!
//! An [`Image`] is 8 bits a channel, row by row, grey (1 channel) or RGB (3), without padding.
//! Sixteen-bit files keep the high part of their full range (0..=65535 maps to 0..=255): a 12-bit
//! camera that stores 0..=4095 in 16 bits must be scaled by its own settings, since guessing the
//! range from the pixels would make a picture's brightness depend on its content.
//!
//! Never here: resizing (see [`crate::resize`]), colour order other than RGB, a guess at missing pixels.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use ::image::{ColorType, DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat, ImageReader};
use serde::{Deserialize, Serialize};

use crate::file;

/// Longest side accepted, in pixels: twice today's largest area cameras.
pub const MAX_SIDE_PX: u32 = 32_768;
/// Most bytes that one decoded file may take.
pub const MAX_DECODED_BYTES: u64 = 1 << 30;
/// File name endings that are read as images.
pub const EXTENSIONS: [&str; 6] = ["png", "jpg", "jpeg", "bmp", "tif", "tiff"];

/// Why an image could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bytes are no image of a kind that is read here.
    #[error("{path}: not a readable PNG, JPEG, BMP or TIFF image: {reason}")]
    Decode {
        /// The file, or what stands in for its name.
        path: PathBuf,
        /// What the decoder said.
        reason: String,
    },
    /// Buffer length, sides and channels do not fit together.
    #[error(
        "image of {width}x{height} pixels with {channels} channels needs {expected} bytes (sides of 1 to {MAX_SIDE_PX}, channels 1 or 3), got {got}"
    )]
    Shape {
        /// Width, pixels.
        width: u32,
        /// Height, pixels.
        height: u32,
        /// Channels.
        channels: u8,
        /// Bytes that such an image has.
        expected: u64,
        /// Bytes that were given.
        got: u64,
    },
    /// The region of interest leaves the image.
    #[error("region of interest x={x} y={y} width={w} height={h} is empty or leaves the image of {width}x{height} pixels", x = .roi.x, y = .roi.y, w = .roi.width, h = .roi.height)]
    Roi {
        /// The region.
        roi: Roi,
        /// Width of the image, pixels.
        width: u32,
        /// Height of the image, pixels.
        height: u32,
    },
}

/// A region of interest, in pixels of the camera's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Roi {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Width, at least 1.
    pub width: u32,
    /// Height, at least 1.
    pub height: u32,
}

impl Roi {
    /// The region itself if it lies inside an image of `width` x `height` pixels.
    ///
    /// Errors: [`ImageError::Roi`].
    pub fn within(self, width: u32, height: u32) -> Result<Self, ImageError> {
        let fits = |start: u32, length: u32, side: u32| {
            length > 0 && start.checked_add(length).is_some_and(|end| end <= side)
        };
        if fits(self.x, self.width, width) && fits(self.y, self.height, height) {
            Ok(self)
        } else {
            Err(ImageError::Roi { roi: self, width, height })
        }
    }
}

/// One picture. Shape: `data` is `[height, width, channels]`, 8 bits each, RGB or grey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    width: u32,
    height: u32,
    channels: u8,
    data: Vec<u8>,
}

impl Image {
    /// Takes over a buffer. Shape: `[height, width, channels]`.
    ///
    /// Errors: [`ImageError::Shape`] if a side is 0 or over [`MAX_SIDE_PX`], the channels are not 1 or 3,
    /// or the length does not fit.
    pub fn new(width: u32, height: u32, channels: u8, data: Vec<u8>) -> Result<Self, ImageError> {
        let expected = u64::from(width) * u64::from(height) * u64::from(channels);
        let sides = 1..=MAX_SIDE_PX;
        if matches!(channels, 1 | 3)
            && sides.contains(&width)
            && sides.contains(&height)
            && data.len() as u64 == expected
        {
            Ok(Self { width, height, channels, data })
        } else {
            Err(ImageError::Shape { width, height, channels, expected, got: data.len() as u64 })
        }
    }

    /// Reads an image file: 8 or 16 bit, grey or colour, PNG, JPEG, BMP or TIFF. Alpha is dropped.
    ///
    /// Errors: [`ImageError::Io`], also over [`MAX_DECODED_BYTES`]; [`ImageError::Decode`].
    pub fn read(path: &Path) -> Result<Self, ImageError> {
        let bytes = file::read(path, MAX_DECODED_BYTES)
            .map_err(|source| ImageError::Io { path: path.to_owned(), source })?;
        Self::decode(&bytes, path)
    }

    /// Decodes a whole file's bytes; `origin` names them in errors.
    ///
    /// Errors: [`ImageError::Decode`] for anything that is not such an image or is over the limits.
    pub fn decode(bytes: &[u8], origin: &Path) -> Result<Self, ImageError> {
        let fail = |reason: String| ImageError::Decode { path: origin.to_owned(), reason };
        let mut reader =
            ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| fail(e.to_string()))?;
        match reader.format() {
            Some(ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::Bmp | ImageFormat::Tiff) => {}
            _ => return Err(fail("its first bytes are of none of these formats".into())),
        }
        let mut limits = ::image::Limits::default();
        limits.max_image_width = Some(MAX_SIDE_PX);
        limits.max_image_height = Some(MAX_SIDE_PX);
        limits.max_alloc = Some(MAX_DECODED_BYTES);
        reader.limits(limits);
        Self::from_decoded(reader.decode().map_err(|e| fail(e.to_string()))?)
    }

    fn from_decoded(decoded: DynamicImage) -> Result<Self, ImageError> {
        let (width, height) = (decoded.width(), decoded.height());
        let grey =
            matches!(decoded.color(), ColorType::L8 | ColorType::L16 | ColorType::La8 | ColorType::La16);
        if grey {
            Self::new(width, height, 1, decoded.into_luma8().into_raw())
        } else {
            Self::new(width, height, 3, decoded.into_rgb8().into_raw())
        }
    }

    /// The image as a PNG file's bytes.
    ///
    /// Errors: [`ImageError::Decode`] with the encoder's words (out of memory is the one known cause).
    pub fn encode_png(&self) -> Result<Vec<u8>, ImageError> {
        let mut png = Vec::new();
        let color = if self.channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
        ::image::codecs::png::PngEncoder::new(&mut png)
            .write_image(&self.data, self.width, self.height, color)
            .map_err(|e| ImageError::Decode { path: "(PNG encoder)".into(), reason: e.to_string() })?;
        Ok(png)
    }

    /// The image as a JPEG file's bytes; pixels are lost. `quality`: 1 to 100.
    ///
    /// Errors: [`ImageError::Decode`] with the encoder's words.
    pub fn encode_jpeg(&self, quality: u8) -> Result<Vec<u8>, ImageError> {
        let mut jpeg = Vec::new();
        let color = if self.channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
        ::image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, quality.clamp(1, 100))
            .write_image(&self.data, self.width, self.height, color)
            .map_err(|e| ImageError::Decode { path: "(JPEG encoder)".into(), reason: e.to_string() })?;
        Ok(jpeg)
    }

    /// Writes a PNG file: first beside it, then renamed, so that no reader ever sees half of it.
    ///
    /// Errors: [`ImageError::Io`], [`ImageError::Decode`].
    pub fn write_png(&self, path: &Path) -> Result<(), ImageError> {
        let png = self.encode_png()?;
        let io = |source| ImageError::Io { path: path.to_owned(), source };
        let part = path.with_extension("png.part");
        std::fs::write(&part, png).map_err(io)?;
        std::fs::rename(&part, path).map_err(io)
    }

    /// Width, pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height, pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// 1 (grey) or 3 (RGB).
    pub fn channels(&self) -> u8 {
        self.channels
    }

    /// Shape: `[height, width, channels]`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Shape: `[height, width, channels]`.
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// The part of the picture inside `roi`.
    ///
    /// Errors: [`ImageError::Roi`] if it leaves the picture.
    pub fn crop(&self, roi: Roi) -> Result<Self, ImageError> {
        let roi = roi.within(self.width, self.height)?;
        let pixel = usize::from(self.channels);
        let row = self.width as usize * pixel;
        let (left, length) = (roi.x as usize * pixel, roi.width as usize * pixel);
        let rows = self.data.chunks_exact(row).skip(roi.y as usize).take(roi.height as usize);
        let data = rows.flat_map(|row| &row[left..left + length]).copied().collect();
        Self::new(roi.width, roi.height, self.channels, data)
    }

    /// The same picture with `channels` (1 or 3): grey by ITU-R BT.709 luma, colour by repetition.
    ///
    /// Errors: [`ImageError::Shape`] for any other number of channels.
    pub fn with_channels(&self, channels: u8) -> Result<Self, ImageError> {
        let data = match (self.channels, channels) {
            (a, b) if a == b => self.data.clone(),
            (3, 1) => self.data.chunks_exact(3).map(|p| luma([p[0], p[1], p[2]])).collect(),
            (1, 3) => self.data.iter().flat_map(|&v| [v; 3]).collect(),
            _ => Vec::new(),
        };
        Self::new(self.width, self.height, channels, data)
    }
}

/// Grey value of an RGB pixel. Source: ITU-R BT.709-6, item 3.2, in 16-bit fixed point.
pub fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 13_933 + u32::from(g) * 46_871 + u32::from(b) * 4_732 + 32_768) >> 16) as u8
}

/// Whether the file name ends like an image's.
pub fn is_image_path(path: &Path) -> bool {
    path.extension()
        .and_then(|e| e.to_str())
        .is_some_and(|e| EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(e)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn png_round_trip_keeps_every_pixel() {
        let image = Image::new(3, 2, 3, (0..18).collect()).unwrap();
        let back = Image::decode(&image.encode_png().unwrap(), Path::new("t.png")).unwrap();
        assert_eq!(back, image);
    }

    #[test]
    fn a_jpeg_is_the_same_picture_but_for_small_losses() {
        for channels in [1u8, 3] {
            let image = Image::new(16, 8, channels, vec![90; 128 * usize::from(channels)]).unwrap();
            let back = Image::decode(&image.encode_jpeg(90).unwrap(), Path::new("t.jpg")).unwrap();
            assert_eq!((back.width(), back.height(), back.channels()), (16, 8, channels));
            assert!(back.data().iter().all(|v| v.abs_diff(90) < 4));
        }
    }

    #[test]
    fn sixteen_bit_grey_keeps_its_high_part() {
        let buffer =
            ::image::ImageBuffer::<::image::Luma<u16>, _>::from_raw(2, 1, vec![0u16, 65_535]).unwrap();
        for format in [ImageFormat::Png, ImageFormat::Tiff] {
            let mut bytes = Cursor::new(Vec::new());
            DynamicImage::ImageLuma16(buffer.clone()).write_to(&mut bytes, format).unwrap();
            let image = Image::decode(&bytes.into_inner(), Path::new("t")).unwrap();
            assert_eq!((image.channels(), image.data()), (1, &[0u8, 255][..]));
        }
    }

    #[test]
    fn every_format_that_is_promised_is_read() {
        let rgb = ::image::RgbImage::from_pixel(9, 7, ::image::Rgb([200, 100, 50]));
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Bmp, ImageFormat::Tiff] {
            let mut bytes = Cursor::new(Vec::new());
            DynamicImage::ImageRgb8(rgb.clone()).write_to(&mut bytes, format).unwrap();
            let image = Image::decode(&bytes.into_inner(), Path::new("t")).unwrap();
            assert_eq!((image.width(), image.height(), image.channels()), (9, 7, 3));
            assert!(image.data()[0].abs_diff(200) < 6, "{format:?} {}", image.data()[0]);
        }
    }

    #[test]
    fn a_crop_is_the_region_and_nothing_else() {
        let image = Image::new(3, 3, 1, (0..9).collect()).unwrap();
        let crop = image.crop(Roi { x: 1, y: 1, width: 2, height: 1 }).unwrap();
        assert_eq!((crop.width(), crop.height(), crop.data()), (2, 1, &[4, 5][..]));
        assert!(image.crop(Roi { x: 2, y: 0, width: 2, height: 1 }).is_err());
    }

    proptest! {
        #[test]
        fn damaged_files_are_errors_and_never_panics(cut in 0usize..80, flip in 0usize..80, bits in 1u8..) {
            let mut png = Image::new(4, 4, 1, vec![7; 16]).unwrap().encode_png().unwrap();
            let at = flip % png.len();
            png[at] ^= bits;
            png.truncate(cut.min(png.len()));
            let _ = Image::decode(&png, Path::new("t.png"));
        }

        #[test]
        fn a_region_is_taken_only_inside(x: u32, y: u32, width: u32, height: u32) {
            let roi = Roi { x, y, width, height };
            if roi.within(100, 50).is_ok() {
                prop_assert!(width > 0 && height > 0);
                prop_assert!(u64::from(x) + u64::from(width) <= 100);
                prop_assert!(u64::from(y) + u64::from(height) <= 50);
            }
        }
    }
}
