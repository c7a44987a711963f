//! A simulated PLC: speaks Modbus to one station, byte by byte as on the wire, and remembers what it was told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use inspect_core::verdict::FaultCode;
use inspectd::clock;
use inspectd::plc::access::May;
use inspectd::plc::map::{holding, input};
use inspectd::plc::registers::Registers;
use inspectd::plc::requests::{Requests, Served};
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::time::sleep;

use crate::DEADLINE;
use crate::world::{Part, World};

/// A part that the station accepted.
#[derive(Debug, Clone)]
pub struct Seen {
    pub part: Part,
    pub station: usize,
    /// Which run of the daemon.
    pub run: usize,
    /// Milliseconds of that run when its result was read, and the result: verdict, fault code, gate.
    pub result: Option<(u64, u16, u16, u16)>,
}

/// What all PLCs remember, over all runs.
pub type Log = Arc<Mutex<Vec<Seen>>>;

pub struct Plc {
    pub registers: Arc<Registers>,
    pub station: usize,
    pub acknowledges: bool,
    pub world: World,
    pub log: Log,
    pub run: usize,
    pub began: std::time::Instant,
    pub chance: StdRng,
    /// Whether it hangs up in the middle of requests.
    pub hangs_up: bool,
    connection: Requests,
    served: Served,
    id: u16,
    transaction: u16,
}

impl Plc {
    #[allow(clippy::too_many_arguments, reason = "one caller, a run's facts")]
    pub fn new(
        registers: &Arc<Registers>,
        (station, run): (usize, usize),
        acknowledges: bool,
        world: World,
        log: Log,
        chance: StdRng,
        hangs_up: bool,
    ) -> Self {
        let served = Served::of_stations(vec![Arc::clone(registers)]);
        Self {
            registers: Arc::clone(registers),
            station,
            acknowledges,
            world,
            log,
            run,
            began: clock::now(),
            chance,
            hangs_up,
            connection: Requests::new(served.clone(), May::Write),
            served,
            id: 0,
            transaction: 0,
        }
    }

    /// Sends a request and takes its answer; now and then hangs up in the middle of it first.
    fn ask(&mut self, pdu: &[u8]) -> Vec<u8> {
        self.transaction = self.transaction.wrapping_add(1);
        let mut adu = self.transaction.to_be_bytes().to_vec();
        adu.extend([0, 0]);
        adu.extend((pdu.len() as u16 + 1).to_be_bytes());
        adu.push(1);
        adu.extend(pdu);
        let mut answers = Vec::new();
        if self.hangs_up && self.chance.random_bool(0.05) {
            let cut = self.chance.random_range(1..adu.len());
            self.connection.take(&adu[..cut], &mut answers).unwrap();
            assert!(answers.is_empty(), "half a request is not answered");
            self.connection = Requests::new(self.served.clone(), May::Write);
        }
        self.connection.take(&adu, &mut answers).unwrap();
        assert_eq!(answers[..2], adu[..2]);
        answers[7..].to_vec()
    }

    /// Function 16, and 6 for a single word.
    fn write(&mut self, at: u16, words: &[u16]) {
        let mut pdu = vec![16];
        pdu.extend(at.to_be_bytes());
        pdu.extend((words.len() as u16).to_be_bytes());
        pdu.push(words.len() as u8 * 2);
        pdu.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        assert_eq!(self.ask(&pdu)[0], 16);
    }

    /// Function 4: all input registers.
    fn read(&mut self) -> Vec<u16> {
        let mut pdu = vec![4];
        pdu.extend(0u16.to_be_bytes());
        pdu.extend(input::SIZE.to_be_bytes());
        let answer = self.ask(&pdu);
        answer[2..].chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
    }

    fn request(&self, part: &Part) -> Vec<u16> {
        let mut words = vec![0; usize::from(holding::SIZE)];
        words[usize::from(holding::TRIGGER_ID)] = self.id;
        let serial = part.serial();
        let place = words[usize::from(holding::SERIAL)..].iter_mut();
        for (word, pair) in place.zip(serial.as_bytes().chunks(2)) {
            *word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        }
        words
    }

    /// Triggers parts `numbers` one after the other and reads each one's result by its deadline.
    pub async fn run(mut self, numbers: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.chance.random_range(0..300))).await;
        self.write(holding::TRIGGER_ID, &[0]);
        for number in numbers {
            sleep(Duration::from_millis(self.chance.random_range(0..150))).await;
            let part = Part::new(number, &mut self.chance);
            self.world.lay(part);
            self.id = self.id % 60_000 + 1;
            let before = self.registers.counters();
            let request = self.request(&part);
            self.write(0, &request);
            let after = self.registers.counters();
            assert_eq!((after.accepted - before.accepted, after.missed), (1, before.missed), "{part:?}");
            let place = {
                let mut log = self.log.lock().unwrap();
                log.push(Seen { part, station: self.station, run: self.run, result: None });
                log.len() - 1
            };
            self.wait(&part, place).await;
        }
    }

    /// One result, by the deadline.
    async fn wait(&mut self, part: &Part, place: usize) {
        let deadline = clock::now() + DEADLINE;
        loop {
            let words = self.read();
            let at = |place: u16| words[usize::from(place)];
            if at(input::RESULT_TRIGGER_ID) == self.id {
                let read_ms = clock::since(self.began).as_millis() as u64;
                let (verdict, fault, gate) =
                    (at(input::VERDICT), at(input::RESULT_FAULT_CODE), at(input::GATE));
                assert_eq!(at(input::RESULT_SEQUENCE), at(input::RESULT_SEQUENCE_END), "torn: {part:?}");
                earned(part, verdict, fault, gate);
                self.log.lock().unwrap()[place].result = Some((read_ms, verdict, fault, gate));
                if self.acknowledges {
                    self.write(holding::RESULT_ACKNOWLEDGED, &[at(input::RESULT_SEQUENCE)]);
                }
                return;
            }
            assert!(
                clock::now() <= deadline + Duration::from_millis(1),
                "no result by its deadline: {part:?}"
            );
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A verdict is the part's own, a pass above all; a fault explains itself.
fn earned(part: &Part, verdict: u16, fault: u16, gate: u16) {
    let said = format!("{part:?}: verdict {verdict}, fault {fault}, gate {gate}");
    if verdict != 4 {
        assert_eq!((part.fate, verdict), (crate::world::Fate::Judged, part.verdict()), "{said}");
    } else {
        // What another part, the start, or a full journal leaves behind.
        use FaultCode::*;
        let others =
            [Starting, NotArmed, CameraAway, NoFrame, ModelAway, ScorerBusy, Late, JournalFull, ScorerStuck];
        let known = part.fate.own().iter().chain(&others).any(|code| code.code() == fault);
        assert!(known, "{said}");
    }
    assert!(gate == 2 || (gate == 1 && verdict == 1), "the gate is open: {said}");
}
