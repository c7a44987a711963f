//! Taking a changed configuration or changed models, or keeping what there is. What SIGHUP and `inspectd reload` do.
//!
//! - A configuration that is wrong, or whose files are wrong where those of the old one are not, is refused; the old goes on.
//! - A good one that has changed: the daemon stops in order and starts anew in this process. Models that did not change
//!   stay loaded. If it does not start, it starts with the old one again.
//! - An unchanged one: only model and recipe files are looked at, see [`Daemon::renew_models`].
//!
//! Never here: a reload that leaves nothing running because of a mistake in a file.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::start::Start;
use super::{MakeSeams, SuperviseError, notify, open_status};
use crate::audit;
use crate::config::Config;
use crate::daemon::{Daemon, OpenView};
use crate::record::{Event, EventKind};
use crate::scorers::Scorers;
use crate::status::gather::Shown;
use crate::status::server::{ReloadAsk, StatusServer};
use crate::status::{Phase, ReloadOutcome};

/// What runs, and what it was started with.
pub(super) struct Running {
    path: PathBuf,
    config: Config,
    seams: MakeSeams,
    camera: OpenView,
    scorers: Arc<Scorers>,
    shown: Arc<Shown>,
    status: Option<StatusServer>,
    asks: mpsc::Sender<ReloadAsk>,
    daemon: Option<Daemon>,
    /// One that stops; kept so that it does so in order even where the reload is broken off.
    being_stopped: Option<JoinHandle<()>>,
}

impl Running {
    /// Nothing runs yet.
    pub fn new(
        path: &Path,
        config: Config,
        seams: MakeSeams,
        shown: Arc<Shown>,
        status: Option<StatusServer>,
        asks: mpsc::Sender<ReloadAsk>,
    ) -> Self {
        let made = seams(&config);
        let scorers = Arc::new(Scorers::new(made.scorer, config.runtime.sessions));
        let (camera, path) = (made.camera, path.to_owned());
        Self { path, config, seams, camera, scorers, shown, status, asks, daemon: None, being_stopped: None }
    }

    /// What is left to be stopped.
    pub fn into_parts(self) -> (Option<JoinHandle<()>>, Option<Daemon>) {
        (self.being_stopped, self.daemon)
    }

    /// Starts patiently, and reloads whenever it is asked to. Can be broken off at any time.
    ///
    /// Errors: [`SuperviseError::Daemon`].
    pub async fn run(
        &mut self,
        reloads: &mut mpsc::Receiver<ReloadAsk>,
        hangup: &mut Signal,
    ) -> Result<Infallible, SuperviseError> {
        self.start(true).await?;
        loop {
            let reply = tokio::select! {
                _ = hangup.recv() => None,
                Some(reply) = reloads.recv() => Some(reply),
            };
            notify::reloading();
            let outcome = self.reload().await?;
            self.shown.reloaded(outcome.clone());
            notify::ready();
            if let Some(reply) = reply {
                let _ = reply.send(outcome); // who asked may have gone
            }
        }
    }

    async fn start(&mut self, patient: bool) -> Result<(), SuperviseError> {
        let start = Start {
            config: &self.config,
            camera: &self.camera,
            scorers: &self.scorers,
            shown: &self.shown,
            patient,
        };
        self.daemon = Some(start.run().await?);
        if self.status.is_none() {
            // Where it lies beside the journal, its folder may not have been there before.
            self.status = open_status(self.config.run_dir(), &self.shown, &self.asks)?;
        }
        Ok(())
    }

    async fn stop(&mut self) {
        self.shown.phase(Phase::Reloading, None);
        if let Some(daemon) = self.daemon.take() {
            let stopping = self.being_stopped.insert(tokio::spawn(daemon.stop()));
            if stopping.await.is_err() {
                tracing::error!("the daemon did not stop in order");
            }
            self.being_stopped = None;
        }
    }

    async fn reload(&mut self) -> Result<ReloadOutcome, SuperviseError> {
        let (path, old) = (self.path.clone(), self.config.clone());
        let read = tokio::task::spawn_blocking(move || read(&path, &old)).await;
        match read.unwrap_or_else(|error| Err(error.to_string())) {
            Err(why) => Ok(self.refuse(why)),
            Ok(None) => Ok(self.renew_models().await),
            Ok(Some(config)) => self.exchange(config).await,
        }
    }

    /// What is in service stays.
    fn refuse(&self, why: String) -> ReloadOutcome {
        tracing::error!(why, "the changed configuration is refused; the one before stays in service");
        self.tell(EventKind::ConfigurationRefused, &format!("the one before stays in service: {why}"));
        ReloadOutcome { time: Timestamp::now(), taken: Vec::new(), refused: vec![why] }
    }

    fn tell(&self, kind: EventKind, message: &str) {
        if let Some(daemon) = &self.daemon {
            daemon.journal.event(Event::now(kind, None, message));
        }
    }

    async fn renew_models(&self) -> ReloadOutcome {
        let Some(daemon) = &self.daemon else { return self.refuse("nothing is running".to_owned()) };
        let renewed = daemon.renew_models().await;
        let (mut taken, mut refused) = (Vec::new(), Vec::new());
        for (station, renewed) in self.config.stations.iter().zip(renewed) {
            let name = &station.name;
            taken.extend(renewed.taken.iter().map(|what| format!("station {name}: {what}")));
            refused.extend(renewed.refused.iter().map(|why| format!("station {name}: {why}")));
        }
        tracing::info!(?taken, ?refused, "configuration unchanged; model files looked at");
        if !taken.is_empty() || !refused.is_empty() {
            let said = (taken.clone(), refused.clone());
            daemon.audit(move |journal| audit::daemon::models_taken(journal, &said.0, &said.1));
        }
        ReloadOutcome { time: Timestamp::now(), taken, refused }
    }

    /// Starts anew with another configuration, or with the old one again.
    async fn exchange(&mut self, config: Config) -> Result<ReloadOutcome, SuperviseError> {
        let moved = config.run_dir() != self.config.run_dir();
        if moved {
            match open_status(config.run_dir(), &self.shown, &self.asks) {
                Ok(status) => self.status = status,
                Err(error) => return Ok(self.refuse(error.to_string())),
            }
        }
        let same_models = config.runtime == self.config.runtime
            && config.cores == self.config.cores
            && config.models == self.config.models;
        self.stop().await;
        let made = (self.seams)(&config);
        let sessions = config.runtime.sessions;
        let old_config = std::mem::replace(&mut self.config, config);
        let old_camera = std::mem::replace(&mut self.camera, made.camera);
        let old_scorers = Arc::clone(&self.scorers);
        if !same_models {
            self.scorers = Arc::new(Scorers::new(made.scorer, sessions));
        }
        let Err(error) = self.start(false).await else {
            let mut taken = vec!["the configuration: the daemon started anew with it".to_owned()];
            if !same_models {
                taken.push("cores and runtime.library: at the next start of the process".to_owned());
            }
            tracing::info!(?taken, "the changed configuration is in service");
            self.tell(
                EventKind::ConfigurationTaken,
                "the daemon started anew with the changed configuration",
            );
            if let Some(daemon) = &self.daemon {
                let config = self.config.clone();
                daemon.audit(move |journal| audit::daemon::configuration_taken(&config, journal));
            }
            return Ok(ReloadOutcome { time: Timestamp::now(), taken, refused: Vec::new() });
        };
        (self.config, self.camera, self.scorers) = (old_config, old_camera, old_scorers);
        if moved && let Ok(status) = open_status(self.config.run_dir(), &self.shown, &self.asks) {
            self.status = status;
        }
        self.start(true).await?;
        Ok(self.refuse(format!("the daemon does not start with it: {error}")))
    }
}

/// The configuration, if it has changed.
///
/// Errors: everything that is wrong with it, in words.
fn read(path: &Path, old: &Config) -> Result<Option<Config>, String> {
    let (config, files) = Config::read_to_run(path).map_err(|error| error.to_string())?;
    let same = serde_json::to_value(&config).ok() == serde_json::to_value(old).ok();
    if same {
        return Ok(None);
    }
    // What was wrong with the old one's files as well, and may heal, is no reason.
    let known = old.problems().files;
    let worse: Vec<String> = files.into_iter().filter(|problem| !known.contains(problem)).collect();
    if !worse.is_empty() {
        return Err(format!("configuration {}:\n{}", path.display(), worse.join("\n")));
    }
    config.notes().iter().for_each(|note| tracing::warn!(note));
    Ok(Some(config))
}
