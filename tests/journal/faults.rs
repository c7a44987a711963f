//! What the journal does when it is killed, damaged, or the disk is full.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use inspectd::journal::{Journal, JournalConfig, JournalError};
use inspectd::record::EventKind;

use crate::peers::{self, wait_for};
use crate::{LONG, all, config, events, files, inspection, parts, write};

// --- kill -9 ---------------------------------------------------------------------------------------------

/// Not a test by itself: the child that `kill_9` starts and kills. Prints each part number that it reported.
#[test]
fn child_that_writes_until_killed() {
    let Ok(dir) = std::env::var("JOURNAL_TEST_CHILD") else { return };
    let journal = Journal::open(&config(Path::new(&dir))).unwrap();
    let counters = ["a", "b"].map(|s| (s, journal.station(s).unwrap()));
    let mut next = counters.each_ref().map(|(_, c)| c.next_part());
    let mut committed = journal.committed();
    let mut out = std::io::stdout();
    loop {
        for (i, (station, counter)) in counters.iter().enumerate() {
            let Some(slot) = journal.reserve() else { continue };
            counter.reported(next[i]);
            slot.write(inspection(station, next[i]));
            next[i] += 1;
        }
        let now = *committed.borrow_and_update();
        writeln!(out, "committed {}", now.sequence).unwrap();
    }
}

#[test]
fn kill_9_loses_nothing_committed_and_the_gap_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut uuid = None;
    let (mut gaps, mut total) = (0, 0);
    for round in 0..6 {
        let mut child = Command::new(peers::own_program())
            .args(["--exact", "faults::child_that_writes_until_killed", "--nocapture"])
            .env("JOURNAL_TEST_CHILD", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut committed = 0;
        let began = Instant::now();
        for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
            if let Some(sequence) = line.split("committed ").nth(1) {
                committed = sequence.parse().unwrap();
            }
            if committed > total + 200 && began.elapsed() > Duration::from_millis(150 + 70 * round) {
                child.kill().unwrap(); // SIGKILL
            }
        }
        child.wait().unwrap();
        let journal = Journal::open(&config(dir.path())).unwrap();
        let now = *journal.committed().borrow();
        assert!(now.sequence >= committed, "committed {committed}, found {}", now.sequence);
        assert_eq!(*uuid.get_or_insert(now.journal), now.journal);
        total = now.sequence;
        let told = events(dir.path());
        let lost = told.iter().filter(|(kind, _)| *kind == EventKind::InspectionsLost).count();
        assert_eq!(
            told.iter().filter(|(kind, _)| *kind == EventKind::UncleanStop).count(),
            round as usize + 1
        );
        check_parts(dir.path(), &journal, &told);
        gaps += lost - gaps.min(lost);
        journal.close().unwrap();
    }
    println!("6 kills: {total} records, {gaps} gaps told");
    let sequences: Vec<_> = all(dir.path()).iter().map(|e| e.sequence).collect();
    assert_eq!(sequences, (1..=total).collect::<Vec<_>>(), "no sequence is lost or used twice");
}

/// Every part up to the next number is in the journal, or named by exactly one event.
fn check_parts(dir: &Path, journal: &Journal, told: &[(EventKind, String)]) {
    for station in ["a", "b"] {
        let mut known = parts(dir, station);
        for (_, message) in told.iter().filter(|(kind, _)| *kind == EventKind::InspectionsLost) {
            if message.contains(&format!("station {station} ")) {
                let range = message.rsplit(": ").next().unwrap();
                let (first, last) = range.split_once(" to ").unwrap();
                known.extend(first.parse::<u64>().unwrap()..=last.parse().unwrap());
            }
        }
        known.sort_unstable();
        let next = journal.station(station).unwrap().next_part();
        assert_eq!(known, (1..next).collect::<Vec<_>>(), "station {station}");
    }
}

#[test]
fn reported_and_never_handed_over_is_told_by_number_once() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(dir.path())).unwrap();
    let counter = journal.station("press").unwrap();
    for part in 1..=5 {
        counter.reported(part);
        write(&journal, "press", part);
    }
    (6..=9).for_each(|part| counter.reported(part));
    journal.close().unwrap();
    for _ in 0..2 {
        let journal = Journal::open(&config(dir.path())).unwrap();
        assert_eq!(journal.station("press").unwrap().next_part(), 10);
        journal.close().unwrap();
    }
    let told = events(dir.path());
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].0, EventKind::InspectionsLost);
    assert!(told[0].1.contains("station press") && told[0].1.ends_with("6 to 9"), "{}", told[0].1);
}

// --- damage ----------------------------------------------------------------------------------------------

/// A closed journal with 500 parts.
fn filled() -> (tempfile::TempDir, uuid::Uuid) {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(dir.path())).unwrap();
    let uuid = journal.committed().borrow().journal;
    let counter = journal.station("a").unwrap();
    for part in 1..=500 {
        counter.reported(part);
        write(&journal, "a", part);
    }
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
        let journal = Journal::open(&config(dir.path())).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_ne!(journal.committed().borrow().journal, uuid, "{what}");
        assert_eq!(journal.health().borrow().quarantined, 1, "{what}");
        assert_eq!(journal.station("a").unwrap().next_part(), 501, "{what}: numbers go on");
        write(&journal, "a", 501);
        journal.close().unwrap();
        let told = events(dir.path());
        assert_eq!(told.iter().map(|t| t.0).collect::<Vec<_>>(), [EventKind::JournalQuarantined], "{what}");
        assert_eq!(parts(dir.path(), "a"), [501], "{what}");
        let aside = files(dir.path(), "journal.quarantined-");
        let database = aside.iter().find(|p| p.extension().unwrap() == "db").unwrap();
        assert_eq!(std::fs::read(database).unwrap(), bytes, "{what}: put aside as it was");
        let again = Journal::open(&config(dir.path())).unwrap();
        again.close().unwrap();
        assert_eq!(events(dir.path()).len(), 1, "{what}: told once, not looped on");
    }
}

#[test]
fn damage_found_while_running_loses_nothing_in_hand() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(dir.path())).unwrap();
    for part in 1..=300 {
        write(&journal, "a", part);
    }
    wait_for("the first parts", LONG, || journal.committed().borrow().sequence >= 300);
    let before = *journal.committed().borrow();
    journal.suspect(uuid::Uuid::new_v4(), "of another journal"); // is ignored
    let slots: Vec<_> = (301..=340).map(|part| (part, journal.reserve().unwrap())).collect();
    journal.suspect(before.journal, "a reader saw a damaged page");
    for (part, slot) in slots {
        slot.write(inspection("a", part));
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
    let journal = Journal::open(&config(dir.path())).unwrap();
    let before = journal.committed().borrow().journal;
    for part in 1..=2_000 {
        write(&journal, "a", part);
    }
    wait_for("the first parts", LONG, || journal.queued() == 0);
    // Garbage over everything but the locks' bytes: the writer meets it when its cache turns over.
    for name in ["journal.db", "journal.db-wal"] {
        let file = std::fs::File::options().write(true).open(dir.path().join(name)).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0xA5; 4096 * 64], 0).unwrap();
    }
    let mut part = 2_000;
    wait_for("the journal to be put aside or go on", LONG, || {
        part += 1;
        write(&journal, "a", part);
        journal.committed().borrow().journal != before || part > 6_000
    });
    let put_aside = journal.committed().borrow().journal != before;
    let closed = journal.close().is_ok();
    println!("damaged while running: put aside: {put_aside}, closed: {closed}, after {} parts", part - 2_000);
    // At the latest the next start finds it.
    let again = Journal::open(&config(dir.path())).unwrap();
    assert_ne!(again.committed().borrow().journal, before);
    again.close().unwrap();
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let (dir, _) = filled();
    let path = dir.path().join("journal.db");
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.execute("UPDATE meta SET value = '7' WHERE key = 'schema'", []).unwrap();
    drop(conn);
    let error = Journal::open(&config(dir.path())).err().expect("refused");
    assert!(matches!(error, JournalError::NewerSchema { got: 7, .. }));
    assert!(!error.heals());
    assert!(error.to_string().contains("at most 1, got 7"), "{error}");
    assert!(path.exists() && files(dir.path(), "quarantined").is_empty());
}

#[test]
fn after_a_power_cut_no_number_is_used_again() {
    let (dir, _) = filled();
    let conn = rusqlite::Connection::open(dir.path().join("journal.db")).unwrap();
    conn.execute("UPDATE meta SET value = '0' WHERE key = 'clean'", []).unwrap();
    conn.execute("UPDATE meta SET value = 'another start' WHERE key = 'boot'", []).unwrap();
    drop(conn);
    let journal = Journal::open(&config(dir.path())).unwrap();
    assert_eq!(journal.station("a").unwrap().next_part(), 10_501);
    assert_eq!(journal.committed().borrow().sequence, 10_501, "the event is the first after the jump");
    journal.close().unwrap();
    let told = events(dir.path());
    assert!(
        told.len() == 1 && told[0].0 == EventKind::UncleanStop && told[0].1.contains("skip 10000"),
        "{told:?}"
    );
}

#[test]
fn a_damaged_count_file_costs_only_itself() {
    let (dir, uuid) = filled();
    std::fs::write(dir.path().join("reported.bin"), [0xA5; 5_000]).unwrap();
    let journal = Journal::open(&config(dir.path())).unwrap();
    assert_eq!(journal.committed().borrow().journal, uuid);
    let counter = journal.station("a").unwrap();
    assert_eq!(counter.next_part(), 501);
    counter.reported(501);
    journal.close().unwrap();
    let again = Journal::open(&config(dir.path())).unwrap();
    assert_eq!(again.station("a").unwrap().next_part(), 502);
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
    let dir = disk.0.path();
    let journal = Journal::open(&JournalConfig { queue_records: 64, ..config(dir) }).unwrap();
    let ballast = dir.join("ballast");
    std::fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    let mut part = 0;
    let mut refused = Instant::now();
    wait_for("the queue to be full for 300 ms", LONG, || {
        if let Some(slot) = journal.reserve() {
            part += 1;
            slot.write(inspection("a", part));
            refused = Instant::now();
        }
        refused.elapsed() > Duration::from_millis(300)
    });
    let error = journal.health().borrow().error.clone().expect("the reason is shown");
    assert!(error.contains("full"), "{error}");
    println!("disk full after {part} parts: {error}");
    std::fs::remove_file(&ballast).unwrap();
    wait_for("the journal to heal", LONG, || journal.queued() == 0);
    assert_eq!(journal.health().borrow().error, None);
    write(&journal, "a", part + 1);
    journal.close().unwrap();
    assert_eq!(parts(dir, "a"), (1..=part + 1).collect::<Vec<_>>(), "nothing handed over was lost");
    assert_eq!(journal.health().borrow().quarantined, 0, "a full disk is no damage");
}

#[test]
fn closing_on_a_full_disk_ends_in_time_and_says_what_is_lost() {
    let Some(disk) = SmallDisk::mount() else {
        println!("SKIPPED closing_on_a_full_disk_ends_in_time_and_says_what_is_lost: needs root");
        return;
    };
    let journal = Journal::open(&JournalConfig { queue_records: 64, ..config(disk.0.path()) }).unwrap();
    while std::fs::File::options()
        .create(true)
        .append(true)
        .open(disk.0.path().join("ballast"))
        .unwrap()
        .write_all(&[1; 4096])
        .is_ok()
    {}
    for part in 1..=64 {
        if let Some(slot) = journal.reserve() {
            slot.write(inspection("a", part));
        }
    }
    let began = Instant::now();
    let error = journal.close().expect_err("cannot be written");
    assert!(matches!(error, JournalError::NotWritten { records: 1.., .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}
