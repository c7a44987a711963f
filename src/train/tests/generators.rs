//! Generators as their user meets them: fit, stop, resume, sample, and what is told when something is wrong.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Output;

use common::{part, program, refused, run, said, succeeded, write_defects, write_parts};
use inspect_core::card::Input;
use inspect_core::image::Image;
use inspect_train::data::{Look, find_some, load};
use inspect_train::{data::manifest, truth};

const FIT: [&str; 15] = [
    "defects",
    "fit",
    "--kind",
    "vae",
    "--size",
    "64",
    "--side",
    "32",
    "--width",
    "8",
    "--batch",
    "4",
    "--threads",
    "1",
    "--steps",
];

/// Of a fit that is stopped on the way.
const STEPS: &str = "30";

fn fit(data: &Path, out: &Path, steps: &str, more: &[&str]) -> Output {
    run(&[&FIT[..], &[steps], more].concat(), &[("--data", data), ("--out", out)])
}

fn sample(generator: &Path, data: &Path, out: &Path, more: &[&str]) -> Output {
    let words = [&["defects", "sample"], more].concat();
    run(&words, &[("--generator", generator), ("--data", data), ("--out", out)])
}

/// 16 goods; 6 pictures of a dark patch with captions and wear; one of a rare defect.
fn data() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_parts(&dir.path().join("train/good"), 16, 0, false);
    write_defects(dir.path(), "patch", 6, 20, true);
    write_defects(dir.path(), "rare", 1, 250, true);
    let mut rows = "file,caption,wear,feed\n".to_owned();
    for i in 0..6 {
        let caption = if i == 5 { "" } else { ["a dark patch", "small dark patch on the disc"][i % 2] };
        rows += &format!("test/patch/{i}.png,{caption},0.{i},{}\n", if i == 2 { "" } else { "5" });
    }
    std::fs::write(dir.path().join("manifest.csv"), rows).unwrap();
    dir
}

/// A generator that was fitted once for all tests of a group.
fn fitted(data: &Path) -> (tempfile::TempDir, PathBuf) {
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("g.safetensors");
    let said = succeeded(&fit(data, &file, "40", &[]));
    assert!(said.contains("class patch: 6 real defects to learn from"), "{said}");
    assert!(said.contains("class rare: 1 real defects are too few"), "{said}");
    (out, file)
}

fn pictures(dir: &Path) -> Vec<PathBuf> {
    inspect_train::data::images_below(&dir.join("test")).unwrap()
}

#[test]
fn made_pictures_are_their_goods_outside_of_the_mask_and_every_tool_reads_them() {
    let data = data();
    let (out, generator) = fitted(data.path());
    let set = out.path().join("set");
    let told = succeeded(&sample(&generator, data.path(), &set, &["--count", "8", "--seed", "3"]));
    assert!(told.contains("class rare: real defects are pasted"), "{told}");
    assert!(set.join("sheet.png").is_file());

    let goods = load(&find_some(data.path(), 1).unwrap(), &Look::at(64), &mut |_, _| {}).unwrap();
    let mut table = csv::Reader::from_path(set.join("manifest.csv")).unwrap();
    let columns: Vec<String> = table.headers().unwrap().iter().map(str::to_owned).collect();
    let of_set = ["origin", "seed", "generator", "good"];
    assert_eq!(columns, [&["file", "mask", "group", "caption", "feed", "wear"][..], &of_set].concat());
    let mut classes = std::collections::BTreeSet::new();
    for row in table.records() {
        let row = row.unwrap();
        let picture = Image::read(&set.join(&row[0])).unwrap();
        let mask = Image::read(&set.join(&row[1])).unwrap();
        let good = &goods.pixels[goods.names.iter().position(|n| *n == row[9]).unwrap()];
        let mut marked = 0;
        for ((new, old), m) in picture.data().iter().zip(good).zip(mask.data()) {
            assert!(if *m == 255 { new.abs_diff(*old) > 5 } else { new == old }, "the label is what changed");
            marked += usize::from(*m == 255);
        }
        assert!((2..64 * 32).contains(&marked), "{marked} pixels");
        // What the generator leaves as it was is the good, to the bit: nothing outside of its crop of 32 pixels.
        let changed = |along: fn(usize) -> usize| {
            let all = picture.data().iter().zip(good).enumerate().filter(|(_, (a, b))| a != b);
            let at: Vec<usize> = all.map(|(i, _)| along(i)).collect();
            at.iter().max().unwrap() - at.iter().min().unwrap() + 1
        };
        assert!(changed(|i| i % 64) <= 32 && changed(|i| i / 64) <= 32);
        assert_eq!(row[8].len(), 64);
        assert_eq!(&row[6], if row[0].contains("/rare/") { "pasted" } else { "drawn" });
        classes.insert(row[0].split('/').nth(1).unwrap().to_owned());
    }
    assert_eq!(classes.into_iter().collect::<Vec<_>>(), ["patch", "rare"]);
    let rows = manifest::read(&set.join("manifest.csv")).unwrap();
    assert_eq!(rows.len(), 8);
    let input = Input { width: 64, height: 64, channels: 1 };
    let found = inspect_train::generators::known::find(&set, input, None, true).unwrap();
    assert_eq!(found.defects.len(), 8);
    std::fs::create_dir_all(set.join("test/good")).unwrap();
    part(1, false).write_png(&set.join("test/good/0.png")).unwrap();
    assert!(truth::find(&set).unwrap().pictures.iter().filter(|p| p.mask.is_some()).count() == 8);
}

#[test]
fn the_same_seed_makes_the_same_pictures_and_conditions_that_are_not_known_are_refused() {
    let data = data();
    let (out, generator) = fitted(data.path());
    let asked = ["--count", "5", "--class", "patch", "--text", "Dark patch", "--set", "wear=0.2"];
    let made = |name: &str, seed: &str| {
        let set = out.path().join(name);
        let told =
            succeeded(&sample(&generator, data.path(), &set, &[&asked[..], &["--seed", seed]].concat()));
        assert!(told.contains("0.00 standard deviations"), "{told}");
        let pixels: Vec<Vec<u8>> =
            pictures(&set).iter().map(|p| Image::read(p).unwrap().data().to_vec()).collect();
        let row = std::fs::read_to_string(set.join("manifest.csv")).unwrap();
        assert!(row.contains("Dark patch") && row.contains(",0.2,"), "{row}");
        pixels
    };
    let first = made("a", "1");
    assert!(first == made("b", "1"));
    assert!(first != made("c", "2"));
    // Picture k of seed s is picture k - 1 of seed s + 1, so that one can be made again alone.
    assert_eq!(first[1], made("d", "2")[0]);

    let set = out.path().join("no");
    let refuses =
        |more: &[&str], words: &[&str]| refused(&sample(&generator, data.path(), &set, more), &set, words);
    refuses(&["--class", "hole"], &["`hole`", "patch"]);
    refuses(&["--text", "dark pach"], &["`pach`", "nearest known: patch"]);
    refuses(&["--set", "speed=1"], &["`speed`", "wear 0 to 0.5"]);
    refuses(&["--set", "wear=0.9"], &["wear=0.9", "0 to 0.5", "--extrapolate"]);
    refuses(&["--class", "rare", "--set", "wear=0.1"], &["pasted", "only 1"]);
    refuses(&["--between", "test/patch/0.png", "test/patch/77.png"], &[".png file"]);
    let beyond = ["--set", "wear=0.9", "--extrapolate", "--count", "2"];
    let told = succeeded(&sample(&generator, data.path(), &out.path().join("far"), &beyond));
    assert!(!told.contains(" 0.00 standard deviations"), "{told}");
    let again = sample(&generator, data.path(), &out.path().join("a"), &[]);
    assert!(!again.status.success() && said(&again).contains("not an empty folder"), "{}", said(&again));
    std::fs::write(out.path().join("torn"), &std::fs::read(&generator).unwrap()[..5000]).unwrap();
    let torn = sample(&out.path().join("torn"), data.path(), &set, &[]);
    refused(&torn, &set, &["torn", "expected a generator file"]);

    let strip = out.path().join("strip.png");
    let between = ["--between", "test/patch/0.png", "test/rare/0.png", "--count", "5"];
    succeeded(&sample(&generator, data.path(), &strip, &between));
    assert_eq!(Image::read(&strip).unwrap().width(), 6 + 5 * (128 + 6));
}

#[test]
fn a_killed_and_an_interrupted_fit_go_on_to_the_same_generator() {
    let data = data();
    let out = tempfile::tempdir().unwrap();
    let straight = out.path().join("straight");
    succeeded(&fit(data.path(), &straight, STEPS, &[]));
    let expected = std::fs::read(&straight).unwrap();
    assert!(!out.path().join("straight.checkpoint").exists());
    for signal in ["KILL", "INT"] {
        let (file, checkpoint) = (out.path().join(signal), out.path().join(format!("{signal}.checkpoint")));
        let mut command = program();
        command.args(FIT).args([STEPS, "--checkpoint-s", "0", "--data"]).arg(data.path());
        common::stopped(signal, command.arg("--out").arg(&file), &file, &checkpoint);
        let other = fit(data.path(), &file, STEPS, &["--resume", "--seed", "9"]);
        assert!(said(&other).contains("--seed was 0, now 9"), "{}", said(&other));
        succeeded(&fit(data.path(), &file, STEPS, &["--resume"]));
        assert!(std::fs::read(&file).unwrap() == expected, "{signal}: the resumed generator differs");
        assert!(!checkpoint.exists());
    }
}

#[test]
fn what_cannot_be_learnt_from_is_told() {
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("g");
    let dir = tempfile::tempdir().unwrap();
    write_parts(&dir.path().join("train/good"), 14, 0, false);
    // Pictures of two sizes, no defect at all: procedural ones.
    let large = part(3, false);
    let rows: Vec<u8> = large.data().chunks(64).flat_map(|row| [row, &row[..32]].concat()).collect();
    Image::new(96, 64, 1, rows).unwrap().write_png(&dir.path().join("train/good/wide.png")).unwrap();
    let told = succeeded(&fit(dir.path(), &file, "3", &["--family", "stain,scratch"]));
    assert!(told.contains("no real defects") && told.contains("2 different sizes"), "{told}");
    let set = out.path().join("set");
    succeeded(&sample(&file, dir.path(), &set, &["--class", "stain", "--count", "3"]));
    std::fs::remove_file(&file).unwrap();

    write_defects(dir.path(), "bare", 5, 20, false);
    refused(&fit(dir.path(), &file, "3", &[]), &file, &["none of its 5 pictures", "_mask.png"]);
    // One defect: nothing is learnt from it, and it is pasted.
    write_defects(dir.path(), "one", 1, 20, true);
    let told = succeeded(&fit(dir.path(), &file, "3", &[]));
    assert!(told.contains("5 of 6 pictures of defects have no mask"), "{told}");
    assert!(told.contains("class one: 1 real defects are too few"), "{told}");
    let pasted = out.path().join("pasted");
    succeeded(&sample(&file, dir.path(), &pasted, &["--class", "one", "--count", "3"]));
    std::fs::remove_file(&file).unwrap();

    for (more, words) in [
        (&["--side", "80"][..], ["--side 80", "at most --size 64"]),
        (&["--side", "40"], ["--side 40", "multiple of 16"]),
        (&["--width", "12"], ["--width 12", "multiple of 8"]),
        (&["--real", "/nowhere/real"], ["/nowhere/real", "No such file"]),
    ] {
        let words = words.to_vec();
        let base = [&FIT[..12], &["--threads", "1", "--steps", "3"]].concat();
        let kept: Vec<&str> = match more[0] {
            "--side" | "--width" => {
                let at = base.iter().position(|w| *w == more[0]).unwrap();
                [&base[..at], &base[at + 2..], more].concat()
            }
            _ => [&base[..], more].concat(),
        };
        refused(&run(&kept, &[("--data", dir.path()), ("--out", &file)]), &file, &words);
    }
    // A caption that is no sentence of at most 24 words.
    write_defects(dir.path(), "told", 5, 20, true);
    let rows = format!("file,caption\ntest/told/0.png,{}\n", "word ".repeat(30));
    std::fs::write(dir.path().join("manifest.csv"), rows).unwrap();
    refused(&fit(dir.path(), &file, "3", &[]), &file, &["manifest.csv", "30 words"]);
    std::fs::write(
        dir.path().join("manifest.csv"),
        "file,wear\ntest/told/0.png,0.5\ntest/told/1.png,0.7\nx,y\n",
    )
    .unwrap();
    refused(&fit(dir.path(), &file, "3", &[]), &file, &["column `wear` holds 2 numbers and `y`"]);
}
