//! The columns of CSV and Parquet: one table, from which the files, `inspectd journal columns` and the manual's page come.
//!
//! They are always all there, in this order; new ones come at the end of their group. Views that a part does not have
//! are empty, and stand last so that they are out of the way.
//!
//! Never here: how a file is written.

use std::borrow::Cow;
use std::fmt::Write as _;

use inspect_core::card::MAX_VIEWS;
use inspect_core::verdict::Verdict;
use jiff::Timestamp;
use serde::Serialize;

use super::Kind;
use crate::record::{Event, Inspection, ViewRecord};

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell<'a> {
    /// There is none.
    None,
    /// Any text.
    Text(Cow<'a, str>),
    /// A whole number.
    Whole(i64),
    /// A number.
    Real(f32),
    /// Yes or no.
    Truth(bool),
    /// A moment.
    Time(Timestamp),
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// [`Cell::Text`].
    Text,
    /// [`Cell::Whole`].
    Whole,
    /// [`Cell::Real`].
    Real,
    /// [`Cell::Truth`].
    Truth,
    /// [`Cell::Time`].
    Time,
}

impl Holds {
    /// For people.
    fn words(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Whole => "whole number",
            Self::Real => "number",
            Self::Truth => "true or false",
            Self::Time => "time",
        }
    }
}

/// Where a record stands.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// UUID of its journal.
    pub journal: &'a str,
    /// Its number there.
    pub sequence: u64,
}

/// A column.
#[derive(Debug)]
pub struct Column {
    /// Its name: lower case, units last.
    pub name: String,
    /// What it holds.
    pub holds: Holds,
    /// What it means.
    pub meaning: &'static str,
    from: From,
}

#[derive(Debug, Clone, Copy)]
enum From {
    Inspection(OfInspection),
    View(usize, OfView),
    Event(OfEvent),
}

type OfInspection = for<'a> fn(Place<'a>, &'a Inspection) -> Cell<'a>;
type OfView = for<'a> fn(&'a ViewRecord) -> Cell<'a>;
type OfEvent = for<'a> fn(Place<'a>, &'a Event) -> Cell<'a>;

fn text(text: &str) -> Cell<'_> {
    Cell::Text(Cow::Borrowed(text))
}

fn whole(number: impl TryInto<i64>) -> Cell<'static> {
    number.try_into().map_or(Cell::None, Cell::Whole)
}

/// A word as the records' JSON has it.
fn word(value: &impl Serialize) -> Cell<'static> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Cell::Text(Cow::Owned(word)),
        _ => Cell::None,
    }
}

fn real(number: Option<f32>) -> Cell<'static> {
    number.map_or(Cell::None, Cell::Real)
}

fn or_none<'a, T>(value: Option<T>, cell: impl FnOnce(T) -> Cell<'a>) -> Cell<'a> {
    value.map_or(Cell::None, cell)
}

use Holds::{Real, Text, Time, Truth, Whole};

const INSPECTION: &[(&str, Holds, &str, OfInspection)] = &[
    ("journal", Text, "UUID of the journal", |at, _| text(at.journal)),
    ("sequence", Whole, "number in the journal; with `journal` it names the record", |at, _| {
        whole(at.sequence)
    }),
    ("time", Time, "when the trigger was accepted", |_, r| Cell::Time(r.trigger.accepted)),
    ("station", Text, "station that judged the part", |_, r| text(&r.station)),
    ("part", Whole, "number of the part at its station", |_, r| whole(r.part)),
    ("verdict", Text, "pass, review, reject, fault", |_, r| text(r.verdict.word())),
    ("fault", Text, "the fault, where the verdict is one", |_, r| match &r.verdict {
        Verdict::Fault(code) => word(code),
        _ => Cell::None,
    }),
    ("fault_code", Whole, "its number, as the PLC reads it; 0: none", |_, r| whole(r.verdict.fault_code())),
    ("reason", Text, "why there is a fault", |_, r| or_none(r.reason.as_deref(), text)),
    ("gate", Text, "what the gate was told: pass, reject", |_, r| word(&r.gate)),
    ("review_at_gate", Text, "what the gate is told of a review: pass, reject", |_, r| {
        word(&r.review_at_gate)
    }),
    (
        "relative_score",
        Real,
        "the highest of its views' scores over their reject thresholds: 1.00 is the limit",
        |_, r| real(r.views.iter().filter_map(|view| view.relative_score).reduce(f32::max)),
    ),
    ("views", Whole, "how many looks at the part there were", |_, r| whole(r.views.len())),
    ("trigger_source", Text, "plc, clock, free_run", |_, r| word(&r.trigger.source)),
    ("trigger_id", Whole, "the PLC's id of the part", |_, r| or_none(r.trigger.trigger_id, whole)),
    ("serial", Text, "the part's serial, as the PLC wrote it", |_, r| {
        or_none(r.trigger.serial.as_deref(), text)
    }),
    ("encoder", Whole, "encoder count, as the PLC wrote it", |_, r| or_none(r.trigger.encoder, whole)),
    ("product", Whole, "kind of part, as the PLC wrote it; 0: not said", |_, r| whole(r.trigger.product)),
    ("challenge", Truth, "a part known to be bad, which must be rejected", |_, r| {
        Cell::Truth(r.trigger.challenge)
    }),
    ("bypass", Truth, "the PLC let parts pass whatever their result", |_, r| Cell::Truth(r.trigger.bypass)),
    ("recipe_number", Whole, "the recipe that judged it", |_, r| {
        or_none(r.recipe.as_ref(), |x| whole(x.number))
    }),
    ("recipe", Text, "its name", |_, r| or_none(r.recipe.as_ref(), |recipe| text(&recipe.name))),
    ("recipe_sha256", Text, "SHA-256 of its file", |_, r| {
        or_none(r.recipe.as_ref(), |recipe| text(&recipe.sha256))
    }),
    ("simulated", Truth, "a frame came from a simulated camera", |_, r| Cell::Truth(r.simulated)),
    ("truth", Text, "what the simulated part really is", |_, r| or_none(r.truth.as_deref(), text)),
    ("grab_us", Whole, "trigger accepted to frame at hand, microseconds", |_, r| whole(r.times_us.grab)),
    ("resize_us", Whole, "frame to model input, microseconds", |_, r| whole(r.times_us.resize)),
    ("score_us", Whole, "the model's run, microseconds", |_, r| whole(r.times_us.score)),
    ("total_us", Whole, "trigger accepted to result published, microseconds", |_, r| whole(r.times_us.total)),
];

/// Of each view; their names begin with `view1_`, `view2_`, …
const VIEW: &[(&str, Holds, &str, OfView)] = &[
    ("name", Text, "name of the view", |v| text(&v.view)),
    ("score", Real, "the model's score; higher is more anomalous", |v| real(v.score)),
    ("relative_score", Real, "score over the reject threshold", |v| real(v.relative_score)),
    ("review_threshold", Real, "up to it a part passes", |v| or_none(v.thresholds, |t| Cell::Real(t.review))),
    ("reject_threshold", Real, "above it a part is rejected", |v| {
        or_none(v.thresholds, |t| Cell::Real(t.reject))
    }),
    ("thresholds_from", Text, "card, card_share, tightened, unproven", |v| word(&v.thresholds_from)),
    ("fault", Text, "why the view has no score", |v| or_none(v.fault.as_ref(), word)),
    ("model", Text, "name of the model on its card", |v| text(&v.model)),
    ("model_sha256", Text, "SHA-256 of the model file", |v| text(&v.model_sha256)),
    ("provider", Text, "execution provider that ran it", |v| or_none(v.provider.as_ref(), word)),
    ("frame", Whole, "the camera's own frame number", |v| or_none(v.frame, whole)),
    ("exposed", Time, "start of exposure", |v| or_none(v.exposed, Cell::Time)),
];

const EVENT: &[(&str, Holds, &str, OfEvent)] = &[
    ("journal", Text, "UUID of the journal", |at, _| text(at.journal)),
    ("sequence", Whole, "number in the journal; with `journal` it names the record", |at, _| {
        whole(at.sequence)
    }),
    ("time", Time, "when", |_, e| Cell::Time(e.time)),
    ("event", Text, "what kind", |_, e| word(&e.event)),
    ("station", Text, "station that it is about", |_, e| or_none(e.station.as_deref(), text)),
    ("part", Whole, "the part that it is about", |_, e| or_none(e.of_part.as_ref(), |of| whole(of.part))),
    ("trigger_id", Whole, "the PLC's id of that part", |_, e| {
        or_none(e.of_part.as_ref().and_then(|of| of.trigger.trigger_id), whole)
    }),
    ("serial", Text, "serial of that part", |_, e| {
        or_none(e.of_part.as_ref().and_then(|of| of.trigger.serial.as_deref()), text)
    }),
    ("message", Text, "what happened", |_, e| text(&e.message)),
];

/// The columns of one kind of record.
#[derive(Debug)]
pub struct Columns(Vec<Column>);

impl Columns {
    /// Of inspections or of events.
    pub fn of(kind: Kind) -> Self {
        if kind == Kind::Event {
            let column = |&(name, holds, meaning, from): &(&str, _, _, _)| Column {
                name: name.to_owned(),
                holds,
                meaning,
                from: From::Event(from),
            };
            return Self(EVENT.iter().map(column).collect());
        }
        let mut columns = Vec::new();
        for &(name, holds, meaning, from) in INSPECTION {
            columns.push(Column { name: name.to_owned(), holds, meaning, from: From::Inspection(from) });
        }
        for view in 0..MAX_VIEWS {
            for &(name, holds, meaning, from) in VIEW {
                let name = format!("view{}_{name}", view + 1);
                columns.push(Column { name, holds, meaning, from: From::View(view, from) });
            }
        }
        Self(columns)
    }

    /// In the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Column> {
        self.0.iter()
    }

    /// A row.
    pub(super) fn of_inspection<'a>(&self, at: Place<'a>, record: &'a Inspection) -> Vec<Cell<'a>> {
        let cell = |column: &Column| match column.from {
            From::Inspection(of) => of(at, record),
            From::View(view, of) => or_none(record.views.get(view), of),
            From::Event(_) => Cell::None,
        };
        self.0.iter().map(cell).collect()
    }

    /// A row.
    pub(super) fn of_event<'a>(&self, at: Place<'a>, event: &'a Event) -> Vec<Cell<'a>> {
        let cell = |column: &Column| match column.from {
            From::Event(of) => of(at, event),
            _ => Cell::None,
        };
        self.0.iter().map(cell).collect()
    }
}

/// Both tables for the manual, in Markdown.
pub fn markdown() -> String {
    let mut text = String::new();
    let mut table = |title: &str, rows: &mut dyn Iterator<Item = (String, Holds, &str)>| {
        let _ = write!(text, "### {title}\n\n| column | holds | meaning |\n| --- | --- | --- |\n");
        for (name, holds, meaning) in rows {
            let _ = writeln!(text, "| `{name}` | {} | {meaning} |", holds.words());
        }
        text.push('\n');
    };
    let plain = INSPECTION.iter().map(|&(name, holds, meaning, _)| (name.to_owned(), holds, meaning));
    let views = VIEW.iter().map(|&(name, holds, meaning, _)| (format!("viewN_{name}"), holds, meaning));
    table(&format!("Inspections: one row each; N is 1 to {MAX_VIEWS}"), &mut plain.chain(views));
    let events = EVENT.iter().map(|&(name, holds, meaning, _)| (name.to_owned(), holds, meaning));
    table("Events: one row each", &mut events.into_iter());
    text.trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_has_these_columns() {
        let page = include_str!("../../../../deploy/manual/journal.md");
        let table = markdown();
        assert!(
            page.ends_with(&table),
            "end deploy/manual/journal.md with: inspectd journal columns\n{table}"
        );
    }

    #[test]
    fn no_name_is_there_twice_and_all_are_plain() {
        for kind in [Kind::Inspection, Kind::Event] {
            let columns = Columns::of(kind);
            let names: std::collections::BTreeSet<_> = columns.iter().map(|c| c.name.as_str()).collect();
            assert_eq!(names.len(), columns.iter().count());
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(names.iter().all(|name| name.chars().all(plain)), "{names:?}");
        }
    }
}
