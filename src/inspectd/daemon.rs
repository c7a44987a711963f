//! Puts the daemon together from its configuration, and takes it apart in the right order.
//!
//! Start: registers, Modbus and In-Sight ([`Front`], which answers reject from then on), journal and archive ([`Store`]),
//! cameras and scorers each on a thread, stations, MQTT. Stop: parts in hand are finished, reject is served until each Modbus client has
//! read it or [`STOP_SERVES_REJECT`] is over, MQTT says offline, the journal is closed.
//!
//! Never here: the way of a part (see [`crate::station`]); trying again, ending the process (see [`crate::supervise`]).

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use inspect_core::verdict::FaultCode;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::archive::Archive;
use crate::audit::{self, daemon::Health};
use crate::camera::thread::CameraHandle;
use crate::camera::watch::CameraWatch;
use crate::camera::{self, Camera, CameraError};
use crate::config::{Config, StationConfig, TriggerConfig, ViewConfig};
use crate::front::{Beat, Front};
use crate::journal::{Journal, JournalError};
use crate::mqtt::{self, Mqtt, MqttConfigError, MqttStatus};
use crate::plc::registers::{Asks, Registers};
use crate::plc::server::{ModbusServer, ServerError, ServerWatch};
use crate::record::{Event, EventKind, State, TriggerSource};
use crate::scorers::{Loader, Scorers};
use crate::scoring::load_onnx;
use crate::station::Station;
use crate::station::changeover::{Changeover, Setup};
use crate::station::in_service::{RENEW_LIMIT, Renew, Renewed};
use crate::station::process::Process;
use crate::station::view::{Eye, View};
use crate::wall;

/// How long reject is served to clients that have not read it.
pub const STOP_SERVES_REJECT: Duration = Duration::from_secs(1);
/// A station whose loop did not turn for its deadline and this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// Why the daemon does not start. Cameras, models and brokers that are away are no reason.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal is open and cannot be written.
    #[error("the journal cannot be written: {0}")]
    Unwritable(String),
    /// The Modbus server.
    #[error(transparent)]
    Modbus(#[from] ServerError),
    /// The archive's thread.
    #[error("thread of the archive: {0}")]
    Archive(std::io::Error),
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

impl DaemonError {
    /// Whether waiting and trying again can help, without anybody changing a setting.
    pub fn heals(&self) -> bool {
        match self {
            Self::Journal(error) => error.heals(),
            Self::Archive(_) | Self::Thread { .. } => true,
            Self::Modbus(ServerError::Listen { source, .. }) => {
                matches!(source.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable)
            }
            Self::Mqtt(_) | Self::Unwritable(_) => false,
        }
    }
}

/// Opens a camera, each time anew; called on the camera's thread.
pub type Open = Box<dyn Fn() -> Result<Box<dyn Camera>, CameraError> + Send + Sync>;

/// How a view's camera and model are opened. Tests and `bench` put their own here.
pub struct Seams {
    /// Opens the view's camera.
    pub camera: OpenView,
    /// Loads a model.
    pub scorer: Loader,
}

impl Seams {
    /// The configured cameras, and models in ONNX Runtime.
    pub fn configured(config: &Config) -> Self {
        let (runtime, cores) = (config.runtime.clone(), config.cores.scoring.clone());
        let models = config.models.clone();
        Self {
            camera: Box::new(|view| {
                let (name, config) = (view.name.clone(), view.camera.clone());
                Box::new(move || camera::open(&name, &config))
            }),
            scorer: Box::new(move |model| {
                load_onnx(model.to_owned(), runtime.clone(), cores.clone(), models.clone())
            }),
        }
    }
}

/// Where parts go once they are judged.
pub struct Store {
    /// Their records.
    pub journal: Journal,
    /// Their pictures.
    pub archive: Archive,
}

impl Store {
    /// Opens both. Blocks for as long as the disk takes.
    ///
    /// Errors: [`DaemonError::Journal`], [`DaemonError::Archive`].
    pub fn open(config: &Config) -> Result<Self, DaemonError> {
        let journal = Journal::open(&config.journal, config.run_dir())?;
        let events = journal.clone();
        let tell = Box::new(move |event| events.event(event));
        match Archive::open(&config.archive_dir(), &config.archive, tell) {
            Ok(archive) => Ok(Self { journal, archive }),
            Err(error) => {
                if let Err(error) = journal.close() {
                    tracing::error!(%error, "journal not closed in order");
                }
                Err(DaemonError::Archive(error))
            }
        }
    }
}

/// Opens a view's camera, see [`Seams`].
pub type OpenView = Box<dyn Fn(&ViewConfig) -> Open>;

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
    /// Every scorer that runs.
    pub scorers: Arc<Scorers>,
    archive: Archive,
    audit: watch::Sender<Health>,
    mqtt: Option<Mqtt>,
    stop: watch::Sender<bool>,
    stations: Vec<JoinHandle<()>>,
    /// For whoever looks on; one for each station.
    watches: Vec<StationWatch>,
    renew: Vec<mpsc::Sender<Renew>>,
    _beat: Beat,
}

/// A station, for whoever looks on; keeps nothing open.
#[derive(Clone)]
pub struct StationWatch {
    /// Its state.
    pub state: watch::Receiver<State>,
    /// Its cameras, by view.
    pub cameras: Vec<(String, CameraWatch)>,
    turned: watch::Receiver<Instant>,
    limit: Duration,
}

impl StationWatch {
    /// Whether its loop turns.
    pub fn turns(&self) -> bool {
        self.turned.borrow().elapsed() < self.limit
    }
}

/// The daemon, for whoever looks on; keeps nothing open.
#[derive(Clone)]
pub struct DaemonWatch {
    /// In the order of the configuration.
    pub stations: Vec<StationWatch>,
    /// Every scorer that runs.
    pub scorers: Arc<Scorers>,
    /// The way out.
    pub journal: Journal,
    /// Pictures of parts.
    pub archive: Archive,
    /// What is wrong with the audit trail.
    pub audit: watch::Receiver<Health>,
    /// The link to the broker, where there is one.
    pub mqtt: Option<watch::Receiver<MqttStatus>>,
    /// What the PLCs are connected to.
    pub servers: Vec<ServerWatch>,
}

impl Daemon {
    /// Starts everything, and refuses where anything but a camera, a model or a broker is not there at once.
    ///
    /// Errors: [`DaemonError`].
    pub async fn start(config: &Config, seams: Seams) -> Result<Self, DaemonError> {
        let scorers = Arc::new(Scorers::new(seams.scorer, config.runtime.sessions));
        let front = Front::open(config).await?;
        let store = Store::open(config)?;
        Self::start_behind(config, front, store, &seams.camera, scorers).await
    }

    /// Starts everything else behind what is open already.
    ///
    /// Errors: [`DaemonError`]; what was started is stopped again.
    pub async fn start_behind(
        config: &Config,
        front: Front,
        store: Store,
        camera: &OpenView,
        scorers: Arc<Scorers>,
    ) -> Result<Self, DaemonError> {
        let setups = setups(config, &scorers).await;
        let Front { modbus, in_sight, registers, asks, beat } = front;
        let (stop, stopped) = watch::channel(false);
        let mut daemon = Self {
            modbus,
            in_sight,
            journal: store.journal,
            states: Vec::new(),
            registers,
            scorers,
            archive: store.archive,
            audit: watch::Sender::default(),
            mqtt: None,
            stop,
            stations: Vec::new(),
            watches: Vec::new(),
            renew: Vec::new(),
            _beat: beat,
        };
        let started = setups.and_then(|setups| daemon.start_stations(config, asks, setups, camera, &stopped));
        if let Err(error) = started {
            daemon.stop().await;
            return Err(error);
        }
        let version = concat!("inspectd ", env!("CARGO_PKG_VERSION"));
        daemon.journal.event(Event::now(EventKind::Started, None, version));
        tokio::spawn(wall::tell_steps(daemon.journal.clone(), stopped));
        let config = config.clone();
        daemon.audit(move |journal| audit::daemon::started(&config, journal));
        Ok(daemon)
    }

    /// Says something in the audit trail, beside the line, and shows what is wrong with the trail.
    pub fn audit(&self, say: impl FnOnce(&Journal) -> Health + Send + 'static) {
        let (journal, shown) = (self.journal.clone(), self.audit.clone());
        tokio::task::spawn_blocking(move || {
            let health = say(&journal);
            shown.send_modify(|known| *known = std::mem::take(known).then(health));
        });
    }

    fn start_stations(
        &mut self,
        config: &Config,
        asks: Vec<Asks>,
        setups: Vec<Setups>,
        camera: &OpenView,
        stopped: &watch::Receiver<bool>,
    ) -> Result<(), DaemonError> {
        let looks = self.registers.clone().into_iter().zip(setups);
        for ((station, asks), (registers, setups)) in config.stations.iter().zip(asks).zip(looks) {
            self.add(station, registers, asks, setups, camera, stopped)?;
        }
        self.mqtt = match &config.mqtt {
            Some(mqtt) => Some(Mqtt::start(mqtt.clone(), self.journal.clone(), self.states.clone())?),
            None => {
                // A consumer that is no longer there must not keep old records for ever.
                self.journal.forget_cursor(mqtt::CURSOR);
                None
            }
        };
        Ok(())
    }

    /// For whoever looks on.
    pub fn look_on(&self) -> DaemonWatch {
        DaemonWatch {
            stations: self.watches.clone(),
            scorers: Arc::clone(&self.scorers),
            journal: self.journal.clone(),
            archive: self.archive.clone(),
            audit: self.audit.subscribe(),
            mqtt: self.mqtt.as_ref().map(Mqtt::status),
            servers: std::iter::once(&self.modbus).chain(&self.in_sight).map(ModbusServer::look_on).collect(),
        }
    }

    /// Looks at every station's recipe and model files anew: what has changed is prepared beside the line and taken into
    /// service between two parts, or left where it is. Gives back what each station came to.
    pub async fn renew_models(&self) -> Vec<Renewed> {
        let ask = |renew: &mpsc::Sender<Renew>| {
            let (reply, renewed) = oneshot::channel();
            // Full: another is under way, which looks at the same files.
            renew.try_send(Renew { reply }).ok().map(|()| renewed)
        };
        let asked = self.renew.iter().map(ask);
        let answers = asked.map(async |asked| match asked {
            Some(renewed) => timeout(RENEW_LIMIT, renewed).await.ok().and_then(Result::ok),
            None => None,
        });
        let answers = futures_util::future::join_all(answers).await;
        answers.into_iter().map(|renewed| renewed.unwrap_or_else(Renewed::broke_off)).collect()
    }

    /// Starts a station with its cameras and scorers.
    fn add(
        &mut self,
        config: &StationConfig,
        registers: Arc<Registers>,
        asks: Asks,
        setups: Setups,
        camera: &OpenView,
        stopped: &watch::Receiver<bool>,
    ) -> Result<(), DaemonError> {
        let (state, shown) = watch::channel(State::starting(&config.name, config.is_simulated()));
        let (turned, turns) = watch::channel(Instant::now());
        let deadline = Duration::from_millis(config.deadline_ms);
        let gate = Duration::from_millis(config.gate.time_to_gate_ms);
        let (mut views, mut spare) = (Vec::new(), Vec::new());
        for (view, setup) in config.views.iter().zip(setups) {
            let eye = start_eye(&config.name, view, camera)?;
            match setup {
                Some(setup) => views.push(View { eye, setup }),
                None => spare.push(eye),
            }
        }
        let eyes = views.iter().map(|view| &view.eye).chain(&spare);
        let cameras = eyes.map(|eye| (eye.name.clone(), eye.camera.look_on())).collect();
        let (renew, renews) = mpsc::channel(1);
        let source = match config.trigger {
            TriggerConfig::Plc => TriggerSource::Plc,
            TriggerConfig::Clock { .. } => TriggerSource::Clock,
            TriggerConfig::FreeRun => TriggerSource::FreeRun,
        };
        registers.keep_in(self.journal.station(&config.name, source, config.is_simulated())?);
        let station = Station {
            name: config.name.clone(),
            trigger: config.trigger,
            usual_deadline: deadline,
            deadline,
            allow_unproven_camera: config.allow_unproven_camera,
            simulated: config.is_simulated(),
            views,
            spare,
            changeover: Changeover::new(config.recipes.clone(), config.bounds(), Arc::clone(&self.scorers)),
            renews,
            renewing: None,
            recipe: None,
            serves_since: Instant::now(),
            registers,
            asks,
            process: Process::new(&config.name, config.guard, config.drift, self.journal.clone()),
            on_journal_full: config.on_journal_full,
            journal: self.journal.clone(),
            archive: self.archive.clone(),
            state,
            turned,
            command: None,
            stopping: false,
        };
        // A recipe may have a longer deadline, but none that its parts would pass the gate in.
        let limit = deadline.max(gate) + STUCK_AFTER;
        self.watches.push(StationWatch { state: shown.clone(), cameras, turned: turns, limit });
        self.states.push(shown);
        self.renew.push(renew);
        self.stations.push(tokio::spawn(guard(station, stopped.clone())));
        Ok(())
    }

    /// Stops in order, within a few seconds whatever hangs.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let limit = self.watches.iter().map(|watch| watch.limit).max().unwrap_or_default();
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
/// the process is ended by [`crate::supervise`].
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

fn thread_error(view: &ViewConfig) -> impl Fn(std::io::Error) -> DaemonError {
    let view = view.name.clone();
    move |source| DaemonError::Thread { view: view.clone(), source }
}

fn start_eye(
    station: &str,
    view: &ViewConfig,
    open: &dyn Fn(&ViewConfig) -> Open,
) -> Result<Eye, DaemonError> {
    // Views of two stations may have one name; what is said of a camera must tell which.
    let name = format!("{station}/{}", view.name);
    let camera = CameraHandle::spawn_with(&name, open(view)).map_err(thread_error(view))?;
    Ok(Eye {
        name: view.name.clone(),
        camera: Arc::new(camera),
        unproven: Arc::default(),
        live: view.camera.is_live(),
        last: None,
        trouble: None,
    })
}

/// How each view of a station looks; none where the recipes say it.
type Setups = Vec<Option<Setup>>;

/// How each station's views look. Reads model files, so beside the runtime: the disk may hang.
async fn setups(config: &Config, scorers: &Arc<Scorers>) -> Result<Vec<Setups>, DaemonError> {
    let (stations, scorers) = (config.stations.clone(), Arc::clone(scorers));
    let setups_of = move |station: &StationConfig| -> Result<Setups, DaemonError> {
        station.views.iter().map(|view| start_setup(view, &scorers)).collect()
    };
    let starting = tokio::task::spawn_blocking(move || stations.iter().map(setups_of).collect());
    starting.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// None where the recipes say how the view looks.
fn start_setup(view: &ViewConfig, scorers: &Scorers) -> Result<Option<Setup>, DaemonError> {
    let Some(model) = &view.model else { return Ok(None) };
    let scorer = scorers.of(model).map_err(thread_error(view))?;
    let (model, roi, thresholds) = (model.clone(), view.roi, view.thresholds);
    Ok(Some(Setup { model, scorer, roi, thresholds, exposure_us: None }))
}
