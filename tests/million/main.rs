//! A million parts: no trigger without one result, none twice, none on the wrong part.
//!
//! Four stations inspect at once, in one daemon, each driven through its registers as fast as it goes: two keep
//! their results until they are acknowledged, two show the latest. Cameras and scorers are simulated at their
//! seams; station, threads, registers and journal are the real ones. Each frame holds the number of the part
//! that lies before the camera, and the scorer makes its score of that number alone: verdict and score tell
//! which frame was judged. Cameras lose frames, come late or go away, scorers fail, come late or say NaN, and
//! the PLC triggers while a part is in hand.
//!
//! `LINE_PARTS` says how many parts; without it so many as take about 20 s.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../stub/mod.rs"]
mod stub;
mod world;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use inspect_core::verdict::FaultCode;
use inspectd::config::{Config, StationConfig};
use inspectd::daemon::Daemon;
use inspectd::journal::JournalReader;
use inspectd::plc::map::{holding, input, state_bit};
use inspectd::plc::registers::Registers;
use inspectd::plc::settings::Results;
use inspectd::record::Inspection;
use world::{Fate, Part, World, mixed, name, seams};

/// Parts where `LINE_PARTS` does not say otherwise.
const PARTS: u64 = 100_000;
const STATIONS: u64 = 4;
/// Results that wait behind the one in the block, at stations where results are acknowledged.
const DEPTH: u16 = 5;
const DEADLINE: Duration = Duration::from_millis(40);
/// No single part may take longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pace at which registers are read.
const POLL: Duration = Duration::from_micros(20);

/// In place of a verdict: the next part's result took the place of this one's before it was read.
const OVERWRITTEN: u16 = 0;

/// What the PLC read of a part.
#[derive(Debug, Clone, Copy)]
struct Seen {
    part: Part,
    verdict: u16,
    fault: u16,
}

/// The PLC of one station.
struct Plc<'a> {
    station: u64,
    registers: &'a Registers,
    world: &'a World,
    acknowledges: bool,
    /// Accepted, in order, whose results were not read.
    open: VecDeque<Part>,
    /// In the order of the daemon's own numbers of them, from 1.
    seen: Vec<Seen>,
    missed: u32,
}

impl Plc<'_> {
    /// Triggers `parts` parts, with those that are refused.
    fn run(&mut self, parts: u64) {
        let mut count = 0;
        while count < parts {
            count += 1;
            let part = Part { station: self.station, count };
            assert!(self.trigger(part), "{part:?} was not accepted by a station that was ready");
            // Another trigger as soon as this part's frame was asked for. Where only the latest result stands,
            // only beside one that takes long: else the one before could be overwritten unread.
            let slow = part.fate() == Fate::ScorerLate;
            let early = slow || self.acknowledges && mixed(part.number() ^ 4).is_multiple_of(100);
            if early && count < parts {
                let number = part.number();
                self.wait(part, |plc| plc.world.asked.load(Ordering::SeqCst) == number || !plc.is_busy());
                if self.acknowledges || self.is_busy() {
                    count += 1;
                    self.trigger(Part { station: self.station, count });
                }
            }
            self.wait(part, |plc| !plc.is_busy());
            let backlog = if self.acknowledges { mixed(part.number() ^ 5) % u64::from(DEPTH) } else { 0 };
            if self.open.len() as u64 > backlog {
                self.read_all();
            }
        }
        self.read_all();
    }

    /// Lays a part before the camera and triggers it. Whether it was accepted.
    fn trigger(&mut self, part: Part) -> bool {
        let before = self.registers.counters();
        self.world.part.store(part.number(), Ordering::SeqCst);
        self.registers.write_registers(0, &part.request()).unwrap();
        let after = self.registers.counters();
        let accepted = after.accepted - before.accepted;
        assert_eq!(accepted + after.missed - before.missed, 1, "{part:?}: accepted or missed");
        if accepted == 1 {
            self.open.push_back(part);
        } else {
            self.missed += 1;
        }
        accepted == 1
    }

    fn is_busy(&self) -> bool {
        let state = self.registers.input_registers(input::STATE..input::STATE + 1).unwrap();
        state[0] & state_bit::BUSY != 0
    }

    #[track_caller]
    fn wait(&self, part: Part, done: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < PATIENCE, "{part:?} ({:?}) hangs", part.fate());
            std::thread::sleep(POLL);
        }
    }

    /// Reads the results that are owed, in order; there is one for each and no more.
    fn read_all(&mut self) {
        while let Some(part) = self.open.pop_front() {
            let words = self.registers.input_registers(0..input::SIZE).unwrap();
            let next = self.open.front().map(|part| part.id());
            if !self.acknowledges && next == Some(words[usize::from(input::RESULT_TRIGGER_ID)]) {
                // The machine stood still: the part beside which another was triggered had its result already.
                self.seen.push(Seen { part, verdict: OVERWRITTEN, fault: 0 });
                continue;
            }
            self.check(part, &words);
            if self.acknowledges {
                let sequence = words[usize::from(input::RESULT_SEQUENCE)];
                self.registers.write_registers(holding::RESULT_ACKNOWLEDGED, &[sequence]).unwrap();
            }
        }
        if self.acknowledges {
            let id = self.registers.input_registers(input::RESULT_TRIGGER_ID..input::RESULT_TRIGGER_ID + 1);
            assert_eq!(id.unwrap(), [0], "no result is left");
        }
    }

    /// The result in the block is this part's in every word.
    fn check(&mut self, part: Part, words: &[u16]) {
        let at = |place: u16| words[usize::from(place)];
        let double = |place: u16| u32::from(at(place)) << 16 | u32::from(at(place + 1));
        let (verdict, fault) = (at(input::VERDICT), at(input::RESULT_FAULT_CODE));
        let fate = part.fate();
        let said = format!("{part:?} ({fate:?}): verdict {verdict}, fault {fault}");
        assert_eq!(at(input::RESULT_TRIGGER_ID), part.id(), "{said}");
        assert_eq!(at(input::RESULT_SEQUENCE), at(input::RESULT_SEQUENCE_END), "{said}");
        assert_eq!(double(input::PART) as usize, self.seen.len() + 1, "{said}: the daemon's number of it");
        assert_eq!(double(input::RESULT_ENCODER), part.encoder(), "{said}");
        assert_eq!(at(input::RESULT_PRODUCT), part.station as u16 + 1, "{said}");
        let serial = words[usize::from(input::RESULT_SERIAL)..].iter().flat_map(|word| word.to_be_bytes());
        let serial: Vec<u8> = serial.take_while(|byte| *byte != 0).collect();
        assert_eq!(String::from_utf8(serial).unwrap(), part.serial(), "{said}");
        assert!(at(input::GATE) == 2 || verdict == 1, "{said}: the gate is open");
        if verdict == 4 {
            assert!(explained(fate, fault), "{said}");
        } else {
            assert_eq!((fate, verdict), (Fate::Judged, part.verdict()), "{said}");
            let score = f32::from_bits(double(input::SCORE));
            assert_eq!(score, part.score() / 2.0, "{said}: the score of its own frame");
        }
        self.seen.push(Seen { part, verdict, fault });
    }
}

/// Whether a part of this fate may get this fault: its own, or what another part's leaves behind or a busy machine
/// brings. Never a verdict.
fn explained(fate: Fate, fault: u16) -> bool {
    use FaultCode::*;
    let own: &[FaultCode] = match fate {
        Fate::Judged => &[],
        Fate::ScorerLate => &[Late],
        Fate::ScorerFails => &[ScorerError],
        Fate::ScorerNan => &[ScoreNotFinite],
        Fate::CameraLate | Fate::NoFrame => &[NoFrame],
        Fate::Incomplete => &[IncompleteFrame],
        Fate::Gap => &[FrameGap],
        // It is also the very frame of the part before, where that had one.
        Fate::Stale => &[StaleFrame, RepeatedFrame],
        Fate::Away => &[CameraAway],
    };
    let others = [CameraAway, JournalFull, Late, NoFrame, ScorerBusy];
    own.iter().chain(&others).any(|code| code.code() == fault)
}

/// Reads the whole journal: of each part one record, which says what the PLC was told.
fn check_journal(folder: &Path, plcs: &[Plc<'_>]) -> u64 {
    let reader = JournalReader::open(folder).unwrap();
    let mut expected: Vec<_> = plcs.iter().map(|plc| plc.seen.iter().zip(1..).peekable()).collect();
    let full = FaultCode::JournalFull.code();
    let (mut after, mut records) = (0, 0);
    loop {
        let entries = reader.after(after, 10_000).unwrap();
        let Some(last) = entries.last() else { break };
        after = last.sequence;
        for entry in entries.iter().filter(|entry| entry.kind == "inspection") {
            let record: Inspection = serde_json::from_str(&entry.json).unwrap();
            let station: usize = record.station[1..].parse().unwrap();
            while expected[station].next_if(|(seen, _)| seen.fault == full).is_some() {}
            let (seen, number) = expected[station].next().expect("a record of a part that was");
            assert_eq!(record.part, number, "{seen:?}");
            let trigger = &record.trigger;
            assert_eq!(trigger.trigger_id, Some(seen.part.id()), "{seen:?}");
            assert_eq!(trigger.serial, Some(seen.part.serial()), "{seen:?}");
            assert_eq!(trigger.encoder, Some(seen.part.encoder()), "{seen:?}");
            let said = (record.verdict.code(), record.verdict.fault_code());
            assert!(seen.verdict == OVERWRITTEN || said == (seen.verdict, seen.fault), "{seen:?} {said:?}");
            if said.0 != 4 {
                assert_eq!(record.views[0].score, Some(seen.part.score()), "{seen:?}");
            }
            records += 1;
        }
    }
    for mut rest in expected {
        assert!(rest.all(|(seen, _)| seen.fault == full), "a part is missing in the journal");
    }
    records
}

/// Every second station keeps its results until they are acknowledged.
fn config(folder: &Path) -> Config {
    let stations = (0..STATIONS).map(|station| {
        let acknowledged = station.is_multiple_of(2);
        let results = if acknowledged { Results::Acknowledged { depth: DEPTH } } else { Results::Latest };
        StationConfig { results, ..stub::station(&name(station), DEADLINE) }
    });
    let mut config = stub::config(folder, stations.collect());
    config.journal.ring_slots = 16_384;
    config.archive.max_gb = 0.0;
    config
}

/// The PLC of a station that is ready.
fn plc<'a>(config: &Config, daemon: &'a Daemon, station: u64, world: &'a World) -> Plc<'a> {
    let registers = &*daemon.registers[station as usize];
    registers.write_registers(holding::TRIGGER_ID, &[0]).unwrap();
    let acknowledges = config.stations[station as usize].results != Results::Latest;
    let (open, seen) = (VecDeque::new(), Vec::new());
    let plc = Plc { station, registers, world, acknowledges, open, seen, missed: 0 };
    plc.wait(Part { station, count: 0 }, |plc| plc.registers.fault().is_none());
    plc
}

/// What was counted of all stations.
#[derive(Debug, Default)]
struct Sum {
    results: u64,
    judged: u64,
    late: u64,
    missed: u64,
    overwritten: u64,
    not_journaled: u64,
}

impl Sum {
    /// Adds a station's counters, which must be what its PLC saw.
    fn add(&mut self, plc: &Plc<'_>, triggers: u64) {
        let c = plc.registers.counters();
        let count = |wanted: &dyn Fn(&Seen) -> bool| plc.seen.iter().filter(|s| wanted(s)).count() as u32;
        let by_verdict = [c.pass, c.review, c.reject, c.fault];
        let enough = |(verdict, n): (u16, &u32)| *n >= count(&|seen| seen.verdict == verdict);
        assert!((1..).zip(&by_verdict).all(enough), "{c:?}");
        assert_eq!(by_verdict.iter().sum::<u32>(), c.accepted, "{c:?}");
        assert_eq!(c.overrun, count(&|seen| seen.verdict == OVERWRITTEN), "{c:?}");
        assert_eq!((c.accepted as usize, c.missed), (plc.seen.len(), plc.missed), "{c:?}");
        let lost = count(&|seen| seen.fault == FaultCode::JournalFull.code());
        assert_eq!((c.not_journaled, c.wrong_acknowledgements), (lost, 0), "{c:?}");
        assert_eq!(u64::from(c.accepted + c.missed), triggers);
        self.results += u64::from(c.accepted);
        self.judged += u64::from(c.pass + c.review + c.reject);
        self.late += u64::from(c.late);
        self.missed += u64::from(c.missed);
        self.overwritten += u64::from(c.overrun);
        self.not_journaled += u64::from(c.not_journaled);
    }
}

#[test]
fn no_trigger_is_without_one_result_none_has_two_and_none_has_another_parts() {
    let parts: u64 = std::env::var("LINE_PARTS").map_or(PARTS, |n| n.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let worlds: Vec<Arc<World>> = (0..STATIONS).map(|_| Arc::default()).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let daemon = runtime.block_on(Daemon::start(&config, seams(&worlds))).unwrap();
    let with_plc = (0..STATIONS).zip(&worlds);
    let mut plcs: Vec<_> = with_plc.map(|(station, world)| plc(&config, &daemon, station, world)).collect();
    let start = Instant::now();
    std::thread::scope(|scope| {
        plcs.iter_mut().for_each(|plc| _ = scope.spawn(|| plc.run(parts / STATIONS)));
    });
    let took = start.elapsed();
    let settled = Instant::now();
    while !daemon.journal.is_settled() {
        assert!(settled.elapsed() < PATIENCE, "the journal does not come to an end");
        std::thread::sleep(POLL);
    }
    let mut sum = Sum::default();
    plcs.iter().for_each(|plc| sum.add(plc, parts / STATIONS));
    assert!(sum.late > 0 && sum.missed > 0, "nothing was late or missed, so little was shown: {sum:?}");
    assert!(sum.judged > sum.results / 2, "few parts were judged, so little was shown: {sum:?}");
    let records = check_journal(folder.path(), &plcs);
    assert_eq!(records + sum.not_journaled, sum.results);
    let rate = sum.results as f64 / took.as_secs_f64();
    println!(
        "{parts} triggers in {took:.1?}, {rate:.0} results a second, {records} records, each once: {sum:?}"
    );
    drop(plcs);
    runtime.block_on(daemon.stop());
}
