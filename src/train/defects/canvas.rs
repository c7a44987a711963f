//! The picture that a defect is made on, and the boxes that the work is kept inside.
//!
//! *Bounds*: a box of pixels. *Cover*: how much of each pixel in a box the defect takes, 0 to 1. A
//! *filling* is f32 `[C, h, w]` over the same box.
//!
//! Never here: what a defect looks like.

use super::{Ground, VISIBLE};

/// Fewest pixels that a defect must show; a fallen grain of noise is none.
const MIN_SEEN_PX: usize = 2;
/// Least change times the root of the pixels, grey values: on any surface, and for each grey value that
/// neighbouring pixels differ by. What is under it nobody could tell from the surface itself, and marking it
/// would teach the network to see defects in noise.
const MIN_STRENGTH: f32 = 25.0;
const MIN_TO_ROUGHNESS: f32 = 4.0;

/// A box of pixels, the ends not in it; always inside the picture, maybe empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Left and top.
    pub from: [usize; 2],
    /// Right and bottom, not in it.
    pub to: [usize; 2],
}

impl Bounds {
    /// What lies within `reach` pixels of `centre`, plus one pixel all round.
    pub fn around(centre: [f32; 2], reach: [f32; 2], side: usize) -> Self {
        let low = |k: usize| (centre[k] - reach[k] - 1.0).clamp(0.0, side as f32) as usize;
        let high = |k: usize| (centre[k] + reach[k] + 2.0).clamp(0.0, side as f32) as usize;
        Self { from: [low(0), low(1)], to: [high(0), high(1)] }
    }

    /// The smallest box that holds both.
    pub fn with(self, other: Self) -> Self {
        if self.is_empty() {
            return other;
        } else if other.is_empty() {
            return self;
        }
        let pick = |k: usize| (self.from[k].min(other.from[k]), self.to[k].max(other.to[k]));
        let ((x0, x1), (y0, y1)) = (pick(0), pick(1));
        Self { from: [x0, y0], to: [x1, y1] }
    }

    /// Grown by so many pixels all round.
    pub fn grown(self, by: usize, side: usize) -> Self {
        if self.is_empty() {
            return self;
        }
        Self { from: self.from.map(|v| v.saturating_sub(by)), to: self.to.map(|v| (v + by).min(side)) }
    }

    /// Pixels.
    pub fn width(self) -> usize {
        self.to[0].saturating_sub(self.from[0])
    }

    /// Pixels.
    pub fn height(self) -> usize {
        self.to[1].saturating_sub(self.from[1])
    }

    /// Pixels in it.
    pub fn area(self) -> usize {
        self.width() * self.height()
    }

    /// Whether it holds no pixel.
    pub fn is_empty(self) -> bool {
        self.area() == 0
    }

    /// One value for each pixel, row by row.
    pub fn map(self, mut value: impl FnMut(usize, usize) -> f32) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.area());
        for y in self.from[1]..self.to[1] {
            values.extend((self.from[0]..self.to[0]).map(|x| value(x, y)));
        }
        values
    }
}

/// How much of each pixel the defect takes. Shape of `values`: `[h, w]` of the bounds, 0 to 1.
pub struct Cover {
    /// Where.
    pub bounds: Bounds,
    /// How much.
    pub values: Vec<f32>,
}

impl Cover {
    /// Asks `value` for each pixel.
    pub fn draw(bounds: Bounds, value: impl FnMut(usize, usize) -> f32) -> Self {
        Self { bounds, values: bounds.map(value) }
    }

    /// Multiplies each pixel by what `value` says.
    pub fn times(&mut self, mut value: impl FnMut(usize, usize) -> f32) {
        let (width, [x0, y0]) = (self.bounds.width(), self.bounds.from);
        for (i, v) in self.values.iter_mut().enumerate().filter(|(_, v)| **v > 0.0) {
            *v *= value(x0 + i % width, y0 + i / width);
        }
    }

    /// The same cover, moved by whole pixels; what leaves the picture is lost.
    pub fn moved(&self, by: [i64; 2], side: usize) -> Self {
        let [x0, y0] = self.bounds.from.map(|v| v as i64);
        let (width, height) = (self.bounds.width() as i64, self.bounds.height() as i64);
        let limit = |v: i64| v.clamp(0, side as i64) as usize;
        let from = [limit(x0 + by[0]), limit(y0 + by[1])];
        let to = [limit(x0 + by[0] + width), limit(y0 + by[1] + height)];
        Self::draw(Bounds { from, to }, |x, y| {
            let (dx, dy) = (x as i64 - by[0] - x0, y as i64 - by[1] - y0);
            self.values[(dy * width + dx) as usize]
        })
    }

    /// Its outline: strongest where half of a pixel is covered.
    pub fn rim(&self) -> Self {
        let values = self.values.iter().map(|v| 4.0 * v * (1.0 - v)).collect();
        Self { bounds: self.bounds, values }
    }

    /// The same over a box that holds this one.
    pub fn over(&self, bounds: Bounds) -> Self {
        let mut values = vec![0.0; bounds.area()];
        let (width, left) = (self.bounds.width(), self.bounds.from[0] - bounds.from[0]);
        for (k, row) in self.values.chunks_exact(width.max(1)).enumerate() {
            let start = (self.bounds.from[1] - bounds.from[1] + k) * bounds.width() + left;
            values[start..start + width].copy_from_slice(row);
        }
        Self { bounds, values }
    }
}

/// A good that becomes damaged, and where it was touched.
pub struct Canvas<'a> {
    /// What it is made from.
    pub ground: Ground<'a>,
    /// Shape: `[C, S, S]`, 0 to 255.
    pub picture: Vec<f32>,
    touched: Bounds,
}

impl<'a> Canvas<'a> {
    /// The undamaged good.
    pub fn new(ground: Ground<'a>) -> Self {
        let touched = Bounds { from: [0; 2], to: [0; 2] };
        Self { ground, picture: ground.good.to_vec(), touched }
    }

    /// Where pixel (x, y) of channel c lies in a picture.
    pub fn at(&self, c: usize, x: usize, y: usize) -> usize {
        (c * self.ground.side + y) * self.ground.side + x
    }

    /// What stands in the box now. Shape: `[C, h, w]`.
    pub fn cut(&self, bounds: Bounds) -> Vec<f32> {
        let mut out = Vec::with_capacity(bounds.area() * self.ground.channels);
        for c in 0..self.ground.channels {
            for y in bounds.from[1]..bounds.to[1] {
                out.extend_from_slice(&self.picture[self.at(c, bounds.from[0], y)..][..bounds.width()]);
            }
        }
        out
    }

    /// Mixes the filling in where the cover says so. Shape: `filling` `[C, h, w]` of the cover's bounds.
    pub fn blend(&mut self, cover: &Cover, filling: &[f32], opacity: f32) {
        let area = cover.bounds.area();
        self.change(cover.bounds, |i, c, v| v + (filling[c * area + i] - v) * cover.values[i] * opacity);
    }

    /// Replaces each pixel in the box by `value(index in the box, channel, what it was)`.
    pub fn change(&mut self, bounds: Bounds, value: impl Fn(usize, usize, f32) -> f32) {
        self.touched = self.touched.with(bounds);
        for c in 0..self.ground.channels {
            for (k, y) in (bounds.from[1]..bounds.to[1]).enumerate() {
                let start = self.at(c, bounds.from[0], y);
                let row = &mut self.picture[start..start + bounds.width()];
                for (j, v) in row.iter_mut().enumerate() {
                    *v = value(k * bounds.width() + j, c, *v).clamp(0.0, 255.0);
                }
            }
        }
    }

    /// Puts the good back where it was touched.
    pub fn restore(&mut self) {
        for c in 0..self.ground.channels {
            for y in self.touched.from[1]..self.touched.to[1] {
                let row = self.at(c, self.touched.from[0], y)..self.at(c, self.touched.to[0], y);
                self.picture[row.clone()].copy_from_slice(&self.ground.good[row]);
            }
        }
        self.touched = Bounds { from: [0; 2], to: [0; 2] };
    }

    /// Marks what can be seen in `mask` (`[S, S]`, zeros) and takes back what lies where the part does not
    /// matter.
    pub fn label(&mut self, mask: &mut [f32]) -> Seen {
        let Ground { good, side, channels, matters, .. } = self.ground;
        let (area, mut seen) = (side * side, Seen::default());
        for y in self.touched.from[1]..self.touched.to[1] {
            for i in y * side + self.touched.from[0]..y * side + self.touched.to[0] {
                let planes = (0..channels).map(|c| c * area + i);
                if matters.is_some_and(|m| m[i] < 0.5) {
                    planes.for_each(|p| self.picture[p] = good[p]);
                    continue;
                }
                let change = planes.map(|p| (self.picture[p] - good[p]).abs()).fold(0.0, f32::max);
                if change > VISIBLE {
                    mask[i] = 1.0;
                    seen.pixels += 1;
                    seen.change += change;
                }
            }
        }
        seen
    }
}

/// What a defect shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// Pixels that are marked.
    pub pixels: usize,
    /// Sum of their changes, grey values.
    pub change: f32,
}

impl Seen {
    /// Whether it stands out of a surface of that roughness: the signal-to-noise ratio of an ideal observer
    /// that knows its place, a change of d over n pixels being worth d times the root of n.
    pub fn stands_out(self, roughness: f32) -> bool {
        let strength = self.change / (self.pixels.max(1) as f32).sqrt();
        self.pixels >= MIN_SEEN_PX && strength >= (roughness * MIN_TO_ROUGHNESS).max(MIN_STRENGTH)
    }
}
