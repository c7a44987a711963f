//! The layers of the generators' networks on libtorch: convolution, linear, norms, attention, tables.
//!
//! Weights are made at their first use, by name, as in [`crate::torch`]; the numbers that they start from follow
//! from the seed and the name.
//!
//! Terms: *signal* the vector a picture that steers all blocks: time, class, process parameters; *adaptive
//! norm* a group norm whose gain and shift come from the signal (AdaGN: Dhariwal & Nichol 2021, section 3;
//! FiLM: Perez et al. 2018).
//!
//! Never here: what a network looks like; operators for the daemon's model ([`crate::net`]).

use tch::{Device, Kind, Tensor};

use super::chance::Chance;
use crate::torch::{Precision, Weights};

const EPS: f64 = 1e-5;
/// Channels in a group of a group norm. Widths are multiples of it.
pub const GROUP: i64 = 8;

/// How a weight starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Start {
    /// Variance kept by a layer that has no rectifier (LeCun et al. 1998).
    Usual,
    /// A tenth of that: blocks start as nearly nothing, outputs as nearly 0.
    Small,
}

/// Layers over named weights.
#[derive(Clone, Copy)]
pub struct Layers<'a> {
    /// Weights by name.
    pub weights: &'a Weights,
    /// What weights start from.
    pub seed: u64,
    /// What convolutions and linear layers are computed in.
    pub precision: Precision,
    /// Whether weights made by these layers learn from here on: false freezes them.
    pub learns: bool,
}

impl<'a> Layers<'a> {
    /// In 32 bits, learning.
    pub fn new(weights: &'a Weights, seed: u64) -> Self {
        Self { weights, seed, precision: Precision::F32, learns: true }
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.weights.device
    }

    fn weight(&self, name: &str, shape: &[i64], std: f64) -> Tensor {
        let init = || Chance::of_name(self.seed, name).normal(shape).to_device(self.device()) * std;
        self.held(self.weights.learned(name, init))
    }

    fn filled(&self, name: &str, size: i64, value: f64) -> Tensor {
        let init = || Tensor::full([size], value, (Kind::Float, self.device()));
        self.held(self.weights.learned(name, init))
    }

    fn held(&self, weight: Tensor) -> Tensor {
        if self.learns { weight } else { weight.detach() }
    }

    fn short(&self, t: &Tensor) -> Tensor {
        match self.precision {
            Precision::F32 if t.kind() == Kind::Double => t.shallow_clone(), // tests of gradients
            Precision::F32 => t.to_kind(Kind::Float),
            Precision::Bf16 => t.to_kind(Kind::BFloat16),
        }
    }

    /// "Same" padding, with bias. Shape: `[N, C, H, W]` → `[N, out, H/stride, W/stride]`
    pub fn conv(
        &self,
        x: &Tensor,
        name: &str,
        (out, kernel, stride): (i64, i64, i64),
        start: Start,
    ) -> Tensor {
        let channels = x.size()[1];
        let std = deviation(channels * kernel * kernel, start);
        let weight = self.weight(&format!("{name}_w"), &[out, channels, kernel, kernel], std);
        let bias = self.filled(&format!("{name}_b"), out, 0.0);
        let (x, weight, bias) = (self.short(x), self.short(&weight), self.short(&bias));
        x.conv2d(&weight, Some(bias), [stride; 2], [kernel / 2; 2], [1, 1], 1)
    }

    /// Shape: `[…, in]` → `[…, out]`
    pub fn linear(&self, x: &Tensor, name: &str, out: i64, start: Start) -> Tensor {
        let inputs = x.size().last().copied().unwrap_or(1);
        let weight = self.weight(&format!("{name}_w"), &[out, inputs], deviation(inputs, start));
        let bias = self.filled(&format!("{name}_b"), out, 0.0);
        self.short(x).linear(&self.short(&weight), Some(self.short(&bias)))
    }

    /// Two linear layers. Shape: `[…, in]` → `[…, out]`
    pub fn perceptron(&self, x: &Tensor, name: &str, (hidden, out): (i64, i64)) -> Tensor {
        let h = self.linear(x, &format!("{name}_in"), hidden, Start::Usual).silu();
        self.linear(&h, &format!("{name}_out"), out, Start::Usual)
    }

    /// Group norm with a gain and shift of its own. Source: Wu & He 2018.
    pub fn group_norm(&self, x: &Tensor, name: &str) -> Tensor {
        let channels = x.size()[1];
        let gain = self.filled(&format!("{name}_gain"), channels, 1.0);
        let shift = self.filled(&format!("{name}_shift"), channels, 0.0);
        x.group_norm(groups(channels), Some(gain), Some(shift), EPS, true)
    }

    /// Group norm whose gain and shift are told by the signal. Shapes: x `[N, C, H, W]`, signal `[N, D]`.
    pub fn adaptive_norm(&self, x: &Tensor, signal: &Tensor, name: &str) -> Tensor {
        let channels = x.size()[1];
        let told = self.linear(&signal.silu(), name, 2 * channels, Start::Small).to_kind(x.kind());
        let told = told.view([-1, 2 * channels, 1, 1]);
        let normal = self.group_norm(x, &format!("{name}_norm"));
        normal * (told.narrow(1, 0, channels) + 1.0) + told.narrow(1, channels, channels)
    }

    /// Norm over the last dimension. Source: Ba et al. 2016.
    pub fn layer_norm(&self, x: &Tensor, name: &str) -> Tensor {
        let width = x.size().last().copied().unwrap_or(1);
        let gain = self.filled(&format!("{name}_gain"), width, 1.0);
        let shift = self.filled(&format!("{name}_shift"), width, 0.0);
        x.to_kind(Kind::Float).layer_norm([width], Some(gain), Some(shift), EPS, true)
    }

    /// Row `ids` of a learned table; an id outside 0..count is taken as the nearest there is.
    /// Shape: `[…]` i64 → `[…, width]`
    pub fn table(&self, ids: &Tensor, name: &str, (count, width): (i64, i64)) -> Tensor {
        let table = self.weight(name, &[count, width], 1.0);
        Tensor::embedding(&table, &ids.clamp(0, count - 1), -1, false, false)
    }

    /// One learned row. Shape: → `[width]`
    pub fn row(&self, name: &str, width: i64) -> Tensor {
        self.weight(name, &[width], 1.0)
    }

    /// Attention of `x` to `to`, `[N, L, D]` each, several heads. `known` `[N, L]`: the tokens of `to` that are
    /// there; at least one must be. Shape: → `[N, L of x, D of x]`. Source: Vaswani et al. 2017, section 3.2.
    pub fn attention(&self, x: &Tensor, to: &Tensor, known: Option<&Tensor>, name: &str) -> Tensor {
        let (n, width) = (x.size()[0], x.size().last().copied().unwrap_or(1));
        let heads = heads(width);
        let split = |t: Tensor| t.view([n, -1, heads, width / heads]).transpose(1, 2);
        let part =
            |t: &Tensor, part: &str| split(self.linear(t, &format!("{name}_{part}"), width, Start::Usual));
        let (query, key, value) = (part(x, "query"), part(to, "key"), part(to, "value"));
        let scale = 1.0 / ((width / heads) as f64).sqrt();
        let mut weight = query.matmul(&key.transpose(-2, -1)).to_kind(Kind::Float) * scale; // [N, heads, Lx, L]
        if let Some(known) = known {
            let missing = known.logical_not().view([n, 1, 1, -1]);
            weight = weight.masked_fill(&missing, f64::NEG_INFINITY);
        }
        let mixed = weight.softmax(-1, Kind::Float).to_kind(value.kind()).matmul(&value);
        let mixed = mixed.transpose(1, 2).reshape([n, -1, width]);
        self.linear(&mixed, &format!("{name}_mixed"), width, Start::Small)
    }
}

fn deviation(inputs: i64, start: Start) -> f64 {
    let usual = (1.0 / inputs as f64).sqrt();
    if start == Start::Small { 0.1 * usual } else { usual }
}

fn groups(channels: i64) -> i64 {
    if channels % GROUP == 0 { channels / GROUP } else { 1 }
}

/// 32 channels a head, as far as that comes out even.
fn heads(width: i64) -> i64 {
    if width % 32 == 0 { width / 32 } else { 1 }
}

/// sin and cos at frequencies that rise by factors from 1 to `span`. Shape: `[N]` → `[N, 2 count]`
pub fn waves(x: &Tensor, count: i64, span: f64) -> Tensor {
    let at = Tensor::arange(count, (Kind::Float, x.device())) / (count - 1).max(1) as f64;
    let angle = x.unsqueeze(-1) * (at * span.ln()).exp();
    Tensor::cat(&[angle.sin(), angle.cos()], -1)
}
