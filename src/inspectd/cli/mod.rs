//! The command line: one module for each command.
//!
//! Exit codes: 0 done, 1 failed (the message says what, where, and what to do), 2 wrong usage; `run`, `status`, `reload` and
//! `replay` have more.
//!
//! Never here: anything that another command needs; that belongs into the library.

mod bench;
mod cameras;
mod capture;
mod card;
mod check;
mod faults;
mod journal;
mod model;
mod plc_sim;
mod registers;
mod replay;
mod run;
mod score;
mod status;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Log lines that wait to be written.
const LOG_LINES: usize = 10_000;

/// Inspects parts on a production line: camera frame, anomaly model, verdict, Modbus, MQTT, journal.
#[derive(Debug, Parser)]
#[command(version, about, after_help = "A first look: deploy/demo.sh. The register map: inspectd registers.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How log lines look.
    #[arg(long, global = true, value_enum, default_value = "human")]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or tracing's filter directives (`inspectd::mqtt=debug`).
    /// Absent: info for run, warn for the other commands, error for bench and replay.
    #[arg(long, global = true)]
    log: Option<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Inspect parts until SIGTERM or Ctrl-C.
    Run(run::Args),
    /// Ask the running daemon how it is: what is wrong and what to do first.
    Status(status::Args),
    /// Let the running daemon take a changed configuration and changed model files, or say why not (as SIGHUP).
    Reload(status::ReloadArgs),
    /// Find every error in configuration files, and the models they name, without touching devices.
    Check(check::Args),
    /// Score a folder of images the way the daemon would; write a CSV file.
    Score(score::Args),
    /// List the cameras in reach.
    Cameras(cameras::Args),
    /// Take training pictures through a station's camera.
    Capture(capture::Args),
    /// Look at the journal: whether it is sound, its newest records, all of it as a file for other programs.
    Journal(journal::Args),
    /// Show what a model file says of itself.
    Card(card::Args),
    /// Take a model through the gate into service, show what is there, go back to the one before.
    Model(model::Args),
    /// Print the Modbus register map.
    Registers(registers::Args),
    /// Tell what a fault code means, where it is seen, and what to do.
    Faults(faults::Args),
    /// Play a PLC against a running daemon, for commissioning.
    PlcSim(plc_sim::Args),
    /// Let parts that were seen before go the real way once more, beside the production; tell what changed.
    Replay(replay::Args),
    /// Measure a model on this machine: each stage, and trigger to result, beside bare runs; and with many stations
    /// or views, how many parts are judged in time.
    Bench(bench::Args),
}

/// Runs the program.
///
/// Errors: any command's, for `main` to print.
pub fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let usual = match &cli.command {
        Command::Run(_) => "info",
        Command::Bench(_) | Command::Replay(_) => "error",
        _ => "warn",
    };
    let _log = log_to_stderr(cli.log_format, cli.log.as_deref().unwrap_or(usual))?;
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Reload(args) => status::reload(&args),
        Command::Check(args) => check::run(&args),
        Command::Score(args) => score::run(&args),
        Command::Cameras(args) => cameras::run(&args),
        Command::Capture(args) => capture::run(&args),
        Command::Journal(args) => journal::run(&args),
        Command::Card(args) => card::run(&args),
        Command::Model(args) => model::run(&args),
        Command::Registers(args) => registers::run(&args),
        Command::Faults(args) => faults::run(&args),
        Command::PlcSim(args) => plc_sim::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Bench(args) => bench::run(&args),
    }
}

/// Log lines go through a thread of their own, at most [`LOG_LINES`] ahead: what reads them may stand still,
/// the line may not. Lines that find no place are dropped. The guard writes what is left when it is dropped.
fn log_to_stderr(format: LogFormat, filter: &str) -> anyhow::Result<WorkerGuard> {
    // The filter would take a mistyped level for the name of a module, and log nothing at all.
    anyhow::ensure!(
        filter.contains('=') || filter.parse::<tracing_subscriber::filter::LevelFilter>().is_ok(),
        "--log {filter}: expected error, warn, info, debug, trace, or filter directives"
    );
    // ONNX Runtime's own information lines describe its insides, not the line.
    let filter = EnvFilter::try_new(format!("{filter},ort=warn"))
        .with_context(|| format!("--log {filter}: expected a level or filter directives"))?;
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LOG_LINES)
        .lossy(true)
        .thread_name("log")
        .finish(std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colour);
    match format {
        LogFormat::Human => log.with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(guard)
}

/// Writes to standard output. Who reads it may stop reading: that is no error.
fn write(text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// The same, for who has nothing else to do with the error than to pass it on.
fn say(text: &str) -> anyhow::Result<()> {
    write(text).context("standard output")
}
