//! What a defect is filled with.
//!
//! A *filling* has the shape `[C, h, w]` of a box. Textures are procedural or taken from goods, not from
//! picture sets: which set they are from hardly matters, single colours alone do worse (DRAEM's own ablation,
//! Zavrtanik et al. 2021, table 3).
//!
//! Never here: where the filling goes.

use rand::RngExt;

use super::canvas::{Bounds, Canvas};
use super::noise::{Noise, Random, angle, log_uniform, pick, sign};
use super::place::{brightness, colour};
use super::{Ground, MAX_CHANNELS};

/// What can be filled in.
#[derive(Debug, Clone, Copy)]
pub enum Filling {
    /// Darker or lighter.
    Shade,
    /// Another hue, about as bright.
    Tint,
    /// One colour.
    Colour,
    /// Two colours in hills.
    Hills,
    /// Two colours in stripes.
    Stripes,
    /// Grains.
    Speckle,
    /// Another good's texture.
    Other,
    /// The good's own texture from elsewhere.
    Own,
}

/// What suits a stain or a spot: mostly plain ones, that are seen on parts.
pub const SURFACE: [Filling; 14] = [
    Filling::Shade,
    Filling::Shade,
    Filling::Shade,
    Filling::Shade,
    Filling::Tint,
    Filling::Tint,
    Filling::Colour,
    Filling::Colour,
    Filling::Hills,
    Filling::Stripes,
    Filling::Speckle,
    Filling::Speckle,
    Filling::Other,
    Filling::Own,
];

/// Fills the box. Shape: `[C, h, w]`.
pub fn fill(r: &mut Random, canvas: &Canvas, bounds: Bounds, filling: Filling) -> Vec<f32> {
    let ground = &canvas.ground;
    match filling {
        Filling::Shade => {
            let amount = shade(r, brightness(ground, bounds), 0.5);
            shaded(canvas, bounds, [amount; MAX_CHANNELS])
        }
        Filling::Tint => {
            let mut amounts = [0.0; MAX_CHANNELS];
            amounts.iter_mut().for_each(|a| *a = r.random_range(-70.0..70.0));
            shaded(canvas, bounds, amounts)
        }
        Filling::Colour => {
            let (one, grain) = (any_colour(r, ground), r.random_range(0.0..6.0));
            mixed(r, ground, bounds, [one, one], grain, |_, _| 0.0)
        }
        Filling::Hills => {
            let cell = log_uniform(r, 1.5, ground.side as f32 / 6.0);
            let (noise, ends) = (Noise::new(r, cell), two_colours(r, ground));
            mixed(r, ground, bounds, ends, 0.0, |x, y| noise.at(x, y))
        }
        Filling::Stripes => {
            let (sin, cos) = angle(r).sin_cos();
            let (pitch, ends) = (log_uniform(r, 2.0, 16.0), two_colours(r, ground));
            mixed(r, ground, bounds, ends, 0.0, |x, y| {
                (((x * cos + y * sin) / pitch).rem_euclid(2.0) - 1.0).abs()
            })
        }
        Filling::Speckle => {
            let grain = log_uniform(r, 15.0, 110.0);
            let mut out = canvas.cut(bounds);
            let area = bounds.area();
            let together = r.random_bool(0.7);
            for i in 0..area {
                let common = r.random_range(-grain..grain);
                for plane in out.chunks_exact_mut(area.max(1)) {
                    plane[i] += if together { common } else { r.random_range(-grain..grain) };
                }
            }
            out
        }
        Filling::Other => Source::any(r, ground.other, ground, bounds).fill(ground, bounds),
        Filling::Own => Source::any(r, ground.good, ground, bounds).fill(ground, bounds),
    }
}

/// What is there, plus an amount for each channel. Shape: `[C, h, w]`.
pub fn shaded(canvas: &Canvas, bounds: Bounds, amounts: [f32; MAX_CHANNELS]) -> Vec<f32> {
    let mut out = canvas.cut(bounds);
    for (plane, amount) in out.chunks_exact_mut(bounds.area().max(1)).zip(amounts) {
        plane.iter_mut().for_each(|v| *v += amount);
    }
    out
}

/// How much darker (`dark` of the times, where there is room) or lighter, grey values; faint ones common.
pub fn shade(r: &mut Random, brightness: f32, dark: f64) -> f32 {
    let amount = log_uniform(r, 18.0, 150.0);
    let darker = match brightness {
        b if b < 45.0 => false,
        b if b > 210.0 => true,
        _ => r.random_bool(dark),
    };
    if darker { -amount } else { amount }
}

/// A colour: any, nearly grey, or one that goods have.
pub fn any_colour(r: &mut Random, ground: &Ground) -> [f32; MAX_CHANNELS] {
    let side = ground.side;
    match r.random_range(0..3) {
        0 => [0; MAX_CHANNELS].map(|_| r.random_range(0.0..255.0)),
        1 => {
            let grey = r.random_range(0.0..255.0f32);
            [0; MAX_CHANNELS].map(|_| (grey + r.random_range(-12.0..12.0)).clamp(0.0, 255.0))
        }
        _ => colour(ground.other, ground, r.random_range(0..side), r.random_range(0..side)),
    }
}

fn two_colours(r: &mut Random, ground: &Ground) -> [[f32; MAX_CHANNELS]; 2] {
    [any_colour(r, ground), any_colour(r, ground)]
}

/// Between two colours by `share` (0..1), with grains of up to `grain` grey values.
fn mixed(
    r: &mut Random,
    ground: &Ground,
    bounds: Bounds,
    [one, two]: [[f32; MAX_CHANNELS]; 2],
    grain: f32,
    share: impl Fn(f32, f32) -> f32,
) -> Vec<f32> {
    let shares = bounds.map(|x, y| share(x as f32, y as f32));
    let mut out = Vec::with_capacity(shares.len() * ground.channels);
    for (a, b) in one.into_iter().zip(two).take(ground.channels) {
        out.extend(shares.iter().map(|s| a + (b - a) * s));
    }
    if grain > 0.5 {
        out.iter_mut().for_each(|v| *v += r.random_range(-grain..grain));
    }
    out
}

/// A piece of a picture, turned and scaled, that is laid elsewhere.
pub struct Source<'a> {
    /// Shape: `[C, S, S]`.
    pub picture: &'a [f32],
    /// The place in that picture, and where it comes to lie.
    pub from: [f32; 2],
    /// Where it comes to lie.
    pub to: [f32; 2],
    /// Radians.
    pub turn: f32,
    /// Above 1: the piece comes out larger.
    pub scale: f32,
    /// Whether it is mirrored.
    pub mirrored: bool,
}

impl<'a> Source<'a> {
    /// The picture moved by up to half its side.
    pub fn any(r: &mut Random, picture: &'a [f32], ground: &Ground, bounds: Bounds) -> Self {
        let side = ground.side as f32;
        let to = middle(bounds);
        let reach = side * 0.5;
        let away = [0, 1].map(|_| r.random_range(side / 16.0..reach) * sign(r));
        let from = [0, 1].map(|k| {
            let at = to[k] + away[k];
            if (0.0..side).contains(&at) { at } else { to[k] - away[k] }
        });
        Self { picture, from, to, turn: 0.0, scale: 1.0, mirrored: false }
    }

    /// Turned, mirrored and scaled at random; quarter turns half of the time.
    pub fn tumbled(mut self, r: &mut Random) -> Self {
        let quarter = std::f32::consts::FRAC_PI_2;
        self.turn = if r.random_bool(0.5) { pick(r, &[0.0, 1.0, 2.0, 3.0]) * quarter } else { angle(r) };
        self.scale = r.random_range(0.75..1.3);
        self.mirrored = r.random_bool(0.5);
        self
    }

    /// What comes to lie in the box, bilinear. Shape: `[C, h, w]`.
    pub fn fill(&self, ground: &Ground, bounds: Bounds) -> Vec<f32> {
        let (side, plane) = (ground.side, ground.side * ground.side);
        let (sin, cos) = self.turn.sin_cos();
        let (area, last) = (bounds.area(), side as f32 - 1.0);
        let mut out = vec![0.0; area * ground.channels];
        let mut i = 0;
        for y in bounds.from[1]..bounds.to[1] {
            for x in bounds.from[0]..bounds.to[0] {
                let (dx, dy) = ((x as f32 - self.to[0]) / self.scale, (y as f32 - self.to[1]) / self.scale);
                let dx = if self.mirrored { -dx } else { dx };
                let sx = (self.from[0] + dx * cos - dy * sin).clamp(0.0, last);
                let sy = (self.from[1] + dx * sin + dy * cos).clamp(0.0, last);
                let (x0, y0) = (sx as usize, sy as usize);
                let (fx, fy) = (sx - x0 as f32, sy - y0 as f32);
                let (right, low) = (usize::from(x0 + 1 < side), if y0 + 1 < side { side } else { 0 });
                let corner = y0 * side + x0;
                for c in 0..ground.channels {
                    let p = &self.picture[c * plane + corner..];
                    let top = p[0] + (p[right] - p[0]) * fx;
                    let bottom = p[low] + (p[low + right] - p[low]) * fx;
                    out[c * area + i] = top + (bottom - top) * fy;
                }
                i += 1;
            }
        }
        out
    }
}

/// The middle of a box.
pub fn middle(bounds: Bounds) -> [f32; 2] {
    [0, 1].map(|k| (bounds.from[k] + bounds.to[k]) as f32 * 0.5)
}
