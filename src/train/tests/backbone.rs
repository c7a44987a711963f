//! A fit that looks with the user's network: one file out, the network in it as it was.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "common/network.rs"]
mod network;

use std::path::Path;

use inspect_core::image::Image;
use inspect_core::model::{ModelFile, sha256};
use inspect_core::onnx::ModelProto;
use inspect_core::runtime::{Provider, Runtime, environment};
use inspect_core::scorer::{OnnxScorer, Scorer as _, check_golden};
use ort::session::Session;
use ort::value::TensorRef;
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
    for (channels, opset) in [(3, 13), (1, 21)] {
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
        let said = succeeded(&common::run(&["evaluate"], &[("--model", &out), ("--data", &data)]));
        assert!(said.contains("AUROC            1.000"), "{said}");
        same_maps(&backbone, &file, channels);
    }
}

/// The backbone inside of the model file gives what it gives alone.
fn same_maps(backbone: &Path, file: &ModelFile, channels: i64) {
    let mut merged = ModelProto::decode(file.bytes.as_slice()).unwrap();
    let map = network::declared("backbone/coarse", 1, &[0, 0, 0, 0]);
    merged.graph.as_mut().unwrap().output.push(map);
    let environment = environment(None).unwrap();
    let run = |bytes: &[u8], output: &str, input: ort::session::SessionInputs<'_, '_>| -> Vec<f32> {
        let mut session = Session::builder(&environment).unwrap().commit_from_memory(bytes).unwrap();
        let outputs = session.run(input).unwrap();
        outputs[output].try_extract_tensor::<f32>().unwrap().1.to_vec()
    };
    let bytes: Vec<u8> = (0..64 * 64u32).map(|i| (i * 37 % 251) as u8).collect();
    let plane: Vec<f32> = bytes.iter().map(|b| f32::from(*b) / 255.0).collect();
    let planes = plane.repeat(channels as usize);
    let inside = TensorRef::from_array_view(([1usize, 64, 64, 1], bytes.as_slice())).unwrap();
    let inside = run(&merged.encode_to_vec(), "backbone/coarse", ort::inputs!["image" => inside].into());
    let alone = TensorRef::from_array_view(([1, channels as usize, 64, 64], planes.as_slice())).unwrap();
    let alone = run(&std::fs::read(backbone).unwrap(), "coarse", ort::inputs!["image" => alone].into());
    let largest = alone.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(largest > 0.1 && inside.len() == alone.len());
    let off = inside.iter().zip(&alone).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(off < 1e-5 * largest, "{off} of {largest}");
}

#[test]
fn a_file_that_is_no_backbone_and_settings_that_it_cannot_have_are_told_before_anything_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (backbone, out) = (dir.path().join("b.onnx"), dir.path().join("m.onnx"));
    let no_data = dir.path().join("nowhere");
    std::fs::write(&backbone, b"not a network").unwrap();
    common::refused(&fit(&no_data, &out, &backbone, &[]), &out, &["b.onnx", "not an ONNX file"]);
    network::write(&network::network(3, 17), &backbone);
    let both = fit(&no_data, &out, &backbone, &["--normalise", "exposure"]);
    common::refused(&both, &out, &["--backbone and --normalise exposure"]);
    let std = fit(&no_data, &out, &backbone, &["--backbone-std", "0.2,0"]);
    common::refused(&std, &out, &["--backbone-std", "above 0"]);
    let crop = fit(&no_data, &out, &backbone, &["--crop", "32"]);
    assert!(!crop.status.success() && said(&crop).contains("cannot be used with"), "{}", said(&crop));
}

#[test]
fn what_does_not_matter_cannot_change_the_score() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    write_parts(&data, 24, 0, false);
    let (backbone, out, mask) =
        (dir.path().join("b.onnx"), dir.path().join("m.onnx"), dir.path().join("mask.png"));
    network::write(&network::network(3, 17), &backbone);
    // The upper half matters.
    let white: Vec<u8> = (0..64 * 64).map(|i| if i < 64 * 32 { 255 } else { 0 }).collect();
    Image::new(64, 64, 1, white).unwrap().write_png(&mask).unwrap();
    succeeded(&fit(&data, &out, &backbone, &["--steps", "10", "--mask", mask.to_str().unwrap()]));
    let file = ModelFile::read(&out).unwrap();
    let runtime = Runtime { providers: vec![Provider::Cpu], ..Runtime::default() };
    let mut scorer = OnnxScorer::load(&file, &runtime).unwrap();
    let good = common::part(77, false);
    let mut damaged = good.data().to_vec();
    damaged[64 * 40..64 * 50].fill(255);
    let mut map = Vec::new();
    let scores = [good.data(), damaged.as_slice()].map(|p| scorer.score(p, &mut map).unwrap());
    assert_eq!(scores[0], scores[1]);
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
