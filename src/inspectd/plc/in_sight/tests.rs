//! What a program written for an In-Sight camera relies on, and what wrong orders come to.

use std::time::Duration;

use tokio_modbus::{ExceptionCode, Request};

use super::*;
use crate::plc::access::May;
use crate::plc::handshake::Marks;
use crate::plc::pdu::Answer;
use crate::plc::registers::Asks;
use crate::plc::settings::Settings;
use crate::plc::word_order::WordOrder;

mod model;

const FAR: Duration = Duration::from_secs(3600);
const ENABLE: u32 = 1 << control::TRIGGER_ENABLE;
const TRIGGER: u32 = 1 << control::TRIGGER;
const ACK: u32 = 1 << control::INSPECTION_RESULTS_ACK;
const EXECUTE: u32 = 1 << control::EXECUTE_COMMAND;
const OFFLINE: u32 = 1 << control::SET_OFFLINE;
const CLEAR: u32 = 1 << control::CLEAR_ERROR;

/// A station whose verdicts the test decides, and the PLC's side of it.
struct Line {
    camera: InSight,
    asks: Asks,
    part: u32,
}

impl Line {
    fn new(results: Results) -> Self {
        let (registers, asks) = Registers::new(Settings {
            by_plc: true,
            simulated: false,
            review_at_gate: Gate::Reject,
            results,
            order: WordOrder::HighFirst,
        });
        Self { camera: InSight::new(Arc::new(registers)), asks, part: 0 }
    }

    /// One that is ready and enabled.
    fn ready(results: Results) -> Self {
        let line = Self::new(results);
        line.mark(None);
        line.write(ENABLE);
        assert!(line.bit(status::TRIGGER_READY));
        line
    }

    fn write(&self, block: u32) {
        self.camera.write_control(|_| block);
    }

    fn mark(&self, fault: Option<FaultCode>) {
        self.camera.registers.mark(Marks { fault, ..Marks::default() });
    }

    fn publish(&mut self, id: u16, verdict: Verdict) {
        self.part += 1;
        let block =
            ResultBlock { trigger_id: id, verdict, part: self.part, ..ResultBlock::reject(FaultCode::Late) };
        self.camera.registers.publish(block, Instant::now() + FAR, true);
    }

    /// A trigger with its result; returns its id.
    fn part(&mut self, verdict: Verdict) -> u16 {
        self.write(ENABLE | TRIGGER);
        let id = self.asks.accepted.try_recv().unwrap().accepted.trigger_id;
        self.write(ENABLE);
        self.publish(id, verdict);
        id
    }

    fn bit(&self, bit: u16) -> bool {
        self.camera.status(false) & (1 << bit) != 0
    }

    fn word(&self, at: u16) -> u16 {
        self.camera.output(false)[usize::from(at)]
    }

    /// Reads the result as a PLC does: ResultsValid, JobPass, InspectionID, code.
    fn result(&self) -> (bool, bool, u16, u16) {
        let (status, words) = (self.camera.status(true), self.camera.output(true));
        let bit = |bit: u16| status & (1 << bit) != 0;
        let word = |at: u16| words[usize::from(at)];
        (
            bit(status::RESULTS_VALID),
            bit(status::JOB_PASS),
            word(output::INSPECTION_ID),
            word(output::RESULT_CODE),
        )
    }
}

const NOTHING: (bool, bool, u16, u16) = (false, false, 0, 4);
const DEPTH_2: Results = Results::Acknowledged { depth: 2 };

#[test]
fn an_in_sight_programs_cycle_gives_each_part_its_own_result() {
    for results in [Results::Latest, DEPTH_2] {
        let mut line = Line::ready(results);
        for n in 1..=5 {
            line.write(ENABLE | TRIGGER);
            assert!(line.bit(status::TRIGGER_ACK) && !line.bit(status::TRIGGER_READY));
            assert_eq!(line.word(output::ACQUISITION_ID), n, "stands when TriggerAck does");
            assert_eq!(line.asks.accepted.try_recv().unwrap().accepted.trigger_id, n);
            line.write(ENABLE);
            assert!(!line.bit(status::TRIGGER_ACK));
            let completed = line.bit(status::INSPECTION_COMPLETED);
            line.publish(n, if n == 3 { Verdict::Reject } else { Verdict::Pass });
            assert_eq!(line.bit(status::INSPECTION_COMPLETED), !completed, "a toggle, no level");
            assert_eq!(line.result(), (true, n != 3, n, if n == 3 { 3 } else { 1 }));
            line.write(ENABLE | ACK);
            assert_eq!(line.result(), NOTHING, "ResultsValid falls with the acknowledgement");
            line.write(ENABLE);
            assert_eq!(line.result(), NOTHING);
        }
        assert_eq!(line.word(output::ERROR_CODE), 0);
    }
}

#[test]
fn a_trigger_that_is_not_accepted_is_told_and_never_acknowledged() {
    let mut line = Line::new(DEPTH_2);
    line.mark(None);
    let missed = |line: &mut Line, code: u16, why: &str| {
        assert!(line.asks.accepted.try_recv().is_err(), "{why}");
        assert!(line.bit(status::MISSED_ACQ) && !line.bit(status::TRIGGER_ACK), "{why}");
        assert!(line.bit(status::ERROR), "{why}");
        assert_eq!(line.word(output::ERROR_CODE), code, "{why}");
        line.write(line.camera.control() & ENABLE | CLEAR);
        line.write(line.camera.control() & ENABLE);
        assert!(!line.bit(status::MISSED_ACQ) && line.word(output::ERROR_CODE) == 0, "{why}");
    };
    line.write(TRIGGER);
    missed(&mut line, 0x100, "TriggerEnable is 0");
    line.write(ENABLE | TRIGGER);
    missed(
        &mut line,
        0x100,
        "TriggerEnable and Trigger rise together: left from before a restart of the daemon",
    );
    line.write(ENABLE | OFFLINE);
    line.write(ENABLE | OFFLINE | TRIGGER);
    missed(&mut line, 0x101, "offline");
    line.write(ENABLE | TRIGGER);
    assert_eq!(line.asks.accepted.try_recv().unwrap().accepted.trigger_id, 1, "a missed trigger takes no id");
    line.write(ENABLE);
    line.write(ENABLE | TRIGGER);
    missed(&mut line, 60, "a part is in hand");
    line.publish(1, Verdict::Pass);
    line.write(TRIGGER);
    line.write(0);
    assert!(line.bit(status::MISSED_ACQ));
    line.write(ENABLE);
    assert!(!line.bit(status::MISSED_ACQ), "toggling TriggerEnable clears it");
    drop(std::mem::replace(&mut line.asks.accepted, tokio::sync::mpsc::channel(1).1));
    line.write(ENABLE | TRIGGER);
    assert!(line.bit(status::MISSED_ACQ) && !line.bit(status::TRIGGER_ACK), "the station is stopping");
}

#[test]
fn nothing_passes_that_is_not_this_parts_earned_and_unread_pass() {
    for results in [Results::Latest, DEPTH_2] {
        let mut line = Line::new(results);
        assert_eq!(line.result(), NOTHING, "after the start");
        assert!(!line.bit(status::ONLINE) && line.camera.status(false) >> 4 & 7 == 7);
        line.mark(None);
        line.write(ENABLE);
        for verdict in [
            Verdict::Fault(FaultCode::Late),
            Verdict::Fault(FaultCode::NoFrame),
            Verdict::Reject,
            Verdict::Review,
        ] {
            let id = line.part(verdict);
            let code = match verdict {
                Verdict::Fault(_) => 4,
                Verdict::Review => 2,
                _ => 3,
            };
            assert_eq!(line.result(), (true, false, id, code), "{verdict:?}");
            line.write(ENABLE | ACK);
            line.write(ENABLE | CLEAR);
            line.write(ENABLE);
        }
        let id = line.part(Verdict::Pass);
        assert_eq!(line.result(), (true, true, id, 1));
        line.mark(Some(FaultCode::CameraAway));
        assert_eq!(line.result(), (true, false, id, 3), "into fault before the PLC acted");
        assert!(!line.bit(status::ONLINE) && !line.bit(status::TRIGGER_READY));
        line.mark(None);
        assert_eq!(line.result(), (true, false, id, 3), "and out of it");
    }
}

#[test]
fn where_results_are_not_acknowledged_an_old_pass_does_not_stand_for_the_part_in_hand() {
    let mut line = Line::ready(Results::Latest);
    let id = line.part(Verdict::Pass);
    assert_eq!(line.result(), (true, true, id, 1));
    line.write(ENABLE | TRIGGER);
    assert_eq!(line.result(), (true, false, id, 3), "the program that does not compare ids is safe too");
}

#[test]
fn a_program_that_starts_anew_gets_no_result_of_triggers_before_it() {
    for results in [Results::Latest, DEPTH_2] {
        let mut line = Line::ready(results);
        line.part(Verdict::Pass);
        line.write(0);
        assert!(line.result().0, "TriggerEnable at 0 alone takes nothing away");
        line.write(ENABLE);
        assert_eq!(line.result(), NOTHING, "an unread result");
        line.write(ENABLE | TRIGGER);
        let id = line.asks.accepted.try_recv().unwrap().accepted.trigger_id;
        line.write(0);
        line.write(ENABLE);
        assert!(!line.bit(status::TRIGGER_READY), "that part is still in hand");
        line.publish(id, Verdict::Pass);
        assert_eq!(line.result(), NOTHING, "a part in hand");
        let next = line.part(Verdict::Pass);
        assert_eq!(line.result(), (true, true, next, 1), "and the first of its own comes first");
        assert!(!line.bit(status::BUFFER_OVERRUN) && line.word(output::ERROR_CODE) == 0);
    }
}

#[test]
fn after_a_lost_result_nothing_passes_until_the_error_is_cleared() {
    let mut line = Line::ready(Results::Acknowledged { depth: 0 });
    line.part(Verdict::Pass);
    assert!(line.result().1);
    line.part(Verdict::Pass);
    assert!(line.bit(status::BUFFER_OVERRUN) && line.word(output::ERROR_CODE) == 61);
    assert_eq!(line.result(), (true, false, 1, 3));
    line.write(ENABLE | CLEAR);
    assert_eq!(line.result(), (true, true, 1, 1));
}

#[test]
fn an_acknowledgement_takes_only_what_was_read() {
    let mut line = Line::ready(DEPTH_2);
    line.part(Verdict::Pass);
    line.write(ENABLE | ACK);
    assert!(!line.bit(status::RESULTS_VALID));
    line.write(ENABLE);
    assert_eq!(line.result(), (true, true, 1, 1), "nobody had read it");
    line.write(ENABLE | ACK);
    line.write(ENABLE);
    assert_eq!(line.result(), NOTHING);
    line.write(ENABLE | ACK);
    assert_eq!(line.word(output::ERROR_CODE), 0, "an acknowledgement without a result is no error");
}

#[test]
fn a_job_change_is_a_recipe_and_its_failures_are_in_sights() {
    let mut line = Line::ready(DEPTH_2);
    line.camera.write_command(7);
    line.write(ENABLE | EXECUTE);
    assert!(
        line.bit(status::CMD_EXECUTING) && line.bit(status::SYSTEM_BUSY) && line.bit(status::TRIGGER_READY)
    );
    assert_eq!(line.asks.commands.try_recv().unwrap(), Command::LoadRecipe(7));
    line.camera.registers.mark(Marks { recipe: 7, ..Marks::default() });
    line.camera.registers.end_command(Ok(()));
    assert!(line.bit(status::CMD_COMPLETED) && !line.bit(status::CMD_EXECUTING));
    assert_eq!(line.word(output::CURRENT_JOB_ID), 7);
    line.write(ENABLE);
    assert!(!line.bit(status::CMD_COMPLETED));
    line.write(ENABLE | EXECUTE);
    line.asks.commands.try_recv().unwrap();
    line.write(ENABLE);
    line.write(ENABLE | EXECUTE);
    assert!(line.bit(status::CMD_FAILED) && line.word(output::ERROR_CODE) == 0x400, "one is under way");
    line.camera.registers.end_command(Ok(()));
    assert!(
        line.bit(status::CMD_FAILED) && !line.bit(status::CMD_COMPLETED),
        "it was the first that ended well"
    );
    line.write(ENABLE);
    line.write(ENABLE | EXECUTE);
    line.camera.registers.end_command(Err(FaultCode::NoSuchRecipe));
    assert!(line.bit(status::CMD_FAILED) && line.bit(status::ERROR));
    assert_eq!(line.word(output::ERROR_CODE), 0x402);
    line.write(ENABLE | EXECUTE | CLEAR);
    assert_eq!(
        line.word(output::ERROR_CODE),
        0,
        "a program may wait for that with ExecuteCommand still raised"
    );
    let line = Line::new(DEPTH_2);
    line.write(EXECUTE);
    assert!(line.bit(status::CMD_FAILED), "it stood already when the daemon started");
    assert_eq!(line.word(output::ERROR_CODE), 72);
}

fn words(line: &Line, request: Request<'_>) -> Result<Vec<u16>, ExceptionCode> {
    match line.camera.answer(&request, May::Write)?.0 {
        Answer::Words(words) => Ok(words),
        other => panic!("{other:?}"),
    }
}

#[test]
fn blocks_stand_where_the_manual_says_and_nothing_else_does() {
    let mut line = Line::ready(DEPTH_2);
    let ask = |line: &Line, request| line.camera.answer(&request, May::Write).map(|(response, _)| response);
    let held = |line: &Line, at, count| words(line, Request::ReadHoldingRegisters(at, count));
    line.camera.answer(&Request::WriteMultipleRegisters(2000, vec![7, 1, 2].into()), May::Write).unwrap();
    assert_eq!(held(&line, 2000, 3), Ok(vec![7, 0, 0]), "user data is forgotten");
    line.camera.answer(&Request::WriteSingleCoil(1, true), May::Write).unwrap();
    assert_eq!(held(&line, 0, 2), Ok(vec![3, 0]), "coils 0 and 1");
    assert_eq!(line.asks.accepted.try_recv().unwrap().accepted.trigger_id, 1);
    line.camera.answer(&Request::WriteMultipleRegisters(0, vec![1, 0x0100].into()), May::Write).unwrap();
    assert_eq!(ask(&line, Request::ReadCoils(24, 1)), Ok(Answer::Bits(vec![true])), "SoftEvent0");
    line.publish(1, Verdict::Pass);
    let both = held(&line, 100, 2).unwrap();
    assert_eq!(both, [0b0000_1010_1000_0001, 0b1_0000], "ready, online, completed, valid; JobPass");
    let Ok(Answer::Bits(bits)) = ask(&line, Request::ReadDiscreteInputs(0, 32)) else { panic!() };
    let block = u32::from(both[0]) | u32::from(both[1]) << 16;
    assert!(bits.iter().enumerate().all(|(n, bit)| *bit == (block >> n & 1 != 0)));
    let output = held(&line, 7000, 125).unwrap();
    assert_eq!(output[..5], [0, 0, 1, 1, 1]);
    assert_eq!(words(&line, Request::ReadInputRegisters(2000, 125)), Ok(output));
    assert_eq!(held(&line, 9004, 1), Ok(vec![0]));
    line.camera.answer(&Request::MaskWriteRegister(1, 0xFFFD, 0x0002), May::Write).unwrap();
    assert_eq!(held(&line, 1, 1), Ok(vec![0x0102]), "InitiateStringCmd");
    assert!(line.bit(status::STRING_CMD_ACK) && line.bit(status::STRING_CMD_ERROR));
    assert_eq!((held(&line, 6000, 1), held(&line, 1000, 1)), (Ok(vec![2]), Ok(vec![0])));
    let refused = Err(ExceptionCode::IllegalDataAddress);
    for (at, count) in
        [(2, 1), (99, 2), (101, 2), (999, 2), (1999, 2), (4000, 2), (6999, 2), (9005, 1), (u16::MAX, 1)]
    {
        assert_eq!(held(&line, at, count), refused, "{at}");
    }
    for (at, values) in [(2, vec![0]), (1, vec![0, 0]), (100, vec![0]), (6000, vec![0]), (7000, vec![0])] {
        assert_eq!(
            ask(&line, Request::WriteMultipleRegisters(at, values.into())),
            refused.clone().map(|_: Vec<u16>| unreachable!()),
            "{at}"
        );
    }
    assert_eq!(held(&line, 0, 0), Err(ExceptionCode::IllegalDataValue));
    assert_eq!(
        ask(&line, Request::WriteMultipleCoils(31, vec![true, true].into())),
        Err(ExceptionCode::IllegalDataAddress)
    );
    assert_eq!(ask(&line, Request::ReportServerId), Err(ExceptionCode::IllegalFunction));
}
