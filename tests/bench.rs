//! `inspectd bench` on the demo's model: what its figures are taken from is right.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

/// What `bench` prints as JSON with these arguments.
fn bench(arguments: &[&str]) -> serde_json::Value {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo.onnx");
    let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
    command.args(["bench", "--providers", "cpu", "--json", "--model"]).arg(model).args(arguments);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_part_is_measured_and_stands_beside_a_bare_run() {
    let report = bench(&["--parts", "60"]);
    assert_eq!(report["parts"], 60);
    for row in ["trigger_to_result_us", "bare_us", "score_us"] {
        let at = |share: &str| report[row][share].as_u64().unwrap();
        assert!(0 < at("p50") && at("p50") <= at("p99") && at("p99") <= at("p999"), "{row}: {report}");
    }
}

#[test]
fn under_any_load_no_result_is_another_parts() {
    let report = bench(&["--stations", "3", "--views", "2", "--sessions", "2", "--seconds", "1"]);
    assert_eq!(report["wrong"], 0, "{report}");
    let steps = report["steps"].as_array().unwrap();
    assert!(steps.iter().all(|step| step["judged_per_s"].as_f64().unwrap() > 0.0), "{report}");
    assert!(
        steps.last().unwrap()["triggered_per_s"].as_f64() > steps[0]["triggered_per_s"].as_f64(),
        "{report}"
    );
}
