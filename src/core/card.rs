//! The card: what a model file says of itself, kept as JSON in the ONNX metadata under [`CARD_KEY`].
//!
//! Thresholds live here and nowhere else, so that a model and its limits cannot part company.
//! *Golden images* are inputs stored with the scores that the training framework gave them; a daemon
//! that cannot reproduce them does not inspect.
//!
//! Never here: reading files ([`crate::model`]), running the model ([`crate::scorer`]).

use std::collections::BTreeMap;

use base64::Engine as _;
use serde::{Deserialize, Serialize};

use crate::image::{Image, ImageError, Roi};
use crate::reference::Reference;

/// The metadata key that holds the card.
pub const CARD_KEY: &str = "inspectd.card";
/// The newest card schema that this program reads and the one that it writes.
pub const SCHEMA: u32 = 1;
/// Most golden images on a card.
pub const MAX_GOLDEN: usize = 8;
/// Most bytes of PNG in all golden images together.
pub const MAX_GOLDEN_BYTES: usize = 1 << 20;
/// Largest card: the golden images as base64, and the rest of it.
pub const MAX_CARD_BYTES: usize = 2 * MAX_GOLDEN_BYTES;
/// Most views of one part.
pub const MAX_VIEWS: usize = 8;
/// Longest side of a model's input, pixels.
pub const MAX_INPUT_SIDE_PX: u32 = 4096;

/// Why a card is refused. The caller puts the model file's name before it.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// Too large to be a card.
    #[error("card: expected at most {MAX_CARD_BYTES} bytes, got {got}")]
    TooLarge {
        /// Its size.
        got: usize,
    },
    /// Not the JSON of a card.
    #[error("card field `{field}`: {reason}")]
    Json {
        /// Path of the field, `.` for the whole.
        field: String,
        /// What the parser said.
        reason: String,
    },
    /// Written by a newer trainer.
    #[error(
        "card field `schema`: expected at most {SCHEMA}, got {got}; update inspectd or fit the model again"
    )]
    NewerSchema {
        /// The card's schema.
        got: u64,
    },
    /// A value that cannot be right.
    #[error("card field `{field}`: expected {expected}, got {got}")]
    Value {
        /// Path of the field.
        field: String,
        /// What would be right.
        expected: String,
        /// What is there.
        got: String,
    },
    /// A golden image cannot be read.
    #[error("card field `{field}`: {source}")]
    Golden {
        /// Path of the field.
        field: String,
        /// What is wrong with the picture.
        source: ImageError,
    },
}

/// What a model file says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// Version of this structure, see [`SCHEMA`].
    pub schema: u32,
    /// The model's name, for people.
    pub name: String,
    /// When it was fitted, UTC.
    pub created: jiff::Timestamp,
    /// What the model takes.
    pub input: Input,
    /// How a frame becomes that input.
    pub preprocessing: Preprocessing,
    /// The two limits.
    pub thresholds: Thresholds,
    /// How the limits were got.
    pub calibration: Calibration,
    /// Inputs with the scores that the training framework gave them.
    pub golden: Vec<Golden>,
    /// Where the model came from.
    pub training: Training,
    /// The held-out goods themselves, to tell later whether parts are still like them. None on older cards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
}

/// Shape of the model's input `u8 [N, height, width, channels]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// 1 (grey) or 3 (RGB).
    pub channels: u8,
}

impl Input {
    /// Bytes of one input.
    pub fn bytes(&self) -> usize {
        self.width as usize * self.height as usize * usize::from(self.channels)
    }
}

/// How a frame becomes the model's input. All else (normalisation, statistics, fusion) is in the graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preprocessing {
    /// Region of interest that the training pictures were cut to; a view's own `roi` takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roi: Option<Roi>,
    /// How it is resized.
    pub resize: Resize,
}

/// Resizing methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// Mean over the covered area; bilinear where a side grows. See [`crate::resize`].
    Area,
}

/// The two limits of a score, in the model's own unit. Sound ones are finite and `review <= reject`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Thresholds {
    /// At or below: pass.
    pub review: f32,
    /// At or below: review. Above: reject.
    pub reject: f32,
}

impl Thresholds {
    /// Both finite and in order. What is not sound never lets a part pass.
    pub fn are_sound(&self) -> bool {
        self.review.is_finite() && self.reject.is_finite() && self.review <= self.reject
    }
}

/// How the thresholds were got.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// How the reject threshold was computed.
    pub method: Method,
    /// Held-out good parts that it was computed from.
    pub goods: usize,
    /// Groups (lots, shifts, sessions) among them; equal to `goods` where no grouping was given.
    pub groups: usize,
    /// False-reject budget of the reject threshold, 0 to 1.
    pub alpha: f64,
    /// False-reject budget of the review threshold, 0 to 1, at least `alpha`.
    pub review_alpha: f64,
    /// Too few goods or groups for the budget: a bound that assumes a distribution, no rate is proven.
    pub provisional: bool,
    /// What may be claimed, in one sentence for people.
    pub claim: String,
    /// Limits for a model that looks at a part beside others, see [`Card::limits`]. Empty: there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<Limits>,
}

/// Thresholds and whether they are proven.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// They.
    pub thresholds: Thresholds,
    /// Too few goods or groups for their budget.
    pub provisional: bool,
}

/// Threshold methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The ceil((n+1)(1-alpha))-th smallest score of n held-out goods (split conformal prediction); where
    /// they come in groups, the same quantile with each group counting as one.
    Conformal,
    /// Mean + t standard deviations of the log score: right on average for normal log scores.
    Prediction,
    /// Mean + k standard deviations of the log score: a 99 % / 95 % normal tolerance bound; no longer
    /// written, models that have it are still read.
    Tolerance,
}

/// One input with the score that the training framework gave it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Golden {
    /// What it shows ("good 3", "made scratch").
    pub name: String,
    /// The input as a PNG, base64. Shape: the model's input.
    pub png_base64: String,
    /// Its score.
    pub score: f32,
}

impl Golden {
    /// Stores an input with its score.
    ///
    /// Errors: those of [`Image::encode_png`].
    pub fn new(name: impl Into<String>, image: &Image, score: f32) -> Result<Self, ImageError> {
        let png = image.encode_png()?;
        Ok(Self {
            name: name.into(),
            png_base64: base64::engine::general_purpose::STANDARD.encode(png),
            score,
        })
    }

    /// The input. Errors: not base64, not a PNG.
    pub fn image(&self) -> Result<Image, ImageError> {
        let origin = std::path::Path::new(&self.name);
        let png = base64::engine::general_purpose::STANDARD
            .decode(&self.png_base64)
            .map_err(|e| ImageError::Decode { path: origin.to_owned(), reason: e.to_string() })?;
        Image::decode(&png, origin)
    }
}

/// Where a model came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Version of `inspect-train`.
    pub trainer_version: String,
    /// SHA-256 over the sorted SHA-256s of the training pictures' files; hex.
    pub data_sha256: String,
    /// Good pictures that the weights were fitted on.
    pub goods: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Optimiser steps taken.
    pub steps: u64,
    /// Everything else that was set ("variant", "symmetry", …).
    pub settings: BTreeMap<String, String>,
}

impl Card {
    /// Parses and checks a card.
    ///
    /// Errors: [`CardError`], with the path of the field.
    pub fn from_json(json: &str) -> Result<Self, CardError> {
        let whole = |e: serde_json::Error| CardError::Json { field: ".".into(), reason: e.to_string() };
        if json.len() > MAX_CARD_BYTES {
            return Err(CardError::TooLarge { got: json.len() });
        }
        let value: serde_json::Value = serde_json::from_str(json).map_err(whole)?;
        let schema = value.get("schema").and_then(serde_json::Value::as_u64).ok_or_else(|| {
            CardError::Json { field: "schema".into(), reason: "expected a whole number".into() }
        })?;
        // A newer schema is told apart before its unknown fields can confuse the parser.
        if schema > u64::from(SCHEMA) {
            return Err(CardError::NewerSchema { got: schema });
        }
        let card: Card = serde_path_to_error::deserialize(value).map_err(|e| CardError::Json {
            field: e.path().to_string(),
            reason: e.into_inner().to_string(),
        })?;
        card.check()?;
        Ok(card)
    }

    /// The card as JSON, checked first so that no unreadable card is ever written.
    ///
    /// Errors: [`CardError`].
    pub fn to_json(&self) -> Result<String, CardError> {
        self.check()?;
        serde_json::to_string(self).map_err(|e| CardError::Json { field: ".".into(), reason: e.to_string() })
    }

    /// The limits where the part is judged by `views` views. A good part must pass all of them, so each has
    /// `alpha / views` of the budget: then at most `alpha` of good parts are rejected, whatever the views have in
    /// common (Bonferroni). `None` if the card has no limits for so many: its thresholds are lower, and reject up to
    /// `alpha` for each view.
    pub fn limits(&self, views: usize) -> Option<Limits> {
        match views {
            0 => None,
            1 => Some(Limits { thresholds: self.thresholds, provisional: self.calibration.provisional }),
            views => self.calibration.shares.get(views - 2).copied(),
        }
    }

    fn check(&self) -> Result<(), CardError> {
        let value = |field: &str, expected: &str, got: String| {
            Err(CardError::Value { field: field.into(), expected: expected.into(), got })
        };
        let Input { width, height, channels } = self.input;
        let sides = 1..=MAX_INPUT_SIDE_PX;
        if self.schema == 0 {
            return value("schema", "1 or more", "0".into());
        }
        if !sides.contains(&width) || !sides.contains(&height) || !matches!(channels, 1 | 3) {
            let expected = "sides of 1 to 4096 pixels, channels 1 or 3";
            return value("input", expected, format!("{width}x{height}x{channels}"));
        }
        if !self.thresholds.are_sound() {
            let expected = "finite numbers, review at most reject";
            return value("thresholds", expected, format!("{:?}", self.thresholds));
        }
        if self.thresholds.reject <= 0.0 {
            // People see scores divided by it. It is finite, or the check before had failed.
            return value("thresholds.reject", "more than 0", self.thresholds.reject.to_string());
        }
        self.check_shares()?;
        if self.golden.is_empty() || self.golden.len() > MAX_GOLDEN {
            let expected = format!("1 to {MAX_GOLDEN} golden images");
            return value("golden", &expected, self.golden.len().to_string());
        }
        let bytes: usize = self.golden.iter().map(|g| g.png_base64.len() / 4 * 3).sum();
        if bytes > MAX_GOLDEN_BYTES {
            return value("golden", "at most 1 MiB of PNG", format!("{bytes} bytes"));
        }
        for (i, golden) in self.golden.iter().enumerate() {
            self.check_golden(i, golden)?;
        }
        match self.reference.as_ref().and_then(Reference::wrong) {
            Some((field, expected)) => value(field, &expected, "something else".into()),
            None => Ok(()),
        }
    }

    /// A smaller budget never has a lower limit.
    fn check_shares(&self) -> Result<(), CardError> {
        let shares = &self.calibration.shares;
        let mut least = self.thresholds;
        for (i, share) in shares.iter().enumerate() {
            let Limits { thresholds, .. } = *share;
            let rises = thresholds.review >= least.review && thresholds.reject >= least.reject;
            if !thresholds.are_sound() || !rises || i + 2 > MAX_VIEWS {
                return Err(CardError::Value {
                    field: format!("calibration.shares[{i}]"),
                    expected: format!("finite numbers, at least {least:?}, for at most {MAX_VIEWS} views"),
                    got: format!("{thresholds:?}"),
                });
            }
            least = thresholds;
        }
        Ok(())
    }

    fn check_golden(&self, i: usize, golden: &Golden) -> Result<(), CardError> {
        let image =
            golden.image().map_err(|source| CardError::Golden { field: format!("golden[{i}]"), source })?;
        let got = Input { width: image.width(), height: image.height(), channels: image.channels() };
        if got != self.input {
            return Err(CardError::Value {
                field: format!("golden[{i}].png_base64"),
                expected: format!("the input's shape {:?}", self.input),
                got: format!("{got:?}"),
            });
        }
        if !golden.score.is_finite() {
            return Err(CardError::Value {
                field: format!("golden[{i}].score"),
                expected: "a finite number".into(),
                got: golden.score.to_string(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const INPUT: Input = Input { width: 8, height: 4, channels: 1 };

    pub(crate) fn card() -> Card {
        let image = Image::new(8, 4, 1, vec![9; 32]).unwrap();
        Card {
            schema: SCHEMA,
            name: "test".into(),
            created: "2026-01-02T03:04:05Z".parse().unwrap(),
            input: INPUT,
            preprocessing: Preprocessing { roi: None, resize: Resize::Area },
            thresholds: Thresholds { review: 1.0, reject: 2.0 },
            calibration: Calibration {
                method: Method::Conformal,
                goods: 100,
                groups: 100,
                alpha: 0.05,
                review_alpha: 0.05,
                provisional: false,
                claim: "At most 5 % of good parts are rejected.".into(),
                shares: vec![Limits {
                    thresholds: Thresholds { review: 1.5, reject: 3.0 },
                    provisional: true,
                }],
            },
            golden: vec![Golden::new("good", &image, 0.5).unwrap()],
            training: Training {
                trainer_version: "0".into(),
                data_sha256: "00".into(),
                goods: 1,
                seed: 0,
                steps: 1,
                settings: BTreeMap::new(),
            },
            reference: Reference::of([(0.5, &[9; 32][..]), (0.75, &[11; 32][..])], INPUT),
        }
    }

    #[test]
    fn a_card_survives_its_json() {
        let card = card();
        assert!(card.reference.is_some());
        assert_eq!(Card::from_json(&card.to_json().unwrap()).unwrap(), card);
        let mut older: serde_json::Value = serde_json::from_str(&card.to_json().unwrap()).unwrap();
        older.as_object_mut().unwrap().remove("reference");
        assert_eq!(Card::from_json(&older.to_string()).unwrap().reference, None);
    }

    #[test]
    fn refusals_name_the_field() {
        let json: serde_json::Value = serde_json::from_str(&card().to_json().unwrap()).unwrap();
        let cases: [(&str, serde_json::Value, &str); 10] = [
            ("/schema", 2.into(), "`schema`"),
            ("/input/channels", 4.into(), "`input`"),
            ("/thresholds/reject", serde_json::Value::Null, "`thresholds.reject`"),
            ("/thresholds/reject", 0.5.into(), "`thresholds`"),
            ("/calibration/shares/0/thresholds/reject", 1.9.into(), "`calibration.shares[0]`"),
            ("/golden/0/png_base64", "!".into(), "`golden[0]`"),
            ("/golden/0/score", serde_json::Value::Null, "`golden[0].score`"),
            ("/golden", serde_json::json!([]), "`golden`"),
            ("/reference/scores", serde_json::json!([2.0, 1.0]), "`reference.scores`"),
            ("/reference/clipped/deviation", (-1.0).into(), "`reference.clipped`"),
        ];
        for (at, value, field) in cases {
            let mut bad = json.clone();
            *bad.pointer_mut(at).unwrap() = value;
            let error = Card::from_json(&bad.to_string()).unwrap_err().to_string();
            assert!(error.contains(field), "{at}: {error}");
        }
    }

    #[test]
    fn what_is_too_large_for_a_card_is_not_parsed() {
        let error = Card::from_json(&" ".repeat(MAX_CARD_BYTES + 1)).unwrap_err();
        assert!(matches!(error, CardError::TooLarge { .. }));
    }

    #[test]
    fn thresholds_that_would_pass_everything_are_refused() {
        for reject in [f32::INFINITY, f32::NAN, f32::NEG_INFINITY] {
            let mut alone = card();
            alone.thresholds.reject = reject;
            let mut beside = card();
            beside.calibration.shares[0].thresholds.reject = reject;
            assert!(alone.to_json().is_err() && beside.to_json().is_err(), "{reject}");
        }
    }

    #[test]
    fn each_number_of_views_has_limits_of_its_own() {
        let card = card();
        let reject = |views| card.limits(views).map(|l| (l.thresholds.reject, l.provisional));
        let expected = [None, Some((2.0, false)), Some((3.0, true)), None];
        assert_eq!([reject(0), reject(1), reject(2), reject(3)], expected);
    }
}
