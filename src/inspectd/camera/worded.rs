//! Defects of the simulated part that are drawn to fit words, and the sentence that says them.
//!
//! Terms. A *caption* is `[SIZE …] NOUN PLACE[, TONE]`, for example "short thin scratch across the rim, dark":
//!
//! | noun         | size                  | place                                     | tone          |
//! | ------------ | --------------------- | ----------------------------------------- | ------------- |
//! | scratch      | short/long, thin/wide | on the hub, on the face, across the rim   | bright, dark  |
//! | dent         | small/large           | on the hub, on the face                   | deep, shallow |
//! | stain        | small/large           | on the hub, on the face                   |               |
//! | missing hole |                       | on the face                               |               |
//! | chip         | small/large           | out of the rim, out of the flat           |               |
//! | burr         | narrow/broad          | in the bore, in a bolt hole               |               |
//!
//! What is drawn for one word keeps away from what is drawn for its opposite, so that each can be measured. The
//! words of a kind go through all their combinations in turn. Where no place that fits is found, another is
//! taken and the caption says that one: it is true of the defect that was drawn, not of the one that was wanted.
//! How tall a burr is and how dark a stain is are left to the process (see [`super::process`]).
//!
//! Never here: the defects that a line shows (see [`super::defect`]).

use std::f32::consts::{FRAC_PI_2, PI, TAU};

use super::defect::{BURR_TEETH, Defect, Kind, Ragged, SCRATCH_POINTS, Shape};
use super::part::{BORE, CHAMFER, FLAT, HOLE, HOLES, HOLES_AT, HUB, OUTER, Point, is_metal, outline};
use super::random::Random;

/// Purpose of the random stream of worded defects, and those of the following kinds.
const FOR_WORDED: u64 = 40;
/// How often a place is drawn before a fixed one is taken.
const PLACE_TRIES: usize = 4000;
/// Points of a scratch that may lie on the rim's chamfer or beyond, where it crosses that.
const POINTS_ON_RIM: std::ops::RangeInclusive<usize> = 2..=4;
/// Room between a defect and the step between hub and face, part units.
const STEP_ROOM: f32 = 3.0;
/// Length from which on a scratch is long, part units.
const LONG: f32 = 40.0;
/// Middle of a plain piece of the hub.
const ON_HUB: [f32; 2] = [-43.0, 0.0];

/// A defect and the words that are true of it.
#[derive(Debug)]
pub(super) struct Worded {
    pub(super) defect: Defect,
    pub(super) caption: String,
}

/// Which of its combinations of words a defect is drawn for: each call takes the next choice off it.
struct Choice(u64);

impl Choice {
    /// One of `from`.
    fn of<T: Copy, const N: usize>(&mut self, from: [T; N]) -> T {
        let count = N.max(1) as u64;
        let at = (self.0 % count) as usize;
        self.0 /= count;
        from[at]
    }
}

impl Worded {
    /// Defect `index` of a series, for part `number` of a seed: kinds take turns, and so do the words of each.
    pub(super) fn new(kinds: &[Kind], index: u64, seed: u64, number: u64) -> Self {
        let count = kinds.len().max(1) as u64;
        let kind = kinds.get((index % count) as usize).copied().unwrap_or(Kind::Scratch);
        let random = &mut Random::new(seed, number, FOR_WORDED + kind as u64);
        let mut choice = Choice(index / count);
        let (at, reach, shape, words) = match kind {
            Kind::Scratch => scratch(random, &mut choice),
            Kind::Dent => dent(random, &mut choice),
            Kind::Stain => stain(random, &mut choice),
            Kind::MissingHole => {
                let index = random.below(HOLES);
                (HOLES_AT[index], HOLE + 6.0, Shape::MissingHole { index }, "missing hole on the face".into())
            }
            Kind::Chip => chip(random, &mut choice),
            Kind::Burr => burr(random, &mut choice),
        };
        Self { defect: Defect { kind, at, reach, shape }, caption: words }
    }
}

type Drawn = ([f32; 2], f32, Shape, String);

fn scratch(random: &mut Random, choice: &mut Choice) -> Drawn {
    let place = choice.of(["on the hub", "on the face", "across the rim"]);
    let (size, [low, high]) = choice.of([("thin", [0.9, 1.2]), ("wide", [2.4, 3.0])]);
    let width = random.range(low, high);
    let (tone, sign, wall) = choice.of([("bright", 1.0, 0.0), ("dark", -1.0, 20.0)]);
    let contrast = sign * random.range(80.0, 95.0);
    let [shortest, longest] = choice.of([[20.0, 30.0], [48.0, 60.0]]);
    let mut drawn = (curve(ON_HUB, FRAC_PI_2, 20.0, 0.0), ON_HUB, 20.0, "on the hub");
    for _ in 0..PLACE_TRIES {
        let (length, bend) = (random.range(shortest, longest), random.range(-0.12, 0.12));
        let angle = random.range(0.0, TAU);
        let at = match place {
            "on the hub" => polar(random, BORE + 4.0, HUB - STEP_ROOM),
            "on the face" => polar(random, HUB + STEP_ROOM, OUTER - CHAMFER),
            _ => polar(random, OUTER - 0.5 * length, OUTER),
        };
        let points = curve(at, angle, length, bend);
        if scratch_place(&points) == Some(place) {
            drawn = (points, at, length, place);
            break;
        }
    }
    let (points, at, length, place) = drawn;
    let long = if length < LONG { "short" } else { "long" };
    let shape = Shape::Scratch { points, width, contrast, wall };
    (at, 0.6 * length + 8.0, shape, format!("{long} {size} scratch {place}, {tone}"))
}

/// A curve round its middle: `bend` is the height of its arc as a share of `length`.
fn curve(at: [f32; 2], angle: f32, length: f32, bend: f32) -> [[f32; 2]; SCRATCH_POINTS] {
    let (sin, cos) = angle.sin_cos();
    std::array::from_fn(|i| {
        let along = i as f32 / (SCRATCH_POINTS - 1) as f32 - 0.5;
        let (a, b) = (along * length, bend * length * (4.0 * along * along - 1.0));
        [at[0] + cos * a - sin * b, at[1] + sin * a + cos * b]
    })
}

/// Where all of a scratch is; none where it leaves plain metal but for the rim.
fn scratch_place(points: &[[f32; 2]; SCRATCH_POINTS]) -> Option<&'static str> {
    let edge = |[u, v]: &[f32; 2]| outline(&Point::new(*u, *v)).0;
    let (rim, rest): (Vec<[f32; 2]>, Vec<_>) = points.iter().partition(|at| edge(at) > -CHAMFER);
    let plain = rest.iter().all(|[u, v]| is_metal(*u, *v, 3.5_f32.min(CHAMFER)));
    let radius = |[u, v]: &[f32; 2]| u.hypot(*v);
    let on_face = rest.iter().all(|at| radius(at) > HUB + STEP_ROOM);
    let on_hub = rest.iter().all(|at| radius(at) < HUB - STEP_ROOM);
    match rim.len() {
        _ if !plain => None,
        0 if on_hub => Some("on the hub"),
        0 if on_face => Some("on the face"),
        count if on_face && POINTS_ON_RIM.contains(&count) => Some("across the rim"),
        _ => None,
    }
}

fn dent(random: &mut Random, choice: &mut Choice) -> Drawn {
    let place = choice.of(["on the hub", "on the face"]);
    let (size, [low, high]) = choice.of([("small", [5.0, 6.0]), ("large", [8.5, 10.0])]);
    let sides = [random.range(low, high), random.range(low, high)];
    let (tone, [low, high]) = choice.of([("deep", [85.0, 100.0]), ("shallow", [40.0, 50.0])]);
    let depth = random.range(low, high);
    let (sin, cos) = random.range(0.0, PI).sin_cos();
    let (at, place) = spot(random, place, sides[0].max(sides[1]));
    let shape = Shape::Dent { sides, cos, sin, depth };
    (at, 10.5, shape, format!("{size} dent {place}, {tone}"))
}

fn stain(random: &mut Random, choice: &mut Choice) -> Drawn {
    let place = choice.of(["on the hub", "on the face"]);
    let (size, [low, high]) = choice.of([("small", [6.0, 7.5]), ("large", [12.0, 14.0])]);
    let (radius, dark) = (random.range(low, high), random.range(0.24, 0.28));
    // A large one may hang over an edge.
    let (at, place) = spot(random, place, radius.min(8.0));
    let shape = Shape::Stain { radius, dark, ragged: Ragged::new(random, 0.075) };
    (at, radius * 1.6, shape, format!("{size} stain {place}"))
}

/// The middle of a place on plain metal, `room` from its edges, and which place that is.
fn spot(random: &mut Random, place: &'static str, room: f32) -> ([f32; 2], &'static str) {
    let [inner, outer] = match place {
        "on the hub" => [BORE + room, HUB - STEP_ROOM - room],
        _ => [HUB + STEP_ROOM + room, OUTER - room],
    };
    for _ in 0..PLACE_TRIES {
        let [u, v] = polar(random, inner.min(outer), outer.max(inner));
        if is_metal(u, v, room) {
            return ([u, v], place);
        }
    }
    (ON_HUB, "on the hub")
}

/// A point at a distance from the part's middle.
fn polar(random: &mut Random, low: f32, high: f32) -> [f32; 2] {
    let (radius, (sin, cos)) = (random.range(low, high), random.range(0.0, TAU).sin_cos());
    [radius * cos, radius * sin]
}

fn chip(random: &mut Random, choice: &mut Choice) -> Drawn {
    let flat = choice.of([false, true]);
    let (size, [low, high]) = choice.of([("small", [6.0, 7.0]), ("large", [10.0, 12.0])]);
    let radius = random.range(low, high);
    // The flat ends 24 degrees to both sides of the vertical, where it meets the round.
    let (place, off, far) = if flat {
        ("out of the flat", random.range(-0.2, 0.2), None)
    } else {
        ("out of the rim", random.range(0.65, TAU - 0.65), Some(OUTER))
    };
    let (sin, cos) = (off - FRAC_PI_2).sin_cos();
    let far = far.unwrap_or(FLAT / -sin);
    let shape = Shape::Chip { radius, ragged: Ragged::new(random, 0.10) };
    ([far * cos, far * sin], 2.0 * radius + 5.0, shape, format!("{size} chip {place}"))
}

fn burr(random: &mut Random, choice: &mut Choice) -> Drawn {
    let in_bore = choice.of([true, false]);
    let broad = choice.of([false, true]);
    let (at, radius, tall, place) = if in_bore {
        ([0.0, 0.0], BORE, 10.0, "in the bore")
    } else {
        (HOLES_AT[random.below(HOLES)], HOLE, 8.5, "in a bolt hole")
    };
    let half = match (in_bore, broad) {
        (true, false) => random.range(0.35, 0.45),
        (true, true) => random.range(0.9, 1.1),
        (false, false) => random.range(0.8, 1.0),
        (false, true) => random.range(1.8, 2.2),
    };
    // The keyway breaks the bore's edge below: stay on the upper part of it.
    let middle = if in_bore { random.range(-PI, 0.0) } else { random.range(-PI, PI) };
    let teeth = std::array::from_fn(|i| {
        let along = 2.0 * i as f32 / (BURR_TEETH - 1) as f32 - 1.0;
        tall * (1.0 - along * along) * random.range(0.8, 1.0)
    });
    let size = if broad { "broad" } else { "narrow" };
    let shape = Shape::Burr { radius, middle, half, teeth };
    (at, radius + 4.0, shape, format!("{size} burr {place}"))
}
