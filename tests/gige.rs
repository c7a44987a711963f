//! GigE Vision over loopback, with Aravis' fake camera in a process of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "peers/cameras.rs"]
mod cameras;

use std::path::Path;
use std::time::{Duration, Instant};

use cameras::{FakeGige, wait_for};
use inspect_core::image::{Image, Roi};
use inspectd::camera::aravis::AravisCamera;
use inspectd::camera::aravis::config::{AravisConfig, Exposes, Resend};
use inspectd::camera::thread::{Availability, CameraHandle};
use inspectd::camera::{Camera, CameraConfig, CameraError, Frame, Life};
use inspectd::config::Config;
use inspectd::daemon::{Daemon, Seams};
use inspectd::journal::JournalReader;

/// Nothing here may take longer.
const LONG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(5);

fn config(fake: &FakeGige, trigger: Exposes) -> AravisConfig {
    let roi = Some(Roi { x: 16, y: 8, width: 256, height: 128 });
    AravisConfig { roi, exposure_us: Some(1000.0), ..AravisConfig::new(&fake.id(), trigger) }
}

/// The fake camera shows a ramp along the diagonal: where rows of two frames meet, it breaks.
fn is_one_frame(image: &Image) -> bool {
    let width = image.width() as usize;
    let rows: Vec<&[u8]> = image.data().chunks(width).collect();
    rows.windows(2).all(|pair| pair[0][1..] == pair[1][..width - 1])
}

fn assert_good(frame: &Frame, asked: Instant) {
    let image = &frame.image;
    assert_eq!((image.width(), image.height(), image.channels()), (256, 128, 1));
    assert!(is_one_frame(image), "frame {} is put together from several", frame.number);
    assert!(frame.exposed >= asked && frame.exposed <= Instant::now(), "frame {}", frame.number);
}

#[test]
fn each_software_trigger_gives_the_frame_that_it_fired() {
    let Some(fake) = FakeGige::start(0) else { return };
    let mut camera = AravisCamera::open("v", &config(&fake, Exposes::Software)).unwrap();
    assert_eq!(camera.life().unwrap(), Life::Proven);
    let numbers: Vec<u64> = (0..12)
        .map(|_| {
            camera.prepare();
            let asked = Instant::now();
            let frame = camera.grab(SOON).unwrap();
            assert_good(&frame, asked);
            frame.number
        })
        .collect();
    assert!(numbers.windows(2).all(|n| n[1] == n[0] + 1), "nothing else is exposed: {numbers:?}");
    // One that is given up is not the next one's.
    let early = camera.grab(Duration::ZERO);
    assert!(matches!(early, Err(CameraError::NoFrame { .. })), "{early:?}");
    let asked = Instant::now();
    assert_good(&camera.grab(SOON).unwrap(), asked);
}

#[test]
fn frames_after_a_change_of_exposure_were_exposed_so() {
    for trigger in [Exposes::Software, Exposes::FreeRun] {
        let Some(fake) = FakeGige::start(0) else { return };
        let config = AravisConfig { exposure_us: Some(1000.0), ..config(&fake, trigger) };
        let mut camera = AravisCamera::open("v", &config).unwrap();
        let level = |camera: &mut AravisCamera| {
            let frame = camera.next(SOON).unwrap();
            let data = frame.image.data();
            data.iter().map(|&level| u64::from(level)).sum::<u64>() / data.len() as u64
        };
        let usual = level(&mut camera);
        for _ in 0..3 {
            // The fake camera sends a frame at once: a longer exposure than the clocks are sure of would tell.
            camera.expose(Some(4000.0)).unwrap();
            let long = level(&mut camera);
            camera.expose(None).unwrap();
            let back = level(&mut camera);
            assert!(long != usual && back == usual, "{trigger:?}: {usual}, {long}, {back}");
        }
    }
}

#[test]
fn a_free_running_camera_gives_what_it_exposed_after_the_ask() {
    let Some(fake) = FakeGige::start(0) else { return };
    let config = AravisConfig { rate_hz: Some(50.0), ..config(&fake, Exposes::FreeRun) };
    let mut camera = AravisCamera::open("v", &config).unwrap();
    let mut last = 0;
    for _ in 0..25 {
        let asked = Instant::now();
        let frame = camera.grab(SOON).unwrap();
        assert_good(&frame, asked);
        assert!(frame.number > last, "{} after {last}", frame.number);
        last = frame.number;
    }
    // For whom each frame is a part, none is left out.
    let numbers: Vec<u64> = (0..25).map(|_| camera.next(SOON).unwrap().number).collect();
    let skipped = numbers.windows(2).filter(|n| n[1] != n[0] + 1).count();
    assert!(skipped <= 2, "a busy machine may skip one: {numbers:?}");
    assert_eq!(camera.life().unwrap(), Life::Proven);
}

#[test]
fn what_was_lost_on_the_way_is_a_fault_and_never_a_picture() {
    // Frames of some 25 packets, of which one in a hundred is lost: one frame in four is incomplete.
    let Some(fake) = FakeGige::start(10) else { return };
    let config = AravisConfig {
        rate_hz: Some(200.0),
        resend: Resend::Never,
        frame_retention_ms: 20,
        ..config(&fake, Exposes::FreeRun)
    };
    let asked: u64 = std::env::var("GIGE_FRAMES").map_or(300, |n| n.parse().unwrap());
    let mut camera = AravisCamera::open("v", &config).unwrap();
    let (mut complete, mut incomplete, mut gaps, mut in_a_row) = (0u64, 0u64, 0u64, 0);
    for _ in 0..asked {
        match camera.next(SOON) {
            Ok(frame) => {
                assert!(is_one_frame(&frame.image), "frame {} is put together from several", frame.number);
                (complete, in_a_row) = (complete + 1, 0);
            }
            Err(error) => {
                match error {
                    CameraError::Incomplete { .. } => incomplete += 1,
                    CameraError::Gap { .. } => gaps += 1,
                    other => panic!("{other}"),
                }
                in_a_row += 1;
                assert!(in_a_row < 50, "a loss stays one loss");
            }
        }
    }
    println!("asked {asked}: {complete} complete, {incomplete} incomplete, {gaps} gaps");
    assert_eq!(complete + incomplete + gaps, asked);
    assert!(complete > asked / 4 && incomplete > asked / 50, "{complete} complete, {incomplete} incomplete");
}

#[test]
fn frames_that_never_came_are_told_once_by_the_gap_in_their_numbers() {
    // Frames of three packets, of which one in two is lost: one frame in eight is lost without a trace.
    let Some(fake) = FakeGige::start(500) else { return };
    let config = AravisConfig {
        roi: Some(Roi { x: 0, y: 0, width: 32, height: 32 }),
        rate_hz: Some(200.0),
        resend: Resend::Never,
        frame_retention_ms: 5,
        ..config(&fake, Exposes::FreeRun)
    };
    let mut camera = AravisCamera::open("v", &config).unwrap();
    let until = Instant::now() + LONG;
    let (mut gap, mut good_after) = (None, false);
    while !good_after {
        assert!(Instant::now() < until, "no gap, or no good frame after it: {gap:?}");
        match camera.next(SOON) {
            Ok(frame) => good_after = gap.is_some_and(|number| frame.number >= number),
            Err(CameraError::Gap { number, last, .. }) => {
                assert!(number != last + 1, "{number} after {last} is none");
                gap = Some(number);
            }
            Err(CameraError::Incomplete { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_camera_that_loses_its_power_is_away_and_comes_back_by_itself() {
    let Some(mut fake) = FakeGige::start(0) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
    let settings = CameraConfig::Aravis(config(&fake, Exposes::Software));
    let handle = CameraHandle::spawn("v", settings).unwrap();
    let grab = || runtime.block_on(handle.grab((Instant::now() + SOON).into()));
    let life = || runtime.block_on(handle.life((Instant::now() + SOON).into()));
    wait_for(&handle, "the camera", |a| *a == Availability::Up);
    assert!(is_one_frame(&grab().unwrap().image));
    fake.kill();
    let until = Instant::now() + LONG;
    while life().is_ok() || !handle.is_away() {
        assert!(Instant::now() < until, "nobody notices that it is gone");
    }
    let said = grab().unwrap_err().to_string();
    assert!(said.contains("away") && said.contains(&fake.id()), "{said}");
    fake.restart();
    wait_for(&handle, "the camera to come back", |a| *a == Availability::Up);
    assert!(is_one_frame(&grab().unwrap().image));
}

#[test]
fn a_camera_that_is_not_there_or_refuses_a_setting_says_which() {
    let nobody = AravisConfig::new("Nobody-0", Exposes::Software);
    let error = AravisCamera::open("v", &nobody).err().unwrap().to_string();
    assert!(error.contains("Nobody-0") && error.contains("inspectd cameras"), "{error}");
    let Some(fake) = FakeGige::start(0) else { return };
    let wide = Roi { x: 0, y: 0, width: 100_000, height: 8 };
    let error =
        AravisCamera::open("v", &AravisConfig { roi: Some(wide), ..config(&fake, Exposes::Software) });
    let error = error.err().unwrap().to_string();
    assert!(error.contains("roi"), "{error}");
}

const STATION: &str = r#"
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
    camera = { kind = "aravis", id = "ID", trigger = "free_run", rate_hz = 20, resend = "never" }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_each_frame_is_a_part_a_lost_frame_is_a_part_in_fault() {
    // Frames of some 180 packets, of which one in 250 is lost: one frame in two is incomplete.
    let Some(fake) = FakeGige::start(4) else { return };
    let journal = tempfile::tempdir().unwrap();
    let text = STATION.replace("JOURNAL", journal.path().to_str().unwrap()).replace("ID", &fake.id());
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = Config::parse(&text, Path::new("test.toml"), root).unwrap();
    let problems = config.problems();
    assert!(problems.settings.is_empty() && problems.files.is_empty(), "{problems:?}");
    let daemon = Daemon::start(&config, Seams::configured(&config)).await.unwrap();
    let counters = || daemon.registers[0].counters();
    // Parts that come before the model is there are faults, too.
    let (until, mut before) = (Instant::now() + LONG, None);
    while before.is_none_or(|before| counters().fault < before + 5) {
        assert!(Instant::now() < until, "{:?}", counters());
        let counted = counters();
        before = before.or_else(|| (counted.accepted > counted.fault).then_some(counted.fault));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    daemon.stop().await;
    let entries = JournalReader::open(journal.path()).unwrap().after(0, 10_000).unwrap();
    let parts: Vec<serde_json::Value> = entries
        .iter()
        .map(|entry| serde_json::from_str(&entry.json).unwrap())
        .filter(|record: &serde_json::Value| record.get("part").is_some())
        .collect();
    let lost: Vec<_> = parts.iter().filter(|p| p["verdict"] == "fault" && p["fault"] != "starting").collect();
    assert!(lost.len() >= 3 && parts.iter().any(|p| p["verdict"] != "fault"), "{parts:?}");
    for part in lost {
        let fault = part["fault"].as_str().unwrap();
        assert!(["incomplete_frame", "frame_gap"].contains(&fault) && part["gate"] == "reject", "{part}");
    }
}

#[test]
fn the_camera_is_listed_for_whoever_sets_it_up() {
    let Some(fake) = FakeGige::start(0) else { return };
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_inspectd")).args(["cameras", "--json"]).output();
    let output = output.unwrap();
    assert!(output.status.success());
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let ours = found["aravis"].as_array().unwrap().iter().find(|c| c["serial"] == fake.serial.as_str());
    let ours = ours.unwrap_or_else(|| panic!("{found}"));
    assert_eq!((ours["id"].as_str().unwrap(), &ours["address"]), (fake.id().as_str(), &"127.0.0.1".into()));
    assert_eq!((&ours["model"], &ours["protocol"]), (&"Fake".into(), &"GigEVision".into()));
}
