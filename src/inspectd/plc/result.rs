//! What the PLC reads of one part, and what its publication came to.
//!
//! Terms: see [`crate::plc`].
//!
//! Never here: words and addresses.

use std::time::Instant;

use inspect_core::verdict::{FaultCode, Verdict};

use super::map::STRING_WORDS;
use crate::clock;
use crate::record::{Gate, Trigger, TriggerSource};

/// Bytes of a serial.
pub const SERIAL_BYTES: usize = STRING_WORDS as usize * 2;

/// What kind of part a trigger is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PartKind {
    /// One of the line's.
    #[default]
    Part,
    /// A part known to be bad, which must be rejected.
    Challenge,
}

/// What the PLC says of a part with its trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Identity {
    /// As it was written: up to the first zero byte, zeros after it.
    pub serial: [u8; SERIAL_BYTES],
    /// Encoder count, where one was written.
    pub encoder: Option<u32>,
    /// Kind of part; 0: not said.
    pub product: u16,
}

impl Identity {
    /// The serial as text, blanks around it taken away, what is not printable ASCII as `?`; `None` if empty.
    pub fn serial(&self) -> Option<String> {
        let bytes = self.serial.iter().take_while(|b| **b != 0);
        let text: String =
            bytes.map(|b| if matches!(b, b' '..=b'~') { char::from(*b) } else { '?' }).collect();
        Some(text.trim().to_owned()).filter(|t| !t.is_empty())
    }
}

/// A trigger that was accepted: it will get exactly one result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The PLC's id of the part; 0 where the trigger did not come from the PLC.
    pub trigger_id: u16,
    /// When it was accepted.
    pub at: Instant,
    /// A part of the line, or a challenge.
    pub kind: PartKind,
    /// What the PLC says of it.
    pub identity: Identity,
    /// The PLC says that it lets parts pass whatever their result.
    pub bypass: bool,
}

impl Accepted {
    /// As it stands in the part's record.
    pub fn trigger(&self, source: TriggerSource) -> Trigger {
        Trigger {
            trigger_id: Some(self.trigger_id).filter(|id| *id != 0),
            serial: self.identity.serial(),
            encoder: self.identity.encoder,
            product: self.identity.product,
            challenge: self.kind == PartKind::Challenge,
            bypass: self.bypass,
            ..Trigger::new(source, clock::wall_at(self.at))
        }
    }
}

/// What the PLC reads of one part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ResultBlock {
    /// Whose result; 0 belongs to no part.
    pub trigger_id: u16,
    /// The verdict.
    pub verdict: Verdict,
    /// What the gate is told.
    pub gate: Gate,
    /// Number of the part.
    pub part: u32,
    /// Highest score over its reject threshold; NaN where there is none.
    pub score: f32,
    /// Review over reject threshold; NaN where there is none.
    pub review_limit: f32,
    /// Trigger to result, microseconds.
    pub total_us: u32,
    /// First 32 bits of the SHA-256 of the first view's model file.
    pub model: u32,
    /// Number of the recipe, 0: the station's own settings.
    pub recipe: u16,
    /// Views that gave a score.
    pub views: u16,
    /// The bits of `state` when it was made.
    pub state: u16,
    /// A part of the line, or a challenge.
    pub kind: PartKind,
    /// What the PLC said of it.
    pub identity: Identity,
}

impl ResultBlock {
    /// A result of no part, which lets nothing pass.
    pub fn reject(code: FaultCode) -> Self {
        Self {
            trigger_id: 0,
            verdict: Verdict::Fault(code),
            gate: Gate::Reject,
            part: 0,
            score: f32::NAN,
            review_limit: f32::NAN,
            total_us: 0,
            model: 0,
            recipe: 0,
            views: 0,
            state: 0,
            kind: PartKind::Part,
            identity: Identity::default(),
        }
    }

    /// Whether it is a part's.
    pub fn is_of_a_part(&self) -> bool {
        self.part != 0 || self.trigger_id != 0
    }
}

/// What a part's publication came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The verdict that stands in the block.
    pub verdict: Verdict,
    /// What the gate was told.
    pub gate: Gate,
    /// Whether a result was lost to the PLC: an earlier one overwritten unread, or this one without room.
    pub overrun: bool,
}

/// Why a write was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There is no such place, or it cannot be written.
    Address,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_is_text_whatever_a_plc_writes() {
        let of = |bytes: &[u8]| {
            let mut identity = Identity::default();
            identity.serial[..bytes.len()].copy_from_slice(bytes);
            identity.serial()
        };
        assert_eq!(of(b"A-17 "), Some("A-17".into()));
        assert_eq!(of(b"A\x01\xFF\0rest"), Some("A??".into()));
        assert_eq!(of(b"   \0x"), None);
        assert_eq!(of(&[b'x'; SERIAL_BYTES]).map(|s| s.len()), Some(SERIAL_BYTES));
    }
}
