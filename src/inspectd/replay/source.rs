//! What is replayed: the pictures of a folder, or the parts of a journal whose frames the archive kept.
//!
//! A journal is only read, and may be in use by a running daemon. The archive keeps frames of parts that did not pass
//! and of a sample of those that did: of all others there is none to replay, and they are counted.
//!
//! Never here: writing into either; a part made up.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use inspect_core::verdict::Verdict;
use serde::Serialize;

use crate::archive::frame_path;
use crate::camera::folder;
use crate::journal::{JournalError, JournalReader};
use crate::plc::result::SERIAL_BYTES;
use crate::record::Inspection;

/// Records that are read in one go.
const PAGE: usize = 1_000;

/// Why there is nothing to replay.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The folder cannot be read.
    #[error("{0}")]
    Folder(String),
    /// It holds no picture.
    #[error("{0}: expected PNG, JPEG, BMP or TIFF pictures, found none")]
    NoPictures(PathBuf),
    /// The journal cannot be read.
    #[error("{0}; expected the directory of an inspectd journal: journal.db and, beside it, the archive")]
    Journal(#[from] JournalError),
    /// It knows nothing of the station.
    #[error("journal {dir} holds no part of station `{station}`; it has parts of: {}", list(.found))]
    NoParts {
        /// The journal's directory.
        dir: PathBuf,
        /// The station that was looked for.
        station: String,
        /// Those whose parts are there.
        found: BTreeSet<String>,
    },
    /// Of no part there is a frame of each view.
    #[error(
        "journal {dir} holds {parts} parts of station `{station}`, and the archive {archive} no frame of any of them from views {}: it keeps frames of parts that do not pass and of some that do, see [archive] in the configuration",
        .views.join(", ")
    )]
    NoFrames {
        /// The journal's directory.
        dir: PathBuf,
        /// The archive's.
        archive: PathBuf,
        /// The station.
        station: String,
        /// Its parts.
        parts: u64,
        /// Views that need a frame.
        views: Vec<String>,
    },
}

fn list(names: &BTreeSet<String>) -> String {
    if names.is_empty() {
        return "no station".to_owned();
    }
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// What was journaled of a part.
#[derive(Debug, Clone, PartialEq)]
pub struct Then {
    /// Its number at its station.
    pub part: u64,
    /// When its trigger was accepted.
    pub accepted: jiff::Timestamp,
    /// Its verdict.
    pub verdict: Verdict,
    /// Its highest score over the reject threshold of then.
    pub score: Option<f32>,
}

/// A part to replay.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// A picture for each view.
    pub pictures: Vec<(String, PathBuf)>,
    /// What it really is, where somebody knows.
    pub truth: Option<String>,
    /// As the PLC wrote it; of a picture in a folder, the end of its path.
    pub serial: Option<String>,
    /// As the PLC wrote it.
    pub encoder: Option<u32>,
    /// As the PLC wrote it; 0: not said.
    pub product: u16,
    /// The PLC's id of it; none: the next one is given.
    pub trigger_id: Option<u16>,
    /// Number of the recipe that judged it.
    pub recipe: Option<u16>,
    /// What was journaled of it.
    pub then: Option<Then>,
}

/// Parts of a journal that cannot be replayed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// There is no frame of it.
    pub no_frame: u64,
    /// Of these, parts that passed: of them few frames are kept.
    pub passed: u64,
    /// Its record is not of this version.
    pub unreadable: u64,
}

/// All that a source holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Source {
    /// In the order in which they came.
    pub parts: Vec<Part>,
    /// What is not among them.
    pub left_out: LeftOut,
    /// Pictures that are JPEG: scores of them differ a little from those of the frames.
    pub lossy: u64,
    /// Models that judged them, by name and the beginning of their SHA-256.
    pub models: BTreeSet<String>,
}

/// The pictures of a folder and the folders in it, each a part for one view. In MVTec AD's layout,
/// `test/<class>/x.png`, the class is the truth.
///
/// Errors: [`SourceError::Folder`], [`SourceError::NoPictures`].
pub fn from_folder(path: &Path, view: &str) -> Result<Source, SourceError> {
    let pictures = folder::pictures(path).map_err(SourceError::Folder)?;
    if pictures.is_empty() {
        return Err(SourceError::NoPictures(path.to_owned()));
    }
    let part = |picture: PathBuf| Part {
        truth: folder::truth(&picture),
        serial: Some(end_of(picture.strip_prefix(path).unwrap_or(&picture))),
        encoder: None,
        product: 0,
        trigger_id: None,
        recipe: None,
        then: None,
        pictures: vec![(view.to_owned(), picture)],
    };
    Ok(Source { parts: pictures.into_iter().map(part).collect(), ..Source::default() })
}

/// As much of a path as a serial takes, so that a record tells which picture it is of.
fn end_of(path: &Path) -> String {
    let path = path.to_string_lossy();
    let start = (path.len().saturating_sub(SERIAL_BYTES)..path.len()).find(|at| path.is_char_boundary(*at));
    path.get(start.unwrap_or(0)..).unwrap_or_default().to_owned()
}

/// The parts of a station in the journal in `dir`, those with a frame of each of `views` in `archive`; without `views`,
/// of each view that looked at the part.
///
/// Errors: [`SourceError`].
pub fn from_journal(
    dir: &Path,
    archive: &Path,
    station: &str,
    views: Option<&[String]>,
) -> Result<Source, SourceError> {
    let reader = JournalReader::open(dir)?;
    let mut source = Source::default();
    let mut found = BTreeSet::new();
    let (mut after, mut parts) = (0, 0);
    loop {
        let entries = reader.after(after, PAGE)?;
        let Some(last) = entries.last() else { break };
        after = last.sequence;
        for entry in entries.iter().filter(|entry| entry.kind == "inspection") {
            if entry.station.as_deref() != Some(station) {
                found.extend(entry.station.clone());
                continue;
            }
            parts += 1;
            match serde_json::from_str::<Inspection>(&entry.json) {
                Err(_) => source.left_out.unreadable += 1,
                Ok(record) => source.add(archive, record, views),
            }
        }
    }
    if parts == 0 {
        return Err(SourceError::NoParts { dir: dir.to_owned(), station: station.to_owned(), found });
    }
    if source.parts.is_empty() {
        let views = views.map_or_else(|| vec!["of their recipes".to_owned()], <[String]>::to_vec);
        let (dir, archive) = (dir.to_owned(), archive.to_owned());
        return Err(SourceError::NoFrames { dir, archive, station: station.to_owned(), parts, views });
    }
    Ok(source)
}

impl Source {
    fn add(&mut self, archive: &Path, record: Inspection, views: Option<&[String]>) {
        let looked: Vec<String> = record.views.iter().map(|v| v.view.clone()).collect();
        let needed = views.unwrap_or(&looked);
        let frames: Option<Vec<_>> = needed.iter().map(|view| frame_path(archive, &record, view)).collect();
        let Some(frames) = frames.filter(|frames| !frames.is_empty()) else {
            self.left_out.no_frame += 1;
            self.left_out.passed += u64::from(record.verdict == Verdict::Pass);
            return;
        };
        self.lossy += frames.iter().filter(|frame| !frame.lossless).count() as u64;
        let pictures = needed.iter().cloned().zip(frames.into_iter().map(|frame| frame.path)).collect();
        let model = |view: &crate::record::ViewRecord| {
            let sha256 = view.model_sha256.get(..8).filter(|_| !view.model.is_empty())?;
            Some(format!("{} {sha256}", view.model))
        };
        self.models.extend(record.views.iter().filter_map(model));
        let score = record.views.iter().filter_map(|v| v.relative_score).reduce(f32::max);
        let trigger = record.trigger;
        self.parts.push(Part {
            pictures,
            truth: record.truth,
            serial: trigger.serial,
            encoder: trigger.encoder,
            product: trigger.product,
            trigger_id: trigger.trigger_id,
            recipe: record.recipe.map(|recipe| recipe.number),
            then: Some(Then {
                part: record.part,
                accepted: trigger.accepted,
                verdict: record.verdict,
                score,
            }),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_holds_the_end_of_a_path_whatever_its_letters() {
        assert_eq!(end_of(Path::new("scratch/012.png")), "scratch/012.png");
        let long = end_of(Path::new("ääääääääääääääääääääääää/scratch/012.png"));
        assert!(long.len() <= SERIAL_BYTES && long.ends_with("ä/scratch/012.png"), "{long}");
    }
}
