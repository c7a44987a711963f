//! Where the time of a step goes.
//!
//! A *phase* is a part of a step; the phases follow one another without a gap, so they add up to the step.
//! Reading the clock takes some 30 ns a phase, so every step is timed, not only those of `bench`. On a GPU,
//! which works on while the processor goes ahead, only the sum means anything.
//!
//! Never here: what a step does ([`crate::learn`]).

use std::time::{Duration, Instant};

/// A part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for the thread that makes batches.
    Wait,
    /// The batch to tensors, normalised.
    Input,
    /// Encoder, decoder, residual, head.
    Forward,
    /// The losses.
    Loss,
    /// The gradient of all that.
    Backward,
    /// Limit on the gradient, AdamW, moving average.
    Update,
}

impl Phase {
    /// In the order of a step.
    pub const ALL: [Phase; 6] =
        [Phase::Wait, Phase::Input, Phase::Forward, Phase::Loss, Phase::Backward, Phase::Update];
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Phase::Wait => "wait",
            Phase::Input => "input",
            Phase::Forward => "forward",
            Phase::Loss => "loss",
            Phase::Backward => "backward",
            Phase::Update => "update",
        })
    }
}

/// How long each phase of a step took, in the order of [`Phase::ALL`].
pub type Took = [Duration; Phase::ALL.len()];

/// A stopwatch with a lap for each phase.
pub struct Watch {
    lap: Instant,
    /// The laps so far; 0 for a phase that has not been.
    pub took: Took,
}

impl Watch {
    /// Starts now.
    pub fn start() -> Self {
        Self { lap: Instant::now(), took: Took::default() }
    }

    /// That phase ends now, and the next one begins.
    pub fn lap(&mut self, phase: Phase) {
        let now = Instant::now();
        self.took[phase as usize] += now - self.lap;
        self.lap = now;
    }
}
