//! A fit that looks with the user's network: one file out, the network in it as it was.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "common/network.rs"]
mod network;

use std::path::Path;

use inspect_core::model::{ModelFile, sha256};
use inspect_core::onnx::ModelProto;
use inspect_core::runtime::{Provider, Runtime};
use inspect_core::scorer::{OnnxScorer, check_golden};
use prost::Message as _;

use common::{program, said, succeeded, write_parts};

/// A short fit on the parts of `common` with the backbone at `backbone`.
fn fit(data: &Path, out: &Path, backbone: &Path, more: &[&str]) -> std::process::Output {
    let mut command = program();
    command.args(["fit", "--size", "64", "--variant", "xxs", "--threads", "1", "--data"]).arg(data);
    command.arg("--out").arg(out).arg("--backbone").arg(backbone).args(more).output().unwrap()
}

#[test]
fn the_model_file_holds_the_backbone_as_it_was_and_the_daemon_runs_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    write_parts(&data.join("train/good"), 40, 0, false);
    write_parts(&data.join("test/good"), 8, 500, false);
    write_parts(&data.join("test/bar"), 8, 900, true);
    let backbone = dir.path().join("b.onnx");
    for (channels, opset) in [(3, 17), (1, 18), (3, 13), (3, 21)] {
        let network = network::network(channels, opset);
        network::write(&network, &backbone);
        let out = dir.path().join("m.onnx");
        let said = succeeded(&fit(&data, &out, &backbone, &["--steps", "60"]));
        assert!(said.contains("libtorch and ONNX Runtime agree"), "{said}");
        let file = ModelFile::read(&out).unwrap();
        let runtime = Runtime { providers: vec![Provider::Cpu], ..Runtime::default() };
        let mut scorer = OnnxScorer::load(&file, &runtime).unwrap();
        assert!(check_golden(&mut scorer, &file).unwrap() < 1e-3);
        let settings = &file.card.training.settings;
        assert_eq!(settings["backbone_sha256"], sha256(&std::fs::read(&backbone).unwrap()));
        assert_eq!(settings["backbone_opset"], opset.to_string());
        let merged = ModelProto::decode(file.bytes.as_slice()).unwrap();
        assert_eq!(merged.opset_import[0].version, opset);
        let merged = merged.graph.unwrap();
        for weight in network.graph.unwrap().initializer {
            let name = format!("backbone/{}", weight.name);
            let found: Vec<_> = merged.initializer.iter().filter(|t| t.name == name).collect();
            assert_eq!(found.len(), 1, "{name}");
            assert!(
                found[0].raw_data == weight.raw_data && found[0].dims == weight.dims,
                "{name} was changed"
            );
        }
        let words = ["evaluate"];
        let said = succeeded(&common::run(&words, &[("--model", &out), ("--data", &data)]));
        assert!(said.contains("1.0000") || said.contains("0.9"), "{said}");
    }
}

#[test]
fn a_fit_of_another_backbone_does_not_go_on_from_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    write_parts(&data, 24, 0, false);
    let (backbone, out) = (dir.path().join("b.onnx"), dir.path().join("m.onnx"));
    network::write(&network::network(3, 17), &backbone);
    succeeded(&fit(&data, &out, &backbone, &["--steps", "3", "--keep-checkpoint"]));
    let first = ModelFile::read(&out).unwrap();
    let again = fit(&data, &out, &backbone, &["--steps", "3", "--resume", "--keep-checkpoint"]);
    assert!(succeeded(&again).contains("3 steps"));
    let graph = |file: &ModelFile| ModelProto::decode(file.bytes.as_slice()).unwrap().graph.unwrap();
    assert!(graph(&ModelFile::read(&out).unwrap()) == graph(&first), "the resumed model differs");
    network::write(&network::network(3, 16), &backbone);
    let other = fit(&data, &out, &backbone, &["--steps", "3", "--resume"]);
    assert!(!other.status.success() && said(&other).contains("--backbone (SHA-256)"), "{}", said(&other));
}
