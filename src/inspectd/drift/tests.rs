//! Simulated lines: how often drift is told without cause, and how soon it is told with one.

use std::collections::BTreeMap;

use inspect_core::card::{
    Calibration, Golden, Input, Method, Preprocessing, Resize, SCHEMA, Thresholds, Training,
};
use inspect_core::image::Image;
use inspect_core::reference::Spread;
use inspect_core::verdict::FaultCode;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// What is otherwise than it was: factors and shares.
#[derive(Debug, Clone, Copy)]
struct Shift {
    light: f64,
    sharp: f64,
    clipped: f64,
    /// Scores times this.
    scores: f64,
    defects: f64,
}

const NONE: Shift = Shift { light: 1.0, sharp: 1.0, clipped: 0.0, scores: 1.0, defects: 0.02 };

/// Shifts that a line may see.
const SHIFTS: [(&str, Shift); 8] = [
    ("light -10 %", Shift { light: 0.9, ..NONE }),
    ("light -8 %", Shift { light: 0.92, ..NONE }),
    ("blur: sharpness -15 %", Shift { sharp: 0.85, ..NONE }),
    ("3 % more pixels clipped", Shift { clipped: 0.03, ..NONE }),
    ("scores +20 %", Shift { scores: 1.2, ..NONE }),
    ("scores +50 %", Shift { scores: 1.5, ..NONE }),
    ("rejects 2 % -> 10 %", Shift { defects: 0.10, ..NONE }),
    ("rejects 2 % -> 25 %", Shift { defects: 0.25, ..NONE }),
];

/// A line with one view. Good scores are log-normal with deviation 0.3, light scatters by 2 %, sharpness by 4 %.
struct Line {
    random: StdRng,
    card: Arc<Card>,
    drift: Drift,
    changes: Vec<(DriftLevel, String)>,
    rejected: usize,
}

fn normal(random: &mut StdRng) -> f64 {
    let (u, v) = (random.random_range(1e-12..1.0f64), random.random::<f64>());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

fn measures(random: &mut StdRng, shift: Shift) -> PictureMeasures {
    PictureMeasures {
        brightness: 120.0 * shift.light * (1.0 + 0.02 * normal(random)),
        sharpness: 0.08 * shift.sharp * (1.0 + 0.04 * normal(random)),
        clipped: (0.01 + shift.clipped + 0.002 * normal(random)).max(0.0),
    }
}

fn good(random: &mut StdRng) -> f32 {
    (0.3 * normal(random)).exp() as f32
}

fn reference(random: &mut StdRng, goods: usize) -> Reference {
    let pictures: Vec<_> = (0..goods).map(|_| measures(random, NONE)).collect();
    let spread = |of: fn(&PictureMeasures) -> f64| Spread::of(pictures.iter().map(of)).unwrap();
    Reference {
        goods,
        scores: inspect_core::reference::quantiles((0..goods).map(|_| good(random)).collect()),
        brightness: spread(|m| m.brightness),
        sharpness: spread(|m| m.sharpness),
        clipped: spread(|m| m.clipped),
    }
}

fn card(reference: Option<Reference>) -> Arc<Card> {
    let image = Image::new(4, 4, 1, vec![9; 16]).unwrap();
    // About the 99 % quantile of good scores.
    let thresholds = Thresholds { review: 2.0, reject: 2.0 };
    Arc::new(Card {
        schema: SCHEMA,
        name: "simulated".into(),
        created: jiff::Timestamp::UNIX_EPOCH,
        input: Input { width: 4, height: 4, channels: 1 },
        preprocessing: Preprocessing { roi: None, resize: Resize::Area },
        thresholds,
        calibration: Calibration {
            method: Method::Conformal,
            goods: 100,
            groups: 100,
            alpha: 0.01,
            review_alpha: 0.01,
            provisional: false,
            claim: String::new(),
            shares: Vec::new(),
        },
        golden: vec![Golden::new("good", &image, 0.5).unwrap()],
        training: Training {
            trainer_version: "0".into(),
            data_sha256: String::new(),
            goods: 1,
            seed: 0,
            steps: 0,
            settings: BTreeMap::new(),
        },
        reference,
    })
}

impl Line {
    /// `goods`: of the card's reference; none: the first parts are taken.
    fn new(seed: u64, goods: Option<usize>) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let card = card(goods.map(|goods| reference(&mut random, goods)));
        let drift = Drift::new(DriftConfig::default());
        Self { random, card, drift, changes: Vec::new(), rejected: 0 }
    }

    fn part(&mut self, shift: Shift) {
        let is_bad = self.random.random::<f64>() < shift.defects;
        let score = good(&mut self.random) * shift.scores as f32 * if is_bad { 6.0 } else { 1.0 };
        let measures = measures(&mut self.random, shift);
        self.take("a", score, measures);
    }

    fn take(&mut self, sha: &str, score: f32, measures: PictureMeasures) {
        let (tell, measured) = oneshot::channel();
        tell.send(measures).unwrap();
        let limit = self.card.thresholds.reject;
        let verdict = match score {
            s if s <= limit => Verdict::Pass,
            s if s > limit => Verdict::Reject,
            _ => Verdict::Fault(FaultCode::ScoreNotFinite),
        };
        self.rejected += usize::from(verdict == Verdict::Reject);
        let measured = Some(measured);
        let seen = Seen { view: "top", model_sha256: sha, card: &self.card, score: (score, limit), measured };
        let changes = &mut self.changes;
        let mut tell = |change: Change| changes.push((change.level, change.message));
        self.drift.take(1, [seen].into_iter(), verdict, &mut tell);
    }

    fn parts(&mut self, count: usize, shift: Shift) {
        (0..count).for_each(|_| self.part(shift));
    }

    /// How often a level was told.
    fn told(&self, level: DriftLevel) -> usize {
        self.changes.iter().filter(|(told, _)| *told == level).count()
    }

    /// After how many parts of `shift` the level is reached, if within `most`.
    fn delay(&mut self, shift: Shift, level: DriftLevel, most: usize) -> Option<usize> {
        (1..=most).find(|_| {
            self.part(shift);
            self.drift.level() >= level
        })
    }
}

/// Parts until everything that is learnt is learnt, and every window full.
const SETTLED: usize = 2_000;

#[test]
fn nothing_is_told_where_nothing_has_changed() {
    let (mut warnings, mut alarms) = (0, 0);
    for (seed, goods) in [(1, Some(20)), (2, Some(60)), (3, Some(200)), (4, Some(1000)), (5, None), (6, None)]
    {
        let mut line = Line::new(seed, goods);
        line.parts(25_000, NONE);
        assert!(line.rejected > 500, "there is something to mistake: {}", line.rejected);
        warnings += line.told(DriftLevel::Warning);
        alarms += line.told(DriftLevel::Alarm);
    }
    // 150,000 parts: 0.15 warnings and 0.0015 alarms are allowed on average.
    assert!(warnings <= 1 && alarms == 0, "{warnings} warnings, {alarms} alarms");
}

#[test]
fn each_shift_is_told_within_the_parts_that_the_manual_states() {
    let within = [50, 60, 60, 50, 1_500, 500, 1_500, 300];
    for (goods, seed) in [(Some(200), 11), (None, 12)] {
        for ((name, shift), within) in SHIFTS.into_iter().zip(within) {
            let mut line = Line::new(seed, goods);
            line.parts(SETTLED, NONE);
            assert_eq!(line.drift.level(), DriftLevel::Ok, "{name} {:?}", line.changes);
            let delay = line.delay(shift, DriftLevel::Alarm, within);
            assert!(delay.is_some(), "{name} of {goods:?}: {:?}", line.changes);
        }
    }
}

#[test]
fn a_burst_of_defects_is_told_as_rejects_and_not_as_drift_of_scores() {
    let mut line = Line::new(21, Some(200));
    line.parts(SETTLED, NONE);
    line.parts(3_000, Shift { defects: 0.3, ..NONE });
    let told: Vec<&String> = line.changes.iter().map(|(_, message)| message).collect();
    assert!(told.iter().all(|m| m.contains("parts more were rejected than usual")), "{told:?}");
    assert!(told.iter().all(|m| m.contains("the other parts' scores are as before")), "{told:?}");
    assert_eq!(line.drift.level(), DriftLevel::Alarm);

    // Scores that rise until most parts are rejected are drift, and the message says how many.
    let mut line = Line::new(22, Some(200));
    line.parts(SETTLED, NONE);
    line.parts(1_000, Shift { scores: 4.0, ..NONE });
    let alarm = line.changes.iter().find(|(level, m)| *level == DriftLevel::Alarm && m.contains("KS"));
    let (_, message) = alarm.unwrap();
    assert!(message.contains("higher than those of the calibration's 200 goods"), "{message}");
    assert!(message.contains("of the 500 were rejected"), "{message}");
}

#[test]
fn what_is_no_number_and_faults_do_not_count() {
    let mut line = Line::new(31, Some(200));
    line.parts(SETTLED, NONE);
    let before = line.drift.state();
    let nan = PictureMeasures { brightness: f64::NAN, sharpness: f64::INFINITY, clipped: f64::NAN };
    for score in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().cycle().take(900) {
        let (tell, measured) = oneshot::channel();
        tell.send(nan).unwrap();
        let card = Arc::clone(&line.card);
        let seen = Seen {
            view: "top",
            model_sha256: "a",
            card: &card,
            score: (score, 2.0),
            measured: Some(measured),
        };
        let fault = Verdict::Fault(FaultCode::ScoreNotFinite);
        line.drift.take(1, [seen].into_iter(), fault, &mut |change| panic!("{change:?}"));
    }
    assert_eq!(line.drift.state(), before);
    line.parts(2_000, NONE);
    assert_eq!(line.drift.level(), DriftLevel::Ok, "{:?}", line.changes);
}

#[test]
fn it_is_over_when_the_light_is_back_or_the_error_cleared_and_starts_anew_with_another_model() {
    let mut line = Line::new(41, Some(200));
    let dark = Shift { light: 0.9, ..NONE };
    line.parts(SETTLED, NONE);
    line.parts(100, dark);
    assert_eq!(line.drift.level(), DriftLevel::Alarm);
    line.parts(120, NONE);
    assert_eq!(line.changes.last().unwrap().0, DriftLevel::Ok, "{:?}", line.changes);
    assert!(line.changes.last().unwrap().1.contains("brightness of the last 50 pictures"));

    // Cleared while it goes on: it is told again, once a window is full again.
    line.parts(100, dark);
    assert!(line.drift.clear() && !line.drift.clear());
    assert_eq!(line.drift.level(), DriftLevel::Ok);
    assert_eq!(line.delay(dark, DriftLevel::Alarm, 60), Some(50));

    // Another model has another reference.
    line.card = card(Some(reference(&mut StdRng::seed_from_u64(42), 100)));
    let usual = measures(&mut StdRng::seed_from_u64(43), NONE);
    line.take("b", 1.0, usual);
    assert_eq!(line.drift.state(), DriftState::default());
    line.card = card(None);
    line.take("c", 1.0, usual);
    assert!(line.drift.state().provisional);
}

#[test]
fn equal_scores_are_no_drift() {
    let mut line = Line::new(51, None);
    let usual = measures(&mut StdRng::seed_from_u64(52), NONE);
    (0..3_000).for_each(|_| line.take("a", 0.5, usual));
    assert!(line.changes.is_empty(), "{:?}", line.changes);
    (0..500).for_each(|_| line.take("a", 0.6, usual));
    assert_eq!(line.drift.level(), DriftLevel::Alarm);
}

#[test]
fn a_small_reference_on_the_card_gives_way_to_the_first_parts_and_it_can_be_switched_off() {
    let mut line = Line::new(61, Some(MIN_REFERENCE_GOODS - 1));
    line.part(NONE);
    assert!(line.drift.state().provisional);
    line.drift = Drift::new(DriftConfig { watch: false, ..DriftConfig::default() });
    line.parts(SETTLED, NONE);
    line.parts(SETTLED, Shift { light: 0.5, ..NONE });
    assert_eq!(line.drift.state(), DriftState::default());
}

#[test]
fn settings_that_cannot_work_are_named() {
    let config = DriftConfig {
        score_window: 5,
        picture_window: 2_000,
        reference_parts: 0,
        usual_reject_rate: Some(f64::NAN),
        false_warning_parts: f64::INFINITY,
        ..DriftConfig::default()
    };
    let problems = config.check().join("\n");
    for name in ["score_window", "picture_window", "reference_parts", "usual_reject_rate", "false_warning"] {
        assert!(problems.contains(name), "{problems}");
    }
    assert!(DriftConfig::default().check().is_empty());
}

/// The tables of `deploy/manual/drift.md`.
#[test]
#[ignore = "takes a minute; prints the tables"]
fn table_of_false_alarms_and_delays() {
    const RUNS: u64 = 10;
    const PARTS: usize = 100_000;
    const MOST: usize = 20_000;
    let kinds = [
        ("20", Some(20)),
        ("60", Some(60)),
        ("200", Some(200)),
        ("1000", Some(1000)),
        ("first 1000 parts", None),
    ];
    println!("| goods of the reference | parts | warnings | alarms |\n| --- | --- | --- | --- |");
    for (name, goods) in kinds {
        let (mut warnings, mut alarms) = (0, 0);
        for seed in 0..RUNS {
            let mut line = Line::new(100 + seed, goods);
            line.parts(PARTS, NONE);
            warnings += line.told(DriftLevel::Warning);
            alarms += line.told(DriftLevel::Alarm);
        }
        println!("| {name} | {} | {warnings} | {alarms} |", RUNS as usize * PARTS);
    }
    println!(
        "\n| parts until the alarm: median (90 %) | 60 goods | 200 goods | first 1000 parts |\n| --- | --- | --- | --- |"
    );
    for (name, shift) in SHIFTS {
        let cell = |goods: Option<usize>| {
            let mut delays: Vec<Option<usize>> = (0..2 * RUNS)
                .map(|seed| {
                    let mut line = Line::new(200 + seed, goods);
                    line.parts(SETTLED, NONE);
                    line.delay(shift, DriftLevel::Alarm, MOST)
                })
                .collect();
            delays.sort_by_key(|delay| delay.unwrap_or(usize::MAX));
            let say = |delay: Option<usize>| delay.map_or(format!("> {MOST}"), |parts| parts.to_string());
            format!("{} ({})", say(delays[delays.len() / 2]), say(delays[delays.len() * 9 / 10]))
        };
        println!("| {name} | {} | {} | {} |", cell(Some(60)), cell(Some(200)), cell(None));
    }
}
