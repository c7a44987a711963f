//! What somebody finds who looks into the archive's folder.

use std::sync::mpsc::{Receiver, channel};

use inspect_core::card::Thresholds;
use inspect_core::verdict::FaultCode;

use super::*;
use crate::record::{Gate, RECORD_SCHEMA, ThresholdSource, Times, Trigger, TriggerSource, ViewRecord};

fn record(station: &str, part: u64, verdict: Verdict) -> Inspection {
    let view = ViewRecord {
        view: "top".into(),
        frame: Some(part),
        exposed: None,
        score: Some(0.5),
        relative_score: Some(0.5),
        thresholds: Some(Thresholds { review: 0.9, reject: 1.0 }),
        thresholds_from: ThresholdSource::Card,
        model: "m".into(),
        model_sha256: "ab".repeat(32),
        provider: None,
        fault: None,
    };
    Inspection {
        schema: RECORD_SCHEMA,
        station: station.into(),
        part,
        trigger: Trigger::new(TriggerSource::Clock, jiff::Timestamp::now()),
        recipe: None,
        views: vec![view],
        verdict,
        reason: None,
        gate: Gate::Reject,
        review_at_gate: Gate::Reject,
        simulated: true,
        truth: Some("scratch".into()),
        times_us: Times::default(),
    }
}

fn kept(station: &str, part: u64, verdict: Verdict) -> Kept {
    let frame = Some(Arc::new(Image::new(4, 3, 1, vec![9; 12]).unwrap()));
    let map = vec![0.0, 1.0, 2.0, f32::NAN];
    let top = Pictures { view: "top".into(), frame, map, map_shape: (2, 2) };
    Kept { record: record(station, part, verdict), views: vec![top] }
}

fn small() -> ArchiveConfig {
    ArchiveConfig { min_free_gb: 0.0, pass_every: 4, ..ArchiveConfig::default() }
}

fn open(root: &Path, config: &ArchiveConfig) -> (Archive, Receiver<Event>) {
    let (tell, told) = channel();
    let tell = Box::new(move |event| tell.send(event).unwrap_or_default());
    (Archive::open_with(root, config, tell, Duration::ZERO).unwrap(), told)
}

/// All plain files below, relative.
fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                found.push(entry.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The parts that lie there whole.
fn parts(root: &Path) -> Vec<u64> {
    let records = files(root).into_iter().filter(|f| f.ends_with(".json"));
    let number = |f: String| f.rsplit('/').next()?.split('-').next()?.parse().ok();
    let mut parts: Vec<u64> = records.filter_map(number).collect();
    parts.sort();
    parts
}

/// Nothing here may take longer.
const PATIENCE: Duration = Duration::from_secs(60);

fn until(archive: &Archive, what: &str, is_so: impl Fn(ArchiveCounters) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so(archive.counters()) {
        assert!(Instant::now() < end, "not in time: {what}; {:?}", archive.counters());
        std::thread::yield_now();
    }
}

/// Hands over without ever finding the queue full.
fn put(archive: &Archive, kept: Kept) {
    let done = |c: ArchiveCounters| c.written + c.failed + c.dropped;
    let before = done(archive.counters());
    archive.keep(kept);
    until(archive, "a part written or counted", |counters| done(counters) > before);
}

#[test]
fn what_did_not_pass_and_a_sample_of_what_did_lies_there_and_explains_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (archive, _) = open(dir.path(), &small());
    for part in 1..=8 {
        archive.keep(kept("a", part, Verdict::Pass));
    }
    archive.keep(kept("a", 9, Verdict::Review));
    archive.keep(kept("a", 10, Verdict::Fault(FaultCode::Late)));
    let mut blind = kept("a", 11, Verdict::Fault(FaultCode::NoFrame));
    (blind.views[0].frame, blind.views[0].map) = (None, vec![]);
    archive.keep(blind);
    archive.close();
    assert_eq!(parts(dir.path()), [4, 8, 9, 10], "and none without a picture: the journal has it");
    let seen = record("a", 9, Verdict::Review);
    let day = name::PartName::of(&seen).day;
    let folder = dir.path().join(format!("a/{day}/000000"));
    let json = std::fs::read_to_string(folder.join("000000009-review.json")).unwrap();
    let read: Inspection = serde_json::from_str(&json).unwrap();
    assert_eq!((read.part, &read.views, read.truth.as_deref()), (9, &seen.views, Some("scratch")));
    let found = frame_path(dir.path(), &read, "top").unwrap();
    assert!(found.lossless);
    assert_eq!(Image::read(&found.path).unwrap().data(), [9; 12]);
    let map = Image::read(&folder.join("000000009-review-top.map.png")).unwrap();
    assert_eq!(map.data(), [0, 0, 0, 255, 255, 0, 255, 0, 0, 255, 0, 255]);
    let counters = archive.counters();
    assert_eq!((counters.written, counters.dropped, counters.failed, counters.deleted), (4, 0, 0, 0));
    let bytes = files(dir.path()).into_iter().map(|f| std::fs::metadata(dir.path().join(f)).unwrap().len());
    assert_eq!(counters.bytes, bytes.sum::<u64>());
}

#[test]
fn a_jpeg_is_told_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let (archive, _) = open(dir.path(), &ArchiveConfig { format: Format::Jpeg, ..small() });
    let part = kept("a", 1, Verdict::Reject);
    archive.keep(part.clone());
    archive.close();
    let found = frame_path(dir.path(), &part.record, "top").unwrap();
    assert!(!found.lossless && found.path.to_str().unwrap().ends_with("000000001-reject-top.jpg"));
    assert_eq!(Image::read(&found.path).unwrap().width(), 4);
}

#[test]
fn bounds_hold_over_a_restart_and_what_is_foreign_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (archive, _) = open(dir.path(), &small());
    for part in 101..=105 {
        put(&archive, kept("a", part, Verdict::Reject));
    }
    let each = archive.counters().bytes / 5;
    archive.close();
    let folder = dir.path().join(files(dir.path())[0].rsplit_once('/').unwrap().0);
    std::fs::write(folder.join("notes.txt"), b"x").unwrap();
    std::fs::write(folder.join("000000102-reject-top.png.part"), b"half").unwrap();
    std::fs::write(folder.join("1-reject-top.png"), b"not as it is written").unwrap();
    std::fs::write(dir.path().join("README"), b"x").unwrap();
    std::os::unix::fs::symlink("/", dir.path().join("link")).unwrap();
    let elsewhere = dir.path().join("a/2020-01-01/999999");
    std::fs::create_dir_all(&elsewhere).unwrap();
    std::fs::write(elsewhere.join("000000001-reject.json"), b"not where it would be written").unwrap();
    let max_gb = (each * 7 / 2) as f64 / 1e9;
    let (archive, told) = open(dir.path(), &ArchiveConfig { max_gb, ..small() });
    until(&archive, "a smaller bound acts by itself", |counters| counters.deleted >= 2);
    put(&archive, kept("a", 106, Verdict::Reject));
    archive.close();
    std::fs::remove_file(dir.path().join("link")).unwrap();
    let whole: Vec<u64> = parts(dir.path()).into_iter().filter(|&part| part > 100).collect();
    assert_eq!(whole, [104, 105, 106]);
    let left = files(dir.path());
    for foreign in ["notes.txt", "1-reject-top.png", "README", "999999/000000001-reject.json"] {
        assert!(left.iter().any(|f| f.ends_with(foreign)), "{foreign} is not in {left:?}");
    }
    assert!(!left.iter().any(|f| f.ends_with(".part")), "{left:?}");
    assert!(told.try_recv().is_err(), "that is no trouble");
}

#[test]
fn what_is_too_old_goes_with_its_folders() {
    let dir = tempfile::tempdir().unwrap();
    let (archive, _) = open(dir.path(), &small());
    let mut old = kept("old", 1, Verdict::Reject);
    old.record.trigger.accepted = "2020-02-03T04:05:06Z".parse().unwrap();
    put(&archive, old);
    put(&archive, kept("a", 2, Verdict::Reject));
    let end = Instant::now() + PATIENCE;
    while archive.counters().deleted < 1 {
        assert!(Instant::now() < end, "{:?}", archive.counters());
        put(&archive, kept("a", 2, Verdict::Reject));
    }
    archive.close();
    assert_eq!(parts(dir.path()), [2]);
    assert!(!dir.path().join("old").exists());
}

#[test]
fn a_folder_that_cannot_be_had_is_told_once_and_heals() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("archive");
    std::fs::write(&root, b"a file in its place").unwrap();
    let (archive, told) = open(&root, &small());
    for part in 1..=3 {
        put(&archive, kept("a", part, Verdict::Reject));
    }
    assert_eq!(archive.counters().failed, 3);
    let event = told.recv().unwrap();
    assert_eq!(event.event, EventKind::ArchiveTrouble);
    assert!(event.message.contains(root.to_str().unwrap()), "{}", event.message);
    assert!(told.try_recv().is_err(), "told once");
    std::fs::remove_file(&root).unwrap();
    put(&archive, kept("a", 4, Verdict::Reject));
    assert_eq!((archive.counters().written, parts(&root)), (1, vec![4]));
    assert!(
        archive.trouble().unwrap().contains(root.to_str().unwrap()),
        "until it has gone well for a while"
    );
    archive.shared.lock().trouble.as_mut().unwrap().0 = Instant::now().checked_sub(HEALED_AFTER).unwrap();
    put(&archive, kept("a", 5, Verdict::Reject));
    let event = told.recv().unwrap();
    assert!(event.event == EventKind::ArchiveHealed && event.message.contains("3 could not"), "{event:?}");
    assert_eq!(archive.trouble(), None);
}

#[test]
fn a_folder_that_somebody_removes_is_made_again_and_no_part_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("archive");
    let (archive, told) = open(&root, &small());
    for part in 1..=3 {
        put(&archive, kept("a", part, Verdict::Reject));
    }
    let each = archive.counters().bytes / 3;
    std::fs::remove_dir_all(&root).unwrap();
    put(&archive, kept("a", 4, Verdict::Reject));
    archive.close();
    let counters = archive.counters();
    assert_eq!((counters.failed, parts(&root)), (0, vec![4]));
    assert!(counters.bytes < 2 * each, "what went with the folder is out of the books: {counters:?}");
    assert!(told.try_recv().is_err(), "that is no trouble");
}

#[test]
fn a_part_that_cannot_be_removed_stays_in_the_books_until_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let (archive, _) = open(dir.path(), &small());
    put(&archive, kept("a", 1, Verdict::Reject));
    let each = archive.counters().bytes;
    archive.close();
    let (archive, told) = open(dir.path(), &ArchiveConfig { max_gb: each as f64 * 3.5 / 1e9, ..small() });
    for part in 2..=3 {
        put(&archive, kept("a", part, Verdict::Reject));
    }
    let began = Instant::now();
    while archive.counters().bytes * 2 < 5 * each {
        assert!(began.elapsed() < PATIENCE, "stock is taken of the part from before");
        std::thread::sleep(Duration::from_millis(1));
    }
    // A folder in a file's place: root too cannot remove it as a file.
    let oldest = files(dir.path()).into_iter().find(|f| f.ends_with("000000001-reject-top.png")).unwrap();
    let oldest = dir.path().join(oldest);
    std::fs::remove_file(&oldest).unwrap();
    std::fs::create_dir(&oldest).unwrap();
    for failed in 1..=2 {
        put(&archive, kept("a", 4, Verdict::Reject));
        assert_eq!((archive.counters().failed, parts(dir.path())), (failed, vec![1, 2, 3]));
    }
    let event = told.recv_timeout(PATIENCE).unwrap();
    assert!(event.message.contains("000000001-reject-top.png"), "{}", event.message);
    std::fs::remove_dir(&oldest).unwrap();
    put(&archive, kept("a", 4, Verdict::Reject));
    archive.close();
    assert_eq!((archive.counters().deleted, parts(dir.path())), (1, vec![2, 3, 4]));
}

#[test]
fn a_part_that_comes_at_a_stop_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (archive, told) = open(dir.path(), &small());
    archive.close();
    archive.keep(kept("a", 1, Verdict::Reject));
    assert_eq!((archive.counters().dropped, files(dir.path())), (1, vec![]));
    assert!(told.try_recv().is_err(), "a stop is no trouble");
}

#[test]
fn a_disk_with_too_little_free_gets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (archive, told) = open(dir.path(), &ArchiveConfig { min_free_gb: 1e6, ..small() });
    put(&archive, kept("a", 1, Verdict::Reject));
    assert_eq!((archive.counters().failed, files(dir.path())), (1, vec![]));
    assert!(told.recv().unwrap().message.contains("min_free_gb"));
}

#[test]
fn a_full_queue_is_counted_told_once_and_never_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (archive, told) = open(dir.path(), &small());
    let frame = Some(Arc::new(Image::new(4_000, 4_000, 3, vec![7; 48_000_000]).unwrap()));
    for part in 1..=40 {
        let mut part = kept("a", part, Verdict::Review);
        part.views[0].frame.clone_from(&frame);
        archive.keep(part);
    }
    let waiting = archive.shared.lock().parts.len();
    assert!(waiting <= QUEUE_BYTES / 48_000_000, "{waiting}");
    assert!(archive.counters().dropped >= 30, "{:?}", archive.counters());
    assert_eq!(told.recv().unwrap().event, EventKind::ArchiveTrouble);
    assert!(told.try_recv().is_err());
    archive.shared.lock().closing = Some(Instant::now()); // the rest would take a while
}

#[test]
fn an_archive_that_is_off_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (archive, _) = open(&dir.path().join("archive"), &ArchiveConfig { max_gb: 0.0, ..small() });
    assert!(!archive.wants(1, Verdict::Reject));
    archive.keep(kept("a", 1, Verdict::Reject));
    archive.close();
    assert_eq!((archive.counters(), files(dir.path())), (ArchiveCounters::default(), vec![]));
}
