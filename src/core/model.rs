//! A model file: its bytes, its SHA-256, and its card, checked against the graph's declared shapes.
//!
//! Reading needs no ONNX Runtime, so `check` and `card` work on a machine that has none.
//!
//! Never here: running the model (see [`crate::scorer`]).

use std::path::{Path, PathBuf};

use prost::Message;
use sha2::{Digest, Sha256};

use crate::card::{CARD_KEY, Card, CardError, Input};
use crate::file;
use crate::onnx::{self, ModelProto, ValueInfoProto, data_type};

/// Largest model file that is read.
pub const MAX_MODEL_BYTES: u64 = 1 << 30;
/// Name of the graph's input, `u8 [N, H, W, C]`.
pub const INPUT: &str = "image";
/// Name of the output `f32 [N]`.
pub const SCORE: &str = "score";
/// Name of the output `f32 [N, h, w]`.
pub const MAP: &str = "map";

/// Why a model file is refused.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file could not be read or written.
    #[error("model {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not ONNX, or cut short.
    #[error("model {path}: truncated or not an ONNX file: {reason}; copy it anew from where it was fitted")]
    Onnx {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        reason: String,
    },
    /// An ONNX file of somebody else.
    #[error("model {path}: has no card (metadata `{CARD_KEY}`); fit it with inspect-train")]
    NoCard {
        /// The file.
        path: PathBuf,
    },
    /// The card is refused.
    #[error("model {path}: {source}")]
    Card {
        /// The file.
        path: PathBuf,
        /// Which field, and why.
        source: CardError,
    },
    /// The graph is not what the card says.
    #[error("model {path}: graph value `{name}`: expected {expected}, got {got}")]
    Graph {
        /// The file.
        path: PathBuf,
        /// Input or output.
        name: &'static str,
        /// Element type and shape by the card.
        expected: String,
        /// What the graph declares.
        got: String,
    },
}

/// A model file in memory.
#[derive(Debug, Clone)]
pub struct ModelFile {
    /// Where it came from.
    pub path: PathBuf,
    /// The whole file.
    pub bytes: Vec<u8>,
    /// SHA-256 of the whole file, lower-case hex.
    pub sha256: String,
    /// Its card, checked.
    pub card: Card,
    /// Shape of the anomaly map: height, width.
    pub map: (usize, usize),
}

impl ModelFile {
    /// Reads and checks a model file.
    ///
    /// Errors: [`ModelError`], which names the file and what in it is wrong.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let io = |source| ModelError::Io { path: path.to_owned(), source };
        Self::decode(file::read(path, MAX_MODEL_BYTES).map_err(io)?, path)
    }

    /// Checks a whole file's bytes; `path` names them in errors.
    ///
    /// Errors: [`ModelError`].
    pub fn decode(bytes: Vec<u8>, path: &Path) -> Result<Self, ModelError> {
        let onnx = |reason: String| ModelError::Onnx { path: path.to_owned(), reason };
        let proto = ModelProto::decode(bytes.as_slice()).map_err(|e| onnx(e.to_string()))?;
        let graph = proto.graph.as_ref().ok_or_else(|| onnx("it holds no graph".into()))?;
        let json = proto
            .metadata_props
            .iter()
            .find(|p| p.key == CARD_KEY)
            .ok_or_else(|| ModelError::NoCard { path: path.to_owned() })?;
        let card = Card::from_json(&json.value)
            .map_err(|source| ModelError::Card { path: path.to_owned(), source })?;
        let Input { width, height, channels } = card.input;
        let (w, h, c) = (i64::from(width), i64::from(height), i64::from(channels));
        let declared = |values: &[ValueInfoProto], name, element, dims: [Option<i64>; 4]| {
            declared_as(path, values, name, element, &dims)
        };
        declared(&graph.input, INPUT, data_type::UINT8, [Some(0), Some(h), Some(w), Some(c)])?;
        declared_as(path, &graph.output, SCORE, data_type::FLOAT, &[Some(0)])?;
        let map = declared_as(path, &graph.output, MAP, data_type::FLOAT, &[Some(0), None, None])?;
        let sha256 = sha256(&bytes);
        let map = (map[1] as usize, map[2] as usize);
        Ok(Self { path: path.to_owned(), sha256, card, map, bytes })
    }
}

/// The declared dimensions of graph value `name`, if they are as expected (`None`: any from 1 to 4096;
/// `Some(0)`: open).
fn declared_as(
    path: &Path,
    values: &[ValueInfoProto],
    name: &'static str,
    element: i32,
    expected: &[Option<i64>],
) -> Result<Vec<i64>, ModelError> {
    let got = values.iter().find(|v| v.name == name).and_then(onnx::declared);
    if let Some((got_element, dims)) = &got
        && *got_element == element
        && dims.len() == expected.len()
        && dims.iter().zip(expected).all(|(d, e)| e.map_or((1..=4096).contains(d), |e| e == *d))
    {
        return Ok(dims.clone());
    }
    let shape = |dims: &mut dyn Iterator<Item = Option<i64>>| {
        let dims: Vec<_> = dims
            .map(|d| d.map_or("1..=4096".into(), |d| if d == 0 { "N".into() } else { d.to_string() }))
            .collect();
        format!("[{}]", dims.join(", "))
    };
    Err(ModelError::Graph {
        path: path.to_owned(),
        name,
        expected: format!("element type {element}, shape {}", shape(&mut expected.iter().copied())),
        got: got.map_or("nothing of that name".into(), |(t, dims)| {
            format!("element type {t}, shape {}", shape(&mut dims.into_iter().map(Some)))
        }),
    })
}

/// SHA-256 as lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The same of what a reader gives, a piece at a time.
///
/// Errors: the reader's.
pub fn sha256_of(from: &mut impl std::io::Read) -> std::io::Result<String> {
    let mut digest = Sha256::new();
    let mut piece = [0; 64 * 1024];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(hex(&digest.finalize())),
            got => digest.update(&piece[..got]),
        }
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
        let _ = write!(text, "{b:02x}"); // writing to a String cannot fail
        text
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::onnx::*;
    use proptest::prelude::*;

    pub(crate) fn value(name: &str, elem_type: i32, dims: &[i64]) -> ValueInfoProto {
        let dim = dims
            .iter()
            .map(|&d| DimensionProto {
                dim_value: d,
                dim_param: if d == 0 { "N".into() } else { String::new() },
            })
            .collect();
        let tensor_type = Some(TensorTypeProto { elem_type, shape: Some(TensorShapeProto { dim }) });
        ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type }) }
    }

    /// A model whose map and score are the mean grey value of its 8x4 input divided by 255.
    pub(crate) fn mean_model() -> ModelProto {
        let node = |op: &str, input: &[&str], output: &str, attribute: Vec<AttributeProto>| NodeProto {
            input: input.iter().map(|s| s.to_string()).collect(),
            output: vec![output.into()],
            op_type: op.into(),
            attribute,
            ..Default::default()
        };
        let ints = |name: &str, ints: &[i64]| AttributeProto {
            name: name.into(),
            r#type: attribute_type::INTS,
            ints: ints.to_vec(),
            ..Default::default()
        };
        let int = |name: &str, i: i64| AttributeProto {
            name: name.into(),
            r#type: attribute_type::INT,
            i,
            ..Default::default()
        };
        let scale = TensorProto {
            dims: vec![1],
            data_type: data_type::FLOAT,
            name: "scale".into(),
            raw_data: (1.0f32 / 255.0).to_le_bytes().to_vec(),
        };
        let graph = GraphProto {
            name: "mean".into(),
            node: vec![
                node("Cast", &[INPUT], "float", vec![int("to", 1)]),
                node("Mul", &["float", "scale"], "unit", vec![]),
                node("ReduceMean", &["unit"], MAP, vec![ints("axes", &[3]), int("keepdims", 0)]),
                node("ReduceMean", &[MAP], SCORE, vec![ints("axes", &[1, 2]), int("keepdims", 0)]),
            ],
            initializer: vec![scale],
            input: vec![value(INPUT, data_type::UINT8, &[0, 4, 8, 1])],
            output: vec![value(SCORE, data_type::FLOAT, &[0]), value(MAP, data_type::FLOAT, &[0, 4, 8])],
        };
        let mut card = crate::card::tests::card();
        card.golden[0].score = 9.0 / 255.0;
        ModelProto {
            ir_version: 8,
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
            graph: Some(graph),
            metadata_props: vec![StringStringEntryProto {
                key: CARD_KEY.into(),
                value: card.to_json().unwrap(),
            }],
            ..Default::default()
        }
    }

    fn decode(bytes: Vec<u8>) -> Result<ModelFile, ModelError> {
        ModelFile::decode(bytes, Path::new("m.onnx"))
    }

    #[test]
    fn a_good_file_is_read() {
        let model = decode(mean_model().encode_to_vec()).unwrap();
        assert_eq!((model.map, model.sha256.len()), ((4, 8), 64));
    }

    #[test]
    fn refusals_name_the_file_and_what_is_wrong() {
        let mut no_card = mean_model();
        no_card.metadata_props.clear();
        let mut wrong_shape = mean_model();
        wrong_shape.graph.as_mut().unwrap().input[0] = value(INPUT, data_type::UINT8, &[0, 4, 9, 1]);
        let mut no_map = mean_model();
        no_map.graph.as_mut().unwrap().output.pop();
        for (model, expected) in [(no_card, "no card"), (wrong_shape, "`image`"), (no_map, "`map`")] {
            let error = decode(model.encode_to_vec()).unwrap_err().to_string();
            assert!(error.contains("m.onnx") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = mean_model().encode_to_vec();
        for end in 0..bytes.len() {
            assert!(decode(bytes[..end].to_vec()).is_err(), "cut at {end} of {}", bytes.len());
        }
    }

    proptest! {
        #[test]
        fn damaged_files_never_panic(at in 0usize..4000, bits in 1u8..) {
            let mut bytes = mean_model().encode_to_vec();
            let at = at % bytes.len();
            bytes[at] ^= bits;
            let _ = decode(bytes);
        }
    }
}
