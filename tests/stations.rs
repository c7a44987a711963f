//! Many stations and views: who shares a model gets its own scores all the same, and where the model cannot follow,
//! parts are late and never wrong.
//!
//! Cameras and scorer are simulated at their seams; stations, threads and registers are the real ones.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod stub;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use inspect_core::card::{Limits, Thresholds};
use inspect_core::image::Image;
use inspect_core::scorer::{Scorer, ScorerError};
use inspect_core::verdict::FaultCode;
use inspectd::camera::{Camera, CameraError, Frame, Life};
use inspectd::config::Config;
use inspectd::daemon::{Daemon, Seams};
use inspectd::plc::map::{holding, input, state_bit};
use inspectd::plc::registers::Registers;
use inspectd::scoring::ScoringError;

const STATIONS: usize = 16;
/// Nothing here may take longer.
const PATIENCE: Duration = Duration::from_secs(120);
/// A deadline that no machine is too busy for.
const LONG: Duration = Duration::from_secs(30);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_micros(200);

/// What stands before a camera, and in its frame's first bytes: a station or view, and a part.
fn pixels(at: usize, part: u32) -> Vec<u8> {
    let mut pixels = vec![0; 16];
    pixels[0] = at as u8;
    pixels[1..5].copy_from_slice(&part.to_le_bytes());
    pixels
}

/// What the model says of it: in steps that are no rounding, up to 1.25 of the reject threshold.
fn score(pixels: &[u8]) -> f32 {
    let mixed =
        pixels[..5].iter().fold(17u32, |mixed, &byte| (mixed ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    ((mixed >> 8) % 1000 + 1) as f32 / 400.0
}

/// Shows the part that is there now.
struct PartCamera {
    at: usize,
    part: Arc<AtomicU32>,
    /// Cameras of the same part, which all wait for each other.
    together: Arc<(Mutex<usize>, Condvar)>,
    /// How many those are.
    of: usize,
}

impl Camera for PartCamera {
    fn grab(&mut self, _timeout: Duration) -> Result<Frame, CameraError> {
        let exposed = Instant::now();
        let part = self.part.load(Ordering::SeqCst);
        let (grabs, more) = &*self.together;
        let mut here = grabs.lock().unwrap();
        *here += 1;
        more.notify_all();
        let round = here.div_ceil(self.of);
        let waited = more.wait_timeout_while(here, PATIENCE, |here| *here < round * self.of).unwrap();
        assert!(!waited.1.timed_out(), "the cameras of a part are asked one after another");
        let image = Image::new(4, 4, 1, pixels(self.at, part)).unwrap();
        Ok(Frame { image, number: part.into(), exposed, path: None, truth: None })
    }

    fn life(&mut self) -> Result<Life, CameraError> {
        Ok(Life::Proven)
    }

    fn expose(&mut self, _exposure_us: Option<f64>) -> Result<(), CameraError> {
        Ok(())
    }
}

/// How many batches there were of each session and size.
type Batches = Arc<Mutex<BTreeMap<(usize, usize), usize>>>;

struct SharedScorer {
    session: usize,
    batch: usize,
    run_takes: Duration,
    batches: Batches,
}

impl Scorer for SharedScorer {
    fn run(&mut self, inputs: &[u8], scores: &mut Vec<f32>, maps: &mut Vec<f32>) -> Result<(), ScorerError> {
        maps.clear();
        maps.resize(4 * inputs.len() / 16, 0.0);
        scores.clear();
        if inputs == [stub::GOLDEN_PIXEL; 16] {
            scores.push(stub::GOLDEN_SCORE);
            return Ok(());
        }
        *self.batches.lock().unwrap().entry((self.session, inputs.len() / 16)).or_default() += 1;
        std::thread::sleep(self.run_takes);
        scores.extend(inputs.chunks(16).map(score));
        Ok(())
    }

    fn batch(&self) -> usize {
        self.batch
    }
}

struct Line {
    daemon: Daemon,
    /// The part before each camera, by station.
    parts: Vec<Arc<AtomicU32>>,
    batches: Batches,
    /// Loads of the model.
    loads: Arc<AtomicUsize>,
    _folder: tempfile::TempDir,
}

impl Line {
    /// Stations of so many views, all of one model, whose card has 2.25 as the limit of one of two views.
    async fn start(
        stations: usize,
        views: usize,
        deadline: Duration,
        batch: usize,
        run_takes: Duration,
        sessions: usize,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path(), stations, views, deadline);
        config.runtime.sessions = sessions;
        // Many stations as fast as they go, on a disk that other tests use too.
        config.journal.ring_slots = 16_384;
        let parts: Vec<Arc<AtomicU32>> = (0..stations).map(|_| Arc::default()).collect();
        let together: Vec<Arc<(Mutex<usize>, Condvar)>> = (0..stations).map(|_| Arc::default()).collect();
        let (batches, loads) = (Batches::default(), Arc::new(AtomicUsize::new(0)));
        let (shown, noted, loaded) = (parts.clone(), batches.clone(), loads.clone());
        let all_asked = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&all_asked);
        let seams = Seams {
            camera: Box::new(move |view| {
                let (station, at) = view.name.split_once('-').unwrap();
                let (station, at): (usize, usize) = (station.parse().unwrap(), at.parse().unwrap());
                let (part, together) = (shown[station].clone(), together[station].clone());
                Box::new(move || {
                    let (part, together) = (part.clone(), together.clone());
                    Ok(Box::new(PartCamera { at: station * views + at, part, together, of: views })
                        as Box<dyn Camera>)
                })
            }),
            scorer: Box::new(move |_| {
                let (batches, loads, asked) = (noted.clone(), loaded.clone(), asked.clone());
                Box::new(move || {
                    let session = loads.fetch_add(1, Ordering::SeqCst);
                    // There is no file, by which a model that is loaded could be told to be the one wanted.
                    while !asked.load(Ordering::SeqCst) {
                        std::thread::sleep(POLL);
                    }
                    let batches = batches.clone();
                    let mut loaded =
                        stub::loaded(Box::new(SharedScorer { session, batch, run_takes, batches }));
                    let thresholds = Thresholds { review: 2.25, reject: 2.25 };
                    Arc::make_mut(&mut loaded.card).calibration.shares =
                        vec![Limits { thresholds, provisional: false }];
                    Ok::<_, ScoringError>(loaded)
                })
            }),
        };
        let daemon = Daemon::start(&config, seams).await.unwrap();
        all_asked.store(true, Ordering::SeqCst);
        for (state, registers) in daemon.states.iter().zip(&daemon.registers) {
            let mut state = state.clone();
            let ready = state.wait_for(|s| s.fault == Some(FaultCode::NotArmed));
            tokio::time::timeout(PATIENCE, ready).await.unwrap().unwrap();
            registers.write_registers(holding::TRIGGER_ID, &[0]).unwrap();
        }
        Self { daemon, parts, batches, loads, _folder: folder }
    }

    /// Lays a part before each station's cameras and triggers all; gives each station's result.
    async fn round(&self, part: u16) -> Vec<Seen> {
        for (registers, shown) in self.daemon.registers.iter().zip(&self.parts) {
            shown.store(part.into(), Ordering::SeqCst);
            registers.write_registers(holding::TRIGGER_ID, &[part]).unwrap();
        }
        let mut seen = Vec::new();
        for registers in &self.daemon.registers {
            let start = Instant::now();
            while is_busy(registers) {
                assert!(start.elapsed() < PATIENCE, "part {part} gets no result");
                tokio::time::sleep(POLL).await;
            }
            seen.push(read(registers, part));
        }
        seen
    }
}

fn config(folder: &std::path::Path, stations: usize, views: usize, deadline: Duration) -> Config {
    let station = |n: usize| {
        let mut station = stub::station(&n.to_string(), deadline);
        let view = station.views.remove(0);
        station.views = (0..views)
            .map(|at| {
                let mut view = view.clone();
                (view.name, view.model) = (format!("{n}-{at}"), Some("shared".into()));
                view
            })
            .collect();
        station
    };
    stub::config(folder, (0..stations).map(station).collect())
}

fn is_busy(registers: &Registers) -> bool {
    registers.input_registers(input::STATE..input::STATE + 1).unwrap()[0] & state_bit::BUSY != 0
}

#[derive(Debug)]
struct Seen {
    verdict: u16,
    fault: u16,
    /// As a share of the limit.
    score: f32,
    gate: u16,
}

fn read(registers: &Registers, part: u16) -> Seen {
    let words = registers.input_registers(0..input::SIZE).unwrap();
    let at = |place: u16| words[usize::from(place)];
    assert_eq!(at(input::RESULT_TRIGGER_ID), part);
    assert_eq!(at(input::PART + 1), part, "each part has one result");
    Seen {
        verdict: at(input::VERDICT),
        fault: at(input::RESULT_FAULT_CODE),
        score: f32::from_bits(u32::from(at(input::SCORE)) << 16 | u32::from(at(input::SCORE + 1))),
        gate: at(input::GATE),
    }
}

/// A station's only view sees its own part, or the result is a fault that `explains` it. Whether it is no fault.
fn is_right(seen: &Seen, station: usize, part: u16, explains: &[FaultCode]) -> bool {
    if seen.verdict == 4 {
        let known = explains.iter().any(|code| code.code() == seen.fault);
        assert!(known && seen.gate == 2, "station {station}, part {part}: {seen:?}");
        return false;
    }
    let score = score(&pixels(station, part.into()));
    assert_eq!(seen.score, score / 2.0, "station {station}, part {part}: another part's score");
    assert_eq!(seen.verdict, score.ceil() as u16, "station {station}, part {part}: {seen:?}");
    assert_eq!(seen.gate == 1, seen.verdict == 1, "station {station}, part {part}: {seen:?}");
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_stations_share_a_model_and_its_batches_and_each_has_its_own_score() {
    let line = Line::start(STATIONS, 1, LONG, 4, Duration::from_millis(1), 1).await;
    for part in 1..=200 {
        for (station, seen) in line.round(part).await.iter().enumerate() {
            assert!(is_right(seen, station, part, &[]));
        }
    }
    assert_eq!(line.loads.load(Ordering::SeqCst), 1, "one session for all");
    let batches = line.batches.lock().unwrap().clone();
    let parts: usize = batches.iter().map(|((_, size), count)| size * count).sum();
    assert_eq!(parts, 200 * STATIONS, "{batches:?}");
    assert!(batches.keys().all(|(_, size)| *size <= 4) && batches.contains_key(&(0, 4)), "{batches:?}");
    line.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stations_share_two_sessions_of_a_model_and_each_has_its_own_score() {
    let line = Line::start(4, 1, LONG, 4, Duration::from_millis(1), 2).await;
    for part in 1..=200 {
        for (station, seen) in line.round(part).await.iter().enumerate() {
            assert!(is_right(seen, station, part, &[]));
        }
    }
    assert_eq!(line.loads.load(Ordering::SeqCst), 2, "two sessions for all");
    let batches = line.batches.lock().unwrap().clone();
    for session in 0..2 {
        let of_it = batches.iter().filter(|((of, _), _)| *of == session);
        let parts: usize = of_it.map(|((_, size), count)| size * count).sum();
        assert_eq!(parts, 2 * 200, "two stations each: {batches:?}");
    }
    line.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_model_cannot_follow_is_late_and_never_wrong() {
    let line = Line::start(STATIONS, 1, Duration::from_millis(100), 1, Duration::from_millis(20), 1).await;
    // On a busy machine a frame may be late as well.
    let explains = [FaultCode::Late, FaultCode::ScorerBusy, FaultCode::NoFrame];
    let (mut judged, mut late) = (0, 0);
    for part in 1..=12 {
        for (station, seen) in line.round(part).await.iter().enumerate() {
            let right = is_right(seen, station, part, &explains);
            (judged, late) = (judged + usize::from(right), late + usize::from(!right));
        }
    }
    assert!(judged > 0 && late > judged, "5 of 16 can be judged in time: {judged} were, {late} not");
    // What was late is scored all the same, and then the line is as good as before.
    let start = Instant::now();
    let (mut part, mut good) = (12, false);
    while !good {
        assert!(start.elapsed() < PATIENCE, "the load is over, and parts are still late");
        tokio::time::sleep(Duration::from_millis(50)).await;
        part += 1;
        line.parts[3].store(part.into(), Ordering::SeqCst);
        let registers = &line.daemon.registers[3];
        registers.write_registers(holding::TRIGGER_ID, &[part]).unwrap();
        while is_busy(registers) {
            assert!(start.elapsed() < PATIENCE, "part {part} gets no result");
            tokio::time::sleep(POLL).await;
        }
        good = is_right(&read(registers, part), 3, part, &explains);
    }
    line.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_views_of_a_part_are_grabbed_together_and_share_the_budget() {
    let line = Line::start(2, 2, LONG, 4, Duration::ZERO, 1).await;
    let (mut between, mut rejected) = (0, 0);
    for part in 1..=300 {
        for (station, seen) in line.round(part).await.iter().enumerate() {
            let scores = [0, 1].map(|view| score(&pixels(2 * station + view, part.into())));
            let highest = scores[0].max(scores[1]);
            assert_eq!(seen.score, highest / 2.25, "part {part}: {scores:?}, {seen:?}");
            assert_eq!(seen.verdict, if highest <= 2.25 { 1 } else { 3 }, "part {part}: {scores:?}");
            // Above the limit of a view alone: a good part of two views may be.
            between += usize::from(highest > 2.0 && highest <= 2.25);
            rejected += usize::from(highest > 2.25);
        }
    }
    assert!(between > 20 && rejected > 20, "{between} between the limits, {rejected} rejected");
    line.daemon.stop().await;
}
