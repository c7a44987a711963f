//! Whether pictures still look as those of the calibration: the mean of a measure over the latest, against the goods'.
//!
//! The limit is so many *usual deviations* (part to part) of the goods, and never less than chance alone brings the
//! mean of so few to. It is not divided by the root of their number: light wanders through the day, so that the
//! pictures of one hour are alike, and their mean scatters as much as single pictures of the calibration do. A
//! deviation that is nearly 0, as of parts of one lot, counts as the floor of its measure, below which no change matters.
//!
//! Never here: pixels ([`inspect_core::reference`]).

use std::collections::VecDeque;

use inspect_core::reference::Spread;

use super::level::{DriftLevel, DriftMeasure, Latch, Reading};
use super::statistics::normal_quantile;

/// A mean this many usual deviations off is a warning.
const WARNING_DEVIATIONS: f64 = 2.0;
/// A mean this many usual deviations off is an alarm.
const ALARM_DEVIATIONS: f64 = 3.0;
/// Least deviation of brightness and sharpness, as a share of the mean.
const FLOOR_SHARE: f64 = 0.02;
/// Least deviation of brightness, levels.
const FLOOR_LEVELS: f64 = 0.5;
/// Least deviation of the clipped share.
const FLOOR_CLIPPED: f64 = 0.005;

/// Watches one measure of one view's pictures.
#[derive(Debug)]
pub(super) struct PictureWatch {
    pub measure: DriftMeasure,
    usual: Option<Usual>,
    /// Of the latest pictures; while `usual` is learnt, of those that it is learnt from.
    latest: VecDeque<f64>,
    window: usize,
    learn: usize,
    /// Probability of a false warning, and alarm, at one picture.
    levels: (f64, f64),
    pub is_provisional: bool,
    pub latch: Latch,
}

#[derive(Debug, Clone, Copy)]
struct Usual {
    mean: f64,
    warning: f64,
    alarm: f64,
}

impl PictureWatch {
    /// `known`: the calibration's spread and how many goods it is of; none: learnt from the first `learn` pictures.
    pub fn new(
        measure: DriftMeasure,
        known: Option<(Spread, usize)>,
        (window, learn): (usize, usize),
        levels: (f64, f64),
    ) -> Self {
        let mut watch = Self {
            measure,
            usual: None,
            latest: VecDeque::with_capacity(window.max(learn)),
            window,
            learn,
            levels,
            is_provisional: known.is_none(),
            latch: Latch::default(),
        };
        watch.usual = known.map(|(spread, goods)| watch.usual_of(spread, goods));
        watch
    }

    fn usual_of(&self, spread: Spread, goods: usize) -> Usual {
        let floor = match self.measure {
            DriftMeasure::Clipped => FLOOR_CLIPPED,
            DriftMeasure::Brightness => (FLOOR_SHARE * spread.mean).max(FLOOR_LEVELS),
            _ => FLOOR_SHARE * spread.mean,
        };
        let deviation = spread.deviation.max(floor);
        let of_mean = (1.0 / self.window as f64 + 1.0 / goods.max(1) as f64).sqrt();
        let limit = |least: f64, level: f64| deviation * least.max(normal_quantile(level / 2.0) * of_mean);
        let warning = limit(WARNING_DEVIATIONS, self.levels.0);
        let alarm = limit(ALARM_DEVIATIONS, self.levels.1);
        Usual { mean: spread.mean, warning, alarm }
    }

    /// Counts from 0 again; what is usual stays.
    pub fn clear(&mut self) {
        self.latch = Latch::default();
        if self.usual.is_some() {
            self.latest.clear();
        }
    }

    /// Takes the next picture in. Gives back the level where it changes.
    pub fn take(&mut self, value: f64) -> Option<DriftLevel> {
        if !value.is_finite() {
            return None;
        }
        let Some(usual) = self.usual else {
            self.latest.push_back(value);
            if self.latest.len() >= self.learn {
                let spread = Spread::of(self.latest.iter().copied()).unwrap_or_default();
                self.usual = Some(self.usual_of(spread, self.learn));
                self.latest.clear();
            }
            return None;
        };
        if self.latest.len() >= self.window {
            self.latest.pop_front();
        }
        self.latest.push_back(value);
        if self.latest.len() < self.window {
            return None;
        }
        let value = self.latest.iter().sum::<f64>() / self.window as f64;
        let Usual { mean, warning, alarm } = usual;
        self.latch.take(Reading { value, usual: mean, warning, alarm }, self.window as u32)
    }

    /// In words, for people.
    pub fn words(&self) -> String {
        let Some(Reading { value, usual, warning, alarm }) = self.latch.reading else { return String::new() };
        let (scale, unit) = match self.measure {
            DriftMeasure::Clipped => (100.0, " %"),
            _ => (1.0, ""),
        };
        let digits = if self.measure == DriftMeasure::Sharpness { 4 } else { 1 };
        let say = |value: f64| format!("{:.digits$}{unit}", value * scale);
        let percent = match self.measure {
            DriftMeasure::Clipped => String::new(),
            _ => format!(" ({:+.1} %)", 100.0 * (value / usual - 1.0)),
        };
        format!(
            "{} of the last {} pictures is {}{percent}, usual {} (warning beyond ±{}, alarm beyond ±{})",
            self.measure.words(),
            self.window,
            say(value),
            say(usual),
            say(warning),
            say(alarm)
        )
    }
}
