//! What the user says of the part: each option does to the finished model what its `--help` promises.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use inspect_core::card::Input;
use inspect_core::model::ModelFile;
use inspect_core::runtime::{Provider, Runtime};
use inspect_core::scorer::{OnnxScorer, Scorer as _};
use inspect_train::data::Goods;
use inspect_train::export::export;
use inspect_train::fit::{Fitted, Settings, fit};
use inspect_train::infer::normalised;
use inspect_train::learn::{Budget, Run};
use inspect_train::net::Variant;
use inspect_train::score::{self, Fusion};
use inspect_train::torch::Torch;
use rand::{RngExt as _, SeedableRng as _};

const GOODS: u64 = 40;
/// Pictures of each kind that a model is asked about.
const ASKED: u64 = 6;

/// Where a part's bar lies: left and top, as shares of the side.
type Bar = Option<(f32, f32)>;

/// Dark on the left, light on the right, with noise; the bar is nearly black, a third of the side long.
fn part(side: u32, seed: u64, bar: Bar) -> Vec<u8> {
    let mut r = rand::rngs::StdRng::seed_from_u64(seed);
    let s = side as f32;
    let light = r.random_range(0.98..1.02f32);
    let places = (0..side).flat_map(|y| (0..side).map(move |x| (x as f32, y as f32)));
    let level = |(x, y): (f32, f32)| {
        let in_bar = bar.is_some_and(|(left, top)| {
            (left * s..(left + 0.33) * s).contains(&x) && (top * s..(top + 0.12) * s).contains(&y)
        });
        let level = if in_bar { 10.0 } else { 100.0 + 70.0 * x / s };
        (level * light + r.random_range(-3.0..3.0f32)).clamp(0.0, 255.0) as u8
    };
    places.map(level).collect()
}

fn goods(side: u32) -> Goods {
    let pixels = (0..GOODS).map(|i| part(side, i, None)).collect();
    let groups = (0..GOODS).map(|i| i.to_string()).collect();
    Goods::new(Input { width: side, height: side, channels: 1 }, pixels, groups)
}

fn settings(steps: u64) -> Settings {
    let (variant, budget) = (Variant::Xxs, Budget::Steps(steps));
    Settings { variant, budget, seed: 3, threads: Some(1), ..Settings::default() }
}

/// libtorch's generator is one for the whole process: fits side by side would draw each other's numbers.
static ALONE: Mutex<()> = Mutex::new(());

fn fitted(goods: &Goods, settings: &Settings) -> Fitted {
    let _alone = ALONE.lock();
    let stop = AtomicBool::new(false);
    fit(goods, settings, Run { start: Instant::now(), stop: &stop, report: &mut |_| {} }).unwrap()
}

/// A fitted model as the daemon runs it.
struct Model {
    scorer: OnnxScorer,
    reject: f32,
    map: Vec<f32>,
}

fn model(goods: &Goods, settings: &Settings) -> Model {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    export(&fitted(goods, settings), goods, settings, "test", &path).unwrap();
    let file = ModelFile::read(&path).unwrap();
    assert_eq!(file.card.input, goods.input);
    let runtime = Runtime { providers: vec![Provider::Cpu], ..Runtime::default() };
    let scorer = OnnxScorer::load(&file, &runtime).unwrap();
    Model { scorer, reject: file.card.thresholds.reject, map: Vec::new() }
}

impl Model {
    /// The score in units of the reject threshold.
    fn score(&mut self, pixels: &[u8]) -> f32 {
        self.scorer.score(pixels, &mut self.map).unwrap() / self.reject
    }

    /// Those of unseen parts with this bar, lowest first.
    fn scores(&mut self, side: u32, bar: Bar) -> Vec<f32> {
        let mut all: Vec<f32> = (0..ASKED).map(|i| self.score(&part(side, 900 + i, bar))).collect();
        all.sort_by(f32::total_cmp);
        all
    }
}

#[test]
fn a_defect_under_the_mask_is_not_shown_and_one_beside_it_is_found() {
    const SIDE: u32 = 64;
    let mut goods = goods(SIDE);
    // The left half is a belt: it is ignored.
    goods.mask = Some((0..SIDE * SIDE).map(|i| if i % SIDE < SIDE / 2 { 0.0 } else { 1.0 }).collect());
    let mut model = model(&goods, &settings(150));
    let beside = model.scores(SIDE, Some((0.6, 0.4)));
    let under = model.scores(SIDE, Some((0.02, 0.4)));
    let without = model.scores(SIDE, None);
    let cells = SIDE as usize / 4;
    assert!(model.map.chunks(cells).all(|row| row[..cells / 2].iter().all(|v| *v == 0.0)));
    assert!(beside[0] > 1.0, "beside the mask: {beside:?}");
    assert_eq!(under, without, "what lies under the mask changes nothing");
}

#[test]
fn a_brighter_picture_scores_the_same_where_exposure_is_taken_out() {
    const SIDE: u32 = 32;
    let goods = goods(SIDE);
    let change = |exposure: bool| {
        let mut model = model(&goods, &Settings { exposure, ..settings(40) });
        let changes = (0..ASKED).map(|i| {
            let pixels = part(SIDE, 900 + i, None);
            let brighter: Vec<u8> = pixels.iter().map(|v| (f32::from(*v) * 1.3).round() as u8).collect();
            (model.score(&brighter) - model.score(&pixels)).abs()
        });
        changes.fold(0.0, f32::max)
    };
    let (with, without) = (change(true), change(false));
    assert!(with < 0.1 && with * 3.0 < without, "taken out: {with} of the threshold, else {without}");
    println!("taken out: {with} of the threshold, else {without}");
}

#[test]
fn the_fused_map_is_the_mean_of_head_and_residual() {
    const SIDE: u32 = 32;
    let goods = goods(SIDE);
    let Fitted { weights, shape, .. } = fitted(&goods, &settings(20));
    let pixels = part(SIDE, 900, Some((0.3, 0.3)));
    let x = normalised(&weights, shape, &[&pixels], goods.input).next().unwrap();
    let [fused, head, residual] = [Fusion::Fused, Fusion::Head, Fusion::Residual].map(|fusion| {
        score::set_fusion(&weights, fusion);
        let (map, score) = tch::no_grad(|| score::score(&mut Torch::eval(&weights), &x, shape));
        assert_eq!(map.max().double_value(&[]), score.double_value(&[0, 0, 0, 0]));
        map
    });
    let expected = (&head + &residual) * 0.5;
    let largest = (&fused - &expected).abs().max().double_value(&[]);
    assert!(largest < 1e-3 * fused.abs().max().double_value(&[]), "differs by {largest}");
    let apart = (head - residual).abs().max().double_value(&[]);
    assert!(apart > 0.01, "both alike: nothing is shown");
}

#[test]
fn a_model_that_learnt_from_windows_judges_whole_pictures() {
    let mut model = model(&goods(64), &Settings { crop: Some(32), ..settings(240) });
    let good = model.scores(64, None);
    // In the corner that only the last window shows, and across the border of two of them.
    for place in [(0.66, 0.86), (0.35, 0.45)] {
        let bad = model.scores(64, Some(place));
        assert!(bad[0] > 1.0 && bad[0] > good[ASKED as usize - 1], "{place:?}: {bad:?}, goods {good:?}");
    }
}

#[test]
fn a_window_need_not_divide_the_picture() {
    let mut model = model(&goods(80), &Settings { crop: Some(48), ..settings(3) });
    let scores = model.scores(80, None);
    assert!(scores.iter().all(|s| s.is_finite()) && model.map.len() == 20 * 20, "{scores:?}");
}
