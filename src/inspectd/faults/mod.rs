//! The fault codes as people see them: in the PLC's registers, over MQTT, by `inspectd status`, in the log.
//!
//! Terms. A code shows itself *as* one or several of [`As`]; from that follows what the four places say. What one code
//! does beside that is in [`beside`], which the compiler holds to be whole: a new code does not build without its row.
//! The manual's page, `deploy/manual/faults.md`, is this module's output and [`TRIED`]; tests hold them together.
//!
//! Never here: what a code means and what to do (that is the code's own table in `inspect_core::verdict`); a decision.

use std::fmt::Write as _;

use inspect_core::verdict::FaultCode;
use serde::Serialize;

use crate::record::EventKind;
use crate::status::Trouble;

/// What was tried by hand, and seen.
const TRIED: &str = include_str!("tried.md");
/// Stands for a station's name.
const NAME: &str = "NAME";

/// How a code shows itself, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum As {
    /// The station is in fault.
    Station,
    /// The same where no event and no log line of the station tells it.
    StationUntold,
    /// The station is not ready because of the PLC, which is no fault of it.
    Waits,
    /// One part has no verdict.
    Part,
    /// It stands until the PLC writes `clear_error`.
    Latch,
    /// The same, and the line is asked to stop.
    Stop,
    /// A command was not carried out.
    Command,
    /// There is no result in the block.
    NoResult,
    /// A part of which the PLC is told no more.
    Record,
}

/// What one code does: as what it shows itself, events and log messages of its own.
struct Beside {
    of: &'static [As],
    events: &'static [EventKind],
    logs: &'static [&'static str],
    /// The counter that it moves.
    counter: Option<&'static str>,
}

const fn of(of: &'static [As]) -> Beside {
    Beside { of, events: &[], logs: &[], counter: None }
}

impl Beside {
    const fn events(self, events: &'static [EventKind]) -> Self {
        Self { events, ..self }
    }

    const fn counts(self, counter: &'static str) -> Self {
        Self { counter: Some(counter), ..self }
    }

    const fn logs(self, logs: &'static [&'static str]) -> Self {
        Self { logs, ..self }
    }
}

const NO_FRAME: &str = "no frame; said once until it changes";
const NOT_SCORED: &str = "a part could not be scored; said once until it changes";
const HANGS: &str = "something hangs: if it stays, the process ends";

fn beside(code: FaultCode) -> Beside {
    use As::{Command, Latch, NoResult, Part, Record, Station, StationUntold, Stop, Waits};
    use EventKind as E;
    use FaultCode as F;
    match code {
        F::Starting => of(&[StationUntold, Part, Command]),
        F::NotArmed => of(&[Waits]),
        F::Stopping => of(&[Station, Command]).events(&[E::Stopped]).logs(&["stopping"]),
        F::NoResultYet => of(&[NoResult]),
        F::Offline => of(&[Waits]).events(&[E::Offline]).logs(&["the PLC took the station offline"]),
        F::NoRecipe => of(&[Station, Part]),
        F::RecipeChanged => of(&[Part]),
        F::Restarted => of(&[Record]).events(&[E::UncleanStop]).logs(&["the last run did not stop in order"]),
        F::CameraAway => of(&[Station, Part]).logs(&["camera away"]),
        F::NoFrame | F::IncompleteFrame | F::FrameGap => of(&[Part]).logs(&[NO_FRAME]),
        F::StaleFrame | F::RepeatedFrame | F::ScoreNotFinite | F::ScorerBusy => of(&[Part]),
        F::BadFrame => of(&[Part]).logs(&[NO_FRAME, NOT_SCORED]),
        F::CameraStuck => of(&[Station, Part]).events(&[E::GaveUp]).logs(&["camera stuck"]),
        F::ModelAway => of(&[Station, Part]).logs(&["model is not in service"]),
        F::ScorerError => of(&[Part]).logs(&[NOT_SCORED]),
        F::ScorerStuck => of(&[Station, Part]).events(&[E::GaveUp]).logs(&[HANGS]),
        F::Late => of(&[Part]).counts("late").events(&[E::LateScore]),
        F::NoViews | F::BadThreshold => of(&[Station, Part]),
        F::JournalFull => of(&[Station, Part, Latch, Command])
            .counts("not_journaled")
            .events(&[E::InspectionsLost])
            .logs(&[
                "the journal cannot be written; trying again",
                "the journal does not open: every part is rejected; trying again",
            ]),
        F::MissedTrigger => of(&[Latch]).counts("missed"),
        F::WrongAcknowledgement => of(&[Latch]).counts("wrong_acknowledgements"),
        F::Overrun => of(&[Latch]).counts("overruns").events(&[E::Overrun]),
        F::TooManyRejects => of(&[Stop]).events(&[E::StopRequested]).logs(&["StopRequested"]),
        F::ChallengeFailed => of(&[Stop])
            .counts("challenges_failed")
            .events(&[E::Challenge, E::StopRequested])
            .logs(&["Challenge", "StopRequested"]),
        F::Drifted => {
            of(&[Stop]).events(&[E::DriftAlarm, E::StopRequested]).logs(&["DriftAlarm", "StopRequested"])
        }
        F::TwoCommands | F::UnknownCommand | F::CommandNotArmed => of(&[Command]),
        F::NoSuchRecipe | F::BadRecipe => {
            of(&[Command]).events(&[E::RecipeRefused]).logs(&["recipe refused"])
        }
        F::Internal => {
            of(&[StationUntold, Part, Command]).events(&[E::GaveUp]).logs(&["station ended: internal error"])
        }
    }
}

/// One code, as it is seen. Each cell is empty where nothing is said there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its number, as the PLC reads it.
    pub code: u16,
    /// Its word, as MQTT carries it.
    pub word: String,
    /// As what it shows itself.
    #[serde(rename = "as")]
    pub of: Vec<As>,
    /// Registers and bits.
    pub plc: Vec<String>,
    /// Topics below the prefix, and what they say.
    pub mqtt: Vec<String>,
    /// What `inspectd status` says.
    pub status: Vec<String>,
    /// Messages in the log.
    pub log: Vec<String>,
    /// What it means.
    pub meaning: &'static str,
    /// What to do.
    pub action: &'static str,
    /// How long it stands.
    pub stands: Vec<&'static str>,
}

/// All codes.
pub fn rows() -> Vec<Row> {
    FaultCode::ALL.iter().copied().map(row).collect()
}

/// One code.
pub fn row(code: FaultCode) -> Row {
    let Beside { of, events, logs, counter } = beside(code);
    let (number, word) = (code.code(), word(&code));
    let mut row = Row {
        code: number,
        plc: of.iter().map(|of| of.plc(code)).filter(|cell| !cell.is_empty()).collect(),
        mqtt: of.iter().map(|of| of.mqtt(&word)).filter(|cell| !cell.is_empty()).collect(),
        status: Vec::new(),
        log: of.iter().map(|of| of.log(number)).filter(|cell| !cell.is_empty()).collect(),
        of: of.to_vec(),
        word,
        meaning: code.meaning(),
        action: code.action(),
        stands: of.iter().map(|of| of.stands()).collect(),
    };
    row.plc.extend(counter.map(|counter| format!("counter `{counter}`")));
    row.mqtt.extend(events.iter().map(|event| format!("`event`: `{}`", self::word(event))));
    row.log.extend(logs.iter().map(|log| format!("`{log}`")));
    let told = |trouble: Trouble| trouble.heading().replace(code.meaning(), "…");
    if of.iter().any(|of| matches!(of, As::Station | As::StationUntold | As::Waits)) {
        row.status.push(format!("`NOT READY`, `{}`", told(Trouble::of_fault(NAME, code))));
    }
    if of.iter().any(|of| matches!(of, As::Part | As::Latch | As::Stop)) {
        row.status.push(format!("`{}`", told(Trouble::of_error(NAME, code))));
    }
    row
}

/// As it is written in JSON.
fn word<T: Serialize>(of: &T) -> String {
    serde_json::to_value(of).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

impl As {
    fn plc(self, code: FaultCode) -> String {
        let n = code.code();
        match self {
            Self::Station | Self::StationUntold => format!("`fault_code` {n}, `fault` 1, `ready` 0"),
            Self::Waits => format!("`fault_code` {n}, `fault` 0, `ready` 0"),
            Self::Part => format!("`result_fault_code` {n}, `verdict` 4, `gate` 2"),
            Self::Latch => format!("`error_code` {n}, `error` 1"),
            Self::Stop => format!("`error_code` {n}, `error` 1, `stop_request` 1"),
            Self::Command => format!("`command_fault_code` {n}, `command_failed` 1"),
            Self::NoResult => format!("`result_fault_code` {n}, `result_trigger_id` 0, `gate` 2"),
            Self::Record => String::new(),
        }
    }

    fn mqtt(self, word: &str) -> String {
        match self {
            Self::Station | Self::Waits => {
                format!("`{NAME}/state`: fault `{word}`; `event`: `station_fault`")
            }
            Self::StationUntold => format!("`{NAME}/state`: fault `{word}`"),
            Self::Part | Self::Record => format!("`{NAME}/inspection`: fault `{word}`"),
            Self::Latch | Self::Stop => format!("`{NAME}/state`: error `{word}`"),
            Self::Command | Self::NoResult => String::new(),
        }
    }

    fn log(self, code: u16) -> String {
        match self {
            Self::Station | Self::Waits => format!("`station cannot inspect`, `fault={code}`"),
            Self::Part => format!("`inspected`, `fault={code}`"),
            Self::Latch | Self::Stop => format!("`latched until the PLC's clear_error`, `error={code}`"),
            Self::StationUntold | Self::Command | Self::NoResult | Self::Record => String::new(),
        }
    }

    fn stands(self) -> &'static str {
        match self {
            Self::Station | Self::StationUntold | Self::Waits => "as long as it is so; goes by itself",
            Self::Part => "one part; `error_code` keeps the first until `clear_error`",
            Self::Latch | Self::Stop => "until `clear_error`",
            Self::Command => "until all command bits are 0",
            Self::NoResult => "until the next result",
            Self::Record => "one part",
        }
    }
}

/// The code of this number or word.
pub fn find(wanted: &str) -> Option<FaultCode> {
    let number = wanted.parse::<u16>().ok();
    FaultCode::ALL.iter().copied().find(|code| Some(code.code()) == number || word(code) == wanted)
}

/// One code for a terminal.
pub fn text(code: FaultCode) -> String {
    let row = row(code);
    let mut text = format!("fault {}: {}\nDo: {}\n\n", row.code, row.meaning, row.action);
    let stands: Vec<String> = row.stands.iter().map(|&s| s.to_owned()).collect();
    let places = [
        ("PLC", &row.plc),
        ("MQTT", &row.mqtt),
        ("status", &row.status),
        ("log", &row.log),
        ("stands", &stands),
    ];
    for (place, cells) in places {
        let nothing = vec!["nothing".to_owned()];
        for (n, cell) in if cells.is_empty() { &nothing } else { cells }.iter().enumerate() {
            let place = if n == 0 { place } else { "" };
            let _ = writeln!(text, "{place:<8}{}", cell.replace('`', "").replace('…', row.meaning)); // writing to a String cannot fail
        }
    }
    let _ = writeln!(text, "\n{NAME} stands for the station's name.");
    text
}

/// All codes for a terminal: number, word, meaning.
pub fn list() -> String {
    let mut text = rows().iter().fold(String::new(), |mut text, row| {
        let _ = writeln!(text, "{:>3}  {:<22} {}", row.code, row.word, row.meaning);
        text
    });
    text.push_str("\nWhat is seen of one, and what to do: inspectd faults CODE\n");
    text
}

const HEAD: &str = "# Fault codes: what you see, what it means, what to do

Made by `inspectd faults --format markdown`; do not edit. One code, by the number on the PLC's panel or the word from MQTT:
`inspectd faults 17`.

`NAME` is the station's. PLC: symbols of [registers.md](registers.md). MQTT: topics below the prefix; where there is no
broker, or it is away, they come later. Status: `inspectd status`; `…` stands for what the code means, and *Do:* below it is
the last column. Log: `journalctl -u inspectd`. An empty cell: nothing is said there.

How long a code stands:

- `fault_code`: as long as it is so. It goes by itself. Where there is no result yet, `result_fault_code` shows it too.
- `result_fault_code`: of the one part in the block, which is pushed out.
- `error_code`: **latched**. The first code since the PLC's last `clear_error`, of a part or of the handshake; also when all is
  well again. In `NAME/state` it is `error`; the log says `latched until the PLC's clear_error` when it comes.
- `command_fault_code`: until all command bits are 0.

| code | PLC | MQTT | status | log | what it means | what to do |
| --- | --- | --- | --- | --- | --- | --- |
";

/// The manual's page.
pub fn page() -> String {
    let table = rows().iter().fold(String::new(), |mut text, row| {
        let cells = [&row.plc, &row.mqtt, &row.status, &row.log].map(|cells| cells.join("; "));
        let _ = writeln!(text, "| {} | {} | {} | {} |", row.code, cells.join(" | "), row.meaning, row.action);
        text
    });
    format!("{HEAD}{table}\n{TRIED}")
}

#[cfg(test)]
mod tests;
