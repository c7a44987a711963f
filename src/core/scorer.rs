//! The scorer: inputs in, a score and an anomaly map of each out.
//!
//! A *batch* is several inputs in one run.
//!
//! [`Scorer`] is the seam to ONNX Runtime; the simulated ones stand beside the tests that need them.
//! Calls block, and must stay on one thread: a session dropped while an asynchronous run winds down
//! kills the process (seen with ort 2.0.0-rc.15), so only synchronous runs are used.
//!
//! Never here: threads, deadlines, thresholds applied to a part (see [`crate::verdict`]).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ort::ep;
use ort::session::Session;
use ort::value::TensorRef;

use crate::card::{Card, Golden, Input};
use crate::model::{self, ModelFile};
use crate::runtime::{Provider, Runtime, RuntimeError, environment};

/// Largest difference to a golden score in FP32, as a share of the reject threshold.
pub const GOLDEN_TOLERANCE: f32 = 1e-3;

/// Sizes of a batch that are tried.
const BATCHES: [usize; 3] = [2, 4, 8];
/// A larger batch must take at most this share of the time for each input: the first waits for the last.
const BATCH_GAIN: f64 = 0.9;
/// Runs of which the shortest counts; the first at a new size sets things up.
const BATCH_RUNS: usize = 3;

/// The variable that keeps NVIDIA's libraries from TF32 when it is 0.
const TF32_OVERRIDE: &str = "NVIDIA_TF32_OVERRIDE";

/// Why there is no score.
#[derive(Debug, thiserror::Error)]
pub enum ScorerError {
    /// ONNX Runtime cannot be opened.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// No provider of the list could load the model.
    #[error("model {path}: no execution provider could load it: {}", .tried.join("; "))]
    Load {
        /// The model file.
        path: PathBuf,
        /// What each provider said.
        tried: Vec<String>,
    },
    /// The input is not as long as the card says.
    #[error("input has {got} bytes, the model's card says {expected}")]
    Shape {
        /// Bytes by the card.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
    /// The run failed or gave something else than a score and a map.
    #[error("ONNX Runtime: {0}")]
    Run(String),
    /// A golden image's score is not what the training framework gave it.
    #[error("model {path}: golden image `{name}`: expected score {expected} within {tolerance}, got {got}")]
    Golden {
        /// The model file.
        path: PathBuf,
        /// Which golden image.
        name: String,
        /// The card's score.
        expected: f32,
        /// What this provider gives.
        got: f32,
        /// Allowed difference.
        tolerance: f32,
    },
}

/// Scores inputs.
pub trait Scorer: Send {
    /// Scores a batch and overwrites `scores` and `maps`.
    ///
    /// Shape: `u8 [N, H, W, C]`, N at least 1 → `scores [N]`, `maps [N, h, w]`. A score may be NaN: `judge` refuses
    /// it. Errors: [`ScorerError::Shape`], [`ScorerError::Run`].
    fn run(&mut self, inputs: &[u8], scores: &mut Vec<f32>, maps: &mut Vec<f32>) -> Result<(), ScorerError>;

    /// Inputs that one run should take at most where several wait: 1, where a batch is no faster than its inputs
    /// one by one.
    fn batch(&self) -> usize {
        1
    }

    /// Scores one input and overwrites `map` with its anomaly map.
    ///
    /// Shape: `u8 [H, W, C]` → score, `map [h, w]`. Errors: as [`run`](Self::run).
    fn score(&mut self, input: &[u8], map: &mut Vec<f32>) -> Result<f32, ScorerError> {
        let mut scores = Vec::with_capacity(1);
        self.run(input, &mut scores, map)?;
        match scores[..] {
            [score] => Ok(score),
            _ => Err(ScorerError::Run(format!("expected one score, got {}", scores.len()))),
        }
    }
}

/// A model in ONNX Runtime.
pub struct OnnxScorer {
    session: Session,
    provider: Provider,
    input: Input,
    /// Values of one map.
    pixels: usize,
    golden_difference: f32,
    batch: usize,
}

impl OnnxScorer {
    /// Makes the model ready on the first provider that takes it, runs it (so that the first part does not
    /// pay for lazy set-up) and reproduces its golden images.
    ///
    /// Errors: [`ScorerError::Runtime`]; [`ScorerError::Load`] with what each provider said.
    pub fn load(file: &ModelFile, runtime: &Runtime) -> Result<Self, ScorerError> {
        let environment = environment(runtime.library.as_deref())?;
        let mut tried = Vec::new();
        let allowed = if runtime.fallback { runtime.providers.len() } else { 1 };
        for &provider in runtime.providers.iter().take(allowed) {
            match Self::load_on(&environment, provider, runtime.threads, file) {
                Ok(scorer) => {
                    if !tried.is_empty() {
                        let why = tried.join("; ");
                        tracing::warn!(%provider, why, "fell back to another execution provider");
                    }
                    return Ok(scorer);
                }
                Err(e) => tried.push(format!("{provider}: {e}")),
            }
        }
        Err(ScorerError::Load { path: file.path.clone(), tried })
    }

    fn load_on(
        environment: &ort::environment::Environment,
        provider: Provider,
        threads: usize,
        file: &ModelFile,
    ) -> Result<Self, ScorerError> {
        let session = session(environment, provider, threads, &file.bytes)
            .map_err(|e| ScorerError::Run(e.to_string()))?;
        let off = std::env::var_os(TF32_OVERRIDE).is_some_and(|value| value == "0");
        if provider == Provider::TensorRt && !off {
            return Err(ScorerError::Run(format!("set {TF32_OVERRIDE}=0: TF32 rounds inputs to ten bits")));
        }
        let (input, pixels) = (file.card.input, file.map.0 * file.map.1);
        let mut scorer = Self { session, provider, input, pixels, golden_difference: 0.0, batch: 1 };
        scorer.golden_difference = check_golden(&mut scorer, file)?;
        Ok(scorer)
    }

    /// Finds out by measurement which batch is fastest here, for [`Scorer::batch`]. A batch must reproduce the
    /// golden scores too. Takes some nine runs where batches are no faster, as on one thread of a processor.
    ///
    /// TensorRT keeps to single inputs: it would build an engine for each size, for minutes.
    /// Errors: [`ScorerError::Run`], [`ScorerError::Golden`].
    pub fn find_batch(&mut self, file: &ModelFile) -> Result<(), ScorerError> {
        if self.provider == Provider::TensorRt {
            return Ok(());
        }
        let mut fastest = self.time_of(1, file)?;
        for size in BATCHES {
            let each = self.time_of(size, file)? / size as u32;
            if each.as_secs_f64() > fastest.as_secs_f64() * BATCH_GAIN {
                break;
            }
            (self.batch, fastest) = (size, each);
        }
        Ok(())
    }

    /// Shortest time of a batch of `size` golden images, which are compared.
    fn time_of(&mut self, size: usize, file: &ModelFile) -> Result<Duration, ScorerError> {
        let golden = golden_inputs(&file.card)?;
        let inputs: Vec<u8> = golden.iter().cycle().take(size).flatten().copied().collect();
        let (mut scores, mut maps) = (Vec::new(), Vec::new());
        let mut shortest = Duration::MAX;
        for _ in 0..BATCH_RUNS {
            let start = Instant::now();
            self.run(&inputs, &mut scores, &mut maps)?;
            shortest = shortest.min(start.elapsed());
        }
        for (got, golden) in scores.iter().zip(file.card.golden.iter().cycle()) {
            compare(*got, golden, file)?;
        }
        Ok(shortest)
    }

    /// The provider that really runs the model.
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// Largest difference to a golden score, as a share of the reject threshold.
    pub fn golden_difference(&self) -> f32 {
        self.golden_difference
    }
}

/// One chain of builder calls, because their errors are not `Send`.
fn session(
    environment: &ort::environment::Environment,
    provider: Provider,
    threads: usize,
    bytes: &[u8],
) -> ort::Result<Session> {
    let builder = Session::builder(environment)?
        .with_intra_threads(threads.max(1))?
        // Spinning threads would take the cores that camera and Modbus need.
        .with_intra_op_spinning(false)?;
    let provider = match provider {
        // TF32 would round inputs to ten bits; for TensorRT only its variable switches it off.
        Provider::TensorRt => Some(ep::TensorRT::default().build()),
        Provider::Cuda => Some(ep::CUDA::default().with_tf32(false).build()),
        Provider::Cpu => None,
    };
    match provider {
        Some(provider) => {
            builder.with_execution_providers([provider.error_on_failure()])?.commit_from_memory(bytes)
        }
        None => { builder }.commit_from_memory(bytes),
    }
}

impl Scorer for OnnxScorer {
    fn run(&mut self, inputs: &[u8], scores: &mut Vec<f32>, maps: &mut Vec<f32>) -> Result<(), ScorerError> {
        let Input { width, height, channels } = self.input;
        let count = inputs.len() / self.input.bytes();
        if count == 0 || !inputs.len().is_multiple_of(self.input.bytes()) {
            return Err(ScorerError::Shape { expected: self.input.bytes(), got: inputs.len() });
        }
        let shape = [count, height as usize, width as usize, usize::from(channels)];
        let run = |e: ort::Error| ScorerError::Run(e.to_string());
        let tensor = TensorRef::from_array_view((shape, inputs)).map_err(run)?;
        let outputs = self.session.run(ort::inputs![model::INPUT => tensor]).map_err(run)?;
        let output = |name: &str| {
            let value = outputs.get(name);
            value.ok_or_else(|| ScorerError::Run(format!("the model gave no `{name}`")))
        };
        let (_, values) = output(model::MAP)?.try_extract_tensor::<f32>().map_err(run)?;
        maps.clear();
        maps.extend_from_slice(values);
        let (_, values) = output(model::SCORE)?.try_extract_tensor::<f32>().map_err(run)?;
        if values.len() != count || maps.len() != count * self.pixels {
            let got = format!("{} scores and {} map values", values.len(), maps.len());
            return Err(ScorerError::Run(format!("expected scores and maps of {count} inputs, got {got}")));
        }
        scores.clear();
        scores.extend_from_slice(values);
        Ok(())
    }

    fn batch(&self) -> usize {
        self.batch
    }
}

/// Scores every golden image of the card and compares: within [`GOLDEN_TOLERANCE`] of the reject
/// threshold, and on the same side of both thresholds.
///
/// Returns the largest difference as a share of the reject threshold.
/// Errors: [`ScorerError::Golden`] for the first that is off, [`ScorerError::Run`].
pub fn check_golden(scorer: &mut dyn Scorer, file: &ModelFile) -> Result<f32, ScorerError> {
    let mut map = Vec::new();
    let mut largest = 0f32;
    for (image, golden) in golden_inputs(&file.card)?.iter().zip(&file.card.golden) {
        let got = scorer.score(image, &mut map)?;
        largest = largest.max(compare(got, golden, file)?);
    }
    Ok(largest)
}

/// Difference of a golden image's score to its card's, as a share of the reject threshold.
///
/// Errors: [`ScorerError::Golden`] if it is too large, or changes the verdict.
fn compare(got: f32, golden: &Golden, file: &ModelFile) -> Result<f32, ScorerError> {
    let thresholds = file.card.thresholds;
    let difference = (got - golden.score).abs() / thresholds.reject;
    let same_side = |limit: f32| (got <= limit) == (golden.score <= limit);
    if difference <= GOLDEN_TOLERANCE && same_side(thresholds.review) && same_side(thresholds.reject) {
        return Ok(difference);
    }
    Err(ScorerError::Golden {
        path: file.path.clone(),
        name: golden.name.clone(),
        expected: golden.score,
        got,
        tolerance: GOLDEN_TOLERANCE * thresholds.reject,
    })
}

/// The card's golden images as model inputs. Shape: each `[H, W, C]`.
///
/// Errors: [`ScorerError::Run`] if a picture cannot be read, which a checked card rules out.
pub fn golden_inputs(card: &Card) -> Result<Vec<Vec<u8>>, ScorerError> {
    let read = |golden: &Golden| golden.image().map(|i| i.data().to_vec());
    card.golden.iter().map(read).collect::<Result<_, _>>().map_err(|e| ScorerError::Run(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::mean_model;
    use prost::Message;
    use std::path::Path;

    fn file() -> ModelFile {
        ModelFile::decode(mean_model().encode_to_vec(), Path::new("mean.onnx")).unwrap()
    }

    fn cpu() -> Runtime {
        Runtime { providers: vec![Provider::Cpu], ..Runtime::default() }
    }

    #[test]
    fn the_real_runtime_scores_and_reproduces_golden_images() {
        let mut scorer = OnnxScorer::load(&file(), &cpu()).unwrap();
        let mut map = Vec::new();
        let score = scorer.score(&[51; 32], &mut map).unwrap();
        assert!((score - 0.2).abs() < 1e-6, "{score}");
        assert_eq!(map.len(), 32);
        assert!(check_golden(&mut scorer, &file()).unwrap() < 1e-4);
    }

    #[test]
    fn a_model_that_scores_otherwise_than_its_card_says_is_refused() {
        let mut file = file();
        file.card.golden[0].score += 0.01;
        let error = OnnxScorer::load(&file, &cpu()).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("golden image `good`"), "{error}");
    }

    #[test]
    fn a_model_that_gives_nan_never_gets_ready_and_nan_passes_through_as_nan() {
        // 0/0 wherever the input is black: the golden image is not, so it gets ready, and black gives NaN.
        let mut proto = mean_model();
        let graph = proto.graph.as_mut().unwrap();
        graph.node[1].op_type = "Div".into();
        graph.node[1].input = vec!["float".into(), "float".into()];
        let mut file = ModelFile::decode(proto.encode_to_vec(), Path::new("nan.onnx")).unwrap();
        file.card.golden[0].score = 1.0;
        let mut scorer = OnnxScorer::load(&file, &cpu()).unwrap();
        assert!(scorer.score(&[0; 32], &mut Vec::new()).unwrap().is_nan());
        let black = crate::image::Image::new(8, 4, 1, vec![0; 32]).unwrap();
        file.card.golden[0] = crate::card::Golden::new("black", &black, 1.0).unwrap();
        assert!(OnnxScorer::load(&file, &cpu()).is_err());
    }

    #[test]
    fn a_batch_scores_each_input_as_if_it_were_alone() {
        let mut scorer = OnnxScorer::load(&file(), &cpu()).unwrap();
        let inputs: Vec<u8> = [10, 51, 200].iter().flat_map(|&level| [level; 32]).collect();
        let (mut scores, mut maps) = (vec![7.0], vec![7.0]);
        scorer.run(&inputs, &mut scores, &mut maps).unwrap();
        assert_eq!((scores.len(), maps.len()), (3, 96));
        for (n, input) in inputs.chunks(32).enumerate() {
            let mut map = Vec::new();
            let alone = scorer.score(input, &mut map).unwrap();
            assert!((scores[n] - alone).abs() < 1e-6 && maps[32 * n..][..32] == map[..]);
        }
        scorer.find_batch(&file()).unwrap();
        assert!([1, 2, 4, 8].contains(&scorer.batch()));
    }

    #[test]
    fn an_input_of_the_wrong_length_is_an_error() {
        let mut scorer = OnnxScorer::load(&file(), &cpu()).unwrap();
        for bytes in [0, 31, 33, 63] {
            assert!(scorer.score(&vec![0; bytes], &mut Vec::new()).is_err(), "{bytes}");
        }
        assert!(scorer.score(&[0; 64], &mut Vec::new()).is_err(), "two are not one");
    }

    #[test]
    fn a_required_provider_that_is_not_there_is_an_error_and_an_allowed_one_falls_back() {
        let strict =
            Runtime { providers: vec![Provider::Cuda, Provider::Cpu], fallback: false, ..Runtime::default() };
        if let Ok(scorer) = OnnxScorer::load(&file(), &strict) {
            assert_eq!(scorer.provider(), Provider::Cuda); // a machine with a GPU
            return;
        }
        let lenient = Runtime { fallback: true, ..strict };
        assert_eq!(OnnxScorer::load(&file(), &lenient).unwrap().provider(), Provider::Cpu);
    }
}
