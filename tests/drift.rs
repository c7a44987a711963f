//! A light that fades, from the camera to what the PLC, the journal and a person see of it. Camera and pictures are the
//! simulated ones; the scorer does not care for light, as a good model would not for a while.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "stub/mod.rs"]
mod stub;

use std::time::{Duration, Instant};

use inspect_core::scorer::{Scorer, ScorerError};
use inspectd::camera::Camera;
use inspectd::camera::simulated::{SimulatedCamera, SimulatedConfig};
use inspectd::config::TriggerConfig;
use inspectd::daemon::{Daemon, Seams};
use inspectd::drift::{DriftConfig, DriftLevel, DriftMeasure, OnAlarm};
use inspectd::journal::JournalReader;
use inspectd::plc::map::coil;
use inspectd::record::{Event, EventKind, State};
use inspectd::scoring::ScoringError;
use tokio::sync::watch;
use tokio::time::timeout;

/// Nothing here may take longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Good scores that rise and fall from part to part, whatever the picture.
struct Indifferent(f32);

impl Scorer for Indifferent {
    fn run(&mut self, input: &[u8], scores: &mut Vec<f32>, maps: &mut Vec<f32>) -> Result<(), ScorerError> {
        maps.clear();
        maps.resize(4, 0.0);
        self.0 = (self.0 + 0.381_966).fract();
        let is_golden = input == [stub::GOLDEN_PIXEL; 16];
        *scores = vec![if is_golden { stub::GOLDEN_SCORE } else { self.0 }];
        Ok(())
    }
}

fn seams(fading_per_1000_parts: f64) -> Seams {
    let config = SimulatedConfig {
        width: 64,
        height: 64,
        defect_rate: 0.0,
        fading_per_1000_parts,
        ..SimulatedConfig::default()
    };
    Seams {
        camera: Box::new(move |_| {
            let config = config.clone();
            Box::new(move || Ok(Box::new(SimulatedCamera::open("v", &config)?) as Box<dyn Camera>))
        }),
        scorer: Box::new(|_| Box::new(|| Ok::<_, ScoringError>(stub::loaded(Box::new(Indifferent(0.0)))))),
    }
}

/// The simulated light wanders in waves of 397 parts: a reference of as many knows that, one of fewer does not.
async fn start(folder: &std::path::Path, fading: f64, reference_parts: u16, on_alarm: OnAlarm) -> Daemon {
    let mut station = stub::station("s1", Duration::from_millis(500));
    station.trigger = TriggerConfig::Clock { period_ms: 2 };
    station.drift = DriftConfig { on_alarm, picture_window: 20, reference_parts, ..DriftConfig::default() };
    Daemon::start(&stub::config(folder, vec![station]), seams(fading)).await.unwrap()
}

async fn until(state: &mut watch::Receiver<State>, is_so: impl FnMut(&State) -> bool) -> State {
    if let Ok(state) = timeout(PATIENCE, state.wait_for(is_so)).await {
        return state.unwrap().clone();
    }
    panic!("not in time: {:?}", *state.borrow());
}

fn events(folder: &std::path::Path) -> Vec<Event> {
    let entries = JournalReader::open(folder).unwrap().after(0, 100_000).unwrap();
    let events = entries.iter().filter(|entry| entry.kind == "event");
    events.map(|entry| serde_json::from_str(&entry.json).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_light_that_fades_is_told_stops_the_line_by_policy_and_changes_no_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = start(folder.path(), 1.0, 40, OnAlarm::Stop).await;
    let (mut state, registers) = (daemon.states[0].clone(), daemon.registers[0].clone());

    let shown = until(&mut state, |s| s.drift.level == DriftLevel::Alarm).await;
    assert!(shown.drift.provisional, "the card has no reference");
    assert!(shown.ready, "it goes on inspecting");
    let reading = shown.drift.readings.iter().find(|r| r.level == DriftLevel::Alarm).unwrap();
    assert_eq!((reading.measure, reading.view.as_deref()), (DriftMeasure::Brightness, Some("s1")));
    assert!(reading.reading.value < reading.reading.usual, "{reading:?}");
    assert!(shown.stop_request, "{shown:?}");

    // A command is a bit that was dropped before it is raised.
    for raised in [false, true] {
        registers.write_coils(coil::CLEAR_ERROR, &[raised]).unwrap();
    }
    // In order again for a window, which may be too short to be seen: the journal keeps it. It fades on: told again.
    let told_again = || {
        let told: Vec<EventKind> = events(folder.path()).iter().map(|e| e.event).collect();
        let over = told.iter().position(|kind| *kind == EventKind::DriftOver);
        let since = &told[over.unwrap_or(told.len())..];
        since.contains(&EventKind::DriftAlarm) && since.contains(&EventKind::StopRequested)
    };
    let began = Instant::now();
    while !told_again() {
        assert!(began.elapsed() < PATIENCE, "{:?}", events(folder.path()));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let again = until(&mut state, |s| s.drift.level == DriftLevel::Alarm && s.stop_request).await;
    assert_eq!((again.counters.reject, again.counters.review), (0, 0), "{:?}", again.counters);
    daemon.stop().await;

    let told: Vec<String> =
        events(folder.path()).iter().map(|e| format!("{:?} {}", e.event, e.message)).collect();
    let at = |what: &str| told.iter().position(|t| t.starts_with(what)).unwrap_or_else(|| panic!("{told:?}"));
    assert!(at("DriftWarning view s1: brightness") < at("DriftAlarm view s1: brightness"), "{told:?}");
    assert!(at("DriftAlarm") < at("StopRequested Pictures or scores have drifted"), "{told:?}");
    assert!(at("StopRequested") < at("DriftOver the PLC cleared"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_even_light_is_told_of_nothing_and_an_alarm_alone_asks_for_no_stop() {
    let (even, fading) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let steady = start(even.path(), 0.0, 397, OnAlarm::Stop).await;
    let faded = start(fading.path(), 1.0, 40, OnAlarm::Tell).await;
    let shown = until(&mut faded.states[0].clone(), |s| s.drift.level == DriftLevel::Alarm).await;
    assert!(!shown.stop_request, "{shown:?}");
    let shown = until(&mut steady.states[0].clone(), |s| s.counters.accepted > 1_000).await;
    assert_eq!(shown.drift.level, DriftLevel::Ok, "{:?}", shown.drift);
    assert!(!shown.drift.readings.is_empty(), "it is watched");
    steady.stop().await;
    faded.stop().await;
}
