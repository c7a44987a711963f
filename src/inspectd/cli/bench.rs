//! `inspectd bench`: what the daemon adds to the model's own time, measured on this machine.
//!
//! A whole daemon runs in this process with the given model and frames that are rendered beforehand. A
//! Modbus client triggers parts by id and another polls the result block at 1 kHz, both over loopback TCP.
//! After each part the same session on the same thread scores the same frame once more with nothing around
//! it: the bare run. Parts and bare runs alternate, so both see the same machine.
//!
//! Never here: the camera's time, which is its own (frames are at hand at once).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use inspect_core::image::Image;
use inspect_core::runtime::{Provider, Runtime};
use inspect_core::verdict::FaultCode;
use serde::Serialize;
use tokio::sync::watch;
use tokio_modbus::client::{Context as Client, Reader as _, Writer as _, tcp};

use crate::camera::simulated::SimulatedConfig;
use crate::camera::{self, Camera, CameraConfig, CameraError, Frame, Life};
use crate::config::{Config, ModbusConfig, StationConfig, TriggerConfig, ViewConfig};
use crate::daemon::{Daemon, Seams};
use crate::gate::GateConfig;
use crate::journal::{JournalConfig, JournalReader};
use crate::plc::handshake::Results;
use crate::plc::map::{holding, input};
use crate::record::{Gate, Times};
use crate::scoring::load_onnx;
use crate::station::guard::GuardConfig;
use crate::thresholds::ThresholdConfig;

/// Frames that are rendered beforehand and shown in turn.
const FRAMES: usize = 32;
/// Pace of the polling client.
const POLL: Duration = Duration::from_millis(1);
/// A part without a result for this long ends the bench.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first parts warm caches and are not counted.
const WARM_UP: usize = 20;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Model file.
    #[arg(long)]
    model: PathBuf,
    /// Parts to measure.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
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

/// The whole result.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    provider: Provider,
    parts: usize,
    threads: usize,
    frame_px: [u32; 2],
    input_px: [u32; 2],
    grab_us: Percentiles,
    resize_us: Percentiles,
    score_us: Percentiles,
    /// Trigger accepted to result valid, less resizing.
    trigger_to_result_us: Percentiles,
    bare_us: Percentiles,
    ratio: [f64; 3],
    /// 1.10 x the bare p50 + 300 us.
    bound_p50_us: u64,
    within_bound: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let report = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("no runtime")?
        .block_on(measure(args, folder.path()))?;
    if args.json {
        super::say(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else {
        print(&report);
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure(args: &Args, folder: &Path) -> anyhow::Result<Report> {
    let model = inspect_core::model::ModelFile::read(&args.model)?;
    let input = model.card.input;
    let frame_px = args.frame_px.map_or([input.width, input.height], |side| [side, side]);
    let frames = render(frame_px)?;
    let config = config(args, folder);
    let runtime = config.runtime.clone();
    let shown = Arc::clone(&frames);
    let seams = Seams {
        camera: Box::new(move |_| {
            let frames = Arc::clone(&shown);
            Box::new(move || {
                let ring = Ring { frames: Arc::clone(&frames), next: 0 };
                Ok(Box::new(ring) as Box<dyn Camera>)
            })
        }),
        scorer: Box::new(move |model| load_onnx(model.to_owned(), runtime.clone())),
    };
    let daemon = Daemon::start(&config, seams).await?;
    let mut state = daemon.states.first().context("no station")?.clone();
    // Not armed: the client has not yet written 0. All else there is.
    let ready = state.wait_for(|s| s.fault == Some(FaultCode::NotArmed));
    let state = match tokio::time::timeout(PATIENCE, ready).await {
        Ok(state) => state?.clone(),
        Err(_) => bail!("the station does not get ready: {:?}", daemon.states[0].borrow().detail),
    };
    let provider = state.provider.context("no model")?;
    let bare = drive(args, &daemon, &frames).await?;
    let journal = daemon.journal.clone();
    daemon.stop().await;
    drop(journal);
    let times = times(folder, args.parts as usize)?;
    let stage = |stage: fn(&Times) -> u64| percentiles(times.iter().map(stage).collect());
    let result = stage(|t| t.total.saturating_sub(t.resize));
    let bare = percentiles(bare);
    let bound_p50_us = bare.p50 * 11 / 10 + 300;
    let ratio = |a: u64, b: u64| a as f64 / b.max(1) as f64;
    Ok(Report {
        model: args.model.display().to_string(),
        provider,
        parts: times.len(),
        threads: args.threads.into(),
        frame_px,
        input_px: [input.width, input.height],
        grab_us: stage(|t| t.grab),
        resize_us: stage(|t| t.resize),
        score_us: stage(|t| t.score),
        trigger_to_result_us: result,
        bare_us: bare,
        ratio: [ratio(result.p50, bare.p50), ratio(result.p99, bare.p99), ratio(result.p999, bare.p999)],
        bound_p50_us,
        within_bound: result.p50 <= bound_p50_us,
    })
}

/// Triggers the parts, each followed by a bare run; gives the bare runs' times in microseconds.
async fn drive(args: &Args, daemon: &Daemon, frames: &[Image]) -> anyhow::Result<Vec<u64>> {
    let address = daemon.modbus.address();
    let (seen, mut result) = watch::channel(0u16);
    let poller = tokio::spawn(poll(address, seen));
    let mut plc = tcp::connect(address).await?;
    plc.write_single_register(holding::TRIGGER_ID, 0).await??;
    let scorer = daemon.scorers.first().and_then(|s| s.first()).context("no scorer")?;
    let total = WARM_UP + args.parts as usize;
    let mut bare = Vec::with_capacity(total);
    for part in 0..total {
        let id = part as u16 + 1;
        plc.write_single_register(holding::TRIGGER_ID, id).await??;
        let answered = result.wait_for(|seen| *seen == id);
        if tokio::time::timeout(PATIENCE, answered).await.is_err() {
            bail!("part {id} got no result within {} s", PATIENCE.as_secs());
        }
        let image = Arc::new(frames[part % frames.len()].clone());
        let scored = scorer.request(image, None).map_err(|code| anyhow::anyhow!(code.meaning()))?;
        bare.push(u64::try_from(scored.await?.run.as_micros())?);
    }
    poller.abort();
    bare.drain(..WARM_UP);
    Ok(bare)
}

/// Reads the result block at 1 kHz and tells which part's result stands there.
async fn poll(address: SocketAddr, seen: watch::Sender<u16>) -> anyhow::Result<()> {
    let mut client: Client = tcp::connect(address).await?;
    let mut pace = tokio::time::interval(POLL);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let words = input::RESULT_SEQUENCE_END - input::RESULT_SEQUENCE + 1;
    loop {
        pace.tick().await;
        let block = client.read_input_registers(input::RESULT_SEQUENCE, words).await??;
        ensure!(block.first() == block.last(), "torn result block: {block:?}");
        seen.send_replace(block[usize::from(input::RESULT_TRIGGER_ID - input::RESULT_SEQUENCE)]);
    }
}

/// The journal's times of the measured parts.
fn times(folder: &Path, parts: usize) -> anyhow::Result<Vec<Times>> {
    #[derive(serde::Deserialize)]
    struct Timed {
        times_us: Times,
    }
    let reader = JournalReader::open(folder)?;
    let mut times = Vec::new();
    let mut after = 0;
    loop {
        let entries = reader.after(after, 1000)?;
        let Some(last) = entries.last() else { break };
        after = last.sequence;
        let inspections = entries.iter().filter_map(|e| serde_json::from_str::<Timed>(&e.json).ok());
        times.extend(inspections.map(|t| t.times_us));
    }
    ensure!(
        times.len() == parts + WARM_UP,
        "{} parts in the journal, {parts} and {WARM_UP} were sent",
        times.len()
    );
    Ok(times.split_off(WARM_UP))
}

fn percentiles(mut values: Vec<u64>) -> Percentiles {
    values.sort_unstable();
    let at = |share: f64| {
        let rank = (share * values.len() as f64).ceil() as usize;
        values.get(rank.saturating_sub(1)).copied().unwrap_or(0)
    };
    Percentiles { p50: at(0.5), p99: at(0.99), p999: at(0.999) }
}

fn print(report: &Report) {
    let [fw, fh] = report.frame_px;
    let [iw, ih] = report.input_px;
    println!(
        "{} on {}, {} thread(s), {} parts, frame {fw}x{fh}, input {iw}x{ih}",
        report.model, report.provider, report.threads, report.parts
    );
    println!("{:<34}{:>9}{:>9}{:>9}", "microseconds", "p50", "p99", "p99.9");
    let row = |name: &str, p: Percentiles| println!("{name:<34}{:>9}{:>9}{:>9}", p.p50, p.p99, p.p999);
    row("trigger to frame", report.grab_us);
    row("resize (not in the sum below)", report.resize_us);
    row("score", report.score_us);
    row("trigger to result valid", report.trigger_to_result_us);
    row("bare run of the same session", report.bare_us);
    let [a, b, c] = report.ratio;
    println!("{:<34}{a:>9.2}{b:>9.2}{c:>9.2}", "ratio");
    let word = if report.within_bound { "within" } else { "OVER" };
    println!("p50 {word} the bound of 1.10 x bare + 300 us = {} us", report.bound_p50_us);
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
}

fn config(args: &Args, folder: &Path) -> Config {
    let view = ViewConfig {
        name: "bench".into(),
        camera: simulated(64, 64), // the seam gives the ring in its place
        roi: None,
        model: Some(args.model.clone()),
        thresholds: ThresholdConfig::default(),
    };
    let station = StationConfig {
        name: "bench".into(),
        trigger: TriggerConfig::Plc,
        deadline_ms: 5_000,
        gate: GateConfig { time_to_gate_ms: 5_002, plc_poll_ms: 1, plc_scan_ms: 1 },
        review_at_gate: Gate::Reject,
        results: Results::Latest,
        in_sight: None,
        recipes: None,
        guard: GuardConfig::default(),
        allow_unproven_camera: false,
        views: vec![view],
    };
    let runtime =
        Runtime { providers: args.providers.clone(), threads: args.threads.into(), ..Runtime::default() };
    Config {
        modbus: ModbusConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..ModbusConfig::default() },
        mqtt: None,
        journal: JournalConfig { dir: folder.to_owned(), ..JournalConfig::default() },
        runtime,
        stations: vec![station],
    }
}
