//! What a PLC relies on, whatever order station and PLC do things in.

use super::super::map::state_bit;
use super::super::settings::Results;
use super::super::word_order::WordOrder;
use super::*;

const SETTINGS: Settings = Settings {
    by_plc: true,
    simulated: false,
    review_at_gate: Gate::Reject,
    results: Results::Latest,
    order: WordOrder::HighFirst,
};

fn write_trigger_id(registers: &Registers, id: u16) {
    registers.write_registers(holding::TRIGGER_ID, &[id]).unwrap();
}

fn block(id: u16, gate: Gate) -> ResultBlock {
    ResultBlock {
        trigger_id: id,
        part: id.into(),
        verdict: Verdict::Pass,
        gate,
        ..ResultBlock::reject(FaultCode::Late)
    }
}

fn publish(registers: &Registers, block: ResultBlock) -> Published {
    registers.publish(block, Instant::now() + FAR, true)
}

fn plc() -> (Registers, mpsc::Receiver<Taken>) {
    let (registers, asks) = Registers::new(SETTINGS);
    registers.mark(Marks::default());
    (registers, asks.accepted)
}

fn word(registers: &Registers, at: u16) -> u16 {
    registers.input_registers(at..at + 1).unwrap()[0]
}

#[test]
fn reject_stands_after_start_and_in_fault_and_after_it() {
    let (registers, _asks) = Registers::new(SETTINGS);
    let rejects = |r: &Registers| {
        assert_eq!(word(r, input::GATE), 2);
        assert_eq!(r.discrete_inputs(0..2).unwrap(), [true, false]);
    };
    rejects(&registers);
    registers.mark(Marks::default());
    rejects(&registers);
    publish(&registers, block(7, Gate::Pass));
    assert_eq!(registers.discrete_inputs(0..2).unwrap(), [false, true]);
    registers.mark(Marks { fault: Some(FaultCode::CameraAway), ..Marks::default() });
    rejects(&registers);
    assert_eq!(word(&registers, input::RESULT_TRIGGER_ID), 7, "it is still part 7's result");
    assert_eq!(word(&registers, input::VERDICT), 1, "and its verdict was earned");
    registers.mark(Marks::default());
    rejects(&registers);
    assert_eq!(registers.counters().overrun, 0);
}

#[test]
fn a_trigger_needs_a_zero_first_and_a_change_and_no_part_in_hand() {
    let (registers, mut accepted) = plc();
    write_trigger_id(&registers, 5);
    assert!(accepted.try_recv().is_err(), "the id that stood there before the start is no trigger");
    write_trigger_id(&registers, 0);
    write_trigger_id(&registers, 6);
    assert_eq!(accepted.try_recv().unwrap().accepted.trigger_id, 6);
    write_trigger_id(&registers, 6);
    write_trigger_id(&registers, 7);
    assert!(accepted.try_recv().is_err(), "busy");
    assert_eq!((registers.counters().accepted, registers.counters().missed), (1, 2));
    publish(&registers, block(6, Gate::Pass));
    write_trigger_id(&registers, 8);
    assert_eq!(accepted.try_recv().unwrap().accepted.trigger_id, 8);
}

#[test]
fn an_unread_result_that_is_overwritten_latches_overrun() {
    let (registers, _accepted) = plc();
    assert!(!publish(&registers, block(1, Gate::Pass)).overrun);
    assert_eq!(word(&registers, input::VERDICT), 1);
    assert!(!publish(&registers, block(2, Gate::Pass)).overrun, "it was read");
    assert!(publish(&registers, block(3, Gate::Pass)).overrun);
    assert!(word(&registers, input::STATE) & state_bit::OVERRUN != 0);
}

#[test]
fn the_sequence_stands_at_both_ends_and_never_becomes_zero() {
    let (registers, _accepted) = plc();
    for _ in 0..70_000u32 {
        publish(&registers, block(1, Gate::Pass));
        let words =
            registers.input_registers(input::RESULT_SEQUENCE..input::RESULT_SEQUENCE_END + 1).unwrap();
        assert_eq!(words.first(), words.last());
        assert_ne!(words[0], 0);
    }
}

#[test]
fn an_id_that_comes_again_never_shows_the_earlier_parts_pass() {
    let (registers, mut accepted) = plc();
    for _ in 0..2 {
        write_trigger_id(&registers, 0);
        write_trigger_id(&registers, 1);
        assert_eq!(accepted.try_recv().unwrap().accepted.trigger_id, 1);
        assert_ne!(word(&registers, input::RESULT_TRIGGER_ID), 1, "no result of this part yet");
        assert_eq!(word(&registers, input::GATE), 2);
        assert_eq!(registers.discrete_inputs(0..2).unwrap(), [true, false]);
        publish(&registers, block(1, Gate::Pass));
        assert_eq!((word(&registers, input::RESULT_TRIGGER_ID), word(&registers, input::GATE)), (1, 1));
    }
    assert_eq!(registers.counters().overrun, 0, "the first result was read");
}

#[test]
fn a_pass_that_is_published_in_fault_or_late_opens_no_gate() {
    let (registers, _accepted) = plc();
    let away = Marks { fault: Some(FaultCode::CameraAway), ..Marks::default() };
    registers.mark(away);
    assert_eq!(publish(&registers, block(1, Gate::Pass)).gate, Gate::Reject);
    registers.mark(Marks::default());
    let late = registers.publish(block(2, Gate::Pass), Instant::now(), true);
    assert_eq!((late.verdict, late.gate), (Verdict::Fault(FaultCode::Late), Gate::Reject));
    assert_eq!(word(&registers, input::GATE), 2);
}

#[test]
fn a_station_that_fails_answers_the_part_in_hand() {
    let (registers, _accepted) = plc();
    write_trigger_id(&registers, 0);
    write_trigger_id(&registers, 9);
    registers.fail();
    assert_eq!(word(&registers, input::RESULT_TRIGGER_ID), 9);
    assert_eq!(word(&registers, input::RESULT_FAULT_CODE), FaultCode::Internal.code());
    assert!(registers.discrete_inputs(0..4).unwrap()[0]);
    assert!(!registers.discrete_inputs(0..4).unwrap()[3], "not busy for ever");
}
