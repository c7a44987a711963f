//! A broker that breaks the protocol: a TCP server that says what it should not. Whatever it sends, nothing counts as
//! delivered that was not acknowledged, nothing hangs, and the real broker gets everything afterwards.

#![allow(clippy::unwrap_used)]

mod peers;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use inspectd::journal::{Journal, JournalConfig};
use inspectd::mqtt::{MAX_INCOMING_BYTES, Mqtt, MqttConfig};
use inspectd::record::{Event, EventKind};
use peers::{Broker, Subscriber, wait_for};

const LONG: Duration = Duration::from_secs(60);
/// What a broker that closes leaves the daemon to read; nothing depends on it.
const A_MOMENT: Duration = Duration::from_millis(500);
const PREFIX: &str = "acme/york/pressing/line-2";
/// Accepted, no session.
const CONNACK: [u8; 4] = [0x20, 2, 0, 0];
const EVENTS: u64 = 20;

/// What a broker says once it has been greeted.
fn answers() -> Vec<(&'static str, Vec<u8>, Ends)> {
    use Ends::{Broker, Daemon};
    let after = |bytes: &[u8]| [&CONNACK[..], bytes].concat();
    let mut large = after(&[0x30]); // PUBLISH
    let mut length = MAX_INCOMING_BYTES + 1;
    while length > 0 {
        large.push((length & 0x7F) as u8 | if length > 0x7F { 0x80 } else { 0 });
        length >>= 7;
    }
    large.resize(large.len() + MAX_INCOMING_BYTES + 1, 0);
    vec![
        ("nothing, and closes", vec![], Broker),
        ("something that is no packet", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), Broker),
        ("half a CONNACK", CONNACK[..2].to_vec(), Broker),
        ("that it refuses", vec![0x20, 2, 0, 5], Daemon),
        ("CONNACK of an unknown code", vec![0x20, 2, 0, 77], Daemon),
        ("CONNACK twice", after(&CONNACK), Daemon),
        ("an acknowledgement of nothing", after(&[0x40, 2, 0, 0]), Daemon),
        ("an acknowledgement of what was not sent", after(&[0x40, 2, 0x12, 0x34]), Daemon),
        ("an acknowledgement of the highest number", after(&[0x40, 2, 0xFF, 0xFF]), Daemon),
        ("an acknowledgement without a number", after(&[0x40, 0]), Daemon),
        ("PUBREC, as if it were QoS 2", after(&[0x50, 2, 0, 1]), Daemon),
        ("PUBREL", after(&[0x62, 2, 0, 1]), Daemon),
        ("SUBACK, though nothing was subscribed to", after(&[0x90, 3, 0, 1, 0]), Broker),
        ("a packet over the limit", large, Daemon),
        ("a length without an end", after(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]), Daemon),
        ("a topic that is no text", after(&[0x30, 4, 0, 2, 0xFF, 0xFE]), Daemon),
        ("a topic longer than its packet", after(&[0x30, 2, 0xFF, 0xFF]), Daemon),
        ("a packet of the reserved kind", after(&[0xF0, 0]), Daemon),
    ]
}

/// Who has to end the connection after that.
#[derive(Clone, Copy, PartialEq)]
enum Ends {
    /// The daemon: it was no MQTT.
    Daemon,
    /// The broker: as far as it goes it could be the beginning of a packet, or may be ignored.
    Broker,
}

/// Takes one connection and its greeting, says this, and waits until the daemon has closed it, where that has to.
fn say(listener: &TcpListener, what: &str, answer: &[u8], ends: Ends) {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    read_greeting(&mut stream);
    let _ = stream.write_all(answer); // the daemon may have gone already
    if ends == Ends::Broker {
        stream.set_read_timeout(Some(A_MOMENT)).unwrap();
    }
    let mut rest = [0; 4096];
    let closed = loop {
        match stream.read(&mut rest) {
            Ok(0) => break true,
            Ok(_) => {}
            Err(error) => break error.kind() == ErrorKind::ConnectionReset,
        }
    };
    assert!(closed || ends == Ends::Broker, "{what}: the daemon goes on with such a broker");
}

fn read_greeting(stream: &mut TcpStream) {
    let mut header = [0; 2];
    stream.read_exact(&mut header).unwrap();
    assert_eq!(header[0], 0x10, "CONNECT comes first");
    let _ = stream.read(&mut [0; 1024]).unwrap();
}

fn stop(mqtt: Mqtt) {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(mqtt.stop());
}

#[test]
fn whatever_a_broker_says_nothing_is_delivered_that_it_has_not_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let settings = JournalConfig { dir: dir.path().to_owned(), ..JournalConfig::default() };
    let journal = Journal::open(&settings, dir.path()).unwrap();
    (0..EVENTS).for_each(|n| journal.event(Event::now(EventKind::Started, None, format!("event {n}"))));
    wait_for("the events to be committed", LONG, || journal.committed().borrow().sequence == EVENTS);
    for (what, answer, ends) in answers() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = Some(listener.local_addr().unwrap().port());
        // One for each: after failures it waits longer and longer before it connects again.
        let mqtt =
            Mqtt::start(MqttConfig { port, ..MqttConfig::new(PREFIX) }, journal.clone(), vec![]).unwrap();
        let status = mqtt.status();
        say(&listener, what, &answer, ends);
        drop(listener);
        wait_for(what, LONG, || status.borrow().error.is_some() && !status.borrow().connected);
        let error = status.borrow().error.clone().unwrap();
        assert!(error.len() < 1000, "{what}: {error}");
        assert_eq!(status.borrow().delivered, 0, "{what}");
        stop(mqtt);
    }
    let broker = Broker::started("");
    let subscriber = Subscriber::start(&broker, &format!("{PREFIX}/event"), &[]);
    let config = MqttConfig { port: Some(broker.port), ..MqttConfig::new(PREFIX) };
    let mqtt = Mqtt::start(config, journal.clone(), vec![]).unwrap();
    wait_for("everything", LONG, || subscriber.json("/event").len() as u64 == EVENTS);
    stop(mqtt);
    journal.close().unwrap();
}
