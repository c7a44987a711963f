//! PyTorch as the other arm: a Python process that makes steps when it is told to.
//!
//! It stays alive between rounds, so that both arms are measured in turn, warm, under the same load of the
//! machine. What it computes and how is in `step.py`, which is part of this program.
//!
//! Never here: figures; a step of our own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The script.
const STEP: &str = include_str!("step.py");
/// What this program sets for itself (main.rs).
const OWN: [&str; 4] =
    ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"];
/// Longest wait for PyTorch to load, and for one round.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// Why PyTorch gave no figures.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The program cannot be started.
    #[error("--pytorch {python}: {source}; expected the path of a Python that has PyTorch")]
    Start {
        /// The program.
        python: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It said nothing, or not what was expected.
    #[error(
        "--pytorch {python}: {reason}; expected a Python that has PyTorch 2.4 or later (try `{python} -c 'import torch'`)"
    )]
    Answer {
        /// The program.
        python: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// What the script has to know.
#[derive(Serialize)]
pub struct Told {
    /// Side of the pictures, pixels.
    pub size: i64,
    /// 1 or 3.
    pub channels: i64,
    /// Of the network ([`crate::net::Shape`]).
    pub widths: [i64; 4],
    /// Channels of the latent.
    pub latent: i64,
    /// Residual blocks.
    pub depth: usize,
    /// Pictures a step.
    pub batch: usize,
    /// "f32" or "bf16".
    pub precision: String,
    /// Threads.
    pub threads: usize,
    /// Seed of weights and pictures.
    pub seed: u64,
}

/// What it says of itself.
#[derive(Deserialize)]
pub struct Hello {
    /// PyTorch's.
    pub version: String,
    /// Shapes of all its weights, sorted.
    pub shapes: Vec<Vec<i64>>,
}

#[derive(Deserialize)]
struct Round {
    ms: Vec<f64>,
}

/// The process. Ends when dropped.
pub struct Peer {
    python: PathBuf,
    child: Child,
    ask: ChildStdin,
    answers: Receiver<String>,
}

impl Peer {
    /// Starts it and waits until it is ready. What Python complains of goes to standard error.
    ///
    /// The variables that this program sets for itself are taken away: PyTorch runs as people start it.
    pub fn start(python: &Path, told: &Told) -> Result<(Self, Hello), PeerError> {
        let wrong = |source| PeerError::Start { python: python.to_owned(), source };
        let told = serde_json::to_string(told).map_err(|e| wrong(e.into()))?;
        let mut command = Command::new(python);
        for name in OWN {
            command.env_remove(name);
        }
        let mut child = command
            .args(["-c", STEP, &told])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(wrong)?;
        let (Some(ask), Some(out)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(wrong(std::io::Error::other("no pipes")));
        };
        let (send, answers) = channel(); // as many lines as were asked for
        std::thread::spawn(move || {
            let lines = BufReader::new(out).lines().map_while(Result::ok);
            lines.map(|line| send.send(line)).take_while(Result::is_ok).count()
        });
        let peer = Self { python: python.to_owned(), child, ask, answers };
        let hello = peer.answer()?;
        Ok((peer, hello))
    }

    /// Makes so many steps. Returns the milliseconds of each.
    pub fn round(&mut self, steps: usize) -> Result<Vec<f64>, PeerError> {
        writeln!(self.ask, "{steps}")
            .and_then(|()| self.ask.flush())
            .map_err(|e| self.wrong(format!("cannot be asked: {e}")))?;
        let round: Round = self.answer()?;
        if round.ms.len() != steps {
            return Err(self.wrong(format!("answered {} times instead of {steps}", round.ms.len())));
        }
        Ok(round.ms)
    }

    fn answer<T: serde::de::DeserializeOwned>(&self) -> Result<T, PeerError> {
        let line = self.answers.recv_timeout(MAX_WAIT).map_err(|e| match e {
            RecvTimeoutError::Timeout => self.wrong(format!("no answer in {} s", MAX_WAIT.as_secs())),
            RecvTimeoutError::Disconnected => self.wrong("ended without an answer (see above)".into()),
        })?;
        serde_json::from_str(&line).map_err(|e| self.wrong(format!("answered `{line}`: {e}")))
    }

    fn wrong(&self, reason: String) -> PeerError {
        PeerError::Answer { python: self.python.clone(), reason }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may be in the midst of a round; nothing of it is kept.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
