//! Runs the daemon unattended: starts it whatever is missing, takes a changed configuration or keeps the old, and ends the
//! process where something hangs that only a new process can be free of.
//!
//! Terms. To *start patiently* is to try again for ever what heals by itself, answering reject meanwhile. To *give up* is
//! to stop in order as far as that goes, and then to end the process whatever hangs; systemd starts it anew.
//!
//! Never here: the way of a part; what is judged.

mod notify;
mod reload;
mod start;
mod watchdog;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::config::Config;
use crate::daemon::{Daemon, DaemonError, Seams};
use crate::record::{Event, EventKind};
use crate::status::gather::Shown;
use crate::status::server::{ReloadAsk, StatusServer};
use crate::status::{Phase, StatusError};
use reload::Running;
use watchdog::Watchdog;
pub use watchdog::{CAMERA_MAY_HANG, HANGS_AT_MOST, STOP_LIMIT};

/// Exit code of a daemon that gave up. Source of the number: EX_SOFTWARE of sysexits(3head).
pub const EXIT_GAVE_UP: u8 = 70;
/// At a stop: how long an open that is under way is still waited for.
const OPEN_ENDS: Duration = Duration::from_secs(1);

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// It does not start.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The status socket.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// Signals or threads.
    #[error("the system refuses {what}: {source}")]
    System {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}

/// Why it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// SIGTERM or Ctrl-C.
    Asked,
    /// Something hangs; what. The process must end with [`EXIT_GAVE_UP`].
    GaveUp(String),
}

/// How cameras and models are opened under a configuration.
pub type MakeSeams = fn(&Config) -> Seams;

/// Runs the daemon of the configuration at `path` until it is told to stop, or gives up. Should even giving up hang, the
/// process is ended from a thread of its own.
///
/// Errors: [`SuperviseError`], for what does not heal by itself.
pub async fn serve(path: &Path, config: Config, seams: MakeSeams) -> Result<Ended, SuperviseError> {
    let mut signals = Signals::new()?;
    let shown = Arc::new(Shown::new(path, &config.journal.dir));
    let (asks, mut reloads) = mpsc::channel::<ReloadAsk>(1);
    let status = open_status(config.run_dir(), &shown, &asks)?;
    let watchdog = Watchdog::start(Arc::clone(&shown))
        .map_err(|source| SuperviseError::System { what: "a thread", source })?;
    let mut running = Running::new(path, config, seams, Arc::clone(&shown), status, asks);
    let ended = tokio::select! {
        ended = running.run(&mut reloads, &mut signals.hangup) => ended.map(|never| match never {}),
        _ = signals.terminate.recv() => Ok(Ended::Asked),
        _ = signals.interrupt.recv() => Ok(Ended::Asked),
        why = watchdog.gave_up() => Ok(Ended::GaveUp(why)),
    };
    match &ended {
        Ok(Ended::Asked) => tracing::info!("stopping"),
        Ok(Ended::GaveUp(why)) => tracing::error!(why, "giving up: the process ends, to be started anew"),
        Err(_) => {}
    }
    notify::stopping();
    shown.phase(Phase::Stopping, None);
    let (being_stopped, daemon) = running.into_parts();
    if let Some(being_stopped) = being_stopped
        && being_stopped.await.is_err()
    {
        tracing::error!("the daemon did not stop in order");
    }
    if let Some(daemon) = daemon {
        stop(daemon, &ended).await;
    }
    tracing::info!("stopped");
    ended
}

async fn stop(daemon: Daemon, ended: &Result<Ended, SuperviseError>) {
    let Ok(Ended::GaveUp(why)) = ended else { return daemon.stop().await };
    let message = format!("the daemon ends itself, to be started anew: {why}");
    daemon.journal.event(Event::now(EventKind::GaveUp, None, message));
    if timeout(STOP_LIMIT.saturating_sub(OPEN_ENDS), daemon.stop()).await.is_err() {
        tracing::error!("the daemon did not stop in order");
    }
}

/// A socket that cannot be made costs the line nothing: then there is none. Another daemon's is refused.
fn open_status(
    run_dir: &Path,
    shown: &Arc<Shown>,
    asks: &mpsc::Sender<ReloadAsk>,
) -> Result<Option<StatusServer>, StatusError> {
    match StatusServer::start(run_dir, Arc::clone(shown), asks.clone()) {
        Ok(server) => Ok(Some(server)),
        Err(in_use @ StatusError::InUse { .. }) => Err(in_use),
        Err(error) => {
            tracing::error!(%error, "no status socket: inspectd status and reload cannot ask; all else works");
            Ok(None)
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, SuperviseError> {
        let take = |kind| signal(kind).map_err(|source| SuperviseError::System { what: "a signal", source });
        Ok(Self {
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
            hangup: take(SignalKind::hangup())?,
        })
    }
}
