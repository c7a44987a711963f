//! Looks from a thread of its own whether everything makes progress; feeds systemd's watchdog while it does; and ends the
//! process where something hangs that only a new process can be free of.
//!
//! What hangs, and how long that is borne:
//!
//! - A station's loop or the whole runtime: [`HANGS_AT_MOST`], and systemd's watchdog is not fed meanwhile.
//! - A scorer's run: [`HANGS_AT_MOST`]. Loading: [`LOAD_MAY_HANG`], since TensorRT may build an engine for minutes, which
//!   another start would begin anew.
//! - A camera for which no further thread is tried: [`HANGS_AT_MOST`] where no station works; [`CAMERA_MAY_HANG`] where
//!   others do, which a restart would interrupt.
//!
//! Then the daemon is told to stop in order, within [`STOP_LIMIT`]; then the process ends, even where the driver hangs in
//! its end.
//!
//! Never here: what is told to the PLC (each station does that at once).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{EXIT_GAVE_UP, notify};
use crate::daemon::DaemonWatch;
use crate::scoring::Work;
use crate::status::gather::Shown;

/// How long what hangs is borne, once it was found.
pub const HANGS_AT_MOST: Duration = Duration::from_secs(10);
/// The same for a load, once [`crate::scoring::LOAD_LIMIT`] has found it.
const LOAD_MAY_HANG: Duration = Duration::from_secs(480);
/// The same for a camera, while other stations work.
pub const CAMERA_MAY_HANG: Duration = Duration::from_secs(600);
/// How long stopping in order may take before the process is ended all the same.
pub const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How long the process's own end may take before it is killed.
const END_LIMIT: Duration = Duration::from_secs(2);
/// Pace of looking.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The runtime hangs where its beat is older than this.
const BEAT_LIMIT: Duration = Duration::from_secs(5);

/// The looking thread. It ends with the process.
pub(super) struct Watchdog {
    gave_up: watch::Receiver<Option<String>>,
    beat: JoinHandle<()>,
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.beat.abort();
    }
}

/// What hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Loop,
    Run,
    Load,
    Camera { others_work: bool },
}

impl Kind {
    fn borne(self) -> Duration {
        match self {
            Self::Loop | Self::Run | Self::Camera { others_work: false } => HANGS_AT_MOST,
            Self::Load => LOAD_MAY_HANG,
            Self::Camera { others_work: true } => CAMERA_MAY_HANG,
        }
    }
}

impl Watchdog {
    /// Starts the thread. `shown`: who knows what runs.
    ///
    /// Errors: the system's, if it has no thread left.
    pub fn start(shown: Arc<Shown>) -> std::io::Result<Self> {
        let (tell, gave_up) = watch::channel(None);
        let last = Arc::new(Mutex::new(Instant::now()));
        let beats = Arc::clone(&last);
        let beat = tokio::spawn(async move {
            loop {
                *beats.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            let why = look_until_it_hangs(&shown, &last);
            tell.send_replace(Some(why));
            std::thread::sleep(STOP_LIMIT);
            end_process();
        })?;
        Ok(Self { gave_up, beat })
    }

    /// Returns when something hung too long, and what.
    pub async fn gave_up(&self) -> String {
        let mut gave_up = self.gave_up.clone();
        let why = gave_up.wait_for(Option::is_some).await;
        why.ok().and_then(|why| why.clone()).unwrap_or_else(|| "the watchdog ended".to_owned())
    }
}

fn look_until_it_hangs(shown: &Shown, beat: &Mutex<Instant>) -> String {
    let feed_every = notify::watchdog_limit().map(|limit| limit / 3);
    let mut fed: Option<Instant> = None;
    // Since when each hangs.
    let mut hanging: Vec<(Kind, Instant)> = Vec::new();
    loop {
        let found = look(shown, beat);
        hanging.retain(|(kind, _)| found.iter().any(|(found, _)| found == kind));
        for (kind, why) in &found {
            match hanging.iter().find(|(known, _)| known == kind) {
                Some((_, since)) if since.elapsed() >= kind.borne() => return why.clone(),
                Some(_) => {}
                None => {
                    let borne_s = kind.borne().as_secs();
                    tracing::error!(why, borne_s, "something hangs: if it stays, the process ends");
                    hanging.push((*kind, Instant::now()));
                }
            }
        }
        let turns = !found.iter().any(|(kind, _)| *kind == Kind::Loop);
        if let Some(every) = feed_every.filter(|_| turns)
            && fed.is_none_or(|fed| fed.elapsed() >= every)
        {
            fed = Some(Instant::now());
            notify::watchdog();
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn look(shown: &Shown, beat: &Mutex<Instant>) -> Vec<(Kind, String)> {
    let mut found = Vec::new();
    let beat = *beat.lock().unwrap_or_else(PoisonError::into_inner);
    if beat.elapsed() >= BEAT_LIMIT {
        found.push((Kind::Loop, "the runtime does not turn".to_owned()));
    }
    if let Some(daemon) = shown.daemon() {
        found.extend(hangs(&daemon));
    }
    found
}

/// The first of each kind.
fn hangs(daemon: &DaemonWatch) -> Vec<(Kind, String)> {
    let mut found: Vec<(Kind, String)> = Vec::new();
    let mut add = |kind: Kind, why: String| {
        if !found.iter().any(|(known, _)| *known == kind) {
            found.push((kind, why));
        }
    };
    let others_work = daemon.stations.iter().any(|station| station.state.borrow().ready);
    for station in &daemon.stations {
        let name = station.state.borrow().station.clone();
        if !station.turns() {
            add(Kind::Loop, format!("station {name}: its loop does not turn"));
        }
        for (view, _) in station.cameras.iter().filter(|(_, camera)| camera.is_given_up()) {
            let why = format!("station {name}, view {view}: too many calls of its camera's driver hang");
            add(Kind::Camera { others_work }, why);
        }
    }
    for scorer in daemon.scorers.look_on() {
        // One that is only kept warm harms nobody.
        let Some(stuck) = scorer.stuck.filter(|_| scorer.users > 0) else { continue };
        let kind = if stuck.work == Work::Load { Kind::Load } else { Kind::Run };
        add(kind, format!("model {}: {stuck}", scorer.model.display()));
    }
    found
}

/// Ends the process, whatever hangs.
fn end_process() -> ! {
    eprintln!("inspectd did not stop in order within {} s: the process ends now", STOP_LIMIT.as_secs());
    let killer = std::thread::Builder::new().spawn(|| {
        std::thread::sleep(END_LIMIT);
        // A driver that hangs in the process's own end must not keep it.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    });
    if killer.is_err() {
        std::process::abort();
    }
    std::process::exit(i32::from(EXIT_GAVE_UP))
}
