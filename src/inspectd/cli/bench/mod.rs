//! `inspectd bench`: what the daemon adds to the model's own time, measured on this machine.
//!
//! A whole daemon runs in this process with the given model and frames that are rendered beforehand.
//!
//! One station ([`part`]): a Modbus client triggers parts by id, with serial and encoder, and acknowledges each
//! result; another polls the result block at 1 kHz, both over loopback TCP. After each part the same session on the
//! same thread scores the same frame once more with nothing around it: the bare run. Parts and bare runs alternate,
//! so both see the same machine. Many stations: [`load`].
//!
//! Never here: the camera's time, which is its own (frames are at hand at once).

mod load;
mod part;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use inspect_core::image::Image;
use inspect_core::runtime::{Provider, Runtime};
use inspect_core::verdict::{FaultCode, Verdict};
use serde::Serialize;

use crate::archive::ArchiveConfig;
use crate::camera::simulated::SimulatedConfig;
use crate::camera::{self, Camera, CameraConfig, CameraError, Frame, Life};
use crate::config::{Config, ModbusConfig, StationConfig, TriggerConfig, ViewConfig};
use crate::cores::Cores;
use crate::daemon::{Daemon, Seams};
use crate::drift::DriftConfig;
use crate::gate::GateConfig;
use crate::journal::{JournalConfig, JournalReader, OnJournalFull};
use crate::models::ModelsConfig;
use crate::plc::map::input;
use crate::plc::settings::Results;
use crate::record::{Gate, Times, Trigger, ViewRecord};
use crate::station::guard::GuardConfig;
use crate::thresholds::ThresholdConfig;

/// Registers of the result block.
const BLOCK_WORDS: u16 = input::RESULT_SEQUENCE_END - input::RESULT_SEQUENCE + 1;
/// Frames that are rendered beforehand and shown in turn.
const FRAMES: usize = 32;
/// A part without a result for this long ends the bench.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much the daemon adds to the model's own time, one part after another; with more stations or views than one,
/// how many parts this machine judges in time.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Model file.
    #[arg(long)]
    model: PathBuf,
    /// Parts to measure, with one station of one view.
    #[arg(long, default_value_t = 2000, conflicts_with_all = ["stations", "views"], value_parser = clap::value_parser!(u32).range(1..=60_000))]
    parts: u32,
    /// Side of the square frames, pixels; absent: the model's input, so that resizing is a copy.
    #[arg(long, value_parser = clap::value_parser!(u32).range(16..=8192))]
    frame_px: Option<u32>,
    /// Threads of the session on the CPU.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// Execution providers in order of preference.
    #[arg(long, value_delimiter = ',', default_value = "tensorrt,cuda,cpu", value_parser = super::score::provider)]
    providers: Vec<Provider>,
    /// Stations at work at the same time, which share the model. With more than one the load is raised step by step
    /// until the machine cannot follow.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    stations: u8,
    /// Views of each part, likewise.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    views: u8,
    /// Time of each step of the load, seconds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=60))]
    seconds: u16,
    /// Deadline of each part under load, milliseconds.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(10..=5000))]
    deadline_ms: u64,
    /// Sessions of the model, over which stations and views are spread.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    sessions: u8,
    /// Cores that the model runs on, such as 1,3; absent: any.
    #[arg(long, value_delimiter = ',')]
    cores: Vec<usize>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Percentiles, microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
struct Percentiles {
    p50: u64,
    p99: u64,
    p999: u64,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("no runtime")?;
    let right = if args.stations == 1 && args.views == 1 {
        let report = runtime.block_on(part::measure(args, folder.path()))?;
        tell(args, &report, part::print)?;
        true
    } else {
        let report = runtime.block_on(load::measure(args, folder.path()))?;
        tell(args, &report, load::print)?;
        report.is_right()
    };
    Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell<T: Serialize>(args: &Args, report: &T, print: impl Fn(&T)) -> anyhow::Result<()> {
    if args.json {
        return super::say(&format!("{}\n", serde_json::to_string_pretty(report)?));
    }
    print(report);
    Ok(())
}

/// A daemon whose stations are ready but for the PLC's first 0.
struct Started {
    daemon: Daemon,
    frames: Arc<Vec<Image>>,
    provider: Provider,
    /// The reject threshold of the model's card.
    reject: f32,
    frame_px: [u32; 2],
    input_px: [u32; 2],
}

async fn start(args: &Args, folder: &Path, stations: usize) -> anyhow::Result<Started> {
    let model = inspect_core::model::ModelFile::read(&args.model)?;
    let input = model.card.input;
    let frame_px = args.frame_px.map_or([input.width, input.height], |side| [side, side]);
    let frames = render(frame_px)?;
    let config = config(args, folder, stations);
    let shown = Arc::clone(&frames);
    let seams = Seams {
        camera: Box::new(move |_| {
            let frames = Arc::clone(&shown);
            Box::new(move || {
                let ring = Ring { frames: Arc::clone(&frames), next: 0 };
                Ok(Box::new(ring) as Box<dyn Camera>)
            })
        }),
        ..Seams::configured(&config)
    };
    let daemon = Daemon::start(&config, seams).await?;
    let mut provider = None;
    for shown in &daemon.states {
        // Not armed: the client has not yet written 0. All else there is.
        let mut state = shown.clone();
        let ready = state.wait_for(|s| s.fault == Some(FaultCode::NotArmed));
        provider = match tokio::time::timeout(PATIENCE, ready).await {
            Ok(state) => state?.provider,
            Err(_) => bail!("a station does not get ready: {:?}", shown.borrow().detail),
        };
    }
    Ok(Started {
        daemon,
        frames,
        provider: provider.context("no model")?,
        reject: model.card.thresholds.reject,
        frame_px,
        input_px: [input.width, input.height],
    })
}

/// What is read back of a part.
#[derive(Debug, serde::Deserialize)]
struct Record {
    station: String,
    trigger: Trigger,
    views: Vec<ViewRecord>,
    #[serde(flatten)]
    verdict: Verdict,
    times_us: Times,
}

/// All parts in the journal, in their order.
fn records(folder: &Path) -> anyhow::Result<Vec<Record>> {
    let reader = JournalReader::open(folder)?;
    let mut records = Vec::new();
    let mut after = 0;
    loop {
        let entries = reader.after(after, 1000)?;
        let Some(last) = entries.last() else { return Ok(records) };
        after = last.sequence;
        records.extend(entries.iter().filter_map(|e| serde_json::from_str(&e.json).ok()));
    }
}

fn percentiles(mut values: Vec<u64>) -> Percentiles {
    values.sort_unstable();
    let at = |share: f64| {
        let rank = (share * values.len() as f64).ceil() as usize;
        values.get(rank.saturating_sub(1)).copied().unwrap_or(0)
    };
    Percentiles { p50: at(0.5), p99: at(0.99), p999: at(0.999) }
}

fn simulated(width: u32, height: u32) -> CameraConfig {
    CameraConfig::Simulated(SimulatedConfig { width, height, ..SimulatedConfig::default() })
}

/// Frames of simulated parts, rendered once.
fn render([width, height]: [u32; 2]) -> anyhow::Result<Arc<Vec<Image>>> {
    let mut camera = camera::open("bench", &simulated(width, height))?;
    let frames: Result<Vec<_>, CameraError> =
        (0..FRAMES).map(|_| camera.grab(PATIENCE).map(|f| f.image)).collect();
    Ok(Arc::new(frames?))
}

/// A camera that shows frames which are at hand.
struct Ring {
    frames: Arc<Vec<Image>>,
    next: usize,
}

impl Camera for Ring {
    fn grab(&mut self, _timeout: Duration) -> Result<Frame, CameraError> {
        let exposed = Instant::now();
        let image = self.frames[self.next % self.frames.len()].clone();
        self.next += 1;
        Ok(Frame { image, number: self.next as u64, exposed, path: None, truth: None })
    }

    fn life(&mut self) -> Result<Life, CameraError> {
        Ok(Life::Proven)
    }

    fn expose(&mut self, _exposure_us: Option<f64>) -> Result<(), CameraError> {
        Ok(())
    }
}

fn config(args: &Args, folder: &Path, stations: usize) -> Config {
    let view = |n: u8| ViewConfig {
        name: n.to_string(),
        camera: simulated(64, 64), // the seam gives the ring in its place
        roi: None,
        model: Some(args.model.clone()),
        thresholds: ThresholdConfig::default(),
    };
    // One part after another is given all the time it takes.
    let (deadline_ms, results) = match stations {
        1 if args.views == 1 => (5_000, Results::Acknowledged { depth: 4 }),
        _ => (args.deadline_ms, Results::Latest),
    };
    let station = |n: usize| StationConfig {
        on_journal_full: OnJournalFull::default(),
        name: n.to_string(),
        trigger: TriggerConfig::Plc,
        deadline_ms,
        gate: GateConfig { time_to_gate_ms: deadline_ms + 2, plc_poll_ms: 1, plc_scan_ms: 1 },
        review_at_gate: Gate::Reject,
        results,
        recipes: None,
        guard: GuardConfig::default(),
        drift: DriftConfig::default(),
        allow_unproven_camera: false,
        in_sight: None,
        views: (0..args.views).map(view).collect(),
    };
    let runtime = Runtime {
        providers: args.providers.clone(),
        threads: args.threads.into(),
        sessions: args.sessions.into(),
        ..Runtime::default()
    };
    Config {
        run_dir: None,
        modbus: ModbusConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..ModbusConfig::default() },
        mqtt: None,
        journal: JournalConfig { dir: folder.to_owned(), ..JournalConfig::default() },
        archive: ArchiveConfig::default(),
        models: ModelsConfig::default(),
        runtime,
        cores: Cores { scoring: args.cores.clone(), others: Vec::new() },
        stations: (0..stations).map(station).collect(),
    }
}
