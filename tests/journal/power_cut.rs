//! A power cut, simulated: of what was written since the last sync, each sector of the disk has the old or the new.
//!
//! What SQLite syncs, and when (`synchronous = FULL`, wal.c): a commit syncs the `-wal`; a checkpoint syncs it, writes
//! the database, and syncs that; a `-wal` that begins anew has its header synced before anything else is written to it.
//! So between two commits there are three moments, and each is cut here.

use std::path::Path;

use inspectd::journal::{Entry, Journal, JournalConfig, JournalReader, check::check};
use inspectd::record::Inspection;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::peers::wait_for;
use crate::{LONG, all, config, inspection, judge, take};

/// The cuts are made by the test: what holds the files need not be a disk.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

const SECTOR: usize = 512;
const WAL_HEADER: usize = 32;
const SEEDS: u64 = 200;
const STEPS: u64 = 25;

/// Both files as they lie on the disk.
#[derive(Clone)]
struct Files {
    db: Vec<u8>,
    wal: Vec<u8>,
}

impl Files {
    fn read(dir: &Path) -> Self {
        let read = |name| std::fs::read(dir.join(name)).unwrap();
        Self { db: read("journal.db"), wal: read("journal.db-wal") }
    }
}

/// Of each sector the old or the new; the file is as long as the longer, or as the shorter.
fn mixed(old: &[u8], new: &[u8], random: &mut StdRng) -> (Vec<u8>, usize) {
    let share = random.random_range(0.0..1.0);
    let mut torn = 0;
    let long = random.random_bool(0.5);
    let length = if long { old.len().max(new.len()) } else { old.len().min(new.len()) };
    let mut mixed = vec![0; length];
    for (at, to) in mixed.chunks_mut(SECTOR).enumerate() {
        let of = |file: &[u8]| {
            let mut sector = vec![0; to.len()]; // past the end: nothing was written there
            let from = file.get(at * SECTOR..).unwrap_or_default();
            let count = from.len().min(to.len());
            sector[..count].copy_from_slice(&from[..count]);
            sector
        };
        let (old, new) = (of(old), of(new));
        torn += usize::from(old != new);
        to.copy_from_slice(if random.random_bool(share) { &new } else { &old });
    }
    (mixed, torn)
}

fn begins_anew(old: &Files, new: &Files) -> bool {
    old.wal.len() >= WAL_HEADER && old.wal[..WAL_HEADER] != new.wal[..WAL_HEADER]
}

/// What a cut between two commits may leave, and how many records must then be there.
fn cut(
    old: &Files,
    new: &Files,
    counts: (usize, usize),
    random: &mut StdRng,
) -> (Files, usize, &'static str, usize) {
    let (checkpointed, anew) = (old.db != new.db, begins_anew(old, new));
    match random.random_range(0..3) {
        // While the database is written: the commit before it is whole.
        0 | 1 if checkpointed => {
            let (db, torn) = mixed(&old.db, &new.db, random);
            (Files { db, wal: new.wal.clone() }, counts.1, "checkpoint", torn)
        }
        // While a `-wal` begins anew: its header is there or not, and nothing else.
        0 | 1 if anew => {
            let mut wal = old.wal.clone();
            if random.random_bool(0.5) {
                wal[..WAL_HEADER].copy_from_slice(&new.wal[..WAL_HEADER]);
            }
            (Files { db: old.db.clone(), wal }, counts.0, "new -wal", 1)
        }
        // While the commit is written.
        _ => {
            let mut before = old.wal.clone();
            if before.len() >= WAL_HEADER {
                before[..WAL_HEADER].copy_from_slice(&new.wal[..WAL_HEADER]);
            }
            let (wal, torn) = mixed(&before, &new.wal, random);
            (Files { db: old.db.clone(), wal }, counts.0, "commit", torn)
        }
    }
}

#[test]
fn a_power_cut_at_any_moment_leaves_every_committed_record_in_a_sound_journal() {
    let dir = folder();
    // One commit for each step, whatever the machine does meanwhile.
    let (journal, mut steps) =
        Journal::open_stepped(&config(dir.path()), dir.path(), Box::new(|_| Ok(()))).unwrap();
    let mut before = Files::read(dir.path());
    let mut committed = 0;
    let mut seen = std::collections::BTreeMap::<&str, (u32, usize)>::new();
    for step in 0..STEPS {
        for _ in 0..60 {
            let taken = take(&journal, "a");
            let reason = Some("x".repeat(5_000));
            judge(taken.slot.unwrap(), Inspection { reason, ..inspection("a", taken.part) });
        }
        assert!(steps.step() && journal.is_settled());
        let (now, whole) = (Files::read(dir.path()), all(dir.path()));
        for seed in 0..SEEDS / STEPS {
            let seed = step * 1_000 + seed;
            let mut random = StdRng::seed_from_u64(seed);
            let (files, least, what, torn) = cut(&before, &now, (committed, whole.len()), &mut random);
            let (times, sectors) = seen.entry(what).or_default();
            (*times, *sectors) = (*times + 1, *sectors + torn);
            opens(&files, &whole, least, &format!("seed {seed}, {what}, {torn} sectors"));
        }
        (before, committed) = (now, whole.len());
    }
    assert!(steps.close());
    println!("{SEEDS} power cuts, by moment (times, sectors that were old or new): {seen:?}");
    assert!(seen.len() == 3 && seen.values().all(|(_, torn)| *torn > 0), "{seen:?}");
}

/// The journal after the cut: sound, with at least these records, each as it was.
fn opens(files: &Files, whole: &[Entry], least: usize, what: &str) {
    let dir = folder();
    std::fs::write(dir.path().join("journal.db"), &files.db).unwrap();
    std::fs::write(dir.path().join("journal.db-wal"), &files.wal).unwrap();
    let journal = Journal::open(&JournalConfig { ring_slots: 16, ..config(dir.path()) }, dir.path()).unwrap();
    assert_eq!(journal.health().borrow().quarantined, 0, "{what}");
    wait_for("the start", LONG, || journal.is_settled());
    journal.close().unwrap();
    let left = JournalReader::open(dir.path()).unwrap().after(0, usize::MAX >> 1).unwrap();
    let records = left.iter().filter(|entry| entry.kind == "inspection").count();
    assert!(records >= least, "{what}: {records} of {least} committed records");
    assert!(left[..records] == whole[..records], "{what}: a record has changed");
    let checked = check(dir.path(), dir.path(), &mut |_, _| {});
    assert_eq!(checked.findings, [], "{what}");
}
