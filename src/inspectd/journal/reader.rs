//! Reading the journal: a read-only connection of its own, so that readers never hold up the writer. Also those put
//! aside, and those of older versions.
//!
//! Never here: writing, cursors' movement (see [`super::Journal::set_cursor`]).

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};
use uuid::Uuid;

use super::JournalError;
use super::connection::{connect, failure};
use super::schema::{self, meta};
use super::store;

/// One record as the journal holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number in this journal.
    pub sequence: u64,
    /// `inspection` or `event`.
    pub kind: String,
    /// Station that it is about.
    pub station: Option<String>,
    /// The record's JSON.
    pub json: String,
}

impl Entry {
    /// The record with its place in the journal put before its own fields, as it is published. `None`: it is no JSON
    /// object.
    pub fn published(&self, journal: Uuid) -> Option<Vec<u8>> {
        let fields = self.json.strip_prefix('{')?;
        let comma = if fields.starts_with('}') { "" } else { "," };
        let sequence = self.sequence;
        Some(format!("{{\"journal\":\"{journal}\",\"sequence\":{sequence}{comma}{fields}").into_bytes())
    }
}

/// Which records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Of this kind only: `inspection` or `event`.
    pub kind: Option<String>,
    /// About this station only.
    pub station: Option<String>,
}

/// A read-only view of one journal. It stays with its file if that is put aside.
pub struct JournalReader {
    conn: Connection,
    path: PathBuf,
    uuid: Uuid,
}

const COLUMNS: &str = "SELECT sequence, kind, station, body FROM record
    WHERE (?1 IS NULL OR kind = ?1) AND (?2 IS NULL OR station = ?2)";

impl JournalReader {
    /// Opens the journal in `dir`.
    ///
    /// Errors: [`JournalError`], `Corrupt` among them.
    pub fn open(dir: &Path) -> Result<Self, JournalError> {
        Self::open_file(&dir.join(store::FILE))
    }

    /// Opens a journal by its file, such as one that was put aside.
    ///
    /// Errors: [`JournalError`], `Corrupt` among them.
    pub fn open_file(path: &Path) -> Result<Self, JournalError> {
        let mut reader = Self::open_damaged(path)?;
        let fail = |e| failure(path, e);
        schema::version(&reader.conn, path)?;
        reader.uuid = Uuid::parse_str(&meta(&reader.conn, "journal").map_err(fail)?).map_err(|e| {
            JournalError::Corrupt { path: path.to_owned(), reason: format!("meta field `journal`: {e}") }
        })?;
        Ok(reader)
    }

    /// The same of one that is damaged: records may be readable where its name and version are not.
    ///
    /// Errors: [`JournalError`], where not even a connection can be had, or its version is a newer one.
    pub fn open_damaged(path: &Path) -> Result<Self, JournalError> {
        let conn = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|e| failure(path, e))?;
        if let Err(error @ JournalError::NewerSchema { .. }) = schema::version(&conn, path) {
            return Err(error);
        }
        let uuid = meta(&conn, "journal").ok().and_then(|uuid| Uuid::parse_str(&uuid).ok());
        Ok(Self { conn, path: path.to_owned(), uuid: uuid.unwrap_or_default() })
    }

    /// The journal's name; nil where it is damaged so that it cannot be read.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For this module's checks.
    pub(super) fn connection(&self) -> &Connection {
        &self.conn
    }

    /// The first `limit` records after `sequence`, in order.
    ///
    /// Errors: [`JournalError::Corrupt`], [`JournalError::Sqlite`].
    pub fn after(&self, sequence: u64, limit: usize) -> Result<Vec<Entry>, JournalError> {
        self.chosen_after(&Choice::default(), sequence, limit)
    }

    /// The first `limit` of these records after `sequence`, in order.
    ///
    /// Errors: [`JournalError::Corrupt`], [`JournalError::Sqlite`].
    pub fn chosen_after(&self, of: &Choice, sequence: u64, limit: usize) -> Result<Vec<Entry>, JournalError> {
        let sequence = i64::try_from(sequence).unwrap_or(i64::MAX);
        self.select(&format!("{COLUMNS} AND sequence > ?3 ORDER BY sequence LIMIT ?4"), of, sequence, limit)
    }

    /// The newest `limit` of these records, in order.
    ///
    /// Errors: [`JournalError::Corrupt`], [`JournalError::Sqlite`].
    pub fn newest(&self, of: &Choice, limit: usize) -> Result<Vec<Entry>, JournalError> {
        let sql = format!("{COLUMNS} AND sequence <= ?3 ORDER BY sequence DESC LIMIT ?4");
        let mut entries = self.select(&sql, of, i64::MAX, limit)?;
        entries.reverse();
        Ok(entries)
    }

    fn select(&self, sql: &str, of: &Choice, at: i64, limit: usize) -> Result<Vec<Entry>, JournalError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let read = || {
            let mut select = self.conn.prepare_cached(sql)?;
            let rows = select.query_map((&of.kind, &of.station, at, limit), entry)?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|e| failure(&self.path, e))
    }

    /// The oldest and the newest sequence; `None` where there is no record.
    ///
    /// Errors: [`JournalError::Corrupt`], [`JournalError::Sqlite`].
    pub fn ends(&self) -> Result<Option<(u64, u64)>, JournalError> {
        let ends = "SELECT (SELECT min(sequence) FROM record), (SELECT max(sequence) FROM record)";
        let read =
            self.conn.query_row(ends, [], |r| Ok((r.get::<_, Option<i64>>(0)?, r.get::<_, Option<i64>>(1)?)));
        let (first, last) = read.map_err(|e| failure(&self.path, e))?;
        Ok(first.zip(last).map(|(first, last)| (first as u64, last as u64)))
    }

    /// How far a consumer got; `None` if it is not known here.
    ///
    /// Errors: [`JournalError::Corrupt`], [`JournalError::Sqlite`].
    pub fn cursor(&self, consumer: &str) -> Result<Option<u64>, JournalError> {
        self.conn
            .query_row("SELECT sequence FROM cursor WHERE name = ?1", [consumer], |r| r.get::<_, i64>(0))
            .optional()
            .map(|found| found.map(|sequence| sequence as u64))
            .map_err(|e| failure(&self.path, e))
    }
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        sequence: row.get::<_, i64>(0)? as u64,
        kind: row.get(1)?,
        station: row.get(2)?,
        json: row.get(3)?,
    })
}
