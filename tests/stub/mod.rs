//! A line whose cameras and scorers are simulated at their seams: its configuration, and the model that its scorers
//! say they are.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use inspect_core::card::{
    Calibration, Card, Golden, Input, Method, Preprocessing, Resize, SCHEMA, Thresholds, Training,
};
use inspect_core::image::Image;
use inspect_core::runtime::{Provider, Runtime};
use inspect_core::scorer::Scorer;
use inspectd::archive::ArchiveConfig;
use inspectd::camera::CameraConfig;
use inspectd::camera::simulated::SimulatedConfig;
use inspectd::config::{Config, ModbusConfig, StationConfig, TriggerConfig, ViewConfig};
use inspectd::cores::Cores;
use inspectd::drift::DriftConfig;
use inspectd::gate::GateConfig;
use inspectd::journal::{JournalConfig, OnJournalFull};
use inspectd::models::ModelsConfig;
use inspectd::plc::settings::Results;
use inspectd::record::Gate;
use inspectd::scoring::Loaded;
use inspectd::station::guard::GuardConfig;
use inspectd::thresholds::ThresholdConfig;

/// All 16 pixels of the golden image; no frame may look so.
pub const GOLDEN_PIXEL: u8 = 255;
/// What the scorer must say of it.
pub const GOLDEN_SCORE: f32 = 0.5;

/// A model of 4 x 4 grey pixels: 1.0 is the review threshold, 2.0 the reject threshold.
fn card() -> Card {
    let golden = Image::new(4, 4, 1, vec![GOLDEN_PIXEL; 16]).unwrap();
    Card {
        schema: SCHEMA,
        name: "scripted".into(),
        created: jiff::Timestamp::now(),
        input: Input { width: 4, height: 4, channels: 1 },
        preprocessing: Preprocessing { roi: None, resize: Resize::Area },
        thresholds: Thresholds { review: 1.0, reject: 2.0 },
        calibration: Calibration {
            method: Method::Conformal,
            goods: 100,
            groups: 100,
            alpha: 0.05,
            review_alpha: 0.05,
            provisional: false,
            claim: String::new(),
            shares: Vec::new(),
        },
        golden: vec![Golden::new("good", &golden, GOLDEN_SCORE).unwrap()],
        training: Training {
            trainer_version: "0".into(),
            data_sha256: String::new(),
            goods: 1,
            seed: 0,
            steps: 0,
            settings: BTreeMap::new(),
        },
        reference: None,
    }
}

/// The model in service, with its scorer. Maps are 2 x 2.
pub fn loaded(scorer: Box<dyn Scorer>) -> Loaded {
    Loaded {
        scorer,
        card: Arc::new(card()),
        sha256: "00112233".repeat(8).into(),
        map: (2, 2),
        provider: Provider::Cpu,
        fell_back: false,
    }
}

/// A station by PLC, with a view and a model of the same name.
pub fn station(name: &str, deadline: Duration) -> StationConfig {
    let view = ViewConfig {
        name: name.into(),
        camera: CameraConfig::Simulated(SimulatedConfig::default()), // the seam puts another in its place
        roi: None,
        model: Some(name.into()),
        thresholds: ThresholdConfig::default(),
    };
    let deadline_ms = deadline.as_millis() as u64;
    StationConfig {
        on_journal_full: OnJournalFull::Reject,
        name: name.into(),
        trigger: TriggerConfig::Plc,
        deadline_ms,
        gate: GateConfig { time_to_gate_ms: deadline_ms, plc_poll_ms: 0, plc_scan_ms: 0 },
        review_at_gate: Gate::Reject,
        results: Results::default(),
        recipes: None,
        guard: GuardConfig::default(),
        drift: DriftConfig::default(),
        allow_unproven_camera: false,
        in_sight: None,
        views: vec![view],
    }
}

/// The whole line, its journal in `folder`.
pub fn config(folder: &Path, stations: Vec<StationConfig>) -> Config {
    Config {
        run_dir: None,
        modbus: ModbusConfig { listen: ([127, 0, 0, 1], 0).into(), ..ModbusConfig::default() },
        mqtt: None,
        journal: JournalConfig { dir: folder.to_owned(), ..JournalConfig::default() },
        archive: ArchiveConfig { min_free_gb: 0.0, ..ArchiveConfig::default() },
        models: ModelsConfig::default(),
        runtime: Runtime::default(),
        cores: Cores::default(),
        stations,
    }
}
