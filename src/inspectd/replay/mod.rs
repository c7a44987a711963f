//! Lets parts that were seen before go the real way once more: a whole daemon with one station runs in this
//! process, its cameras show the parts' pictures, and a PLC that is played triggers them by their ids.
//!
//! Terms: see [`compare`]. *Full speed*: the next part as soon as the last has its result. *Real speed*: at the
//! distance of the parts' triggers, or a given one.
//!
//! Everything of the station is as configured but its trigger, which is the PLC's, and its cameras. It has
//! a journal of its own, and a Modbus port that the system gives it on loopback.
//!
//! Never here: the production's journal, Modbus port or MQTT topics; a picture that was not there.

pub mod compare;
mod plc;
pub mod source;
mod stage;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use inspect_core::verdict::FaultCode;
use tokio::time::Instant;

use crate::camera::{Camera, CameraConfig};
use crate::config::{Config, TriggerConfig};
use crate::daemon::{Daemon, DaemonError, Seams};
use crate::models::ModelsConfig;
use crate::record::State;
use compare::{Outcome, Summary, Tally};
use plc::Plc;
use source::{Part, Source};
use stage::{Ready, Stage, StageCamera, read_ahead};

/// Longest time that a model may take to be in service: TensorRT may build an engine first.
const MODEL_LIMIT: Duration = Duration::from_secs(600);
/// A result comes by its deadline; this much later it is missing.
const RESULT_LATER: Duration = Duration::from_secs(10);
/// At real speed a longer time without parts is cut to this: in it nothing happens.
pub const LONGEST_GAP: Duration = Duration::from_secs(10);
/// A part that starts this much after its time is behind.
const BEHIND: Duration = Duration::from_millis(5);

/// Why a replay ended.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The daemon did not start.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The station cannot inspect.
    #[error("station `{station}` cannot inspect, fault {}: {} {why}", .code.code(), .code.meaning())]
    Station {
        /// The station.
        station: String,
        /// Its fault.
        code: FaultCode,
        /// More about it.
        why: String,
    },
    /// No model in time.
    #[error("station `{station}`: its models were not in service within {} s", MODEL_LIMIT.as_secs())]
    Model {
        /// The station.
        station: String,
    },
    /// A recipe stays out of service.
    #[error(
        "recipe {number} cannot be brought into service, {why}; put it right, or judge all parts under another with --recipe"
    )]
    Recipe {
        /// Its number.
        number: u16,
        /// What the station says.
        why: String,
    },
    /// A part of a station with recipes has none.
    #[error("{part}: no recipe is known for it; say which with --recipe")]
    NoRecipe {
        /// Which.
        part: String,
    },
    /// The station did not take a trigger.
    #[error("the trigger {id} was not accepted (fault: {})", .fault.map_or("none", FaultCode::meaning))]
    NotAccepted {
        /// Its id.
        id: u16,
        /// The station's fault.
        fault: Option<FaultCode>,
    },
    /// A part without result: a defect of inspectd.
    #[error("the trigger {id} got no result within {waited_s} s; send the log to the maker")]
    NoResult {
        /// Its id.
        id: u16,
        /// How long it was waited for.
        waited_s: u64,
    },
    /// A register refused a value: a defect of inspectd.
    #[error("holding register {at} cannot be written; send the log to the maker")]
    Registers {
        /// Its address.
        at: u16,
    },
    /// The daemon's station is gone: a defect of inspectd.
    #[error("the station ended; send the log to the maker")]
    Ended,
    /// No thread.
    #[error("no thread to read pictures: {0}")]
    Thread(std::io::Error),
    /// What was found cannot be written.
    #[error("output: {0}")]
    Output(std::io::Error),
}

/// How fast parts come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// Each as soon as the one before has its result.
    Full,
    /// At the distance of their triggers, at most [`LONGEST_GAP`].
    Real,
    /// At this distance.
    Every(Duration),
}

/// What is to be replayed, and on what.
pub struct Plan {
    /// One station, a journal of its own.
    pub config: Config,
    /// The parts.
    pub source: Source,
    /// How fast.
    pub speed: Speed,
}

/// Makes of a configuration one that can be replayed on: its first station alone, triggered by the PLC that is
/// played, with cameras that show what they are given, on a Modbus port that the system chooses.
pub fn isolate(mut config: Config) -> Config {
    config.stations.truncate(1);
    config.modbus.listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.modbus.clients.clear();
    config.archive.dir = None; // beside the replay's own journal
    config.models = ModelsConfig::default(); // a model may be tried before anybody signs it
    for station in &mut config.stations {
        station.trigger = TriggerConfig::Plc;
        station.in_sight = None; // an address of the production's
        station.views.iter_mut().for_each(|view| view.camera = CameraConfig::Replayed);
    }
    config
}

/// Replays; tells each part when it has its result. `broken_off` ends it in order before the last part.
///
/// Errors: [`ReplayError`]; the parts before it were told.
pub async fn replay(
    plan: Plan,
    broken_off: impl Future<Output = ()>,
    tell: &mut impl FnMut(&Outcome) -> std::io::Result<()>,
) -> Result<Summary, ReplayError> {
    let Plan { config, source: Source { parts, left_out, models, .. }, speed } = plan;
    let config = isolate(config);
    let stage = Arc::new(Stage::default());
    let daemon = Daemon::start(&config, seams(&config, &stage)).await?;
    let (mut tally, wanted) = (Tally::default(), parts.len() as u64);
    let mut drive =
        Drive { daemon: &daemon, config: &config, stage: &stage, tally: &mut tally, models: Vec::new() };
    let ended = tokio::select! {
        ended = drive.all(parts, speed, tell) => ended.map(|()| false),
        () = broken_off => Ok(true),
    };
    let models_now = drive.models;
    let not_journaled = daemon.registers.iter().map(|r| u64::from(r.counters().not_journaled)).sum();
    daemon.stop().await;
    let broken_off = ended?;
    let models_then = models.into_iter().collect();
    let sum = tally.sum();
    Ok(Summary { wanted, broken_off, left_out, models_then, models: models_now, not_journaled, ..sum })
}

fn seams(config: &Config, stage: &Arc<Stage>) -> Seams {
    let stage = Arc::clone(stage);
    Seams {
        camera: Box::new(move |view| {
            let (view, stage) = (view.name.clone(), Arc::clone(&stage));
            Box::new(move || Ok(Box::new(StageCamera::new(&view, Arc::clone(&stage))) as Box<dyn Camera>))
        }),
        ..Seams::configured(config)
    }
}

struct Drive<'a> {
    daemon: &'a Daemon,
    config: &'a Config,
    stage: &'a Stage,
    tally: &'a mut Tally,
    /// Models that were in service, by name and the beginning of their SHA-256.
    models: Vec<String>,
}

impl Drive<'_> {
    async fn all(
        &mut self,
        parts: Vec<Part>,
        speed: Speed,
        tell: &mut impl FnMut(&Outcome) -> std::io::Result<()>,
    ) -> Result<(), ReplayError> {
        let (Some(station), Some(registers)) = (self.config.stations.first(), self.daemon.registers.first())
        else {
            return Err(ReplayError::Ended);
        };
        let mut plc = Plc::arm(registers, self.config.modbus.word_order)?;
        let limit =
            Duration::from_millis(station.deadline_ms.max(station.gate.time_to_gate_ms)) + RESULT_LATER;
        let mut ready = read_ahead(parts).map_err(ReplayError::Thread)?;
        let mut pace = Pace { speed, due: None, last: None };
        let mut recipe = None;
        let mut first = true;
        while let Some(next) = ready.recv().await {
            if next.is_gone() {
                self.tally.gone += 1;
                continue;
            }
            if station.recipes.is_some() && (first || recipe != next.part.recipe) {
                recipe = Some(wanted_recipe(&next)?);
                plc.load_recipe(recipe.unwrap_or(0)).await?;
                pace.due = None; // the time that it takes is nobody's delay
                self.ready(&station.name).await?;
            } else if first {
                self.ready(&station.name).await?;
            }
            first = false;
            self.tally.behind += u64::from(pace.wait(&next.part).await);
            let part = self.stage.lay_out(next);
            let outcome = Outcome::new(&part, plc.inspect(&part, limit).await?);
            self.tally.add(&outcome);
            tell(&outcome).map_err(ReplayError::Output)?;
        }
        Ok(())
    }

    /// Waits until the station can inspect.
    async fn ready(&mut self, station: &str) -> Result<(), ReplayError> {
        let starts = |state: &State| {
            matches!(state.fault, Some(FaultCode::Starting | FaultCode::NotArmed | FaultCode::NoRecipe))
        };
        let mut state = self.daemon.states.first().ok_or(ReplayError::Ended)?.clone();
        let settled = state.wait_for(|state| !starts(state));
        let state = match tokio::time::timeout(MODEL_LIMIT, settled).await {
            Err(_) => return Err(ReplayError::Model { station: station.to_owned() }),
            Ok(Err(_)) => return Err(ReplayError::Ended),
            Ok(Ok(state)) => state.clone(),
        };
        if let Some(code) = state.fault {
            let why = state.detail.unwrap_or_default();
            return Err(ReplayError::Station { station: station.to_owned(), code, why });
        }
        let sha256 = state.model_sha256.as_deref().and_then(|sha| sha.get(..8)).unwrap_or_default();
        let model = format!("{} {sha256}", state.model.unwrap_or_default());
        if !self.models.contains(&model) {
            self.models.push(model);
        }
        Ok(())
    }
}

fn wanted_recipe(ready: &Ready) -> Result<u16, ReplayError> {
    let part = &ready.part;
    part.recipe.ok_or_else(|| {
        let number = part.then.as_ref().map(|then| format!("part {}", then.part));
        let picture = || part.pictures.first().map(|(_, path)| path.display().to_string());
        ReplayError::NoRecipe { part: number.or_else(picture).unwrap_or_default() }
    })
}

/// When the next part is due.
struct Pace {
    speed: Speed,
    due: Option<Instant>,
    /// When the last part's trigger was accepted then.
    last: Option<jiff::Timestamp>,
}

impl Pace {
    /// Waits for a part's time; whether it had passed already. No part is skipped: the pace slows instead.
    async fn wait(&mut self, part: &Part) -> bool {
        let accepted = part.then.as_ref().map(|then| then.accepted);
        let then = self.last.replace(accepted.unwrap_or_default()).zip(accepted);
        let gap = match self.speed {
            Speed::Full => return false,
            Speed::Every(period) => period,
            Speed::Real => then.map_or(Duration::ZERO, |(last, now)| {
                Duration::try_from(now.duration_since(last)).unwrap_or_default().min(LONGEST_GAP)
            }),
        };
        let now = Instant::now();
        let due = self.due.map_or(now, |due| due + gap);
        let behind = now > due + BEHIND;
        tokio::time::sleep_until(due).await;
        self.due = Some(due.max(now));
        behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_productions_is_listened_on() {
        let text = r#"
            [modbus]
            listen = "192.0.2.1:502"
            [journal]
            dir = "j"
            [[station]]
            name = "a"
            trigger = { source = "plc" }
            in_sight = { listen = "192.0.2.1:503" }
            deadline_ms = 100
            gate = { time_to_gate_ms = 200, plc_poll_ms = 10, plc_scan_ms = 20 }
            [[station.view]]
            name = "top"
            model = "m.onnx"
            camera = { kind = "simulated" }
        "#;
        let config = Config::parse(text, "t.toml".as_ref(), ".".as_ref()).unwrap();
        let isolated = isolate(config);
        assert_eq!(isolated.modbus.listen, (Ipv4Addr::LOCALHOST, 0).into());
        assert!(isolated.stations[0].in_sight.is_none());
        assert!(matches!(isolated.stations[0].views[0].camera, CameraConfig::Replayed));
    }

    use inspect_core::verdict::Verdict;
    use source::Then;

    fn part(accepted_ms: i64) -> Part {
        let accepted = jiff::Timestamp::from_millisecond(accepted_ms).unwrap();
        Part {
            pictures: Vec::new(),
            truth: None,
            serial: None,
            encoder: None,
            product: 0,
            trigger_id: None,
            recipe: None,
            then: Some(Then { part: 1, accepted, verdict: Verdict::Reject, score: None }),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn at_real_speed_parts_keep_the_distance_of_their_triggers_but_for_long_gaps() {
        let mut pace = Pace { speed: Speed::Real, due: None, last: None };
        let start = Instant::now();
        let mut times = Vec::new();
        for ms in [5_000, 5_250, 5_300, 3_600_000] {
            assert!(!pace.wait(&part(ms)).await);
            times.push(start.elapsed().as_millis());
        }
        assert_eq!(times, [0, 250, 300, 300 + LONGEST_GAP.as_millis()]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_whose_time_has_passed_is_behind_and_the_next_is_not() {
        let mut pace = Pace { speed: Speed::Every(Duration::from_millis(100)), due: None, last: None };
        assert!(!pace.wait(&part(0)).await);
        tokio::time::advance(Duration::from_millis(150)).await;
        assert!(pace.wait(&part(0)).await);
        tokio::time::advance(Duration::from_millis(40)).await;
        assert!(!pace.wait(&part(0)).await);
    }
}
