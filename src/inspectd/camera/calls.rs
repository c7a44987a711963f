//! What a station asks of a camera, and the room that there is for it between the two.
//!
//! Never here: threads, waiting, the camera itself ([`super::thread`]).

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use inspect_core::image::Image;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use super::{CameraError, Frame, Life};

/// Whether the camera can be asked now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// It is being opened for the first time.
    Opening,
    /// It is open.
    Up,
    /// It is not, and is being opened anew.
    Away {
        /// What went wrong, and what was expected.
        reason: String,
    },
    /// A call of its driver does not come back; another thread tries to open it anew.
    Stuck {
        /// Which call, and since when.
        reason: String,
    },
}

/// Where the answer to one call goes.
#[derive(Debug)]
pub struct Reply<T>(pub(super) oneshot::Sender<Result<T, CameraError>>);

/// Which frame is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// One that was exposed from now on: see [`Camera::grab`].
    Fresh,
    /// The newest that was not given yet: see [`Camera::next`].
    Newest,
}

/// One thing asked of the camera.
#[derive(Debug)]
pub enum Call {
    /// A frame.
    Grab {
        /// When its station walks away.
        deadline: Instant,
        /// Which one.
        wanted: Wanted,
        /// For [`CameraPort::answer_grab`].
        reply: Reply<Frame>,
    },
    /// A sign of life.
    Life {
        /// For [`CameraPort::answer_life`].
        reply: Reply<Life>,
    },
    /// Another exposure time.
    Expose {
        /// It; none: the usual one.
        exposure_us: Option<f64>,
        /// Who waits for it, if anybody does.
        reply: Option<Reply<()>>,
    },
}

/// Room for what is asked.
#[derive(Debug, Default)]
pub(super) struct Slots {
    pub(super) grab: Option<(Instant, Wanted, Reply<Frame>)>,
    pub(super) life: Option<Reply<Life>>,
    pub(super) expose: Option<Reply<()>>,
    /// The exposure time that is wanted; none: the usual one. No frame is given before the camera has it.
    pub(super) exposure_us: Option<f64>,
    /// What the open camera is set to; none: it is not open.
    pub(super) exposed_us: Option<Option<f64>>,
    /// The handle is gone.
    pub(super) closed: bool,
    pub(super) last_proof: Option<Instant>,
    /// The last frame that came when its station had walked away.
    pub(super) missed: Option<Image>,
    /// Number of the thread that serves; those with a lower one were left behind.
    pub(super) thread: u64,
    /// Whether there is such a thread.
    pub(super) is_served: bool,
    /// The driver's call that it is in.
    pub(super) running: Option<Running>,
    /// Threads left behind that have not come back.
    pub(super) hanging: usize,
    /// When availability changed last.
    pub(super) since: Option<Instant>,
}

/// A call of the driver that is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Running {
    /// Its name.
    pub(super) what: &'static str,
    pub(super) began: Instant,
    /// When it must have come back.
    pub(super) until: Instant,
}

impl Slots {
    /// The next call that somebody still waits for: an exposure time before a grab, that before a sign of life.
    pub(super) fn take(&mut self) -> Option<Call> {
        if self.exposed_us.is_some_and(|set| set != self.exposure_us) {
            return Some(Call::Expose { exposure_us: self.exposure_us, reply: self.expose.take() });
        }
        let grab = self.grab.take().filter(|(_, _, reply)| !reply.0.is_closed());
        if let Some((deadline, wanted, reply)) = grab {
            return Some(Call::Grab { deadline, wanted, reply });
        }
        let reply = self.life.take().filter(|reply| !reply.0.is_closed())?;
        Some(Call::Life { reply })
    }

    /// The camera was lost: whoever waits for an exposure need not, it is set when it is opened anew.
    pub(super) fn closed_camera(&mut self) {
        self.exposed_us = None;
        self.expose = None;
    }
}

/// What handle and port have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) slots: Mutex<Slots>,
    /// Wakes the camera's thread.
    pub(super) called: Condvar,
    /// Wakes the thread that watches it.
    pub(super) watched: Condvar,
    /// Wakes a task that serves in its place.
    pub(super) notify: Notify,
    pub(super) availability: watch::Sender<Availability>,
}

impl Shared {
    pub(super) fn slots(&self) -> MutexGuard<'_, Slots> {
        // Nothing panics while it is held, and each field is whole by itself.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, change: impl FnOnce(&mut Slots)) {
        change(&mut self.slots());
        self.called.notify_one();
        self.notify.notify_one();
    }

    pub(super) fn away(&self, reason: String) -> CameraError {
        CameraError::Away { camera: self.name.clone(), reason }
    }

    /// Tells availability, where it is another than before; then true.
    pub(super) fn change(&self, slots: &mut Slots, to: Availability) -> bool {
        let changed = self.availability.send_if_modified(|now| {
            let changed = *now != to;
            *now = to;
            changed
        });
        if changed {
            slots.since = Some(Instant::now());
        }
        changed
    }

    /// Why it cannot be asked, where it cannot.
    pub(super) fn not_up(&self) -> Option<CameraError> {
        let camera = || self.name.clone();
        match &*self.availability.borrow() {
            Availability::Up => None,
            Availability::Opening => Some(self.away("it is being opened".to_owned())),
            Availability::Away { reason } => Some(self.away(reason.clone())),
            Availability::Stuck { reason } => {
                Some(CameraError::Stuck { camera: camera(), reason: reason.clone() })
            }
        }
    }
}
