//! A real defect, cut out of its picture and put on a good, whose own look then is the known target.
//!
//! Never here: made defects; reading files ([`crate::real`]).

use rand::RngExt;

use super::Ground;
use super::canvas::{Bounds, Canvas, Cover};
use super::noise::Random;
use super::pieces::seamless;
use super::place::Survey;

/// Pixels around the defect that come with it: its fading edge, and room for the join.
const RIM_PX: usize = 2;
/// Places that are tried.
const ATTEMPTS: usize = 4;

/// How the defect is joined to the good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transplant {
    /// As it is cut.
    Hard,
    /// In the gradient domain.
    Seamless,
}

/// Puts the defect of `ground.other`, marked 1 in `marked`, on `ground.good`, at the same place or another.
///
/// Shape: `marked` `[S, S]` → picture `[C, S, S]`, mask `[S, S]` of what can be seen. `None` where nothing
/// is marked or nothing can be seen.
pub fn transplant(
    r: &mut Random,
    ground: &Ground,
    marked: &[f32],
    join: Transplant,
) -> Option<(Vec<f32>, Vec<f32>)> {
    let bounds = marked_bounds(marked, ground.side).grown(RIM_PX + 1, ground.side);
    if bounds.is_empty() {
        return None;
    }
    let survey = Survey::new(r, ground);
    let mut canvas = Canvas::new(*ground);
    let mut mask = vec![0.0; marked.len()];
    for attempt in 0..ATTEMPTS {
        let same = attempt == 0 && r.random_bool(0.5);
        let by = if same { [0; 2] } else { way(r, &survey, ground, bounds) };
        let there = shifted(bounds, by);
        let near = |x: usize, y: usize| {
            let (rows, columns) = (around(y, ground.side), around(x, ground.side));
            rows.into_iter().any(|y| columns.clone().any(|x| marked[y * ground.side + x] >= 0.75))
        };
        let back = |v: usize, k: usize| (v as i64 - by[k]) as usize;
        let cover = Cover::draw(there, |x, y| f32::from(u8::from(near(back(x, 0), back(y, 1)))));
        let plane = ground.side * ground.side;
        let mut filling = Vec::with_capacity(there.area() * ground.channels);
        for c in 0..ground.channels {
            filling.extend(there.map(|x, y| ground.other[c * plane + back(y, 1) * ground.side + back(x, 0)]));
        }
        match join {
            Transplant::Hard => canvas.blend(&cover, &filling, 1.0),
            Transplant::Seamless => seamless(&mut canvas, &cover, &filling, false, 1.0),
        }
        if canvas.label(&mut mask).pixels > 0 {
            return Some((canvas.picture, mask));
        }
        mask.fill(0.0);
        canvas.restore();
    }
    None
}

/// `ground.good` as it may have been without what is marked 1: the same place of `ground.other` stands there, joined
/// without a seam, a rim of two pixels with it.
///
/// Shape: `marked` `[S, S]` → `[C, S, S]`.
pub fn heal(ground: &Ground, marked: &[f32]) -> Vec<f32> {
    let side = ground.side;
    let bounds = marked_bounds(marked, side).grown(RIM_PX + 1, side);
    let mut canvas = Canvas::new(*ground);
    if bounds.is_empty() {
        return canvas.picture;
    }
    let near = |x: usize, y: usize| {
        let (rows, columns) = (around(y, side), around(x, side));
        rows.into_iter().any(|y| columns.clone().any(|x| marked[y * side + x] >= 0.75))
    };
    let cover = Cover::draw(bounds, |x, y| f32::from(u8::from(near(x, y))));
    let mut filling = Vec::with_capacity(bounds.area() * ground.channels);
    for plane in ground.other.chunks_exact(side * side) {
        filling.extend(bounds.map(|x, y| plane[y * side + x]));
    }
    seamless(&mut canvas, &cover, &filling, false, 1.0);
    canvas.picture
}

/// Places within the rim of one.
fn around(v: usize, side: usize) -> std::ops::Range<usize> {
    v.saturating_sub(RIM_PX)..(v + RIM_PX + 1).min(side)
}

/// The box around what is marked 1.
fn marked_bounds(marked: &[f32], side: usize) -> Bounds {
    let mut bounds = Bounds { from: [0; 2], to: [0; 2] };
    for (i, _) in marked.iter().enumerate().filter(|(_, m)| **m >= 0.75) {
        let (x, y) = (i % side, i / side);
        bounds = bounds.with(Bounds { from: [x, y], to: [x + 1, y + 1] });
    }
    bounds
}

/// A way that brings the box to a place on the part, still inside the picture.
fn way(r: &mut Random, survey: &Survey, ground: &Ground, bounds: Bounds) -> [i64; 2] {
    let place = survey.place(r, ground);
    [0, 1].map(|k| {
        let middle = (bounds.from[k] + bounds.to[k]) as f32 * 0.5;
        let (low, high) = (-(bounds.from[k] as i64), (ground.side - bounds.to[k]) as i64);
        ((place[k] - middle).round() as i64).clamp(low, high)
    })
}

fn shifted(bounds: Bounds, by: [i64; 2]) -> Bounds {
    let moved = |v: [usize; 2]| [0, 1].map(|k| (v[k] as i64 + by[k]) as usize);
    Bounds { from: moved(bounds.from), to: moved(bounds.to) }
}
