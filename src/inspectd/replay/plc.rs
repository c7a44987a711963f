//! The PLC of a replay: writes and reads a station's registers as a PLC does, in this process.
//!
//! Never here: a verdict of its own; a trigger while a part is in hand.

use std::time::{Duration, Instant};

use inspect_core::verdict::{FaultCode, Verdict};

use super::ReplayError;
use super::source::Part;
use crate::plc::map::{coil, discrete, holding, input};
use crate::plc::reading::Reading;
use crate::plc::registers::Registers;
use crate::plc::result::SERIAL_BYTES;
use crate::plc::word_order::WordOrder;

/// Pace at which registers are read.
const POLL: Duration = Duration::from_millis(1);
/// Longest time that a recipe may take: more than the daemon's own limit for its models.
const RECIPE_LIMIT: Duration = Duration::from_secs(150);

/// What the PLC reads of a part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answer {
    /// The id that the part was triggered by.
    pub trigger_id: u16,
    /// The verdict.
    pub verdict: Verdict,
    /// Highest score over its reject threshold; none where there is no score.
    pub score: Option<f32>,
    /// Trigger to result, microseconds.
    pub total_us: u32,
}

/// Drives one station.
pub(super) struct Plc<'a> {
    registers: &'a Registers,
    order: WordOrder,
    /// The id that stands in `trigger_id`.
    id: u16,
    /// Number of the last part with a result.
    part: u32,
}

impl<'a> Plc<'a> {
    /// Arms the station: its triggers count from here on.
    ///
    /// Errors: [`ReplayError::Registers`].
    pub fn arm(registers: &'a Registers, order: WordOrder) -> Result<Self, ReplayError> {
        let plc = Self { registers, order, id: 0, part: 0 };
        plc.write(holding::CONTROL, &[0])?;
        plc.write(holding::TRIGGER_ID, &[0])?;
        Ok(plc)
    }

    fn write(&self, at: u16, values: &[u16]) -> Result<(), ReplayError> {
        self.registers.write_registers(at, values).map_err(|_| ReplayError::Registers { at })
    }

    fn read(&self) -> Reading {
        Reading::new(self.registers.input_registers(0..input::SIZE).unwrap_or_default())
    }

    /// Brings a recipe into service, if it is not.
    ///
    /// Errors: [`ReplayError::Recipe`].
    pub async fn load_recipe(&self, number: u16) -> Result<(), ReplayError> {
        if self.read().at(input::RECIPE_ACTIVE) == number {
            return Ok(());
        }
        self.write(holding::RECIPE_REQUEST, &[number])?;
        self.write(holding::CONTROL, &[1 << coil::LOAD_RECIPE])?;
        let end = Instant::now() + RECIPE_LIMIT;
        let words = loop {
            let words = self.read();
            let ended = words.handshake(discrete::COMMAND_DONE) || words.handshake(discrete::COMMAND_FAILED);
            if ended || Instant::now() > end {
                break words;
            }
            tokio::time::sleep(POLL).await;
        };
        self.write(holding::CONTROL, &[0])?;
        if words.handshake(discrete::COMMAND_DONE) {
            return Ok(());
        }
        let why = fault(words.at(input::COMMAND_FAULT_CODE)).map_or_else(
            || format!("not within {} s", RECIPE_LIMIT.as_secs()),
            |code| format!("fault {}: {} {}", code.code(), code.meaning(), code.action()),
        );
        Err(ReplayError::Recipe { number, why })
    }

    /// Triggers a part and waits for its result, at most `limit`.
    ///
    /// Errors: [`ReplayError::NotAccepted`], [`ReplayError::NoResult`].
    pub async fn inspect(&mut self, part: &Part, limit: Duration) -> Result<Answer, ReplayError> {
        self.write(holding::PRODUCT, &[part.product])?;
        if let Some(encoder) = part.encoder {
            self.write(holding::ENCODER, &self.order.words(encoder))?;
        }
        if let Some(serial) = &part.serial {
            self.write(holding::SERIAL, &serial_words(serial))?;
        }
        let id = part.trigger_id.filter(|id| *id != 0).unwrap_or(self.id.checked_add(1).unwrap_or(1));
        if id == self.id {
            self.write(holding::TRIGGER_ID, &[0])?; // else it would be no change
        }
        let accepted = self.registers.counters().accepted;
        self.write(holding::TRIGGER_ID, &[id])?;
        self.id = id;
        if self.registers.counters().accepted == accepted {
            return Err(ReplayError::NotAccepted { id, fault: self.registers.fault() });
        }
        let end = Instant::now() + limit;
        loop {
            let words = self.read();
            let number = words.double(input::PART, self.order);
            if words.at(input::RESULT_TRIGGER_ID) == id && number != self.part {
                self.part = number;
                self.write(holding::RESULT_ACKNOWLEDGED, &[words.at(input::RESULT_SEQUENCE)])?;
                return Ok(answer(&words, self.order, id));
            }
            if Instant::now() > end {
                return Err(ReplayError::NoResult { id, waited_s: limit.as_secs() });
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// A serial as registers: two characters each, zeros after it.
fn serial_words(serial: &str) -> Vec<u16> {
    let mut bytes = [0; SERIAL_BYTES];
    bytes.iter_mut().zip(serial.bytes()).for_each(|(to, byte)| *to = byte);
    bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
}

fn fault(code: u16) -> Option<FaultCode> {
    FaultCode::ALL.iter().copied().find(|fault| fault.code() == code)
}

fn answer(read: &Reading, order: WordOrder, trigger_id: u16) -> Answer {
    let verdict = match read.at(input::VERDICT) {
        1 => Verdict::Pass,
        2 => Verdict::Review,
        3 => Verdict::Reject,
        _ => Verdict::Fault(fault(read.at(input::RESULT_FAULT_CODE)).unwrap_or(FaultCode::Internal)),
    };
    let score = Some(f32::from_bits(read.double(input::SCORE, order))).filter(|score| score.is_finite());
    Answer { trigger_id, verdict, score, total_us: read.double(input::TOTAL_US, order) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Taken;
    use crate::plc::settings::{Results, Settings};
    use crate::record::Gate;

    #[test]
    fn an_identity_reaches_the_part_as_it_was_journaled() {
        let settings = Settings {
            by_plc: true,
            simulated: true,
            review_at_gate: Gate::Reject,
            results: Results::Latest,
            order: WordOrder::LowFirst,
        };
        let (registers, mut asks) = Registers::new(settings);
        let mut plc = Plc::arm(&registers, WordOrder::LowFirst).unwrap();
        let part = Part {
            pictures: Vec::new(),
            truth: None,
            serial: Some("A-17".into()),
            encoder: Some(70_000),
            product: 5,
            trigger_id: Some(9),
            recipe: None,
            then: None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let unanswered = runtime.block_on(plc.inspect(&part, Duration::ZERO));
        assert!(matches!(unanswered, Err(ReplayError::NoResult { id: 9, .. })), "{unanswered:?}");
        let Taken { accepted, .. } = asks.accepted.try_recv().unwrap();
        let identity = accepted.identity;
        assert_eq!((accepted.trigger_id, identity.encoder, identity.product), (9, Some(70_000), 5));
        assert_eq!(identity.serial().as_deref(), Some("A-17"));
        let busy = runtime.block_on(plc.inspect(&part, Duration::ZERO));
        assert!(matches!(busy, Err(ReplayError::NotAccepted { id: 9, .. })), "{busy:?}");
    }
}
