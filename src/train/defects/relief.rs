//! Pits and dents: the surface's shape is changed, seen by its light and dark flanks.
//!
//! A height field is lit from one side: flanks that face the light are brighter, the others darker, deep
//! places darker still (Lambert's law, to first order).
//!
//! Never here: what lies on the surface ([`super::surface`]).

use rand::RngExt;

use super::canvas::{Bounds, Canvas};
use super::least_px;
use super::noise::{Random, Rough, angle, log_uniform};
use super::place::Survey;

/// Most pits of one defect.
const MAX_PITS: usize = 9;

struct Relief {
    centre: [f32; 2],
    radius: f32,
    /// Steep walls and a flat bottom, rather than a smooth bowl.
    steep: bool,
    /// Where the light comes from, radians.
    light: f32,
    /// Of the flanks, grey values on a middle grey.
    contrast: f32,
    /// How much darker the bottom is, grey values.
    depth: f32,
}

/// One pit or a cluster: blowholes, pores, chips out of the surface.
pub fn pit(r: &mut Random, canvas: &mut Canvas, survey: &Survey) {
    let side = canvas.ground.side;
    let size = log_uniform(r, least_px(side), side as f32 * 0.16);
    let count = if r.random_bool(0.55) { 1 } else { r.random_range(2..=MAX_PITS) };
    let middle = survey.place(r, &canvas.ground);
    let scatter = size * r.random_range(1.2..5.0f32);
    let light = angle(r);
    let contrast = log_uniform(r, 18.0, 90.0);
    let depth = log_uniform(r, 20.0, 130.0) * if r.random_bool(0.9) { 1.0 } else { -0.6 };
    for k in 0..count {
        let away = if k == 0 { 0.0 } else { scatter };
        let centre = middle.map(|v| v + r.random_range(-1.0..1.0f32) * away);
        let radius = size * 0.5 * if k == 0 { 1.0 } else { r.random_range(0.3..1.0) };
        press(r, canvas, survey, Relief { centre, radius, steep: true, light, contrast, depth });
    }
}

/// A dent, or a bump: wide and smooth, often faint.
pub fn dent(r: &mut Random, canvas: &mut Canvas, survey: &Survey) {
    let side = canvas.ground.side as f32;
    let radius = log_uniform(r, 2.5, side * 0.22);
    let relief = Relief {
        centre: survey.place(r, &canvas.ground),
        radius,
        steep: false,
        light: angle(r),
        contrast: log_uniform(r, 18.0, 90.0),
        depth: r.random_range(-10.0..20.0),
    };
    press(r, canvas, survey, relief);
}

fn press(r: &mut Random, canvas: &mut Canvas, survey: &Survey, relief: Relief) {
    let ground = canvas.ground;
    let Relief { centre, radius, .. } = relief;
    let squeeze = r.random_range(0.55..1.0f32);
    let (sin, cos) = angle(r).sin_cos();
    let uneven = if radius < 2.0 { 0.0 } else { r.random_range(0.0..0.45f32) };
    let field = Rough::new(r, radius * 0.9);
    let bounds = Bounds::around(centre, [radius.max(1.0); 2], ground.side);
    let height = bounds.map(|x, y| {
        let (dx, dy) = (x as f32 - centre[0], y as f32 - centre[1]);
        let (u, v) = ((dx * cos + dy * sin) / radius, (dy * cos - dx * sin) / (radius * squeeze));
        let plain = (u * u + v * v).sqrt();
        let distance = (plain + uneven * field.at(x, y)).max(plain);
        if relief.steep {
            let f = ((1.0 - distance) * 2.2).clamp(0.0, 1.0);
            f * f * (3.0 - 2.0 * f)
        } else {
            let f = (1.0 - distance * distance).max(0.0);
            f * f
        }
    });
    let tiny = radius < 1.5;
    let mut change = lit(&height, bounds, &relief, if tiny { 0.0 } else { radius });
    if tiny {
        // Too small for flanks; and the pixel that holds it is covered by it.
        let most = change.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
        change.iter_mut().for_each(|v| *v *= relief.depth.abs().max(relief.contrast) / most);
    }
    let mut on_part = bounds.map(|_, _| 1.0);
    if survey.background.is_some() {
        on_part = bounds.map(|x, y| f32::from(u8::from(survey.is_part(&ground, x, y))));
    }
    // Light is a factor: what is dark changes less.
    canvas.change(bounds, |i, _, v| v + change[i] * on_part[i] * (0.35 + v / 200.0).min(1.2));
}

/// The change of brightness by the slope and the depth. Shape: that of `height`.
fn lit(height: &[f32], bounds: Bounds, relief: &Relief, slope_scale: f32) -> Vec<f32> {
    let (sin, cos) = relief.light.sin_cos();
    let (width, rows) = (bounds.width(), bounds.height());
    let at = |x: usize, y: usize| height[y * width + x];
    let mut out = Vec::with_capacity(height.len());
    for y in 0..rows {
        let (up, down) = (y.saturating_sub(1), (y + 1).min(rows - 1));
        for x in 0..width {
            let (left, right) = (x.saturating_sub(1), (x + 1).min(width - 1));
            let slope = (at(right, y) - at(left, y)) * cos + (at(x, down) - at(x, up)) * sin;
            let flank = (slope * 0.5 * slope_scale * 0.65).clamp(-1.5, 1.5);
            out.push(flank * relief.contrast - at(x, y) * relief.depth);
        }
    }
    out
}
