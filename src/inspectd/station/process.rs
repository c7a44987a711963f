//! What a station watches beside single parts: its guards, its challenge parts, drift, and what the PLC says of the line.
//!
//! Never here: a verdict, a result.

use std::time::{Duration, Instant};

use inspect_core::verdict::{FaultCode, Verdict};

use super::guard::{Guard, GuardConfig};
use super::view::Look;
use crate::clock;
use crate::drift::{Change, Drift, DriftConfig, DriftLevel, DriftState, OnAlarm};
use crate::journal::Journal;
use crate::plc::registers::Registers;
use crate::plc::result::{PartKind, Published};
use crate::record::{Event, EventKind, Gate, Trigger};

/// The watch over one station.
pub struct Process {
    station: String,
    journal: Journal,
    guard: Guard,
    drift: Drift,
    on_alarm: OnAlarm,
    /// How often the PLC had cleared the error at the last look.
    cleared: u32,
    challenge_every: Option<Duration>,
    /// When a challenge part was last rejected; none since the start: one is due.
    challenged: Option<Instant>,
    offline: bool,
    bypass: bool,
}

impl Process {
    /// One that has seen nothing.
    pub fn new(station: &str, config: GuardConfig, drift: DriftConfig, journal: Journal) -> Self {
        let every_s = config.challenge_every_min.map(|min| u64::from(min) * 60);
        Self {
            station: station.to_owned(),
            journal,
            guard: Guard::new(config),
            drift: Drift::new(drift),
            on_alarm: drift.on_alarm,
            cleared: 0,
            challenge_every: every_s.map(Duration::from_secs),
            challenged: None,
            offline: false,
            bypass: false,
        }
    }

    /// Whether a challenge part is due.
    pub fn challenge_due(&self) -> bool {
        let every = self.challenge_every;
        every.is_some_and(|every| self.challenged.is_none_or(|at| clock::since(at) >= every))
    }

    /// Takes a part's result in. `of_part` says which part, where there is something to tell.
    pub fn take(
        &mut self,
        kind: PartKind,
        result: Published,
        of_part: &dyn Fn() -> (u64, Trigger),
        registers: &Registers,
    ) {
        if kind == PartKind::Challenge {
            return self.take_challenge(result.verdict, of_part, registers);
        }
        if let Some(why) = self.guard.take(result.gate == Gate::Reject) {
            registers.request_stop(FaultCode::TooManyRejects);
            self.tell_of(EventKind::StopRequested, of_part(), why);
        }
    }

    /// Takes what was seen of a part into the drift watch, after its result was published.
    pub fn take_looks(
        &mut self,
        kind: PartKind,
        verdict: Verdict,
        looks: &mut [Look],
        of_part: &dyn Fn() -> (u64, Trigger),
        registers: &Registers,
    ) {
        if kind == PartKind::Challenge {
            return;
        }
        let mut changes = Vec::new(); // allocates only where there is one
        let count = looks.len();
        let seen = looks.iter_mut().filter_map(Look::seen);
        self.drift.take(count, seen, verdict, &mut |change| changes.push(change));
        self.tell_drift(changes, Some(of_part), registers);
    }

    fn tell_drift(
        &self,
        changes: Vec<Change>,
        of_part: Option<&dyn Fn() -> (u64, Trigger)>,
        registers: &Registers,
    ) {
        let tell = |kind: EventKind, message: String| match of_part {
            Some(of_part) => self.tell_of(kind, of_part(), message),
            None => self.tell(kind, message),
        };
        for Change { level, message } in changes {
            match level {
                DriftLevel::Ok => tell(EventKind::DriftOver, format!("in order again: {message}")),
                DriftLevel::Warning => tell(EventKind::DriftWarning, message),
                DriftLevel::Alarm => {
                    tell(EventKind::DriftAlarm, message);
                    if self.on_alarm == OnAlarm::Stop {
                        let why = FaultCode::Drifted;
                        registers.request_stop(why);
                        tell(EventKind::StopRequested, format!("{} {}", why.meaning(), why.action()));
                    }
                }
            }
        }
    }

    /// Drift as it is shown.
    pub fn drift(&self) -> DriftState {
        self.drift.state()
    }

    /// Another recipe is in service: what was usual before says nothing of it.
    pub fn restart_drift(&mut self) {
        self.drift.restart();
    }

    fn take_challenge(
        &mut self,
        verdict: Verdict,
        of_part: &dyn Fn() -> (u64, Trigger),
        registers: &Registers,
    ) {
        if verdict == Verdict::Reject {
            self.challenged = Some(clock::now());
            self.tell_of(EventKind::Challenge, of_part(), "the challenge part was rejected, as it must be");
            return;
        }
        registers.request_stop(FaultCode::ChallengeFailed);
        let said = format!("the challenge part was not rejected: {}", verdict.word());
        self.tell_of(EventKind::Challenge, of_part(), said);
        let why = FaultCode::ChallengeFailed;
        self.tell_of(EventKind::StopRequested, of_part(), format!("{} {}", why.meaning(), why.action()));
    }

    /// Tells what the PLC has changed about the line since the last look.
    pub fn look(&mut self, registers: &Registers) {
        let mut changes = Vec::new();
        self.drift.settle(&mut |change| changes.push(change));
        self.tell_drift(changes, None, registers);
        let cleared = registers.times_cleared();
        if std::mem::replace(&mut self.cleared, cleared) != cleared && self.drift.clear() {
            self.tell(EventKind::DriftOver, "the PLC cleared the error: drift is counted from here on");
        }
        let (offline, bypass) = (registers.is_offline(), registers.is_bypassed());
        if std::mem::replace(&mut self.offline, offline) != offline {
            let said =
                if offline { "the PLC took the station offline" } else { "the station is online again" };
            self.tell(EventKind::Offline, said);
        }
        if std::mem::replace(&mut self.bypass, bypass) != bypass {
            let said = if bypass {
                "the PLC lets parts pass whatever their result"
            } else {
                "the PLC follows the results again"
            };
            self.tell(EventKind::Bypass, said);
        }
    }

    fn tell(&self, kind: EventKind, message: impl Into<String>) {
        let message = message.into();
        tracing::warn!(station = self.station, message, "{kind:?}");
        self.journal.event(Event::now(kind, Some(&self.station), message));
    }

    fn tell_of(&self, kind: EventKind, (part, trigger): (u64, Trigger), message: impl Into<String>) {
        let message = message.into();
        tracing::warn!(station = self.station, part, message, "{kind:?}");
        self.journal.event(Event::now(kind, Some(&self.station), message).of_part(part, trigger));
    }
}
