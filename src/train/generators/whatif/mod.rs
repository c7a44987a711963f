//! What the product would look like if a process parameter were different: `inspect-train defects whatif`.
//!
//! A *question* names process parameters. One of them is *swept*: it takes some values one after the other, the
//! *steps*; the others are *fixed*. What is drawn at one step is a *tile*. The tiles of one *row* have the same good,
//! the same mask and the same noise, so that nothing but the swept parameter differs between them; another row has
//! others. All are of one class.
//!
//! Each step has a *basis*: learnt (pictures that were learnt from are near), none_near (inside of the range, but no
//! picture is near) or beyond (outside of the range that was learnt from, refused unless it is allowed). Only the
//! first is knowledge.
//!
//! [`plan`] decides all that and needs no network, [`draw`] asks the network, [`measures`] says in figures what
//! changed and whether there is a trend, [`write`] makes the files.
//!
//! Never here: a tile beyond what was learnt from that does not say so; the size of a defect as the parameter may
//! change it (the mask is held, so only what is inside of it can change); whether a generator is right.

pub mod draw;
pub mod measures;
pub mod write;

use std::collections::BTreeMap;

use serde::Serialize;

use super::conditions::{ConditionError, Wish};
use super::embed::MAX_Z;
use super::file::Header;
use super::near::{Nearness, Span};
use super::sample::SampleError;

/// Fewest and most steps: both ends, and what was asked for.
pub const STEPS: std::ops::RangeInclusive<i64> = 3..=24;
/// Most rows.
pub const MAX_ROWS: i64 = 16;
/// Digits of a step's value after the first digit of the swept range: what is shown can be asked for again.
const DIGITS: i32 = 3;
/// A parameter that varies by less than this share of its size is constant.
const LEAST_SPREAD: f64 = 1e-6;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum WhatIfError {
    /// Class, text or parameters.
    #[error(transparent)]
    Condition(#[from] ConditionError),
    /// Making pictures, or writing them.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// The generator knows no parameters.
    #[error(
        "this generator has no process parameters, so it cannot be asked what if one were different: no real defect that it learnt from had any (columns of numbers in manifest.csv)"
    )]
    NoParameters,
    /// Nothing was asked.
    #[error("no process parameter was asked for; this generator knows {known}")]
    NothingSet {
        /// All that there are, with their ranges.
        known: String,
    },
    /// One is there twice.
    #[error("`{name}` is set twice; one of them would be ignored")]
    Twice {
        /// The parameter.
        name: String,
    },
    /// Two ranges.
    #[error(
        "`{first}` and `{second}` both have a range, and a strip sweeps one parameter; give the other one value"
    )]
    TwoSwept {
        /// A parameter.
        first: String,
        /// Another one.
        second: String,
    },
    /// A range that is none.
    #[error(
        "{name}={low}..{high}: expected a range from the lower to the higher value, and more than a millionth of it apart"
    )]
    Range {
        /// The parameter.
        name: String,
        /// First value.
        low: f64,
        /// Second.
        high: f64,
    },
    /// The class was never seen with that parameter.
    #[error(
        "no picture of class `{class}` that was learnt from had a known `{name}`, so what it does to this class is a guess at every value; it was known of: {known}. Choose one of them (--class), or allow the guess by --extrapolate"
    )]
    NotOfClass {
        /// The parameter.
        name: String,
        /// The class.
        class: String,
        /// Classes that it was known of.
        known: String,
    },
    /// No class was seen with all of them.
    #[error(
        "no class that was learnt from had all of these parameters known, and `{swept}` in more than one value: {known}"
    )]
    NoClass {
        /// What is swept.
        swept: String,
        /// Each parameter and the classes that it was known of.
        known: String,
    },
    /// It never varied.
    #[error(
        "`{name}` was {value} in every picture of class `{class}` that was learnt from: there is nothing to sweep, since the generator never saw what it does"
    )]
    Constant {
        /// The parameter.
        name: String,
        /// Its value.
        value: f64,
        /// The class.
        class: String,
    },
    /// Beyond what was learnt from.
    #[error(
        "{name}={value} lies outside of {low} to {high}, the range of the pictures of class `{class}` that this generator learnt from: what it makes there is a guess. Stay inside, or allow the guess by --extrapolate"
    )]
    OutOfRange {
        /// The parameter.
        name: String,
        /// What was asked for.
        value: f64,
        /// Least value learnt from.
        low: f64,
        /// Largest.
        high: f64,
        /// The class.
        class: String,
    },
    /// So far beyond that the network is not even told.
    #[error(
        "{name}={value} is too far from what was learnt from: the generator takes all values below {low} and above {high} for these, so it cannot even guess. Stay between them"
    )]
    TooFar {
        /// The parameter.
        name: String,
        /// What was asked for.
        value: f64,
        /// Least value that makes a difference.
        low: f64,
        /// Largest.
        high: f64,
    },
    /// Nowhere to paint.
    #[error(
        "row {row}: no place for a defect of class `{class}` was found where --mask allows one; try another --seed or --class"
    )]
    NoPlace {
        /// Which row, from 1.
        row: usize,
        /// The class.
        class: String,
    },
}

/// What a parameter is set to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Setting {
    /// One value.
    Value(f64),
    /// Swept from the first to the second.
    Range(f64, f64),
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Parameters in the order in which they were named.
    pub set: Vec<(String, Setting)>,
    /// The class; `None`: that of which most pictures had these parameters.
    pub class: Option<String>,
    /// What the defect should show besides.
    pub text: Option<String>,
    /// Values of the swept parameter; see [`STEPS`].
    pub steps: usize,
    /// Goods, masks and noises, 1 to [`MAX_ROWS`].
    pub rows: usize,
    /// Whether values beyond what was learnt from are allowed.
    pub extrapolate: bool,
    /// Seed of everything random.
    pub seed: u64,
}

/// What the generator knows at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Pictures that were learnt from are near.
    Learnt,
    /// Inside of the ranges, but none is near: between two groups, or a combination that never was.
    NoneNear,
    /// A parameter lies outside of the range that was learnt from.
    Beyond,
}

impl std::fmt::Display for Basis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Basis::Learnt => "learnt",
            Basis::NoneNear => "none_near",
            Basis::Beyond => "beyond",
        })
    }
}

/// A value of the swept parameter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// The value.
    pub value: f64,
    /// Whether it is the one that was asked for, not one of those around it.
    pub asked: bool,
    /// What the generator knows of it.
    pub basis: Basis,
    /// Where it lies, with the fixed parameters, among the pictures that were learnt from.
    #[serde(flatten)]
    pub nearness: Nearness,
}

/// What will be drawn.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sweep {
    /// Of all tiles.
    pub class: String,
    /// Of all tiles.
    pub text: Option<String>,
    /// The swept parameter.
    pub parameter: String,
    /// Its values in the pictures of the class that were learnt from; of all classes where the class had none.
    pub learnt: Span,
    /// Its standard deviation in all pictures that were learnt from.
    pub deviation: f64,
    /// The others.
    pub fixed: BTreeMap<String, f64>,
    /// In order of value.
    #[serde(skip)]
    pub steps: Vec<Step>,
}

impl Sweep {
    /// What is asked of the generator at a value.
    pub fn wish(&self, value: f64) -> Wish {
        let mut process = self.fixed.clone();
        process.insert(self.parameter.clone(), value);
        Wish { class: Some(self.class.clone()), text: self.text.clone(), process }
    }
}

/// What is to be drawn for a question, and how well it is known.
///
/// Errors: [`WhatIfError`]: what was asked for is not known, or lies beyond what is.
pub fn plan(header: &Header, question: &Question) -> Result<Sweep, WhatIfError> {
    let (parameter, setting) = swept(header, question)?;
    let class = class_of(header, question, &parameter)?;
    let catalogue = &header.catalogue;
    let fixed: BTreeMap<String, f64> = question
        .set
        .iter()
        .filter_map(|(name, s)| Some((name.clone(), only(s)?)))
        .filter(|(n, _)| *n != parameter)
        .collect();
    for (name, value) in &fixed {
        check(header, question, &class, name, *value)?;
    }
    let spans = |name: &str| catalogue.span(name, &class);
    let learnt = spans(&parameter).or_else(|| Some(find(header, &parameter)?.span()));
    let unknown = || ConditionError::UnknownParameter { name: parameter.clone(), known: all(header) };
    let learnt = learnt.ok_or_else(unknown)?;
    if is_constant(learnt.low, learnt.high) {
        return Err(WhatIfError::Constant { name: parameter, value: learnt.low, class });
    }
    let (low, high, asked) = match setting {
        Setting::Range(low, high) => (low, high, None),
        Setting::Value(value) => {
            let (low, high) = inward(learnt);
            (low.min(value), high.max(value), Some(value))
        }
    };
    for value in asked.into_iter().chain([low, high]) {
        check(header, question, &class, &parameter, value)?;
    }
    let text = question.text.clone();
    let known = header.catalogue.parameters.iter().find(|p| p.name == parameter);
    let deviation = known.map_or(1.0, |p| p.deviation);
    let mut sweep = Sweep { class, text, parameter, learnt, deviation, fixed, steps: Vec::new() };
    sweep.steps = values(low, high, asked, question.steps)
        .into_iter()
        .map(|v| step(header, &sweep, v, asked))
        .collect();
    Ok(sweep)
}

/// The parameter to sweep: the one with a range, else the first.
fn swept(header: &Header, question: &Question) -> Result<(String, Setting), WhatIfError> {
    if header.catalogue.parameters.is_empty() {
        return Err(WhatIfError::NoParameters);
    }
    let first = question.set.first().ok_or_else(|| WhatIfError::NothingSet { known: all(header) })?;
    for (n, (name, setting)) in question.set.iter().enumerate() {
        if question.set[..n].iter().any(|(earlier, _)| earlier == name) {
            return Err(WhatIfError::Twice { name: name.clone() });
        }
        if find(header, name).is_none() {
            return Err(ConditionError::UnknownParameter { name: name.clone(), known: all(header) }.into());
        }
        let (low, high) = match *setting {
            Setting::Value(value) => (value, value),
            Setting::Range(low, high) => (low, high),
        };
        if let Some(value) = [low, high].into_iter().find(|v| !v.is_finite()) {
            return Err(ConditionError::NotFinite { name: name.clone(), value }.into());
        }
        if matches!(setting, Setting::Range(..)) && is_constant(low, high) {
            return Err(WhatIfError::Range { name: name.clone(), low, high });
        }
    }
    let mut ranges = question.set.iter().filter(|(_, s)| matches!(s, Setting::Range(..)));
    match (ranges.next(), ranges.next()) {
        (Some((a, _)), Some((b, _))) => Err(WhatIfError::TwoSwept { first: a.clone(), second: b.clone() }),
        (one, _) => Ok(one.unwrap_or(first).clone()),
    }
}

/// The class of all tiles: a strip of two classes would show their difference too.
fn class_of(header: &Header, question: &Question, swept: &str) -> Result<String, WhatIfError> {
    let catalogue = &header.catalogue;
    let names = || question.set.iter().map(|(name, _)| name);
    if let Some(class) = question.class.clone() {
        if let Some(&count) = header.pasted.get(&class) {
            return Err(SampleError::PastedAsIs { class, count }.into());
        }
        // Class and text are known, or the error says which are.
        catalogue.encode(
            &[Wish { class: Some(class.clone()), text: question.text.clone(), ..Wish::default() }],
            true,
        )?;
        return Ok(class);
    }
    let count = |class: &&String| {
        let spans = names().map(|name| catalogue.span(name, class)).collect::<Option<Vec<_>>>()?;
        let varies = catalogue.span(swept, class).is_some_and(|s| !is_constant(s.low, s.high));
        spans.iter().map(|s| s.count).min().filter(|_| varies)
    };
    let counted = header.learnt.iter().filter_map(|(class, n)| Some((count(&class)?.min(*n), class)));
    // Of equal ones the first by name.
    let most = counted.reduce(|a, b| if b.0 > a.0 { b } else { a });
    most.map(|(_, class)| class.clone()).ok_or_else(|| {
        let known = names().map(|name| format!("{name} of {}", classes_with(header, name)));
        WhatIfError::NoClass { swept: swept.to_owned(), known: known.collect::<Vec<_>>().join("; ") }
    })
}

/// Whether a value may be asked for.
fn check(
    header: &Header,
    question: &Question,
    class: &str,
    name: &str,
    value: f64,
) -> Result<(), WhatIfError> {
    let (class, name) = (class.to_owned(), name.to_owned());
    let Some(parameter) = find(header, &name) else {
        return Err(ConditionError::UnknownParameter { name, known: all(header) }.into());
    };
    let span = header.catalogue.span(&name, &class);
    if span.is_some_and(|s| s.contains(value)) {
        return Ok(());
    }
    if !question.extrapolate {
        return Err(match span {
            Some(Span { low, high, .. }) => WhatIfError::OutOfRange { name, value, low, high, class },
            None => WhatIfError::NotOfClass { known: classes_with(header, &name), name, class },
        });
    }
    let reach = [-MAX_Z, MAX_Z].map(|z| parameter.mean + z * parameter.deviation);
    let (low, high) = (reach[0].min(parameter.low), reach[1].max(parameter.high));
    if (low..=high).contains(&value) { Ok(()) } else { Err(WhatIfError::TooFar { name, value, low, high }) }
}

fn step(header: &Header, sweep: &Sweep, value: f64, asked: Option<f64>) -> Step {
    let wish = sweep.wish(value);
    let is_in = |(name, value): (&String, &f64)| {
        header.catalogue.span(name, &sweep.class).is_some_and(|s| s.contains(*value))
    };
    let nearness = header.catalogue.nearness(&wish);
    let basis = match (wish.process.iter().all(is_in), nearness.near) {
        (false, _) => Basis::Beyond,
        (true, 0) => Basis::NoneNear,
        (true, _) => Basis::Learnt,
    };
    Step { value, asked: asked == Some(value), basis, nearness }
}

/// `count` values from `low` to `high`, evenly but for the asked one, which takes the place of the nearest that is
/// no end. All but the ends and the asked one are round.
fn values(low: f64, high: f64, asked: Option<f64>, count: usize) -> Vec<f64> {
    let last = count.max(3) - 1;
    let share = |k: usize| k as f64 / last as f64;
    let even = |k: usize| low * (1.0 - share(k)) + high * share(k); // the difference may have no number
    let mut values: Vec<f64> =
        (0..=last).map(|k| rounded(even(k), (low, high), f64::round).clamp(low, high)).collect();
    (values[0], values[last]) = (low, high);
    if let Some(asked) = asked.filter(|a| low < *a && *a < high) {
        let off = |k: &usize| (even(*k) - asked).abs();
        let nearest = (1..last).min_by(|a, b| off(a).total_cmp(&off(b))).unwrap_or(1);
        values[nearest] = asked;
    }
    values
}

/// The ends of what was learnt from as round values that are still inside.
fn inward(learnt: Span) -> (f64, f64) {
    let range = (learnt.low, learnt.high);
    let (low, high) = (rounded(range.0, range, f64::ceil), rounded(range.1, range, f64::floor));
    // Rounding errors may put an end outside.
    (if learnt.contains(low) { low } else { range.0 }, if learnt.contains(high) { high } else { range.1 })
}

/// A value with [`DIGITS`] digits after the first one of the range.
fn rounded(value: f64, (low, high): (f64, f64), how: fn(f64) -> f64) -> f64 {
    let digits = DIGITS.saturating_sub((high - low).log10().floor() as i32);
    let unit = 10f64.powi(digits.saturating_abs());
    let round = if digits >= 0 { how(value * unit) / unit } else { how(value / unit) * unit };
    if round.is_finite() { round } else { value }
}

fn is_constant(low: f64, high: f64) -> bool {
    high - low <= LEAST_SPREAD * low.abs().max(high.abs())
}

fn only(setting: &Setting) -> Option<f64> {
    if let Setting::Value(value) = setting { Some(*value) } else { None }
}

fn find<'a>(header: &'a Header, name: &str) -> Option<&'a super::conditions::Parameter> {
    header.catalogue.parameters.iter().find(|p| p.name == name)
}

/// "feed 5 to 7, wear 0.2 to 1".
fn all(header: &Header) -> String {
    header.catalogue.parameters.iter().map(|p| p.range()).collect::<Vec<_>>().join(", ")
}

/// "burr, stain".
fn classes_with(header: &Header, name: &str) -> String {
    let known = header.learnt.keys().filter(|class| header.catalogue.span(name, class).is_some());
    let known: Vec<&str> = known.map(String::as_str).collect();
    if known.is_empty() { "no class".into() } else { known.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_even_round_and_hold_what_was_asked_for() {
        assert_eq!(values(1.0, 1.4, None, 7), [1.0, 1.0667, 1.1333, 1.2, 1.2667, 1.3333, 1.4]);
        assert_eq!(values(0.0, 3000.0, Some(1234.5), 4), [0.0, 1234.5, 2000.0, 3000.0]);
        assert_eq!(values(0.0, 1.0, Some(0.01), 5), [0.0, 0.01, 0.5, 0.75, 1.0], "the ends stay");
        assert_eq!(values(0.0, 1.0, Some(1.0), 3), [0.0, 0.5, 1.0]);
        assert_eq!(values(-2e9, 1e9, None, 4), [-2e9, -1e9, 0.0, 1e9]);
        for (low, high) in [(1e-300, 2e-300), (-1e308, 1e308), (1.0, 1.0 + 2e-6)] {
            let values = values(low, high, None, 24);
            assert!(values.is_sorted() && values.iter().all(|v| (low..=high).contains(v)), "{values:?}");
        }
    }

    #[test]
    fn the_ends_of_what_was_learnt_are_rounded_to_the_inside() {
        let of = |low, high| inward(Span { low, high, count: 9 });
        assert_eq!(of(0.001_084_864, 0.999_309_2), (0.0011, 0.9993));
        assert_eq!(of(20.095_308, 219.9896), (20.1, 219.9));
        assert_eq!(of(0.1 + 0.2, 0.7), (0.3001, 0.7), "0.3 would lie outside");
        assert_eq!(of(1.0, 1.0 + 1e-15).0, 1.0);
    }
}
