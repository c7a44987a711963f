//! The handshake with the PLC as a state machine: what it wrote, what stands for it to read, what came of it.
//!
//! Everything is by level: the same writes in the same order give the same state, however often each is
//! repeated. [`super::state_table`] plays the manual's state table (`deploy/manual/handshake.md`) on it.
//!
//! Terms. *Latest*: each result takes the place of the one before. *Acknowledged*: a result stays until the PLC
//! has written its sequence; later ones wait behind it, frozen, and one without room is lost to the PLC and
//! latches overrun. A *latch* stands until `clear_error`. A *command* is a bit that is raised, answered by
//! done or failed, and dropped.
//!
//! Never here: the network, locks, waiting, a verdict.

use std::collections::VecDeque;
use std::time::Instant;

use inspect_core::verdict::{FaultCode, Verdict};

use super::map::{coil, holding, state_bit};
use super::result::{Accepted, Identity, PartKind, Published, ResultBlock, SERIAL_BYTES};
use super::settings::{MAX_DEPTH, Results, Settings};
use crate::record::{Counters, Gate};

/// What a station is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Bring the recipe of this number into service.
    LoadRecipe(u16),
}

/// Where the command whose bit is raised stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandState {
    /// All bits are 0.
    Idle,
    /// It is being carried out.
    Busy,
    /// It was carried out.
    Done,
    /// It was not.
    Failed(FaultCode),
}

/// Bits that a station sets about itself.
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
    /// Number of the recipe in service, 0: the station's own settings.
    pub recipe: u16,
    /// The last challenge part that was rejected is too long ago.
    pub challenge_due: bool,
}

/// What a write of the PLC asks of the station.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// A part.
    pub accepted: Option<Accepted>,
    /// Something else.
    pub command: Option<Command>,
}

/// The state. Fields are read by the words that show them; they change here alone.
#[derive(Debug, Clone)]
pub struct Handshake {
    /// As it was told.
    pub settings: Settings,
    /// What the PLC wrote, as it reads it back.
    pub written: [u16; holding::SIZE as usize],
    encoder_written: bool,
    /// It has written `trigger_id` 0 since the start.
    pub armed: bool,
    /// The id that was accepted last.
    pub accepted_id: u16,
    /// The part without a result.
    pub in_hand: Option<Accepted>,
    /// The next part is a challenge.
    pub challenge: bool,
    /// The commands' bits were all 0 once since the start.
    commands_armed: bool,
    /// The raised command.
    pub command: CommandState,
    /// About the station itself.
    pub marks: Marks,
    /// Since the start, or the last reset.
    pub counters: Counters,
    /// What stands in the result block.
    pub block: ResultBlock,
    /// Its number: changes with each block.
    pub sequence: u16,
    /// Changes with whatever changes in the block, its gate among it.
    pub revision: u64,
    /// The sequence that was acknowledged last, 0: none.
    acknowledged: u16,
    /// Where results are acknowledged: the block's is not yet. Else: no client has read it.
    pub open: bool,
    /// Results behind the block's.
    pub waiting: VecDeque<ResultBlock>,
    /// First code since the last clear.
    pub error: Option<FaultCode>,
    /// Latched.
    pub overrun: bool,
    /// Latched.
    pub missed: bool,
    /// Latched.
    pub stop_request: bool,
    /// How often the PLC has cleared what is latched; wraps.
    pub times_cleared: u32,
}

/// Bits of `control` that are commands.
const COMMANDS: u16 = 0xFF00;

impl Handshake {
    /// Says reject because the station is starting.
    pub fn new(settings: Settings) -> Self {
        let mut new = Self {
            settings,
            written: [0; holding::SIZE as usize],
            encoder_written: false,
            armed: false,
            accepted_id: 0,
            in_hand: None,
            challenge: false,
            commands_armed: false,
            command: CommandState::Idle,
            marks: Marks { fault: Some(FaultCode::Starting), ..Marks::default() },
            counters: Counters::default(),
            block: ResultBlock::reject(FaultCode::Starting),
            sequence: 1,
            revision: 1,
            acknowledged: 0,
            open: false,
            waiting: VecDeque::new(),
            error: None,
            overrun: false,
            missed: false,
            stop_request: false,
            times_cleared: 0,
        };
        new.block.state = new.state();
        new
    }

    fn acknowledges(&self) -> bool {
        self.settings.results != Results::Latest
    }

    /// Whether the block holds a result that the PLC may use: where results are acknowledged, one that is not.
    pub fn is_valid(&self) -> bool {
        self.block.is_of_a_part() && (self.open || !self.acknowledges())
    }

    /// The bits of `state`.
    pub fn state(&self) -> u16 {
        let marks = self.marks;
        let bits = [
            (state_bit::READY, self.not_ready().is_none() && self.in_hand.is_none()),
            (state_bit::BUSY, self.in_hand.is_some()),
            (state_bit::FAULT, marks.fault.is_some()),
            (state_bit::ARMED, self.armed),
            (state_bit::UNPROVEN, marks.unproven),
            (state_bit::SIMULATED, self.settings.simulated),
            (state_bit::PROVISIONAL, marks.provisional),
            (state_bit::REVIEW_PASSES, self.settings.review_at_gate == Gate::Pass),
            (state_bit::OVERRUN, self.overrun),
            (state_bit::MISSED, self.missed),
            (state_bit::FELL_BACK, marks.fell_back),
        ];
        bits.iter().filter(|(_, set)| *set).fold(0, |word, (bit, _)| word | bit)
    }

    /// The PLC wrote `values` from holding register `at` on: identity first, then acknowledgement, control, and
    /// the trigger last, so that one request can hold a whole cycle. `None`, and nothing is changed, if the
    /// range leaves the table or holds a trigger that this station does not take.
    pub fn write(&mut self, at: u16, values: &[u16], now: Instant) -> Option<Asked> {
        let from = usize::from(at);
        let to = from.checked_add(values.len()).filter(|to| *to <= self.written.len())?;
        let holds = |place: u16| (from..to).contains(&usize::from(place));
        if holds(holding::TRIGGER_ID) && !self.settings.by_plc {
            return None;
        }
        let id_before = self.value(holding::TRIGGER_ID);
        let acknowledged_before = self.value(holding::RESULT_ACKNOWLEDGED);
        self.written[from..to].copy_from_slice(values);
        self.encoder_written |= holds(holding::ENCODER) || holds(holding::ENCODER + 1);
        if holds(holding::RESULT_ACKNOWLEDGED) {
            self.acknowledge(acknowledged_before);
        }
        let mut asked = Asked::default();
        if holds(holding::CONTROL) {
            asked.command = self.control();
        }
        if holds(holding::TRIGGER_ID) {
            asked.accepted = self.trigger(id_before, now);
        }
        Some(asked)
    }

    fn value(&self, at: u16) -> u16 {
        self.written[usize::from(at)]
    }

    /// Whether a bit of `control` stands.
    pub fn level(&self, bit: u16) -> bool {
        self.value(holding::CONTROL) & (1 << bit) != 0
    }

    /// The PLC changed one coil.
    pub fn write_coils(&mut self, at: u16, bits: &[bool], now: Instant) -> Option<Asked> {
        let end = usize::from(at).checked_add(bits.len()).filter(|end| *end <= usize::from(coil::SIZE))?;
        let mut control = self.value(holding::CONTROL);
        for (bit, set) in (usize::from(at)..end).zip(bits) {
            control = if *set { control | 1 << bit } else { control & !(1 << bit) };
        }
        self.write(holding::CONTROL, &[control], now)
    }

    fn trigger(&mut self, before: u16, at: Instant) -> Option<Accepted> {
        let id = self.value(holding::TRIGGER_ID);
        if id == 0 {
            self.armed = true;
            return None;
        } else if id == before {
            return None;
        }
        if !self.armed || self.in_hand.is_some() || self.is_offline() {
            self.miss();
            return None;
        }
        Some(self.accept(id, at))
    }

    /// A trigger came and was not accepted.
    pub fn miss(&mut self) {
        self.counters.missed = self.counters.missed.wrapping_add(1);
        self.missed = true;
        self.error.get_or_insert(FaultCode::MissedTrigger);
    }

    /// The part in hand, just accepted, cannot be inspected after all: it was missed.
    pub fn refuse(&mut self) {
        self.in_hand = None;
        self.counters.accepted = self.counters.accepted.wrapping_sub(1);
        self.miss();
    }

    /// Takes a part in hand; `id` 0 where the PLC did not ask for it.
    pub fn accept(&mut self, id: u16, at: Instant) -> Accepted {
        if id != 0 && id == self.block.trigger_id && !self.acknowledges() {
            // The id was used before: its old result must not be taken for this part's.
            self.replace_block(ResultBlock::reject(FaultCode::NoResultYet));
            self.open = false;
        }
        let kind = if std::mem::take(&mut self.challenge) { PartKind::Challenge } else { PartKind::Part };
        let (identity, bypass) = (self.take_identity(), self.level(coil::BYPASS));
        let accepted = Accepted { trigger_id: id, at, kind, identity, bypass };
        self.in_hand = Some(accepted);
        self.accepted_id = id;
        self.counters.accepted = self.counters.accepted.wrapping_add(1);
        accepted
    }

    /// Serial and encoder belong to one part; the product stands.
    fn take_identity(&mut self) -> Identity {
        let mut identity = Identity { product: self.value(holding::PRODUCT), ..Identity::default() };
        let serial = usize::from(holding::SERIAL);
        let words = &mut self.written[serial..serial + SERIAL_BYTES / 2];
        let bytes = words.iter().flat_map(|w| w.to_be_bytes());
        for (to, byte) in identity.serial.iter_mut().zip(bytes.take_while(|b| *b != 0)) {
            *to = byte;
        }
        words.fill(0);
        identity.encoder = std::mem::take(&mut self.encoder_written).then(|| self.encoder_words());
        let encoder = usize::from(holding::ENCODER);
        self.written[encoder..encoder + 2].fill(0);
        identity
    }

    fn encoder_words(&self) -> u32 {
        self.settings.order.value([self.value(holding::ENCODER), self.value(holding::ENCODER + 1)])
    }

    /// The PLC has taken the station offline.
    pub fn is_offline(&self) -> bool {
        self.level(coil::OFFLINE)
    }

    /// Why a trigger would not be accepted, a part in hand aside.
    pub fn not_ready(&self) -> Option<FaultCode> {
        let offline = self.is_offline().then_some(FaultCode::Offline);
        let not_armed = (self.settings.by_plc && !self.armed).then_some(FaultCode::NotArmed);
        self.marks.fault.or(offline).or(not_armed)
    }

    fn acknowledge(&mut self, before: u16) {
        let sequence = self.value(holding::RESULT_ACKNOWLEDGED);
        if sequence == 0 || !self.acknowledges() {
            return;
        }
        if self.open && sequence == self.sequence {
            match self.waiting.pop_front() {
                Some(next) => self.replace_block(next),
                None => {
                    self.replace_block(ResultBlock::reject(FaultCode::NoResultYet));
                    self.open = false;
                }
            }
            self.acknowledged = sequence;
        } else if sequence != self.acknowledged && sequence != before {
            self.counters.wrong_acknowledgements = self.counters.wrong_acknowledgements.wrapping_add(1);
            self.error.get_or_insert(FaultCode::WrongAcknowledgement);
        }
    }

    /// The levels are read where they are needed; here only commands begin and end.
    fn control(&mut self) -> Option<Command> {
        let raised = self.value(holding::CONTROL) & COMMANDS;
        if raised == 0 {
            self.commands_armed = true;
            if self.command != CommandState::Busy {
                self.command = CommandState::Idle;
            }
            return None;
        }
        if self.command != CommandState::Idle {
            return None; // the bits must go to 0 first
        }
        self.command = CommandState::Done;
        match raised {
            _ if !self.commands_armed => self.command = CommandState::Failed(FaultCode::CommandNotArmed),
            _ if raised.count_ones() > 1 => self.command = CommandState::Failed(FaultCode::TwoCommands),
            bit => match bit.trailing_zeros() as u16 {
                coil::CLEAR_ERROR => self.clear_error(),
                coil::RESET_COUNTERS => {
                    // The part in hand will count as judged, so it counts as accepted.
                    let accepted = u32::from(self.in_hand.is_some());
                    self.counters = Counters { accepted, ..Counters::default() };
                }
                coil::CHALLENGE => self.challenge = true,
                coil::DISCARD_RESULTS => self.discard(),
                coil::LOAD_RECIPE => {
                    self.command = CommandState::Busy;
                    return Some(Command::LoadRecipe(self.value(holding::RECIPE_REQUEST)));
                }
                _ => self.command = CommandState::Failed(FaultCode::UnknownCommand),
            },
        }
        None
    }

    /// The line should stop; `code` tells why.
    pub fn request_stop(&mut self, code: FaultCode) {
        self.stop_request = true;
        self.error.get_or_insert(code);
    }

    /// A command that was [`CommandState::Busy`] has ended.
    pub fn end_command(&mut self, result: Result<(), FaultCode>) {
        if self.command != CommandState::Busy {
            return;
        }
        let raised = self.value(holding::CONTROL) & COMMANDS;
        self.command = match result {
            _ if raised == 0 => CommandState::Idle,
            // It was dropped and another raised meanwhile: what stands now was not carried out.
            _ if raised & 1 << coil::LOAD_RECIPE == 0 => CommandState::Failed(FaultCode::TwoCommands),
            Ok(()) => CommandState::Done,
            Err(code) => CommandState::Failed(code),
        };
    }

    pub(super) fn clear_error(&mut self) {
        self.error = None;
        self.overrun = false;
        self.missed = false;
        self.stop_request = false;
        self.times_cleared = self.times_cleared.wrapping_add(1);
    }

    pub(super) fn discard(&mut self) {
        self.waiting.clear();
        if self.block.is_of_a_part() {
            self.replace_block(ResultBlock::reject(self.marks.fault.unwrap_or(FaultCode::NoResultYet)));
        }
        self.open = false;
    }

    /// Puts the result of the part in hand where the PLC reads it, and counts it. In fault, and for a challenge,
    /// the gate stays closed.
    pub fn publish(&mut self, mut block: ResultBlock, journaled: bool) -> Published {
        let challenge = block.kind == PartKind::Challenge;
        block.gate = match block.verdict {
            _ if challenge || self.marks.fault.is_some() => Gate::Reject,
            Verdict::Pass => Gate::Pass,
            Verdict::Review => self.settings.review_at_gate,
            Verdict::Reject | Verdict::Fault(_) => Gate::Reject,
        };
        self.count(block.verdict, challenge, journaled);
        self.in_hand = None;
        block.state = self.state();
        let lost = match self.settings.results {
            Results::Latest => {
                let unread = self.open;
                self.replace_block(block);
                unread
            }
            Results::Acknowledged { .. } if !self.open => {
                self.replace_block(block);
                false
            }
            Results::Acknowledged { depth } if self.waiting.len() < usize::from(depth.min(MAX_DEPTH)) => {
                self.waiting.push_back(block);
                false
            }
            Results::Acknowledged { .. } => {
                block.gate = Gate::Reject; // the PLC never gets to know it
                true
            }
        };
        self.open = true;
        if lost {
            self.counters.overrun = self.counters.overrun.wrapping_add(1);
            self.overrun = true;
            self.error.get_or_insert(FaultCode::Overrun);
        }
        Published { verdict: block.verdict, gate: block.gate, overrun: lost }
    }

    fn count(&mut self, verdict: Verdict, challenge: bool, journaled: bool) {
        let c = &mut self.counters;
        let add = |counter: &mut u32, when: bool| *counter = counter.wrapping_add(u32::from(when));
        add(&mut c.challenges, challenge);
        add(&mut c.challenges_failed, challenge && verdict != Verdict::Reject);
        add(&mut c.pass, !challenge && verdict == Verdict::Pass);
        add(&mut c.review, !challenge && verdict == Verdict::Review);
        add(&mut c.reject, !challenge && verdict == Verdict::Reject);
        add(&mut c.fault, !challenge && matches!(verdict, Verdict::Fault(_)));
        add(&mut c.late, verdict == Verdict::Fault(FaultCode::Late));
        add(&mut c.not_journaled, !journaled);
        if let Verdict::Fault(code) = verdict {
            self.error.get_or_insert(code);
        }
        if !journaled {
            self.error.get_or_insert(FaultCode::JournalFull);
        }
    }

    /// A client has read the verdict. Where results are acknowledged that is not enough.
    pub fn was_read(&mut self) {
        if !self.acknowledges() {
            self.open = false;
        }
    }

    /// The station's own state. Going into fault closes the gate of every result that the PLC may still act
    /// on: it keeps its part and verdict, which were earned. A block of no part shows the fault instead.
    pub fn mark(&mut self, marks: Marks) {
        let before = std::mem::replace(&mut self.marks, marks).fault;
        let Some(code) = marks.fault else { return };
        self.waiting.iter_mut().for_each(|block| block.gate = Gate::Reject);
        if self.block.is_of_a_part() {
            let open = std::mem::replace(&mut self.block.gate, Gate::Reject) == Gate::Pass;
            self.revision += u64::from(open);
        } else if before != Some(code) {
            self.replace_block(ResultBlock::reject(code));
        }
    }

    fn replace_block(&mut self, block: ResultBlock) {
        let state = if block.is_of_a_part() { block.state } else { self.state() };
        self.block = ResultBlock { state, ..block };
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        self.revision += 1;
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
