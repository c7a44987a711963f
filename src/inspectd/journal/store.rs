//! The journal's SQLite file: opening, checking, appending, syncing.
//!
//! WAL with `synchronous=FULL`: a commit is on the disk when it returns, and outlives a power cut.
//!
//! Never here: threads, retries, deciding what to do about a failure (see [`super::start`], [`super::writer`]), what is
//! kept (see [`super::retention`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior};
use uuid::Uuid;

use super::connection::{connect, failure};
use super::retention::{self, Keep, Pruned, Steady};
use super::schema::{self, SCHEMA, TABLES, meta, meta_count, set_meta};
use super::{JournalError, soundness};
use crate::clock;
use crate::record::{Event, EventKind, Inspection};

/// The journal's file name.
pub(super) const FILE: &str = "journal.db";
/// The `-wal` file is cut back to this after a checkpoint.
const WAL_KEEP_BYTES: u64 = 16 << 20;

/// Meta field: undelivered records that were deleted, since the journal began.
pub(super) const DROPPED: &str = "undelivered_dropped";
/// Meta field: sequence of the event that told of it, while undelivered records have to be deleted; else 0.
const DROPPING: &str = "dropping_undelivered";

/// A record ready to be inserted.
#[derive(Debug)]
pub(super) struct Prepared {
    /// `inspection` or `event`.
    pub kind: &'static str,
    /// Station, if it is about one.
    pub station: Option<String>,
    /// Part number of an inspection.
    pub part: Option<u64>,
    /// The record's time, Unix milliseconds.
    pub time_ms: i64,
    /// The JSON.
    pub body: String,
}

impl Prepared {
    /// An event as a record.
    pub fn event(event: &Event) -> Option<Self> {
        let body = serde_json::to_string(event)
            .inspect_err(|error| tracing::error!(%error, "an event cannot be written as JSON"))
            .ok()?;
        let (station, time_ms) = (event.station.clone(), event.time.as_millisecond());
        Some(Self { kind: "event", station, part: None, time_ms, body })
    }

    /// An inspection as a record.
    pub fn inspection(inspection: &Inspection) -> Option<Self> {
        let body = serde_json::to_string(inspection)
            .inspect_err(|error| tracing::error!(%error, "an inspection cannot be written as JSON"))
            .ok()?;
        let (station, part) = (Some(inspection.station.clone()), Some(inspection.part));
        let time_ms = inspection.trigger.accepted.as_millisecond();
        Some(Self { kind: "inspection", station, part, time_ms, body })
    }
}

/// What changes beside the records in one transaction.
#[derive(Default)]
pub(super) struct Moves<'a> {
    /// Consumers' new places.
    pub cursors: BTreeMap<String, u64>,
    /// Consumers that are gone.
    pub forgotten: Option<&'a BTreeSet<String>>,
    /// Those that are there: what they did not have is kept.
    pub consumers: Option<&'a BTreeSet<String>>,
    /// Stations' last part numbers, whose records are not among these.
    pub numbers: BTreeMap<String, u64>,
    /// The name of the batch.
    pub batch: Option<Uuid>,
}

/// An open journal file.
pub(super) struct Store {
    conn: Connection,
    path: PathBuf,
    /// The journal's name.
    pub uuid: Uuid,
    /// Newest sequence.
    pub latest: u64,
    /// Last part number of each station.
    pub parts: BTreeMap<String, u64>,
    /// Undelivered records that were deleted.
    pub dropped: Dropped,
    keep: Keep,
    /// The batch that was written last.
    pub batch: Option<Uuid>,
    steady: Steady,
    /// Those that are known to have a place.
    consumers: BTreeSet<String>,
}

/// Undelivered records that were deleted, as the hard bound was reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    /// Since the journal began.
    pub count: u64,
    /// While it goes on, as what comes is not delivered or the disk is full: the event that told it. Else 0.
    pub told: u64,
}

/// When a file is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// At opening, whatever was before.
    Always,
    /// At opening, where a power cut may have damaged it. A process that ends, however it does, damages none.
    AfterPowerCut,
    /// Not at opening: this process wrote it.
    Never,
}

/// How the run before ended.
pub(super) struct Stop {
    /// In order.
    pub clean: bool,
    /// The machine has been started since.
    pub rebooted: bool,
}

impl Store {
    /// Opens the journal that is there; `None` if there is none.
    ///
    /// Errors: [`JournalError`].
    pub fn open(dir: &Path, keep: Keep, when: Check) -> Result<Option<(Self, Stop)>, JournalError> {
        let path = dir.join(FILE);
        match path.try_exists() {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(source) => return Err(JournalError::Io { path, source }),
        }
        let fail = |e| failure(&path, e);
        let mut conn = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(fail)?;
        let from = schema::version(&conn, &path)?;
        let stop = Stop {
            clean: meta(&conn, "clean").map_err(fail)? == "1",
            rebooted: meta(&conn, "boot").map_err(fail)? != boot_id(),
        };
        if when == Check::Always || when == Check::AfterPowerCut && !stop.clean && stop.rebooted {
            soundness::check(&conn, &path)?;
        }
        conn.pragma_update(None, "synchronous", "FULL").map_err(fail)?;
        schema::migrate(&mut conn, from).map_err(fail)?;
        let store = Self::load(conn, path.clone(), keep).map_err(fail)?;
        let Some(store) = store else {
            let reason = "meta field `journal`: not a UUID".to_owned();
            return Err(JournalError::Corrupt { path, reason });
        };
        Ok(Some((store, stop)))
    }

    /// Begins a new journal with a UUID of its own.
    pub fn begin(dir: &Path, parts: &BTreeMap<String, u64>, keep: Keep) -> Result<Self, JournalError> {
        let path = dir.join(FILE);
        let fail = |e| failure(&path, e);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let mut conn = connect(&path, flags).map_err(fail)?;
        let uuid = Uuid::new_v4();
        let create = |conn: &mut Connection| {
            conn.pragma_update(None, "journal_mode", "WAL")?;
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            tx.execute_batch(TABLES)?;
            for (key, value) in [
                ("schema", SCHEMA.to_string()),
                ("journal", uuid.to_string()),
                ("clean", "0".to_owned()),
                ("boot", boot_id()),
            ] {
                set_meta(&tx, key, &value)?;
            }
            tx.commit()
        };
        create(&mut conn).map_err(fail)?;
        let store = Self::load(conn, path.clone(), keep).map_err(fail)?;
        let Some(mut store) = store else {
            let reason = "the journal just begun does not read back".to_owned();
            return Err(JournalError::Corrupt { path, reason });
        };
        store.parts.clone_from(parts);
        store.keep_parts()?;
        tracing::info!(journal = %store.uuid, path = %store.path.display(), "journal begun");
        Ok(store)
    }

    /// Opens the journal again after a failure, or begins it where it was put aside and not yet begun anew.
    pub fn reopen(dir: &Path, parts: &BTreeMap<String, u64>, keep: Keep) -> Result<Self, JournalError> {
        match Self::open(dir, keep, Check::Never)? {
            Some((store, _)) => Ok(store),
            None => Self::begin(dir, parts, keep),
        }
    }

    /// Reads what is kept in memory. `None`: the UUID is none.
    fn load(conn: Connection, path: PathBuf, keep: Keep) -> rusqlite::Result<Option<Self>> {
        conn.pragma_update(None, "synchronous", "FULL")?;
        conn.pragma_update(None, "journal_size_limit", WAL_KEEP_BYTES.to_string())?;
        let Ok(uuid) = Uuid::parse_str(&meta(&conn, "journal")?) else { return Ok(None) };
        let latest = conn
            .query_row("SELECT seq FROM sqlite_sequence WHERE name = 'record'", [], |r| r.get::<_, i64>(0))
            .optional()?
            .unwrap_or(0) as u64;
        let parts = conn
            .prepare("SELECT name, part FROM station")?
            .query_map([], |r| Ok((r.get(0)?, r.get::<_, i64>(1)? as u64)))?
            .collect::<rusqlite::Result<_>>()?;
        let dropped = Dropped { count: meta_count(&conn, DROPPED)?, told: meta_count(&conn, DROPPING)? };
        let batch = meta(&conn, "batch").optional()?.and_then(|name| Uuid::parse_str(&name).ok());
        let (steady, consumers) = Default::default();
        Ok(Some(Self { conn, path, uuid, latest, parts, dropped, keep, batch, steady, consumers }))
    }

    /// Appends records, moves cursors and prunes, in one transaction: all of it, or nothing.
    pub fn append(&mut self, batch: &[Prepared], moves: &Moves<'_>) -> Result<(), JournalError> {
        let mut parts: BTreeMap<&str, u64> = BTreeMap::new();
        for record in batch {
            if let (Some(station), Some(part)) = (&record.station, record.part) {
                let last = parts.entry(station).or_default();
                *last = part.max(*last);
            }
        }
        for (station, &part) in &moves.numbers {
            let last = parts.entry(station).or_default();
            *last = part.max(*last);
        }
        let (latest, dropped) = self.transact(batch, moves, &parts).map_err(|e| failure(&self.path, e))?;
        if dropped.now() != self.dropped.now() {
            let (count, path) = (dropped.count, self.path.display());
            match dropped.now() {
                true => {
                    tracing::error!(%path, count, "undelivered records are dropped: the journal is at its hard bound")
                }
                false => tracing::info!(%path, count, "no more undelivered records are dropped"),
            }
        }
        (self.latest, self.dropped) = (latest, dropped);
        self.batch = moves.batch.or(self.batch);
        self.consumers = moves.consumers.cloned().unwrap_or_default();
        for (station, part) in parts {
            let last = self.parts.entry(station.to_owned()).or_default();
            *last = part.max(*last);
        }
        Ok(())
    }

    fn transact(
        &mut self,
        batch: &[Prepared],
        moves: &Moves<'_>,
        parts: &BTreeMap<&str, u64>,
    ) -> rusqlite::Result<(u64, Dropped)> {
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut latest = insert(&tx, self.latest, batch)?;
        {
            let mut part = tx.prepare_cached(
                "INSERT INTO station(name, part) VALUES (?1, ?2)
                 ON CONFLICT(name) DO UPDATE SET part = max(part, excluded.part)",
            )?;
            for (station, &last) in parts {
                part.execute((station, last as i64))?;
            }
            let mut cursor = tx.prepare_cached(
                "INSERT INTO cursor(name, sequence) VALUES (?1, ?2)
                 ON CONFLICT(name) DO UPDATE SET sequence = max(sequence, excluded.sequence)",
            )?;
            for (name, &sequence) in &moves.cursors {
                cursor.execute((name, sequence.min(latest) as i64))?;
            }
            for name in moves.consumers.into_iter().flatten() {
                cursor.execute((name, 0))?;
            }
            if let Some(name) = moves.batch {
                set_meta(&tx, "batch", &name.to_string())?;
            }
            for name in moves.forgotten.into_iter().flatten() {
                tx.execute("DELETE FROM cursor WHERE name = ?1", [name])?;
            }
        }
        let now = (clock::now(), clock::wall().as_millisecond());
        let pruned = retention::prune(&tx, &self.path, &self.keep, &mut self.steady, now)?;
        let mut dropped = self.dropped;
        if let Some(event) = dropped.by(&pruned) {
            latest = insert(&tx, latest, Prepared::event(&event).as_slice())?;
            dropped.told = if dropped.told > 0 { latest } else { 0 };
        }
        if dropped != self.dropped {
            set_meta(&tx, DROPPED, &dropped.count.to_string())?;
            set_meta(&tx, DROPPING, &dropped.told.to_string())?;
        }
        tx.commit()?;
        Ok((latest, dropped))
    }

    /// Whether each of these has its place, so that what it did not have is kept.
    pub fn has_places(&self, consumers: &BTreeSet<String>) -> bool {
        self.consumers.is_superset(consumers)
    }

    /// Sets or clears the mark of a clean stop.
    pub fn mark(&mut self, clean: bool) -> Result<(), JournalError> {
        let set = |conn: &mut Connection| {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            set_meta(&tx, "clean", &u8::from(clean).to_string())?;
            set_meta(&tx, "boot", &boot_id())?;
            tx.commit()
        };
        set(&mut self.conn).map_err(|e| failure(&self.path, e))
    }

    /// Marks the stop as clean and leaves everything in the main file.
    pub fn finish(mut self) -> Result<(), JournalError> {
        self.mark(true)?;
        self.conn
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(|e| failure(&self.path, e))
    }

    /// Sequences and part numbers go on that much later.
    pub fn skip(&mut self, by: u64) -> Result<(), JournalError> {
        self.latest = self.latest.saturating_add(by);
        self.parts.values_mut().for_each(|part| *part = part.saturating_add(by));
        let seq = self.latest as i64;
        let set = |conn: &Connection| {
            if conn.execute("UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'record'", [seq])? == 0 {
                conn.execute("INSERT INTO sqlite_sequence(name, seq) VALUES ('record', ?1)", [seq])?;
            }
            Ok(())
        };
        set(&self.conn).map_err(|e| failure(&self.path, e))
    }

    /// Writes the part numbers held in memory.
    pub fn keep_parts(&mut self) -> Result<(), JournalError> {
        let set = |conn: &mut Connection, parts: &BTreeMap<String, u64>| {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for (name, &part) in parts {
                tx.execute(
                    "INSERT OR REPLACE INTO station(name, part) VALUES (?1, ?2)",
                    (name, part as i64),
                )?;
            }
            tx.commit()
        };
        set(&mut self.conn, &self.parts).map_err(|e| failure(&self.path, e))
    }
}

impl Dropped {
    /// Whether it goes on.
    pub fn now(self) -> bool {
        self.told > 0
    }

    /// Counts what was pruned; the event where there is something to tell. `told` is then its place to fill in.
    fn by(&mut self, pruned: &Pruned) -> Option<Event> {
        self.count = self.count.saturating_add(pruned.undelivered);
        let (count, factor) = (self.count, retention::HARD_FACTOR);
        // Once, and again where the event itself had to go.
        let message = if pruned.undelivered > 0 && self.told <= pruned.up_to {
            self.told = 1;
            format!(
                "the journal is at its hard bound ({factor} times max_mb, or a full disk) and what its consumers did not \
                 have goes, the oldest first: {count} records so far, the last of them sequence {}. What keeps the \
                 consumers, MQTT's broker or its network, or the disk, has to be put right",
                pruned.up_to
            )
        } else if self.now() && pruned.undelivered == 0 && pruned.healed {
            self.told = 0;
            format!("no more undelivered records are dropped; since the journal began it were {count}")
        } else {
            return None;
        };
        Some(Event::now(EventKind::UndeliveredDropped, None, message))
    }
}

/// Inserts records; the newest sequence.
fn insert(tx: &Connection, mut latest: u64, batch: &[Prepared]) -> rusqlite::Result<u64> {
    let mut insert =
        tx.prepare_cached("INSERT INTO record(kind, station, body, time, part) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for record in batch {
        let part = record.part.map(|part| part as i64);
        latest = insert.insert((record.kind, &record.station, &record.body, record.time_ms, part))? as u64;
    }
    Ok(latest)
}

/// Names this start of the machine; empty where the kernel does not tell.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
