//! One station's register memory: what the station publishes, what the PLC writes, and who read what.
//!
//! Everything changes under one lock and is copied out under it, so one request can never see half of a
//! result. The lock is held for less than the making of one table.
//!
//! Never here: the network, waiting, the rules of the handshake ([`super::handshake`]).

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use inspect_core::verdict::{FaultCode, Verdict};
use tokio::sync::mpsc;

use super::access::May;
use super::handshake::{Asked, Command, Handshake, Marks};
use super::map::{MIRROR, MIRROR_DISCRETE, coil, discrete, holding, input};
use super::result::{Accepted, Published, Refused, ResultBlock};
use super::settings::Settings;
use super::words::{self, Life};
use crate::clock;
use crate::journal::{Parts, Taken};
use crate::record::{Counters, Gate};

/// A deadline that is not reached.
const FAR: Duration = Duration::from_secs(3600);
/// Triggers in hand at a station. One: a second is refused while the first has no result.
pub const MAX_ACCEPTED: usize = 1;
/// Commands in hand at a station. One: the next needs its bit dropped and raised.
const MAX_COMMANDS: usize = 1;

/// What the PLC asks of the station.
pub struct Asks {
    /// Parts.
    pub accepted: mpsc::Receiver<Taken>,
    /// All else.
    pub commands: mpsc::Receiver<Command>,
}

struct Memory {
    handshake: Handshake,
    life: Life,
    proven_until: Option<Instant>,
    /// Results published since the start; wraps.
    published: u32,
}

/// One station's registers.
pub struct Registers {
    triggers: mpsc::Sender<Taken>,
    commands: mpsc::Sender<Command>,
    /// Where a part stands before it counts as accepted; none as long as no station stands behind the registers.
    parts: OnceLock<Parts>,
    memory: Mutex<Memory>,
}

impl Registers {
    /// Memory that says reject because the station is starting, and the end where the PLC's asks arrive.
    pub fn new(settings: Settings) -> (Self, Asks) {
        let (triggers, accepted) = mpsc::channel(MAX_ACCEPTED);
        let (send_command, commands) = mpsc::channel(MAX_COMMANDS);
        let handshake = Handshake::new(settings);
        let memory = Memory { handshake, life: Life::default(), proven_until: None, published: 0 };
        let memory = Mutex::new(memory);
        let parts = OnceLock::new();
        (Self { triggers, commands: send_command, parts, memory }, Asks { accepted, commands })
    }

    /// From now on parts are kept there. Once.
    pub fn keep_in(&self, parts: Parts) {
        let _ = self.parts.set(parts); // only ever called by the station that takes the registers over
    }

    fn take(&self, accepted: Accepted) -> Taken {
        self.parts.get().map_or(Taken { accepted, part: 0, slot: None }, |parts| parts.take(accepted))
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        // Nothing in here can panic half way through a change that would let a part pass.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The PLC wrote holding registers from `at` on, see [`Handshake::write`].
    ///
    /// Errors: [`Refused::Address`]; then nothing is changed.
    pub fn write_registers(&self, at: u16, values: &[u16]) -> Result<(), Refused> {
        let mut memory = self.lock();
        let asked = memory.handshake.write(at, values, clock::now()).ok_or(Refused::Address)?;
        self.pass_on(&mut memory.handshake, asked);
        Ok(())
    }

    /// The PLC changed some bits of a holding register, in one step.
    ///
    /// Errors: [`Refused::Address`]; then nothing is changed.
    pub fn mask_register(&self, at: u16, and: u16, or: u16) -> Result<(), Refused> {
        let mut memory = self.lock();
        let old = memory.handshake.written.get(usize::from(at)).ok_or(Refused::Address)?;
        let value = (old & and) | (or & !and); // Modbus Application Protocol V1.1b3, section 6.16
        let asked = memory.handshake.write(at, &[value], clock::now()).ok_or(Refused::Address)?;
        self.pass_on(&mut memory.handshake, asked);
        Ok(())
    }

    /// The PLC wrote coils from `at` on.
    ///
    /// Errors: [`Refused::Address`]; then nothing is changed.
    pub fn write_coils(&self, at: u16, bits: &[bool]) -> Result<(), Refused> {
        let mut memory = self.lock();
        let asked = memory.handshake.write_coils(at, bits, clock::now()).ok_or(Refused::Address)?;
        self.pass_on(&mut memory.handshake, asked);
        Ok(())
    }

    /// Gives back what the station took.
    fn pass_on(&self, handshake: &mut Handshake, mut asked: Asked) -> Asked {
        let refused = asked.accepted.and_then(|accepted| self.triggers.try_send(self.take(accepted)).err());
        if let Some(refused) = refused {
            // The station takes no more: it is stopping.
            if let Some(slot) = refused.into_inner().slot {
                slot.give_back();
            }
            asked.accepted = None;
            handshake.refuse();
        }
        if asked.command.take_if(|command| self.commands.try_send(*command).is_err()).is_some() {
            handshake.end_command(Err(FaultCode::Stopping));
        }
        asked
    }

    /// The PLC wrote another map than this one's ([`super::in_sight`]): what that means, in one step. Gives back
    /// what the station took of what it was asked.
    pub(super) fn change(&self, change: impl FnOnce(&mut Handshake) -> Asked) -> Asked {
        let mut memory = self.lock();
        let asked = change(&mut memory.handshake);
        self.pass_on(&mut memory.handshake, asked)
    }

    /// The PLC reads another map: what it gets to see of one moment, and of the number of results so far.
    pub(super) fn look<T>(&self, look: impl FnOnce(&mut Handshake, u32) -> T) -> T {
        let mut memory = self.lock();
        let published = memory.published;
        look(&mut memory.handshake, published)
    }

    /// The station accepted a trigger that did not come from the PLC.
    pub fn accept(&self, at: Instant) -> Taken {
        let accepted = self.lock().handshake.accept(0, at);
        self.take(accepted)
    }

    /// Whether the newest part had no slot in the ring, and the next would have none.
    pub fn has_no_place(&self) -> bool {
        self.parts.get().is_some_and(Parts::has_no_place)
    }

    /// Publishes a part's result in one step and counts it, and gives back what was really published: the
    /// clock and the station's faults have the last word, under the lock, so that nothing comes between.
    /// A verdict after `deadline` becomes Fault(late); in fault the gate stays closed.
    pub fn publish(&self, block: ResultBlock, deadline: Instant, journaled: bool) -> Published {
        self.publish_when(block, deadline, journaled, |_| {})
    }

    /// The same; `entered` is called with what was decided before anybody can read it.
    pub fn publish_when(
        &self,
        mut block: ResultBlock,
        deadline: Instant,
        journaled: bool,
        entered: impl FnOnce(&Published),
    ) -> Published {
        let mut memory = self.lock();
        if clock::now() > deadline {
            block.verdict = Verdict::Fault(FaultCode::Late);
        }
        memory.published = memory.published.wrapping_add(1);
        let published = memory.handshake.publish(block, journaled);
        entered(&published);
        published
    }

    /// The station ended unexpectedly: a part in hand gets Fault(internal), and nothing passes from here on.
    pub fn fail(&self) {
        let fault = Some(FaultCode::Internal);
        self.mark(Marks { fault, ..Marks::default() });
        self.refuse_part(FaultCode::Internal);
    }

    /// A part in hand, where there is one, gets a fault and is in no journal.
    pub fn refuse_part(&self, code: FaultCode) {
        let in_hand = self.lock().handshake.in_hand;
        if let Some(Accepted { trigger_id, kind, identity, .. }) = in_hand {
            let block = ResultBlock { trigger_id, kind, identity, ..ResultBlock::reject(code) };
            self.publish(block, clock::now() + FAR, false);
        }
    }

    /// The station's own state, see [`Handshake::mark`].
    pub fn mark(&self, marks: Marks) {
        self.lock().handshake.mark(marks);
    }

    /// The line should stop.
    pub fn request_stop(&self, code: FaultCode) {
        self.lock().handshake.request_stop(code);
    }

    /// The command that the station was told has ended.
    pub fn end_command(&self, result: Result<(), FaultCode>) {
        self.lock().handshake.end_command(result);
    }

    /// Scorer and camera proved themselves: `chain` may count until then.
    pub fn prove(&self, until: Instant) {
        self.lock().proven_until = Some(until);
    }

    /// One step of the output loop: `alive`, and `chain` where its proof holds and there is no fault.
    pub fn beat(&self) {
        let mut memory = self.lock();
        let proven = memory.proven_until.is_some_and(|until| clock::now() < until);
        let chain = proven && memory.handshake.marks.fault.is_none();
        memory.life.alive = memory.life.alive.wrapping_add(1);
        memory.life.chain = memory.life.chain.wrapping_add(u16::from(chain));
    }

    /// Input registers, all of one moment. `None` if the range leaves the table.
    pub fn input_registers(&self, range: Range<u16>) -> Option<Vec<u16>> {
        self.input_registers_for(May::Write, range)
    }

    /// The same for a client that may do so much: what one reads that may only read, nobody has read.
    pub(super) fn input_registers_for(&self, may: May, range: Range<u16>) -> Option<Vec<u16>> {
        let mut memory = self.lock();
        let words = words::input_registers(&memory.handshake, memory.life);
        let words = words.get(usize::from(range.start)..usize::from(range.end))?.to_vec();
        if may == May::Write && range.contains(&input::VERDICT) {
            memory.handshake.was_read();
        }
        Some(words)
    }

    /// Discrete inputs, all of one moment. `None` if the range leaves the table.
    pub fn discrete_inputs(&self, range: Range<u16>) -> Option<Vec<bool>> {
        self.discrete_inputs_for(May::Write, range)
    }

    /// The same for a client that may do so much: what one reads that may only read, nobody has read.
    pub(super) fn discrete_inputs_for(&self, may: May, range: Range<u16>) -> Option<Vec<bool>> {
        if range.end > discrete::SIZE {
            return None;
        }
        let mut memory = self.lock();
        let word = words::discrete_inputs(&memory.handshake);
        if may == May::Write && (range.contains(&discrete::REJECT) || range.contains(&discrete::PASS)) {
            memory.handshake.was_read();
        }
        Some(range.map(|at| word & (1 << at) != 0).collect())
    }

    /// Holding registers: what the PLC wrote, the discrete inputs as a word at [`MIRROR_DISCRETE`], and the
    /// input registers from [`MIRROR`] on. `None` if the range leaves one of the three.
    pub fn holding_registers(&self, range: Range<u16>) -> Option<Vec<u16>> {
        self.holding_registers_for(May::Write, range)
    }

    /// The same for a client that may do so much: what one reads that may only read, nobody has read.
    pub(super) fn holding_registers_for(&self, may: May, range: Range<u16>) -> Option<Vec<u16>> {
        if range.start >= MIRROR {
            return self.input_registers_for(may, range.start - MIRROR..range.end - MIRROR);
        }
        if range.start == MIRROR_DISCRETE {
            let mut memory = self.lock();
            let behind = words::input_registers(&memory.handshake, memory.life);
            let behind = behind.get(..usize::from(range.end.checked_sub(MIRROR)?))?;
            if may == May::Write {
                memory.handshake.was_read();
            }
            let mut read = vec![words::discrete_inputs(&memory.handshake)];
            read.extend_from_slice(behind);
            return Some(read);
        }
        let written = self.lock().handshake.written;
        written.get(usize::from(range.start)..usize::from(range.end)).map(<[u16]>::to_vec)
    }

    /// Whether [`holding_registers`](Self::holding_registers) would give a range.
    pub fn holds(range: &Range<u16>) -> bool {
        let lies = |from: u16, size: u16| from <= range.start && range.end <= from + size;
        lies(0, holding::SIZE) || lies(MIRROR_DISCRETE, 1 + input::SIZE)
    }

    /// Coils, all of one moment. `None` if the range leaves the table.
    pub fn coils(&self, range: Range<u16>) -> Option<Vec<bool>> {
        let control = self.lock().handshake.written[usize::from(holding::CONTROL)];
        (range.end <= coil::SIZE).then(|| range.map(|at| control & (1 << at) != 0).collect())
    }

    /// Changes with whatever changes in the block.
    pub fn revision(&self) -> u64 {
        self.lock().handshake.revision
    }

    /// Whether the PLC still owes the block's result a look, or an acknowledgement.
    pub fn is_open(&self) -> bool {
        self.lock().handshake.open
    }

    /// What was counted since the start, or the last reset.
    pub fn counters(&self) -> Counters {
        self.lock().handshake.counters
    }

    /// Why the station would not accept a trigger, busy aside.
    pub fn fault(&self) -> Option<FaultCode> {
        self.lock().handshake.not_ready()
    }

    /// The PLC has taken the station offline.
    pub fn is_offline(&self) -> bool {
        self.lock().handshake.is_offline()
    }

    /// The PLC says that it lets parts pass whatever their result.
    pub fn is_bypassed(&self) -> bool {
        self.lock().handshake.level(coil::BYPASS)
    }

    /// The line is asked to stop.
    pub fn is_stop_requested(&self) -> bool {
        self.lock().handshake.stop_request
    }

    /// How often the PLC has cleared the error; wraps.
    pub fn times_cleared(&self) -> u32 {
        self.lock().handshake.times_cleared
    }

    /// First code since the PLC cleared the error.
    pub fn error(&self) -> Option<FaultCode> {
        self.lock().handshake.error
    }

    /// What the gate is told of parts with verdict Review.
    pub fn review_at_gate(&self) -> Gate {
        self.lock().handshake.settings.review_at_gate
    }
}

#[cfg(test)]
#[path = "registers_tests.rs"]
mod tests;
