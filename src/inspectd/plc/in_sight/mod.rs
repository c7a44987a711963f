//! A station with the bits of a Cognex In-Sight camera's Modbus map that both have, so that a PLC program written
//! for such a camera can be pointed at `inspectd`.
//!
//! It translates between In-Sight's bits and the station's one handshake ([`super::handshake`]), which goes on to
//! decide everything: a rise of Trigger is a trigger with the next id, InspectionResultsAck the acknowledgement of
//! the result that stands, ExecuteCommand the command `load_recipe`. What it remembers by itself is what the PLC
//! wrote and what came of the last rise of each bit.
//!
//! Terms. *Control* and *status* are In-Sight's two blocks of 32 bits. A *session* begins with each rise of
//! TriggerEnable: results of triggers before it are not this program's. Many In-Sight programs take results in
//! order without comparing ids, so that one result too many would shift every verdict to the next part.
//!
//! Never here: a verdict, a rule of the handshake, JobPass where the native map says push out.

pub mod page;
pub mod table;
mod wire;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use inspect_core::verdict::{FaultCode, Verdict};

use self::table::{SHOWN, control, output, status};
use super::handshake::{Asked, Command, CommandState, Handshake};
use super::map::{coil, holding, state_bit};
use super::registers::Registers;
use super::result::{Accepted, ResultBlock};
use super::settings::Results;
use crate::record::Gate;

/// OfflineReason where the PLC has taken the station offline.
const BY_SET_OFFLINE: u32 = 3;
/// OfflineReason where the station is in fault.
const BY_FAULT: u32 = 7;

/// A station as an In-Sight camera.
pub struct InSight {
    registers: Arc<Registers>,
    control: Mutex<Control>,
}

/// What the PLC wrote, and what came of it.
#[derive(Debug, Default)]
struct Control {
    /// Bit n is control bit n.
    bits: u32,
    /// This rise of Trigger was accepted.
    acquired: bool,
    /// A trigger was not accepted.
    missed: bool,
    /// In-Sight's code of the miss that the handshake latched as its error; 0: it has none.
    missed_code: u16,
    /// ExecuteCommand rose while a command was under way.
    already_executing: bool,
    /// ClearError came after the command had failed.
    command_error_cleared: bool,
    /// Sequence of the result that a client has read last.
    read: u16,
    /// Sequence of the result that was acknowledged last.
    acknowledged: u16,
    /// The part of the session before whose result is still to come.
    orphan: Option<u16>,
    /// The contradiction between BufferResultsEnable and the station's setting is in the log.
    contradiction_told: bool,
}

impl InSight {
    /// Shows this station, which must take its triggers from the PLC.
    pub fn new(registers: Arc<Registers>) -> Self {
        Self { registers, control: Mutex::default() }
    }

    /// The station's own registers.
    pub fn registers(&self) -> &Arc<Registers> {
        &self.registers
    }

    /// Always taken before the registers' own lock, which never asks for this one.
    fn lock(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The control block as it was written.
    fn control(&self) -> u32 {
        self.lock().bits
    }

    /// The PLC changed the control block, in one step.
    fn write_control(&self, change: impl FnOnce(u32) -> u32) {
        let mut control = self.lock();
        let before = control.bits;
        control.bits = change(before);
        let asked = self.registers.change(|h| control.apply(before, h));
        if control.rises(before, control::TRIGGER) {
            control.acquired = asked.accepted.is_some();
            control.missed = !control.acquired;
        }
    }

    fn write_command(&self, number: u16) {
        self.registers
            .change(|h| h.write(holding::RECIPE_REQUEST, &[number], Instant::now()).unwrap_or_default());
    }

    fn command(&self) -> u16 {
        self.registers.look(|h, _| h.written[usize::from(holding::RECIPE_REQUEST)])
    }

    /// The status block; `reads` where the client gets to see whether there is a result.
    fn status(&self, reads: bool) -> u32 {
        let mut control = self.lock();
        self.registers.look(|h, published| {
            control.settle(h);
            let status = control.status(h, published);
            if reads {
                control.was_read(h);
            }
            status
        })
    }

    /// The words of the output block that hold something; `reads` as for [`Self::status`].
    fn output(&self, reads: bool) -> [u16; SHOWN] {
        let mut control = self.lock();
        self.registers.look(|h, _| {
            control.settle(h);
            let words = control.output(h);
            if reads {
                control.was_read(h);
            }
            words
        })
    }
}

impl Control {
    fn level(&self, bit: u16) -> bool {
        self.bits & (1 << bit) != 0
    }

    fn rises(&self, before: u32, bit: u16) -> bool {
        self.bits & !before & (1 << bit) != 0
    }

    fn changes(&self, before: u32, bit: u16) -> bool {
        (self.bits ^ before) & (1 << bit) != 0
    }

    /// Carries out what the PLC wrote: acknowledgement, commands, and the trigger last, so that one request can
    /// hold a whole cycle.
    fn apply(&mut self, before: u32, h: &mut Handshake) -> Asked {
        self.settle(h);
        if self.rises(before, control::INSPECTION_RESULTS_ACK)
            && self.read == h.sequence
            && self.has_result(h)
        {
            self.done_with_block(h);
        }
        if self.rises(before, control::CLEAR_ERROR) {
            h.clear_error();
            self.missed = false;
            self.missed_code = 0;
            self.command_error_cleared |= self.command_failure(h).is_some();
        }
        let mut asked = Asked { command: self.levels(before, h), accepted: None };
        if self.changes(before, control::TRIGGER_ENABLE) {
            self.missed = false;
            self.acquired = false;
        }
        if self.rises(before, control::TRIGGER_ENABLE) {
            h.discard();
            self.orphan = h.in_hand.map(|part| part.trigger_id);
        }
        if self.level(control::TRIGGER_ENABLE) && !self.level(control::TRIGGER) && !h.armed {
            h.write(holding::TRIGGER_ID, &[0], Instant::now());
        }
        if self.rises(before, control::TRIGGER) {
            asked.accepted = self.trigger(before & self.bits & (1 << control::TRIGGER_ENABLE) != 0, h);
        }
        asked
    }

    /// SetOffline and ExecuteCommand are the coils `offline` and `load_recipe`. Only a change is passed on: the
    /// native map may be in other hands. The word is written each time, which lets the handshake see its
    /// command bits at 0.
    fn levels(&mut self, before: u32, h: &mut Handshake) -> Option<Command> {
        if self.changes(before, control::EXECUTE_COMMAND) {
            self.already_executing = self.level(control::EXECUTE_COMMAND) && h.command != CommandState::Idle;
            self.command_error_cleared = false;
        }
        let mut word = h.written[usize::from(holding::CONTROL)];
        let pairs = [(control::SET_OFFLINE, coil::OFFLINE), (control::EXECUTE_COMMAND, coil::LOAD_RECIPE)];
        for (bit, native) in pairs {
            if self.changes(before, bit) {
                word = word & !(1 << native) | u16::from(self.level(bit)) << native;
            }
        }
        h.write(holding::CONTROL, &[word], Instant::now())?.command
    }

    /// A rise of Trigger. In fault it is accepted, as it is on the native map, and its result is a fault.
    fn trigger(&mut self, enabled: bool, h: &mut Handshake) -> Option<Accepted> {
        let code = if !enabled {
            table::TRIGGER_WHILE_DISABLED
        } else if h.is_offline() {
            table::TRIGGER_WHILE_OFFLINE
        } else if h.in_hand.is_some() || !h.armed {
            0
        } else {
            self.tell_contradiction(h);
            // The id that stands was accepted, or missed when the native map wrote it; 0: only armed.
            let last = match h.written[usize::from(holding::TRIGGER_ID)] {
                0 => h.accepted_id,
                id => id,
            };
            return h
                .write(holding::TRIGGER_ID, &[last.checked_add(1).unwrap_or(1)], Instant::now())?
                .accepted;
        };
        if h.error.is_none() {
            self.missed_code = code;
        }
        h.miss();
        None
    }

    fn tell_contradiction(&mut self, h: &Handshake) {
        let (asked, set) =
            (self.level(control::BUFFER_RESULTS_ENABLE), h.settings.results != Results::Latest);
        if asked != set && !self.contradiction_told {
            self.contradiction_told = true;
            tracing::warn!(
                buffer_results_enable = asked,
                results_are_acknowledged = set,
                "the PLC's BufferResultsEnable contradicts the station's setting `results`, which decides"
            );
        }
    }

    /// Lets go of the result of an earlier session's part, once it is there. Nothing stands before it: the
    /// session's begin discarded all there was.
    fn settle(&mut self, h: &mut Handshake) {
        let Some(id) = self.orphan else { return };
        if h.in_hand.is_none_or(|part| part.trigger_id != id) {
            self.orphan = None;
            if h.is_valid() && h.block.trigger_id == id {
                self.done_with_block(h);
            }
        }
    }

    /// The handshake takes the first where results are not acknowledged, the second where they are.
    fn done_with_block(&mut self, h: &mut Handshake) {
        self.acknowledged = h.sequence;
        h.was_read();
        h.write(holding::RESULT_ACKNOWLEDGED, &[h.sequence], Instant::now());
    }

    fn was_read(&mut self, h: &mut Handshake) {
        if self.results_valid(h) {
            self.read = h.sequence;
            h.was_read();
        }
    }

    /// The block holds a result that is not acknowledged.
    fn has_result(&self, h: &Handshake) -> bool {
        h.is_valid() && h.sequence != self.acknowledged
    }

    fn results_valid(&self, h: &Handshake) -> bool {
        self.has_result(h) && !self.level(control::INSPECTION_RESULTS_ACK)
    }

    /// Where results are not acknowledged, one that stands while a later part is in hand is an earlier part's.
    fn job_pass(&self, h: &Handshake) -> bool {
        let is_this_parts = h.settings.results != Results::Latest || h.block.trigger_id == h.accepted_id;
        self.results_valid(h) && h.block.gate == Gate::Pass && is_this_parts && !h.overrun
    }

    /// Why the command whose bit stands failed.
    fn command_failure(&self, h: &Handshake) -> Option<u16> {
        match h.command {
            _ if !self.level(control::EXECUTE_COMMAND) => None,
            _ if self.already_executing => Some(table::ALREADY_EXECUTING),
            CommandState::Failed(FaultCode::NoSuchRecipe) => Some(table::NO_SUCH_JOB),
            CommandState::Failed(code) => Some(code.code()),
            _ => None,
        }
    }

    fn error_code(&self, h: &Handshake) -> u16 {
        match h.error {
            Some(FaultCode::MissedTrigger) if self.missed_code != 0 => self.missed_code,
            Some(code) => code.code(),
            None if self.command_error_cleared => 0,
            None => self.command_failure(h).unwrap_or(0),
        }
    }

    /// Bit n is status bit n.
    fn status(&self, h: &Handshake, published: u32) -> u32 {
        let offline = h.is_offline() && h.in_hand.is_none();
        let failed = self.command_failure(h).is_some();
        let string = self.level(control::INITIATE_STRING_CMD);
        let ready = self.level(control::TRIGGER_ENABLE) && h.state() & state_bit::READY != 0;
        let bits = [
            (status::TRIGGER_READY, ready),
            (status::TRIGGER_ACK, self.acquired && self.level(control::TRIGGER)),
            (status::MISSED_ACQ, self.missed),
            (status::ONLINE, !offline && h.marks.fault.is_none()),
            (status::SYSTEM_BUSY, h.in_hand.is_some() || h.command == CommandState::Busy),
            (status::INSPECTION_COMPLETED, published & 1 != 0),
            (status::BUFFER_OVERRUN, h.overrun),
            (status::RESULTS_VALID, self.results_valid(h)),
            (status::CMD_EXECUTING, h.command == CommandState::Busy),
            (
                status::CMD_COMPLETED,
                self.level(control::EXECUTE_COMMAND) && !failed && h.command == CommandState::Done,
            ),
            (status::CMD_FAILED, failed),
            (status::ERROR, self.error_code(h) != 0),
            (status::STRING_CMD_ACK, string),
            (status::STRING_CMD_ERROR, string),
            (status::JOB_PASS, self.job_pass(h)),
        ];
        let reason = match h.marks.fault {
            _ if offline => BY_SET_OFFLINE,
            Some(_) => BY_FAULT,
            None => 0,
        };
        let set = bits.iter().filter(|(_, set)| *set);
        set.fold(reason << status::OFFLINE_REASON, |word, (bit, _)| word | 1 << bit)
    }

    fn output(&self, h: &Handshake) -> [u16; SHOWN] {
        let none = ResultBlock::reject(FaultCode::NoResultYet);
        let block = if self.results_valid(h) { &h.block } else { &none };
        let code = match block.verdict {
            Verdict::Pass if self.job_pass(h) => 1,
            Verdict::Review => 2,
            Verdict::Pass | Verdict::Reject => 3,
            Verdict::Fault(_) => 4,
        };
        let [score, score_2] = h.settings.order.words(block.score.to_bits());
        let [part, part_2] = h.settings.order.words(block.part);
        let places = [
            (output::CURRENT_JOB_ID, h.marks.recipe),
            (output::ERROR_CODE, self.error_code(h)),
            (output::ACQUISITION_ID, h.accepted_id),
            (output::INSPECTION_ID, block.trigger_id),
            (output::RESULT_CODE, code),
            (output::RESULT_FAULT_CODE, block.verdict.fault_code()),
            (output::SCORE, score),
            (output::SCORE + 1, score_2),
            (output::PART, part),
            (output::PART + 1, part_2),
            (output::RECIPE, block.recipe),
        ];
        let mut words = [0; SHOWN];
        for (at, value) in places {
            words[usize::from(at)] = value;
        }
        words
    }
}

#[cfg(test)]
mod tests;
