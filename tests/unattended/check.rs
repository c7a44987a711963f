//! What must hold of a seed as a whole, whatever befell it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use inspect_core::verdict::{FaultCode, Verdict};
use inspectd::journal::{Entry, JournalReader, OnJournalFull};
use inspectd::plc::registers::Registers;
use inspectd::record::{Event, Inspection};

use crate::plc::Seen;
use crate::world::{Fate, World};
use crate::{End, POWER_CUT_COSTS_MS, Run, STATIONS, Seed};

/// What was seen, added up over seeds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub seeds: u64,
    pub runs: BTreeMap<String, u64>,
    pub fates: BTreeMap<Fate, u64>,
    pub parts: u64,
    pub judged: u64,
    pub passed: u64,
    pub restarted: u64,
    pub no_place: u64,
    /// Within a second of a power cut, the disk working.
    pub lost_with_power: u64,
    /// Had waited for a disk that failed when the power went.
    pub lost_with_disk: u64,
    pub records: u64,
    pub doubles: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.seeds += 1;
        other.runs.iter().for_each(|(end, n)| *self.runs.entry(end.clone()).or_default() += n);
        other.fates.iter().for_each(|(fate, n)| *self.fates.entry(*fate).or_default() += n);
        self.parts += other.parts;
        self.judged += other.judged;
        self.passed += other.passed;
        self.restarted += other.restarted;
        self.no_place += other.no_place;
        self.lost_with_power += other.lost_with_power;
        self.lost_with_disk += other.lost_with_disk;
        self.records += other.records;
        self.doubles += other.doubles;
    }
}

/// In a run that goes to its end: each station counted what its PLC was told.
pub fn counters(seed: &Seed, registers: &[(Arc<Registers>, World)]) {
    let log = seed.log.lock().unwrap();
    for (station, (registers, _)) in registers.iter().enumerate() {
        let of_run = |seen: &&Seen| seen.station == station && seen.run == seed.runs.len();
        let results: Vec<_> =
            log.iter().filter(of_run).map(|seen| seen.result.expect("each is answered")).collect();
        let count = |verdict| results.iter().filter(|(_, v, ..)| *v == verdict).count() as u32;
        let c = registers.counters();
        assert_eq!([c.pass, c.review, c.reject, c.fault], [1, 2, 3, 4].map(count), "{c:?}");
        assert_eq!((c.accepted as usize, c.missed, c.overrun), (results.len(), 0, 0), "{c:?}");
        let full =
            |(_, v, fault, _): &&(u64, u16, u16, u16)| (*v, *fault) == (4, FaultCode::JournalFull.code());
        assert!(c.not_journaled >= results.iter().filter(full).count() as u32, "{c:?}");
    }
}

/// The whole seed.
pub fn whole(seed: &Seed) -> Tally {
    let aside = std::fs::read_dir(seed.dir.path()).unwrap();
    let aside = aside.filter(|f| f.as_ref().unwrap().file_name().to_string_lossy().contains("quarantined"));
    assert_eq!(aside.count(), 0, "no fault here damages a journal");
    let reader = JournalReader::open(seed.dir.path()).unwrap();
    let entries = reader.after(0, usize::MAX >> 1).unwrap();
    let inspections = entries.iter().filter(|entry| entry.kind == "inspection");
    let records: Vec<Inspection> = inspections.map(|e| serde_json::from_str(&e.json).unwrap()).collect();
    let mut tally = Tally { records: entries.len() as u64, ..Tally::default() };
    numbers(&records);
    let by_serial: BTreeMap<&str, &Inspection> =
        records.iter().map(|record| (record.trigger.serial.as_deref().unwrap(), record)).collect();
    assert_eq!(by_serial.len(), records.len(), "no part is there twice");
    let checked = inspectd::journal::check::check(seed.dir.path(), seed.run_dir.path(), &mut |_, _| {});
    assert!(checked.findings.is_empty(), "{checked:#?}");
    let mut missing = vec![0; seed.runs.len()];
    for seen in seed.log.lock().unwrap().iter() {
        tally.parts += 1;
        *tally.fates.entry(seen.part.fate).or_default() += 1;
        match by_serial.get(&*seen.part.serial()) {
            Some(record) => kept(seen, record, &mut tally),
            None => lost(seen, &seed.runs, &mut missing, &mut tally),
        }
    }
    for (run, missing) in seed.runs.iter().zip(missing) {
        assert!(
            missing <= run.not_journaled,
            "{missing} are missing, {} were counted: {run:?}",
            run.not_journaled
        );
        *tally.runs.entry(format!("{:?}", run.end)).or_default() += 1;
    }
    let events = entries.iter().filter_map(|entry| serde_json::from_str::<Event>(&entry.json).ok());
    let told: u64 = events.filter_map(|event| event.lost).map(|lost| lost.parts).sum();
    let with_power = seed.runs.iter().any(|run| run.end == End::PowerCut);
    assert!(told >= tally.no_place || with_power, "{told} told, {} lost", tally.no_place);
    tally.doubles = delivered(seed, &reader.uuid().to_string(), &entries);
    tally
}

/// A station's numbers grow and none is used twice.
fn numbers(records: &[Inspection]) {
    for station in 0..STATIONS {
        let name = crate::name(station);
        let parts: Vec<u64> = records.iter().filter(|r| r.station == name).map(|r| r.part).collect();
        assert!(parts.is_sorted_by(|a, b| a < b), "station {station}: {parts:?}");
    }
}

/// The journal says what the PLC was told; what nobody was told is a fault, or the part's own verdict.
fn kept(seen: &Seen, record: &Inspection, tally: &mut Tally) {
    let said = (
        record.verdict.code(),
        record.verdict.fault_code(),
        if record.gate == Default::default() { 2 } else { 1 },
    );
    if let Some((_, verdict, fault, gate)) = seen.result {
        assert_eq!(said, (verdict, fault, gate), "{seen:?} {record:?}");
    }
    let restarted = record.verdict == Verdict::Fault(FaultCode::Restarted);
    assert!(!(restarted && seen.result.is_some()), "{seen:?}");
    tally.restarted += u64::from(restarted);
    if said.0 != 4 {
        assert_eq!((seen.part.fate, said.0), (Fate::Judged, seen.part.verdict()), "{record:?}");
        tally.judged += 1;
        tally.passed += u64::from(said.0 == 1);
    }
}

/// Why a part may be missing: the journal had no place, which was counted; or the power was cut at that moment.
fn lost(seen: &Seen, runs: &[Run], missing: &mut [u32], tally: &mut Tally) {
    let run = &runs[seen.run];
    let no_place = seen.result.is_some_and(|(_, _, fault, _)| fault == FaultCode::JournalFull.code());
    let worked = run.disk_failing_since_ms.is_none();
    let since = run.disk_failing_since_ms.unwrap_or(run.lasted_ms).min(run.lasted_ms);
    let read_ms = seen.result.map_or(run.lasted_ms, |(read_ms, ..)| read_ms);
    let cut = run.end == End::PowerCut && read_ms + POWER_CUT_COSTS_MS >= since;
    if cut && !no_place {
        tally.lost_with_power += u64::from(worked);
        tally.lost_with_disk += u64::from(!worked);
        return;
    }
    // The ring kept it, until the power went in a run in which the disk did not even let the journal open.
    let mut after = runs[seen.run + 1..].iter().take_while(|run| !run.opened);
    if run.end != End::PowerCut && !no_place && after.any(|run| run.end == End::PowerCut) {
        tally.lost_with_disk += 1;
        return;
    }
    // One that was not read before the end may not be counted yet.
    missing[seen.run] += u32::from(seen.result.is_some());
    tally.no_place += 1;
    let continues = run.on_journal_full == OnJournalFull::Continue;
    assert!(no_place || continues || seen.result.is_none(), "lost: {seen:?} {run:?}");
    assert!(run.not_journaled > 0 || seen.result.is_none(), "lost: {seen:?} {run:?}");
}

/// The broker got each record at least once, as it stands in the journal, in order; goes back only to begin doubles, and
/// these come in order as well.
/// How many doubles there were.
fn delivered(seed: &Seed, journal: &str, entries: &[Entry]) -> u64 {
    let order: BTreeMap<u64, &Entry> = entries.iter().map(|entry| (entry.sequence, entry)).collect();
    let got = seed.broker.records();
    let mut before = 0;
    for (of, sequence, json) in &got {
        assert_eq!(of, journal);
        let entry =
            order.get(sequence).unwrap_or_else(|| panic!("{sequence} was published and is in no journal"));
        let own: serde_json::Value = serde_json::from_str(&entry.json).unwrap();
        for (key, value) in own.as_object().unwrap() {
            assert_eq!(&json[key], value, "{sequence}");
        }
        if *sequence > before {
            let next = order.range(before + 1..).next().map(|(sequence, _)| *sequence);
            assert_eq!(next, Some(*sequence), "the broker got {sequence} after {before}");
        }
        before = *sequence;
    }
    let all: BTreeSet<u64> = got.iter().map(|(_, sequence, _)| *sequence).collect();
    assert!(
        order.keys().all(|sequence| all.contains(sequence)),
        "not delivered: {:?}",
        order.keys().find(|s| !all.contains(s))
    );
    (got.len() - all.len()) as u64
}
