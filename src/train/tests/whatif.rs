//! `defects whatif` as its user meets it: a strip over a parameter, what is known and what is a guess, refusals.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Output;

use common::{part, refused, run, said, succeeded, write_parts};
use inspect_core::image::Image;
use inspect_train::data::{Look, find_some, images_below, load};
use serde_json::Value;

const FIT: [&str; 19] = [
    "defects",
    "fit",
    "--kind",
    "vae",
    "--family",
    "stain,spot",
    "--size",
    "64",
    "--side",
    "32",
    "--width",
    "8",
    "--batch",
    "8",
    "--threads",
    "1",
    "--symmetry",
    "none",
    "--steps",
];
/// Enough to follow wear, as a test below shows.
const STEPS: &str = "300";

fn fit(data: &Path, out: &Path, steps: &str) {
    succeeded(&run(&[&FIT[..], &[steps]].concat(), &[("--data", data), ("--out", out)]));
}

fn whatif(generator: &Path, data: &Path, out: &Path, more: &[&str]) -> Output {
    let words = [&["defects", "whatif"], more].concat();
    run(&words, &[("--generator", generator), ("--data", data), ("--out", out)])
}

/// Standard output alone.
fn told(output: &Output) -> String {
    succeeded(output);
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Writes patches of a class, the k-th at `levels[k]`.
fn write_patches(dir: &Path, class: &str, levels: &[u8]) {
    let folders = [dir.join("test").join(class), dir.join("ground_truth").join(class)];
    folders.iter().for_each(|f| std::fs::create_dir_all(f).unwrap());
    for (k, level) in levels.iter().enumerate() {
        let good = part(100 + k as u64, false);
        let (mut pixels, mut mask) = (good.data().to_vec(), vec![0; 64 * 64]);
        let (left, top) = (22 + k * 3 % 10, 24 + k * 5 % 7);
        for i in (0..9 * 12).map(|i| (top + i / 12) * 64 + left + i % 12) {
            (pixels[i], mask[i]) = (*level, 255);
        }
        let write =
            |pixels: Vec<u8>, path: PathBuf| Image::new(64, 64, 1, pixels).unwrap().write_png(&path).unwrap();
        write(pixels, folders[0].join(format!("{k}.png")));
        write(mask, folders[1].join(format!("{k}_mask.png")));
    }
}

/// 14 goods. Patches that are the darker the more worn the tool was, in two groups of wear with nothing between 0.2
/// and 1.8, and with a feed that never varied. Holes whose heat is known, rare ones of which there are two.
fn data() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_parts(&dir.path().join("train/good"), 14, 0, false);
    let wear = [0.0, 0.05, 0.1, 0.15, 0.2, 1.8, 1.85, 1.9, 1.95, 2.0];
    let levels: Vec<u8> = wear.iter().map(|w| 170 - (80.0 * w) as u8).collect();
    write_patches(dir.path(), "patch", &levels);
    write_patches(dir.path(), "hole", &[10; 6]);
    write_patches(dir.path(), "rare", &[250; 2]);
    let mut rows = "file,caption,wear,feed,heat\n".to_owned();
    for (k, wear) in wear.iter().enumerate() {
        rows += &format!("test/patch/{k}.png,a patch,{wear},5,\n");
    }
    for k in 0..6 {
        rows += &format!("test/hole/{k}.png,a hole,,,{}\n", 100 + k);
    }
    std::fs::write(dir.path().join("manifest.csv"), rows).unwrap();
    dir
}

/// Every line of whatif.csv as its columns.
fn table(out: &Path) -> Vec<std::collections::BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_path(out.join("whatif.csv")).unwrap();
    reader.deserialize().map(|row| row.unwrap()).collect()
}

#[test]
fn a_strip_shows_the_trend_and_outside_of_the_mask_each_picture_is_its_good() {
    let (data, dir) = (data(), tempfile::tempdir().unwrap());
    let generator = dir.path().join("g");
    fit(data.path(), &generator, STEPS);
    let out = dir.path().join("out");
    let asked = ["--set", "wear=1.9", "--set", "feed=5", "--text", "a patch", "--steps", "6", "--rows", "2"];
    let stdout = told(&whatif(&generator, data.path(), &out, &asked));

    // The strip: the good and six tiles a row, the asked one in red; two rows.
    let strip = Image::read(&out.join("strip.png")).unwrap();
    assert_eq!(strip.width(), 6 + 7 * 166);
    let red = strip.data().chunks_exact(3).filter(|p| **p == [230, 30, 30]).count();
    assert_eq!(red, 2 * (166 * 166 - 160 * 160));

    let lines = table(&out);
    assert_eq!(lines.len(), 12);
    let of = |row: &str, column: &str| -> Vec<String> {
        lines.iter().filter(|l| l["row"] == row).map(|l| l[column].clone()).collect()
    };
    assert_eq!(of("1", "value"), ["0", "0.4", "0.8", "1.2", "1.9", "2"], "1.9 in place of 1.6");
    assert_eq!(of("2", "value"), of("1", "value"));
    assert_eq!(of("1", "asked"), ["no", "no", "no", "no", "yes", "no"]);
    // Nobody saw wear between the groups.
    assert_eq!(of("1", "basis"), ["learnt", "learnt", "none_near", "none_near", "learnt", "learnt"]);
    assert_eq!((of("1", "near")[4].as_str(), of("1", "of")[4].as_str()), ("5", "10"));
    assert!(of("1", "distance")[4] == "0.0000" && of("1", "distance")[2].parse::<f64>().unwrap() > 0.3);

    // The pictures, as any tool reads them: the good to the bit but in the mask, which stays along a row.
    let goods = load(&find_some(data.path(), 1).unwrap(), &Look::at(64), &mut |_, _| {}).unwrap();
    let read = |path: &Path| Image::read(path).unwrap().data().to_vec();
    let (mut masks, mut pictures) = (BTreeSet::new(), BTreeSet::new());
    for line in &lines {
        let good = &goods.pixels[goods.names.iter().position(|n| *n == line["good"]).unwrap()];
        let picture = read(&out.join(&line["file"]));
        let beside = |folder: &str, end: &str| {
            out.join(line["file"].replace("/test/", &format!("/{folder}/")).replace(".png", end))
        };
        let mask = read(&beside("ground_truth", "_mask.png"));
        assert_eq!(read(&beside("twin", ".png")), *good);
        let inside: Vec<usize> = (0..64 * 64).filter(|i| mask[*i] == 255).collect();
        assert!((20..32 * 32).contains(&inside.len()));
        assert!((0..64 * 64).all(|i| mask[i] == 255 || picture[i] == good[i]), "{}", line["file"]);
        let mean = inside.iter().map(|i| f64::from(picture[*i])).sum::<f64>() / inside.len() as f64;
        assert!((line["brightness"].parse::<f64>().unwrap() - mean).abs() < 1e-3);
        masks.insert((line["row"].clone(), mask));
        pictures.insert(picture);
    }
    assert_eq!((masks.len(), pictures.len()), (2, 12));
    let manifest = inspect_train::data::manifest::read(&out.join("pictures/manifest.csv")).unwrap();
    assert_eq!(manifest["test/patch/0004.png"].parameters["wear"], 1.9);
    assert_eq!(images_below(&out.join("pictures/test")).unwrap().len(), 12);

    // More wear, darker: of the real pictures, and of the made ones.
    let trend = stdout.lines().find(|l| l.starts_with("trend=brightness")).unwrap();
    assert!(trend.contains("direction=falls") && trend.contains("rows=2 tiles=6"), "{stdout}");
    assert!(
        trend.contains("real_direction=falls real_rho=-1.0000") && trend.contains("real_pictures=10"),
        "{trend}"
    );
    let real = |name: &str| {
        let value = trend.split_once(&format!("{name}=")).unwrap().1.split(' ').next().unwrap();
        value.parse::<f64>().unwrap()
    };
    assert!(real("real_from") > real("real_to") + 5.0, "{trend}");
    let value = stdout.lines().find(|l| l.starts_with("value=1.9 ")).unwrap();
    assert!(value.contains("basis=learnt asked=yes distance=0.0000 near=5 of=10 brightness="), "{value}");

    // The same question, the same bytes; another seed, others.
    for (name, seed) in [("again", "0"), ("other", "1")] {
        let again = dir.path().join(name);
        told(&whatif(&generator, data.path(), &again, &[&asked[..], &["--seed", seed]].concat()));
        for file in ["strip.png", "whatif.csv", "pictures/test/patch/0007.png"] {
            let same = std::fs::read(out.join(file)).unwrap() == std::fs::read(again.join(file)).unwrap();
            assert_eq!(same, seed == "0", "{file} with seed {seed}");
        }
    }
}

#[test]
fn beyond_what_was_learnt_from_is_refused_or_marked_and_what_is_not_known_is_told() {
    let (data, dir) = (data(), tempfile::tempdir().unwrap());
    let generator = dir.path().join("g");
    fit(data.path(), &generator, "20");
    let out = dir.path().join("out");
    let refuses = |more: &[&str], words: &[&str]| {
        refused(&whatif(&generator, data.path(), &out, more), &out, words);
    };
    refuses(&["--set", "wear=2.5"], &["wear=2.5", "0 to 2", "class `patch`", "--extrapolate"]);
    refuses(&["--set", "wear=1..2.1"], &["wear=2.1", "--extrapolate"]);
    refuses(&["--set", "wear=1", "--set", "feed=6"], &["feed=6", "5 to 5"]);
    refuses(&["--set", "wear=99", "--extrapolate"], &["wear=99", "cannot even guess"]);
    refuses(&["--set", "speed=1.4"], &["`speed`", "feed 5 to 5, heat 100 to 105, wear 0 to 2"]);
    refuses(&["--set", "feed=5", "--class", "patch"], &["`feed` was 5 in every picture", "nothing to sweep"]);
    refuses(&["--set", "wear=1", "--class", "rare"], &["`rare` is pasted", "only 2"]);
    refuses(&["--set", "wear=1", "--class", "hole"], &["`hole`", "known `wear`", "known of: patch"]);
    refuses(&["--set", "wear=1", "--class", "stain"], &["`stain`", "known `wear`", "known of: patch"]);
    refuses(&["--set", "wear=1", "--set", "heat=101"], &["no class", "wear of patch; heat of hole"]);
    refuses(&["--set", "wear=1", "--class", "hoel"], &["`hoel`", "hole, patch"]);
    refuses(&["--set", "wear=1", "--text", "a pach"], &["`pach`", "patch"]);
    refuses(&["--set", "wear=2..1"], &["wear=2..1", "lower to the higher"]);
    refuses(&["--set", "wear=0..1", "--set", "heat=100..102"], &["`wear` and `heat` both have a range"]);
    refuses(&["--set", "wear=1", "--set", "wear=2"], &["`wear` is set twice"]);
    refuses(&["--set", "wear=1", "--guidance", "2"], &["--guidance", "kind vae"]);
    // What the command line itself refuses, it does before it reads a file.
    for bad in [["--set", "wear=NaN"], ["--steps", "2"], ["--steps", "25"], ["--rows", "0"], ["--rows", "17"]]
    {
        let more = [&["--set", "wear=1"], &bad[..]].concat();
        let output = whatif(&generator, data.path(), &out, &more);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(bad[1]) && !out.exists(), "{}", said(&output));
    }
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("mine"), "").unwrap();
    let full = whatif(&generator, data.path(), &out, &["--set", "wear=1"]);
    assert!(!full.status.success() && said(&full).contains("not an empty folder"), "{}", said(&full));

    // A guess that is allowed says so: orange dashes, red ones where it was asked for.
    let png = dir.path().join("far.png");
    let far = ["--set", "wear=3", "--extrapolate", "--steps", "4", "--rows", "1", "--json"];
    let output = whatif(&generator, data.path(), &png, &far);
    let answer: Value = serde_json::from_str(&told(&output)).unwrap();
    assert!(said(&output).contains("1 of 4 values lie beyond what was learnt from"), "{}", said(&output));
    let list = |of: &str| -> Vec<Value> {
        answer["values"].as_array().unwrap().iter().map(|v| v[of].clone()).collect()
    };
    assert_eq!(list("value"), [0.0, 1.0, 2.0, 3.0]);
    assert_eq!(list("basis"), ["learnt", "none_near", "learnt", "beyond"]);
    assert_eq!(list("asked"), [false, false, false, true]);
    assert_eq!((&answer["parameter"], &answer["class"]), (&"wear".into(), &"patch".into()));
    assert_eq!(
        (answer["learnt"]["high"].as_f64(), answer["learnt"]["count"].as_u64()),
        (Some(2.0), Some(10))
    );
    assert_eq!(answer["trends"][0]["tiles"], 3, "a guess is no part of a trend");
    assert_eq!(answer["trends"][0]["direction"], "unclear");
    let strip = Image::read(&png).unwrap();
    let count = |colour: [u8; 3]| strip.data().chunks_exact(3).filter(|p| **p == colour).count();
    let whole = 166 * 166 - 160 * 160;
    assert!(count([230, 30, 30]) * 3 > whole && count([230, 30, 30]) < whole, "red dashes");
    assert!(count([240, 170, 40]) * 3 > whole && count([240, 170, 40]) < whole, "orange dashes");
    assert!(!out.join("strip.png").exists());
    // A class that never had the parameter: every value is a guess.
    let guess = ["--set", "wear=1", "--class", "hole", "--extrapolate", "--rows", "1", "--json"];
    let answer: Value = serde_json::from_str(&told(&whatif(&generator, data.path(), &png, &guess))).unwrap();
    assert!(
        answer["values"]
            .as_array()
            .unwrap()
            .iter()
            .all(|v| v["basis"] == "beyond" && v["distance"].is_null())
    );
}

#[test]
fn a_generator_without_parameters_says_so() {
    let dir = tempfile::tempdir().unwrap();
    write_parts(&dir.path().join("train/good"), 14, 0, false);
    let generator = dir.path().join("g");
    fit(dir.path(), &generator, "3");
    let out = dir.path().join("out");
    let words = ["no process parameters", "manifest.csv"];
    refused(&whatif(&generator, dir.path(), &out, &["--set", "wear=1"]), &out, &words);
}
