//! The journal: the durable, ordered log of inspections and events, and the only way out of the daemon.
//!
//! Terms. A *record* is an inspection or an event as JSON. Its *sequence* grows and is never used twice in
//! one journal, which its *UUID* names: consumers tell doubles by (journal, sequence). The *ring* holds each part
//! from its trigger until its record is on the disk ([`ring`]); a *slot* is one part's place in it. A *cursor* is
//! how far a named consumer got.
//!
//! What outlives what: a part that stands in the ring outlives `kill -9`; a record that is committed outlives a
//! power cut. Records are committed together, at most [`COMMIT_EVERY`] and the disk's own time after they came.
//!
//! Why SQLite with one writer thread: the line only ever pays for a few writes into memory, whatever the disk
//! does; all that waits (commit, sync, retry) waits on that thread, and what it waits for fills the ring, whose
//! end the station sees as "no slot".
//!
//! Whether its file is sound is looked at beside the line, after a power cut before it opens ([`soundness`]).
//!
//! A journal that cannot be read is put aside under `journal.quarantined-…` and a new one begun. A disk
//! that is full or fails is waited for, at the start too: the batch in hand is kept, and written when it can be.
//!
//! Files in the directory: `journal.db` with `-wal` and `-shm`, `journal.lock` (one daemon at a time). In the run
//! directory: the ring.
//!
//! Never here: deleting what was not delivered without an alarm, repairing a damaged journal, waiting on the line's path.

pub mod check;
mod connection;
mod disk;
pub mod export;
mod inbox;
mod numbers;
mod parts;
mod reader;
mod retention;
mod ring;
mod schema;
mod soundness;
mod start;
mod store;
pub mod walk;
mod writer;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

pub use disk::{Disk, Moment};
pub use parts::{Parts, Slot, Taken};
pub use reader::{Choice, Entry, JournalReader};
pub use retention::{AGE_WAITS, HARD_FACTOR, LEAST_FREE_BYTES, LEAST_KEPT_BYTES};
pub use ring::{SLOT_BYTES, STATION_PLACES};
pub use schema::SCHEMA;
pub use writer::Steps;

use inbox::Shared;
use retention::Keep;
use ring::{MAX_NAME_BYTES, Ring};
use writer::Writer;

use crate::record::{Event, TriggerSource};

/// Most events that wait for the disk; more are counted and dropped.
pub const EVENT_PLACES: usize = 256;
/// Most records in one transaction.
pub const MAX_BATCH: usize = 256;
/// Records that come within this time are committed together: the disk is synced at most so often, and a power cut
/// costs what came within this time and one sync.
pub const COMMIT_EVERY: Duration = Duration::from_millis(200);
/// How long the writer sleeps without work.
const IDLE: Duration = Duration::from_secs(5);
/// How far sequences and part numbers jump after the machine went down with the journal open: further than
/// anything that can have been published and then lost, so that no number is ever used for two parts.
pub const POWER_CUT_SKIP: u64 = 10_000;
/// First and longest pause before a failed write is tried again.
pub const RETRY_FIRST: Duration = Duration::from_millis(100);
/// See [`RETRY_FIRST`].
pub const RETRY_MOST: Duration = Duration::from_secs(5);
/// Most journals put aside in one run; a disk that damages more than these is not written to again.
pub const MAX_QUARANTINES: u32 = 8;
/// A check after a power cut that takes longer is broken off and believed; damage is then found while running.
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
    /// No place for one more station in the ring.
    #[error(
        "journal {path}: expected at most {STATION_PLACES} stations with names of 1 to {MAX_NAME_BYTES} bytes, got one more: `{station}`"
    )]
    Stations {
        /// The ring.
        path: PathBuf,
        /// The station without a place.
        station: String,
    },
    /// Closing did not get everything to the disk in time.
    #[error("journal {path} was not closed in order, {records} records in hand stay in the ring: {reason}")]
    NotWritten {
        /// The journal.
        path: PathBuf,
        /// How many.
        records: usize,
        /// What kept them.
        reason: String,
    },
}

impl JournalError {
    /// Whether waiting and trying again can help (a full or failing disk), without anybody changing a setting.
    pub fn heals(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Sqlite { .. })
    }
}

/// Settings of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JournalConfig {
    /// Directory; made if it is not there.
    pub dir: PathBuf,
    /// Slots of the ring: most parts that are in hand or wait for the disk. Each is [`SLOT_BYTES`] of memory.
    pub ring_slots: usize,
    /// Most megabytes (10^6 bytes) of records kept. What a consumer has not had yet is kept beyond it and beyond
    /// `keep_days`, up to [`HARD_FACTOR`] times as much.
    pub max_mb: u64,
    /// Most days that records are kept; 0: as long as `max_mb` lets them.
    pub keep_days: u32,
}

impl Default for JournalConfig {
    fn default() -> Self {
        let dir = PathBuf::from("/var/lib/inspectd/journal");
        Self { dir, ring_slots: 1_024, max_mb: 10_000, keep_days: 365 }
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
        within("ring_slots", self.ring_slots as u64, 16, 16_384);
        within("max_mb", self.max_mb, 10, 10_000_000);
        within("keep_days", u64::from(self.keep_days), 0, 36_500);
        problems
    }

    fn keep(&self) -> Keep {
        Keep { bytes: self.max_mb.saturating_mul(1_000_000), days: self.keep_days }
    }
}

/// What becomes of a part that finds no slot in the ring, so that its record may be lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnJournalFull {
    /// It is a fault: what cannot be proven does not pass.
    #[default]
    Reject,
    /// It is judged all the same, and its record is missing; counted, latched as the PLC's error, and told.
    Continue,
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
    /// Records deleted that no consumer had, since the journal began.
    pub dropped_undelivered: u64,
    /// It goes on: what comes is not delivered, or the disk is nearly full.
    pub dropping_undelivered: bool,
}

/// Handle of an open journal; clones are cheap. Dropping the last one without [`Journal::close`] writes what
/// was handed over, but leaves the mark of an unclean stop.
#[derive(Clone)]
pub struct Journal {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    dir: PathBuf,
    places: usize,
    committed: watch::Receiver<Committed>,
    health: watch::Receiver<Health>,
    is_stepped: bool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.abandon();
    }
}

impl Journal {
    /// Opens the ring in `run_dir` and the journal, putting a damaged one aside, and starts its writer thread. Blocks
    /// for as long as the disk takes, after a power cut at most about [`CHECK_LIMIT`] for checking. Where the disk is full or fails the
    /// journal is open all the same: parts have no slots until the thread could open it ([`Health::error`]).
    ///
    /// Errors: [`JournalError`], of what time does not heal, and of the ring.
    pub fn open(config: &JournalConfig, run_dir: &Path) -> Result<Self, JournalError> {
        let (journal, writer) = Self::open_without_thread(config, run_dir, None)?;
        let io = |source| JournalError::Io { path: config.dir.clone(), source };
        std::thread::Builder::new().name("journal".to_owned()).spawn(move || writer.run()).map_err(io)?;
        Ok(journal)
    }

    /// The same without the thread, for simulated time: the disk is written when `Steps` says so, and fails where
    /// `disk` does.
    ///
    /// Errors: as [`open`](Self::open).
    pub fn open_stepped(
        config: &JournalConfig,
        run_dir: &Path,
        disk: Disk,
    ) -> Result<(Self, Steps), JournalError> {
        let (journal, writer) = Self::open_without_thread(config, run_dir, Some(disk))?;
        Ok((journal, Steps::new(writer)))
    }

    fn open_without_thread(
        config: &JournalConfig,
        run_dir: &Path,
        disk: Option<Disk>,
    ) -> Result<(Self, Writer), JournalError> {
        let dir = config.dir.clone();
        let (ring, found) = Ring::open(run_dir, config.ring_slots)?;
        let places = found.slots;
        let is_stepped = disk.is_some();
        let shared = Arc::new(Shared::new(ring, &found));
        let mut writer = Writer::new(dir.clone(), config.keep(), Arc::clone(&shared), found, disk);
        match writer.try_write() {
            Err(error) if error.heals() => writer.failed(&error),
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        let (committed, health) = writer.watches();
        let handle = Arc::new(Handle { shared, dir, places, committed, health, is_stepped });
        Ok((Self { handle }, writer))
    }

    /// Whether it was opened by [`open_stepped`](Self::open_stepped): then nothing may be done on threads.
    pub fn is_stepped(&self) -> bool {
        self.handle.is_stepped
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

    /// Most inspections that can wait so: the slots of the ring.
    pub fn places(&self) -> usize {
        self.handle.places
    }

    /// The parts of a station, what triggers them, and whether they are simulated.
    ///
    /// Errors: [`JournalError::Stations`].
    pub fn station(&self, name: &str, source: TriggerSource, simulated: bool) -> Result<Parts, JournalError> {
        let shared = &self.handle.shared;
        let stations =
            || JournalError::Stations { path: shared.ring.path().to_owned(), station: name.to_owned() };
        shared.ring.place(name).ok_or_else(stations)?;
        Ok(Parts::new(Arc::clone(shared), name, (source, simulated)))
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

    /// From now on nothing is deleted that `consumer` did not have, whichever journal it stands in.
    pub fn add_consumer(&self, consumer: &str) {
        self.handle.shared.consumer(consumer);
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
