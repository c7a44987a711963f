//! The [`Trouble`]s of a status: what is wrong and what to do, in words for people.
//!
//! Never here: facts that the status does not have.

use inspect_core::verdict::FaultCode;

use super::{ArchiveStatus, AuditStatus, DaemonStatus, JournalStatus, StationStatus, Trouble};
use crate::drift::{DriftLevel, DriftReading};

/// With less than this left on the journal's disk somebody should make room.
pub const LOW_DISK_BYTES: u64 = 1 << 30;

impl DaemonStatus {
    /// What keeps parts from being judged first, then what is going to, then the rest; last what may be over.
    pub(super) fn find_troubles(&self) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        if let Some(waits_for) = &self.waits_for {
            let what = "The daemon is up and rejects every part: it waits for something.".to_owned();
            let action = "Put it right; the daemon goes on by itself.";
            troubles.push(trouble(what, action, Some(waits_for.clone())));
        }
        troubles.extend(self.stations.iter().filter_map(StationStatus::fault_trouble));
        troubles.extend(self.stations.iter().filter_map(StationStatus::drift_trouble));
        troubles.extend(self.journal.as_ref().and_then(JournalStatus::trouble));
        troubles.extend(self.disk_trouble());
        troubles.extend(self.mqtt_trouble());
        troubles.extend(self.audit.iter().flat_map(AuditStatus::troubles));
        troubles.extend(self.archive.as_ref().and_then(ArchiveStatus::trouble));
        if let Some(reload) = self.last_reload.as_ref().filter(|r| !r.refused.is_empty()) {
            let what = "The last reload was refused: what was in service before still is.".to_owned();
            let action = "Put it right and reload again: inspectd reload.";
            troubles.push(trouble(what, action, Some(reload.refused.join("; "))));
        }
        troubles.extend(self.stations.iter().filter_map(StationStatus::latched_trouble));
        troubles
    }

    fn disk_trouble(&self) -> Option<Trouble> {
        let disk = self.disk.as_ref().filter(|d| d.free_bytes < LOW_DISK_BYTES)?;
        let what = format!("{} MiB are left on the journal's disk.", disk.free_bytes >> 20);
        let detail = Some(disk.path.display().to_string());
        Some(trouble(what, "Make room: delete what does not belong there.", detail))
    }

    fn mqtt_trouble(&self) -> Option<Trouble> {
        let link = self.mqtt.as_ref().filter(|link| !link.connected)?;
        let what =
            format!("No connection to the MQTT broker; {} records wait in the journal for it.", link.backlog);
        let action = "Check the broker and the network. Parts are judged all the same, and nothing is lost.";
        Some(trouble(what, action, link.error.clone()))
    }
}

impl JournalStatus {
    fn trouble(&self) -> Option<Trouble> {
        let error = self.error.clone()?;
        let (queued, places) = (self.queued, self.places);
        let what = if queued < places {
            format!(
                "The journal cannot be written: records wait in memory, {queued} of {places} places are taken."
            )
        } else {
            "The journal cannot be written and its memory is full: parts are rejected, or go on without a record."
                .to_owned()
        };
        Some(trouble(what, "Make room on its disk, or have the disk looked at (dmesg).", Some(error)))
    }
}

impl ArchiveStatus {
    fn trouble(&self) -> Option<Trouble> {
        let what = format!(
            "Pictures are left out of the archive: {} found no place, {} could not be written. Verdicts and records go on.",
            self.dropped, self.failed
        );
        let action = "Make room on its disk, or lower max_gb in [archive]; where the disk is too slow: \
            format = \"jpeg\", or a disk of its own.";
        let why = self.error.clone()?;
        Some(trouble(what, action, Some(why)))
    }
}

impl AuditStatus {
    fn troubles(&self) -> Vec<Trouble> {
        let changed = self.changed.as_ref().map(|why| {
            let what = "The audit trail is not as inspectd wrote it: lines were changed, taken out or put in.";
            let action = "Copy the journal's directory away before anything else; then find out who, and look at the \
                models in service (inspectd model list).";
            trouble(what.to_owned(), action, Some(why.clone()))
        });
        let unwritten = self.error.as_ref().map(|why| {
            let what = "The audit trail cannot be written: what is done to models and configuration leaves no trace.";
            let action = "Make room on its disk, give the daemon's user its file back, or have the disk looked at \
                (dmesg); then inspectd reload or the next start writes on.";
            trouble(what.to_owned(), action, Some(why.clone()))
        });
        changed.into_iter().chain(unwritten).collect()
    }
}

impl StationStatus {
    fn fault_trouble(&self) -> Option<Trouble> {
        let state = &self.state;
        Some(Trouble { detail: state.detail.clone(), ..Trouble::of_fault(&state.station, state.fault?) })
    }

    /// Results that are in doubt, or will be, though each part gets its verdict.
    fn drift_trouble(&self) -> Option<Trouble> {
        let state = &self.state;
        let not_ok = state.drift.readings.iter().filter(|reading| reading.level > DriftLevel::Ok);
        let told: Vec<String> = not_ok.map(DriftReading::words).collect();
        let drifted = FaultCode::Drifted;
        (!told.is_empty()).then(|| Trouble {
            station: Some(state.station.clone()),
            code: (state.error == Some(drifted)).then_some(drifted.code()),
            what: drifted.meaning().to_owned(),
            action: drifted.action().to_owned(),
            detail: Some(told.join("\n")),
        })
    }

    /// What the PLC shows as `error_code` although the station may be ready again.
    fn latched_trouble(&self) -> Option<Trouble> {
        let state = &self.state;
        let error = state.error?;
        let told = state.fault == Some(error)
            || self.drift_trouble().is_some_and(|trouble| trouble.code == Some(error.code()));
        let counters = state.counters;
        let counts = format!(
            "since the start or reset_counters parts {}, faults {}, not in the journal {}",
            counters.accepted, counters.fault, counters.not_journaled
        );
        (!told).then(|| Trouble { detail: Some(counts), ..Trouble::of_error(&state.station, error) })
    }
}

impl Trouble {
    /// A station that is not ready for this reason.
    pub fn of_fault(station: &str, fault: FaultCode) -> Self {
        Self {
            station: Some(station.to_owned()),
            code: Some(fault.code()),
            what: fault.meaning().to_owned(),
            action: fault.action().to_owned(),
            detail: None,
        }
    }

    /// What a station's PLC has not cleared.
    pub fn of_error(station: &str, error: FaultCode) -> Self {
        let what = format!("Since the PLC's last clear_error, and maybe over: {}", error.meaning());
        Self { what, ..Self::of_fault(station, error) }
    }

    /// The line that tells it.
    pub fn heading(&self) -> String {
        let station = self.station.as_ref().map(|s| format!("station {s}, ")).unwrap_or_default();
        let code = self.code.map(|code| format!("fault {code}: ")).unwrap_or_default();
        format!("{station}{code}{}", self.what)
    }
}

fn trouble(what: String, action: &str, detail: Option<String>) -> Trouble {
    Trouble { station: None, code: None, what, action: action.to_owned(), detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Answer, page};

    /// A status as a running daemon gives it, with this for its journal and its only station's state.
    fn status(journal: &str, state: &str) -> DaemonStatus {
        let counters = r#"{"accepted":9,"pass":6,"review":0,"reject":1,"fault":2,"late":0,"missed":0,"overrun":0,
            "not_journaled":2,"wrong_acknowledgements":0,"challenges":0,"challenges_failed":0}"#;
        let now = "2026-11-22T04:27:44Z";
        let text = format!(
            r#"{{"answer":"status","schema":1,"version":"0","time":"{now}","started":"{now}","uptime_s":1,
            "config":"/c","ready":true,"phase":"running","troubles":[],"scorers":[],"modbus":[],
            "stations":[{{"turns":true,"cameras":[],"state":{{"schema":1,"station":"press-1","time":"{now}",
                "ready":true,{state}"provisional":false,"unproven":false,"simulated":false,"bypass":false,
                "stop_request":false,"challenge_due":false,"counters":{counters}}}}}],
            "journal":{{"dir":"/j","journal":"u","sequence":1395,"dropped_events":0,"quarantined":0,{journal}}},
            "process":{{"pid":1,"memory_bytes":0,"open_handles":0,"threads":0}}}}"#
        );
        let Answer::Status(status) = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
        *status
    }

    fn told(journal: &str, state: &str) -> String {
        let mut status = status(journal, state);
        status.troubles = status.find_troubles();
        page::page(&status)
    }

    const SOUND: &str = r#""queued":0,"places":128"#;

    #[test]
    fn a_latched_error_is_told_though_the_station_is_ready_again() {
        assert!(!told(SOUND, "").contains("\n1."), "{}", told(SOUND, ""));
        let page = told(SOUND, r#""error":"no_frame","#);
        let code = FaultCode::NoFrame;
        assert!(page.starts_with("READY"), "{page}");
        assert!(page.contains("station press-1, fault 11: Since the PLC's last clear_error"), "{page}");
        assert!(page.contains(code.meaning()) && page.contains(code.action()), "{page}");
        assert!(
            page.contains("since the start or reset_counters parts 9, faults 2, not in the journal 2"),
            "{page}"
        );
        let both = told(SOUND, r#""error":"no_frame","fault":"no_frame","#);
        assert_eq!(both.matches(code.meaning()).count(), 1, "one thing is told once: {both}");
        let other = told(SOUND, r#""error":"no_frame","fault":"camera_away","#);
        let at = |what: &str| other.find(what).unwrap();
        assert!(at("fault 10: The camera") < at("fault 11: Since"), "what is so now comes first: {other}");
    }

    #[test]
    fn a_journal_that_takes_nothing_any_more_is_not_said_to_wait() {
        let waits = told(r#""queued":57,"places":128,"error":"disk full""#, "");
        assert!(waits.contains("records wait in memory, 57 of 128 places are taken"), "{waits}");
        let full = told(r#""queued":128,"places":128,"error":"disk full""#, "");
        assert!(full.contains("its memory is full: parts are rejected, or go on without a record"), "{full}");
    }
}
