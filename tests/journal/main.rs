//! The journal: hand-over, bounds, cursors; in `faults.rs` real kills, damaged files and a really full disk, in
//! `power_cut.rs` torn files, in `cli.rs` what `inspectd journal` says.

#![allow(clippy::unwrap_used)]

mod cli;
mod faults;
mod figures;
#[path = "../peers/mod.rs"]
mod peers;
mod power_cut;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use inspect_core::verdict::{FaultCode, Verdict};
use inspectd::journal::{
    COMMIT_EVERY, Committed, Entry, Journal, JournalConfig, JournalError, JournalReader, Moment, Slot, Taken,
};
use inspectd::plc::result::{Accepted, Identity, PartKind, Published};
use inspectd::record::{Event, EventKind, Gate, Inspection, RECORD_SCHEMA, Times, Trigger, TriggerSource};
use peers::wait_for;
use proptest::prelude::*;

const LONG: Duration = Duration::from_secs(30);
/// Of the ring, where a test says nothing else.
const SLOTS: usize = 1_024;

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

/// A part as a PLC's trigger brings it.
fn take(journal: &Journal, station: &str) -> Taken {
    let identity = Identity::default();
    let accepted =
        Accepted { trigger_id: 9, at: Instant::now(), kind: PartKind::Part, identity, bypass: false };
    journal.station(station, TriggerSource::Plc, true).unwrap().take(accepted)
}

/// Writes one inspection as a station does; waits until there is a slot. Its number.
fn write(journal: &Journal, station: &str) -> u64 {
    wait_for("a slot", LONG, || journal.queued() < SLOTS);
    let taken = take(journal, station);
    judge(taken.slot.unwrap(), inspection(station, taken.part));
    taken.part
}

/// As publication does.
fn judge(slot: Slot, record: Inspection) {
    assert!(slot.judged(&record));
    let published = Published { verdict: record.verdict, gate: record.gate, overrun: false };
    slot.published(&published, 0);
    slot.write(record);
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
    let journal = Journal::open(&config(dir.path()), dir.path()).unwrap();
    for part in 1..=3_000 {
        assert_eq!(write(&journal, "a"), part);
    }
    assert!(matches!(Journal::open(&config(dir.path()), dir.path()), Err(JournalError::InUse { .. })));
    journal.close().unwrap();
    assert!(take(&journal, "a").slot.is_none(), "a closed journal takes nothing");
    assert_eq!(parts(dir.path(), "a"), (1..=3_000).collect::<Vec<_>>());
    let again = Journal::open(&config(dir.path()), dir.path()).unwrap();
    assert_eq!(again.committed().borrow().sequence, 3_001, "the part without a slot is told");
    assert_eq!(take(&again, "a").part, 3_002, "its number is not used again");
    again.close().unwrap();
    assert!(matches!(&events(dir.path())[..], [(EventKind::InspectionsLost, _)]));
}

#[test]
fn dropping_without_closing_writes_but_is_an_unclean_stop() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(dir.path()), dir.path()).unwrap();
    let first = journal.committed().borrow().journal;
    write(&journal, "a");
    drop(journal);
    let mut opened = Journal::open(&config(dir.path()), dir.path());
    wait_for("the writer thread to end", LONG, || {
        if opened.is_err() {
            opened = Journal::open(&config(dir.path()), dir.path());
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
fn a_full_ring_refuses_and_heals_and_a_part_that_is_given_up_is_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let config = JournalConfig { ring_slots: 16, ..config(dir.path()) };
    let journal = Journal::open(&config, dir.path()).unwrap();
    let mut taken: Vec<_> = (0..16).map(|_| take(&journal, "a")).collect();
    assert!(take(&journal, "a").slot.is_none());
    assert_eq!(journal.queued(), 16);
    taken.pop().unwrap().slot.unwrap().give_back();
    taken.push(take(&journal, "a"));
    assert!(taken[15].slot.is_some(), "a slot given back is free again");
    drop(taken.remove(0));
    for Taken { part, slot, .. } in taken {
        judge(slot.unwrap(), inspection("a", part));
    }
    wait_for("all slots to be free", LONG, || journal.queued() == 0);
    journal.close().unwrap();
    let numbers: Vec<u64> = (1..=15).chain([18]).collect();
    assert_eq!(parts(dir.path(), "a"), numbers);
    let entries = all(dir.path());
    let first = entries.iter().find(|entry| entry.kind == "inspection").unwrap();
    let first: Inspection = serde_json::from_str(&first.json).unwrap();
    assert_eq!((first.part, first.verdict), (1, Verdict::Fault(FaultCode::Internal)));
    assert_eq!(first.trigger.trigger_id, Some(9));
}

#[test]
fn a_part_given_up_after_its_verdict_was_told_keeps_that_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(dir.path()), dir.path()).unwrap();
    let Taken { part, slot, .. } = take(&journal, "a");
    let (slot, record) = (slot.unwrap(), inspection("a", part));
    assert!(slot.judged(&record));
    slot.published(&Published { verdict: record.verdict, gate: record.gate, overrun: false }, 0);
    drop(slot);
    assert!(journal.is_settled(), "a stop does not wait for it");
    journal.close().unwrap();
    Journal::open(&config(dir.path()), dir.path()).unwrap().close().unwrap();
    let kept: Inspection = serde_json::from_str(&all(dir.path())[0].json).unwrap();
    assert_eq!((kept.part, kept.verdict), (part, record.verdict));
}

#[test]
fn a_start_that_is_broken_off_loses_none_of_what_the_ring_held() {
    let dir = tempfile::tempdir().unwrap();
    let open = |fails_at: Option<Moment>| {
        let fails = move |moment| match fails_at == Some(moment) {
            true => Err(std::io::Error::from_raw_os_error(28)), // ENOSPC
            false => Ok(()),
        };
        Journal::open_stepped(&config(dir.path()), dir.path(), Box::new(fails)).unwrap()
    };
    let (journal, steps) = open(None);
    for part in 1..=5 {
        judge(take(&journal, "a").slot.unwrap(), inspection("a", part));
    }
    drop((journal, steps));
    for moment in [Moment::Before, Moment::After, Moment::After] {
        let (journal, steps) = open(Some(moment));
        assert!(take(&journal, "a").slot.is_none(), "not open");
        drop((journal, steps));
    }
    let (journal, mut steps) = open(None);
    assert!(steps.step() && steps.close());
    assert_eq!(parts(dir.path(), "a"), [1, 2, 3, 4, 5]);
    let lost = all(dir.path()).into_iter().filter_map(|e| serde_json::from_str::<Event>(&e.json).ok()?.lost);
    assert!(lost.map(|lost| lost.parts).sum::<u64>() >= 3, "and those without a place are told");
    drop(journal);
}

#[test]
fn a_later_part_told_as_lost_makes_none_before_it_count_as_written() {
    let dir = tempfile::tempdir().unwrap();
    let config = JournalConfig { ring_slots: 16, ..config(dir.path()) };
    let open = || Journal::open_stepped(&config, dir.path(), Box::new(|_| Ok(()))).unwrap();
    let (journal, mut steps) = open();
    let mut taken: Vec<_> = (0..16).map(|_| take(&journal, "a")).collect();
    assert!(take(&journal, "a").slot.is_none(), "the 17th");
    let in_hand = taken.pop().unwrap();
    for Taken { part, slot, .. } in taken {
        judge(slot.unwrap(), inspection("a", part));
    }
    assert!(steps.step());
    std::mem::forget(in_hand.slot); // `kill -9`: nothing is handed over any more
    drop((journal, steps));
    let ring = std::fs::read(dir.path().join("ring.bin")).unwrap();
    // Another process: the lock of this one goes with its file.
    let copy = tempfile::tempdir().unwrap();
    std::fs::write(copy.path().join("ring.bin"), ring).unwrap();
    let (journal, mut steps) = Journal::open_stepped(&config, copy.path(), Box::new(|_| Ok(()))).unwrap();
    assert!(steps.step() && steps.close());
    assert_eq!(parts(dir.path(), "a"), (1..=16).collect::<Vec<_>>());
    drop(journal);
}

#[test]
fn a_new_journal_keeps_what_a_consumer_has_not_had_though_it_never_came() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(dir.path()), dir.path()).unwrap();
    journal.add_consumer("mqtt");
    write(&journal, "a");
    wait_for("the part", LONG, || journal.is_settled());
    let before = journal.committed().borrow().journal;
    journal.suspect(before, "damaged");
    write(&journal, "a");
    wait_for("a new one", LONG, || journal.is_settled() && journal.committed().borrow().journal != before);
    journal.close().unwrap();
    assert_eq!(JournalReader::open(dir.path()).unwrap().cursor("mqtt").unwrap(), Some(0));
}

/// Records of 6,000 bytes, two pages each: one megabyte is some 120 of them.
fn write_long(journal: &Journal, count: usize) {
    for _ in 0..count {
        wait_for("a slot", LONG, || journal.queued() < SLOTS);
        let taken = take(journal, "a");
        let reason = Some("x".repeat(6_000));
        judge(taken.slot.unwrap(), Inspection { reason, ..inspection("a", taken.part) });
    }
    wait_for("all parts", LONG, || journal.is_settled());
}

#[test]
fn old_records_are_deleted_and_undelivered_ones_only_at_the_hard_bound_with_an_alarm() {
    let dir = tempfile::tempdir().unwrap();
    let config = JournalConfig { max_mb: 1, keep_days: 0, ..config(dir.path()) };
    let journal = Journal::open(&config, dir.path()).unwrap();
    let uuid = journal.committed().borrow().journal;
    journal.set_cursor("mqtt", uuid, 0);
    write_long(&journal, 200);
    assert_eq!(all(dir.path()).len(), 200, "over max_mb, and not delivered");
    journal.set_cursor("mqtt", uuid, 150);
    write_long(&journal, 20);
    let left = all(dir.path());
    assert!((21..=151).contains(&left[0].sequence), "{}", left[0].sequence);
    assert!(events(dir.path()).is_empty() && journal.health().borrow().dropped_undelivered == 0);
    // Nobody takes anything any more.
    write_long(&journal, 600);
    let health = journal.health().borrow().clone();
    assert!(health.dropping_undelivered && health.dropped_undelivered > 200, "{health:?}");
    let told = events(dir.path());
    let alarm = |told: &[(EventKind, String)]| matches!(told, [(EventKind::UndeliveredDropped, _)]);
    assert!(alarm(&told), "told, and again only where that itself had to go: {told:?}");
    assert!(all(dir.path()).len() < 2 * 250);
    // Closed and opened again, it is still the same trouble.
    journal.close().unwrap();
    let journal = Journal::open(&config, dir.path()).unwrap();
    write_long(&journal, 50);
    assert!(journal.health().borrow().dropped_undelivered > health.dropped_undelivered);
    assert!(alarm(&events(dir.path())));
    journal.set_cursor("mqtt", uuid, 1_000_000);
    wait_for("it to heal", LONG, || {
        write_long(&journal, 5);
        !journal.health().borrow().dropping_undelivered
    });
    let dropped = journal.health().borrow().dropped_undelivered;
    journal.close().unwrap();
    let told = events(dir.path());
    assert!(
        told.last().unwrap().1.contains(&format!(
            "no more undelivered records are dropped; since the journal began it were {dropped}"
        )),
        "{told:?}"
    );
    let left = all(dir.path());
    assert!(left.windows(2).all(|w| w[1].sequence == w[0].sequence + 1));
    assert!(
        std::fs::metadata(dir.path().join("journal.db")).unwrap().len() < 5_000_000,
        "the hard bound and a batch"
    );
}

#[test]
fn every_record_comes_to_the_disk_and_what_that_costs_the_line_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(dir.path()), dir.path()).unwrap();
    let mut times: [Vec<Duration>; 4] = Default::default();
    let until = Instant::now() + Duration::from_secs(5);
    let mut waiting: VecDeque<(u64, Instant)> = VecDeque::new();
    let first = journal.committed().borrow().sequence;
    while Instant::now() < until {
        let began = Instant::now();
        let taken = take(&journal, "a");
        times[0].push(began.elapsed());
        let Some(slot) = taken.slot else { continue };
        let record = inspection("a", taken.part);
        let began = Instant::now();
        assert!(slot.judged(&record));
        let published = Published { verdict: record.verdict, gate: record.gate, overrun: false };
        slot.published(&published, 0);
        times[1].push(began.elapsed());
        let began = Instant::now();
        slot.write(record);
        times[2].push(began.elapsed());
        waiting.push_back((first + taken.part, Instant::now()));
        let committed = journal.committed().borrow().sequence;
        while let Some((_, at)) = waiting.pop_front_if(|(sequence, _)| *sequence <= committed) {
            times[3].push(at.elapsed());
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    journal.close().unwrap();
    let last = waiting.back().map_or(0, |(sequence, _)| *sequence);
    assert!(journal.committed().borrow().sequence >= last);
    println!("committed together: what comes within {COMMIT_EVERY:?}");
    for (what, mut times) in ["take", "judged", "write", "to the disk"].into_iter().zip(times) {
        times.sort();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        let (p50, p99, p999, most) = (at(0.5), at(0.99), at(0.999), at(1.0));
        println!("{what}: n {} p50 {p50:?} p99 {p99:?} p99.9 {p999:?} max {most:?}", times.len());
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
        let mut journal = Journal::open(&config(dir.path()), dir.path()).unwrap();
        let (mut written, mut part, mut cursor) = (0, 0, 0);
        for op in ops {
            match op {
                Op::Write(n) => for _ in 0..n {
                    part += 1;
                    written += 1;
                    prop_assert_eq!(write(&journal, "a"), part);
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
                    journal = Journal::open(&config(dir.path()), dir.path()).unwrap();
                }
                Op::Reopen { clean: false } => {
                    drop(journal);
                    let mut opened = Journal::open(&config(dir.path()), dir.path());
                    wait_for("the writer thread to end", LONG, || {
                        if opened.is_err() { opened = Journal::open(&config(dir.path()), dir.path()); }
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
