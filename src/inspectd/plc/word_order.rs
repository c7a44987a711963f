//! Which word of a two-word value comes first: PLC families differ.
//!
//! Never here: addresses.

use serde::{Deserialize, Serialize};

/// Which word of a two-word value comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WordOrder {
    /// The high word: what the Modbus specification suggests.
    #[default]
    HighFirst,
    /// The low word: what several PLC families expect.
    LowFirst,
}

impl WordOrder {
    /// The words of a value, in their order.
    pub fn words(self, value: u32) -> [u16; 2] {
        let (high, low) = ((value >> 16) as u16, value as u16);
        match self {
            WordOrder::HighFirst => [high, low],
            WordOrder::LowFirst => [low, high],
        }
    }

    /// The value of two words, in their order.
    pub fn value(self, words: [u16; 2]) -> u32 {
        let [high, low] = match self {
            WordOrder::HighFirst => words,
            WordOrder::LowFirst => [words[1], words[0]],
        };
        u32::from(high) << 16 | u32::from(low)
    }
}
