//! Reads a user's ONNX file and finds what could not be merged, before anything is run.
//!
//! Never here: running it ([`super::run`]).

use std::path::Path;

use inspect_core::model::sha256;
use inspect_core::onnx::{
    self, AttributeProto, NodeProto, TensorProto, ValueInfoProto, attribute_type, data_type,
};
use prost::Message;

use super::proto::{Attribute, Graph, Model, Node, Tensor};
use super::{Backbone, BackboneError, MAX_BYTES, OPSETS, Scale};

/// Stands before every name out of the user's file: none of our own names holds a slash.
pub const PREFIX: &str = "backbone/";

/// Element types whose elements can stand in `int32_data`, with their bytes; further ones of `data_type`.
const INT8: i32 = 3;
const UINT16: i32 = 4;
const INT16: i32 = 5;
const INT32: i32 = 6;
const BOOL: i32 = 9;
const FLOAT16: i32 = 10;
const DOUBLE: i32 = 11;
const UINT32: i32 = 12;
const UINT64: i32 = 13;

/// What the advice is where a file holds something of its own kind.
const STANDARD: &str = "export it with standard operators only, all weights inside the file";

impl Backbone {
    /// Reads and checks the file, and tries it on pictures of `size` pixels.
    ///
    /// Errors: [`BackboneError`].
    pub fn load(path: &Path, scale: Scale, size: u32) -> Result<Self, BackboneError> {
        let io = |source| BackboneError::Io { path: path.to_owned(), source };
        let found = std::fs::metadata(path).map_err(io)?;
        if found.len() > MAX_BYTES {
            return Err(BackboneError::TooLarge { path: path.to_owned(), bytes: found.len() });
        }
        let mut backbone = Self::decode(&std::fs::read(path).map_err(io)?, path, scale)?;
        backbone.choose(i64::from(size))?;
        Ok(backbone)
    }

    /// Checks a whole file's bytes, without running it; `path` names them in errors.
    ///
    /// Errors: [`BackboneError`].
    pub fn decode(bytes: &[u8], path: &Path, scale: Scale) -> Result<Self, BackboneError> {
        let not_onnx = |reason: String| BackboneError::NotOnnx { path: path.to_owned(), reason };
        let unsupported = |what: String| unsupported(path, what);
        let model = Model::decode(bytes).map_err(|e| not_onnx(e.to_string()))?;
        let graph = model.graph.ok_or_else(|| not_onnx("it holds no graph".into()))?;
        if graph.node.is_empty() {
            return Err(not_onnx("its graph holds no node".into()));
        }
        let standard = |domain: &str| domain.is_empty() || domain == "ai.onnx";
        let opset = model.opset_import.iter().find(|o| standard(&o.domain)).map_or(0, |o| o.version);
        if !OPSETS.contains(&opset) {
            return Err(BackboneError::Opset { path: path.to_owned(), got: opset });
        }
        if !model.functions.is_empty() {
            return Err(unsupported("it defines operators of its own (functions)".into()));
        }
        if !graph.sparse_initializer.is_empty() {
            return Err(unsupported("it has sparse weights".into()));
        }
        let (input, channels, declared) = picture_input(&graph, path)?;
        let initializers = graph.initializer.into_iter().map(tensor).collect::<Result<Vec<_>, _>>();
        let mut initializers = initializers.map_err(unsupported)?;
        initializers.iter_mut().for_each(|t| t.name.insert_str(0, PREFIX));
        let nodes = graph.node.into_iter().map(node).collect::<Result<_, _>>().map_err(unsupported)?;
        Ok(Self {
            path: path.to_owned(),
            sha256: sha256(bytes),
            opset,
            ir_version: model.ir_version,
            scale,
            size: 0,
            maps: Vec::new(),
            channels,
            declared,
            input: prefixed(&input),
            outputs: graph.output.iter().map(|o| prefixed(&o.name)).collect(),
            nodes,
            initializers,
        })
    }
}

fn unsupported(path: &Path, what: String) -> BackboneError {
    BackboneError::Unsupported { path: path.to_owned(), what, advice: STANDARD }
}

/// Name, channels and declared shape of the one input that is no weight.
fn picture_input(graph: &Graph, path: &Path) -> Result<(String, i64, String), BackboneError> {
    let input = |got: String| BackboneError::Input { path: path.to_owned(), got };
    // Before IR version 4 every weight was declared as an input too.
    let is_weight = |v: &&ValueInfoProto| graph.initializer.iter().any(|t| t.name == v.name);
    let inputs: Vec<&ValueInfoProto> = graph.input.iter().filter(|v| !is_weight(v)).collect();
    let [only] = inputs[..] else {
        let names: Vec<&str> = inputs.iter().map(|v| v.name.as_str()).collect();
        return Err(input(format!("count is {}: {}", names.len(), names.join(", "))));
    };
    let Some((element, dims)) = onnx::declared(only) else {
        return Err(input(format!("`{}` is declared without a shape", only.name)));
    };
    let shape: Vec<String> = dims.iter().map(|d| if *d == 0 { "?".into() } else { d.to_string() }).collect();
    let shape = format!("[{}]", shape.join(", "));
    let kind =
        if element == data_type::FLOAT { String::new() } else { format!(" of element type {element}") };
    let got = || input(format!("`{}` is {shape}{kind}", only.name));
    match dims[..] {
        [_, c @ (0 | 1 | 3), h, w] if element == data_type::FLOAT && h != 3 && w != 3 => {
            Ok((only.name.clone(), if c == 0 { 3 } else { c }, shape))
        }
        _ => Err(got()),
    }
}

/// An empty name says that an input is not given.
fn prefixed(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!("{PREFIX}{name}") }
}

fn node(node: Node) -> Result<NodeProto, String> {
    let Node { input, output, name, op_type, attribute, domain } = node;
    let at = format!("node `{name}` ({op_type})");
    if !(domain.is_empty() || domain == "ai.onnx") {
        return Err(format!("{at} is of the domain `{domain}`, which not every ONNX Runtime knows"));
    }
    let attribute = attribute.into_iter().map(|a| attribute_of(a, &at)).collect::<Result<_, _>>()?;
    Ok(NodeProto {
        input: input.iter().map(|n| prefixed(n)).collect(),
        output: output.iter().map(|n| prefixed(n)).collect(),
        name: prefixed(&name),
        op_type,
        attribute,
    })
}

fn attribute_of(attribute: Attribute, at: &str) -> Result<AttributeProto, String> {
    use attribute_type::{FLOAT, FLOATS, INT, INTS, STRING, TENSOR};
    let Attribute { name, r#type, f, i, s, t, floats, ints } = attribute;
    if ![FLOAT, INT, STRING, TENSOR, FLOATS, INTS].contains(&r#type) {
        return Err(format!(
            "{at}: its attribute `{name}` is of kind {} (a graph within the graph, or a list of another kind)",
            r#type
        ));
    }
    let t = t.map(tensor).transpose().map_err(|what| format!("{at}: {what}"))?;
    Ok(AttributeProto { name, r#type, f, i, s, t, floats, ints })
}

/// The tensor with its elements as bytes: where they are bytes already, the same ones.
fn tensor(tensor: Tensor) -> Result<TensorProto, String> {
    let Tensor { dims, data_type, name, raw_data, .. } = &tensor;
    let at = format!("weight `{name}`");
    if tensor.data_location != 0 {
        return Err(format!("{at} lies in another file (external data)"));
    }
    let wrong =
        || format!("{at} of shape {dims:?} has elements of the kind {data_type}, which is not supported");
    let each = match *data_type {
        data_type::UINT8 | INT8 | BOOL => 1,
        UINT16 | INT16 | FLOAT16 => 2,
        data_type::FLOAT | INT32 | UINT32 => 4,
        data_type::INT64 | DOUBLE | UINT64 => 8,
        _ => return Err(wrong()), // text, complex numbers, eight bits and less
    };
    let count = dims.iter().try_fold(1u64, |n, d| n.checked_mul(u64::try_from(*d).ok()?));
    let expected = count.and_then(|n| n.checked_mul(each as u64)).ok_or_else(wrong)?;
    let raw = if raw_data.is_empty() { bytes_of(&tensor, each) } else { raw_data.clone() };
    if raw.len() as u64 != expected {
        return Err(format!("{at} of shape {dims:?} has {} bytes, expected {expected}", raw.len()));
    }
    Ok(TensorProto { dims: tensor.dims, data_type: tensor.data_type, name: tensor.name, raw_data: raw })
}

/// Elements out of the typed lists, little-endian. Small ones stand in `int32_data`, `each` bytes of every number.
fn bytes_of(tensor: &Tensor, each: usize) -> Vec<u8> {
    let small = tensor.int32_data.iter().flat_map(|v| v.to_le_bytes().into_iter().take(each));
    match tensor.data_type {
        data_type::FLOAT => tensor.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        data_type::INT64 => tensor.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DOUBLE => tensor.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        UINT64 => tensor.uint64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        UINT32 => tensor.uint64_data.iter().flat_map(|v| (*v as u32).to_le_bytes()).collect(),
        _ => small.collect(),
    }
}
