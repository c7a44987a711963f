//! Outlines: blobs, polygons, rectangles, strokes.
//!
//! Sizes are diameters in pixels. Edges are soft by a pixel, so that small shapes keep their area.
//!
//! Never here: colours.

use rand::RngExt;

use super::canvas::{Bounds, Cover};
use super::noise::{Random, Rough, angle, log_uniform};

/// Below this diameter an uneven outline cannot be seen, pixels.
const ROUND_PX: f32 = 5.0;

/// Where a stroke passes: centre, radius in pixels, strength 0 to 1.
#[derive(Clone, Copy)]
pub struct Dab {
    /// Centre.
    pub at: [f32; 2],
    /// Pixels.
    pub radius: f32,
    /// How much it covers.
    pub strength: f32,
}

/// An ellipse. `axes`: radii along and across `turn`.
pub fn ellipse(centre: [f32; 2], axes: [f32; 2], turn: f32, side: usize) -> Cover {
    let axes = axes.map(|a| a.max(0.5));
    let (sin, cos) = turn.sin_cos();
    let reach = axes[0].max(axes[1]);
    let thin = axes[0].min(axes[1]);
    Cover::draw(Bounds::around(centre, [reach; 2], side), |x, y| {
        let (dx, dy) = (x as f32 - centre[0], y as f32 - centre[1]);
        let (u, v) = ((dx * cos + dy * sin) / axes[0], (dy * cos - dx * sin) / axes[1]);
        ((1.0 - (u * u + v * v).sqrt()) * thin + 0.5).clamp(0.0, 1.0)
    })
}

/// A blob with an uneven outline. `soft`: share of the radius over which its edge fades.
pub fn blob(r: &mut Random, centre: [f32; 2], size: f32, soft: f32, side: usize) -> Cover {
    let radius = size * 0.5;
    let squeeze = r.random_range(0.4..1.0f32);
    if size < ROUND_PX {
        return ellipse(centre, [radius, radius * squeeze.max(0.6)], angle(r), side);
    }
    let (sin, cos) = angle(r).sin_cos();
    let uneven = r.random_range(0.2..1.1f32);
    let cell = radius * r.random_range(0.35..1.2f32);
    let field = Rough::new(r, cell);
    let slope = 1.0 / soft.max(1.0 / radius);
    let reach = radius * (1.0 + uneven * 0.5);
    Cover::draw(Bounds::around(centre, [reach; 2], side), |x, y| {
        let (dx, dy) = (x as f32 - centre[0], y as f32 - centre[1]);
        let (u, v) = (dx * cos + dy * sin, (dy * cos - dx * sin) / squeeze);
        let distance = (u * u + v * v).sqrt() / radius;
        if distance > 1.0 + uneven {
            return 0.0;
        }
        let height = 1.0 - distance + uneven * (field.at(x, y) - 0.5) * 2.0 - 0.25 * uneven;
        // Nothing at the border of the box, whatever the field says.
        (height * slope + 0.5).min((reach - radius * distance) * 0.5).clamp(0.0, 1.0)
    })
}

/// A piece with three to six straight sides.
pub fn polygon(r: &mut Random, centre: [f32; 2], size: f32, side: usize) -> Cover {
    let radius = size * 0.5;
    let count = r.random_range(3..7);
    let first = angle(r);
    let sides: Vec<(f32, f32, f32)> = (0..count)
        .map(|k| {
            let wobble = r.random_range(-0.3..0.3f32);
            let (sin, cos) = (first + (k as f32 + wobble) * std::f32::consts::TAU / count as f32).sin_cos();
            (cos, sin, radius * r.random_range(0.5..0.9f32))
        })
        .collect();
    Cover::draw(Bounds::around(centre, [radius; 2], side), |x, y| {
        let (dx, dy) = (x as f32 - centre[0], y as f32 - centre[1]);
        let round = radius - (dx * dx + dy * dy).sqrt();
        sides.iter().map(|(c, s, d)| d - dx * c - dy * s).fold(round, f32::min).clamp(-0.5, 0.5) + 0.5
    })
}

/// A rectangle, turned. `axes`: half its length and half its width.
pub fn rectangle(centre: [f32; 2], axes: [f32; 2], turn: f32, side: usize) -> Cover {
    let (sin, cos) = turn.sin_cos();
    let reach = [0, 1].map(|k| {
        let (along, across) = if k == 0 { (cos, sin) } else { (sin, cos) };
        axes[0] * along.abs() + axes[1] * across.abs()
    });
    Cover::draw(Bounds::around(centre, reach, side), |x, y| {
        let (dx, dy) = (x as f32 - centre[0], y as f32 - centre[1]);
        let (u, v) = ((dx * cos + dy * sin).abs(), (dy * cos - dx * sin).abs());
        (axes[0] - u).min(axes[1] - v).clamp(-0.5, 0.5) + 0.5
    })
}

/// A piece of any outline.
pub fn piece(r: &mut Random, centre: [f32; 2], size: f32, side: usize) -> Cover {
    match r.random_range(0..10) {
        0..4 => blob(r, centre, size, 0.0, side),
        4..6 => polygon(r, centre, size, side),
        6..8 => {
            let axes = [size * 0.5, size * 0.5 * r.random_range(0.3..1.0f32)];
            ellipse(centre, axes, angle(r), side)
        }
        _ => {
            let aspect = log_uniform(r, 0.35, 2.8).sqrt();
            let turn = if r.random_bool(0.5) { 0.0 } else { angle(r) };
            rectangle(centre, [size * 0.4 * aspect, size * 0.4 / aspect], turn, side)
        }
    }
}

/// A stroke: the cover of all its dabs.
pub fn stroke(dabs: &[Dab], side: usize) -> Cover {
    let none = Bounds { from: [0; 2], to: [0; 2] };
    let bounds = dabs.iter().fold(none, |b, d| b.with(Bounds::around(d.at, [d.radius; 2], side)));
    let mut cover = Cover { bounds, values: vec![0.0; bounds.area()] };
    let width = bounds.width();
    for dab in dabs {
        let inner = Bounds::around(dab.at, [dab.radius; 2], side);
        for y in inner.from[1]..inner.to[1] {
            let dy = y as f32 - dab.at[1];
            for x in inner.from[0]..inner.to[0] {
                let dx = x as f32 - dab.at[0];
                // A radius under half a pixel covers that much less of it.
                let inside = dab.radius + 0.5 - (dx * dx + dy * dy).sqrt();
                let value = inside.clamp(0.0, (dab.radius * 2.0).min(1.0)) * dab.strength;
                let cell = &mut cover.values[(y - bounds.from[1]) * width + x - bounds.from[0]];
                *cell = cell.max(value);
            }
        }
    }
    cover
}
