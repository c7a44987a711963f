//! What a PLC relies on, whatever order station and PLC do things in.

use super::*;

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

fn plc() -> (Registers, mpsc::Receiver<Accepted>) {
    let (registers, accepted) = Registers::new(WordOrder::HighFirst, true, false, Gate::Reject);
    registers.mark(Marks::default());
    (registers, accepted)
}

fn word(registers: &Registers, at: u16) -> u16 {
    registers.input_registers(at..at + 1).unwrap()[0]
}

#[test]
fn reject_stands_after_start_and_in_fault_and_after_it() {
    let (registers, _accepted) = Registers::new(WordOrder::HighFirst, true, false, Gate::Reject);
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
    registers.write_trigger_id(5).unwrap();
    assert!(accepted.try_recv().is_err(), "the id that stood there before the start is no trigger");
    registers.write_trigger_id(0).unwrap();
    registers.write_trigger_id(6).unwrap();
    assert_eq!(accepted.try_recv().unwrap().trigger_id, 6);
    registers.write_trigger_id(6).unwrap();
    registers.write_trigger_id(7).unwrap();
    assert!(accepted.try_recv().is_err(), "busy");
    assert_eq!((registers.counters().accepted, registers.counters().missed), (1, 2));
    publish(&registers, block(6, Gate::Pass));
    registers.write_trigger_id(8).unwrap();
    assert_eq!(accepted.try_recv().unwrap().trigger_id, 8);
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
fn ranges_outside_the_tables_are_refused() {
    let (registers, _accepted) = plc();
    assert!(registers.input_registers(input::SIZE - 1..input::SIZE + 1).is_none());
    assert!(registers.discrete_inputs(7..9).is_none());
    assert!(registers.holding_registers(0..2).is_none());
    assert!(registers.holding_registers(1..2).is_none());
}

#[test]
fn an_id_that_comes_again_never_shows_the_earlier_parts_pass() {
    let (registers, mut accepted) = plc();
    for _ in 0..2 {
        registers.write_trigger_id(0).unwrap();
        registers.write_trigger_id(1).unwrap();
        assert_eq!(accepted.try_recv().unwrap().trigger_id, 1);
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
    registers.write_trigger_id(0).unwrap();
    registers.write_trigger_id(9).unwrap();
    registers.fail();
    assert_eq!(word(&registers, input::RESULT_TRIGGER_ID), 9);
    assert_eq!(word(&registers, input::RESULT_FAULT_CODE), FaultCode::Internal.code());
    assert!(registers.discrete_inputs(0..4).unwrap()[0]);
    assert!(!registers.discrete_inputs(0..4).unwrap()[3], "not busy for ever");
}
