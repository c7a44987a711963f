//! From a frame to the model's input: cut out the region of interest, resize, match the channels.
//!
//! Both programs go through [`Resizer`], so training and inspection see the same pixels. Shrinking takes
//! the mean over the covered area (box kernel), which neither aliases fine texture nor sharpens noise;
//! growing is bilinear. Colour is turned to grey after resizing, where there are fewer pixels.
//!
//! Never here: keeping the aspect ratio (the card's input shape decides), normalisation (in the graph).

use fast_image_resize as fir;
use fir::images::{Image as View, ImageRef};

use crate::card::Input;
use crate::image::{Image, ImageError, Roi, luma};

/// Resizes with buffers that it keeps: nothing is allocated from the second frame of a size on.
#[derive(Default)]
pub struct Resizer {
    resizer: fir::Resizer,
    /// Resized pixels in the frame's channels, where these are not the model's.
    between: Vec<u8>,
}

impl Resizer {
    /// Fills `out` with the frame's region (the whole where `None`) in the shape of `input`.
    ///
    /// Shape: `[h, w, c]` → `[input.height, input.width, input.channels]`.
    /// Errors: [`ImageError::Roi`] if the region leaves the frame, [`ImageError::Shape`] if `out` is not
    /// as long as the input.
    pub fn run(
        &mut self,
        frame: &Image,
        roi: Option<Roi>,
        input: Input,
        out: &mut [u8],
    ) -> Result<(), ImageError> {
        let (width, height) = (frame.width(), frame.height());
        let roi = roi.unwrap_or(Roi { x: 0, y: 0, width, height }).within(width, height)?;
        if out.len() != input.bytes() {
            return Err(shape(input, out.len()));
        }
        if frame.channels() == input.channels {
            return self.resize(frame, roi, input, out);
        }
        let resized = Input { channels: frame.channels(), ..input };
        let mut between = std::mem::take(&mut self.between);
        between.resize(resized.bytes(), 0);
        let result = self.resize(frame, roi, resized, &mut between);
        match input.channels {
            1 => out.iter_mut().zip(between.chunks_exact(3)).for_each(|(o, p)| *o = luma([p[0], p[1], p[2]])),
            _ => out.chunks_exact_mut(3).zip(&between).for_each(|(o, &v)| o.fill(v)),
        }
        self.between = between;
        result
    }

    fn resize(&mut self, frame: &Image, roi: Roi, to: Input, out: &mut [u8]) -> Result<(), ImageError> {
        let pixel = if frame.channels() == 1 { fir::PixelType::U8 } else { fir::PixelType::U8x3 };
        let got = out.len();
        let source = ImageRef::new(frame.width(), frame.height(), frame.data(), pixel)
            .map_err(|_| shape(to, frame.data().len()))?;
        let mut target = View::from_slice_u8(to.width, to.height, out, pixel).map_err(|_| shape(to, got))?;
        let shrinks = roi.width >= to.width && roi.height >= to.height;
        let kernel = if shrinks { fir::FilterType::Box } else { fir::FilterType::Bilinear };
        let options = fir::ResizeOptions::new()
            .resize_alg(fir::ResizeAlg::Convolution(kernel))
            .crop(roi.x.into(), roi.y.into(), roi.width.into(), roi.height.into())
            .use_alpha(false);
        self.resizer.resize(&source, &mut target, &options).map_err(|_| shape(to, got))
    }
}

fn shape(input: Input, got: usize) -> ImageError {
    ImageError::Shape {
        width: input.width,
        height: input.height,
        channels: input.channels,
        expected: input.bytes() as u64,
        got: got as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(frame: &Image, roi: Option<Roi>, input: Input) -> Result<Vec<u8>, ImageError> {
        let mut out = vec![0; input.bytes()];
        Resizer::default().run(frame, roi, input, &mut out).map(|()| out)
    }

    #[test]
    fn shrinking_is_the_mean_over_the_area() {
        let frame = Image::new(4, 2, 1, vec![0, 100, 10, 30, 0, 100, 50, 70]).unwrap();
        let input = Input { width: 2, height: 1, channels: 1 };
        assert_eq!(run(&frame, None, input).unwrap(), [50, 40]);
    }

    #[test]
    fn the_region_and_nothing_else_is_seen() {
        let mut data = vec![255; 100];
        for y in 2..6 {
            data[y * 10 + 3..y * 10 + 7].fill(7);
        }
        let frame = Image::new(10, 10, 1, data).unwrap();
        let roi = Roi { x: 3, y: 2, width: 4, height: 4 };
        let input = Input { width: 2, height: 2, channels: 3 };
        assert_eq!(run(&frame, Some(roi), input).unwrap(), [7; 12]);
    }

    proptest! {
        #[test]
        fn any_frame_and_region_is_an_answer_or_an_error(
            (w, h) in (1u32..40, 1u32..40), grey: bool,
            (x, y, rw, rh) in (0u32..40, 0u32..40, 0u32..40, 0u32..40),
            (iw, ih) in (1u32..40, 1u32..40), to_grey: bool, value: u8,
        ) {
            let channels = if grey { 1 } else { 3 };
            let frame = Image::new(w, h, channels, vec![value; (w * h) as usize * usize::from(channels)]).unwrap();
            let input = Input { width: iw, height: ih, channels: if to_grey { 1 } else { 3 } };
            let roi = Roi { x, y, width: rw, height: rh };
            match run(&frame, Some(roi), input) {
                // A flat frame stays flat at the same value, whatever is cut and resized.
                Ok(out) => prop_assert!(out.iter().all(|v| v.abs_diff(value) <= 1)),
                Err(e) => prop_assert!(roi.within(w, h).is_err(), "{e}"),
            }
        }
    }
}
