//! From judged pictures to the figures of the [`Report`].
//!
//! Never here: files, the model, anything that people see.

use std::collections::{BTreeMap, BTreeSet};

use inspect_core::model::ModelFile;
use inspect_core::verdict::Verdict;

use super::{
    AttributeAgreement, CardFacts, ClassReport, Confusion, Intervals, Latency, PictureScore, PixelScope,
    Report, SCHEMA, ShareIntervals, Trials, Verdicts,
};
use crate::metrics::intervals::{Bootstrap, CONFIDENCE, Interval, ROUNDS, Ranked, SEED, clopper_pearson};
use crate::metrics::pixels::PixelFigures;
use crate::metrics::{auroc, average_precision, kappa, percentile};
use crate::truth::TestPicture;

/// A picture with what the model said of it.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The picture.
    pub picture: TestPicture,
    /// Finite, in the model's own unit.
    pub score: f32,
    /// By the card's thresholds.
    pub verdict: Verdict,
    /// Scoring time, milliseconds.
    pub took_ms: f64,
}

impl Judged {
    fn good(&self) -> bool {
        self.picture.labelled.good
    }

    fn flagged(&self) -> bool {
        self.verdict != Verdict::Pass
    }
}

/// Where and how the pictures were judged.
pub struct Circumstances<'a> {
    /// The model.
    pub file: &'a ModelFile,
    /// The data folder as it was given.
    pub data: String,
    /// See [`Report::data_sha256`].
    pub data_sha256: String,
    /// See [`Report::provider`].
    pub provider: String,
    /// See [`Report::machine`].
    pub machine: String,
    /// Threads of the session.
    pub threads: usize,
    /// The linear floor's AUROC.
    pub floor_auroc: Option<f64>,
    /// Pixel figures and what they come from; the figures are `None` where the maps are too flat.
    pub pixels: Option<(PixelScope, Option<PixelFigures>)>,
}

/// Computes every figure. `judged` holds at least one good and one defective picture.
pub fn report(judged: &[Judged], at: Circumstances<'_>) -> Report {
    let card = &at.file.card;
    let of =
        |good: bool| -> Vec<f32> { judged.iter().filter(|j| j.good() == good).map(|j| j.score).collect() };
    let (good, defective) = (of(true), of(false));
    let confusion = confusion(judged);
    let escapes = confusion.defective.pass;
    let false_rejects = confusion.good.review + confusion.good.reject;
    let (intervals, classes) = intervals_and_classes(judged, &good, escapes, false_rejects);
    let pixel = at.pixels.and_then(|(_, figures)| figures);
    Report {
        schema: SCHEMA,
        model: card.name.clone(),
        sha256: at.file.sha256.clone(),
        data: at.data,
        data_sha256: at.data_sha256,
        evaluated: jiff::Timestamp::now(),
        evaluator_version: env!("CARGO_PKG_VERSION").into(),
        good: good.len(),
        defective: defective.len(),
        auroc: auroc(&good, &defective),
        average_precision: average_precision(&good, &defective),
        escape_rate: escapes as f64 / defective.len() as f64,
        false_reject_rate: false_rejects as f64 / good.len() as f64,
        recall: (defective.len() - escapes) as f64 / defective.len() as f64,
        escapes,
        false_rejects,
        confusion,
        intervals,
        pixel_auroc: pixel.map(|p| p.auroc),
        pixel_average_precision: pixel.map(|p| p.average_precision),
        aupro_30: pixel.map(|p| p.aupro_30),
        aupro_05: pixel.map(|p| p.aupro_05),
        pixels: at.pixels.map(|(scope, _)| scope),
        thresholds: card.thresholds,
        provisional: card.calibration.provisional,
        provider: at.provider,
        machine: at.machine,
        latency_ms: latency(judged, at.threads),
        attribute_agreement: agreement(judged, &confusion),
        classes,
        floor_auroc: at.floor_auroc,
        card: CardFacts {
            created: card.created,
            input: card.input,
            calibration: card.calibration.clone(),
            training: card.training.clone(),
        },
        not_shown: Vec::new(),
        scores: judged.iter().map(score).collect(),
    }
}

fn score(j: &Judged) -> PictureScore {
    PictureScore {
        file: j.picture.name.clone(),
        class: j.picture.labelled.class.clone(),
        score: j.score,
        verdict: j.verdict.word().into(),
        group: j.picture.group.clone(),
    }
}

fn confusion(judged: &[Judged]) -> Confusion {
    let mut all = Confusion::default();
    for j in judged {
        let row: &mut Verdicts = if j.good() { &mut all.good } else { &mut all.defective };
        match j.verdict {
            Verdict::Pass => row.pass += 1,
            Verdict::Review => row.review += 1,
            // A fault never gets here; were it to, it would not pass.
            Verdict::Reject | Verdict::Fault(_) => row.reject += 1,
        }
    }
    all
}

/// Share of drawn pictures that are flagged, among those that `counts`.
fn flagged_share(judged: &[Judged], times: &[u32], counts: impl Fn(&Judged) -> bool) -> f64 {
    let (mut flagged, mut all) = (0u64, 0u64);
    for (j, &n) in judged.iter().zip(times).filter(|(j, _)| counts(j)) {
        all += u64::from(n);
        flagged += u64::from(n) * u64::from(j.flagged());
    }
    flagged as f64 / all as f64
}

fn groups_of(judged: &[Judged], counts: impl Fn(&Judged) -> bool) -> usize {
    judged.iter().filter(|j| counts(j)).map(|j| &j.picture.group).collect::<BTreeSet<_>>().len()
}

fn intervals_and_classes(
    judged: &[Judged],
    good: &[f32],
    escapes: usize,
    false_rejects: usize,
) -> (Intervals, Vec<ClassReport>) {
    let is_good: Vec<bool> = judged.iter().map(Judged::good).collect();
    let groups: Vec<&str> = judged.iter().map(|j| j.picture.group.as_str()).collect();
    let ranked = Ranked::new(judged.iter().map(|j| j.score).collect(), is_good.clone());
    let names: BTreeSet<&str> =
        judged.iter().filter(|j| !j.good()).map(|j| j.picture.labelled.class.as_str()).collect();
    let drawn = Bootstrap::new(&groups, &is_good).intervals(|times| {
        let mut all = vec![
            ranked.auroc(times),
            flagged_share(judged, times, Judged::good),
            flagged_share(judged, times, |j| !j.good()),
        ];
        all.extend(names.iter().map(|n| flagged_share(judged, times, |j| j.picture.labelled.class == *n)));
        all
    });
    let (good_groups, defective_groups) = (groups_of(judged, Judged::good), groups_of(judged, |j| !j.good()));
    // One group drawn again and again is always the same: no interval.
    let of = |place: usize, groups: usize| drawn.get(place).copied().flatten().filter(|_| groups > 1);
    let exact = |k, n| clopper_pearson(k, n, CONFIDENCE);
    let defective = judged.len() - good.len();
    let recall =
        ShareIntervals { exact: exact(defective - escapes, defective), bootstrap: of(2, defective_groups) };
    let intervals = Intervals {
        confidence: CONFIDENCE,
        bootstrap_rounds: ROUNDS,
        bootstrap_seed: SEED,
        good_groups,
        defective_groups,
        singletons: groups_of(judged, |_| true) == judged.len(),
        false_reject_rate: ShareIntervals {
            exact: exact(false_rejects, good.len()),
            bootstrap: of(1, good_groups),
        },
        escape_rate: ShareIntervals {
            exact: exact(escapes, defective),
            bootstrap: recall.bootstrap.map(|i| Interval { low: 1.0 - i.high, high: 1.0 - i.low }),
        },
        recall,
        auroc: of(0, good_groups.min(defective_groups)),
    };
    let class = |(place, name): (usize, &&str)| {
        let of_class = |j: &Judged| j.picture.labelled.class == **name;
        let scores: Vec<f32> = judged.iter().filter(|j| of_class(j)).map(|j| j.score).collect();
        let not_passed = judged.iter().filter(|j| of_class(j) && j.flagged()).count();
        let groups = groups_of(judged, of_class);
        ClassReport {
            class: (*name).to_owned(),
            count: scores.len(),
            groups,
            not_passed,
            recall: not_passed as f64 / scores.len() as f64,
            recall_intervals: ShareIntervals {
                exact: exact(not_passed, scores.len()),
                bootstrap: of(3 + place, groups),
            },
            auroc: auroc(good, &scores),
        }
    };
    (intervals, names.iter().enumerate().map(class).collect())
}

fn latency(judged: &[Judged], threads: usize) -> Latency {
    let times: Vec<f64> = judged.iter().map(|j| j.took_ms).collect();
    let [p50, p90, p99, max] = [0.5, 0.9, 0.99, 1.0].map(|share| percentile(&times, share));
    Latency { p50, p90, p99, max, count: times.len(), threads }
}

fn agreement(judged: &[Judged], confusion: &Confusion) -> AttributeAgreement {
    let called_bad = |v: &Verdicts| v.review + v.reject;
    let Confusion { good, defective } = confusion;
    let (false_alarms, misses) = (called_bad(good), defective.pass);
    let share = |k: usize, n: usize| k as f64 / n as f64;
    AttributeAgreement {
        effectiveness: share(good.pass + called_bad(defective), judged.len()),
        miss_rate: share(misses, misses + called_bad(defective)),
        false_alarm_rate: share(false_alarms, false_alarms + good.pass),
        kappa: kappa(good.pass, false_alarms, misses, called_bad(defective)),
        trials: trials(judged),
    }
}

fn trials(judged: &[Judged]) -> Option<Trials> {
    let mut parts: BTreeMap<&str, Vec<&Judged>> = BTreeMap::new();
    for j in judged {
        if let Some(part) = &j.picture.part {
            parts.entry(part).or_default().push(j);
        }
    }
    parts.retain(|_, pictures| pictures.len() > 1);
    let count = |same: &dyn Fn(&[&Judged]) -> bool| parts.values().filter(|p| same(p)).count();
    let agreeing = count(&|p| p.iter().all(|j| j.flagged() == p[0].flagged()));
    let right = count(&|p| p.iter().all(|j| j.flagged() != j.good()));
    let exact = clopper_pearson(agreeing, parts.len(), CONFIDENCE);
    let pictures = parts.values().map(Vec::len).sum();
    Some(Trials { parts: parts.len(), pictures, agreeing, right, exact }).filter(|t| t.parts > 0)
}
