//! The kinds of generators behind one name: what every kind has, handed on to the one that it is.
//!
//! Never here: what a kind does.

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::diffusion::{Diffusion, How};
use super::gan::Gan;
use super::vae::Vae;
use super::{ConditionShape, Conditions, CropShape, Crops, Losses, Progress, StateError, Tensors};

/// How a generator is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Conditional VAE: fits in minutes on a processor; soft defects; what lies between two real ones can be drawn
    Vae,
    /// GAN: sharp defects in one pass, told class and process parameters but no text; a fit can fail, look at the sheet
    Gan,
    /// Diffusion: sharp and varied, told class, text and process parameters; slow to fit and to draw
    Diffusion,
}

impl Kind {
    /// Channels at the finest level where nothing else is said: for two cores.
    pub fn width(self) -> i64 {
        match self {
            Kind::Vae | Kind::Diffusion => 16,
            Kind::Gan => 8,
        }
    }

    /// Crops a step.
    pub fn batch(self) -> usize {
        match self {
            Kind::Vae | Kind::Gan | Kind::Diffusion => 16,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Vae => "vae",
            Kind::Gan => "gan",
            Kind::Diffusion => "diffusion",
        })
    }
}

/// A network of any kind.
pub enum Network {
    /// [`Kind::Vae`]
    Vae(Box<Vae>),
    /// [`Kind::Gan`]
    Gan(Box<Gan>),
    /// [`Kind::Diffusion`]
    Diffusion(Box<Diffusion>),
}

/// The same call to whichever it is.
macro_rules! each {
    ($network:expr, $it:ident => $call:expr) => {
        match $network {
            Network::Vae($it) => $call,
            Network::Gan($it) => $call,
            Network::Diffusion($it) => $call,
        }
    };
}

impl Network {
    /// Makes its weights from libtorch's generator, which the caller seeds.
    pub fn new(kind: Kind, device: Device, crop: CropShape, conditions: &ConditionShape, width: i64) -> Self {
        match kind {
            Kind::Vae => Network::Vae(Box::new(Vae::new(device, crop, conditions, width))),
            Kind::Gan => Network::Gan(Box::new(Gan::new(device, crop, conditions, width))),
            Kind::Diffusion => Network::Diffusion(Box::new(Diffusion::new(device, crop, conditions, width))),
        }
    }

    /// One step.
    pub fn step(&mut self, crops: &Crops, at: Progress) -> Losses {
        each!(self, network => network.step(crops, at))
    }

    /// Crops with defects. Shapes: `[N, C, S, S]` and `[N, 1, S, S]` → `[N, C, S, S]`, 0..1.
    pub fn sample(&self, good: &Tensor, mask: &Tensor, conditions: &Conditions, seed: u64) -> Tensor {
        each!(self, network => network.sample(good, mask, conditions, seed))
    }

    /// How [`Network::sample`] draws from here on. `false` if this kind has no choice.
    #[must_use]
    pub fn draw_by(&mut self, how: How) -> bool {
        let Network::Diffusion(network) = self else { return false };
        network.how = how;
        true
    }

    /// How [`Network::sample`] draws, where this kind has a choice.
    pub fn how(&self) -> Option<How> {
        let Network::Diffusion(network) = self else { return None };
        Some(network.how)
    }

    /// All that a checkpoint has to hold.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        each!(self, network => network.state())
    }

    /// The reverse of [`Network::state`].
    ///
    /// Errors: [`StateError`]; then the fit must not go on.
    pub fn restore(&mut self, tensors: &Tensors) -> Result<(), StateError> {
        each!(self, network => network.restore(tensors))
    }

    /// The averaged weights in place of the last ones; no more steps after it.
    pub fn finish(&mut self) {
        each!(self, network => network.finish());
    }

    /// What a generator file holds.
    pub fn kept(&self) -> Vec<(String, Tensor)> {
        each!(self, network => network.kept())
    }

    /// The reverse of [`Network::kept`].
    ///
    /// Errors: [`StateError`]; then nothing is changed.
    pub fn take(&mut self, tensors: &Tensors) -> Result<(), StateError> {
        each!(self, network => network.take(tensors))
    }
}
