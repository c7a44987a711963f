//! Starting with things missing.
//!
//! What is missing, and what is done:
//!
//! - A camera, a model, a broker, a PLC: each is tried again by its own part; the daemon is up.
//! - The journal (a full disk, one that fails): registers are served and say reject, each part is a fault, until it opens.
//! - The Modbus address is not this machine's: said at once in the log. At a start it is tried again for ever, because the
//!   network port may come up after the daemon; in a reload it is refused.
//! - The Modbus port is taken: tried again for [`IN_USE_LIMIT`], since the one that had it may be just ending, then
//!   refused. A port whose last connections are not forgotten yet (TIME_WAIT) is not taken: it is opened for reuse.
//! - Anything else (no right to the port, a journal of a newer version): refused at once.
//!
//! Never here: what is opened ([`crate::daemon`], [`crate::front`]).

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use inspect_core::verdict::FaultCode;
use tokio::time::sleep;

use super::notify;
use crate::config::Config;
use crate::daemon::{Daemon, DaemonError, OpenView, Store};
use crate::front::Front;
use crate::plc::server::ServerError;
use crate::scorers::Scorers;
use crate::status::Phase;
use crate::status::gather::Shown;

/// How long what somebody else still holds (a port, the journal) is tried, where it is not tried for ever.
const IN_USE_LIMIT: Duration = Duration::from_secs(5);
/// First and longest pause between two tries.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// See [`RETRY_FIRST`].
const RETRY_MOST: Duration = Duration::from_secs(2);

/// What is started.
pub(super) struct Start<'a> {
    pub config: &'a Config,
    pub camera: &'a OpenView,
    pub scorers: &'a Arc<Scorers>,
    pub shown: &'a Shown,
    /// Whether what heals by itself is tried for ever; else it is refused.
    pub patient: bool,
}

impl Start<'_> {
    /// Starts.
    ///
    /// Errors: [`DaemonError`].
    pub async fn run(self) -> Result<Daemon, DaemonError> {
        let mut front = self.front().await?;
        if self.patient {
            notify::ready();
        }
        let store = self.store(&mut front).await?;
        let scorers = Arc::clone(self.scorers);
        let daemon = Daemon::start_behind(self.config, front, store, self.camera, scorers).await?;
        self.shown.running(daemon.look_on());
        Ok(daemon)
    }

    async fn front(&self) -> Result<Front, DaemonError> {
        let (began, mut wait, mut told) = (Instant::now(), RETRY_FIRST, false);
        loop {
            let error = match Front::open(self.config).await {
                Ok(front) => return Ok(front),
                Err(error) => error,
            };
            let ServerError::Listen { source, .. } = &error;
            let worth = match source.kind() {
                ErrorKind::AddrInUse => began.elapsed() < IN_USE_LIMIT,
                ErrorKind::AddrNotAvailable => self.patient,
                _ => false,
            };
            if !worth {
                return Err(error.into());
            }
            let missing = source.kind() == ErrorKind::AddrNotAvailable;
            if missing && !told {
                told = true;
                tracing::error!(%error, "trying again: is this the machine's address, and its network port up?");
                notify::ready();
            }
            self.shown.phase(Phase::Starting, Some(error.to_string()));
            sleep(wait).await;
            wait = (wait * 2).min(RETRY_MOST);
        }
    }

    async fn store(&self, front: &mut Front) -> Result<Store, DaemonError> {
        let (mut code, mut wait, mut told) = (FaultCode::Starting, RETRY_FIRST, None);
        let began = Instant::now();
        loop {
            let config = self.config.clone();
            let opening = tokio::task::spawn_blocking(move || Store::open(&config));
            let opened = tokio::select! {
                opened = opening => opened,
                never = front.reject_parts(code) => match never {},
            };
            let error = match opened {
                Ok(Ok(store)) if self.patient => return Ok(store),
                Ok(Ok(store)) => return proven(store).await,
                Ok(Err(error)) => error,
                Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
            };
            if !error.heals() || (!self.patient && began.elapsed() >= IN_USE_LIMIT) {
                return Err(error);
            }
            let text = error.to_string();
            if told.as_ref() != Some(&text) {
                tracing::error!(
                    error = text,
                    "the journal does not open: every part is rejected; trying again"
                );
            }
            self.shown.phase(Phase::Starting, Some(text.clone()));
            told = Some(text);
            code = FaultCode::JournalFull;
            front.say(code);
            tokio::select! {
                () = sleep(wait) => {}
                never = front.reject_parts(code) => match never {},
            }
            wait = (wait * 2).min(RETRY_MOST);
        }
    }
}

/// The store, if it can be written: one that cannot at a start may heal, one that cannot in a reload is a mistake.
async fn proven(store: Store) -> Result<Store, DaemonError> {
    let error = store.journal.health().borrow().error.clone();
    let Some(reason) = error else { return Ok(store) };
    let closing = tokio::task::spawn_blocking(move || {
        store.archive.close();
        store.journal.close()
    });
    if let Ok(Err(error)) = closing.await {
        tracing::error!(%error, "journal not closed in order");
    }
    Err(DaemonError::Unwritable(reason))
}
