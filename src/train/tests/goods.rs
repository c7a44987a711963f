//! Goods as a user brings them: suspects, regions and masks, new thresholds, real defects split off.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use common::{fit, part, refused, run, succeeded, write_parts};
use inspect_core::card::{Input, Method, Thresholds};
use inspect_core::image::{Image, Roi};
use inspect_core::model::ModelFile;
use inspect_core::onnx::ModelProto;
use inspect_core::runtime::{Provider, Runtime};
use inspect_core::scorer::{OnnxScorer, Scorer};
use inspect_train::data::load_one;
use inspect_train::{real, truth};
use prost::Message;

fn model(path: &Path) -> ModelFile {
    ModelFile::read(path).unwrap()
}

/// The file without its card.
fn graph(file: &ModelFile) -> Vec<u8> {
    let mut proto = ModelProto::decode(file.bytes.as_slice()).unwrap();
    proto.metadata_props.clear();
    proto.encode_to_vec()
}

/// Scores of the pictures `000.png` and on in `dir`, by the daemon's scorer.
fn scores(file: &ModelFile, dir: &Path, count: usize) -> Vec<f32> {
    let runtime = Runtime { providers: vec![Provider::Cpu], ..Runtime::default() };
    let mut scorer = OnnxScorer::load(file, &runtime).unwrap();
    let (mut resizer, mut map) = (Default::default(), Vec::new());
    let mut score = |i: usize| {
        let path = dir.join(format!("{i:03}.png"));
        let pixels = load_one(&path, file.card.preprocessing.roi, file.card.input, &mut resizer).unwrap();
        scorer.score(&pixels, &mut map).unwrap()
    };
    (0..count).map(&mut score).collect()
}

#[test]
fn new_thresholds_come_from_new_goods_and_the_network_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (fitted, fresh, out) =
        (dir.path().join("fitted"), dir.path().join("fresh"), dir.path().join("new.onnx"));
    write_parts(&fitted, 16, 0, false);
    write_parts(&fresh, 19, 500, false);
    let old_path = dir.path().join("old.onnx");
    succeeded(&fit(&fitted, &old_path, &[]));
    let calibrate = |goods: &Path, out: &Path, more: &[&str]| {
        let paths = [("--model", old_path.as_path()), ("--goods", goods), ("--out", out)];
        run(&[&["calibrate"], more].concat(), &paths)
    };

    refused(&calibrate(&fitted, &out, &[]), &out, &["the very pictures"]);
    let copied = dir.path().join("copied");
    std::fs::create_dir(&copied).unwrap();
    for i in 0..16 {
        std::fs::copy(fitted.join(format!("{i:03}.png")), copied.join(format!("other {i}.png"))).unwrap();
    }
    refused(&calibrate(&copied, &out, &[]), &out, &["the very pictures"]); // names do not matter

    let told = succeeded(&calibrate(&fresh, &out, &[]));
    let (old, new) = (model(&old_path), model(&out));
    assert!(told.contains("old: reject above") && told.contains("of the 19 goods do not pass"), "{told}");
    assert!(old.card.calibration.provisional && !new.card.calibration.provisional);
    assert_eq!(new.card.calibration.method, Method::Conformal);
    let largest = scores(&new, &fresh, 19).into_iter().fold(0.0, f32::max);
    assert_eq!(new.card.thresholds, Thresholds { review: largest, reject: largest }, "rank 19 of 19");
    let goods_of = |file: &ModelFile| file.card.reference.as_ref().map(|r| (r.goods, r.scores.clone()));
    let (fitted_on, calibrated_on) = (goods_of(&old).unwrap(), goods_of(&new).unwrap());
    assert_eq!((fitted_on.0, calibrated_on.0), (old.card.calibration.goods, 19));
    assert_eq!(calibrated_on.1.last(), Some(&largest));
    assert_eq!(graph(&old), graph(&new));
    assert_eq!((&old.card.training, &old.card.name), (&new.card.training, &new.card.name));
    assert!(new.card.created > old.card.created);

    let error = calibrate(&fresh, &fresh.join("000.png"), &[]);
    assert!(!error.status.success() && common::said(&error).contains("is there already"));
    let told = succeeded(&calibrate(&fresh, &old_path, &["--alpha", "0.02", "--review-alpha", "0.02"]));
    assert!(told.contains("Provisional"), "{told}");
    assert!(model(&old_path).card.calibration.provisional, "replaced in place");
}

#[test]
fn golden_images_that_the_new_thresholds_run_through_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (fitted, fresh, out) =
        (dir.path().join("fitted"), dir.path().join("fresh"), dir.path().join("new.onnx"));
    write_parts(&fitted, 16, 0, false);
    write_parts(&fresh, 12, 500, true); // every one is defective: the limit rises above all golden images
    let old = dir.path().join("old.onnx");
    succeeded(&fit(&fitted, &old, &[]));
    let paths = [("--model", old.as_path()), ("--goods", &fresh), ("--out", &out)];
    let told = succeeded(&run(&["calibrate"], &paths));
    let (old, new) = (model(&old).card, model(&out).card);
    let same = |limits: Thresholds, score: f32| (score <= limits.reject, score <= limits.review);
    for golden in &new.golden {
        let gap = (golden.score - new.thresholds.reject).abs() / new.thresholds.reject;
        assert!(gap > 0.01, "{}: {gap}", golden.name);
        if let Some(kept) = old.golden.iter().find(|g| g.png_base64 == golden.png_base64) {
            assert_eq!(same(old.thresholds, kept.score), same(new.thresholds, golden.score), "{told}");
        }
    }
}

#[test]
fn defective_parts_among_the_goods_are_shown_and_can_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let (data, sheet, list) =
        (dir.path().join("d"), dir.path().join("sheet.png"), dir.path().join("list.txt"));
    write_parts(&data, 60, 0, false);
    for i in [5, 17, 40] {
        part(900 + i, true).write_png(&data.join(format!("{i:03}.png"))).unwrap();
    }
    let paths = [("--data", data.as_path()), ("--out", &sheet), ("--list", &list)];
    let told = succeeded(&run(&["suspects", "--size", "64"], &paths));
    let listed = std::fs::read_to_string(&list).unwrap();
    let mut names: Vec<&str> = listed.lines().filter(|l| !l.starts_with('#')).take(3).collect();
    names.sort_unstable();
    assert_eq!(names, ["005.png", "017.png", "040.png"], "{told}");
    assert!(Image::read(&sheet).unwrap().height() > 300);

    let out = dir.path().join("m.onnx");
    let told = succeeded(&fit(&data, &out, &[]));
    assert!(told.contains("strange") && told.contains("017.png") && told.contains("--exclude"), "{told}");
    assert!(dir.path().join("m.suspects.png").exists(), "beside the model unless --suspects says otherwise");
    std::fs::write(&list, "005.png\n017.png\n040.png\n").unwrap();
    let told = succeeded(&fit(&data, &out, &["--exclude", list.to_str().unwrap()]));
    assert!(told.contains("57 good pictures (3 excluded)") && !told.contains("017.png"), "{told}");
}

#[test]
fn a_region_goes_on_the_card_and_is_what_is_judged() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("d"), dir.path().join("m.onnx"));
    write_parts(&data.join("train/good"), 16, 0, false);
    write_parts(&data.join("test/good"), 3, 100, false);
    write_parts(&data.join("test/bar"), 3, 200, true);
    succeeded(&fit(&data, &out, &["--roi", "4,8,48,40"]));
    let roi = Some(Roi { x: 4, y: 8, width: 48, height: 40 });
    assert_eq!(model(&out).card.preprocessing.roi, roi);
    let evaluated = run(&["evaluate"], &[("--model", &out), ("--data", &data)]);
    succeeded(&evaluated);
    // A picture that does not hold the region cannot be judged: the region is applied there too.
    Image::new(20, 20, 1, vec![90; 400]).unwrap().write_png(&data.join("test/bar/small.png")).unwrap();
    let evaluated = run(&["evaluate"], &[("--model", &out), ("--data", &data)]);
    assert!(common::said(&evaluated).contains("leaves the image of 20x20"), "{evaluated:?}");
}

#[test]
fn real_defects_leave_the_test_split_by_group() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("d"), dir.path().join("out"));
    write_parts(&data.join("train/good"), 12, 0, false);
    write_parts(&data.join("test/good"), 4, 100, false);
    write_parts(&data.join("test/bar"), 9, 200, true);
    write_parts(&data.join("test/dent"), 2, 300, true);
    std::fs::create_dir_all(data.join("ground_truth/bar")).unwrap();
    for i in 0..9 {
        part(i, false).write_png(&data.join(format!("ground_truth/bar/00{i}_mask.png"))).unwrap();
    }
    let mut manifest = "file,mask,group\n".to_owned();
    let mut boxes = "file,x1,y1,x2,y2,type\n".to_owned();
    for i in 0..9 {
        manifest += &format!("test/bar/00{i}.png,ground_truth/bar/00{i}_mask.png,part{}\n", i / 3);
        boxes += &format!("test/bar/00{i}.png,1,2,3,4,bar\n");
    }
    manifest += "test/good/000.png,,part0\ntest/good/001.png,,part1\ntest/good/002.png,,part2\n";
    std::fs::write(data.join("manifest.csv"), &manifest).unwrap();
    std::fs::write(data.join("boxes.csv"), &boxes).unwrap();
    let split = |out: &Path, more: &[&str]| {
        run(&[&["split", "--real", "4"], more].concat(), &[("--data", &data), ("--out", out)])
    };
    let told = succeeded(&split(&out, &[]));
    assert!(told.contains("bar") && told.contains("real     6   rest     3"), "{told}");
    assert!(told.contains("dent") && told.contains("real     1   rest     1 (wanted 4"), "{told}");

    let count = |path: &str| std::fs::read_dir(out.join(path)).map_or(0, |d| d.count());
    assert_eq!((count("real/bar"), count("real/ground_truth/bar"), count("real/dent")), (6, 6, 1));
    assert_eq!((count("rest/test/bar"), count("rest/ground_truth/bar"), count("rest/test/dent")), (3, 3, 1));
    assert_eq!(
        (count("rest/train/good"), count("rest/test/good")),
        (12, 2),
        "goods of parts that moved stay out"
    );
    let groups = |path: &str| -> std::collections::BTreeSet<String> {
        let text = std::fs::read_to_string(out.join(path)).unwrap();
        text.lines().skip(1).map(|l| l.rsplit(',').next().unwrap().to_owned()).collect()
    };
    assert!(groups("real/manifest.csv").is_disjoint(&groups("rest/manifest.csv")));
    for (folder, rows) in [("real", 6), ("rest", 3)] {
        let text = std::fs::read_to_string(out.join(folder).join("boxes.csv")).unwrap();
        assert_eq!(text.lines().count(), rows + 1, "{text}");
        for line in text.lines().skip(1) {
            let file = line.split(',').next().unwrap();
            assert!(out.join(folder).join(file).is_file(), "{folder}: {file}");
        }
    }
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("split.json")).unwrap()).unwrap();
    assert_eq!((json["seed"].as_u64(), json["real"]["bar"].as_array().unwrap().len()), (Some(0), 6));
    assert_eq!(std::fs::read_to_string(data.join("manifest.csv")).unwrap(), manifest, "DIR is as it was");

    // The rest is a data folder like any other; the same seed chooses the same.
    let again = dir.path().join("again");
    succeeded(&split(&again, &[]));
    let names = |out: &Path| -> Vec<_> {
        let mut names: Vec<_> =
            std::fs::read_dir(out.join("real/bar")).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&out), names(&again));
    succeeded(&fit(&out.join("rest"), &dir.path().join("m.onnx"), &[]));

    let error = split(&out, &[]);
    assert!(common::said(&error).contains("not an empty folder"), "{error:?}");
    refused(&split(&data.join("inside"), &[]), &data.join("inside"), &["inside --data"]);
    std::fs::write(data.join("boxes.csv"), "picture,x1\na,1\n").unwrap();
    let broken = dir.path().join("broken");
    refused(&split(&broken, &[]), &broken, &["boxes.csv", "no column `file`"]);
}

#[test]
fn lots_in_folders_and_a_mask_of_several_pictures_survive_a_split() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("d"), dir.path().join("out"));
    write_parts(&data.join("train/good"), 12, 0, false);
    let mut manifest = "file,mask\n".to_owned();
    for lot in 1..4 {
        write_parts(&data.join(format!("test/good/lot{lot}")), 2, 100 + lot * 10, false);
        write_parts(&data.join(format!("test/bar/lot{lot}")), 2, 200 + lot * 10, true);
        for i in 0..2 {
            manifest += &format!("test/bar/lot{lot}/00{i}.png,masks/bar.png\n");
        }
    }
    std::fs::create_dir(data.join("masks")).unwrap();
    let mask = data.join("masks/bar.png");
    let bar = |i: u32| u8::from((24..30).contains(&(i / 64)) && (20..50).contains(&(i % 64)));
    Image::new(64, 64, 1, (0..64 * 64).map(bar).collect()).unwrap().write_png(&mask).unwrap();
    std::fs::write(data.join("manifest.csv"), manifest).unwrap();
    let before = std::fs::read(&mask).unwrap();
    succeeded(&run(&["split", "--real", "1"], &[("--data", &data), ("--out", &out)]));
    assert_eq!(std::fs::read(&mask).unwrap(), before, "links to one file are not written over");

    let input = Input { width: 64, height: 64, channels: 1 };
    let known = real::load(&out.join("real"), input, None).unwrap().defects;
    assert_eq!(known.len(), 2, "one lot, which is both its pictures");
    let lots: Vec<&str> = known.iter().map(|d| d.name.rsplit_once('/').unwrap().0).collect();
    assert_eq!(lots[0], lots[1]);
    assert!(known.iter().all(|d| d.class == "bar" && d.is_exact() && d.mask.iter().sum::<f32>() == 180.0));
    let lot = lots[0].rsplit('/').next().unwrap();
    for class in ["good", "bar"] {
        assert!(
            !out.join("rest/test").join(class).join(lot).exists(),
            "{class} of {lot} moved or is left out"
        );
    }
    let rest = truth::find(&out.join("rest")).unwrap();
    assert_eq!(rest.pictures.iter().filter(|p| p.mask.is_some()).count(), 4, "{rest:?}");
}

#[test]
fn known_defects_are_seen_as_the_goods_are_and_what_is_of_no_use_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (data, known, out) = (dir.path().join("d"), dir.path().join("known"), dir.path().join("m.onnx"));
    write_parts(&data, 16, 0, false);
    write_parts(&known.join("bar"), 3, 100, true);
    std::fs::write(
        known.join("boxes.csv"),
        "file,x1,y1,x2,y2\nbar/000.png,0,0,9,9\nbar/001.png,20,24,50,30\n",
    )
    .unwrap();
    let mask = dir.path().join("mask.png");
    let right = (0..64 * 64u32).map(|i| if i % 64 >= 60 { 0 } else { 255 }).collect();
    Image::new(64, 64, 1, right).unwrap().write_png(&mask).unwrap();
    let fit = |more: &[&str]| {
        let words = ["fit", "--variant", "xxs", "--steps", "2", "--threads", "1"];
        run(&[&words, more].concat(), &[("--data", &data), ("--out", &out), ("--real", &known)])
    };
    let told = succeeded(&fit(&["--size", "32", "--roi", "10,10,50,50"]));
    assert!(
        told.contains("2 known defects") && told.contains("1 of 3 known defects lie outside --roi"),
        "{told}"
    );
    let told = succeeded(&fit(&[
        "--size",
        "64",
        "--crop",
        "32",
        "--mask",
        mask.to_str().unwrap(),
        "--symmetry",
        "flip",
    ]));
    assert!(told.contains("1 of them have no mask"), "the one without a box: {told}");
    assert!(told.contains("6 % of each picture is ignored"), "{told}");
    assert!(told.contains("turns each picture 4 ways, of which only 2 leave --mask"), "{told}");
    let far = fit(&["--size", "32", "--roi", "10,40,9,9"]);
    assert!(succeeded(&far).contains("1 known defects"), "the one of which nothing is known");
    std::fs::remove_file(known.join("bar/002.png")).unwrap();
    let none = dir.path().join("none.onnx");
    let words = ["fit", "--size", "32", "--roi", "10,40,9,9"];
    let paths = [("--data", data.as_path()), ("--out", &none), ("--real", &known)];
    refused(&run(&words, &paths), &none, &["all 2 pictures lie outside --roi"]);
}

#[test]
fn what_cannot_be_split_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("d"), dir.path().join("out"));
    let split = || run(&["split", "--real", "1"], &[("--data", &data), ("--out", &out)]);
    refused(&split(), &out, &["train/good"]);
    write_parts(&data.join("train/good"), 3, 0, false);
    write_parts(&data.join("test/good"), 2, 0, false);
    refused(&split(), &out, &["no good or no defective"]);
    write_parts(&data.join("test/bar"), 1, 0, true);
    refused(&split(), &out, &["emptying a class", "bar: 1 group"]);
    part(1, true).write_png(&data.join("test/stray.png")).unwrap();
    refused(&split(), &out, &["test/stray.png lies in no folder"]);
}
