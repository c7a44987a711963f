//! Whether SQLite finds the journal's file sound: at the start where a power cut may have damaged it, else beside the
//! line, so that nothing waits for it.
//!
//! Never here: whether its records fit together (see [`super::check`]), what is done about damage.

use std::path::Path;
use std::sync::{Weak, mpsc};

use rusqlite::{Connection, ErrorCode, InterruptHandle, OpenFlags};
use uuid::Uuid;

use super::connection::{connect, failure};
use super::inbox::Shared;
use super::{CHECK_LIMIT, JournalError};

/// A check that runs beside the line; broken off when it is dropped.
pub(super) struct Beside(InterruptHandle);

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.interrupt();
    }
}

/// Checks the file, for at most [`CHECK_LIMIT`].
///
/// Errors: [`JournalError::Corrupt`]; what SQLite cannot do.
pub(super) fn check(conn: &Connection, path: &Path) -> Result<(), JournalError> {
    let handle = conn.get_interrupt_handle();
    let (done, waiting) = mpsc::channel::<()>();
    let result = std::thread::scope(|scope| {
        scope.spawn(move || {
            if waiting.recv_timeout(CHECK_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                handle.interrupt();
            }
        });
        let result = quick_check(conn, path);
        drop(done);
        result
    });
    match result {
        Err(JournalError::Sqlite { source, .. }) if was_interrupted(&source) => {
            tracing::warn!(
                limit_s = CHECK_LIMIT.as_secs(),
                "the journal is too large to be checked whole at start"
            );
            Ok(())
        }
        result => result,
    }
}

/// Checks the file of this journal on a thread of its own, and puts it under suspicion if it is damaged.
pub(super) fn check_beside(path: &Path, journal: Uuid, shared: Weak<Shared>) -> Option<Beside> {
    let opened = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY);
    let conn = opened.inspect_err(|error| tracing::warn!(%error, "the journal is not checked")).ok()?;
    let beside = Beside(conn.get_interrupt_handle());
    let path = path.to_owned();
    let check = move || {
        let began = std::time::Instant::now();
        match quick_check(&conn, &path) {
            Ok(()) => tracing::debug!(took_s = began.elapsed().as_secs_f64(), "the journal is sound"),
            Err(JournalError::Corrupt { reason, .. }) => {
                if let Some(shared) = shared.upgrade() {
                    shared.suspect(journal, reason);
                }
            }
            Err(JournalError::Sqlite { source, .. }) if was_interrupted(&source) => {}
            Err(error) => tracing::warn!(%error, "the journal was not checked whole"),
        }
    };
    let spawned = std::thread::Builder::new().name("journal-check".to_owned()).spawn(check);
    spawned.inspect_err(|error| tracing::warn!(%error, "the journal is not checked")).ok().map(|_| beside)
}

fn was_interrupted(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted)
}

fn quick_check(conn: &Connection, path: &Path) -> Result<(), JournalError> {
    match conn.query_row("PRAGMA quick_check(1)", [], |r| r.get::<_, String>(0)) {
        Ok(word) if word == "ok" => Ok(()),
        Ok(reason) => Err(JournalError::Corrupt { path: path.to_owned(), reason }),
        Err(error) => Err(failure(path, error)),
    }
}
