//! The program as a user meets it: Ctrl-C, bad input, help.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use inspect_core::image::Image;
use inspect_core::model::ModelFile;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_inspect-train"))
}

fn write_goods(dir: &Path, count: u8) {
    for i in 0..count {
        let pixels = (0..64 * 64u32).map(|p| (p * 7 % 97) as u8 + i).collect();
        let image = Image::new(64, 64, 1, pixels).unwrap();
        image.write_png(&dir.join(format!("{i:02}.png"))).unwrap();
    }
}

fn fit(data: &Path, out: &Path, more: &[&str]) -> Output {
    let mut command = program();
    command.arg("fit").arg("--data").arg(data).arg("--out").arg(out);
    let size: &[&str] = if more.contains(&"--size") { &[] } else { &["--size", "64"] };
    command.args(size).args(["--variant", "xxs", "--steps", "2"]).args(more).output().unwrap()
}

/// The command fails, says every one of `expected`, and leaves nothing in the folder of `out`.
fn refused(output: &Output, out: &Path, expected: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    for words in expected {
        assert!(said.contains(words), "expected `{words}` in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    if let Ok(entries) = std::fs::read_dir(out.parent().unwrap()) {
        assert_eq!(entries.count(), 0, "something was left behind: {said}");
    }
}

#[test]
fn ctrl_c_calibrates_and_writes_what_there_is() {
    let (data, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_goods(data.path(), 24);
    let model = out.path().join("m.onnx");
    let mut child = program()
        .arg("fit")
        .arg("--data")
        .arg(data.path())
        .arg("--out")
        .arg(&model)
        .args(["--size", "64", "--variant", "xxs", "--minutes", "60"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    for line in lines.by_ref() {
        said += &line;
        if line.starts_with("step ") {
            break;
        }
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    said.extend(lines);
    assert!(child.wait().unwrap().success(), "{said}");
    assert!(said.contains("stopped early"), "{said}");
    assert!(ModelFile::read(&model).unwrap().card.training.steps >= 1);
}

#[test]
fn bad_input_is_told_clearly_and_leaves_nothing() {
    let (data, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = out.path().join("m.onnx");
    refused(&fit(Path::new("/no/such"), &model, &[]), &model, &["/no/such", "--data"]);
    refused(&fit(data.path(), &model, &[]), &model, &["found 0 pictures", "at least 12"]);
    write_goods(data.path(), 1);
    refused(&fit(data.path(), &model, &[]), &model, &["found 1 pictures", "take more"]);
    write_goods(data.path(), 14);
    refused(&fit(data.path(), &model, &["--size", "50"]), &model, &["--size 50", "multiple of 16"]);
    refused(&fit(data.path(), &model, &["--alpha", "0"]), &model, &["--alpha 0"]);
    let nowhere = Path::new("/no/such/m.onnx");
    refused(&fit(data.path(), nowhere, &[]), nowhere, &["/no/such/m.onnx", "not written"]);

    let png = std::fs::read(data.path().join("00.png")).unwrap();
    std::fs::write(data.path().join("03.png"), &png[..png.len() / 2]).unwrap();
    refused(&fit(data.path(), &model, &[]), &model, &["03.png", "replace or remove"]);
}

#[test]
fn a_folder_with_a_test_split_but_no_goods_to_train_on_is_refused() {
    let (data, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let test = data.path().join("test/good");
    std::fs::create_dir_all(&test).unwrap();
    write_goods(&test, 20);
    let model = out.path().join("m.onnx");
    refused(&fit(data.path(), &model, &[]), &model, &["train/good"]);
}

#[test]
fn pictures_of_different_sizes_are_noted_and_a_model_is_written() {
    let (data, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_goods(data.path(), 16);
    let image = Image::new(80, 70, 1, vec![50; 5600]).unwrap();
    image.write_png(&data.path().join("other.png")).unwrap();
    let model = out.path().join("m.onnx");
    let output = fit(data.path(), &model, &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("2 different sizes"), "{said}");
    assert!(ModelFile::read(&model).is_ok());
}

#[test]
fn evaluate_refuses_what_it_cannot_judge() {
    let dir = tempfile::tempdir().unwrap();
    let evaluate = |model: &Path, data: &Path| {
        let run = program().arg("evaluate").arg("--model").arg(model).arg("--data").arg(data).output();
        String::from_utf8_lossy(&run.unwrap().stderr).into_owned()
    };
    let said = evaluate(&dir.path().join("m.onnx"), dir.path());
    assert!(said.contains("test/good"), "{said}");
    for class in ["good", "scratch"] {
        std::fs::create_dir_all(dir.path().join("test").join(class)).unwrap();
        write_goods(&dir.path().join("test").join(class), 2);
    }
    let said = evaluate(&dir.path().join("m.onnx"), dir.path());
    assert!(said.contains("m.onnx"), "{said}");
}

/// As a process of its own: libtorch's random numbers are one stream a process.
#[test]
fn the_same_steps_and_seed_give_the_same_scores() {
    let (data, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_goods(data.path(), 20);
    let scores = |name: &str, seed: &str| -> Vec<f32> {
        let model = out.path().join(name);
        let output = fit(data.path(), &model, &["--threads", "1", "--seed", seed]);
        assert!(output.status.success(), "{output:?}");
        let card = ModelFile::read(&model).unwrap().card;
        card.golden.iter().map(|g| g.score).collect()
    };
    let (a, b, other) = (scores("a.onnx", "3"), scores("b.onnx", "3"), scores("c.onnx", "4"));
    assert_eq!(a, b);
    assert_ne!(a, other);
}

#[test]
fn the_sheet_of_made_defects_has_a_row_for_each_family() {
    let (data, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_goods(data.path(), 14);
    let preview = |out: &Path, more: &[&str]| {
        let mut command = program();
        command.args(["defects", "preview", "--size", "64", "--data"]).arg(data.path());
        command.arg("--out").arg(out).args(more).output().unwrap()
    };
    let none = out.path().join("sheet.jpg");
    refused(&preview(&none, &[]), &none, &["sheet.jpg", ".png"]);
    refused(&preview(&out.path().join("s.png"), &["--family", "rust"]), &none, &["rust", "scratch"]);

    let (all, two) = (out.path().join("all.png"), out.path().join("two.png"));
    assert!(preview(&all, &[]).status.success());
    assert!(preview(&two, &["--family", "crack", "dent", "--symmetry", "rotate"]).status.success());
    let [all, two] = [all, two].map(|path| Image::read(&path).unwrap());
    assert_eq!((all.width(), all.height() - 4), (two.width(), (two.height() - 4) * 6));
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 2, "nothing half-written is left");
}
