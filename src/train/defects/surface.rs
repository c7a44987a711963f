//! What lies on a surface: stains, spots and fibres, smears.
//!
//! Never here: the surface's own shape ([`super::relief`]).

use rand::RngExt;

use super::canvas::{Bounds, Canvas, Cover};
use super::lines::{Walk, walk};
use super::noise::{Noise, Random, Rough, angle, log_uniform, pick};
use super::place::{Survey, brightness};
use super::shape::{blob, ellipse, stroke};
use super::texture::{Filling, SURFACE, fill, shade, shaded};
use super::{MAX_CHANNELS, least_px, opacity};

/// How often a defect of the surface ends where the part ends.
const ENDS_WITH_PART: f64 = 0.85;
/// Most spots of one defect.
const MAX_SPOTS: usize = 7;
/// Samples along a drag.
const DRAG_SAMPLES: usize = 9;

/// An uneven patch: liquid, oil, burn, discolouring; some with a dark rim where they dried.
pub fn stain(r: &mut Random, canvas: &mut Canvas, survey: &Survey) {
    let ground = canvas.ground;
    let side = ground.side;
    let size = log_uniform(r, least_px(side), side as f32 * 0.5);
    let soft = log_uniform(r, 0.08, 1.2);
    let place = survey.place(r, &ground);
    let mut cover = blob(r, place, size, soft, side);
    if size > 8.0 && r.random_bool(0.25) {
        let inner = r.random_range(0.0..0.6f32);
        cover.values.iter_mut().for_each(|v| *v = (*v * inner).max((4.0 * *v * (1.0 - *v)).min(1.0)));
    } else if size > 8.0 && r.random_bool(0.35) {
        let field = Rough::new(r, size * 0.2);
        cover.times(|x, y| ((field.at(x, y) - 0.3) * 3.0).clamp(0.0, 1.0));
    }
    end_with_part(r, &mut cover, canvas, survey);
    let kind = pick(r, &SURFACE);
    let filling = fill(r, canvas, cover.bounds, kind);
    canvas.blend(&cover, &filling, opacity(r));
}

/// Specks, drops, crumbs, or a fibre: foreign matter.
pub fn spot(r: &mut Random, canvas: &mut Canvas, survey: &Survey) {
    let ground = canvas.ground;
    let side = ground.side;
    let centre = survey.place(r, &ground);
    let opacity = opacity(r);
    if r.random_bool(0.2) {
        return fibre(r, canvas, centre, opacity);
    }
    let size = log_uniform(r, least_px(side), side as f32 * 0.14);
    let count = if r.random_bool(0.6) { 1 } else { r.random_range(2..=MAX_SPOTS) };
    let kind = pick(r, &SURFACE);
    let scatter = size * r.random_range(1.5..6.0f32);
    for k in 0..count {
        let away = if k == 0 { 0.0 } else { scatter };
        let at = centre.map(|v| v + r.random_range(-1.0..1.0f32) * away);
        let own = size * if k == 0 { 1.0 } else { r.random_range(0.35..1.0) };
        let mut cover = if r.random_bool(0.5) {
            ellipse(at, [own * 0.5, own * r.random_range(0.25..0.5)], angle(r), side)
        } else {
            blob(r, at, own, 0.0, side)
        };
        if cover.bounds.is_empty() {
            continue;
        }
        end_with_part(r, &mut cover, canvas, survey);
        let filling = fill(r, canvas, cover.bounds, kind);
        canvas.blend(&cover, &filling, opacity);
        if own > 6.0 && r.random_bool(0.3) {
            glint(canvas, at, own, side, opacity);
        }
    }
}

/// The light on a drop.
fn glint(canvas: &mut Canvas, at: [f32; 2], size: f32, side: usize, opacity: f32) {
    let cover = ellipse(at.map(|v| v - size * 0.15), [size * 0.13; 2], 0.0, side);
    let filling = shaded(canvas, cover.bounds, [90.0; MAX_CHANNELS]);
    canvas.blend(&cover, &filling, opacity);
}

fn fibre(r: &mut Random, canvas: &mut Canvas, centre: [f32; 2], opacity: f32) {
    let side = canvas.ground.side;
    let curl = Walk {
        middle: centre,
        length: log_uniform(r, side as f32 * 0.05, side as f32 * 0.4),
        heading: angle(r),
        bend: r.random_range(-0.12..0.12),
        wobble: r.random_range(0.05..0.3),
        radius: log_uniform(r, 0.35, 0.9),
        taper: 0.0,
    };
    let cover = stroke(&walk(r, curl), side);
    let kind = pick(r, &[Filling::Shade, Filling::Colour, Filling::Colour]);
    let filling = fill(r, canvas, cover.bounds, kind);
    canvas.blend(&cover, &filling, opacity);
}

/// Wiped: what is there is dragged along, or a streaky film lies over it.
pub fn smear(r: &mut Random, canvas: &mut Canvas, survey: &Survey) {
    let ground = canvas.ground;
    let side = ground.side;
    let size = log_uniform(r, 4.0, side as f32 * 0.55);
    let (place, soft) = (survey.place(r, &ground), r.random_range(0.1..0.8));
    let mut cover = blob(r, place, size, soft, side);
    end_with_part(r, &mut cover, canvas, survey);
    let heading = angle(r);
    let dragged = r.random_bool(0.5);
    if dragged {
        let length = size * r.random_range(0.15..0.6f32);
        let filling = drag(canvas, cover.bounds, heading, length.max(2.0));
        canvas.blend(&cover, &filling, r.random_range(0.5..1.0));
    }
    if !dragged || r.random_bool(0.4) {
        let across = log_uniform(r, 1.5, 6.0);
        let streaks = Noise::stretched(r, [size * 0.8, across], heading);
        cover.times(|x, y| ((streaks.at(x as f32, y as f32) - 0.25) * 1.8).clamp(0.0, 1.0));
        let common = shade(r, brightness(&ground, cover.bounds), 0.4);
        let own = if r.random_bool(0.6) { 0.0 } else { 30.0 };
        let amounts = [0; MAX_CHANNELS].map(|_| common + r.random_range(-1.0..1.0f32) * own);
        let filling = shaded(canvas, cover.bounds, amounts);
        canvas.blend(&cover, &filling, opacity(r));
    }
}

/// The mean along a line that ends at each pixel. Shape: `[C, h, w]`.
fn drag(canvas: &Canvas, bounds: Bounds, heading: f32, length: f32) -> Vec<f32> {
    let ground = &canvas.ground;
    let (sin, cos) = heading.sin_cos();
    let steps: Vec<[f32; 2]> = (0..DRAG_SAMPLES)
        .map(|k| length * k as f32 / (DRAG_SAMPLES - 1) as f32)
        .map(|d| [d * cos, d * sin])
        .collect();
    let (last, area, plane) = (ground.side as f32 - 1.0, bounds.area(), ground.side * ground.side);
    let mut out = vec![0.0; area * ground.channels];
    let mut i = 0;
    for y in bounds.from[1]..bounds.to[1] {
        for x in bounds.from[0]..bounds.to[0] {
            for [dx, dy] in &steps {
                let sx = (x as f32 + dx + 0.5).clamp(0.0, last) as usize;
                let sy = (y as f32 + dy + 0.5).clamp(0.0, last) as usize;
                let from = sy * ground.side + sx;
                for c in 0..ground.channels {
                    out[c * area + i] += ground.good[c * plane + from];
                }
            }
            i += 1;
        }
    }
    out.iter_mut().for_each(|v| *v /= DRAG_SAMPLES as f32);
    out
}

/// Mostly lets a defect of the surface end where the part ends.
pub fn end_with_part(r: &mut Random, cover: &mut Cover, canvas: &Canvas, survey: &Survey) {
    if r.random_bool(ENDS_WITH_PART) {
        survey.keep_on_part(cover, &canvas.ground);
    }
}
