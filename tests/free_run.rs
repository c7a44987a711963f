//! Stations that need no PLC: a camera's own pace, and the daemon's clock, with the real model in the real
//! runtime on simulated parts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::{Duration, Instant};

use inspectd::config::Config;
use inspectd::daemon::{Daemon, Seams};
use inspectd::journal::JournalReader;
use inspectd::plc::map::input;

/// Nothing here may take longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Parts that are waited for at each station.
const PARTS: usize = 25;

const CONFIG: &str = r#"
    [modbus]
    listen = "127.0.0.1:0"
    [journal]
    dir = "JOURNAL"
    [runtime]
    providers = ["cpu"]
    [[station]]
    name = "free"
    trigger = { source = "free_run" }
    deadline_ms = 2000
    gate = { time_to_gate_ms = 2100, plc_poll_ms = 10, plc_scan_ms = 20 }
    [[station.view]]
    name = "top"
    model = "models/demo.onnx"
    camera = { kind = "simulated", seed = 5, defect_rate = 0.3, rate_hz = 20 }
    [[station]]
    name = "clock"
    trigger = { source = "clock", period_ms = 2000 }
    deadline_ms = 2000
    gate = { time_to_gate_ms = 2100, plc_poll_ms = 10, plc_scan_ms = 20 }
    [[station.view]]
    name = "top"
    model = "models/demo.onnx"
    camera = { kind = "simulated", seed = 6, defect_rate = 0.0 }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_come_at_the_cameras_pace_and_at_the_clocks() {
    let journal = tempfile::tempdir().unwrap();
    let text = CONFIG.replace("JOURNAL", journal.path().to_str().unwrap());
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = Config::parse(&text, Path::new("test.toml"), root).unwrap();
    let problems = config.problems();
    assert!(problems.settings.is_empty() && problems.files.is_empty(), "{problems:?}");
    let daemon = Daemon::start(&config, Seams::configured(&config)).await.unwrap();
    let counters = |n: usize| daemon.registers[n].counters();
    let start = Instant::now();
    while counters(0).accepted < PARTS as u32 || counters(1).accepted < 2 {
        assert!(start.elapsed() < PATIENCE, "{:?} {:?}", counters(0), counters(1));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let words = daemon.registers[0].input_registers(0..input::SIZE).unwrap();
    assert!(words[usize::from(input::CHAIN)] > 0, "a line that inspects is proven");
    // Nobody but the PLC of a PLC station triggers by id.
    assert!(daemon.registers[0].write_registers(0, &[1]).is_err());
    daemon.stop().await;

    let entries = JournalReader::open(journal.path()).unwrap().after(0, 10_000).unwrap();
    let records: Vec<serde_json::Value> =
        entries.iter().map(|e| serde_json::from_str(&e.json).unwrap()).collect();
    for (station, source) in [("free", "free_run"), ("clock", "clock")] {
        let parts: Vec<_> =
            records.iter().filter(|r| r["station"] == station && r.get("part").is_some()).collect();
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
