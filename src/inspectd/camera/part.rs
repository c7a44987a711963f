//! Pictures of a simulated part: a turned flange with a flat, bore and keyway, six bolt holes and a dowel hole,
//! lying on a dark fixture under light from the upper left.
//!
//! Terms. Lengths are in *part units*, of which the shorter side of the picture has 256; u goes right and v
//! down from the middle of the part. Distances to an outline are negative inside (signed distance). Shades are
//! grey levels, 0 to 255, before lighting.
//!
//! Part i of seed s is always the same picture, and a defect changes nothing of the part that has it but the
//! place where it is: pose, texture and light come from other random streams than the defect.
//!
//! A process ([`super::process`]) changes the turned surfaces and the defect; without one nothing of it is drawn.
//!
//! Never here: pace, truth rates (see [`super::simulated`]); anything that a model could learn of a defect but
//! its looks.

use std::f32::consts::TAU;

use inspect_core::image::{Image, ImageError};

use super::defect::Defect;
use super::process::{ActsOn, Process};
use super::random::{Random, mix, noise4};

/// Part units along the shorter side of the picture.
const UNITS: f32 = 256.0;
/// Radius of the flange.
pub(super) const OUTER: f32 = 104.0;
/// Distance of the flat from the middle, upwards.
pub(super) const FLAT: f32 = 95.0;
/// Radius of the raised hub.
pub(super) const HUB: f32 = 57.0;
/// Radius of the bore.
pub(super) const BORE: f32 = 29.0;
/// Half width of the keyway.
const KEYWAY_HALF: f32 = 6.5;
/// Distance of the keyway's bottom from the middle, downwards.
const KEYWAY_END: f32 = 37.0;
/// Radius of the circle on which the bolt holes lie.
pub(super) const PITCH: f32 = 80.0;
/// Number of bolt holes.
pub(super) const HOLES: usize = 6;
/// Radius of a bolt hole.
pub(super) const HOLE: f32 = 9.0;
/// Radius of the dowel hole, a sixth of the way round between the first two bolt holes.
const DOWEL: f32 = 4.5;
/// Width of the chamfers.
pub(super) const CHAMFER: f32 = 4.0;
/// Towards the light, in the picture.
pub(super) const LIGHT: [f32; 2] = [-0.6, -0.8];

/// Largest shift of a part in its fixture, part units.
const SHIFT: f32 = 2.0;
/// Largest turn of a part in its fixture.
const TURN_DEGREES: f32 = 1.2;
/// Standard deviation of the camera's noise, grey levels.
const NOISE: f32 = 2.0;
/// Rings of tooling texture that are drawn at random for each part, one a part unit.
const RINGS: usize = 128;

/// Purposes of random streams: they keep pose and texture apart from defects.
const FOR_FIXTURE: u64 = 1;
const FOR_PART: u64 = 2;
const FOR_NOISE: u64 = 3;
const FOR_DRIFT: u64 = 4;

/// What is the same for every part of one camera: size, fixture, vignette.
pub(super) struct Scene {
    seed: u64,
    width: u32,
    height: u32,
    /// Part units a pixel.
    unit: f32,
    /// Shade of the empty fixture. Shape: `[height, width]`.
    fixture: Vec<f32>,
}

/// How one part lies, looks and is lit.
pub(super) struct Pose {
    shift: [f32; 2],
    cos: f32,
    sin: f32,
    /// Tooling texture by radius.
    rings: [f32; RINGS],
    /// Brightness of face and hub.
    face: f32,
    hub: f32,
    /// Light: all of it, and its slope across the picture.
    gain: f32,
    slope: [f32; 2],
}

/// What is not the same for every part but its pose: its defect, and the process that made it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Made<'a> {
    pub(super) defect: Option<&'a Defect>,
    pub(super) process: Option<&'a Process>,
}

/// One point on the part's surface, for shading.
pub(super) struct Point {
    pub(super) u: f32,
    pub(super) v: f32,
    /// Distance from the middle, and the direction away from it.
    pub(super) r: f32,
    pub(super) out: [f32; 2],
}

impl Point {
    pub(super) fn new(u: f32, v: f32) -> Self {
        let r = (u * u + v * v).sqrt();
        let inverse = 1.0 / r.max(1e-3);
        Self { u, v, r, out: [u * inverse, v * inverse] }
    }
}

/// How much of a pixel `unit` wide lies inside an outline at `distance`.
pub(super) fn cover(distance: f32, unit: f32) -> f32 {
    (0.5 - distance / unit).clamp(0.0, 1.0)
}

/// 0 below `low`, 1 above `high`, smooth between.
pub(super) fn smooth(low: f32, high: f32, x: f32) -> f32 {
    let t = ((x - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

pub(super) fn dot(a: [f32; 2], b: [f32; 2]) -> f32 {
    a[0] * b[0] + a[1] * b[1]
}

fn blend(below: f32, above: f32, share: f32) -> f32 {
    below + (above - below) * share
}

/// Middles of the bolt holes, a sixth of a turn apart: written out, as each pixel asks for them.
pub(super) const HOLES_AT: [[f32; 2]; HOLES] = {
    const X: f32 = 0.866_025_4 * PITCH;
    const Y: f32 = 0.5 * PITCH;
    [[X, Y], [0.0, PITCH], [-X, Y], [-X, -Y], [0.0, -PITCH], [X, -Y]]
};

/// Signed distance to the flange's outline, and the direction out of it.
pub(super) fn outline(p: &Point) -> (f32, [f32; 2]) {
    let (round, flat) = (p.r - OUTER, -p.v - FLAT);
    if flat > round { (flat, [0.0, -1.0]) } else { (round, p.out) }
}

/// Signed distance to bore and keyway, and the direction out of them.
pub(super) fn bore(p: &Point) -> (f32, [f32; 2]) {
    let round = p.r - BORE;
    let (side, end) = (p.u.abs() - KEYWAY_HALF, (p.v - KEYWAY_END).max(-p.v));
    let slot = side.max(end);
    if slot >= round {
        (round, p.out)
    } else if side > end {
        (slot, [p.u.signum(), 0.0])
    } else {
        (slot, [0.0, 1.0])
    }
}

/// Signed distance to the nearest of the bolt holes and the dowel hole, and the direction out of it.
fn nearest_hole(p: &Point, missing: Option<usize>) -> (f32, [f32; 2]) {
    const DOWEL_AT: [f32; 2] = [PITCH, 0.0];
    let square = |centre: [f32; 2]| (p.u - centre[0]).powi(2) + (p.v - centre[1]).powi(2);
    let mut nearest = (square(DOWEL_AT), DOWEL_AT, DOWEL);
    for (i, &centre) in HOLES_AT.iter().enumerate() {
        let this = square(centre);
        // The dowel hole is so far from the others that their radii do not matter for which is nearest.
        if this < nearest.0 && Some(i) != missing {
            nearest = (this, centre, HOLE);
        }
    }
    let (square, centre, radius) = nearest;
    let (distance, inverse) = (square.sqrt(), 1.0 / square.sqrt().max(1e-3));
    let out = [(p.u - centre[0]) * inverse, (p.v - centre[1]) * inverse];
    (distance - radius, out)
}

/// Whether there is plain metal around a point, `room` part units on each side: where surface defects can lie.
pub(super) fn is_metal(u: f32, v: f32, room: f32) -> bool {
    let p = Point::new(u, v);
    outline(&p).0 < -room && bore(&p).0 > room && nearest_hole(&p, None).0 > room
}

impl Pose {
    /// How part `number` of a seed lies, looks and is lit.
    pub(super) fn new(seed: u64, number: u64) -> Self {
        let mut random = Random::new(seed, number, FOR_PART);
        let shift = [random.range(-SHIFT, SHIFT), random.range(-SHIFT, SHIFT)];
        let (sin, cos) = random.range(-TURN_DEGREES, TURN_DEGREES).to_radians().sin_cos();
        let mut rings = [0.0; RINGS];
        let (mut coarse, phase) = (0.0, random.range(0.0, TAU));
        for (radius, ring) in rings.iter_mut().enumerate() {
            // Feed marks of a regular pitch, the tool's slow wander, and single grooves.
            coarse = 0.8 * coarse + random.range(-1.6, 1.6);
            *ring = 3.2 * (radius as f32 * TAU / 4.6 + phase).sin() + coarse + random.range(-2.5, 2.5);
        }
        let (face, hub) = (random.range(128.0, 136.0), random.range(164.0, 172.0));
        let mut drift = Random::new(seed, 0, FOR_DRIFT);
        let mut wave = |period: f32| (number as f32 * TAU / period + drift.range(0.0, TAU)).sin();
        let gain = 1.0 + 0.05 * wave(397.0) + 0.02 * wave(83.0) + random.range(-0.01, 0.01);
        let slope = [0.03 * wave(251.0), 0.03 * wave(311.0)];
        Self { shift, cos, sin, rings, face, hub, gain, slope }
    }

    /// Tooling texture at a radius.
    fn ring(&self, r: f32) -> f32 {
        let at = (r.max(0.0) as usize).min(RINGS - 2);
        blend(self.rings[at], self.rings[at + 1], (r - at as f32).clamp(0.0, 1.0))
    }

    /// Shade of the part alone at a point, and how much of the pixel it covers.
    fn shade(&self, p: &Point, made: Made, unit: f32) -> (f32, f32) {
        let (shade, covered) = self.bare(p, made, unit);
        match made {
            Made { defect: Some(defect), process: Some(process) }
                if process.acts_on() == ActsOn::Defect && covered > 0.0 && defect.reaches(p) =>
            {
                let (without, _) = self.bare(p, Made::default(), unit);
                (defect.finish(p, shade, without, process, unit), covered)
            }
            _ => (shade, covered),
        }
    }

    /// The same before a process that acts on the defect alone.
    fn bare(&self, p: &Point, Made { defect, process }: Made, unit: f32) -> (f32, f32) {
        let (edge, edge_out) = outline(p);
        let covered = cover(defect.map_or(edge, |d| d.cut(p, edge)), unit);
        if covered <= 0.0 {
            return (0.0, 0.0);
        }
        let mut shade = self.face(p, unit);
        // Chamfer of the rim: leans outwards, so it is lit where it looks at the light.
        shade = blend(shade, 120.0 + 75.0 * dot(edge_out, LIGHT), cover(-CHAMFER - edge, unit));
        if let Some(defect) = defect {
            shade = defect.shade(p, shade);
        }
        if let Some(process) = process.filter(|process| process.acts_on() == ActsOn::Part) {
            shade = process.finish(p, shade, shade, 1.0, unit);
        }
        if (p.r - PITCH).abs() < HOLE + CHAMFER + 2.0 {
            let missing = defect.and_then(Defect::missing_hole);
            shade = recess(shade, nearest_hole(p, missing), 3.0, 16.0, unit);
        }
        if p.r < KEYWAY_END + CHAMFER + 4.0 {
            shade = recess(shade, bore(p), CHAMFER, 22.0, unit);
        }
        if let Some(defect) = defect {
            shade = defect.raise(p, shade, unit);
        }
        (shade, covered)
    }

    /// Shade of flange face and hub, with the step between.
    fn face(&self, p: &Point, unit: f32) -> f32 {
        // Turned metal mirrors a lamp as two bright sectors across the rings' direction:
        // cos(2 (angle - angle of the light)) without an arc tangent.
        let along = dot(p.out, LIGHT);
        let sheen = 2.0 * along * along - 1.0;
        let face = self.face + 15.0 * sheen + self.ring(p.r);
        let hub = self.hub + 9.0 * sheen + 0.6 * self.ring(p.r + 40.0);
        let mut shade = blend(face, hub, cover(p.r - HUB, unit));
        // The hub stands above the face: a lit flank towards the light and a soft shadow away from it.
        let flank = 1.0 - smooth(1.5, 3.5, (p.r - HUB).abs());
        shade = blend(shade, 110.0 + 85.0 * along, flank);
        let shadow =
            smooth(HUB + 14.0, HUB + 2.0, p.r) * smooth(0.0, 0.9, -along) * smooth(HUB, HUB + 2.0, p.r);
        shade * (1.0 - 0.28 * shadow)
    }
}

/// A hole with a countersink of width `sink` sunk into `shade`: `depth` is the shade of its bottom.
fn recess(shade: f32, (distance, out): (f32, [f32; 2]), sink: f32, bottom: f32, unit: f32) -> f32 {
    if distance > sink + unit {
        return shade;
    }
    // The countersink leans inwards: it is lit on the side away from the light. So is the wall below it.
    let facing = -dot(out, LIGHT);
    let ring = 116.0 + 78.0 * facing;
    let wall = bottom + 40.0 * facing.max(0.0) * smooth(-5.0, 0.0, distance);
    let shade = blend(shade, ring, cover(distance - sink, unit));
    blend(shade, wall, cover(distance, unit))
}

impl Scene {
    /// The fixture and camera of a seed. Sides are pixels, at least 1.
    pub(super) fn new(seed: u64, width: u32, height: u32) -> Self {
        let unit = UNITS / width.min(height).max(1) as f32;
        let mut scene = Self { seed, width, height, unit, fixture: Vec::new() };
        let mut fixture = Vec::with_capacity(width as usize * height as usize);
        for y in 0..height {
            for x in 0..width {
                let [u, v] = scene.place(x, y);
                fixture.push(empty_fixture(u, v, unit));
            }
        }
        scene.fixture = fixture;
        scene
    }

    /// Part units of a pixel's middle, from the middle of the picture.
    fn place(&self, x: u32, y: u32) -> [f32; 2] {
        let from_middle = |at: u32, side: u32| (at as f32 + 0.5 - side as f32 / 2.0) * self.unit;
        [from_middle(x, self.width), from_middle(y, self.height)]
    }

    /// The picture of part `number`, with a defect or without, after a process or without.
    ///
    /// Errors: [`ImageError::Shape`] if the sides are no image's.
    pub(super) fn render(&self, number: u64, made: Made) -> Result<Image, ImageError> {
        let pose = Pose::new(self.seed, number);
        let noise_seed = mix(self.seed ^ mix(number ^ mix(FOR_NOISE)));
        let mut data = Vec::with_capacity(self.fixture.len());
        let mut noise = [0.0; 4];
        for y in 0..self.height {
            for x in 0..self.width {
                let at = data.len();
                if at % 4 == 0 {
                    noise = noise4(mix(noise_seed.wrapping_add(at as u64)));
                }
                let [a, b] = self.place(x, y);
                let lit = pose.gain + (pose.slope[0] * a + pose.slope[1] * b) / (UNITS / 2.0);
                let vignette = 1.0 - 0.10 * (a * a + b * b) / (UNITS * UNITS / 2.0);
                let shade = self.shade(&pose, [a, b], self.fixture[at], made) * lit * vignette;
                // Shot noise grows with the light, read noise does not.
                let sigma = NOISE * (0.6 + 0.4 * shade / 128.0);
                data.push((shade + sigma * noise[at % 4] + 0.5).clamp(0.0, 255.0) as u8);
            }
        }
        Image::new(self.width, self.height, 1, data)
    }

    /// Shade at a place in the picture: fixture, the part's shadow on it, the part.
    fn shade(&self, pose: &Pose, [a, b]: [f32; 2], fixture: f32, made: Made) -> f32 {
        let (x, y) = (a - pose.shift[0], b - pose.shift[1]);
        let p = Point::new(pose.cos * x + pose.sin * y, pose.cos * y - pose.sin * x);
        if p.r > OUTER + 24.0 {
            return fixture;
        }
        let (shade, covered) = pose.shade(&p, made, self.unit);
        if covered >= 1.0 {
            return shade;
        }
        let cast = Point::new(p.u + 7.0 * LIGHT[0], p.v + 7.0 * LIGHT[1]);
        let shadow = smooth(10.0, -6.0, outline(&cast).0);
        blend(fixture * (1.0 - 0.6 * shadow), shade, covered)
    }
}

/// Shade of the fixture without a part: a blasted plate with grooves, a stop and two clamping screws.
fn empty_fixture(u: f32, v: f32, unit: f32) -> f32 {
    let grain = |scale: f32, salt: u64| {
        let cell = |x: f32| (x / scale).floor() as i64 as u64;
        let [value, ..] = noise4(mix(cell(u) ^ mix(cell(v) ^ mix(FOR_FIXTURE + salt))));
        value
    };
    let mut shade = 40.0 + 2.0 * grain(2.0, 0) + 1.5 * grain(5.0, 1);
    // Grooves of the plate.
    for groove in [-112.0, 112.0] {
        shade = blend(shade, 20.0, cover((u - groove).abs() - 2.0, unit));
        shade = blend(shade, 62.0, cover((u - groove - 2.8).abs() - 0.7, unit));
    }
    // Two screws in the lower corners, one stop above the flat.
    for (x, y) in [(-104.0, 104.0), (104.0, 104.0)] {
        let screw = Point::new(u - x, v - y);
        let rim = 88.0 + 40.0 * dot(screw.out, LIGHT);
        shade = blend(shade, rim, cover(screw.r - 12.0, unit));
        shade = blend(shade, 74.0 + 10.0 * screw.out[0], cover(screw.r - 9.5, unit));
        let socket = screw.u.abs().max(0.5 * screw.u.abs() + 0.866 * screw.v.abs());
        shade = blend(shade, 14.0, cover(socket - 5.0, unit));
    }
    let stop = (u.abs() - 30.0).max((v + 118.0).abs() - 12.0);
    shade = blend(shade, 96.0 - 0.8 * (v + 118.0), cover(stop, unit));
    blend(shade, 58.0, cover(stop, unit) * (1.0 - cover(stop + 2.0, unit)) * smooth(-1.0, 1.0, v + 118.0))
}
