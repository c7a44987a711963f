//! Chance of a generator's step, draw or first weights: it follows from a seed alone.
//!
//! Never here: libtorch's own generator, of which there is one in the whole process, but for [`drawn_seed`].

use rand::{RngExt as _, SeedableRng as _};
use tch::{Device, Kind, Tensor};

use super::noise;
use crate::defects::Random;

/// A source of numbers, all on the processor.
pub struct Chance(Random);

impl Chance {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(Random::seed_from_u64(seed))
    }

    /// For one weight of a network: other names give other numbers.
    pub fn of_name(seed: u64, name: &str) -> Self {
        // FNV-1a, which unlike the standard library's hash stays what it is.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self::new(seed ^ hash)
    }

    /// Standard normal numbers.
    pub fn normal(&mut self, shape: &[i64]) -> Tensor {
        noise(self.0.random(), shape, Device::Cpu)
    }

    /// Numbers from 0 up to 1.
    pub fn uniform(&mut self, shape: &[i64]) -> Tensor {
        let count = shape.iter().product::<i64>().max(0);
        let values: Vec<f32> = (0..count).map(|_| self.0.random()).collect();
        Tensor::from_slice(&values).view(shape)
    }
}

/// A seed from libtorch's generator, which the caller of `new` has seeded.
pub fn drawn_seed() -> u64 {
    Tensor::randint(i64::MAX, [1], (Kind::Int64, Device::Cpu)).int64_value(&[0]) as u64
}

/// Normal numbers for `n` pictures, the i-th as if it were drawn alone with `seed + i`: a picture can be made again
/// without those that were made beside it.
/// Shape: → `[n, shape…]`
pub fn rows(seed: u64, n: i64, shape: &[i64], device: Device) -> Tensor {
    let row = |i: i64| noise(seed.wrapping_add(i as u64), shape, device);
    if n == 0 {
        return Tensor::zeros([&[0], shape].concat(), (Kind::Float, device));
    }
    Tensor::stack(&(0..n).map(row).collect::<Vec<_>>(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_same_alone() {
        let of = |seed, n| rows(seed, n, &[2, 5], Device::Cpu);
        assert!(of(7, 3).get(2).equal(&of(9, 1).get(0)));
        assert!(!of(7, 3).get(2).equal(&of(7, 3).get(1)));
        assert_eq!(of(7, 0).size(), [0, 2, 5]);
    }

    #[test]
    fn uniform_numbers_fill_0_to_1() {
        let numbers = Chance::new(3).uniform(&[10_000]);
        assert!(numbers.min().double_value(&[]) >= 0.0 && numbers.max().double_value(&[]) < 1.0);
        assert!((numbers.mean(Kind::Double).double_value(&[]) - 0.5).abs() < 0.02);
    }
}
