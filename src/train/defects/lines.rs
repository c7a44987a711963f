//! Scratches and cracks.
//!
//! A *walk* is a line that wanders; it is drawn as dabs, close enough to be one stroke.
//!
//! Never here: strokes of foreign matter ([`super::surface`]).

use rand::RngExt;

use super::canvas::{Canvas, Cover};
use super::noise::{Noise, Random, angle, log_uniform, sign};
use super::opacity;
use super::place::{Survey, brightness};
use super::shape::{Dab, stroke};
use super::surface::end_with_part;
use super::texture::{shade, shaded};

/// Pixels from dab to dab.
const STEP_PX: f32 = 0.8;
/// Most dabs of one walk, and of one crack with all its branches.
const MAX_DABS: usize = 4096;
/// Most branches of a crack.
const MAX_BRANCHES: usize = 5;

/// How a line wanders.
pub struct Walk {
    /// The place that it passes half-way.
    pub middle: [f32; 2],
    /// Pixels.
    pub length: f32,
    /// Direction at the start, radians.
    pub heading: f32,
    /// Steady turn, radians a pixel.
    pub bend: f32,
    /// Random turn, at most so many radians a pixel.
    pub wobble: f32,
    /// Pixels, in the middle.
    pub radius: f32,
    /// How much thinner and fainter it is at its ends, 0 to 1.
    pub taper: f32,
}

/// The dabs of a walk.
pub fn walk(r: &mut Random, walk: Walk) -> Vec<Dab> {
    let count = ((walk.length / STEP_PX) as usize).clamp(2, MAX_DABS);
    let mut heading = walk.heading;
    let mut at = [0.0f32; 2];
    let mut dabs = Vec::with_capacity(count);
    for k in 0..count {
        let along = k as f32 / (count - 1) as f32;
        let end = 4.0 * along * (1.0 - along);
        let thick = 1.0 - walk.taper * (1.0 - end);
        dabs.push(Dab { at, radius: walk.radius * thick.max(0.25), strength: thick.sqrt().max(0.3) });
        heading += (walk.bend + walk.wobble * r.random_range(-1.0..1.0f32)) * STEP_PX;
        at = [at[0] + heading.cos() * STEP_PX, at[1] + heading.sin() * STEP_PX];
    }
    let half = dabs[count / 2].at;
    dabs.iter_mut().for_each(|d| d.at = [0, 1].map(|k| d.at[k] - half[k] + walk.middle[k]));
    dabs
}

/// One scratch or a few side by side; broken, fine, bright or dark, some with both flanks.
pub fn scratch(r: &mut Random, canvas: &mut Canvas, survey: &Survey) {
    let ground = canvas.ground;
    let side = ground.side as f32;
    let middle = survey.place(r, &ground);
    let heading = angle(r);
    let length = log_uniform(r, (side * 0.04).max(3.0), side * 0.8);
    let (bend, wobble) = (r.random_range(-1.0..1.0f32) / length, log_uniform(r, 0.003, 0.15));
    let radius = log_uniform(r, 0.35, 1.5 * (side / 128.0).sqrt());
    let count = if r.random_bool(0.65) { 1 } else { r.random_range(2..5) };
    let apart = r.random_range(1.5..7.0f32);
    let mut dabs = Vec::new();
    for k in 0..count {
        let away = apart * k as f32 * r.random_range(0.7..1.3f32);
        let along = r.random_range(-0.2..0.2f32) * length * (k.min(1) as f32);
        let (sin, cos) = heading.sin_cos();
        let middle = [middle[0] - sin * away + cos * along, middle[1] + cos * away + sin * along];
        let taper = r.random_range(0.2..1.0);
        let own = length * if k == 0 { 1.0 } else { r.random_range(0.4..1.0f32) };
        dabs.extend(walk(r, Walk { middle, length: own, heading, bend, wobble, radius, taper }));
    }
    if r.random_bool(0.5) {
        // Pressure changes along the way; where there is little, nothing is seen.
        let noise = Noise::new(r, (length * 0.15).max(3.0));
        dabs.iter_mut().for_each(|d| {
            d.strength *= ((noise.at(d.at[0], d.at[1]) - 0.25) * 2.5).clamp(0.0, 1.0);
        });
    }
    let cover = stroke(&dabs, ground.side);
    let flank = r.random_bool(0.3);
    draw(r, canvas, survey, cover, 0.4, flank);
}

/// A jagged dark line that branches.
pub fn crack(r: &mut Random, canvas: &mut Canvas, survey: &Survey) {
    let ground = canvas.ground;
    let side = ground.side as f32;
    let length = log_uniform(r, (side * 0.06).max(4.0), side * 0.75);
    let radius = log_uniform(r, 0.4, 1.4 * (side / 128.0).sqrt());
    let heading = angle(r);
    let mut dabs = jagged(r, length, heading, radius);
    let half = dabs[dabs.len() / 2].at;
    let middle = if r.random_bool(0.3) { survey.outline(r, &ground) } else { survey.place(r, &ground) };
    dabs.iter_mut().for_each(|d| d.at = [0, 1].map(|k| d.at[k] - half[k] + middle[k]));
    for _ in 0..r.random_range(0..=MAX_BRANCHES) {
        let root = dabs[r.random_range(0..dabs.len())];
        let turn = sign(r) * r.random_range(0.4..1.3f32);
        let own = length * r.random_range(0.08..0.4f32);
        let thin = root.radius * r.random_range(0.5..0.9f32);
        let branch = jagged(r, own, heading + turn, thin);
        if dabs.len() + branch.len() > MAX_DABS {
            break;
        }
        dabs.extend(branch.iter().map(|d| Dab { at: [d.at[0] + root.at[0], d.at[1] + root.at[1]], ..*d }));
    }
    let cover = stroke(&dabs, ground.side);
    let flank = r.random_bool(0.25);
    draw(r, canvas, survey, cover, 0.88, flank);
}

/// A line of straight runs and kinks from (0, 0), thinner towards its end.
fn jagged(r: &mut Random, length: f32, heading: f32, radius: f32) -> Vec<Dab> {
    let count = ((length / STEP_PX) as usize).clamp(2, MAX_DABS / 2);
    let (mut at, mut now) = ([0.0f32; 2], heading);
    let (mut run, mut dabs) = (0usize, Vec::with_capacity(count));
    for k in 0..count {
        if run == 0 {
            run = r.random_range(2..9);
            // Kinks, but the crack keeps its way.
            now = heading + r.random_range(-0.9..0.9f32);
        }
        run -= 1;
        let thick = 1.0 - 0.7 * k as f32 / count as f32;
        dabs.push(Dab { at, radius: radius * thick, strength: thick.sqrt() });
        at = [at[0] + now.cos() * STEP_PX, at[1] + now.sin() * STEP_PX];
    }
    dabs
}

/// Draws a line: darker (`dark` of the times) or lighter, with the other on its flank if `flank`.
fn draw(r: &mut Random, canvas: &mut Canvas, survey: &Survey, mut cover: Cover, dark: f64, flank: bool) {
    end_with_part(r, &mut cover, canvas, survey);
    let amount = shade(r, brightness(&canvas.ground, cover.bounds), dark) * 1.3;
    let opacity = opacity(r);
    if flank {
        let by = [0, 1].map(|_| if r.random_bool(0.5) { 1 } else { -1 });
        let beside = cover.moved(by, canvas.ground.side);
        let filling = shaded(canvas, beside.bounds, [-amount * 0.6; super::MAX_CHANNELS]);
        canvas.blend(&beside, &filling, opacity);
    }
    let filling = shaded(canvas, cover.bounds, [amount; super::MAX_CHANNELS]);
    canvas.blend(&cover, &filling, opacity);
}
