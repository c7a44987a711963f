//! What the daemon says of itself on a local socket: `inspectd status` and `inspectd reload` ask there.
//!
//! Terms. The *socket* is [`SOCKET`] in [`crate::config::Config::run_dir`], readable by the daemon's user and group. One
//! line of JSON goes each way, [`Ask`] and [`Answer`], then the connection ends. A *trouble* is what a person should know
//! first: what is wrong, and what to do.
//!
//! Never here: anything on the line's way; commands that judge, pass or stop parts.

pub mod gather;
pub mod page;
mod process;
pub mod server;
pub mod trouble;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, schema_for};
use serde::{Deserialize, Serialize};

use crate::record::State;
use crate::station::in_service::RENEW_LIMIT;
pub use process::{Disk, Process};

/// The socket's name in the daemon's folder in memory.
pub const SOCKET: &str = "status.sock";
/// Longest request.
pub const MAX_REQUEST_BYTES: u64 = 4 * 1024;
/// Longest answer.
pub const MAX_ANSWER_BYTES: u64 = 4 * 1024 * 1024;
/// How long the answer to [`Ask::Status`] may take.
pub const STATUS_LIMIT: Duration = Duration::from_secs(5);
/// How long the answer to [`Ask::Reload`] may take: models load meanwhile.
pub const RELOAD_LIMIT: Duration = RENEW_LIMIT.saturating_add(Duration::from_secs(60));
/// Version of the JSON of [`Answer`].
pub const STATUS_SCHEMA: u32 = 1;

/// Why there is no answer, or no socket.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nobody listens.
    #[error(
        "no inspectd answers at {socket}: {source}; is it running (systemctl status inspectd), and is the path its run_dir's?"
    )]
    Nobody {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The connection broke or took too long.
    #[error("{socket}: {source}; the daemon may hang: journalctl -u inspectd")]
    Io {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What came is no answer.
    #[error(
        "{socket}: expected an answer of status schema {STATUS_SCHEMA}: {reason}; is this another version of inspectd?"
    )]
    Answer {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another daemon has the socket.
    #[error("{socket} is another running inspectd's; stop that one, or give this one its own run_dir")]
    InUse {
        /// The socket.
        socket: PathBuf,
    },
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// How is everything?
    Status,
    /// Read the configuration, look at the model files, take what has changed and is good. What SIGHUP does.
    Reload,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// To [`Ask::Status`].
    Status(Box<DaemonStatus>),
    /// To [`Ask::Reload`].
    Reload(ReloadOutcome),
    /// To what cannot be answered.
    Refused {
        /// Why, and what was expected.
        why: String,
    },
}

/// All that the daemon knows of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DaemonStatus {
    /// [`STATUS_SCHEMA`].
    pub schema: u32,
    /// Version of inspectd.
    pub version: String,
    /// When this was true.
    pub time: Timestamp,
    /// When the process started.
    pub started: Timestamp,
    /// Seconds since then.
    pub uptime_s: u64,
    /// Its configuration file.
    pub config: PathBuf,
    /// Whether every station is ready.
    pub ready: bool,
    /// What the daemon is doing.
    pub phase: Phase,
    /// What it waits for, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// What is wrong and what to do, the worst first.
    pub troubles: Vec<Trouble>,
    /// Each station.
    pub stations: Vec<StationStatus>,
    /// Each scorer, with its model file.
    pub scorers: Vec<ScorerStatus>,
    /// None before it is open.
    pub journal: Option<JournalStatus>,
    /// None where nothing is published.
    pub mqtt: Option<MqttLink>,
    /// None before it is open.
    pub archive: Option<ArchiveStatus>,
    /// None before the journal is open.
    pub audit: Option<AuditStatus>,
    /// Each port that PLCs connect to.
    pub modbus: Vec<PortStatus>,
    /// Where the journal lies. None where that disk does not answer.
    pub disk: Option<Disk>,
    /// What the process holds.
    pub process: Process,
    /// The last SIGHUP or `inspectd reload`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reload: Option<ReloadOutcome>,
}

/// What the daemon is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Not everything is open yet.
    Starting,
    /// Everything is started.
    Running,
    /// It stops, and starts anew with another configuration.
    Reloading,
    /// It ends.
    Stopping,
}

/// What is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Trouble {
    /// The station that it keeps from inspecting, if one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub station: Option<String>,
    /// The fault code that the PLC reads, if one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub action: String,
    /// More about it, from where it arose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A station.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StationStatus {
    /// What it publishes of itself.
    pub state: State,
    /// The number of its fault, as the PLC reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault_code: Option<u16>,
    /// Whether its loop turns.
    pub turns: bool,
    /// Each view's camera.
    pub cameras: Vec<CameraStatus>,
}

/// A camera or a scorer, as far as it can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// For the first time.
    Starting,
    /// In order.
    Up,
    /// Not there; it is tried again.
    Away,
    /// A call does not come back.
    Stuck,
}

impl Standing {
    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Away => "away",
            Self::Stuck => "stuck",
        }
    }
}

/// A camera.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CameraStatus {
    /// Its view.
    pub view: String,
    /// Whether it can be asked.
    pub standing: Standing,
    /// Seconds since that changed.
    pub for_s: u64,
    /// Why it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Threads left behind in calls that do not come back.
    pub threads_left_behind: usize,
    /// So many hang that no further one tries: the daemon will end itself.
    pub given_up: bool,
}

/// A scorer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScorerStatus {
    /// Its model file.
    pub model: PathBuf,
    /// Name on the model's card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// SHA-256 of the file that it loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Views that look with it; 0: it is kept warm.
    pub users: usize,
    /// Whether it can be asked.
    pub standing: Standing,
    /// Seconds since that changed; none before it was loaded for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_s: Option<u64>,
    /// Why it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JournalStatus {
    /// Its directory.
    pub dir: PathBuf,
    /// Its UUID.
    pub journal: String,
    /// Newest sequence on the disk.
    pub sequence: u64,
    /// Inspections that wait for the disk.
    pub queued: usize,
    /// Most that can wait.
    #[serde(default)]
    pub places: usize,
    /// Events that found no place since the start.
    pub dropped_events: u64,
    /// Damaged journals put aside since the start.
    pub quarantined: u32,
    /// Why it cannot be written now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The link to the broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MqttLink {
    /// Connected.
    pub connected: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Sequence up to which the broker has everything.
    pub delivered: u64,
    /// Sequences in the journal that it does not have yet.
    pub backlog: u64,
    /// Connections made since the start.
    pub connections: u64,
}

/// Pictures of parts, since the start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ArchiveStatus {
    /// Parts written.
    pub written: u64,
    /// Parts left out because the disk was too slow.
    pub dropped: u64,
    /// Parts that could not be written.
    pub failed: u64,
    /// Parts removed to keep the bounds.
    pub deleted: u64,
    /// Bytes that lie there, as far as they are known: a start takes stock beside the line.
    pub bytes: u64,
    /// Why pictures are left out now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The audit trail, as far as the daemon has met it: at its start, and with each line that it writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditStatus {
    /// In what it is not as it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<String>,
    /// Why it could not be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A port that PLCs connect to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PortStatus {
    /// Address and port.
    pub listen: String,
    /// Whether a station shows itself as an In-Sight camera there.
    pub as_in_sight: bool,
    /// Addresses of the clients connected now.
    pub clients: Vec<String>,
    /// Connections that were closed since the start because their address is not on the list.
    pub refused: u64,
}

/// What a look at the configuration and the model files came to. Both empty: nothing had changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReloadOutcome {
    /// When it ended.
    pub time: Timestamp,
    /// What is in service now.
    pub taken: Vec<String>,
    /// What was refused, and why; all of that stays as it was.
    pub refused: Vec<String>,
}

/// The JSON Schema of an answer, as it stands in `deploy/schema/`.
pub fn schema() -> Schema {
    let mut schema = schema_for!(Answer);
    schema.insert("title".to_owned(), "inspectd answer on status.sock".into());
    schema
}

/// Asks the daemon that listens at `socket`; blocks for at most [`STATUS_LIMIT`] or [`RELOAD_LIMIT`].
///
/// Errors: [`StatusError`].
pub fn ask(socket: &Path, ask: &Ask) -> Result<Answer, StatusError> {
    let path = || socket.to_owned();
    let io = |source| StatusError::Io { socket: path(), source };
    let wrong = |reason: String| StatusError::Answer { socket: path(), reason };
    let limit = if *ask == Ask::Reload { RELOAD_LIMIT } else { STATUS_LIMIT };
    let mut stream =
        UnixStream::connect(socket).map_err(|source| StatusError::Nobody { socket: path(), source })?;
    stream.set_read_timeout(Some(limit)).map_err(io)?;
    stream.set_write_timeout(Some(STATUS_LIMIT)).map_err(io)?;
    let request = serde_json::to_string(ask).map_err(|e| wrong(e.to_string()))?;
    writeln!(stream, "{request}").map_err(io)?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_ANSWER_BYTES)).read_line(&mut line).map_err(io)?;
    serde_json::from_str(&line).map_err(|e| wrong(e.to_string()))
}
