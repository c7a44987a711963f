//! How noise comes in: cosine schedule, v-prediction, weights of the loss.
//!
//! Terms: x0 the picture, e standard normal noise, x_t = alpha x0 + sigma e the noisy picture at time t of
//! 0..=[`STEPS`]; v = alpha e - sigma x0 what the network tells.
//!
//! Never here: the network.

use tch::{Device, Kind, Tensor};

/// T: at this time nothing of the picture is left.
pub const STEPS: i64 = 1000;
/// s of the source: keeps the first steps from being too small to see.
const OFFSET: f64 = 0.008;
/// Largest share of variance that one step adds.
const MAX_BETA: f64 = 0.999;
/// gamma of min-SNR. Source: Hang et al. 2023, section 4.2.
const MAX_SNR: f64 = 5.0;

/// alpha and sigma of every time.
pub struct Schedule {
    /// Shape: `[STEPS + 1]`
    alpha: Tensor,
    sigma: Tensor,
}

impl Schedule {
    /// Source: Nichol & Dhariwal 2021, eq. 17, with its limit on beta.
    pub fn cosine(device: Device) -> Self {
        let share = |t: i64| {
            let angle = (t as f64 / STEPS as f64 + OFFSET) / (1.0 + OFFSET) * std::f64::consts::FRAC_PI_2;
            angle.cos().powi(2)
        };
        let mut product = 1.0;
        let products: Vec<f64> = std::iter::once(1.0)
            .chain((1..=STEPS).map(|t| {
                product *= 1.0 - (1.0 - share(t) / share(t - 1)).min(MAX_BETA);
                product
            }))
            .collect();
        let products = Tensor::from_slice(&products);
        let float = |t: Tensor| t.to_kind(Kind::Float).to_device(device);
        Self { alpha: float(products.sqrt()), sigma: float((-products + 1.0).sqrt()) }
    }

    /// alpha and sigma at times `t` `[N]`. Shape: → `[N, 1, 1, 1]` each
    pub fn at(&self, t: &Tensor) -> (Tensor, Tensor) {
        let take = |table: &Tensor| table.index_select(0, t).view([-1, 1, 1, 1]);
        (take(&self.alpha), take(&self.sigma))
    }

    /// What the squared error of v counts at times `t`: min(SNR, 5) / (SNR + 1). Shape: `[N]` → `[N]`
    /// Source: Hang et al. 2023, section 3.4; the divisor of v-prediction in section 4.2.
    pub fn weight(&self, t: &Tensor) -> Tensor {
        let (alpha, sigma) = (self.alpha.index_select(0, t).square(), self.sigma.index_select(0, t).square());
        // SNR / (SNR + 1) = alpha², as alpha² + sigma² = 1; 5 / (SNR + 1) = 5 sigma².
        alpha.minimum(&(sigma * MAX_SNR))
    }
}

/// Source: Salimans & Ho 2022, section 4. All take alpha and sigma broadcast over the picture.
pub fn noisy(x0: &Tensor, e: &Tensor, (alpha, sigma): &(Tensor, Tensor)) -> Tensor {
    alpha * x0 + sigma * e
}

/// v of picture and noise.
pub fn v_of(x0: &Tensor, e: &Tensor, (alpha, sigma): &(Tensor, Tensor)) -> Tensor {
    alpha * e - sigma * x0
}

/// The picture, of x_t and v.
pub fn picture_of(x_t: &Tensor, v: &Tensor, (alpha, sigma): &(Tensor, Tensor)) -> Tensor {
    alpha * x_t - sigma * v
}

/// Times of a DDIM run from `start` of [`STEPS`] down to 0 in `steps` steps: pairs of a time and the next one.
pub fn times(start: i64, steps: i64) -> Vec<(i64, i64)> {
    let start = start.clamp(1, STEPS);
    let steps = steps.clamp(1, start);
    let at = |i: i64| start * (steps - i) / steps;
    (0..steps).map(|i| (at(i), at(i + 1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generators::chance::Chance;

    fn largest(t: &Tensor) -> f64 {
        t.abs().max().double_value(&[])
    }

    #[test]
    fn the_schedule_keeps_variance_and_goes_from_picture_to_noise() {
        let schedule = Schedule::cosine(Device::Cpu);
        let all = Tensor::arange(STEPS + 1, (Kind::Int64, Device::Cpu));
        let (alpha, sigma) = schedule.at(&all);
        assert!(largest(&(alpha.square() + sigma.square() - 1.0)) < 1e-6);
        let falls = alpha.view(-1).diff(1, 0, None::<Tensor>, None::<Tensor>);
        assert!(falls.max().double_value(&[]) < 0.0);
        assert_eq!(alpha.double_value(&[0, 0, 0, 0]), 1.0);
        assert!(alpha.double_value(&[STEPS, 0, 0, 0]) < 1e-2);
        // Half way, by the source's formula.
        let half = (0.508f64 / 1.008 * std::f64::consts::FRAC_PI_2).cos();
        let start = (0.008f64 / 1.008 * std::f64::consts::FRAC_PI_2).cos();
        assert!((alpha.double_value(&[500, 0, 0, 0]) - half / start).abs() < 1e-5);
    }

    #[test]
    fn picture_and_noise_come_back_from_v() {
        let schedule = Schedule::cosine(Device::Cpu);
        let (x0, e) = (Chance::new(1).normal(&[5, 1, 4, 4]), Chance::new(2).normal(&[5, 1, 4, 4]));
        let at = schedule.at(&Tensor::from_slice(&[1i64, 100, 500, 900, 1000]));
        let (x_t, v) = (noisy(&x0, &e, &at), v_of(&x0, &e, &at));
        assert!(largest(&(picture_of(&x_t, &v, &at) - &x0)) < 1e-5);
        let (alpha, sigma) = &at;
        assert!(largest(&(sigma * &x_t + alpha * &v - &e)) < 1e-5);
    }

    #[test]
    fn the_weight_is_min_snr_over_snr_and_one() {
        let schedule = Schedule::cosine(Device::Cpu);
        let t = Tensor::from_slice(&[50i64, 250, 500, 990]);
        let (alpha, sigma) = schedule.at(&t);
        let snr = (alpha / sigma).square().view(-1);
        let expected = snr.clamp_max(5.0) / (&snr + 1.0);
        assert!(largest(&(schedule.weight(&t) - expected)) < 1e-5);
    }

    #[test]
    fn times_fall_from_the_start_to_nothing() {
        assert_eq!(times(1000, 4), [(1000, 750), (750, 500), (500, 250), (250, 0)]);
        assert_eq!(times(2, 50), [(2, 1), (1, 0)]);
        assert_eq!(times(0, 0), [(1, 0)]);
        assert!(times(300, 50).iter().all(|(t, next)| t > next));
    }
}
