//! What fits said, on the disk, so that a stopped judgement goes on to the same report.
//!
//! `REPORT/fits.part` is there from the first fit that is done until the report is whole: `order.json` says all that
//! the fits follow from, `SEED-ARM-TURN.json` what one of them said. Only a judgement of the same goods, tests, sets
//! and settings goes on from it. How many seeds it is to have does not count: no fit knows of the others.
//!
//! Never here: weights (a fit that was stopped in its middle is made anew); figures.

use std::path::{Path, PathBuf};

use inspect_core::model::hex;
use sha2::{Digest, Sha256};

use super::fits::{Plan, Said};
use crate::checkpoint::{self, CheckpointError, Identity};
use crate::file::write_whole;

/// Name of the folder, below that of the report.
pub const KEPT_NAME: &str = "fits.part";
const ORDER: &str = "order.json";

/// Why what fits said cannot be kept or gone on with.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// There is something to go on with, and nobody asked for that.
    #[error(
        "{path}: a judgement with this --report was stopped; go on with it by --resume, or delete the folder to start over"
    )]
    Left {
        /// The folder.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("{path}: {reason}; no judgement can go on with it, so delete its folder to start over")]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It cannot be written or removed.
    #[error("{path}: {reason}; what was kept before is still there for --resume. Is the disk full?")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// It is of a judgement of something else.
    #[error(transparent)]
    Other(#[from] CheckpointError),
}

/// Which fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its seed.
    pub seed: u64,
    /// Its arm.
    pub arm: usize,
    /// Its turn: which class is left out.
    pub turn: usize,
}

/// The folder of what fits said.
pub struct Kept {
    dir: PathBuf,
    asked: Identity,
    /// Pictures that a fit says something of.
    tests: usize,
}

impl Kept {
    /// What an earlier run of the same plan left in the folder of the `report`; a new one is made with the first fit.
    ///
    /// Errors: [`KeptError::Other`] if another plan's is there, [`KeptError::Read`].
    pub fn open(report: &Path, plan: &Plan) -> Result<Self, KeptError> {
        let kept = Self { dir: report.join(KEPT_NAME), asked: asked(plan), tests: plan.tests.pixels.len() };
        let order = kept.dir.join(ORDER);
        if order.exists() {
            let bad = |reason: String| KeptError::Read { path: order.clone(), reason };
            let json = std::fs::read(&order).map_err(|e| bad(e.to_string()))?;
            let was: Identity = serde_json::from_slice(&json).map_err(|e| bad(e.to_string()))?;
            checkpoint::check(&kept.dir, &was, &kept.asked)?;
        }
        Ok(kept)
    }

    fn path(&self, place: Place) -> PathBuf {
        self.dir.join(format!("{}-{}-{}.json", place.seed, place.arm, place.turn))
    }

    /// What that fit said; `None` if it is not there as it was written: then the fit is made again.
    pub fn read(&self, place: Place) -> Option<Said> {
        let said: Said = serde_json::from_slice(&std::fs::read(self.path(place)).ok()?).ok()?;
        said.is_of(self.tests).then_some(said)
    }

    /// Keeps what a fit said.
    ///
    /// Errors: [`KeptError::Write`].
    pub fn write(&self, place: Place, said: &Said) -> Result<(), KeptError> {
        let order = self.dir.join(ORDER);
        if !order.exists() {
            std::fs::create_dir_all(&self.dir).map_err(|e| failed(&self.dir, &e))?;
            let json = serde_json::to_vec_pretty(&self.asked).map_err(|e| failed(&order, &e))?;
            write_whole(&order, &json).map_err(|e| failed(&order, &e))?;
        }
        let path = self.path(place);
        let json = serde_json::to_vec(said).map_err(|e| failed(&path, &e))?;
        write_whole(&path, &json).map_err(|e| failed(&path, &e))
    }
}

fn failed(path: &Path, reason: &dyn std::fmt::Display) -> KeptError {
    KeptError::Write { path: path.to_owned(), reason: reason.to_string() }
}

/// Whether there is something to go on with in the folder of the `report`.
///
/// Errors: [`KeptError::Left`] if there is and `resume` is not set.
pub fn check(report: &Path, resume: bool) -> Result<bool, KeptError> {
    let path = report.join(KEPT_NAME);
    match path.exists() {
        true if !resume => Err(KeptError::Left { path }),
        is_there => Ok(is_there),
    }
}

/// Removes the folder, if it is there.
///
/// Errors: [`KeptError::Write`].
pub fn remove(report: &Path) -> Result<(), KeptError> {
    let path = report.join(KEPT_NAME);
    if path.exists() { std::fs::remove_dir_all(&path).map_err(|e| failed(&path, &e)) } else { Ok(()) }
}

/// All that a fit of the plan follows from but for its place.
fn asked(plan: &Plan) -> Identity {
    // Taken apart, so that nothing new is forgotten here.
    let Plan { goods, tests, sets, seeds: _, settings } = plan;
    let mut asked = settings.identity(goods);
    asked.remove("--seed"); // that of a fit is in its place
    let mut tell = |name: String, value: String| drop(asked.insert(name, value));
    tell("--defects-share".into(), settings.made_share.to_string());
    tell("--threads".into(), settings.threads.map_or("all".into(), |t| t.to_string()));
    tell("test pictures as seen: pixels, classes, masks (SHA-256)".into(), tests.sha256());
    let names: Vec<&str> = sets.iter().map(|set| set.name.as_str()).collect();
    tell("--made: names in order".into(), names.join(","));
    for set in *sets {
        let mut digest = Sha256::new();
        digest.update(&set.sha256);
        for defect in &set.defects {
            digest.update(format!("{}\0", defect.class)); // what is left out goes by the class
        }
        tell(format!("--made {} (SHA-256)", set.name), hex(&digest.finalize()));
    }
    asked
}
