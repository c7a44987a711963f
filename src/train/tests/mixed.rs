//! A fit that mixes in what generators draw: checked, drawn once, stopped, gone on with, told on the card.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{program, refused, run, said, succeeded, write_defects, write_parts};
use inspect_core::model::ModelFile;

struct Place {
    dir: tempfile::TempDir,
    goods: PathBuf,
    generator: PathBuf,
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// 20 goods, 6 real defects of a class, 1 of another, and a generator that learnt from them.
fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let (goods, generator) = (dir.path().join("data/train/good"), dir.path().join("g.safetensors"));
    write_parts(&goods, 20, 0, false);
    let real = dir.path().join("real");
    write_defects(&real, "patch", 6, 20, true);
    write_defects(&real, "rare", 1, 250, true);
    std::fs::rename(real.join("test/patch"), real.join("patch")).unwrap();
    std::fs::rename(real.join("test/rare"), real.join("rare")).unwrap();
    std::fs::remove_dir(real.join("test")).unwrap();
    let place = Place { dir, goods, generator };
    let words = "defects fit --kind vae --size 32 --side 32 --width 8 --batch 4 --threads 1 --steps 30";
    let words: Vec<&str> = words.split(' ').collect();
    let (real, goods) = (place.path("real"), place.goods.clone());
    succeeded(&run(&words, &[("--data", &goods), ("--real", &real), ("--out", &place.generator)]));
    place
}

fn command(place: &Place, out: &Path, more: &[&str]) -> Command {
    let mut command = program();
    command.args(["fit", "--size", "32", "--variant", "xxs", "--threads", "1"]).args(more);
    command.arg("--defects").arg(format!("vae={}", place.generator.display()));
    command.arg("--data").arg(&place.goods).arg("--out").arg(out);
    command
}

fn fit(place: &Place, out: &Path, more: &[&str]) -> Output {
    command(place, out, &[&["--steps", "4", "--defects-count", "24"], more].concat()).output().unwrap()
}

/// What the card says of the made defects.
fn on_card(model: &Path) -> String {
    ModelFile::read(model).unwrap().card.training.settings["made_defects"].clone()
}

/// The file that was made on, for each row.
fn goods_of(set: &Path) -> Vec<String> {
    let mut table = csv::Reader::from_path(set.join("manifest.csv")).unwrap();
    table.records().map(|row| row.unwrap().iter().next_back().unwrap().to_owned()).collect()
}

#[test]
fn a_generator_draws_on_the_fitting_goods_alone_and_its_card_names_it() {
    let place = place();
    let (model, real) = (place.path("m.onnx"), place.path("real"));
    let kept = ["--keep-checkpoint", "--real", real.to_str().unwrap()];
    let told = succeeded(&fit(&place, &model, &kept));
    for words in ["draws 24 defects", "`vae` has drawn 24 defects", "class rare: real defects are pasted"] {
        assert!(told.contains(words), "no `{words}` in: {told}");
    }
    assert!(told.contains("was fitted on all of these goods"), "{told}");
    let sha256 = inspect_core::model::hex(&<sha2::Sha256 as sha2::Digest>::digest(
        std::fs::read(&place.generator).unwrap(),
    ));
    let card = on_card(&model);
    assert!(
        card.starts_with("vae: 24 (") && card.ends_with(&format!("of generator {}", &sha256[..12])),
        "{card}"
    );

    // 20 goods: 5 calibrate, and none of them shows a made defect.
    let set = place.path("m.onnx.checkpoint.vae");
    let goods: std::collections::BTreeSet<String> = goods_of(&set).into_iter().collect();
    let training = ModelFile::read(&model).unwrap().card.training;
    assert_eq!((training.goods, training.settings["goods_calibration"].as_str()), (15, "5"));
    let all = inspect_train::data::load(
        &inspect_train::data::find_goods(&place.goods).unwrap(),
        &inspect_train::data::Look::at(32),
        &mut |_, _| {},
    )
    .unwrap();
    let split = inspect_train::split::split(&all.groups, 0.05, 0).unwrap();
    assert!(split.calibration.iter().all(|&i| !goods.contains(&all.names[i])), "{goods:?}");
    assert!(goods.len() > 8, "{goods:?}");
    assert!(set.join("test/rare").is_dir() && set.join("test/patch").is_dir());
}

#[test]
fn the_same_fit_makes_the_same_defects_and_another_seed_others() {
    let place = place();
    let made = |name: &str, more: &[&str]| {
        let model = place.path(name);
        let told = succeeded(&fit(&place, &model, more));
        assert!(told.contains("class rare: nothing is made of it") && told.contains("--real"), "{told}");
        assert!(!place.path(&format!("{name}.checkpoint.vae")).exists(), "what was drawn stays behind");
        on_card(&model)
    };
    let first = made("a.onnx", &[]);
    assert_eq!(first, made("b.onnx", &[]));
    assert_ne!(first, made("c.onnx", &["--seed", "1"]));
}

#[test]
fn a_fit_that_is_stopped_while_a_generator_draws_goes_on_to_the_same_model() {
    let place = place();
    let count = ["--steps", "3", "--defects-count", "600"];
    let straight = place.path("straight.onnx");
    succeeded(&command(&place, &straight, &count).output().unwrap());
    for signal in ["INT", "KILL"] {
        let model = place.path(&format!("{signal}.onnx"));
        let part = place.path(&format!("{signal}.onnx.checkpoint.vae.part"));
        let mut child = command(&place, &model, &count).stderr(Stdio::piped()).spawn().unwrap();
        wait_for(&mut child, &part.join("test/patch/0004.png"));
        let mut kill = Command::new("kill");
        assert!(kill.args([format!("-{signal}"), child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert!(part.is_dir(), "was not stopped in time: {}", said(&output));
        if signal == "INT" {
            assert_eq!(output.status.code(), Some(130), "{}", said(&output));
            assert!(said(&output).contains("the same command goes on"), "{}", said(&output));
        }
        let other = command(&place, &model, &[&count[..], &["--seed", "5"]].concat()).output().unwrap();
        assert!(!other.status.success() && said(&other).contains("--seed was"), "{}", said(&other));
        succeeded(&command(&place, &model, &count).output().unwrap());
        assert_eq!(on_card(&model), on_card(&straight), "{signal}: other defects");
        assert!(!part.exists());
    }
}

fn wait_for(child: &mut std::process::Child, file: &Path) {
    let end = Instant::now() + Duration::from_secs(120);
    while !file.exists() {
        assert!(Instant::now() < end && child.try_wait().unwrap().is_none(), "no {}", file.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_generator_that_sees_parts_otherwise_is_refused_before_it_draws() {
    let place = place();
    let model = place.path("m.onnx");
    let refuses = |more: &[&str], words: &[&str]| refused(&fit(&place, &model, more), &model, words);
    refuses(&["--symmetry", "rotate"], &["`vae`", "--symmetry none", "rotate"]);
    refuses(&["--colour", "rgb"], &["--colour grey", "rgb"]);
    refuses(&["--roi", "0,0,64,60"], &["--roi none", "0,0,64,60"]);
    let paths = [("--data", place.goods.as_path()), ("--out", &model)];
    let generator = format!("vae={}", place.generator.display());
    let at = ["fit", "--size", "64", "--steps", "2", "--defects", &generator];
    refused(&run(&at, &paths), &model, &["--size 32", "this fit has 64"]);
    let torn = place.path("torn");
    std::fs::write(&torn, &std::fs::read(&place.generator).unwrap()[..4000]).unwrap();
    let torn = format!("gan={}", torn.display());
    let words = ["fit", "--size", "32", "--steps", "2", "--defects", &torn];
    refused(&run(&words, &paths), &model, &["torn", "expected a generator file"]);
    let output = fit(&place, &model, &["--defects-count", "0"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}
