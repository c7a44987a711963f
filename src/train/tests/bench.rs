//! `bench` as a user runs it. No test says how fast a step has to be.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::os::unix::fs::PermissionsExt as _;

use common::{program, run, said, succeeded};
use serde_json::Value;

const SMALL: [&str; 8] = ["bench", "--size", "32", "--variant", "xxs", "--steps", "3", "--json"];

#[test]
fn the_phases_of_rendered_pictures_add_up_to_the_step() {
    for channels in ["1", "3"] {
        let output = run(&[&SMALL[..], &["--channels", channels, "--precision", "f32"]].concat(), &[]);
        succeeded(&output);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let names: Vec<&str> =
            report["phases"].as_array().unwrap().iter().map(|p| p["phase"].as_str().unwrap()).collect();
        assert_eq!(names, ["wait", "input", "forward", "loss", "backward", "update"]);
        let of = |p: &Value, field: &str| p[field].as_f64().unwrap();
        let phases = report["phases"].as_array().unwrap();
        let sum: f64 = phases.iter().map(|p| of(p, "mean_ms")).sum();
        let step = of(&report, "mean_step_ms");
        assert!(sum <= step && sum > step * 0.95, "{sum} of {step}: {report:#}");
        assert!(phases.iter().skip(1).all(|p| of(p, "mean_ms") > 0.0), "{report:#}");
        assert_eq!((&report["steps"], &report["channels"].to_string()), (&3.into(), &channels.to_string()));
        assert!(report["pytorch"].is_null());
    }
}

#[test]
fn people_get_a_table() {
    let output = run(&SMALL[..7], &[]);
    let said = succeeded(&output);
    for words in ["backward", "share", "steps/s", "a batch is made in", "xxs"] {
        assert!(said.contains(words), "expected `{words}` in: {said}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_with_what_was_expected() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("python");
    for (words, paths, expected) in [
        (vec!["bench", "--size", "40"], vec![], "multiple of 16"),
        (vec!["bench", "--channels", "2"], vec![], "expected 1 or 3"),
        (vec!["bench", "--steps", "0"], vec![], "expected 1 to"),
        (SMALL.to_vec(), vec![("--pytorch", absent.as_path())], "expected the path of a Python"),
    ] {
        let output = run(&words, &paths);
        let said = said(&output);
        assert!(!output.status.success() && said.contains(expected), "expected `{expected}` in: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn a_python_that_is_none_or_has_another_network_gives_no_ratio() {
    let dir = tempfile::tempdir().unwrap();
    let python = dir.path().join("python");
    for (script, expected) in [
        ("exit 0", "ended without an answer"),
        ("echo hello", "answered `hello`"),
        (
            r#"echo '{"version": "0", "shapes": [[2, 3]]}'; cat > /dev/null"#,
            "PyTorch's network has 6 weights",
        ),
    ] {
        std::fs::write(&python, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
        let output = program().args(SMALL).arg("--pytorch").arg(&python).output().unwrap();
        let said = said(&output);
        assert!(
            output.status.code() == Some(1) && said.contains(expected),
            "expected `{expected}` in: {said}"
        );
        assert!(output.stdout.is_empty(), "{said}");
    }
}

#[test]
fn ours_and_theirs_are_measured_in_turn() {
    let dir = tempfile::tempdir().unwrap();
    let hello = shapes_as_json();
    let python = dir.path().join("python");
    // Answers every round with steps of 1000 seconds: nothing that computes is that slow.
    let script = format!(
        "#!/bin/sh\necho '{hello}'\nwhile read -r n; do ms=1e6; while [ $((n -= 1)) -gt 0 ]; do ms=$ms,1e6; done\n\
         echo \"{{\\\"ms\\\": [$ms]}}\"; done\n"
    );
    std::fs::write(&python, script).unwrap();
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = program().args(SMALL).arg("--pytorch").arg(&python).output().unwrap();
    succeeded(&output);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let beside = &report["pytorch"];
    assert_eq!(beside["weights"], report["weights"]);
    assert_eq!(beside["rounds_ms"].as_array().unwrap().len(), 21);
    let ratio = beside["ratio"].as_f64().unwrap();
    let [ours, theirs] = [0, 1].map(|arm| beside["step_ms"][arm].as_f64().unwrap());
    assert_eq!(theirs, 1e6);
    assert!(ratio > 0.0 && (ratio / (ours / theirs) - 1.0).abs() < 1e-9, "{report:#}");
}

/// What a Python with the same network says of itself.
fn shapes_as_json() -> String {
    use inspect_train::net::{Shape, Variant};
    use inspect_train::{learn::Learner, torch};
    let weights = torch::Weights::new(tch::Device::Cpu);
    let shape = Shape {
        size: 32,
        channels: 1,
        variant: Variant::Xxs,
        exposure: false,
        masked: false,
        features: None,
    };
    Learner::new(&weights, shape, 0, torch::Precision::F32);
    let mut shapes: Vec<Vec<i64>> = weights.all_learned().iter().map(|(_, t)| t.size()).collect();
    shapes.sort();
    format!(r#"{{"version": "0", "shapes": {}}}"#, serde_json::to_string(&shapes).unwrap())
}
