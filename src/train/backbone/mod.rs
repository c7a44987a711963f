//! The user's own network as the eyes of the model: frozen, read from ONNX, merged into the one file.
//!
//! A network that was trained on many pictures sees more in one than a small network can learn from a few goods.
//! [`Backbone`] is such a file, checked and run once; [`Frozen`] is what a fit and the model file run: pixels in,
//! *features* out. Behind it stands a VAE that draws features of goods and not pixels (VAE-F; [`crate::net`]).
//!
//! The way of a picture: pixels / 255, less the mean, by the deviation that the file was trained with; the backbone;
//! its *maps*, the two outputs whose strides are nearest to 8 and 16 pixels, both brought to cells of [`CELL_PX`]
//! pixels; all of them *whitened*: turned to the principal components of the fitting goods, each of variance 1. These
//! nodes are written once ([`splice`]) and run by ONNX Runtime in a fit as in the daemon, so that the two see the same
//! features; the weights are the file's, byte for byte.
//!
//! # What was tried
//!
//! Averaging the maps over 3x3 cells first, as methods without convolutions behind do (Roth et al. 2022, PatchCore,
//! section 3.1). AUROC of castings held out against defects made on them, one seed, 600 steps at 128 px, width xs; no
//! network that was trained on photographs was at hand:
//!
//! | backbone | averaged | as they are |
//! | --- | --- | --- |
//! | cosine transform of 8x8 and of 16x16 pixels, 64 terms each | 0.566 | 0.727 |
//! | four convolutions with random weights | 0.556 | 0.590 |
//! | the head of a model of ours that was fitted on magnetic tiles | 0.559 | 0.552 |
//! | none: the network for pixels | | 0.721 |
//!
//! Fitted for three minutes on one busy thread (`fit --size 128 --minutes 3 --threads 1 --symmetry rotate`), AUROC on the
//! labelled castings: cosine transform 0.783, eight convolutions with random weights 0.589, none 0.900. So a backbone is
//! worth what it has learnt: these see less than the pixels show.
//!
//! Never here: learning a weight of the backbone, downloads, what is made of the features.

mod noise;
mod proto;
mod read;
mod run;
mod splice;
mod whiten;

#[cfg(test)]
#[path = "../tests/common/network.rs"]
mod network;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use inspect_core::onnx::{NodeProto, TensorProto};
use inspect_core::runtime::RuntimeError;

pub use noise::with_noise;
pub use run::{Frozen, Maps};
pub use whiten::Whitening;

/// Pixels per cell of the features.
pub const CELL_PX: i64 = 8;
/// Largest backbone file. It is in memory some four times while a model is written, and the model file must stay
/// under [`inspect_core::model::MAX_MODEL_BYTES`].
pub const MAX_BYTES: u64 = 512 << 20;
/// Operator sets that can be merged: our own nodes are written in that of the backbone.
pub const OPSETS: std::ops::RangeInclusive<i64> = 13..=23;
/// Most channels of the chosen maps together: the whitening holds a square matrix of them.
pub const MAX_CHANNELS: i64 = 4096;

/// Why a backbone cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackboneError {
    /// The file cannot be read.
    #[error("--backbone {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Too large.
    #[error("--backbone {path}: {bytes} bytes, expected at most {MAX_BYTES}; take a smaller network")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Not ONNX.
    #[error("--backbone {path}: truncated or not an ONNX file: {reason}")]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        reason: String,
    },
    /// It needs an operator set that ours cannot be written in.
    #[error(
        "--backbone {path}: operator set {got}, expected {} to {}; export it with such an opset_version, or convert it with onnx.version_converter", OPSETS.start(), OPSETS.end()
    )]
    Opset {
        /// The file.
        path: PathBuf,
        /// What it needs.
        got: i64,
    },
    /// Its input is no picture.
    #[error(
        "--backbone {path}: input {got}; expected one input of 32-bit floats [N, C, H, W] with C 1 or 3, N open"
    )]
    Input {
        /// The file.
        path: PathBuf,
        /// What it has.
        got: String,
    },
    /// It holds something that cannot be merged into one file of standard operators.
    #[error("--backbone {path}: {what}; {advice}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What, and where in it.
        what: String,
        /// What to do.
        advice: &'static str,
    },
    /// A mean or deviation that makes no sense.
    #[error(
        "--backbone-mean {mean:?} --backbone-std {std:?}: expected one or three numbers each, of pixels from 0 to 1; std above 0"
    )]
    Scale {
        /// Means.
        mean: Vec<f32>,
        /// Deviations.
        std: Vec<f32>,
    },
    /// ONNX Runtime is not there.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// ONNX Runtime refuses it, or fails.
    #[error(
        "--backbone {path}: ONNX Runtime cannot run it on pictures of {size} x {size} px (its input: {declared}): {reason}. If it was exported for another size, give that --size, or export it with open height and width"
    )]
    Run {
        /// The file.
        path: PathBuf,
        /// Side of the input, pixels.
        size: i64,
        /// The input's declared shape.
        declared: String,
        /// What ONNX Runtime said.
        reason: String,
    },
    /// No output is a map.
    #[error(
        "--backbone {path}: no output is a feature map at {size} px: {got}; expected [N, C, h, w] with 2 to {size} cells a side. Cut it before its pooling, and make the feature maps outputs"
    )]
    NoMap {
        /// The file.
        path: PathBuf,
        /// Side of the input, pixels.
        size: i64,
        /// Its outputs.
        got: String,
    },
    /// It does not judge each picture by itself.
    #[error(
        "--backbone {path}: output `{output}` of a picture depends on the other pictures of its batch; export it in inference mode (model.eval())"
    )]
    Batch {
        /// The file.
        path: PathBuf,
        /// Which output.
        output: String,
    },
    /// Features are not finite.
    #[error(
        "--backbone {path}: its features are not finite numbers on {on}; the file is broken, or --backbone-mean and --backbone-std are not those that it was trained with"
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// Which pictures.
        on: &'static str,
    },
    /// Features that say nothing.
    #[error(
        "--backbone {path}: its features are the same everywhere on the goods, so nothing can be learnt from them"
    )]
    Flat {
        /// The file.
        path: PathBuf,
    },
}

/// What the backbone's pictures have to look like: (pixel / 255 - mean) / deviation, channel by channel (RGB).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// Mean of pixels from 0 to 1.
    pub mean: [f32; 3],
    /// Deviation of pixels from 0 to 1, above 0.
    pub std: [f32; 3],
}

impl Default for Scale {
    /// Pixels from 0 to 1, as they are.
    fn default() -> Self {
        Self { mean: [0.0; 3], std: [1.0; 3] }
    }
}

impl Scale {
    /// One number for all channels or one for each; none: that of the default.
    ///
    /// Errors: [`BackboneError::Scale`].
    pub fn new(mean: &[f32], std: &[f32]) -> Result<Self, BackboneError> {
        let bad = || BackboneError::Scale { mean: mean.to_vec(), std: std.to_vec() };
        let three = |values: &[f32], none: f32| match *values {
            [] => Some([none; 3]),
            [v] => Some([v; 3]),
            [r, g, b] => Some([r, g, b]),
            _ => None,
        };
        let (mean, std) = (three(mean, 0.0).ok_or_else(bad)?, three(std, 1.0).ok_or_else(bad)?);
        let sound = mean.iter().all(|m| m.is_finite()) && std.iter().all(|s| s.is_finite() && *s > 0.0);
        if sound { Ok(Self { mean, std }) } else { Err(bad()) }
    }
}

/// An output of the backbone that is a map.
#[derive(Debug, Clone, PartialEq)]
pub struct Map {
    /// Its name in the user's file.
    pub name: String,
    /// Channels, rows, columns at the fit's size.
    pub size: [i64; 3],
}

impl Map {
    /// Pixels per cell.
    fn stride(&self, side: i64) -> f64 {
        side as f64 / self.size[1] as f64
    }

    /// In words, for pictures of `side` pixels.
    pub fn said(&self, side: i64) -> String {
        let [channels, rows, columns] = self.size;
        format!(
            "`{}`, {channels} channels, {rows} x {columns} cells of {:.1} px",
            self.name,
            self.stride(side)
        )
    }
}

/// The user's network: checked, run once, not yet whitened.
#[derive(Debug)]
pub struct Backbone {
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
    /// Its operator set.
    pub opset: i64,
    /// Its version of the file format.
    pub ir_version: i64,
    /// What it wants its pictures to look like.
    pub scale: Scale,
    /// Side of the pictures that it was tried on, pixels.
    pub size: i64,
    /// The chosen maps, finest first; one or two.
    pub maps: Vec<Map>,
    /// Its input's channels; 3 where it leaves them open.
    channels: i64,
    /// Its input as declared, for people.
    declared: String,
    /// Names below carry [`read::PREFIX`], so that none of them is one of ours.
    input: String,
    outputs: Vec<String>,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
}
