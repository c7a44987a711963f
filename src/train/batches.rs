//! Batches of clean and damaged goods that the network learns from.
//!
//! A *picture* here is f32 `[C, S, S]`, 0 to 255; a *mask* `[S, S]`: 0 clean, 1 defect, 0.5 "a defect is
//! somewhere in this region". Goods come turned, moved and lit as they may also lie: their *pose*. Defects
//! are made by [`crate::defects`], or are real ones or those of a generator ([`crate::made`]), lying in poses of
//! their own.
//!
//! A batch is a pure function of the seed and its number, so that a fit goes on where it stopped.
//!
//! Never here: the test split.

use inspect_core::card::Input;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::defects::{Family, Ground, Random, Transplant, make, transplant};
use crate::made::MadeSet;
pub use crate::pose::Symmetry;
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
/// Real or generated defects that are tried for one window.
const REAL_TRIES: usize = 4;

/// What batches are made of, besides goods.
#[derive(Clone)]
pub struct Options<'a> {
    /// How the part may lie.
    pub symmetry: Symmetry,
    /// Seed of everything random.
    pub seed: u64,
    /// Families of made defects; empty: all.
    pub families: Vec<Family>,
    /// Where the part matters (under 0.5: not), as the camera sees it; it turns and moves with the good, in the
    /// ways of [`Symmetry::turns`]. Nothing is damaged or marked elsewhere. Shape: `[S, S]`.
    pub matters: Option<&'a [f32]>,
    /// Real defects, at the goods' size; a third of the damaged pictures show one.
    pub real: &'a [RealDefect],
    /// Defects that generators made, at the goods' size.
    pub made: &'a [MadeSet],
    /// Share of the damaged pictures without a real defect that show one of those, in the end.
    pub made_share: f64,
    /// Batches over which that share rises from 0: a network that knows nothing yet would learn a generator's
    /// hand before it learns the part.
    pub made_rise: u64,
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
            made: &[],
            made_share: 0.0,
            made_rise: 0,
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
    turns: Vec<u8>,
    /// The order of goods in one round, kept as long as that round lasts.
    order: (u64, Vec<usize>),
}

impl<'a> Batches<'a> {
    /// Shape: `goods` each `[S, S, C]`, at least one; `options.matters` and the real defects at that size.
    pub fn new(goods: Vec<&'a [u8]>, input: Input, options: Options<'a>) -> Self {
        let (side, channels) = (input.width as usize, usize::from(input.channels));
        let turns = options.symmetry.turns(options.matters, side);
        Self { goods, side, channels, options, turns, order: (0, Vec::new()) }
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
            let known = self.real(&mut r, &ground, window);
            let known = known.or_else(|| self.generated(&mut r, &ground, window, index));
            let damaged = known.unwrap_or_else(|| {
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
        self.pictured(r, ground, window, |_| real)
    }

    /// A generator's defect, if it is its turn in batch number `index` and one fits the window. Every generator
    /// has the same share, however many defects it made.
    fn generated(&self, r: &mut Random, ground: &Ground, window: Window, index: u64) -> Option<Damaged> {
        let Options { made, made_share, made_rise, .. } = self.options;
        if made.is_empty() || made.iter().any(|set| set.defects.is_empty()) {
            return None;
        }
        let risen = (index as f64 / made_rise.max(1) as f64).min(1.0);
        if !r.random_bool((made_share * risen).clamp(0.0, 1.0)) {
            return None;
        }
        self.pictured(r, ground, window, |r| &made[r.random_range(0..made.len())].defects)
    }

    /// A defect out of those that `pool` chooses, which are some: in its own picture or on another good.
    fn pictured(
        &self,
        r: &mut Random,
        ground: &Ground,
        window: Window,
        pool: impl Fn(&mut Random) -> &'a [RealDefect],
    ) -> Option<Damaged> {
        for _ in 0..REAL_TRIES {
            let pool = pool(r);
            let chosen = &pool[r.random_range(0..pool.len())];
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
        let turn = match self.turns[..] {
            [] | [_] => 0,
            _ => self.turns[usize::from(r.random_range(0..self.turns.len() as u8))],
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
mod tests;
