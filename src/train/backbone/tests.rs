//! Backbones as users bring them: odd ones are told apart from broken ones before a fit is spent on them.

use std::path::Path;
use std::sync::Arc;

use inspect_core::onnx::{AttributeProto, GraphProto, ModelProto, TensorProto, data_type};
use prost::Message;
use tch::{Device, Kind, Tensor};

use super::network::{WIDTHS, declared, floats, ints, network, node};
use super::proto::{Attribute, Model};
use super::*;

const SIZE: u32 = 32;

fn load(bytes: &[u8]) -> Result<Backbone, BackboneError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("own.onnx");
    std::fs::write(&path, bytes).unwrap();
    Backbone::load(&path, Scale::default(), SIZE)
}

/// The test's network after a change of what our own messages can say.
fn changed(change: impl FnOnce(&mut ModelProto, &mut GraphProto)) -> Vec<u8> {
    let mut model = network(3, 17);
    let mut graph = model.graph.take().unwrap();
    change(&mut model, &mut graph);
    ModelProto { graph: Some(graph), ..model }.encode_to_vec()
}

/// The same for what only others write.
fn foreign(change: impl FnOnce(&mut Model)) -> Vec<u8> {
    let mut model = Model::decode(network(3, 17).encode_to_vec().as_slice()).unwrap();
    change(&mut model);
    model.encode_to_vec()
}

/// What was `coarse` is `v9`.
fn rename_last(graph: &mut GraphProto) {
    let relu = graph.node.last_mut().unwrap();
    (relu.output[0], relu.name) = ("v9".into(), "v9".into());
}

/// `coarse` gets another way to be made out of `v9`, which is what it was.
fn last(op: &'static str, more: &[&str], attribute: Vec<AttributeProto>) -> Vec<u8> {
    let more: Vec<String> = more.iter().map(|s| (*s).to_owned()).collect();
    changed(move |_, graph| {
        rename_last(graph);
        let mut input = vec!["v9"];
        input.extend(more.iter().map(String::as_str));
        graph.node.push(node(op, &input, "coarse", attribute));
        graph.output.remove(0);
        graph.output[0] = declared("coarse", data_type::FLOAT, &[0, 0, 0, 0]);
        graph.initializer.push(floats("wide", &[1, WIDTHS[3], 7, 7], &[1.0; WIDTHS[3] as usize * 49]));
    })
}

fn opset(version: i64) -> Vec<u8> {
    changed(|model, _| model.opset_import[0].version = version)
}

/// What is refused, and the words that the message has to hold.
fn refusals() -> Vec<(&'static str, Vec<u8>, &'static [&'static str])> {
    let input =
        |element, dims: &'static [i64]| changed(move |_, g| g.input = vec![declared("image", element, dims)]);
    let mut graph_within = Attribute { name: "then_branch".into(), r#type: 5, ..Attribute::default() };
    graph_within.i = 1;
    vec![
        ("nothing", vec![], &["not an ONNX file", "no graph"]),
        ("text", b"ImageNet weights\n".to_vec(), &["not an ONNX file"]),
        ("cut short", network(3, 17).encode_to_vec()[..900].to_vec(), &["not an ONNX file"]),
        ("old operators", opset(11), &["operator set 11", "13 to 23", "version_converter"]),
        ("operators of the future", opset(24), &["operator set 24"]),
        ("two inputs", changed(|_, g| g.input.push(declared("b", 1, &[1]))), &["count is 2", "image, b"]),
        ("bytes in", input(data_type::UINT8, &[0, 3, 0, 0]), &["element type 2", "32-bit floats"]),
        ("channels last", input(data_type::FLOAT, &[0, 32, 32, 3]), &["[?, 32, 32, 3]", "[N, C, H, W]"]),
        ("four channels", input(data_type::FLOAT, &[0, 4, 0, 0]), &["C 1 or 3"]),
        ("a vector in", input(data_type::FLOAT, &[0, 3]), &["[N, C, H, W]"]),
        (
            "weights elsewhere",
            foreign(|m| m.graph.as_mut().unwrap().initializer[0].data_location = 1),
            &["`e0_w`", "external data"],
        ),
        (
            "weights missing",
            foreign(|m| m.graph.as_mut().unwrap().initializer[0].raw_data.truncate(5)),
            &["`e0_w`", "bytes, expected"],
        ),
        (
            "weights of text",
            foreign(|m| m.graph.as_mut().unwrap().initializer[0].data_type = 8),
            &["`e0_w`", "kind 8"],
        ),
        ("a negative size", foreign(|m| m.graph.as_mut().unwrap().initializer[0].dims[0] = -8), &["`e0_w`"]),
        (
            "sparse weights",
            foreign(|m| m.graph.as_mut().unwrap().sparse_initializer.push(vec![])),
            &["sparse"],
        ),
        ("own operators", foreign(|m| m.functions.push(vec![])), &["functions"]),
        (
            "another domain",
            foreign(|m| m.graph.as_mut().unwrap().node[0].domain = "com.x".into()),
            &["`com.x`", "v0c"],
        ),
        (
            "a branch",
            foreign(move |m| m.graph.as_mut().unwrap().node[0].attribute.push(graph_within)),
            &["then_branch", "standard operators"],
        ),
        ("an unknown operator", last("Squash", &[], vec![]), &["ONNX Runtime", "Squash"]),
        ("made for another size", last("Add", &["wide"], vec![]), &["32 x 32 px", "--size"]),
        ("no map", last("GlobalAveragePool", &[], vec![]), &["no output is a feature map", "[2, 24, 1, 1]"]),
        ("labels out", last("ArgMax", &[], vec![]), &["no output is a feature map", "not of 32-bit floats"]),
        ("training mode", last("ReduceMax", &[], vec![ints("axes", &[0])]), &["feature map"]),
        ("batch statistics", mixes_the_batch(), &["depends on the other pictures", "model.eval()"]),
        ("not numbers", bias_of(f32::NAN), &["not finite"]),
        ("infinity", bias_of(f32::INFINITY), &["not finite"]),
    ]
}

/// Subtracts from each picture the mean of its batch.
fn mixes_the_batch() -> Vec<u8> {
    changed(|_, graph| {
        rename_last(graph);
        graph.node.push(node("ReduceMean", &["v9"], "v10", vec![ints("axes", &[0])]));
        graph.node.push(node("Sub", &["v9", "v10"], "coarse", vec![]));
    })
}

fn bias_of(value: f32) -> Vec<u8> {
    changed(|_, graph| {
        let bias = |t: &&mut TensorProto| t.name == "e3_b";
        *graph.initializer.iter_mut().find(bias).unwrap() =
            floats("e3_b", &[WIDTHS[3]], &[value; WIDTHS[3] as usize]);
    })
}

#[test]
fn what_cannot_be_used_is_told_with_what_to_do() {
    for (what, bytes, words) in refusals() {
        let said = load(&bytes).err().map_or_else(|| panic!("{what}: was taken"), |e| e.to_string());
        for words in words {
            assert!(said.contains(words), "{what}: expected `{words}` in: {said}");
        }
        assert!(said.contains("own.onnx"), "{what}: {said}");
    }
    let missing = Backbone::load(Path::new("/no/such.onnx"), Scale::default(), SIZE).unwrap_err().to_string();
    assert!(missing.contains("/no/such.onnx"), "{missing}");
    let huge = tempfile::NamedTempFile::new().unwrap();
    huge.as_file().set_len(MAX_BYTES + 1).unwrap();
    let said = Backbone::load(huge.path(), Scale::default(), SIZE).unwrap_err().to_string();
    assert!(said.contains("536870913 bytes"), "{said}");
}

#[test]
fn a_cut_file_is_refused_and_a_damaged_one_never_panics() {
    let whole = network(1, 17).encode_to_vec();
    let decode = |bytes: &[u8]| Backbone::decode(bytes, Path::new("b.onnx"), Scale::default());
    assert!(decode(&whole).is_ok());
    for end in (0..whole.len()).step_by(7) {
        assert!(decode(&whole[..end]).is_err(), "cut at {end} of {}", whole.len());
    }
    for at in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        let _ = decode(&bytes);
    }
}

#[test]
fn a_scale_is_one_number_or_three() {
    assert_eq!(Scale::new(&[], &[]).unwrap(), Scale::default());
    assert_eq!(Scale::new(&[0.5], &[0.1, 0.2, 0.3]).unwrap(), Scale { mean: [0.5; 3], std: [0.1, 0.2, 0.3] });
    for (mean, std) in [(&[0.5, 0.5][..], &[][..]), (&[f32::NAN], &[]), (&[], &[0.0]), (&[], &[-1.0])] {
        assert!(Scale::new(mean, std).is_err(), "{mean:?} {std:?}");
    }
}

#[test]
fn the_two_maps_nearest_to_strides_8_and_16_are_taken() {
    let maps =
        |bytes: &[u8]| -> Vec<String> { load(bytes).unwrap().maps.into_iter().map(|m| m.name).collect() };
    assert_eq!(maps(&network(3, 17).encode_to_vec()), ["fine", "coarse"]);
    // Strides 2, 4, 8, 16, in another order.
    let all = changed(|_, g| {
        g.output.splice(0..0, ["coarse", "v2", "v3"].map(|n| declared(n, 1, &[0; 4]))).for_each(drop)
    });
    assert_eq!(maps(&all)[0], "fine");
    let coarse_only = changed(|_, g| drop(g.output.remove(0)));
    assert_eq!(maps(&coarse_only), ["coarse"]);
}

/// Pictures of one random texture each. Shape: `[n, c, SIZE, SIZE]`, 0 to 255.
fn pictures(n: i64, c: i64) -> Tensor {
    tch::manual_seed(9);
    let side = i64::from(SIZE);
    Tensor::rand([n, c, side, side], (Kind::Float, Device::Cpu)) * 255.0
}

#[test]
fn features_are_white_on_the_goods_and_the_same_for_weights_in_any_form() {
    let raw = Arc::new(load(&network(3, 17).encode_to_vec()).unwrap());
    let lists = foreign(|m| {
        for t in &mut m.graph.as_mut().unwrap().initializer {
            let raw = std::mem::take(&mut t.raw_data);
            t.float_data = raw.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        }
    });
    let lists = Arc::new(load(&lists).unwrap());
    assert!(raw.initializers == lists.initializers);
    for (backbone, channels) in [(raw, 3), (lists, 1)] {
        let goods = pictures(64, channels);
        let frozen = Frozen::new(backbone, &goods, 16, Some(1)).unwrap();
        let features = frozen.features(&goods);
        assert_eq!(features.size(), [64, 16, 4, 4]);
        let flat = features.permute([0, 2, 3, 1]).reshape([-1, 16]);
        let covariance = flat.tr().matmul(&flat) / (64 * 16);
        let off = (covariance - Tensor::eye(16, (Kind::Float, Device::Cpu))).abs().max().double_value(&[]);
        assert!(off < 0.02, "{off}");
        assert!(frozen.failure().is_none());
    }
}

#[test]
fn features_that_say_nothing_are_told() {
    let silent = changed(|_, graph| {
        graph.initializer.iter_mut().for_each(|t| t.raw_data.iter_mut().for_each(|b| *b = 0));
    });
    let silent = Arc::new(load(&silent).unwrap());
    let said = Frozen::new(silent, &pictures(4, 3), 16, Some(1)).unwrap_err().to_string();
    assert!(said.contains("the same everywhere"), "{said}");
    // Overflow on the goods, not on the test pattern: only there it is found.
    let root = changed(|_, graph| {
        rename_last(graph);
        graph.initializer.push(floats("zero", &[], &[0.0]));
        graph.node.push(node("ReduceMean", &["image"], "v10", vec![ints("axes", &[1, 2, 3])]));
        graph.node.push(node("Div", &["zero", "v10"], "v11", vec![]));
        graph.node.push(node("Add", &["v9", "v11"], "coarse", vec![]));
    });
    let root = Arc::new(load(&root).unwrap());
    let said = Frozen::new(root, &(pictures(4, 3) * 0.0), 16, Some(1)).unwrap_err().to_string();
    assert!(said.contains("not finite numbers on the goods"), "{said}");
}

#[test]
fn a_failure_in_the_middle_of_a_fit_is_kept_and_told() {
    let backbone = Arc::new(load(&network(3, 17).encode_to_vec()).unwrap());
    let frozen = Frozen::new(backbone, &pictures(8, 3), 16, Some(1)).unwrap();
    let wrong = Tensor::zeros([2, 5, 32, 32], (Kind::Float, Device::Cpu));
    assert!(frozen.features(&wrong).isnan().all().int64_value(&[]) == 1);
    assert!(matches!(frozen.failure(), Some(BackboneError::Run { .. })));
    assert!(frozen.failure().is_none());
}
