//! Class and process parameters as one signal.
//!
//! Each can be missing: class 0 has a row of its own in the table; a process parameter that is not known gives
//! zeros and a flag that says so.
//!
//! Never here: text ([`super::diffusion`]); how z-scores are made ([`super::conditions`]).

use tch::Tensor;

use super::layers::Layers;
use super::{ConditionShape, Conditions};

/// sin and cos pairs a parameter.
const WAVES: i64 = 4;
/// z-scores beyond it are taken for it: the networks know nothing of what lies there.
pub const MAX_Z: f64 = 4.0;

/// Shape: → `[N, width]`. Source of the Fourier features: Tancik et al. 2020.
pub fn signal(
    layers: &Layers,
    conditions: &Conditions,
    shape: &ConditionShape,
    (name, width): (&str, i64),
) -> Tensor {
    let class = layers.table(&conditions.class, &format!("{name}_class"), (shape.classes + 1, width));
    if shape.parameters == 0 {
        return class;
    }
    let features = features(&conditions.process, &conditions.known);
    let process = layers.perceptron(&features, &format!("{name}_process"), (width, width));
    let process = process.to_kind(class.kind());
    class + process
}

/// z, its sines and cosines from a wave of 16 deviations to one of 2, and whether it is known.
/// Shape: `[N, P]` twice → `[N, P (2 + 2 WAVES)]`
fn features(process: &Tensor, known: &Tensor) -> Tensor {
    let z = process.nan_to_num(0.0, 0.0, 0.0).clamp(-MAX_Z, MAX_Z);
    let waves = super::layers::waves(&(&z * (std::f64::consts::PI / 8.0)), WAVES, 8.0); // [N, P, 2 WAVES]
    let told = Tensor::cat(&[z.unsqueeze(-1), waves], -1) * known.unsqueeze(-1);
    Tensor::cat(&[told, known.unsqueeze(-1)], -1).flatten(1, -1)
}
