//! Whether the audit trail is as it was written.
//!
//! Never here: putting anything right.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use super::chain::{self, Anchor, BEGINNING, sha256_of};
use super::{AuditError, FILE, KEEP_FILES, MAX_FILE_BYTES, MAX_LINE_BYTES};
use crate::folder;
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
    /// Models that were to be put into their places, of which no line says what came of it: newest of each place.
    pub unfinished: Vec<Unfinished>,
    /// SHA-256 of each line.
    hashes: Vec<String>,
}

/// An installation that broke off, or is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// When it began.
    pub time: jiff::Timestamp,
    /// Where the model was to go.
    pub place: PathBuf,
    /// The model.
    pub sha256: String,
}

impl std::fmt::Display for Unfinished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { time, place, sha256 } = self;
        let (time, place) = (time.strftime("%Y-%m-%d %H:%M:%SZ"), place.display());
        write!(
            f,
            "at {time} model {sha256} was to be put into {place}, and the audit trail does not say what came of it"
        )
    }
}

impl Summary {
    /// Whether the lines that the journal knows of are there. Those of files that were deleted for their age cannot be
    /// looked at, but not all are as old as that: the daemon tells of its newest line at each start.
    ///
    /// Errors: [`AuditError::CutOff`], [`AuditError::FrontGone`].
    pub fn holds_all(&self, dir: &Path, anchors: &[Anchor]) -> Result<(), AuditError> {
        anchors.iter().try_for_each(|anchor| self.holds(dir, anchor))?;
        match anchors.iter().map(|anchor| anchor.number).max() {
            Some(newest) if newest < self.first => Err(AuditError::FrontGone {
                path: dir.join(FILE),
                first: self.first,
                reason: format!("the newest entry that the journal knows of, {newest}, is gone as well"),
            }),
            _ => Ok(()),
        }
    }

    /// The same of one line.
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

impl Summary {
    /// Which installations began, and which ended.
    fn take_note(&mut self, line: &chain::Read) {
        let (Some(place), Some(sha256)) = (&line.place, &line.sha256) else { return };
        match line.what.as_str() {
            "placing" => {
                self.unfinished.retain(|other| other.place != *place);
                let (time, place, sha256) = (line.time, place.clone(), sha256.clone());
                self.unfinished.push(Unfinished { time, place, sha256 });
            }
            "installed" | "rolled_back" | "refused" => {
                self.unfinished.retain(|other| other.place != *place || other.sha256 != *sha256);
            }
            _ => {}
        }
    }
}

/// Follows the chain in `dir` from its beginning. None at all is a good one without lines.
///
/// Errors: [`AuditError`], which names the first line that is wrong.
pub fn check(dir: &Path) -> Result<Summary, AuditError> {
    check_full_at(dir, MAX_FILE_BYTES)
}

/// The same, where a file of more than `full_bytes` is put away.
pub(super) fn check_full_at(dir: &Path, full_bytes: u64) -> Result<Summary, AuditError> {
    let mut summary = Summary::default();
    if !dir.is_dir() {
        return Ok(summary);
    }
    let mut files = chain::put_away(dir)?;
    files.push(dir.join(FILE));
    let newest = files.len() - 1;
    let mut ends = Vec::new();
    for (n, path) in files.iter().enumerate() {
        follow(path, n == newest, &mut summary)?;
        ends.push(summary.last.as_ref().map_or(0, |(anchor, _)| anchor.number));
    }
    if summary.first > 1 {
        let away: Vec<(&Path, u64)> = files[..newest].iter().map(PathBuf::as_path).zip(ends).collect();
        left_by_age(&away, full_bytes, summary.first)?;
    }
    Ok(summary)
}

/// Whether the files put away, each with the number of its last entry, are those of a trail that begins late for its age:
/// as many as are kept, each full and named after its last entry.
///
/// Errors: [`AuditError::FrontGone`], [`AuditError::Io`].
fn left_by_age(away: &[(&Path, u64)], full_bytes: u64, first: u64) -> Result<(), AuditError> {
    for (path, last) in away {
        let gone = |reason| Err(AuditError::FrontGone { path: path.to_path_buf(), first, reason });
        if away.len() < KEEP_FILES {
            return gone(format!("{} files were put away, and the last {KEEP_FILES} are kept", away.len()));
        }
        let bytes = std::fs::symlink_metadata(path).map_err(|e| AuditError::io(path, e))?.len();
        if bytes <= full_bytes {
            return gone(format!("it has {bytes} bytes, and is put away when it has more than {full_bytes}"));
        }
        if path.file_name().is_none_or(|name| *name != *chain::away_name(*last)) {
            return gone(format!("its last entry is {last}, and it is named after another"));
        }
    }
    Ok(())
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
    summary.holds_all(dir, &anchors)?;
    Ok(summary)
}

fn follow(path: &Path, may_be_torn: bool, summary: &mut Summary) -> Result<(), AuditError> {
    let io = |source| AuditError::io(path, source);
    let mut file = match folder::open(path, OpenOptions::new().read(true)) {
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
            // What came before the oldest file that is kept is not there to be looked at, see `left_by_age`.
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
        summary.take_note(&read);
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
