//! Defects of the simulated part, and how each changes its picture.
//!
//! Terms as in [`super::part`]: part units, distances negative inside, shades before lighting.
//!
//! Sizes and contrasts are drawn so that every defect stands well above noise and pose jitter, also at half
//! the resolution: the simulated line shows whether the way of a part works, not what the finest visible flaw is.
//!
//! Never here: when a part has a defect (see [`super::simulated`]); defects that fit words (see [`super::worded`]).

use std::f32::consts::{PI, TAU};

use serde::{Deserialize, Serialize};

use super::part::{BORE, FLAT, HOLE, HOLES, HOLES_AT, LIGHT, OUTER, Point, cover, dot, is_metal, smooth};
use super::process::Process;
use super::random::Random;

/// Purpose of the random stream of defects.
const FOR_DEFECT: u64 = 5;
/// Points of a scratch's curve.
pub(super) const SCRATCH_POINTS: usize = 14;
/// How often a place for a defect is drawn before a fixed one is taken.
const PLACE_TRIES: usize = 64;
/// Heights of a burr's edge.
pub(super) const BURR_TEETH: usize = 16;
/// Waves round a ragged outline.
const WAVES: usize = 4;
/// How much darker the wall of a scratch is that looks away from the light.
const SCRATCH_WALL: f32 = 42.0;
/// Least and full change of a shade at which the process is seen in a defect.
const CHANGED: [f32; 2] = [0.0, 12.0];

/// Kinds of defects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Kind {
    /// A curved groove across the metal.
    Scratch,
    /// A blow mark with a lit and a dark wall.
    Dent,
    /// Dried coolant or oil.
    Stain,
    /// One bolt hole was not drilled.
    MissingHole,
    /// A piece broken out of the rim.
    Chip,
    /// Ragged metal that hangs over the edge of a hole.
    Burr,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Scratch, Self::Dent, Self::Stain, Self::MissingHole, Self::Chip, Self::Burr];

    /// The truth of a part that has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scratch => "scratch",
            Self::Dent => "dent",
            Self::Stain => "stain",
            Self::MissingHole => "missing_hole",
            Self::Chip => "chip",
            Self::Burr => "burr",
        }
    }
}

/// A ragged circle: radius as a share of its own, by angle.
#[derive(Debug, Clone)]
pub(super) struct Ragged([[f32; 2]; WAVES]);

impl Ragged {
    pub(super) fn new(random: &mut Random, height: f32) -> Self {
        Self(std::array::from_fn(|_| [random.range(0.3, 1.0) * height, random.range(0.0, TAU)]))
    }

    fn at(&self, angle: f32) -> f32 {
        let wave = |(i, [height, phase]): (usize, &[f32; 2])| height * ((i + 2) as f32 * angle + phase).cos();
        1.0 + self.0.iter().enumerate().map(wave).sum::<f32>()
    }
}

#[derive(Debug, Clone)]
pub(super) enum Shape {
    Scratch { points: [[f32; 2]; SCRATCH_POINTS], width: f32, contrast: f32, wall: f32 },
    Dent { sides: [f32; 2], cos: f32, sin: f32, depth: f32 },
    Stain { radius: f32, dark: f32, ragged: Ragged },
    MissingHole { index: usize },
    Chip { radius: f32, ragged: Ragged },
    Burr { radius: f32, middle: f32, half: f32, teeth: [f32; BURR_TEETH] },
}

/// One defect on one part.
#[derive(Debug, Clone)]
pub(super) struct Defect {
    pub(super) kind: Kind,
    pub(super) at: [f32; 2],
    /// Nothing farther from `at` is changed.
    pub(super) reach: f32,
    pub(super) shape: Shape,
}

impl Defect {
    /// The defect that part `number` of a seed has if it has one, of a kind drawn evenly.
    pub(super) fn of_part(seed: u64, number: u64) -> Self {
        let kind = Kind::ALL[Random::new(seed, number, FOR_DEFECT).below(Kind::ALL.len())];
        Self::new(kind, seed, number)
    }

    /// A defect of a given kind for part `number` of a seed.
    pub(super) fn new(kind: Kind, seed: u64, number: u64) -> Self {
        let random = &mut Random::new(seed, number, FOR_DEFECT + 1 + kind as u64);
        let (at, reach, shape) = match kind {
            Kind::Scratch => scratch(random),
            Kind::Dent => {
                let sides = [random.range(7.0, 10.0), random.range(7.0, 10.0)];
                let (sin, cos) = random.range(0.0, PI).sin_cos();
                let depth = random.range(60.0, 90.0);
                (place(random, 8.0), 10.5, Shape::Dent { sides, cos, sin, depth })
            }
            Kind::Stain => {
                let (radius, dark) = (random.range(9.0, 16.0), random.range(0.30, 0.45));
                let ragged = Ragged::new(random, 0.075);
                (place(random, 7.0), radius * 1.6, Shape::Stain { radius, dark, ragged })
            }
            Kind::MissingHole => {
                let index = random.below(HOLES);
                (HOLES_AT[index], HOLE + 6.0, Shape::MissingHole { index })
            }
            Kind::Chip => chip(random),
            Kind::Burr => burr(random),
        };
        Self { kind, at, reach, shape }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Where it is, part units.
    #[cfg(test)]
    pub(super) fn at(&self) -> ([f32; 2], f32) {
        (self.at, self.reach)
    }

    /// The bolt hole that is not there.
    pub(super) fn missing_hole(&self) -> Option<usize> {
        match self.shape {
            Shape::MissingHole { index } => Some(index),
            _ => None,
        }
    }

    /// The same defect made by `process`.
    pub(super) fn made_by(mut self, process: &Process) -> Self {
        if let Shape::Burr { teeth, .. } = &mut self.shape {
            teeth.iter_mut().for_each(|tooth| *tooth *= process.burr_share());
        }
        self
    }

    /// Shade of a place with the defect, `without` it being known, after a process that acts on the defect alone.
    pub(super) fn finish(&self, p: &Point, shade: f32, without: f32, process: &Process, unit: f32) -> f32 {
        let changed = smooth(CHANGED[0], CHANGED[1], (shade - without).abs());
        let tinted = if self.kind == Kind::Scratch { shade.min(without) } else { shade };
        process.finish(p, shade, tinted, changed, unit)
    }

    /// Whether the defect may change the part at a place.
    pub(super) fn reaches(&self, p: &Point) -> bool {
        self.near(p).is_some()
    }

    /// Offset and distance from the defect's middle, if it reaches so far.
    fn near(&self, p: &Point) -> Option<([f32; 2], f32)> {
        let from = [p.u - self.at[0], p.v - self.at[1]];
        let squared = dot(from, from);
        (squared < self.reach * self.reach).then(|| (from, squared.sqrt()))
    }

    /// Signed distance to the flange's outline where a piece is broken out of it.
    pub(super) fn cut(&self, p: &Point, edge: f32) -> f32 {
        self.chip_distance(p).map_or(edge, |chip| edge.max(-chip))
    }

    /// Signed distance to the chip's outline, negative in the gap.
    fn chip_distance(&self, p: &Point) -> Option<f32> {
        let Shape::Chip { radius, ragged } = &self.shape else {
            return None;
        };
        let (from, distance) = self.near(p)?;
        Some(distance - radius * ragged.at(from[1].atan2(from[0])))
    }

    /// Shade of the metal's surface with the defect in it.
    pub(super) fn shade(&self, p: &Point, shade: f32) -> f32 {
        let Some((from, distance)) = self.near(p) else {
            return shade;
        };
        match &self.shape {
            Shape::Scratch { points, width, contrast, wall } => {
                let (across, side, along) = curve_distance(points, [p.u, p.v]);
                // Thin at both ends; the wall towards the light lies in the dark.
                let width = width * (0.35 + 2.6 * along * (1.0 - along)).min(1.0);
                let groove = smooth(width + 0.9, width * 0.4, across);
                let lip = smooth(1.1, 0.2, (side - width - 0.9).abs());
                shade + contrast * groove - wall * lip * (1.0 - groove)
            }
            Shape::Dent { sides, cos, sin, depth } => {
                let (a, b) = (cos * from[0] + sin * from[1], cos * from[1] - sin * from[0]);
                let square = (a / sides[0]).powi(2) + (b / sides[1]).powi(2);
                if square >= 1.0 {
                    return shade;
                }
                let steep = 2.6 * square.sqrt() * (1.0 - square);
                let facing = -dot(from, LIGHT) / distance.max(1e-3);
                shade + depth * steep * facing - 0.45 * depth * (1.0 - square).powi(2)
            }
            Shape::Stain { radius, dark, ragged } => {
                let share = distance / (radius * ragged.at(from[1].atan2(from[0])));
                let body = smooth(1.08, 0.9, share);
                let rim = smooth(0.18, 0.02, (share - 0.93).abs());
                shade * (1.0 - dark * body * (0.8 + 0.2 * share) - 0.16 * rim)
            }
            Shape::Chip { .. } => {
                // Broken metal around the gap: bright grain where it looks at the light, dark elsewhere.
                let Some(gap) = self.chip_distance(p) else {
                    return shade;
                };
                let facing = -dot(from, LIGHT) / distance.max(1e-3);
                let facet = (1.9 * from[0]).sin() * (2.3 * from[1]).sin();
                let broken = 128.0 + 85.0 * facing + 35.0 * facet;
                shade + (broken - shade) * smooth(4.5, 2.5, gap)
            }
            Shape::MissingHole { .. } | Shape::Burr { .. } => shade,
        }
    }

    /// Shade where the defect stands above everything else.
    pub(super) fn raise(&self, p: &Point, shade: f32, unit: f32) -> f32 {
        let Shape::Burr { radius, middle, half, teeth } = &self.shape else {
            return shade;
        };
        let Some((from, distance)) = self.near(p) else {
            return shade;
        };
        let mut angle = from[1].atan2(from[0]) - middle;
        angle -= TAU * (angle / TAU).round();
        let along = (angle / half + 1.0) / 2.0;
        if !(0.0..1.0).contains(&along) {
            return shade;
        }
        let position = along * (BURR_TEETH - 1) as f32;
        let tooth = (position as usize).min(BURR_TEETH - 2);
        let between = position - tooth as f32;
        let height = teeth[tooth] + (teeth[tooth + 1] - teeth[tooth]) * between;
        let inside = radius - distance;
        // From a little outside the edge to as far into the hole as the burr hangs.
        let sheet = (inside - height).max(-inside - 1.5);
        let glint = 165.0 + 8.0 * height - 5.0 * inside.max(0.0);
        shade + (glint - shade) * cover(sheet, unit)
    }
}

/// A place on plain metal with `room` around it.
fn place(random: &mut Random, room: f32) -> [f32; 2] {
    for _ in 0..PLACE_TRIES {
        let [u, v] = [random.range(-OUTER, OUTER), random.range(-OUTER, OUTER)];
        if is_metal(u, v, room) {
            return [u, v];
        }
    }
    [-43.0, 0.0]
}

fn scratch(random: &mut Random) -> ([f32; 2], f32, Shape) {
    let (width, contrast) = (random.range(1.0, 1.7), random.range(60.0, 95.0));
    let mut best = (0, [[-43.0, 0.0]; SCRATCH_POINTS], [-43.0, 0.0], 1.0);
    for _ in 0..PLACE_TRIES {
        let at = place(random, 3.0);
        let (length, bend) = (random.range(34.0, 68.0), random.range(-0.16, 0.16));
        let (sin, cos) = random.range(0.0, TAU).sin_cos();
        let points = std::array::from_fn(|i| {
            let along = i as f32 / (SCRATCH_POINTS - 1) as f32 - 0.5;
            let (a, b) = (along * length, bend * length * (4.0 * along * along - 1.0));
            [at[0] + cos * a - sin * b, at[1] + sin * a + cos * b]
        });
        let seen = points.iter().filter(|[u, v]| is_metal(*u, *v, 3.5)).count();
        if seen > best.0 {
            best = (seen, points, at, length);
        }
        if seen + 2 >= SCRATCH_POINTS {
            break;
        }
    }
    let (_, points, at, length) = best;
    (at, 0.6 * length + 6.0, Shape::Scratch { points, width, contrast, wall: SCRATCH_WALL })
}

fn chip(random: &mut Random) -> ([f32; 2], f32, Shape) {
    let radius = random.range(7.0, 11.0);
    let (sin, cos) = random.range(0.0, TAU).sin_cos();
    // On the flat where the flat lies nearer than the round.
    let rim = if -sin * OUTER > FLAT { FLAT / -sin } else { OUTER };
    let at = [rim * cos, rim * sin];
    (at, 2.0 * radius + 5.0, Shape::Chip { radius, ragged: Ragged::new(random, 0.10) })
}

fn burr(random: &mut Random) -> ([f32; 2], f32, Shape) {
    let in_bore = random.unit() < 0.5;
    let (at, radius, tall) = if in_bore {
        ([0.0, 0.0], BORE, random.range(8.0, 11.0))
    } else {
        (HOLES_AT[random.below(HOLES)], HOLE, random.range(7.5, 10.0))
    };
    // The keyway breaks the bore's edge below: stay on the upper part of it.
    let middle = if in_bore { random.range(-PI, 0.0) } else { random.range(-PI, PI) };
    let half = if in_bore { random.range(0.45, 0.75) } else { random.range(1.1, 1.5) };
    let teeth = std::array::from_fn(|i| {
        let along = 2.0 * i as f32 / (BURR_TEETH - 1) as f32 - 1.0;
        tall * (1.0 - along * along) * random.range(0.6, 1.0)
    });
    (at, radius + 4.0, Shape::Burr { radius, middle, half, teeth })
}

/// Distance to a curve, the same with the sign of the side towards the light negative, and where along it (0 to 1).
fn curve_distance(points: &[[f32; 2]; SCRATCH_POINTS], at: [f32; 2]) -> (f32, f32, f32) {
    let mut nearest = (f32::INFINITY, 0.0, 0.0);
    for (i, pair) in points.windows(2).enumerate() {
        let along = [pair[1][0] - pair[0][0], pair[1][1] - pair[0][1]];
        let from = [at[0] - pair[0][0], at[1] - pair[0][1]];
        let t = (dot(from, along) / dot(along, along).max(1e-6)).clamp(0.0, 1.0);
        let off = [from[0] - t * along[0], from[1] - t * along[1]];
        let squared = dot(off, off);
        if squared < nearest.0 {
            let side = if dot(off, LIGHT) > 0.0 { -1.0 } else { 1.0 };
            nearest = (squared, side, (i as f32 + t) / (SCRATCH_POINTS - 1) as f32);
        }
    }
    let distance = nearest.0.sqrt();
    (distance, distance * nearest.1, nearest.2)
}
