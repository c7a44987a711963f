//! Whether the audit trail is as it was written.
//!
//! Never here: putting anything right.

use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::path::Path;

use super::chain::{self, Anchor, BEGINNING, sha256_of};
use super::{AuditError, FILE, MAX_LINE_BYTES};
use crate::journal::JournalReader;
use crate::record::{Event, EventKind};

/// Records of the journal that are read in one go.
const PAGE: usize = 1_000;

/// An audit trail that is as it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Lines.
    pub lines: u64,
    /// Number of the first: more than 1 where older files were deleted for their age.
    pub first: u64,
    /// The last.
    pub last: Option<(Anchor, jiff::Timestamp)>,
    /// Bytes at the end that are no whole line: a power cut while one was written; the next one puts it right.
    pub torn_bytes: u64,
    /// SHA-256 of each line.
    hashes: Vec<String>,
}

impl Summary {
    /// Whether a line that the journal knows of is there. One of a file that was deleted for its age cannot be looked at.
    ///
    /// Errors: [`AuditError::CutOff`].
    pub fn holds(&self, dir: &Path, anchor: &Anchor) -> Result<(), AuditError> {
        if anchor.number < self.first {
            return Ok(());
        }
        let at = usize::try_from(anchor.number - self.first).unwrap_or(usize::MAX);
        let got = self.hashes.get(at).map_or("no such line", String::as_str);
        if self.first > 0 && got == anchor.sha256 {
            return Ok(());
        }
        Err(AuditError::CutOff {
            path: dir.join(FILE),
            number: anchor.number,
            sha256: anchor.sha256.clone(),
            got: got.to_owned(),
        })
    }
}

/// Follows the chain in `dir` from its beginning. None at all is a good one without lines.
///
/// Errors: [`AuditError`], which names the first line that is wrong.
pub fn check(dir: &Path) -> Result<Summary, AuditError> {
    let mut summary = Summary::default();
    if !dir.is_dir() {
        return Ok(summary);
    }
    let mut files = chain::put_away(dir)?;
    files.push(dir.join(FILE));
    let last = files.len() - 1;
    for (n, path) in files.iter().enumerate() {
        follow(path, n == last, &mut summary)?;
    }
    Ok(summary)
}

/// The same, and each line that the journal in `dir` knows of is there as it was. Reads all events of the journal.
///
/// Errors: [`AuditError`].
pub fn check_with_journal(dir: &Path) -> Result<Summary, AuditError> {
    let reader = JournalReader::open(dir)?;
    let mut anchors = Vec::new();
    let mut after = 0;
    loop {
        let entries = reader.after(after, PAGE)?;
        let Some(last) = entries.last() else { break };
        after = last.sequence;
        let events = entries.iter().filter(|entry| entry.kind == "event");
        let events = events.filter_map(|entry| serde_json::from_str::<Event>(&entry.json).ok());
        anchors.extend(
            events.filter(|e| e.event == EventKind::AuditLine).filter_map(|e| Anchor::parse(&e.message)),
        );
    }
    // After the journal: lines written meanwhile are no surprise.
    let summary = check(dir)?;
    anchors.iter().try_for_each(|anchor| summary.holds(dir, anchor))?;
    Ok(summary)
}

fn follow(path: &Path, may_be_torn: bool, summary: &mut Summary) -> Result<(), AuditError> {
    let io = |source| AuditError::io(path, source);
    let mut file = match File::open(path) {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
    };
    for line in 1.. {
        let changed = |reason: String| AuditError::Changed { path: path.to_owned(), line, reason };
        let mut text = Vec::new();
        let limit = MAX_LINE_BYTES as u64 + 2;
        if file.by_ref().take(limit).read_until(b'\n', &mut text).map_err(io)? == 0 {
            break;
        }
        if text.pop_if(|last| *last == b'\n').is_none() {
            let at_end = file.fill_buf().map_err(io)?.is_empty();
            if may_be_torn && at_end {
                summary.torn_bytes = text.len() as u64;
                break;
            }
            return Err(changed("it has no end".to_owned()));
        }
        let read = chain::read(&text).map_err(changed)?;
        let (expected, previous) = match &summary.last {
            Some((anchor, _)) => (anchor.number + 1, anchor.sha256.clone()),
            // What came before the oldest file that is kept is not there to be looked at.
            None if read.number > 1 && !is_beginning(path) => (read.number, read.previous.clone()),
            None => (1, sha256_of(BEGINNING.as_bytes())),
        };
        if read.number != expected || read.previous != previous {
            let got = if read.number == expected {
                format!("entry {expected} that follows another line")
            } else {
                format!("entry {}", read.number)
            };
            return Err(AuditError::Broken { path: path.to_owned(), line, expected, got });
        }
        if summary.lines == 0 {
            summary.first = read.number;
        }
        summary.lines += 1;
        let sha256 = sha256_of(&text);
        summary.hashes.push(sha256.clone());
        summary.last = Some((Anchor { number: read.number, sha256 }, read.time));
    }
    Ok(())
}

/// Files are put away before they are deleted: the one in use begins late only if others lie before it.
fn is_beginning(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == FILE)
}
