//! GigE Vision over loopback, with Aravis' fake camera in a process of its own.
//!
//! `GIGE_FRAMES=10000 cargo test --test gige network -- --nocapture` asks for so many frames over a network that
//! loses packets, and prints what came of them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "peers/cameras.rs"]
mod cameras;
#[path = "peers/network.rs"]
mod network;
#[path = "peers/station.rs"]
mod station;

use std::time::{Duration, Instant};

use cameras::{FakeGige, wait_for};
use inspect_core::image::Roi;
use inspectd::camera::aravis::AravisCamera;
use inspectd::camera::aravis::config::{AravisConfig, Exposes, Resend};
use inspectd::camera::calls::Availability;
use inspectd::camera::thread::CameraHandle;
use inspectd::camera::{Camera, CameraConfig, CameraError, Frame, Life};
use network::Network;

/// Nothing here may take longer.
const LONG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(20);
/// At 1000 the fake camera's picture is black; from 5000 on its frames would seem older than their triggers.
const EXPOSURE_US: f64 = 3000.0;
/// The fake camera's shortest period is a millisecond.
const FULL_RATE_HZ: f64 = 1000.0;

fn config(fake: &FakeGige, trigger: Exposes) -> AravisConfig {
    let roi = Some(Roi { x: 16, y: 8, width: 256, height: 128 });
    AravisConfig { roi, exposure_us: Some(EXPOSURE_US), ..AravisConfig::new(&fake.id(), trigger) }
}

/// The fake camera shows a ramp along the diagonal that begins with the frame's number: each pixel says of which
/// frame it is.
fn is_one_frame(frame: &Frame) -> bool {
    let image = &frame.image;
    let (width, height) = (image.width() as usize, image.height() as usize);
    let dimmed = 1.0 + (EXPOSURE_US / 10_000.0).log10();
    let ramp: Vec<u8> = (0..255 + width + height).map(|n| ((n % 255) as f64 * dimmed) as u8).collect();
    let first = (frame.number % 255) as usize;
    image.data().chunks(width).enumerate().all(|(y, row)| *row == ramp[first + y..][..width])
}

fn assert_good(frame: &Frame, asked: Instant) {
    let image = &frame.image;
    assert_eq!((image.width(), image.height(), image.channels()), (256, 128, 1));
    assert!(is_one_frame(frame), "frame {} is put together from several", frame.number);
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
    // For whom each frame is a part, none is left out; a busy machine may skip some, and most it does not.
    let next = |_| match camera.next(SOON) {
        Ok(frame) => Some(frame.number),
        Err(CameraError::Gap { .. }) => None,
        Err(other) => panic!("{other}"),
    };
    let numbers: Vec<Option<u64>> = (0..25).map(next).collect();
    let follows = |n: &&[Option<u64>]| n[0].is_some_and(|before| n[1] == Some(before + 1));
    assert!(numbers.windows(2).filter(follows).count() >= 12, "{numbers:?}");
    assert_eq!(camera.life().unwrap(), Life::Proven);
}

/// What came of the frames that were asked for.
#[derive(Debug, Default)]
struct Tally {
    whole: u64,
    incomplete: u64,
    gaps: u64,
    last: Option<u64>,
    broken: Option<u64>,
}

impl Tally {
    /// Asks for one frame; whether a whole one came.
    fn next(&mut self, camera: &mut AravisCamera) -> bool {
        match camera.next(SOON) {
            Ok(frame) => {
                let number = frame.number;
                assert!(is_one_frame(&frame), "frame {number} is put together from several");
                assert!(self.broken != Some(number), "frame {number} was said to be incomplete");
                // The numbers have 16 bits.
                let ahead = self.last.map_or(1, |last| (number + 65_536 - last) % 65_536);
                assert!((1..32_768).contains(&ahead), "frame {number} after {:?}", self.last);
                (self.whole, self.last) = (self.whole + 1, Some(number));
                return true;
            }
            Err(CameraError::Incomplete { number, .. }) => {
                (self.incomplete, self.broken) = (self.incomplete + 1, Some(number));
            }
            Err(CameraError::Gap { .. }) => self.gaps += 1,
            Err(other) => panic!("{other}"),
        }
        false
    }
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
    let mut camera = AravisCamera::open("v", &config).unwrap();
    let mut tally = Tally::default();
    (0..300).for_each(|_| _ = tally.next(&mut camera));
    assert!(tally.whole > 75 && tally.incomplete > 6, "{tally:?}");
}

#[test]
fn what_the_network_loses_at_the_full_rate_is_a_fault_and_never_a_picture() {
    let test = "what_the_network_loses_at_the_full_rate_is_a_fault_and_never_a_picture";
    let Some(network) = Network::alone(test) else { return };
    let Some(fake) = FakeGige::start(0) else { return };
    let asked: u64 = std::env::var("GIGE_FRAMES").map_or(2000, |n| n.parse().unwrap());
    // The fake camera cannot send again: what is asked of it in vain must do no harm.
    for resend in [Resend::Never, Resend::Always] {
        let config = AravisConfig {
            rate_hz: Some(FULL_RATE_HZ),
            resend,
            frame_retention_ms: 4, // longer than eight frames take, those behind would find no buffer
            ..config(&fake, Exposes::FreeRun)
        };
        let mut camera = AravisCamera::open("v", &config).unwrap();
        let (mut tally, begun) = (Tally::default(), Instant::now());
        // As above, one frame in four.
        network.lose(10);
        (0..asked).for_each(|_| _ = tally.next(&mut camera));
        let ([came, lost], took) = (network.heal(), begun.elapsed());
        let Tally { whole, incomplete, gaps, .. } = tally;
        eprintln!(
            "resend {resend:?}: {asked} asked in {took:.1?}: {whole} whole, {incomplete} incomplete, {gaps} gaps; \
             {lost} of {came} packets lost"
        );
        assert!(whole > asked / 4 && incomplete > asked / 50 && lost > 0, "{tally:?}");
        let (until, mut in_a_row) = (Instant::now() + LONG, 0);
        while in_a_row < 100 {
            assert!(Instant::now() < until, "the network loses nothing any more: {tally:?}");
            in_a_row = if tally.next(&mut camera) { in_a_row + 1 } else { 0 };
        }
    }
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
    assert!(is_one_frame(&grab().unwrap()));
    fake.kill();
    let until = Instant::now() + LONG;
    while life().is_ok() || !handle.is_away() {
        assert!(Instant::now() < until, "nobody notices that it is gone");
    }
    let said = grab().unwrap_err().to_string();
    assert!(said.contains("away") && said.contains(&fake.id()), "{said}");
    fake.restart();
    wait_for(&handle, "the camera to come back", |a| *a == Availability::Up);
    assert!(is_one_frame(&grab().unwrap()));
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_each_frame_is_a_part_a_lost_frame_is_a_part_in_fault() {
    // Frames of some 180 packets, of which one in 250 is lost: one frame in two is incomplete.
    let Some(fake) = FakeGige::start(4) else { return };
    let journal = tempfile::tempdir().unwrap();
    let id = fake.id();
    let camera =
        format!("{{ kind = 'aravis', id = '{id}', trigger = 'free_run', rate_hz = 20, resend = 'never' }}");
    let stations = [("free", "{ source = 'free_run' }", camera.as_str())];
    let daemon = station::started(journal.path(), &stations).await;
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
    let parts = station::parts(journal.path());
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
