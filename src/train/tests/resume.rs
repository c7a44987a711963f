//! A fit that was stopped goes on to the same model as one that was not, to the last bit.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use inspect_core::image::Image;
use inspect_core::model::ModelFile;
use inspect_core::onnx::{GraphProto, ModelProto};
use prost::Message as _;
use rand::{RngExt as _, SeedableRng as _};

const STEPS: &str = "60";

fn fit(data: &Path, out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inspect-train"));
    command.arg("fit").arg("--data").arg(data).arg("--out").arg(out);
    command.args(["--size", "64", "--variant", "xxs", "--steps", STEPS, "--threads", "1"]);
    command.args(["--checkpoint-s", "0"]).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn goods() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..24u64 {
        let mut r = rand::rngs::StdRng::seed_from_u64(i);
        let pixels = (0..64 * 64u32).map(|p| (p * 7 % 97) as u8 + r.random_range(0..20)).collect();
        Image::new(64, 64, 1, pixels).unwrap().write_png(&dir.path().join(format!("{i:02}.png"))).unwrap();
    }
    dir
}

/// Weights, statistics and fusion: all but the card, which holds the time of its making.
fn graph(model: &Path) -> GraphProto {
    ModelProto::decode(ModelFile::read(model).unwrap().bytes.as_slice()).unwrap().graph.unwrap()
}

fn succeeded(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// Waits until the fit has taken some steps, by its checkpoint.
fn wait_for_checkpoint(child: &mut Child, checkpoint: &Path) {
    let end = Instant::now() + Duration::from_secs(120);
    while !checkpoint.exists() {
        assert!(Instant::now() < end && child.try_wait().unwrap().is_none(), "no checkpoint was written");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_killed_and_an_interrupted_fit_go_on_to_the_same_model() {
    let data = goods();
    let out = tempfile::tempdir().unwrap();
    let straight = out.path().join("straight.onnx");
    succeeded(&fit(data.path(), &straight).output().unwrap());
    assert!(!out.path().join("straight.onnx.checkpoint").exists());
    let expected = graph(&straight);

    for signal in ["KILL", "INT"] {
        let model = out.path().join(format!("{signal}.onnx"));
        let checkpoint = out.path().join(format!("{signal}.onnx.checkpoint"));
        let mut child = fit(data.path(), &model).spawn().unwrap();
        wait_for_checkpoint(&mut child, &checkpoint);
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status();
        assert!(sent.unwrap().success());
        let stopped = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&stopped.stderr);
        assert!(checkpoint.exists(), "was not stopped in time: {said}");

        // Unasked, nothing that was reached is lost.
        let again = fit(data.path(), &model).output().unwrap();
        assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("--resume"));
        let other = fit(data.path(), &model).args(["--resume", "--seed", "9"]).output().unwrap();
        let said = String::from_utf8_lossy(&other.stderr);
        assert!(!other.status.success() && said.contains("--seed was 0, now 9"), "{said}");

        succeeded(&fit(data.path(), &model).arg("--resume").output().unwrap());
        assert!(graph(&model) == expected, "{signal}: the resumed model differs");
        assert!(!checkpoint.exists());
    }
}

#[test]
fn a_broken_checkpoint_is_named_and_left_alone() {
    let data = goods();
    let out = tempfile::tempdir().unwrap();
    let model = out.path().join("m.onnx");
    let checkpoint = out.path().join("m.onnx.checkpoint");
    for bytes in [&b""[..], b"no checkpoint at all", &[255; 4096]] {
        std::fs::write(&checkpoint, bytes).unwrap();
        let output = fit(data.path(), &model).arg("--resume").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("m.onnx.checkpoint"), "{said}");
        assert!(!said.contains("panicked"), "{said}");
        assert_eq!(std::fs::read(&checkpoint).unwrap(), bytes);
    }
}

#[test]
fn a_finished_fit_that_is_kept_gives_another_score_at_once() {
    let data = goods();
    let out = tempfile::tempdir().unwrap();
    let model = out.path().join("m.onnx");
    succeeded(&fit(data.path(), &model).arg("--keep-checkpoint").output().unwrap());
    let fused = graph(&model);
    let said =
        succeeded(&fit(data.path(), &model).args(["--resume", "--score", "residual"]).output().unwrap());
    assert!(said.contains("60 steps") && !said.contains("step 1 "), "{said}");
    let residual = graph(&model);
    let constants = |g: &GraphProto, wanted: bool| -> Vec<_> {
        let of = |n: &str| ["head_factor", "residual_factor", "fused_offset"].contains(&n) == wanted;
        g.initializer.iter().filter(|t| of(&t.name)).cloned().collect()
    };
    assert!(constants(&fused, false) == constants(&residual, false), "the weights differ");
    assert!(constants(&fused, true) != constants(&residual, true));
}
