//! One size for all pictures, before crops are cut out of them.
//!
//! A generator's pictures are as large as it was fitted (`--size`), photographs are larger. A crop of a large picture
//! is sharper than one of a small one, so what compares crops would compare how sharp they are. All pictures are
//! therefore brought to the size of the set that has the smallest, by their longer side; of pictures of several sizes
//! the middle one stands for a set, so that an odd one does not blur all. Pictures are taken to show the same view
//! at any size, as [`super::obeyed`] does: photographs of 900 x 600 are squeezed to the 128 x 128 of made ones.
//!
//! Never here: crops.

use std::path::Path;

use inspect_core::card::Input;
use inspect_core::image::{Image, ImageError};
use inspect_core::resize::Resizer;

use super::JudgeError;
use crate::data::load::read;
use crate::truth::marked;

/// Largest longer side, pixels: procedural defects are made at that size, and larger ones take long.
pub const MAX_PX: u32 = 512;
/// Pictures of a set whose size is looked at, evenly by name.
const LOOKED_AT: usize = 15;

/// Width and height, pixels.
pub type Size = (u32, u32);

/// The size that all pictures of the sets are brought to. `sets`: paths of the pictures of each.
///
/// Errors: [`JudgeError::Picture`].
pub fn common(sets: &[Vec<&Path>]) -> Result<Size, JudgeError> {
    let mut least: Option<Size> = None;
    for set in sets {
        let size = middle(set)?;
        least = least.into_iter().chain(size).min_by_key(|(width, height)| width.max(height).to_owned());
    }
    let (width, height) = least.unwrap_or((MAX_PX, MAX_PX));
    let longest = width.max(height);
    if longest <= MAX_PX {
        return Ok((width, height));
    }
    let shrunk = |side: u32| (u64::from(side) * u64::from(MAX_PX) / u64::from(longest)).max(1) as u32;
    Ok((shrunk(width), shrunk(height)))
}

fn middle(pictures: &[&Path]) -> Result<Option<Size>, JudgeError> {
    let step = pictures.len().div_ceil(LOOKED_AT).max(1);
    let size = |path: &&Path| {
        let (image, _) = read(path).map_err(|reason| JudgeError::Picture { reason })?;
        Ok((image.width(), image.height()))
    };
    let mut sizes = pictures.iter().step_by(step).map(size).collect::<Result<Vec<Size>, JudgeError>>()?;
    sizes.sort_by_key(|(width, height)| (width.max(height).to_owned(), *width, *height));
    Ok(sizes.get(sizes.len() / 2).copied())
}

/// A picture and what is drawn on it (0: nothing), at another size. Returns the picture and 255 where it is marked.
///
/// Errors: [`ImageError`].
pub fn brought(
    image: &Image,
    drawn: &Image,
    (width, height): Size,
    resizer: &mut Resizer,
) -> Result<(Image, Image), ImageError> {
    let input = Input { width, height, channels: image.channels() };
    let mut pixels = vec![0; input.bytes()];
    resizer.run(image, None, input, &mut pixels)?;
    let marked = marked(drawn, None, input, resizer)?.into_iter().map(|m| if m { 255 } else { 0 });
    Ok((Image::new(width, height, input.channels, pixels)?, Image::new(width, height, 1, marked.collect())?))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use inspect_core::image::Roi;

    use super::*;
    use crate::judge::classify::two_sample;
    use crate::judge::features::{FeatureNet, Space};
    use crate::judge::sets::{self, Set};
    use crate::made::Named;

    /// Side of a photograph, pixels; made ones have half of it.
    const SIDE: u32 = 96;
    const COUNT: u32 = 24;

    /// A fine grain with a dark patch, and the patch's mask.
    fn photograph(k: u32) -> [Image; 2] {
        let grain = |i: u32| {
            let mixed = (i ^ k.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
            let mixed = (mixed ^ (mixed >> 13)).wrapping_mul(0xc2b2_ae35);
            (mixed >> 16) as u8 % 64
        };
        let (left, top, wide) = (12 + k * 7 % 40, 14 + k * 11 % 40, 16 + k % 5 * 2);
        let inside =
            |i: u32| (left..left + wide).contains(&(i % SIDE)) && (top..top + wide).contains(&(i / SIDE));
        let picture = (0..SIDE * SIDE).map(|i| grain(i) + if inside(i) { 40 } else { 120 }).collect();
        let mask = (0..SIDE * SIDE).map(|i| if inside(i) { 255 } else { 0 }).collect();
        [picture, mask].map(|data| Image::new(SIDE, SIDE, 1, data).unwrap())
    }

    fn write(dir: &Path, first: u32, size: Size) {
        for k in first..first + COUNT {
            let [picture, mask] = photograph(k);
            let (picture, mask) = brought(&picture, &mask, size, &mut Resizer::default()).unwrap();
            let save = |name: String, image: &Image| {
                let path: PathBuf = dir.join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                image.write_png(&path).unwrap();
            };
            save(format!("test/pit/{k:03}.png"), &picture);
            save(format!("ground_truth/pit/{k:03}_mask.png"), &mask);
        }
    }

    #[test]
    fn a_set_like_the_real_one_at_half_its_size_is_not_told_from_it() {
        let [real, made] = [0, 1].map(|_| tempfile::tempdir().unwrap());
        write(real.path(), 0, (SIDE, SIDE));
        write(made.path(), 100, (SIDE / 2, SIDE / 2));
        let named = Named { name: "gan".into(), path: made.path().to_owned() };
        let list = || (sets::real(real.path()).unwrap(), sets::made(&named).unwrap());
        let p_value = |real: Set, made: Set| {
            let net = FeatureNet::default();
            let features = net.features(&real.crops).unwrap();
            let space = Space::new(&features);
            let points = [space.bring(&features), space.bring(&net.features(&made.crops).unwrap())];
            let groups = [&real, &made].map(|s| s.crops.iter().map(|c| c.group.as_str()).collect::<Vec<_>>());
            two_sample((&points[0], &groups[0]), (&points[1], &groups[1]), 0).unwrap().p_value
        };
        let (listed_real, listed_made) = list();
        let size = common(&[listed_real.pictures(), listed_made.pictures()]).unwrap();
        assert_eq!(size, (SIDE / 2, SIDE / 2));
        let alike = p_value(listed_real.cut(size).unwrap(), listed_made.cut(size).unwrap());
        assert!(alike > 0.1, "told apart at one size: p {alike}");
        // At their own sizes it is their sharpness that tells.
        let (listed_real, listed_made) = list();
        let apart = p_value(listed_real.cut((SIDE, SIDE)).unwrap(), listed_made.cut(size).unwrap());
        assert!(apart < 0.01, "p {apart}");
    }

    #[test]
    fn the_smallest_set_counts_and_an_odd_picture_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, width: u32, height: u32| {
            let path = dir.path().join(name);
            Image::new(width, height, 1, vec![9; (width * height) as usize])
                .unwrap()
                .write_png(&path)
                .unwrap();
            path
        };
        let photographs = [("a.png", 900, 600), ("b.png", 8, 8), ("c.png", 900, 600)];
        let photographs = photographs.map(|(name, w, h)| write(name, w, h));
        let made = [write("d.png", 128, 128)];
        let all = |sets: &[&[PathBuf]]| {
            let sets: Vec<Vec<&Path>> =
                sets.iter().map(|set| set.iter().map(PathBuf::as_path).collect()).collect();
            common(&sets).unwrap()
        };
        assert_eq!(all(&[&photographs, &made]), (128, 128));
        assert_eq!(all(&[&photographs]), (512, 341), "no larger than {MAX_PX}");
        // A thin line keeps its mask at any size.
        let image = Image::new(900, 600, 1, vec![9; 540_000]).unwrap();
        let line =
            Image::new(900, 600, 1, (0..540_000).map(|i| if i / 900 == 300 { 255 } else { 0 }).collect())
                .unwrap();
        let (small, mask) = brought(&image, &line, (90, 60), &mut Resizer::default()).unwrap();
        assert_eq!((small.width(), small.height()), (90, 60));
        let row = mask.crop(Roi { x: 0, y: 30, width: 90, height: 1 }).unwrap();
        assert!(row.data().iter().all(|v| *v == 255) && mask.data().iter().filter(|v| **v > 0).count() == 90);
    }
}
