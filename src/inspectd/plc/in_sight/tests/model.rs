//! Whatever a program writes, in whatever order, and whatever the station does meanwhile.

use std::collections::VecDeque;

use proptest::prelude::*;

use crate::plc::requests::{Requests, Served};

use super::super::table::{Block, Likeness, entries};
use super::*;
use crate::plc::access::May;

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// The PLC writes one coil, twice in a row to be sure.
    Coil(u16, bool),
    /// It writes the whole block.
    Block(u32),
    /// It reads.
    ReadStatus,
    ReadOutput,
    /// The station reaches this verdict on the part in hand.
    Publish(Verdict),
    Mark(Option<FaultCode>),
    EndCommand(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let bit = prop_oneof![
        2 => Just(control::TRIGGER_ENABLE), 8 => Just(control::TRIGGER), 6 => Just(control::INSPECTION_RESULTS_ACK),
        1 => Just(control::EXECUTE_COMMAND), 1 => Just(control::SET_OFFLINE), 1 => Just(control::CLEAR_ERROR),
        1 => 0u16..32,
    ];
    let verdict = prop_oneof![
        4 => Just(Verdict::Pass), 1 => Just(Verdict::Review), 1 => Just(Verdict::Reject),
        1 => Just(Verdict::Fault(FaultCode::NoFrame)),
    ];
    let fault = prop_oneof![3 => Just(None), 1 => Just(Some(FaultCode::CameraAway))];
    prop_oneof![
        12 => (bit, prop::bool::weighted(0.6)).prop_map(|(bit, set)| Step::Coil(bit, set)),
        6 => (0u32..16).prop_map(|low| Step::Block(ENABLE | low)),
        1 => any::<u32>().prop_map(Step::Block),
        3 => Just(Step::ReadStatus), 3 => Just(Step::ReadOutput),
        8 => verdict.prop_map(Step::Publish), 1 => fault.prop_map(Step::Mark),
        1 => any::<bool>().prop_map(Step::EndCommand),
    ]
}

/// A result that the PLC still has to get.
#[derive(Debug, Clone, Copy)]
struct Owed {
    id: u16,
    verdict: Verdict,
    gate: bool,
    read: bool,
}

/// What a bystander writes down, to hold the profile to it.
struct Bystander {
    line: Line,
    /// Results behind the first, where results are acknowledged.
    depth: Option<usize>,
    block: u32,
    armed: bool,
    fault: bool,
    in_hand: Option<u16>,
    last_id: u16,
    acquired: bool,
    forgets: bool,
    owed: VecDeque<Owed>,
    overrun: bool,
    published: u32,
}

impl Bystander {
    fn write(&mut self, block: u32) {
        let before = std::mem::replace(&mut self.block, block);
        let rises = |bit: u32| block & !before & bit != 0;
        self.line.write(block);
        self.line.write(block); // a second time changes nothing
        if rises(ACK) && self.owed.front().is_some_and(|first| first.read) {
            self.owed.pop_front();
        }
        if rises(CLEAR) {
            self.overrun = false;
        }
        if rises(ENABLE) {
            self.owed.clear();
            self.forgets |= self.in_hand.is_some();
        }
        if (block ^ before) & ENABLE != 0 {
            self.acquired = false;
        }
        self.armed |= block & ENABLE != 0 && block & TRIGGER == 0;
        let asked = self.line.asks.accepted.try_recv().ok().map(|part| part.accepted.trigger_id);
        if rises(TRIGGER) {
            let free =
                before & block & ENABLE != 0 && block & OFFLINE == 0 && self.armed && self.in_hand.is_none();
            self.last_id = if free { self.last_id.checked_add(1).unwrap_or(1) } else { self.last_id };
            assert_eq!(asked, free.then_some(self.last_id), "accepted when it can be, with the next id");
            self.acquired = free;
            self.in_hand = self.in_hand.or(asked);
        } else {
            assert_eq!(asked, None, "no part without a rise of Trigger");
        }
        let _ = self.line.asks.commands.try_recv();
    }

    fn publish(&mut self, verdict: Verdict) {
        let Some(id) = self.in_hand.take() else { return };
        self.line.publish(id, verdict);
        self.published += 1;
        if std::mem::take(&mut self.forgets) {
            return;
        }
        let result = Owed { id, verdict, gate: verdict == Verdict::Pass && !self.fault, read: false };
        match self.depth {
            Some(depth) if self.owed.len() > depth => self.overrun = true,
            Some(_) => self.owed.push_back(result),
            None => {
                self.overrun |= self.owed.pop_front().is_some_and(|unread| !unread.read);
                self.owed.push_back(result);
            }
        }
    }

    fn reads(&mut self) {
        if let (true, Some(first)) = (self.block & ACK == 0, self.owed.front_mut()) {
            first.read = true;
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Coil(bit, set) => self.write(self.block & !(1 << bit) | u32::from(set) << bit),
            Step::Block(block) => self.write(block),
            Step::ReadStatus => {
                self.line.camera.status(true);
                self.reads();
            }
            Step::ReadOutput => {
                self.line.camera.output(true);
                self.reads();
            }
            Step::Publish(verdict) => self.publish(verdict),
            Step::Mark(fault) => {
                self.line.mark(fault);
                self.fault = fault.is_some();
                if self.fault {
                    self.owed.iter_mut().for_each(|owed| owed.gate = false);
                }
            }
            Step::EndCommand(good) => {
                let result = if good { Ok(()) } else { Err(FaultCode::NoSuchRecipe) };
                self.line.camera.registers.end_command(result);
            }
        }
    }

    fn look(&self) {
        let (status, words) = (self.line.camera.status(false), self.line.camera.output(false));
        let bit = |bit: u16| status & (1 << bit) != 0;
        let shown = self.owed.front().filter(|_| self.block & ACK == 0);
        assert_eq!(bit(status::RESULTS_VALID), shown.is_some());
        assert_eq!(words[usize::from(output::INSPECTION_ID)], shown.map_or(0, |owed| owed.id));
        assert_eq!(words[usize::from(output::ACQUISITION_ID)], self.last_id);
        let mine = |owed: &&Owed| self.depth.is_some() || owed.id == self.last_id;
        let pass = shown.filter(mine).is_some_and(|owed| owed.gate) && !self.overrun;
        assert_eq!(bit(status::JOB_PASS), pass);
        assert_eq!(words[usize::from(output::RESULT_CODE)] == 1, pass);
        if let (true, Some(owed)) = (pass, shown) {
            assert_eq!(owed.verdict, Verdict::Pass);
        }
        assert_eq!(bit(status::TRIGGER_ACK), self.acquired && self.block & TRIGGER != 0);
        assert_eq!(bit(status::BUFFER_OVERRUN), self.overrun);
        assert_eq!(bit(status::INSPECTION_COMPLETED), self.published & 1 != 0);
        assert_eq!(bit(status::ERROR), words[usize::from(output::ERROR_CODE)] != 0);
        let answered = [status::STRING_CMD_ACK, status::STRING_CMD_ERROR];
        for e in entries().filter(|e| e.block == Block::Status && e.likeness == Likeness::Absent) {
            let level = answered.contains(&e.at) && self.block & 1 << control::INITIATE_STRING_CMD != 0;
            assert!((e.at..e.at + e.size).all(|at| bit(at) == level), "{}", e.symbol);
        }
    }
}

proptest! {
    #[test]
    fn each_accepted_trigger_gets_exactly_one_result_and_only_its_own_pass(
        depth in prop::option::of(0u16..3),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let results = depth.map_or(Results::Latest, |depth| Results::Acknowledged { depth });
        let mut bystander = Bystander {
            line: Line::new(results),
            depth: depth.map(usize::from),
            block: 0,
            armed: false,
            fault: true,
            in_hand: None,
            last_id: 0,
            acquired: false,
            forgets: false,
            owed: VecDeque::new(),
            overrun: false,
            published: 0,
        };
        for step in steps {
            bystander.take(step);
            bystander.look();
        }
        let counters = bystander.line.camera.registers.counters();
        let judged = counters.pass + counters.review + counters.reject + counters.fault;
        prop_assert_eq!(counters.accepted, judged + u32::from(bystander.in_hand.is_some()));
        prop_assert_eq!(judged, bystander.published);
        prop_assert_eq!(counters.wrong_acknowledgements, 0);
    }
}

/// Places in and beside the blocks, and any.
fn place() -> impl Strategy<Value = u16> {
    let near = |at: u16| (at..at + 160).prop_map(|at| at.saturating_sub(20));
    prop_oneof![near(0), near(100), near(1000), near(2000), near(6000), near(7000), near(9000), any::<u16>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]
    #[test]
    fn whatever_is_asked_is_answered_refused_or_closed_and_never_a_pass(
        function in 0u8..26,
        at in place(),
        count in prop_oneof![0u16..40, any::<u16>()],
        rest in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let line = Line::ready(Results::Acknowledged { depth: 1 });
        let registers = Arc::clone(line.camera.registers());
        let mut requests = Requests::new(Served::as_in_sight(line.camera), May::Write);
        let mut pdu = vec![function];
        pdu.extend(at.to_be_bytes());
        pdu.extend(count.to_be_bytes());
        pdu.extend(rest);
        let mut request = vec![0, 1, 0, 0, 0, pdu.len() as u8 + 1, 1];
        request.extend(&pdu);
        let mut answer = Vec::new();
        let closed = requests.take(&request, &mut answer).is_err();
        prop_assert_eq!(closed, answer.is_empty());
        let discrete = registers.discrete_inputs(0..2).unwrap();
        prop_assert_eq!(discrete, [true, false], "reject, pass");
        // Every status bit, JobPass among them.
        let mut status = Vec::new();
        let ask = [0, 2, 0, 0, 0, 6, 1, 2, 0, 0, 0, 32];
        if !closed && requests.take(&ask, &mut status).is_ok() {
            let job_pass = usize::from(status::JOB_PASS);
            prop_assert_eq!(status[9 + job_pass / 8] >> (job_pass % 8) & 1, 0);
        }
    }
}
