//! Pictures through the network by libtorch, without learning: tensors, BatchNorm's statistics, scores.
//!
//! Never here: steps of the optimiser ([`crate::fit`]).

use inspect_core::card::Input;
use tch::{Kind, Tensor, no_grad};

use crate::net::{self, Shape};
use crate::residual;
use crate::torch::{Torch, Weights};

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
    pictures: &'a [&[u8]],
    input: Input,
) -> impl Iterator<Item = Tensor> + 'a {
    to_pixels(pictures, input).map(|t| residual::normalise(&mut Torch::eval(weights), &t))
}

/// BatchNorm's running statistics for the averaged weights: the mean over batches of clean goods.
/// Source: Izmailov et al. 2018, section 3.2.
pub fn estimate_norm(weights: &Weights, batches: impl Iterator<Item = Tensor>, shape: Shape) {
    no_grad(|| {
        for (i, batch) in batches.enumerate() {
            let norm_momentum = Some(1.0 / (i as f64 + 1.0));
            let mut g = Torch { weights, norm_momentum };
            let (mu, _) = net::encode(&mut g, &batch, shape);
            let _ = net::decode(&mut g, &mu, shape);
        }
    });
}

/// Scores of pictures by libtorch. Shape: each `[H, W, C]` → one number each.
pub fn scores(weights: &Weights, shape: Shape, pictures: &[&[u8]], input: Input) -> Vec<f32> {
    let mut all = Vec::with_capacity(pictures.len());
    no_grad(|| {
        for batch in normalised(weights, pictures, input) {
            let (_, score) = residual::score(&mut Torch::eval(weights), &batch, shape);
            let mut values = vec![0f32; score.numel()];
            score.contiguous().view(-1).copy_data(&mut values, score.numel());
            all.extend(values);
        }
    });
    all
}
