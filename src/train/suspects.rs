//! Strange pictures among the goods, before a model learns from them that they are usual.
//!
//! A set of goods that holds a few defective parts teaches that these are good, and lifts the threshold where
//! they are held out. Each small patch of a picture is compared with the patches near the same place in other
//! groups' pictures; a picture scores by its strangest places (a memory of patches as in Roth et al. 2022,
//! PatchCore, on plain luminances and without training). The log score is put as robust *z*: its distance from
//! the median, in median absolute deviations scaled to standard deviations. Whoever knows the parts looks at the
//! strangest.
//!
//! Never here: leaving a picture out. A rare good part is as strange as a defective one.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use crate::data::Goods;

/// From this z on a picture is worth a look. Source: Iglewicz & Hoaglin 1993 (3.5), raised because scores are
/// maxima and so skewed.
pub const SUSPECT_Z: f64 = 4.0;
/// Places that a picture is wide and high.
const SIDE: i64 = 32;
/// Side of a patch, places.
const PATCH: i64 = 4;
/// Places between patches that are judged.
const STRIDE: usize = 2;
/// How far off a patch may find its like in another picture, places: parts do not lie to the pixel.
const REACH: i64 = 2;
/// A patch is as strange as this like of it is far: four pictures with the same defect stay strange.
const LIKES: i64 = 5;
/// Places whose mean is the score.
const TOP: i64 = 3;
/// Added to what is usual at a place: a share of what is usual anywhere, and a little.
const USUAL_SHARE: f64 = 0.5;
const FLOOR: f64 = 1e-4;
/// Pictures that each is compared with: as many as keep the pairs below the first, within the others.
const PAIRS: usize = 56_000;
const MOST_OTHERS: usize = 160;
const FEWEST_OTHERS: usize = 24;
/// From so many groups on pictures are compared with other groups' only.
const FEWEST_GROUPS: usize = 4;
/// Least deviation of log scores that is reckoned with: among goods that are all but the same a picture has to
/// score half as much again to stand out.
const LEAST_DEVIATION: f64 = 0.1;
/// Median absolute deviation of a normal distribution, as a share of its standard deviation.
const MAD_OF_NORMAL: f64 = 0.674_49;

/// A picture and how strange it is among the goods.
#[derive(Debug, Clone, PartialEq)]
pub struct Suspect {
    /// Which of the goods.
    pub index: usize,
    /// Its path below the data folder.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Robust z of its log score; higher is stranger.
    pub z: f64,
}

impl Suspect {
    /// Whether it is worth a look.
    pub fn stands_out(&self) -> bool {
        self.z >= SUSPECT_Z
    }
}

/// All goods, the strangest first.
pub fn suspects(goods: &Goods) -> Vec<Suspect> {
    let scores = tch::no_grad(|| scores(goods));
    let logs: Vec<f64> = scores.iter().map(|&s| f64::from(s).max(1e-9).ln()).collect();
    let centre = median(&logs);
    let deviations: Vec<f64> = logs.iter().map(|l| (l - centre).abs()).collect();
    let deviation = (median(&deviations) / MAD_OF_NORMAL).max(LEAST_DEVIATION);
    let mut all: Vec<Suspect> = logs
        .iter()
        .enumerate()
        .map(|(index, log)| Suspect {
            index,
            name: goods.names[index].clone(),
            group: goods.groups[index].clone(),
            z: (log - centre) / deviation,
        })
        .collect();
    all.sort_by(|a, b| b.z.total_cmp(&a.z).then_with(|| a.index.cmp(&b.index)));
    all
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n == 0 { 0.0 } else { (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0 }
}

/// The mean over the strangest [`TOP`] places of each good's distance to its likes, as a share of what is usual
/// at the place.
fn scores(goods: &Goods) -> Vec<f32> {
    let n = goods.pixels.len();
    let kin = kin(&goods.groups);
    let most = (PAIRS / n.max(1)).clamp(FEWEST_OTHERS, MOST_OTHERS);
    let others: Vec<usize> = (0..n).step_by(n.div_ceil(most).max(1)).collect();
    let patches = patches(goods);
    let reference = patches.index_select(0, &Tensor::from_slice(&indices(&others)));
    let mut own = vec![0f32; n * others.len()]; // infinite where both are kin
    for (i, row) in own.chunks_mut(others.len()).enumerate() {
        row.iter_mut()
            .zip(&others)
            .for_each(|(v, &o)| *v = if kin[i] == kin[o] { f32::INFINITY } else { 0.0 });
    }
    let own = Tensor::from_slice(&own).view([n as i64, -1]);
    let [_, rows, columns, depth] =
        <[i64; 4]>::try_from(patches.size()).expect("patches has four dimensions");
    let mut distances = Vec::new();
    for y in (0..rows).step_by(STRIDE) {
        for x in (0..columns).step_by(STRIDE) {
            let query = patches.select(1, y).select(1, x); // (n, depth)
            let window = |at: i64, end: i64| (at - REACH).max(0)..(at + REACH + 1).min(end);
            let (ys, xs) = (window(y, rows), window(x, columns));
            let near = reference.slice(1, ys.start, ys.end, 1).slice(2, xs.start, xs.end, 1);
            let near = near.reshape([-1, depth]); // (others·window, depth)
            let all = Tensor::cdist(&query.contiguous(), &near, 2.0, None::<i64>);
            let nearest = all.view([n as i64, others.len() as i64, -1]).amin([2i64].as_slice(), false) + &own;
            let k = LIKES.min(others.len() as i64);
            distances.push(nearest.topk(k, 1, false, true).0.select(1, k - 1));
        }
    }
    let distances = Tensor::stack(&distances, 1).nan_to_num(0.0, 0.0, 0.0); // (n, places)
    let usual = distances.median_dim(0, true).0;
    let ratio = &distances / (&usual + usual.mean(Kind::Float) * USUAL_SHARE + FLOOR);
    let (largest, _) = ratio.topk(TOP.min(ratio.size()[1]), 1, true, true);
    let scores = largest.mean_dim([1i64].as_slice(), false, Kind::Float);
    let mut out = vec![0f32; n];
    scores.contiguous().copy_data(&mut out, n);
    out
}

fn indices(chosen: &[usize]) -> Vec<i64> {
    chosen.iter().map(|&i| i as i64).collect()
}

/// Pictures of one number are not compared with each other: those of one group, or each only with itself where
/// there are few groups.
fn kin(groups: &[String]) -> Vec<usize> {
    let mut order = BTreeMap::<&String, usize>::new();
    for group in groups {
        let next = order.len();
        order.entry(group).or_insert(next);
    }
    let by_group = order.len() >= FEWEST_GROUPS;
    groups.iter().enumerate().map(|(i, group)| if by_group { order[group] } else { i }).collect()
}

/// Shape: → `[n, rows, columns, depth]`: at each place a patch of 4 x 4 luminances and its mean colour, all at a
/// scale at which the picture is 32 places wide.
fn patches(goods: &Goods) -> Tensor {
    let [h, w, c] = [goods.input.height, goods.input.width, u32::from(goods.input.channels)].map(i64::from);
    let mask = goods.mask.as_ref().map(|mask| Tensor::from_slice(mask).view([1, 1, h, w]) / 255.0);
    let scale = mask.unwrap_or_else(|| Tensor::from(1.0f32 / 255.0)); // what is ignored is 0 in all
    let factor = [(h / SIDE).max(1), (w / SIDE).max(1)];
    let row = |pixels: &Vec<u8>| {
        let picture = Tensor::from_slice(pixels).view([1, h, w, c]);
        let planes = picture.to_kind(Kind::Float).permute([0, 3, 1, 2]) * &scale;
        let planes = planes.avg_pool2d(factor, factor, [0, 0], false, true, None::<i64>);
        let luma = planes.mean_dim([1i64].as_slice(), true, Kind::Float);
        let block = luma.unfold(2, PATCH, 1).unfold(3, PATCH, 1); // (1, 1, rows, columns, 4, 4)
        let block = block.flatten(4, 5).squeeze_dim(1);
        if c == 1 {
            return block;
        }
        let colour = (planes - luma).avg_pool2d([PATCH, PATCH], [1, 1], [0, 0], false, true, None::<i64>);
        // The mean colour weighs as much as the luminances do together.
        Tensor::cat(&[block, colour.permute([0, 2, 3, 1]) * PATCH as f64], 3)
    };
    let rows: Vec<Tensor> = goods.pixels.iter().map(row).collect();
    Tensor::cat(&rows, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use inspect_core::card::Input;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    /// A disc that lies a little differently each time, lit a little differently, with noise.
    fn part(r: &mut StdRng, defective: bool) -> Vec<u8> {
        let (cx, cy) = (r.random_range(30.0..34.0f32), r.random_range(30.0..34.0f32));
        let light = r.random_range(0.9..1.1f32);
        let at = (r.random_range(20..40), r.random_range(20..40));
        let mut pixels = Vec::new();
        for y in 0..64i32 {
            for x in 0..64i32 {
                let inside = (x as f32 - cx).hypot(y as f32 - cy) < 22.0;
                let scratch = defective && (y - at.1 - (x - at.0) / 2).abs() < 2 && (x - at.0).abs() < 9;
                let level = if scratch {
                    90.0
                } else if inside {
                    180.0
                } else {
                    50.0
                };
                pixels.push((level * light + r.random_range(-6.0..6.0f32)).clamp(0.0, 255.0) as u8);
            }
        }
        pixels
    }

    fn goods(defective: &[usize], groups: impl Fn(usize) -> String) -> Goods {
        let mut r = StdRng::seed_from_u64(4);
        let pixels = (0..60).map(|i| part(&mut r, defective.contains(&i))).collect();
        let input = Input { width: 64, height: 64, channels: 1 };
        Goods::new(input, pixels, (0..60).map(groups).collect())
    }

    #[test]
    fn three_defective_parts_among_sixty_goods_are_the_strangest() {
        let bad = [7, 20, 41];
        for groups in [|i: usize| i.to_string(), |i: usize| format!("lot {}", i / 10), |_| "one".to_owned()] {
            let all = suspects(&goods(&bad, groups));
            let mut first: Vec<usize> = all[..3].iter().map(|s| s.index).collect();
            first.sort_unstable();
            assert_eq!(first, bad, "{:?}", &all[..5]);
            assert!(all[..3].iter().all(Suspect::stands_out), "{:?}", &all[..5]);
            assert_eq!(all.len(), 60);
        }
    }

    #[test]
    fn clean_goods_raise_no_more_than_a_few() {
        let all = suspects(&goods(&[], |i| i.to_string()));
        assert!(all.iter().filter(|s| s.stands_out()).count() <= 1, "{:?}", &all[..5]);
    }

    #[test]
    fn alike_or_hardly_any_goods_are_no_trouble() {
        let input = Input { width: 32, height: 32, channels: 3 };
        for n in [1, 2, 12] {
            let groups = (0..n).map(|i| i.to_string()).collect();
            let all = suspects(&Goods::new(input, vec![vec![9; 3072]; n], groups));
            assert!(all.len() == n && all.iter().all(|s| s.z.is_finite()), "{all:?}");
        }
    }
}
