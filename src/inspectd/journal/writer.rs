//! The writer thread: takes what was handed over, commits it in groups, syncs, waits out a bad disk.
//!
//! A batch is kept until it is committed, whatever happens in between: retries, a journal put aside.
//!
//! Never here: the line's path; giving up a record while there is time.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use uuid::Uuid;

use super::disk::{Disk, Moment, ask};
use super::inbox::{Closing, Item, Shared, Work};
use super::retention::Keep;
use super::ring::Found;
use super::soundness::{self, Beside};
use super::start::{self, LeftBehind};
use super::store::{self, Check, Moves, Prepared, Store};
use super::{Committed, Health, IDLE, JournalError, MAX_QUARANTINES, RETRY_FIRST, RETRY_MOST};
use crate::clock;
use crate::record::{Event, Lost};

pub(super) struct Writer {
    dir: PathBuf,
    keep: Keep,
    shared: Arc<Shared>,
    /// What the last run left in the ring; none once the journal was open.
    found: Option<Found>,
    /// `None` between a failure and the next try.
    store: Option<Store>,
    batch: Vec<Prepared>,
    /// Slots and number of events that the batch frees.
    frees: (Vec<u32>, usize),
    /// Parts without a slot that the batch tells of.
    tells: BTreeMap<String, Lost>,
    work: Work,
    parts: BTreeMap<String, u64>,
    committed: watch::Sender<Committed>,
    health: watch::Sender<Health>,
    back_off: Duration,
    /// Names the batch in hand, so that one that was written, whatever the disk said, is not written twice.
    batch_name: Uuid,
    disk: Option<Disk>,
    /// The check of the file that runs beside.
    checks: Option<Beside>,
    /// Held until the thread ends.
    lock: Option<File>,
}

impl Writer {
    /// `found`: what the last run left in the ring.
    pub fn new(dir: PathBuf, keep: Keep, shared: Arc<Shared>, found: Found, disk: Option<Disk>) -> Self {
        Self {
            dir,
            keep,
            shared,
            found: Some(found),
            store: None,
            batch: Vec::new(),
            frees: (Vec::new(), 0),
            tells: BTreeMap::new(),
            work: Work::default(),
            parts: BTreeMap::new(),
            committed: watch::Sender::new(Committed { journal: Uuid::nil(), sequence: 0 }),
            health: watch::Sender::new(Health::default()),
            back_off: RETRY_FIRST,
            batch_name: Uuid::new_v4(),
            disk,
            checks: None,
            lock: None,
        }
    }

    /// Opens the journal for the first time: takes the lock, and takes over what the last run left in the ring.
    ///
    /// Errors: [`JournalError`], never `Corrupt`.
    fn begin(&mut self) -> Result<(), JournalError> {
        let Some(found) = &self.found else { return Ok(()) };
        if self.lock.is_none() {
            let io = |source| JournalError::Io { path: self.dir.clone(), source };
            std::fs::create_dir_all(&self.dir).map_err(io)?;
            self.lock = Some(super::lock(&self.dir)?);
        }
        let lost = self.shared.lost();
        let left = LeftBehind { found, lost: &lost };
        let when = if self.is_stepped() { Check::Always } else { Check::AfterPowerCut };
        let disk = &mut |moment| ask(&mut self.disk, &self.dir, moment);
        let opened = start::open_or_begin(&self.dir, &left, (self.keep, when), disk)?;
        self.parts.clone_from(&opened.store.parts);
        self.shared.told(&lost);
        self.frees.0.extend(found.taken());
        self.shared.number_from(self.parts.clone());
        if !self.is_stepped() {
            let file = self.dir.join(store::FILE);
            self.checks = soundness::check_beside(&file, opened.store.uuid, Arc::downgrade(&self.shared));
        }
        self.health.send_modify(|health| health.quarantined += opened.quarantined);
        let now = Committed { journal: opened.store.uuid, sequence: opened.store.latest };
        self.committed.send_replace(now);
        self.store = Some(opened.store);
        self.found = None;
        Ok(())
    }

    /// Whether a test moves it, and nothing may be done on threads.
    fn is_stepped(&self) -> bool {
        self.disk.is_some()
    }

    /// What others follow.
    pub fn watches(&self) -> (watch::Receiver<Committed>, watch::Receiver<Health>) {
        (self.committed.subscribe(), self.health.subscribe())
    }

    /// Runs until the journal is closed or abandoned.
    pub fn run(mut self) {
        loop {
            if let Some(closing) = self.turn(IDLE)
                && self.may_end(closing)
            {
                return self.end(closing);
            }
        }
    }

    /// Waits at most `limit` for work and writes it.
    fn turn(&mut self, limit: Duration) -> Option<Closing> {
        self.take_in(limit);
        self.write()
    }

    /// A batch that could not be written is not added to: it may be on the disk all the same, and is known by its name.
    fn take_in(&mut self, limit: Duration) {
        if !self.batch.is_empty() {
            return;
        }
        self.batch_name = Uuid::new_v4(); // what was tried before, cursors alone, is not this batch
        self.work = self.shared.take(limit);
        // What is lost before the journal opens is told as it opens.
        self.tells = if self.found.is_none() { std::mem::take(&mut self.work.lost) } else { BTreeMap::new() };
        for (station, lost) in &self.tells {
            tracing::error!(station, parts = lost.parts, last = lost.last, "parts are not in the journal");
            self.batch.extend(Prepared::event(&Event::lost(station, *lost)));
        }
        for item in std::mem::take(&mut self.work.items) {
            match item {
                Item::Inspection(inspection, slot) => {
                    self.batch.extend(Prepared::inspection(&inspection));
                    self.frees.0.push(slot);
                }
                Item::Event(event) => {
                    self.batch.extend(Prepared::event(&event));
                    self.frees.1 += 1;
                }
            }
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
                if clock::now() >= closing.deadline {
                    return Some(closing);
                }
                self.back_off = RETRY_FIRST;
            }
        }
    }

    /// Writes what is in hand; the first time opens the journal, and writes what the ring held.
    ///
    /// Errors: [`JournalError`]; what is in hand stays.
    pub fn try_write(&mut self) -> Result<(), JournalError> {
        self.begin()?;
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
        let Work { forgotten, consumers, .. } = &self.work;
        let moved = !cursors.is_empty() || !forgotten.is_empty() || !store.has_places(consumers);
        if !self.batch.is_empty() || moved {
            if store.batch != Some(self.batch_name) {
                ask(&mut self.disk, &self.dir, Moment::Before)?;
                let moves = Moves {
                    cursors,
                    forgotten: Some(forgotten),
                    consumers: Some(consumers),
                    batch: Some(self.batch_name),
                    // Not those that were told as lost: one before them may still be in hand, and counts as written
                    // as soon as a later one does.
                    numbers: BTreeMap::new(),
                };
                store.append(&self.batch, &moves)?;
                ask(&mut self.disk, &self.dir, Moment::After)?;
            }
            self.batch_name = Uuid::new_v4();
            self.parts.clone_from(&store.parts);
        }
        self.batch.clear();
        self.work.cursors.clear();
        self.work.forgotten.clear();
        let now = Committed { journal: store.uuid, sequence: store.latest };
        let dropped = store.dropped;
        self.committed.send_if_modified(|before| std::mem::replace(before, now) != now);
        self.health.send_if_modified(|health| {
            let before = (health.dropped_undelivered, health.dropping_undelivered);
            (health.dropped_undelivered, health.dropping_undelivered) = (dropped.count, dropped.now());
            before != (dropped.count, dropped.now())
        });
        for (station, part) in &self.parts {
            if let Err(error) = self.shared.ring.journaled(station, *part) {
                tracing::warn!(%error, station, "the ring cannot be written");
            }
        }
        self.shared.told(&std::mem::take(&mut self.tells));
        let (mut slots, events) = std::mem::take(&mut self.frees);
        self.shared.written(&mut slots, events); // last: who sees them settled sees them committed
        Ok(())
    }

    /// Puts the damaged journal aside; the next commit begins a new one, with this event before the batch.
    fn put_aside(&mut self, reason: &str) -> Result<(), JournalError> {
        (self.store, self.checks) = (None, None);
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

    /// Says that it cannot be written at the moment.
    pub fn failed(&mut self, error: &JournalError) {
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
        if waits && clock::now() < closing.deadline {
            // A slot is still in the station's hands; there is nothing to wake us when it is dropped.
            std::thread::sleep(Duration::from_millis(2));
            return false;
        }
        !self.work.more || clock::now() >= closing.deadline
    }

    fn end(mut self, closing: Closing) {
        let error = self.health.borrow().error.clone();
        let outcome = match (self.store.take(), error) {
            (Some(store), None) if closing.clean => {
                finish(store, &self.shared).map_err(|error| (0, error.to_string()))
            }
            (Some(_), None) => Ok(()),
            (_, error) => Err((
                self.shared.reserved().max(self.batch.len()),
                error.unwrap_or_else(|| "the journal is not open".to_owned()),
            )),
        };
        if let Err((records, reason)) = &outcome {
            tracing::error!(records, reason, "the journal could not be closed in order");
        }
        let Self { shared, lock, checks, .. } = self;
        drop(checks);
        shared.ring.release();
        drop(lock);
        shared.closed(outcome);
    }
}

/// Closes the journal in order. Where no part is in hand, numbers that were given to parts without a slot count as given:
/// the ring, which knows them, may not outlive the machine's stop.
fn finish(mut store: Store, shared: &Shared) -> Result<(), JournalError> {
    if let Some(numbers) = shared.numbers() {
        store.parts.extend(numbers);
        store.keep_parts()?;
    }
    store.finish()
}

/// A journal's writer, one step at a time.
pub struct Steps {
    writer: Writer,
}

impl Steps {
    pub(super) fn new(writer: Writer) -> Self {
        Self { writer }
    }

    /// Takes what was handed over and writes it. Whether that could be done; else it is tried again by the next step.
    pub fn step(&mut self) -> bool {
        if !self.writer.batch.is_empty() && !self.write() {
            return false;
        }
        self.writer.take_in(Duration::ZERO);
        self.write()
    }

    fn write(&mut self) -> bool {
        let written = self.writer.try_write();
        match &written {
            Ok(()) => self.writer.recovered(),
            Err(error) => self.writer.failed(error),
        }
        written.is_ok()
    }

    /// Closes the journal in order, if all is written. Whether it was.
    pub fn close(self) -> bool {
        let Writer { shared, store, .. } = self.writer;
        let finished = store.is_some_and(|store| finish(store, &shared).is_ok());
        shared.ring.release();
        finished
    }
}
