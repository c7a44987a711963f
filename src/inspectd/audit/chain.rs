//! How lines hang together: their text, their hashes, and where the chain ends.
//!
//! Never here: locks; an opinion of what is in a line.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use inspect_core::model::sha256;
use serde::{Deserialize, Serialize};

use super::{AuditError, Entry, FILE, MAX_LINE_BYTES};
use crate::folder;

/// What the first line's `previous` is the SHA-256 of.
pub const BEGINNING: &str = "inspectd audit trail, version 1";

/// A line by number and hash: what the journal keeps of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// The entry's number.
    pub number: u64,
    /// SHA-256 of its whole line.
    pub sha256: String,
}

impl Anchor {
    /// As the journal's event says it.
    pub fn message(&self) -> String {
        format!("audit entry {} has the SHA-256 {}", self.number, self.sha256)
    }

    /// Of an event's message.
    pub fn parse(message: &str) -> Option<Self> {
        let (number, sha256) = message.strip_prefix("audit entry ")?.split_once(" has the SHA-256 ")?;
        Some(Self { number: number.parse().ok()?, sha256: sha256.to_owned() })
    }
}

/// Hash of a line without its end.
pub(super) fn sha256_of(line: &[u8]) -> String {
    sha256(line)
}

#[derive(Serialize)]
struct Chained<'a> {
    #[serde(flatten)]
    entry: &'a Entry,
    previous: &'a str,
}

/// What a line holds.
#[derive(Deserialize)]
pub(super) struct Read {
    pub number: u64,
    pub time: jiff::Timestamp,
    pub previous: String,
    #[serde(default)]
    pub what: String,
    #[serde(default)]
    pub place: Option<PathBuf>,
    #[serde(default)]
    pub sha256: Option<String>,
}

const CHECK: &str = ",\"check\":\"";

/// The text of a line, without its end.
pub(super) fn line(entry: &Entry, previous: &str) -> Result<String, AuditError> {
    let json =
        serde_json::to_string(&Chained { entry, previous }).map_err(|e| AuditError::Entry(e.to_string()))?;
    let body = json.strip_suffix('}').ok_or_else(|| AuditError::Entry("no object".into()))?;
    let check = sha256_of(body.as_bytes());
    Ok(format!("{body}{CHECK}{check}\"}}"))
}

/// What a line says, if it is as it was written. Errors: what is wrong with it.
pub(super) fn read(line: &[u8]) -> Result<Read, String> {
    let text = std::str::from_utf8(line).map_err(|e| e.to_string())?;
    let (body, check) = text.rsplit_once(CHECK).ok_or("it has no `check`")?;
    if check.strip_suffix("\"}") != Some(sha256_of(body.as_bytes()).as_str()) {
        return Err("its `check` is not that of its text".to_owned());
    }
    serde_json::from_str(text).map_err(|e| e.to_string())
}

/// Where the chain ends.
#[derive(Debug, Clone)]
pub(super) struct Tail {
    /// Number of the last whole line; 0: there is none.
    pub number: u64,
    /// Its SHA-256.
    pub sha256: String,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Of these, at the end, what is no whole line.
    pub torn: u64,
}

/// Name of a file whose last entry has this number, when it is put away.
pub(super) fn away_name(last: u64) -> String {
    format!("audit-{last:012}.jsonl")
}

/// Files that were put away, oldest first.
pub(super) fn put_away(dir: &Path) -> Result<Vec<PathBuf>, AuditError> {
    let io = |source| AuditError::io(dir, source);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let number = name.strip_prefix("audit-").and_then(|n| n.strip_suffix(".jsonl"));
        if number.is_some_and(|n| n.len() == 12 && n.bytes().all(|b| b.is_ascii_digit())) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The end of the chain: in the file, or where it is empty in the newest that was put away.
pub(super) fn tail(dir: &Path) -> Result<Tail, AuditError> {
    let (bytes, torn, last) = last_line(&dir.join(FILE))?;
    let mut tail = Tail { number: 0, sha256: sha256_of(BEGINNING.as_bytes()), file_bytes: bytes, torn };
    let last = match (last, put_away(dir)?.last()) {
        (None, Some(newest)) => last_line(newest)?.2,
        (last, _) => last,
    };
    if let Some(line) = last {
        tail.sha256 = sha256_of(&line);
        // One that somebody changed still counts: the next line hangs on it as it is, and a check names it.
        tail.number = read(&line).map_or_else(|_| loose_number(&line), |line| line.number);
    }
    Ok(tail)
}

fn loose_number(line: &[u8]) -> u64 {
    let value: Option<serde_json::Value> = serde_json::from_slice(line).ok();
    value.and_then(|v| v.get("number")?.as_u64()).unwrap_or(0)
}

/// Length of a file, length of what is no whole line at its end, and the last whole line.
fn last_line(path: &Path) -> Result<(u64, u64, Option<Vec<u8>>), AuditError> {
    let io = |source| AuditError::io(path, source);
    let mut file = match folder::open(path, OpenOptions::new().read(true)) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok((0, 0, None)),
        Err(error) => return Err(io(error)),
    };
    let bytes = file.metadata().map_err(io)?.len();
    // Room for a torn line after a whole one.
    let from = bytes.saturating_sub(2 * MAX_LINE_BYTES as u64 + 2);
    let mut end = Vec::new();
    file.seek(SeekFrom::Start(from)).map_err(io)?;
    file.take(bytes - from).read_to_end(&mut end).map_err(io)?;
    let whole = end.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    let torn = (end.len() - whole) as u64;
    let mut lines = end[..whole].split(|&b| b == b'\n').rev().skip(1); // after the last end there is nothing
    Ok((bytes, torn, lines.next().map(<[u8]>::to_vec)))
}
