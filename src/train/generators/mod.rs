//! Generators: networks that make defects on good crops, told what to make.
//!
//! # Terms
//!
//! A *generator* is a fitted network. A *kind* is one way to build one; all kinds are called in the same way (see
//! below). A *crop* is a square cut of a good picture, in 0..1. A *mask* says where the defect may be, 0 or 1.
//! A *condition* is class, text or process parameters, and each of them can be missing. *Procedural* defects come
//! from the families of [`crate::defects`], *made* ones from a generator, *real* ones were photographed. A *twin* is the
//! picture of the same part without its defect.
//!
//! # What every kind has
//!
//! - `new(device, crop, &conditions, width)`: makes weights from libtorch's generator, which the caller seeds.
//! - `step(&mut self, &Crops, Progress) -> Losses`: one step, with its own gradients and optimisers. All chance in
//!   it follows from `Progress::seed`, which the caller gives libtorch as well (`tch::manual_seed`), so that a
//!   resumed fit makes the same steps.
//! - `sample(&self, &good, &mask, &Conditions, seed) -> Tensor`: the whole crop, 0..1. Chance from [`noise`], which
//!   depends on nothing but the seed. The caller pastes: outside the mask the good stays as it is, to the bit.
//! - `state(&self)` and `restore(&mut self, &Tensors)`: all that a checkpoint has to hold.
//! - `finish(&mut self)`: the averaged weights take the place of the last ones; no more steps after it.
//! - `kept(&self)` and `take(&mut self, &Tensors)`: what a generator file holds, which is what `sample` needs.
//!
//! Never here: the test split (real defects come out of it by `inspect-train split --real N`); whether a generator
//! is worth anything (the judge says that).

pub mod between;
pub mod chance;
pub mod conditions;
pub mod crops;
pub mod diffusion;
pub mod embed;
pub mod file;
pub mod fit;
pub mod folder;
pub mod gan;
pub mod known;
pub mod layers;
pub mod near;
pub mod network;
mod place;
pub mod sample;
#[cfg(test)]
mod toy;
pub mod unet;
pub mod vae;
pub mod whatif;
pub mod write;

use std::collections::BTreeMap;

use rand::{RngExt as _, SeedableRng as _};
use tch::{Device, Kind as Number, Tensor, no_grad};

pub use conditions::{Catalogue, ConditionError, ConditionShape, Conditions, Wish};
pub use file::Generator;
pub use network::{Kind, Network};

use crate::defects::Random;
use crate::optimiser::{Optimiser, State};
use crate::torch::Weights;

/// Shape of a crop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CropShape {
    /// Width and height, pixels; a multiple of 16.
    pub side: i64,
    /// 1 or 3.
    pub channels: i64,
}

/// Crops to learn from.
#[derive(Debug)]
pub struct Crops {
    /// Without the defect. Shape: `[N, C, S, S]`, 0..1.
    pub good: Tensor,
    /// With the defect, on that good or (a real one) nearly on it. Shape: `[N, C, S, S]`, 0..1.
    pub defect: Tensor,
    /// Where the defect is. Shape: `[N, 1, S, S]`, 0 and 1.
    pub mask: Tensor,
    /// What it is.
    pub conditions: Conditions,
}

/// What the crops of a step show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Procedural defects: the first part of a fit.
    Procedural,
    /// Real ones, with some procedural ones among them: the second part.
    Real,
}

/// Where a fit is, for one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Steps taken before this one.
    pub step: u64,
    /// Steps in all; not known during the first steps of a fit that was told minutes.
    pub of: Option<u64>,
    /// What the crops show.
    pub stage: Stage,
    /// All chance of the step follows from it.
    pub seed: u64,
}

impl Progress {
    /// Share of the steps that is done, 0..1; 0 until their number is known.
    pub fn spent(&self) -> f64 {
        self.of.map_or(0.0, |of| (self.step as f64 / of.max(1) as f64).min(1.0))
    }
}

/// Named losses of a step, for the line of progress. All of them must be numbers, else the fit ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Losses(pub Vec<(&'static str, f64)>);

impl Losses {
    /// Whether every one is a number.
    pub fn are_finite(&self) -> bool {
        self.0.iter().all(|(_, v)| v.is_finite())
    }
}

impl std::fmt::Display for Losses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(name, v)| format!("{name} {v:.4}")).collect();
        f.write_str(&parts.join(", "))
    }
}

/// Tensors by name: of a checkpoint or of a generator file.
pub type Tensors = BTreeMap<String, Tensor>;

/// Why tensors do not fit a network.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// One is not there.
    #[error("has no `{name}`; expected the tensors of a network of this kind")]
    Missing {
        /// Its name.
        name: String,
    },
    /// One has another shape.
    #[error("`{name}` has the shape {got:?}, expected {expected:?}: it belongs to a network of another size")]
    Shape {
        /// Its name.
        name: String,
        /// In the file.
        got: Vec<i64>,
        /// In the network.
        expected: Vec<i64>,
    },
    /// One holds what is no number.
    #[error("`{name}` holds values that are no numbers")]
    NotFinite {
        /// Its name.
        name: String,
    },
}

/// Standard normal noise that depends on `seed` alone: not on other threads, libtorch's release or the device.
pub fn noise(seed: u64, shape: &[i64], device: Device) -> Tensor {
    let mut r = Random::seed_from_u64(seed);
    let count = shape.iter().product::<i64>().max(0) as usize;
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        // Box & Muller 1958: two uniform numbers become two normal ones. 1 - u is never 0.
        let radius = (-2.0 * (1.0 - r.random::<f64>()).ln()).sqrt();
        let (sin, cos) = (r.random::<f64>() * std::f64::consts::TAU).sin_cos();
        values.extend([(radius * cos) as f32, (radius * sin) as f32]);
    }
    Tensor::from_slice(&values[..count]).view(shape).to_device(device)
}

/// What a checkpoint has to hold of an optimiser, its names behind `prefix`.
pub fn optimiser_state(prefix: &str, optimiser: &Optimiser) -> Vec<(String, Tensor)> {
    let State { tensors, steps } = optimiser.state();
    let mut all: Vec<_> = tensors.map(|(name, t)| (format!("{prefix}{name}"), t)).into();
    all.push((format!("{prefix}steps"), Tensor::from_slice(&[steps])));
    all
}

/// The reverse of [`optimiser_state`].
///
/// Errors: [`StateError`]; then nothing is changed.
pub fn restore_optimiser(
    prefix: &str,
    optimiser: &mut Optimiser,
    tensors: &Tensors,
) -> Result<(), StateError> {
    let named = |name: &str| {
        let name = format!("{prefix}{name}");
        tensors.get(&name).map(Tensor::shallow_clone).ok_or(StateError::Missing { name })
    };
    let own = optimiser.state();
    let mut pieces = Vec::with_capacity(own.tensors.len());
    for (name, expected) in &own.tensors {
        let got = named(name)?;
        fits(&format!("{prefix}{name}"), &got, expected)?;
        pieces.push((*name, got));
    }
    let steps = named("steps")?;
    fits("steps", &steps, &Tensor::from_slice(&[0i64]))?;
    let missing = |_| StateError::Missing { name: prefix.to_owned() };
    let state = State { tensors: pieces.try_into().map_err(missing)?, steps: steps.int64_value(&[0]) };
    if optimiser.restore(&state) { Ok(()) } else { Err(StateError::Missing { name: prefix.to_owned() }) }
}

/// Every learned weight as it is now, for a generator file.
pub fn kept(weights: &Weights) -> Vec<(String, Tensor)> {
    weights.all_learned().into_iter().map(|(name, t)| (name, t.detach().contiguous())).collect()
}

/// The reverse of [`kept`]: the weights of a file in place of those that were made.
///
/// Errors: [`StateError`]; then nothing is changed.
pub fn take(weights: &Weights, tensors: &Tensors) -> Result<(), StateError> {
    let learned = weights.all_learned();
    for (name, own) in &learned {
        let got = tensors.get(name).ok_or_else(|| StateError::Missing { name: name.clone() })?;
        fits(name, got, own)?;
    }
    no_grad(|| {
        for (name, mut own) in learned {
            own.copy_(&tensors[&name]);
        }
    });
    Ok(())
}

fn fits(name: &str, got: &Tensor, expected: &Tensor) -> Result<(), StateError> {
    let name = || name.to_owned();
    if got.size() != expected.size() || got.kind() != expected.kind() {
        return Err(StateError::Shape { name: name(), got: got.size(), expected: expected.size() });
    }
    let is_finite = got.kind() != Number::Float || got.isfinite().all().int64_value(&[]) == 1;
    if is_finite { Ok(()) } else { Err(StateError::NotFinite { name: name() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_normal_and_depends_on_its_seed_alone() {
        let of = |seed| noise(seed, &[3, 5001], Device::Cpu);
        assert_eq!(of(4), of(4));
        assert_ne!(of(4), of(5));
        let (mean, spread) = (of(1).mean(Number::Double), of(1).std(true));
        assert!(mean.double_value(&[]).abs() < 0.03 && (spread.double_value(&[]) - 1.0).abs() < 0.03);
    }

    #[test]
    fn weights_of_another_network_change_nothing_and_say_which() {
        let made = |out: i64, value: f64| {
            let weights = Weights::new(Device::Cpu);
            let full = |v: f64| Tensor::full([out, 2], v, (Number::Float, Device::Cpu));
            let _ = weights.learned("a", || full(value));
            let _ = weights.learned("b", || full(value + 1.0));
            weights
        };
        let mut file: Tensors = kept(&made(3, 1.0)).into_iter().collect();
        let own = made(3, 7.0);
        take(&own, &file).unwrap();
        assert_eq!(own.find("b").unwrap().double_value(&[0, 0]), 2.0);
        let error = take(&made(4, 1.0), &file).unwrap_err().to_string();
        assert!(error.contains("[3, 2]") && error.contains("[4, 2]"), "{error}");
        let broken = Tensor::full([3, 2], f64::NAN, (Number::Float, Device::Cpu));
        file.insert("b".into(), broken);
        let other = made(3, 9.0);
        assert!(take(&other, &file).unwrap_err().to_string().contains("`b` holds"));
        assert_eq!(other.find("a").unwrap().double_value(&[0, 0]), 9.0, "nothing is changed");
        file.remove("b");
        assert!(take(&other, &file).unwrap_err().to_string().contains("has no `b`"));
    }
}
