//! What happens at a start: what the last run left, and putting a damaged journal aside.
//!
//! Never here: repairing, deleting.

use std::collections::BTreeMap;
use std::path::Path;

use uuid::Uuid;

use super::retention::Keep;
use super::ring::{Found, FoundStation, Left};
use super::store::{FILE, Moves, Prepared, Stop, Store};
use super::{JournalError, POWER_CUT_SKIP};
use crate::clock;
use crate::record::{Event, EventKind, Inspection};
use inspect_core::verdict::FaultCode;

/// An open journal and what its opening has to tell.
pub(super) struct Opened {
    pub store: Store,
    /// Journals put aside.
    pub quarantined: u32,
    /// What the last run left in the ring and the journal does not have, with its slots.
    pub missing: Vec<(Inspection, u32)>,
    /// Slots of the ring whose parts the journal has.
    pub done: Vec<u32>,
}

/// Opens the journal, begins one if there is none, puts a damaged one aside and begins anew. `found` is what the
/// last run left in the ring.
///
/// Errors: anything but `Corrupt`.
pub(super) fn open_or_begin(dir: &Path, found: &Found, keep: Keep) -> Result<Opened, JournalError> {
    let mut events = Vec::new();
    let mut quarantined = 0;
    let begin = || Store::begin(dir, &BTreeMap::new(), keep);
    let (mut store, stop) = match Store::open(dir, keep) {
        Ok(Some((store, stop))) => (store, Some(stop)),
        Ok(None) => (begin()?, None),
        Err(JournalError::Corrupt { reason, .. }) => {
            events.push(quarantine(dir, &reason)?);
            quarantined = 1;
            (begin()?, None)
        }
        Err(other) => return Err(other),
    };
    let (missing, done) = missing(&store, &found.parts);
    number_after(&mut store, found, &mut events);
    if let Some(stop) = stop.filter(|stop| !stop.clean) {
        events.insert(0, after_stop(&mut store, &stop, &missing)?);
    }
    let prepared: Vec<_> = events.drain(..).filter_map(|e| Prepared::event(&e)).collect();
    store.append(&prepared, &Moves::default())?;
    // After the events: a stop in between tells twice what would else never be told.
    store.keep_parts()?;
    store.mark(false)?;
    Ok(Opened { store, quarantined, missing, done })
}

/// Of the parts in the ring, the records of those that the journal does not have, and the slots of the others. A
/// station's parts come into the journal in the order of their numbers.
fn missing(store: &Store, left: &[Left]) -> (Vec<(Inspection, u32)>, Vec<u32>) {
    let (mut missing, mut done) = (Vec::new(), Vec::new());
    for Left { slot, opened, judged, .. } in left {
        if store.parts.get(&opened.station).is_some_and(|&last| opened.part <= last) {
            done.push(*slot);
            continue;
        }
        let record = judged.clone().unwrap_or_else(|| opened.clone().fault(FaultCode::Restarted));
        missing.push((record, *slot));
    }
    (missing, done)
}

/// Numbers go on after all that were given, in the ring or past it.
fn number_after(store: &mut Store, found: &Found, events: &mut Vec<Event>) {
    for FoundStation { name: station, last: part, without_slot: count } in &found.stations {
        if *count > 0 {
            let message = format!(
                "{count} parts of station {station}, the last of them {part}, are not in the journal: the ring had no \
                 place for them"
            );
            tracing::error!(station, count, last = part, "parts are not in the journal");
            events.push(Event::now(EventKind::InspectionsLost, Some(station), message));
        }
    }
    let given = found.parts.iter().map(|left| (&left.opened.station, left.opened.part));
    for (station, part) in given.chain(found.stations.iter().map(|station| (&station.name, station.last))) {
        let last = store.parts.entry(station.clone()).or_default();
        *last = part.max(*last);
    }
}

/// What an unclean stop may have cost, in words; moves numbers on where they may have been used.
fn after_stop(store: &mut Store, stop: &Stop, missing: &[(Inspection, u32)]) -> Result<Event, JournalError> {
    let open = missing.iter().filter(|(record, _)| record.views.is_empty()).count();
    let mut message = format!(
        "inspectd did not stop in order. The ring held {} parts that were not in the journal yet; {open} of them had \
         not been judged",
        missing.len()
    );
    if stop.rebooted {
        store.skip(POWER_CUT_SKIP)?;
        message.push_str(&format!(
            ". The machine went down with it: what was reported within its last second may be missing, and sequence \
             and part numbers skip {POWER_CUT_SKIP}"
        ));
    }
    tracing::warn!(
        rebooted = stop.rebooted,
        from_ring = missing.len(),
        open,
        "the last run did not stop in order"
    );
    Ok(Event::now(EventKind::UncleanStop, None, message))
}

/// Renames all files of the journal; the event says where they are now. The database goes last, so that a stop
/// in between finds a damaged journal again and not a fresh one.
pub(super) fn quarantine(dir: &Path, reason: &str) -> Result<Event, JournalError> {
    let time = clock::wall().strftime("%Y%m%dT%H%M%SZ").to_string();
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
