//! Pictures through the network by libtorch, without learning: tensors, BatchNorm's statistics, scores.
//!
//! Never here: steps of the optimiser ([`crate::learn`]).

use inspect_core::card::Input;
use tch::{Device, Kind, Tensor, no_grad};

use crate::net::{self, POSITION, Shape};
use crate::score;
use crate::torch::{Norm, Torch, Weights};

/// Pictures that go through the network together.
const CHUNK: usize = 16;

/// Shape: pictures each `[H, W, C]` → tensors `[n, C, H, W]`, 0 to 255, n at most 16.
pub fn to_pixels<'a>(pictures: &'a [&[u8]], input: Input) -> impl Iterator<Item = Tensor> + 'a {
    let [h, w, c] = [input.height, input.width, u32::from(input.channels)].map(i64::from);
    pictures.chunks(CHUNK).map(move |chunk| {
        let view = Tensor::from_slice(&chunk.concat()).view([-1, h, w, c]);
        view.to_kind(Kind::Float).permute([0, 3, 1, 2])
    })
}

/// The same in the network's unit.
pub fn normalised<'a>(
    weights: &'a Weights,
    shape: Shape,
    pictures: &'a [&[u8]],
    input: Input,
) -> impl Iterator<Item = Tensor> + 'a {
    let to_unit =
        move |t: Tensor| score::normalise(&mut Torch::eval(weights), &t.to_device(weights.device), shape);
    to_pixels(pictures, input).map(to_unit)
}

/// A part of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Encoder and decoder.
    Vae,
    /// Head.
    Head,
}

/// BatchNorm's stored statistics of a part for the averaged weights: the mean over batches of equal size.
///
/// The VAE's want clean goods, since that is what it draws. The head's want mixed ones, half of them
/// damaged, as it learnt, after the VAE's: what only defects stir would else have next to no variance,
/// and a fold of the weights would blow up its noise.
/// Source: Izmailov et al. 2018, section 3.2.
pub fn estimate_norm(weights: &Weights, batches: impl Iterator<Item = Tensor>, shape: Shape, part: Part) {
    let position = weights.find(POSITION).expect("made with the network");
    no_grad(|| {
        for (i, batch) in batches.enumerate() {
            let share = Norm::Estimate(1.0 / (i as f64 + 1.0));
            let norm = |of: Part| Torch {
                norm: if of == part { share } else { Norm::Stored },
                ..Torch::eval(weights)
            };
            let mut g = norm(Part::Vae);
            let features = net::encode(&mut g, &batch, shape);
            let mu = net::mean(&mut g, &features, shape);
            let decoded = net::decode(&mut g, &mu, &position, shape);
            if part == Part::Head {
                let mut g = norm(Part::Head);
                let residual = net::residual(&mut g, &batch, &decoded);
                let _ = net::head(&mut g, &batch, &decoded, &residual, shape);
            }
        }
    });
}

/// Scores of pictures by libtorch. Shape: each `[H, W, C]` → one number each.
pub fn scores(weights: &Weights, shape: Shape, pictures: &[&[u8]], input: Input) -> Vec<f32> {
    judged(weights, shape, pictures, input, |_, score| score)
}

/// Anomaly maps of pictures by libtorch. Shape: each `[H, W, C]` → `[H/4, W/4]`.
pub fn maps(weights: &Weights, shape: Shape, pictures: &[&[u8]], input: Input) -> Vec<Vec<f32>> {
    let cells = (shape.size / score::MAP_STRIDE).pow(2) as usize;
    let all = judged(weights, shape, pictures, input, |map, _| map);
    all.chunks(cells).map(<[f32]>::to_vec).collect()
}

/// All elements of what `pick` takes of map and score.
fn judged(
    weights: &Weights,
    shape: Shape,
    pictures: &[&[u8]],
    input: Input,
    pick: fn(Tensor, Tensor) -> Tensor,
) -> Vec<f32> {
    let mut all = Vec::new();
    no_grad(|| {
        for batch in normalised(weights, shape, pictures, input) {
            let (map, score) = score::score(&mut Torch::eval(weights), &batch, shape);
            all.extend(floats_of(&pick(map, score)));
        }
    });
    all
}

/// Row-major elements.
pub fn floats_of(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.detach().to_device(Device::Cpu).contiguous().view(-1);
    let mut values = vec![0f32; flat.numel()];
    flat.copy_data(&mut values, flat.numel());
    values
}
