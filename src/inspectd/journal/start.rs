//! What happens at a start: what the last run left, and putting a damaged journal aside.
//!
//! Never here: repairing, deleting.

use std::collections::BTreeMap;
use std::path::Path;

use uuid::Uuid;

use super::disk::Moment;
use super::retention::Keep;
use super::ring::{Found, Left};
use super::store::{Check, FILE, Moves, Prepared, Stop, Store};
use super::{JournalError, POWER_CUT_SKIP};
use crate::clock;
use crate::record::{Event, EventKind, Inspection, Lost};
use inspect_core::verdict::{FaultCode, Verdict};

/// An open journal and what its opening has to tell.
pub(super) struct Opened {
    pub store: Store,
    /// Journals put aside.
    pub quarantined: u32,
}

/// What the last run left in the ring.
pub(super) struct LeftBehind<'a> {
    pub found: &'a Found,
    /// Parts without a slot, by their station.
    pub lost: &'a BTreeMap<String, Lost>,
}

/// Opens the journal, begins one if there is none, puts a damaged one aside and begins anew. What was left behind is in
/// it when this returns, all of it or nothing: numbers that count as given, and parts that have them, must not come apart.
/// `disk` is asked before that is written and after it.
///
/// Errors: anything but `Corrupt`.
pub(super) fn open_or_begin(
    dir: &Path,
    left: &LeftBehind<'_>,
    (keep, when): (Keep, Check),
    disk: &mut dyn FnMut(Moment) -> Result<(), JournalError>,
) -> Result<Opened, JournalError> {
    let begin = || Store::begin(dir, &BTreeMap::new(), keep);
    let opened = match Store::open(dir, keep, when) {
        Ok(Some((store, stop))) => take_over(store, Some(stop), left, None, disk),
        Ok(None) => take_over(begin()?, None, left, None, disk),
        Err(error) => Err(error),
    };
    match opened {
        Err(JournalError::Corrupt { reason, .. }) => {
            let aside = quarantine(dir, &reason)?;
            let opened = take_over(begin()?, None, left, Some(aside), disk)?;
            Ok(Opened { quarantined: 1, ..opened })
        }
        opened => opened,
    }
}

/// Writes into the journal what was left behind, after what its opening has to tell.
fn take_over(
    mut store: Store,
    stop: Option<Stop>,
    left: &LeftBehind<'_>,
    aside: Option<Event>,
    disk: &mut dyn FnMut(Moment) -> Result<(), JournalError>,
) -> Result<Opened, JournalError> {
    let LeftBehind { found, lost } = *left;
    let mut events: Vec<Event> = aside.into_iter().collect();
    let missing = missing(&store, &found.parts);
    number_after(&mut store, found);
    if let Some(stop) = stop.filter(|stop| !stop.clean) {
        events.insert(0, after_stop(&mut store, &stop, &missing)?);
    }
    if found.damaged > 0 {
        events.push(damaged(found.damaged));
    }
    events.extend(lost.iter().map(|(station, lost)| Event::lost(station, *lost)));
    let events = events.iter().filter_map(Prepared::event);
    let prepared: Vec<_> = events.chain(missing.iter().filter_map(Prepared::inspection)).collect();
    disk(Moment::Before)?;
    store.append(&prepared, &Moves { numbers: store.parts.clone(), ..Moves::default() })?;
    disk(Moment::After)?;
    store.mark(false)?;
    Ok(Opened { store, quarantined: 0 })
}

/// Of the parts in the ring, the records of those that the journal does not have. A station's parts come into the
/// journal in the order of their numbers.
fn missing(store: &Store, left: &[Left]) -> Vec<Inspection> {
    let is_missing =
        |left: &&Left| store.parts.get(&left.opened.station).is_none_or(|&last| left.opened.part > last);
    let record =
        |left: &Left| left.judged.clone().unwrap_or_else(|| left.opened.clone().fault(FaultCode::Restarted));
    left.iter().filter(is_missing).map(record).collect()
}

fn damaged(places: usize) -> Event {
    let message = format!(
        "{places} places of the ring were damaged: whether parts stood there that are not in the journal cannot be told. \
         Look at the memory of the machine, and at who writes into run_dir"
    );
    Event::now(EventKind::InspectionsLost, None, message)
}

/// Numbers go on after all that were given, in the ring or past it.
fn number_after(store: &mut Store, found: &Found) {
    let given = found.parts.iter().map(|left| (&left.opened.station, left.opened.part));
    for (station, part) in given.chain(found.stations.iter().map(|station| (&station.name, station.last))) {
        let last = store.parts.entry(station.clone()).or_default();
        *last = part.max(*last);
    }
}

/// What an unclean stop may have cost, in words; moves numbers on where they may have been used.
fn after_stop(store: &mut Store, stop: &Stop, missing: &[Inspection]) -> Result<Event, JournalError> {
    let restarted = Verdict::Fault(FaultCode::Restarted);
    let open = missing.iter().filter(|record| record.verdict == restarted).count();
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
    let skipped = stop.rebooted.then_some(POWER_CUT_SKIP);
    Ok(Event { skipped, ..Event::now(EventKind::UncleanStop, None, message) })
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
