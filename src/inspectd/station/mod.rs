//! A station: the one place that knows the order trigger → frame → score → verdict → registers → journal.
//!
//! Terms: see the README's glossary. Each accepted trigger gets exactly one result, published by its
//! deadline. Everything up to the publication is inside the deadline; journal and archive come after it.
//!
//! Never here: waiting for anything behind the journal; a verdict other than [`judge`]'s or a fault.

pub mod changeover;
pub mod guard;
pub mod in_service;
pub mod process;
mod report;
pub mod view;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use inspect_core::verdict::{FaultCode, Verdict, ViewOutcome, judge};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tracing::Instrument as _;

use crate::archive::Archive;
use crate::camera::{CameraError, Frame};
use crate::clock;
use crate::config::TriggerConfig;
use crate::journal::{Journal, OnJournalFull, Taken};
use crate::plc::handshake::{Command, Marks};
use crate::plc::registers::{Asks, Registers};
use crate::plc::result::{PartKind, Published};
use crate::record::{Event, EventKind, RECORD_SCHEMA, RecipeStamp, State, Trigger, TriggerSource};
use crate::scoring::InService;
use changeover::Changeover;
use in_service::{Renew, Renewed};
use process::Process;
use report::{micros, result_block};
use view::{Eye, View, ask_for_life};

/// What a look leaves of the deadline for verdict and publication: timers fire up to 1 ms late, and a busy
/// machine lets a thread wait.
pub const PUBLISH_MARGIN: Duration = Duration::from_millis(5);
/// A station that waits for a trigger looks after itself this often.
const TICK: Duration = Duration::from_millis(100);
/// `chain` counts this long after scorer and camera last proved themselves.
const PROOF_HOLDS: Duration = Duration::from_secs(2);
/// At a stop the last part's result stands until it was read, at most this long; then reject is served.
const LAST_RESULT_STANDS: Duration = Duration::from_millis(250);
/// How long a score that missed its deadline is still waited for, to tell what it would have been.
const LATE_SCORE_WAIT: Duration = Duration::from_secs(60);

/// Everything that a station works with.
pub struct Station {
    /// Name.
    pub name: String,
    /// What makes it inspect.
    pub trigger: TriggerConfig,
    /// From trigger accepted to result published, where the recipe says nothing else.
    pub usual_deadline: Duration,
    /// The same now.
    pub deadline: Duration,
    /// Lets `chain` count although the camera cannot prove life while idle.
    pub allow_unproven_camera: bool,
    /// Whether frames are simulated.
    pub simulated: bool,
    /// Its looks at a part.
    pub views: Vec<View>,
    /// Cameras that the recipe in service does not use.
    pub spare: Vec<Eye>,
    /// Prepares recipes and changed models beside the line.
    pub changeover: Changeover,
    /// Asks to look at recipe and models anew.
    pub renews: mpsc::Receiver<Renew>,
    /// Who waits for what that comes to.
    pub renewing: Option<oneshot::Sender<Renewed>>,
    /// The recipe in service.
    pub recipe: Option<RecipeStamp>,
    /// Since when; a part that was there before is not judged by it.
    pub serves_since: Instant,
    /// Its registers.
    pub registers: Arc<Registers>,
    /// What the PLC asks.
    pub asks: Asks,
    /// Its guards.
    pub process: Process,
    /// What becomes of a part that the journal has no place for.
    pub on_journal_full: OnJournalFull,
    /// Where records go.
    pub journal: Journal,
    /// Where frames of non-passing parts go.
    pub archive: Archive,
    /// Where its state is shown.
    pub state: watch::Sender<State>,
    /// Moved on by each turn of its loop: what the watchdog looks at.
    pub turned: watch::Sender<Instant>,
    /// What the PLC asked while the station waited for parts.
    pub command: Option<Command>,
    /// The last part is done.
    pub stopping: bool,
}

/// One trigger, whatever it came from.
struct Triggered {
    source: TriggerSource,
    taken: Taken,
    /// What was itself the trigger: a frame, or one that was lost.
    frame: Option<Result<Frame, CameraError>>,
}

impl Station {
    /// Inspects until `stop` is set; the part in hand is finished first.
    pub async fn run(mut self, stop: watch::Receiver<bool>) {
        let mut clock = tokio::time::interval(match self.trigger {
            TriggerConfig::Clock { period_ms } => Duration::from_millis(period_ms.max(1)),
            _ => TICK,
        });
        // A clock that fell behind goes on from now: bursts of parts that were never there help nobody.
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Ends with the station.
        let mut life = tokio::task::JoinSet::new();
        for eye in self.views.iter().map(|v| &v.eye).chain(&self.spare) {
            life.spawn(ask_for_life(Arc::clone(&eye.camera), Arc::clone(&eye.unproven)));
        }
        let mut looked_after: Option<Instant> = None;
        while !*stop.borrow() {
            if looked_after.is_none_or(|at| clock::since(at) >= TICK) {
                looked_after = Some(clock::now());
                self.look_after();
            }
            self.turned.send_replace(clock::now());
            self.change_over().await;
            if let Some(triggered) = self.next_trigger(&mut clock).await {
                self.inspect(triggered).await;
            }
        }
        // What was accepted before the stop still gets its result; from here on nothing is accepted.
        self.asks.accepted.close();
        while let Some(taken) = self.asks.accepted.recv().await {
            self.inspect(by_plc(taken)).await;
        }
        let stands = clock::now() + LAST_RESULT_STANDS;
        while self.registers.is_open() && clock::now() < stands {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.stopping = true;
        self.look_after();
    }

    /// The next trigger, if one comes within [`TICK`].
    async fn next_trigger(&mut self, clock: &mut tokio::time::Interval) -> Option<Triggered> {
        match self.trigger {
            TriggerConfig::Plc => {
                tokio::select! {
                    biased;
                    taken = self.asks.accepted.recv() => taken.map(by_plc),
                    command = self.asks.commands.recv() => {
                        self.command = command;
                        None
                    }
                    () = self.changeover.ended() => None,
                    () = tokio::time::sleep(TICK) => None,
                }
            }
            TriggerConfig::Clock { .. } => {
                timeout(TICK, clock.tick()).await.ok()?;
                // The line's own clock does not begin before the station can inspect.
                let starting = self.fault().is_some_and(|(code, _)| code == FaultCode::Starting);
                if starting || self.registers.is_offline() {
                    return None;
                }
                let taken = self.registers.accept(clock::now());
                Some(Triggered { source: TriggerSource::Clock, taken, frame: None })
            }
            TriggerConfig::FreeRun => {
                let from = clock::now();
                let grabbed = match self.views.first() {
                    Some(view) => view.eye.camera.next((from + TICK).into()).await,
                    None => {
                        tokio::time::sleep(TICK).await; // no recipe is in service
                        return None;
                    }
                };
                match grabbed {
                    _ if self.registers.is_offline() => {
                        tokio::time::sleep(TICK).await;
                        None
                    }
                    Ok(frame) => {
                        let taken = self.registers.accept(frame.exposed);
                        Some(Triggered { source: TriggerSource::FreeRun, taken, frame: Some(Ok(frame)) })
                    }
                    Err(CameraError::NoFrame { .. }) => None,
                    // Where each frame is a part, one that was lost is a part that nobody saw.
                    Err(
                        lost @ (CameraError::Incomplete { .. }
                        | CameraError::Gap { .. }
                        | CameraError::Image { .. }),
                    ) => {
                        let taken = self.registers.accept(clock::now());
                        Some(Triggered { source: TriggerSource::FreeRun, taken, frame: Some(Err(lost)) })
                    }
                    Err(
                        CameraError::Away { .. }
                        | CameraError::Stuck { .. }
                        | CameraError::End { .. }
                        | CameraError::Refused { .. },
                    ) => {
                        tokio::time::sleep(TICK).await; // away: the fault is shown, do not spin
                        None
                    }
                }
            }
        }
    }

    async fn inspect(&mut self, triggered: Triggered) {
        let (part, trigger_id) = (triggered.taken.part, triggered.taken.accepted.trigger_id);
        let span = tracing::info_span!("inspection", station = self.name, part, trigger_id);
        self.judge_part(triggered).instrument(span).await;
    }

    async fn judge_part(&mut self, triggered: Triggered) {
        let Triggered { source, taken: Taken { accepted, part, slot }, mut frame } = triggered;
        let at = accepted.at;
        let deadline = at + self.deadline;
        let until = deadline.checked_sub(PUBLISH_MARGIN).unwrap_or(deadline);
        let count = self.views.len();
        let mut looks =
            join_all(self.views.iter_mut().map(|view| view.look(count, at, until, frame.take()))).await;
        let outcomes: Vec<ViewOutcome> = looks.iter().map(|l| l.outcome).collect();
        let trigger = accepted.trigger(source);
        let mut inspection = self.inspection(part, trigger.clone(), &mut looks);
        let is_kept = slot.as_ref().is_some_and(|slot| slot.judged(&inspection));
        let verdict = match self.on_journal_full {
            OnJournalFull::Reject if !is_kept => Verdict::Fault(FaultCode::JournalFull),
            _ if self.views.is_empty() => {
                Verdict::Fault(self.fault().map_or(FaultCode::NoViews, |(code, _)| code))
            }
            // It waited while the recipe changed, or its frame was exposed before.
            _ if at < self.serves_since => Verdict::Fault(FaultCode::RecipeChanged),
            _ => judge(self.views.len(), &outcomes),
        };
        self.registers.mark(self.marks());
        let block = result_block(&accepted, part, verdict, self.recipe_number(), &looks);
        let mut total_us = 0;
        let published = self.registers.publish_when(block, deadline, is_kept, |published| {
            total_us = micros(Some(clock::since(at)));
            if let Some(slot) = &slot {
                slot.published(published, total_us);
            }
        });
        // The deadline is met; all below is off the line's way.
        inspection.publish(published.verdict, published.gate, total_us);
        self.prove();
        let of_part = || (part, trigger.clone());
        self.process.take_looks(accepted.kind, published.verdict, &mut looks, &of_part, &self.registers);
        self.tell_part(&inspection, looks);
        if let Some(slot) = slot {
            slot.write(inspection);
        }
        self.tell_published(part, &trigger, accepted.kind, published);
    }

    fn tell_published(&mut self, part: u64, trigger: &Trigger, kind: PartKind, published: Published) {
        let of_part = || (part, trigger.clone());
        self.process.take(kind, published, &of_part, &self.registers);
        if published.overrun && self.registers.counters().overrun == 1 {
            let message = "a result was lost to the PLC, which had not taken the one before; further ones are only counted";
            let event = Event::now(EventKind::Overrun, Some(&self.name), message);
            self.journal.event(event.of_part(part, trigger.clone()));
        }
    }

    /// Number of the recipe in service, 0: none.
    fn recipe_number(&self) -> u16 {
        self.recipe.as_ref().map_or(0, |r| r.number)
    }

    /// Why the station cannot inspect, with what its source says.
    fn fault(&self) -> Option<(FaultCode, String)> {
        if self.stopping {
            return Some((FaultCode::Stopping, String::new()));
        }
        if self.views.is_empty() {
            let code = if self.changeover.has_recipes() { FaultCode::NoRecipe } else { FaultCode::NoViews };
            return Some((code, String::new()));
        }
        let of_views = self.views.iter().find_map(|view| {
            if let Some(fault) = view.eye.camera_fault() {
                return Some(fault);
            }
            match view.in_service() {
                Err(code) => Some((code, view.setup.scorer.why_away())),
                Ok(model) => view
                    .setup
                    .thresholds
                    .under(&model.card, self.views.len())
                    .err()
                    .map(|e| (FaultCode::BadThreshold, e)),
            }
        });
        of_views.or_else(|| self.journal_fault())
    }

    /// Where each part would be a fault because the journal has no place for it, the station is one.
    fn journal_fault(&self) -> Option<(FaultCode, String)> {
        let rejects = self.on_journal_full == OnJournalFull::Reject;
        let why = || self.journal.health().borrow().error.clone().unwrap_or_default();
        (rejects && self.registers.has_no_place()).then(|| (FaultCode::JournalFull, why()))
    }

    fn marks(&self) -> Marks {
        let models = self.views.iter().filter_map(|v| v.in_service().ok());
        let unproven = |m: &InService| {
            m.card
                .limits(self.views.len())
                .map_or(m.card.calibration.provisional, |limits| limits.provisional)
        };
        let (provisional, fell_back) =
            models.fold((false, false), |(p, f), m| (p || unproven(&m), f || m.fell_back));
        Marks {
            fault: self.fault().map(|(code, _)| code),
            unproven: self.views.iter().any(|v| v.eye.unproven.load(Ordering::Relaxed)),
            provisional,
            fell_back,
            recipe: self.recipe_number(),
            challenge_due: self.process.challenge_due(),
        }
    }

    /// Brings registers and state up to date, and tells the journal when the station's fault changes.
    fn look_after(&mut self) {
        self.prove();
        self.process.look(&self.registers);
        let fault = self.fault();
        let code = fault.as_ref().map(|(code, _)| *code);
        let marks = self.marks();
        self.registers.mark(marks);
        let before = self.state.borrow().fault;
        // Not armed is no fault, but the technician must see it where the station waits for it.
        let shown = code.or_else(|| self.registers.fault());
        if shown != before {
            self.tell(shown, fault.as_ref().map_or("", |(_, why)| why));
        }
        let error = self.registers.error();
        if error != self.state.borrow().error {
            self.tell_error(error);
        }
        let first = self.views.iter().find_map(|v| v.in_service().ok());
        let first = first.as_ref();
        let next = State {
            schema: RECORD_SCHEMA,
            station: self.name.clone(),
            time: clock::wall(),
            ready: shown.is_none(),
            fault: shown,
            reason: shown.map(|code| format!("{} {}", code.meaning(), code.action())),
            detail: fault.map(|(_, why)| why).filter(|why| !why.is_empty()),
            model: first.map(|m| m.card.name.clone()),
            model_sha256: first.map(|m| m.sha256.to_string()),
            provider: first.map(|m| m.provider),
            recipe: self.recipe.clone(),
            provisional: marks.provisional,
            unproven: marks.unproven,
            simulated: self.simulated,
            bypass: self.registers.is_bypassed(),
            stop_request: self.registers.is_stop_requested(),
            challenge_due: marks.challenge_due,
            error,
            drift: self.process.drift(),
            counters: self.registers.counters(),
        };
        self.state.send_if_modified(|state| {
            let changed = State { time: state.time, ..next.clone() } != *state;
            if changed {
                *state = next;
            }
            changed
        });
    }

    fn tell(&self, fault: Option<FaultCode>, why: &str) {
        let (kind, message) = match fault {
            Some(code) => {
                tracing::warn!(
                    station = self.name,
                    fault = code.code(),
                    meaning = code.meaning(),
                    action = code.action(),
                    why,
                    "station cannot inspect"
                );
                (
                    EventKind::StationFault,
                    format!("fault {}: {} {} {why}", code.code(), code.meaning(), code.action()),
                )
            }
            None => {
                tracing::info!(station = self.name, "station is ready");
                (EventKind::StationReady, "ready".into())
            }
        };
        self.journal.event(Event::now(kind, Some(&self.name), message.trim_end()));
    }

    /// Lets `chain` count for as long as the oldest proof of any scorer and camera holds.
    fn prove(&self) {
        let proofs = self.views.iter().map(|view| view.proved(self.allow_unproven_camera));
        let oldest = proofs.reduce(|a, b| Some(a?.min(b?)));
        if let Some(Some(oldest)) = oldest {
            self.registers.prove(oldest + PROOF_HOLDS);
        }
    }
}

fn by_plc(taken: Taken) -> Triggered {
    Triggered { source: TriggerSource::Plc, taken, frame: None }
}
