//! The daemon's end of the socket.
//!
//! A file left behind by a dead daemon is removed; one that a living daemon answers at is left alone, and this one does not
//! start. Few clients are served at once and each within a second, so that nobody can hold the daemon up.
//!
//! Never here: what is answered ([`super::gather`], [`crate::supervise`]).

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::gather::Shown;
use super::{Answer, Ask, MAX_REQUEST_BYTES, RELOAD_LIMIT, ReloadOutcome, SOCKET, StatusError};

/// Clients served at once; more are told to come again.
const MOST_CLIENTS: usize = 4;
/// A request must be there within this time, and its answer be taken.
const WITHIN: Duration = Duration::from_secs(1);
/// Pause after a connection could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Who may ask: the daemon's user and group.
const MODE: u32 = 0o660;

/// Somebody asks for a reload; where the outcome goes.
pub type ReloadAsk = oneshot::Sender<ReloadOutcome>;

/// A socket that is served. Dropped, it is gone.
pub struct StatusServer {
    socket: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for StatusServer {
    fn drop(&mut self) {
        self.task.abort();
        // Gone already where somebody cleared the folder.
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl StatusServer {
    /// Serves the socket in `run_dir`, which is made where it is not there.
    ///
    /// Errors: [`StatusError::InUse`], [`StatusError::Io`].
    pub fn start(
        run_dir: &Path,
        shown: Arc<Shown>,
        reloads: mpsc::Sender<ReloadAsk>,
    ) -> Result<Self, StatusError> {
        let socket = run_dir.join(SOCKET);
        let io = |source| StatusError::Io { socket: socket.clone(), source };
        std::fs::create_dir_all(run_dir).map_err(io)?;
        if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
            return Err(StatusError::InUse { socket });
        }
        // Made under another name, so that nobody gets in before its mode is right.
        let new = run_dir.join(format!("{SOCKET}.{}", std::process::id()));
        let _ = std::fs::remove_file(&new); // of a dead process that had our number
        let listener = UnixListener::bind(&new).map_err(io)?;
        std::fs::set_permissions(&new, Permissions::from_mode(MODE)).map_err(io)?;
        std::fs::rename(&new, &socket).map_err(io)?;
        let task = tokio::spawn(accept(listener, shown, reloads));
        Ok(Self { socket, task })
    }

    /// Where it is.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

async fn accept(listener: UnixListener, shown: Arc<Shown>, reloads: mpsc::Sender<ReloadAsk>) {
    let places = Arc::new(Semaphore::new(MOST_CLIENTS));
    let mut failing = false;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "the status socket cannot accept connections");
                }
                failing = true;
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        failing = false;
        // Closed where there is no place: whoever asks sees that no answer came.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (shown, reloads) = (Arc::clone(&shown), reloads.clone());
        tokio::spawn(async move {
            serve(stream, &shown, &reloads).await;
            drop(place);
        });
    }
}

async fn serve(stream: UnixStream, shown: &Shown, reloads: &mpsc::Sender<ReloadAsk>) {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut request = BufReader::new(read.take(MAX_REQUEST_BYTES));
    let Ok(Ok(_)) = timeout(WITHIN, request.read_line(&mut line)).await else { return };
    let answer = match serde_json::from_str(&line) {
        Ok(Ask::Status) => Answer::Status(Box::new(shown.gather().await)),
        Ok(Ask::Reload) => reload(reloads).await,
        Err(error) => {
            let expected = "expected one line, {\"ask\":\"status\"} or {\"ask\":\"reload\"}";
            Answer::Refused { why: format!("{expected}: {error}") }
        }
    };
    let Ok(mut text) = serde_json::to_string(&answer) else { return };
    text.push('\n');
    // Whoever asked may have gone.
    let _ = timeout(WITHIN, write.write_all(text.as_bytes())).await;
}

async fn reload(reloads: &mpsc::Sender<ReloadAsk>) -> Answer {
    let refused = |why: &str| Answer::Refused { why: why.to_owned() };
    let (reply, outcome) = oneshot::channel();
    if reloads.try_send(reply).is_err() {
        return refused(
            "another reload is under way, or the daemon is stopping; ask again when it has ended",
        );
    }
    match timeout(RELOAD_LIMIT, outcome).await {
        Ok(Ok(outcome)) => Answer::Reload(outcome),
        Ok(Err(_)) => refused("the daemon is starting or stopping; ask again"),
        Err(_) => refused("the reload has not ended in time: inspectd status tells what it came to"),
    }
}
