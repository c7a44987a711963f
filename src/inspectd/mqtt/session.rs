//! One connection to the broker, from CONNECT to its end.
//!
//! rumqttc's `poll` loses packets when it is cancelled, so it runs in a task of its own that ends with the
//! connection; this one only ever uses `try_publish`, within [`super::WINDOW`], and never waits on the client.
//!
//! Never here: connecting again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rumqttc::{
    AsyncClient, ConnectReturnCode, EventLoop, LastWill, MqttOptions, NetworkOptions, Outgoing, Packet, QoS,
    TlsConfiguration, Transport,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::feed::{self, Batch};
use super::payload::{Status, Topics};
use super::tls::why;
use super::window::Window;
use super::{
    ACK_LIMIT, CONNECT_LIMIT, CURSOR, FAREWELL_LIMIT, Link, MAX_INCOMING_BYTES, MAX_MESSAGE_BYTES,
    RECORD_WINDOW, STATE_EVERY, STOP_LIMIT, TICK, WINDOW,
};
use crate::clock;
use crate::journal::{Committed, Entry};
use crate::record::State;

/// Events of the client that wait for this task.
const EVENTS: usize = 64;
/// Room in a message beside the payload: topic and headers.
const OVERHEAD_BYTES: usize = 4_096;

/// How a connection ended.
pub(super) enum End {
    /// As asked for.
    Stopped,
    /// For this reason.
    Lost(String),
}

/// What the client says, or why it ended.
pub type Polled = Result<rumqttc::Event, String>;

/// A client and what it says.
pub struct Connection {
    /// Takes messages.
    pub client: AsyncClient,
    /// Its connection's events.
    pub events: mpsc::Receiver<Polled>,
    /// Polls the client, until this is dropped.
    pump: Option<Owned<()>>,
}

impl Connection {
    /// One that needs no polling: of a simulated broker.
    pub fn new(client: AsyncClient, events: mpsc::Receiver<Polled>) -> Self {
        Self { client, events, pump: None }
    }
}

/// Connects to the broker by TCP, or TLS.
pub(super) fn dial(options: MqttOptions) -> Connection {
    let (host, _) = options.broker_address();
    let (client, mut eventloop) = AsyncClient::new(options, WINDOW * 2);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true); // else each message waits for the acknowledgement of the one before
    network.set_connection_timeout(CONNECT_LIMIT.as_secs());
    eventloop.set_network_options(network);
    let (events_tx, events) = mpsc::channel(EVENTS);
    let pump = Some(Owned(tokio::spawn(pump(eventloop, events_tx, host))));
    Connection { client, events, pump }
}

/// A task that ends when this is dropped.
struct Owned<T>(JoinHandle<T>);

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) struct Session<'a> {
    link: &'a mut Link,
    client: AsyncClient,
    events: mpsc::Receiver<Polled>,
    topics: Topics,
    window: Window,
    /// Read and not yet published, of this journal.
    waiting: VecDeque<Entry>,
    journal: Uuid,
    connected: Timestamp,
    /// For each station: when its state was last published.
    states_sent: Vec<Option<Instant>>,
    disconnected: bool,
}

impl Session<'_> {
    /// Connects and publishes until told to stop or until the connection fails.
    pub async fn run(link: &mut Link) -> End {
        let journal = link.journal.committed().borrow().journal;
        let connected = clock::wall();
        let options = match options(link, connected, journal) {
            Ok(options) => options,
            Err(reason) => return End::Lost(reason),
        };
        let Connection { client, events, pump: _pump } = (link.dial)(options);
        let states_sent = vec![None; link.states.len()];
        let mut session = Session {
            topics: Topics::new(&link.config.topic_prefix),
            link,
            client,
            events,
            window: Window::default(),
            waiting: VecDeque::new(),
            journal,
            connected,
            states_sent,
            disconnected: false,
        };
        match session.connect().await {
            Ok(true) => {}
            Ok(false) => return End::Stopped,
            Err(reason) => return End::Lost(reason),
        }
        match session.publish().await {
            Ok(()) => {
                session.farewell().await;
                End::Stopped
            }
            Err(reason) => End::Lost(reason),
        }
    }

    /// Waits for the broker's answer. `false`: told to stop meanwhile.
    async fn connect(&mut self) -> Result<bool, String> {
        let answer = tokio::select! {
            biased;
            answer = tokio::time::timeout(CONNECT_LIMIT, self.events.recv()) => answer,
            _ = self.link.stopping.wait_for(|&stop| stop) => return Ok(false),
        };
        match answer {
            Ok(Some(Ok(rumqttc::Event::Incoming(Packet::ConnAck(ack)))))
                if ack.code == ConnectReturnCode::Success => {}
            Ok(Some(Ok(other))) => return Err(format!("expected CONNACK, got {other:?}")),
            Ok(Some(Err(reason))) => return Err(reason),
            Ok(None) => return Err("the client ended".to_owned()),
            Err(_) => return Err(format!("no answer within {} s", CONNECT_LIMIT.as_secs())),
        }
        self.link.status.send_modify(|status| {
            status.connected = true;
            status.error = None;
            status.connections += 1;
        });
        let (host, port) = (&self.link.config.host, self.link.config.port());
        tracing::info!(host, port, "connected to the MQTT broker");
        self.publish_status()?;
        self.publish_states(true)?;
        Ok(true)
    }

    /// Publishes until the stop, and then what is left for at most [`STOP_LIMIT`].
    async fn publish(&mut self) -> Result<(), String> {
        let (batches_tx, mut batches) = mpsc::channel::<Batch>(1);
        let feed = feed::run(self.link.journal.clone(), self.link.delivered, batches_tx);
        let _feed = Owned(tokio::spawn(feed));
        let mut stopping = self.link.stopping.clone();
        let mut stop_at: Option<Instant> = None;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased; // what happens first must not be left to chance: a simulation could not be run again
                event = self.events.recv() => self.client_event(event)?,
                Some(batch) = batches.recv(), if self.waiting.is_empty() => self.take(batch)?,
                _ = stopping.wait_for(|&stop| stop), if stop_at.is_none() => {
                    stop_at = Some(clock::now() + STOP_LIMIT);
                }
                _ = tick.tick() => self.publish_states(false)?,
            }
            self.publish_records()?;
            self.watch_limits()?;
            if stop_at.is_some_and(|at| self.all_delivered() || clock::now() >= at) {
                return Ok(());
            }
        }
    }

    fn client_event(&mut self, event: Option<Polled>) -> Result<(), String> {
        match event.ok_or("the client ended")?? {
            rumqttc::Event::Outgoing(Outgoing::Publish(packet)) => {
                self.window.numbered(packet).map_err(|e| e.to_string())
            }
            rumqttc::Event::Incoming(Packet::PubAck(ack)) => {
                let delivered = self.window.acknowledged(ack.pkid).map_err(|e| e.to_string())?;
                if let Some(delivered) = delivered {
                    self.delivered(delivered);
                }
                Ok(())
            }
            rumqttc::Event::Outgoing(Outgoing::Disconnect) => {
                self.disconnected = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn delivered(&mut self, delivered: Committed) {
        self.link.journal.set_cursor(CURSOR, delivered.journal, delivered.sequence);
        if delivered.journal == self.journal {
            self.link.delivered = Some(delivered);
        }
        self.link.show();
    }

    fn all_delivered(&self) -> bool {
        if !self.link.journal.is_settled() {
            return false;
        }
        let now = *self.link.journal.committed().borrow();
        let delivered = self.link.delivered.filter(|d| d.journal == now.journal).map_or(0, |d| d.sequence);
        self.waiting.is_empty() && self.window.len() == 0 && delivered >= now.sequence
    }

    /// Takes a batch; the first of another journal makes that the current one.
    fn take(&mut self, batch: Batch) -> Result<(), String> {
        if batch.journal != self.journal {
            tracing::info!(journal = %batch.journal, "MQTT goes on with the new journal");
            self.journal = batch.journal;
            self.publish_status()?;
        }
        if self.link.delivered.is_none_or(|d| d.journal != batch.journal) {
            self.link.delivered = Some(Committed { journal: batch.journal, sequence: batch.after });
        }
        self.waiting.extend(batch.entries);
        Ok(())
    }

    fn publish_records(&mut self) -> Result<(), String> {
        while self.window.len() < RECORD_WINDOW {
            let Some(entry) = self.waiting.pop_front() else { return Ok(()) };
            let topic = self.topics.entry(&entry);
            let payload = entry.published(self.journal).filter(|p| p.len() <= MAX_MESSAGE_BYTES);
            let Some(payload) = payload else {
                tracing::error!(
                    sequence = entry.sequence,
                    bytes = entry.json.len(),
                    "a record is no JSON object or too large for MQTT: skipped, it stays in the journal"
                );
                self.link.status.send_modify(|status| status.skipped += 1);
                continue;
            };
            let place = Committed { journal: self.journal, sequence: entry.sequence };
            self.send(topic, false, payload, Some(place))?;
        }
        Ok(())
    }

    /// Publishes the states that changed, or all of them.
    fn publish_states(&mut self, all: bool) -> Result<(), String> {
        self.link.show();
        for index in 0..self.link.states.len() {
            let due = self.states_sent[index].is_none_or(|at| clock::since(at) >= STATE_EVERY);
            let receiver: &mut watch::Receiver<State> = &mut self.link.states[index];
            let changed = receiver.has_changed().unwrap_or(false);
            if !(all || changed && due) || self.window.len() >= WINDOW {
                continue;
            }
            let state = receiver.borrow_and_update().clone();
            self.states_sent[index] = Some(clock::now());
            let payload = serde_json::to_vec(&state).map_err(|e| e.to_string())?;
            self.send(self.topics.state(&state.station), true, payload, None)?;
        }
        Ok(())
    }

    fn publish_status(&mut self) -> Result<(), String> {
        let status = Status::online(self.connected, self.journal);
        let payload = serde_json::to_vec(&status).map_err(|e| e.to_string())?;
        self.send(self.topics.status(), true, payload, None)
    }

    fn send(
        &mut self,
        topic: String,
        retain: bool,
        payload: Vec<u8>,
        record: Option<Committed>,
    ) -> Result<(), String> {
        self.client
            .try_publish(topic, QoS::AtLeastOnce, retain, payload)
            .map_err(|_| "the client takes no more messages".to_owned())?;
        self.window.published(record);
        Ok(())
    }

    fn watch_limits(&self) -> Result<(), String> {
        match self.window.oldest() {
            Some(at) if clock::since(at) > ACK_LIMIT => {
                Err(format!("a message was not acknowledged within {} s", ACK_LIMIT.as_secs()))
            }
            _ => Ok(()),
        }
    }

    /// Publishes `offline` and disconnects in order; where that fails in time, the last will says it.
    async fn farewell(&mut self) {
        let status = Status::stopped(self.connected, self.journal);
        let Ok(payload) = serde_json::to_vec(&status) else { return };
        // Each station's last state, whatever the pace: it stays retained.
        if self.publish_states(true).is_err() {
            return;
        }
        if self.send(self.topics.status(), true, payload, None).is_err() {
            return;
        }
        let acknowledged = self.drain(FAREWELL_LIMIT, |s| s.window.len() == 0).await;
        if !acknowledged || self.client.try_disconnect().is_err() {
            return;
        }
        self.drain(FAREWELL_LIMIT, |s| s.disconnected).await;
        tracing::info!("disconnected from the MQTT broker in order");
    }

    /// Handles the client's events until `done`, at most for `limit`.
    async fn drain(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let until = tokio::time::Instant::now() + limit;
        while !done(self) {
            let Ok(event) = tokio::time::timeout_at(until, self.events.recv()).await else { return false };
            if self.client_event(event).is_err() {
                return done(self);
            }
        }
        true
    }
}

/// Polls the client until it fails or nobody listens; its socket closes with it.
async fn pump(mut eventloop: EventLoop, events: mpsc::Sender<Polled>, host: String) {
    let mut greeting = true;
    loop {
        let polled = eventloop.poll().await.map_err(|e| why(&e, &host, greeting));
        greeting = false;
        let failed = polled.is_err();
        if events.send(polled).await.is_err() || failed {
            return;
        }
    }
}

fn options(link: &Link, connected: Timestamp, journal: Uuid) -> Result<MqttOptions, String> {
    let config = &link.config;
    let mut options = MqttOptions::new(config.client_id(), &config.host, config.port());
    options.set_clean_session(false);
    options.set_keep_alive(Duration::from_secs(config.keep_alive_s.into()));
    options.set_max_packet_size(MAX_INCOMING_BYTES, MAX_MESSAGE_BYTES + OVERHEAD_BYTES);
    options.set_inflight((WINDOW * 2) as u16);
    if let Some(credentials) = config.credentials().map_err(|e| e.to_string())? {
        options.set_credentials(credentials.user, credentials.password);
    }
    if let Some(tls) = &config.tls {
        let client = tls.client().map_err(|e| format!("tls: {e}"))?;
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(client)));
    }
    let will = serde_json::to_vec(&Status::lost(connected, journal)).map_err(|e| e.to_string())?;
    let topic = Topics::new(&config.topic_prefix).status();
    options.set_last_will(LastWill::new(topic, will, QoS::AtLeastOnce, true));
    Ok(options)
}
