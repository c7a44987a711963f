//! Drift: whether pictures, scores and rejects of a station still are what its models were calibrated on.
//!
//! Terms. A *measure* is compared with what is *usual*: the reference on the model's card, or where an older card has
//! none the first parts, which is *provisional*. A *warning* or *alarm* says that it is farther off than chance and
//! usual scatter explain; it stands until the measure was in order for a whole window, or the PLC cleared the error.
//! Challenge parts and faults do not count.
//!
//! It is fed after a part's result was published, a few additions a part; pictures are measured on the scorer's thread
//! once the score is on its way. A changed model or recipe starts it anew. `deploy/manual/drift.md` says how often it
//! is wrong and how soon it is right.
//!
//! Never here: a threshold that moves, a verdict, anything that a part waits for.

pub mod config;
pub mod level;
mod pictures;
mod rejects;
mod scores;
mod statistics;

use std::sync::Arc;

use inspect_core::card::Card;
use inspect_core::reference::{PictureMeasures, Reference};
use inspect_core::verdict::Verdict;
use tokio::sync::oneshot;

pub use config::{DriftConfig, OnAlarm};
pub use level::{DriftLevel, DriftMeasure, DriftReading, DriftState, Reading};

use level::Latch;
use pictures::PictureWatch;
use rejects::RejectWatch;
use scores::{LOOKS_A_WINDOW, ScoreWatch};

/// Fewest goods on a card that a part can be compared with: of fewer, nothing but a gross change could be told.
pub const MIN_REFERENCE_GOODS: usize = 20;
/// Measures of each view: three of pictures, two of scores.
const MEASURES_A_VIEW: usize = 5;

/// What is taken of one look at a part.
#[derive(Debug)]
pub struct Seen<'a> {
    /// The view's name.
    pub view: &'a str,
    /// SHA-256 of the model file.
    pub model_sha256: &'a str,
    /// The model's card.
    pub card: &'a Arc<Card>,
    /// The score, and the limit above which it is rejected.
    pub score: (f32, f32),
    /// What the picture measures, once that is known.
    pub measured: Option<oneshot::Receiver<PictureMeasures>>,
}

/// A measure has another level than before.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The new one.
    pub level: DriftLevel,
    /// What is measured, for people.
    pub message: String,
}

/// The watch over one station.
#[derive(Debug)]
pub struct Drift {
    config: DriftConfig,
    views: Vec<ViewDrift>,
    rejects: Option<RejectWatch>,
}

#[derive(Debug)]
struct ViewDrift {
    name: String,
    model_sha256: String,
    scores: ScoreWatch,
    pictures: [PictureWatch; 3],
    /// Of the last part, where it is not known yet.
    pending: Option<oneshot::Receiver<PictureMeasures>>,
}

impl Drift {
    /// One that has seen nothing.
    pub fn new(config: DriftConfig) -> Self {
        Self { config, views: Vec::new(), rejects: None }
    }

    /// Forgets everything: another recipe is in service.
    pub fn restart(&mut self) {
        (self.views, self.rejects) = (Vec::new(), None);
    }

    /// Counts from 0 again, and is in order until a window is full; what is usual stays. Gives back whether anything
    /// had not been in order.
    pub fn clear(&mut self) -> bool {
        let level = self.level();
        for view in &mut self.views {
            view.scores.clear();
            view.pictures.iter_mut().for_each(PictureWatch::clear);
        }
        self.rejects.iter_mut().for_each(RejectWatch::clear);
        level != DriftLevel::Ok
    }

    /// Takes a part in that is no challenge: its `count` looks, as far as they have scores, and its verdict.
    pub fn take<'a>(
        &mut self,
        count: usize,
        looks: impl Iterator<Item = Seen<'a>>,
        verdict: Verdict,
        tell: &mut dyn FnMut(Change),
    ) {
        if !self.config.watch {
            return;
        }
        self.settle(tell);
        for seen in looks {
            let view = self.view(count, &seen);
            // The scorer measures a part before it takes the next: nothing that was pending is lost here.
            view.pending = seen.measured;
            view.take_score(seen.score.0, tell);
        }
        self.settle(tell);
        let rejected = match verdict {
            Verdict::Pass | Verdict::Review => false,
            Verdict::Reject => true,
            Verdict::Fault(_) => return,
        };
        let DriftConfig { usual_reject_rate, .. } = self.config;
        let per_watch = self.parts_a_watch(count);
        let watch = self.rejects.get_or_insert_with(|| RejectWatch::new(usual_reject_rate, per_watch));
        if let Some(level) = watch.take(rejected) {
            // Rejects alone may be true defects: whether the other parts have changed too tells.
            let scores = self.views.iter().map(|view| view.scores.ks.level).max().unwrap_or_default();
            let others = match scores {
                DriftLevel::Ok => "the other parts' scores are as before",
                _ => "the other parts' scores have changed too",
            };
            tell(Change { level, message: format!("{}; {others}", watch.words()) });
        }
    }

    /// Takes in what was not measured yet when its part was taken.
    pub fn settle(&mut self, tell: &mut dyn FnMut(Change)) {
        self.views.iter_mut().for_each(|view| view.settle(tell));
    }

    /// The worst level of all.
    pub fn level(&self) -> DriftLevel {
        self.latches().map(|(_, _, latch)| latch.level).max().unwrap_or_default()
    }

    /// As it is shown.
    pub fn state(&self) -> DriftState {
        let reading = |(measure, view, latch): (DriftMeasure, Option<&str>, Latch)| {
            let (view, level) = (view.map(str::to_owned), latch.level);
            latch.reading.map(|reading| DriftReading { measure, view, level, reading })
        };
        let is_provisional = |view: &ViewDrift| {
            view.scores.is_provisional || view.pictures.iter().any(|picture| picture.is_provisional)
        };
        DriftState {
            level: self.level(),
            provisional: self.views.iter().any(is_provisional),
            readings: self.latches().filter_map(reading).collect(),
        }
    }

    fn latches(&self) -> impl Iterator<Item = (DriftMeasure, Option<&str>, Latch)> {
        let of_view = |view: &'_ ViewDrift| {
            let pictures = view.pictures.each_ref().map(|picture| (picture.measure, picture.latch));
            let ViewDrift { scores: ScoreWatch { ks, psi, .. }, .. } = view;
            pictures.into_iter().chain([(DriftMeasure::ScoresKs, *ks), (DriftMeasure::ScoresPsi, *psi)])
        };
        let views = self.views.iter().flat_map(move |view| {
            of_view(view).map(|(measure, latch)| (measure, Some(view.name.as_str()), latch))
        });
        let rejects = self.rejects.iter().map(|watch| (DriftMeasure::RejectSurplus, None, watch.latch));
        views.chain(rejects)
    }

    /// Parts between two false warnings, and alarms, of one measure: all of the station share what it may have.
    fn parts_a_watch(&self, views: usize) -> (f64, f64) {
        let measures = (MEASURES_A_VIEW * views + 1) as f64;
        (self.config.false_warning_parts * measures, self.config.false_alarm_parts * measures)
    }

    /// The view's watch; where its model is another than before, or it is new, one that has seen nothing.
    fn view(&mut self, count: usize, seen: &Seen<'_>) -> &mut ViewDrift {
        let at = self.views.iter().position(|view| view.name == seen.view);
        if let Some(at) = at.filter(|at| self.views[*at].model_sha256 == seen.model_sha256) {
            return &mut self.views[at];
        }
        self.rejects = None; // what is usual was that of the model before
        let new = ViewDrift::new(seen, &self.config, self.parts_a_watch(count));
        let at = at.unwrap_or(self.views.len());
        if at < self.views.len() {
            self.views[at] = new;
        } else {
            self.views.push(new);
        }
        &mut self.views[at]
    }
}

impl ViewDrift {
    fn new(seen: &Seen<'_>, config: &DriftConfig, (warning, alarm): (f64, f64)) -> Self {
        let known: Option<&Reference> =
            seen.card.reference.as_ref().filter(|reference| reference.goods >= MIN_REFERENCE_GOODS);
        let learn = usize::from(config.reference_parts);
        let (window, pictures) = (usize::from(config.score_window), usize::from(config.picture_window));
        let parts_a_look = (window / LOOKS_A_WINDOW).max(1) as f64;
        let at_a_look = (parts_a_look / warning, parts_a_look / alarm);
        let picture = |measure, spread: fn(&Reference) -> inspect_core::reference::Spread| {
            let known = known.map(|reference| (spread(reference), reference.goods));
            PictureWatch::new(measure, known, (pictures, learn), (1.0 / warning, 1.0 / alarm))
        };
        Self {
            name: seen.view.to_owned(),
            model_sha256: seen.model_sha256.to_owned(),
            scores: ScoreWatch::new(
                known.map(|reference| (&reference.scores[..], reference.goods)),
                seen.score.1,
                (window, learn),
                at_a_look,
            ),
            pictures: [
                picture(DriftMeasure::Brightness, |r| r.brightness),
                picture(DriftMeasure::Sharpness, |r| r.sharpness),
                picture(DriftMeasure::Clipped, |r| r.clipped),
            ],
            pending: None,
        }
    }

    fn take_score(&mut self, score: f32, tell: &mut dyn FnMut(Change)) {
        let (ks, psi) = self.scores.take(score);
        // Both of the same change are one thing to be told.
        for level in [ks, psi.filter(|level| ks != Some(*level))].into_iter().flatten() {
            tell(Change { level, message: format!("view {}: {}", self.name, self.scores.words()) });
        }
    }

    fn settle(&mut self, tell: &mut dyn FnMut(Change)) {
        let Some(pending) = &mut self.pending else { return };
        match pending.try_recv() {
            Ok(measures) => self.take_measures(measures, tell),
            Err(oneshot::error::TryRecvError::Empty) => return,
            Err(oneshot::error::TryRecvError::Closed) => {}
        }
        self.pending = None;
    }

    fn take_measures(&mut self, measures: PictureMeasures, tell: &mut dyn FnMut(Change)) {
        let PictureMeasures { brightness, sharpness, clipped } = measures;
        for (picture, value) in self.pictures.iter_mut().zip([brightness, sharpness, clipped]) {
            if let Some(level) = picture.take(value) {
                tell(Change { level, message: format!("view {}: {}", self.name, picture.words()) });
            }
        }
    }
}

#[cfg(test)]
mod tests;
