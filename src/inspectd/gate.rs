//! The time that a part has from its trigger to the reject gate, and what of it a deadline may take.
//!
//! Never here: what the gate is told (see [`crate::record::Gate`]).

use serde::{Deserialize, Serialize};

/// Shortest deadline: below it the time that publication needs leaves none for the part.
pub const MIN_DEADLINE_MS: u64 = 10;
/// Longest deadline: a minute. A part that may take longer is not on a line.
pub const MAX_DEADLINE_MS: u64 = 60_000;

/// The way from the camera to the reject gate, in time.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateConfig {
    /// From trigger to the moment when the gate must know.
    pub time_to_gate_ms: u64,
    /// How often the PLC reads.
    pub plc_poll_ms: u64,
    /// The PLC's scan time.
    pub plc_scan_ms: u64,
}
