//! What a scorer's thread does now, and when it must be done with it.
//!
//! Never here: what happens then.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A run must come back so long after what one usually takes: then the GPU or its driver hangs.
pub const RUN_OVER: Duration = Duration::from_secs(2);
/// A model must be loaded, warm and proven within this.
pub const LOAD_LIMIT: Duration = Duration::from_secs(120);

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Loads its model, warms it, scores its golden images.
    Load,
    /// Scores parts.
    Run,
    /// Scores a golden image while idle.
    Proof,
}

/// Work that has not come back within its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stuck {
    /// Which.
    pub work: Work,
    /// When it began: tells one call from the next.
    pub began: Instant,
    /// How long it runs.
    pub took: Duration,
}

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.work {
            Work::Load => "loading the model",
            Work::Run => "a run of the model",
            Work::Proof => "a golden image",
        };
        write!(f, "{what} has not come back for {:.1} s", self.took.as_secs_f64())
    }
}

#[derive(Debug, Clone, Copy)]
struct Call {
    work: Work,
    began: Instant,
    limit: Duration,
}

/// Written by the thread, read by whoever wants to know.
#[derive(Debug, Default)]
pub struct Doing {
    call: Mutex<Option<Call>>,
    since: Mutex<Option<Instant>>,
}

impl Doing {
    fn set(&self, call: Option<Call>) {
        *self.call.lock().unwrap_or_else(PoisonError::into_inner) = call;
    }

    /// The model's state became another one now.
    pub fn changed(&self) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// When it did last.
    pub fn since(&self) -> Option<Instant> {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does some work, which must come back within `limit`. It must not panic.
    pub fn during<T>(&self, work: Work, limit: Duration, act: impl FnOnce() -> T) -> T {
        self.set(Some(Call { work, began: Instant::now(), limit }));
        let done = act();
        self.set(None);
        done
    }

    /// What it hangs in, where it does.
    pub fn stuck(&self) -> Option<Stuck> {
        let call = (*self.call.lock().unwrap_or_else(PoisonError::into_inner))?;
        let took = call.began.elapsed();
        (took >= call.limit).then_some(Stuck { work: call.work, began: call.began, took })
    }
}
