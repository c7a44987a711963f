//! What goes over the wire: topics, the messages' JSON and their JSON Schemas.
//!
//! Never here: when something is published.

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, schema_for};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock;
use crate::journal::Entry;
use crate::record::{Event, Inspection, RECORD_SCHEMA, State};

/// A record of the journal as it is published: where it stands in the journal, and the record's own fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Published<T> {
    /// UUID of the journal. With `sequence` it names the record: the same pair twice is a double.
    pub journal: String,
    /// Number in the journal; it only grows, not always by one.
    pub sequence: u64,
    /// The record.
    #[serde(flatten)]
    pub record: T,
}

/// Whether inspectd is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Version of this JSON.
    pub schema: u32,
    /// There, or not.
    pub status: StatusWord,
    /// When this was published. None in a last will: the broker alone knows when the connection was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// When this connection to the broker began.
    pub connected: Timestamp,
    /// UUID of the journal in use when the connection began, or since.
    pub journal: String,
    /// Version of inspectd.
    pub version: String,
    /// Why it is offline: `stopped` in order, or `lost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<OfflineReason>,
}

/// There, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StatusWord {
    /// Connected.
    Online,
    /// Not connected.
    Offline,
}

/// Why inspectd is offline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OfflineReason {
    /// It was stopped in order.
    Stopped,
    /// The broker lost it: crash, power cut, network.
    Lost,
}

impl Status {
    fn new(status: StatusWord, connected: Timestamp, journal: Uuid) -> Self {
        Self {
            schema: RECORD_SCHEMA,
            status,
            time: Some(clock::wall()),
            connected,
            journal: journal.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            reason: None,
        }
    }

    /// Published on every connection.
    pub(super) fn online(connected: Timestamp, journal: Uuid) -> Self {
        Self::new(StatusWord::Online, connected, journal)
    }

    /// Published before an orderly end.
    pub(super) fn stopped(connected: Timestamp, journal: Uuid) -> Self {
        let reason = Some(OfflineReason::Stopped);
        Self { reason, ..Self::new(StatusWord::Offline, connected, journal) }
    }

    /// The last will.
    pub(super) fn lost(connected: Timestamp, journal: Uuid) -> Self {
        let reason = Some(OfflineReason::Lost);
        Self { reason, time: None, ..Self::new(StatusWord::Offline, connected, journal) }
    }
}

/// Topics under one prefix.
#[derive(Debug, Clone)]
pub(super) struct Topics {
    prefix: String,
}

impl Topics {
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub fn status(&self) -> String {
        format!("{}/status", self.prefix)
    }

    pub fn state(&self, station: &str) -> String {
        format!("{}/{}/state", self.prefix, level(station))
    }

    pub fn entry(&self, entry: &Entry) -> String {
        match (entry.kind.as_str(), &entry.station) {
            ("inspection", Some(station)) => format!("{}/{}/inspection", self.prefix, level(station)),
            _ => format!("{}/event", self.prefix),
        }
    }
}

/// A station's name as one level of a topic. The configuration allows only names that stay as they are.
fn level(station: &str) -> String {
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '+' | '#' | '$');
    if station.is_empty() { "_".to_owned() } else { station.replace(bad, "_") }
}

/// Name and JSON Schema of each message, as they stand in `deploy/schema/`.
pub fn schemas() -> [(&'static str, Schema); 4] {
    let named = |name: &'static str, title: &str, mut schema: Schema| {
        schema.insert("title".to_owned(), title.into());
        (name, schema)
    };
    [
        named("inspection", "inspectd inspection", schema_for!(Published<Inspection>)),
        named("event", "inspectd event", schema_for!(Published<Event>)),
        named("state", "inspectd station state", schema_for!(State)),
        named("status", "inspectd status", schema_for!(Status)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::EventKind;

    #[test]
    fn splicing_gives_the_json_that_the_schema_describes() {
        let event = Event::now(EventKind::Started, Some("press 1/a"), "up {} \"quoted\"");
        let entry = Entry {
            sequence: 7,
            kind: "event".into(),
            station: event.station.clone(),
            json: serde_json::to_string(&event).unwrap(),
        };
        let journal = Uuid::new_v4();
        let bytes = entry.published(journal).unwrap();
        let back: Published<Event> = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(back, Published { journal: journal.to_string(), sequence: 7, record: event });
        let garbage = Entry { json: "garbage".into(), ..entry };
        assert_eq!(garbage.published(journal), None);
    }

    #[test]
    fn no_station_can_leave_its_level() {
        let topics = Topics::new("a/b");
        assert_eq!(topics.state("x/+ #$"), "a/b/x_____/state");
        assert_eq!(topics.state(""), "a/b/_/state");
    }
}
