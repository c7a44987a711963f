//! Change-over between recipes while parts come: each part is judged by the recipe that was in service when it was
//! triggered, or by none.
//!
//! Camera and scorer are simulated at their seams, so that a camera can take its time; station, threads and
//! registers are the real ones.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "the scorer here knows no golden image")]
mod stub;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use inspect_core::image::Image;
use inspect_core::scorer::{Scorer, ScorerError};
use inspect_core::verdict::FaultCode;
use inspectd::camera::{Camera, CameraError, Frame, Life};
use inspectd::daemon::{Daemon, Seams};
use inspectd::plc::map::{coil, discrete, holding, input};
use inspectd::plc::registers::Registers;
use inspectd::scoring::ScoringError;

/// Nothing here may take longer.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(1);
/// An exposure that the camera refuses.
const REFUSED_US: f64 = 77.0;

/// Shows its exposure, and takes a new one when it is allowed to.
struct SlowCamera {
    exposure_us: f64,
    frames: u8,
    asked: Sender<f64>,
    allowed: Arc<Mutex<Receiver<()>>>,
}

impl Camera for SlowCamera {
    fn grab(&mut self, _timeout: Duration) -> Result<Frame, CameraError> {
        self.frames = self.frames.wrapping_add(1) % 200; // no two in a row are the same
        let mut pixels = vec![self.exposure_us as u8; 16];
        pixels[15] = self.frames;
        let image = Image::new(4, 4, 1, pixels).unwrap();
        Ok(Frame { image, number: 0, exposed: Instant::now(), path: None, truth: None })
    }

    fn life(&mut self) -> Result<Life, CameraError> {
        Ok(Life::Proven)
    }

    fn expose(&mut self, exposure_us: Option<f64>) -> Result<(), CameraError> {
        let exposure_us = exposure_us.unwrap_or(10.0);
        self.asked.send(exposure_us).unwrap();
        self.allowed.lock().unwrap().recv().unwrap();
        if exposure_us == REFUSED_US {
            return Err(CameraError::Refused {
                camera: "slow".into(),
                reason: "exposure_us: by the test".into(),
            });
        }
        self.exposure_us = exposure_us;
        Ok(())
    }
}

/// The score tells the exposure: a hundredth of it.
struct ExposureScorer;

impl Scorer for ExposureScorer {
    fn run(&mut self, inputs: &[u8], scores: &mut Vec<f32>, maps: &mut Vec<f32>) -> Result<(), ScorerError> {
        *maps = vec![0.0; 4 * inputs.len() / 16];
        let score = |input: &[u8]| match input == [stub::GOLDEN_PIXEL; 16] {
            true => stub::GOLDEN_SCORE,
            false => f32::from(input[0]) / 100.0,
        };
        *scores = inputs.chunks(16).map(score).collect();
        Ok(())
    }
}

struct Line {
    daemon: Daemon,
    asked: Receiver<f64>,
    allow: Sender<()>,
    _folder: tempfile::TempDir,
}

impl Line {
    /// Recipe 1 exposes for 20 us, 2 for 60 us, 3 for one that the camera refuses.
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (number, exposure_us) in [(1, 20.0), (2, 60.0), (3, REFUSED_US)] {
            let text = format!(
                "number = {number}\nname = 'r'\n[[view]]\nname = 's'\nmodel = 'm.onnx'\nexposure_us = {exposure_us}\n"
            );
            std::fs::write(folder.path().join(format!("{number}.toml")), text).unwrap();
        }
        let mut station = stub::station("s", Duration::from_secs(30));
        station.views[0].model = None;
        station.recipes = Some(folder.path().to_owned());
        let config = stub::config(&folder.path().join("journal"), vec![station]);
        let ((asks, asked), (allow, allowed)) = (channel(), channel());
        let allowed = Arc::new(Mutex::new(allowed));
        let seams = Seams {
            camera: Box::new(move |_| {
                let (asks, allowed) = (asks.clone(), allowed.clone());
                Box::new(move || {
                    let (asked, allowed) = (asks.clone(), allowed.clone());
                    Ok(Box::new(SlowCamera { exposure_us: 10.0, frames: 0, asked, allowed })
                        as Box<dyn Camera>)
                })
            }),
            scorer: Box::new(|_| Box::new(|| Ok::<_, ScoringError>(stub::loaded(Box::new(ExposureScorer))))),
        };
        let daemon = Daemon::start(&config, seams).await.unwrap();
        let line = Self { daemon, asked, allow, _folder: folder };
        line.write(holding::TRIGGER_ID, 0);
        line.registers().write_coils(coil::LOAD_RECIPE, &[false]).unwrap(); // seen at 0 once
        line.until("no recipe", |l| l.word(input::FAULT_CODE) == FaultCode::NoRecipe.code()).await;
        line
    }

    fn registers(&self) -> &Registers {
        &self.daemon.registers[0]
    }

    fn write(&self, at: u16, value: u16) {
        self.registers().write_registers(at, &[value]).unwrap();
    }

    fn word(&self, at: u16) -> u16 {
        self.registers().input_registers(at..at + 1).unwrap()[0]
    }

    fn bit(&self, at: u16) -> bool {
        self.registers().discrete_inputs(at..at + 1).unwrap()[0]
    }

    async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < PATIENCE, "{what} does not come");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Asks for a recipe and returns when the camera is being set.
    async fn begin(&self, recipe: u16) -> f64 {
        self.write(holding::RECIPE_REQUEST, recipe);
        self.registers().write_coils(coil::LOAD_RECIPE, &[true]).unwrap();
        let start = Instant::now();
        loop {
            if let Ok(exposure_us) = self.asked.try_recv() {
                return exposure_us;
            }
            let code = self.word(input::COMMAND_FAULT_CODE);
            assert!(start.elapsed() < PATIENCE && code == 0, "the camera is not asked, command fault {code}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Lets the camera go on; the code of the command that ends.
    async fn end(&self) -> u16 {
        self.allow.send(()).unwrap();
        self.until("command", |l| l.bit(discrete::COMMAND_DONE) || l.bit(discrete::COMMAND_FAILED)).await;
        let code = self.word(input::COMMAND_FAULT_CODE);
        self.registers().write_coils(coil::LOAD_RECIPE, &[false]).unwrap();
        code
    }

    /// Exposure that a part was judged at, by its score; or its fault.
    async fn result(&self, id: u16) -> Result<u16, u16> {
        self.until("result", |l| l.word(input::RESULT_TRIGGER_ID) == id).await;
        if self.word(input::VERDICT) == 4 {
            assert_eq!(self.word(input::GATE), 2);
            return Err(self.word(input::RESULT_FAULT_CODE));
        }
        let [high, low] = [0, 1].map(|n| u32::from(self.word(input::SCORE + n)));
        Ok((f32::from_bits(high << 16 | low) * 200.0).round() as u16)
    }

    async fn part(&self, id: u16) -> Result<u16, u16> {
        self.write(holding::TRIGGER_ID, id);
        self.result(id).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_waits_while_the_recipe_changes_is_judged_by_neither() {
    let line = Line::start().await;
    assert_eq!(line.begin(1).await, 20.0);
    assert_eq!(line.end().await, 0);
    assert_eq!(line.part(1).await, Ok(20));
    assert_eq!(line.begin(2).await, 60.0);
    line.write(holding::TRIGGER_ID, 2); // too early: the command is not done
    assert_eq!(line.end().await, 0);
    assert_eq!(line.result(2).await, Err(FaultCode::RecipeChanged.code()));
    assert_eq!(line.part(3).await, Ok(60));
    line.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_camera_that_refuses_or_hangs_leaves_the_recipe_before_with_its_exposure() {
    let line = Line::start().await;
    line.begin(1).await;
    assert_eq!(line.end().await, 0);
    assert_eq!(line.begin(3).await, REFUSED_US);
    assert_eq!(line.end().await, FaultCode::BadRecipe.code());
    assert_eq!((line.part(1).await, line.word(input::RECIPE_ACTIVE)), (Ok(20), 1));
    // It takes longer than the station waits, and then has the exposure that nobody wants any more.
    assert_eq!(line.begin(2).await, 60.0);
    line.until("command_failed", |l| l.bit(discrete::COMMAND_FAILED)).await;
    line.registers().write_coils(coil::LOAD_RECIPE, &[false]).unwrap();
    line.write(holding::TRIGGER_ID, 2);
    line.allow.send(()).unwrap(); // 60 us
    line.allow.send(()).unwrap(); // and back
    assert_eq!((line.result(2).await, line.word(input::RECIPE_ACTIVE)), (Ok(20), 1));
    line.daemon.stop().await;
}
