//! [`Graph`] on libtorch: weights, forward pass, and what tch does not offer (channels_last, EMA).
//!
//! Never here: what the network looks like ([`crate::net`]).

use std::cell::RefCell;
use std::collections::BTreeMap;

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor, no_grad};

use crate::net::{Conv, Graph};

/// BatchNorm's epsilon, PyTorch's default.
pub const NORM_EPS: f64 = 1e-5;

/// Named weights, created at their first use.
pub struct Weights {
    /// Trainable and running ones.
    pub store: VarStore,
    all: RefCell<BTreeMap<String, Tensor>>,
}

impl Default for Weights {
    fn default() -> Self {
        Self { store: VarStore::new(Device::Cpu), all: RefCell::default() }
    }
}

impl Weights {
    /// The weight of that name; made by `init` if it is not there yet.
    pub fn get(&self, name: &str, trainable: bool, init: impl FnOnce() -> Tensor) -> Tensor {
        let mut all = self.all.borrow_mut();
        if let Some(known) = all.get(name) {
            return known.shallow_clone();
        }
        let made = self.store.root().add(name, init(), trainable);
        all.insert(name.to_owned(), made.shallow_clone());
        made
    }

    /// Stores a constant (statistics, normalisation) in place of any earlier one of that name.
    pub fn set(&self, name: &str, value: Tensor) {
        self.all.borrow_mut().insert(name.to_owned(), value);
    }

    /// A weight that is there.
    pub fn find(&self, name: &str) -> Option<Tensor> {
        self.all.borrow().get(name).map(Tensor::shallow_clone)
    }
}

/// Memory order N, H, W, C under the shape `[N, C, H, W]`: oneDNN's faster path. tch has no memory_format.
pub fn channels_last(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

/// Runs a [`Graph`] on tensors.
pub struct Torch<'a> {
    /// Weights by name.
    pub weights: &'a Weights,
    /// `Some(momentum)`: BatchNorm uses the batch's statistics and moves its running ones towards them.
    pub norm_momentum: Option<f64>,
}

impl<'a> Torch<'a> {
    /// For inference: BatchNorm with its running statistics.
    pub fn eval(weights: &'a Weights) -> Self {
        Self { weights, norm_momentum: None }
    }
}

impl Graph for Torch<'_> {
    type Value = Tensor;

    fn conv(&mut self, x: &Tensor, name: &str, conv: Conv) -> Tensor {
        let channels = x.size()[1];
        let Conv { out, kernel, stride, norm } = conv;
        let fan_in = (channels * kernel * kernel) as f64;
        // He et al. 2015; the outputs (mu, logvar, out) start small.
        let std = if norm { (2.0 / fan_in).sqrt() } else { 0.3 / fan_in.sqrt() };
        let init = || {
            channels_last(&(Tensor::randn([out, channels, kernel, kernel], (Kind::Float, Device::Cpu)) * std))
        };
        let weight = self.weights.get(&format!("{name}_w"), true, init);
        let fill = |value: f64| move || Tensor::full([out], value, (Kind::Float, Device::Cpu));
        let bias = (!norm).then(|| self.weights.get(&format!("{name}_b"), true, fill(0.0)));
        let y = x.conv2d(&weight, bias, [stride; 2], [kernel / 2; 2], [1, 1], 1);
        if !norm {
            return y;
        }
        let gain = self.weights.get(&format!("{name}_gain"), true, fill(1.0));
        let shift = self.weights.get(&format!("{name}_shift"), true, fill(0.0));
        let mean = self.weights.get(&format!("{name}_mean"), false, fill(0.0));
        let variance = self.weights.get(&format!("{name}_var"), false, fill(1.0));
        let momentum = self.norm_momentum.unwrap_or(0.0);
        let train = self.norm_momentum.is_some();
        y.batch_norm(Some(gain), Some(shift), Some(mean), Some(variance), train, momentum, NORM_EPS, false)
    }

    fn relu(&mut self, x: &Tensor) -> Tensor {
        x.relu()
    }
    fn add(&mut self, a: &Tensor, b: &Tensor) -> Tensor {
        a + b
    }
    fn sub(&mut self, a: &Tensor, b: &Tensor) -> Tensor {
        a - b
    }
    fn mul(&mut self, a: &Tensor, b: &Tensor) -> Tensor {
        a * b
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
    fn neg(&mut self, x: &Tensor) -> Tensor {
        x.neg()
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
    fn mean_channels(&mut self, x: &Tensor) -> Tensor {
        x.mean_dim([1i64].as_slice(), true, Kind::Float)
    }
    fn avg_pool(&mut self, x: &Tensor, k: i64, stride: i64, pad: i64) -> Tensor {
        x.avg_pool2d([k; 2], [stride; 2], [pad; 2], false, false, None)
    }
    fn max_pool(&mut self, x: &Tensor, k: i64) -> Tensor {
        x.max_pool2d([k; 2], [k; 2], [0; 2], [1; 2], false)
    }
    fn constant(&mut self, name: &str) -> Tensor {
        self.weights.find(name).unwrap_or_else(|| panic!("constant `{name}` was never set"))
    }
}

/// Moving average of the trainable weights, warmed up.
pub struct Ema {
    pairs: Vec<(Tensor, Tensor)>,
    steps: u64,
}

impl Ema {
    /// Starts at the weights as they are.
    pub fn new(weights: &Weights) -> Self {
        let copy = |live: Tensor| no_grad(|| (live.detach().copy(), live));
        let pairs = weights.store.trainable_variables().into_iter().map(copy).collect();
        Self { pairs, steps: 0 }
    }

    /// After a step: average ← d·average + (1-d)·weights, d = min(0.999, (1+t)/(10+t)).
    pub fn update(&mut self) {
        self.steps += 1;
        let t = self.steps as f64;
        let decay = ((1.0 + t) / (10.0 + t)).min(0.999);
        no_grad(|| {
            for (average, live) in &mut self.pairs {
                let _ = average.lerp_(live, 1.0 - decay);
            }
        });
    }

    /// Puts the averages in place of the weights.
    pub fn apply(self) {
        no_grad(|| {
            for (average, mut live) in self.pairs {
                live.copy_(&average);
            }
        });
    }
}
