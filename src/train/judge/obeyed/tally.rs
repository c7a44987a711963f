//! From answers to shares: what was told right of what was asked.
//!
//! Of a process parameter those cases count whose value lies in the lowest or the highest third of the real ones:
//! right is told on the same side of the real ones' median. Nearer to the median no reader could tell the sides.
//!
//! Never here: networks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cases::Case;
use super::questions::Questions;
use crate::judge::classify::Share;
use crate::metrics::ranks::spearman;

/// A parameter counts in a class in which the reader tells so many of held-out real defects right.
pub const TELLABLE: f64 = 0.95;
/// Fewest held-out defects of a class in the outer thirds to say so.
const MIN_TELLABLE: usize = 10;

/// Told right of real and of made defects.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Both {
    /// Of held-out real ones: what the reader itself is worth.
    pub real: Option<Share>,
    /// Of made ones.
    pub made: Option<Share>,
}

/// A condition over all classes and class by class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// All of them.
    pub all: Both,
    /// By class.
    pub classes: BTreeMap<String, Both>,
}

/// A word of a class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// The class.
    pub class: String,
    /// The word; several that always stand together.
    pub word: String,
    /// Of defects whose caption has it: told to have it.
    pub told: Both,
}

/// A process parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    /// Column of the manifest.
    pub name: String,
    /// Right side of the median, of values in the outer thirds, in the classes of `told_in`.
    pub side: Both,
    /// Rank correlation of what was asked and what was told, in the same classes; `null` with fewer than 3.
    pub correlation: Correlation,
    /// Classes in which held-out real defects are told well enough.
    pub told_in: Vec<String>,
    /// Sides, class by class, whether told well enough or not.
    pub classes: BTreeMap<String, Both>,
}

/// Rank correlations (Spearman 1904), -1 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Correlation {
    /// Of held-out real ones.
    pub real: Option<f64>,
    /// Of made ones.
    pub made: Option<f64>,
}

/// Whether a made set obeyed what was asked of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Obeyed {
    /// Real defects that the reader learnt from.
    pub learnt: usize,
    /// Real defects of other groups, by which it is judged itself.
    pub held_out: usize,
    /// The class; a made defect that shows nothing is told wrong.
    pub class: Told,
    /// All words of the text; `null` where captions have no words that vary.
    pub text: Option<Told>,
    /// Word by word.
    pub words: Vec<Word>,
    /// By parameter.
    pub parameters: Vec<Parameter>,
    /// Made defects of classes that the reader does not know.
    pub unknown: BTreeMap<String, usize>,
    /// Made defects with a text that no real one of their class has: not judged by their text.
    pub unknown_texts: usize,
}

/// Right ones, and of how many.
type Count = (usize, usize);

/// Shares while they are counted: real, made.
#[derive(Default, Clone, Copy)]
struct Counts([Count; 2]);

impl Counts {
    fn add(&mut self, made: bool, right: bool) {
        let (k, n) = &mut self.0[usize::from(made)];
        *k += usize::from(right);
        *n += 1;
    }

    fn both(self) -> Both {
        let share = |(k, n): Count| (n > 0).then(|| Share::new(k, n));
        Both { real: share(self.0[0]), made: share(self.0[1]) }
    }
}

/// By class.
#[derive(Default, Clone)]
struct ByClass(BTreeMap<String, Counts>);

impl ByClass {
    fn add(&mut self, class: &str, made: bool, right: bool) {
        self.0.entry(class.to_owned()).or_default().add(made, right);
    }

    /// Over the classes that `of` wants.
    fn sum(&self, of: impl Fn(&str) -> bool) -> Both {
        let mut all = Counts::default();
        for counts in self.0.iter().filter(|(name, _)| of(name)).map(|(_, c)| c) {
            for (sum, (k, n)) in all.0.iter_mut().zip(counts.0) {
                *sum = (sum.0 + k, sum.1 + n);
            }
        }
        all.both()
    }

    fn told(self) -> Told {
        let all = self.sum(|_| true);
        Told { all, classes: self.0.into_iter().map(|(name, c)| (name, c.both())).collect() }
    }
}

/// One set's cases with the answers on them.
pub type Answered<'a> = (&'a [Case], &'a [Vec<f32>]);

/// Compares what was told with what was asked. `learnt`: cases behind the reader.
pub fn tally(questions: &Questions, learnt: usize, real: Answered, made: Answered) -> Obeyed {
    let mut class = ByClass::default();
    let mut unknown = BTreeMap::new();
    for (is_made, case, answers) in both(real, made) {
        match (questions.place(case.class.as_deref()), &case.class) {
            (Some(place), Some(name)) => class.add(name, is_made, questions.told_class(answers) == place + 1),
            (None, Some(name)) => *unknown.entry(name.clone()).or_default() += 1,
            _ => {}
        }
    }
    let (text, words, unknown_texts) = texts(questions, real, made);
    Obeyed {
        learnt,
        held_out: real.0.iter().filter(|c| c.class.is_some()).count(),
        class: class.told(),
        text,
        words,
        parameters: (0..questions.scales.len()).map(|k| parameter(questions, k, real, made)).collect(),
        unknown,
        unknown_texts,
    }
}

/// Real ones, then made ones.
fn both<'a>(real: Answered<'a>, made: Answered<'a>) -> impl Iterator<Item = (bool, &'a Case, &'a [f32])> {
    let each = |of: Answered<'a>, is_made| {
        of.0.iter().zip(of.1).map(move |(case, answers)| (is_made, case, answers.as_slice()))
    };
    each(real, false).chain(each(made, true))
}

fn texts(questions: &Questions, real: Answered, made: Answered) -> (Option<Told>, Vec<Word>, usize) {
    let (mut whole, mut unknown) = (ByClass::default(), 0);
    let mut words = BTreeMap::<(usize, usize), Counts>::new();
    for (is_made, case, answers) in both(real, made) {
        let Some(place) = questions.place(case.class.as_deref()) else { continue };
        let class = &questions.classes[place];
        let Some(asked) = class.text(&case.caption) else {
            unknown += usize::from(is_made && !case.caption.is_empty() && !class.words.is_empty());
            continue;
        };
        let Some(told) = class.told(answers) else { continue };
        whole.add(&class.name, is_made, told == asked);
        for k in (0..asked.len()).filter(|k| asked[*k]) {
            words.entry((place, k)).or_default().add(is_made, told[k]);
        }
    }
    let word = |((place, k), counts): ((usize, usize), Counts)| {
        let class = &questions.classes[place];
        Word { class: class.name.clone(), word: class.words[k].join(" "), told: counts.both() }
    };
    let text = (!whole.0.is_empty()).then(|| whole.told());
    (text, words.into_iter().map(word).collect(), unknown)
}

fn parameter(questions: &Questions, k: usize, real: Answered, made: Answered) -> Parameter {
    let scale = &questions.scales[k];
    let [low, middle, high] = scale.thirds;
    let mut sides = ByClass::default();
    let mut pairs = Vec::new();
    for (is_made, case, answers) in both(real, made) {
        let Some(place) = questions.place(case.class.as_deref()) else { continue };
        let class = &questions.classes[place];
        let at = class.parameters.iter().position(|p| *p == k);
        let (Some(at), Some(&asked)) = (at, case.process.get(&scale.name)) else { continue };
        let told = scale.value(class.parameter_answer(answers, at));
        if asked < low || asked >= high {
            sides.add(&class.name, is_made, (told >= middle) == (asked >= middle));
        }
        pairs.push((is_made, class.name.as_str(), asked, told));
    }
    let well = |counts: &Counts| {
        let (right, of) = counts.0[0];
        of >= MIN_TELLABLE && right as f64 >= TELLABLE * of as f64
    };
    let told_in: Vec<String> = sides.0.iter().filter(|(_, c)| well(c)).map(|(n, _)| n.clone()).collect();
    let counts = |class: &str| told_in.iter().any(|t| t == class);
    let correlation = |wanted: bool| {
        let of = pairs.iter().filter(|(is_made, class, ..)| *is_made == wanted && counts(class));
        let (asked, told): (Vec<f64>, Vec<f64>) = of.map(|(_, _, asked, told)| (*asked, *told)).unzip();
        spearman(&asked, &told)
    };
    Parameter {
        name: scale.name.clone(),
        side: sides.sum(counts),
        correlation: Correlation { real: correlation(false), made: correlation(true) },
        classes: sides.0.iter().map(|(name, c)| (name.clone(), c.both())).collect(),
        told_in,
    }
}
