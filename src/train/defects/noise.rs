//! Random numbers and smooth random fields.
//!
//! Never here: pixels.

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

/// The generator of everything random about a picture: fast, and the same on every machine.
pub type Random = Xoshiro256PlusPlus;

/// Cells along a side of the lattice, after which the field repeats. A power of two.
const CELLS: usize = 32;
/// Keeps coordinates positive, where rounding down is cutting off. A multiple of [`CELLS`].
const AWAY: f32 = 8192.0;

/// Smooth random field in 0..1: random values on a lattice, smoothly interpolated (value noise).
pub struct Noise {
    grid: Vec<f32>,
    along: [f32; 2],
    across: [f32; 2],
}

impl Noise {
    /// A field whose hills are some `cell_px` apart.
    pub fn new(r: &mut Random, cell_px: f32) -> Self {
        Self::stretched(r, [cell_px; 2], 0.0)
    }

    /// The same with different distances along and across a direction.
    pub fn stretched(r: &mut Random, cell_px: [f32; 2], angle: f32) -> Self {
        let (sin, cos) = angle.sin_cos();
        let [along, across] = cell_px.map(|c| 1.0 / c.max(1.0));
        Self {
            grid: (0..CELLS * CELLS).map(|_| r.random()).collect(),
            along: [cos * along, sin * along],
            across: [-sin * across, cos * across],
        }
    }

    /// The field at a pixel.
    pub fn at(&self, x: f32, y: f32) -> f32 {
        let u = x * self.along[0] + y * self.along[1] + AWAY;
        let v = x * self.across[0] + y * self.across[1] + AWAY;
        let (i, j) = (u as usize, v as usize);
        let smooth = |f: f32| f * f * (3.0 - 2.0 * f);
        let (fu, fv) = (smooth(u - i as f32), smooth(v - j as f32));
        let value = |i: usize, j: usize| self.grid[(j % CELLS) * CELLS + i % CELLS];
        let top = value(i, j) + (value(i + 1, j) - value(i, j)) * fu;
        let low = value(i, j + 1) + (value(i + 1, j + 1) - value(i, j + 1)) * fu;
        top + (low - top) * fv
    }
}

/// A field with fine structure on coarse: two octaves.
pub struct Rough(Noise, Noise);

impl Rough {
    /// `cell_px`: distance of the coarse hills.
    pub fn new(r: &mut Random, cell_px: f32) -> Self {
        Self(Noise::new(r, cell_px), Noise::new(r, cell_px * 0.4))
    }

    /// The field at a pixel, 0..1.
    pub fn at(&self, x: usize, y: usize) -> f32 {
        let (x, y) = (x as f32, y as f32);
        self.0.at(x, y) * 0.65 + self.1.at(x, y) * 0.35
    }
}

/// A number whose logarithm is uniform: each doubling as likely as the next, so small ones are common.
pub fn log_uniform(r: &mut Random, low: f32, high: f32) -> f32 {
    low * (high.max(low) / low).powf(r.random::<f32>())
}

/// An angle of the full circle.
pub fn angle(r: &mut Random) -> f32 {
    r.random_range(0.0..std::f32::consts::TAU)
}

/// Plus or minus one.
pub fn sign(r: &mut Random) -> f32 {
    if r.random_bool(0.5) { 1.0 } else { -1.0 }
}

/// A random one of some. `of` is never empty.
pub fn pick<T: Copy>(r: &mut Random, of: &[T]) -> T {
    of[r.random_range(0..of.len())]
}
