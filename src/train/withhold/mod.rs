//! Real defects for training, taken out of the test split for good, before anything is fitted.
//!
//! `OUT/real` gets defective pictures to train on, `OUT/rest` everything else in the MVTec AD layout: whatever
//! is compared (with and without real defects, say) is judged on the rest. Groups move whole, of whatever class
//! their pictures are, so that no part, session or sheet is on both sides; good test pictures of a group that
//! moves are in neither. Which groups: at random by seed, class by class in order of name, until at least as
//! many pictures are there as wanted; the last group of a class always stays to judge by.
//!
//! [`plan`] decides, [`write`] links or copies and writes the tables.
//!
//! Never here: a change of the folder that is split; a picture invented or dropped without a word.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::Serialize;

use crate::data::find::name_below;
use crate::data::{DataError, images_below, manifest};

pub mod write;

pub use write::write;

/// Folder below `test` that holds good parts.
const GOOD: &str = "good";

/// Why nothing was split.
#[derive(Debug, thiserror::Error)]
pub enum WithholdError {
    /// A folder or table cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Not the layout.
    #[error("{path}: {got}; expected an MVTec AD folder: train/good, test/good, test/<class of defect>")]
    Layout {
        /// The data folder.
        path: PathBuf,
        /// What is missing.
        got: String,
    },
    /// Nothing can be moved.
    #[error(
        "{path}: no group of defective pictures can leave the test split without emptying a class ({classes}); take more pictures of defects, of more parts or sessions"
    )]
    NothingToTake {
        /// The data folder.
        path: PathBuf,
        /// Each class with its groups.
        classes: String,
    },
    /// Something stands in the way.
    #[error("{path}: {reason}")]
    Out {
        /// The folder to write.
        path: PathBuf,
        /// What is wrong, what to do.
        reason: String,
    },
    /// A table does not fit.
    #[error("{path}: {reason}; expected a CSV file with the column `file` (path below this folder)")]
    Table {
        /// manifest.csv or boxes.csv.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file cannot be linked, copied or written.
    #[error("{path}: {source}; nothing was kept of {out}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The folder to write.
        out: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// One picture of the test split.
#[derive(Debug, Clone)]
struct Tested {
    /// Path below the data folder, with `/`.
    name: String,
    path: PathBuf,
    class: String,
    group: String,
}

/// What moves and what stays.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The folder that is split, as it was given.
    pub data: String,
    /// Pictures wanted of each class.
    pub wanted: usize,
    /// Seed of the choice.
    pub seed: u64,
    /// Class of defect → pictures that move, paths below the data folder.
    pub real: BTreeMap<String, Vec<String>>,
    /// Class → test pictures that stay, paths below the data folder.
    pub rest: BTreeMap<String, Vec<String>>,
    /// Good test pictures of groups that move: in neither.
    pub left_out: Vec<String>,
    /// Training pictures, paths below the data folder.
    pub train: Vec<String>,
    /// Groups that move.
    pub groups: Vec<String>,
    #[serde(skip)]
    paths: BTreeMap<String, PathBuf>,
}

impl Plan {
    /// Where each picture went, for people.
    pub fn told(&self) -> String {
        let mut text = String::new();
        for (class, rest) in &self.rest {
            let real = self.real.get(class).map_or(0, Vec::len);
            let short = real < self.wanted && class != GOOD;
            let short = if short {
                format!(" (wanted {}: the last group stays)", self.wanted)
            } else {
                String::new()
            };
            text += &format!("{class:<22} real {real:>5}   rest {:>5}{short}\n", rest.len());
        }
        text += &format!("{:<22} rest {:>18}\n", "train/good", self.train.len());
        if !self.left_out.is_empty() {
            text += &format!(
                "left out: {} good test pictures of groups that moved (see split.json)\n",
                self.left_out.len()
            );
        }
        text
    }
}

/// Decides which groups move: as many as give `wanted` pictures of each class.
///
/// Errors: [`WithholdError::Layout`], [`WithholdError::NothingToTake`], [`WithholdError::Data`].
pub fn plan(dir: &Path, wanted: usize, seed: u64) -> Result<Plan, WithholdError> {
    let (tested, train) = find(dir)?;
    let moved = choose(&tested, wanted, seed);
    if moved.is_empty() {
        let mut groups = BTreeMap::<&str, BTreeSet<&str>>::new();
        for t in &tested {
            groups.entry(&t.class).or_default().insert(&t.group);
        }
        let each = groups.iter().map(|(class, groups)| format!("{class}: {} group(s)", groups.len()));
        let classes = each.collect::<Vec<_>>().join(", ");
        return Err(WithholdError::NothingToTake { path: dir.to_owned(), classes });
    }
    let mut plan = Plan {
        data: dir.display().to_string(),
        wanted,
        seed,
        real: BTreeMap::new(),
        rest: BTreeMap::new(),
        left_out: Vec::new(),
        train: train.keys().cloned().collect(),
        groups: moved.iter().map(|&g| g.to_owned()).collect(),
        paths: train,
    };
    for picture in &tested {
        let list = match (moved.contains(picture.group.as_str()), picture.class == GOOD) {
            (true, true) => &mut plan.left_out,
            (true, false) => plan.real.entry(picture.class.clone()).or_default(),
            (false, _) => plan.rest.entry(picture.class.clone()).or_default(),
        };
        list.push(picture.name.clone());
        plan.paths.insert(picture.name.clone(), picture.path.clone());
    }
    Ok(plan)
}

/// The test pictures, and name and path of the training pictures.
fn find(dir: &Path) -> Result<(Vec<Tested>, BTreeMap<String, PathBuf>), WithholdError> {
    let layout = |got: &str| Err(WithholdError::Layout { path: dir.to_owned(), got: got.into() });
    let (test, good) = (dir.join("test"), dir.join("train").join(GOOD));
    if !test.is_dir() || !good.is_dir() {
        return layout("has no test or no train/good folder");
    }
    let manifest = manifest::read(&dir.join("manifest.csv"))?;
    let tested: Vec<Tested> = images_below(&test)?
        .into_iter()
        .map(|path| {
            let name = name_below(dir, &path);
            // test / class / lot / … / file, as `evaluate` reads it
            let below: Vec<&str> = name.split('/').collect();
            let class = if below.len() > 2 { below[1].to_owned() } else { String::new() };
            let lot = if below.len() > 3 { below[2] } else { &name };
            let said = manifest.get(&name).map(|row| row.group.as_str());
            let group = said.filter(|g| !g.is_empty()).unwrap_or(lot);
            Tested { class, group: group.to_owned(), name, path }
        })
        .collect();
    if let Some(stray) = tested.iter().find(|t| t.class.is_empty()) {
        return layout(&format!("{} lies in no folder of a class", stray.name));
    }
    if !tested.iter().any(|t| t.class == GOOD) || tested.iter().all(|t| t.class == GOOD) {
        return layout("has no good or no defective test pictures");
    }
    let train = images_below(&good)?.into_iter().map(|path| (name_below(dir, &path), path)).collect();
    Ok((tested, train))
}

/// The groups that move. No class, the good one included, loses its last group.
fn choose(tested: &[Tested], wanted: usize, seed: u64) -> BTreeSet<&str> {
    let mut random = StdRng::seed_from_u64(seed);
    let classes: BTreeSet<&str> = tested.iter().map(|t| t.class.as_str()).collect();
    let mut moved = BTreeSet::<&str>::new();
    for &class in classes.iter().filter(|c| **c != GOOD) {
        let of_class: BTreeSet<&str> =
            tested.iter().filter(|t| t.class == class).map(|t| t.group.as_str()).collect();
        let mut order: Vec<&str> = of_class.into_iter().collect();
        order.shuffle(&mut random);
        for group in order {
            let taken =
                tested.iter().filter(|t| t.class == class && moved.contains(t.group.as_str())).count();
            if taken >= wanted {
                break;
            }
            let stays = |t: &&Tested| t.group != group && !moved.contains(t.group.as_str());
            let left: BTreeSet<&str> = tested.iter().filter(stays).map(|t| t.class.as_str()).collect();
            if left.len() == classes.len() {
                moved.insert(group);
            }
        }
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    #[test]
    fn whatever_the_groups_no_class_is_emptied() {
        for seed in 0..300 {
            let mut r = StdRng::seed_from_u64(seed);
            let tested: Vec<Tested> = (0..r.random_range(4..60))
                .map(|i| Tested {
                    name: i.to_string(),
                    path: PathBuf::new(),
                    class: ["good", "bar", "dent"][r.random_range(0..3)].into(),
                    group: r.random_range(0..12).to_string(),
                })
                .collect();
            let moved = choose(&tested, r.random_range(1..8), seed);
            let classes = |of: &dyn Fn(&Tested) -> bool| -> BTreeSet<&str> {
                tested.iter().filter(|t| of(t)).map(|t| t.class.as_str()).collect()
            };
            assert_eq!(classes(&|_| true), classes(&|t| !moved.contains(t.group.as_str())), "seed {seed}");
        }
    }
}
