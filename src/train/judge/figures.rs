//! The figures of a judgement, as they stand in judge.json.
//!
//! Never here: how they are computed, how they are shown.
#![doc = include_str!("fields.md")]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::classify::{Condition, TwoSample};
use super::distance::{DensityCoverage, Kid};
use super::obeyed::Obeyed;
use super::paired::Gain;

/// Version of the JSON's structure: fields are added without changing it.
pub const SCHEMA: u32 = 1;

/// A judgement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When, UTC.
    pub judged: jiff::Timestamp,
    /// Version of inspect-train.
    pub version: String,
    /// The data folder as it was given.
    pub data: String,
    /// Where crops are compared.
    pub space: SpaceFigures,
    /// The real defects.
    pub real: SetFigures,
    /// Procedural ones first, then each made set in the order given.
    pub sets: Vec<SetReport>,
    /// What the fits say; `null` where there were none.
    pub fits: Option<FitsReport>,
    /// The sheet for people; `null` where there is nothing to mix.
    pub blind: Option<Blind>,
    /// Whether it was stopped before all fits were done.
    pub stopped: bool,
    /// Sentences: what these figures do not show.
    pub not_shown: Vec<String>,
}

/// The feature space.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpaceFigures {
    /// What it is.
    pub name: String,
    /// Of layout and weights, hex: figures of two spaces must not be compared.
    pub sha256: String,
    /// Features of a crop.
    pub features: usize,
    /// Side of a crop.
    pub crop_px: u32,
    /// Width and height that all pictures were brought to before crops were cut out of them.
    pub picture_px: [u32; 2],
}

/// What a set holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetFigures {
    /// Name.
    pub name: String,
    /// Pictures in the folder.
    pub pictures: usize,
    /// Of them compared.
    pub crops: usize,
    /// Groups among the compared.
    pub groups: usize,
    /// Of the compared those that no generator drew: real defects out of photographs, put on goods.
    pub pasted: usize,
    /// Compared ones by class.
    pub classes: BTreeMap<String, usize>,
}

/// What a set is worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetReport {
    /// What it holds.
    pub set: SetFigures,
    /// Kernel distance from the real defects; `null` with fewer than four of either.
    pub kid: Option<Kid>,
    /// `null` with five or fewer real defects.
    pub density_coverage: Option<DensityCoverage>,
    /// `null` with fewer than two groups of either.
    pub two_sample: Option<TwoSample>,
    /// `null` where nothing can be compared.
    pub copies: Option<CopiesReport>,
    /// `null` where no class has two or more in both sets.
    pub diversity: Option<Diversity>,
    /// `null` where there are fewer than two classes of real defects with two groups; never for procedural ones.
    pub condition: Option<Condition>,
    /// Class, text and process parameters by a reader that learnt from the real defects; `null` where those are too
    /// few, and for procedural ones.
    pub obeyed: Option<Obeyed>,
    /// Against the baseline; `null` for the baseline and where there were no fits.
    pub gain: Option<SetGain>,
    /// What follows for its use.
    pub verdict: Worth,
}

/// Whether a generator is worth to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Worth {
    /// What others are compared with.
    Baseline,
    /// The interval of the gain lies above 0, and that with classes left out not below it.
    Proven,
    /// It holds 0: not used by default.
    NotProven,
    /// One of them lies below 0: not to be used.
    Harmful,
    /// No fits, or too few.
    NotMeasured,
}

/// Copies of training defects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CopiesReport {
    /// Made defects nearer to a training defect than 95 % of the held-out real ones are; those that are pasted are not
    /// looked at.
    pub count: usize,
    /// Of all made ones that are not pasted.
    pub share: f64,
    /// Chance that a made one lies nearer to its training defect than a held-out real one to its own; 0.5 is as
    /// new as real ones, 1 is copied.
    pub nearer: f64,
    /// Whether the training defects were given; if not, the real ones stand for them, each against the others.
    pub apart: bool,
    /// The nearest pairs.
    pub pairs: Vec<CopyPair>,
}

/// A made defect beside a training defect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CopyPair {
    /// Name of the made one.
    pub made: String,
    /// Name of the training defect.
    pub trained: String,
    /// Between them, in the feature space.
    pub distance: f64,
    /// Whether it counts as a copy.
    pub copy: bool,
}

/// Mean distance between two defects of a class.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Diversity {
    /// Of real ones.
    pub real: f64,
    /// Of made ones.
    pub made: f64,
    /// `made / real`: far below 1, a generator repeats itself.
    pub ratio: f64,
}

/// The fits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FitsReport {
    /// What others are compared with.
    pub against: String,
    /// Seeds that are done.
    pub seeds: usize,
    /// Fits that are behind the figures.
    pub fits: usize,
    /// Steps of each.
    pub steps: u64,
    /// Side of its input, pixels.
    pub size_px: u32,
    /// Width of the network.
    pub variant: String,
    /// Share of the damaged pictures that a made set gets in the end.
    pub made_share: f64,
    /// Classes left out in turn; empty where there is one class only.
    pub left_out: Vec<String>,
    /// Pictures of good parts that the fits are judged on.
    pub good: usize,
    /// Pictures of real defects.
    pub defective: usize,
    /// Groups of good or of defective pictures, whichever are fewer.
    pub groups: usize,
    /// Confidence of each interval: all of them hold together at 95 %.
    pub confidence: f64,
    /// Figures of each arm: procedural alone, then each made set.
    pub arms: Vec<Arm>,
}

/// What an arm finds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// What it learns from beside procedural defects.
    pub name: String,
    /// Defects of the classes that it was shown made ones of.
    pub shown: Spreads,
    /// Defects of a class that was left out of the made ones; `null` with one class of real defects.
    pub left_out: Option<Spreads>,
}

/// Figures of an arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spreads {
    /// Average precision over pictures.
    pub image_precision: Spread,
    /// AUROC over pictures.
    pub image_auroc: Spread,
    /// Average precision over pixels; `null` without masks.
    pub pixel_precision: Option<Spread>,
}

/// A figure over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Least.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

/// Gains over the baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetGain {
    /// In finding defects of the classes that it made.
    pub shown: Gains,
    /// In finding defects of a class that was left out of the set; `null` with one class of real defects.
    pub left_out: Option<Gains>,
}

impl SetGain {
    /// What follows: proven if it helps with the classes that it makes and does not harm with others. The image
    /// average precision decides.
    pub fn verdict(&self) -> Worth {
        let (shown, others) = (&self.shown.image_precision, self.left_out.as_ref());
        let harms_others = others.is_some_and(|g| g.image_precision.is_harm());
        match shown.interval {
            None => Worth::NotMeasured,
            Some(_) if shown.is_harm() || harms_others => Worth::Harmful,
            Some(_) if shown.is_proven() => Worth::Proven,
            Some(_) => Worth::NotProven,
        }
    }
}

/// Gains by figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gains {
    /// Of the image average precision.
    pub image_precision: Gain,
    /// Of the image AUROC.
    pub image_auroc: Gain,
    /// Of the pixel average precision; `null` without masks.
    pub pixel_precision: Option<Gain>,
}

/// The sheet for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Blind {
    /// File with the pictures, numbered.
    pub sheet: String,
    /// File that says what each number is.
    pub key: String,
    /// Real ones on it.
    pub real: usize,
    /// Made ones on it.
    pub made: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::intervals::Interval;

    #[test]
    fn a_set_is_proven_by_the_classes_it_makes_unless_it_harms_others() {
        let gains = |low: f64, high: f64| {
            let gain =
                Gain { gain: 0.5 * (low + high), seeds: vec![], interval: Some(Interval { low, high }) };
            Gains { image_precision: gain.clone(), image_auroc: gain, pixel_precision: None }
        };
        let verdict = |shown, left_out| SetGain { shown, left_out }.verdict();
        assert_eq!(verdict(gains(0.1, 0.3), None), Worth::Proven);
        assert_eq!(verdict(gains(0.1, 0.3), Some(gains(-0.1, 0.2))), Worth::Proven);
        assert_eq!(verdict(gains(0.1, 0.3), Some(gains(-0.3, -0.1))), Worth::Harmful);
        assert_eq!(verdict(gains(-0.1, 0.3), Some(gains(0.1, 0.3))), Worth::NotProven);
        assert_eq!(verdict(gains(-0.3, -0.1), Some(gains(0.1, 0.3))), Worth::Harmful);
        let mut one_seed = gains(0.1, 0.3);
        one_seed.image_precision.interval = None;
        assert_eq!(verdict(one_seed, None), Worth::NotMeasured);
    }
}
