//! Whether made defects are what was asked for: class, text and process parameters.
//!
//! A *reader* ([`reader`]) learns from the real defects of `--data` and what their manifest says of them. A quarter
//! of their groups is held out: how well it tells those is its own worth, and no made set can be shown to obey better
//! than that. Then it is asked about made defects, of which their manifest says what was asked for.
//!
//! It sees cuts of the picture ([`cases`]) and not the mask. Goods are among what it learns from, so that a made
//! defect that shows nothing is no defect of its class, wherever it lies. What can be asked follows from what is
//! said of the real ones ([`questions`]); shares and their intervals are counted in [`tally`](mod@tally).
//!
//! Only classes with [`MIN_OF_CLASS`] real defects are learnt, and only where a class has them in [`MIN_GROUPS`]
//! groups. With fewer, [`super::classify::condition`] says what can be said.
//!
//! Never here: whether a made defect looks real.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;

use super::classify::folds;
use super::{JudgeError, Settings, sets};

mod cases;
pub(super) mod page;
mod questions;
mod reader;
mod tally;
#[cfg(test)]
mod tests;

pub use tally::{Both, Correlation, Obeyed, Parameter, TELLABLE, Told, Word};

use cases::Case;
use questions::Questions;
use reader::{Plan, Reader};

/// Fewest real defects of a class to learn it from. A choice: with fewer, less than ten are held out, and a
/// reader that is always right is not known to be right more often than 7 times in 10.
pub const MIN_OF_CLASS: usize = 40;
/// Fewest groups that they come from.
pub const MIN_GROUPS: usize = 8;
/// One part of so many is held out.
const HELD_OUT: usize = 4;

/// What was found out of each made set, and things that the user should know.
#[derive(Default)]
pub struct Asked {
    /// By made set; empty where real defects are too few or it was stopped.
    pub sets: Vec<Obeyed>,
    /// Sentences.
    pub notes: Vec<String>,
}

/// Learns from the real defects and asks about the made sets.
///
/// Errors: [`JudgeError`], for files that cannot be read.
pub fn ask(real: &sets::Set, settings: &Settings, stop: &AtomicBool) -> Result<Asked, JudgeError> {
    ask_after(None, real, settings, stop)
}

/// The same after so many steps of learning; `None`: by the number of defects.
fn ask_after(
    steps: Option<usize>,
    real: &sets::Set,
    settings: &Settings,
    stop: &AtomicBool,
) -> Result<Asked, JudgeError> {
    let mut counts = BTreeMap::<&str, (usize, BTreeSet<&str>)>::new();
    for crop in &real.crops {
        let (count, groups) = counts.entry(&crop.class).or_default();
        *count += 1;
        groups.insert(&crop.group);
    }
    let enough = |class: &str| {
        counts.get(class).is_some_and(|(n, groups)| *n >= MIN_OF_CLASS && groups.len() >= MIN_GROUPS)
    };
    if !counts.keys().any(|class| enough(class)) {
        return Ok(Asked::default());
    }
    let mut cases = cases::load(&settings.data, &settings.made, &enough, settings.seed)?;
    let (held_out, learnt) = parted(std::mem::take(&mut cases.real), settings.seed);
    let learnt: Vec<&Case> = learnt.iter().collect();
    let questions = Questions::new(&learnt);
    let plan = Plan { turns: settings.symmetry.turns(None, 0), seed: settings.seed, steps };
    let mut asked = Asked { sets: Vec::new(), notes: cases.notes };
    tch::set_num_threads(settings.threads.max(1) as i32);
    if let Some(reader) = Reader::learn(&learnt, &questions, cases.look, &plan, stop) {
        let own = reader.read(&held_out);
        let defects = learnt.iter().filter(|c| c.class.is_some()).count();
        for made in &cases.made {
            let told = reader.read(made);
            asked.sets.push(tally::tally(&questions, defects, (&held_out, &own), (made, &told)));
        }
    }
    Ok(asked)
}

/// Held-out cases and those to learn from; whole groups.
fn parted(cases: Vec<Case>, seed: u64) -> (Vec<Case>, Vec<Case>) {
    let classes: BTreeSet<Option<String>> = cases.iter().map(|c| c.class.clone()).collect();
    let classes: Vec<Option<String>> = classes.into_iter().collect();
    let kinds: Vec<usize> =
        cases.iter().map(|c| classes.iter().position(|k| *k == c.class).unwrap_or(0)).collect();
    let groups: Vec<&str> = cases.iter().map(|c| c.group.as_str()).collect();
    let fold = folds(&groups, &kinds, HELD_OUT, seed);
    let (mut held_out, mut learnt) = (Vec::new(), Vec::new());
    for (case, fold) in cases.into_iter().zip(fold) {
        if fold == 0 { held_out.push(case) } else { learnt.push(case) }
    }
    (held_out, learnt)
}
