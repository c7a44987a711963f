//! The kinds of generators behind one name: what every kind has, handed on to the one that it is.
//!
//! Never here: what a kind does.

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::vae::Vae;
use super::{ConditionShape, Conditions, CropShape, Crops, Losses, Progress, StateError, Tensors};

/// How a generator is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Conditional VAE: fits in minutes on a processor; soft defects; what lies between two real ones can be drawn
    Vae,
}

impl Kind {
    /// Channels at the finest level where nothing else is said.
    pub fn width(self) -> i64 {
        match self {
            Kind::Vae => 16,
        }
    }

    /// Crops a step.
    pub fn batch(self) -> usize {
        match self {
            Kind::Vae => 16,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Vae => "vae",
        })
    }
}

/// A network of any kind.
pub enum Network {
    /// [`Kind::Vae`]
    Vae(Box<Vae>),
}

impl Network {
    /// Makes its weights from libtorch's generator, which the caller seeds.
    pub fn new(kind: Kind, device: Device, crop: CropShape, conditions: &ConditionShape, width: i64) -> Self {
        match kind {
            Kind::Vae => Network::Vae(Box::new(Vae::new(device, crop, conditions, width))),
        }
    }

    /// One step.
    pub fn step(&mut self, crops: &Crops, at: Progress) -> Losses {
        match self {
            Network::Vae(vae) => vae.step(crops, at),
        }
    }

    /// Crops with defects. Shapes: `[N, C, S, S]` and `[N, 1, S, S]` → `[N, C, S, S]`, 0..1.
    pub fn sample(&self, good: &Tensor, mask: &Tensor, conditions: &Conditions, seed: u64) -> Tensor {
        match self {
            Network::Vae(vae) => vae.sample(good, mask, conditions, seed),
        }
    }

    /// All that a checkpoint has to hold.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        match self {
            Network::Vae(vae) => vae.state(),
        }
    }

    /// The reverse of [`Network::state`].
    ///
    /// Errors: [`StateError`]; then nothing is changed.
    pub fn restore(&mut self, tensors: &Tensors) -> Result<(), StateError> {
        match self {
            Network::Vae(vae) => vae.restore(tensors),
        }
    }

    /// The averaged weights in place of the last ones; no more steps after it.
    pub fn finish(&mut self) {
        match self {
            Network::Vae(vae) => vae.finish(),
        }
    }

    /// What a generator file holds.
    pub fn kept(&self) -> Vec<(String, Tensor)> {
        match self {
            Network::Vae(vae) => vae.kept(),
        }
    }

    /// The reverse of [`Network::kept`].
    ///
    /// Errors: [`StateError`]; then nothing is changed.
    pub fn take(&mut self, tensors: &Tensors) -> Result<(), StateError> {
        match self {
            Network::Vae(vae) => vae.take(tensors),
        }
    }
}
