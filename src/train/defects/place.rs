//! Where on the picture a defect is put: on the part, where the part has a clear background.
//!
//! The *background* is the colour of the picture's border, if that is nearly one colour and the inside is
//! another. Without one (a surface that fills the picture) every place is as good.
//!
//! Never here: drawing.

use rand::RngExt;

use super::canvas::{Bounds, Cover};
use super::noise::{Random, angle};
use super::{Ground, MAX_CHANNELS};

/// Pixels of the border, and of the inside, that are looked at.
const SAMPLES: usize = 64;
/// A border that differs by more than this from its mean is no background, grey values.
const MAX_BORDER_SPREAD: f32 = 14.0;
/// A pixel that differs by more than this from the background is part, grey values.
const PART_DIFFERENCE: f32 = 16.0;
/// Neighbours that differ by more are taken to differ by this, grey values.
const MAX_ROUGHNESS: f32 = 20.0;
/// Share of the inside that must be part, else the border is simply the surface's own colour.
const MIN_PART: f32 = 0.15;
/// How often a place off the part is taken.
const OFF_PART: f32 = 0.12;
/// Places that are tried before any is taken.
const TRIES: usize = 200;

/// What is known of where the part lies.
pub struct Survey {
    /// Colour of the background, if there is a clear one.
    pub background: Option<[f32; MAX_CHANNELS]>,
    /// Mean difference of the border from that colour, grey values.
    pub spread: f32,
    /// Mean difference of neighbouring pixels, grey values.
    pub roughness: f32,
}

impl Survey {
    /// Looks at some pixels of the border and of the inside.
    pub fn new(r: &mut Random, ground: &Ground) -> Self {
        let side = ground.side;
        let border: Vec<[f32; MAX_CHANNELS]> = (0..SAMPLES)
            .map(|k| {
                let along = (k / 4) * (side - 1) / (SAMPLES / 4 - 1);
                let (x, y) = [(along, 0), (along, side - 1), (0, along), (side - 1, along)][k % 4];
                colour(ground.good, ground, x, y)
            })
            .collect();
        let mut mean = [0.0; MAX_CHANNELS];
        border.iter().for_each(|b| mean.iter_mut().zip(b).for_each(|(m, v)| *m += v / SAMPLES as f32));
        let spread = border.iter().map(|b| difference(b, &mean)).sum::<f32>() / SAMPLES as f32;
        let mut survey =
            Self { background: (spread <= MAX_BORDER_SPREAD).then_some(mean), spread, roughness: 0.0 };
        let inside = (0..SAMPLES)
            .filter(|_| {
                let (x, y) = (r.random_range(0..side - 1), r.random_range(0..side));
                let [here, next] = [x, x + 1].map(|x| colour(ground.good, ground, x, y));
                // Edges are no roughness: they count as the most that a surface has.
                survey.roughness += difference(&here, &next).min(MAX_ROUGHNESS) / SAMPLES as f32;
                survey.is_part(ground, x, y)
            })
            .count();
        if (inside as f32) < MIN_PART * SAMPLES as f32 {
            survey.background = None;
        }
        survey
    }

    /// Whether the good shows the part at a pixel; everywhere without a background.
    pub fn is_part(&self, ground: &Ground, x: usize, y: usize) -> bool {
        self.background.is_none_or(|b| difference(&colour(ground.good, ground, x, y), &b) > PART_DIFFERENCE)
    }

    /// A place for a defect.
    pub fn place(&self, r: &mut Random, ground: &Ground) -> [f32; 2] {
        let side = ground.side as f32;
        let mut place = [0.0; 2];
        for _ in 0..TRIES {
            place = [r.random_range(0.0..side), r.random_range(0.0..side)];
            let (x, y) = (place[0] as usize, place[1] as usize);
            if ground.matters.is_some_and(|m| m[y * ground.side + x] < 0.5) {
                continue;
            }
            if self.is_part(ground, x, y) || r.random::<f32>() < OFF_PART {
                break;
            }
        }
        place
    }

    /// A place on the outline of the part, where there is one to be found.
    pub fn outline(&self, r: &mut Random, ground: &Ground) -> [f32; 2] {
        let start = self.place(r, ground);
        let (sin, cos) = angle(r).sin_cos();
        let side = ground.side as f32;
        let mut at = start;
        for _ in 0..ground.side {
            let next = [at[0] + cos, at[1] + sin];
            if next.iter().any(|v| !(0.0..side).contains(v)) {
                return start;
            }
            at = next;
            if !self.is_part(ground, at[0] as usize, at[1] as usize) {
                return at;
            }
        }
        start
    }

    /// Takes away what lies off the part: a stain or a scratch ends where the part ends.
    pub fn keep_on_part(&self, cover: &mut Cover, ground: &Ground) {
        if self.background.is_some() {
            cover.times(|x, y| f32::from(u8::from(self.is_part(ground, x, y))));
        }
    }
}

/// A pixel's colour; channels that the picture lacks are 0.
pub fn colour(picture: &[f32], ground: &Ground, x: usize, y: usize) -> [f32; MAX_CHANNELS] {
    let area = ground.side * ground.side;
    let mut out = [0.0; MAX_CHANNELS];
    for (c, v) in out.iter_mut().enumerate().take(ground.channels) {
        *v = picture[c * area + y * ground.side + x];
    }
    out
}

/// Mean brightness of the good in a box, from some of its pixels.
pub fn brightness(ground: &Ground, bounds: Bounds) -> f32 {
    let (mut sum, mut count) = (0.0, 0.0);
    let step = |length: usize| (length / 8).max(1);
    for y in (bounds.from[1]..bounds.to[1]).step_by(step(bounds.height())) {
        for x in (bounds.from[0]..bounds.to[0]).step_by(step(bounds.width())) {
            sum += colour(ground.good, ground, x, y).iter().sum::<f32>() / ground.channels as f32;
            count += 1.0;
        }
    }
    if count > 0.0 { sum / count } else { 128.0 }
}

fn difference(a: &[f32; MAX_CHANNELS], b: &[f32; MAX_CHANNELS]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
