//! What the journal does when it is killed, damaged, or the disk is full.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use inspect_core::verdict::{FaultCode, Verdict};
use inspectd::journal::{CLOSE_LIMIT, Journal, JournalConfig, JournalError, Taken};
use inspectd::plc::result::Published;
use inspectd::record::{EventKind, Inspection};

use crate::peers::{self, wait_for};
use crate::{LONG, SLOTS, all, config, events, files, inspection, judge, parts, take, write};

// --- kill -9 ---------------------------------------------------------------------------------------------

/// Not a test by itself: the child that `kill_9` starts and kills. Prints each part number that it reported.
#[test]
fn child_that_writes_until_killed() {
    let Ok(dir) = std::env::var("JOURNAL_TEST_CHILD") else { return };
    let journal = Journal::open(&config(Path::new(&dir)), Path::new(&dir)).unwrap();
    let mut out = std::io::stdout();
    loop {
        for station in ["a", "b"] {
            if journal.queued() >= SLOTS {
                continue;
            }
            let taken = take(&journal, station);
            writeln!(out, "took {station} {}", taken.part).unwrap();
            // It may be killed here: then nobody knows the verdict.
            let record = inspection(station, taken.part);
            let slot = taken.slot.unwrap();
            assert!(slot.judged(&record));
            slot.published(&Published { verdict: record.verdict, gate: record.gate, overrun: false }, 0);
            writeln!(out, "reported {station} {}", taken.part).unwrap();
            slot.write(record);
        }
    }
}

/// Every part that the child said is in the journal once: as it was reported, or, where it was not, as a fault.
#[test]
fn kill_9_at_any_moment_loses_no_part() {
    let dir = tempfile::tempdir().unwrap();
    let mut uuid = None;
    let (mut took, mut reported) = (BTreeSet::new(), BTreeSet::new());
    let (mut from_ring, mut faults) = (0, 0);
    for round in 0..12 {
        let mut child = Command::new(peers::own_program())
            .args(["--exact", "faults::child_that_writes_until_killed", "--nocapture"])
            .env("JOURNAL_TEST_CHILD", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (before, began) = (reported.len(), Instant::now());
        for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
            let words: Vec<&str> = line.split_whitespace().rev().take(3).collect();
            let [number, station, what] = words[..] else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                w if w.ends_with("took") => _ = took.insert((station.to_owned(), number)),
                "reported" => _ = reported.insert((station.to_owned(), number)),
                _ => {}
            }
            if reported.len() > before + 300 && began.elapsed() > Duration::from_millis(150 + 37 * round) {
                child.kill().unwrap(); // SIGKILL
            }
        }
        child.wait().unwrap();
        let in_journal = parts(dir.path(), "a").len() + parts(dir.path(), "b").len();
        let journal = Journal::open(&config(dir.path()), dir.path()).unwrap();
        assert_eq!(
            *uuid.get_or_insert(journal.committed().borrow().journal),
            journal.committed().borrow().journal
        );
        wait_for("the ring to be empty", LONG, || journal.queued() == 0 && journal.is_settled());
        journal.close().unwrap();
        let records = records(dir.path());
        from_ring += records.len() - in_journal;
        let known: BTreeSet<_> = records.iter().map(|r| (r.station.clone(), r.part)).collect();
        assert_eq!(known.len(), records.len(), "no part is there twice");
        assert!(took.is_subset(&known), "missing: {:?}", took.difference(&known).collect::<Vec<_>>());
        let restarted = |r: &&Inspection| r.verdict == Verdict::Fault(FaultCode::Restarted);
        for record in records.iter().filter(restarted) {
            assert!(!reported.contains(&(record.station.clone(), record.part)), "{record:?}");
        }
        faults = records.iter().filter(restarted).count();
        assert!(faults <= 2 * (round as usize + 1));
    }
    let told = events(dir.path());
    assert_eq!(told.iter().filter(|(kind, _)| *kind == EventKind::UncleanStop).count(), 12);
    assert!(told.iter().all(|(kind, _)| *kind != EventKind::InspectionsLost), "{told:?}");
    assert!(from_ring > 0, "the ring was never needed, so little was shown");
    println!(
        "12 kills: {} parts, {from_ring} out of the ring, {faults} of them not judged, 0 lost",
        took.len()
    );
    let sequences: Vec<_> = all(dir.path()).iter().map(|e| e.sequence).collect();
    assert_eq!(
        sequences,
        (1..=sequences.len() as u64).collect::<Vec<_>>(),
        "no sequence is lost or used twice"
    );
}

fn records(dir: &Path) -> Vec<Inspection> {
    let inspections = all(dir).into_iter().filter(|e| e.kind == "inspection");
    inspections.map(|e| serde_json::from_str(&e.json).unwrap()).collect()
}

// --- damage ----------------------------------------------------------------------------------------------

/// A closed journal with 500 parts.
fn filled() -> (tempfile::TempDir, uuid::Uuid) {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(dir.path()), dir.path()).unwrap();
    let uuid = journal.committed().borrow().journal;
    (1..=500).for_each(|_| _ = write(&journal, "a"));
    journal.close().unwrap();
    (dir, uuid)
}

#[test]
fn a_damaged_journal_is_put_aside_and_a_new_one_begun() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 7] = [
        ("header", |b| b[..16].copy_from_slice(b"garbage garbage!")),
        ("page garbage", |b| b[4096 * 3..4096 * 12].fill(0xA5)),
        ("one page zeroed", |b| b[4096 * 20..4096 * 21].fill(0)),
        ("truncated", |b| b.truncate(b.len() / 2)),
        ("truncated within a page", |b| b.truncate(4096 * 7 + 100)),
        ("empty", Vec::clear),
        ("not SQLite at all", |b| *b = b"hello".repeat(1000)),
    ];
    for (what, damage) in damages {
        let (dir, uuid) = filled();
        let path = dir.path().join("journal.db");
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        let journal =
            Journal::open(&config(dir.path()), dir.path()).unwrap_or_else(|e| panic!("{what}: {e}"));
        wait_for(what, LONG, || journal.committed().borrow().journal != uuid);
        assert_eq!(journal.health().borrow().quarantined, 1, "{what}");
        assert_eq!(write(&journal, "a"), 501, "{what}: numbers go on");
        journal.close().unwrap();
        let told = events(dir.path());
        assert_eq!(told.iter().map(|t| t.0).collect::<Vec<_>>(), [EventKind::JournalQuarantined], "{what}");
        assert_eq!(parts(dir.path(), "a"), [501], "{what}");
        let aside = files(dir.path(), "journal.quarantined-");
        let database = aside.iter().find(|p| p.extension().unwrap() == "db").unwrap();
        assert_eq!(std::fs::read(database).unwrap(), bytes, "{what}: put aside as it was");
        let again = Journal::open(&config(dir.path()), dir.path()).unwrap();
        again.close().unwrap();
        assert_eq!(events(dir.path()).len(), 1, "{what}: told once, not looped on");
    }
}

#[test]
fn damage_found_while_running_loses_nothing_in_hand() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(dir.path()), dir.path()).unwrap();
    (1..=300).for_each(|_| _ = write(&journal, "a"));
    wait_for("the first parts", LONG, || journal.committed().borrow().sequence >= 300);
    let before = *journal.committed().borrow();
    journal.suspect(uuid::Uuid::new_v4(), "of another journal"); // is ignored
    let taken: Vec<_> = (301..=340).map(|_| take(&journal, "a")).collect();
    journal.suspect(before.journal, "a reader saw a damaged page");
    for Taken { part, slot, .. } in taken {
        judge(slot.unwrap(), inspection("a", part));
    }
    wait_for("the new journal", LONG, || journal.committed().borrow().journal != before.journal);
    wait_for("the batch", LONG, || journal.queued() == 0);
    journal.close().unwrap();
    let aside = files(dir.path(), "journal.quarantined-");
    let old = aside.iter().find(|p| p.extension().unwrap() == "db").unwrap();
    let there = tempfile::tempdir().unwrap();
    for suffix in ["", "-wal"] {
        let from = format!("{}{suffix}", old.display());
        std::fs::copy(from, there.path().join(format!("journal.db{suffix}"))).unwrap();
    }
    let mut known = parts(there.path(), "a");
    known.extend(parts(dir.path(), "a"));
    assert_eq!(known, (1..=340).collect::<Vec<_>>(), "each part is in the old or the new journal");
    assert_eq!(events(dir.path())[0].0, EventKind::JournalQuarantined);
    assert_eq!(journal.health().borrow().quarantined, 1);
}

#[test]
fn file_damaged_under_a_running_journal() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(dir.path()), dir.path()).unwrap();
    let before = journal.committed().borrow().journal;
    (1..=2_000).for_each(|_| _ = write(&journal, "a"));
    wait_for("the first parts", LONG, || journal.queued() == 0);
    // Garbage over everything but the locks' bytes: the writer meets it when its cache turns over.
    for name in ["journal.db", "journal.db-wal"] {
        let file = std::fs::File::options().write(true).open(dir.path().join(name)).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0xA5; 4096 * 64], 0).unwrap();
    }
    let mut part = 2_000;
    wait_for("the journal to be put aside or go on", LONG, || {
        part = write(&journal, "a");
        journal.committed().borrow().journal != before || part > 6_000
    });
    let put_aside = journal.committed().borrow().journal != before;
    let closed = journal.close().is_ok();
    println!("damaged while running: put aside: {put_aside}, closed: {closed}, after {} parts", part - 2_000);
    // At the latest the next start finds it.
    let again = Journal::open(&config(dir.path()), dir.path()).unwrap();
    wait_for("the next start to put it aside", LONG, || again.committed().borrow().journal != before);
    again.close().unwrap();
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let (dir, _) = filled();
    let path = dir.path().join("journal.db");
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.execute("UPDATE meta SET value = '7' WHERE key = 'schema'", []).unwrap();
    drop(conn);
    let error = Journal::open(&config(dir.path()), dir.path()).err().expect("refused");
    assert!(matches!(error, JournalError::NewerSchema { got: 7, .. }));
    assert!(!error.heals());
    assert!(error.to_string().contains("at most 2, got 7"), "{error}");
    assert!(path.exists() && files(dir.path(), "quarantined").is_empty());
}

#[test]
fn after_a_power_cut_no_number_is_used_again() {
    let (dir, _) = filled();
    let conn = rusqlite::Connection::open(dir.path().join("journal.db")).unwrap();
    conn.execute("UPDATE meta SET value = '0' WHERE key = 'clean'", []).unwrap();
    conn.execute("UPDATE meta SET value = 'another start' WHERE key = 'boot'", []).unwrap();
    drop(conn);
    let journal = Journal::open(&config(dir.path()), dir.path()).unwrap();
    assert_eq!(journal.committed().borrow().sequence, 10_501, "the event is the first after the jump");
    assert_eq!(write(&journal, "a"), 10_501);
    journal.close().unwrap();
    let told = events(dir.path());
    assert!(
        told.len() == 1 && told[0].0 == EventKind::UncleanStop && told[0].1.contains("skip 10000"),
        "{told:?}"
    );
}

#[test]
fn a_damaged_ring_costs_only_itself() {
    let (dir, uuid) = filled();
    std::fs::write(dir.path().join("ring.bin"), [0xA5; 5_000]).unwrap();
    let journal = Journal::open(&config(dir.path()), dir.path()).unwrap();
    assert_eq!(journal.committed().borrow().journal, uuid);
    assert_eq!(write(&journal, "a"), 501);
    journal.close().unwrap();
    let again = Journal::open(&config(dir.path()), dir.path()).unwrap();
    assert_eq!(write(&again, "a"), 502);
    again.close().unwrap();
}

// --- a bad disk ------------------------------------------------------------------------------------------

struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// A tmpfs of 2 MiB; `None` where this user may not mount.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        done.is_ok_and(|s| s.success()).then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_fills_the_queue_and_heals_by_itself() {
    let Some(disk) = SmallDisk::mount() else {
        println!("SKIPPED a_full_disk_fills_the_queue_and_heals_by_itself: mounting a tmpfs needs root");
        return;
    };
    let (dir, run_dir) = (disk.0.path(), tempfile::tempdir().unwrap());
    let journal = Journal::open(&JournalConfig { ring_slots: 64, ..config(dir) }, run_dir.path()).unwrap();
    let ballast = dir.join("ballast");
    std::fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    let mut part = 0;
    wait_for("the queue to be full, and the reason to be told", LONG, || {
        if journal.queued() < 64 {
            part += 1;
            let taken = take(&journal, "a");
            judge(taken.slot.unwrap(), inspection("a", taken.part));
        }
        journal.queued() == 64 && journal.health().borrow().error.is_some()
    });
    let error = journal.health().borrow().error.clone().expect("the reason is shown");
    assert!(error.contains("full"), "{error}");
    println!("disk full after {part} parts: {error}");
    std::fs::remove_file(&ballast).unwrap();
    wait_for("the journal to heal", LONG, || journal.queued() == 0);
    assert_eq!(journal.health().borrow().error, None);
    write(&journal, "a");
    journal.close().unwrap();
    assert_eq!(parts(dir, "a"), (1..=part + 1).collect::<Vec<_>>(), "nothing handed over was lost");
    assert_eq!(journal.health().borrow().quarantined, 0, "a full disk is no damage");
}

#[test]
fn closing_on_a_full_disk_ends_in_time_and_the_ring_keeps_what_it_could_not() {
    let Some(disk) = SmallDisk::mount() else {
        println!(
            "SKIPPED closing_on_a_full_disk_ends_in_time_and_the_ring_keeps_what_it_could_not: needs root"
        );
        return;
    };
    let run_dir = tempfile::tempdir().unwrap();
    let journal =
        Journal::open(&JournalConfig { ring_slots: 64, ..config(disk.0.path()) }, run_dir.path()).unwrap();
    while std::fs::File::options()
        .create(true)
        .append(true)
        .open(disk.0.path().join("ballast"))
        .unwrap()
        .write_all(&[1; 4096])
        .is_ok()
    {}
    for _ in 1..=64 {
        let taken = take(&journal, "a");
        judge(taken.slot.unwrap(), inspection("a", taken.part));
    }
    let began = Instant::now();
    let error = journal.close().expect_err("cannot be written");
    assert!(matches!(error, JournalError::NotWritten { records: 1.., .. }), "{error}");
    assert!(began.elapsed() < CLOSE_LIMIT * 3, "{:?}", began.elapsed());
    // Started on the full disk, it waits; with room it has them all.
    let again =
        Journal::open(&JournalConfig { ring_slots: 64, ..config(disk.0.path()) }, run_dir.path()).unwrap();
    assert!(again.health().borrow().error.as_ref().is_some_and(|error| error.contains("full")));
    std::fs::remove_file(disk.0.path().join("ballast")).unwrap();
    wait_for("the journal to heal", LONG, || again.health().borrow().error.is_none());
    again.close().unwrap();
    assert_eq!(parts(disk.0.path(), "a"), (1..=64).collect::<Vec<_>>());
}
