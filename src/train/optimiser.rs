//! How the weights learn: AdamW, the limit on the gradient, and the moving average that is exported.
//!
//! All learned weights lie in one flat tensor, each a view of its piece of it. A step is then a dozen
//! operations in all instead of a dozen for each of a hundred weights, and a checkpoint is four tensors.
//! libtorch's own AdamW (through tch) can neither show nor take back its state, so that a stopped fit
//! could not go on to the same result.
//!
//! Never here: losses, the schedule of the learning rate ([`crate::learn`]).

use tch::{Tensor, no_grad};

use crate::torch::Weights;

/// What keeps the quotient finite. Source: Kingma & Ba 2015.
const EPS: f64 = 1e-8;

/// What an [`Optimiser`] is told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Decay of the first and second moment. Source: Kingma & Ba 2015.
    pub beta: (f64, f64),
    /// Share by which weights shrink each step, times the learning rate. Source: Loshchilov & Hutter 2019.
    pub weight_decay: f64,
    /// Largest norm of the gradient.
    pub max_gradient: f64,
    /// Decay of the moving average once it is warm.
    pub average_decay: f64,
}

impl Default for Pace {
    /// That of the anomaly model.
    fn default() -> Self {
        Self { beta: (0.9, 0.999), weight_decay: 1e-4, max_gradient: 5.0, average_decay: 0.999 }
    }
}

/// AdamW over all learned weights, with their moving average.
pub struct Optimiser {
    /// Views of `flat`, the leaves that gradients gather at.
    leaves: Vec<Tensor>,
    flat: Tensor,
    first: Tensor,
    second: Tensor,
    average: Tensor,
    steps: i64,
    pace: Pace,
}

/// What a checkpoint has to hold of an [`Optimiser`]. Shape: each `[weights]`.
pub struct State {
    /// Name and value.
    pub tensors: [(&'static str, Tensor); 4],
    /// Steps taken.
    pub steps: i64,
}

impl Optimiser {
    /// Takes over the learned weights as they are now: all of them must have been made.
    pub fn new(weights: &Weights) -> Self {
        Self::with(weights, Pace::default())
    }

    /// The same at another pace.
    pub fn with(weights: &Weights, pace: Pace) -> Self {
        let learned = weights.all_learned();
        let flat = no_grad(|| {
            let pieces: Vec<Tensor> = learned.iter().map(|(_, t)| flattened(t)).collect();
            Tensor::cat(&pieces, 0)
        });
        let mut leaves = Vec::with_capacity(learned.len());
        let mut at = 0;
        for (name, old) in &learned {
            let count = old.numel() as i64;
            let piece = flat.detach().narrow(0, at, count);
            let leaf = shaped(&piece, &old.size()).set_requires_grad(true);
            weights.set(name, leaf.shallow_clone());
            leaves.push(leaf);
            at += count;
        }
        let (first, second) = (flat.zeros_like(), flat.zeros_like());
        let average = flat.copy();
        Self { leaves, flat, first, second, average, steps: 0, pace }
    }

    /// The gradient of the loss. Shape: `[weights]`.
    pub fn gradient(&self, loss: &Tensor) -> Tensor {
        // Not by `backward`: that would add to zeros, weight by weight.
        let gradients = Tensor::run_backward(&[loss], &self.leaves, false, false);
        let piece = |(gradient, leaf): (&Tensor, &Tensor)| {
            let unused = || leaf.detach().zeros_like();
            flattened(&if gradient.defined() { gradient.shallow_clone() } else { unused() })
        };
        let pieces: Vec<Tensor> = gradients.iter().zip(&self.leaves).map(piece).collect();
        no_grad(|| Tensor::cat(&pieces, 0))
    }

    /// One step down the gradient. `rate`: the learning rate.
    pub fn step(&mut self, gradient: Tensor, rate: f64) {
        self.steps += 1;
        no_grad(|| self.update(gradient, rate));
    }

    /// Every line goes through all weights, so what can be a number is none of them.
    fn update(&mut self, mut gradient: Tensor, rate: f64) {
        let Pace { beta, weight_decay, max_gradient, average_decay } = self.pace;
        let factor = ((gradient.norm() + 1e-6).reciprocal() * max_gradient).clamp_max(1.0);
        let _ = gradient.g_mul_(&factor);
        let t = self.steps as i32;
        let _ = self.first.lerp_(&gradient, 1.0 - beta.0);
        let _ = self.second.lerp_(&gradient.square(), 1.0 - beta.1);
        // Both moments' bias and the rate as one factor: m̂ / (√v̂ + ε) = (√c₂ / c₁) m / (√v + √c₂ ε).
        let (first_bias, second_bias) = (1.0 - beta.0.powi(t), (1.0 - beta.1.powi(t)).sqrt());
        let denominator = self.second.sqrt().g_add_scalar_(EPS * second_bias);
        let scaled = &self.first * (-rate * second_bias / first_bias);
        let _ = self.flat.g_mul_scalar_(1.0 - rate * weight_decay);
        let _ = self.flat.addcdiv_(&scaled, &denominator);
        // Warmed up, so that the first weights, which know nothing, are soon forgotten.
        let t = self.steps as f64;
        let decay = ((1.0 + t) / (10.0 + t)).min(average_decay);
        let _ = self.average.lerp_(&self.flat, 1.0 - decay);
    }

    /// Puts the averages in place of the weights: the end of learning.
    pub fn apply_average(mut self) {
        self.use_average();
    }

    /// As [`Optimiser::apply_average`], where the optimiser stays with its network.
    pub fn use_average(&mut self) {
        no_grad(|| self.flat.copy_(&self.average));
    }

    /// Whether every weight and average is a number.
    pub fn is_finite(&self) -> bool {
        [&self.flat, &self.average].into_iter().all(|t| t.isfinite().all().int64_value(&[]) == 1)
    }

    /// For a checkpoint.
    pub fn state(&self) -> State {
        let share = |t: &Tensor| t.detach();
        let tensors = [
            ("weights", share(&self.flat)),
            ("first_moment", share(&self.first)),
            ("second_moment", share(&self.second)),
            ("average", share(&self.average)),
        ];
        State { tensors, steps: self.steps }
    }

    /// From a checkpoint of the same network. `false` if a size differs; then nothing is changed.
    #[must_use]
    pub fn restore(&mut self, state: &State) -> bool {
        if state.tensors.iter().any(|(_, t)| t.size() != self.flat.size()) {
            return false;
        }
        no_grad(|| {
            let own = [&mut self.flat, &mut self.first, &mut self.second, &mut self.average];
            for (mine, (_, saved)) in own.into_iter().zip(&state.tensors) {
                mine.copy_(saved);
            }
        });
        self.steps = state.steps;
        true
    }
}

/// The weights of a convolution in the order N, H, W, C (channels_last: oneDNN's faster path, which tch has no
/// name for), everything else as it is. Shape: → `[n]`.
fn flattened(t: &Tensor) -> Tensor {
    if t.dim() == 4 { t.detach().permute([0, 2, 3, 1]).reshape([-1]) } else { t.detach().reshape([-1]) }
}

/// The reverse of [`flattened`], as a view.
fn shaped(piece: &Tensor, size: &[i64]) -> Tensor {
    match *size {
        [n, c, h, w] => piece.view([n, h, w, c]).permute([0, 3, 1, 2]),
        _ => piece.view(size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    /// Loss w·g, so the gradient is g, by the formulas of the sources one weight at a time.
    #[test]
    fn steps_are_adamw_with_a_limited_gradient_and_a_warmed_up_average() {
        let (start, gradient, rate) = ([0.5f64, -2.0, 0.0, 3.0], [6.0f64, -8.0, 1e-3, 0.0], 0.01);
        let weights = Weights::new(tch::Device::Cpu);
        let made = weights.learned("a", || Tensor::from_slice(&start).to_kind(Kind::Float));
        let g = Tensor::from_slice(&gradient).to_kind(Kind::Float);
        drop(made);
        let mut optimiser = Optimiser::new(&weights);
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let (mut w, mut m, mut v, mut mean) = (start, [0.0; 4], [0.0; 4], start);
        for t in 1..=4 {
            let leaf = weights.find("a").unwrap();
            let by_autograd = optimiser.gradient(&(leaf * &g).sum(Kind::Float));
            optimiser.step(by_autograd, rate);
            let decay = (1.0 + f64::from(t)) / (10.0 + f64::from(t));
            for i in 0..4 {
                let g = gradient[i] * (5.0 / norm).min(1.0);
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.999 * v[i] + 0.001 * g * g;
                let (first, second) = (m[i] / (1.0 - 0.9f64.powi(t)), v[i] / (1.0 - 0.999f64.powi(t)));
                w[i] = w[i] * (1.0 - rate * 1e-4) - rate * first / (second.sqrt() + 1e-8);
                mean[i] = decay * mean[i] + (1.0 - decay) * w[i];
            }
        }
        let got = |name: &str| {
            let state = optimiser.state();
            let (_, tensor) = state.tensors.iter().find(|(n, _)| *n == name).unwrap();
            Vec::<f64>::try_from(tensor.to_kind(Kind::Double)).unwrap()
        };
        for (name, expected) in [("weights", w), ("average", mean)] {
            for (got, expected) in got(name).iter().zip(expected) {
                assert!((got - expected).abs() < 2e-6, "{name}: {got}, expected {expected}");
            }
        }
    }
}
