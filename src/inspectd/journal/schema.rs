//! The journal's tables, their version, and how an older journal becomes today's.
//!
//! A migration is one transaction: a stop in between, or a disk that is full, leaves the older journal whole.
//!
//! Never here: going back to an older version; opening a newer one.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::JournalError;
use super::connection::failure;

/// Version of the tables. A newer one is refused, an older one brought up to it.
pub const SCHEMA: u64 = 2;

/// `time`: of the record, Unix milliseconds, NULL where it has none. `part`: of an inspection.
pub(super) const TABLES: &str = "
    CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE record(
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL, station TEXT, body TEXT NOT NULL, time INTEGER, part INTEGER);
    CREATE TABLE station(name TEXT PRIMARY KEY, part INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE cursor(name TEXT PRIMARY KEY, sequence INTEGER NOT NULL) WITHOUT ROWID;";

/// What takes version 1 to 2, 2 to 3, …: each writes its version.
const STEPS: [&str; SCHEMA as usize - 1] = ["
    ALTER TABLE record ADD COLUMN time INTEGER;
    ALTER TABLE record ADD COLUMN part INTEGER;
    UPDATE record SET
        time = CAST(round(1000 * unixepoch(
            CASE kind WHEN 'inspection' THEN body ->> '$.trigger.accepted' ELSE body ->> '$.time' END,
            'subsec')) AS INTEGER),
        part = CASE kind WHEN 'inspection' THEN body ->> '$.part' END
    WHERE json_valid(body);
    DELETE FROM meta WHERE key = 'rows';
    UPDATE meta SET value = '2' WHERE key = 'schema';"];

/// The journal's version.
///
/// Errors: [`JournalError::NewerSchema`], [`JournalError::Corrupt`] where it is no version at all.
pub(super) fn version(conn: &Connection, path: &Path) -> Result<u64, JournalError> {
    let got = meta(conn, "schema").map_err(|e| failure(path, e))?;
    match got.parse::<u64>() {
        Ok(got) if got > SCHEMA => Err(JournalError::NewerSchema { path: path.to_owned(), got }),
        Ok(got) if got > 0 => Ok(got),
        _ => Err(JournalError::Corrupt {
            path: path.to_owned(),
            reason: format!("meta field `schema`: expected 1 to {SCHEMA}, got `{got}`"),
        }),
    }
}

/// Brings the tables from version `from` up to [`SCHEMA`].
///
/// Errors: SQLite's; the journal is as it was.
pub(super) fn migrate(conn: &mut Connection, from: u64) -> rusqlite::Result<()> {
    if from >= SCHEMA {
        return Ok(());
    }
    tracing::info!(from, to = SCHEMA, "the journal is brought to a newer version; a large one takes minutes");
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in STEPS.iter().skip(from.saturating_sub(1) as usize) {
        tx.execute_batch(step)?;
    }
    tx.commit()
}

/// A field of the meta table.
pub(super) fn meta(conn: &Connection, key: &str) -> rusqlite::Result<String> {
    conn.query_row("SELECT value FROM meta WHERE key = ?1", [key], |r| r.get(0))
}

/// A count in the meta table; 0 where there is none.
pub(super) fn meta_count(conn: &Connection, key: &str) -> rusqlite::Result<u64> {
    let value: Option<String> =
        conn.query_row("SELECT value FROM meta WHERE key = ?1", [key], |r| r.get(0)).optional()?;
    Ok(value.and_then(|value| value.parse().ok()).unwrap_or(0))
}

/// Writes a field of the meta table.
pub(super) fn set_meta(conn: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO meta(key, value) VALUES (?1, ?2)")?
        .execute((key, value))
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables of version 1, as they were.
    const VERSION_1: &str = "
        CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
        CREATE TABLE record(
            sequence INTEGER PRIMARY KEY AUTOINCREMENT,
            kind TEXT NOT NULL, station TEXT, body TEXT NOT NULL);
        CREATE TABLE station(name TEXT PRIMARY KEY, part INTEGER NOT NULL) WITHOUT ROWID;
        CREATE TABLE cursor(name TEXT PRIMARY KEY, sequence INTEGER NOT NULL) WITHOUT ROWID;
        INSERT INTO meta VALUES ('schema', '1'), ('journal', '8c4f9a36-1d5c-4b0e-9b53-0c1fb2a0f1aa'),
            ('clean', '1'), ('boot', ''), ('rows', '2003');
        INSERT INTO station VALUES ('a', 2000);
        INSERT INTO cursor VALUES ('mqtt', 7);";
    const RECORDS: u64 = 2_003;

    fn version_1(path: &Path) -> Connection {
        let conn = Connection::open(path).unwrap();
        conn.pragma_update(None, "journal_mode", "WAL").unwrap();
        conn.execute_batch(VERSION_1).unwrap();
        conn.execute_batch("BEGIN").unwrap();
        let filler = "x".repeat(100);
        let mut add = conn.prepare("INSERT INTO record(kind, station, body) VALUES (?1, 'a', ?2)").unwrap();
        for part in 1..=2_000 {
            let time = format!("2026-07-0{}T12:00:00.{:03}Z", part / 300 + 1, part);
            let body = format!(r#"{{"part":{part},"trigger":{{"accepted":"{time}"}},"x":"{filler}"}}"#);
            add.execute(("inspection", body)).unwrap();
        }
        add.execute(("event", r#"{"time":"1970-01-01T00:00:01.5Z"}"#)).unwrap();
        add.execute(("event", "no JSON")).unwrap();
        add.execute(("event", r#"{"time":"never"}"#)).unwrap();
        drop(add);
        conn.execute_batch("COMMIT").unwrap();
        conn
    }

    fn rows(conn: &Connection) -> Vec<(u64, Option<i64>, Option<i64>)> {
        let mut select = conn.prepare("SELECT sequence, time, part FROM record ORDER BY sequence").unwrap();
        let rows = select.query_map([], |r| Ok((r.get::<_, i64>(0)? as u64, r.get(1)?, r.get(2)?))).unwrap();
        rows.map(Result::unwrap).collect()
    }

    #[test]
    fn times_and_parts_come_out_of_the_records() {
        let dir = tempfile::tempdir().unwrap();
        let mut conn = version_1(&dir.path().join("j.db"));
        migrate(&mut conn, 1).unwrap();
        assert_eq!(version(&conn, dir.path()).unwrap(), SCHEMA);
        let rows = rows(&conn);
        assert_eq!(rows.len() as u64, RECORDS);
        let time: jiff::Timestamp = "2026-07-01T12:00:00.007Z".parse().unwrap();
        assert_eq!(rows[6], (7, Some(time.as_millisecond()), Some(7)));
        assert_eq!(rows[2_000..], [(2_001, Some(1_500), None), (2_002, None, None), (2_003, None, None)]);
        let shape = |sql: &str| {
            let conn = Connection::open_in_memory().unwrap();
            conn.execute_batch(sql).unwrap();
            columns(&conn)
        };
        assert_eq!(columns(&conn), shape(TABLES), "a migrated journal has the tables of a new one");
    }

    fn columns(conn: &Connection) -> Vec<(String, String)> {
        let mut select = conn.prepare("SELECT name, type FROM pragma_table_info('record')").unwrap();
        let rows = select.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    }

    #[test]
    fn an_interrupted_migration_leaves_version_1_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j.db");
        let mut conn = version_1(&path);
        // Killed: the files as they lie on the disk with everything written and nothing committed.
        let cut = dir.path().join("cut.db");
        conn.pragma_update(None, "cache_size", "10").unwrap();
        let wal = || std::fs::metadata(dir.path().join("j.db-wal")).unwrap().len();
        let before = wal();
        let tx = conn.transaction().unwrap();
        tx.execute_batch(STEPS[0]).unwrap();
        assert!(wal() > before, "the transaction stands in the file, or nothing is shown");
        std::fs::copy(&path, &cut).unwrap();
        std::fs::copy(dir.path().join("j.db-wal"), dir.path().join("cut.db-wal")).unwrap();
        tx.rollback().unwrap();
        // The disk was full.
        let full =
            |conn: &Connection, pages: &str| conn.pragma_update(None, "max_page_count", pages).unwrap();
        full(&conn, "1");
        let error = migrate(&mut conn, 1).unwrap_err();
        assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DiskFull));
        full(&conn, "1000000");
        for mut conn in [conn, Connection::open(cut).unwrap()] {
            assert_eq!(version(&conn, dir.path()).unwrap(), 1);
            assert_eq!(columns(&conn).len(), 4);
            migrate(&mut conn, 1).unwrap();
            assert_eq!(rows(&conn).len() as u64, RECORDS);
        }
    }
}
