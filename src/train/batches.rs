//! Batches of clean and damaged goods that the network learns from.
//!
//! A *picture* here is f32 `[C, S, S]`, 0 to 255; a *mask* `[S, S]`, 0 to 1. Goods come turned, moved and
//! lit as they may also lie; the defects are made by [`crate::defects`].
//!
//! Never here: the test split.

use inspect_core::card::Input;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::defects::damage;

/// Goods are moved by up to this fraction of their side: no fixture holds a part to the pixel.
const SHIFT: usize = 32;

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

/// Pictures of a batch; the first half of the inputs is undamaged.
pub struct Batch {
    /// Shape: `[N, C, S, S]`, 0 to 255.
    pub input: Vec<f32>,
    /// The goods behind them. Shape: `[N, C, S, S]`, 0 to 255.
    pub target: Vec<f32>,
    /// Where they differ. Shape: `[N, S, S]`.
    pub mask: Vec<f32>,
    /// Side of the pictures.
    pub side: usize,
    /// Where a crop lies.
    pub at: (usize, usize),
}

/// Makes batches without end.
pub struct Batches<'a> {
    goods: Vec<&'a [u8]>,
    side: usize,
    channels: usize,
    symmetry: Symmetry,
    random: StdRng,
    seed: u64,
    order: Vec<usize>,
}

impl<'a> Batches<'a> {
    /// Shape: `goods` each `[S, S, C]`.
    pub fn new(goods: Vec<&'a [u8]>, input: Input, symmetry: Symmetry, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let (side, channels) = (input.width as usize, usize::from(input.channels));
        Self { goods, side, channels, symmetry, random, seed, order: Vec::new() }
    }

    /// The next batch of `n` pictures.
    pub fn make(&mut self, n: usize) -> Batch {
        let (mut input, mut target, mut mask) = (Vec::new(), Vec::new(), Vec::new());
        for i in 0..n {
            let good = self.good(true);
            if i < n / 2 {
                input.extend_from_slice(&good);
                mask.resize(mask.len() + self.side * self.side, 0.0);
            } else {
                let other = self.good(true);
                let (damaged, where_) = damage(&mut self.random, &good, &other, self.side, self.channels);
                input.extend(damaged);
                mask.extend(where_);
            }
            target.extend(good);
        }
        Batch { input, target, mask, side: self.side, at: (0, 0) }
    }

    /// Pure.
    pub fn batch(&self, index: u64, n: usize) -> Batch {
        let mut b = Batches::new(
            self.goods.clone(),
            Input { width: self.side as u32, height: self.side as u32, channels: self.channels as u8 },
            self.symmetry,
            self.seed ^ (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        );
        b.make(n)
    }

    /// `n` undamaged goods as they may also lie; moved too if `shift`. Shape: `[n, C, S, S]`, 0 to 255.
    pub fn copies(&mut self, n: usize, shift: bool) -> Vec<f32> {
        (0..n).flat_map(|_| self.good(shift)).collect()
    }

    /// The next good of a shuffled round, turned and lit within tolerance.
    fn good(&mut self, shift: bool) -> Vec<f32> {
        if self.order.is_empty() {
            self.order = (0..self.goods.len()).collect();
            use rand::seq::SliceRandom;
            self.order.shuffle(&mut self.random);
        }
        let pixels = self.goods[self.order.pop().unwrap_or(0)];
        let r = &mut self.random;
        let turn = match self.symmetry {
            Symmetry::None => 0,
            Symmetry::Flip => r.random_range(0..4),
            Symmetry::Rotate => r.random_range(0..8),
        };
        let gain = 1.0 + r.random_range(-0.03..0.03f32);
        let offset = r.random_range(-3.0..3.0f32);
        let reach = if shift { (self.side / SHIFT) as i64 } else { 0 };
        let (dx, dy) = (r.random_range(-reach..=reach), r.random_range(-reach..=reach));
        let mut picture = planes(pixels, self.side, self.channels, turn, (dx, dy));
        picture.iter_mut().for_each(|v| *v = (*v * gain + offset).clamp(0.0, 255.0));
        picture
    }
}

/// `[S, S, C]` → `[C, S, S]`, mirrored and turned: bit 0 left-right, bit 1 up-down, bit 2 transposed; then
/// moved by whole pixels, the border repeated.
pub fn planes(pixels: &[u8], side: usize, channels: usize, turn: u8, (dx, dy): (i64, i64)) -> Vec<f32> {
    let mut out = vec![0.0; pixels.len()];
    let moved = |at: usize, by: i64| (at as i64 + by).clamp(0, side as i64 - 1) as usize;
    for y in 0..side {
        for x in 0..side {
            let (mx, my) = (moved(x, dx), moved(y, dy));
            let (mut sx, mut sy) = if turn & 4 == 0 { (mx, my) } else { (my, mx) };
            if turn & 1 != 0 {
                sx = side - 1 - sx;
            }
            if turn & 2 != 0 {
                sy = side - 1 - sy;
            }
            for c in 0..channels {
                out[(c * side + y) * side + x] = f32::from(pixels[(sy * side + sx) * channels + c]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eight_turns_are_eight_different_pictures() {
        let pixels: Vec<u8> = (0..16).collect();
        let all: std::collections::BTreeSet<Vec<u8>> =
            (0..8).map(|t| planes(&pixels, 4, 1, t, (0, 0)).iter().map(|&v| v as u8).collect()).collect();
        assert_eq!(all.len(), 8);
    }

    #[test]
    fn the_same_seed_makes_the_same_batches() {
        let goods = [vec![7u8; 32 * 32], vec![90; 32 * 32]];
        let input = Input { width: 32, height: 32, channels: 1 };
        let make = || {
            let goods = goods.iter().map(Vec::as_slice).collect();
            let mut batches = Batches::new(goods, input, Symmetry::Rotate, 3);
            batches.make(4);
            batches.make(4).input
        };
        assert_eq!(make(), make());
    }
}
