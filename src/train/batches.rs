//! Batches of clean and damaged goods that the network learns from.
//!
//! A *picture* here is f32 `[C, S, S]`, 0 to 255; a *mask* `[S, S]`: 0 clean, 1 defect, 0.5 "a defect is
//! somewhere in this region". Goods come turned, moved and lit as they may also lie: their *pose*. Defects
//! are made by [`crate::defects`], or are real ones, lying in poses of their own.
//!
//! A batch is a pure function of the seed and its number, so that a fit goes on where it stopped.
//!
//! Never here: the test split.

use inspect_core::card::Input;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::defects::{Family, Ground, Random, Transplant, make, transplant};
use crate::pose::{Pose, Window, lay};
use crate::real::RealDefect;

/// Goods are moved by up to this fraction of their side: no fixture holds a part to the pixel.
const SHIFT: usize = 32;
/// Windows start at a multiple of this, pixels: the network's coarsest cells.
pub const CROP_STEP_PX: usize = 16;
/// How much the light differs from picture to picture where nothing else is said: ±3 %.
pub const EXPOSURE: f32 = 0.03;
/// Grey values that the offset varies by for each 1.0 of exposure.
const OFFSET: f32 = 100.0;
/// Share of the damaged half that shows real defects, where there are some.
const REAL_SHARE: f64 = 1.0 / 3.0;
/// Share of the exactly marked ones that are used in their own picture; the others go to another good.
const WHOLE_SHARE: f64 = 0.5;
/// Real defects that are tried for one window.
const REAL_TRIES: usize = 4;

/// How the part may lie, hence which turned copies of a good are goods too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Symmetry {
    /// The part lies in a fixture, always the same way round: statistics are kept for each position.
    None,
    /// A mirrored part would be as good: left-right and up-down mirroring.
    Flip,
    /// The part (or surface) may lie any way round: mirroring and quarter turns.
    Rotate,
}

impl std::fmt::Display for Symmetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Symmetry::None => "none",
            Symmetry::Flip => "flip",
            Symmetry::Rotate => "rotate",
        })
    }
}

/// What batches are made of, besides goods.
#[derive(Clone)]
pub struct Options<'a> {
    /// How the part may lie.
    pub symmetry: Symmetry,
    /// Seed of everything random.
    pub seed: u64,
    /// Families of made defects; empty: all.
    pub families: Vec<Family>,
    /// Where the part matters (under 0.5: not), as the camera sees it; it turns and moves with the good.
    /// Nothing is damaged or marked elsewhere. Shape: `[S, S]`.
    pub matters: Option<&'a [f32]>,
    /// Real defects, at the goods' size; a third of the damaged pictures show one.
    pub real: &'a [RealDefect],
    /// How much the light may differ: gain ±this share, offset ±100 times this in grey values.
    pub exposure: f32,
    /// Side of the window that a batch shows, pixels; `None` (or no smaller than the goods): all of them.
    pub crop: Option<usize>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            symmetry: Symmetry::None,
            seed: 0,
            families: Vec::new(),
            matters: None,
            real: &[],
            exposure: EXPOSURE,
            crop: None,
        }
    }
}

/// Pictures of a batch; the first half of the inputs is undamaged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Shape: `[N, C, S, S]`, 0 to 255; S is the side of the window.
    pub input: Vec<f32>,
    /// The goods behind them; the input itself where that is not known. Shape: `[N, C, S, S]`, 0 to 255.
    pub target: Vec<f32>,
    /// Where the defects are: 0, 1, or 0.5 for "somewhere in this region". Shape: `[N, S, S]`.
    pub mask: Vec<f32>,
    /// 1 where the target is known, 0 where nobody knows the part without its defect. Shape: `[N]`.
    pub has_target: Vec<f32>,
    /// Left and top pixel of the window that all pictures of the batch show; (0, 0) without one.
    pub at: (usize, usize),
}

/// What a random stream is for: streams of different purposes have nothing in common.
#[derive(Clone, Copy)]
enum Purpose {
    Batch = 1,
    Copies = 2,
    Order = 3,
}

/// Makes batches without end.
pub struct Batches<'a> {
    goods: Vec<&'a [u8]>,
    side: usize,
    channels: usize,
    options: Options<'a>,
    /// The order of goods in one round, kept as long as that round lasts.
    order: (u64, Vec<usize>),
}

impl<'a> Batches<'a> {
    /// Shape: `goods` each `[S, S, C]`, at least one; `options.matters` and the real defects at that size.
    pub fn new(goods: Vec<&'a [u8]>, input: Input, options: Options<'a>) -> Self {
        let (side, channels) = (input.width as usize, usize::from(input.channels));
        Self { goods, side, channels, options, order: (0, Vec::new()) }
    }

    /// Batch number `index` of `n` pictures: the same whenever it is asked for, whatever came before.
    ///
    /// Goods come in shuffled rounds as long as `n` stays the same.
    pub fn batch(&mut self, index: u64, n: usize) -> Batch {
        let mut batch = Batch::default();
        self.batch_into(&mut batch, index, n);
        batch
    }

    /// The same in the memory of an earlier batch: new memory costs more than what is put into it.
    pub fn batch_into(&mut self, batch: &mut Batch, index: u64, n: usize) {
        let mut r = self.stream(Purpose::Batch, index);
        let window = self.window(&mut r);
        let (area, length) = (window.side * window.side, window.side * window.side * self.channels);
        batch.clear(n, length, area);
        batch.at = (window.at[0], window.at[1]);
        for i in 0..n {
            let pixels = self.in_turn(index.wrapping_mul(n as u64).wrapping_add(i as u64));
            let pose = self.pose(&mut r, true);
            self.lit(&mut batch.target, pixels, &pose, window);
            let good = &batch.target[i * length..];
            if i < n / 2 {
                batch.input.extend_from_slice(good);
                batch.mask.resize((i + 1) * area, 0.0);
                batch.has_target.push(1.0);
                continue;
            }
            // Pieces and textures come from the clean half.
            let k = r.random_range(0..(n / 2).max(1));
            let other = if n > 1 { &batch.input[k * length..(k + 1) * length] } else { good };
            let matters = self.matters(&pose, window);
            let (side, channels) = (window.side, self.channels);
            let ground = Ground { good, other, side, channels, matters: matters.as_deref() };
            let damaged = self.real(&mut r, &ground, window).unwrap_or_else(|| {
                let made = make(&mut r, &ground, &self.options.families);
                Damaged { picture: made.picture, mask: made.mask, has_target: true }
            });
            if !damaged.has_target {
                batch.target[i * length..].copy_from_slice(&damaged.picture);
            }
            batch.input.extend_from_slice(&damaged.picture);
            batch.mask.extend_from_slice(&damaged.mask);
            batch.has_target.push(f32::from(u8::from(damaged.has_target)));
        }
    }

    /// `n` undamaged whole goods as they may also lie; moved too if `shift`. Number `index` is the same
    /// whenever it is asked for. Shape: `[n, C, S, S]`, 0 to 255.
    pub fn copies(&mut self, index: u64, n: usize, shift: bool) -> Vec<f32> {
        let mut r = self.stream(Purpose::Copies, index);
        let window = Window { at: [0; 2], side: self.side };
        let mut out = Vec::with_capacity(n * self.side * self.side * self.channels);
        for i in 0..n {
            let pixels = self.in_turn(index.wrapping_mul(n as u64).wrapping_add(i as u64));
            let pose = self.pose(&mut r, shift);
            self.lit(&mut out, pixels, &pose, window);
        }
        out
    }

    /// A real defect, if it is its turn and one fits the window.
    fn real(&self, r: &mut Random, ground: &Ground, window: Window) -> Option<Damaged> {
        let real = self.options.real;
        if real.is_empty() || !r.random_bool(REAL_SHARE) {
            return None;
        }
        for _ in 0..REAL_TRIES {
            let chosen = &real[r.random_range(0..real.len())];
            let pose = self.pose(r, true);
            let (mut picture, mut mask) = (Vec::new(), Vec::new());
            self.lit(&mut picture, &chosen.pixels, &pose, window);
            lay(&mut mask, &chosen.mask, self.side, 1, &pose, window, |v| v);
            if let Some(matters) = self.matters(&pose, window) {
                mask.iter_mut().zip(matters).for_each(|(m, w)| *m = if w < 0.5 { 0.0 } else { *m });
            }
            if !is_told_by_window(&chosen.mask, &mask) {
                continue;
            }
            if !chosen.is_exact() || r.random_bool(WHOLE_SHARE) {
                return Some(Damaged { picture, mask, has_target: false });
            }
            let join = if r.random_bool(0.5) { Transplant::Hard } else { Transplant::Seamless };
            let ground = Ground { other: &picture, ..*ground };
            if let Some((picture, mask)) = transplant(r, &ground, &mask, join) {
                return Some(Damaged { picture, mask, has_target: true });
            }
        }
        None
    }

    /// The good whose turn it is: each once a round, every round in another order.
    fn in_turn(&mut self, place: u64) -> &'a [u8] {
        let count = self.goods.len().max(1) as u64;
        let (round, slot) = (place / count, (place % count) as usize);
        if self.order.0 != round || self.order.1.is_empty() {
            let mut order: Vec<usize> = (0..self.goods.len()).collect();
            order.shuffle(&mut self.stream(Purpose::Order, round));
            self.order = (round, order);
        }
        self.goods[self.order.1[slot]]
    }

    /// A generator of its own for each purpose and number.
    fn stream(&self, purpose: Purpose, index: u64) -> Random {
        Random::seed_from_u64(mix(mix(self.options.seed ^ ((purpose as u64) << 56)) ^ index))
    }

    fn window(&self, r: &mut Random) -> Window {
        match self.options.crop {
            Some(side) if side < self.side && side > 0 => {
                let places = (self.side - side) / CROP_STEP_PX;
                Window { at: [0, 1].map(|_| r.random_range(0..=places) * CROP_STEP_PX), side }
            }
            _ => Window { at: [0; 2], side: self.side },
        }
    }

    fn pose(&self, r: &mut Random, shift: bool) -> Pose {
        let turn = match self.options.symmetry {
            Symmetry::None => 0,
            Symmetry::Flip => r.random_range(0..4),
            Symmetry::Rotate => r.random_range(0..8),
        };
        let exposure = if self.options.exposure.is_finite() { self.options.exposure.abs() } else { EXPOSURE };
        let reach = if shift { (self.side / SHIFT) as i64 } else { 0 };
        Pose {
            turn,
            shift: [0, 1].map(|_| r.random_range(-reach..=reach)),
            gain: 1.0 + r.random_range(-1.0..1.0f32) * exposure,
            offset: r.random_range(-1.0..1.0f32) * exposure * OFFSET,
        }
    }

    /// Appends the picture. Shape: `[S, S, C]` → `[C, s, s]` of the window.
    fn lit(&self, out: &mut Vec<f32>, pixels: &[u8], pose: &Pose, window: Window) {
        let mut table = [0f32; 256];
        for (v, lit) in table.iter_mut().enumerate() {
            *lit = (v as f32 * pose.gain + pose.offset).clamp(0.0, 255.0);
        }
        lay(out, pixels, self.side, self.channels, pose, window, |v| table[usize::from(v)]);
    }

    fn matters(&self, pose: &Pose, window: Window) -> Option<Vec<f32>> {
        self.options.matters.map(|matters| {
            let mut out = Vec::new();
            lay(&mut out, matters, self.side, 1, pose, window, |v| v);
            out
        })
    }
}

/// A picture of the damaged half.
struct Damaged {
    picture: Vec<f32>,
    mask: Vec<f32>,
    has_target: bool,
}

impl Batch {
    /// Empty, with room for `n` pictures.
    fn clear(&mut self, n: usize, length: usize, area: usize) {
        for (values, each) in [
            (&mut self.input, length),
            (&mut self.target, length),
            (&mut self.mask, area),
            (&mut self.has_target, 1),
        ] {
            values.clear();
            values.reserve_exact(n * each);
        }
    }
}

/// Whether a window's part of a real mask can be learnt from: it holds marked pixels, or a region whole
/// ("somewhere in this region" is not known of a part of it).
fn is_told_by_window(whole: &[f32], window: &[f32]) -> bool {
    let regions = |mask: &[f32]| mask.iter().filter(|m| (0.25..0.75).contains(*m)).count();
    let exact = window.iter().any(|m| *m >= 0.75);
    match regions(window) {
        0 => exact,
        seen => whole.len() == window.len() || seen >= regions(whole),
    }
}

/// SplitMix64's finaliser: every bit of the result depends on every bit of the input.
/// Source: Steele, Lea & Flood 2014, figure 16.
fn mix(v: u64) -> u64 {
    let v = v.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let v = (v ^ (v >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let v = (v ^ (v >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    v ^ (v >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 64;
    const INPUT: Input = Input { width: SIDE as u32, height: SIDE as u32, channels: 1 };

    /// `count` goods that are told apart by their mean.
    fn goods(count: u8) -> Vec<Vec<u8>> {
        (0..count).map(|k| (0..SIDE * SIDE).map(|i| 40 + k * 20 + (i % 7) as u8).collect()).collect()
    }

    fn batches<'a>(goods: &'a [Vec<u8>], options: Options<'a>) -> Batches<'a> {
        Batches::new(goods.iter().map(Vec::as_slice).collect(), INPUT, options)
    }

    /// A real defect: a black square in its mask's place.
    fn real(mark: f32) -> RealDefect {
        let inside = |i: &usize| (10..20).contains(&(i % SIDE)) && (30..40).contains(&(i / SIDE));
        let pixels = (0..SIDE * SIDE).map(|i| if inside(&i) { 0 } else { 100 }).collect();
        let mask = (0..SIDE * SIDE).map(|i| if inside(&i) { mark } else { 0.0 }).collect();
        RealDefect { name: "a/1.png".into(), class: "a".into(), pixels, mask }
    }

    #[test]
    fn a_batch_depends_on_seed_and_number_alone() {
        let goods = goods(5);
        let options = |seed| Options { symmetry: Symmetry::Rotate, seed, ..Options::default() };
        let mut first = batches(&goods, options(3));
        let expected: Vec<Batch> = (0..4).map(|i| first.batch(i, 4)).collect();
        let mut resumed = batches(&goods, options(3));
        let mut used = resumed.batch(9, 6);
        for i in [3, 0, 2, 1] {
            resumed.batch_into(&mut used, i as u64, 4);
            assert_eq!(used, expected[i]);
            assert_eq!(resumed.copies(i as u64, 2, true), first.copies(i as u64, 2, true));
        }
        assert_ne!(expected[0], expected[1]);
        assert_ne!(batches(&goods, options(4)).batch(0, 4), expected[0]);
    }

    #[test]
    fn every_good_comes_once_a_round_and_rounds_differ() {
        let goods = goods(8);
        let mut batches = batches(&goods, Options { exposure: 0.0, ..Options::default() });
        let mut round = |k: u64| -> Vec<usize> {
            let targets: Vec<f32> = (0..2).flat_map(|i| batches.batch(k * 2 + i, 4).target).collect();
            targets.chunks(SIDE * SIDE).map(|t| (t[0] as usize - 40) / 20).collect()
        };
        let (one, two) = (round(0), round(1));
        assert_ne!(one, two);
        for mut round in [one, two] {
            round.sort_unstable();
            assert_eq!(round, [0, 1, 2, 3, 4, 5, 6, 7]);
        }
    }

    #[test]
    fn windows_start_at_every_sixteenth_pixel() {
        let goods = goods(3);
        let mut batches = batches(&goods, Options { crop: Some(32), ..Options::default() });
        let places: std::collections::BTreeSet<_> = (0..40).map(|i| batches.batch(i, 2).at).collect();
        assert_eq!(places.len(), 9, "three places each way: {places:?}");
        let batch = batches.batch(0, 4);
        assert_eq!((batch.input.len(), batch.mask.len()), (4 * 32 * 32, 4 * 32 * 32));
    }

    #[test]
    fn a_third_of_the_damaged_pictures_are_real_and_say_whether_their_good_is_known() {
        let goods = goods(4);
        for (mark, known) in [(1.0, true), (0.5, false)] {
            let real = [real(mark)];
            let mut batches = batches(&goods, Options { real: &real, exposure: 0.0, ..Options::default() });
            let (mut whole, mut transplanted) = (0, 0);
            for i in 0..60 {
                let batch = batches.batch(i, 4);
                assert_eq!(batch.has_target[..2], [1.0, 1.0], "the clean half is known");
                for k in 2..4 {
                    let range = k * SIDE * SIDE..(k + 1) * SIDE * SIDE;
                    let mask = &batch.mask[range.clone()];
                    if batch.has_target[k] == 0.0 {
                        whole += 1;
                        assert_eq!(mask.iter().sum::<f32>(), 100.0 * mark);
                        assert!(
                            batch.input[range.clone()]
                                .iter()
                                .zip(mask)
                                .all(|(v, m)| (*v == 0.0) == (*m > 0.0))
                        );
                    } else if mask.iter().sum::<f32>() == 100.0 {
                        transplanted += 1;
                    }
                }
            }
            assert!((10..70).contains(&whole), "{whole} of 120 whole");
            assert_eq!(transplanted > 5, known, "{transplanted} of 120 on another good");
        }
    }

    #[test]
    fn a_window_shows_no_part_of_a_region_that_holds_a_defect_somewhere() {
        let goods = goods(4);
        let real = [RealDefect { mask: vec![0.5; SIDE * SIDE], ..real(0.5) }];
        let mut batches = batches(&goods, Options { real: &real, crop: Some(32), ..Options::default() });
        assert!((0..30).all(|i| batches.batch(i, 4).has_target == [1.0; 4]));
    }

    #[test]
    fn what_does_not_matter_is_neither_damaged_nor_marked() {
        let (goods, real) = (goods(4), [real(1.0)]);
        let nothing = vec![0.0; SIDE * SIDE];
        let options = Options { matters: Some(&nothing), real: &real, ..Options::default() };
        let mut batches = batches(&goods, options);
        for i in 0..20 {
            let batch = batches.batch(i, 4);
            assert!(batch.input == batch.target && batch.mask.iter().all(|m| *m == 0.0));
        }
    }

    /// Figures for the module's budget: `cargo test --release -p inspect-train -- --ignored --nocapture time_of`.
    #[test]
    #[ignore = "prints times, proves nothing"]
    fn time_of_a_batch() {
        for (side, channels) in [(128u32, 1u8), (128, 3), (256, 3)] {
            let input = Input { width: side, height: side, channels };
            let pixels: Vec<u8> = (0..input.bytes()).map(|i| (i % 251) as u8).collect();
            let options = Options { symmetry: Symmetry::Rotate, ..Options::default() };
            let mut batches = Batches::new(vec![&pixels; 9], input, options);
            let start = std::time::Instant::now();
            let mut batch = Batch::default();
            (0..200).for_each(|i| batches.batch_into(&mut batch, i, 8));
            let ms = start.elapsed().as_secs_f64() * 1e3 / 200.0;
            println!("batch of 8 at {side} px, {channels} channels: {ms:.2} ms");
        }
    }
}
