//! A station's section of the configuration: its trigger, its views, its deadline.
//!
//! Never here: the sections that all stations share.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use inspect_core::card::MAX_VIEWS;
use inspect_core::image::Roi;
use inspect_core::model::ModelFile;
use serde::{Deserialize, Serialize};

use super::Problems;
use crate::camera::CameraConfig;
use crate::drift::DriftConfig;
use crate::gate::{GateConfig, MAX_DEADLINE_MS, MIN_DEADLINE_MS};
use crate::journal::OnJournalFull;
use crate::plc::access::ClientConfig;
use crate::plc::settings::{MAX_DEPTH, Results};
use crate::recipe::{self, Bounds, ViewBounds};
use crate::record::Gate;
use crate::station::guard::GuardConfig;
use crate::thresholds::ThresholdConfig;

/// Where one part is judged.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StationConfig {
    /// Name, part of the MQTT topic: letters, digits, `-`, `_`.
    pub name: String,
    /// What makes it inspect.
    pub trigger: TriggerConfig,
    /// From trigger accepted to result published.
    pub deadline_ms: u64,
    /// The time that there is, and the PLC's share of it.
    pub gate: GateConfig,
    /// What the gate is told of verdict Review.
    #[serde(default)]
    pub review_at_gate: Gate,
    /// What becomes of a part that the journal has no place for.
    #[serde(default)]
    pub on_journal_full: OnJournalFull,
    /// Folder of recipes, which the PLC chooses by number; absent: the views below are all there is.
    pub recipes: Option<PathBuf>,
    /// How results come to the PLC.
    #[serde(default)]
    pub results: Results,
    /// Shows the station as a Cognex In-Sight camera too; absent: only on the map of `modbus`.
    pub in_sight: Option<InSightConfig>,
    /// When the PLC is asked to stop the line.
    #[serde(default)]
    pub guard: GuardConfig,
    /// When drift is told, and what then happens.
    #[serde(default)]
    pub drift: DriftConfig,
    /// Lets `chain` count although the camera cannot prove life while idle.
    #[serde(default)]
    pub allow_unproven_camera: bool,
    /// Its looks at the part.
    #[serde(rename = "view")]
    pub views: Vec<ViewConfig>,
}

/// A station as a Cognex In-Sight camera, see [`crate::plc::in_sight`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InSightConfig {
    /// Address and port of its own: one listener is one camera.
    pub listen: SocketAddr,
    /// Who may come; absent: who may come to `modbus`.
    pub clients: Option<Vec<ClientConfig>>,
}

/// What makes a station inspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case", deny_unknown_fields)]
pub enum TriggerConfig {
    /// A change of the register `trigger_id`.
    Plc,
    /// The daemon's clock.
    Clock {
        /// Time between parts.
        period_ms: u64,
    },
    /// Each frame that the camera gives by itself.
    FreeRun,
}

/// A camera, a region of interest and a model: one look at a part.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewConfig {
    /// Name.
    pub name: String,
    /// Where frames come from.
    pub camera: CameraConfig,
    /// Part of the frame that is judged; absent: the one on the model's card, else the whole.
    pub roi: Option<Roi>,
    /// Model file; absent where the station has recipes, which name theirs.
    pub model: Option<PathBuf>,
    /// Tighter thresholds than the card's. Where the station has recipes, they name this and the region.
    #[serde(default)]
    pub thresholds: ThresholdConfig,
}

/// What [`is_name`] takes.
const NAME: &str = "1 to 64 letters, digits, `-` or `_`";

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=64).contains(&name.len()) && name.chars().all(allowed)
}

impl StationConfig {
    pub(super) fn problems(&self, at: &str, problems: &mut Problems) {
        if !is_name(&self.name) {
            problems.add(&format!("{at}.name"), format!("{NAME}, got `{}`", self.name));
        }
        if !(MIN_DEADLINE_MS..=MAX_DEADLINE_MS).contains(&self.deadline_ms) {
            let expected = format!("{MIN_DEADLINE_MS} to {MAX_DEADLINE_MS}, got {}", self.deadline_ms);
            problems.add(&format!("{at}.deadline_ms"), expected);
        }
        let GateConfig { time_to_gate_ms, plc_poll_ms, plc_scan_ms } = self.gate;
        let needed = self.deadline_ms.saturating_add(plc_poll_ms).saturating_add(plc_scan_ms);
        if needed > time_to_gate_ms {
            problems.add(
                &format!("{at}.gate.time_to_gate_ms"),
                format!("at least deadline_ms + plc_poll_ms + plc_scan_ms = {needed}, got {time_to_gate_ms}: the verdict would come after the part has passed the gate"),
            );
        }
        problems.all(&format!("{at}.guard"), self.guard.check());
        problems.all(&format!("{at}.drift"), self.drift.check());
        if let Results::Acknowledged { depth } = self.results
            && depth > MAX_DEPTH
        {
            problems.add(&format!("{at}.results.depth"), format!("0 to {MAX_DEPTH}, got {depth}"));
        }
        if let TriggerConfig::Clock { period_ms } = self.trigger
            && period_ms < self.deadline_ms
        {
            let expected = format!("at least deadline_ms = {}, got {period_ms}", self.deadline_ms);
            problems.add(&format!("{at}.trigger.period_ms"), expected);
        }
        self.view_problems(at, problems);
        if let Some(folder) = &self.recipes {
            let wrong = recipe::check(folder, &self.bounds());
            problems.files.extend(wrong.into_iter().map(|p| format!("  {at}.recipes: {p}")));
        }
    }

    fn view_problems(&self, at: &str, problems: &mut Problems) {
        if self.views.is_empty() {
            problems
                .add(&format!("{at}.view"), "at least one view: a station without views rejects every part");
        }
        if self.views.len() > MAX_VIEWS {
            problems
                .add(&format!("{at}.view"), format!("at most {MAX_VIEWS} views, got {}", self.views.len()));
        }
        let mut names = HashSet::new();
        for (i, view) in self.views.iter().enumerate() {
            let at = format!("{at}.view[{i}]");
            if !is_name(&view.name) || !names.insert(&view.name) {
                problems.add(
                    &format!("{at}.name"),
                    format!("{NAME}, each once in a station, got `{}`", view.name),
                );
            }
            view.problems(&at, self, problems);
            match (&view.model, &self.recipes) {
                (None, None) => {
                    problems.add(&format!("{at}.model"), "a model file, or recipes for the station")
                }
                (Some(_), Some(_)) => {
                    problems.add(&format!("{at}.model"), "none: the station's recipes name theirs")
                }
                _ => {}
            }
            // Nothing of these would act: whoever sets them is told.
            if self.recipes.is_some() && view.roi.is_some() {
                problems.add(&format!("{at}.roi"), "none: the station's recipes name theirs");
            }
            if self.recipes.is_some() && view.thresholds != ThresholdConfig::default() {
                problems.add(&format!("{at}.thresholds"), "none: the station's recipes name theirs");
            }
        }
        if self.trigger == TriggerConfig::FreeRun && self.views.len() > 1 {
            problems.add(&format!("{at}.view"), "one view where the trigger is free_run: nothing says which frames of two cameras show the same part");
        }
    }

    /// What its recipes are held to.
    pub fn bounds(&self) -> Bounds {
        let view =
            |v: &ViewConfig| ViewBounds { name: v.name.clone(), has_exposure: v.camera.has_exposure() };
        let period_ms = match self.trigger {
            TriggerConfig::Clock { period_ms } => Some(period_ms),
            TriggerConfig::Plc | TriggerConfig::FreeRun => None,
        };
        Bounds {
            views: self.views.iter().map(view).collect(),
            gate: self.gate,
            deadline_ms: self.deadline_ms,
            period_ms,
        }
    }

    /// Whether every frame is simulated.
    pub fn is_simulated(&self) -> bool {
        self.views.iter().any(|v| v.camera.is_simulated())
    }
}

impl ViewConfig {
    fn problems(&self, at: &str, station: &StationConfig, problems: &mut Problems) {
        let trigger = station.trigger;
        let camera = self.camera.check();
        problems.files.extend(camera.into_iter().map(|p| format!("  {at}.camera.{p}")));
        if let Some(roi) = self.roi {
            // Where the frame's size is not known before a frame is there, only an empty region is wrong.
            let (width, height) = self.camera.frame_px().unwrap_or((u32::MAX, u32::MAX));
            if let Err(error) = roi.within(width, height) {
                problems.add(&format!("{at}.roi"), format!("a region inside the frame: {error}"));
            }
        }
        if trigger == TriggerConfig::FreeRun && !self.camera.free_runs() {
            let setting = match self.camera {
                CameraConfig::Aravis(_) => "trigger",
                _ => "rate_hz",
            };
            let expected = "a camera that runs freely, since the station's trigger is free_run";
            problems.add(&format!("{at}.camera.{setting}"), expected);
        }
        if trigger != TriggerConfig::FreeRun && !self.camera.tells_exposure() {
            let expected = "a station with trigger = { source = \"free_run\" }, since nothing tells when this source's frames were exposed: one may show the part before";
            problems.add(&format!("{at}.camera.kind"), expected);
        }
        if let Some(expected) = self.thresholds.check() {
            problems.add(&format!("{at}.thresholds"), expected);
            return;
        }
        let Some(model) = &self.model else { return };
        match ModelFile::read(model) {
            Err(error) => problems.files.push(format!("  {at}.model: {error}")),
            // Another model in the place may suit: the daemon starts, the station faults, the gate can mend it.
            Ok(model) => {
                let wrong = self.thresholds.under(&model.card, station.views.len()).err();
                problems.files.extend(wrong.map(|expected| format!("  {at}.thresholds: {expected}")));
            }
        }
    }
}
