//! A station: the one place that knows the order trigger → frame → score → verdict → registers → journal.
//!
//! Terms: see the README's glossary. Each accepted trigger gets exactly one result, published by its
//! deadline. Everything up to the publication is inside the deadline; journal and archive come after it.
//!
//! Never here: waiting for anything behind the journal; a verdict other than [`judge`]'s or a fault.

pub mod view;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use inspect_core::verdict::{FaultCode, Verdict, ViewOutcome, judge};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tracing::Instrument as _;

use crate::archive::{Archive, Kept};
use crate::camera::{CameraError, Frame};
use crate::config::TriggerConfig;
use crate::journal::{Journal, PartCounter, Slot};
use crate::plc::registers::{Accepted, Marks, Published, Registers, ResultBlock};
use crate::record::{
    Event, EventKind, Gate, Inspection, RECORD_SCHEMA, State, Times, Trigger, TriggerSource,
};
use view::{Look, View, ask_for_life, wall_clock};

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
    /// From trigger accepted to result published.
    pub deadline: Duration,
    /// Lets `chain` count although the camera cannot prove life while idle.
    pub allow_unproven_camera: bool,
    /// Whether frames are simulated.
    pub simulated: bool,
    /// Its looks at a part.
    pub views: Vec<View>,
    /// Its registers.
    pub registers: Arc<Registers>,
    /// Triggers that the registers accepted.
    pub accepted: mpsc::Receiver<Accepted>,
    /// Numbers the parts, over restarts too.
    pub parts: PartCounter,
    /// Number of the next part.
    pub next_part: u64,
    /// Where records go.
    pub journal: Journal,
    /// Where frames of non-passing parts go.
    pub archive: Archive,
    /// Where its state is shown.
    pub state: watch::Sender<State>,
    /// Moved on by each turn of its loop: what the watchdog looks at.
    pub turned: watch::Sender<Instant>,
    /// The last part is done.
    pub stopping: bool,
}

/// One trigger, whatever it came from.
struct Triggered {
    source: TriggerSource,
    trigger_id: Option<u16>,
    at: Instant,
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
        for view in &self.views {
            life.spawn(ask_for_life(Arc::clone(&view.camera), Arc::clone(&view.unproven)));
        }
        let mut looked_after: Option<Instant> = None;
        while !*stop.borrow() {
            if looked_after.is_none_or(|at| at.elapsed() >= TICK) {
                looked_after = Some(Instant::now());
                self.look_after();
            }
            self.turned.send_replace(Instant::now());
            if let Some(triggered) = self.next_trigger(&mut clock).await {
                self.inspect(triggered).await;
            }
        }
        // What was accepted before the stop still gets its result; from here on nothing is accepted.
        self.accepted.close();
        while let Some(accepted) = self.accepted.recv().await {
            self.inspect(by_plc(accepted)).await;
        }
        let stands = Instant::now() + LAST_RESULT_STANDS;
        while self.registers.is_unread() && Instant::now() < stands {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.stopping = true;
        self.look_after();
    }

    /// The next trigger, if one comes within [`TICK`].
    async fn next_trigger(&mut self, clock: &mut tokio::time::Interval) -> Option<Triggered> {
        match self.trigger {
            TriggerConfig::Plc => timeout(TICK, self.accepted.recv()).await.ok().flatten().map(by_plc),
            TriggerConfig::Clock { .. } => {
                timeout(TICK, clock.tick()).await.ok()?;
                // The line's own clock does not begin before the station can inspect.
                if self.fault().is_some_and(|(code, _)| code == FaultCode::Starting) {
                    return None;
                }
                self.registers.accept();
                let (source, at) = (TriggerSource::Clock, Instant::now());
                Some(Triggered { source, trigger_id: None, at, frame: None })
            }
            TriggerConfig::FreeRun => {
                let from = Instant::now();
                let grabbed = match self.views.first() {
                    Some(view) => view.camera.next((from + TICK).into()).await,
                    None => return None,
                };
                match grabbed {
                    Ok(frame) => {
                        self.registers.accept();
                        let (source, at) = (TriggerSource::FreeRun, frame.exposed);
                        Some(Triggered { source, trigger_id: None, at, frame: Some(Ok(frame)) })
                    }
                    Err(CameraError::NoFrame { .. }) => None,
                    // Where each frame is a part, one that was lost is a part that nobody saw.
                    Err(
                        lost @ (CameraError::Incomplete { .. }
                        | CameraError::Gap { .. }
                        | CameraError::Image { .. }),
                    ) => {
                        self.registers.accept();
                        let (source, at) = (TriggerSource::FreeRun, Instant::now());
                        Some(Triggered { source, trigger_id: None, at, frame: Some(Err(lost)) })
                    }
                    Err(CameraError::Away { .. } | CameraError::End { .. }) => {
                        tokio::time::sleep(TICK).await; // away: the fault is shown, do not spin
                        None
                    }
                }
            }
        }
    }

    async fn inspect(&mut self, triggered: Triggered) {
        let (part, trigger_id) = (self.next_part, triggered.trigger_id);
        let span = tracing::info_span!("inspection", station = self.name, part, trigger_id);
        self.judge_part(triggered).instrument(span).await;
    }

    async fn judge_part(&mut self, triggered: Triggered) {
        let Triggered { source, trigger_id, at, mut frame } = triggered;
        let deadline = at + self.deadline;
        let slot = self.journal.reserve();
        let part = self.next_part;
        self.next_part += 1;
        let until = deadline.checked_sub(PUBLISH_MARGIN).unwrap_or(deadline);
        let looks = join_all(self.views.iter_mut().map(|view| view.look(at, until, frame.take()))).await;
        let outcomes: Vec<ViewOutcome> = looks.iter().map(|l| l.outcome).collect();
        let verdict = match slot {
            None => Verdict::Fault(FaultCode::JournalFull),
            Some(_) => judge(self.views.len(), &outcomes),
        };
        self.parts.reported(part);
        self.registers.mark(self.marks());
        let block = result_block(trigger_id, part, verdict, at, &looks);
        let Published { verdict, gate, overrun } = self.registers.publish(block, deadline, slot.is_some());
        let total = at.elapsed();
        // The deadline is met; all below is off the line's way.
        let trigger = Trigger { source, trigger_id, accepted: wall_clock(at) };
        self.prove();
        self.record(part, trigger, verdict, gate, total, slot, looks);
        if overrun && self.registers.counters().overrun == 1 {
            let message =
                "a result was overwritten before a Modbus client read it; further ones are only counted";
            self.journal.event(Event::now(EventKind::Overrun, Some(&self.name), message));
        }
    }

    /// Hands journal and archive what is known of a part.
    #[allow(clippy::too_many_arguments, reason = "one caller, one part's facts")]
    fn record(
        &self,
        part: u64,
        trigger: Trigger,
        verdict: Verdict,
        gate: Gate,
        total: Duration,
        slot: Option<Slot>,
        mut looks: Vec<Look>,
    ) {
        let longest = |stage: fn(&Look) -> Duration| micros(looks.iter().map(stage).max());
        let times_us = Times {
            grab: longest(|l| l.grab),
            resize: longest(|l| l.resize),
            score: longest(|l| l.run),
            total: micros(Some(total)),
        };
        let relative = looks.iter().filter_map(|l| l.record.relative_score).reduce(f32::max);
        tracing::info!(
            verdict = verdict.word(),
            fault = verdict.fault_code(),
            score = relative,
            total_us = times_us.total,
            "inspected"
        );
        for look in &mut looks {
            if let Some(late) = look.late.take() {
                self.follow_late(part, late);
            }
            if verdict != Verdict::Pass {
                self.archive.keep(Kept {
                    station: self.name.clone(),
                    view: look.record.view.clone(),
                    part,
                    verdict,
                    frame: look.image.take(),
                    map: std::mem::take(&mut look.map),
                    map_shape: look.map_shape,
                    reject_threshold: look.record.thresholds.map_or(f32::NAN, |t| t.reject),
                });
            }
        }
        let fault = match verdict {
            Verdict::Fault(code) => Some(code),
            _ => None,
        };
        let truth = looks.iter_mut().find_map(|l| l.truth.take());
        let inspection = Inspection {
            schema: RECORD_SCHEMA,
            station: self.name.clone(),
            part,
            trigger,
            views: looks.into_iter().map(|l| l.record).collect(),
            verdict,
            reason: fault.map(|code| code.meaning().to_owned()),
            gate,
            review_at_gate: self.registers.review_at_gate(),
            simulated: self.simulated,
            truth,
            times_us,
        };
        if let Some(slot) = slot {
            slot.write(inspection);
        }
    }

    /// Waits beside the line for a score that missed its deadline, and records it as an event.
    fn follow_late(&self, part: u64, late: tokio::sync::oneshot::Receiver<crate::scoring::Scored>) {
        let (journal, station) = (self.journal.clone(), self.name.clone());
        tokio::spawn(async move {
            let message = match timeout(LATE_SCORE_WAIT, late).await {
                Ok(Ok(scored)) => match scored.score {
                    Ok(score) => format!(
                        "part {part}: score {score} came after the deadline; the PLC was told fault {}",
                        FaultCode::Late.code()
                    ),
                    Err(code) => {
                        format!("part {part}: after the deadline the scorer ended with fault {}", code.code())
                    }
                },
                _ => {
                    format!("part {part}: no score within {} s after the deadline", LATE_SCORE_WAIT.as_secs())
                }
            };
            journal.event(Event::now(EventKind::LateScore, Some(&station), message));
        });
    }

    /// Why the station cannot inspect, with what its source says.
    fn fault(&self) -> Option<(FaultCode, String)> {
        if self.stopping {
            return Some((FaultCode::Stopping, String::new()));
        }
        if self.views.is_empty() {
            return Some((FaultCode::NoViews, String::new()));
        }
        self.views.iter().find_map(|view| {
            if let Some(fault) = view.camera_fault() {
                return Some(fault);
            }
            match view.in_service() {
                Err(code) => Some((code, view.scorer.why_away())),
                Ok(model) => view.thresholds.under(&model.card).err().map(|e| (FaultCode::BadThreshold, e)),
            }
        })
    }

    fn marks(&self) -> Marks {
        let models = self.views.iter().filter_map(|v| v.in_service().ok());
        let (provisional, fell_back) =
            models.fold((false, false), |(p, f), m| (p || m.card.calibration.provisional, f || m.fell_back));
        Marks {
            fault: self.fault().map(|(code, _)| code),
            unproven: self.views.iter().any(|v| v.unproven.load(Ordering::Relaxed)),
            provisional,
            fell_back,
        }
    }

    /// Brings registers and state up to date, and tells the journal when the station's fault changes.
    fn look_after(&mut self) {
        self.prove();
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
        let first = self.views.iter().find_map(|v| v.in_service().ok());
        let first = first.as_ref();
        let next = State {
            schema: RECORD_SCHEMA,
            station: self.name.clone(),
            time: jiff::Timestamp::now(),
            ready: shown.is_none(),
            fault: shown,
            reason: shown.map(|code| format!("{} {}", code.meaning(), code.action())),
            detail: fault.map(|(_, why)| why).filter(|why| !why.is_empty()),
            model: first.map(|m| m.card.name.clone()),
            model_sha256: first.map(|m| m.sha256.to_string()),
            provider: first.map(|m| m.provider),
            provisional: marks.provisional,
            unproven: marks.unproven,
            simulated: self.simulated,
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

fn by_plc(Accepted { trigger_id, at }: Accepted) -> Triggered {
    Triggered { source: TriggerSource::Plc, trigger_id: Some(trigger_id), at, frame: None }
}

fn result_block(
    trigger_id: Option<u16>,
    part: u64,
    verdict: Verdict,
    at: Instant,
    looks: &[Look],
) -> ResultBlock {
    let worst = looks
        .iter()
        .filter_map(|l| Some((l.record.relative_score?, l.record.thresholds?)))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let model = looks
        .first()
        .and_then(|l| l.record.model_sha256.get(..8))
        .and_then(|hex| u32::from_str_radix(hex, 16).ok());
    ResultBlock {
        trigger_id: trigger_id.unwrap_or(0),
        verdict,
        gate: Gate::Reject, // until publication decides
        part: part as u32,  // wraps after 4 billion parts; the journal has all 64 bits
        score: worst.map_or(f32::NAN, |(score, _)| score),
        review_limit: worst.map_or(f32::NAN, |(_, t)| t.review / t.reject),
        total_us: u32::try_from(at.elapsed().as_micros()).unwrap_or(u32::MAX),
        model: model.unwrap_or(0),
        views: looks.iter().filter(|l| l.outcome.is_ok()).count() as u16,
    }
}

fn micros(duration: Option<Duration>) -> u64 {
    duration.map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}
