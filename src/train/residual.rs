//! From residual to score: pooling at several scales, statistics of good parts, one number a picture.
//!
//! At each scale the residual's root mean square over a window is divided by what good parts reach there
//! (mean + [`SPREAD`] standard deviations, cell by cell), and the whole scale by the largest such ratio
//! that a good picture has on average: fine scales have many cells and so larger maxima by chance alone.
//! The anomaly map is the largest over the scales, the score the map's maximum: about 1 for a usual good
//! part, never clipped.
//!
//! Why per position for every symmetry: the statistics of parts that may be turned are taken over the
//! turned copies, so they hold for any of these ways to lie. One number for the whole picture was measured
//! too (AUROC on held-out goods against made defects): castings 0.865 instead of 0.880, magnetic tiles 0.64
//! instead of 0.69, because the picture's border and the part's edges set the limit for all.
//! A surface without places comes out even by itself, through the smoothing.
//!
//! Never here: thresholds ([`crate::calibrate`]).

use tch::{Kind, Tensor, no_grad};

use crate::net::{self, Graph, Shape};
use crate::torch::{Torch, Weights};

/// Pixels per cell of the anomaly map.
pub const MAP_STRIDE: i64 = 4;
/// Standard deviations above the mean that count as the usual limit of good parts.
pub const SPREAD: f64 = 3.0;
/// Scales that are pooled over.
pub const SCALES: usize = 4;
/// Lowest standard deviation, as a share of the scale's mean: a floor against positions that never moved
/// in a small set.
const SIGMA_FLOOR: f64 = 0.1;

/// Lowest standard deviation that pixels are divided by: flat pictures have nothing but camera noise.
const MIN_DEVIATION: f64 = 2.0;

/// The residual's root mean square over windows of 2, 4, 12 and 20 pixels. Shape of each: `[N, 1, h, w]`;
/// the first has cells of 2 pixels, the others of [`MAP_STRIDE`].
fn scales<G: Graph>(g: &mut G, residual: &G::Value) -> [G::Value; SCALES] {
    let fine = g.avg_pool(residual, 2, 2, 0);
    let base = g.avg_pool(&fine, 2, 2, 0);
    let middle = g.avg_pool(&base, 3, 1, 1);
    let coarse = g.avg_pool(&base, 5, 1, 2);
    [fine, base, middle, coarse].map(|s| g.sqrt(&s))
}

/// Pixels to the network's unit: (pixel - mean) · scale, with the constants that [`set_normalisation`]
/// stored. Shape: `[N, C, S, S]`, 0 to 255 → the same, about mean 0 and deviation 1.
pub fn normalise<G: Graph>(g: &mut G, pixels: &G::Value) -> G::Value {
    let (mean, scale) = (g.constant("norm_mean"), g.constant("norm_scale"));
    let centred = g.sub(pixels, &mean);
    g.mul(&centred, &scale)
}

/// Takes mean (each channel) and scale (all channels) from goods. Shape: `[N, C, S, S]`, 0 to 255.
pub fn set_normalisation(weights: &Weights, pixels: &Tensor) {
    let mean = pixels.mean_dim([0i64, 2, 3].as_slice(), true, Kind::Float);
    let deviation = (pixels - &mean).square().mean(Kind::Float).sqrt().clamp_min(MIN_DEVIATION);
    weights.set("norm_mean", mean);
    weights.set("norm_scale", deviation.reciprocal().view([1, 1, 1, 1]));
}

/// Anomaly map and score. Shape: `[N, C, S, S]` (normalised) → `[N, 1, S/4, S/4]`, `[N, 1, 1, 1]`.
pub fn score<G: Graph>(g: &mut G, x: &G::Value, shape: Shape) -> (G::Value, G::Value) {
    let residual = net::residual(g, x, shape);
    let [fine, base, middle, coarse] = scales(g, &residual);
    let ratio = |g: &mut G, value: &G::Value, k: usize| {
        let limit = g.constant(&limit_name(k));
        g.mul(value, &limit)
    };
    let fine = ratio(g, &fine, 0);
    let mut map = g.max_pool(&fine, 2);
    for (k, value) in [base, middle, coarse].iter().enumerate() {
        let value = ratio(g, value, k + 1);
        map = g.max(&map, &value);
    }
    let score = g.max_pool(&map, shape.size / MAP_STRIDE);
    (map, score)
}

/// Name of the constant that holds the reciprocal of what good parts reach at each cell of a scale.
pub fn limit_name(scale: usize) -> String {
    format!("limit{scale}")
}

/// Computes the statistics of good parts and stores them as the constants that [`score`] needs.
///
/// Shape: `batches` of `[N, C, S, S]`, normalised; for parts that may lie several ways, in all of them.
pub fn set_statistics(weights: &Weights, batches: impl Iterator<Item = Tensor>, shape: Shape) {
    no_grad(|| {
        let mut pooled: [Vec<Tensor>; SCALES] = Default::default();
        for batch in batches {
            let mut g = Torch::eval(weights);
            let residual = net::residual(&mut g, &batch, shape);
            for (all, value) in pooled.iter_mut().zip(scales(&mut g, &residual)) {
                all.push(value);
            }
        }
        for (k, values) in pooled.iter().enumerate() {
            let values = Tensor::cat(values, 0);
            let limit = limit(&values);
            let largest = (values / &limit).amax([1i64, 2, 3].as_slice(), false).mean(Kind::Float);
            weights.set(&limit_name(k), (limit * largest).reciprocal());
        }
    });
}

/// What good parts reach at every cell: mean and variance smoothed over neighbours, a floor under sigma.
/// Shape: `[N, 1, h, w]` → `[1, 1, h, w]`.
fn limit(values: &Tensor) -> Tensor {
    let smooth = |t: &Tensor| t.avg_pool2d([5, 5], [1, 1], [2, 2], false, false, None);
    let mean = smooth(&values.mean_dim([0i64].as_slice(), true, Kind::Float));
    let variance = smooth(&(values - &mean).square().mean_dim([0i64].as_slice(), true, Kind::Float));
    let floor = values.mean(Kind::Float) * SIGMA_FLOOR;
    &mean + variance.sqrt().maximum(&floor) * SPREAD
}
