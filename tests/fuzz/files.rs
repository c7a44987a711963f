//! What must hold whatever stands in a file that the daemon reads: nothing panics, and what is accepted keeps to the
//! rules that make it safe. Each file's good examples are what mutations and corpora begin with.
//!
//! The rules stand here a second time on purpose.
#![allow(dead_code)] // each fuzz target uses its own part

use std::path::Path;

use inspect_core::card::{CARD_KEY, Card, Golden};
use inspect_core::image::Image;
use inspect_core::model::{INPUT, MAP, ModelFile, SCORE};
use inspect_core::onnx::{
    DimensionProto, GraphProto, ModelProto, StringStringEntryProto, TensorShapeProto, TensorTypeProto,
    TypeProto, ValueInfoProto, data_type,
};
use inspectd::config::Config;
use inspectd::gate::GateConfig;
use inspectd::mqtt::Credentials;
use inspectd::recipe::{self, Bounds, ViewBounds};
use prost::Message as _;

/// A file that is read: its name as a fuzz target, what is checked of any bytes (whether they were accepted), and
/// good examples.
pub struct Target {
    pub name: &'static str,
    pub check: fn(&[u8]) -> bool,
    pub good: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: [Target; 5] = [
    Target { name: "config", check: config, good: good_configs },
    Target { name: "recipe", check: recipe, good: good_recipes },
    Target { name: "credentials", check: credentials, good: good_credentials },
    Target { name: "card", check: card, good: good_cards },
    Target { name: "model", check: model, good: good_models },
];

/// A folder that is not there: what a file names below it cannot be opened.
const FOLDER: &str = "/nonexistent/fuzz";

/// Errors are for people, and for one line of a log or a topic.
fn said(error: &str) {
    assert!(!error.is_empty() && error.len() < 1 << 20, "{} bytes of error", error.len());
}

pub fn config(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let folder = Path::new(FOLDER);
    let config = match Config::parse(text, &folder.join("c.toml"), folder) {
        Ok(config) => config,
        Err(error) => {
            said(&error.to_string());
            return false;
        }
    };
    let problems = config.problems();
    problems.settings.iter().chain(&problems.files).for_each(|problem| said(problem));
    config.notes().iter().for_each(|note| said(note));
    if !problems.settings.is_empty() {
        return false;
    }
    assert!((1..=16).contains(&config.stations.len()));
    for station in &config.stations {
        let GateConfig { time_to_gate_ms, plc_poll_ms, plc_scan_ms } = station.gate;
        let used = u128::from(station.deadline_ms) + u128::from(plc_poll_ms) + u128::from(plc_scan_ms);
        assert!(used <= u128::from(time_to_gate_ms), "a verdict after the gate");
        assert!((1..=8).contains(&station.views.len()));
        if let Some(in_sight) = &station.in_sight {
            let clients = in_sight.clients.as_ref().unwrap_or(&config.modbus.clients);
            assert!(in_sight.listen.ip().to_canonical().is_loopback() || !clients.is_empty(), "open to all");
        }
    }
    let open = config.modbus.clients.is_empty();
    assert!(config.modbus.listen.ip().to_canonical().is_loopback() || !open, "open to all");
    true
}

pub fn recipe(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let gate = GateConfig { time_to_gate_ms: 100, plc_poll_ms: 10, plc_scan_ms: 10 };
    let view = |name: &str, has_exposure| ViewBounds { name: name.to_owned(), has_exposure };
    let bounds = Bounds {
        views: vec![view("top", true), view("side", false)],
        gate,
        deadline_ms: 80,
        period_ms: None,
    };
    match recipe::parse(text, Path::new("r.toml"), Path::new(FOLDER), &bounds) {
        Err(error) => {
            said(&error.to_string());
            false
        }
        Ok(recipe) => {
            assert!(recipe.number != 0 && recipe.deadline_ms.is_none_or(|ms| ms <= 80));
            assert!((1..=2).contains(&recipe.views.len()), "each of the station's views once at most");
            let exposure = |us: f64| us.is_finite() && us >= 1.0;
            assert!(recipe.views.iter().all(|view| view.exposure_us.is_none_or(exposure)));
            true
        }
    }
}

pub fn credentials(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    match Credentials::parse(text) {
        Ok(read) => {
            assert!(!read.user.is_empty());
            let shown = format!("{read:?}");
            let hidden = read.user.contains(&read.password) || "Credentials user ..".contains(&read.password);
            assert!(hidden || read.password.len() < 4 || !shown.contains(&read.password), "{shown}");
            true
        }
        Err(reason) => {
            said(reason);
            false
        }
    }
}

fn check_card(card: &Card) {
    let limits =
        [card.thresholds].into_iter().chain(card.calibration.shares.iter().map(|share| share.thresholds));
    for thresholds in limits {
        let sound = thresholds.review.is_finite() && thresholds.reject.is_finite();
        assert!(
            sound && thresholds.review <= thresholds.reject,
            "{thresholds:?} would pass what it should not"
        );
    }
    assert!(card.thresholds.reject > 0.0 && !card.golden.is_empty() && card.golden.len() <= 8);
    let json = card.to_json().expect("what was read can be written");
    assert_eq!(&Card::from_json(&json).expect("and read again"), card);
}

pub fn card(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    match Card::from_json(text) {
        Ok(card) => {
            check_card(&card);
            true
        }
        Err(error) => {
            said(&error.to_string());
            false
        }
    }
}

pub fn model(data: &[u8]) -> bool {
    match ModelFile::decode(data.to_vec(), Path::new("m.onnx")) {
        Ok(model) => {
            check_card(&model.card);
            assert!(model.sha256.len() == 64 && model.map.0 > 0 && model.map.1 > 0);
            true
        }
        Err(error) => {
            said(&error.to_string());
            false
        }
    }
}

/// Every key there is.
const WHOLE_CONFIG: &str = r#"
run_dir = "run"
[modbus]
listen = "192.0.2.1:502"
word_order = "low_first"
clients = [{ address = "192.0.2.10", may = "write" }, { address = "2001:db8::/32", may = "read" }]
[mqtt]
host = "broker.plant"
port = 8883
client_id = "box"
topic_prefix = "a/b/c/d"
credentials_file = "credential:mqtt.toml"
keep_alive_s = 30
tls = { ca_file = "ca.pem", client_certificate_file = "c.pem", client_key_file = "c.key" }
[journal]
dir = "j"
ring_slots = 64
max_mb = 1000
keep_days = 30
[archive]
dir = "a"
format = "jpeg"
jpeg_quality = 90
pass_every = 100
max_gb = 10.5
max_days = 30
min_free_gb = 2.0
[runtime]
providers = ["cuda", "cpu"]
fallback = false
threads = 2
sessions = 2
[cores]
scoring = [2, 3]
others = [0, 1]
[[station]]
name = "s1"
trigger = { source = "plc" }
deadline_ms = 100
gate = { time_to_gate_ms = 150, plc_poll_ms = 10, plc_scan_ms = 20 }
review_at_gate = "pass"
results = { mode = "acknowledged", depth = 4 }
in_sight = { listen = "127.0.0.1:5021", clients = [{ address = "127.0.0.1", may = "write" }] }
on_journal_full = "continue"
drift = { on_alarm = "stop", score_window = 300 }
guard = { rejects_in_a_row = 5, reject_rate = { limit = 0.2, window = 100 }, challenge_every_min = 480 }
allow_unproven_camera = true
[[station.view]]
name = "top"
model = "m.onnx"
roi = { x = 0, y = 0, width = 8, height = 8 }
thresholds = { review = 0.8, reject = 0.9, unproven = true }
camera = { kind = "simulated", width = 64, height = 64, defect_rate = 0.1 }
[[station]]
name = "s2"
trigger = { source = "free_run" }
deadline_ms = 100
gate = { time_to_gate_ms = 150, plc_poll_ms = 10, plc_scan_ms = 20 }
recipes = "recipes"
[[station.view]]
name = "side"
camera = { kind = "opencv", url = "rtsp://user:password@camera/1", stall_ms = 2000 }
[[station]]
name = "s3"
trigger = { source = "clock", period_ms = 500 }
deadline_ms = 100
gate = { time_to_gate_ms = 150, plc_poll_ms = 10, plc_scan_ms = 20 }
[[station.view]]
name = "one"
model = "m.onnx"
camera = { kind = "aravis", id = "a", trigger = "software", exposure_us = 500.0 }
"#;

fn good_configs() -> Vec<Vec<u8>> {
    [WHOLE_CONFIG, include_str!("../../deploy/inspectd.toml"), include_str!("../../deploy/demo.toml")]
        .map(|text| text.as_bytes().to_vec())
        .into()
}

fn good_recipes() -> Vec<Vec<u8>> {
    let all = r#"
        number = 3
        name = "bracket, left"
        deadline_ms = 80
        [[view]]
        name = "top"
        model = "bracket.onnx"
        roi = { x = 40, y = 0, width = 512, height = 512 }
        thresholds = { review = 0.8, reject = 0.9, unproven = true }
        exposure_us = 800.5
        [[view]]
        name = "side"
        model = "side.onnx"
    "#;
    vec![all.into()]
}

fn good_credentials() -> Vec<Vec<u8>> {
    vec![
        b"user = \"line-box\"\npassword = \"correct horse\"\n".to_vec(),
        b"user='a'\npassword='''b\nc'''".to_vec(),
    ]
}

fn good_card() -> Card {
    let text = r#"{
        "schema": 1, "name": "test", "created": "2026-01-02T03:04:05Z",
        "input": { "width": 8, "height": 4, "channels": 1 },
        "preprocessing": { "roi": { "x": 0, "y": 0, "width": 8, "height": 4 }, "resize": "area" },
        "thresholds": { "review": 1.0, "reject": 2.0 },
        "calibration": { "method": "conformal", "goods": 100, "groups": 100, "alpha": 0.05, "review_alpha": 0.05,
            "provisional": false, "claim": "At most 5 % of good parts are rejected.",
            "shares": [{ "thresholds": { "review": 1.5, "reject": 3.0 }, "provisional": true }] },
        "golden": [],
        "training": { "trainer_version": "0", "data_sha256": "00", "goods": 1, "seed": 0, "steps": 1,
            "settings": { "variant": "test" } }
    }"#;
    let mut json: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let image = Image::new(8, 4, 1, vec![9; 32]).expect("an image");
    let golden = Golden::new("good", &image, 0.5).expect("a golden image");
    json["golden"] = serde_json::to_value([golden]).expect("JSON");
    Card::from_json(&json.to_string()).expect("a good card")
}

fn good_cards() -> Vec<Vec<u8>> {
    vec![good_card().to_json().expect("a good card").into_bytes()]
}

fn value(name: &str, elem_type: i32, dims: &[i64]) -> ValueInfoProto {
    let dim = dims.iter().map(|&dim_value| DimensionProto { dim_value, dim_param: String::new() }).collect();
    let tensor_type = Some(TensorTypeProto { elem_type, shape: Some(TensorShapeProto { dim }) });
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type }) }
}

/// A file with a card and the declarations that the card wants, and no graph to run.
fn good_models() -> Vec<Vec<u8>> {
    let graph = GraphProto {
        name: "test".into(),
        input: vec![value(INPUT, data_type::UINT8, &[0, 4, 8, 1])],
        output: vec![value(SCORE, data_type::FLOAT, &[0]), value(MAP, data_type::FLOAT, &[0, 4, 8])],
        ..Default::default()
    };
    let card =
        StringStringEntryProto { key: CARD_KEY.into(), value: good_card().to_json().expect("a good card") };
    let model =
        ModelProto { ir_version: 8, graph: Some(graph), metadata_props: vec![card], ..Default::default() };
    vec![model.encode_to_vec()]
}
