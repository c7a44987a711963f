//! The broker by TLS, against a real Mosquitto: who is trusted, who is refused and why, and what the access list of
//! `deploy/mosquitto.acl` allows. Certificates are made by openssl for each test.

#![allow(clippy::unwrap_used)]

mod peers;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use inspectd::journal::{Journal, JournalConfig};
use inspectd::mqtt::{Mqtt, MqttConfig, TlsConfig};
use inspectd::record::{Event, EventKind};
use peers::{Authority, Broker, Identity, Subscriber, free_port, wait_for};

const LONG: Duration = Duration::from_secs(60);
const HERE: &str = "DNS:localhost,IP:127.0.0.1";

/// A broker that wants client certificates, and shows `shown`.
fn broker(authority: &Authority, shown: &Identity) -> Broker {
    Broker::started(&format!(
        "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n",
        authority.file().display(),
        shown.certificate.display(),
        shown.key.display()
    ))
}

fn settings(broker: &Broker, ca: &Authority, client: Option<&Identity>) -> MqttConfig {
    let tls = TlsConfig {
        ca_file: ca.file(),
        client_certificate_file: client.map(|c| c.certificate.clone()),
        client_key_file: client.map(|c| c.key.clone()),
    };
    MqttConfig {
        host: "localhost".into(),
        port: Some(broker.port),
        tls: Some(tls),
        ..MqttConfig::new("enterprise/site/area/line")
    }
}

fn open(dir: &Path) -> Journal {
    Journal::open(&JournalConfig { dir: dir.to_owned(), ..JournalConfig::default() }, dir).unwrap()
}

fn stop(mqtt: Mqtt, journal: Journal) {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(mqtt.stop());
    journal.close().unwrap();
}

/// The reason of the first failure.
#[track_caller]
fn refusal(config: MqttConfig) -> String {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(config.file_problems(), Vec::<String>::new(), "nothing is wrong with the files themselves");
    let journal = open(dir.path());
    let mqtt = Mqtt::start(config, journal.clone(), vec![]).unwrap();
    let status = mqtt.status();
    wait_for("the refusal", LONG, || status.borrow().error.is_some());
    let (error, connections) = (status.borrow().error.clone().unwrap(), status.borrow().connections);
    assert_eq!(connections, 0, "{error}");
    stop(mqtt, journal);
    error
}

/// Events are delivered to this broker.
fn delivers(config: MqttConfig) {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let mqtt = Mqtt::start(config, journal.clone(), vec![]).unwrap();
    let status = mqtt.status();
    journal.event(Event::now(EventKind::Started, None, "up"));
    wait_for("delivery", LONG, || status.borrow().delivered == 1);
    stop(mqtt, journal);
}

#[test]
fn a_broker_of_the_right_authority_is_talked_to_and_others_are_refused_with_their_reason() {
    let (ours, others) = (Authority::new(), Authority::new());
    let client = ours.sign("line-box", "DNS:line-box", 1);
    let good = broker(&ours, &ours.sign("broker", HERE, 1));
    delivers(settings(&good, &ours, Some(&client)));
    delivers(MqttConfig { host: "127.0.0.1".into(), ..settings(&good, &ours, Some(&client)) });

    let error = refusal(settings(&good, &others, Some(&client)));
    assert!(error.contains("not from the authority in ca_file"), "{error}");
    let elsewhere = broker(&ours, &ours.sign("elsewhere", "DNS:elsewhere", 1));
    let error = refusal(settings(&elsewhere, &ours, Some(&client)));
    assert!(error.contains("`localhost` is not among its subject alternative names"), "{error}");
    let old = broker(&ours, &ours.sign("old", HERE, -1));
    let error = refusal(settings(&old, &ours, Some(&client)));
    assert!(error.contains("broker's certificate has expired"), "{error}");
    let plain = Broker::started("");
    let error = refusal(settings(&plain, &ours, Some(&client)));
    assert!(error.contains("speak TLS"), "{error}");
}

#[test]
fn a_client_certificate_that_is_missing_expired_or_of_another_authority_is_refused_by_the_broker() {
    let (ours, others) = (Authority::new(), Authority::new());
    let good = broker(&ours, &ours.sign("broker", HERE, 1));
    let error = refusal(settings(&good, &ours, None));
    assert!(error.contains("demand") && error.contains("client certificate"), "{error}");
    let expired = ours.sign("expired", "DNS:expired", -1);
    let error = refusal(settings(&good, &ours, Some(&expired)));
    assert!(error.contains("client certificate"), "{error}");
    let foreign = others.sign("foreign", "DNS:foreign", 1);
    let error = refusal(settings(&good, &ours, Some(&foreign)));
    assert!(error.contains("client certificate"), "{error}");
}

#[test]
fn renewed_files_need_no_restart_and_broken_ones_are_named() {
    let (ours, others, dir) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    let good = broker(&ours, &ours.sign("broker", HERE, 1));
    let client = ours.sign("line-box", "DNS:line-box", 1);
    let mut config = settings(&good, &ours, Some(&client));
    let ca = dir.path().join("ca.pem");
    std::fs::copy(others.file(), &ca).unwrap();
    config.tls.as_mut().unwrap().ca_file.clone_from(&ca);
    let journal = open(&dir.path().join("journal"));
    let mqtt = Mqtt::start(config.clone(), journal.clone(), vec![]).unwrap();
    let status = mqtt.status();
    wait_for("the refusal", LONG, || status.borrow().error.is_some());
    std::fs::write(&ca, "no certificate").unwrap();
    assert!(config.file_problems()[0].contains("ca_file"), "{:?}", config.file_problems());
    let told = || status.borrow().error.as_ref().is_some_and(|e| e.contains("expected certificates in PEM"));
    wait_for("what is wrong with the file", LONG, told);
    std::fs::copy(ours.file(), &ca).unwrap();
    wait_for("the connection", LONG, || status.borrow().connected);
    stop(mqtt, journal);

    let other = ours.sign("other", "DNS:other", 1);
    let tls = config.tls.as_mut().unwrap();
    tls.client_key_file = Some(other.key);
    assert!(config.file_problems()[0].contains("client certificate"), "{:?}", config.file_problems());
    let tls = config.tls.as_mut().unwrap();
    tls.client_key_file = Some(client.certificate);
    let problem = config.file_problems().remove(0);
    assert!(problem.contains("client_key_file"), "{problem}");
}

/// deploy/mosquitto.conf and .acl as they are, but for ports and folder.
#[test]
fn by_the_access_list_a_box_publishes_below_its_prefix_alone_and_staff_only_reads() {
    let (ours, folder, root) = (Authority::new(), tempfile::tempdir().unwrap(), env!("CARGO_MANIFEST_DIR"));
    let at = |name: &str| folder.path().join(name);
    let shown = ours.sign("broker", HERE, 1);
    std::fs::create_dir(at("certs")).unwrap();
    std::fs::copy(ours.file(), at("certs/ca.pem")).unwrap();
    std::fs::copy(shown.certificate, at("certs/broker.pem")).unwrap();
    std::fs::copy(shown.key, at("certs/broker.key")).unwrap();
    std::fs::copy(Path::new(root).join("deploy/mosquitto.acl"), at("inspectd.acl")).unwrap();
    let staff = ["-u", "maintenance", "-P", "words", "--cafile", at("certs/ca.pem").to_str().unwrap()]
        .map(str::to_owned);
    let mut made = Command::new("mosquitto_passwd");
    made.args(["-b", "-c"]).arg(at("passwords")).args([&staff[1], &staff[3]]);
    assert!(made.status().unwrap().success());
    let [boxes, people] = [free_port(), free_port()];
    let text = std::fs::read_to_string(Path::new(root).join("deploy/mosquitto.conf")).unwrap();
    let text = text
        .replace("/etc/mosquitto", folder.path().to_str().unwrap())
        .replace("listener 8883", &format!("listener {boxes} 127.0.0.1"))
        .replace("listener 8884", &format!("listener {people} 127.0.0.1"));
    let mut broker = Broker::configured(&text, people);
    broker.start();
    let options: Vec<&str> = staff.iter().map(String::as_str).collect();
    let reader = Subscriber::start(&broker, "enterprise/#", &options);

    let client = ours.sign("line-box", "DNS:line-box", 1);
    let own = MqttConfig { port: Some(boxes), ..settings(&broker, &ours, Some(&client)) };
    let foreign = MqttConfig { topic_prefix: "enterprise/site/area/other".into(), ..own.clone() };
    delivers(foreign); // the broker acknowledges what it drops
    let mut staff_tries = Command::new("mosquitto_pub");
    staff_tries
        .args(["-h", "localhost", "-p", &people.to_string(), "-q", "1"])
        .args(["-t", "enterprise/site/area/line/event", "-m", r#"{"event":"forged"}"#])
        .args(&options);
    assert!(staff_tries.status().unwrap().success(), "dropped without a word as well");
    delivers(own);
    wait_for("the box's own topics", LONG, || {
        reader.json("line/status").last().is_some_and(|s| s["status"] == "offline")
    });
    let topics: Vec<String> = reader.messages().into_iter().map(|(topic, _)| topic).collect();
    assert!(topics.iter().all(|t| t.starts_with("enterprise/site/area/line/")), "{topics:?}");
    let events = reader.json("line/event");
    assert!(events.iter().all(|e| e["event"] == "started"), "{events:?}");
    let log = broker.log();
    assert!(log.contains("Denied PUBLISH") && log.contains("area/other/event"), "{log}");
    // Nobody gets in by name alone where certificates are asked for, nor without a password where those are.
    let without = MqttConfig { port: Some(people), ..settings(&broker, &ours, None) };
    let error = refusal(without);
    assert!(error.contains("NotAuthorized"), "{error}");
}
