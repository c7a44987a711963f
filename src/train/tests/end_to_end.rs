//! From generated pictures to a model file that the daemon's own code reads and reproduces.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use inspect_core::image::Image;
use inspect_core::model::ModelFile;
use inspect_core::runtime::{Provider, Runtime};
use inspect_core::scorer::{OnnxScorer, check_golden};
use inspect_train::batches::Symmetry;
use inspect_train::fit::{Settings, fit};
use inspect_train::learn::{Budget, Run};
use inspect_train::net::Variant;
use inspect_train::{data, evaluate, export};
use rand::{RngExt, SeedableRng};

/// A bright disc on a dark ground, with noise; `defect`: a dark bar across it.
fn part(seed: u64, channels: u8, defect: bool) -> Image {
    let mut r = rand::rngs::StdRng::seed_from_u64(seed);
    let (cx, cy) = (r.random_range(15.0..17.0f32), r.random_range(15.0..17.0f32));
    let mut pixels = Vec::new();
    for y in 0..32 {
        for x in 0..32 {
            let inside = (x as f32 - cx).hypot(y as f32 - cy) < 11.0;
            let bar = defect && (12..17).contains(&y) && (6..26).contains(&x);
            let level = if bar {
                20
            } else if inside {
                180
            } else {
                60
            };
            for c in 0..channels {
                pixels.push((level + i32::from(c) * 15 + r.random_range(-4..5)) as u8);
            }
        }
    }
    Image::new(32, 32, channels, pixels).unwrap()
}

fn write_parts(dir: &Path, count: u64, channels: u8, defect: bool, first_seed: u64) {
    std::fs::create_dir_all(dir).unwrap();
    for i in 0..count {
        let path = dir.join(format!("{i:03}.png"));
        part(first_seed + i, channels, defect).write_png(&path).unwrap();
    }
}

fn settings(symmetry: Symmetry, steps: u64) -> Settings {
    let turned = symmetry == Symmetry::Rotate;
    Settings {
        variant: Variant::Xxs,
        budget: Budget::Steps(steps),
        seed: 5,
        symmetry,
        exposure: turned,
        crop: turned.then_some(32),
        threads: Some(1),
        ..Settings::default()
    }
}

fn fit_and_export(dir: &Path, out: &Path, settings: &Settings) -> export::Written {
    let goods = data::load(&data::find_goods(dir).unwrap(), &data::Look::at(32), &mut |_, _| {}).unwrap();
    let stop = AtomicBool::new(false);
    let run = Run { start: Instant::now(), stop: &stop, report: &mut |_| {} };
    let fitted = fit(&goods, settings, run).unwrap();
    export::export(&fitted, &goods, settings, "test", out).unwrap()
}

#[test]
fn libtorch_and_onnx_runtime_agree_for_grey_and_colour_and_the_daemon_reads_the_file() {
    for (channels, symmetry) in [(1, Symmetry::None), (3, Symmetry::Rotate)] {
        let dir = tempfile::tempdir().unwrap();
        write_parts(&dir.path().join("train/good"), 30, channels, false, 0);
        let out = dir.path().join("m.onnx");
        let written = fit_and_export(dir.path(), &out, &settings(symmetry, 12));
        assert!(written.largest_difference < 1e-3 && written.compared >= 14);
        let file = ModelFile::read(&out).unwrap();
        assert_eq!(file.card.input.channels, channels);
        assert_eq!(file.map, (8, 8));
        assert!(file.card.calibration.provisional, "8 held-out goods prove no 5 %");
        assert!(file.card.golden.len() >= 2);
        let runtime = Runtime { providers: vec![Provider::Cpu], ..Runtime::default() };
        let mut scorer = OnnxScorer::load(&file, &runtime).unwrap();
        assert!(check_golden(&mut scorer, &file).unwrap() < 1e-3);
        assert!(!out.with_extension("onnx.part").exists());
    }
}

#[test]
fn a_short_fit_tells_a_plain_defect_from_good_parts() {
    let dir = tempfile::tempdir().unwrap();
    write_parts(&dir.path().join("train/good"), 60, 1, false, 0);
    write_parts(&dir.path().join("test/good"), 10, 1, false, 500);
    write_parts(&dir.path().join("test/bar"), 10, 1, true, 900);
    let out = dir.path().join("m.onnx");
    fit_and_export(dir.path(), &out, &settings(Symmetry::None, 120));
    let report = evaluate::evaluate(&out, dir.path(), true).unwrap();
    assert!(report.auroc > 0.95, "{report:?}");
    assert!(report.floor_auroc.is_some_and(|f| f > 0.5));
    assert_eq!((report.good, report.defective, report.classes[0].class.as_str()), (10, 10, "bar"));
}

#[test]
fn real_pictures_are_found_with_their_groups() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if !root.is_dir() {
        println!("SKIPPED: {} is not there", root.display());
        return;
    }
    for (set, goods, groups) in [("casting", 353, 43), ("paper_bft", 24, 6), ("moulded_figure", 34, 34)] {
        let found = data::find_goods(&root.join(set)).unwrap();
        let names: std::collections::BTreeSet<_> = found.iter().map(|p| &p.group).collect();
        assert_eq!((found.len(), names.len()), (goods, groups), "{set}");
        assert!(found.iter().all(|p| p.name.starts_with("train/good/")), "{set}");
    }
}
