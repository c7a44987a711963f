//! [`Graph`] on libtorch: the weights and the forward pass.
//!
//! Never here: what the network looks like ([`crate::net`]), how it learns ([`crate::optimiser`]).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use crate::backbone::Frozen;
use crate::net::{Conv, Graph};

/// BatchNorm's epsilon, PyTorch's default.
pub const NORM_EPS: f64 = 1e-5;

/// Named weights and constants. Weights are created at their first use.
pub struct Weights {
    /// Where they are.
    pub device: Device,
    all: RefCell<BTreeMap<String, Tensor>>,
    /// Names of those that the optimiser moves, in order.
    learned: RefCell<Vec<String>>,
    frozen: RefCell<Option<Rc<Frozen>>>,
}

impl Weights {
    /// None yet.
    pub fn new(device: Device) -> Self {
        Self { device, all: RefCell::default(), learned: RefCell::default(), frozen: RefCell::default() }
    }

    /// The learned weight of that name; made by `init` if it is not there yet.
    pub fn learned(&self, name: &str, init: impl FnOnce() -> Tensor) -> Tensor {
        if let Some(known) = self.find(name) {
            return known;
        }
        self.learned.borrow_mut().push(name.to_owned());
        self.set(name, init().set_requires_grad(true));
        self.find(name).expect("was just set")
    }

    /// Names and values of the learned weights, in the order of their making.
    pub fn all_learned(&self) -> Vec<(String, Tensor)> {
        let names = self.learned.borrow();
        names.iter().map(|n| (n.clone(), self.find(n).expect("learned weights are never removed"))).collect()
    }

    /// Stores a value (statistics, normalisation) in place of any earlier one of that name.
    pub fn set(&self, name: &str, value: Tensor) {
        self.all.borrow_mut().insert(name.to_owned(), value.to_device(self.device));
    }

    /// The backbone, where there is one.
    pub fn frozen(&self) -> Option<Rc<Frozen>> {
        self.frozen.borrow().clone()
    }

    /// Puts a backbone before the network.
    pub fn set_frozen(&self, frozen: Frozen) {
        *self.frozen.borrow_mut() = Some(Rc::new(frozen));
    }

    /// A value that is there.
    pub fn find(&self, name: &str) -> Option<Tensor> {
        self.all.borrow().get(name).map(Tensor::shallow_clone)
    }
}

/// Which statistics BatchNorm uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Norm {
    /// The stored ones: inference.
    Stored,
    /// The batch's own: learning. The stored ones stay as they are.
    Batch,
    /// The batch's own, and the stored ones move towards them by this share.
    Estimate(f64),
}

/// Runs a [`Graph`] on tensors.
pub struct Torch<'a> {
    /// Weights by name.
    pub weights: &'a Weights,
    /// BatchNorm's statistics.
    pub norm: Norm,
    /// What convolutions and all between them are computed in; what leaves the network is f32.
    pub precision: Precision,
}

/// In what numbers the network learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// 32 bits everywhere.
    F32,
    /// bfloat16 between the layers, 32 bits for weights, losses and all that leaves the network.
    Bf16,
}

impl Precision {
    /// bfloat16 where the machine computes with it: there a step takes about half the time.
    pub fn fastest(device: Device) -> Self {
        #[cfg(target_arch = "x86_64")]
        let cpu = std::is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        let cpu = false;
        if cpu || device.is_cuda() { Precision::Bf16 } else { Precision::F32 }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        })
    }
}

impl<'a> Torch<'a> {
    /// For inference.
    pub fn eval(weights: &'a Weights) -> Self {
        Self { weights, norm: Norm::Stored, precision: Precision::F32 }
    }

    /// Batch norm by the statistics that [`Norm`] says. Shape: `[N, out, H, W]` → the same.
    pub fn batch_norm(&mut self, y: &Tensor, name: &str, out: i64) -> Tensor {
        let device = self.weights.device;
        let full = |value: f64| Tensor::full([out], value, (Kind::Float, device));
        let gain = self.weights.learned(&format!("{name}_gain"), || full(1.0));
        let shift = self.weights.learned(&format!("{name}_shift"), || full(0.0));
        let (mut mean, mut variance, momentum) = (None, None, 0.0);
        let momentum = if let Norm::Estimate(share) = self.norm { share } else { momentum };
        if self.norm != Norm::Batch {
            let stored = |part: &str, start: f64| {
                let name = format!("{name}_{part}");
                if self.weights.find(&name).is_none() {
                    self.weights.set(&name, full(start));
                }
                self.weights.find(&name)
            };
            (mean, variance) = (stored("mean", 0.0), stored("var", 1.0));
        }
        let own = self.norm != Norm::Stored;
        y.batch_norm(Some(gain), Some(shift), mean, variance, own, momentum, NORM_EPS, false)
    }
}

impl Graph for Torch<'_> {
    type Value = Tensor;

    fn frozen(&mut self, pixels: &Tensor) -> Tensor {
        self.weights.frozen().map_or_else(|| panic!("the backbone was never set"), |f| f.features(pixels))
    }

    fn conv(&mut self, x: &Tensor, name: &str, conv: Conv) -> Tensor {
        let channels = x.size()[1];
        let Conv { out, kernel, stride, norm } = conv;
        let fan_in = (channels * kernel * kernel) as f64;
        // He et al. 2015; the outputs (mu, logvar, out, logit) start small.
        let std = if norm { (2.0 / fan_in).sqrt() } else { 0.3 / fan_in.sqrt() };
        let device = self.weights.device;
        let init = || Tensor::randn([out, channels, kernel, kernel], (Kind::Float, device)) * std;
        let weight = self.weights.learned(&format!("{name}_w"), init);
        let zero = || Tensor::zeros([out], (Kind::Float, device));
        let bias = (!norm).then(|| self.weights.learned(&format!("{name}_b"), zero));
        let convolve = |x: &Tensor, weight: &Tensor, bias: Option<Tensor>| {
            x.conv2d(weight, bias, [stride; 2], [kernel / 2; 2], [1, 1], 1)
        };
        let y = match self.precision {
            Precision::F32 => convolve(x, &weight, bias),
            Precision::Bf16 => {
                let short = |t: &Tensor| t.to_kind(Kind::BFloat16);
                let y = convolve(&short(x), &short(&weight), bias.as_ref().map(short));
                if norm { y } else { y.to_kind(Kind::Float) }
            }
        };
        if norm { self.batch_norm(&y, name, out) } else { y }
    }

    fn relu(&mut self, x: &Tensor) -> Tensor {
        x.shallow_clone().relu_()
    }
    fn add(&mut self, a: &Tensor, b: &Tensor) -> Tensor {
        a + b.to_kind(a.kind()) // a learned map is f32, what it is added to may not be
    }
    fn sub(&mut self, a: &Tensor, b: &Tensor) -> Tensor {
        a - b
    }
    fn mul(&mut self, a: &Tensor, b: &Tensor) -> Tensor {
        a * b
    }
    fn div(&mut self, a: &Tensor, b: &Tensor) -> Tensor {
        a / b
    }
    fn max(&mut self, a: &Tensor, b: &Tensor) -> Tensor {
        a.maximum(b)
    }
    fn exp(&mut self, x: &Tensor) -> Tensor {
        x.exp()
    }
    fn sqrt(&mut self, x: &Tensor) -> Tensor {
        x.sqrt()
    }
    fn scale(&mut self, x: &Tensor, factor: f64) -> Tensor {
        x * factor
    }
    fn clip(&mut self, x: &Tensor, lo: f64, hi: f64) -> Tensor {
        x.clamp(lo, hi)
    }
    fn upsample2(&mut self, x: &Tensor) -> Tensor {
        let size = x.size();
        x.upsample_nearest2d([size[2] * 2, size[3] * 2], None, None)
    }
    fn depth_to_space2(&mut self, x: &Tensor) -> Tensor {
        x.pixel_shuffle(2)
    }
    fn channels(&mut self, x: &Tensor, from: i64, to: i64) -> Tensor {
        x.narrow(1, from, to - from)
    }
    fn concat(&mut self, parts: &[&Tensor]) -> Tensor {
        Tensor::cat(parts, 1)
    }
    fn mean_picture(&mut self, x: &Tensor) -> Tensor {
        x.mean_dim([1i64, 2, 3].as_slice(), true, Kind::Float)
    }
    fn mean_channels(&mut self, x: &Tensor) -> Tensor {
        x.mean_dim([1i64].as_slice(), true, Kind::Float)
    }
    fn avg_pool(&mut self, x: &Tensor, k: i64, stride: i64, pad: i64) -> Tensor {
        x.avg_pool2d([k; 2], [stride; 2], [pad; 2], false, false, None)
    }
    fn max_picture(&mut self, x: &Tensor) -> Tensor {
        x.amax([1i64, 2, 3].as_slice(), true)
    }
    fn max_pool(&mut self, x: &Tensor, k: i64) -> Tensor {
        x.max_pool2d([k; 2], [k; 2], [0; 2], [1; 2], false)
    }
    fn constant(&mut self, name: &str) -> Tensor {
        self.weights.find(name).unwrap_or_else(|| panic!("constant `{name}` was never set"))
    }
}
