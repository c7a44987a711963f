//! Whether a journal is sound: what `inspectd journal check` says of it, beside a running daemon too.
//!
//! Terms. A *finding* is something that should not be, with what to do about it. What is normal and looks odd, such as
//! sequences that begin late since old records were deleted, is told as a fact and is no finding.
//!
//! Never here: changing anything.

use std::path::{Path, PathBuf};

use rusqlite::{OptionalExtension, Row};
use serde::Serialize;

use super::connection::failure;
use super::numbers::{Explains, Numbers, StationNumbers};
use super::reader::JournalReader;
use super::schema::{SCHEMA, meta_count, version};
use super::store::DROPPED;
use super::{JournalError, POWER_CUT_SKIP, ring, store};
use crate::audit::{self, Anchor};
use crate::record::{Event, EventKind, Inspection};

/// Most findings of one sort that are told one by one.
pub const MAX_TOLD: usize = 10;
/// Records that are looked at in one go.
const PAGE: usize = 1_000;
/// How often the ring is read where the daemon may be writing it.
const RING_READS: usize = 5;

/// Something that should not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What, and where.
    pub what: String,
    /// What to do.
    pub action: String,
}

/// What a consumer has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Consumer {
    /// Its name.
    pub name: String,
    /// Everything up to this sequence.
    pub sequence: u64,
    /// Sequences that it does not have yet.
    pub behind: u64,
}

/// What lies in the ring: parts in hand, or that the daemon left when it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InRing {
    /// Parts.
    pub parts: usize,
    /// Of these, such whose verdict was reached.
    pub judged: usize,
}

/// A journal that was put aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PutAside {
    /// Its file.
    pub path: PathBuf,
    /// Its size with what belongs to it.
    pub bytes: u64,
}

/// What was looked at, and found.
#[derive(Debug, Default, Serialize)]
pub struct Checked {
    /// The journal's file.
    pub path: PathBuf,
    /// Its UUID.
    pub journal: Option<String>,
    /// Version of its tables.
    pub schema: Option<u64>,
    /// Records, and the sequences of the first and the last.
    pub records: u64,
    /// 0 where there is none.
    pub first: u64,
    /// 0 where there is none.
    pub last: u64,
    /// Part numbers of each station.
    pub stations: Vec<StationNumbers>,
    /// Who reads the journal, and how far.
    pub consumers: Vec<Consumer>,
    /// Records that were deleted before every consumer had them, since the journal began.
    pub dropped_undelivered: u64,
    /// What lies in the ring; none where there is no ring.
    pub ring: Option<InRing>,
    /// Journals that were put aside.
    pub put_aside: Vec<PutAside>,
    /// Lines of the audit trail, each as it was written.
    pub audit_lines: u64,
    /// Lines of it that the journal's events know of.
    #[serde(skip)]
    anchors: Vec<Anchor>,
    /// What is normal and may look odd.
    pub notes: Vec<String>,
    /// What is wrong. The journal is sound where there is nothing.
    pub findings: Vec<Finding>,
}

const DAMAGED: &str = "When inspectd next runs it puts this journal aside and begins a new one. What can still be read \
                       of it: inspectd journal export --dir FILE --format jsonl --out OUT";
const TELL: &str = "Keep a copy of the journal's directory and report it: inspectd never writes this";

impl Checked {
    fn wrong(&mut self, what: impl Into<String>, action: impl Into<String>) {
        self.findings.push(Finding { what: what.into(), action: action.into() });
    }
}

/// Looks at the journal in `dir` (or the file `dir`), at the ring in `run_dir` and at what lies beside. `progress` is
/// called with how many of how many sequences were looked at.
pub fn check(dir: &Path, run_dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Checked {
    let path = if dir.is_dir() { dir.join(store::FILE) } else { dir.to_owned() };
    let mut checked = Checked { path: path.clone(), ..Checked::default() };
    if !path.exists() {
        let action = "Name the journal's directory with --dir, or the configuration with --config; a daemon that \
                      never ran has none";
        checked.wrong(format!("{}: there is no journal", path.display()), action);
    } else if let Err(error) = look(&path, &mut checked, progress) {
        let action = match &error {
            JournalError::NewerSchema { .. } => "Use the newer inspectd",
            JournalError::Corrupt { .. } => DAMAGED,
            _ => "Check that the file can be read by this user, and that the disk is sound",
        };
        checked.wrong(error.to_string(), action);
    }
    if dir.is_dir() {
        checked.put_aside = put_aside(dir);
        look_at_ring(run_dir, &mut checked);
        look_at_audit_trail(dir, &mut checked);
    }
    checked
}

/// The audit trail lies in the journal's directory, and the journal's events say what its lines were.
fn look_at_audit_trail(dir: &Path, checked: &mut Checked) {
    let followed =
        audit::check(dir).and_then(|summary| summary.holds_all(dir, &checked.anchors).map(|()| summary));
    match followed {
        Ok(summary) => {
            checked.audit_lines = summary.lines;
            let look = "`inspectd model list` shows what is there";
            checked.notes.extend(summary.unfinished.iter().map(|broken| format!("{broken}; {look}")));
        }
        Err(error) => {
            let action = "Where somebody changed it: find out who, and compare with a copy. Where it cannot be read: its \
                          owner, and the disk";
            checked.wrong(error.to_string(), action);
        }
    }
}

fn look(path: &Path, checked: &mut Checked, progress: &mut dyn FnMut(u64, u64)) -> Result<(), JournalError> {
    let reader = JournalReader::open_file(path)?;
    let (conn, fail) = (reader.connection(), |e| failure(path, e));
    checked.journal = Some(reader.uuid().to_string());
    let schema = version(conn, path)?;
    checked.schema = Some(schema);
    if schema < SCHEMA {
        checked
            .notes
            .push(format!("its tables are of version {schema}: the next start brings them to {SCHEMA}"));
    }
    let mut sound = conn.prepare("PRAGMA integrity_check(10)").map_err(fail)?;
    let words = sound.query_map([], |r| r.get::<_, String>(0)).map_err(fail)?;
    for word in words.map_while(Result::ok).filter(|word| word != "ok") {
        checked.wrong(format!("{}: {word}", path.display()), DAMAGED);
    }
    drop(sound);
    let mut cursors = conn.prepare("SELECT name, sequence FROM cursor ORDER BY name").map_err(fail)?;
    let cursors = cursors.query_map([], |r| Ok((r.get(0)?, r.get::<_, i64>(1)?))).map_err(fail)?;
    let cursors: Vec<(String, i64)> = cursors.collect::<rusqlite::Result<_>>().map_err(fail)?;
    let given = "SELECT seq FROM sqlite_sequence WHERE name = 'record'";
    let given = conn.query_row(given, [], |r| r.get::<_, i64>(0)).optional().map_err(fail)?.unwrap_or(0);
    let given = u64::try_from(given).unwrap_or(0);
    checked.dropped_undelivered = meta_count(conn, DROPPED).map_err(fail)?;
    look_at_cursors(checked, &cursors, given);
    let mut scan = Scan::new(checked);
    scan.run(&reader, schema, given, progress)?;
    let numbers = scan.numbers;
    let mut stations = conn.prepare("SELECT name, part FROM station").map_err(fail)?;
    let stations = stations.query_map([], |r| Ok((r.get(0)?, r.get::<_, i64>(1)?))).map_err(fail)?;
    let stations: Vec<(String, i64)> = stations.collect::<rusqlite::Result<_>>().map_err(fail)?;
    for station in numbers.stations() {
        let kept = stations.iter().find(|(name, _)| *name == station.station);
        if kept.is_none_or(|(_, part)| u64::try_from(*part).unwrap_or(0) < station.last) {
            let what = format!(
                "station {}: its last part is {}, and the number kept for the next start {}",
                station.station,
                station.last,
                kept.map_or(0, |(_, part)| *part)
            );
            checked.wrong(what, TELL);
        }
    }
    for problem in numbers.problems() {
        checked.wrong(problem, TELL);
    }
    checked.stations = numbers.stations();
    Ok(())
}

fn look_at_cursors(checked: &mut Checked, cursors: &[(String, i64)], given: u64) {
    for (name, sequence) in cursors {
        let at = u64::try_from(*sequence).ok().filter(|at| *at <= given);
        if at.is_none() {
            let what = format!("consumer {name}: it has records up to {sequence}, of {given}");
            checked.wrong(what, TELL);
        }
        let sequence = at.unwrap_or(0);
        checked.consumers.push(Consumer { name: name.clone(), sequence, behind: given - sequence });
    }
}

/// The way through the records.
struct Scan<'a> {
    checked: &'a mut Checked,
    numbers: Numbers,
    /// Findings by sort that were not told one by one.
    told: [usize; 3],
}

/// Sorts of findings of which there may be many.
#[derive(Clone, Copy)]
enum Sort {
    Gap,
    Body,
    Columns,
}

/// A row as it stands.
struct Stored {
    sequence: u64,
    kind: String,
    station: Option<String>,
    body: String,
    time_ms: Option<i64>,
    part: Option<i64>,
}

fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    Ok(Stored {
        sequence: u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0),
        kind: row.get(1)?,
        station: row.get(2)?,
        body: row.get(3)?,
        time_ms: row.get(4)?,
        part: row.get(5)?,
    })
}

impl<'a> Scan<'a> {
    fn new(checked: &'a mut Checked) -> Self {
        Self { checked, numbers: Numbers::default(), told: [0; 3] }
    }

    fn run(
        &mut self,
        reader: &JournalReader,
        schema: u64,
        until: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), JournalError> {
        let fail = |e| failure(reader.path(), e);
        let columns = if schema >= 2 { "time, part" } else { "NULL, NULL" };
        let sql = format!(
            "SELECT sequence, kind, station, body, {columns} FROM record
             WHERE sequence > ?1 AND sequence <= ?2 ORDER BY sequence LIMIT ?3"
        );
        let mut select = reader.connection().prepare(&sql).map_err(fail)?;
        let mut before = 0;
        loop {
            let rows = select.query_map((before as i64, until as i64, PAGE as i64), stored).map_err(fail)?;
            let rows: Vec<Stored> = rows.collect::<rusqlite::Result<_>>().map_err(fail)?;
            let Some(last) = rows.last().map(|row| row.sequence) else { break };
            for row in rows {
                let event = self.record(&row, schema);
                if before == 0 {
                    self.checked.first = row.sequence;
                } else if row.sequence != before + 1 {
                    self.gap(reader, before, &row, event.as_ref())?;
                }
                before = row.sequence;
                self.checked.records += 1;
            }
            let first = self.checked.first;
            progress((last + 1).saturating_sub(first), (until + 1).saturating_sub(first));
        }
        self.checked.last = before;
        if self.checked.first > 1 {
            let note = format!(
                "records up to sequence {} are gone: deleted by max_mb or keep_days, or skipped after a power cut",
                self.checked.first - 1
            );
            self.checked.notes.push(note);
        }
        for (sort, told) in [Sort::Gap, Sort::Body, Sort::Columns].into_iter().zip(self.told) {
            if told > MAX_TOLD {
                let word = [
                    "gaps between sequences",
                    "records that cannot be understood",
                    "records beside their columns",
                ];
                self.checked.wrong(format!("{} more {}", told - MAX_TOLD, word[sort as usize]), TELL);
            }
        }
        Ok(())
    }

    fn wrong(&mut self, sort: Sort, what: String, action: &str) {
        let told = &mut self.told[sort as usize];
        *told += 1;
        if *told <= MAX_TOLD {
            self.checked.wrong(what, action);
        }
    }

    /// Sequences are missing between `before` and this row.
    fn gap(
        &mut self,
        reader: &JournalReader,
        before: u64,
        row: &Stored,
        event: Option<&Event>,
    ) -> Result<(), JournalError> {
        let missing = row.sequence - before - 1;
        let skipped = event.is_some_and(|event| event.event == EventKind::UncleanStop)
            && missing.is_multiple_of(POWER_CUT_SKIP);
        if skipped {
            let note =
                format!("sequences {} to {} were skipped after a power cut", before + 1, row.sequence - 1);
            self.checked.notes.push(note);
            return Ok(());
        }
        // A daemon that runs deletes old records meanwhile.
        if reader.ends()?.is_some_and(|(first, _)| first > before) {
            return Ok(());
        }
        let what = format!("sequences {} to {} are missing", before + 1, row.sequence - 1);
        self.wrong(Sort::Gap, what, TELL);
        Ok(())
    }

    /// Looks at one record; the event, if it is one.
    fn record(&mut self, row: &Stored, schema: u64) -> Option<Event> {
        let sequence = row.sequence;
        let (station, part, time, event) = match row.kind.as_str() {
            "inspection" => match serde_json::from_str::<Inspection>(&row.body) {
                Ok(record) => (Some(record.station), Some(record.part), record.trigger.accepted, None),
                Err(error) => return self.not_understood(sequence, &error.to_string()),
            },
            "event" => match serde_json::from_str::<Event>(&row.body) {
                Ok(event) => (event.station.clone(), None, event.time, Some(event)),
                Err(error) => return self.not_understood(sequence, &error.to_string()),
            },
            other => return self.not_understood(sequence, &format!("its kind is `{other}`")),
        };
        // A migrated journal's times are rounded, a new one's cut off.
        let fits = |stored: i64| stored.abs_diff(time.as_millisecond()) <= 1;
        let columns = schema < 2
            || row.time_ms.is_some_and(fits) && row.part == part.and_then(|part| i64::try_from(part).ok());
        if station != row.station || !columns {
            self.wrong(
                Sort::Columns,
                format!("sequence {sequence}: its columns do not say what its record says"),
                TELL,
            );
        }
        if let (Some(station), Some(part)) = (&station, part) {
            self.numbers.part(station, part, sequence);
        }
        if let Some(event) = &event {
            if event.event == EventKind::AuditLine {
                self.checked.anchors.extend(Anchor::parse(&event.message));
            }
            let explains = match event.event {
                EventKind::InspectionsLost => Some(Explains::Lost(event.lost)),
                _ => event.skipped.map(Explains::Skipped),
            };
            if let Some(explains) = explains {
                self.numbers.event(sequence, explains, event.station.as_deref());
            }
        }
        event
    }

    fn not_understood(&mut self, sequence: u64, reason: &str) -> Option<Event> {
        let what = format!("sequence {sequence}: its record cannot be understood: {reason}");
        let action =
            "Of a newer inspectd: use that one to read it. Else keep a copy of the journal and report it";
        self.wrong(Sort::Body, what, action);
        None
    }
}

fn put_aside(dir: &Path) -> Vec<PutAside> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_one = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("journal.quarantined-") && name.ends_with(".db")
    };
    let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    let mut found: Vec<PutAside> = entries
        .filter(is_one)
        .map(|path| {
            let wal = PathBuf::from(format!("{}-wal", path.display()));
            PutAside { bytes: bytes(&path) + bytes(&wal), path }
        })
        .collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn look_at_ring(run_dir: &Path, checked: &mut Checked) {
    let path = run_dir.join(ring::FILE);
    for read in 1..=RING_READS {
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let path = path.display();
                return checked.notes.push(format!("{path}: there is no ring; the next start makes it"));
            }
            Err(error) => {
                let action = "Run it as a user who may read the folder run_dir";
                return checked.wrong(format!("ring {}: {error}", path.display()), action);
            }
        };
        let found = ring::found(&bytes);
        let judged = found.parts.iter().filter(|left| left.judged.is_some()).count();
        checked.ring = Some(InRing { parts: found.parts.len(), judged });
        if found.damaged == 0 {
            return;
        }
        // Half written at this moment, as likely as not.
        if read == RING_READS {
            let what = format!("ring {}: {} of its slots are damaged", path.display(), found.damaged);
            let action = "Whether their parts are in the journal cannot be told: look for part numbers that are missing";
            checked.wrong(what, action);
        }
    }
}
