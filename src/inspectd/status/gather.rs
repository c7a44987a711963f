//! Gathers the [`DaemonStatus`] from those who know. Reads what is shown already; no lock is held that the line needs.
//!
//! Never here: words for people ([`super::trouble`], [`super::page`]), the socket.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::time::timeout;

use super::{
    ArchiveStatus, AuditStatus, CameraStatus, DaemonStatus, Disk, JournalStatus, MqttLink, Phase, PortStatus,
    Process, ReloadOutcome, STATUS_SCHEMA, ScorerStatus, Standing, StationStatus,
};
use crate::archive::ArchiveCounters;
use crate::audit::daemon::Health;
use crate::camera::calls::Availability;
use crate::daemon::{DaemonWatch, StationWatch};
use crate::scorers::ScorerWatch;
use crate::scoring::Service;

/// How long the disk may take to say how much is left.
const DISK_LIMIT: Duration = Duration::from_millis(500);

/// What the daemon shows of itself; written by who runs it, read by who is asked.
pub struct Shown {
    config: PathBuf,
    started: (Timestamp, Instant),
    now: Mutex<Now>,
    /// A question to the disk is under way; one that hangs is not asked again.
    disk_asked: Arc<AtomicBool>,
}

struct Now {
    phase: Phase,
    waits_for: Option<String>,
    journal_dir: PathBuf,
    daemon: Option<DaemonWatch>,
    last_reload: Option<ReloadOutcome>,
}

impl Shown {
    /// A daemon that starts.
    pub fn new(config: &Path, journal_dir: &Path) -> Self {
        let now = Now {
            phase: Phase::Starting,
            waits_for: None,
            journal_dir: journal_dir.to_owned(),
            daemon: None,
            last_reload: None,
        };
        let started = (Timestamp::now(), Instant::now());
        Self { config: config.to_owned(), started, now: Mutex::new(now), disk_asked: Arc::default() }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It does something else, and waits for this.
    pub fn phase(&self, phase: Phase, waits_for: Option<String>) {
        let mut now = self.now();
        (now.phase, now.waits_for) = (phase, waits_for);
        if phase != Phase::Running && phase != Phase::Stopping {
            now.daemon = None;
        }
    }

    /// Everything is started.
    pub fn running(&self, daemon: DaemonWatch) {
        let mut now = self.now();
        now.journal_dir = daemon.journal.dir().to_owned();
        (now.phase, now.waits_for, now.daemon) = (Phase::Running, None, Some(daemon));
    }

    /// A reload has ended.
    pub fn reloaded(&self, outcome: ReloadOutcome) {
        self.now().last_reload = Some(outcome);
    }

    /// Those who know, where everything is started.
    pub fn daemon(&self) -> Option<DaemonWatch> {
        self.now().daemon.clone()
    }

    /// Everything, now.
    pub async fn gather(&self) -> DaemonStatus {
        let disk = self.disk().await;
        // Not kept while others are asked: the watchdog needs it too, and must not wait for them.
        let (phase, waits_for, daemon, last_reload) = {
            let now = self.now();
            (now.phase, now.waits_for.clone(), now.daemon.clone(), now.last_reload.clone())
        };
        let stations: Vec<_> = daemon.iter().flat_map(|d| &d.stations).map(StationStatus::of).collect();
        let mut status = DaemonStatus {
            schema: STATUS_SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            time: Timestamp::now(),
            started: self.started.0,
            uptime_s: self.started.1.elapsed().as_secs(),
            config: self.config.clone(),
            ready: !stations.is_empty() && stations.iter().all(|s| s.state.ready),
            phase,
            waits_for,
            troubles: Vec::new(),
            stations,
            scorers: daemon.iter().flat_map(|d| d.scorers.look_on()).map(ScorerStatus::of).collect(),
            journal: daemon.as_ref().map(JournalStatus::of),
            mqtt: daemon.as_ref().and_then(MqttLink::of),
            archive: daemon.as_ref().map(ArchiveStatus::of),
            audit: daemon.as_ref().map(AuditStatus::of),
            modbus: daemon.iter().flat_map(|d| &d.servers).map(PortStatus::of).collect(),
            disk,
            process: Process::now(),
            last_reload,
        };
        status.troubles = status.find_troubles();
        status
    }

    async fn disk(&self) -> Option<Disk> {
        if self.disk_asked.swap(true, Ordering::AcqRel) {
            return None;
        }
        let (dir, asked) = (self.now().journal_dir.clone(), Arc::clone(&self.disk_asked));
        let asking = tokio::task::spawn_blocking(move || {
            // Where it is not made yet, the disk is that of the first folder above it that is.
            let disk = dir.ancestors().find_map(Disk::of);
            asked.store(false, Ordering::Release);
            disk
        });
        timeout(DISK_LIMIT, asking).await.ok()?.ok()?
    }
}

impl StationStatus {
    fn of(station: &StationWatch) -> Self {
        let state = station.state.borrow().clone();
        let camera = |(view, watch): &(String, crate::camera::watch::CameraWatch)| {
            let (standing, reason) = match watch.availability() {
                Availability::Opening => (Standing::Starting, None),
                Availability::Up => (Standing::Up, None),
                Availability::Away { reason } => (Standing::Away, Some(reason)),
                Availability::Stuck { reason } => (Standing::Stuck, Some(reason)),
            };
            CameraStatus {
                view: view.clone(),
                standing,
                for_s: watch.since().map_or(0, |at| at.elapsed().as_secs()),
                reason,
                threads_left_behind: watch.hanging(),
                given_up: watch.is_given_up(),
            }
        };
        Self {
            fault_code: state.fault.map(|fault| fault.code()),
            state,
            turns: station.turns(),
            cameras: station.cameras.iter().map(camera).collect(),
        }
    }
}

impl ScorerStatus {
    fn of(watch: ScorerWatch) -> Self {
        let (standing, reason) = match (&watch.stuck, &watch.service) {
            (Some(stuck), _) => (Standing::Stuck, Some(stuck.to_string())),
            (None, Service::Starting) => (Standing::Starting, None),
            (None, Service::Ready(_)) => (Standing::Up, None),
            (None, Service::Away(why)) => (Standing::Away, Some(why.clone())),
        };
        let model = match &watch.service {
            Service::Ready(model) => Some(model),
            _ => None,
        };
        Self {
            name: model.map(|m| m.card.name.clone()),
            sha256: model.map(|m| m.sha256.to_string()),
            model: watch.model,
            users: watch.users,
            standing,
            for_s: watch.since.map(|at| at.elapsed().as_secs()),
            reason,
        }
    }
}

impl JournalStatus {
    fn of(daemon: &DaemonWatch) -> Self {
        let journal = &daemon.journal;
        let (committed, health) = (*journal.committed().borrow(), journal.health().borrow().clone());
        Self {
            dir: journal.dir().to_owned(),
            journal: committed.journal.to_string(),
            sequence: committed.sequence,
            queued: journal.queued(),
            places: journal.places(),
            dropped_events: journal.dropped_events(),
            quarantined: health.quarantined,
            error: health.error,
        }
    }
}

impl MqttLink {
    fn of(daemon: &DaemonWatch) -> Option<Self> {
        let status = daemon.mqtt.as_ref()?.borrow().clone();
        Some(Self {
            connected: status.connected,
            error: status.error,
            delivered: status.delivered,
            backlog: status.backlog,
            connections: status.connections,
        })
    }
}

impl ArchiveStatus {
    fn of(daemon: &DaemonWatch) -> Self {
        let ArchiveCounters { written, dropped, failed, deleted, bytes } = daemon.archive.counters();
        Self { written, dropped, failed, deleted, bytes, error: daemon.archive.trouble() }
    }
}

impl AuditStatus {
    fn of(daemon: &DaemonWatch) -> Self {
        let Health { changed, unwritten } = daemon.audit.borrow().clone();
        Self { changed, error: unwritten }
    }
}

impl PortStatus {
    fn of(server: &crate::plc::server::ServerWatch) -> Self {
        Self {
            listen: server.address.to_string(),
            as_in_sight: server.as_in_sight,
            clients: server.clients().iter().map(ToString::to_string).collect(),
            refused: server.refused(),
        }
    }
}
