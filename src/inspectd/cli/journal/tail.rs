//! `inspectd journal tail`: the newest records, readable.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use inspect_core::verdict::Verdict;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use uuid::Uuid;

use crate::journal::{Choice, Entry, JournalError};
use crate::record::{Event, Inspection};

/// How often a followed journal is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Records that are read in one go while following.
const PAGE: usize = 1_000;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: super::Which,
    #[command(flatten)]
    records: super::Records,
    /// How many.
    #[arg(short = 'n', long, default_value_t = 20)]
    lines: usize,
    /// Go on with what comes, until Ctrl-C.
    #[arg(long, short)]
    follow: bool,
    /// Each record as MQTT publishes it.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let records = &args.records;
    let kind = records.kind.map(|kind| kind.kind().word().to_owned());
    let of = Choice { kind, station: records.station.clone() };
    let mut reader = args.which.reader()?;
    let newest = reader.ends()?.map_or(0, |(_, last)| last);
    let first = reader.newest(&of, args.lines)?;
    if !show(&first, reader.uuid(), args.json)? || !args.follow {
        return Ok(ExitCode::SUCCESS);
    }
    let mut at = first.last().map_or(0, |entry| entry.sequence).max(newest);
    let mut file = identity(reader.path());
    loop {
        let entries = match reader.chosen_after(&of, at, PAGE) {
            // Damaged: it is put aside soon.
            Err(JournalError::Corrupt { .. }) => Vec::new(),
            entries => entries?,
        };
        if let Some(last) = entries.last() {
            at = last.sequence;
            if !show(&entries, reader.uuid(), args.json)? {
                return Ok(ExitCode::SUCCESS);
            }
            continue;
        }
        std::thread::sleep(LOOK_EVERY);
        // A damaged journal is put aside and a new one begun: what comes, comes there.
        let now = identity(reader.path());
        if now != file
            && now.is_some()
            && let Ok(next) = args.which.reader()
        {
            (reader, file, at) = (next, now, 0);
        }
    }
}

/// Which file it is, whatever its name.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Whether somebody still reads.
fn show(entries: &[Entry], journal: Uuid, json: bool) -> anyhow::Result<bool> {
    let mut text = Vec::new();
    for entry in entries {
        match entry.published(journal).filter(|_| json) {
            Some(published) => text.extend(published),
            None => text.extend(line(entry).into_bytes()),
        }
        text.push(b'\n');
    }
    let mut out = std::io::stdout().lock();
    match out.write_all(&text).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true).context("standard output"),
    }
}

fn line(entry: &Entry) -> String {
    let words = match entry.kind.as_str() {
        "inspection" => serde_json::from_str(&entry.json).ok().map(|record: Inspection| inspection(&record)),
        _ => serde_json::from_str(&entry.json).ok().map(|event: Event| event_words(&event)),
    };
    let (time, words) = match words {
        Some((time, words)) => (local(time), words),
        None => {
            ("?".to_owned(), "a record that this version does not understand; --json shows it".to_owned())
        }
    };
    let station = entry.station.as_deref().unwrap_or("-");
    // What people or a PLC wrote must not move the terminal's cursor.
    let words: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("{time}  {:>7}  {station:<12}  {words}", entry.sequence)
}

fn local(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%.3f%:z").to_string()
}

fn inspection(record: &Inspection) -> (Timestamp, String) {
    let trigger = &record.trigger;
    let mut words = format!("part {:<8}  {:<8}", record.part, record.verdict.word());
    match record.views.iter().filter_map(|view| view.relative_score).reduce(f32::max) {
        Some(score) => words += &format!("{score:5.2} of the limit"),
        None => words += "no score",
    }
    if let Some(id) = trigger.trigger_id {
        words += &format!("  id {id}");
    }
    if let Some(serial) = &trigger.serial {
        words += &format!("  serial {serial}");
    }
    if trigger.challenge {
        words += "  challenge";
    }
    if let Some(truth) = &record.truth {
        words += &format!("  really {truth}");
    }
    if let Verdict::Fault(code) = record.verdict {
        words += &format!("  {}: {}", code.code(), record.reason.as_deref().unwrap_or(code.meaning()));
    }
    (trigger.accepted, words)
}

fn event_words(event: &Event) -> (Timestamp, String) {
    let kind = serde_json::to_value(event.event).ok();
    let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or("event");
    (event.time, format!("{kind}: {}", event.message))
}
