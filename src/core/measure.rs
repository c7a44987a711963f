//! What can be measured of a surface from its picture alone, within a mask: for proving that a process shows as
//! its law says, of rendered, photographed and made pictures alike.
//!
//! Terms. A place counts where the mask is not black. Levels are grey, 0 to 255; colour counts by its luma.
//!
//! Never here: a measure of so few pixels that it would be chance (`None` instead); where the defect is.

use crate::image::Image;

/// Fewest pixels of which something is measured.
pub const MIN_PIXELS: usize = 12;

/// Standard deviation of what changes from pixel to pixel, levels: grain and noise, but no edge and no slope.
///
/// `None` if the sizes differ or fewer than [`MIN_PIXELS`] lie in the mask with all their neighbours.
/// Source: Immerkær 1996, "Fast noise variance estimation", eq. 4, over the mask alone. Grain that is coarser than
/// a pixel counts for less than its deviation.
pub fn roughness(picture: &Image, mask: &Image) -> Option<f64> {
    let (level, inside) = (levels(picture)?, marked(picture, mask)?);
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let (mut sum, mut count) = (0.0, 0_usize);
    for y in 1..height.saturating_sub(1) {
        for x in 1..width.saturating_sub(1) {
            let rows = [y - 1, y, y + 1].map(|y| y * width + x - 1..y * width + x + 2);
            if !rows.iter().all(|row| inside[row.clone()].iter().all(|marked| *marked)) {
                continue;
            }
            let weighed = |(row, weight): (&std::ops::Range<usize>, f64)| {
                let row = &level[row.clone()];
                weight * (row[0] - 2.0 * row[1] + row[2])
            };
            sum += rows.iter().zip([1.0, -2.0, 1.0]).map(weighed).sum::<f64>().abs();
            count += 1;
        }
    }
    let mean = (count >= MIN_PIXELS).then(|| sum / count as f64)?;
    Some((std::f64::consts::FRAC_PI_2).sqrt() / 6.0 * mean)
}

/// How much darker a picture is than that of the same part without the defect, `good`, within the mask: as a share
/// of the good's level; negative if brighter.
///
/// `None` if the sizes differ, the good is black there, or fewer than [`MIN_PIXELS`] lie in the mask.
pub fn discolouration(picture: &Image, good: &Image, mask: &Image) -> Option<f64> {
    let inside = marked(good, mask).and(marked(picture, mask))?;
    let sum = |levels: Vec<f64>| levels.iter().zip(&inside).filter(|(_, m)| **m).map(|(l, _)| l).sum::<f64>();
    let (there, usual) = (sum(levels(picture)?), sum(levels(good)?));
    let measurable = usual > 0.0 && inside.iter().filter(|marked| **marked).count() >= MIN_PIXELS;
    measurable.then(|| 1.0 - there / usual)
}

/// Share of the mask that is at least as bright as `level`: of a hole's, how far a burr stands into it.
///
/// `None` if the sizes differ or the mask has fewer than [`MIN_PIXELS`].
pub fn bright_share(picture: &Image, mask: &Image, level: f64) -> Option<f64> {
    let (levels, inside) = (levels(picture)?, marked(picture, mask)?);
    let of: Vec<f64> = levels.into_iter().zip(inside).filter(|(_, marked)| *marked).map(|(l, _)| l).collect();
    (of.len() >= MIN_PIXELS).then(|| of.iter().filter(|l| **l >= level).count() as f64 / of.len() as f64)
}

fn levels(picture: &Image) -> Option<Vec<f64>> {
    let grey = picture.with_channels(1).ok()?;
    Some(grey.data().iter().map(|level| f64::from(*level)).collect())
}

/// Where a mask of the picture's size is not black.
fn marked(picture: &Image, mask: &Image) -> Option<Vec<bool>> {
    if (mask.width(), mask.height()) != (picture.width(), picture.height()) {
        return None;
    }
    let pixels = mask.data().chunks_exact(usize::from(mask.channels()));
    Some(pixels.map(|pixel| pixel.iter().any(|level| *level > 0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: u32 = 64;

    fn image(level: impl Fn(u32, u32) -> f64) -> Image {
        let at = |i: u32| level(i % SIDE, i / SIDE).clamp(0.0, 255.0) as u8;
        Image::new(SIDE, SIDE, 1, (0..SIDE * SIDE).map(at).collect()).unwrap()
    }

    /// A square of 24 pixels in the middle.
    fn square(x: u32, y: u32) -> bool {
        (20..44).contains(&x) && (20..44).contains(&y)
    }

    /// Noise of mean 0 and deviation 1, by place alone.
    fn noise(x: u32, y: u32) -> f64 {
        let hash = |seed: u32| {
            let mut z = (x * 64 + y).wrapping_mul(0x9E37_79B9) ^ seed.wrapping_mul(0x85EB_CA6B);
            z = (z ^ (z >> 15)).wrapping_mul(0x2C1B_3C6D);
            z = (z ^ (z >> 12)).wrapping_mul(0x297A_2D39);
            f64::from(z ^ (z >> 15)) / f64::from(u32::MAX) - 0.5
        };
        // Twelve uniform numbers have variance 1.
        (1..=12).map(hash).sum()
    }

    #[test]
    fn roughness_is_the_deviation_of_the_grain_on_a_slope_and_beside_an_edge_outside_of_the_mask() {
        let mask = image(|x, y| if square(x, y) { 255.0 } else { 0.0 });
        for deviation in [4.0, 10.0, 25.0] {
            let picture = image(|x, y| match square(x, y) {
                true => 60.0 + f64::from(x) + 0.7 * f64::from(y) + deviation * noise(x, y),
                false => 250.0 * f64::from((x + y) % 2),
            });
            let measured = roughness(&picture, &mask).unwrap();
            assert!((measured / deviation - 1.0).abs() < 0.1, "{measured} of {deviation}");
        }
    }

    #[test]
    fn discolouration_and_bright_share_are_of_the_mask_alone() {
        let mask = image(|x, y| if square(x, y) { 1.0 } else { 0.0 });
        let picture = image(|x, y| match square(x, y) {
            true if x < 26 => 200.0,
            true => 80.0,
            false => 0.0,
        });
        let good = image(|x, y| if square(x, y) { 160.0 } else { 250.0 });
        let dark = discolouration(&picture, &good, &mask).unwrap();
        assert!((dark - (1.0 - 110.0 / 160.0)).abs() < 1e-9, "{dark}");
        assert_eq!(bright_share(&picture, &mask, 150.0), Some(0.25));
    }

    #[test]
    fn what_is_too_small_or_does_not_fit_is_not_measured() {
        let (picture, dot) = (image(|_, _| 90.0), image(|x, y| f64::from(u8::from((x, y) == (9, 9)))));
        let other = Image::new(8, 8, 1, vec![255; 64]).unwrap();
        for mask in [&dot, &other] {
            assert_eq!(roughness(&picture, mask), None);
            assert_eq!(discolouration(&picture, &picture, mask), None);
            assert_eq!(bright_share(&picture, mask, 1.0), None);
        }
    }
}
