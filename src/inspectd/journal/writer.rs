//! The writer thread: takes what was handed over, commits it in groups, syncs, waits out a bad disk.
//!
//! A batch is kept until it is committed, whatever happens in between: retries, a journal put aside.
//!
//! Never here: the line's path; giving up a record while there is time.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::inbox::{Closing, Item, Shared, Work};
use super::start::{self, Opened};
use super::store::{self, Moves, Prepared, Store};
use super::{
    Committed, Health, JournalError, MAX_QUARANTINES, RETRY_FIRST, RETRY_MOST, SYNC_EVERY, SYNC_RECORDS,
};

pub(super) struct Writer {
    dir: PathBuf,
    keep: u64,
    shared: Arc<Shared>,
    /// `None` between a failure and the next try.
    store: Option<Store>,
    batch: Vec<Prepared>,
    /// Places that the batch frees: inspections, events.
    frees: (usize, usize),
    work: Work,
    parts: BTreeMap<String, u64>,
    committed: watch::Sender<Committed>,
    health: watch::Sender<Health>,
    back_off: Duration,
    synced: Instant,
    /// Held until the thread ends.
    _lock: File,
}

impl Writer {
    pub fn new(dir: PathBuf, keep: u64, opened: Opened, shared: Arc<Shared>, lock: File) -> Self {
        let Opened { store, quarantined } = opened;
        let committed = Committed { journal: store.uuid, sequence: store.latest };
        Self {
            dir,
            keep,
            shared,
            parts: store.parts.clone(),
            store: Some(store),
            batch: Vec::new(),
            frees: (0, 0),
            work: Work::default(),
            committed: watch::Sender::new(committed),
            health: watch::Sender::new(Health { error: None, quarantined }),
            back_off: RETRY_FIRST,
            synced: Instant::now(),
            _lock: lock,
        }
    }

    pub fn watches(&self) -> (watch::Receiver<Committed>, watch::Receiver<Health>) {
        (self.committed.subscribe(), self.health.subscribe())
    }

    /// Runs until the journal is closed or abandoned.
    pub fn run(mut self) {
        loop {
            self.work = self.shared.take(SYNC_EVERY);
            self.prepare();
            if let Some(closing) = self.write()
                && self.may_end(closing)
            {
                return self.end(closing);
            }
        }
    }

    /// Turns what was taken into rows.
    fn prepare(&mut self) {
        for item in std::mem::take(&mut self.work.items) {
            let prepared = match &item {
                Item::Event(event) => Prepared::event(event),
                Item::Inspection(inspection) => serde_json::to_string(inspection)
                    .inspect_err(|error| tracing::error!(%error, "an inspection cannot be written as JSON"))
                    .ok()
                    .map(|body| Prepared {
                        kind: "inspection",
                        station: Some(inspection.station.clone()),
                        part: Some(inspection.part),
                        body,
                    }),
            };
            match item {
                Item::Inspection(_) => self.frees.0 += 1,
                Item::Event(_) => self.frees.1 += 1,
            }
            self.batch.extend(prepared);
        }
    }

    /// Writes the batch, however often it takes, until it is written or closing is asked for and time is up.
    fn write(&mut self) -> Option<Closing> {
        loop {
            let result = self.try_write();
            match result {
                Ok(()) => {
                    self.recovered();
                    return self.work.closing;
                }
                Err(error) => self.failed(&error),
            }
            let closing = self.shared.pause(self.back_off);
            self.back_off = (self.back_off * 2).min(RETRY_MOST);
            if let Some(closing) = closing {
                self.work.closing = Some(closing);
                if Instant::now() >= closing.deadline {
                    return Some(closing);
                }
                self.back_off = RETRY_FIRST;
            }
        }
    }

    fn try_write(&mut self) -> Result<(), JournalError> {
        if let Some((journal, reason)) = self.work.suspect.take()
            && self.committed.borrow().journal == journal
        {
            self.put_aside(&reason)?;
        }
        match self.commit() {
            Err(JournalError::Corrupt { reason, .. }) => {
                self.put_aside(&reason)?;
                self.commit()
            }
            // The connection may be in any state: the next try has a fresh one.
            Err(other) => {
                self.store = None;
                Err(other)
            }
            Ok(()) => Ok(()),
        }
    }

    fn commit(&mut self) -> Result<(), JournalError> {
        let store = match &mut self.store {
            Some(store) => store,
            None => self.store.insert(Store::reopen(&self.dir, &self.parts, self.keep)?),
        };
        let cursors = self.work.cursors.iter();
        let cursors: BTreeMap<_, _> = cursors
            .filter(|(_, (journal, _))| *journal == store.uuid)
            .map(|(name, (_, sequence))| (name.clone(), *sequence))
            .collect();
        if !self.batch.is_empty() || !cursors.is_empty() || !self.work.forgotten.is_empty() {
            store.append(&self.batch, &Moves { cursors, forgotten: Some(&self.work.forgotten) })?;
            self.parts.clone_from(&store.parts);
        }
        self.batch.clear();
        self.work.cursors.clear();
        self.work.forgotten.clear();
        let now = Committed { journal: store.uuid, sequence: store.latest };
        self.committed.send_if_modified(|before| std::mem::replace(before, now) != now);
        let (inspections, events) = std::mem::take(&mut self.frees);
        self.shared.written(inspections, events); // last: who sees them settled sees them committed
        let due = self.synced.elapsed() >= SYNC_EVERY || store.unsynced >= SYNC_RECORDS;
        if due && store.unsynced > 0 {
            store.sync()?;
        }
        if due {
            self.synced = Instant::now();
        }
        Ok(())
    }

    /// Puts the damaged journal aside; the next commit begins a new one, with this event before the batch.
    fn put_aside(&mut self, reason: &str) -> Result<(), JournalError> {
        self.store = None;
        if self.health.borrow().quarantined >= MAX_QUARANTINES {
            let reason =
                format!("{reason}; {MAX_QUARANTINES} journals were put aside already: check the disk");
            return Err(JournalError::Corrupt { path: self.dir.join(store::FILE), reason });
        }
        let event = start::quarantine(&self.dir, reason)?;
        self.health.send_modify(|health| health.quarantined += 1);
        if let Some(event) = Prepared::event(&event) {
            self.batch.insert(0, event);
        }
        Ok(())
    }

    fn failed(&mut self, error: &JournalError) {
        let words = error.to_string();
        let changed = self.health.send_if_modified(|health| {
            let changed = health.error.as_ref() != Some(&words);
            health.error = Some(words.clone());
            changed
        });
        if changed {
            tracing::error!(error = %words, waiting = self.batch.len(), "the journal cannot be written; trying again");
        }
    }

    fn recovered(&mut self) {
        self.back_off = RETRY_FIRST;
        if self.health.borrow().error.is_some() {
            self.health.send_modify(|health| health.error = None);
            tracing::info!("the journal can be written again");
        }
    }

    /// Everything handed over is written, or time is up.
    fn may_end(&self, closing: Closing) -> bool {
        let waits = self.work.open_slots > 0 && closing.clean;
        if waits && Instant::now() < closing.deadline {
            // A slot is still in the station's hands; there is nothing to wake us when it is dropped.
            std::thread::sleep(Duration::from_millis(2));
            return false;
        }
        !self.work.more || Instant::now() >= closing.deadline
    }

    fn end(mut self, closing: Closing) {
        let error = self.health.borrow().error.clone();
        let outcome = match (self.store.take(), error) {
            (Some(store), None) if closing.clean => store.finish().map_err(|error| (0, error.to_string())),
            (Some(_), None) => Ok(()),
            (_, error) => Err((
                self.shared.reserved().max(self.batch.len()),
                error.unwrap_or_else(|| "the journal is not open".to_owned()),
            )),
        };
        if let Err((records, reason)) = &outcome {
            tracing::error!(records, reason, "the journal could not be closed in order");
        }
        let Self { shared, _lock, .. } = self;
        drop(_lock);
        shared.closed(outcome);
    }
}
