//! Stations that need no PLC: a camera's own pace, and the daemon's clock, with the real model in the real
//! runtime on simulated parts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "peers/station.rs"]
mod station;

use std::time::{Duration, Instant};

use inspectd::plc::map::input;

/// Nothing here may take longer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Parts that are waited for at each station.
const PARTS: usize = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_come_at_the_cameras_pace_and_at_the_clocks() {
    let journal = tempfile::tempdir().unwrap();
    let (free, clock) = ("{ source = 'free_run' }", "{ source = 'clock', period_ms = 2000 }");
    let own_pace = "{ kind = 'simulated', seed = 5, defect_rate = 0.3, rate_hz = 20 }";
    let when_asked = "{ kind = 'simulated', seed = 6, defect_rate = 0.0 }";
    let stations = [("free", free, own_pace), ("clock", clock, when_asked)];
    let daemon = station::started(journal.path(), &stations).await;
    let counters = |n: usize| daemon.registers[n].counters();
    let start = Instant::now();
    // Parts that come before the model is there are faults.
    while counters(0).accepted < PARTS as u32 || counters(0).pass == 0 || counters(1).pass == 0 {
        assert!(start.elapsed() < PATIENCE, "{:?} {:?}", counters(0), counters(1));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let words = daemon.registers[0].input_registers(0..input::SIZE).unwrap();
    assert!(words[usize::from(input::CHAIN)] > 0, "a line that inspects is proven");
    // Nobody but the PLC of a PLC station triggers by id.
    assert!(daemon.registers[0].write_registers(0, &[1]).is_err());
    daemon.stop().await;

    let records = station::parts(journal.path());
    for (station, source) in [("free", "free_run"), ("clock", "clock")] {
        let parts: Vec<_> = records.iter().filter(|r| r["station"] == station).collect();
        assert!(parts.iter().all(|p| p["trigger"]["source"] == source), "{station}");
        let numbers: Vec<u64> = parts.iter().map(|p| p["part"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "{station}: each part once");
        let judged = |truth: &str, verdict: &str| {
            parts
                .iter()
                .filter(|p| (p["truth"] == "good") == (truth == "good") && p["verdict"] == verdict)
                .count()
        };
        assert!(judged("good", "pass") > 0, "{station}: goods pass");
        assert_eq!(judged("defect", "pass"), 0, "{station}: no defect passes");
    }
}
