//! [`Graph`] as ONNX nodes: the network of [`crate::net`] written down instead of run.
//!
//! BatchNorm is folded into the convolution before it. Opset 17, IR version 8, or those of a backbone, whose nodes
//! are put in as they are; the batch size is open.
//!
//! Never here: the card and the file ([`crate::export`]), what the network looks like ([`crate::net`]).

use inspect_core::model;
use inspect_core::onnx::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, attribute_type, data_type,
};
use tch::{Kind, Tensor};

use crate::infer::floats_of;
use crate::net::{Conv, Graph, Shape};
use crate::score::{self, MAP_STRIDE};
use crate::torch::{NORM_EPS, Weights};

const OPSET: i64 = 17;
pub(crate) const IR_VERSION: i64 = 8;
/// From this operator set on the axes of a reduction are an input and no attribute.
const AXES_ARE_INPUT: i64 = 18;

/// Writes nodes; a value is its name.
struct Writer<'a> {
    weights: &'a Weights,
    graph: GraphProto,
    /// First weight that was asked for and is not there.
    missing: Option<String>,
    opset: i64,
}

/// The whole model without its card: `image` u8 `[N, S, S, C]` → `score` `[N]`, `map` `[N, S/4, S/4]`.
///
/// Errors: the name of a weight that was never made.
pub fn model(weights: &Weights, shape: Shape) -> Result<ModelProto, String> {
    let frozen = weights.frozen();
    let backbone = frozen.as_ref().map(|f| &f.backbone);
    let opset = backbone.map_or(OPSET, |b| b.opset);
    let mut w = Writer { weights, graph: GraphProto::default(), missing: None, opset };
    w.graph.name = "inspect-train".into();
    let float = w.node("Cast", &[model::INPUT], vec![int("to", i64::from(data_type::FLOAT))]);
    let planes = w.node("Transpose", &[&float], vec![ints("perm", &[0, 3, 1, 2])]);
    let x = score::normalise(&mut w, &planes, shape);
    let (map, score) = score::score(&mut w, &x, shape);
    // ReduceMean over dimensions of length 1: drops them without a shape constant.
    w.squeeze(&map, &[1], model::MAP);
    w.squeeze(&score, &[1, 2, 3], model::SCORE);
    let (side, cells) = (shape.size, shape.size / MAP_STRIDE);
    w.graph.input = vec![value(model::INPUT, data_type::UINT8, &[0, side, side, shape.channels])];
    w.graph.output = vec![
        value(model::SCORE, data_type::FLOAT, &[0]),
        value(model::MAP, data_type::FLOAT, &[0, cells, cells]),
    ];
    if let Some(name) = w.missing {
        return Err(name);
    }
    Ok(ModelProto {
        ir_version: backbone.map_or(IR_VERSION, |b| b.ir_version.max(IR_VERSION)),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: opset }],
        producer_name: env!("CARGO_PKG_NAME").into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(w.graph),
        ..Default::default()
    })
}

impl Writer<'_> {
    /// Adds a node; its output is named after its place.
    fn node(&mut self, op: &str, input: &[&str], attribute: Vec<AttributeProto>) -> String {
        let output = format!("v{}", self.graph.node.len());
        self.named_node(op, input, attribute, &output);
        output
    }

    fn named_node(&mut self, op: &str, input: &[&str], attribute: Vec<AttributeProto>, output: &str) {
        self.graph.node.push(NodeProto {
            input: input.iter().map(|s| (*s).to_owned()).collect(),
            output: vec![output.to_owned()],
            name: output.to_owned(),
            op_type: op.to_owned(),
            attribute,
        });
    }

    fn squeeze(&mut self, x: &str, axes: &[i64], output: &str) {
        self.reduce("ReduceMean", x, axes, vec![int("keepdims", 0)], output);
    }

    fn reduce(&mut self, op: &str, x: &str, axes: &[i64], mut attribute: Vec<AttributeProto>, output: &str) {
        if self.opset >= AXES_ARE_INPUT {
            let axes = self.int64s(axes);
            self.named_node(op, &[x, &axes], attribute, output);
        } else {
            attribute.push(ints("axes", axes));
            self.named_node(op, &[x], attribute, output);
        }
    }

    /// As [`Self::reduce`], dimensions kept; the output is named after its place.
    fn reduced(&mut self, op: &str, x: &str, axes: &[i64]) -> String {
        let output = format!("v{}", self.graph.node.len());
        self.reduce(op, x, axes, vec![], &output);
        output
    }

    /// Stores a tensor once; gives its name.
    fn initializer(&mut self, name: &str, dims: &[i64], element: i32, raw_data: Vec<u8>) -> String {
        if !self.graph.initializer.iter().any(|t| t.name == name) {
            let dims = dims.to_vec();
            self.graph.initializer.push(TensorProto {
                dims,
                data_type: element,
                name: name.into(),
                raw_data,
            });
        }
        name.to_owned()
    }

    fn floats(&mut self, name: &str, tensor: &Tensor) -> String {
        let values = floats_of(tensor);
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.initializer(name, &tensor.size(), data_type::FLOAT, raw)
    }

    fn scalar(&mut self, value: f64) -> String {
        let raw = (value as f32).to_le_bytes().to_vec();
        self.initializer(&format!("scalar_{value}"), &[], data_type::FLOAT, raw)
    }

    fn int64s(&mut self, values: &[i64]) -> String {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let name = format!("ints_{values:?}");
        self.initializer(&name, &[values.len() as i64], data_type::INT64, raw)
    }

    fn weight(&mut self, name: &str) -> Tensor {
        self.weights.find(name).unwrap_or_else(|| {
            self.missing.get_or_insert_with(|| name.to_owned());
            Tensor::zeros([1], (Kind::Float, tch::Device::Cpu))
        })
    }
}

impl Graph for Writer<'_> {
    type Value = String;

    fn frozen(&mut self, pixels: &String) -> String {
        match self.weights.frozen() {
            Some(frozen) => frozen.splice(&mut self.graph, pixels),
            None => {
                self.missing.get_or_insert_with(|| "backbone".to_owned());
                pixels.clone()
            }
        }
    }

    fn conv(&mut self, x: &String, name: &str, conv: Conv) -> String {
        let weight = self.weight(&format!("{name}_w"));
        let (weight, bias) = if conv.norm {
            let [gain, shift, mean, variance] =
                ["gain", "shift", "mean", "var"].map(|part| self.weight(&format!("{name}_{part}")));
            let factor = gain / (variance + NORM_EPS).sqrt();
            (weight * factor.view([-1, 1, 1, 1]), shift - mean * &factor)
        } else {
            (weight, self.weight(&format!("{name}_b")))
        };
        let weight = self.floats(&format!("{name}_w"), &weight);
        let bias = self.floats(&format!("{name}_b"), &bias);
        let (k, s, p) = (conv.kernel, conv.stride, conv.kernel / 2);
        let attributes = vec![ints("kernel_shape", &[k, k]), ints("strides", &[s, s]), ints("pads", &[p; 4])];
        self.node("Conv", &[x, &weight, &bias], attributes)
    }

    fn relu(&mut self, x: &String) -> String {
        self.node("Relu", &[x], vec![])
    }
    fn add(&mut self, a: &String, b: &String) -> String {
        self.node("Add", &[a, b], vec![])
    }
    fn sub(&mut self, a: &String, b: &String) -> String {
        self.node("Sub", &[a, b], vec![])
    }
    fn mul(&mut self, a: &String, b: &String) -> String {
        self.node("Mul", &[a, b], vec![])
    }
    fn div(&mut self, a: &String, b: &String) -> String {
        self.node("Div", &[a, b], vec![])
    }
    fn max(&mut self, a: &String, b: &String) -> String {
        self.node("Max", &[a, b], vec![])
    }
    fn exp(&mut self, x: &String) -> String {
        self.node("Exp", &[x], vec![])
    }
    fn sqrt(&mut self, x: &String) -> String {
        self.node("Sqrt", &[x], vec![])
    }
    fn scale(&mut self, x: &String, factor: f64) -> String {
        let factor = self.scalar(factor);
        self.node("Mul", &[x, &factor], vec![])
    }
    fn clip(&mut self, x: &String, lo: f64, hi: f64) -> String {
        let (lo, hi) = (self.scalar(lo), self.scalar(hi));
        self.node("Clip", &[x, &lo, &hi], vec![])
    }

    fn upsample2(&mut self, x: &String) -> String {
        let raw = [1f32, 1.0, 2.0, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let scales = self.initializer("scales", &[4], data_type::FLOAT, raw);
        let attributes = vec![
            string("mode", "nearest"),
            string("coordinate_transformation_mode", "asymmetric"),
            string("nearest_mode", "floor"),
        ];
        self.node("Resize", &[x, "", &scales], attributes)
    }

    fn depth_to_space2(&mut self, x: &String) -> String {
        self.node("DepthToSpace", &[x], vec![int("blocksize", 2), string("mode", "CRD")])
    }
    fn channels(&mut self, x: &String, from: i64, to: i64) -> String {
        let [from, to, axis] = [from, to, 1].map(|v| self.int64s(&[v]));
        self.node("Slice", &[x, &from, &to, &axis], vec![])
    }
    fn concat(&mut self, parts: &[&String]) -> String {
        let parts: Vec<&str> = parts.iter().map(|p| p.as_str()).collect();
        self.node("Concat", &parts, vec![int("axis", 1)])
    }
    fn mean_picture(&mut self, x: &String) -> String {
        self.reduced("ReduceMean", x, &[1, 2, 3])
    }
    fn mean_channels(&mut self, x: &String) -> String {
        self.reduced("ReduceMean", x, &[1])
    }
    fn avg_pool(&mut self, x: &String, k: i64, stride: i64, pad: i64) -> String {
        let attributes = vec![
            ints("kernel_shape", &[k, k]),
            ints("strides", &[stride, stride]),
            ints("pads", &[pad; 4]),
            int("count_include_pad", 0),
        ];
        self.node("AveragePool", &[x], attributes)
    }
    fn max_picture(&mut self, x: &String) -> String {
        self.reduced("ReduceMax", x, &[1, 2, 3])
    }
    fn max_pool(&mut self, x: &String, k: i64) -> String {
        self.node("MaxPool", &[x], vec![ints("kernel_shape", &[k, k]), ints("strides", &[k, k])])
    }
    fn constant(&mut self, name: &str) -> String {
        let tensor = self.weight(name);
        self.floats(name, &tensor)
    }
}

pub(crate) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: attribute_type::INT, i, ..Default::default() }
}

pub(crate) fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: attribute_type::INTS,
        ints: ints.to_vec(),
        ..Default::default()
    }
}

pub(crate) fn string(name: &str, s: &str) -> AttributeProto {
    let s = s.as_bytes().to_vec();
    AttributeProto { name: name.into(), r#type: attribute_type::STRING, s, ..Default::default() }
}

/// Declares a graph value; a dimension of 0 is the open batch size.
fn value(name: &str, elem_type: i32, dims: &[i64]) -> ValueInfoProto {
    let open = |d: i64| if d == 0 { "N".into() } else { String::new() };
    let dim = dims.iter().map(|&d| DimensionProto { dim_value: d, dim_param: open(d) }).collect();
    let tensor_type = Some(TensorTypeProto { elem_type, shape: Some(TensorShapeProto { dim }) });
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type }) }
}
