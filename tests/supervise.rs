//! What hangs for good: found within its time, told to the PLC at once, and ended with the process.
//!
//! The daemon runs in a process of its own, this test's program started once more; its camera and scorer hang while a file
//! is there. What it takes is printed, for the README.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod stub;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use inspect_core::image::Image;
use inspect_core::scorer::{Scorer, ScorerError};
use inspect_core::verdict::FaultCode;
use inspectd::audit;
use inspectd::camera::{Camera, CameraError, Frame, Life};
use inspectd::config::Config;
use inspectd::daemon::{Daemon, Seams};
use inspectd::journal::JournalReader;
use inspectd::plc::map::{holding, input, state_bit};
use inspectd::scoring::ScoringError;
use inspectd::status::gather::Shown;
use inspectd::status::{self, Answer, Ask, Standing};
use inspectd::supervise::{EXIT_GAVE_UP, Ended, serve};
use tokio_modbus::client::{Context, Reader as _, Writer as _, tcp};

/// Nothing here may take longer.
const PATIENCE: Duration = Duration::from_secs(120);
/// The child's folder and port.
const FOLDER: &str = "INSPECTD_TEST_FOLDER";
const LISTEN: &str = "INSPECTD_TEST_LISTEN";

/// Hangs while a file is there.
struct Lever(PathBuf);

impl Lever {
    fn pass(&self) {
        while self.0.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

struct HangingCamera(Lever, u8);

impl Camera for HangingCamera {
    fn grab(&mut self, _timeout: Duration) -> Result<Frame, CameraError> {
        self.0.pass();
        self.1 = self.1.wrapping_add(1) % 200;
        let image = Image::new(4, 4, 1, vec![self.1; 16]).unwrap();
        Ok(Frame { image, number: 0, exposed: Instant::now(), path: None, truth: None })
    }

    fn life(&mut self) -> Result<Life, CameraError> {
        self.0.pass();
        Ok(Life::Proven)
    }

    fn expose(&mut self, _exposure_us: Option<f64>) -> Result<(), CameraError> {
        Ok(())
    }
}

struct HangingScorer(Lever);

impl Scorer for HangingScorer {
    fn run(&mut self, inputs: &[u8], scores: &mut Vec<f32>, maps: &mut Vec<f32>) -> Result<(), ScorerError> {
        self.0.pass();
        *maps = vec![0.0; 4];
        *scores = vec![stub::GOLDEN_SCORE; inputs.len() / 16];
        Ok(())
    }
}

fn seams(config: &Config) -> Seams {
    let folder = config.journal.dir.clone();
    let (camera, scorer) = (folder.join("camera-hangs"), folder.join("scorer-hangs"));
    Seams {
        camera: Box::new(move |_| {
            let file = camera.clone();
            Box::new(move || Ok(Box::new(HangingCamera(Lever(file.clone()), 0)) as Box<dyn Camera>))
        }),
        scorer: Box::new(move |_| {
            let file = scorer.clone();
            Box::new(move || {
                Ok::<_, ScoringError>(stub::loaded(Box::new(HangingScorer(Lever(file.clone())))))
            })
        }),
    }
}

/// The daemon's process; does nothing where it is run as a test.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let mut config = stub::config(Path::new(&folder), vec![stub::station("s1", Duration::from_millis(150))]);
    config.modbus.listen = std::env::var(LISTEN).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let ended = runtime.block_on(serve(&Path::new(&folder).join("inspectd.toml"), config, seams));
    runtime.shutdown_timeout(Duration::from_secs(1));
    match ended.unwrap() {
        Ended::Asked => std::process::exit(0),
        Ended::GaveUp(_) => std::process::exit(i32::from(EXIT_GAVE_UP)),
    }
}

struct Line {
    folder: tempfile::TempDir,
    child: Child,
    plc: Context,
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has ended where all went well
        let _ = self.child.wait();
    }
}

impl Line {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(FOLDER, folder.path())
            .env(LISTEN, listen.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = Self { folder, child, plc: connected(listen).await };
        line.plc.write_single_register(holding::TRIGGER_ID, 0).await.unwrap().unwrap();
        line.until("ready", |w| w[usize::from(input::STATE)] & state_bit::READY != 0).await;
        line
    }

    async fn words(&mut self) -> std::io::Result<Vec<u16>> {
        let read = self.plc.read_input_registers(0, input::SIZE).await;
        Ok(read.map_err(std::io::Error::other)?.unwrap())
    }

    async fn until(&mut self, what: &str, wanted: impl Fn(&[u16]) -> bool) -> Vec<u16> {
        let began = Instant::now();
        loop {
            let words = self.words().await.unwrap();
            if wanted(&words) {
                return words;
            }
            assert!(began.elapsed() < PATIENCE, "waited in vain: {what}; {words:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Lets something hang for good; how long it took until the PLC read `code`, and until the process had ended.
    async fn hang(&mut self, file: &str, code: FaultCode) -> (Duration, Duration) {
        let began = Instant::now();
        std::fs::write(self.folder.path().join(file), "").unwrap();
        let at = |w: &[u16], place: u16| w[usize::from(place)];
        self.until(file, |w| at(w, input::FAULT_CODE) == code.code()).await;
        let found = began.elapsed();
        self.plc.write_single_register(holding::TRIGGER_ID, 7).await.unwrap().unwrap();
        let part = self.until("a result", |w| at(w, input::RESULT_TRIGGER_ID) == 7).await;
        assert_eq!((at(&part, input::VERDICT), at(&part, input::GATE)), (4, 2), "{part:?}");
        assert_eq!(at(&part, input::RESULT_FAULT_CODE), code.code(), "{part:?}");
        // `chain` stands from here on, and nothing passes, until the server is gone.
        let chain = at(&part, input::CHAIN);
        let mut last = part;
        while let Ok(words) = self.words().await {
            assert_eq!((at(&words, input::CHAIN), at(&words, input::GATE)), (chain, 2), "{words:?}");
            assert!(began.elapsed() < PATIENCE, "the process does not end");
            last = words;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let stopping = FaultCode::Stopping.code();
        assert!([code.code(), stopping].contains(&at(&last, input::FAULT_CODE)), "{last:?}");
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < PATIENCE, "the process does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert_eq!(status.code(), Some(i32::from(EXIT_GAVE_UP)), "{status}");
        (found, began.elapsed())
    }

    fn events(&self) -> Vec<serde_json::Value> {
        let reader = JournalReader::open(self.folder.path()).unwrap();
        let entries = reader.after(0, 1_000_000).unwrap();
        entries.iter().map(|e| serde_json::from_str(&e.json).unwrap()).collect()
    }
}

async fn connected(address: SocketAddr) -> Context {
    let began = Instant::now();
    loop {
        match tcp::connect(address).await {
            Ok(plc) => return plc,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[tokio::test]
async fn a_scorer_that_hangs_is_told_and_ends_the_process() {
    let mut line = Line::start().await;
    let (found, ended) = line.hang("scorer-hangs", FaultCode::ScorerStuck).await;
    println!("stuck scorer: fault 24 after {}, process ended after {}", seconds(found), seconds(ended));
    let events = line.events();
    let gave_up = events.iter().find(|e| e["event"] == "gave_up").expect("the journal tells");
    assert!(gave_up["message"].as_str().unwrap().contains("has not come back"), "{gave_up}");
    assert!(events.iter().any(|e| e["event"] == "stopped"), "the rest stopped in order");
}

#[tokio::test]
async fn a_camera_that_hangs_for_good_is_told_and_ends_the_process() {
    let mut line = Line::start().await;
    let (found, ended) = line.hang("camera-hangs", FaultCode::CameraStuck).await;
    println!("stuck camera: fault 17 after {}, process ended after {}", seconds(found), seconds(ended));
    assert!(line.events().iter().any(|e| e["event"] == "gave_up"));
}

#[tokio::test]
async fn a_camera_that_hangs_once_is_opened_anew_and_the_line_goes_on() {
    let mut line = Line::start().await;
    let began = Instant::now();
    let file = line.folder.path().join("camera-hangs");
    std::fs::write(&file, "").unwrap();
    let stuck = FaultCode::CameraStuck.code();
    line.until("stuck", |w| w[usize::from(input::FAULT_CODE)] == stuck).await;
    let Answer::Status(told) = status::ask(&line.folder.path().join(status::SOCKET), &Ask::Status).unwrap()
    else {
        panic!("no status")
    };
    let camera = &told.stations[0].cameras[0];
    // On a busy machine the next thread may hang by now as well.
    assert!(camera.standing == Standing::Stuck && camera.threads_left_behind >= 1, "{camera:?}");
    assert_eq!(told.troubles[0].code, Some(stuck));
    std::fs::remove_file(&file).unwrap();
    line.until("ready", |w| w[usize::from(input::STATE)] & state_bit::READY != 0).await;
    println!("a camera's call hung: ready again {} after it began", seconds(began.elapsed()));
}

#[tokio::test]
async fn status_tells_of_an_audit_trail_that_was_tampered_with_and_of_an_archive_that_takes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(audit::FILE), "{\"number\":1}\n").unwrap();
    std::fs::write(folder.path().join("archive"), "a file in the archive's place").unwrap();
    let mut config = stub::config(folder.path(), vec![stub::station("s1", Duration::from_millis(150))]);
    config.archive.pass_every = 1;
    let daemon = Daemon::start(&config, seams(&config)).await.unwrap();
    let shown = Shown::new(Path::new("inspectd.toml"), folder.path());
    shown.running(daemon.look_on());

    daemon.registers[0].write_registers(holding::TRIGGER_ID, &[0]).unwrap();
    let began = Instant::now();
    let mut id = 0;
    let told = loop {
        // A part may have come before the station was ready, which stays latched.
        let told: Vec<_> =
            shown.gather().await.troubles.into_iter().filter(|trouble| trouble.station.is_none()).collect();
        if told.len() >= 2 {
            break told;
        }
        assert!(began.elapsed() < PATIENCE, "{told:?}");
        id = id % 1_000 + 1;
        daemon.registers[0].write_registers(holding::TRIGGER_ID, &[id]).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(told[0].what.contains("audit trail") && told[0].action.contains("Copy"), "{told:?}");
    assert!(told[0].detail.as_ref().unwrap().contains("line 1"), "{told:?}");
    assert!(told[1].what.contains("archive") && told[1].detail.is_some(), "{told:?}");
    daemon.stop().await;
}

/// `INSPECTD_BLESS=1 cargo test --test supervise schema` writes it anew.
#[test]
fn the_schema_of_the_answers_is_that_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/schema/answer.schema.json");
    let text = serde_json::to_string_pretty(&status::schema()).unwrap() + "\n";
    if std::env::var_os("INSPECTD_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(known, text, "{} is old: INSPECTD_BLESS=1 cargo test --test supervise schema", path.display());
}
