//! Fits with and without made defects, judged on real defects that none of them saw.
//!
//! An *arm* is what a fit learns from: procedural defects alone, or these and a made set. The baseline is one of
//! them. Every arm has the same goods, steps and seeds. Two questions ([`Asked`]): about classes of which the fit was
//! *shown* made defects, which is what a generator is fitted for; and, where there are two classes or more, about each
//! class in turn that was *left out* of the made defects, since the next defect is of a kind that nobody has seen.
//!
//! What a fit said is kept ([`super::kept`]), so that a judgement that was stopped goes on.
//!
//! Never here: a choice of anything by these figures; defects of `test` in a fit.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use inspect_core::model::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::data::Goods;
use crate::fit::{Settings, fit};
use crate::infer::{maps, scores};
use crate::learn::Run;
use crate::made::MadeSet;
use crate::metrics::intervals::Ranked;
use crate::metrics::pixels::enlarge;
use crate::score::MAP_STRIDE;

use super::JudgeError;
use super::kept::{Kept, Place};

/// Bins of a map's values: what pixel figures are computed from.
const BINS: usize = 512;

/// Pictures that fits are judged on.
pub struct Tests {
    /// Shape: each `[S, S, C]`.
    pub pixels: Vec<Vec<u8>>,
    /// Class of each; `None`: good.
    pub classes: Vec<Option<String>>,
    /// Group of each.
    pub groups: Vec<String>,
    /// Where the defect is; `None` for one without a mask. Goods have an empty one. Shape: `[S, S]`.
    pub masks: Vec<Option<Vec<bool>>>,
}

impl Tests {
    /// Classes of defects, in order of name.
    pub fn names(&self) -> BTreeSet<&str> {
        self.classes.iter().flatten().map(String::as_str).collect()
    }

    /// SHA-256 over all that is said of a fit by them, in order, hex.
    pub fn sha256(&self) -> String {
        let mut digest = Sha256::new();
        for ((pixels, class), mask) in self.pixels.iter().zip(&self.classes).zip(&self.masks) {
            digest.update(pixels);
            digest.update(format!("{class:?}\0"));
            match mask {
                Some(mask) => mask.iter().for_each(|m| digest.update([u8::from(*m)])),
                None => digest.update("no mask"),
            }
        }
        hex(&digest.finalize())
    }
}

/// What is compared.
pub struct Plan<'a> {
    /// What the fits learn the good part from.
    pub goods: &'a Goods,
    /// What they are judged on.
    pub tests: &'a Tests,
    /// The made sets at the model's size; arm `k + 1` learns from set `k`, arm 0 from none.
    pub sets: &'a [MadeSet],
    /// Seeds: 0, 1, …
    pub seeds: u64,
    /// All but seed and made sets.
    pub settings: Settings,
}

/// What one fit says of the tests, as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// Score of each picture as the bits of an f32, of which none is lost on the way through text.
    scores: Vec<u32>,
    /// For each picture with a mask (an empty one, if good): bin, clean and defect pixels in it, highest bin first.
    counts: Vec<Vec<(u16, u32, u32)>>,
}

impl Said {
    /// Whether it can be what a fit said of so many tests.
    pub fn is_of(&self, tests: usize) -> bool {
        self.scores.len() == tests
            && self.counts.len() == tests
            && self.scores.iter().all(|s| f32::from_bits(*s).is_finite())
            && self.counts.iter().flatten().all(|(bin, ..)| usize::from(*bin) < BINS)
    }
}

/// The same, ready for figures.
pub struct Answers {
    ranked: Ranked,
    /// As [`Said`] has them.
    counts: Vec<Vec<(u16, u32, u32)>>,
}

/// A figure of a fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Average precision over pictures.
    ImagePrecision,
    /// AUROC over pictures.
    ImageAuroc,
    /// Average precision over pixels.
    PixelPrecision,
}

/// What a fit is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// All classes, and made defects of all of them were learnt from.
    Shown,
    /// One class of which no made defect was learnt from; the mean over the classes.
    LeftOut,
}

/// Where the fits are.
pub struct Progress {
    /// Fits done.
    pub done: usize,
    /// Of so many.
    pub of: usize,
    /// Step of the present one.
    pub step: u64,
    /// Of so many.
    pub steps: u64,
}

/// All answers of the seeds that were done.
pub struct Measured {
    /// Classes that were left out in turn; empty: none was.
    pub left_out: Vec<String>,
    /// Seeds whose fits are all done.
    pub seeds: usize,
    /// By seed, arm, and turn: the first has all classes, each further one leaves one out.
    answers: Vec<Vec<Vec<Answers>>>,
    /// Whether a picture counts, by turn: goods, and defects of what is asked about.
    counts: Vec<Vec<bool>>,
}

/// Fits of a plan.
pub fn fits_of(plan: &Plan) -> usize {
    let turns = 1 + left_out(plan).len();
    plan.seeds as usize * (1 + plan.sets.len() * turns)
}

/// Classes to leave out in turn: real ones, if there are two or more.
fn left_out(plan: &Plan) -> Vec<String> {
    let names = plan.tests.names();
    if names.len() < 2 { Vec::new() } else { names.into_iter().map(str::to_owned).collect() }
}

/// Runs the fits, seed by seed, but for those that are `kept`. Once `stop` is set it returns what is there: the seeds
/// that are done.
///
/// Errors: [`JudgeError::Fit`], [`JudgeError::Kept`].
pub fn measure(
    plan: &Plan,
    kept: &Kept,
    stop: &AtomicBool,
    report: &mut dyn FnMut(&Progress),
) -> Result<Measured, JudgeError> {
    let left_out = left_out(plan);
    let turns: Vec<Option<&str>> =
        std::iter::once(None).chain(left_out.iter().map(|c| Some(c.as_str()))).collect();
    let of = fits_of(plan);
    let (mut done, mut answers) = (0, Vec::new());
    'seeds: for seed in 0..plan.seeds {
        let mut arms = Vec::new();
        for arm in 0..=plan.sets.len() {
            let mut of_arm = Vec::new();
            // Without a made set nothing is left out: one fit stands for all classes.
            for (turn, left) in turns.iter().enumerate().take(if arm == 0 { 1 } else { turns.len() }) {
                let place = Place { seed, arm, turn };
                let mut tell = |step, steps| report(&Progress { done, of, step, steps });
                let said = match kept.read(place) {
                    Some(said) => said,
                    None => {
                        let set = arm.checked_sub(1).map(|k| without(&plan.sets[k], *left));
                        let Some(said) = answer(plan, seed, set, stop, &mut tell)? else { break 'seeds };
                        kept.write(place, &said)?;
                        said
                    }
                };
                of_arm.push(Answers::of(said, plan.tests));
                done += 1;
            }
            arms.push(of_arm);
        }
        answers.push(arms);
    }
    let counts = turns.iter().map(|turn| {
        let counts = |class: &Option<String>| match (class, turn) {
            (Some(class), Some(turn)) => class == turn,
            _ => true,
        };
        plan.tests.classes.iter().map(counts).collect()
    });
    Ok(Measured { seeds: answers.len(), answers, counts: counts.collect(), left_out })
}

fn without(set: &MadeSet, class: Option<&str>) -> MadeSet {
    let stays = |c: &str| class.is_none_or(|class| class != c);
    let defects = set.defects.iter().filter(|d| stays(&d.class)).cloned().collect();
    MadeSet { defects, ..set.clone() }
}

/// One fit and what it says; `None` if it was stopped.
fn answer(
    plan: &Plan,
    seed: u64,
    set: Option<MadeSet>,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(u64, u64),
) -> Result<Option<Said>, JudgeError> {
    if stop.load(Ordering::Relaxed) {
        return Ok(None);
    }
    // A set whose only class is left out has nothing to add: that fit is the baseline's.
    let made = set.into_iter().filter(|s| !s.defects.is_empty()).collect();
    let settings = Settings { seed, made, ..plan.settings.clone() };
    let mut told = |p: &crate::learn::Progress| tell(p.step, p.of.unwrap_or(p.step));
    let run = Run { start: Instant::now(), stop, report: &mut told };
    let fitted = fit(plan.goods, &settings, run)?;
    if stop.load(Ordering::Relaxed) {
        return Ok(None);
    }
    let input = plan.goods.input;
    let views: Vec<&[u8]> = plan.tests.pixels.iter().map(Vec::as_slice).collect();
    let scores = scores(&fitted.weights, fitted.shape, &views, input);
    let maps = maps(&fitted.weights, fitted.shape, &views, input);
    if scores.iter().chain(maps.iter().flatten()).any(|v| !v.is_finite()) {
        return Err(JudgeError::NotFinite { seed });
    }
    let counts = counted(&maps, &plan.tests.masks, input.width as usize);
    Ok(Some(Said { scores: scores.into_iter().map(f32::to_bits).collect(), counts }))
}

/// Pixels by bin of the map's value. The bins hold equally many of all values, so that none is wasted.
fn counted(maps: &[Vec<f32>], masks: &[Option<Vec<bool>>], side: usize) -> Vec<Vec<(u16, u32, u32)>> {
    let cells = side / MAP_STRIDE as usize;
    let mut sorted: Vec<f32> = maps.iter().flatten().copied().collect();
    sorted.sort_by(f32::total_cmp);
    let mut edges: Vec<f32> =
        (1..BINS).filter_map(|i| sorted.get(i * sorted.len() / BINS).copied()).collect();
    edges.dedup();
    let one = |(map, mask): (&Vec<f32>, &Option<Vec<bool>>)| {
        let Some(mask) = mask else { return Vec::new() };
        let mut bins = vec![(0u32, 0u32); BINS];
        for (i, value) in enlarge(map, (cells, cells), (side, side)).into_iter().enumerate() {
            let bin = &mut bins[edges.partition_point(|e| *e <= value)];
            if mask.get(i).copied().unwrap_or(false) { bin.1 += 1 } else { bin.0 += 1 }
        }
        let full = bins.iter().enumerate().rev().filter(|(_, b)| b.0 + b.1 > 0);
        full.map(|(i, b)| (i as u16, b.0, b.1)).collect()
    };
    maps.iter().zip(masks).map(one).collect()
}

impl Answers {
    fn of(said: Said, tests: &Tests) -> Self {
        let scores = said.scores.into_iter().map(f32::from_bits).collect();
        let good = tests.classes.iter().map(Option::is_none).collect();
        Self { ranked: Ranked::new(scores, good), counts: said.counts }
    }

    /// NaN where the drawn pictures do not allow the figure.
    fn figure(&self, figure: Figure, times: &[u32]) -> f64 {
        match figure {
            Figure::ImagePrecision => self.ranked.average_precision(times),
            Figure::ImageAuroc => self.ranked.auroc(times),
            Figure::PixelPrecision => self.pixel_precision(times),
        }
    }

    /// Average precision over pixels, pixels of one bin being ties.
    fn pixel_precision(&self, times: &[u32]) -> f64 {
        let mut bins = vec![(0f64, 0f64); BINS];
        for (counts, times) in self.counts.iter().zip(times).filter(|(_, t)| **t > 0) {
            for (bin, clean, defect) in counts {
                bins[usize::from(*bin)].0 += f64::from(*clean) * f64::from(*times);
                bins[usize::from(*bin)].1 += f64::from(*defect) * f64::from(*times);
            }
        }
        let (mut flagged, mut found, mut sum) = (0.0, 0.0, 0.0);
        for (clean, defect) in bins.into_iter().rev().filter(|b| b.0 + b.1 > 0.0) {
            found += defect;
            flagged += clean + defect;
            sum += defect * found / flagged;
        }
        sum / found
    }
}

impl Measured {
    /// A figure of an arm; of classes left out the mean over those whose pictures were drawn. NaN where there is none.
    pub fn figure(&self, asked: Asked, figure: Figure, seed: usize, arm: usize, times: &[u32]) -> f64 {
        let (mut sum, mut n) = (0.0, 0u32);
        let fits = &self.answers[seed][arm];
        let turns = match asked {
            Asked::Shown => 0..1,
            Asked::LeftOut => 1..self.counts.len(),
        };
        for (turn, counts) in turns.map(|turn| (turn, &self.counts[turn])) {
            let times: Vec<u32> = times.iter().zip(counts).map(|(t, c)| if *c { *t } else { 0 }).collect();
            let value = fits[turn.min(fits.len() - 1)].figure(figure, &times);
            if value.is_finite() {
                sum += value;
                n += 1;
            }
        }
        sum / f64::from(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::average_precision;

    #[test]
    fn pixels_are_counted_as_one_by_one() {
        // Two pictures of 16 x 16 pixels, maps of 4 x 4 cells; the second is good, the third has no mask.
        let maps: Vec<Vec<f32>> =
            (0..3).map(|k| (0..16).map(|i| ((i * 7 + k * 5) % 16) as f32).collect()).collect();
        let marked: Vec<bool> = (0..256).map(|i| i % 16 > 9 && i / 16 < 8).collect();
        let masks = vec![Some(marked.clone()), Some(vec![false; 256]), None];
        let counts = counted(&maps, &masks, 16);
        assert!(counts[2].is_empty());
        let answers = Answers { ranked: Ranked::new(vec![1.0, 0.0, 2.0], vec![false, true, false]), counts };
        let (mut clean, mut defect) = (Vec::new(), Vec::new());
        for (k, map) in maps.iter().take(2).enumerate() {
            for (i, v) in enlarge(map, (4, 4), (16, 16)).into_iter().enumerate() {
                if k == 0 && marked[i] { defect.push(v) } else { clean.push(v) }
            }
        }
        let got = answers.pixel_precision(&[1, 1, 1]);
        let exact = average_precision(&clean, &defect);
        assert!((got - exact).abs() < 0.02, "{got}, one by one {exact}");
        assert!(answers.pixel_precision(&[0, 1, 1]).is_nan(), "no defect pixel was drawn");
    }
}
