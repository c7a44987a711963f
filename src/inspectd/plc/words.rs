//! The handshake's state as the words and bits of the register map.
//!
//! Made anew for each request, so that nothing can be out of date.
//!
//! Never here: a change of state.

use inspect_core::verdict::{FaultCode, Verdict};

use super::handshake::{CommandState, Handshake};
use super::map::{self, STRING_WORDS, coil, discrete, input, state_bit};
use super::result::PartKind;
use crate::record::Gate;

/// The two counters that prove life.
#[derive(Debug, Clone, Copy, Default)]
pub struct Life {
    /// The output loop's.
    pub alive: u16,
    /// The whole chain's.
    pub chain: u16,
}

/// All input registers.
pub fn input_registers(h: &Handshake, life: Life) -> [u16; input::SIZE as usize] {
    let mut words = [0; input::SIZE as usize];
    let code = |fault: Option<FaultCode>| fault.map_or(0, FaultCode::code);
    let block = &h.block;
    let single = [
        (input::MAP_VERSION, map::VERSION),
        (input::ALIVE, life.alive),
        (input::CHAIN, life.chain),
        (input::STATE, h.state()),
        (input::FAULT_CODE, code(h.not_ready())),
        (input::ACCEPTED_TRIGGER_ID, h.accepted_id),
        (
            input::HANDSHAKE,
            discrete_inputs(h) >> discrete::RESULT_VALID
                | u16::from(h.challenge) << 8
                | u16::from(h.marks.challenge_due) << 9,
        ),
        (input::COMMAND_FAULT_CODE, command_fault(h)),
        (input::ERROR_CODE, code(h.error)),
        (input::RESULTS_WAITING, h.waiting.len() as u16),
        (input::RECIPE_ACTIVE, h.marks.recipe),
        (input::RESULT_SEQUENCE, h.sequence),
        (input::RESULT_TRIGGER_ID, block.trigger_id),
        (input::VERDICT, block.verdict.code()),
        (input::GATE, if block.gate == Gate::Pass { 1 } else { 2 }),
        (input::RESULT_FAULT_CODE, block.verdict.fault_code()),
        (input::RESULT_STATE, block.state),
        (input::RECIPE, block.recipe),
        (input::VIEWS, block.views),
        (input::RESULT_SEQUENCE_END, h.sequence),
        (input::RESULT_PRODUCT, block.identity.product),
        (input::RESULT_KIND, if block.kind == PartKind::Challenge { 2 } else { 1 }),
    ];
    for (at, value) in single {
        words[usize::from(at)] = value;
    }
    let c = &h.counters;
    let double = [
        (input::PART, block.part),
        (input::SCORE, block.score.to_bits()),
        (input::REVIEW_LIMIT, block.review_limit.to_bits()),
        (input::TOTAL_US, block.total_us),
        (input::MODEL, block.model),
        (input::RESULT_ENCODER, block.identity.encoder.unwrap_or(0)),
        (input::ACCEPTED, c.accepted),
        (input::PASSED, c.pass),
        (input::REVIEWED, c.review),
        (input::REJECTED, c.reject),
        (input::FAULTED, c.fault),
        (input::LATE, c.late),
        (input::MISSED, c.missed),
        (input::OVERRUNS, c.overrun),
        (input::NOT_JOURNALED, c.not_journaled),
        (input::WRONG_ACKNOWLEDGEMENTS, c.wrong_acknowledgements),
        (input::CHALLENGES, c.challenges),
        (input::CHALLENGES_FAILED, c.challenges_failed),
    ];
    for (at, value) in double {
        words[usize::from(at)..usize::from(at) + 2].copy_from_slice(&h.settings.order.words(value));
    }
    let serial = block.identity.serial.chunks_exact(2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let places = &mut words[usize::from(input::RESULT_SERIAL)..][..usize::from(STRING_WORDS)];
    places.iter_mut().zip(serial).for_each(|(word, pair)| *word = pair);
    words
}

fn command_fault(h: &Handshake) -> u16 {
    match h.command {
        CommandState::Failed(code) => code.code(),
        _ => 0,
    }
}

/// All discrete inputs, bit n for address n.
pub fn discrete_inputs(h: &Handshake) -> u16 {
    let pass = h.block.gate == Gate::Pass;
    let state = h.state();
    let bits = [
        (discrete::REJECT, !pass),
        (discrete::PASS, pass),
        (discrete::READY, state & state_bit::READY != 0),
        (discrete::BUSY, state & state_bit::BUSY != 0),
        (discrete::FAULT, state & state_bit::FAULT != 0),
        (discrete::OVERRUN, h.overrun),
        (discrete::REVIEW, h.block.verdict == Verdict::Review),
        (discrete::SIMULATED, h.settings.simulated),
        (discrete::RESULT_VALID, h.is_valid()),
        (discrete::COMMAND_BUSY, h.command == CommandState::Busy),
        (discrete::COMMAND_DONE, h.command == CommandState::Done),
        (discrete::COMMAND_FAILED, matches!(h.command, CommandState::Failed(_))),
        (discrete::OFFLINE, h.is_offline() && h.in_hand.is_none()),
        (discrete::ERROR, h.error.is_some()),
        (discrete::STOP_REQUEST, h.stop_request),
        (discrete::BYPASS, h.level(coil::BYPASS)),
    ];
    bits.iter().filter(|(_, set)| *set).fold(0, |word, (bit, _)| word | 1 << bit)
}
