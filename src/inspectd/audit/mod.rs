//! The audit trail: who did what to the models and the configuration, in a file that shows whether it was changed.
//!
//! `audit.jsonl` in the journal's directory, one JSON object a line: number, time, who, what, `previous`: the SHA-256 of
//! the whole line before (of [`BEGINNING`] for the first), and last `check`: the SHA-256 of the line's text before it.
//! A line that is changed, taken out or put in is found by [`check()`]; lines cut off at the end are found by an
//! *anchor*: the daemon puts number and SHA-256 of the newest line into the journal as an event, at its start and with
//! each line that it writes, and MQTT carries that out of the box.
//!
//! Each line is appended under a lock and synced. A line that a power cut tore is taken out by the next append, which
//! says so in a line of its own. A file of more than [`MAX_FILE_BYTES`] is renamed to `audit-NUMBER.jsonl`, NUMBER being
//! that of its last line, and the chain goes on in a new one; of these the last [`KEEP_FILES`] are kept. Only a trail that
//! looks as this leaves it may begin with another entry than the first.
//!
//! Before a model is put into its place a line says so, and another what came of it: one without the other is an
//! installation that broke off, and the place holds the one or the other model (see [`Summary::unfinished`]).
//!
//! What it cannot do: whoever may write the file and the journal can write a new chain. The copies outside of the box
//! (the broker's) tell that.
//!
//! Never here: a secret; a line that is changed or deleted; what the line's verdicts are (the journal has them).

mod chain;
mod check;
pub mod daemon;
mod who;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use inspect_core::runtime::Provider;
use serde::{Deserialize, Serialize};

pub use chain::{Anchor, BEGINNING};
pub use check::{Summary, Unfinished, check, check_with_journal};
pub use who::Who;

use crate::folder;
use chain::{Tail, sha256_of};

/// The file's name.
pub const FILE: &str = "audit.jsonl";
/// Nothing for others.
const MODE: u32 = 0o640;
/// Where the lock is.
const LOCK: &str = "audit.lock";
/// A file that is larger is put away, bytes.
pub const MAX_FILE_BYTES: u64 = 8 << 20;
/// Files put away that are kept.
pub const KEEP_FILES: usize = 9;
/// Longest text in a line, bytes; longer ones are cut.
const MAX_TEXT: usize = 2_000;
/// Most texts in a line.
const MAX_TEXTS: usize = 32;
/// Longest line, bytes.
pub const MAX_LINE_BYTES: usize = 256 << 10;
/// Longest wait for another who appends.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

/// Why the audit trail cannot be written, or is not to be trusted.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A file cannot be used.
    #[error("audit trail {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Somebody else holds the lock.
    #[error("audit trail {path}: in use for more than {} s; is another inspectd hanging?", LOCK_LIMIT.as_secs())]
    Busy {
        /// The lock.
        path: PathBuf,
    },
    /// An entry is too long, or no JSON: a defect of inspectd.
    #[error("audit trail: an entry cannot be written: {0}")]
    Entry(String),
    /// A line is not as it was written.
    #[error(
        "audit trail {path}, line {line}: changed after it was written, or not written by inspectd: {reason}"
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// Which line of it, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A line does not follow the one before.
    #[error(
        "audit trail {path}, line {line}: lines before it were taken out, put in or exchanged: expected entry {expected}, got {got}"
    )]
    Broken {
        /// The file.
        path: PathBuf,
        /// Which line of it, from 1.
        line: u64,
        /// Number of the entry that should be there.
        expected: u64,
        /// What is there.
        got: String,
    },
    /// The oldest file begins late, and not because older ones were deleted for their age.
    #[error(
        "audit trail {path}: it begins with entry {first}, and what was before was not deleted for its age: {reason}: lines were cut off its front, or it was written anew"
    )]
    FrontGone {
        /// The file that shows it.
        path: PathBuf,
        /// Number of the first entry that is there.
        first: u64,
        /// What is otherwise than age would leave it.
        reason: String,
    },
    /// The journal knows of a line that is not there.
    #[error(
        "audit trail {path}: the journal says that entry {number} had the SHA-256 {sha256}, got {got}: lines were cut off or written anew"
    )]
    CutOff {
        /// The file.
        path: PathBuf,
        /// The entry.
        number: u64,
        /// As the journal has it.
        sha256: String,
        /// What is there.
        got: String,
    },
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] crate::journal::JournalError),
}

impl AuditError {
    fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// A model file in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelAt {
    /// Where the configuration wants it.
    pub place: PathBuf,
    /// SHA-256 of the file; none where there is none.
    pub sha256: Option<String>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// A model was brought to the gate.
    InstallBegun {
        /// Where it is to go.
        place: PathBuf,
        /// Where it came from.
        from: PathBuf,
        /// Its SHA-256.
        sha256: String,
        /// Its name on its card.
        name: String,
    },
    /// Who vouches for it.
    Signature {
        /// The model.
        sha256: String,
        /// The key that it is signed with; none: no key is set, nobody was asked.
        key: Option<String>,
        /// What the signer says of it.
        comment: Option<String>,
    },
    /// It loads on this machine, and scores its golden images as its card says.
    Golden {
        /// The model.
        sha256: String,
        /// What runs it.
        provider: Provider,
        /// Largest difference, as a share of the reject threshold.
        difference: f32,
    },
    /// It was tried on archived frames.
    Shadow {
        /// The model.
        sha256: String,
        /// The one in service.
        beside: Option<String>,
        /// Frames scored.
        frames: u64,
        /// Of these, with something to compare the new verdict with.
        #[serde(default)]
        compared: u64,
        /// Verdicts that changed.
        changed: u64,
        /// Of these, from pass to another.
        pass_lost: u64,
        /// Of these, from another to pass.
        pass_gained: u64,
    },
    /// It is about to be put into its place: `installed`, `rolled_back` or `refused` follows, unless that broke off.
    Placing {
        /// Where.
        place: PathBuf,
        /// The model.
        sha256: String,
        /// The one that is there now.
        before: Option<String>,
        /// Who agreed.
        agreed: Agreed,
    },
    /// It is in its place.
    Installed {
        /// Where.
        place: PathBuf,
        /// The model.
        sha256: String,
        /// The one before.
        before: Option<String>,
        /// Who agreed: a person at the terminal, `--yes`, or nothing had to be agreed to.
        agreed: Agreed,
        /// What went wrong after it was there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        but: Option<String>,
    },
    /// It is not.
    Refused {
        /// Where it was to go.
        place: PathBuf,
        /// The model, where it could be read.
        sha256: Option<String>,
        /// Why.
        why: String,
    },
    /// One that was in service before is in its place again.
    RolledBack {
        /// Where.
        place: PathBuf,
        /// The model.
        sha256: String,
        /// The one before.
        before: Option<String>,
        /// What went wrong after it was there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        but: Option<String>,
    },
    /// The daemon took a changed configuration.
    ConfigurationTaken {
        /// SHA-256 of the configuration as it was understood: the same whatever its comments.
        sha256: String,
        /// The models that it names.
        models: Vec<ModelAt>,
    },
    /// The daemon looked at its model files anew, and some had changed.
    ModelsTaken {
        /// What is in service now.
        taken: Vec<String>,
        /// What is not, and why.
        refused: Vec<String>,
    },
    /// The daemon started: once a process, however often it takes another configuration.
    Started {
        /// Its version.
        version: String,
        /// SHA-256 of the configuration, as in [`What::ConfigurationTaken`].
        configuration: String,
        /// The models that it names.
        models: Vec<ModelAt>,
    },
    /// A line that was not whole, from a power cut, was taken out.
    TornLine {
        /// Its length.
        bytes: u64,
        /// Its SHA-256.
        sha256: String,
    },
}

/// Who agreed to a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Agreed {
    /// Somebody typed it.
    Person,
    /// `--yes` was given.
    Option,
    /// No verdict changed, and frames of every view that looks from the place were compared.
    NothingChanged,
    /// Nobody: going back without a shadow run needs no consent.
    NotAsked,
}

/// One line, without what chains it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// From 1, without gaps.
    pub number: u64,
    /// When.
    pub time: jiff::Timestamp,
    /// Who.
    pub who: Who,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// Appends what was done by who runs this process; gives what the journal should be told.
///
/// Errors: [`AuditError::Io`], [`AuditError::Busy`], [`AuditError::Entry`]: then the line is not there.
pub fn append(dir: &Path, what: What) -> Result<Anchor, AuditError> {
    append_as(dir, &Who::me(), what)
}

/// The same, by somebody.
pub fn append_as(dir: &Path, who: &Who, what: What) -> Result<Anchor, AuditError> {
    let _lock = lock(dir)?;
    let path = dir.join(FILE);
    let mut tail = chain::tail(dir)?;
    if tail.torn > 0 {
        tail = put_right(dir, &path, who, tail)?;
    }
    if tail.file_bytes > MAX_FILE_BYTES {
        put_away(dir, &path, &tail)?;
    }
    write(dir, &path, &tail, who, what)
}

fn write(dir: &Path, path: &Path, tail: &Tail, who: &Who, what: What) -> Result<Anchor, AuditError> {
    let entry =
        Entry { number: tail.number + 1, time: crate::clock::wall(), who: who.clone(), what: cut(what) };
    let line = chain::line(&entry, &tail.sha256)?;
    if line.len() > MAX_LINE_BYTES {
        return Err(AuditError::Entry(format!("{} bytes, expected at most {MAX_LINE_BYTES}", line.len())));
    }
    let anchor = Anchor { number: entry.number, sha256: sha256_of(line.as_bytes()) };
    let io = |source| AuditError::io(path, source);
    let opened = std::fs::metadata(dir).and_then(|like| folder::append_to(path, MODE, &like));
    let (mut file, is_new) = opened.map_err(io)?;
    file.write_all((line + "\n").as_bytes()).and_then(|()| file.sync_data()).map_err(io)?;
    if is_new {
        // The file's name, too, must be there after a power cut.
        File::open(dir).and_then(|folder| folder.sync_all()).map_err(|e| AuditError::io(dir, e))?;
    }
    Ok(anchor)
}

/// Takes out what is no whole line at the end, and says so.
fn put_right(dir: &Path, path: &Path, who: &Who, tail: Tail) -> Result<Tail, AuditError> {
    let io = |source| AuditError::io(path, source);
    let mut file = folder::open(path, OpenOptions::new().read(true).write(true)).map_err(io)?;
    let whole = tail.file_bytes - tail.torn;
    let mut torn = Vec::new();
    file.seek(SeekFrom::Start(whole)).map_err(io)?;
    (&file).take(MAX_FILE_BYTES).read_to_end(&mut torn).map_err(io)?;
    file.set_len(whole).and_then(|()| file.sync_all()).map_err(io)?;
    tracing::warn!(bytes = tail.torn, "the last line of the audit trail was torn and has been taken out");
    let what = What::TornLine { bytes: tail.torn, sha256: sha256_of(&torn) };
    write(dir, path, &tail, who, what)?;
    chain::tail(dir)
}

/// Renames a full file, and deletes the oldest of those that are too many.
fn put_away(dir: &Path, path: &Path, tail: &Tail) -> Result<(), AuditError> {
    let away = dir.join(chain::away_name(tail.number));
    std::fs::rename(path, &away).map_err(|e| AuditError::io(path, e))?;
    let files = chain::put_away(dir)?;
    for old in &files[..files.len().saturating_sub(KEEP_FILES)] {
        std::fs::remove_file(old).map_err(|e| AuditError::io(old, e))?;
    }
    Ok(())
}

/// One who appends at a time, whatever the process.
fn lock(dir: &Path) -> Result<File, AuditError> {
    let path = dir.join(LOCK);
    let io = |source| AuditError::io(&path, source);
    if !dir.is_dir() {
        let made = std::fs::create_dir_all(dir).and_then(|()| {
            let above = std::fs::metadata(dir.parent().unwrap_or(Path::new(".")))?;
            folder::give_folder(dir, &above)
        });
        made.map_err(|e| AuditError::io(dir, e))?;
    }
    let opened = std::fs::metadata(dir).and_then(|like| folder::append_to(&path, MODE, &like));
    let (file, _) = opened.map_err(io)?;
    let until = Instant::now() + LOCK_LIMIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(io(source)),
            Err(TryLockError::WouldBlock) if Instant::now() >= until => {
                return Err(AuditError::Busy { path });
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn cut(what: What) -> What {
    let short = |mut text: String| {
        if text.len() > MAX_TEXT {
            let end = (0..=MAX_TEXT).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
            text.truncate(end);
            text.push('…');
        }
        text
    };
    match what {
        What::Refused { place, sha256, why } => What::Refused { place, sha256, why: short(why) },
        What::Installed { place, sha256, before, agreed, but } => {
            What::Installed { place, sha256, before, agreed, but: but.map(short) }
        }
        What::RolledBack { place, sha256, before, but } => {
            What::RolledBack { place, sha256, before, but: but.map(short) }
        }
        What::ModelsTaken { taken, refused } => {
            let short = |texts: Vec<String>| texts.into_iter().take(MAX_TEXTS).map(short).collect();
            What::ModelsTaken { taken: short(taken), refused: short(refused) }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests;
