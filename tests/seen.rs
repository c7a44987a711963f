//! What a technician sees where records find no place: a station says that it cannot go on, and for how long.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::{Duration, Instant};

use inspect_core::verdict::FaultCode;
use inspectd::config::Config;
use inspectd::daemon::{Daemon, Seams};
use inspectd::journal::{COMMIT_EVERY, JournalReader, Slot};
use inspectd::plc::result::{Accepted, Identity, PartKind};
use inspectd::record::{State, TriggerSource};
use tokio::time::timeout;

/// Nothing here may take longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Fewest that the journal allows.
const PLACES: usize = 16;

async fn started(folder: &Path, on_journal_full: &str) -> Daemon {
    let text = format!(
        "modbus = {{ listen = '127.0.0.1:0' }}
         journal = {{ dir = '{}', ring_slots = {PLACES} }}
         runtime = {{ providers = ['cpu'] }}
         [[station]]
         name = 'line'
         trigger = {{ source = 'clock', period_ms = 50 }}
         on_journal_full = '{on_journal_full}'
         deadline_ms = 2000
         gate = {{ time_to_gate_ms = 2100, plc_poll_ms = 10, plc_scan_ms = 20 }}
         view = [{{ name = 'top', model = 'models/demo.onnx', camera = {{ kind = 'simulated', defect_rate = 0.0 }} }}]",
        folder.display()
    );
    let config = Config::parse(&text, Path::new("test.toml"), Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    Daemon::start(&config, Seams::configured(&config)).await.unwrap()
}

async fn until(daemon: &Daemon, what: &str, is: impl FnMut(&State) -> bool) -> State {
    let mut state = daemon.states[0].clone();
    let found = timeout(PATIENCE, state.wait_for(is)).await;
    found
        .unwrap_or_else(|_| panic!("waited in vain for {what}: {:?}", daemon.states[0].borrow()))
        .unwrap()
        .clone()
}

/// Takes every place, as parts do whose records the disk does not take.
async fn fill(daemon: &Daemon) -> Vec<Slot> {
    let filler = daemon.journal.station("filler", TriggerSource::Plc, true).unwrap();
    let mut held = Vec::new();
    let began = Instant::now();
    while held.len() < PLACES {
        assert!(began.elapsed() < PATIENCE, "{} places taken", held.len());
        let identity = Identity::default();
        let accepted =
            Accepted { trigger_id: 1, at: Instant::now(), kind: PartKind::Part, identity, bypass: false };
        match filler.take(accepted).slot {
            Some(slot) => held.push(slot),
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    held
}

/// How often it was told that parts of the station are not in the journal, and how many that were.
fn told_lost(folder: &Path) -> (usize, u32) {
    let entries = JournalReader::open(folder).unwrap().after(0, 100_000).unwrap();
    let records = entries.iter().map(|e| serde_json::from_str::<serde_json::Value>(&e.json).unwrap());
    let lost: Vec<u32> = records
        .filter(|record| record["event"] == "inspections_lost" && record["station"] == "line")
        .map(|record| record["message"].as_str().unwrap().split(' ').next().unwrap().parse().unwrap())
        .collect();
    (lost.len(), lost.iter().sum())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_each_part_is_rejected_for_want_of_a_place_the_station_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = started(folder.path(), "reject").await;
    until(&daemon, "a pass", |state| state.ready && state.counters.pass > 0).await;
    let began = Instant::now();
    let held = fill(&daemon).await;
    let state = until(&daemon, "fault 50", |state| state.fault == Some(FaultCode::JournalFull)).await;
    assert!(!state.ready, "{state:?}");
    assert_eq!(daemon.registers[0].fault(), Some(FaultCode::JournalFull));
    let faults = state.counters.fault;
    until(&daemon, "further parts to be faults", |state| state.counters.fault >= faults + 20).await;
    drop(held);
    let state = until(&daemon, "ready again", |state| state.ready).await;
    until(&daemon, "a pass", |now| now.counters.pass > state.counters.pass).await;
    let lost = daemon.states[0].borrow().counters.not_journaled;
    daemon.stop().await;
    let (times, told) = told_lost(folder.path());
    assert_eq!(told, lost, "each is told");
    let commits = began.elapsed().as_millis() / COMMIT_EVERY.as_millis();
    assert!(times as u128 <= 2 + commits, "in sums: {times} events for {told} parts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_parts_go_on_without_a_record_the_station_stays_ready_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = started(folder.path(), "continue").await;
    until(&daemon, "a pass", |state| state.ready && state.counters.pass > 0).await;
    let _held = fill(&daemon).await;
    let state = until(&daemon, "parts without a record", |state| state.counters.not_journaled >= 5).await;
    assert!(state.ready && state.error.is_some(), "{state:?}");
    assert_eq!(state.counters.fault, 0, "{state:?}");
    daemon.stop().await;
}
