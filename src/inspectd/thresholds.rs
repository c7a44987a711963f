//! Thresholds that a view sets in place of its model's own: tighter ones, or unproven ones by a word of their own.
//!
//! Never here: where the card's come from.

use inspect_core::card::{Card, Thresholds};
use serde::{Deserialize, Serialize};

use crate::record::ThresholdSource;

/// Thresholds in the model's unit that take the place of the card's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ThresholdConfig {
    /// In place of the card's review threshold.
    pub review: Option<f32>,
    /// In place of the card's reject threshold.
    pub reject: Option<f32>,
    /// Allows looser thresholds than the card's, which nothing proves.
    pub unproven: bool,
}

/// What a station of `views` views should know of a card that has no limits for so many: in words, if it has none.
pub fn without_share(card: &Card, views: usize) -> Option<String> {
    if card.limits(views).is_some() {
        return None;
    }
    let (each, all) = (card.calibration.alpha * 100.0, card.calibration.alpha * 100.0 * views as f64);
    Some(format!(
        "its card has no limits for one of {views} views: each view rejects up to {each:.1} % of good parts, all together up to {all:.1} %; `inspect-train calibrate` gives it such limits"
    ))
}

impl ThresholdConfig {
    /// What is wrong with them under any card, in words.
    pub fn check(&self) -> Option<String> {
        let own = [self.review, self.reject].into_iter().flatten();
        let sound = own.clone().all(f32::is_finite)
            && self.reject.is_none_or(|reject| reject > 0.0)
            && self.review.zip(self.reject).is_none_or(|(review, reject)| review <= reject);
        (!sound).then(|| {
            format!("finite numbers, 0 < reject and review <= reject, got {:?}", own.collect::<Vec<_>>())
        })
    }

    /// The thresholds that apply to one of `views` views of a part under a card, and where they come from. The
    /// card's own are those for so many views, or for one where it has none: lower ones.
    ///
    /// Errors: what is wrong, in words, if they are not sound, or looser than the card's without
    /// `unproven = true`.
    pub fn under(&self, card: &Card, views: usize) -> Result<(Thresholds, ThresholdSource), String> {
        let (of_card, source) = match card.limits(views) {
            Some(limits) if views > 1 => (limits.thresholds, ThresholdSource::CardShare),
            _ => (card.thresholds, ThresholdSource::Card),
        };
        let own = Thresholds {
            review: self.review.unwrap_or(of_card.review.min(self.reject.unwrap_or(f32::MAX))),
            reject: self.reject.unwrap_or(of_card.reject),
        };
        if !own.are_sound() || own.reject <= 0.0 {
            return Err(format!("expected finite numbers, 0 < reject and review <= reject, got {own:?}"));
        }
        if own == of_card {
            Ok((own, source))
        } else if own.review <= of_card.review && own.reject <= of_card.reject {
            Ok((own, ThresholdSource::Tightened))
        } else if self.unproven {
            Ok((own, ThresholdSource::Unproven))
        } else {
            Err(format!("expected at most the card's {:?}, or `unproven = true`, got {own:?}", of_card))
        }
    }
}
