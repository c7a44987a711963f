//! Reading the journal: a read-only connection of its own, so that readers never hold up the writer.
//!
//! Never here: writing, cursors' movement (see [`super::Journal::set_cursor`]).

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use uuid::Uuid;

use super::JournalError;
use super::store::{self, SCHEMA, connect, failure, meta};

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

/// A read-only view of one journal. It stays with its file if that is put aside.
pub struct JournalReader {
    conn: Connection,
    path: PathBuf,
    uuid: Uuid,
}

impl JournalReader {
    /// Opens the journal in `dir`.
    ///
    /// Errors: [`JournalError`], `Corrupt` among them.
    pub fn open(dir: &Path) -> Result<Self, JournalError> {
        let path = dir.join(store::FILE);
        let fail = |e| failure(&path, e);
        let conn = connect(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(fail)?;
        let schema = meta(&conn, "schema").map_err(fail)?;
        if let Some(got) = schema.parse().ok().filter(|&got| got > SCHEMA) {
            return Err(JournalError::NewerSchema { path, got });
        }
        let uuid = Uuid::parse_str(&meta(&conn, "journal").map_err(fail)?).map_err(|e| {
            JournalError::Corrupt { path: path.clone(), reason: format!("meta field `journal`: {e}") }
        })?;
        Ok(Self { conn, path, uuid })
    }

    /// The journal's name.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// The first `limit` records after `sequence`, in order.
    ///
    /// Errors: [`JournalError::Corrupt`], [`JournalError::Sqlite`].
    pub fn after(&self, sequence: u64, limit: usize) -> Result<Vec<Entry>, JournalError> {
        let read = || {
            let mut select = self.conn.prepare_cached(
                "SELECT sequence, kind, station, body FROM record WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
            )?;
            let rows = select.query_map((sequence as i64, limit as i64), |r| {
                Ok(Entry {
                    sequence: r.get::<_, i64>(0)? as u64,
                    kind: r.get(1)?,
                    station: r.get(2)?,
                    json: r.get(3)?,
                })
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|e| failure(&self.path, e))
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
