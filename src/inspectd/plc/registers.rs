//! One station's register memory: what the station publishes, what the PLC writes, and who read what.
//!
//! Everything changes under one lock and is copied out under it, so one request can never see half of a
//! result. The lock is held for a copy of at most 66 words.
//!
//! Never here: the network, waiting.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use inspect_core::verdict::{FaultCode, Verdict};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::map::{self, discrete, holding, input, state_bit};
use crate::record::{Counters, Gate};

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

/// A trigger that was accepted: it will get exactly one result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The PLC's id of the part.
    pub trigger_id: u16,
    /// When it was accepted.
    pub at: Instant,
}

/// Why a write was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There is no such register, or it cannot be written.
    Address,
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
    /// First 32 bits of the model's SHA-256.
    pub model: u32,
    /// Views that gave a score.
    pub views: u16,
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
            views: 0,
        }
    }
}

/// What a part's publication came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The verdict that stands in the block.
    pub verdict: Verdict,
    /// What the gate was told.
    pub gate: Gate,
    /// Whether a result was overwritten that no client had read.
    pub overrun: bool,
}

/// A deadline that is not reached.
const FAR: std::time::Duration = std::time::Duration::from_secs(3600);

/// Bits that a station sets about itself, see [`state_bit`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// Why the station cannot inspect.
    pub fault: Option<FaultCode>,
    /// The camera cannot prove life when idle.
    pub unproven: bool,
    /// The thresholds are provisional.
    pub provisional: bool,
    /// A less preferred execution provider runs the model.
    pub fell_back: bool,
}

struct Memory {
    words: [u16; input::SIZE as usize],
    trigger_id: u16,
    armed: bool,
    busy: bool,
    marks: Marks,
    counters: Counters,
    last: ResultBlock,
    sequence: u16,
    /// The block holds a part's result that no client has read.
    unread: bool,
    proven_until: Option<Instant>,
}

/// One station's registers.
pub struct Registers {
    order: WordOrder,
    /// Whether triggers come from the PLC.
    by_plc: bool,
    simulated: bool,
    review_at_gate: Gate,
    triggers: mpsc::Sender<Accepted>,
    memory: Mutex<Memory>,
}

/// Triggers in hand at a station. One: a second is refused while the first has no result.
pub const MAX_ACCEPTED: usize = 1;

impl Registers {
    /// Memory that says reject because the station is starting, and the end where accepted triggers arrive.
    pub fn new(
        order: WordOrder,
        by_plc: bool,
        simulated: bool,
        review_at_gate: Gate,
    ) -> (Self, mpsc::Receiver<Accepted>) {
        let (triggers, accepted) = mpsc::channel(MAX_ACCEPTED);
        let memory = Memory {
            words: [0; input::SIZE as usize],
            trigger_id: 0,
            armed: false,
            busy: false,
            marks: Marks { fault: Some(FaultCode::Starting), ..Marks::default() },
            counters: Counters::default(),
            last: ResultBlock::reject(FaultCode::Starting),
            sequence: 0,
            unread: false,
            proven_until: None,
        };
        let registers =
            Self { order, by_plc, simulated, review_at_gate, triggers, memory: Mutex::new(memory) };
        let mut memory = registers.lock();
        memory.words[usize::from(input::MAP_VERSION)] = map::VERSION;
        registers.write_block(&mut memory, ResultBlock::reject(FaultCode::Starting));
        drop(memory);
        (registers, accepted)
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        // Nothing in here can panic half way through a change that would let a part pass.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The PLC wrote `trigger_id`. A change to another id than 0 is a trigger; it is accepted if the PLC
    /// wrote 0 since the start and no part is in hand, else counted as missed.
    ///
    /// Errors: [`Refused::Address`] where this station is not triggered by the PLC.
    pub fn write_trigger_id(&self, id: u16) -> Result<(), Refused> {
        if !self.by_plc {
            return Err(Refused::Address);
        }
        let mut memory = self.lock();
        let changed = id != memory.trigger_id;
        memory.trigger_id = id;
        if id == 0 {
            memory.armed = true;
        } else if changed {
            let accepted = Accepted { trigger_id: id, at: Instant::now() };
            let take = memory.armed && !memory.busy && self.triggers.try_send(accepted).is_ok();
            if take {
                self.accept_locked(&mut memory, id);
            } else {
                memory.counters.missed = memory.counters.missed.wrapping_add(1);
            }
        }
        self.refresh(&mut memory);
        Ok(())
    }

    /// The station accepted a trigger that did not come from the PLC.
    pub fn accept(&self) {
        let mut memory = self.lock();
        self.accept_locked(&mut memory, 0);
        self.refresh(&mut memory);
    }

    fn accept_locked(&self, memory: &mut Memory, id: u16) {
        if id != 0 && id == memory.last.trigger_id {
            // The id was used before: its old result must not be taken for this part's.
            memory.unread = false;
            self.write_block(memory, ResultBlock::reject(FaultCode::NoResultYet));
        }
        memory.busy = true;
        memory.counters.accepted = memory.counters.accepted.wrapping_add(1);
        memory.words[usize::from(input::ACCEPTED_TRIGGER_ID)] = id;
    }

    /// Publishes a part's result in one step and counts it, and gives back what was really published: the
    /// clock and the station's faults have the last word, under the lock, so that nothing comes between.
    /// A verdict after `deadline` becomes Fault(late); in fault the gate stays closed.
    pub fn publish(&self, mut block: ResultBlock, deadline: Instant, journaled: bool) -> Published {
        let mut memory = self.lock();
        if Instant::now() > deadline {
            block.verdict = Verdict::Fault(FaultCode::Late);
        }
        block.gate = match block.verdict {
            _ if memory.marks.fault.is_some() => Gate::Reject,
            Verdict::Pass => Gate::Pass,
            Verdict::Review => self.review_at_gate,
            Verdict::Reject | Verdict::Fault(_) => Gate::Reject,
        };
        let counters = &mut memory.counters;
        let counter = match block.verdict {
            Verdict::Pass => &mut counters.pass,
            Verdict::Review => &mut counters.review,
            Verdict::Reject => &mut counters.reject,
            Verdict::Fault(_) => &mut counters.fault,
        };
        *counter = counter.wrapping_add(1);
        if block.verdict == Verdict::Fault(FaultCode::Late) {
            counters.late = counters.late.wrapping_add(1);
        }
        if !journaled {
            counters.not_journaled = counters.not_journaled.wrapping_add(1);
        }
        memory.busy = false;
        let overrun = self.write_block(&mut memory, block);
        memory.unread = true;
        Published { verdict: block.verdict, gate: block.gate, overrun }
    }

    /// The station ended unexpectedly: a part in hand gets Fault(internal), and nothing passes from here on.
    pub fn fail(&self) {
        let (busy, id) = {
            let memory = self.lock();
            (memory.busy, memory.words[usize::from(input::ACCEPTED_TRIGGER_ID)])
        };
        let fault = Some(FaultCode::Internal);
        self.mark(Marks { fault, ..Marks::default() });
        if busy {
            let block = ResultBlock { trigger_id: id, ..ResultBlock::reject(FaultCode::Internal) };
            self.publish(block, Instant::now() + FAR, false);
        }
    }

    /// The station's own state. Going into fault closes the gate: a pass that stands in the block keeps its
    /// part and verdict, which were earned, but no longer lets anything through. A block of no part shows the
    /// fault instead.
    pub fn mark(&self, marks: Marks) {
        let mut memory = self.lock();
        let open_in_fault = marks.fault.is_some() && memory.last.gate == Gate::Pass;
        if memory.marks == marks && !open_in_fault {
            return;
        }
        let before = std::mem::replace(&mut memory.marks, marks).fault;
        let unread = memory.unread;
        match marks.fault {
            Some(code) if before != Some(code) && memory.last.part == 0 => {
                self.write_block(&mut memory, ResultBlock::reject(code));
            }
            Some(_) if memory.last.gate == Gate::Pass => {
                // Still the same part's result: whether it was read does not change, and it is no overrun.
                memory.unread = false;
                let closed = ResultBlock { gate: Gate::Reject, ..memory.last };
                self.write_block(&mut memory, closed);
                memory.unread = unread;
            }
            _ => self.refresh(&mut memory),
        }
    }

    /// Scorer and camera proved themselves: `chain` may count until then.
    pub fn prove(&self, until: Instant) {
        self.lock().proven_until = Some(until);
    }

    /// One step of the output loop: `alive`, and `chain` where its proof holds and there is no fault.
    pub fn beat(&self) {
        let mut memory = self.lock();
        let chain =
            memory.marks.fault.is_none() && memory.proven_until.is_some_and(|until| Instant::now() < until);
        let words = &mut memory.words;
        let mut step = |at: u16| words[usize::from(at)] = words[usize::from(at)].wrapping_add(1);
        step(input::ALIVE);
        if chain {
            step(input::CHAIN);
        }
    }

    fn write_block(&self, memory: &mut Memory, block: ResultBlock) -> bool {
        let overrun = memory.unread;
        if overrun {
            memory.counters.overrun = memory.counters.overrun.wrapping_add(1);
        }
        memory.unread = false;
        memory.last = block;
        memory.sequence = memory.sequence.checked_add(1).unwrap_or(1);
        self.refresh(memory);
        let state = memory.words[usize::from(input::STATE)];
        let sequence = memory.sequence;
        let mut put = |at: u16, value: u16| memory.words[usize::from(at)] = value;
        put(input::RESULT_SEQUENCE, sequence);
        put(input::RESULT_TRIGGER_ID, block.trigger_id);
        put(input::VERDICT, block.verdict.code());
        put(input::GATE, if block.gate == Gate::Pass { 1 } else { 2 });
        put(input::RESULT_FAULT_CODE, block.verdict.fault_code());
        put(input::RESULT_STATE, state);
        put(input::VIEWS, block.views);
        put(input::RESULT_SEQUENCE_END, sequence);
        self.put_u32(memory, input::PART, block.part);
        self.put_u32(memory, input::SCORE, block.score.to_bits());
        self.put_u32(memory, input::REVIEW_LIMIT, block.review_limit.to_bits());
        self.put_u32(memory, input::TOTAL_US, block.total_us);
        self.put_u32(memory, input::MODEL, block.model);
        overrun
    }

    /// Brings state, fault code and counters in the words up to date.
    fn refresh(&self, memory: &mut Memory) {
        let state = self.state(memory);
        memory.words[usize::from(input::STATE)] = state;
        memory.words[usize::from(input::FAULT_CODE)] = self.not_ready(memory).map_or(0, FaultCode::code);
        let c = memory.counters;
        let counters = [
            (input::ACCEPTED, c.accepted),
            (input::PASSED, c.pass),
            (input::REVIEWED, c.review),
            (input::REJECTED, c.reject),
            (input::FAULTED, c.fault),
            (input::LATE, c.late),
            (input::MISSED, c.missed),
            (input::OVERRUNS, c.overrun),
            (input::NOT_JOURNALED, c.not_journaled),
        ];
        for (at, value) in counters {
            self.put_u32(memory, at, value);
        }
    }

    fn not_ready(&self, memory: &Memory) -> Option<FaultCode> {
        memory.marks.fault.or((self.by_plc && !memory.armed).then_some(FaultCode::NotArmed))
    }

    fn state(&self, memory: &Memory) -> u16 {
        let marks = memory.marks;
        let bits = [
            (state_bit::READY, self.not_ready(memory).is_none() && !memory.busy),
            (state_bit::BUSY, memory.busy),
            (state_bit::FAULT, marks.fault.is_some()),
            (state_bit::ARMED, memory.armed),
            (state_bit::UNPROVEN, marks.unproven),
            (state_bit::SIMULATED, self.simulated),
            (state_bit::PROVISIONAL, marks.provisional),
            (state_bit::REVIEW_PASSES, self.review_at_gate == Gate::Pass),
            (state_bit::OVERRUN, memory.counters.overrun > 0),
            (state_bit::MISSED, memory.counters.missed > 0),
            (state_bit::FELL_BACK, marks.fell_back),
        ];
        bits.iter().filter(|(_, set)| *set).fold(0, |word, (bit, _)| word | bit)
    }

    fn put_u32(&self, memory: &mut Memory, at: u16, value: u32) {
        let (high, low) = ((value >> 16) as u16, value as u16);
        let pair = match self.order {
            WordOrder::HighFirst => [high, low],
            WordOrder::LowFirst => [low, high],
        };
        memory.words[usize::from(at)..usize::from(at) + 2].copy_from_slice(&pair);
    }

    /// Input registers, all of one moment. `None` if the range leaves the table.
    pub fn input_registers(&self, range: Range<u16>) -> Option<Vec<u16>> {
        let mut memory = self.lock();
        let words = memory.words.get(usize::from(range.start)..usize::from(range.end))?.to_vec();
        if range.contains(&input::VERDICT) {
            memory.unread = false;
        }
        Some(words)
    }

    /// Discrete inputs, all of one moment. `None` if the range leaves the table.
    pub fn discrete_inputs(&self, range: Range<u16>) -> Option<Vec<bool>> {
        if range.end > discrete::SIZE {
            return None;
        }
        let mut memory = self.lock();
        let pass = memory.last.gate == Gate::Pass;
        let state = self.state(&memory);
        let bit = |at: u16| match at {
            discrete::REJECT => !pass,
            discrete::PASS => pass,
            discrete::READY => state & state_bit::READY != 0,
            discrete::BUSY => state & state_bit::BUSY != 0,
            discrete::FAULT => state & state_bit::FAULT != 0,
            discrete::OVERRUN => state & state_bit::OVERRUN != 0,
            discrete::REVIEW => memory.last.verdict == Verdict::Review,
            discrete::SIMULATED => self.simulated,
            _ => false,
        };
        let bits = range.clone().map(bit).collect();
        if range.contains(&discrete::REJECT) || range.contains(&discrete::PASS) {
            memory.unread = false;
        }
        Some(bits)
    }

    /// Holding registers. `None` if the range leaves the table.
    pub fn holding_registers(&self, range: Range<u16>) -> Option<Vec<u16>> {
        (range == (holding::TRIGGER_ID..holding::SIZE)).then(|| vec![self.lock().trigger_id])
    }

    /// Number of the result now in the block.
    pub fn sequence(&self) -> u16 {
        self.lock().sequence
    }

    /// Whether the block holds a part's result that no client has read.
    pub fn is_unread(&self) -> bool {
        self.lock().unread
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        self.lock().counters
    }

    /// Why the station would not accept a trigger, busy aside.
    pub fn fault(&self) -> Option<FaultCode> {
        self.not_ready(&self.lock())
    }

    /// What the gate is told of parts with verdict Review.
    pub fn review_at_gate(&self) -> Gate {
        self.review_at_gate
    }
}

#[cfg(test)]
#[path = "registers_tests.rs"]
mod tests;
