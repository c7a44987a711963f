//! Small seeded random numbers for simulated parts and shuffled folders.
//!
//! Why not `rand`: its `StdRng` may give other numbers after an update, but part i of seed s must stay the
//! same picture for as long as a model fitted on it is in service.
//!
//! Never here: anything that has to be unpredictable.

/// SplitMix64. Source: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators", fig. 17.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

/// The mixing step of SplitMix64: a hash of 64 bits.
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Random {
    /// The stream named by a seed, a number within it, and what it is for.
    pub(super) fn new(seed: u64, number: u64, purpose: u64) -> Self {
        Self(mix(mix(mix(seed.wrapping_add(1)) ^ number.wrapping_add(1)) ^ purpose.wrapping_add(1)))
    }

    /// The next 64 bits.
    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// Uniform in `[0, 1)`.
    pub(super) fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// Uniform in `[low, high)`.
    pub(super) fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Uniform in `0..n`; `n` is at least 1.
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.bits() % n.max(1) as u64) as usize
    }

    /// Puts a list in random order. Source: Durstenfeld 1964, algorithm 235.
    pub(super) fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            let other = self.below(last + 1);
            list.swap(last, other);
        }
    }
}

/// Four nearly normal numbers of standard deviation 1 out of one hash: sums of four of its nibbles.
///
/// Camera noise is drawn for every pixel; exact normal numbers would cost more than the part itself.
pub(super) fn noise4(bits: u64) -> [f32; 4] {
    // A nibble is uniform over 0..=15: mean 7.5, variance 21.25. Four: mean 30, deviation sqrt(85).
    const DEVIATION: f32 = 9.219_544;
    std::array::from_fn(|lane| {
        let lane = (bits >> (16 * lane)) & 0xFFFF;
        let sum = (lane & 15) + ((lane >> 4) & 15) + ((lane >> 8) & 15) + (lane >> 12);
        (sum as f32 - 30.0) / DEVIATION
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_mean_nought_and_deviation_one() {
        let mut random = Random::new(3, 0, 0);
        let values: Vec<f32> = (0..20_000).flat_map(|_| noise4(random.bits())).collect();
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
    }

    #[test]
    fn shuffling_keeps_every_element() {
        let mut list: Vec<usize> = (0..50).collect();
        Random::new(9, 0, 0).shuffle(&mut list);
        assert_ne!(list, (0..50).collect::<Vec<_>>());
        list.sort_unstable();
        assert_eq!(list, (0..50).collect::<Vec<_>>());
    }
}
