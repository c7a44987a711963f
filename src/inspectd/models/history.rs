//! The models that were in a place, in `PLACE.history/` beside it, and how one is put into its place.
//!
//! `SHA256.onnx` with its `.minisig` for each of the last [`KEEP_MODELS`], the one in service among them, and
//! `index.json`: what was put there when, and by whom.
//!
//! A model is written beside its place, synced, and renamed: a crash at any point leaves the one before or the new one,
//! each whole. Its signature lies in the history before that, so that whichever of the two is there is one that is taken
//! (see [`super::signature`]); and the index tells of it before that, so that the one before is never forgotten.
//!
//! Never here: whether a model should be in its place ([`super::gate`]).

use std::fs::{File, Metadata, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use inspect_core::file;
use inspect_core::model::{MAX_MODEL_BYTES, ModelFile, sha256};
use serde::{Deserialize, Serialize};

use super::place::real;
use super::signature::{self, Signed, beside};
use crate::audit::Who;
use crate::folder;

/// Models that are kept, the one in service among them.
pub const KEEP_MODELS: usize = 11;
/// Most entries of the index.
const KEEP_ENTRIES: usize = 200;
/// Largest index that is read, bytes.
const MAX_INDEX_BYTES: u64 = 1 << 20;
const INDEX: &str = "index.json";
const LOCK: &str = "lock";
/// At the end of what is not yet whole.
const PART: &str = ".part";

/// Why a model was not put into its place, or its history cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// A file cannot be used. What was in the place is there as it was.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The index is not one.
    #[error(
        "{path}: expected the index of a place's models, as inspectd writes it: {reason}; move it away to begin a new one"
    )]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Somebody else puts a model there.
    #[error("{path}: another `inspectd model` is at work on this place")]
    Busy {
        /// The lock.
        path: PathBuf,
    },
    /// What was written is not what was there; the place holds what it held before.
    #[error(
        "{path}: read back as {got}, expected {expected}; what was there before is there again: look at the disk"
    )]
    ReadBack {
        /// The file.
        path: PathBuf,
        /// SHA-256 that was written.
        expected: String,
        /// SHA-256 of what was read, or why nothing was.
        got: String,
    },
    /// The same, and the place holds no good model now.
    #[error(
        "{path}: read back as {got}, expected {expected}, and what was there before cannot be put back: {reason}; the place holds NO good model: look at the disk, then install one"
    )]
    NotPutBack {
        /// The file.
        path: PathBuf,
        /// SHA-256 that was written.
        expected: String,
        /// SHA-256 of what is there, or why nothing was read.
        got: String,
        /// What failed.
        reason: String,
    },
    /// There is nothing to go back to.
    #[error("{place}: no model before this one is known{}", .wanted.as_ref().map(|w| format!(" with a SHA-256 that begins with {w}")).unwrap_or_default())]
    NoneBefore {
        /// The place.
        place: PathBuf,
        /// What was asked for.
        wanted: Option<String>,
    },
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> HistoryError + use<> {
    let path = path.to_owned();
    move |source| HistoryError::Io { path, source }
}

/// How a model came to be in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It was there when the gate was first used.
    Found,
    /// Through the gate.
    Installed,
    /// Put back.
    RolledBack,
}

/// Who vouches for a model, as it was at its installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedBy {
    /// The key.
    pub key: String,
    /// What its owner says of the model.
    pub comment: String,
}

/// One line of a place's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The model.
    pub sha256: String,
    /// Its name on its card.
    pub name: String,
    /// When.
    pub time: jiff::Timestamp,
    /// By whom; of one that was found, who found it.
    pub who: Who,
    /// How.
    pub how: How,
    /// Who vouches for it; none where no key was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<SignedBy>,
}

/// A model that is in its place.
#[derive(Debug)]
pub struct Put {
    /// SHA-256 of the one before; none: the place was empty.
    pub before: Option<String>,
    /// What went wrong after it was there.
    pub but: Option<HistoryError>,
}

/// Called before each thing that is done to the disk: tests stop there, as a crash would.
pub type Step<'a> = &'a mut dyn FnMut(&str) -> std::io::Result<()>;

/// The models of a place.
#[derive(Debug, Clone)]
pub struct History {
    /// The file itself, with links followed.
    place: PathBuf,
    dir: PathBuf,
}

impl History {
    /// Of a place; nothing is touched.
    pub fn of(place: &Path) -> Self {
        let place = real(place);
        let mut dir = place.as_os_str().to_owned();
        dir.push(".history");
        Self { dir: dir.into(), place }
    }

    /// Where a model is kept.
    pub fn model(&self, sha256: &str) -> PathBuf {
        self.dir.join(format!("{sha256}.onnx"))
    }

    /// What was put there, oldest first. None without a history.
    ///
    /// Errors: [`HistoryError::Io`], [`HistoryError::Index`].
    pub fn entries(&self) -> Result<Vec<Entry>, HistoryError> {
        let path = self.dir.join(INDEX);
        let index = |reason: String| HistoryError::Index { path: path.clone(), reason };
        match file::read_text(&path, MAX_INDEX_BYTES) {
            Ok(text) => serde_json::from_str(&text).map_err(|e| index(e.to_string())),
            Err(error) => match error.kind() {
                ErrorKind::NotFound => Ok(Vec::new()),
                ErrorKind::FileTooLarge | ErrorKind::InvalidData => Err(index(error.to_string())),
                _ => Err(io(&path)(error)),
            },
        }
    }

    /// SHA-256 of the file in the place; none where there is none.
    ///
    /// Errors: [`HistoryError::Io`].
    pub fn in_place(&self) -> Result<Option<String>, HistoryError> {
        match crate::audit::daemon::hash(&self.place) {
            Ok(sha256) => Ok(Some(sha256)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io(&self.place)(error)),
        }
    }

    /// The model to go back to: the one that was put there before the one in the place, or the latest whose SHA-256
    /// begins with `wanted`. Going back twice goes back further.
    ///
    /// Errors: [`HistoryError::NoneBefore`], [`HistoryError::Io`], [`HistoryError::Index`].
    pub fn before(&self, wanted: Option<&str>) -> Result<Entry, HistoryError> {
        let current = self.in_place()?;
        let mut entries = self.entries()?;
        entries.retain(|entry| entry.how != How::RolledBack);
        let here = |entry: &Entry| Some(&entry.sha256) == current.as_ref();
        let until = match wanted {
            Some(_) => entries.len(),
            // A file that came otherwise has the newest of the history before it.
            None => entries.iter().rposition(here).unwrap_or(entries.len()),
        };
        let fits = |entry: &&Entry| {
            let begins = wanted.is_none_or(|wanted| entry.sha256.starts_with(wanted));
            begins && !here(entry) && self.model(&entry.sha256).is_file()
        };
        entries[..until].iter().rev().find(fits).cloned().ok_or_else(|| HistoryError::NoneBefore {
            place: self.place.clone(),
            wanted: wanted.map(str::to_owned),
        })
    }

    /// Puts a model into its place. The lock keeps others away meanwhile.
    ///
    /// Errors: [`HistoryError`]: the place holds what it held, but for [`HistoryError::NotPutBack`].
    pub fn put(
        &self,
        file: &ModelFile,
        signed: Option<&Signed>,
        entry: Entry,
        step: Step<'_>,
    ) -> Result<Put, HistoryError> {
        let parent = self.place.parent().unwrap_or(Path::new("."));
        let like = std::fs::metadata(parent).map_err(io(parent))?;
        self.make_dir(&like)?;
        let _lock = self.lock(&like)?;
        let before = self.keep_present(&entry, &like, step)?;
        let kept = self.model(&file.sha256);
        write_whole(&kept, &file.bytes, &like, step)?;
        if let Some(signed) = signed {
            write_whole(&beside(&kept), signed.text.as_bytes(), &like, step)?;
        }
        let mut entries = self.entries()?;
        entries.push(entry);
        self.forget(&mut entries, before.as_deref());
        self.write_index(&entries, &like, step)?;
        match self.exchange(file, before.as_deref(), &like, step) {
            Ok(but) => {
                let signature = self.write_signature(signed, &like, step);
                Ok(Put { before, but: but.or(signature.err()) })
            }
            Err(error) => {
                // It never was in its place. That fails where the disk does, and then the list has one too many.
                entries.pop();
                let _ = self.write_index(&entries, &like, step);
                Err(error)
            }
        }
    }

    /// The model itself. What it came to is asked of the place: an error may come after the new one is there. Gives such
    /// a one.
    fn exchange(
        &self,
        file: &ModelFile,
        before: Option<&str>,
        like: &Metadata,
        step: Step<'_>,
    ) -> Result<Option<HistoryError>, HistoryError> {
        let written = write_whole(&self.place, &file.bytes, like, step);
        let now = self.in_place();
        if matches!(&now, Ok(Some(sha256)) if *sha256 == file.sha256) {
            return Ok(written.err());
        }
        match (written, now) {
            (Err(error), Ok(now)) if now.as_deref() == before => Err(error),
            (_, now) => {
                let (path, expected) = (self.place.clone(), file.sha256.clone());
                let got = now.map_or_else(|e| e.to_string(), |sha256| sha256.unwrap_or("nothing".to_owned()));
                Err(match self.put_back(before, like, step) {
                    Ok(()) => HistoryError::ReadBack { path, expected, got },
                    Err(reason) => HistoryError::NotPutBack { path, expected, got, reason },
                })
            }
        }
    }

    /// What was in the place before, or nothing. Errors: why not, in words.
    fn put_back(&self, before: Option<&str>, like: &Metadata, step: Step<'_>) -> Result<(), String> {
        match before {
            None => std::fs::remove_file(&self.place).map_err(|e| e.to_string())?,
            Some(sha256) => {
                let bytes = file::read(&self.model(sha256), MAX_MODEL_BYTES).map_err(|e| e.to_string())?;
                write_whole(&self.place, &bytes, like, step).map_err(|e| e.to_string())?;
            }
        }
        let now = self.in_place().map_err(|e| e.to_string())?;
        if now.as_deref() == before { Ok(()) } else { Err("it is not read back either".to_owned()) }
    }

    fn write_signature(
        &self,
        signed: Option<&Signed>,
        like: &Metadata,
        step: Step<'_>,
    ) -> Result<(), HistoryError> {
        let signature = beside(&self.place);
        match signed {
            Some(signed) => write_whole(&signature, signed.text.as_bytes(), like, step),
            // That of the one before says nothing of this one.
            None => match std::fs::remove_file(&signature) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(io(&signature)(error)),
                _ => Ok(()),
            },
        }
    }

    fn make_dir(&self, like: &Metadata) -> Result<(), HistoryError> {
        match std::fs::symlink_metadata(&self.dir) {
            Ok(there) if there.is_dir() => Ok(()),
            Ok(_) => Err(io(&self.dir)(ErrorKind::NotADirectory.into())),
            Err(_) => {
                std::fs::create_dir(&self.dir).map_err(io(&self.dir))?;
                let mode = std::fs::Permissions::from_mode(like.mode() & 0o777);
                let given = folder::give_folder(&self.dir, like).and_then(|dir| dir.set_permissions(mode));
                given.map_err(io(&self.dir))
            }
        }
    }

    fn lock(&self, like: &Metadata) -> Result<File, HistoryError> {
        let path = self.dir.join(LOCK);
        let (file, _) = folder::append_to(&path, like.mode() & 0o666, like).map_err(io(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(HistoryError::Busy { path }),
            Err(TryLockError::Error(error)) => Err(io(&path)(error)),
        }
    }

    /// Keeps what is in the place, with its signature, however it came there.
    fn keep_present(
        &self,
        new: &Entry,
        like: &Metadata,
        step: Step<'_>,
    ) -> Result<Option<String>, HistoryError> {
        let bytes = match file::read(&self.place, MAX_MODEL_BYTES) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(io(&self.place))?,
        };
        let sha256 = sha256(&bytes);
        let kept = self.model(&sha256);
        if !kept.is_file() {
            write_whole(&kept, &bytes, like, step)?;
        }
        if !beside(&kept).is_file()
            && let Some(text) = signature::read_signature(&beside(&self.place))
        {
            write_whole(&beside(&kept), text.as_bytes(), like, step)?;
        }
        let mut entries = self.entries()?;
        if !entries.iter().any(|entry| entry.sha256 == sha256) {
            // One that is no model any more is kept all the same, and cannot be gone back to.
            let name = ModelFile::decode(bytes, &self.place).map_or_else(|_| String::new(), |f| f.card.name);
            let (time, who) = (new.time, new.who.clone());
            entries.push(Entry { sha256: sha256.clone(), name, time, who, how: How::Found, signed_by: None });
            self.write_index(&entries, like, step)?;
        }
        Ok(Some(sha256))
    }

    /// Drops entries and files of all but the last [`KEEP_MODELS`] models, and what a crash left.
    fn forget(&self, entries: &mut Vec<Entry>, before: Option<&str>) {
        let mut keep: Vec<String> = Vec::new();
        let newest = entries.iter().rev().map(|entry| entry.sha256.as_str());
        for sha256 in newest.take(1).chain(before).chain(entries.iter().rev().map(|e| e.sha256.as_str())) {
            if keep.len() < KEEP_MODELS && !keep.iter().any(|known| known == sha256) {
                keep.push(sha256.to_owned());
            }
        }
        entries.retain(|entry| keep.contains(&entry.sha256));
        entries.drain(..entries.len().saturating_sub(KEEP_ENTRIES));
        for file in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = file.file_name();
            let name = name.to_str().unwrap_or_default();
            let of_model = name
                .split_once('.')
                .filter(|(sha256, _)| sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit()));
            if of_model.is_some_and(|(sha256, _)| !keep.iter().any(|known| known == sha256))
                || name.ends_with(PART)
            {
                let _ = std::fs::remove_file(file.path()); // it only takes room
            }
        }
    }

    fn write_index(&self, entries: &[Entry], like: &Metadata, step: Step<'_>) -> Result<(), HistoryError> {
        let path = self.dir.join(INDEX);
        let json = serde_json::to_vec_pretty(entries)
            .map_err(|e| HistoryError::Index { path: path.clone(), reason: e.to_string() })?;
        write_whole(&path, &json, like, step)
    }
}

/// Writes beside, syncs, renames, and syncs the folder. The mode is that of the file before, else the folder's.
fn write_whole(path: &Path, bytes: &[u8], like: &Metadata, step: Step<'_>) -> Result<(), HistoryError> {
    let mut part = path.as_os_str().to_owned();
    part.push(PART);
    let part = PathBuf::from(part);
    let mode = std::fs::symlink_metadata(path).ok().filter(Metadata::is_file);
    let mode = mode.map_or(like.mode() & 0o666, |old| old.mode() & 0o777);
    let mut whole = || {
        step("create")?;
        let mut file = folder::make(&part, like)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        let (first, second) = bytes.split_at(bytes.len() / 2);
        file.write_all(first)?;
        step("half")?;
        file.write_all(second)?;
        file.sync_all()?;
        step("rename")?;
        std::fs::rename(&part, path)?;
        step("sync")?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    whole().map_err(io(path))
}

#[cfg(test)]
mod tests;
