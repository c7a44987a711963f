//! Sources that send by themselves: a real RTSP server on loopback, and a GStreamer pipeline.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "peers/cameras.rs"]
mod cameras;

use std::time::{Duration, Instant};

use cameras::{RtspServer, wait_for};
use inspect_core::image::Image;
use inspectd::camera::calls::Availability;
use inspectd::camera::stream::StreamCamera;
use inspectd::camera::stream::config::StreamConfig;
use inspectd::camera::thread::CameraHandle;
use inspectd::camera::{Camera, CameraConfig, CameraError, Life};
use inspectd::capture::{Parts, capture};

/// Nothing here may take longer.
const LONG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(20);

fn config(text: &str) -> StreamConfig {
    toml::from_str(text).unwrap()
}

/// A pipeline that plays, or none, said loudly.
fn pipeline(text: &str) -> Option<StreamCamera> {
    match StreamCamera::open("v", &config(&format!("pipeline = '{text}'"))) {
        Ok(camera) => Some(camera),
        Err(e)
            if std::path::Path::new("/usr/lib/x86_64-linux-gnu/gstreamer-1.0/libgstvideotestsrc.so")
                .exists() =>
        {
            panic!("{e}")
        }
        Err(_) => {
            cameras::skipped("no gstreamer1.0-plugins-base: deploy/setup.sh installs it");
            None
        }
    }
}

#[test]
fn a_pipeline_gives_its_newest_frame_in_rgb() {
    let red = "videotestsrc is-live=true pattern=red ! video/x-raw,width=64,height=48,framerate=50/1";
    let Some(mut camera) = pipeline(red) else { return };
    let mut last = None;
    for _ in 0..10 {
        let asked = Instant::now();
        let frame = camera.grab(SOON).unwrap();
        assert!(frame.exposed >= asked, "an old one");
        assert!(last.is_none_or(|last| frame.number > last), "{} after {last:?}", frame.number);
        last = Some(frame.number);
        let image = &frame.image;
        assert_eq!((image.width(), image.height(), image.channels()), (64, 48, 3));
        let [r, g, b] = image.data()[..3] else { panic!() };
        assert!(r > 200 && g < 50 && b < 50, "expected red, got {r} {g} {b}");
    }
    assert_eq!(camera.life().unwrap(), Life::Proven);
}

#[test]
fn a_source_that_ends_is_away_and_one_that_cannot_run_says_so() {
    let short = "videotestsrc num-buffers=3 ! video/x-raw,width=64,height=48,framerate=50/1";
    let Some(mut camera) = pipeline(short) else { return };
    let until = Instant::now() + LONG;
    let error = loop {
        assert!(Instant::now() < until, "it never ends");
        match camera.next(SOON) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, CameraError::Away { .. }), "{error}");
    assert!(camera.life().is_err());
    let nothing = config("pipeline = 'nosuchelement password=s3cret'");
    let error = StreamCamera::open("v", &nothing).err().unwrap().to_string();
    assert!(error.contains("GStreamer") && !error.contains("s3cret"), "{error}");
    let device = config("device = '/dev/video-that-is-not-there'");
    let error = StreamCamera::open("v", &device).err().unwrap().to_string();
    assert!(error.contains("/dev/video-that-is-not-there"), "{error}");
}

#[test]
fn an_rtsp_server_that_dies_is_away_and_its_frames_come_back_by_themselves() {
    let Some(mut server) = RtspServer::start(&[]) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
    let settings = CameraConfig::Opencv(config(&format!("url = '{}'\nstall_ms = 4000", server.url(""))));
    let handle = CameraHandle::spawn("v", settings).unwrap();
    let next = || runtime.block_on(handle.next((Instant::now() + SOON).into()));
    wait_for(&handle, "frames", |a| *a == Availability::Up);
    let (first, second) = (next().unwrap(), next().unwrap());
    assert_eq!((first.image.width(), first.image.height(), first.image.channels()), (320, 240, 3));
    assert!(second.number > first.number && second.image != first.image, "the ball moves");
    // Killed, its connection breaks; frozen, it only falls silent.
    for outage in [RtspServer::kill, RtspServer::freeze] {
        outage(&mut server);
        let until = Instant::now() + LONG;
        while next().is_ok() || !handle.is_away() {
            assert!(Instant::now() < until, "nobody notices that it is gone");
        }
        server.kill();
        server.restart();
        wait_for(&handle, "frames to come back", |a| *a == Availability::Up);
        assert_eq!(next().unwrap().image.width(), 320);
    }
}

#[test]
fn pictures_for_training_are_taken_and_numbered_on() {
    let moving = "videotestsrc is-live=true pattern=ball ! video/x-raw,width=64,height=48,framerate=50/1";
    if pipeline(moving).is_none() {
        return;
    }
    let source = CameraConfig::Opencv(config(&format!("pipeline = '{moving}'")));
    let dir = tempfile::tempdir().unwrap();
    for (count, resume) in [(3, false), (5, true)] {
        capture("v", &source, None, Parts::Flat { count }, dir.path(), resume).unwrap();
    }
    let pictures: Vec<Image> =
        (0..5).map(|i| Image::read(&dir.path().join(format!("{i:06}.png"))).unwrap()).collect();
    assert!(pictures.windows(2).all(|p| p[0] != p[1]), "each is a new one");
}

#[test]
fn a_password_opens_an_rtsp_source_and_shows_nowhere() {
    let Some(mut server) = RtspServer::start(&["line", "s3cret"]) else { return };
    let at = |login: &str| config(&format!("url = '{}'\nstall_ms = 4000", server.url(login)));
    let mut camera = StreamCamera::open("v", &at("line:s3cret@")).unwrap();
    assert_eq!(camera.next(SOON).unwrap().image.width(), 320);
    let refused = StreamCamera::open("v", &at("line:wr0ng@")).err().unwrap().to_string();
    assert!(refused.contains("line:***@127.0.0.1") && !refused.contains("wr0ng"), "{refused}");
    let settings = at("line:s3cret@");
    server.kill();
    let until = Instant::now() + LONG;
    let lost = loop {
        assert!(Instant::now() < until, "nobody notices that it is gone");
        match camera.next(SOON) {
            Ok(_) | Err(CameraError::NoFrame { .. }) => {}
            Err(error) => break error.to_string(),
        }
    };
    let gone = StreamCamera::open("v", &settings).err().unwrap().to_string();
    for text in [lost, gone, format!("{settings:?}")] {
        assert!(text.contains("line:***@127.0.0.1") && !text.contains("s3cret"), "{text}");
    }
}
