//! What happens at a start: what the last run left, and putting a damaged journal aside.
//!
//! Never here: repairing, deleting.

use std::collections::BTreeMap;
use std::path::Path;

use uuid::Uuid;

use super::store::{FILE, Moves, Prepared, Stop, Store};
use super::{JournalError, POWER_CUT_SKIP, SYNC_EVERY};
use crate::record::{Event, EventKind};

/// An open journal and what its opening has to tell.
pub(super) struct Opened {
    pub store: Store,
    /// Journals put aside.
    pub quarantined: u32,
}

/// Opens the journal, begins one if there is none, puts a damaged one aside and begins anew.
/// `reported` is the last reported part of each station.
///
/// Errors: anything but `Corrupt`.
pub(super) fn open_or_begin(
    dir: &Path,
    reported: BTreeMap<String, u64>,
    keep: u64,
) -> Result<Opened, JournalError> {
    let mut events = Vec::new();
    let mut quarantined = 0;
    let mut store = match Store::open(dir, keep) {
        Ok(Some((mut store, stop))) => {
            after_stop(&mut store, &stop, &reported, &mut events)?;
            store
        }
        Ok(None) => Store::begin(dir, &reported, keep)?,
        Err(JournalError::Corrupt { reason, .. }) => {
            events.push(quarantine(dir, &reason)?);
            quarantined = 1;
            Store::begin(dir, &reported, keep)?
        }
        Err(other) => return Err(other),
    };
    let prepared: Vec<_> = events.drain(..).filter_map(|e| Prepared::event(&e)).collect();
    store.append(&prepared, &Moves::default())?;
    // After the events: a stop in between tells twice what would else never be told.
    store.keep_parts()?;
    store.mark(false)?;
    Ok(Opened { store, quarantined })
}

/// Records what an unclean stop may have cost, and moves numbers on where they may have been used.
fn after_stop(
    store: &mut Store,
    stop: &Stop,
    reported: &BTreeMap<String, u64>,
    events: &mut Vec<Event>,
) -> Result<(), JournalError> {
    let power_cut = !stop.clean && stop.rebooted;
    for (station, &last_reported) in reported {
        let journaled = store.parts.get(station).copied().unwrap_or(0);
        if last_reported > journaled {
            let (first, count) = (journaled + 1, last_reported - journaled);
            let message = format!(
                "{count} parts of station {station} were reported to the line but are not in the journal: \
                 {first} to {last_reported}"
            );
            tracing::error!(station, first, last = last_reported, "inspections lost");
            events.push(Event::now(EventKind::InspectionsLost, Some(station), message));
            store.parts.insert(station.clone(), last_reported);
        }
    }
    if !stop.clean {
        let mut message =
            "inspectd did not stop in order; the newest records before this one are the last of that run"
                .to_owned();
        if power_cut {
            store.skip(POWER_CUT_SKIP)?;
            message.push_str(&format!(
                ". The machine went down with it: up to {} s of records may be missing, and sequence and part \
                 numbers skip {POWER_CUT_SKIP}",
                SYNC_EVERY.as_secs()
            ));
        }
        tracing::warn!(power_cut, "the last run did not stop in order");
        events.insert(0, Event::now(EventKind::UncleanStop, None, message));
    }
    Ok(())
}

/// Renames all files of the journal; the event says where they are now. The database goes last, so that a stop
/// in between finds a damaged journal again and not a fresh one.
pub(super) fn quarantine(dir: &Path, reason: &str) -> Result<Event, JournalError> {
    let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let free = |n: u32| {
        let tail = if n == 0 { String::new() } else { format!("-{n}") };
        let name = format!("journal.quarantined-{time}{tail}.db");
        let taken = ["", "-wal", "-shm"].iter().any(|s| dir.join(format!("{name}{s}")).exists());
        (!taken).then_some(name)
    };
    let name =
        (0..1_000).find_map(free).unwrap_or_else(|| format!("journal.quarantined-{}.db", Uuid::new_v4()));
    for suffix in ["-wal", "-shm", ""] {
        let from = dir.join(format!("{FILE}{suffix}"));
        match std::fs::rename(&from, dir.join(format!("{name}{suffix}"))) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(JournalError::Io { path: from, source: e });
            }
            _ => {}
        }
    }
    tracing::error!(reason, aside = name, "the journal was damaged and has been put aside");
    let message = format!(
        "the journal was damaged ({reason}); it was put aside as {name} and a new one begun. What was not \
         delivered before is in that file only"
    );
    Ok(Event::now(EventKind::JournalQuarantined, None, message))
}
