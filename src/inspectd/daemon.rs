//! Puts the daemon together from its configuration, and takes it apart in the right order.
//!
//! Start: journal, registers, Modbus and In-Sight (which answer reject from then on), cameras and scorers each on a
//! thread, stations, MQTT. Stop: parts in hand are finished, reject is served until each Modbus client has
//! read it or [`STOP_SERVES_REJECT`] is over, MQTT says offline, the journal is closed.
//!
//! Never here: the way of a part (see [`crate::station`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use inspect_core::verdict::FaultCode;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::archive::{Archive, ArchiveError};
use crate::camera::thread::CameraHandle;
use crate::camera::{self, Camera, CameraError};
use crate::config::{Config, StationConfig, TriggerConfig, ViewConfig};
use crate::journal::{Journal, JournalError};
use crate::mqtt::{self, Mqtt, MqttConfigError};
use crate::plc::access::AllowList;
use crate::plc::in_sight::InSight;
use crate::plc::registers::{Asks, Registers};
use crate::plc::server::{ModbusServer, ServerError};
use crate::plc::settings::Settings;
use crate::record::{Counters, Event, EventKind, RECORD_SCHEMA, State, TriggerSource};
use crate::scorers::{Loader, Scorers};
use crate::scoring::{ScorerHandle, load_onnx};
use crate::station::Station;
use crate::station::changeover::{Changeover, Setup};
use crate::station::process::Process;
use crate::station::view::{Eye, View};

/// Pace of `alive` and `chain`.
const BEAT: Duration = Duration::from_millis(250);
/// How long reject is served to clients that have not read it.
pub const STOP_SERVES_REJECT: Duration = Duration::from_secs(1);
/// A station whose loop did not turn for its deadline and this long is stuck: systemd's watchdog is not fed.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// Why the daemon does not start. Cameras, models and brokers that are away are no reason.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The Modbus server.
    #[error(transparent)]
    Modbus(#[from] ServerError),
    /// The archive of non-passing frames.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The MQTT settings.
    #[error(transparent)]
    Mqtt(#[from] MqttConfigError),
    /// A thread.
    #[error("threads of view {view}: {source}")]
    Thread {
        /// The view.
        view: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Opens a camera, each time anew; called on the camera's thread.
pub type Open = Box<dyn Fn() -> Result<Box<dyn Camera>, CameraError> + Send>;

/// How a view's camera and model are opened. Tests and `bench` put their own here.
pub struct Seams {
    /// Opens the view's camera.
    pub camera: Box<dyn Fn(&ViewConfig) -> Open>,
    /// Loads a model.
    pub scorer: Loader,
}

impl Seams {
    /// The configured cameras, and models in ONNX Runtime.
    pub fn configured(config: &Config) -> Self {
        let (runtime, cores) = (config.runtime.clone(), config.cores.scoring.clone());
        Self {
            camera: Box::new(|view| {
                let (name, config) = (view.name.clone(), view.camera.clone());
                Box::new(move || camera::open(&name, &config))
            }),
            scorer: Box::new(move |model| load_onnx(model.to_owned(), runtime.clone(), cores.clone())),
        }
    }
}

/// What all stations are started with.
struct Started {
    camera: Box<dyn Fn(&ViewConfig) -> Open>,
    scorers: Arc<Scorers>,
    stopped: watch::Receiver<bool>,
}

/// A running daemon.
pub struct Daemon {
    /// Serves the stations' registers.
    pub modbus: ModbusServer,
    /// Serve stations as In-Sight cameras.
    pub in_sight: Vec<ModbusServer>,
    /// The way out.
    pub journal: Journal,
    /// Each station's state.
    pub states: Vec<watch::Receiver<State>>,
    /// Each station's registers.
    pub registers: Vec<Arc<Registers>>,
    /// Each scorer, by station and view.
    pub scorers: Vec<Vec<ScorerHandle>>,
    archive: Archive,
    mqtt: Option<Mqtt>,
    stop: watch::Sender<bool>,
    stations: Vec<JoinHandle<()>>,
    beat: JoinHandle<()>,
    turned: Vec<(watch::Receiver<Instant>, Duration)>,
}

impl Daemon {
    /// Starts everything.
    ///
    /// Errors: [`DaemonError`].
    pub async fn start(config: &Config, seams: Seams) -> Result<Self, DaemonError> {
        let scorers = Arc::new(Scorers::new(seams.scorer, config.runtime.sessions));
        let journal = Journal::open(&config.journal, config.run_dir())?;
        let archive = Archive::open(&config.journal.dir, config.journal.keep_images)?;
        let memories = config.stations.iter().map(|s| memory(config, s, &journal));
        let memories = memories.collect::<Result<Vec<_>, _>>()?;
        let registers: Vec<_> = memories.iter().map(|(r, _)| Arc::clone(r)).collect();
        let allowed = AllowList::new(&config.modbus.clients);
        let modbus = ModbusServer::start(config.modbus.listen, allowed, registers.clone()).await?;
        let mut in_sight = Vec::new();
        for (station, registers) in config.stations.iter().zip(&registers) {
            let Some(shown) = &station.in_sight else { continue };
            let (camera, allowed) =
                (InSight::new(Arc::clone(registers)), AllowList::new(config.in_sight_clients(shown)));
            in_sight.push(ModbusServer::start_in_sight(shown.listen, allowed, camera).await?);
        }
        let (stop, stopped) = watch::channel(false);
        let mut daemon = Self {
            modbus,
            in_sight,
            journal: journal.clone(),
            states: Vec::new(),
            beat: tokio::spawn(beat(registers.clone())),
            registers,
            scorers: Vec::new(),
            archive: archive.clone(),
            mqtt: None,
            stop,
            stations: Vec::new(),
            turned: Vec::new(),
        };
        let seams = Started { camera: seams.camera, scorers, stopped };
        for (station, (registers, asks)) in config.stations.iter().zip(memories) {
            daemon.add(station, registers, asks, &seams)?;
        }
        daemon.mqtt = match &config.mqtt {
            Some(mqtt) => Some(Mqtt::start(mqtt.clone(), journal.clone(), daemon.states.clone())?),
            None => {
                // A consumer that is no longer there must not keep old records for ever.
                journal.forget_cursor(mqtt::CURSOR);
                None
            }
        };
        let version = concat!("inspectd ", env!("CARGO_PKG_VERSION"));
        journal.event(Event::now(EventKind::Started, None, version));
        Ok(daemon)
    }

    /// Starts a station with its cameras and scorers.
    fn add(
        &mut self,
        config: &StationConfig,
        registers: Arc<Registers>,
        asks: Asks,
        started: &Started,
    ) -> Result<(), DaemonError> {
        let (state, shown) = watch::channel(starting(config));
        let (turned, turns) = watch::channel(Instant::now());
        let deadline = Duration::from_millis(config.deadline_ms);
        let gate = Duration::from_millis(config.gate.time_to_gate_ms);
        let (mut views, mut spare) = (Vec::new(), Vec::new());
        for view in &config.views {
            let eye = start_eye(view, &started.camera)?;
            match start_setup(view, &started.scorers)? {
                Some(setup) => views.push(View { eye, setup }),
                None => spare.push(eye),
            }
        }
        self.scorers.push(views.iter().map(|v| v.setup.scorer.clone()).collect());
        let station = Station {
            name: config.name.clone(),
            trigger: config.trigger,
            usual_deadline: deadline,
            deadline,
            allow_unproven_camera: config.allow_unproven_camera,
            simulated: config.is_simulated(),
            views,
            spare,
            changeover: changeover(config, &started.scorers),
            recipe: None,
            serves_since: Instant::now(),
            registers,
            asks,
            process: Process::new(&config.name, config.guard, self.journal.clone()),
            on_journal_full: config.on_journal_full,
            journal: self.journal.clone(),
            archive: self.archive.clone(),
            state,
            turned,
            command: None,
            stopping: false,
        };
        self.states.push(shown);
        // A recipe may have a longer deadline, but none that its parts would pass the gate in.
        self.turned.push((turns, deadline.max(gate) + STUCK_AFTER));
        self.stations.push(tokio::spawn(guard(station, started.stopped.clone())));
        Ok(())
    }

    /// Whether every station's loop turns.
    pub fn makes_progress(&self) -> bool {
        self.turned.iter().all(|(turned, limit)| turned.borrow().elapsed() < *limit)
            && !self.beat.is_finished()
    }

    /// Stops in order, within a few seconds whatever hangs.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let limit = self.turned.iter().map(|(_, limit)| *limit).max().unwrap_or_default();
        let finished = futures_util::future::join_all(&mut self.stations);
        if tokio::time::timeout(limit, finished).await.is_err() {
            tracing::error!("a station did not finish its part in time");
        }
        let deadline = tokio::time::Instant::now() + STOP_SERVES_REJECT;
        for server in std::iter::once(&self.modbus).chain(&self.in_sight) {
            if !server.all_have_read(deadline).await {
                tracing::warn!(address = %server.address(), "a Modbus client has not read the last reject");
            }
        }
        self.journal.event(Event::now(EventKind::Stopped, None, "stopped in order"));
        if let Some(mqtt) = self.mqtt.take() {
            mqtt.stop().await;
        }
        self.beat.abort();
        let (journal, archive) = (self.journal.clone(), self.archive.clone());
        let closed = tokio::task::spawn_blocking(move || {
            archive.close();
            journal.close()
        });
        match closed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "journal not closed in order"),
            Err(error) => tracing::error!(%error, "journal not closed in order"),
        }
    }
}

/// Runs a station; should it panic, the part in hand gets Fault(internal), registers and state say so, and
/// the watchdog is no longer fed.
async fn guard(station: Station, stopped: watch::Receiver<bool>) {
    let (registers, state) = (Arc::clone(&station.registers), station.state.clone());
    if let Err(error) = tokio::spawn(station.run(stopped)).await {
        registers.fail();
        let fault = FaultCode::Internal;
        state.send_modify(|state| {
            state.ready = false;
            state.fault = Some(fault);
            state.reason = Some(format!("{} {}", fault.meaning(), fault.action()));
            state.counters = registers.counters();
            state.time = jiff::Timestamp::now();
            tracing::error!(station = state.station, %error, "station ended: internal error");
        });
    }
}

async fn beat(registers: Vec<Arc<Registers>>) {
    let mut interval = tokio::time::interval(BEAT);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        registers.iter().for_each(|r| r.beat());
    }
}

fn memory(
    config: &Config,
    station: &StationConfig,
    journal: &Journal,
) -> Result<(Arc<Registers>, Asks), JournalError> {
    let source = match station.trigger {
        TriggerConfig::Plc => TriggerSource::Plc,
        TriggerConfig::Clock { .. } => TriggerSource::Clock,
        TriggerConfig::FreeRun => TriggerSource::FreeRun,
    };
    let settings = Settings {
        by_plc: station.trigger == TriggerConfig::Plc,
        simulated: station.is_simulated(),
        review_at_gate: station.review_at_gate,
        results: station.results,
        order: config.modbus.word_order,
    };
    let parts = journal.station(&station.name, source, station.is_simulated())?;
    let (registers, asks) = Registers::new(settings, parts);
    Ok((Arc::new(registers), asks))
}

fn thread_error(view: &ViewConfig) -> impl Fn(std::io::Error) -> DaemonError {
    let view = view.name.clone();
    move |source| DaemonError::Thread { view: view.clone(), source }
}

fn start_eye(view: &ViewConfig, open: &dyn Fn(&ViewConfig) -> Open) -> Result<Eye, DaemonError> {
    let camera = CameraHandle::spawn_with(&view.name, open(view)).map_err(thread_error(view))?;
    Ok(Eye {
        name: view.name.clone(),
        camera: Arc::new(camera),
        unproven: Arc::default(),
        live: view.camera.is_live(),
        last: None,
        trouble: None,
    })
}

/// None where the recipes say how the view looks.
fn start_setup(view: &ViewConfig, scorers: &Scorers) -> Result<Option<Setup>, DaemonError> {
    let Some(model) = &view.model else { return Ok(None) };
    let scorer = scorers.of(model).map_err(thread_error(view))?;
    Ok(Some(Setup { scorer, roi: view.roi, thresholds: view.thresholds, exposure_us: None }))
}

fn changeover(station: &StationConfig, scorers: &Arc<Scorers>) -> Option<Changeover> {
    let folder = station.recipes.clone()?;
    Some(Changeover::new(folder, station.bounds(), Arc::clone(scorers)))
}

fn starting(station: &StationConfig) -> State {
    State {
        schema: RECORD_SCHEMA,
        station: station.name.clone(),
        time: jiff::Timestamp::now(),
        ready: false,
        fault: Some(FaultCode::Starting),
        reason: None,
        detail: None,
        model: None,
        model_sha256: None,
        provider: None,
        recipe: None,
        provisional: false,
        unproven: false,
        simulated: station.is_simulated(),
        bypass: false,
        stop_request: false,
        challenge_due: false,
        error: None,
        counters: Counters::default(),
    }
}
