//! `inspectd replay`: parts that were seen before, once more the real way; what changed.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use inspect_core::card::Thresholds;
use inspect_core::image::{Image, Roi};
use inspect_core::model::ModelFile;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Config, StationConfig, TriggerConfig};
use crate::progress::Progress;
use crate::recipe;
use crate::replay::compare::{Outcome, Spread, Summary};
use crate::replay::source::{Source, from_folder, from_journal};
use crate::replay::{Plan, Speed, replay};
use crate::thresholds::ThresholdConfig;

/// A verdict flipped.
const FLIPPED: u8 = 3;
/// Ctrl-C or SIGTERM, as a shell tells it.
const BROKEN_OFF: u8 = 130;
/// Threads that serve the station's waiting. Cameras and scorers have their own.
const WORKERS: usize = 2;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A whole daemon with one station runs in this process, as configured: recipes, models, thresholds, deadline and \
handshake are the real ones. Its cameras show the parts' pictures, and a PLC that is played triggers them with \
their own trigger_id, serial, encoder and product. It has a journal of its own (a temporary folder, or \
--journal) and a Modbus port of its own on loopback, and publishes nothing unless --mqtt-prefix is given: it may \
run beside the production, and reads its journal while it is in use.\n\n\
The archive keeps frames of parts that did NOT pass, and of each hundredth that did (pass_every in [archive]). \
Whether a new model would reject the others is not seen from a journal: take pictures of good parts with \
`inspectd capture`, and replay the folder. Frames that were kept as JPEG score a little differently.\n\n\
A part flips if it was judged then (pass, review, reject) and has another verdict, or a fault, now. A part that \
was a fault then flips nothing. Scores are divided by the reject threshold of their time: 1.00 is the limit.\n\n\
Exit codes: 0 no verdict flipped; 3 one did; 1 failed; 2 wrong usage; 130 broken off by Ctrl-C or SIGTERM (what \
was done so far is told).\n\n\
What would a new model have said of the parts that were rejected last week?\n\
\x20 inspectd replay --station plc --journal-from /var/lib/inspectd/journal --model new.onnx\n\
Does the station keep up with 12 parts a second?\n\
\x20 inspectd replay --station plc --images /data/bottle/test --rate 12")]
pub struct Args {
    /// Configuration file.
    #[arg(long, short, default_value = "/etc/inspectd/inspectd.toml")]
    config: PathBuf,
    /// Station; absent: the first.
    #[arg(long)]
    station: Option<String>,
    /// Replay the station's parts in the journal in this directory, those whose frames are in the archive.
    #[arg(long, value_name = "DIR", required_unless_present = "images", conflicts_with = "images")]
    journal_from: Option<PathBuf>,
    /// The archive of that journal; absent: where the configuration says, if the journal is its own, else beside it.
    #[arg(long, value_name = "DIR", requires = "journal_from")]
    archive: Option<PathBuf>,
    /// Replay the pictures in this folder and the folders in it, sorted by path. In MVTec AD's layout
    /// (test/good, test/DEFECT) the folder's name is the truth.
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// View that --images are of, where the station has several; the others do not look.
    #[arg(long, requires = "images")]
    view: Option<String>,
    /// Judge with this model file in place of the configured one. [VIEW=]FILE; once for each view.
    #[arg(long, value_name = "FILE")]
    model: Vec<String>,
    /// Folder of recipes in place of the configured one.
    #[arg(long, value_name = "DIR")]
    recipes: Option<PathBuf>,
    /// Judge all parts under the recipe of this number; absent: each under the one in its record.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    recipe: Option<u16>,
    /// Only the last parts, this many.
    #[arg(long, value_name = "PARTS", value_parser = clap::value_parser!(u64).range(1..))]
    last: Option<u64>,
    /// Real speed: parts come at the distance of their triggers in the journal (at most 10 s), pictures of a
    /// folder at the period of the station's clock. Absent: full speed, each as soon as the one before has its
    /// result.
    #[arg(long, conflicts_with = "rate")]
    real: bool,
    /// Parts a second.
    #[arg(long, value_name = "HZ", value_parser = rate)]
    rate: Option<f64>,
    /// Keep the replay's journal, with frames and maps of what does not pass, in this directory.
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// Also publish to the configured broker, below this prefix in place of the configured one.
    #[arg(long, value_name = "PREFIX")]
    mqtt_prefix: Option<String>,
    /// Of single parts, show only those whose verdict flipped.
    #[arg(long)]
    changes: bool,
    /// Print JSON: a line for each part ("kind":"part"), the last line the sum ("kind":"summary").
    #[arg(long)]
    json: bool,
    /// Also write a table of all parts to this CSV file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.001..=10_000.0).contains(rate));
    rate.ok_or_else(|| "expected 0.001 to 10000 parts a second".to_owned())
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (mut config, _) = Config::read_to_run(&args.config)?;
    let (mut station, views) = choose(args, &config)?;
    models(args, &mut station, views)?;
    let speed = speed(args, &station)?;
    let mut source = source(args, &config, &station)?;
    if let Some(last) = args.last {
        source.parts.drain(..source.parts.len().saturating_sub(usize::try_from(last)?));
    }
    if args.recipe.is_some() {
        source.parts.iter_mut().for_each(|part| part.recipe = args.recipe);
    }
    if let Some(told) = fit_roi(&mut station, &source) {
        eprintln!("{told}");
    }
    config.mqtt = match (&args.mqtt_prefix, config.mqtt.take()) {
        (None, _) => None,
        (Some(_), None) => bail!("--mqtt-prefix: {} has no [mqtt]", args.config.display()),
        (Some(prefix), Some(mqtt)) => {
            ensure!(*prefix != mqtt.topic_prefix, "--mqtt-prefix {prefix}: it is the production's own");
            let mqtt = crate::mqtt::MqttConfig { client_id: None, topic_prefix: prefix.clone(), ..mqtt };
            let problems = mqtt.check();
            ensure!(problems.is_empty(), "--mqtt-prefix: {}", problems.join("; "));
            Some(mqtt)
        }
    };
    let temporary = tempfile::tempdir().context("no temporary folder")?;
    config.journal.dir = own_journal(args, &config)?.unwrap_or_else(|| temporary.path().to_owned());
    eprintln!("{}", opening(args, &station, &source));
    config.stations = vec![station];
    let mut told = Told::new(args, source.parts.len() as u64)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("no runtime")?;
    let replayed = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
        let broken_off = async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        };
        let plan = Plan { config, source, speed };
        anyhow::Ok(replay(plan, broken_off, &mut |outcome| told.part(outcome)).await)
    })?;
    told.end()?;
    let summary = replayed?;
    let text = if args.json { serde_json::to_string(&summary)? + "\n" } else { text(&summary) };
    super::say(&text)?;
    Ok(match summary {
        Summary { broken_off: true, .. } => ExitCode::from(BROKEN_OFF),
        Summary { parts: 0, .. } => bail!("no part could be replayed: all frames were deleted meanwhile"),
        Summary { flips: 0, .. } => ExitCode::SUCCESS,
        _ => ExitCode::from(FLIPPED),
    })
}

/// The station that is replayed, with the view that a folder's pictures are of, and how many it has on the line.
fn choose(args: &Args, config: &Config) -> anyhow::Result<(StationConfig, usize)> {
    let names = |names: Vec<&str>| names.join(", ");
    let stations = &config.stations;
    let station = match &args.station {
        Some(name) => stations.iter().find(|station| station.name == *name),
        None => stations.first(),
    };
    let mut station = station.cloned().with_context(|| {
        let known = names(stations.iter().map(|s| s.name.as_str()).collect());
        let wanted = args.station.as_deref().unwrap_or_default();
        format!("{}: no station `{wanted}`, expected one of: {known}", args.config.display())
    })?;
    if args.recipes.is_some() || args.recipe.is_some() {
        ensure!(station.recipes.is_some(), "station {} has no recipes in the configuration", station.name);
    }
    station.recipes = station.recipes.map(|folder| args.recipes.clone().unwrap_or(folder));
    let views = station.views.len();
    if args.images.is_some() {
        let known = names(station.views.iter().map(|v| v.name.as_str()).collect());
        if let Some(view) = &args.view {
            station.views.retain(|v| v.name == *view);
        }
        ensure!(
            views == 1 || station.recipes.is_none(),
            "--images: station {} has recipes of several views, and the pictures are of one: give --journal-from, or a configuration with that view and its model",
            station.name
        );
        ensure!(
            station.views.len() == 1,
            "--images: expected --view with one of the station's views: {known}"
        );
    }
    Ok((station, views))
}

/// Puts models in place of the configured ones, and finds what is wrong with those that will judge. One of several
/// `views` keeps the limits that it has beside the others.
fn models(args: &Args, station: &mut StationConfig, views: usize) -> anyhow::Result<()> {
    ensure!(
        args.model.is_empty() || station.recipes.is_none(),
        "--model: the recipes of station {} name its models: give --recipes a folder with others",
        station.name
    );
    for given in &args.model {
        let named = given.split_once('=').filter(|(view, _)| station.views.iter().any(|v| v.name == *view));
        let file = match (named, station.views.as_mut_slice()) {
            (Some((name, file)), views) => {
                views.iter_mut().filter(|v| v.name == name).for_each(|v| v.model = Some(file.into()));
                continue;
            }
            (None, [view]) => &mut view.model,
            (None, _) => {
                bail!("--model {given}: expected VIEW=FILE, since station {} has several views", station.name)
            }
        };
        *file = Some(given.into());
    }
    let alone = station.views.len() < views;
    for view in &mut station.views {
        let Some(model) = &view.model else { continue };
        let file = ModelFile::read(model)?;
        let (thresholds, _) = view.thresholds.under(&file.card, views).map_err(|wrong| {
            anyhow::anyhow!("view {}: thresholds under {}: {wrong}", view.name, model.display())
        })?;
        if alone {
            let Thresholds { review, reject } = thresholds;
            view.thresholds = ThresholdConfig { review: Some(review), reject: Some(reject), unproven: true };
        }
    }
    if let Some(folder) = &station.recipes {
        let problems = recipe::check(folder, &station.bounds());
        ensure!(problems.is_empty(), "{}", problems.join("\n"));
    }
    Ok(())
}

fn speed(args: &Args, station: &StationConfig) -> anyhow::Result<Speed> {
    Ok(match (args.rate, args.real, station.trigger) {
        (Some(rate), ..) => Speed::Every(Duration::from_secs_f64(1.0 / rate)),
        (None, false, _) => Speed::Full,
        (None, true, _) if args.journal_from.is_some() => Speed::Real,
        (None, true, TriggerConfig::Clock { period_ms }) => Speed::Every(Duration::from_millis(period_ms)),
        (None, true, _) => {
            bail!(
                "--real: nothing says how fast pictures of a folder come at station {}: give --rate",
                station.name
            )
        }
    })
}

fn source(args: &Args, config: &Config, station: &StationConfig) -> anyhow::Result<Source> {
    let views: Vec<String> = station.views.iter().map(|v| v.name.clone()).collect();
    Ok(match (&args.journal_from, &args.images, views.as_slice()) {
        // Which views look is the recipes' to say, where there are recipes.
        (Some(dir), ..) => {
            let archive = archive_of(args, config, dir);
            from_journal(dir, &archive, &station.name, station.recipes.is_none().then_some(views.as_slice()))?
        }
        (None, Some(folder), [view]) => from_folder(folder, view)?,
        _ => bail!("expected --journal-from or --images"),
    })
}

/// Where the frames of the journal in `dir` lie.
fn archive_of(args: &Args, config: &Config, dir: &Path) -> PathBuf {
    let real = |path: &Path| path.canonicalize().ok();
    match &args.archive {
        Some(archive) => archive.clone(),
        None if real(dir) == real(&config.journal.dir) => config.archive_dir(),
        None => dir.join(crate::archive::FOLDER),
    }
}

/// Pictures as `inspectd capture` writes them are cut to the view's region already: they are not cut again.
fn fit_roi(station: &mut StationConfig, source: &Source) -> Option<String> {
    let (_, path) = source.parts.first().filter(|part| part.then.is_none())?.pictures.first()?;
    let image = Image::read(path).ok()?;
    let [view] = station.views.as_mut_slice() else { return None };
    let roi = view.roi.filter(|roi| (roi.width, roi.height) == (image.width(), image.height()))?;
    view.roi = Some(Roi { x: 0, y: 0, ..roi });
    Some(format!(
        "pictures of {} x {} pixels are taken as cut to the view's region already",
        roi.width, roi.height
    ))
}

/// The journal to keep; never one that the production has.
fn own_journal(args: &Args, config: &Config) -> anyhow::Result<Option<PathBuf>> {
    let Some(dir) = &args.journal else { return Ok(None) };
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let real = |path: &Path| path.canonicalize().ok();
    for other in [Some(&config.journal.dir), args.journal_from.as_ref()].into_iter().flatten() {
        ensure!(
            real(other) != real(dir),
            "--journal {}: expected a directory of the replay's own, got the production's",
            dir.display()
        );
    }
    Ok(Some(dir.clone()))
}

fn opening(args: &Args, station: &StationConfig, source: &Source) -> String {
    let from = args.journal_from.as_ref().or(args.images.as_ref());
    let mut text = format!(
        "station {}: {} parts of {}",
        station.name,
        source.parts.len(),
        from.map(|path| path.display().to_string()).unwrap_or_default()
    );
    let left_out = source.left_out;
    if left_out.no_frame > 0 {
        text += &format!(
            "; {} parts have no frame and are left out, {} of them had passed",
            left_out.no_frame, left_out.passed
        );
    }
    if source.lossy > 0 {
        text +=
            &format!("; {} pictures are JPEG, whose scores differ a little from the frames'", source.lossy);
    }
    if left_out.unreadable > 0 {
        text += &format!("; {} records are not of this version", left_out.unreadable);
    }
    text
}

/// Where single parts are told.
struct Told {
    json: bool,
    changes: bool,
    progress: Option<Progress>,
    csv: Option<(csv::Writer<std::fs::File>, PathBuf, PathBuf)>,
    done: u64,
}

impl Told {
    fn new(args: &Args, wanted: u64) -> anyhow::Result<Self> {
        let csv = match &args.csv {
            None => None,
            Some(path) => {
                // Written beside, renamed at the end: a replay that fails leaves no half of a table.
                let part = path.with_extension("csv.part");
                let writer = csv::Writer::from_path(&part).with_context(|| part.display().to_string())?;
                Some((writer, part, path.clone()))
            }
        };
        // Lines on a terminal are progress enough.
        let silent = args.changes || !std::io::stdout().is_terminal();
        let progress = silent.then(|| Progress::new(wanted, "parts"));
        Ok(Self { json: args.json, changes: args.changes, progress, csv, done: 0 })
    }

    fn part(&mut self, outcome: &Outcome) -> std::io::Result<()> {
        if let Some((csv, ..)) = &mut self.csv {
            csv.serialize(outcome).map_err(std::io::Error::other)?;
        }
        if !self.changes || outcome.flipped {
            if let Some(progress) = &self.progress {
                progress.clear();
            }
            let line = if self.json { serde_json::to_string(outcome)? } else { line(outcome) };
            super::write(&(line + "\n"))?;
        }
        self.done += 1;
        if let Some(progress) = &mut self.progress {
            progress.show(self.done);
        }
        Ok(())
    }

    fn end(self) -> anyhow::Result<()> {
        if let Some(progress) = self.progress {
            progress.end(self.done);
        }
        if let Some((mut csv, part, path)) = self.csv {
            csv.flush()?;
            std::fs::rename(&part, &path).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }
}

fn said(verdict: &str, fault: u16, score: Option<f32>) -> String {
    match score {
        _ if verdict == "fault" => format!("fault {fault}"),
        Some(score) => format!("{verdict:<6} {score:.3}"),
        None => verdict.to_owned(),
    }
}

fn line(outcome: &Outcome) -> String {
    let now = said(outcome.verdict, outcome.fault, outcome.score);
    let ms = f64::from(outcome.total_us) / 1e3;
    let mut text = match (outcome.part, outcome.verdict_then) {
        (Some(part), Some(verdict)) => {
            let then = said(verdict, outcome.fault_then.unwrap_or(0), outcome.score_then);
            let serial = outcome.serial.as_deref().unwrap_or_default();
            format!("{part:>8} {serial:<12} then {then:<13} now {now:<13} {ms:>7.1} ms")
        }
        _ => format!("{:<32} {now:<13} {ms:>7.1} ms", outcome.serial.as_deref().unwrap_or_default()),
    };
    if outcome.flipped {
        text += "  FLIPPED";
    } else if outcome.is_judged_anew() {
        text += "  was not judged then";
    }
    text
}

fn text(sum: &Summary) -> String {
    let mut text = format!("\n{} of {} parts replayed", sum.parts, sum.wanted);
    if sum.broken_off {
        text += ", then broken off";
    }
    if sum.gone > 0 {
        text += &format!("; the frames of {} were deleted meanwhile", sum.gone);
    }
    if !sum.models_then.is_empty() {
        text += &format!("\njudged then by {}", sum.models_then.join(", "));
    }
    text += &format!("\njudged now by  {}\n", sum.models.join(", "));
    for count in &sum.verdicts {
        text += &match count.then {
            Some(then) => format!("{:>8}  {then} -> {}\n", count.parts, count.now),
            None => format!("{:>8}  {}\n", count.parts, count.now),
        };
    }
    for count in &sum.truths {
        text += &format!("{:>8}  really {}: {}\n", count.parts, count.truth, count.now);
    }
    if sum.models_then.is_empty() && sum.verdicts.iter().all(|count| count.then.is_none()) {
        text += "nothing was journaled of them: no verdict can flip\n";
    } else {
        text += &format!("verdicts flipped: {}\n", sum.flips);
    }
    if sum.judged_anew > 0 {
        text += &format!("not judged then (a fault), and judged now: {}\n", sum.judged_anew);
    }
    if let Some(Spread { p50, p99, most }) = sum.score_change {
        text += &format!(
            "change of score: median {p50:.6}, 99 % {p99:.6}, largest {most:.6}; 1 is the reject limit\n"
        );
    }
    if let Some(Spread { p50, p99, most }) = sum.trigger_to_result_us {
        let ms = |us: u32| f64::from(us) / 1e3;
        text += &format!(
            "trigger to result: median {:.1} ms, 99 % {:.1} ms, longest {:.1} ms; late: {}\n",
            ms(p50),
            ms(p99),
            ms(most),
            sum.late
        );
    }
    if sum.behind > 0 {
        text += &format!(
            "{} parts had to wait for the one before: they come faster than the station inspects\n",
            sum.behind
        );
    }
    if sum.not_journaled > 0 {
        text += &format!(
            "{} parts are faults because the replay's journal could not take them\n",
            sum.not_journaled
        );
    }
    text
}
