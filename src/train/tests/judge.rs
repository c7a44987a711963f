//! `defects judge` as its users meet it: sets rendered by rule, files written, odd input told.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "common/network.rs"]
mod network;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use common::{part, program, refused, said, succeeded, write_parts};
use inspect_core::image::Image;
use inspect_train::batches::Symmetry;
use inspect_train::fit::MADE_SHARE;
use inspect_train::judge::{Doing, Report, Run, Settings};
use inspect_train::made::Named;
use inspect_train::net::Variant;

/// A class of defects: its pixels of a picture of 64 x 64, and how grey they are.
type Class = (&'static str, fn(u32, u32, u32) -> bool, u8);

const BAR: Class = ("bar", |x, y, k| (20 + k % 9..24 + k % 9).contains(&y) && (18..46).contains(&x), 20);
const SPOT: Class = ("spot", |x, y, k| x.abs_diff(24 + k % 13) < 5 && y.abs_diff(34 - k % 7) < 5, 245);
const RING: Class =
    ("ring", |x, y, _| (80..150).contains(&(x.abs_diff(32).pow(2) + y.abs_diff(32).pow(2))), 90);

/// `count` defects of a class and their masks, from `first` on, `scale` times as large as the rule draws them.
fn write_class(dir: &Path, (name, inside, grey): Class, first: u32, count: u32, scale: u32) {
    for k in first..first + count {
        let good = part(u64::from(k) + 1_000, false);
        let side = 64 * scale;
        let at = |i: u32| (i % side / scale, i / side / scale);
        let picture = |i: u32| {
            let (x, y) = at(i);
            if inside(x, y, k) { grey } else { good.data()[(y * 64 + x) as usize] }
        };
        let mask = |i: u32| if inside(at(i).0, at(i).1, k) { 255 } else { 0 };
        let write = |path: PathBuf, pixels: Vec<u8>| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            Image::new(side, side, 1, pixels).unwrap().write_png(&path).unwrap();
        };
        write(dir.join(format!("test/{name}/{k:04}.png")), (0..side * side).map(picture).collect());
        let path = dir.join(format!("ground_truth/{name}/{k:04}_mask.png"));
        write(path, (0..side * side).map(mask).collect());
    }
}

/// Goods, and eight real defects of either class.
fn data() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_parts(&dir.path().join("train/good"), 24, 0, false);
    write_parts(&dir.path().join("test/good"), 10, 500, false);
    write_class(dir.path(), BAR, 0, 8, 1);
    write_class(dir.path(), SPOT, 0, 8, 1);
    dir
}

fn made(classes: &[Class], first: u32, count: u32, scale: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    classes.iter().for_each(|class| write_class(dir.path(), *class, first, count, scale));
    dir
}

fn command(data: &Path, sets: &[(&str, &Path)], report: &Path, more: &[&str]) -> Command {
    let mut command = program();
    command.args(["defects", "judge", "--size", "32"]).args(more);
    command.arg("--data").arg(data).arg("--report").arg(report);
    for (name, dir) in sets {
        command.arg("--made").arg(format!("{name}={}", dir.display()));
    }
    command
}

fn judge(data: &Path, sets: &[(&str, &Path)], report: &Path, more: &[&str]) -> Output {
    command(data, sets, report, more).output().unwrap()
}

fn read(report: &Path) -> Report {
    serde_json::from_slice(&std::fs::read(report.join("judge.json")).unwrap()).unwrap()
}

#[test]
fn sets_are_judged_from_end_to_end() {
    let (data, out) = (data(), tempfile::tempdir().unwrap());
    // Defects of the same rule that nobody has seen.
    let twin = made(&[BAR, SPOT], 100, 10, 1);
    let report = out.path().join("new/report");
    let output = judge(data.path(), &[("twin", twin.path())], &report, &["--seeds", "2", "--steps", "25"]);
    let said = succeeded(&output);
    assert_eq!(said.lines().filter(|l| l.starts_with("twin ")).count(), 1, "{said}");

    let got = read(&report);
    assert_eq!((got.real.crops, got.sets.len(), got.stopped), (16, 2, false));
    let [procedural, twin] = [0, 1].map(|k| &got.sets[k]);
    assert_eq!((procedural.set.name.as_str(), twin.set.name.as_str()), ("procedural", "twin"));
    // Of one rule: nearer than procedural ones are, of the right class, and no more alike than real ones.
    assert!(twin.kid.unwrap().value < procedural.kid.unwrap().value, "{:?} {:?}", twin.kid, procedural.kid);
    let [by_chance, told] = [twin, procedural].map(|s| s.two_sample.unwrap());
    assert!(by_chance.p_value > 0.01 && told.p_value < 0.01, "{by_chance:?} {told:?}");
    let obeyed = twin.condition.as_ref().unwrap();
    assert!(obeyed.made.accuracy > 0.9 && obeyed.real.accuracy > 0.9, "{obeyed:?}");
    assert!((0.5..2.0).contains(&twin.diversity.unwrap().ratio));

    let fits = got.fits.as_ref().unwrap();
    // Two seeds of: procedural once, the whole set, and the set with either class left out.
    assert_eq!((fits.fits, fits.seeds, fits.left_out.len(), fits.good, fits.defective), (8, 2, 2, 10, 16));
    assert_eq!(fits.arms.len(), 2);
    let gain = twin.gain.as_ref().unwrap();
    for gains in [&gain.shown, gain.left_out.as_ref().unwrap()] {
        assert!(gains.image_precision.interval.is_some() && gains.pixel_precision.is_some(), "{gains:?}");
        assert_eq!(gains.image_precision.seeds.len(), 2);
    }
    assert_ne!(gain.shown, *gain.left_out.as_ref().unwrap());
    assert!(got.not_shown.iter().any(|s| s.contains("--trained-on")));

    let html = std::fs::read_to_string(report.join("judge.html")).unwrap();
    for words in ["What this does not show", "no FID", &got.space.sha256, "<svg", "data:image/jpeg"] {
        assert!(html.contains(words), "no `{words}`");
    }
    assert!(!html.contains("<script") && !html.replace("http://www.w3.org/2000/svg", "").contains("http"));
    let key = std::fs::read_to_string(report.join("blind_key.csv")).unwrap();
    let blind = got.blind.unwrap();
    assert_eq!(key.lines().count(), 1 + blind.real + blind.made);
    assert!(Image::read(&report.join("blind.png")).is_ok());
}

#[test]
fn crops_are_compared_by_the_users_own_network_where_one_is_given() {
    let (data, twins, report) = (data(), made(&[BAR, SPOT], 40, 8, 1), tempfile::tempdir().unwrap());
    let own = report.path().join("own.onnx");
    network::write(&network::network(3, 17), &own);
    let sets = [("twins", twins.path())];
    let seen = |more: &[&str]| {
        succeeded(&judge(data.path(), &sets, report.path(), &[&["--seeds", "0"], more].concat()));
        read(report.path())
    };
    let (random, by_own) = (seen(&[]), seen(&["--backbone", own.to_str().unwrap()]));
    let sha256 = inspect_core::model::sha256(&std::fs::read(&own).unwrap());
    assert!(by_own.space.name.contains(&sha256) && by_own.space.sha256 != random.space.sha256);
    assert_eq!(by_own.space.features as i64, 2 * (network::WIDTHS[2] + network::WIDTHS[3]));
    assert!(by_own.sets.iter().all(|set| set.kid.is_some() == random.sets[0].kid.is_some()));
    std::fs::write(&own, b"no network").unwrap();
    let output =
        judge(data.path(), &sets, report.path(), &["--seeds", "0", "--backbone", own.to_str().unwrap()]);
    assert!(!output.status.success() && said(&output).contains("own.onnx"), "{}", said(&output));
}

#[test]
fn every_field_of_the_json_is_explained() {
    let (data, set, out) = (data(), made(&[BAR, RING], 50, 4, 1), tempfile::tempdir().unwrap());
    succeeded(&judge(data.path(), &[("gan", set.path())], out.path(), &["--seeds", "1", "--steps", "2"]));
    let explained = include_str!("../judge/fields.md");
    let mut left = vec![serde_json::to_value(read(out.path())).unwrap()];
    while let Some(value) = left.pop() {
        match value {
            serde_json::Value::Object(fields) => {
                for (name, value) in fields {
                    if name == "classes" || name == "unknown" {
                        continue; // their fields are names of classes
                    }
                    left.push(value);
                    let known =
                        ["`", ", ", "{"].iter().any(|before| explained.contains(&format!("{before}{name}")));
                    assert!(known || ["low", "high"].contains(&name.as_str()), "fields.md lacks `{name}`");
                }
            }
            serde_json::Value::Array(values) => left.extend(values),
            _ => {}
        }
    }
}

#[test]
fn copies_of_training_defects_are_told_from_new_ones_of_the_same_rule() {
    let (data, out, trained) = (data(), tempfile::tempdir().unwrap(), made(&[BAR, SPOT], 40, 8, 1));
    // What was trained on once more, and defects that nobody has seen, at twice the size.
    let (copy, twin) = (made(&[BAR, SPOT], 40, 8, 1), made(&[BAR, SPOT], 100, 10, 2));
    let more = ["--seeds", "0", "--trained-on", trained.path().to_str().unwrap()];
    // Two of the copies are pasted, and say so.
    let rows = "file,origin\ntest/bar/0040.png,pasted\ntest/spot/0041.png,pasted\ntest/bar/0042.png,drawn\n";
    std::fs::write(copy.path().join("manifest.csv"), rows).unwrap();
    succeeded(&judge(data.path(), &[("copy", copy.path()), ("twin", twin.path())], out.path(), &more));
    let got = read(out.path());
    assert_eq!([1, 2].map(|k| (got.sets[k].set.pasted, got.sets[k].set.crops)), [(2, 16), (0, 20)]);
    assert!(
        got.not_shown.iter().any(|s| s.contains("2 of the 16 defects of `copy` are real ones put on goods"))
    );
    assert_eq!(got.space.picture_px, [64, 64], "the smaller set's");
    let [copy, twin] = [1, 2].map(|k| got.sets[k].copies.as_ref().unwrap());
    assert!(copy.count == 14 && copy.pairs.iter().all(|p| !p.made.ends_with("bar/0040.png")));
    assert!(
        copy.apart && copy.share == 1.0 && copy.nearer > 0.95 && copy.pairs[0].distance < 1e-9,
        "{copy:?}"
    );
    assert!(twin.count <= 8 && twin.nearer < 0.9, "{twin:?}");
    assert!(!got.not_shown.iter().any(|s| s.contains("--trained-on")));
}

#[test]
fn odd_sets_give_the_right_result_or_say_what_is_missing() {
    let (data, out) = (data(), tempfile::tempdir().unwrap());
    // A class that real ones lack, in a set of another size.
    let ring = made(&[BAR, RING], 50, 5, 3);
    succeeded(&judge(data.path(), &[("gan", ring.path())], out.path(), &["--seeds", "0"]));
    let got = read(out.path());
    assert!(got.fits.is_none() && got.sets[1].condition.as_ref().unwrap().unknown["ring"] == 5);
    assert!(got.not_shown.iter().any(|s| s.contains("ring")) && got.not_shown[0].contains("--seeds 0"));

    // One real defect: what cannot be had is null, and the reader is told.
    let one = tempfile::tempdir().unwrap();
    write_parts(&one.path().join("train/good"), 4, 0, false);
    write_class(one.path(), BAR, 0, 1, 1);
    succeeded(&judge(one.path(), &[("gan", ring.path())], out.path(), &["--seeds", "0"]));
    let got = read(out.path());
    let set = &got.sets[1];
    assert!(set.kid.is_none() && set.density_coverage.is_none() && set.two_sample.is_none());
    assert!(got.not_shown.iter().any(|s| s.contains("1 real defect(s) are few")), "{:?}", got.not_shown);
}

#[test]
fn bad_input_is_told_before_any_fit() {
    let (data, set, out) = (data(), made(&[BAR], 50, 4, 1), tempfile::tempdir().unwrap());
    let (report, empty) = (out.path().join("report"), tempfile::tempdir().unwrap());
    let json = report.join("judge.json");
    let gan = [("gan", set.path())];
    refused(&judge(data.path(), &[("gan", empty.path())], &report, &[]), &json, &["no folder `test`"]);
    std::fs::create_dir_all(empty.path().join("test/bar")).unwrap();
    refused(&judge(data.path(), &[("gan", empty.path())], &report, &[]), &json, &["no picture of a defect"]);
    refused(&judge(empty.path(), &gan, &report, &[]), &json, &["no pictures of defects"]);
    let against = ["--against", "vae"];
    refused(&judge(data.path(), &gan, &report, &against), &json, &["--against vae", "`gan`"]);
    refused(&judge(data.path(), &[gan[0], gan[0]], &report, &[]), &json, &["--made", "`gan`"]);
    let leak = ["--trained-on", data.path().to_str().unwrap()];
    refused(&judge(data.path(), &gan, &report, &leak), &json, &["same defect", "--trained-on"]);

    std::fs::remove_file(set.path().join("ground_truth/bar/0051_mask.png")).unwrap();
    refused(&judge(data.path(), &gan, &report, &[]), &json, &["0051_mask.png", "not there"]);
    std::fs::remove_dir_all(data.path().join("ground_truth")).unwrap();
    refused(&judge(data.path(), &gan, &report, &[]), &json, &["none of its 16 pictures", "mask"]);
}

#[test]
fn an_interrupted_judgement_writes_what_is_done() {
    let (data, set, out) = (data(), made(&[BAR, SPOT], 50, 4, 1), tempfile::tempdir().unwrap());
    let more = ["--seeds", "9", "--steps", "1000000"];
    let mut child = command(data.path(), &[("gan", set.path())], out.path(), &more)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("fit 1 of ")), "no fit began");
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    let got = read(out.path());
    assert!(got.stopped && got.fits.is_none() && got.sets[1].kid.is_some(), "{rest:?}");
    assert!(got.not_shown[0].contains("stopped"), "{:?}", got.not_shown);
}

#[test]
fn a_stopped_judgement_goes_on_to_the_same_report() {
    let (data, set) = (data(), made(&[BAR, SPOT], 50, 4, 1));
    let [whole, parted] = [0, 1].map(|_| tempfile::tempdir().unwrap());
    let (gan, kept) = ([("gan", set.path())], parted.path().join("fits.part"));
    let more = ["--seeds", "2", "--steps", "20"];
    succeeded(&judge(data.path(), &gan, whole.path(), &more));
    assert!(!whole.path().join("fits.part").exists());

    // Each seed has four fits: stopped in the sixth one is whole.
    let settings = Settings {
        data: data.path().to_owned(),
        made: vec![Named { name: "gan".into(), path: set.path().to_owned() }],
        against: "procedural".into(),
        trained_on: None,
        seeds: 2,
        steps: 20,
        size: 32,
        variant: Variant::Xxs,
        symmetry: Symmetry::None,
        backbone: None,
        made_share: MADE_SHARE,
        seed: 0,
        threads: 1,
    };
    let stop = AtomicBool::new(false);
    let mut report = |doing: &Doing| match doing {
        Doing::Fits(p) if p.done == 5 => stop.store(true, Ordering::Relaxed),
        _ => {}
    };
    let run = Run { dir: parted.path(), stop: &stop, report: &mut report };
    let mut judged = inspect_train::judge::judge(&settings, run).unwrap();
    inspect_train::judge::write(&mut judged, parted.path(), 0).unwrap();
    let got = read(parted.path());
    assert!(got.stopped && got.fits.is_some_and(|f| f.seeds == 1) && kept.is_dir());
    assert!(got.not_shown[0].contains("1 seed(s) out of 2. --resume goes on"), "{:?}", got.not_shown);

    let refusal = |more: &[&str], words: &[&str]| {
        let said = said(&judge(data.path(), &gan, parted.path(), more));
        assert!(words.iter().all(|w| said.contains(w)), "{said}");
        assert!(kept.is_dir() && read(parted.path()).stopped);
    };
    refusal(&more, &["fits.part", "--resume"]);
    refusal(&["--seeds", "2", "--steps", "21", "--resume"], &["--steps was 20, now 21"]);
    let other = made(&[BAR], 90, 4, 1);
    let mut command = command(data.path(), &[("gan", other.path())], parted.path(), &more);
    let refused = said(&command.arg("--resume").output().unwrap());
    assert!(refused.contains("--made gan (SHA-256) was"), "{refused}");

    // A fit that cannot be read is made again.
    std::fs::write(kept.join("0-1-2.json"), "{").unwrap();
    let output = judge(data.path(), &gan, parted.path(), &[&more[..], &["--resume"]].concat());
    succeeded(&output);
    assert!(
        said(&output).contains("fit 4 of 8") && !said(&output).contains("fit 1 of 8"),
        "{}",
        said(&output)
    );
    assert!(!kept.exists());
    let [mut whole, resumed] = [whole.path(), parted.path()].map(read);
    whole.judged = resumed.judged;
    assert_eq!(whole, resumed);
}

#[test]
fn a_fit_mixes_made_sets_in_and_its_card_says_so() {
    let (data, set, out) = (data(), made(&[BAR], 50, 4, 1), tempfile::tempdir().unwrap());
    let model = out.path().join("m.onnx");
    let defects = format!("gan={}", set.path().display());
    let goods = data.path().join("train/good");
    let output = common::fit(&goods, &model, &["--defects", &defects, "--defects-share", "0.5"]);
    assert!(succeeded(&output).contains("4 made defects of `gan`"), "{}", said(&output));
    let card = inspect_core::model::ModelFile::read(&model).unwrap().card;
    let settings = &card.training.settings;
    assert!(
        settings["made_defects"].starts_with("gan: 4 (") && settings["made_share"] == "0.5",
        "{settings:?}"
    );
    let other = out.path().join("n.onnx");
    refused(&common::fit(&goods, &other, &["--defects", "gan=/nowhere"]), &other, &["/nowhere", "`test`"]);
    succeeded(&common::fit(&goods, &other, &[]));
    let card = inspect_core::model::ModelFile::read(&other).unwrap().card;
    assert!(!card.training.settings.contains_key("made_defects"), "off unless it is asked for");
}
