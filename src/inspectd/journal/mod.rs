//! The journal: the durable, ordered log of inspections and events, and the only way out of the daemon.
//!
//! Terms. A *record* is an inspection or an event as JSON. Its *sequence* grows and is never used twice in
//! one journal, which its *UUID* names: consumers tell doubles by (journal, sequence). A *slot* is a place
//! for one inspection, taken when the trigger is accepted. A *cursor* is how far a named consumer got.
//! *Handed over* is a record given to a slot; *committed* is one that survives `kill -9`; *synced* is one
//! that survives a power cut (at most [`SYNC_EVERY`] later).
//!
//! Why SQLite with one writer thread: the line only ever pays for a push under a lock, whatever the disk
//! does; all that waits (commit, sync, retry) waits on that thread, and what it waits for fills a bounded
//! queue whose end the station sees as "no slot".
//!
//! A journal that cannot be read is put aside under `journal.quarantined-…` and a new one begun. A disk
//! that is full or fails is waited for: the batch in hand is kept, and written when it can be.
//!
//! Files in the directory: `journal.db` with `-wal` and `-shm`, `journal.lock` (one daemon at a time),
//! `reported.bin` (see [`PartCounter`]).
//!
//! Never here: deleting what was not delivered, repairing a damaged journal, waiting on the line's path.

mod inbox;
mod reader;
mod reported;
mod start;
mod store;
mod writer;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

pub use inbox::Slot;
pub use reader::{Entry, JournalReader};
pub use reported::{MAX_STATIONS, PartCounter};
pub use store::SCHEMA;

use inbox::Shared;
use reported::ReportedFile;
use writer::Writer;

use crate::record::Event;

/// Most events that wait for the disk; more are counted and dropped.
pub const EVENT_PLACES: usize = 256;
/// Most records in one transaction.
pub const MAX_BATCH: usize = 256;
/// A committed record is synced to the disk at most this much later.
pub const SYNC_EVERY: Duration = Duration::from_secs(5);
/// Most records committed between two syncs.
pub const SYNC_RECORDS: u64 = 4_096;
/// How far sequences and part numbers jump after the machine went down with the journal open: further than
/// anything that can have been published and then lost, so that no number is ever used for two parts.
pub const POWER_CUT_SKIP: u64 = 10_000;
/// First and longest pause before a failed write is tried again.
pub const RETRY_FIRST: Duration = Duration::from_millis(100);
/// See [`RETRY_FIRST`].
pub const RETRY_MOST: Duration = Duration::from_secs(5);
/// Most journals put aside in one run; a disk that damages more than these is not written to again.
pub const MAX_QUARANTINES: u32 = 8;
/// A check at start that takes longer is broken off and believed; damage is then found while running.
pub const CHECK_LIMIT: Duration = Duration::from_secs(10);
/// How long [`Journal::close`] waits for the disk and for slots not yet written.
pub const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// Cursors that moved are written with the next batch, or after this long.
pub const CURSOR_DELAY: Duration = Duration::from_millis(200);
/// Most records deleted in one transaction.
pub const PRUNE_CHUNK: u64 = 1_000;

/// Why the journal does not open, read or close.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file or directory cannot be used.
    #[error("journal {path}: {source}")]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// SQLite failed for a reason outside the file (disk full, I/O error, locked).
    #[error("journal {path}: {source}")]
    Sqlite {
        /// The journal.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The file is not a sound journal. At opening this leads to quarantine and is not returned.
    #[error("journal {path} is damaged: {reason}")]
    Corrupt {
        /// The journal.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Written by a newer inspectd. The file is left as it is.
    #[error(
        "journal {path}: expected schema version at most {SCHEMA}, got {got}; run the newer inspectd, or move the journal's directory away to begin a new one"
    )]
    NewerSchema {
        /// The journal.
        path: PathBuf,
        /// Its schema version.
        got: u64,
    },
    /// Another process has it.
    #[error(
        "journal {path} is in use by another inspectd; stop that one, or give this one its own directory"
    )]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// No place for one more station in the count file.
    #[error("journal {path}: expected at most {MAX_STATIONS} stations with names of 1 to {max} bytes, got one more: `{station}`", max = reported::MAX_NAME_BYTES)]
    Stations {
        /// The count file.
        path: PathBuf,
        /// The station without a place.
        station: String,
    },
    /// Closing did not get everything to the disk in time.
    #[error("journal {path} was not closed in order, {records} records in hand are lost: {reason}")]
    NotWritten {
        /// The journal.
        path: PathBuf,
        /// How many are lost.
        records: usize,
        /// What kept them.
        reason: String,
    },
}

impl JournalError {
    /// Whether waiting and trying again can help (a full or failing disk), without anybody changing a setting.
    pub fn heals(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Sqlite { .. } | Self::InUse { .. })
    }
}

/// Settings of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JournalConfig {
    /// Directory; made if it is not there.
    pub dir: PathBuf,
    /// Most inspections that wait for the disk, slots in hand included.
    pub queue_records: usize,
    /// Most records kept. What a cursor has not passed is kept beyond it.
    pub keep_records: u64,
}

impl Default for JournalConfig {
    fn default() -> Self {
        let dir = PathBuf::from("/var/lib/inspectd/journal");
        Self { dir, queue_records: 1_024, keep_records: 1_000_000 }
    }
}

impl JournalConfig {
    /// Everything wrong with the settings, one sentence each.
    pub fn check(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.dir.as_os_str().is_empty() {
            problems.push("dir: expected a directory, got an empty path".to_owned());
        }
        let mut within = |field: &str, value: u64, least: u64, most: u64| {
            if !(least..=most).contains(&value) {
                problems.push(format!("{field}: expected {least} to {most}, got {value}"));
            }
        };
        within("queue_records", self.queue_records as u64, 16, 65_536);
        within("keep_records", self.keep_records, 1_000, 1_000_000_000);
        problems
    }
}

/// The newest committed record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The journal; it changes if a damaged one is put aside.
    pub journal: Uuid,
    /// Its newest sequence, 0 while empty.
    pub sequence: u64,
}

/// How the journal is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why it cannot be written at the moment.
    pub error: Option<String>,
    /// Journals put aside in this run.
    pub quarantined: u32,
}

/// Handle of an open journal; clones are cheap. Dropping the last one without [`Journal::close`] writes what
/// was handed over, but leaves the mark of an unclean stop.
#[derive(Clone)]
pub struct Journal {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    reported: ReportedFile,
    dir: PathBuf,
    committed: watch::Receiver<Committed>,
    health: watch::Receiver<Health>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.abandon();
    }
}

impl Journal {
    /// Opens the journal, putting a damaged one aside, and starts its writer thread. Blocks for as long as the
    /// disk takes, at most about [`CHECK_LIMIT`] for checking.
    ///
    /// Errors: [`JournalError`], never `Corrupt`; [`JournalError::heals`] tells what is worth trying again.
    pub fn open(config: &JournalConfig) -> Result<Self, JournalError> {
        let dir = config.dir.clone();
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::Io { path, source }
        };
        std::fs::create_dir_all(&dir).map_err(io(&dir))?;
        let lock = lock(&dir)?;
        let reported = ReportedFile::open(&dir.join("reported.bin"))?;
        let opened = start::open_or_begin(&dir, reported.parts(), config.keep_records)?;
        reported.start_from(&opened.store.parts);
        let shared = Arc::new(Shared::new(config.queue_records));
        let writer = Writer::new(dir.clone(), config.keep_records, opened, Arc::clone(&shared), lock);
        let (committed, health) = writer.watches();
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run())
            .map_err(io(&dir))?;
        let handle = Handle { shared, reported, dir, committed, health };
        Ok(Self { handle: Arc::new(handle) })
    }

    /// Takes a place for one inspection. `None`: the queue is full, and the part would not be proven.
    pub fn reserve(&self) -> Option<Slot> {
        self.handle.shared.reserve()
    }

    /// Hands over an event. Best effort: see [`Journal::dropped_events`].
    pub fn event(&self, event: Event) {
        self.handle.shared.event(event);
    }

    /// Events that found no place.
    pub fn dropped_events(&self) -> u64 {
        self.handle.shared.dropped_events()
    }

    /// Inspections that wait for the disk or have a slot.
    pub fn queued(&self) -> usize {
        self.handle.shared.reserved()
    }

    /// The part numbers of a station.
    ///
    /// Errors: [`JournalError::Stations`], [`JournalError::Io`].
    pub fn station(&self, name: &str) -> Result<PartCounter, JournalError> {
        self.handle.reported.station(name)
    }

    /// Whether everything handed over is committed, and no slot is out.
    pub fn is_settled(&self) -> bool {
        self.handle.shared.is_settled()
    }

    /// Follows the newest committed record.
    pub fn committed(&self) -> watch::Receiver<Committed> {
        self.handle.committed.clone()
    }

    /// Follows how the journal is doing.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.handle.health.clone()
    }

    /// The journal's directory.
    pub fn dir(&self) -> &Path {
        &self.handle.dir
    }

    /// Moves a cursor on: `consumer` has everything up to `sequence` of this `journal`. Never moves back.
    /// Written by the writer thread at most [`CURSOR_DELAY`] later; ignored if the journal has changed.
    pub fn set_cursor(&self, consumer: &str, journal: Uuid, sequence: u64) {
        self.handle.shared.cursor(consumer, journal, sequence);
    }

    /// Forgets a consumer that is no longer configured, so that it keeps no records from being deleted.
    pub fn forget_cursor(&self, consumer: &str) {
        self.handle.shared.forget(consumer);
    }

    /// A reader could not make sense of this `journal`: it is put aside, if it is still the one in use.
    pub fn suspect(&self, journal: Uuid, reason: impl Into<String>) {
        self.handle.shared.suspect(journal, reason.into());
    }

    /// Writes everything that was handed over, marks the journal as closed in order and releases it. Blocks at
    /// most about [`CLOSE_LIMIT`]; slots taken and not yet written are waited for. Other handles see no slots
    /// from here on.
    ///
    /// Errors: [`JournalError::NotWritten`].
    pub fn close(&self) -> Result<(), JournalError> {
        self.handle.shared.close().map_err(|(records, reason)| JournalError::NotWritten {
            path: self.handle.dir.join(store::FILE),
            records,
            reason,
        })
    }
}

/// One daemon at a time. The lock goes with the process, however it ends.
fn lock(dir: &Path) -> Result<File, JournalError> {
    let path = dir.join("journal.lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| JournalError::Io { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::InUse { path }),
        Err(TryLockError::Error(source)) => Err(JournalError::Io { path, source }),
    }
}
