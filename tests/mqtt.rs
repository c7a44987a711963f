//! MQTT against a real Mosquitto and a real `mosquitto_sub`.

#![allow(clippy::unwrap_used)]

mod peers;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use inspect_core::verdict::Verdict;
use inspectd::drift::DriftState;
use inspectd::journal::{Journal, JournalConfig, JournalReader};
use inspectd::mqtt::{Mqtt, MqttConfig, schemas};
use inspectd::plc::result::{Accepted, Identity, PartKind};
use inspectd::record::{
    Counters, Event, EventKind, Gate, Inspection, RECORD_SCHEMA, State, Times, Trigger, TriggerSource,
};
use peers::{Broker, Subscriber, wait_for};
use tokio::sync::watch;

const LONG: Duration = Duration::from_secs(60);
const PREFIX: &str = "acme/york/pressing/line-2/cell-4";

fn inspection(station: &str, part: u64) -> Inspection {
    Inspection {
        schema: RECORD_SCHEMA,
        station: station.into(),
        part,
        trigger: Trigger {
            trigger_id: Some(7),
            serial: Some("A-17".into()),
            encoder: Some(4711),
            ..Trigger::new(TriggerSource::Plc, jiff::Timestamp::now())
        },
        recipe: None,
        views: vec![],
        verdict: Verdict::Pass,
        reason: None,
        gate: Gate::Pass,
        review_at_gate: Gate::Reject,
        simulated: true,
        truth: Some("good".into()),
        times_us: Times::default(),
    }
}

fn state(accepted: u32) -> State {
    State {
        schema: RECORD_SCHEMA,
        station: "st1".into(),
        time: jiff::Timestamp::now(),
        ready: true,
        fault: None,
        reason: None,
        detail: None,
        model: None,
        model_sha256: None,
        provider: None,
        recipe: None,
        provisional: false,
        unproven: false,
        simulated: true,
        bypass: false,
        stop_request: false,
        challenge_due: false,
        error: None,
        drift: DriftState::default(),
        counters: Counters { accepted, ..Counters::default() },
    }
}

fn open(dir: &Path) -> Journal {
    Journal::open(&JournalConfig { dir: dir.to_owned(), ..JournalConfig::default() }, dir).unwrap()
}

fn config(broker: &Broker) -> MqttConfig {
    MqttConfig { port: Some(broker.port), ..MqttConfig::new(PREFIX) }
}

fn write(journal: &Journal, station: &str, part: u64) {
    wait_for("a slot", LONG, || journal.queued() < JournalConfig::default().ring_slots);
    let identity = Identity::default();
    let accepted =
        Accepted { trigger_id: 1, at: Instant::now(), kind: PartKind::Part, identity, bypass: false };
    let taken = journal.station(station, TriggerSource::Plc, true).unwrap().take(accepted);
    taken.slot.unwrap().write(inspection(station, part));
}

fn stop(mqtt: Mqtt) {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(mqtt.stop());
}

/// (journal, sequence) of what came on such topics, in the order of coming.
fn places(subscriber: &Subscriber, ending: &str) -> Vec<(String, u64)> {
    let place =
        |v: &serde_json::Value| (v["journal"].as_str().unwrap().to_owned(), v["sequence"].as_u64().unwrap());
    subscriber.json(ending).iter().map(place).collect()
}

/// Everything came, and a sequence only ever goes back to begin a stretch of doubles.
#[track_caller]
fn complete_and_in_order(places: &[(String, u64)], expected: std::ops::RangeInclusive<u64>) -> usize {
    let distinct: BTreeSet<_> = places.iter().collect();
    let sequences: Vec<_> = distinct.iter().map(|p| p.1).collect();
    assert_eq!(sequences, expected.collect::<Vec<_>>(), "each at least once, of one journal");
    let mut newest = 0;
    for (_, sequence) in places {
        assert!(*sequence <= newest + 1, "{sequence} came after {newest}: out of order");
        newest = newest.max(*sequence);
    }
    places.len() - distinct.len()
}

#[test]
fn a_broker_restarted_within_5000_parts_loses_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Broker::started("");
    let subscriber = Subscriber::start(&broker, &format!("{PREFIX}/#"), &[]);
    let journal = open(dir.path());
    let mqtt = Mqtt::start(config(&broker), journal.clone(), vec![]).unwrap();
    let status = mqtt.status();
    let began = Instant::now();
    for part in 1..=5_000 {
        write(&journal, "st1", part);
        if part == 2_500 {
            wait_for("the middle", LONG, || status.borrow().delivered > 1_500);
            broker.restart();
        }
    }
    wait_for("everything to be delivered", LONG, || status.borrow().delivered == 5_000);
    let took = began.elapsed();
    wait_for("the subscriber", LONG, || {
        places(&subscriber, "/inspection").iter().map(|p| p.1).collect::<BTreeSet<_>>().len() == 5_000
    });
    let doubles = complete_and_in_order(&places(&subscriber, "/inspection"), 1..=5_000);
    println!(
        "5000 parts, broker restarted: lost 0, doubles {doubles}, delivered after {took:?}, connections {}",
        status.borrow().connections
    );
    assert!(status.borrow().connections >= 2, "the broker was really away");
    stop(mqtt);
    journal.close().unwrap();
    // What was acknowledged is not sent again by the next run.
    let journal = open(dir.path());
    let mqtt = Mqtt::start(config(&broker), journal.clone(), vec![]).unwrap();
    let status = mqtt.status();
    write(&journal, "st1", 5_001);
    wait_for("the next part", LONG, || status.borrow().delivered == 5_001);
    wait_for("the subscriber", LONG, || {
        places(&subscriber, "/inspection").last().is_some_and(|p| p.1 == 5_001)
    });
    assert_eq!(places(&subscriber, "/inspection").len(), 5_001 + doubles);
    stop(mqtt);
    journal.close().unwrap();
}

#[test]
fn a_broker_killed_and_away_is_waited_for_and_nothing_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Broker::prepare("");
    let journal = open(dir.path());
    let mqtt = Mqtt::start(config(&broker), journal.clone(), vec![]).unwrap();
    let status = mqtt.status();
    wait_for("the first failure", LONG, || status.borrow().error.is_some());
    (1..=2_000).for_each(|part| write(&journal, "st1", part)); // twice the queue: nothing waits for the broker
    wait_for("the parts to be committed", LONG, || journal.queued() == 0);
    assert!(!status.borrow().connected);
    wait_for("what waits to be told", LONG, || status.borrow().backlog == 2_000);
    broker.start();
    let subscriber = Subscriber::start(&broker, &format!("{PREFIX}/+/inspection"), &[]);
    wait_for("delivery", LONG, || status.borrow().delivered == 2_000);
    wait_for("the subscriber", LONG, || {
        places(&subscriber, "/inspection").last().is_some_and(|p| p.1 == 2_000)
    });
    assert_eq!(status.borrow().backlog, 0);
    assert_eq!(status.borrow().error, None);
    stop(mqtt);
    wait_for("the cursor", LONG, || {
        JournalReader::open(journal.dir()).unwrap().cursor("mqtt").unwrap() == Some(2_000)
    });
    // A start without the broker knows what it had before.
    let settings = config(&broker);
    drop(broker);
    let mqtt = Mqtt::start(settings, journal.clone(), vec![]).unwrap();
    write(&journal, "st1", 2_001);
    let status = mqtt.status();
    wait_for("the one that waits", LONG, || {
        (status.borrow().delivered, status.borrow().backlog) == (2_000, 1)
    });
    stop(mqtt);
    journal.close().unwrap();
}

#[test]
fn a_broker_that_hangs_blocks_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::started("");
    let journal = open(dir.path());
    let settings = MqttConfig { keep_alive_s: 5, ..config(&broker) };
    let mqtt = Mqtt::start(settings, journal.clone(), vec![]).unwrap();
    let status = mqtt.status();
    wait_for("the connection", LONG, || status.borrow().connected);
    broker.signal("STOP");
    (1..=2_000).for_each(|part| write(&journal, "st1", part)); // twice the queue
    wait_for("the parts to be committed", LONG, || journal.queued() == 0);
    wait_for("the hanging broker to be given up", LONG, || !status.borrow().connected);
    broker.signal("CONT");
    wait_for("delivery", LONG, || status.borrow().delivered == 2_000);
    broker.signal("STOP");
    let began = Instant::now();
    stop(mqtt);
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed()); // sooner than keep-alive ends it
    broker.signal("CONT");
    journal.close().unwrap();
}

#[test]
fn stopping_with_no_broker_is_quick() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::prepare("");
    let journal = open(dir.path());
    let mqtt = Mqtt::start(config(&broker), journal.clone(), vec![]).unwrap();
    let began = Instant::now();
    stop(mqtt);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    journal.close().unwrap();
}

#[test]
fn status_state_and_events_say_what_is_so() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::started("");
    let journal = open(dir.path());
    let (states, receiver) = watch::channel(state(0));
    let mqtt = Mqtt::start(config(&broker), journal.clone(), vec![receiver]).unwrap();
    let subscriber = Subscriber::start(&broker, &format!("{PREFIX}/#"), &[]);
    wait_for("online", LONG, || subscriber.json("/status").last().is_some_and(|s| s["status"] == "online"));
    wait_for("the state", LONG, || subscriber.json("/st1/state").len() == 1);
    let began = Instant::now();
    for accepted in 1..=100 {
        states.send_replace(state(accepted));
        std::thread::sleep(Duration::from_millis(10)); // the pace of a fast line, not a wait
    }
    wait_for("the last state", LONG, || {
        subscriber.json("/st1/state").last().is_some_and(|s| s["counters"]["accepted"] == 100)
    });
    let most = began.elapsed().as_millis() / 500 + 2;
    assert!(subscriber.json("/st1/state").len() as u128 <= most + 1, "at most two a second");
    journal.event(Event::now(EventKind::Started, None, "up"));
    wait_for("the event", LONG, || places(&subscriber, "/event").len() == 1);
    let uuid = journal.committed().borrow().journal.to_string();
    assert_eq!(places(&subscriber, "/event"), [(uuid.clone(), 1)]);
    write(&journal, "st1", 1);
    stop(mqtt);
    wait_for("offline", LONG, || subscriber.json("/status").last().is_some_and(|s| s["status"] == "offline"));
    let last = subscriber.json("/status").pop().unwrap();
    assert_eq!((last["reason"].as_str(), last["journal"].as_str()), (Some("stopped"), Some(uuid.as_str())));
    assert_eq!(places(&subscriber, "st1/inspection").len(), 1, "the backlog was delivered before");
    journal.close().unwrap();
    // All of it is retained: who comes later sees the same.
    let late = Subscriber::start(&broker, &format!("{PREFIX}/#"), &[]);
    wait_for("what is retained", LONG, || late.messages().len() == 2);
    assert_eq!(late.json("/status")[0]["status"], "offline");
    assert_eq!(late.json("/st1/state")[0]["counters"]["accepted"], 100);
}

/// Not a test by itself: the child that `the_last_will…` starts and kills.
#[test]
fn child_that_stays_online() {
    let (Ok(dir), Ok(port)) = (std::env::var("MQTT_TEST_CHILD"), std::env::var("MQTT_TEST_PORT")) else {
        return;
    };
    let config = MqttConfig { port: Some(port.parse().unwrap()), ..MqttConfig::new(PREFIX) };
    let journal = open(Path::new(&dir));
    let _mqtt = Mqtt::start(config, journal.clone(), vec![]).unwrap();
    let endless = std::env::var_os("MQTT_TEST_WRITES").is_some();
    (1..).take_while(|_| endless).for_each(|part| write(&journal, "st1", part));
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_daemon_goes_on_from_its_cursor_and_doubles_are_told_by_sequence() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::started("");
    let subscriber = Subscriber::start(&broker, &format!("{PREFIX}/#"), &[]);
    let mut child = Command::new(peers::own_program())
        .args(["--exact", "child_that_stays_online", "--nocapture"])
        .env("MQTT_TEST_CHILD", dir.path())
        .env("MQTT_TEST_PORT", broker.port.to_string())
        .env("MQTT_TEST_WRITES", "1")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("parts", LONG, || places(&subscriber, "/inspection").len() > 2_000);
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    let journal = open(dir.path());
    let latest = journal.committed().borrow().sequence;
    let mqtt = Mqtt::start(config(&broker), journal.clone(), vec![]).unwrap();
    let status = mqtt.status();
    wait_for("the rest", LONG, || status.borrow().delivered == latest);
    let all = || {
        let record = |(_, payload): (String, String)| {
            let json: serde_json::Value = serde_json::from_str(&payload).unwrap();
            Some((json["journal"].as_str()?.to_owned(), json["sequence"].as_u64()?))
        };
        subscriber.messages().into_iter().filter_map(record).collect::<Vec<_>>()
    };
    wait_for("the subscriber", LONG, || all().last().is_some_and(|p| p.1 == latest));
    let doubles = complete_and_in_order(&all(), 1..=latest);
    println!("daemon killed: {latest} records, lost 0, doubles {doubles}");
    assert!(subscriber.json("/event").iter().any(|e| e["event"] == "unclean_stop"));
    stop(mqtt);
    journal.close().unwrap();
}

#[test]
fn the_last_will_tells_of_a_killed_daemon_and_online_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::started("");
    let start = || {
        Command::new(peers::own_program())
            .args(["--exact", "child_that_stays_online", "--nocapture"])
            .env("MQTT_TEST_CHILD", dir.path())
            .env("MQTT_TEST_PORT", broker.port.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    let subscriber = Subscriber::start(&broker, &format!("{PREFIX}/status"), &[]);
    let words = |n: usize| {
        wait_for("the status", LONG, || subscriber.json("/status").len() >= n);
        subscriber
            .json("/status")
            .iter()
            .map(|s| s["status"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let mut child = start();
    words(1);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(words(2), ["online", "offline"]);
    let late = Subscriber::start(&broker, &format!("{PREFIX}/status"), &[]);
    wait_for("the retained will", LONG, || late.json("/status").len() == 1);
    assert_eq!(late.json("/status")[0]["reason"], "lost");
    let mut child = start();
    assert_eq!(words(3), ["online", "offline", "online"]);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn credentials_are_used_and_wrong_ones_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::with_password("box4", "right");
    let file = dir.path().join("mqtt.toml");
    let put = |password: &str| {
        std::fs::write(&file, format!("user = \"box4\"\npassword = \"{password}\"\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    put("wrong");
    let journal = open(&dir.path().join("journal"));
    let settings = MqttConfig { credentials_file: Some(file.clone()), ..config(&broker) };
    assert!(settings.check().is_empty());
    let mqtt = Mqtt::start(settings, journal.clone(), vec![]).unwrap();
    let mut status = mqtt.status();
    wait_for("the refusal", LONG, || status.borrow().error.is_some());
    let error = status.borrow_and_update().error.clone().unwrap();
    assert!(error.contains("NotAuthorized") || error.contains("BadUserNamePassword"), "{error}");
    write(&journal, "st1", 1);
    put("right"); // no restart needed
    wait_for("the connection", LONG, || status.borrow().delivered == 1);
    stop(mqtt);
    journal.close().unwrap();
}

#[test]
fn a_journal_put_aside_is_followed_by_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::started("");
    let subscriber = Subscriber::start(&broker, &format!("{PREFIX}/#"), &[]);
    let journal = open(dir.path());
    let mqtt = Mqtt::start(config(&broker), journal.clone(), vec![]).unwrap();
    let status = mqtt.status();
    (1..=50).for_each(|part| write(&journal, "st1", part));
    wait_for("delivery", LONG, || status.borrow().delivered == 50);
    let old = journal.committed().borrow().journal;
    journal.suspect(old, "for the test");
    write(&journal, "st1", 51);
    wait_for("the new journal's records", LONG, || {
        let new = journal.committed().borrow().journal.to_string();
        new != old.to_string() && places(&subscriber, "/inspection").last().is_some_and(|p| p.0 == new)
    });
    let told = subscriber.json("/event");
    assert_eq!(told.last().unwrap()["event"], "journal_quarantined");
    let new = journal.committed().borrow().journal.to_string();
    wait_for("the status", LONG, || subscriber.json("/status").last().unwrap()["journal"] == new.as_str());
    stop(mqtt);
    journal.close().unwrap();
}

/// `INSPECTD_BLESS=1 cargo test --test mqtt schemas` writes them anew.
#[test]
fn the_published_schemas_are_those_of_the_code() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/schema");
    let bless = std::env::var_os("INSPECTD_BLESS").is_some();
    for (name, schema) in schemas() {
        let path = dir.join(format!("{name}.schema.json"));
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if bless {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let known = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(known, text, "{} is old: INSPECTD_BLESS=1 cargo test --test mqtt schemas", path.display());
    }
}
