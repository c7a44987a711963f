//! Whether scores are still distributed as those of the held-out goods: KS on conformal p-values, and PSI.
//!
//! The p-value of a part is (1 + goods that score at least as high) / (goods + 1): of parts like those goods each value is
//! as likely as any other, whatever the model and the distribution of its scores. Equal scores share their places evenly.
//!
//! # Why the parts that were not rejected decide
//!
//! A burst of true defects makes scores high as drift does. But defects leave the other parts' scores as they were, and
//! drift moves those of all. So the distribution of the parts that were not rejected is compared with that of the goods
//! under the same limit, and [`super::rejects`] watches how many were rejected. Only where most parts are rejected does
//! the distribution of all decide: then those that passed are few and say little. Each message says how many were rejected.
//!
//! Never here: pictures, thresholds that move.

use std::collections::VecDeque;

use inspect_core::reference::quantiles;

use super::level::{DriftLevel, Latch, Reading};
use super::statistics::{bins, ks, ks_limit, psi, psi_limit};

/// Looks in the time of one window.
pub(super) const LOOKS_A_WINDOW: usize = 20;
/// Conventional limits of the stability index: 0.1 a small shift, 0.25 a large one (Siddiqi 2006, "Credit Risk
/// Scorecards", chapter 9).
const PSI_CONVENTION: (f64, f64) = (0.1, 0.25);
/// Steps through the unit interval that fill it evenly: the golden ratio.
const EVEN_STEP: f64 = 0.618_033_988_749_894_9;

/// Watches the scores of one view.
#[derive(Debug)]
pub(super) struct ScoreWatch {
    /// Above it a part is rejected.
    limit: f32,
    window: usize,
    learn: usize,
    /// Probability of a false warning, and alarm, at one look.
    levels: (f64, f64),
    /// In rising order; while it is learnt, as they came.
    reference: Vec<f32>,
    is_learnt: bool,
    pub is_provisional: bool,
    /// Goods that the reference is of, and how many of its scores lie above the limit.
    goods: usize,
    above: usize,
    /// Slot of each part of the window, and whether it was rejected.
    latest: VecDeque<(u16, bool)>,
    /// Counts of all parts in each slot, and of those not rejected.
    all: Vec<u32>,
    kept: Vec<u32>,
    rejected: u32,
    even: f64,
    since_look: usize,
    higher: bool,
    pub ks: Latch,
    pub psi: Latch,
}

impl ScoreWatch {
    /// `known`: the calibration's scores in rising order, and of how many goods; none: learnt from the first `learn`
    /// parts that are not rejected.
    pub fn new(
        known: Option<(&[f32], usize)>,
        limit: f32,
        (window, learn): (usize, usize),
        levels: (f64, f64),
    ) -> Self {
        let mut watch = Self {
            limit,
            window,
            learn,
            levels,
            reference: Vec::with_capacity(learn),
            is_learnt: false,
            is_provisional: known.is_none(),
            goods: 0,
            above: 0,
            latest: VecDeque::with_capacity(window),
            all: Vec::new(),
            kept: Vec::new(),
            rejected: 0,
            even: 0.0,
            since_look: 0,
            higher: false,
            ks: Latch::default(),
            psi: Latch::default(),
        };
        if let Some((scores, goods)) = known {
            watch.compare_with(scores.to_vec(), goods);
        }
        watch
    }

    fn compare_with(&mut self, reference: Vec<f32>, goods: usize) {
        self.all = vec![0; reference.len() + 1];
        self.kept = self.all.clone();
        self.above = reference.len() - reference.partition_point(|score| *score <= self.limit);
        (self.goods, self.is_learnt, self.reference) = (goods, true, reference);
    }

    /// Counts from 0 again; the reference stays.
    pub fn clear(&mut self) {
        (self.ks, self.psi) = (Latch::default(), Latch::default());
        self.latest.clear();
        self.all.fill(0);
        self.kept.fill(0);
        (self.rejected, self.since_look) = (0, 0);
    }

    /// Takes the next part's score in. Gives back the new levels of KS and PSI where they change.
    pub fn take(&mut self, score: f32) -> (Option<DriftLevel>, Option<DriftLevel>) {
        if !score.is_finite() {
            return (None, None);
        }
        let rejected = score > self.limit;
        if !self.is_learnt {
            if !rejected {
                self.reference.push(score);
            }
            if self.reference.len() >= self.learn {
                let (learnt, goods) = (std::mem::take(&mut self.reference), self.learn);
                self.compare_with(quantiles(learnt), goods);
            }
            return (None, None);
        }
        if self.latest.len() >= self.window
            && let Some((slot, rejected)) = self.latest.pop_front()
        {
            self.count(slot, rejected, u32::wrapping_sub);
        }
        let slot = self.slot(score);
        self.latest.push_back((slot, rejected));
        self.count(slot, rejected, u32::wrapping_add);
        self.since_look += 1;
        if self.latest.len() < self.window || self.since_look < (self.window / LOOKS_A_WINDOW).max(1) {
            return (None, None);
        }
        self.since_look = 0;
        self.look()
    }

    fn count(&mut self, slot: u16, rejected: bool, step: fn(u32, u32) -> u32) {
        let slot = usize::from(slot);
        self.all[slot] = step(self.all[slot], 1);
        if rejected {
            self.rejected = step(self.rejected, 1);
        } else {
            self.kept[slot] = step(self.kept[slot], 1);
        }
    }

    /// The p-value's slot: as many as goods score higher; equal ones are shared evenly.
    fn slot(&mut self, score: f32) -> u16 {
        let lower = self.reference.partition_point(|s| *s < score);
        let not_higher = self.reference.partition_point(|s| *s <= score);
        let (higher, equal) = (self.reference.len() - not_higher, not_higher - lower);
        self.even = (self.even + EVEN_STEP).fract();
        (higher + (self.even * (equal + 1) as f64) as usize) as u16
    }

    fn look(&mut self) -> (Option<DriftLevel>, Option<DriftLevel>) {
        let window = self.latest.len() as u32;
        let kept = window - self.rejected;
        // Those kept are compared with the goods that would be.
        let (counts, parts) = match self.is_judged_by_all() {
            true => (&self.all[..], window),
            false => (&self.kept[self.above.min(self.kept.len() - 1)..], kept),
        };
        let goods = self.goods as f64 * counts.len() as f64 / self.all.len() as f64;
        let (warning, alarm) = self.levels;
        let mut changed = (None, None);
        if let Some((value, sign)) = ks(counts) {
            self.higher = sign > 0.0;
            let limit = |level| ks_limit(level, parts, goods);
            let reading = Reading { value, usual: 0.0, warning: limit(warning), alarm: limit(alarm) };
            changed.0 = self.ks.take(reading, LOOKS_A_WINDOW as u32);
        }
        if let (Some(value), Some(bins)) = (psi(counts), bins(counts.len())) {
            let limit = |level, convention: f64| convention.max(psi_limit(level, parts, goods, bins));
            let (warning, alarm) = (limit(warning, PSI_CONVENTION.0), limit(alarm, PSI_CONVENTION.1));
            let reading = Reading { value, usual: 0.0, warning, alarm };
            changed.1 = self.psi.take(reading, LOOKS_A_WINDOW as u32);
        }
        changed
    }

    fn is_judged_by_all(&self) -> bool {
        self.rejected as usize * 2 > self.latest.len()
    }

    /// In words, for people.
    pub fn words(&self) -> String {
        let say = |name: &str, latch: &Latch| match latch.reading {
            Some(Reading { value, warning, alarm, .. }) => {
                format!("{name} {value:.2} (warning over {warning:.2}, alarm over {alarm:.2})")
            }
            None => format!("{name}: too few goods"),
        };
        let which = match self.is_judged_by_all() {
            true => "",
            false => " that were not rejected",
        };
        let whose = match self.is_provisional {
            true => format!("those of the first {} parts (the card has no reference)", self.goods),
            false => format!("those of the calibration's {} goods", self.goods),
        };
        format!(
            "scores of the last {} parts{which} are {} than {whose}: {}; {}; {} of the {} were rejected",
            self.latest.len(),
            if self.higher { "higher" } else { "lower" },
            say("KS", &self.ks),
            say("PSI", &self.psi),
            self.rejected,
            self.latest.len()
        )
    }
}
