//! A journal as a file for other programs: CSV, Parquet, JSON Lines.
//!
//! CSV and Parquet hold one row for each inspection, or one for each event, in columns that never change with what is
//! in the journal ([`columns`]). Why an inspection is one row, with its views side by side: who counts rows counts
//! parts, and cannot count a part of two views twice. JSON Lines hold the records as MQTT publishes them.
//!
//! The file is written beside its place under `.part`, synced, and moved there: a file with its own name is whole.
//! Memory does not grow with the journal.
//!
//! Never here: changing the journal; a record left out without being counted.

pub mod columns;
mod csv;
mod parquet;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use super::JournalError;
use super::reader::{Choice, Entry, JournalReader};
use super::walk::{Unreadable, Walk};
use crate::record::{Event, Inspection};
use columns::{Cell, Columns, Place};

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The journal cannot be read at all.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The file cannot be written.
    #[error("export to {path}: {source}; expected a folder with room that may be written to")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Parquet cannot be made of it.
    #[error("export to {path}: {reason}")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the library said.
        reason: String,
    },
}

/// Kinds of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For spreadsheets.
    Csv,
    /// Each record as MQTT publishes it, one a line.
    Jsonl,
    /// For data frames.
    Parquet,
}

/// Kinds of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One of a part.
    Inspection,
    /// Anything else.
    Event,
}

impl Kind {
    /// As the journal names it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Inspection => "inspection",
            Self::Event => "event",
        }
    }
}

/// What is exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// As what.
    pub format: Format,
    /// Of this kind; none: inspections, in JSON Lines both.
    pub kind: Option<Kind>,
    /// Of this station.
    pub station: Option<String>,
    /// From this time on.
    pub from: Option<Timestamp>,
    /// Before this time.
    pub to: Option<Timestamp>,
}

/// What was exported.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Records in the file.
    pub records: u64,
    /// Records whose JSON is not one of this version; in JSON Lines they are in the file as they stand.
    pub not_understood: u64,
    /// Where the journal is damaged.
    pub unreadable: Vec<Unreadable>,
}

/// Writes the journal's records to `out`, which is replaced if it is there. Calls `progress` with how many of how many
/// sequences are done.
///
/// Errors: [`ExportError`]; then `out` is as it was.
pub fn export(
    reader: &JournalReader,
    wanted: &Wanted,
    out: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Exported, ExportError> {
    let mut name = out.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let io = |source| ExportError::Io { path: out.to_owned(), source };
    let file = File::create(&part).map_err(io)?;
    let done = write(reader, wanted, BufWriter::new(file), progress)
        .and_then(|exported| {
            std::fs::rename(&part, out)?;
            Ok(exported)
        })
        .map_err(|failed| failed.at(out));
    if done.is_err() {
        // What is half a file is of no use to anybody.
        let _ = std::fs::remove_file(&part);
    }
    done
}

/// Why a table cannot be written, without its place.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Parquet(#[from] ::parquet::errors::ParquetError),
}

impl Failed {
    fn at(self, out: &Path) -> ExportError {
        let path = out.to_owned();
        match self {
            Self::Journal(error) => ExportError::Journal(error),
            Self::Io(source) => ExportError::Io { path, source },
            Self::Parquet(error) => ExportError::Parquet { path, reason: error.to_string() },
        }
    }
}

/// A file in the making.
trait Table {
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Failed>;
    /// Ends it; what was written is synced.
    fn end(self: Box<Self>) -> Result<(), Failed>;
}

fn write(
    reader: &JournalReader,
    wanted: &Wanted,
    mut file: BufWriter<File>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Exported, Failed> {
    let kind = wanted.kind.or((wanted.format != Format::Jsonl).then_some(Kind::Inspection));
    let of = Choice { kind: kind.map(|kind| kind.word().to_owned()), station: wanted.station.clone() };
    // A damaged journal may not tell its ends.
    let (first, last) = reader.ends().ok().flatten().unwrap_or((1, i64::MAX as u64));
    let mut walk = Walk::new(reader, of, last);
    let (journal, mut exported) = (reader.uuid().to_string(), Exported::default());
    let mut each = |write: &mut dyn FnMut(&Entry, &mut Exported) -> Result<(), Failed>| {
        loop {
            let entries = walk.page()?;
            if entries.is_empty() {
                exported.unreadable = walk.unreadable().to_vec();
                return Ok::<_, Failed>(());
            }
            for entry in &entries {
                write(entry, &mut exported)?;
            }
            progress((walk.at() + 1).saturating_sub(first), (last + 1).saturating_sub(first));
        }
    };
    if wanted.format == Format::Jsonl {
        each(&mut |entry, exported| line(reader, wanted, entry, &mut file, exported))?;
        file.flush()?;
        file.get_ref().sync_all()?;
        return Ok(exported);
    }
    let columns = Columns::of(kind.unwrap_or(Kind::Inspection));
    let mut table: Box<dyn Table> = match wanted.format {
        Format::Parquet => Box::new(parquet::Parquet::new(file, &columns)?),
        _ => Box::new(csv::Csv::new(file, &columns)?),
    };
    each(&mut |entry, exported| row(&columns, &journal, wanted, entry, table.as_mut(), exported))?;
    table.end()?;
    Ok(exported)
}

/// A record with its time.
enum Record {
    Inspection(Box<Inspection>),
    Event(Event),
}

impl Record {
    /// `None`: it is none of this version.
    fn read(entry: &Entry) -> Option<(Self, Timestamp)> {
        if entry.kind == Kind::Inspection.word() {
            let record: Inspection = serde_json::from_str(&entry.json).ok()?;
            let time = record.trigger.accepted;
            Some((Self::Inspection(Box::new(record)), time))
        } else {
            let event: Event = serde_json::from_str(&entry.json).ok()?;
            let time = event.time;
            Some((Self::Event(event), time))
        }
    }
}

impl Wanted {
    fn takes(&self, time: Timestamp) -> bool {
        self.from.is_none_or(|from| time >= from) && self.to.is_none_or(|to| time < to)
    }
}

fn line(
    reader: &JournalReader,
    wanted: &Wanted,
    entry: &Entry,
    file: &mut BufWriter<File>,
    exported: &mut Exported,
) -> Result<(), Failed> {
    match Record::read(entry) {
        Some((_, time)) if !wanted.takes(time) => return Ok(()),
        Some(_) => {}
        None => exported.not_understood += 1,
    }
    let json = entry.published(reader.uuid()).unwrap_or_else(|| entry.json.clone().into_bytes());
    // A record is one line; what is damaged may hold breaks.
    file.write_all(&json.into_iter().filter(|byte| *byte != b'\n').collect::<Vec<_>>())?;
    file.write_all(b"\n")?;
    exported.records += 1;
    Ok(())
}

fn row(
    columns: &Columns,
    journal: &str,
    wanted: &Wanted,
    entry: &Entry,
    table: &mut dyn Table,
    exported: &mut Exported,
) -> Result<(), Failed> {
    let Some((record, time)) = Record::read(entry) else {
        exported.not_understood += 1;
        return Ok(());
    };
    if !wanted.takes(time) {
        return Ok(());
    }
    let place = Place { journal, sequence: entry.sequence };
    let cells = match &record {
        Record::Inspection(inspection) => columns.of_inspection(place, inspection),
        Record::Event(event) => columns.of_event(place, event),
    };
    table.row(&cells)?;
    exported.records += 1;
    Ok(())
}
