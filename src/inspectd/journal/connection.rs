//! How SQLite is connected to the journal's file, and what its failures mean.
//!
//! Every connection has `NO_CKPT_ON_CLOSE` set: closing one after the files were put aside would otherwise
//! delete the `-wal` of the new journal, which has the same name.
//!
//! Never here: statements.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::JournalError;

/// How long another process's lock is waited for.
const BUSY_LIMIT: Duration = Duration::from_secs(2);

/// Opens a connection that never checkpoints or deletes when it is closed.
pub(super) fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.busy_timeout(BUSY_LIMIT)?;
    Ok(conn)
}

/// Whether the file itself is the trouble, and not the disk or another process.
fn is_corrupt(error: &rusqlite::Error) -> bool {
    use ErrorCode::*;
    match error {
        rusqlite::Error::SqliteFailure(e, words) => match e.code {
            DatabaseCorrupt | NotADatabase | ConstraintViolation | TypeMismatch => true,
            // The general code: only what says that the tables are not ours.
            Unknown => words.as_deref().is_some_and(|w| w.starts_with("no such") || w.contains("malformed")),
            _ => false,
        },
        rusqlite::Error::QueryReturnedNoRows
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::Utf8Error(..)
        | rusqlite::Error::InvalidColumnType(..) => true,
        rusqlite::Error::SqlInputError { msg, .. } => msg.starts_with("no such") || msg.contains("malformed"),
        _ => false,
    }
}

/// A SQLite failure as the journal's.
pub(super) fn failure(path: &Path, error: rusqlite::Error) -> JournalError {
    let path = path.to_owned();
    if is_corrupt(&error) {
        JournalError::Corrupt { path, reason: error.to_string() }
    } else {
        JournalError::Sqlite { path, source: error }
    }
}
