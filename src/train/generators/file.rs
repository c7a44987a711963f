//! A generator as one file, and a stopped fit as another.
//!
//! Both are in the safetensors format. The tensor `header` holds JSON as bytes: of a generator all that is needed to
//! build its network and to ask it for something ([`Header`]), of a checkpoint what the fit was told. Both are
//! written under another name and moved into place when they are on the disk.
//!
//! Never here: pictures; a file that the daemon could load.

use std::path::{Path, PathBuf};

use inspect_core::image::Roi;
use inspect_core::model::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

use super::conditions::{MAX_CLASSES, MAX_PARAMETERS, MAX_VOCABULARY};
use super::near::MAX_ROWS;
use super::{Catalogue, CropShape, Kind, Network, StateError, Tensors};
use crate::checkpoint::{CheckpointError, Identity};
use crate::file::write_whole_by;
use crate::learn::Learnt;

/// Version of the format.
const FORMAT: u32 = 1;
/// Sides of crops that a network can have, pixels; multiples of 16.
pub const SIDES_PX: std::ops::RangeInclusive<u32> = 16..=256;
/// Channels at the finest level that a network can have, multiples of 8.
pub const WIDTHS: std::ops::RangeInclusive<i64> = 8..=256;
const HEADER: &str = "header";

/// Why a generator file cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be written.
    #[error("{path}: {reason}; the generator was not written. Is the disk full?")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// It is no generator.
    #[error("{path}: {reason}; expected a generator file, as `inspect-train defects fit` writes it")]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// What a generator file says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the format.
    pub format: u32,
    /// How it is built.
    pub kind: Kind,
    /// Its crops.
    pub crop: CropShape,
    /// Channels at the finest level.
    pub width: i64,
    /// Side of the whole pictures that the crops are cut from, pixels.
    pub size_px: u32,
    /// Region of the pictures that was taken.
    pub roi: Option<Roi>,
    /// How the part may lie: `none`, `flip`, `rotate`.
    pub symmetry: String,
    /// All that it can be told.
    pub catalogue: Catalogue,
    /// Classes of real defects that it learnt from, with their number.
    pub learnt: std::collections::BTreeMap<String, usize>,
    /// Classes of too few real defects, with their number: they are pasted.
    pub pasted: std::collections::BTreeMap<String, usize>,
    /// Steps taken.
    pub steps: u64,
    /// Steps that it was to take; more than `steps` if the fit was stopped.
    pub of: Option<u64>,
    /// What the fit was told, and SHA-256 of what it learnt from.
    pub settings: Identity,
}

/// A fitted generator.
pub struct Generator {
    /// What it says of itself.
    pub header: Header,
    /// The network, ready to be asked.
    pub network: Network,
    /// SHA-256 of its file, hex.
    pub sha256: String,
}

impl Header {
    /// The version that this program writes.
    pub const FORMAT: u32 = FORMAT;

    /// A header asks for memory before its weights are seen to fit.
    fn check(&self) -> Result<(), String> {
        let Self { format, crop, width, size_px, catalogue, .. } = self;
        let side = u32::try_from(crop.side).unwrap_or(0);
        let sound = [
            (*format == FORMAT, format!("format {format}, and this program knows format {FORMAT}")),
            (SIDES_PX.contains(&side) && side.is_multiple_of(16), format!("crops of {side} pixels")),
            (matches!(crop.channels, 1 | 3), format!("{} channels", crop.channels)),
            (WIDTHS.contains(width) && width % 8 == 0, format!("width {width}")),
            (*size_px >= side && *size_px <= 4096, format!("pictures of {size_px} pixels")),
            (catalogue.classes.len() <= MAX_CLASSES, "too many classes".into()),
            (catalogue.words.len() <= MAX_VOCABULARY, "too many words".into()),
            (catalogue.words.is_sorted(), "its words are in no order".into()),
            (catalogue.parameters.len() <= MAX_PARAMETERS, "too many parameters".into()),
            (catalogue.rows.len() <= MAX_ROWS, "too many rows".into()),
            (
                catalogue.rows.iter().all(|r| r.len() == catalogue.parameters.len()),
                "its rows do not fit its parameters".into(),
            ),
            (catalogue.row_classes.len() == catalogue.rows.len(), "its rows do not fit their classes".into()),
        ];
        sound.into_iter().find(|(is, _)| !is).map_or(Ok(()), |(_, what)| Err(what))
    }
}

/// Writes a generator. Returns the SHA-256 of its file, hex.
///
/// Errors: [`FileError::Write`]; then an earlier file is still there.
pub fn write(path: &Path, header: &Header, network: &Network) -> Result<String, FileError> {
    let failed = |reason: String| FileError::Write { path: path.to_owned(), reason };
    let json = serde_json::to_vec(header).map_err(|e| failed(e.to_string()))?;
    let mut tensors = vec![(HEADER.to_owned(), Tensor::from_slice(&json))];
    tensors.extend(on_processor(network.kept()));
    let save = |part: &Path| Tensor::write_safetensors(&tensors, part).map_err(std::io::Error::other);
    write_whole_by(path, save).map_err(|e| failed(e.to_string()))?;
    let bytes = std::fs::read(path).map_err(|e| failed(e.to_string()))?;
    Ok(hex(&Sha256::digest(&bytes)))
}

/// Reads a generator.
///
/// Errors: [`FileError::Read`].
pub fn read(path: &Path, device: Device) -> Result<Generator, FileError> {
    let bad = |reason: String| FileError::Read { path: path.to_owned(), reason };
    let bytes = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
    let (header, tensors): (Header, _) = tensors(path).map_err(bad)?;
    header.check().map_err(bad)?;
    let mut network = Network::new(header.kind, device, header.crop, &header.catalogue.shape(), header.width);
    network.take(&tensors).map_err(|e: StateError| bad(e.to_string()))?;
    Ok(Generator { header, network, sha256: hex(&Sha256::digest(&bytes)) })
}

#[derive(Serialize, Deserialize)]
struct Stopped {
    identity: Identity,
    steps: u64,
    of: Option<u64>,
}

/// Writes the checkpoint of a fit in place of an earlier one.
///
/// Errors: [`CheckpointError::Write`]; then the earlier one is still there.
pub fn save(
    path: &Path,
    identity: &Identity,
    learnt: &Learnt,
    network: &Network,
) -> Result<(), CheckpointError> {
    let failed = |reason: String| CheckpointError::Write { path: path.to_owned(), reason };
    let header = Stopped { identity: identity.clone(), steps: learnt.steps, of: learnt.of };
    let json = serde_json::to_vec(&header).map_err(|e| failed(e.to_string()))?;
    let mut tensors = vec![(HEADER.to_owned(), Tensor::from_slice(&json))];
    tensors.extend(on_processor(network.state()));
    let write = |part: &Path| Tensor::write_safetensors(&tensors, part).map_err(std::io::Error::other);
    write_whole_by(path, write).map_err(|e| failed(e.to_string()))
}

/// Takes a checkpoint up, if there is one.
///
/// Errors: [`CheckpointError::Read`], [`CheckpointError::Other`]; then nothing is changed.
pub fn load(
    path: &Path,
    identity: &Identity,
    network: &mut Network,
) -> Result<Option<Learnt>, CheckpointError> {
    if !path.exists() {
        return Ok(None);
    }
    let bad = |reason: String| CheckpointError::Read { path: path.to_owned(), reason };
    let (stopped, tensors): (Stopped, _) = tensors(path).map_err(bad)?;
    let text = |of: &Identity, name: &str| of.get(name).cloned().unwrap_or_else(|| "not set".into());
    for what in stopped.identity.keys().chain(identity.keys()) {
        let (was, now) = (text(&stopped.identity, what), text(identity, what));
        if was != now {
            return Err(CheckpointError::Other { path: path.to_owned(), what: what.clone(), was, now });
        }
    }
    network.restore(&tensors).map_err(|e| bad(e.to_string()))?;
    Ok(Some(Learnt { steps: stopped.steps, of: stopped.of }))
}

fn on_processor(tensors: Vec<(String, Tensor)>) -> impl Iterator<Item = (String, Tensor)> {
    tensors.into_iter().map(|(name, t)| (name, t.to_device(Device::Cpu).contiguous()))
}

/// Header and tensors of a file. Errors: in words.
fn tensors<H: serde::de::DeserializeOwned>(path: &Path) -> Result<(H, Tensors), String> {
    let all = Tensor::read_safetensors(path).map_err(|e| e.to_string())?;
    let mut tensors: Tensors = all.into_iter().collect();
    let header = tensors.remove(HEADER).ok_or_else(|| format!("has no `{HEADER}`"))?;
    let json: Vec<u8> = Vec::try_from(header).map_err(|e: tch::TchError| e.to_string())?;
    let header = serde_json::from_slice(&json).map_err(|e| format!("its header: {e}"))?;
    Ok((header, tensors))
}
