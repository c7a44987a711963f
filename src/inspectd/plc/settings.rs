//! What a station's handshake with the PLC is told once, from the configuration.
//!
//! Terms: see [`super::handshake`].
//!
//! Never here: state.

use serde::{Deserialize, Serialize};

use super::word_order::WordOrder;
use crate::record::Gate;

/// Most results that can wait to be acknowledged.
pub const MAX_DEPTH: u16 = 64;

/// How results come to the PLC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case", deny_unknown_fields)]
pub enum Results {
    /// Each takes the place of the one before.
    #[default]
    Latest,
    /// Each stays until it is acknowledged.
    Acknowledged {
        /// Results that can wait behind it, 0 to [`MAX_DEPTH`].
        depth: u16,
    },
}

/// What a station's handshake is told once.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Triggers come from the PLC.
    pub by_plc: bool,
    /// Frames are simulated.
    pub simulated: bool,
    /// What the gate is told of verdict Review.
    pub review_at_gate: Gate,
    /// How results come to the PLC.
    pub results: Results,
    /// How values of two words are written.
    pub order: WordOrder,
}
