//! Pieces of the part that are missing, too many, moved, or from elsewhere.
//!
//! Never here: marks on the surface ([`super::surface`], [`super::lines`]).

use rand::RngExt;

use super::canvas::{Canvas, Cover};
use super::noise::{Random, angle, log_uniform, sign};
use super::place::Survey;
use super::poisson::{LANES, Pixel, solve};
use super::shape::{piece, rectangle};
use super::texture::{Filling, Source, fill, middle, shaded};
use super::{MAX_CHANNELS, opacity};

/// Gradients are mixed only in regions up to this many pixels: they need the full resolution.
const MAX_MIXED_PX: usize = 2500;

/// A region that shows the background, or what its surroundings would look like without it.
pub fn missing(r: &mut Random, canvas: &mut Canvas, survey: &Survey) {
    let ground = canvas.ground;
    let size = log_uniform(r, 3.0, ground.side as f32 * 0.5);
    let centre = if r.random_bool(0.5) { survey.outline(r, &ground) } else { survey.place(r, &ground) };
    let cover = piece(r, centre, size, ground.side);
    let area = cover.bounds.area();
    match survey.background.filter(|_| r.random_bool(0.8)) {
        Some(background) => {
            let grain = (survey.spread * 1.5).max(1.0);
            let mut filling = vec![0.0; area * ground.channels];
            for (i, v) in filling.iter_mut().enumerate() {
                *v = background[i / area.max(1)] + r.random_range(-grain..grain);
            }
            canvas.blend(&cover, &filling, 1.0);
        }
        None => close(r, canvas, &cover),
    }
    if r.random_bool(0.35) {
        // The broken edge catches the light.
        let amount = sign(r) * log_uniform(r, 15.0, 90.0);
        let filling = shaded(canvas, cover.bounds, [amount; MAX_CHANNELS]);
        canvas.blend(&cover.rim(), &filling, 1.0);
    }
}

/// A piece of a good where none belongs.
pub fn extra(r: &mut Random, canvas: &mut Canvas, survey: &Survey) {
    let ground = canvas.ground;
    let side = ground.side as f32;
    let size = log_uniform(r, 3.5, side * 0.45);
    let anywhere = ground.matters.is_none() && r.random_bool(0.4);
    let to = if anywhere { [0, 1].map(|_| r.random_range(0.0..side)) } else { survey.place(r, &ground) };
    let picture = if r.random_bool(0.5) { ground.other } else { ground.good };
    let cover = piece(r, to, size, ground.side);
    let mut source = Source::any(r, picture, &ground, cover.bounds).tumbled(r);
    (source.from, source.to) = (survey.place(r, &ground), to);
    let filling = source.fill(&ground, cover.bounds);
    if r.random_bool(0.35) {
        let by = [0, 1].map(|_| r.random_range(1..4) * if r.random_bool(0.5) { 1 } else { -1 });
        let shadow = cover.moved(by, ground.side);
        let dark = shaded(canvas, shadow.bounds, [-60.0; MAX_CHANNELS]);
        canvas.blend(&shadow, &dark, r.random_range(0.2..0.8));
    }
    canvas.blend(&cover, &filling, if r.random_bool(0.8) { 1.0 } else { opacity(r) });
}

/// A region moved by some pixels; the hole that it leaves is closed by its surroundings.
pub fn misplaced(r: &mut Random, canvas: &mut Canvas, survey: &Survey) {
    let ground = canvas.ground;
    let size = log_uniform(r, 5.0, ground.side as f32 * 0.45);
    let from = survey.place(r, &ground);
    let cover = piece(r, from, size, ground.side);
    let (sin, cos) = angle(r).sin_cos();
    let way = log_uniform(r, 2.0, (size * 0.6).max(4.0));
    let by = [(cos * way).round() as i64, (sin * way).round() as i64];
    close(r, canvas, &cover);
    let there = cover.moved(by, ground.side);
    let turn = if r.random_bool(0.4) { r.random_range(-0.35..0.35) } else { 0.0 };
    let to = [from[0] + by[0] as f32, from[1] + by[1] as f32];
    let source = Source { picture: ground.good, from, to, turn, scale: 1.0, mirrored: false };
    let filling = source.fill(&ground, there.bounds);
    canvas.blend(&there, &filling, 1.0);
}

/// A rectangle or a thin scar from elsewhere, its edges hard.
/// Source: Li et al. 2021 (CutPaste), section 2.2.
pub fn paste(r: &mut Random, canvas: &mut Canvas, survey: &Survey) {
    let ground = canvas.ground;
    let side = ground.side as f32;
    let centre = survey.place(r, &ground);
    let cover = if r.random_bool(0.4) {
        let axes = [log_uniform(r, 2.5, side * 0.12), log_uniform(r, 0.6, side * 0.04)];
        rectangle(centre, axes, angle(r), ground.side)
    } else {
        let (size, aspect) = (log_uniform(r, 1.2, side * 0.2), log_uniform(r, 0.3, 3.3).sqrt());
        rectangle(centre, [size * aspect, size / aspect], 0.0, ground.side)
    };
    let picture = if r.random_bool(0.3) { ground.other } else { ground.good };
    let source = Source::any(r, picture, &ground, cover.bounds);
    let source = if r.random_bool(0.5) { source.tumbled(r) } else { source };
    let mut filling = source.fill(&ground, cover.bounds);
    let (gain, offset) = (r.random_range(0.85..1.15f32), r.random_range(-12.0..12.0f32));
    filling.iter_mut().for_each(|v| *v = *v * gain + offset);
    canvas.blend(&cover, &filling, if r.random_bool(0.8) { 1.0 } else { opacity(r) });
}

/// A piece of another good, or of a texture, that meets its surroundings without a seam.
/// Source: Schlüter et al. 2022 (NSA).
pub fn blend(r: &mut Random, canvas: &mut Canvas, survey: &Survey) {
    let ground = canvas.ground;
    let size = log_uniform(r, 4.0, ground.side as f32 * 0.5);
    let place = survey.place(r, &ground);
    let cover = piece(r, place, size, ground.side);
    let filling = match r.random_range(0..10) {
        0..6 => {
            let picture = if r.random_bool(0.6) { ground.other } else { ground.good };
            let source = Source::any(r, picture, &ground, cover.bounds);
            let mut source = if r.random_bool(0.5) { source.tumbled(r) } else { source };
            if r.random_bool(0.5) {
                source.from = survey.place(r, &ground);
            }
            source.fill(&ground, cover.bounds)
        }
        // The same place a little larger, smaller or turned: shape errors.
        6..8 => {
            let to = middle(cover.bounds);
            let (turn, scale) = (r.random_range(-0.5..0.5), r.random_range(0.7..1.4));
            let mirrored = r.random_bool(0.2);
            Source { picture: ground.good, from: to, to, turn, scale, mirrored }.fill(&ground, cover.bounds)
        }
        8 => fill(r, canvas, cover.bounds, Filling::Hills),
        _ => fill(r, canvas, cover.bounds, Filling::Stripes),
    };
    let mixed = r.random_bool(0.3) && cover.bounds.area() <= MAX_MIXED_PX;
    seamless(canvas, &cover, &filling, mixed, if r.random_bool(0.6) { 1.0 } else { opacity(r) });
}

/// Closes a hole smoothly from its surroundings, with a little grain.
fn close(r: &mut Random, canvas: &mut Canvas, cover: &Cover) {
    let cover = wide(canvas, cover);
    let smooth = vec![0.0; cover.bounds.area() * canvas.ground.channels];
    let mut filling = joined(canvas, &cover, &smooth, false, 0.0);
    let grain = r.random_range(0.2..4.0f32);
    filling.iter_mut().for_each(|v| *v += r.random_range(-grain..grain));
    canvas.blend(&cover, &filling, 1.0);
}

/// Pastes the filling in the gradient domain. Shape: `filling` `[C, h, w]` of the cover's bounds.
pub fn seamless(canvas: &mut Canvas, cover: &Cover, filling: &[f32], mixed: bool, opacity: f32) {
    let joined = joined(canvas, cover, filling, mixed, 0.5);
    let values = cover.values.iter().map(|v| f32::from(u8::from(*v > 0.5))).collect();
    canvas.blend(&Cover { bounds: cover.bounds, values }, &joined, opacity);
}

/// One more pixel all round, so that what surrounds the cover is known.
fn wide(canvas: &Canvas, cover: &Cover) -> Cover {
    cover.over(cover.bounds.grown(1, canvas.ground.side))
}

/// The filling with what it takes to meet the picture where the cover is at most `limit`. `mixed`: of two
/// gradients the larger one counts. Shape: `[C, h, w]`.
/// Source: Pérez, Gangnet & Blake 2003, eq. 10 and 12.
fn joined(canvas: &Canvas, cover: &Cover, filling: &[f32], mixed: bool, limit: f32) -> Vec<f32> {
    let (bounds, area, width) = (cover.bounds, cover.bounds.area(), cover.bounds.width());
    let there = canvas.cut(bounds);
    let inside: Vec<bool> = cover.values.iter().map(|v| *v > limit).collect();
    let mut h: Vec<Pixel> = vec![[0.0; LANES]; area];
    for (c, (there, filling)) in
        there.chunks_exact(area.max(1)).zip(filling.chunks_exact(area.max(1))).enumerate()
    {
        h.iter_mut().zip(there.iter().zip(filling)).for_each(|(h, (t, f))| h[c] = t - f);
    }
    let mut source = Vec::new();
    if mixed {
        source = vec![[0.0; LANES]; area];
        for c in 0..canvas.ground.channels {
            let (there, filling) = (&there[c * area..][..area], &filling[c * area..][..area]);
            for i in (0..area).filter(|&i| inside[i]) {
                let mut push = |j: usize| {
                    let (own, piece) = (there[i] - there[j], filling[i] - filling[j]);
                    source[i][c] += if own.abs() > piece.abs() { own - piece } else { 0.0 };
                };
                if i % width > 0 {
                    push(i - 1);
                }
                if i % width + 1 < width {
                    push(i + 1);
                }
                if i >= width {
                    push(i - width);
                }
                if i + width < area {
                    push(i + width);
                }
            }
        }
    }
    solve(width, &inside, &mut h, &source);
    let mut out = filling.to_vec();
    for (c, plane) in out.chunks_exact_mut(area.max(1)).enumerate() {
        plane.iter_mut().zip(&h).for_each(|(v, h)| *v += h[c]);
    }
    out
}
