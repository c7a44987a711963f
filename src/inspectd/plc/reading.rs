//! The input registers as a PLC reads them: the other way of [`super::words`].
//!
//! Never here: the network, a wait, what the words should be.

use super::map::{discrete, input};
use super::word_order::WordOrder;

/// Input registers of one moment, from the first on. A place that was not read is 0.
#[derive(Debug, Clone, Default)]
pub struct Reading(Vec<u16>);

impl Reading {
    /// What was read from input register 0 on.
    pub fn new(words: Vec<u16>) -> Self {
        Self(words)
    }

    /// One word.
    pub fn at(&self, place: u16) -> u16 {
        self.0.get(usize::from(place)).copied().unwrap_or(0)
    }

    /// The words from `from` up to `to`, as far as they were read.
    pub fn words(&self, from: u16, to: u16) -> Vec<u16> {
        (from..to).map(|place| self.at(place)).collect()
    }

    /// A value of two words.
    pub fn double(&self, place: u16, order: WordOrder) -> u32 {
        order.value([self.at(place), self.at(place + 1)])
    }

    /// Whether a bit of `state` stands.
    pub fn state(&self, bit: u16) -> bool {
        self.at(input::STATE) & bit != 0
    }

    /// Whether a discrete input from 8 on stands.
    pub fn handshake(&self, bit: u16) -> bool {
        self.at(input::HANDSHAKE) & 1 << (bit - discrete::RESULT_VALID) != 0
    }

    /// How far a counter of two words moved on since `before`, for a reader that does not know the word order:
    /// in the wrong one a move of less than 65,536 looks like a larger one, so that the smaller is the true one.
    pub fn counted_since(&self, before: &Self, place: u16) -> u32 {
        let moved = |order| self.double(place, order).wrapping_sub(before.double(place, order));
        moved(WordOrder::HighFirst).min(moved(WordOrder::LowFirst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counter(value: u32, order: WordOrder) -> Reading {
        Reading::new([vec![0; usize::from(input::ACCEPTED)], order.words(value).into()].concat())
    }

    proptest! {
        #[test]
        fn a_counter_moves_as_far_in_either_word_order(value: u32, by in 0u32..0x1_0000) {
            for order in [WordOrder::HighFirst, WordOrder::LowFirst] {
                let (before, after) = (counter(value, order), counter(value.wrapping_add(by), order));
                prop_assert_eq!(after.counted_since(&before, input::ACCEPTED), by);
            }
        }
    }

    #[test]
    fn a_counter_passes_its_low_words_end() {
        for (from, to) in [(0x1_FFFF, 0x2_0000), (u32::MAX, 0), (0xFFFF, 0x1_0000), (0x5_0003, 0x5_0004)] {
            for order in [WordOrder::HighFirst, WordOrder::LowFirst] {
                assert_eq!(counter(to, order).counted_since(&counter(from, order), input::ACCEPTED), 1);
            }
        }
        let (before, after) = (counter(7, WordOrder::HighFirst), counter(0, WordOrder::HighFirst));
        assert!(after.counted_since(&before, input::ACCEPTED) > 0, "a reset is no standstill");
    }
}
