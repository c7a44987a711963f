//! What lies between two real defects, by a generator that has a latent to go along (kind vae).
//!
//! Never here: files; pictures that anything is learnt from.

use tch::Tensor;

use super::crops::{centred, good_under, interleaved, lit, plane};
use super::known::Known;
use super::sample::{SampleError, to_planes};
use super::{Conditions, Crops, Generator, Network};
use crate::data::Goods;
use crate::pose::Pose;

/// From one real defect to another in `count` pictures, on the good under the first. Shape: each `[s, s, C]`.
///
/// Errors: [`SampleError::NoLatent`], [`SampleError::Condition`].
pub fn between(
    generator: &Generator,
    goods: &Goods,
    ends: [&Known; 2],
    count: usize,
) -> Result<Vec<Vec<u8>>, SampleError> {
    let header = &generator.header;
    let Network::Vae(vae) = &generator.network else {
        return Err(SampleError::NoLatent { kind: header.kind.to_string() });
    };
    let (side, whole) = (header.crop.side as usize, goods.input.width as usize);
    let n = count.max(2) as i64;
    let mut wishes = ends.map(|k| k.wish.clone());
    for wish in &mut wishes {
        // A class that was pasted, or words of one, are not known: the picture itself tells what it is.
        wish.class = wish.class.take().filter(|c| header.catalogue.classes.contains(c));
        wish.text = wish.text.take().filter(|t| header.catalogue.text(t).is_ok());
        wish.process.retain(|name, _| header.catalogue.parameters.iter().any(|p| p.name == *name));
    }
    let conditions: Conditions = header.catalogue.encode(&wishes, true)?;
    let cuts = ends.map(|known| {
        let window = centred(&known.mask, whole, side);
        let cut = |pixels: &[u8]| lit(pixels, goods.input, &Pose::PLAIN, window);
        let mask = plane(&known.mask, whole, &Pose::PLAIN, window);
        [cut(&good_under(goods, known)), cut(&known.pixels), mask]
    });
    let view = |values: Vec<f32>| Tensor::from_slice(&values).view([2, -1, side as i64, side as i64]);
    let both = |n: usize| view(cuts.iter().flat_map(|cut| &cut[n]).copied().collect());
    let crops = Crops { good: both(0) / 255.0, defect: both(1) / 255.0, mask: both(2), conditions };
    let good = crops.good.narrow(0, 0, 1).repeat([n, 1, 1, 1]);
    let depths = [&cuts[0][2], &cuts[1][2]].map(|m| depth(m, side));
    let masks: Vec<f32> = (0..n)
        .flat_map(|k| {
            let at = k as f32 / (n - 1) as f32;
            let inside = move |(a, b): (&f32, &f32)| f32::from(u8::from(a * (1.0 - at) + b * at > 0.0));
            depths[0].iter().zip(&depths[1]).map(inside).collect::<Vec<f32>>()
        })
        .collect();
    let masks = Tensor::from_slice(&masks).view([n, 1, side as i64, side as i64]);
    let drawn = to_planes(&vae.between(&crops, &good, &masks));
    Ok(drawn.iter().map(|made| interleaved(made, usize::from(goods.input.channels))).collect())
}

/// Signed distance to the mask's outline, pixels, above 0 inside. Shape: `[s, s]`.
fn depth(mask: &[f32], side: usize) -> Vec<f32> {
    let at = |i: usize| [(i % side) as f32, (i / side) as f32];
    let of =
        |wanted: bool| (0..mask.len()).filter(|&i| (mask[i] > 0.5) == wanted).map(at).collect::<Vec<_>>();
    let (inside, outside) = (of(true), of(false));
    let nearest = |[x, y]: [f32; 2], to: &[[f32; 2]]| {
        let squares = to.iter().map(|[a, b]| (a - x).powi(2) + (b - y).powi(2));
        squares.fold((2 * side * side) as f32, f32::min).sqrt()
    };
    (0..mask.len())
        .map(|i| if mask[i] > 0.5 { nearest(at(i), &outside) } else { -nearest(at(i), &inside) })
        .collect()
}
