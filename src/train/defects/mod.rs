//! Made defects.
//!
//! Never here: real defects, the test split.

use rand::RngExt;
use rand::rngs::StdRng;

/// One made defect on a good. Shape: `[C, S, S]` twice → damaged `[C, S, S]`, mask `[S, S]`.
pub fn damage(
    r: &mut StdRng,
    good: &[f32],
    other: &[f32],
    side: usize,
    channels: usize,
) -> (Vec<f32>, Vec<f32>) {
    let mut mask = match r.random_range(0..10) {
        0..4 => stain(r, side),
        4..7 => scratches(r, side),
        _ => spots(r, side),
    };
    let filling = filling(r, good, other, side, channels);
    let opacity = if r.random_bool(0.3) { 1.0 } else { r.random_range(0.15..1.0f32) };
    let area = side * side;
    let mut damaged = good.to_vec();
    let mut changed = vec![0f32; area];
    for (i, (value, fill)) in damaged.iter_mut().zip(&filling).enumerate() {
        let before = *value;
        *value += (fill - before) * mask[i % area] * opacity;
        changed[i % area] = changed[i % area].max((*value - before).abs());
    }
    // What cannot be seen is not a defect (appendix C: label where the change is above 0.02).
    mask.iter_mut().zip(&changed).for_each(|(m, &c)| *m = if c > 5.0 { 1.0 } else { 0.0 });
    (damaged, mask)
}

/// Smooth random field in 0..1. Shape: `[S, S]`; `cells` along a side.
fn value_noise(r: &mut StdRng, side: usize, cells: usize) -> Vec<f32> {
    let grid: Vec<f32> = (0..(cells + 2) * (cells + 2)).map(|_| r.random()).collect();
    let at = |x: usize, y: usize| grid[y * (cells + 2) + x];
    let axis: Vec<(usize, f32)> = (0..side)
        .map(|i| {
            let p = i as f32 * cells as f32 / side as f32;
            let f = p.fract();
            (p as usize, f * f * (3.0 - 2.0 * f))
        })
        .collect();
    let mut out = Vec::with_capacity(side * side);
    for &(y, fy) in &axis {
        for &(x, fx) in &axis {
            let top = at(x, y) * (1.0 - fx) + at(x + 1, y) * fx;
            let low = at(x, y + 1) * (1.0 - fx) + at(x + 1, y + 1) * fx;
            out.push(top * (1.0 - fy) + low * fy);
        }
    }
    out
}

fn stain(r: &mut StdRng, side: usize) -> Vec<f32> {
    let cells = 1usize << r.random_range(2..6);
    let mut noise = value_noise(r, side, cells.min(side / 4));
    let limit = r.random_range(0.6..0.9f32);
    noise.iter_mut().for_each(|v| *v = ((*v - limit) * 12.0).clamp(0.0, 1.0));
    // Only a window of it, so that stains come in all sizes.
    let window = r.random_range(0.1..0.7f32) * side as f32;
    let (cx, cy) = (r.random_range(0.0..side as f32), r.random_range(0.0..side as f32));
    for (i, v) in noise.iter_mut().enumerate() {
        let (x, y) = ((i % side) as f32 - cx, (i / side) as f32 - cy);
        if x.abs() > window / 2.0 || y.abs() > window / 2.0 {
            *v = 0.0;
        }
    }
    noise
}

fn scratches(r: &mut StdRng, side: usize) -> Vec<f32> {
    let mut mask = vec![0.0; side * side];
    let s = side as f32;
    for _ in 0..r.random_range(1..3) {
        let (mut x, mut y) = (r.random_range(0.0..s), r.random_range(0.0..s));
        let mut angle = r.random_range(0.0..std::f32::consts::TAU);
        let wobble = r.random_range(0.02..0.4f32);
        let radius = r.random_range(0.4..2.0f32) * s / 128.0;
        for _ in 0..(r.random_range(0.06..0.6f32) * s) as usize {
            dot(&mut mask, side, (x, y), (radius, radius), 0.0);
            angle += r.random_range(-wobble..wobble);
            x += angle.cos();
            y += angle.sin();
        }
    }
    mask
}

fn spots(r: &mut StdRng, side: usize) -> Vec<f32> {
    let mut mask = vec![0.0; side * side];
    let s = side as f32;
    for _ in 0..r.random_range(1..4) {
        let centre = (r.random_range(0.0..s), r.random_range(0.0..s));
        // Small ones more often: 1 to 20 pixels of 128.
        let size = 0.008 * (20f32).powf(r.random::<f32>()) * s;
        let axes = (size, size * r.random_range(0.3..1.0f32));
        dot(&mut mask, side, centre, axes, r.random_range(0.0..std::f32::consts::PI));
    }
    mask
}

/// Draws a filled ellipse with a soft edge of one pixel.
fn dot(mask: &mut [f32], side: usize, (cx, cy): (f32, f32), (a, b): (f32, f32), angle: f32) {
    let reach = a.max(b) + 1.0;
    let range =
        |c: f32| ((c - reach).max(0.0) as usize)..((c + reach + 1.0).clamp(0.0, side as f32) as usize);
    let (sin, cos) = angle.sin_cos();
    for y in range(cy) {
        for x in range(cx) {
            let (dx, dy) = (x as f32 - cx, y as f32 - cy);
            let (u, v) = (dx * cos + dy * sin, dy * cos - dx * sin);
            let distance = ((u / a).powi(2) + (v / b).powi(2)).sqrt();
            let value = ((1.0 - distance) * a.min(b) + 0.5).clamp(0.0, 1.0);
            let cell = &mut mask[y * side + x];
            *cell = cell.max(value);
        }
    }
}

fn filling(r: &mut StdRng, good: &[f32], other: &[f32], side: usize, channels: usize) -> Vec<f32> {
    let area = side * side;
    let mut colour = || -> Vec<f32> { (0..channels).map(|_| r.random_range(0.0..255.0)).collect() };
    let (one, two) = (colour(), colour());
    match r.random_range(0..10) {
        0..3 => shifted(r, other, side, channels),
        3..5 => (0..good.len()).map(|i| one[i / area]).collect(),
        5..7 => {
            let cells = r.random_range(4..=side / 2);
            let noise = value_noise(r, side, cells);
            (0..good.len())
                .map(|i| one[i / area] + (two[i / area] - one[i / area]) * noise[i % area])
                .collect()
        }
        7..9 => {
            // Darker or lighter: what pits, stains and shine look like.
            let change = r.random_range(25.0..130.0f32) * if r.random_bool(0.5) { 1.0 } else { -1.0 };
            good.iter().map(|v| (v + change).clamp(0.0, 255.0)).collect()
        }
        _ => shifted(r, good, side, channels),
    }
}

/// The picture moved by up to half its side, wrapped round.
fn shifted(r: &mut StdRng, picture: &[f32], side: usize, channels: usize) -> Vec<f32> {
    let (dx, dy) = (r.random_range(side / 16..side / 2), r.random_range(side / 16..side / 2));
    let mut out = Vec::with_capacity(picture.len());
    for c in 0..channels {
        for y in 0..side {
            let row = (c * side + (y + dy) % side) * side;
            out.extend((0..side).map(|x| picture[row + (x + dx) % side]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn damage_changes_the_masked_pixels_and_no_others() {
        let mut r = StdRng::seed_from_u64(1);
        let good: Vec<f32> = (0..3 * 64 * 64).map(|i| (i % 200) as f32).collect();
        let other: Vec<f32> = good.iter().rev().copied().collect();
        let mut seen = 0;
        for _ in 0..50 {
            let (damaged, mask) = damage(&mut r, &good, &other, 64, 3);
            for i in 0..good.len() {
                assert!((0.0..=255.0).contains(&damaged[i]));
                let change = (damaged[i] - good[i]).abs();
                assert!(change <= 5.0 || mask[i % 4096] == 1.0);
            }
            seen += usize::from(mask.iter().any(|&m| m > 0.0));
        }
        assert!(seen > 35, "{seen} of 50 could be seen");
    }
}
