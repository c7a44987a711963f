//! A stopped fit on disk: weights, moments, averages and the step, so that it goes on to the same result.
//!
//! One file in the safetensors format beside the model that is being made; what the fit was told is in it
//! as JSON, and only a fit that is told the same goes on from it. Written under another name and moved
//! into place when it is on the disk, so that a power cut leaves the one before.
//!
//! Never here: a model that the daemon could load.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::file::write_whole_by;
use crate::learn::Learnt;
use crate::optimiser::{Optimiser, State};

/// Why a checkpoint cannot be written or taken up.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be read or written.
    #[error("{path}: {reason}; the fit cannot be stopped and resumed without it. Is the disk full?")]
    Write {
        /// The checkpoint.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// It is no checkpoint.
    #[error("{path}: {reason}; expected a checkpoint of inspect-train fit. Delete it to start over")]
    Read {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It belongs to a call that was told something else.
    #[error(
        "{path}: is of a call that was told something else: {what} was {was}, now {now}. Give the same again, or delete it to start over"
    )]
    Other {
        /// The checkpoint.
        path: PathBuf,
        /// Which setting.
        what: String,
        /// In the checkpoint.
        was: String,
        /// In this call.
        now: String,
    },
}

/// All that determines what a step does, as text by name.
pub type Identity = std::collections::BTreeMap<String, String>;

#[derive(Serialize, Deserialize)]
struct Header {
    identity: Identity,
    steps: u64,
    of: Option<u64>,
}

const HEADER: &str = "header";

/// Where the checkpoint of a model file lies.
pub fn path_of(model: &Path) -> PathBuf {
    let mut name = model.as_os_str().to_owned();
    name.push(".checkpoint");
    PathBuf::from(name)
}

/// Writes the checkpoint in place of an earlier one.
///
/// Errors: [`CheckpointError::Write`]; then the earlier one is still there.
pub fn save(
    path: &Path,
    identity: &Identity,
    learnt: &Learnt,
    optimiser: &Optimiser,
) -> Result<(), CheckpointError> {
    let failed = |reason: String| CheckpointError::Write { path: path.to_owned(), reason };
    let header = Header { identity: identity.clone(), steps: learnt.steps, of: learnt.of };
    let header = serde_json::to_vec(&header).map_err(|e| failed(e.to_string()))?;
    let mut tensors = vec![(HEADER, Tensor::from_slice(&header))];
    tensors.extend(optimiser.state().tensors.map(|(name, t)| (name, t.to_device(tch::Device::Cpu))));
    let write = |part: &Path| Tensor::write_safetensors(&tensors, part).map_err(std::io::Error::other);
    write_whole_by(path, write).map_err(|e| failed(e.to_string()))
}

/// Whether what is at `path` belongs to what is asked for `now`.
///
/// Errors: [`CheckpointError::Other`], for the first thing that differs.
pub fn check(path: &Path, was: &Identity, now: &Identity) -> Result<(), CheckpointError> {
    let text = |of: &Identity, name: &str| of.get(name).cloned().unwrap_or_else(|| "not set".into());
    let Some(what) = was.keys().chain(now.keys()).find(|what| was.get(*what) != now.get(*what)) else {
        return Ok(());
    };
    let (was, now) = (text(was, what), text(now, what));
    Err(CheckpointError::Other { path: path.to_owned(), what: what.clone(), was, now })
}

/// Takes a checkpoint up, if there is one.
///
/// Errors: [`CheckpointError::Read`], [`CheckpointError::Other`]; then nothing is changed.
pub fn load(
    path: &Path,
    identity: &Identity,
    optimiser: &mut Optimiser,
) -> Result<Option<Learnt>, CheckpointError> {
    if !path.exists() {
        return Ok(None);
    }
    let bad = |reason: String| CheckpointError::Read { path: path.to_owned(), reason };
    let mut tensors: std::collections::HashMap<String, Tensor> =
        Tensor::read_safetensors(path).map_err(|e| bad(e.to_string()))?.into_iter().collect();
    let mut take = |name: &str| tensors.remove(name).ok_or_else(|| bad(format!("has no `{name}`")));
    let header: Vec<u8> = Vec::try_from(take(HEADER)?).map_err(|e: tch::TchError| bad(e.to_string()))?;
    let header: Header = serde_json::from_slice(&header).map_err(|e| bad(e.to_string()))?;
    check(path, &header.identity, identity)?;
    let mut piece = |name: &'static str| take(name).map(|t| (name, t));
    let tensors = [piece("weights")?, piece("first_moment")?, piece("second_moment")?, piece("average")?];
    let state = State { tensors, steps: header.steps as i64 };
    if !optimiser.restore(&state) {
        return Err(bad("its weights have another size".into()));
    }
    Ok(Some(Learnt { steps: header.steps, of: header.of }))
}
