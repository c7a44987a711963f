//! `inspectd run`: the daemon.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;
use crate::cores::keep_to;
use crate::daemon::{Daemon, Seams};

/// Threads that serve Modbus, MQTT and the stations' waiting. Cameras and scorers have their own.
const WORKERS: usize = 2;
/// Pace of the progress check where systemd has set no watchdog.
const PROGRESS: Duration = Duration::from_secs(1);

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
            "starts all the same, rejects, and heals when it is put right"
        );
    }
    for note in config.notes() {
        tracing::warn!(note);
    }
    if let Err(error) = keep_to(&config.cores.others) {
        tracing::warn!(%error, "threads run on any core");
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("no runtime")?
        .block_on(serve(&config))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(config: &Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;
    let daemon = Daemon::start(config, Seams::configured(config)).await?;
    notify(&[NotifyState::Ready]);
    let watchdog = sd_notify::watchdog_enabled();
    let mut pace = tokio::time::interval(watchdog.map_or(PROGRESS, |limit| limit / 3));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = pace.tick() => {
                if daemon.makes_progress() {
                    notify(&[NotifyState::Watchdog]);
                } else {
                    tracing::error!("a station's loop does not turn: the watchdog is not fed");
                }
            }
        }
    }
    tracing::info!("stopping");
    notify(&[NotifyState::Stopping]);
    daemon.stop().await;
    tracing::info!("stopped");
    Ok(())
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}
