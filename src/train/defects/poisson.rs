//! Fills a region so that it meets its surroundings without a seam (Poisson image editing).
//!
//! The unknown h is what is added to the pasted piece: known around the region, and inside it smooth. All
//! channels are solved together. Large regions start from the solution at half the resolution, so that few
//! sweeps do.
//!
//! Never here: which piece goes where.

/// Channels that are solved together; the last one is idle.
pub const LANES: usize = 4;
/// One value for each channel.
pub type Pixel = [f32; LANES];

/// Regions up to this many pixels are solved as they are.
const DIRECT_PX: usize = 400;
/// Sweeps over such a region, and over one that starts from a solution at half the resolution.
const SWEEPS: usize = 30;
const POLISHING_SWEEPS: usize = 6;
/// Over-relaxation, as good as any for regions of some 20 pixels.
const RELAXATION: f32 = 1.75;
const POLISHING_RELAXATION: f32 = 1.3;

/// Solves 4 h(p) - sum of h over p's four neighbours = `source`(p) where `inside`, by over-relaxation; h
/// stays as it is elsewhere. At the border of the box the slope is zero.
///
/// Shape: all `[h, w]`; `source` empty: zero everywhere (Laplace's equation).
/// Source: Pérez, Gangnet & Blake 2003, eq. 7.
pub fn solve(width: usize, inside: &[bool], h: &mut [Pixel], source: &[Pixel]) {
    if width == 0 {
        return;
    }
    let count = inside.iter().filter(|&&i| i).count();
    let height = inside.len() / width;
    if count <= DIRECT_PX || width < 4 || height < 4 {
        start_at_mean(inside, h);
        return relax(width, inside, h, source, SWEEPS, RELAXATION);
    }
    let (small, small_width) = halve(width, inside, h, source);
    let mut low = small.h;
    solve(small_width, &small.inside, &mut low, &small.source);
    for (i, h) in h.iter_mut().enumerate().filter(|(i, _)| inside[*i]) {
        *h = between(&low, small_width, i % width, i / width);
    }
    relax(width, inside, h, source, POLISHING_SWEEPS, POLISHING_RELAXATION);
}

/// The first guess: the mean of what is known.
fn start_at_mean(inside: &[bool], h: &mut [Pixel]) {
    let (mut sum, mut count) = ([0.0; LANES], 0.0);
    for (value, _) in h.iter().zip(inside).filter(|(_, inside)| !**inside) {
        (0..LANES).for_each(|c| sum[c] += value[c]);
        count += 1.0;
    }
    let mean = sum.map(|s| if count > 0.0 { s / count } else { 0.0 });
    h.iter_mut().zip(inside).filter(|(_, inside)| **inside).for_each(|(h, _)| *h = mean);
}

fn relax(width: usize, inside: &[bool], h: &mut [Pixel], source: &[Pixel], sweeps: usize, factor: f32) {
    let height = inside.len() / width;
    // A neighbour beyond the box is the pixel itself: no slope there.
    let cells: Vec<[u32; 5]> = (0..inside.len())
        .filter(|&i| inside[i])
        .map(|i| {
            let (x, y) = (i % width, i / width);
            let near = |there: bool, j: usize| if there { j as u32 } else { i as u32 };
            [
                i as u32,
                near(x > 0, i.wrapping_sub(1)),
                near(x + 1 < width, i + 1),
                near(y > 0, i.wrapping_sub(width)),
                near(y + 1 < height, i + width),
            ]
        })
        .collect();
    for _ in 0..sweeps {
        for &[i, a, b, c, d] in &cells {
            let [a, b, c, d] = [a, b, c, d].map(|j| h[j as usize]);
            let push = source.get(i as usize).copied().unwrap_or_default();
            let own = &mut h[i as usize];
            for k in 0..LANES {
                let target = (a[k] + b[k] + c[k] + d[k] + push[k]) * 0.25;
                own[k] += (target - own[k]) * factor;
            }
        }
    }
}

struct Half {
    inside: Vec<bool>,
    h: Vec<Pixel>,
    source: Vec<Pixel>,
}

/// The same problem at half the resolution: inside is what is wholly inside, known values are means.
fn halve(width: usize, inside: &[bool], h: &[Pixel], source: &[Pixel]) -> (Half, usize) {
    let height = inside.len() / width;
    let (w2, h2) = (width.div_ceil(2), height.div_ceil(2));
    let mut half = Half { inside: vec![true; w2 * h2], h: vec![[0.0; LANES]; w2 * h2], source: Vec::new() };
    let mut known = vec![0f32; w2 * h2];
    if !source.is_empty() {
        half.source = vec![[0.0; LANES]; w2 * h2];
    }
    for i in 0..inside.len() {
        let j = (i / width / 2) * w2 + (i % width) / 2;
        if !inside[i] {
            half.inside[j] = false;
            known[j] += 1.0;
            (0..LANES).for_each(|k| half.h[j][k] += h[i][k]);
        } else if let Some(push) = source.get(i) {
            // Twice the step between pixels: four times the second difference, of a mean of four.
            (0..LANES).for_each(|k| half.source[j][k] += push[k]);
        }
    }
    half.h.iter_mut().zip(&known).filter(|(_, n)| **n > 0.0).for_each(|(h, n)| *h = h.map(|v| v / n));
    (half, w2)
}

/// Bilinear value of the half-size field at a pixel of the full one.
fn between(low: &[Pixel], width: usize, x: usize, y: usize) -> Pixel {
    let height = low.len() / width;
    let axis = |p: usize, length: usize| {
        let at = (p as f32 - 0.5) * 0.5;
        let first = at.max(0.0) as usize;
        (first.min(length - 1), (first + 1).min(length - 1), (at - first as f32).clamp(0.0, 1.0))
    };
    let ((x0, x1, fx), (y0, y1, fy)) = (axis(x, width), axis(y, height));
    let mut out = [0.0; LANES];
    for (k, out) in out.iter_mut().enumerate() {
        let row = |y: usize| low[y * width + x0][k] * (1.0 - fx) + low[y * width + x1][k] * fx;
        *out = row(y0) * (1.0 - fy) + row(y1) * fy;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slope is its own solution: what stands inside must follow from the border alone.
    fn worst_error(side: usize, hole: usize) -> f32 {
        let slope = |i: usize| (i % side) as f32 * 2.0 - (i / side) as f32;
        let low = (side - hole) / 2;
        let inside: Vec<bool> = (0..side * side)
            .map(|i| (low..low + hole).contains(&(i % side)) && (low..low + hole).contains(&(i / side)))
            .collect();
        let mut h: Vec<Pixel> =
            (0..side * side).map(|i| if inside[i] { [99.0; LANES] } else { [slope(i); LANES] }).collect();
        solve(side, &inside, &mut h, &[]);
        (0..side * side).map(|i| (h[i][0] - slope(i)).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn a_hole_in_a_slope_is_closed_by_the_slope() {
        for (side, hole) in [(8, 1), (8, 4), (24, 16), (64, 50), (130, 101)] {
            let error = worst_error(side, hole);
            assert!(error < 2.0, "hole of {hole}: off by {error}");
        }
    }

    #[test]
    fn a_region_that_fills_the_box_and_an_empty_box_are_no_trouble() {
        let mut h = vec![[3.0; LANES]; 9];
        solve(3, &[true; 9], &mut h, &[]);
        assert!(h.iter().all(|p| p.iter().all(|v| v.is_finite())));
        solve(0, &[], &mut [], &[]);
    }
}
