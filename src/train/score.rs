//! From residual and logits to the score: what each reaches on good parts, and the two fused.
//!
//! *Residual.* At each of four scales its root mean square over a window is divided by what good parts reach
//! there (mean + [`SPREAD`] standard deviations, cell by cell), and the whole scale by the largest such
//! ratio that a good picture has on average: fine scales have many cells and so larger maxima by chance
//! alone. The largest over the scales is the residual's map.
//!
//! *Logits* are taken as they are, cell by cell. Averaging them over 3x3, 5x5 and 7x7 cells was measured (AUROC of
//! castings held out against defects made on them, 1,000 steps, fused score): 0.791 as they are, 0.786, 0.770 and 0.760.
//!
//! *Fused.* The largest value that a good picture has, averaged over good pictures, becomes 0, and its standard
//! deviation 1: so either map speaks as loudly as its unusualness among goods deserves. The anomaly map is
//! 1 + their mean / [`UNIT`], the score its maximum: about 1 for a usual good part, never clipped. Weights of 0.7 and
//! 0.3 for head and residual were measured as well (same figure): castings 0.791 instead of 0.792, bottles 0.794
//! instead of 0.805.
//!
//! Why per position for every symmetry: the statistics of parts that may be turned are taken over the
//! turned copies, so they hold for any of these ways to lie. One number for the whole picture was measured
//! too (AUROC on held-out goods against made defects): castings 0.865 instead of 0.880, magnetic tiles 0.64
//! instead of 0.69, because the picture's border and the part's edges set the limit for all.
//! A surface without places comes out even by itself, through the smoothing.
//!
//! Never here: thresholds ([`crate::calibrate`]).

use tch::{Device, Kind, Tensor, no_grad};

use crate::net::{self, Graph, POSITION, Shape};
use crate::torch::{Torch, Weights};

/// Pixels per cell of the anomaly map.
pub const MAP_STRIDE: i64 = 4;
/// Standard deviations above the mean that count as the usual limit of good parts.
pub const SPREAD: f64 = 3.0;
/// Scales that are pooled over.
pub const SCALES: usize = 4;
/// Standard deviations of goods' largest values that make one unit of the score.
pub const UNIT: f64 = 8.0;
/// Lowest standard deviation, as a share of the scale's mean: a floor against positions that never moved
/// in a small set.
const SIGMA_FLOOR: f64 = 0.1;

/// Lowest residual that a good part is said to reach: against pictures that are all the same.
const MIN_LIMIT: f64 = 1e-6;
/// Lowest standard deviation that pixels are divided by: flat pictures have nothing but camera noise.
const MIN_DEVIATION: f64 = 2.0;
/// The same where exposure has been taken out: a share of the picture's contrast.
const MIN_CONTRAST: f64 = 0.1;

/// The residual's root mean square over windows of 2, 4, 12 and 20 pixels. Shape of each: `[N, 1, h, w]`;
/// the first has cells of 2 pixels, the others of [`MAP_STRIDE`]. Of features, whose cells are twice as large as the
/// map's: over 1, 3, 5 and 9 cells of the map, all at its resolution.
fn scales<G: Graph>(g: &mut G, residual: &G::Value, shape: Shape) -> [G::Value; SCALES] {
    if shape.features.is_some() {
        let base = g.upsample2(residual);
        let [small, middle, coarse] = [3, 5, 9].map(|k| g.avg_pool(&base, k, 1, k / 2));
        return [base, small, middle, coarse].map(|s| g.sqrt(&s));
    }
    let fine = g.avg_pool(residual, 2, 2, 0);
    let base = g.avg_pool(&fine, 2, 2, 0);
    let middle = g.avg_pool(&base, 3, 1, 1);
    let coarse = g.avg_pool(&base, 5, 1, 2);
    [fine, base, middle, coarse].map(|s| g.sqrt(&s))
}

/// Which of the two maps make the score; the others are for comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fusion {
    /// Logits and residual.
    Fused,
    /// Logits alone.
    Head,
    /// Residual alone.
    Residual,
}

impl std::fmt::Display for Fusion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Fusion::Fused => "fused",
            Fusion::Head => "head",
            Fusion::Residual => "residual",
        })
    }
}

impl Fusion {
    /// Weights of logits and residual.
    fn weights(self) -> [f64; 2] {
        match self {
            Fusion::Fused => [0.5, 0.5],
            Fusion::Head => [1.0, 0.0],
            Fusion::Residual => [0.0, 1.0],
        }
    }
}

/// Pixels to the network's unit: (pixel - mean) · scale, with the constants that [`set_normalisation`]
/// stored; before that each picture's own brightness and contrast are taken out if the shape says so.
/// Shape: `[N, C, S, S]`, 0 to 255 → the same, about mean 0 and deviation 1.
pub fn normalise<G: Graph>(g: &mut G, pixels: &G::Value, shape: Shape) -> G::Value {
    let painted = shape.masked.then(|| {
        let (keep, paint) = (g.constant(KEEP), g.constant(PAINT));
        let kept = g.mul(pixels, &keep);
        g.add(&kept, &paint)
    });
    let pixels = painted.as_ref().unwrap_or(pixels);
    if shape.features.is_some() {
        return g.frozen(pixels);
    }
    if !shape.exposure {
        return to_unit(g, pixels);
    }
    let (mean, deviation) = exposure(g, pixels);
    let exposed = expose(g, pixels, &mean, &deviation);
    to_unit(g, &exposed)
}

/// A damaged picture and the good one behind it, both by the damaged one's exposure. `at`: left and top pixel
/// of the window that they show.
pub fn normalise_pair(
    input: &Tensor,
    target: &Tensor,
    at: (usize, usize),
    weights: &Weights,
    shape: Shape,
) -> (Tensor, Tensor) {
    let g = &mut Torch::eval(weights);
    let side = input.size()[3];
    let window = |name: &str| {
        g.weights.find(name).map(|t| t.narrow(2, at.1 as i64, side).narrow(3, at.0 as i64, side))
    };
    let mask = if shape.masked { window(KEEP).zip(window(PAINT)) } else { None };
    let painted =
        |t: &Tensor| mask.as_ref().map_or_else(|| t.shallow_clone(), |(keep, paint)| t * keep + paint);
    let (input, target) = (painted(input), painted(target));
    if shape.features.is_some() {
        // The first half is undamaged: input and target are the same.
        let (n, clean) = (input.size()[0], input.size()[0] / 2);
        let features = g.frozen(&Tensor::cat(&[&input, &target.narrow(0, clean, n - clean)], 0));
        let input = features.narrow(0, 0, n);
        let target = Tensor::cat(&[features.narrow(0, 0, clean), features.narrow(0, n, n - clean)], 0);
        return (input, target);
    }
    if !shape.exposure {
        return (to_unit(g, &input), to_unit(g, &target));
    }
    let (mean, deviation) = exposure(g, &input);
    let [input, target] = [input, target].map(|pixels| {
        let exposed = expose(g, &pixels, &mean, &deviation);
        to_unit(g, &exposed)
    });
    (input, target)
}

/// Names of the constants that paint over what does not matter: 1 where a pixel is kept, and the colour of the
/// others. Shape: `[1, 1, S, S]`, `[1, C, S, S]`.
const KEEP: &str = "keep";
const PAINT: &str = "paint";

/// Stores where the part matters. What does not is painted in the goods' mean colour before anything else, so
/// that nothing there can change the score. Shape: `matters` `[S, S]`, 0 or 1; `pixels` as for
/// [`set_normalisation`].
pub fn set_mask(weights: &Weights, matters: &[f32], pixels: &Tensor, shape: Shape) {
    let keep = Tensor::from_slice(matters).view([1, 1, shape.size, shape.size]).gt(0.5).to_kind(Kind::Float);
    let mean = pixels.mean_dim([0i64, 2, 3].as_slice(), true, Kind::Float).to_device(Device::Cpu);
    weights.set(PAINT, (-&keep + 1.0) * mean);
    weights.set(MATTERS, keep.max_pool2d([MAP_STRIDE; 2], [MAP_STRIDE; 2], [0; 2], [1; 2], false));
    weights.set(IGNORED, (weights.find(MATTERS).expect("just set") - 1.0) * NEVER);
    weights.set(KEEP, keep);
}

/// Where the part matters, if a mask was set. Shape: `[1, 1, S, S]`.
pub fn kept(weights: &Weights) -> Option<Tensor> {
    weights.find(KEEP)
}

/// Pixels with what does not matter painted over. Shape: `[N, C, S, S]`, 0 to 255 → the same.
pub fn painted(weights: &Weights, pixels: &Tensor) -> Tensor {
    match (weights.find(KEEP), weights.find(PAINT)) {
        (Some(keep), Some(paint)) => pixels * keep + paint,
        _ => pixels.shallow_clone(),
    }
}

fn to_unit<G: Graph>(g: &mut G, pixels: &G::Value) -> G::Value {
    let (mean, scale) = (g.constant("norm_mean"), g.constant("norm_scale"));
    let centred = g.sub(pixels, &mean);
    g.mul(&centred, &scale)
}

/// Brightness and contrast of a picture: mean and deviation over all its pixels and channels.
fn exposure<G: Graph>(g: &mut G, pixels: &G::Value) -> (G::Value, G::Value) {
    let mean = g.mean_picture(pixels);
    let centred = g.sub(pixels, &mean);
    let squared = g.mul(&centred, &centred);
    let variance = g.mean_picture(&squared);
    let floor = g.constant(EXPOSURE_FLOOR);
    let variance = g.add(&variance, &floor);
    (mean, g.sqrt(&variance))
}

fn expose<G: Graph>(g: &mut G, pixels: &G::Value, mean: &G::Value, deviation: &G::Value) -> G::Value {
    let centred = g.sub(pixels, mean);
    g.div(&centred, deviation)
}

/// Name of the constant that keeps a flat picture's contrast from being blown up.
const EXPOSURE_FLOOR: &str = "exposure_floor";

/// Takes mean (each channel) and scale (all channels) from goods. Shape: `[N, C, S, S]`, 0 to 255.
pub fn set_normalisation(weights: &Weights, pixels: &Tensor, shape: Shape) {
    let one = |value: f64| Tensor::from(value as f32).view([1, 1, 1, 1]);
    weights.set(EXPOSURE_FLOOR, one(MIN_DEVIATION * MIN_DEVIATION));
    weights.set("norm_mean", one(0.0));
    weights.set("norm_scale", one(1.0));
    let pixels = normalise(&mut Torch::eval(weights), pixels, shape);
    let floor = if shape.exposure { MIN_CONTRAST } else { MIN_DEVIATION };
    let mean = pixels.mean_dim([0i64, 2, 3].as_slice(), true, Kind::Float);
    let deviation = (&pixels - &mean).square().mean(Kind::Float).sqrt().clamp_min(floor);
    weights.set("norm_mean", mean);
    weights.set("norm_scale", deviation.reciprocal().view([1, 1, 1, 1]));
}

/// Residual over windows, and logits.
struct Evidence<V> {
    scales: [V; SCALES],
    logits: V,
}

fn evidence<G: Graph>(g: &mut G, x: &G::Value, shape: Shape) -> Evidence<G::Value> {
    let features = net::encode(g, x, shape);
    let mu = net::mean(g, &features, shape);
    let position = g.constant(POSITION);
    let decoded = net::decode(g, &mu, &position, shape);
    let residual = net::residual(g, x, &decoded);
    let logits = net::head(g, x, &decoded, &residual, shape);
    let squared = g.mul(&residual, &residual);
    let squared = g.mean_channels(&squared);
    Evidence { scales: scales(g, &squared, shape), logits }
}

/// The residual's map, about 1 where good parts have their largest. Shape: → `[N, 1, S/4, S/4]`.
fn residual_map<G: Graph>(
    g: &mut G,
    [fine, base, middle, coarse]: &[G::Value; SCALES],
    shape: Shape,
) -> G::Value {
    let ratio = |g: &mut G, value: &G::Value, k: usize| {
        let limit = g.constant(&limit_name(k));
        g.mul(value, &limit)
    };
    let fine = ratio(g, fine, 0);
    let mut map = if shape.features.is_some() { fine } else { g.max_pool(&fine, 2) };
    for (k, value) in [base, middle, coarse].into_iter().enumerate() {
        let value = ratio(g, value, k + 1);
        map = g.max(&map, &value);
    }
    map
}

/// Anomaly map and score. Shape: `[N, C, S, S]` (normalised) → `[N, 1, S/4, S/4]`, `[N, 1, 1, 1]`.
pub fn score<G: Graph>(g: &mut G, x: &G::Value, shape: Shape) -> (G::Value, G::Value) {
    let Evidence { scales, logits } = evidence(g, x, shape);
    let residual = residual_map(g, &scales, shape);
    let mut part = |value: &G::Value, name: &str| {
        let factor = g.constant(&format!("{name}_factor"));
        g.mul(value, &factor)
    };
    let (head, residual) = (part(&logits, "head"), part(&residual, "residual"));
    let sum = g.add(&head, &residual);
    let offset = g.constant("fused_offset");
    let map = g.add(&sum, &offset);
    if !shape.masked {
        let score = g.max_picture(&map);
        return (map, score);
    }
    let (matters, ignored) = (g.constant(MATTERS), g.constant(IGNORED));
    let eligible = g.add(&map, &ignored);
    let score = g.max_picture(&eligible);
    (g.mul(&map, &matters), score)
}

/// Names of the constants that are 1 where a cell matters, else 0; and 0 where it matters, else -[`NEVER`], so
/// that it is never the largest. Shape: `[1, 1, S/4, S/4]`.
const MATTERS: &str = "matters";
const IGNORED: &str = "ignored";
const NEVER: f64 = 1e4;

/// Name of the constant that holds the reciprocal of what good parts reach at each cell of a scale.
fn limit_name(scale: usize) -> String {
    format!("limit{scale}")
}

/// Computes the statistics of good parts and stores them as the constants that [`score`] needs.
///
/// Shape: `batches` of `[N, C, S, S]`, normalised; for parts that may lie several ways, in all of them.
pub fn set_statistics(
    weights: &Weights,
    batches: impl Iterator<Item = Tensor>,
    shape: Shape,
    fusion: Fusion,
) {
    no_grad(|| {
        let mut all: [Vec<Tensor>; SCALES] = Default::default();
        let mut logits = Vec::new();
        for batch in batches {
            let evidence = evidence(&mut Torch::eval(weights), &batch, shape);
            for (all, value) in all.iter_mut().zip(evidence.scales) {
                all.push(value);
            }
            logits.push(evidence.logits);
        }
        let all = all.map(|values| Tensor::cat(&values, 0));
        for (k, values) in all.iter().enumerate() {
            let limit = limit(values);
            let largest = (values / &limit).amax([1i64, 2, 3].as_slice(), false).mean(Kind::Float);
            weights.set(&limit_name(k), (limit * largest).reciprocal());
        }
        let residual = residual_map(&mut Torch::eval(weights), &all, shape);
        set_largest(weights, [("head", &Tensor::cat(&logits, 0)), ("residual", &residual)]);
        set_fusion(weights, fusion);
    });
}

/// What goods' largest values are: mean and deviation of each map, stored for [`set_fusion`].
fn set_largest(weights: &Weights, maps: [(&str, &Tensor); 2]) {
    for (name, map) in maps {
        let eligible = weights.find(IGNORED).map_or_else(|| map.shallow_clone(), |ignored| map + ignored);
        let largest = eligible.amax([1i64, 2, 3].as_slice(), false);
        let mean = largest.mean(Kind::Float);
        let deviation = largest.std(false).maximum(&(mean.abs() * MIN_SPREAD)).clamp_min(1e-6);
        weights.set(&format!("{name}_mean"), mean);
        weights.set(&format!("{name}_deviation"), deviation);
    }
}

/// Stores factors and offset such that the map is 1 + (weighted mean of both maps, in deviations of goods'
/// largest values) / [`UNIT`]. After [`set_statistics`].
pub fn set_fusion(weights: &Weights, fusion: Fusion) {
    let number = |name: String| weights.find(&name).map_or(f64::NAN, |t| t.double_value(&[]));
    let mut offset = 1.0;
    for (name, weight) in ["head", "residual"].into_iter().zip(fusion.weights()) {
        let factor = weight / number(format!("{name}_deviation")) / UNIT;
        offset -= number(format!("{name}_mean")) * factor;
        weights.set(&format!("{name}_factor"), Tensor::from(factor as f32).view([1, 1, 1, 1]));
    }
    weights.set("fused_offset", Tensor::from(offset as f32).view([1, 1, 1, 1]));
}

/// Lowest deviation of goods' largest values, as a share of their mean: against sets of a few alike pictures.
const MIN_SPREAD: f64 = 0.02;

/// What good parts reach at every cell: mean and variance smoothed over neighbours, a floor under sigma.
/// Shape: `[N, 1, h, w]` → `[1, 1, h, w]`.
fn limit(values: &Tensor) -> Tensor {
    let smooth = |t: &Tensor| t.avg_pool2d([5, 5], [1, 1], [2, 2], false, false, None);
    let mean = smooth(&values.mean_dim([0i64].as_slice(), true, Kind::Float));
    let variance = smooth(&(values - &mean).square().mean_dim([0i64].as_slice(), true, Kind::Float));
    let floor = values.mean(Kind::Float) * SIGMA_FLOOR;
    (&mean + variance.sqrt().maximum(&floor) * SPREAD).clamp_min(MIN_LIMIT)
}
