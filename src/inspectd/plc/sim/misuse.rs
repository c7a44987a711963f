//! What a PLC should not do, and what the station must make of it.
//!
//! Never here: a misuse that the station may answer in more than one way, without a word on which.

use std::fmt;

use inspect_core::verdict::FaultCode;

use super::client::{Plc, RESULT};
use super::{Outcome, Play, SimError, expect};
use crate::plc::map::{coil, discrete, holding, input, state_bit};
use crate::plc::reading::Reading;
use crate::plc::settings::MAX_DEPTH;

/// What went wrong between two reads, as the station tells it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Trouble {
    missed: u32,
    overruns: u32,
    wrong_acknowledgements: u32,
    /// `error_code`; its first one stands.
    error: u16,
}

impl Trouble {
    fn of(missed: u32, overruns: u32, wrong_acknowledgements: u32, error: Option<FaultCode>) -> Self {
        Self { missed, overruns, wrong_acknowledgements, error: error.map_or(0, FaultCode::code) }
    }

    /// Whether it is `expected`, with what the station tells. A part may have a fault of its own, which then may
    /// stand first.
    fn is(expected: Self, before: &Reading, after: &Reading) -> (bool, String) {
        let moved = |counter| after.counted_since(before, counter);
        let told = Self {
            missed: moved(input::MISSED),
            overruns: moved(input::OVERRUNS),
            wrong_acknowledgements: moved(input::WRONG_ACKNOWLEDGEMENTS),
            error: after.at(input::ERROR_CODE),
        };
        let own_fault = moved(input::FAULTED) > 0 && told.error != 0;
        let good = told == expected || own_fault && Self { error: expected.error, ..told } == expected;
        (good, told.to_string())
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { missed, overruns, wrong_acknowledgements, error } = self;
        write!(
            f,
            "missed +{missed}, overruns +{overruns}, wrong_acknowledgements +{wrong_acknowledgements}, error_code {error}"
        )
    }
}

impl Plc {
    /// With no error standing.
    async fn cleared(&mut self) -> Result<Reading, SimError> {
        self.command(coil::CLEAR_ERROR).await?.ok(); // where it fails, the error stands and is seen
        self.read().await
    }

    pub(super) async fn clear(&mut self) -> Result<Outcome, SimError> {
        let cleared = self.command(coil::CLEAR_ERROR).await?;
        let code = self.read().await?.at(input::ERROR_CODE);
        Ok(cleared.and_then(|told| expect(code == 0, format!("{told}, error_code {code}"), "error_code 0")))
    }

    /// `other`: who writes the second trigger, if not this PLC.
    pub(super) async fn trigger_while_busy(&mut self, other: Option<&mut Self>) -> Result<Outcome, SimError> {
        let before = self.cleared().await?;
        let first = self.trigger().await?;
        let second = self.next_id();
        match other {
            Some(other) => other.write(holding::TRIGGER_ID, second).await?,
            None => self.write(holding::TRIGGER_ID, second).await?,
        }
        if self.read().await?.counted_since(&before, input::MISSED) == 0 {
            // It was faster than the second write: then that was a part of its own.
            let got = self.result(second).await?.is_some();
            let told = "the station was never busy long enough: both ids were accepted".into();
            return Ok(expect(got, told, "the result of the second"));
        }
        let got = self.result(first).await?.is_some();
        let expected = Trouble::of(1, 0, 0, Some(FaultCode::MissedTrigger));
        let (good, told) = Trouble::is(expected, &before, &self.read().await?);
        Ok(expect(got && good, told, &format!("{expected}, and the result of the first")))
    }

    pub(super) async fn same_id_again(&mut self) -> Result<Outcome, SimError> {
        let before = self.cleared().await?;
        self.write(holding::TRIGGER_ID, self.id).await?;
        let after = self.read().await?;
        let accepted = after.counted_since(&before, input::ACCEPTED);
        let (good, told) = Trouble::is(Trouble::default(), &before, &after);
        Ok(expect(good && accepted == 0, format!("accepted +{accepted}, {told}"), "no part, and no error"))
    }

    /// What an acknowledgement of a result that is not there makes the station tell.
    fn wrong(&self) -> Trouble {
        let error = self.acknowledges.then_some(FaultCode::WrongAcknowledgement);
        Trouble::of(0, 0, u32::from(self.acknowledges), error)
    }

    pub(super) async fn acknowledge_wrongly(&mut self) -> Result<Outcome, SimError> {
        let id = self.trigger().await?;
        self.until(RESULT, |w| w.at(input::RESULT_TRIGGER_ID) == id).await?;
        let before = self.cleared().await?;
        let other = before.at(input::RESULT_SEQUENCE).wrapping_add(7).max(1);
        self.write(holding::RESULT_ACKNOWLEDGED, other).await?;
        let after = self.read().await?;
        let (good, told) = Trouble::is(self.wrong(), &before, &after);
        let stands = after.at(input::RESULT_TRIGGER_ID);
        self.result(id).await?;
        let told = format!("the block holds id {stands}, {told}");
        Ok(expect(good && stands == id, told, &format!("id {id}, {}", self.wrong())))
    }

    pub(super) async fn acknowledge_nothing(&mut self) -> Result<Outcome, SimError> {
        let discarded = self.command(coil::DISCARD_RESULTS).await?;
        let before = self.cleared().await?;
        self.write(holding::RESULT_ACKNOWLEDGED, before.at(input::RESULT_SEQUENCE)).await?;
        let after = self.read().await?;
        let (good, told) = Trouble::is(self.wrong(), &before, &after);
        let (valid, gate) = (after.handshake(discrete::RESULT_VALID), after.at(input::GATE));
        let told = format!("result_valid {}, gate {gate}, {told}", u8::from(valid));
        let good = good && discarded.is_ok() && !valid && gate == 2;
        Ok(expect(good, told, &format!("result_valid 0, gate 2, {}", self.wrong())))
    }

    pub(super) async fn offline_in_the_middle(&mut self) -> Result<Outcome, SimError> {
        let id = self.trigger().await?;
        self.coil(coil::OFFLINE, true).await?;
        let got = self.result(id).await?.is_some();
        let before = self.cleared().await?;
        self.trigger().await?;
        let after = self.read().await?;
        self.coil(coil::OFFLINE, false).await?;
        let expected = Trouble::of(1, 0, 0, Some(FaultCode::MissedTrigger));
        let (good, told) = Trouble::is(expected, &before, &after);
        let code = after.at(input::FAULT_CODE);
        let offline = after.handshake(discrete::OFFLINE) && code == FaultCode::Offline.code();
        let told = format!("result {}, fault_code {code}, {told}", if got { "there" } else { "missing" });
        Ok(expect(got && offline && good, told, &format!("the result, fault_code 5, {expected}")))
    }

    /// Parts one after the other whose results nobody reads, or acknowledges, until one is lost.
    pub(super) async fn overrun(&mut self) -> Result<Outcome, SimError> {
        let before = self.cleared().await?;
        let first = self.id.checked_add(1).unwrap_or(1);
        let most = if self.acknowledges { MAX_DEPTH + 2 } else { 2 };
        for _ in 0..most {
            let id = self.trigger().await?;
            let end = std::time::Instant::now() + RESULT;
            let mut head = self.read_head().await?;
            while head.state(state_bit::BUSY) && std::time::Instant::now() < end {
                head = self.read_head().await?;
            }
            Self::can_come(&head, id)?;
            if head.state(state_bit::OVERRUN) {
                break;
            }
        }
        let after = self.read().await?;
        let expected = Trouble::of(0, 1, 0, Some(FaultCode::Overrun));
        let (good, told) = Trouble::is(expected, &before, &after);
        let stands = after.at(input::RESULT_TRIGGER_ID);
        let kept = if self.acknowledges { first } else { self.id };
        let discarded = self.command(coil::DISCARD_RESULTS).await?;
        let left = self.read().await?.handshake(discrete::RESULT_VALID);
        let told = format!("the block holds id {stands}, {told}");
        let expected =
            format!("id {kept}, {expected} (unless another client reads results), all gone when discarded");
        Ok(expect(good && stands == kept && discarded.is_ok() && !left, told, &expected))
    }

    pub(super) async fn two_commands(&mut self) -> Result<Outcome, SimError> {
        self.drop_commands().await?;
        let levels = self.holding(holding::CONTROL).await?;
        let two = 1 << coil::CLEAR_ERROR | 1 << coil::RESET_COUNTERS;
        self.write(holding::CONTROL, levels | two).await?;
        let read = self.read().await?;
        self.drop_commands().await?;
        let code = read.at(input::COMMAND_FAULT_CODE);
        Ok(expect(code == FaultCode::TwoCommands.code(), format!("command_fault_code {code}"), "70"))
    }

    /// Cuts its own connection with a part in hand, comes back as a PLC without memory.
    pub(super) async fn restart(&mut self, plan: Play) -> Result<Outcome, SimError> {
        let id = self.trigger().await?;
        self.reconnect(plan.address, plan.unit).await?;
        self.write(holding::TRIGGER_ID, 0).await?;
        let got = self.result(id).await?.is_some();
        let discarded = self.command(coil::DISCARD_RESULTS).await?;
        let next = self.trigger().await?;
        let result = self.result(next).await?.is_some();
        let told = format!(
            "result of the part in hand {got}, discard_results {}, next part {result}",
            discarded.is_ok()
        );
        Ok(expect(got && discarded.is_ok() && result, told, "all three"))
    }

    /// Another reads the same result and acknowledges it before this one; then it triggers.
    pub(super) async fn second_master(&mut self, other: &mut Self) -> Result<Outcome, SimError> {
        let id = self.trigger().await?;
        let is_there = |w: &Reading| w.at(input::RESULT_TRIGGER_ID) == id;
        self.until(RESULT, is_there).await?;
        let one = self.cleared().await?;
        let two = other.until(RESULT, is_there).await?;
        let block = |w: &Reading| w.words(input::RESULT_SEQUENCE, input::RESULT_KIND + 1);
        let same = block(&one) == block(&two);
        let sequence = two.at(input::RESULT_SEQUENCE);
        other.write(holding::RESULT_ACKNOWLEDGED, sequence).await?;
        let taken = !self.read().await?.handshake(discrete::RESULT_VALID);
        self.write(holding::RESULT_ACKNOWLEDGED, sequence).await?; // too late, and no error
        let (good, told) = Trouble::is(Trouble::default(), &one, &self.read().await?);
        let next = self.next_id();
        other.write(holding::TRIGGER_ID, next).await?;
        let got = self.result(next).await?.is_some();
        let told = format!(
            "the same words {same}, taken by the second's acknowledgement {taken}, {told}, result of its trigger {got}"
        );
        let expected = format!(
            "the same words, taken only where results are acknowledged ({}), no error, and the result",
            self.acknowledges
        );
        Ok(expect(same && taken == self.acknowledges && good && got, told, &expected))
    }
}
