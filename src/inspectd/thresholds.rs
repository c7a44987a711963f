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

impl ThresholdConfig {
    /// The thresholds that apply under a card, and where they come from.
    ///
    /// Errors: what is wrong, in words, if they are not sound, or looser than the card's without
    /// `unproven = true`.
    pub fn under(&self, card: &Card) -> Result<(Thresholds, ThresholdSource), String> {
        let own = Thresholds {
            review: self.review.unwrap_or(card.thresholds.review.min(self.reject.unwrap_or(f32::MAX))),
            reject: self.reject.unwrap_or(card.thresholds.reject),
        };
        if !own.are_sound() || own.reject <= 0.0 {
            return Err(format!("expected finite numbers, 0 < reject and review <= reject, got {own:?}"));
        }
        if own == card.thresholds {
            Ok((own, ThresholdSource::Card))
        } else if own.review <= card.thresholds.review && own.reject <= card.thresholds.reject {
            Ok((own, ThresholdSource::Tightened))
        } else if self.unproven {
            Ok((own, ThresholdSource::Unproven))
        } else {
            Err(format!(
                "expected at most the card's {:?}, or `unproven = true`, got {own:?}",
                card.thresholds
            ))
        }
    }
}
