//! Figures of a long journal, for people: `JOURNAL_RECORDS=1000000 cargo test --release --test journal figures -- --nocapture`.

use std::time::Instant;

use inspect_core::card::Thresholds;
use inspect_core::runtime::Provider;
use inspectd::journal::export::{Format, Wanted, export};
use inspectd::journal::{Journal, JournalReader};
use inspectd::plc::result::Published;
use inspectd::record::{Inspection, ThresholdSource, ViewRecord};

use crate::peers::wait_for;
use crate::{LONG, SLOTS, config, inspection, take};

/// A look as a station records it.
pub fn view(score: f32) -> ViewRecord {
    ViewRecord {
        view: "top".into(),
        frame: Some(4_711),
        exposed: Some(jiff::Timestamp::now()),
        score: Some(score),
        relative_score: Some(0.42),
        thresholds: Some(Thresholds { review: 1.5, reject: 1.75 }),
        thresholds_from: ThresholdSource::Card,
        model: "moulded-figure-7".into(),
        model_sha256: "5a".repeat(32),
        provider: Some(Provider::Cpu),
        fault: None,
    }
}

/// A record as a station with one view writes it.
fn real(part: u64) -> Inspection {
    Inspection { views: vec![view(0.731)], reason: None, ..inspection("station-1", part) }
}

#[test]
fn figures() {
    let records: u64 = std::env::var("JOURNAL_RECORDS").ok().and_then(|n| n.parse().ok()).unwrap_or(5_000);
    let (dir, run_dir) = (tempfile::tempdir_in(std::env::temp_dir()).unwrap(), tempfile::tempdir().unwrap());
    let journal = Journal::open(&config(dir.path()), run_dir.path()).unwrap();
    let began = Instant::now();
    for _ in 0..records {
        wait_for("a slot", LONG, || journal.queued() < SLOTS);
        let taken = take(&journal, "station-1");
        let (slot, record) = (taken.slot.unwrap(), real(taken.part));
        assert!(slot.judged(&record));
        slot.published(&Published { verdict: record.verdict, gate: record.gate, overrun: false }, 0);
        slot.write(record);
    }
    wait_for("the disk", LONG, || journal.is_settled());
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "append, synced in groups: {records} records in {seconds:.1} s, {:.0}/s",
        records as f64 / seconds
    );
    journal.close().unwrap();
    let file = std::fs::metadata(dir.path().join("journal.db")).unwrap().len();
    println!("on the disk: {:.0} bytes a record, {:.0} MB", file as f64 / records as f64, file as f64 / 1e6);
    let began = Instant::now();
    let journal = Journal::open(&config(dir.path()), run_dir.path()).unwrap();
    println!("open: {:.2} s", began.elapsed().as_secs_f64());
    assert_eq!(journal.committed().borrow().sequence, records);
    journal.close().unwrap();
    let reader = JournalReader::open(dir.path()).unwrap();
    for format in [Format::Csv, Format::Parquet, Format::Jsonl] {
        let wanted = Wanted { format, kind: None, station: None, from: None, to: None };
        let (out, began) = (dir.path().join("out"), Instant::now());
        assert_eq!(export(&reader, &wanted, &out, &mut |_, _| {}).unwrap().records, records);
        let (seconds, bytes) = (began.elapsed().as_secs_f64(), std::fs::metadata(&out).unwrap().len());
        println!(
            "export {format:?}: {:.0}/s, {:.0} bytes a record",
            records as f64 / seconds,
            bytes as f64 / records as f64
        );
    }
    let began = Instant::now();
    let checked = inspectd::journal::check::check(dir.path(), run_dir.path(), &mut |_, _| {});
    assert_eq!((checked.findings, checked.records), (vec![], records));
    println!("check: {:.1} s", began.elapsed().as_secs_f64());
}
