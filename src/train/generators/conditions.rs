//! What a generator can be told, and what it is told.
//!
//! A *catalogue* is learnt with the generator and kept in its file: the classes, the words of the captions, and of
//! each process parameter its mean, deviation and range. A *wish* is what is asked of one picture, in words and
//! numbers. [`Catalogue::encode`] makes *conditions* of wishes, and refuses what the generator never saw: an unknown
//! class or word is told with the nearest known ones, a value beyond the range that was learnt from is an error
//! unless the caller says otherwise.
//!
//! The vocabulary is closed: no generator here knows a word that was in no caption.
//!
//! Never here: networks, pictures, files.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::near::Span;

/// Most words of a caption.
pub const MAX_CAPTION_WORDS: usize = 24;
/// Most words that are known.
pub const MAX_VOCABULARY: usize = 1000;
/// Most process parameters.
pub const MAX_PARAMETERS: usize = 64;
/// Most classes.
pub const MAX_CLASSES: usize = 256;
/// Known words that an error names.
const NAMED: usize = 4;
/// A parameter that varies by less than this share of its size is taken to be constant.
const LEAST_SPREAD: f64 = 1e-6;

/// Why something cannot be a condition.
#[derive(Debug, thiserror::Error)]
pub enum ConditionError {
    /// A class that was never seen.
    #[error("class `{class}` is not known to this generator; known are: {known}")]
    UnknownClass {
        /// What was asked for.
        class: String,
        /// All that there are.
        known: String,
    },
    /// A word that was in no caption.
    #[error(
        "the word `{word}` was in no caption that this generator learnt from, so it means nothing to it; {nearest}"
    )]
    UnknownWord {
        /// The word.
        word: String,
        /// Those that look most like it.
        nearest: String,
    },
    /// Text for a generator without captions.
    #[error(
        "text cannot be told to this generator: none of the pictures that it learnt from had a caption (column `caption` of manifest.csv)"
    )]
    NoText,
    /// Too many words.
    #[error("the text has {got} words, expected 1 to {MAX_CAPTION_WORDS}: `{text}`")]
    TextLength {
        /// Words.
        got: usize,
        /// The text.
        text: String,
    },
    /// A parameter that was never seen.
    #[error("process parameter `{name}` is not known to this generator; known are: {known}")]
    UnknownParameter {
        /// What was asked for.
        name: String,
        /// All that there are, with their ranges.
        known: String,
    },
    /// Beyond what was learnt from.
    #[error(
        "{name}={value} lies outside of {low} to {high}, the range that this generator learnt from: what it makes there is a guess. Stay inside, or allow the guess by --extrapolate"
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
    },
    /// No number.
    #[error("{name}={value}: expected a finite number")]
    NotFinite {
        /// The parameter.
        name: String,
        /// What was asked for.
        value: f64,
    },
    /// Too much to know.
    #[error("{got} {what}, expected at most {most}; {advice}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many.
        got: usize,
        /// Most.
        most: usize,
        /// What to do.
        advice: &'static str,
    },
}

/// How many conditions there are: what a network needs to know to be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionShape {
    /// Classes; their numbers are 1 to this, 0 is "missing".
    pub classes: i64,
    /// Words; their numbers are 1 to this, 0 is "no word".
    pub words: i64,
    /// L: most words of a text; 0 where there are no words.
    pub text: i64,
    /// P: process parameters.
    pub parameters: i64,
}

/// Conditions of N pictures as tensors.
#[derive(Debug)]
pub struct Conditions {
    /// 0 = missing, classes from 1. Shape: `[N]`, i64.
    pub class: Tensor,
    /// Words in their order, then 0; all 0 = missing. Shape: `[N, L]`, i64.
    pub words: Tensor,
    /// Deviations from the mean; 0 where missing. Shape: `[N, P]`, f32.
    pub process: Tensor,
    /// 1 where `process` is known, else 0. Shape: `[N, P]`, f32.
    pub known: Tensor,
}

impl Conditions {
    /// All missing. Shape: N = `n`.
    pub fn none(n: i64, shape: &ConditionShape, device: Device) -> Self {
        let zeros = |size: &[i64], kind| Tensor::zeros(size, (kind, device));
        Self {
            class: zeros(&[n], Kind::Int64),
            words: zeros(&[n, shape.text], Kind::Int64),
            process: zeros(&[n, shape.parameters], Kind::Float),
            known: zeros(&[n, shape.parameters], Kind::Float),
        }
    }

    /// N.
    pub fn len(&self) -> i64 {
        self.class.size()[0]
    }

    /// Whether N is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same elsewhere.
    pub fn to_device(&self, device: Device) -> Self {
        self.each(|t| t.to_device(device))
    }

    /// Those of the pictures `index`. Shape: `index` `[M]`, i64.
    pub fn pick(&self, index: &Tensor) -> Self {
        self.each(|t| t.index_select(0, index))
    }

    /// Each kind of condition kept where its flag is 1 and missing where it is 0: what classifier-free guidance
    /// learns from (Ho & Salimans 2022, algorithm 1). Shape: flags `[N]`, f32.
    pub fn kept_where(&self, class: &Tensor, text: &Tensor, process: &Tensor) -> Self {
        let whole = |flag: &Tensor| flag.to_kind(Kind::Int64);
        let column = |flag: &Tensor| flag.unsqueeze(1);
        Self {
            class: &self.class * whole(class),
            words: &self.words * column(&whole(text)),
            process: &self.process * column(process),
            known: &self.known * column(process),
        }
    }

    fn each(&self, f: impl Fn(&Tensor) -> Tensor) -> Self {
        let Self { class, words, process, known } = self;
        Self { class: f(class), words: f(words), process: f(process), known: f(known) }
    }
}

/// What is asked of one picture, or known of one that is learnt from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    /// A class by name.
    pub class: Option<String>,
    /// A sentence.
    pub text: Option<String>,
    /// Values by name of the parameter.
    pub process: BTreeMap<String, f64>,
}

/// A process parameter as it was learnt from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    /// Column of the manifest.
    pub name: String,
    /// Mean of the known values.
    pub mean: f64,
    /// Their standard deviation; 1 where they are all the same.
    pub deviation: f64,
    /// Least.
    pub low: f64,
    /// Largest.
    pub high: f64,
    /// How many values were known.
    pub count: usize,
    /// The same of each class that it was known of.
    pub in_class: BTreeMap<String, Span>,
}

impl Parameter {
    fn learnt(name: &str, values: &[f64]) -> Self {
        let n = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / n;
        let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let constant = deviation <= LEAST_SPREAD * mean.abs();
        let deviation = if constant { 1.0 } else { deviation };
        let in_class = BTreeMap::new();
        Self { name: name.to_owned(), mean, deviation, low, high, count: values.len(), in_class }
    }

    /// In deviations from the mean.
    pub fn z(&self, value: f64) -> f64 {
        (value - self.mean) / self.deviation
    }

    /// Its values in all classes.
    pub fn span(&self) -> Span {
        Span { low: self.low, high: self.high, count: self.count }
    }

    /// "wear 0.1 to 0.9".
    pub fn range(&self) -> String {
        format!("{} {} to {}", self.name, self.low, self.high)
    }
}

/// All that a generator can be told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Catalogue {
    /// Class number k is at k - 1.
    pub classes: Vec<String>,
    /// Word number k is at k - 1; in order of the alphabet.
    pub words: Vec<String>,
    /// In order of name.
    pub parameters: Vec<Parameter>,
    /// Process parameters of pictures learnt from, in deviations, `None` where missing; at most [`super::near::MAX_ROWS`].
    pub rows: Vec<Vec<Option<f32>>>,
    /// Class number of each row, 0 where missing.
    pub row_classes: Vec<i64>,
}

impl Catalogue {
    /// Learns from what is known of pictures. `families`: classes that there are besides, and come first.
    ///
    /// Errors: [`ConditionError::TooMany`], [`ConditionError::TextLength`], [`ConditionError::NotFinite`].
    pub fn learn(families: &[String], known: &[Wish]) -> Result<Self, ConditionError> {
        let mut classes = families.to_vec();
        let named: BTreeSet<&String> = known.iter().filter_map(|w| w.class.as_ref()).collect();
        classes.extend(named.into_iter().filter(|c| !families.contains(c)).cloned());
        at_most("classes", classes.len(), MAX_CLASSES, "use one folder for each class")?;
        let mut words = BTreeSet::new();
        for text in known.iter().filter_map(|w| w.text.as_ref()) {
            words.extend(checked_words(text)?);
        }
        at_most("different words in the captions", words.len(), MAX_VOCABULARY, "use fewer words")?;
        let mut values = BTreeMap::<&String, Vec<f64>>::new();
        for (name, &value) in known.iter().flat_map(|w| &w.process) {
            if !value.is_finite() {
                return Err(ConditionError::NotFinite { name: name.clone(), value });
            }
            values.entry(name).or_default().push(value);
        }
        let advice = "take columns that are no process parameters out of manifest.csv";
        at_most("process parameters", values.len(), MAX_PARAMETERS, advice)?;
        let parameters = values.iter().map(|(name, v)| Parameter::learnt(name, v)).collect();
        let words = words.into_iter().collect();
        let mut catalogue = Self { classes, words, parameters, ..Self::default() };
        catalogue.remember(known);
        Ok(catalogue)
    }

    /// What a network needs to know.
    pub fn shape(&self) -> ConditionShape {
        let text = if self.words.is_empty() { 0 } else { MAX_CAPTION_WORDS };
        let [classes, words, text, parameters] =
            [self.classes.len(), self.words.len(), text, self.parameters.len()].map(|n| n as i64);
        ConditionShape { classes, words, text, parameters }
    }

    /// Wishes as tensors. `extrapolate`: whether values beyond the range that was learnt from are allowed.
    ///
    /// Errors: [`ConditionError`] for the first wish that cannot be met.
    pub fn encode(&self, wishes: &[Wish], extrapolate: bool) -> Result<Conditions, ConditionError> {
        let shape = self.shape();
        let (n, text, parameters) = (wishes.len() as i64, shape.text as usize, self.parameters.len());
        let (mut class, mut words) = (Vec::new(), Vec::new());
        let (mut process, mut known) = (Vec::new(), Vec::new());
        for wish in wishes {
            class.push(wish.class.as_deref().map_or(Ok(0), |c| self.class(c))?);
            let mut line = wish.text.as_deref().map_or(Ok(Vec::new()), |t| self.text(t))?;
            line.resize(text, 0);
            words.extend(line);
            self.check_range(wish, extrapolate)?;
            let row = self.row(wish);
            process.extend(row.iter().map(|z| z.unwrap_or(0.0)));
            known.extend(row.iter().map(|z| f32::from(u8::from(z.is_some()))));
        }
        Ok(Conditions {
            class: Tensor::from_slice(&class),
            words: Tensor::from_slice(&words).view([n, shape.text]),
            process: Tensor::from_slice(&process).view([n, parameters as i64]),
            known: Tensor::from_slice(&known).view([n, parameters as i64]),
        })
    }

    /// Number of a class, from 1.
    ///
    /// Errors: [`ConditionError::UnknownClass`].
    pub fn class(&self, name: &str) -> Result<i64, ConditionError> {
        let found = self.classes.iter().position(|c| c == name).map(|i| i as i64 + 1);
        found.ok_or_else(|| {
            let known = listed(self.classes.iter().map(String::as_str));
            ConditionError::UnknownClass { class: name.to_owned(), known }
        })
    }

    /// Numbers of the words of a text, from 1.
    ///
    /// Errors: [`ConditionError::NoText`], [`ConditionError::TextLength`], [`ConditionError::UnknownWord`].
    pub fn text(&self, text: &str) -> Result<Vec<i64>, ConditionError> {
        if self.words.is_empty() {
            return Err(ConditionError::NoText);
        }
        let number = |word: String| match self.words.binary_search(&word) {
            Ok(i) => Ok(i as i64 + 1),
            Err(_) => Err(ConditionError::UnknownWord { nearest: self.nearest(&word), word }),
        };
        checked_words(text)?.into_iter().map(number).collect()
    }

    /// In deviations; unknown names are left out.
    pub(super) fn row(&self, wish: &Wish) -> Vec<Option<f32>> {
        self.parameters.iter().map(|p| wish.process.get(&p.name).map(|v| p.z(*v) as f32)).collect()
    }

    fn check_range(&self, wish: &Wish, extrapolate: bool) -> Result<(), ConditionError> {
        for (name, &value) in &wish.process {
            let Some(parameter) = self.parameters.iter().find(|p| p.name == *name) else {
                let known: Vec<String> = self.parameters.iter().map(Parameter::range).collect();
                let known = listed(known.iter().map(String::as_str));
                return Err(ConditionError::UnknownParameter { name: name.clone(), known });
            };
            let name = name.clone();
            if !value.is_finite() {
                return Err(ConditionError::NotFinite { name, value });
            }
            let (low, high) = (parameter.low, parameter.high);
            if !extrapolate && !(low..=high).contains(&value) {
                return Err(ConditionError::OutOfRange { name, value, low, high });
            }
        }
        Ok(())
    }

    fn nearest(&self, word: &str) -> String {
        let mut all: Vec<&String> = self.words.iter().collect();
        all.sort_by(|a, b| strsim::jaro_winkler(b, word).total_cmp(&strsim::jaro_winkler(a, word)));
        let shown: Vec<&str> = all.iter().take(NAMED).map(|w| w.as_str()).collect();
        let more = self.words.len().saturating_sub(shown.len());
        let more = if more > 0 { format!(" (and {more} others)") } else { String::new() };
        format!("nearest known: {}{more}", shown.join(", "))
    }
}

/// The words of a text: letters and digits, lower case; all else stands between words.
pub fn words_of(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    lower.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

fn checked_words(text: &str) -> Result<Vec<String>, ConditionError> {
    let words = words_of(text);
    match words.len() {
        1..=MAX_CAPTION_WORDS => Ok(words),
        got => Err(ConditionError::TextLength { got, text: text.chars().take(80).collect() }),
    }
}

fn at_most(what: &'static str, got: usize, most: usize, advice: &'static str) -> Result<(), ConditionError> {
    if got > most { Err(ConditionError::TooMany { what, got, most, advice }) } else { Ok(()) }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let all: Vec<&str> = names.collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(class: &str, text: &str, process: &[(&str, f64)]) -> Wish {
        let given = |s: &str| Some(s.to_owned()).filter(|s| !s.is_empty());
        let process = process.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect();
        Wish { class: given(class), text: given(text), process }
    }

    fn catalogue() -> Catalogue {
        let known = [
            wish("rust", "thin scratch, dark", &[("wear", 0.2), ("feed", 5.0)]),
            wish("burr", "a wide burr on the rim", &[("wear", 0.6)]),
            wish("burr", "", &[("feed", 7.0), ("wear", 1.0)]),
        ];
        Catalogue::learn(&["scratch".into()], &known).unwrap()
    }

    fn floats(t: &Tensor) -> Vec<f32> {
        Vec::try_from(t.view([-1])).unwrap()
    }

    #[test]
    fn conditions_are_numbers_and_what_is_missing_is_flagged() {
        let catalogue = catalogue();
        assert_eq!(catalogue.shape(), ConditionShape { classes: 3, words: 9, text: 24, parameters: 2 });
        let asked = [wish("burr", "Dark rim.", &[("wear", 0.6)]), Wish::default()];
        let got = catalogue.encode(&asked, false).unwrap();
        assert_eq!(Vec::<i64>::try_from(&got.class).unwrap(), [2, 0]);
        let words = Vec::<i64>::try_from(got.words.view([-1])).unwrap();
        let text = |numbers: &[i64]| -> Vec<&str> {
            numbers.iter().filter(|w| **w > 0).map(|w| catalogue.words[*w as usize - 1].as_str()).collect()
        };
        assert_eq!((text(&words[..24]), text(&words[24..])), (vec!["dark", "rim"], vec![]));
        let process = floats(&got.process);
        assert!(process[1].abs() < 1e-6, "the mean is 0: {process:?}");
        assert_eq!((process[0], floats(&got.known)), (0.0, vec![0.0, 1.0, 0.0, 0.0]));
        let none = Conditions::none(2, &catalogue.shape(), Device::Cpu);
        assert_eq!((got.words.size(), got.process.size()), (none.words.size(), none.process.size()));
        let flags = |v: [f32; 2]| Tensor::from_slice(&v);
        let kept = got.kept_where(&flags([0.0, 1.0]), &flags([1.0, 1.0]), &flags([0.0, 0.0]));
        assert_eq!(Vec::<i64>::try_from(&kept.class).unwrap(), [0, 0]);
        assert_eq!((kept.words, floats(&kept.known)), (got.words, vec![0.0; 4]));
    }

    #[test]
    fn what_was_never_seen_is_told_with_what_was() {
        let catalogue = catalogue();
        let refused = |wish: Wish, words: &[&str]| {
            let error = catalogue.encode(&[wish], false).unwrap_err().to_string();
            assert!(words.iter().all(|w| error.contains(w)), "{error}");
        };
        refused(wish("dent", "", &[]), &["`dent`", "burr, rust"]);
        refused(wish("", "thin scrach", &[]), &["`scrach`", "nearest known: scratch"]);
        refused(wish("", "...", &[]), &["0 words"]);
        refused(wish("", &"dark ".repeat(25), &[]), &["25 words"]);
        refused(wish("", "", &[("speed", 1.0)]), &["`speed`", "feed 5 to 7, wear 0.2 to 1"]);
        refused(wish("", "", &[("wear", 1.4)]), &["wear=1.4", "0.2 to 1", "--extrapolate"]);
        refused(wish("", "", &[("wear", f64::NAN)]), &["wear=NaN", "finite"]);
        assert!(catalogue.encode(&[wish("", "", &[("wear", 1.4)])], true).is_ok());
        let mute = Catalogue::learn(&[], &[wish("a", "", &[])]).unwrap();
        assert!(matches!(mute.encode(&[wish("", "dark", &[])], false), Err(ConditionError::NoText)));
    }

    #[test]
    fn a_constant_parameter_and_an_endless_vocabulary_do_no_harm() {
        let same = [wish("", "", &[("feed", 5.0)]), wish("", "", &[("feed", 5.0)])];
        let catalogue = Catalogue::learn(&[], &same).unwrap();
        assert_eq!(catalogue.parameters[0].z(5.0), 0.0);
        assert_eq!(catalogue.parameters[0].z(6.0), 1.0);
        let many: Vec<Wish> = (0..1001).map(|i| wish("", &format!("w{i}"), &[])).collect();
        assert!(Catalogue::learn(&[], &many).unwrap_err().to_string().contains("1001 different words"));
        assert!(Catalogue::learn(&[], &[wish("", "", &[("feed", f64::INFINITY)])]).is_err());
    }
}
