//! What is kept and published: the [`Inspection`] of each part, [`Event`]s, and a station's [`State`].
//!
//! These structs are the JSON of the journal and of MQTT; `deploy/schema/` holds the JSON Schemas that a
//! test generates from them. Times are UTC with zone (RFC 3339, `Z`); scores that are not finite are null.
//!
//! Never here: how records are stored or sent.

use inspect_core::card::Thresholds;
use inspect_core::runtime::Provider;
use inspect_core::verdict::{FaultCode, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::drift::DriftState;

/// Version of the JSON of all three records.
pub const RECORD_SCHEMA: u32 = 1;

/// The one record of one part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Inspection {
    /// [`RECORD_SCHEMA`].
    pub schema: u32,
    /// Station that judged the part.
    pub station: String,
    /// Number of the part at this station, from 1, never used again, also after a restart.
    pub part: u64,
    /// What made the station inspect.
    pub trigger: Trigger,
    /// The recipe that judged it; none where the station has its own settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<RecipeStamp>,
    /// Each look at the part.
    pub views: Vec<ViewRecord>,
    /// The verdict, and the fault where it is one.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Why there is a fault, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the gate was told.
    pub gate: Gate,
    /// Whether the station lets Review pass at the gate.
    pub review_at_gate: Gate,
    /// Whether any frame came from a simulated camera.
    pub simulated: bool,
    /// What the simulated part really is ("good", "scratch", …), where its maker knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truth: Option<String>,
    /// Where the time went.
    pub times_us: Times,
}

impl Inspection {
    /// Writes what publication decided into the record: the verdict, what the gate was told, trigger to result.
    pub fn publish(&mut self, verdict: Verdict, gate: Gate, total_us: u64) {
        self.verdict = verdict;
        self.reason = match verdict {
            Verdict::Fault(code) => Some(code.meaning().to_owned()),
            _ => None,
        };
        self.gate = gate;
        self.times_us.total = total_us;
    }
}

/// Which recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RecipeStamp {
    /// Its number.
    pub number: u16,
    /// Its name.
    pub name: String,
    /// SHA-256 of its file.
    pub sha256: String,
}

/// What made a station inspect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Trigger {
    /// Its kind.
    pub source: TriggerSource,
    /// The PLC's id of the part, 1 to 65535; none for other sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger_id: Option<u16>,
    /// When it was accepted.
    pub accepted: jiff::Timestamp,
    /// The part's serial, as the PLC wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Encoder count, as the PLC wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<u32>,
    /// Kind of part, as the PLC wrote it; 0: not said.
    pub product: u16,
    /// A part known to be bad, which must be rejected: counts in no statistics of the line.
    pub challenge: bool,
    /// The PLC said that it lets parts pass whatever their result.
    pub bypass: bool,
}

impl Trigger {
    /// One that says nothing of the part.
    pub fn new(source: TriggerSource, accepted: jiff::Timestamp) -> Self {
        Self {
            source,
            trigger_id: None,
            accepted,
            serial: None,
            encoder: None,
            product: 0,
            challenge: false,
            bypass: false,
        }
    }
}

/// Kinds of triggers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TriggerSource {
    /// The PLC changed `trigger_id`.
    Plc,
    /// The station's clock.
    Clock,
    /// The camera gave a frame by itself.
    FreeRun,
}

/// What the reject gate is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Let the part through.
    Pass,
    /// Push it out. The default: pass is earned.
    #[default]
    Reject,
}

/// One look at a part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ViewRecord {
    /// Name of the view.
    pub view: String,
    /// The camera's own frame number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<u64>,
    /// Start of exposure, as near as the camera tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposed: Option<jiff::Timestamp>,
    /// The model's score; higher is more anomalous.
    pub score: Option<f32>,
    /// Score divided by the reject threshold: 1.00 is the limit.
    pub relative_score: Option<f32>,
    /// The thresholds that applied.
    pub thresholds: Option<Thresholds>,
    /// Where they came from.
    pub thresholds_from: ThresholdSource,
    /// Name of the model on its card.
    pub model: String,
    /// SHA-256 of the model file.
    pub model_sha256: String,
    /// Execution provider that really ran it.
    pub provider: Option<Provider>,
    /// Why this view has no score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<FaultCode>,
}

/// Where thresholds came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdSource {
    /// The model's card.
    Card,
    /// The model's card, for one of several views of the part.
    CardShare,
    /// The configuration tightened the card's.
    Tightened,
    /// The configuration loosened the card's, and says `unproven = true`.
    Unproven,
}

/// Where the time of one inspection went, microseconds. 0 where a stage was not reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Times {
    /// Trigger accepted to frame at hand.
    pub grab: u64,
    /// Frame to model input.
    pub resize: u64,
    /// The model's run.
    pub score: u64,
    /// Trigger accepted to result published, everything included.
    pub total: u64,
}

/// Something other than a part that a person may have to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// [`RECORD_SCHEMA`].
    pub schema: u32,
    /// When.
    pub time: jiff::Timestamp,
    /// What kind.
    pub event: EventKind,
    /// Station it is about, if one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub station: Option<String>,
    /// The part that it is about, if one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of_part: Option<OfPart>,
    /// The parts that are in no journal, where it tells of such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Lost>,
    /// So many sequences and part numbers were skipped, so that none is used twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<u64>,
    /// What happened, for people.
    pub message: String,
}

/// Which part, as in its [`Inspection`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OfPart {
    /// Its number at the station.
    pub part: u64,
    /// Its trigger, with what the PLC said of it.
    pub trigger: Trigger,
}

/// Parts of a station that are in no journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lost {
    /// How many, since that was last told.
    pub parts: u64,
    /// Number of the last of them.
    pub last: u64,
}

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The daemon started.
    Started,
    /// The daemon stopped in order.
    Stopped,
    /// The last run ended without stopping in order.
    UncleanStop,
    /// Parts were reported to the PLC but are not in the journal; see [`Event::lost`].
    InspectionsLost,
    /// The journal was unreadable, was put aside, and a new one begun.
    JournalQuarantined,
    /// The journal is at its hard bound: records that a consumer did not have are deleted. Told as it begins and ends.
    UndeliveredDropped,
    /// A score came after its part's deadline. The PLC was told Fault(late); this is what it would have been.
    LateScore,
    /// A station went into fault or came out of it.
    StationFault,
    /// A station is in order again.
    StationReady,
    /// A result was lost to the PLC: overwritten unread, or without room to wait.
    Overrun,
    /// A recipe went into service.
    RecipeChanged,
    /// One did not; the message says why.
    RecipeRefused,
    /// The PLC was asked to stop the line; the message says why.
    StopRequested,
    /// A challenge part: whether it was rejected, as it must be.
    Challenge,
    /// The PLC took the station offline, or brought it back.
    Offline,
    /// The PLC says that it lets parts pass whatever their result, or no longer does.
    Bypass,
    /// A model whose file had changed took the place of the one before, between two parts.
    ModelChanged,
    /// It did not; the message says why. The one before stays.
    ModelRefused,
    /// A changed configuration was taken; the daemon started anew with it.
    ConfigurationTaken,
    /// A changed configuration was refused; the message says why. The one before stays.
    ConfigurationRefused,
    /// Something hangs that only another process can be free of: the daemon ended itself.
    GaveUp,
    /// Pictures are left out of the archive; the message says why. Told once until it is over.
    ArchiveTrouble,
    /// The archive keeps pictures again.
    ArchiveHealed,
    /// The newest line of the audit trail, by its number and SHA-256: one that is cut off later is missed.
    AuditLine,
    /// The audit trail was changed by somebody else than inspectd, or cannot be written.
    AuditTrouble,
    /// Pictures, scores or rejects are farther from what is usual than chance explains; the message says which.
    DriftWarning,
    /// So far that results are in doubt.
    DriftAlarm,
    /// They are in order again, or the PLC cleared the error.
    DriftOver,
    /// The machine's clock was stepped, so that times of records jump; the message says by how much.
    ClockStepped,
}

impl Event {
    /// An event of now.
    pub fn now(event: EventKind, station: Option<&str>, message: impl Into<String>) -> Self {
        Self {
            schema: RECORD_SCHEMA,
            time: clock::wall(),
            event,
            station: station.map(str::to_owned),
            of_part: None,
            lost: None,
            skipped: None,
            message: message.into(),
        }
    }

    /// An event of now: parts of a station are in no journal.
    pub fn lost(station: &str, lost: Lost) -> Self {
        let Lost { parts, last } = lost;
        let message = format!(
            "{parts} parts, the last of them {last}, are not in the journal: the ring had no place for them"
        );
        Self { lost: Some(lost), ..Self::now(EventKind::InspectionsLost, Some(station), message) }
    }

    /// The same, about a part.
    pub fn of_part(self, part: u64, trigger: Trigger) -> Self {
        Self { of_part: Some(OfPart { part, trigger }), ..self }
    }
}

impl State {
    /// Of a station that has not begun.
    pub fn starting(station: &str, simulated: bool) -> Self {
        Self {
            schema: RECORD_SCHEMA,
            station: station.to_owned(),
            time: clock::wall(),
            ready: false,
            fault: Some(FaultCode::Starting),
            reason: None,
            detail: None,
            model: None,
            model_sha256: None,
            provider: None,
            recipe: None,
            provisional: false,
            unproven: false,
            simulated,
            bypass: false,
            stop_request: false,
            challenge_due: false,
            error: None,
            drift: DriftState::default(),
            counters: Counters::default(),
        }
    }
}

/// What a station is doing now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct State {
    /// [`RECORD_SCHEMA`].
    pub schema: u32,
    /// The station.
    pub station: String,
    /// When this was true.
    pub time: jiff::Timestamp,
    /// Ready to inspect.
    pub ready: bool,
    /// Why not, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<FaultCode>,
    /// The fault's meaning and what to do, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// More about the fault, from where it arose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Name of the first view's model on its card.
    pub model: Option<String>,
    /// SHA-256 of the first view's model file.
    pub model_sha256: Option<String>,
    /// Execution provider that really runs it.
    pub provider: Option<Provider>,
    /// The recipe in service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<RecipeStamp>,
    /// Whether the thresholds rest on too few goods to claim a rate.
    pub provisional: bool,
    /// The camera cannot prove life when idle: `chain` counts then only where the settings tolerate it.
    pub unproven: bool,
    /// Whether the camera is simulated.
    pub simulated: bool,
    /// The PLC says that it lets parts pass whatever their result.
    pub bypass: bool,
    /// The PLC is asked to stop the line.
    pub stop_request: bool,
    /// A challenge part is due.
    pub challenge_due: bool,
    /// First fault code since the PLC cleared the error, of a part or of the handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<FaultCode>,
    /// Whether pictures, scores and rejects still are what the model was calibrated on.
    #[serde(default)]
    pub drift: DriftState,
    /// What was counted since the start, or the PLC's last reset.
    pub counters: Counters,
}

/// What a station counted since the daemon started, or the PLC's last reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counters {
    /// Triggers accepted.
    pub accepted: u32,
    /// Verdict Pass.
    pub pass: u32,
    /// Verdict Review.
    pub review: u32,
    /// Verdict Reject.
    pub reject: u32,
    /// Verdict Fault, whatever the code.
    pub fault: u32,
    /// Faults because the deadline passed.
    pub late: u32,
    /// Ids that the PLC wrote and that were not accepted: a part in hand, not armed, offline, or stopping.
    pub missed: u32,
    /// Results lost to the PLC: overwritten before it read them, or without room to wait.
    pub overrun: u32,
    /// Inspections reported but refused by the journal.
    pub not_journaled: u32,
    /// Acknowledgements of a result that was not there.
    pub wrong_acknowledgements: u32,
    /// Challenge parts; counted in no verdict.
    pub challenges: u32,
    /// Challenge parts that were not rejected.
    pub challenges_failed: u32,
}
