//! Watches a camera's thread: a call of the driver that does not come back within its bound leaves the thread behind,
//! and a new one opens the camera anew.
//!
//! A thread cannot be ended from outside. One that hangs keeps its driver's handle, so the new one may find the camera
//! taken; it goes on trying, and what is shown stays "stuck" until the camera is up or the old call has come back. With
//! [`MOST_HANGING`] threads hanging no further one is started: only the end of the process frees them
//! ([`crate::supervise`]).
//!
//! Never here: calls of the driver.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::calls::{Availability, Running, Shared};
use super::thread::CameraPort;
use super::{Camera, CameraError};

/// A call must come back so long after its own timeout, where it has one. GigE Vision asks an unplugged camera for 3 s
/// until it gives up: that is a camera that is away, not a driver that hangs.
pub const CALL_LIMIT: Duration = Duration::from_secs(4);
/// Opening and closing must come back within this.
pub const OPEN_LIMIT: Duration = Duration::from_secs(20);
/// Threads of one camera that hang at most. With so many no new one is started.
pub const MOST_HANGING: usize = 3;
/// How often the running call is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Opens the camera, each time anew.
pub(super) type Opener = Arc<dyn Fn() -> Result<Box<dyn Camera>, CameraError> + Send + Sync>;

/// How a camera is doing, for whoever looks on; keeps no camera open.
#[derive(Debug, Clone)]
pub struct CameraWatch {
    shared: Arc<Shared>,
}

impl CameraWatch {
    pub(super) fn of(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared) }
    }

    /// Whether it can be asked now.
    pub fn availability(&self) -> Availability {
        self.shared.availability.borrow().clone()
    }

    /// Since when.
    pub fn since(&self) -> Option<Instant> {
        self.shared.slots().since
    }

    /// Threads that hang in a call and were left behind.
    pub fn hanging(&self) -> usize {
        self.shared.slots().hanging
    }

    /// Whether nobody tries any more: only the end of the process helps.
    pub fn is_given_up(&self) -> bool {
        let slots = self.shared.slots();
        !slots.is_served && !slots.closed
    }
}

/// Starts the thread that serves a port.
///
/// Errors: the system's, if it has no thread left.
pub(super) fn serve(port: CameraPort, open: &Opener) -> std::io::Result<()> {
    let open = Arc::clone(open);
    std::thread::Builder::new().name(format!("camera {}", port.shared.name)).spawn(move || {
        port.keep_open(&open);
        let mut slots = port.shared.slots();
        if slots.thread != port.thread {
            slots.hanging = slots.hanging.saturating_sub(1);
            tracing::info!(camera = %port.shared.name, hanging = slots.hanging, "a thread left behind came back");
        }
    })?;
    Ok(())
}

/// Watches until the handle is gone.
pub(super) fn keep_watch(shared: &Arc<Shared>, open: &Opener) {
    let mut slots = shared.slots();
    while !slots.closed {
        if let Some(running) = slots.running.take_if(|running| Instant::now() >= running.until) {
            slots.thread += 1;
            slots.hanging += 1;
            slots.is_served = false;
            slots.closed_camera();
            let reason = told(&running);
            tracing::error!(camera = %shared.name, reason, hanging = slots.hanging, "camera stuck");
            shared.change(&mut slots, Availability::Stuck { reason });
        }
        if !slots.is_served && slots.hanging < MOST_HANGING {
            let port = CameraPort { shared: Arc::clone(shared), thread: slots.thread };
            match serve(port, open) {
                Ok(()) => slots.is_served = true,
                Err(error) => tracing::error!(camera = %shared.name, %error, "no new thread for the camera"),
            }
        }
        slots = shared.watched.wait_timeout(slots, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn told(running: &Running) -> String {
    let (what, took) = (running.what, running.began.elapsed().as_secs_f64());
    format!("its driver's `{what}` has not come back for {took:.1} s")
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
