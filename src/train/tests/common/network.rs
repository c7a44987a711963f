//! A backbone made for the tests: four 3x3 convolutions of stride 2 with ReLU, weights drawn from a seed.

#![allow(dead_code, reason = "each test file uses a part of it")]

use inspect_core::onnx::*;
use prost::Message as _;
use rand::{RngExt as _, SeedableRng as _};

/// Channels behind each convolution; the last two are the outputs `fine` (stride 8) and `coarse` (stride 16).
pub const WIDTHS: [i64; 4] = [8, 12, 16, 24];

/// An integer list attribute.
pub fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: attribute_type::INTS,
        ints: ints.to_vec(),
        ..Default::default()
    }
}

/// A node whose name is that of its output.
pub fn node(op: &str, input: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        input: input.iter().map(|s| (*s).to_owned()).collect(),
        output: vec![output.into()],
        name: output.into(),
        op_type: op.into(),
        attribute,
    }
}

/// A 32-bit float weight.
pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        dims: dims.to_vec(),
        data_type: data_type::FLOAT,
        name: name.into(),
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// A declaration; 0 is an open dimension.
pub fn declared(name: &str, elem_type: i32, dims: &[i64]) -> ValueInfoProto {
    let open = |d: i64| if d == 0 { "d".into() } else { String::new() };
    let dim = dims.iter().map(|&d| DimensionProto { dim_value: d, dim_param: open(d) }).collect();
    let tensor_type = Some(TensorTypeProto { elem_type, shape: Some(TensorShapeProto { dim }) });
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type }) }
}

/// The network. Its names are those that a model file uses itself: merging must keep them apart.
pub fn network(channels: i64, opset: i64) -> ModelProto {
    let mut r = rand::rngs::StdRng::seed_from_u64(11);
    let mut graph = GraphProto { name: "made for a test".into(), ..Default::default() };
    let (mut x, mut from) = ("image".to_owned(), channels);
    for (k, &to) in WIDTHS.iter().enumerate() {
        let limit = (6.0 / (from * 9) as f32).sqrt();
        let mut draw = |n: i64| -> Vec<f32> { (0..n).map(|_| r.random_range(-limit..limit)).collect() };
        let (weight, bias) = (format!("e{k}_w"), format!("e{k}_b"));
        let weights = draw(to * from * 9);
        graph.initializer.push(floats(&weight, &[to, from, 3, 3], &weights));
        graph.initializer.push(floats(&bias, &[to], &draw(to)));
        let sizes = vec![ints("kernel_shape", &[3, 3]), ints("strides", &[2, 2]), ints("pads", &[1; 4])];
        let out = ["v2", "v3", "fine", "coarse"][k];
        graph.node.push(node("Conv", &[&x, &weight, &bias], &format!("v{k}c"), sizes));
        graph.node.push(node("Relu", &[&format!("v{k}c")], out, vec![]));
        (x, from) = (out.to_owned(), to);
    }
    graph.input = vec![declared("image", data_type::FLOAT, &[0, channels, 0, 0])];
    graph.output = vec![
        declared("fine", data_type::FLOAT, &[0, WIDTHS[2], 0, 0]),
        declared("coarse", data_type::FLOAT, &[0, WIDTHS[3], 0, 0]),
    ];
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: opset }],
        graph: Some(graph),
        ..Default::default()
    }
}

/// Writes it.
pub fn write(model: &ModelProto, path: &std::path::Path) {
    std::fs::write(path, model.encode_to_vec()).unwrap();
}
