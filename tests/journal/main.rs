//! The journal: hand-over, bounds, cursors; in `faults.rs` real kills, damaged files and a really full disk.

#![allow(clippy::unwrap_used)]

mod faults;
#[path = "../peers/mod.rs"]
mod peers;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use inspect_core::verdict::Verdict;
use inspectd::journal::{Committed, Entry, Journal, JournalConfig, JournalError, JournalReader};
use inspectd::record::{Event, EventKind, Gate, Inspection, RECORD_SCHEMA, Times, Trigger, TriggerSource};
use peers::wait_for;
use proptest::prelude::*;

const LONG: Duration = Duration::from_secs(30);

fn config(dir: &Path) -> JournalConfig {
    JournalConfig { dir: dir.to_owned(), ..JournalConfig::default() }
}

fn inspection(station: &str, part: u64) -> Inspection {
    Inspection {
        schema: RECORD_SCHEMA,
        station: station.into(),
        part,
        trigger: Trigger::new(TriggerSource::Clock, jiff::Timestamp::now()),
        recipe: None,
        views: vec![],
        verdict: Verdict::Reject,
        reason: Some("x".repeat(600)), // about the size of a real one
        gate: Gate::Reject,
        review_at_gate: Gate::Reject,
        simulated: true,
        truth: None,
        times_us: Times::default(),
    }
}

/// Writes one inspection as a station does; waits for a slot.
fn write(journal: &Journal, station: &str, part: u64) {
    let mut slot = journal.reserve();
    wait_for("a slot", LONG, || {
        if slot.is_none() {
            slot = journal.reserve();
        }
        slot.is_some()
    });
    slot.unwrap().write(inspection(station, part));
}

fn all(dir: &Path) -> Vec<Entry> {
    JournalReader::open(dir).unwrap().after(0, usize::MAX >> 1).unwrap()
}

fn events(dir: &Path) -> Vec<(EventKind, String)> {
    let entries = all(dir).into_iter().filter(|e| e.kind == "event");
    entries.map(|e| serde_json::from_str::<Event>(&e.json).unwrap()).map(|e| (e.event, e.message)).collect()
}

fn parts(dir: &Path, station: &str) -> Vec<u64> {
    let of_station = |e: &Entry| e.kind == "inspection" && e.station.as_deref() == Some(station);
    let entries = all(dir).into_iter().filter(of_station);
    entries.map(|e| serde_json::from_str::<Inspection>(&e.json).unwrap().part).collect()
}

fn files(dir: &Path, like: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.filter(|p| p.file_name().unwrap().to_string_lossy().contains(like)).collect()
}

#[test]
fn everything_handed_over_is_there_after_closing() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(dir.path())).unwrap();
    let counter = journal.station("a").unwrap();
    assert_eq!(counter.next_part(), 1);
    for part in 1..=3_000 {
        counter.reported(part);
        write(&journal, "a", part);
    }
    assert!(matches!(Journal::open(&config(dir.path())), Err(JournalError::InUse { .. })));
    journal.close().unwrap();
    assert!(journal.reserve().is_none(), "a closed journal takes nothing");
    assert_eq!(parts(dir.path(), "a"), (1..=3_000).collect::<Vec<_>>());
    let again = Journal::open(&config(dir.path())).unwrap();
    assert_eq!(again.station("a").unwrap().next_part(), 3_001);
    assert_eq!(again.committed().borrow().sequence, 3_000);
    again.close().unwrap();
    assert_eq!(events(dir.path()), []);
}

#[test]
fn dropping_without_closing_writes_but_is_an_unclean_stop() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(dir.path())).unwrap();
    let first = journal.committed().borrow().journal;
    write(&journal, "a", 1);
    drop(journal);
    let mut opened = Journal::open(&config(dir.path()));
    wait_for("the writer thread to end", LONG, || {
        if opened.is_err() {
            opened = Journal::open(&config(dir.path()));
        }
        opened.is_ok()
    });
    let journal = opened.unwrap();
    assert_eq!(journal.committed().borrow().journal, first);
    assert_eq!(parts(dir.path(), "a"), [1]);
    assert_eq!(events(dir.path())[0].0, EventKind::UncleanStop);
    journal.close().unwrap();
}

#[test]
fn a_full_queue_refuses_and_heals() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&JournalConfig { queue_records: 16, ..config(dir.path()) }).unwrap();
    let mut slots: Vec<_> = (0..16).map(|_| journal.reserve().unwrap()).collect();
    assert!(journal.reserve().is_none());
    assert_eq!(journal.queued(), 16);
    drop(slots.pop());
    slots.push(journal.reserve().expect("a slot dropped unwritten is free again"));
    for (part, slot) in slots.into_iter().enumerate() {
        slot.write(inspection("a", part as u64 + 1));
    }
    wait_for("all slots to be free", LONG, || journal.queued() == 0);
    journal.close().unwrap();
    assert_eq!(parts(dir.path(), "a").len(), 16);
}

#[test]
fn old_records_are_deleted_but_never_undelivered_ones() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&JournalConfig { keep_records: 1_000, ..config(dir.path()) }).unwrap();
    let uuid = journal.committed().borrow().journal;
    journal.set_cursor("mqtt", uuid, 0);
    (1..=3_000).for_each(|part| write(&journal, "a", part));
    wait_for("all parts", LONG, || journal.queued() == 0);
    assert_eq!(all(dir.path()).len(), 3_000, "the cursor stands at 0");
    journal.set_cursor("mqtt", uuid, 2_500);
    let mut part = 3_000;
    wait_for("deletion", LONG, || {
        part += 1;
        write(&journal, "a", part);
        all(dir.path())[0].sequence > 1_000
    });
    assert!(all(dir.path()).last().unwrap().sequence > 3_000);
    journal.forget_cursor("mqtt");
    (0..2_000).for_each(|_| {
        part += 1;
        write(&journal, "a", part);
    });
    journal.close().unwrap();
    let left = all(dir.path());
    assert!(left.len() <= 1_000 + 256, "{}", left.len());
    assert!(left.windows(2).all(|w| w[1].sequence == w[0].sequence + 1));
}

#[test]
fn reporting_costs_the_line_microseconds_while_the_journal_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(dir.path())).unwrap();
    let counter = journal.station("a").unwrap();
    let mut times: [Vec<Duration>; 3] = Default::default();
    let until = Instant::now() + Duration::from_secs(6); // at least one sync within
    let mut part = 0;
    while Instant::now() < until {
        part += 1;
        let began = Instant::now();
        let Some(slot) = journal.reserve() else { continue };
        times[0].push(began.elapsed());
        let began = Instant::now();
        counter.reported(part);
        times[1].push(began.elapsed());
        let record = inspection("a", part);
        let began = Instant::now();
        slot.write(record);
        times[2].push(began.elapsed());
        std::thread::sleep(Duration::from_micros(500));
    }
    journal.close().unwrap();
    for (what, mut times) in ["reserve", "reported", "write"].into_iter().zip(times) {
        times.sort();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!(
            "{what}: n {} p50 {:?} p99 {:?} p99.9 {:?} max {:?}",
            times.len(),
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        );
        assert!(at(0.5) < Duration::from_micros(500), "{what}");
    }
}

#[derive(Debug, Clone)]
enum Op {
    Write(u64),
    Event,
    Cursor(u64),
    Reopen { clean: bool },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1u64..40).prop_map(Op::Write),
        2 => Just(Op::Event),
        3 => (0u64..200).prop_map(Op::Cursor),
        1 => any::<bool>().prop_map(|clean| Op::Reopen { clean }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    /// Sequences have no gaps, reading in pieces gives the whole, a cursor never moves back or past the end.
    #[test]
    fn sequences_are_contiguous_and_cursors_only_grow(ops in prop::collection::vec(op(), 1..25), piece in 1usize..50) {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(&config(dir.path())).unwrap();
        let (mut written, mut part, mut cursor) = (0, 0, 0);
        for op in ops {
            match op {
                Op::Write(n) => for _ in 0..n {
                    part += 1;
                    written += 1;
                    write(&journal, "a", part);
                },
                Op::Event => {
                    written += 1;
                    journal.event(Event::now(EventKind::Started, None, "x"));
                }
                Op::Cursor(to) => {
                    let now: Committed = *journal.committed().borrow();
                    journal.set_cursor("c", now.journal, to);
                    let reader = JournalReader::open(dir.path()).unwrap();
                    wait_for("the cursor", LONG, || reader.cursor("c").unwrap().is_some_and(|at| at >= to.min(now.sequence)));
                    let at = reader.cursor("c").unwrap().unwrap();
                    prop_assert!(at >= cursor && at <= journal.committed().borrow().sequence.max(at.min(written)));
                    cursor = at;
                }
                Op::Reopen { clean: true } => {
                    journal.close().unwrap();
                    journal = Journal::open(&config(dir.path())).unwrap();
                    prop_assert_eq!(journal.station("a").unwrap().next_part(), part + 1);
                }
                Op::Reopen { clean: false } => {
                    drop(journal);
                    let mut opened = Journal::open(&config(dir.path()));
                    wait_for("the writer thread to end", LONG, || {
                        if opened.is_err() { opened = Journal::open(&config(dir.path())); }
                        opened.is_ok()
                    });
                    journal = opened.unwrap();
                    written += 1; // UncleanStop
                }
            }
        }
        journal.close().unwrap();
        let reader = JournalReader::open(dir.path()).unwrap();
        let mut read = Vec::new();
        loop {
            let next = reader.after(read.last().copied().unwrap_or(0), piece).unwrap();
            if next.is_empty() { break; }
            read.extend(next.iter().map(|e| e.sequence));
        }
        prop_assert_eq!(read, (1..=written).collect::<Vec<_>>());
    }
}
