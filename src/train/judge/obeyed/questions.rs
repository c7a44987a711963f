//! What can be asked of a defect: its class, the words of its caption, its process parameters.
//!
//! Learnt from what is said of real defects. A *word* is asked where it stands in some captions of a class and not
//! in others ("dark" and "bright", but not "scratch"); words that always stand together ("bolt hole") are one. A
//! *text* is a set of such words that a caption of the class has; of two words that exclude each other no text has
//! both, so that nothing has to be known of them.
//!
//! Each answer is one number: of classes and words log-odds, of parameters deviations from the mean. Words and
//! parameters have an answer for each class.
//!
//! Never here: pictures, networks.

use std::collections::{BTreeMap, BTreeSet};

use super::cases::Case;
use crate::generators::conditions::words_of;

/// A word is asked that so many real defects of the class have, and so many do not have.
const MIN_OF_WORD: usize = 10;
/// A parameter is asked of a class where it is known of so many.
const MIN_OF_PARAMETER: usize = 30;
/// Most words of a class: the commonest.
const MAX_WORDS: usize = 64;

/// A process parameter over all real defects.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    /// Column of the manifest.
    pub name: String,
    mean: f64,
    deviation: f64,
    /// A third of the values lie below, half of them below, two thirds.
    pub thirds: [f64; 3],
}

impl Scale {
    fn new(name: &str, mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n.max(1.0);
        let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n.max(1.0)).sqrt();
        let at = |share: f64| values.get((n * share) as usize).copied();
        let thirds = [at(1.0 / 3.0)?, at(0.5)?, at(2.0 / 3.0)?];
        let varies = deviation.is_finite() && thirds[0] < thirds[1] && thirds[1] < thirds[2];
        varies.then(|| Self { name: name.to_owned(), mean, deviation, thirds })
    }

    /// In deviations from the mean.
    pub fn z(&self, value: f64) -> f64 {
        (value - self.mean) / self.deviation
    }

    /// The value of an answer.
    pub fn value(&self, z: f64) -> f64 {
        self.mean + z * self.deviation
    }
}

/// What can be asked of a class.
#[derive(Debug, Clone, PartialEq)]
pub struct OfClass {
    /// Its name.
    pub name: String,
    /// Each with all words that stand where it stands.
    pub words: Vec<Vec<String>>,
    /// The texts: which of `words` each has.
    pub texts: Vec<Vec<bool>>,
    /// Place in [`Questions::scales`] of each parameter.
    pub parameters: Vec<usize>,
    /// Answer of the first word; parameters follow on the words.
    first: usize,
}

impl OfClass {
    /// Which of the words a caption has; `None` if no real defect's caption has just these, or it is empty.
    pub fn text(&self, caption: &str) -> Option<&Vec<bool>> {
        let said: BTreeSet<String> = words_of(caption).into_iter().collect();
        let has: Vec<bool> = self.words.iter().map(|w| w.iter().all(|w| said.contains(w))).collect();
        self.texts.iter().find(|t| **t == has).filter(|_| !said.is_empty() && !self.words.is_empty())
    }

    /// The text that fits the answers best: product of the odds of each word, there or not there.
    pub fn told(&self, answers: &[f32]) -> Option<&Vec<bool>> {
        let fit = |text: &Vec<bool>| -> f64 {
            let each = |(has, answer): (&bool, &f32)| {
                let odds = f64::from(*answer) * if *has { 1.0 } else { -1.0 };
                -(-odds).exp().ln_1p()
            };
            text.iter().zip(self.word_answers(answers)).map(each).sum()
        };
        self.texts.iter().max_by(|a, b| fit(a).total_cmp(&fit(b)))
    }

    fn word_answers<'a>(&self, answers: &'a [f32]) -> &'a [f32] {
        &answers[self.first..self.first + self.words.len()]
    }

    /// Answer of the `k`-th of `parameters`.
    pub fn parameter_answer(&self, answers: &[f32], k: usize) -> f64 {
        f64::from(answers[self.first + self.words.len() + k])
    }
}

/// Everything that can be asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Questions {
    /// In order of name; the answer of a class is at its place here plus 1, that of no defect at 0.
    pub classes: Vec<OfClass>,
    /// Parameters, in order of name.
    pub scales: Vec<Scale>,
    /// Answers in all.
    pub answers: usize,
}

/// What the answers on one case should be. Shapes: each `[answers]`; those of classes are not used.
pub struct Wanted {
    /// 0: no defect.
    pub class: i64,
    /// 1 for a word, deviations for a parameter.
    pub value: Vec<f32>,
    /// 1 where a word is asked, else 0.
    pub word: Vec<f32>,
    /// 1 where a parameter is asked, else 0.
    pub parameter: Vec<f32>,
}

impl Questions {
    /// What these real defects allow to ask.
    pub fn new(real: &[&Case]) -> Self {
        let mut values = BTreeMap::<&str, Vec<f64>>::new();
        let mut by_class = BTreeMap::<&str, Vec<&Case>>::new();
        for case in real {
            let Some(class) = case.class.as_deref() else { continue };
            by_class.entry(class).or_default().push(case);
            case.process.iter().for_each(|(name, v)| values.entry(name).or_default().push(*v));
        }
        let scales: Vec<Scale> = values.into_iter().filter_map(|(n, v)| Scale::new(n, v)).collect();
        let mut answers = by_class.len() + 1;
        let mut class = |(name, cases): (&&str, &Vec<&Case>)| {
            let (words, texts) = words(cases);
            let known = |s: &Scale| cases.iter().filter(|c| c.process.contains_key(&s.name)).count();
            let parameters: Vec<usize> =
                (0..scales.len()).filter(|k| known(&scales[*k]) >= MIN_OF_PARAMETER).collect();
            let first = answers;
            answers += words.len() + parameters.len();
            OfClass { name: (*name).to_owned(), words, texts, parameters, first }
        };
        let classes = by_class.iter().map(&mut class).collect();
        Self { classes, scales, answers }
    }

    /// Place of a class.
    pub fn place(&self, class: Option<&str>) -> Option<usize> {
        self.classes.iter().position(|c| Some(c.name.as_str()) == class)
    }

    /// The truth of a case.
    pub fn wanted(&self, case: &Case) -> Wanted {
        let zeros = || vec![0f32; self.answers];
        let mut wanted = Wanted { class: 0, value: zeros(), word: zeros(), parameter: zeros() };
        let Some(place) = self.place(case.class.as_deref()) else { return wanted };
        let class = &self.classes[place];
        wanted.class = place as i64 + 1;
        for (k, has) in class.text(&case.caption).into_iter().flatten().enumerate() {
            wanted.value[class.first + k] = f32::from(u8::from(*has));
            wanted.word[class.first + k] = 1.0;
        }
        for (k, scale) in class.parameters.iter().map(|s| &self.scales[*s]).enumerate() {
            let at = class.first + class.words.len() + k;
            if let Some(value) = case.process.get(&scale.name) {
                wanted.value[at] = scale.z(*value) as f32;
                wanted.parameter[at] = 1.0;
            }
        }
        wanted
    }

    /// Place of the class, plus 1, that an answer tells; 0: no defect.
    pub fn told_class(&self, answers: &[f32]) -> usize {
        (0..=self.classes.len()).max_by(|a, b| answers[*a].total_cmp(&answers[*b])).unwrap_or(0)
    }
}

/// Words that are in some captions and not in others, and the texts of them that there are.
fn words(cases: &[&Case]) -> (Vec<Vec<String>>, Vec<Vec<bool>>) {
    let captions: Vec<BTreeSet<String>> = cases
        .iter()
        .map(|c| words_of(&c.caption).into_iter().collect())
        .filter(|c: &BTreeSet<_>| !c.is_empty())
        .collect();
    let all: BTreeSet<&String> = captions.iter().flatten().collect();
    // Words with the same pattern over all captions stand together.
    let mut together = BTreeMap::<Vec<bool>, Vec<String>>::new();
    for word in all {
        let has: Vec<bool> = captions.iter().map(|c| c.contains(word)).collect();
        let count = has.iter().filter(|h| **h).count();
        if count >= MIN_OF_WORD && captions.len() - count >= MIN_OF_WORD {
            together.entry(has).or_default().push(word.clone());
        }
    }
    let mut kept: Vec<(Vec<bool>, Vec<String>)> = together.into_iter().collect();
    kept.sort_by_key(|(has, words)| (std::cmp::Reverse(has.iter().filter(|h| **h).count()), words.clone()));
    kept.truncate(MAX_WORDS);
    let texts: BTreeSet<Vec<bool>> =
        (0..captions.len()).map(|i| kept.iter().map(|(has, _)| has[i]).collect()).collect();
    (kept.into_iter().map(|(_, words)| words).collect(), texts.into_iter().collect())
}
