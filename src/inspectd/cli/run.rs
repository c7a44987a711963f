//! `inspectd run`: the daemon.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use crate::config::Config;
use crate::cores::keep_to;
use crate::daemon::Seams;
use crate::supervise::{EXIT_GAVE_UP, Ended, serve};

/// Threads that serve Modbus, MQTT and the stations' waiting. Cameras and scorers have their own.
const WORKERS: usize = 2;
/// How long a disk that hangs is waited for at the end.
const DISK_MAY_HANG: Duration = Duration::from_secs(1);

/// SIGHUP, or `inspectd reload`, takes a changed configuration and changed model files, or keeps what is in service.
/// Exit codes: 0 stopped by SIGTERM or Ctrl-C; 1 it cannot run; 70 something hung that only a new process is free of.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file.
    #[arg(long, short, default_value = "/etc/inspectd/inspectd.toml")]
    config: PathBuf,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (config, problems) = Config::read_to_run(&args.config)?;
    for problem in &problems {
        tracing::error!(
            problem = problem.trim(),
            "starts all the same; what needs it rejects, or waits, and heals when it is put right"
        );
    }
    for note in config.notes() {
        tracing::warn!(note);
    }
    if let Err(error) = keep_to(&config.cores.others) {
        tracing::warn!(%error, "threads run on any core");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("no runtime")?;
    let ended = runtime.block_on(serve(&args.config, config, Seams::configured));
    runtime.shutdown_timeout(DISK_MAY_HANG);
    Ok(match ended? {
        Ended::Asked => ExitCode::SUCCESS,
        Ended::GaveUp(_) => ExitCode::from(EXIT_GAVE_UP),
    })
}
