//! Where defects are compared: a network that nobody trained, the same on every machine.
//!
//! VGG-like, its weights drawn once from a fixed seed: four *stages* of two 3x3 convolutions with ReLU, halved by
//! mean pooling in between. A *feature* is ln(1 + v), v the mean, or the deviation, of one channel of a stage inside
//! the mask, each place weighted by how much of it the mask covers; without the logarithm a few pictures of strong
//! contrast would be most of every distance. A random network serves for pictures unlike those that trained
//! ones learnt from (Naeem et al. 2020), knows nothing of photographs of dogs, and needs no download.
//!
//! The SHA-256 over weights and layout names the feature space: figures in two spaces must not be compared. They
//! are no FID, which is another network and another distance.
//!
//! With a *backbone* of the user's own (methods of [`crate::backbone`]) its maps are the stages: it knows what pictures
//! look like, if it was trained on any.
//!
//! Never here: figures.

use std::sync::Arc;

use inspect_core::model::hex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor, no_grad};

use super::sets::{CROP_PX, Crop};
use crate::backbone::{Backbone, BackboneError, Maps};

/// Channels of the stages.
const WIDTHS: [i64; 4] = [16, 32, 64, 64];
/// Convolutions of a stage.
const DEPTH: usize = 2;
/// Seed of the weights.
const SEED: u64 = 20_220_401;
/// Largest bias, either way.
const BIAS: f32 = 0.1;
/// Brings 0 to 255 to about ±2.
const MIDDLE: f64 = 127.5;
const CONTRAST: f64 = 64.0;
/// Crops that go through the network together.
const CHUNK: usize = 32;

/// The network.
pub struct FeatureNet {
    stages: Stages,
    /// What it is, for people.
    pub name: String,
    /// SHA-256 over layout and weights, hex.
    pub sha256: String,
    /// Channels of all stages.
    channels: i64,
}

/// What gives the stages.
enum Stages {
    /// Weight and bias of each convolution, stage by stage.
    Random(Vec<(Tensor, Tensor)>),
    /// The maps of a backbone.
    Backbone(Maps),
}

impl Default for FeatureNet {
    fn default() -> Self {
        let mut r = StdRng::seed_from_u64(SEED);
        let mut digest = Sha256::new();
        digest.update(format!(
            "{CROP_PX} {WIDTHS:?} {DEPTH} {MIDDLE} {CONTRAST} mean deviation in the mask, log1p"
        ));
        let mut layers = Vec::new();
        let mut channels = 3;
        for width in WIDTHS {
            for _ in 0..DEPTH {
                // He et al. 2015, eq. 10, as a uniform distribution of that variance.
                let limit = (6.0 / (channels * 9) as f32).sqrt();
                let mut draw = |n: i64, limit: f32| {
                    let values: Vec<f32> = (0..n).map(|_| r.random_range(-limit..limit)).collect();
                    values.iter().for_each(|v| digest.update(v.to_le_bytes()));
                    Tensor::from_slice(&values)
                };
                let weight = draw(width * channels * 9, limit).view([width, channels, 3, 3]);
                layers.push((weight, draw(width, BIAS)));
                channels = width;
            }
        }
        Self {
            stages: Stages::Random(layers),
            name: "random VGG-like network, fixed seed, pooled inside the mask".into(),
            sha256: hex(&digest.finalize()),
            channels: WIDTHS.iter().sum(),
        }
    }
}

impl FeatureNet {
    /// The user's own network, tried at [`CROP_PX`]. Errors: [`BackboneError`].
    pub fn of(backbone: Arc<Backbone>, threads: usize) -> Result<Self, BackboneError> {
        let maps: Vec<String> = backbone.maps.iter().map(|map| map.said(backbone.size)).collect();
        let maps = maps.join("; ");
        let mut digest = Sha256::new();
        let space = format!(
            "{CROP_PX} {} {:?} {maps} mean deviation in the mask, log1p",
            backbone.sha256, backbone.scale
        );
        digest.update(space);
        Ok(Self {
            name: format!("backbone of SHA-256 {}, pooled inside the mask: {maps}", backbone.sha256),
            sha256: hex(&digest.finalize()),
            channels: backbone.channels(),
            stages: Stages::Backbone(Maps::new(backbone, 3, threads)?),
        })
    }

    /// Features of a crop.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.channels as usize * 2
    }

    /// Shape: n crops → `[n, len]`, f64. Errors: [`BackboneError`] of a backbone.
    pub fn features(&self, crops: &[Crop]) -> Result<Tensor, BackboneError> {
        let chunks = crops.chunks(CHUNK).map(|chunk| self.chunk(chunk)).collect::<Result<Vec<_>, _>>()?;
        if chunks.is_empty() {
            return Ok(Tensor::zeros([0, self.len() as i64], (Kind::Double, tch::Device::Cpu)));
        }
        Ok(Tensor::cat(&chunks, 0))
    }

    fn chunk(&self, crops: &[Crop]) -> Result<Tensor, BackboneError> {
        let (n, side) = (crops.len() as i64, i64::from(CROP_PX));
        let pixels: Vec<u8> = crops.iter().flat_map(|c| c.pixels.iter().copied()).collect();
        let masks: Vec<f32> = crops.iter().flat_map(|c| c.mask.iter().copied()).collect();
        no_grad(|| {
            let x = Tensor::from_slice(&pixels).view([n, side, side, 3]).permute([0, 3, 1, 2]);
            let x = x.to_kind(Kind::Float);
            let mask = Tensor::from_slice(&masks).view([n, 1, side, side]);
            let found = match &self.stages {
                Stages::Random(layers) => random(layers, &((x - MIDDLE) / CONTRAST), mask),
                Stages::Backbone(maps) => {
                    let maps = maps.of(&x)?;
                    let shrunk = |map: &Tensor| mask.adaptive_avg_pool2d([map.size()[2], map.size()[3]]);
                    maps.iter().flat_map(|map| inside(map, &shrunk(map))).collect()
                }
            };
            let found = Tensor::cat(&found, 1).to_kind(Kind::Double);
            Ok(found.sign() * found.abs().log1p()) // a backbone's channels may be negative
        })
    }
}

/// Mean and deviation of every channel of every stage.
fn random(layers: &[(Tensor, Tensor)], x: &Tensor, mut mask: Tensor) -> Vec<Tensor> {
    let (mut x, mut found) = (x.shallow_clone(), Vec::new());
    for stage in layers.chunks(DEPTH) {
        for (weight, bias) in stage {
            x = x.conv2d(weight, Some(bias), [1; 2], [1; 2], [1; 2], 1).relu();
        }
        found.extend(inside(&x, &mask));
        x = x.avg_pool2d([2; 2], [2; 2], [0; 2], false, true, None);
        mask = mask.avg_pool2d([2; 2], [2; 2], [0; 2], false, true, None);
    }
    found
}

/// Mean and deviation of each channel inside the mask. Shape: `[N, C, h, w]`, `[N, 1, h, w]` → twice `[N, C]`.
fn inside(x: &Tensor, mask: &Tensor) -> [Tensor; 2] {
    let places = [2i64, 3];
    let weight = mask / mask.sum_dim_intlist(places.as_slice(), true, Kind::Float).clamp_min(1e-12);
    let mean = (x * &weight).sum_dim_intlist(places.as_slice(), true, Kind::Float);
    let variance = ((x - &mean).square() * &weight).sum_dim_intlist(places.as_slice(), false, Kind::Float);
    [mean.squeeze_dim(3).squeeze_dim(2), variance.sqrt()]
}

/// Brings features to the unit of the real ones: their mean is 0, their mean variance 1.
///
/// One factor for all: a variance of each feature's own would be guessed from a handful of defects.
pub struct Space {
    centre: Tensor,
    scale: f64,
}

impl Space {
    /// Shape: `real` `[n, d]`, n at least 1.
    pub fn new(real: &Tensor) -> Self {
        let centre = real.mean_dim([0i64].as_slice(), true, Kind::Double);
        let scale = (real - &centre).square().mean(Kind::Double).double_value(&[]).sqrt();
        Self { centre, scale: if scale > 1e-9 { scale } else { 1.0 } }
    }

    /// Shape: `[n, d]` → the same.
    pub fn bring(&self, features: &Tensor) -> Tensor {
        (features - &self.centre) / self.scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats_of(tensor: &Tensor) -> Vec<f32> {
        crate::infer::floats_of(&tensor.to_kind(Kind::Float))
    }

    fn crop(inside: u8, outside: u8) -> Crop {
        let side = CROP_PX as usize;
        let marked = |i: usize| (16..48).contains(&(i % side)) && (16..48).contains(&(i / side));
        let mask: Vec<f32> = (0..side * side).map(|i| f32::from(u8::from(marked(i)))).collect();
        let pixels = mask.iter().flat_map(|m| [if *m > 0.0 { inside } else { outside }; 3]).collect();
        let [name, class, group] = [0; 3].map(|_| String::new());
        Crop { name, class, group, pixels, mask, is_pasted: false }
    }

    #[test]
    fn the_net_is_always_the_same_and_looks_into_the_mask() {
        let (one, two) = (FeatureNet::default(), FeatureNet::default());
        assert_eq!((one.sha256.len(), &one.sha256), (64, &two.sha256));
        let crops = [crop(200, 40), crop(200, 40), crop(90, 40), crop(200, 60)];
        let features = one.features(&crops).unwrap();
        assert_eq!(features.size(), [4, one.len() as i64]);
        assert_eq!(floats_of(&features), floats_of(&two.features(&crops).unwrap()));
        let distance = |i: i64, j: i64| (features.get(i) - features.get(j)).norm().double_value(&[]);
        assert_eq!(distance(0, 1), 0.0);
        assert!(distance(0, 2) > 2.0 * distance(0, 3), "{} {}", distance(0, 2), distance(0, 3));
    }

    #[test]
    fn the_space_is_that_of_the_real_ones() {
        let real = Tensor::from_slice(&[1.0f64, 2.0, 3.0, 6.0]).view([2, 2]);
        let brought = Space::new(&real).bring(&real);
        assert!(brought.sum(Kind::Double).double_value(&[]).abs() < 1e-12);
        assert!((brought.square().mean(Kind::Double).double_value(&[]) - 1.0).abs() < 1e-12);
        let one = Space::new(&real.narrow(0, 0, 1)).bring(&real);
        assert!(floats_of(&one).iter().all(|v| v.is_finite()), "one defect has no spread");
    }
}
