//! The backbone in ONNX Runtime: tried on pictures, whitened by goods, run for a fit.
//!
//! Never here: the model file, which holds the same nodes ([`super::splice`]).

use std::cell::RefCell;
use std::sync::Arc;

use inspect_core::onnx::{
    DimensionProto, GraphProto, ModelProto, OperatorSetIdProto, TensorShapeProto, TensorTypeProto, TypeProto,
    ValueInfoProto, data_type,
};
use inspect_core::runtime::environment;
use ort::session::Session;
use ort::value::TensorRef;
use prost::Message;
use tch::{Kind, Tensor};

use super::{Backbone, BackboneError, CELL_PX, MAX_CHANNELS, Map, Whitening, read};
use crate::infer::floats_of;

/// Name of the session's input: f32 `[N, C, S, S]`, 0 to 255.
const PIXELS: &str = "pixels";
/// Strides that maps are chosen for, pixels.
const STRIDES: [f64; 2] = [8.0, 16.0];
/// Fewest cells along a side of a map.
const MIN_CELLS: i64 = 2;
/// Pictures that go through together where the whitening is learnt.
const CHUNK: i64 = 8;
/// Most numbers that the whitening is learnt from, 256 MiB as f64, and most cells.
const MAX_VALUES: i64 = 1 << 25;
const MAX_CELLS: i64 = 1 << 15;
/// Largest difference between a picture alone and in a batch, as a share of the output's largest number.
const BATCH_TOLERANCE: f32 = 1e-3;

/// A network in ONNX Runtime with the names of its outputs.
#[derive(Debug)]
struct Running {
    session: Session,
    outputs: Vec<String>,
}

/// Shape and elements of an output.
type Output = (Vec<i64>, Vec<f32>);

impl Running {
    /// `graph` takes [`PIXELS`]. Errors: what ONNX Runtime says.
    fn new(
        backbone: &Backbone,
        mut graph: GraphProto,
        outputs: &[String],
        threads: usize,
    ) -> Result<Self, Failed> {
        graph.name = "backbone".into();
        let open = || DimensionProto { dim_value: 0, dim_param: String::new() };
        let shape = Some(TensorShapeProto { dim: (0..4).map(|_| open()).collect() });
        let tensor_type = Some(TensorTypeProto { elem_type: data_type::FLOAT, shape });
        graph.input = vec![ValueInfoProto { name: PIXELS.into(), r#type: Some(TypeProto { tensor_type }) }];
        // Without a type: ONNX Runtime finds it out.
        graph.output =
            outputs.iter().map(|name| ValueInfoProto { name: name.clone(), r#type: None }).collect();
        let model = ModelProto {
            ir_version: backbone.ir_version.max(crate::onnx::IR_VERSION),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: backbone.opset }],
            graph: Some(graph),
            ..Default::default()
        };
        let environment = environment(None)?;
        let session = || {
            Session::builder(&environment)?
                .with_intra_threads(threads.max(1))?
                .with_intra_op_spinning(false)?
                .commit_from_memory(&model.encode_to_vec())
        };
        let session = session().map_err(|e: ort::Error| Failed::Said(e.to_string()))?;
        Ok(Self { session, outputs: outputs.to_vec() })
    }

    /// All outputs of 32-bit floats, `None` for others. Shape: `pixels` `[N, C, S, S]`. Errors: what ONNX Runtime says.
    fn run(&mut self, pixels: &[f32], shape: [i64; 4]) -> Result<Vec<Option<Output>>, Failed> {
        let said = |e: ort::Error| Failed::Said(e.to_string());
        let tensor = TensorRef::from_array_view((shape, pixels)).map_err(said)?;
        let outputs = self.session.run(ort::inputs![PIXELS => tensor]).map_err(said)?;
        let output = |name: &String| {
            let (shape, values) = outputs.get(name)?.try_extract_tensor::<f32>().ok()?;
            Some((shape.to_vec(), values.to_vec()))
        };
        Ok(self.outputs.iter().map(output).collect())
    }
}

/// What came of ONNX Runtime, not yet with the file's name.
enum Failed {
    Runtime(inspect_core::runtime::RuntimeError),
    Said(String),
}

impl From<inspect_core::runtime::RuntimeError> for Failed {
    fn from(error: inspect_core::runtime::RuntimeError) -> Self {
        Self::Runtime(error)
    }
}

impl Backbone {
    fn failed(&self, failed: Failed) -> BackboneError {
        match failed {
            Failed::Runtime(error) => BackboneError::Runtime(error),
            Failed::Said(reason) => BackboneError::Run {
                path: self.path.clone(),
                size: self.size,
                declared: self.declared.clone(),
                reason,
            },
        }
    }

    /// Runs it on two pictures and on the first of them alone, and chooses the maps.
    pub(super) fn choose(&mut self, size: i64) -> Result<(), BackboneError> {
        self.size = size;
        let mut graph = GraphProto::default();
        self.splice_maps(&mut graph, PIXELS, self.channels);
        let outputs = self.outputs.clone();
        let mut running = Running::new(self, graph, &outputs, 1).map_err(|e| self.failed(e))?;
        let one = (self.channels * size * size) as usize;
        // Any picture will do: a coarse and a fine pattern, another for each of the two.
        let value = |i: usize| ((i / 97 * 31 + i % 89 * 7 + i / one * 53) % 256) as f32;
        let pixels: Vec<f32> = (0..2 * one).map(value).collect();
        let shape = |n: i64| [n, self.channels, size, size];
        let both = running.run(&pixels, shape(2)).map_err(|e| self.failed(e))?;
        let alone = running.run(&pixels[..one], shape(1)).map_err(|e| self.failed(e))?;
        let mut maps = Vec::new();
        let mut seen = Vec::new();
        for ((name, both), alone) in outputs.iter().zip(&both).zip(&alone) {
            let name = name.trim_start_matches(read::PREFIX);
            let Some((dims, values)) = both else {
                seen.push(format!("`{name}` is not of 32-bit floats"));
                continue;
            };
            seen.push(format!("`{name}` is {dims:?}"));
            let [2, c, h, w] = dims[..] else { continue };
            if c < 1 || !(MIN_CELLS..=size).contains(&h) || !(MIN_CELLS..=size).contains(&w) {
                continue;
            }
            maps.push((Map { name: name.to_owned(), size: [c, h, w] }, values, alone));
        }
        let no_map = || BackboneError::NoMap { path: self.path.clone(), size, got: seen.join(", ") };
        let nearest = |wanted: f64, taken: Option<usize>| {
            let far = |i: &usize| (maps[*i].0.stride(size) / wanted).log2().abs();
            (0..maps.len()).filter(|i| Some(*i) != taken).min_by(|a, b| far(a).total_cmp(&far(b)))
        };
        let fine = nearest(STRIDES[0], None).ok_or_else(no_map)?;
        let mut chosen: Vec<usize> =
            [Some(fine), nearest(STRIDES[1], Some(fine))].into_iter().flatten().collect();
        chosen.sort_by_key(|i| -maps[*i].0.size[1]);
        for &i in &chosen {
            let (map, both, alone) = &maps[i];
            if !both.iter().all(|v| v.is_finite()) {
                return Err(BackboneError::NotFinite { path: self.path.clone(), on: "a test pattern" });
            }
            if !is_same(both, alone.as_ref()) {
                return Err(BackboneError::Batch { path: self.path.clone(), output: map.name.clone() });
            }
        }
        let chosen: Vec<Map> = chosen.into_iter().map(|i| maps[i].0.clone()).collect();
        self.maps = chosen;
        if self.channels() > MAX_CHANNELS {
            let what = format!(
                "its maps have {} channels together, at most {MAX_CHANNELS} can be used",
                self.channels()
            );
            let advice = "make outputs of layers with fewer channels";
            return Err(BackboneError::Unsupported { path: self.path.clone(), what, advice });
        }
        Ok(())
    }
}

/// Whether the first picture of `both` gave what it gave alone.
fn is_same(both: &[f32], alone: Option<&Output>) -> bool {
    let Some((_, alone)) = alone else { return false };
    let largest = both.iter().fold(0f32, |m, v| m.max(v.abs()));
    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= BATCH_TOLERANCE * largest;
    alone.len() * 2 == both.len() && both.iter().zip(alone).all(near)
}

/// The backbone with its whitening, ready to run.
#[derive(Debug)]
pub struct Frozen {
    /// The network.
    pub backbone: Arc<Backbone>,
    /// What makes features of its maps.
    pub whitening: Whitening,
    /// Channels of the pictures that it is given.
    pictures: i64,
    running: RefCell<Running>,
    failed: RefCell<Option<BackboneError>>,
}

impl Frozen {
    /// Learns the whitening from fitting goods. Shape: `pixels` `[N, C, S, S]`, 0 to 255. `most`: components.
    ///
    /// Errors: [`BackboneError`].
    pub fn new(
        backbone: Arc<Backbone>,
        pixels: &Tensor,
        most: usize,
        threads: Option<usize>,
    ) -> Result<Self, BackboneError> {
        let threads = threads.or(std::thread::available_parallelism().ok().map(Into::into)).unwrap_or(1);
        let pictures = pixels.size()[1];
        let start = |whitening: Option<&Whitening>| {
            let mut graph = GraphProto::default();
            let features = backbone.splice(&mut graph, PIXELS, pictures, whitening);
            Running::new(&backbone, graph, &[features], threads).map_err(|e| backbone.failed(e))
        };
        let mut running = start(None)?;
        let each = (MAX_CELLS.min(MAX_VALUES / backbone.channels()) / pixels.size()[0]).max(1);
        let mut cells = Vec::new();
        for at in (0..pixels.size()[0]).step_by(CHUNK as usize) {
            let chunk = pixels.narrow(0, at, CHUNK.min(pixels.size()[0] - at));
            let maps = features(&mut running, &chunk, &backbone)?;
            let flat = maps.permute([0, 2, 3, 1]).flatten(1, 2); // (n, cells, C)
            let step = (flat.size()[1] / each).max(1);
            let chosen = flat.slice(1, at / CHUNK % step, flat.size()[1], step);
            cells.push(chosen.reshape([-1, backbone.channels()]));
        }
        let cells = Tensor::cat(&cells, 0);
        if cells.isfinite().all().int64_value(&[]) == 0 {
            return Err(BackboneError::NotFinite { path: backbone.path.clone(), on: "the goods" });
        }
        let groups: Vec<i64> = backbone.maps.iter().map(|m| m.size[0]).collect();
        let flat = || BackboneError::Flat { path: backbone.path.clone() };
        let whitening = Whitening::learn(&cells, &groups, most).ok_or_else(flat)?;
        let running = RefCell::new(start(Some(&whitening))?);
        Ok(Self { backbone, whitening, pictures, running, failed: RefCell::default() })
    }

    /// Channels of the features.
    pub fn channels(&self) -> i64 {
        self.whitening.bias.len() as i64
    }

    /// Features of pictures. Shape: `[N, C, S, S]`, 0 to 255 → `[N, K, S/8, S/8]` on the same device.
    ///
    /// Not numbers where ONNX Runtime fails, which [`Self::failure`] then tells.
    pub fn features(&self, pixels: &Tensor) -> Tensor {
        features(&mut self.running.borrow_mut(), pixels, &self.backbone).unwrap_or_else(|error| {
            self.failed.borrow_mut().get_or_insert(error);
            let cells = self.backbone.size / CELL_PX;
            let size = [pixels.size()[0], self.channels(), cells, cells];
            Tensor::full(size, f64::NAN, (Kind::Float, pixels.device()))
        })
    }

    /// The first failure of [`Self::features`] since the last call.
    pub fn failure(&self) -> Option<BackboneError> {
        self.failed.borrow_mut().take()
    }

    /// Puts its nodes into a model file's graph; see [`Backbone::splice`].
    pub fn splice(&self, graph: &mut GraphProto, pixels: &str) -> String {
        self.backbone.splice(graph, pixels, self.pictures, Some(&self.whitening))
    }
}

/// The backbone with nothing behind it.
#[derive(Debug)]
pub struct Maps {
    backbone: Arc<Backbone>,
    running: RefCell<Running>,
}

impl Maps {
    /// For pictures of `channels`. Errors: [`BackboneError`].
    pub fn new(backbone: Arc<Backbone>, channels: i64, threads: usize) -> Result<Self, BackboneError> {
        let mut graph = GraphProto::default();
        backbone.splice_maps(&mut graph, PIXELS, channels);
        let outputs: Vec<String> =
            backbone.maps.iter().map(|m| format!("{}{}", read::PREFIX, m.name)).collect();
        let running = Running::new(&backbone, graph, &outputs, threads).map_err(|e| backbone.failed(e))?;
        Ok(Self { backbone, running: RefCell::new(running) })
    }

    /// The chosen maps, finest first. Shape: `[N, C, S, S]`, 0 to 255 → each `[N, c, h, w]`.
    ///
    /// Errors: [`BackboneError::Run`], [`BackboneError::NotFinite`].
    pub fn of(&self, pixels: &Tensor) -> Result<Vec<Tensor>, BackboneError> {
        let size = pixels.size();
        let shape = [size[0], size[1], size[2], size[3]];
        let outputs = self.running.borrow_mut().run(&floats_of(pixels), shape);
        let outputs = outputs.map_err(|e| self.backbone.failed(e))?;
        let map = |output: Option<Output>| {
            let no_map = || self.backbone.failed(Failed::Said("a map is missing".into()));
            let (dims, values) = output.ok_or_else(no_map)?;
            if !values.iter().all(|v| v.is_finite()) {
                return Err(BackboneError::NotFinite {
                    path: self.backbone.path.clone(),
                    on: "the pictures",
                });
            }
            Ok(Tensor::from_slice(&values).view(dims.as_slice()))
        };
        outputs.into_iter().map(map).collect()
    }
}

/// The only output of `running`. Shape: `[N, C, S, S]` → `[N, K, h, w]`.
fn features(running: &mut Running, pixels: &Tensor, backbone: &Backbone) -> Result<Tensor, BackboneError> {
    let size = pixels.size();
    let shape = [size[0], size[1], size[2], size[3]];
    let mut outputs = running.run(&floats_of(pixels), shape).map_err(|e| backbone.failed(e))?;
    let cells = backbone.size / CELL_PX;
    match outputs.pop().flatten() {
        Some((dims, values)) if dims.len() == 4 && dims[0] == size[0] && dims[2..] == [cells, cells] => {
            Ok(Tensor::from_slice(&values).view(dims.as_slice()).to_device(pixels.device()))
        }
        other => {
            let got = other.map(|(dims, _)| dims);
            Err(backbone
                .failed(Failed::Said(format!("expected features of {cells} x {cells} cells, got {got:?}"))))
        }
    }
}
