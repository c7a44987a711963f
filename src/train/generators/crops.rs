//! Crops that generators learn from.
//!
//! *Procedural* crops: a procedural defect ([`crate::defects::make`]) on a window of a good; its class is its family.
//! *Real* crops: a window around the mask of a real defect. Nobody photographed that part without its defect: the
//! good under it is the same place of the good that is most like it around the defect, joined without a seam
//! ([`crate::defects::heal`]); outside of the mask it is the picture itself.
//!
//! Masks of half the crops are wider than the defect by a pixel or two: a generator may leave a part of its mask as
//! it was, and the label follows what changed.
//!
//! A crop is a pure function of the seed and its number, so that a fit goes on where it stopped.
//!
//! Never here: networks; which crops a sample is made on ([`super::sample`]).

use std::collections::BTreeMap;

use inspect_core::card::Input;
use rand::{RngExt as _, SeedableRng as _};
use tch::Tensor;

use super::conditions::{Catalogue, ConditionError, Wish};
use super::known::Known;
use super::{Crops, Stage};
use crate::batches::{EXPOSURE, Symmetry};
use crate::data::Goods;
use crate::defects::{Family, Ground, Random, heal, make};
use crate::pose::{Pose, Window, lay};

/// Share of the crops that show procedural defects while few real ones are learnt from: what they taught stays.
const PROCEDURAL_SHARE: f64 = 0.25;
/// Real defects of a class that are few: of more, procedural ones teach less that the real ones do not.
const FEW: usize = 20;
/// Goods that are compared with a real defect's surroundings.
const COMPARED: usize = 32;
/// Most pixels that a mask is wider than its defect.
const WIDER_PX: usize = 2;
/// Attempts at a window that shows a defect.
const ATTEMPTS: usize = 8;

/// A real defect with the good under it.
struct Pair {
    good: Vec<u8>,
    defect: Vec<u8>,
    mask: Vec<f32>,
    wish: Wish,
}

/// Where crops come from.
pub struct Source<'a> {
    goods: &'a Goods,
    crop: usize,
    turns: Vec<u8>,
    families: Vec<Family>,
    /// Class → its defects.
    real: Vec<Vec<Pair>>,
    seed: u64,
}

/// One crop in plain numbers. Shape: pictures `[C, s, s]`, 0 to 255; mask `[s, s]`.
pub struct Crop {
    /// Without the defect.
    pub good: Vec<f32>,
    /// With it.
    pub defect: Vec<f32>,
    /// 0 and 1.
    pub mask: Vec<f32>,
    /// What it is.
    pub wish: Wish,
}

impl<'a> Source<'a> {
    /// `crop`: side of the crops, pixels, at most the goods'. `families`: none: all. `real`: of classes that there
    /// are enough of.
    pub fn new(
        goods: &'a Goods,
        real: &[&Known],
        crop: usize,
        symmetry: Symmetry,
        families: &[Family],
        seed: u64,
    ) -> Self {
        let families = if families.is_empty() { Family::ALL.to_vec() } else { families.to_vec() };
        let turns = symmetry.turns(goods.mask.as_deref(), goods.input.width as usize);
        let mut by_class = BTreeMap::<&str, Vec<Pair>>::new();
        for known in real {
            let good = good_under(goods, known);
            let mut mask = known.mask.clone();
            if let Some(matters) = &goods.mask {
                mask.iter_mut().zip(matters).for_each(|(m, w)| *m = if *w < 0.5 { 0.0 } else { *m });
            }
            let (defect, wish) = (known.pixels.clone(), known.wish.clone());
            by_class.entry(&known.class).or_default().push(Pair { good, defect, mask, wish });
        }
        let real = by_class.into_values().collect();
        Self { goods, crop: crop.min(goods.input.width as usize), turns, families, real, seed }
    }

    /// What there is to be told of these crops.
    ///
    /// Errors: those of [`Catalogue::learn`].
    pub fn catalogue(&self) -> Result<Catalogue, ConditionError> {
        let families: Vec<String> = self.families.iter().map(Family::to_string).collect();
        let known: Vec<Wish> = self.real.iter().flatten().map(|p| p.wish.clone()).collect();
        Catalogue::learn(&families, &known)
    }

    /// What remains to procedural defects, 0..1: 1 where real ones are [`FEW`] a class, and falling with their number.
    pub fn procedural_weight(&self) -> f64 {
        let real = self.real.iter().map(Vec::len).sum::<usize>().max(1);
        ((self.real.len() * FEW) as f64 / real as f64).min(1.0)
    }

    /// Crops of step `index`, `n` of them, on the processor.
    ///
    /// Errors: those of [`Catalogue::encode`].
    pub fn crops(
        &self,
        catalogue: &Catalogue,
        index: u64,
        n: usize,
        stage: Stage,
    ) -> Result<Crops, ConditionError> {
        let first = index.wrapping_mul(n as u64);
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(n / 8).max(1);
        let numbers: Vec<u64> = (0..n as u64).map(|i| first.wrapping_add(i)).collect();
        let chunks = numbers.chunks(n.div_ceil(threads).max(1));
        let made: Vec<Crop> = std::thread::scope(|scope| {
            let each = |chunk: &[u64]| chunk.iter().map(|&i| self.crop(i, stage)).collect::<Vec<_>>();
            let running: Vec<_> = chunks.map(|chunk| (chunk, scope.spawn(move || each(chunk)))).collect();
            // A thread that panicked is done over here, where the panic is told.
            running.into_iter().flat_map(|(chunk, t)| t.join().unwrap_or_else(|_| each(chunk))).collect()
        });
        self.to_crops(catalogue, &made)
    }

    fn to_crops(&self, catalogue: &Catalogue, all: &[Crop]) -> Result<Crops, ConditionError> {
        let (n, side) = (all.len() as i64, self.crop as i64);
        let tensor = |of: fn(&Crop) -> &Vec<f32>, channels: i64| {
            let values: Vec<f32> = all.iter().flat_map(|c| of(c).iter().copied()).collect();
            Tensor::from_slice(&values).view([n, channels, side, side])
        };
        let channels = i64::from(self.goods.input.channels);
        let wishes: Vec<Wish> = all.iter().map(|c| c.wish.clone()).collect();
        Ok(Crops {
            good: tensor(|c| &c.good, channels) / 255.0,
            defect: tensor(|c| &c.defect, channels) / 255.0,
            mask: tensor(|c| &c.mask, 1),
            conditions: catalogue.encode(&wishes, true)?,
        })
    }

    /// Crop number `index`: the same whenever it is asked for.
    pub fn crop(&self, index: u64, stage: Stage) -> Crop {
        let mut r = Random::seed_from_u64(self.seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let real = stage == Stage::Real
            && !self.real.is_empty()
            && !r.random_bool(PROCEDURAL_SHARE * self.procedural_weight());
        let mut crop = if real { self.real(&mut r) } else { self.procedural(&mut r) };
        let by = if r.random_bool(0.5) { r.random_range(1..=WIDER_PX) } else { 0 };
        (0..by).for_each(|_| crop.mask = wider(&crop.mask, self.crop));
        crop
    }

    fn procedural(&self, r: &mut Random) -> Crop {
        let mut attempt = || {
            let (pose, window) = (self.pose(r), self.window(r));
            let good = self.cut(r, &pose, window);
            let other = self.cut(r, &pose, window);
            let matters = self.goods.mask.as_ref().map(|matters| plane(matters, self.whole(), &pose, window));
            let (side, channels) = (self.crop, usize::from(self.goods.input.channels));
            let ground = Ground { good: &good, other: &other, side, channels, matters: matters.as_deref() };
            let made = make(r, &ground, &self.families);
            let wish = Wish { class: Some(made.family.to_string()), ..Wish::default() };
            Crop { good, defect: made.picture, mask: made.mask, wish }
        };
        let mut crop = attempt();
        for _ in 1..ATTEMPTS {
            if crop.mask.contains(&1.0) {
                break;
            }
            crop = attempt(); // a window of nothing but background, say
        }
        crop
    }

    fn real(&self, r: &mut Random) -> Crop {
        let class = &self.real[r.random_range(0..self.real.len())];
        let pair = &class[r.random_range(0..class.len())];
        let pose = self.pose(r);
        let whole = self.whole();
        let mask = plane(&pair.mask, whole, &pose, Window { at: [0; 2], side: whole });
        let window = window_on(r, &mask, whole, self.crop).unwrap_or_else(|| self.window(r));
        let input = self.goods.input;
        Crop {
            good: lit(&pair.good, input, &pose, window),
            defect: lit(&pair.defect, input, &pose, window),
            mask: plane(&pair.mask, whole, &pose, window),
            wish: pair.wish.clone(),
        }
    }

    fn whole(&self) -> usize {
        self.goods.input.width as usize
    }

    fn cut(&self, r: &mut Random, pose: &Pose, window: Window) -> Vec<f32> {
        let pixels = &self.goods.pixels[r.random_range(0..self.goods.pixels.len())];
        lit(pixels, self.goods.input, pose, window)
    }

    fn window(&self, r: &mut Random) -> Window {
        let room = self.whole() - self.crop;
        Window { at: [0, 1].map(|_| r.random_range(0..=room)), side: self.crop }
    }

    /// Turned as the part may lie, lit as it may be lit; windows move it enough.
    fn pose(&self, r: &mut Random) -> Pose {
        let turn = self.turns.get(r.random_range(0..self.turns.len().max(1))).copied().unwrap_or(0);
        let gain = 1.0 + r.random_range(-1.0..1.0f32) * EXPOSURE;
        Pose { turn, gain, ..Pose::PLAIN }
    }
}

/// Shape: `[S, S, C]` → `[C, s, s]` of the window.
pub fn lit(pixels: &[u8], input: Input, pose: &Pose, window: Window) -> Vec<f32> {
    let (side, channels) = (input.width as usize, usize::from(input.channels));
    let mut out = Vec::new();
    let value = |v: u8| (f32::from(v) * pose.gain + pose.offset).clamp(0.0, 255.0);
    lay(&mut out, pixels, side, channels, pose, window, value);
    out
}

/// Shape: `[S, S]` → `[s, s]` of the window.
pub fn plane(values: &[f32], side: usize, pose: &Pose, window: Window) -> Vec<f32> {
    let mut out = Vec::new();
    lay(&mut out, values, side, 1, pose, window, |v| v);
    out
}

/// The box around what is marked: left and top, right and bottom (not in it). `None` if nothing is.
pub fn bounds(mask: &[f32], side: usize) -> Option<([usize; 2], [usize; 2])> {
    let marked = || mask.iter().enumerate().filter(|(_, m)| **m > 0.5).map(|(i, _)| [i % side, i / side]);
    let least = |k: usize| marked().map(|at| at[k]).min();
    let most = |k: usize| marked().map(|at| at[k] + 1).max();
    Some(([least(0)?, least(1)?], [most(0)?, most(1)?]))
}

/// The window in whose middle the marked box is, as far as the picture goes.
pub fn centred(mask: &[f32], whole: usize, side: usize) -> Window {
    let (from, to) = bounds(mask, whole).unwrap_or(([0; 2], [whole; 2]));
    let at = [0, 1].map(|k| ((from[k] + to[k]) / 2).saturating_sub(side / 2).min(whole - side));
    Window { at, side }
}

/// A window that holds the marked box somewhere, or a part of what is marked where the box is larger.
pub fn window_on(r: &mut Random, mask: &[f32], whole: usize, crop: usize) -> Option<Window> {
    let (from, to) = bounds(mask, whole)?;
    let room = whole - crop;
    for _ in 0..ATTEMPTS {
        let at = [0, 1].map(|k| {
            let (a, b) = ((to[k] as i64 - crop as i64).min(from[k] as i64), from[k] as i64);
            let larger = to[k] - from[k] > crop;
            let (a, b) = if larger { (b, to[k] as i64 - crop as i64) } else { (a, b) };
            r.random_range(a..=b).clamp(0, room as i64) as usize
        });
        let window = Window { at, side: crop };
        if plane(mask, whole, &Pose::PLAIN, window).contains(&1.0) {
            return Some(window);
        }
    }
    let marked: Vec<usize> = (0..mask.len()).filter(|&i| mask[i] > 0.5).collect();
    let i = marked[r.random_range(0..marked.len())];
    let at = [i % whole, i / whole].map(|v| v.saturating_sub(crop / 2).min(room));
    Some(Window { at, side: crop })
}

/// One pixel wider all round, corners too. Shape: `[s, s]`.
pub fn wider(mask: &[f32], side: usize) -> Vec<f32> {
    let near = |v: usize| v.saturating_sub(1)..(v + 2).min(side);
    let any = |i: usize| near(i / side).any(|y| near(i % side).any(|x| mask[y * side + x] > 0.5));
    (0..mask.len()).map(|i| f32::from(u8::from(any(i)))).collect()
}

/// A real defect's picture as it may have been without the defect. Shape: `[S, S, C]`.
pub fn good_under(goods: &Goods, known: &Known) -> Vec<u8> {
    let (side, channels) = (goods.input.width as usize, usize::from(goods.input.channels));
    let step = goods.pixels.len().div_ceil(COMPARED).max(1);
    let difference = |good: &[u8]| -> u64 {
        let pairs = good.chunks_exact(channels).zip(known.pixels.chunks_exact(channels)).zip(&known.mask);
        let outside = pairs.filter(|(_, m)| **m < 0.5);
        outside.flat_map(|((a, b), _)| a.iter().zip(b)).map(|(a, b)| u64::from(a.abs_diff(*b))).sum()
    };
    let Some(nearest) = goods.pixels.iter().step_by(step).min_by_key(|g| difference(g)) else {
        return known.pixels.clone();
    };
    let whole = Window { at: [0; 2], side };
    let [picture, other] = [&known.pixels, nearest].map(|p| lit(p, goods.input, &Pose::PLAIN, whole));
    let ground = Ground { good: &picture, other: &other, side, channels, matters: None };
    interleaved(&heal(&ground, &known.mask), channels)
}

/// Shape: `[C, S, S]`, 0 to 255 → `[S, S, C]`.
pub fn interleaved(planes: &[f32], channels: usize) -> Vec<u8> {
    let area = planes.len() / channels.max(1);
    (0..area).flat_map(|i| (0..channels).map(move |c| planes[c * area + i].round() as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 64;
    const INPUT: Input = Input { width: SIDE as u32, height: SIDE as u32, channels: 1 };

    /// A ramp across the picture, so that every place has a look of its own.
    fn goods() -> Goods {
        let one = |k: usize| (0..SIDE * SIDE).map(|i| (60 + i % SIDE * 2 + k) as u8).collect();
        Goods::new(INPUT, (0..4).map(one).collect(), (0..4).map(|k| k.to_string()).collect())
    }

    fn known(class: &str, size: usize) -> Known {
        let inside =
            |i: usize| (30..30 + size).contains(&(i % SIDE)) && (20..20 + size).contains(&(i / SIDE));
        let mask: Vec<f32> = (0..SIDE * SIDE).map(|i| f32::from(u8::from(inside(i)))).collect();
        let pixels =
            (0..SIDE * SIDE).map(|i| if inside(i) { 0 } else { (62 + i % SIDE * 2) as u8 }).collect();
        let wish = Wish { class: Some(class.into()), ..Wish::default() };
        Known { name: "test/a/0.png".into(), class: class.into(), wish, pixels, mask }
    }

    #[test]
    fn the_good_under_a_real_defect_is_healed_and_the_same_outside() {
        let (goods, known) = (goods(), known("a", 8));
        let good = good_under(&goods, &known);
        for (i, (got, m)) in good.iter().zip(&known.mask).enumerate() {
            let true_good = (62 + i % SIDE * 2) as u8;
            let off = got.abs_diff(true_good);
            assert!(off <= if *m > 0.5 { 3 } else { 1 }, "pixel {i}: {got}, was {true_good}");
        }
    }

    #[test]
    fn a_crop_depends_on_its_number_and_differs_from_its_good_in_its_mask_alone() {
        let goods = goods();
        let real = known("a", 8);
        let source = Source::new(&goods, &[&real], 32, Symmetry::Rotate, &[Family::Stain], 3);
        let again = Source::new(&goods, &[&real], 32, Symmetry::Rotate, &[Family::Stain], 3);
        let (mut photographed, mut made) = (0, 0);
        for i in 0..60 {
            let crop = source.crop(i, Stage::Real);
            assert!(crop.defect == again.crop(i, Stage::Real).defect);
            let all = crop.good.iter().zip(&crop.defect).zip(&crop.mask);
            assert!(crop.mask.contains(&1.0), "crop {i} shows nothing");
            assert!(all.clone().all(|((g, d), m)| *m > 0.5 || (g - d).abs() <= 5.0), "crop {i}");
            match crop.wish.class.as_deref() {
                Some("a") => photographed += 1,
                Some("stain") => made += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(photographed > 30 && made > 5, "{photographed} real, {made} made");
        assert!((0..20).all(|i| source.crop(i, Stage::Procedural).wish.class.as_deref() == Some("stain")));
        let crops = source.crops(&source.catalogue().unwrap(), 2, 20, Stage::Real).unwrap();
        assert_eq!((crops.good.size(), crops.mask.size()), (vec![20, 1, 32, 32], vec![20, 1, 32, 32]));
        let first = f64::from(source.crop(40, Stage::Real).good[7]) / 255.0;
        assert!((crops.good.double_value(&[0, 0, 0, 7]) - first).abs() < 1e-6, "crop 40 is step 2's first");
    }

    #[test]
    fn a_defect_larger_than_the_crop_and_one_at_the_border_are_shown_in_part() {
        let mut r = Random::seed_from_u64(1);
        for mask in [known("a", 34).mask, (0..SIDE * SIDE).map(|i| f32::from(u8::from(i < 3))).collect()] {
            for _ in 0..40 {
                let window = window_on(&mut r, &mask, SIDE, 16).unwrap();
                assert!(window.at.iter().all(|v| v + 16 <= SIDE));
                assert!(plane(&mask, SIDE, &Pose::PLAIN, window).contains(&1.0));
            }
        }
        assert!(window_on(&mut r, &[0.0; SIDE * SIDE], SIDE, 16).is_none());
    }
}
