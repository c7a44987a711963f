//! Drawing by DDIM with classifier-free guidance, the known pixels pasted in at each step.
//!
//! Never here: learning.

use tch::{Kind, Tensor, no_grad};

use super::schedule::{self, STEPS, times};
use super::{Diffusion, Network};
use crate::generators::Conditions;
use crate::generators::chance;

/// Most DDIM steps of a call.
pub const MAX_DRAW_STEPS: i64 = 250;

/// How pictures are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct How {
    /// DDIM steps, 1 to 250. 25 to 50 are usual.
    pub steps: i64,
    /// How far beyond the unconditioned answer to go. 1: conditions as they are; 2 to 4: made plainer, at the
    /// price of variety, and numbers such as brightness go too far; 0: no conditions.
    pub guidance: f64,
    /// Share of the noise that is put on the given picture to start from, above 0 to 1. 1: pure noise. 0.3 to
    /// 0.9 keep more or less of what it shows.
    pub strength: f64,
}

impl Default for How {
    fn default() -> Self {
        Self { steps: 30, guidance: 2.5, strength: 1.0 }
    }
}

impl Diffusion {
    /// Draws a defect under each mask; picture i is that of `seed` + i drawn alone, but for rounding.
    ///
    /// Shapes: good `[N, C, S, S]` in 0..1, mask `[N, 1, S, S]` of 0 and 1 → `[N, C, S, S]` in 0..1.
    pub fn sample(&self, good: &Tensor, mask: &Tensor, conditions: &Conditions, seed: u64) -> Tensor {
        self.draw(good, (good, mask), conditions, seed, self.how)
    }

    /// As [`Diffusion::sample`], from a given picture `start` and as `how` says.
    /// Source: Song et al. 2021, eq. 12 with eta 0; pasting as in Lugmayr et al. 2022, section 4.1, but with
    /// the same noise at every step.
    pub fn draw(
        &self,
        start: &Tensor,
        (good, mask): (&Tensor, &Tensor),
        conditions: &Conditions,
        seed: u64,
        how: How,
    ) -> Tensor {
        let device = self.network.weights.device;
        let [start, good, mask] = [start, good, mask].map(|t| t.to_device(device));
        let conditions = &conditions.to_device(device);
        no_grad(|| {
            let known = &good * 2.0 - 1.0;
            let size = known.size();
            let n = size[0];
            let e = chance::rows(seed, n, &size[1..], device);
            let first = (how.strength.clamp(0.0, 1.0) * STEPS as f64).round() as i64;
            let at = |t: i64| self.network.schedule.at(&Tensor::full([n], t, (Kind::Int64, device)));
            let plan = times(first, how.steps.min(MAX_DRAW_STEPS));
            let mut x = if first >= STEPS {
                e.shallow_clone()
            } else {
                schedule::noisy(&(start * 2.0 - 1.0), &e, &at(plan[0].0))
            };
            for (t, next) in plan {
                let now = at(t);
                x = paste(&schedule::noisy(&known, &e, &now), &x, &mask);
                let v = self.network.guided(&x, (&known, &mask), t, conditions, how.guidance);
                let x0 = schedule::picture_of(&x, &v, &now).clamp(-1.0, 1.0);
                // The noise that goes with the picture as it was limited; at time T alpha is nearly 0.
                let noise = (&x - &now.0 * &x0) / &now.1;
                x = schedule::noisy(&x0, &noise, &at(next));
            }
            paste(&good, &((x + 1.0) / 2.0).clamp(0.0, 1.0), &mask)
        })
    }
}

impl Network {
    /// Source: Ho & Salimans 2022, eq. 6, with guidance 1 for none.
    pub(super) fn guided(
        &self,
        x: &Tensor,
        crops: (&Tensor, &Tensor),
        t: i64,
        conditions: &Conditions,
        guidance: f64,
    ) -> Tensor {
        let t = Tensor::full([x.size()[0]], t, (Kind::Int64, x.device()));
        if guidance == 1.0 {
            return self.v(x, crops, &t, conditions);
        }
        let none = Conditions::none(x.size()[0], &self.conditions, x.device());
        let free = self.v(x, crops, &t, &none);
        if guidance == 0.0 {
            return free;
        }
        &free + (self.v(x, crops, &t, conditions) - &free) * guidance
    }
}

/// `known` outside the mask, `made` inside.
fn paste(known: &Tensor, made: &Tensor, mask: &Tensor) -> Tensor {
    made.where_self(&mask.gt(0.5), known)
}
