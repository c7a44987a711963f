//! MQTT: publishes the journal from a cursor that moves on only when the broker has acknowledged.
//!
//! Terms. *Delivered* is a record that the broker acknowledged, and all before it. *Backlog* is what is
//! committed and not delivered. A *connection* is one client with one event loop of rumqttc; after any
//! failure both are thrown away and new ones go on from the cursor, so that nothing depends on what the
//! client or the broker remember. A record may then come twice: (journal, sequence) tells.
//!
//! Topics, all QoS 1, under the prefix (enterprise/site/area/line/cell):
//! - `status`, retained: [`Status`] on every connection, by last will when it is lost;
//! - `<station>/inspection`, `event`: the journal's records in order ([`Published`]);
//! - `<station>/state`, retained: [`State`] on every connection and on change, at most every [`STATE_EVERY`].
//!
//! Everything runs on a thread with a runtime of its own: a slow broker or a slow disk costs the line nothing.
//! Nothing is kept in memory for a broker that is away; the journal is the buffer.
//!
//! Never here: subscribing, deciding what is recorded.

mod config;
mod feed;
mod payload;
mod session;
mod tls;
mod window;

use std::hash::{Hash as _, Hasher as _};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use uuid::Uuid;

pub use config::{Credentials, MAX_CREDENTIALS_BYTES, MqttConfig, MqttConfigError};
pub use payload::{Published, Status, StatusWord, schemas};
pub use tls::{MAX_PEM_BYTES, TlsConfig, TlsError};

use crate::clock;
use crate::journal::{Committed, Journal, JournalReader};
use crate::record::State;
pub use session::{Connection, Polled};
use session::{End, Session};

/// The journal's name for how far MQTT got.
pub const CURSOR: &str = "mqtt";
/// Most records published and not yet acknowledged.
pub const RECORD_WINDOW: usize = 100;
/// Most messages of all kinds published and not yet acknowledged.
pub const WINDOW: usize = 200;
/// Most records read from the journal in one go.
pub const READ_BATCH: usize = 64;
/// Largest message. A larger record is skipped and counted: no inspection comes near it.
pub const MAX_MESSAGE_BYTES: usize = 256 << 10;
/// Largest packet that the broker may send: nothing is subscribed to, so it has only to acknowledge.
pub const MAX_INCOMING_BYTES: usize = 4 << 10;
/// Shortest time between two states of one station, except on connecting.
pub const STATE_EVERY: Duration = Duration::from_millis(500);
/// How often states and limits are looked at.
pub const TICK: Duration = Duration::from_millis(50);
/// Connecting, by TCP and MQTT together, takes at most this long.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A message not acknowledged for this long ends the connection.
pub const ACK_LIMIT: Duration = Duration::from_secs(30);
/// First and longest pause before connecting again.
pub const RECONNECT_FIRST: Duration = Duration::from_millis(250);
/// See [`RECONNECT_FIRST`].
pub const RECONNECT_MOST: Duration = Duration::from_secs(10);
/// A connection that lived this long makes the pause short again.
pub const STEADY_AFTER: Duration = Duration::from_secs(10);
/// How long the stored cursor may take to be read at the start; a disk that hangs must not keep states from the broker.
const CURSOR_LIMIT: Duration = Duration::from_secs(1);
/// At a stop: how long the backlog may still be delivered.
pub const STOP_LIMIT: Duration = Duration::from_secs(1);
/// At a stop: how long the last `offline` and the farewell may take after that.
pub const FAREWELL_LIMIT: Duration = Duration::from_millis(500);

/// How MQTT is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MqttStatus {
    /// Connected to the broker.
    pub connected: bool,
    /// Why not.
    pub error: Option<String>,
    /// Sequence up to which the broker acknowledged everything.
    pub delivered: u64,
    /// Committed and not yet delivered (difference of sequences).
    pub backlog: u64,
    /// Connections made since the start.
    pub connections: u64,
    /// Records skipped because they were over [`MAX_MESSAGE_BYTES`].
    pub skipped: u64,
}

/// Makes a connection to the broker; called within a runtime, for each one anew.
pub type Dial = Box<dyn FnMut(rumqttc::MqttOptions) -> Connection + Send>;

/// The running publisher.
pub struct Mqtt {
    stop: watch::Sender<bool>,
    done: oneshot::Receiver<()>,
    status: watch::Receiver<MqttStatus>,
}

impl Mqtt {
    /// Starts publishing, on a thread of its own; goes on trying for ever where no broker answers.
    ///
    /// Errors: [`MqttConfigError`] for settings that cannot work, or if there is no thread to be had.
    pub fn start(
        config: MqttConfig,
        journal: Journal,
        states: Vec<watch::Receiver<State>>,
    ) -> Result<Self, MqttConfigError> {
        if let Some(problem) = config.check().into_iter().next() {
            return Err(MqttConfigError::Setting(problem));
        }
        let (stop, stopping) = watch::channel(false);
        let (status_tx, status) = watch::channel(MqttStatus::default());
        let (done_tx, done) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(2)
            .build()
            .map_err(MqttConfigError::Thread)?;
        let dial = Box::new(session::dial);
        let link = Link {
            config,
            journal,
            states,
            status: status_tx,
            stopping,
            dial,
            delivered: None,
            before: None,
        };
        std::thread::Builder::new()
            .name("mqtt".to_owned())
            .spawn(move || {
                runtime.block_on(link.run());
                // A read of the journal on a dead disk is left behind.
                runtime.shutdown_timeout(FAREWELL_LIMIT);
                let _ = done_tx.send(()); // nobody may be waiting
            })
            .map_err(MqttConfigError::Thread)?;
        Ok(Self { stop, done, status })
    }

    /// The same without a thread and a broker of its own, for simulated time: publishes to whatever `dial` connects
    /// to, until `stopping` says so.
    pub async fn publish(
        config: MqttConfig,
        journal: Journal,
        states: Vec<watch::Receiver<State>>,
        stopping: watch::Receiver<bool>,
        dial: Dial,
    ) {
        let status = watch::Sender::new(MqttStatus::default());
        Link { config, journal, states, status, stopping, dial, delivered: None, before: None }.run().await;
    }

    /// Follows how it is doing.
    pub fn status(&self) -> watch::Receiver<MqttStatus> {
        self.status.clone()
    }

    /// Delivers what it can within [`STOP_LIMIT`], publishes `offline`, disconnects. Close the journal after it.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let limit = STOP_LIMIT + FAREWELL_LIMIT * 3;
        if tokio::time::timeout(limit, self.done).await.is_err() {
            tracing::warn!("MQTT did not stop in time; the broker will publish the last will");
        }
    }
}

/// What outlives connections.
pub(in crate::mqtt) struct Link {
    pub config: MqttConfig,
    pub journal: Journal,
    pub states: Vec<watch::Receiver<State>>,
    pub status: watch::Sender<MqttStatus>,
    pub stopping: watch::Receiver<bool>,
    pub dial: Dial,
    /// How far the broker acknowledged; `None` until the journal's cursor was read.
    pub delivered: Option<Committed>,
    /// How far it had acknowledged before the start, to be shown until it is reached.
    pub before: Option<Committed>,
}

impl Link {
    async fn run(mut self) {
        self.journal.add_consumer(CURSOR);
        let first = *self.journal.committed().borrow();
        self.before = delivered_before(self.journal.clone(), first.journal).await;
        self.show();
        let mut pause = RECONNECT_FIRST;
        loop {
            let began = clock::now();
            let end = Session::run(&mut self).await;
            let was_connected = self.status.borrow().connected;
            match end {
                End::Stopped => {
                    self.status.send_modify(|s| s.connected = false);
                    return;
                }
                End::Lost(error) => self.lost(error, was_connected),
            }
            if was_connected && clock::since(began) >= STEADY_AFTER {
                pause = RECONNECT_FIRST;
            }
            // Spread, so that a hall of boxes does not come back in one moment.
            let spread = pause.mul_f64(0.75 + f64::from(self.spread()) / 512.0);
            tokio::select! {
                biased;
                () = tokio::time::sleep(spread) => {}
                _ = self.stopping.wait_for(|&stop| stop) => return,
            }
            pause = (pause * 2).min(RECONNECT_MOST);
        }
    }

    /// Shows how far the broker is, and what waits for it.
    pub fn show(&self) {
        let now = *self.journal.committed().borrow();
        let delivered = self.delivered.or(self.before).filter(|d| d.journal == now.journal);
        let delivered = delivered.map_or(0, |d| d.sequence);
        let backlog = now.sequence.saturating_sub(delivered);
        self.status.send_if_modified(|status| {
            let before = (status.delivered, status.backlog);
            (status.delivered, status.backlog) = (delivered, backlog);
            before != (delivered, backlog)
        });
    }

    /// A number of its own for each box and connection.
    fn spread(&self) -> u8 {
        let mut hasher = std::hash::DefaultHasher::new();
        (self.config.client_id(), self.status.borrow().connections).hash(&mut hasher);
        hasher.finish() as u8
    }

    /// Logs a lost or failed connection, once for each reason.
    fn lost(&self, error: String, was_connected: bool) {
        let known = self.status.borrow().error.as_ref() == Some(&error);
        if was_connected {
            tracing::warn!(%error, "the MQTT broker is lost; connecting again");
        } else if !known {
            let (host, port) = (&self.config.host, self.config.port());
            tracing::warn!(%error, host, port, "no connection to the MQTT broker; trying again");
        }
        self.status.send_modify(|status| {
            status.connected = false;
            status.error = Some(error);
        });
        self.show(); // what waits grows meanwhile
    }
}

/// The stored cursor, which a broker that is away from the start on does not move.
async fn delivered_before(reads: Journal, journal: Uuid) -> Option<Committed> {
    if reads.is_stepped() {
        return None; // nothing is shown there
    }
    let read = move || JournalReader::open(reads.dir()).ok()?.cursor(CURSOR).ok()?;
    let read = tokio::time::timeout(CURSOR_LIMIT, tokio::task::spawn_blocking(read));
    let sequence = read.await.ok()?.ok()??;
    Some(Committed { journal, sequence })
}
