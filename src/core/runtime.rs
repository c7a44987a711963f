//! Finding and opening ONNX Runtime, and the execution providers that a session may use.
//!
//! The shared library is looked for, in this order: the configured path, `ORT_DYLIB_PATH`, beside the
//! program, `../lib/inspectd` of the program, `/usr/local/lib/inspectd`, `/usr/lib/inspectd`. It is opened
//! once for the life of the process.
//!
//! Never here: sessions (see [`crate::scorer`]), downloads.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use serde::{Deserialize, Serialize};

/// The library's file name.
pub const LIBRARY: &str = "libonnxruntime.so";

/// Why ONNX Runtime could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// There is no library in any place.
    #[error("ONNX Runtime ({LIBRARY}) not found in: {}; run deploy/setup.sh or set `library` in [runtime]", .looked.join(", "))]
    NotFound {
        /// Places that were looked at.
        looked: Vec<String>,
    },
    /// The library is there but does not open.
    #[error("ONNX Runtime {path}: {reason}")]
    Open {
        /// The library.
        path: PathBuf,
        /// What the loader said.
        reason: String,
    },
}

/// An execution provider of ONNX Runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// NVIDIA TensorRT.
    TensorRt,
    /// NVIDIA CUDA.
    Cuda,
    /// The processor.
    Cpu,
}

impl std::fmt::Display for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Provider::TensorRt => "tensorrt",
            Provider::Cuda => "cuda",
            Provider::Cpu => "cpu",
        })
    }
}

/// How models are run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runtime {
    /// Path of the shared library; `None`: look in the usual places.
    pub library: Option<PathBuf>,
    /// Execution providers in order of preference.
    pub providers: Vec<Provider>,
    /// Whether a provider that cannot be had gives way to the next one. If not, the first must work.
    pub fallback: bool,
    /// Threads of one session on the CPU, at least 1.
    pub threads: usize,
    /// Sessions of one model, at least 1. Views that look with the same model are spread over them; where there are
    /// many, on a CPU with idle cores, more parts are judged a second.
    pub sessions: usize,
}

impl Default for Runtime {
    fn default() -> Self {
        let providers = vec![Provider::TensorRt, Provider::Cuda, Provider::Cpu];
        Self { library: None, providers, fallback: true, threads: 1, sessions: 1 }
    }
}

static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);

/// The process's ONNX Runtime, opened at the first call; later calls get the same one.
///
/// Errors: [`RuntimeError`]. A failed call can be tried again.
pub fn environment(library: Option<&Path>) -> Result<Environment, RuntimeError> {
    let mut opened = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = opened.as_ref() {
        return Ok(environment.clone());
    }
    let path = find(library)?;
    let open = |reason: String| RuntimeError::Open { path: path.clone(), reason };
    let environment = ort::init_from(&path)
        .map_err(|e| open(e.to_string()))?
        .with_name("inspectd")
        .with_telemetry(false)
        .build()
        .map_err(|e| open(e.to_string()))?;
    tracing::info!(library = %path.display(), "ONNX Runtime opened");
    *opened = Some(environment.clone());
    Ok(environment)
}

fn find(library: Option<&Path>) -> Result<PathBuf, RuntimeError> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    // A path that somebody named is the only one tried: another library would be a silent change.
    let named = library.map(Path::to_owned).or(std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from));
    let places = match named {
        Some(path) => vec![path],
        None => beside
            .into_iter()
            .flat_map(|dir| [dir.join(LIBRARY), dir.join("../lib/inspectd").join(LIBRARY)])
            .chain(["/usr/local/lib/inspectd", "/usr/lib/inspectd"].map(|d| Path::new(d).join(LIBRARY)))
            .collect(),
    };
    places.iter().find(|p| p.is_file()).cloned().ok_or_else(|| RuntimeError::NotFound {
        looked: places.iter().map(|p| p.display().to_string()).collect(),
    })
}
