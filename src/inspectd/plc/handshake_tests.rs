//! Whatever a PLC writes, in whatever order, and whatever the station does meanwhile.

use proptest::prelude::*;

use super::super::map::discrete;
use super::super::word_order::WordOrder;
use super::super::words::discrete_inputs;
use super::*;

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// The PLC, or a second one, writes holding registers.
    Write(u16, Vec<u16>),
    /// It writes one coil.
    Coil(u16, bool),
    /// It acknowledges what it reads.
    AcknowledgeBlock,
    /// It looks at the verdict.
    Read,
    /// The station reaches this verdict on the part in hand.
    Publish(Verdict),
    /// The station goes into fault, or comes out of it.
    Mark(Option<FaultCode>),
    /// A command ends.
    EndCommand(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let trigger = (0u16..6).prop_map(|id| Step::Write(holding::TRIGGER_ID, vec![id]));
    let cycle = (0u16..6, 0u16..4, any::<u16>()).prop_map(|(id, ack, control)| {
        Step::Write(holding::TRIGGER_ID, vec![id, ack, control & 0x9F03, 3, 9, 0, 0, id, 0x4142])
    });
    let ack = (0u16..8).prop_map(|n| Step::Write(holding::RESULT_ACKNOWLEDGED, vec![n]));
    let coil = (0u16..18, any::<bool>()).prop_map(|(bit, set)| Step::Coil(bit, set));
    let drop_all = Just(Step::Write(holding::CONTROL, vec![0]));
    let anywhere =
        (0u16..30, prop::collection::vec(any::<u16>(), 0..4)).prop_map(|(at, w)| Step::Write(at, w));
    let verdict = prop_oneof![
        3 => Just(Verdict::Pass),
        1 => Just(Verdict::Review),
        1 => Just(Verdict::Reject),
        1 => Just(Verdict::Fault(FaultCode::Late)),
    ];
    let fault = prop_oneof![4 => Just(None), 1 => Just(Some(FaultCode::CameraAway))];
    prop_oneof![
        6 => trigger, 2 => cycle, 1 => ack, 3 => coil, 2 => drop_all, 1 => anywhere,
        4 => Just(Step::AcknowledgeBlock), 2 => Just(Step::Read),
        6 => verdict.prop_map(Step::Publish), 1 => fault.prop_map(Step::Mark),
        1 => any::<bool>().prop_map(Step::EndCommand),
    ]
}

fn settings() -> impl Strategy<Value = Settings> {
    let results =
        prop_oneof![Just(Results::Latest), (0u16..3).prop_map(|depth| Results::Acknowledged { depth })];
    let gate = prop_oneof![Just(Gate::Reject), Just(Gate::Pass)];
    (results, gate).prop_map(|(results, review_at_gate)| Settings {
        by_plc: true,
        simulated: false,
        review_at_gate,
        results,
        order: WordOrder::HighFirst,
    })
}

/// What a bystander writes down, to hold the state machine to it.
struct Bystander {
    h: Handshake,
    part: u32,
    /// Part, id and verdict of each result that the PLC still has to get, in order; the first may stand in
    /// the block.
    owed: VecDeque<(u32, u16, Verdict)>,
    accepted: u32,
    published: u32,
}

impl Bystander {
    fn take(&mut self, step: &Step) {
        let now = Instant::now();
        let before = self.h.clone();
        let asked = match step {
            Step::Write(at, values) => self.h.write(*at, values, now),
            Step::Coil(bit, set) => self.h.write_coils(*bit, &[*set], now),
            Step::AcknowledgeBlock => {
                let sequence = self.h.sequence;
                self.h.write(holding::RESULT_ACKNOWLEDGED, &[sequence], now)
            }
            Step::Read => {
                self.h.was_read();
                None
            }
            Step::Publish(verdict) => {
                self.publish(*verdict);
                None
            }
            Step::Mark(fault) => {
                self.h.mark(Marks { fault: *fault, ..Marks::default() });
                None
            }
            Step::EndCommand(good) => {
                self.h.end_command(if *good { Ok(()) } else { Err(FaultCode::NoSuchRecipe) });
                None
            }
        };
        if let Some(accepted) = asked.and_then(|a| a.accepted) {
            self.accepted += 1;
            let ready = before.not_ready().is_none() || before.marks.fault.is_some();
            // The same write may have brought the station online, or armed the commands; never less than ready.
            assert!(before.in_hand.is_none() && (ready || before.is_offline()), "{step:?} from {before:?}");
            assert_ne!(accepted.trigger_id, 0);
            assert_eq!(self.h.in_hand, Some(accepted));
        } else if asked.is_none() && matches!(step, Step::Write(..) | Step::Coil(..)) {
            assert_eq!(self.h.written, before.written, "a refused write changes nothing");
            assert_eq!(self.h.counters, before.counters);
        }
        self.follow(&before);
    }

    fn publish(&mut self, verdict: Verdict) {
        let Some(accepted) = self.h.in_hand else { return };
        self.part += 1;
        let (trigger_id, kind, identity) = (accepted.trigger_id, accepted.kind, accepted.identity);
        let part = self.part;
        let block =
            ResultBlock { trigger_id, verdict, part, kind, identity, ..ResultBlock::reject(FaultCode::Late) };
        let published = self.h.publish(block, true);
        self.published += 1;
        let earned = verdict == Verdict::Pass
            || (verdict == Verdict::Review && self.h.settings.review_at_gate == Gate::Pass);
        let may = earned && kind == PartKind::Part && self.h.marks.fault.is_none();
        assert!(published.gate == Gate::Reject || may, "{published:?}");
        if self.h.settings.results == Results::Latest {
            self.owed.clear();
            self.owed.push_back((part, trigger_id, verdict));
        } else if published.overrun {
            assert_eq!(published.gate, Gate::Reject, "nobody can be told to let it pass");
        } else {
            self.owed.push_back((part, trigger_id, verdict));
        }
    }

    /// What holds after whatever step.
    fn follow(&mut self, before: &Handshake) {
        let h = &self.h;
        let bits = discrete_inputs(h);
        let bit = |at: u16| bits & (1 << at) != 0;
        assert_ne!(bit(discrete::PASS), bit(discrete::REJECT));
        if h.sequence == before.sequence {
            let same = ResultBlock { gate: before.block.gate, ..h.block };
            // NaN is not equal to itself: compare what the PLC sees.
            assert_eq!(format!("{same:?}"), format!("{:?}", before.block), "frozen under its sequence");
            assert!(h.block.gate == before.block.gate || h.block.gate == Gate::Reject, "a gate only closes");
        } else if h.settings.results != Results::Latest && before.is_valid() {
            self.owed.pop_front(); // acknowledged
        }
        assert_ne!(h.sequence, 0);
        let done = h.command == CommandState::Done && before.command != h.command;
        if done && before.block.is_of_a_part() && !h.block.is_of_a_part() {
            self.owed.clear(); // discard_results
        }
        if h.is_valid() {
            let shown = (h.block.part, h.block.trigger_id, h.block.verdict);
            assert_eq!(self.owed.front(), Some(&shown), "each result once, in order");
        }
        if h.settings.results != Results::Latest {
            let held = h.waiting.len() + usize::from(h.is_valid());
            assert_eq!(held, self.owed.len(), "no result is lost without being told");
        }
        if bit(discrete::PASS) {
            assert!(h.is_valid() && h.block.is_of_a_part());
            assert!(h.marks.fault.is_none() && h.block.kind == PartKind::Part);
            assert!(matches!(h.block.verdict, Verdict::Pass | Verdict::Review));
        }
        assert_eq!(self.accepted, self.published + u32::from(h.in_hand.is_some()), "one result a trigger");
        let c = h.counters;
        let judged = c.pass + c.review + c.reject + c.fault + c.challenges;
        assert_eq!(c.accepted, judged + u32::from(h.in_hand.is_some()), "a reset leaves the counters agreed");
        let raised = h.value(holding::CONTROL) & COMMANDS != 0;
        assert!(raised || matches!(h.command, CommandState::Idle | CommandState::Busy));
        assert_eq!(bit(discrete::READY), h.not_ready().is_none() && h.in_hand.is_none());
        assert!(!h.missed || h.error.is_some(), "a latch is an error");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]

    #[test]
    fn no_order_of_writes_loses_doubles_or_opens_anything(
        settings in settings(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut h = Handshake::new(settings);
        h.mark(Marks::default());
        let mut by = Bystander { h, part: 0, owed: VecDeque::new(), accepted: 0, published: 0 };
        for step in &steps {
            by.take(step);
        }
    }
}

fn acknowledged(depth: u16) -> Handshake {
    let mut h = Handshake::new(Settings {
        by_plc: true,
        simulated: false,
        review_at_gate: Gate::Reject,
        results: Results::Acknowledged { depth },
        order: WordOrder::LowFirst,
    });
    h.mark(Marks::default());
    h
}

fn write(h: &mut Handshake, at: u16, value: u16) -> Option<Accepted> {
    h.write(at, &[value], Instant::now()).unwrap().accepted
}

#[test]
fn the_same_write_again_changes_nothing() {
    let mut h = acknowledged(1);
    for (at, value) in [
        (holding::TRIGGER_ID, 0),
        (holding::TRIGGER_ID, 5),
        (holding::TRIGGER_ID, 6),
        (holding::RESULT_ACKNOWLEDGED, 9),
        (holding::CONTROL, 1 << coil::CHALLENGE),
        (holding::CONTROL, 1 << coil::OFFLINE),
    ] {
        write(&mut h, at, value);
        let once = format!("{h:?}");
        assert_eq!(write(&mut h, at, value), None);
        assert_eq!(format!("{h:?}"), once, "{value} at {at}");
    }
}

#[test]
fn serial_and_encoder_go_with_their_trigger_and_with_no_other() {
    let mut h = acknowledged(1);
    write(&mut h, holding::TRIGGER_ID, 0);
    let cycle = [1, 0, 0, 0, 42, 0, 2, 1, 0x4130, 0x3100];
    let first = h.write(holding::TRIGGER_ID, &cycle, Instant::now()).unwrap().accepted.unwrap();
    assert_eq!(first.identity.serial().as_deref(), Some("A01"));
    assert_eq!((first.identity.encoder, first.identity.product), (Some(0x0001_0002), 42));
    h.publish(ResultBlock { part: 1, trigger_id: 1, ..ResultBlock::reject(FaultCode::Late) }, true);
    let second = write(&mut h, holding::TRIGGER_ID, 2).unwrap();
    assert_eq!(second.identity, Identity { product: 42, ..Identity::default() });
}

#[test]
fn commands_wait_for_all_bits_to_be_dropped() {
    let mut h = acknowledged(1);
    let state = |h: &mut Handshake, control: u16| {
        write(h, holding::CONTROL, control);
        h.command
    };
    let bit = |at: u16| 1u16 << at;
    let failed = CommandState::Failed;
    assert_eq!(state(&mut h, bit(coil::RESET_COUNTERS)), failed(FaultCode::CommandNotArmed));
    assert_eq!(state(&mut h, 0), CommandState::Idle);
    assert_eq!(state(&mut h, bit(coil::RESET_COUNTERS)), CommandState::Done);
    assert_eq!(state(&mut h, bit(coil::LOAD_RECIPE)), CommandState::Done, "not before all are dropped");
    assert_eq!(state(&mut h, bit(coil::BYPASS)), CommandState::Idle, "levels are no commands");
    assert_eq!(state(&mut h, bit(8) | bit(9)), failed(FaultCode::TwoCommands));
    assert_eq!(state(&mut h, 0), CommandState::Idle);
    assert_eq!(state(&mut h, bit(15)), failed(FaultCode::UnknownCommand));
    assert_eq!(state(&mut h, 0), CommandState::Idle);
    write(&mut h, holding::RECIPE_REQUEST, 3);
    let asked = h.write(holding::CONTROL, &[bit(coil::LOAD_RECIPE)], Instant::now()).unwrap();
    assert_eq!((asked.command, h.command), (Some(Command::LoadRecipe(3)), CommandState::Busy));
    assert_eq!(state(&mut h, 0), CommandState::Busy, "a bit taken back stops nothing");
    h.end_command(Ok(()));
    assert_eq!(h.command, CommandState::Idle);
    state(&mut h, bit(coil::LOAD_RECIPE));
    state(&mut h, 0);
    state(&mut h, bit(coil::RESET_COUNTERS));
    h.end_command(Ok(()));
    assert_eq!(h.command, failed(FaultCode::TwoCommands), "the bit that stands was not carried out");
}
