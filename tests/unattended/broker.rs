//! A simulated MQTT broker: keeps what it took, is away or slow, and loses connections at any point.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use inspectd::mqtt::{Connection, Dial, Polled};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rumqttc::{AsyncClient, ConnAck, ConnectReturnCode, Event, Outgoing, Packet, PubAck, Request};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// The journal's UUID, a sequence, and what stands at it.
pub type Record = (String, u64, serde_json::Value);

/// What outlives the daemon.
#[derive(Clone, Default)]
pub struct Broker {
    taken: Arc<Mutex<Vec<Record>>>,
}

/// What befalls the connections of one run of the daemon.
#[derive(Clone, Copy)]
pub struct Weather {
    pub seed: u64,
    /// Share of messages after which the connection is lost.
    pub loses: f64,
    /// Whether it is away for seconds at a time.
    pub goes_away: bool,
    /// Whether the first connection stops answering at some message, and stays open.
    pub falls_silent: bool,
}

impl Broker {
    pub fn records(&self) -> Vec<Record> {
        self.taken.lock().unwrap().clone()
    }

    /// Takes connections for one run of the daemon.
    pub fn dial(&self, weather: Weather) -> Dial {
        let broker = self.clone();
        let mut chance = StdRng::seed_from_u64(weather.seed);
        let mut back = Instant::now();
        let mut falls_silent = weather.falls_silent;
        Box::new(move |_| {
            let (requests, taken) = flume::bounded(1_024);
            let (events, heard) = mpsc::channel(64);
            if weather.goes_away && Instant::now() >= back && chance.random_bool(0.4) {
                back = Instant::now() + Duration::from_millis(chance.random_range(100..5_000));
            }
            let is_away = Instant::now() < back;
            let chance = StdRng::seed_from_u64(chance.random());
            let falls_silent = !is_away && std::mem::take(&mut falls_silent);
            let weather = Weather { falls_silent, ..weather };
            tokio::spawn(broker.clone().serve(taken, events, is_away, weather, chance));
            Connection::new(AsyncClient::from_senders(requests), heard)
        })
    }

    async fn serve(
        self,
        taken: flume::Receiver<Request>,
        events: mpsc::Sender<Polled>,
        is_away: bool,
        weather: Weather,
        mut chance: StdRng,
    ) {
        sleep(Duration::from_millis(chance.random_range(0..20))).await;
        if is_away {
            let _ = events.send(Err("connection refused".into())).await;
            return;
        }
        let ack = ConnAck { session_present: false, code: ConnectReturnCode::Success };
        if events.send(Ok(Event::Incoming(Packet::ConnAck(ack)))).await.is_err() {
            return;
        }
        for id in (1..=u16::MAX).cycle() {
            let Ok(Ok(request)) = timeout(Duration::from_secs(3_600), taken.recv_async()).await else {
                return;
            };
            let lost = chance.random_bool(weather.loses);
            let said = match request {
                // Lost on the way, or taken and the acknowledgement lost: the client cannot tell.
                Request::Publish(publish) => {
                    if lost && chance.random_bool(0.5) {
                        Err("lost before it was taken".to_owned())
                    } else {
                        self.take(&publish.topic, &publish.payload);
                        if lost { Err("lost before it was acknowledged".to_owned()) } else { Ok(id) }
                    }
                }
                Request::Disconnect(_) => {
                    let _ = events.send(Ok(Event::Outgoing(Outgoing::Disconnect))).await;
                    return;
                }
                _ => continue,
            };
            let id = match said {
                Ok(id) => id,
                Err(why) => {
                    let _ = events.send(Err(why)).await;
                    return;
                }
            };
            if events.send(Ok(Event::Outgoing(Outgoing::Publish(id)))).await.is_err() {
                return;
            }
            if weather.falls_silent && chance.random_bool(0.2) {
                events.closed().await;
                return;
            }
            if chance.random_bool(0.1) {
                sleep(Duration::from_millis(chance.random_range(0..50))).await;
            }
            if events.send(Ok(Event::Incoming(Packet::PubAck(PubAck { pkid: id })))).await.is_err() {
                return;
            }
        }
    }

    fn take(&self, topic: &str, payload: &[u8]) {
        if !(topic.ends_with("/inspection") || topic.ends_with("/event")) {
            return;
        }
        let json: serde_json::Value = serde_json::from_slice(payload).unwrap();
        let place = (json["journal"].as_str().unwrap().to_owned(), json["sequence"].as_u64().unwrap());
        self.taken.lock().unwrap().push((place.0, place.1, json));
    }
}
