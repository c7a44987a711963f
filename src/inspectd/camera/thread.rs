//! The thread that owns a camera, and the handle by which an async station asks it.
//!
//! The thread opens the camera by itself, opens it anew with a growing wait when it was lost, and turns a panic
//! of the driver into [`CameraError::Away`]. The station never blocks: it waits for an answer until its own
//! deadline and walks away. A frame belongs to the grab that it was taken for: one whose station has walked
//! away is dropped, never kept for the next; only its picture is, so that a camera that gives it again is found out.
//!
//! A call of the driver that does not come back is found by [`super::watch`]: the thread is left behind, and another
//! opens the camera anew. What a thread that was left behind says when it comes back counts no more.
//!
//! There is room for one grab and one sign of life. A newer one takes the place of an older one that the camera has
//! not begun; whoever still waits for that gets [`CameraError::NoFrame`]. One exposure time is wanted; the camera has
//! it before it gives a frame.
//!
//! Why a port of its own: tokio's paused clock does not wait for threads, so a test in simulated time serves a
//! [`CameraPort`] from a task in place of the thread.
//!
//! Never here: a judgement whether a frame is too old for its trigger (the station knows both times).

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use inspect_core::image::Image;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::calls::{Availability, Call, Reply, Running, Shared, Slots, Wanted};
use super::pace::no_frame;
use super::watch::{CALL_LIMIT, CameraWatch, OPEN_LIMIT, Opener, keep_watch, serve};
use super::{Camera, CameraConfig, CameraError, Frame, Life, open};

/// Wait before a lost camera is opened anew, at first.
const REOPEN_FIRST: Duration = Duration::from_millis(100);
/// The wait doubles with each failure, up to this.
const REOPEN_MOST: Duration = Duration::from_secs(5);

/// The station's end: asks the camera. Dropped, it ends the thread as soon as the camera's present call returns.
#[derive(Debug)]
pub struct CameraHandle {
    shared: Arc<Shared>,
}

/// The camera's end: takes calls and answers them.
#[derive(Debug)]
pub struct CameraPort {
    pub(super) shared: Arc<Shared>,
    /// Which of the camera's threads it belongs to.
    pub(super) thread: u64,
}

impl CameraHandle {
    /// Starts the thread of a configured camera.
    ///
    /// Errors: the system's, if it has no thread left.
    pub fn spawn(name: &str, config: CameraConfig) -> std::io::Result<Self> {
        let view = name.to_owned();
        Self::spawn_with(name, move || open(&view, &config))
    }

    /// Starts the thread of a camera that `open` opens, each time anew.
    ///
    /// Errors: the system's, if it has no thread left.
    pub fn spawn_with(
        name: &str,
        open: impl Fn() -> Result<Box<dyn Camera>, CameraError> + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let (handle, port) = Self::pair(name);
        let (open, shared): (Opener, _) = (Arc::new(open), Arc::clone(&handle.shared));
        serve(port, &open)?;
        std::thread::Builder::new()
            .name(format!("watch {name}"))
            .spawn(move || keep_watch(&shared, &open))?;
        Ok(handle)
    }

    /// Both ends without a thread: for tests in simulated time.
    pub fn pair(name: &str) -> (Self, CameraPort) {
        let first = Availability::Opening;
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            slots: Mutex::new(Slots { is_served: true, since: Some(Instant::now()), ..Slots::default() }),
            called: Condvar::new(),
            watched: Condvar::new(),
            notify: Notify::new(),
            availability: watch::Sender::new(first),
        });
        (Self { shared: shared.clone() }, CameraPort { shared, thread: 0 })
    }

    /// The next frame, asked for now. While the camera is away the answer is there at once.
    ///
    /// Errors: [`CameraError`]; `NoFrame` at `deadline`.
    pub async fn grab(&self, deadline: Instant) -> Result<Frame, CameraError> {
        self.ask(deadline, |slots, reply| slots.grab = Some((deadline, Wanted::Fresh, reply))).await
    }

    /// The newest frame that was not given yet, whenever it was exposed: for whom each frame is a part.
    ///
    /// Errors: as [`grab`](Self::grab).
    pub async fn next(&self, deadline: Instant) -> Result<Frame, CameraError> {
        self.ask(deadline, |slots, reply| slots.grab = Some((deadline, Wanted::Newest, reply))).await
    }

    /// A sign of life without a frame. While the camera is away the answer is there at once.
    ///
    /// Errors: [`CameraError`]; `NoFrame` at `deadline`.
    pub async fn life(&self, deadline: Instant) -> Result<Life, CameraError> {
        self.ask(deadline, |slots, reply| slots.life = Some(reply)).await
    }

    /// The exposure time that is wanted; none: the usual one.
    pub fn exposure_us(&self) -> Option<f64> {
        self.shared.slots().exposure_us
    }

    /// Says which exposure time is wanted, for now and whenever the camera is opened anew; `None`: the usual one. No
    /// frame is given before the camera has it. One that does not take it is away until another is wanted.
    pub fn want_exposure(&self, exposure_us: Option<f64>) {
        self.shared.put(|slots| {
            slots.exposure_us = exposure_us;
            slots.expose = None;
        });
    }

    /// As [`want_exposure`](Self::want_exposure), and waits until the camera has it. A camera that is away takes it when
    /// it is back.
    ///
    /// Errors: [`CameraError::Refused`]; `NoFrame` at `deadline`. Then what was wanted before is wanted again.
    pub async fn expose(&self, exposure_us: Option<f64>, deadline: Instant) -> Result<(), CameraError> {
        let asked = Instant::now();
        let (reply, answer) = oneshot::channel();
        let mut before = None;
        let mut has_it = false;
        self.shared.put(|slots| {
            before = std::mem::replace(&mut slots.exposure_us, exposure_us);
            has_it = slots.exposed_us.is_none_or(|set| set == exposure_us);
            slots.expose = (!has_it).then_some(Reply(reply));
        });
        if has_it {
            return Ok(());
        }
        let set = match timeout_at(deadline, answer).await {
            Ok(Ok(Err(refused @ CameraError::Refused { .. }))) => Err(refused),
            // Lost meanwhile, or asked for another: it takes what is wanted when it can.
            Ok(_) => Ok(()),
            Err(_) => Err(no_frame(&self.shared.name, asked.elapsed())),
        };
        if set.is_err() {
            self.want_exposure(before);
        }
        set
    }

    async fn ask<T>(
        &self,
        deadline: Instant,
        put: impl FnOnce(&mut Slots, Reply<T>),
    ) -> Result<T, CameraError> {
        if let Some(error) = self.shared.not_up() {
            return Err(error);
        }
        let asked = Instant::now();
        let (reply, answer) = oneshot::channel();
        self.shared.put(|slots| put(slots, Reply(reply)));
        match timeout_at(deadline, answer).await {
            Ok(Ok(result)) => result,
            // Replaced by a newer call, or not in time: no frame either way.
            Ok(Err(_)) | Err(_) => Err(no_frame(&self.shared.name, asked.elapsed())),
        }
    }

    /// Whether the camera can be asked now.
    pub fn availability(&self) -> Availability {
        self.shared.availability.borrow().clone()
    }

    /// Whether it cannot.
    pub fn is_away(&self) -> bool {
        *self.shared.availability.borrow() != Availability::Up
    }

    /// Tells each change of availability.
    pub fn watch(&self) -> watch::Receiver<Availability> {
        self.shared.availability.subscribe()
    }

    /// For whoever looks at how it is doing, and does not keep it.
    pub fn look_on(&self) -> CameraWatch {
        CameraWatch::of(&self.shared)
    }

    /// When the camera last gave a frame or a proven sign of life.
    pub fn last_proof(&self) -> Option<Instant> {
        self.shared.slots().last_proof
    }

    /// The last frame that came when its station had walked away, once.
    pub fn take_missed(&self) -> Option<Image> {
        self.shared.slots().missed.take()
    }
}

impl Drop for CameraHandle {
    fn drop(&mut self) {
        self.shared.put(|slots| slots.closed = true);
        self.shared.watched.notify_one();
    }
}

impl CameraPort {
    /// The next call; none when the handle is gone.
    pub async fn call(&self) -> Option<Call> {
        loop {
            {
                let mut slots = self.shared.slots();
                if slots.closed {
                    return None;
                }
                if let Some(call) = slots.take() {
                    return Some(call);
                }
            }
            self.shared.notify.notified().await;
        }
    }

    /// Answers a grab.
    pub fn answer_grab(&self, reply: Reply<Frame>, result: Result<Frame, CameraError>) {
        let lost = result.as_ref().err().filter(|e| matches!(e, CameraError::Away { .. }));
        self.note(result.is_ok(), lost);
        // Whoever asked may have walked away: then the frame ends here, but for telling whether the next is the same.
        if let Err(Ok(frame)) = reply.0.send(result) {
            self.own(|slots| slots.missed = Some(frame.image));
        }
    }

    /// Answers a question for a sign of life.
    pub fn answer_life(&self, reply: Reply<Life>, result: Result<Life, CameraError>) {
        self.note(matches!(result, Ok(Life::Proven)), result.as_ref().err());
        let _ = reply.0.send(result);
    }

    /// Keeps a proof of life, and tells a loss before its answer, so that the next call already sees it.
    fn note(&self, proven: bool, lost: Option<&CameraError>) {
        if proven {
            self.own(|slots| slots.last_proof = Some(Instant::now()));
        }
        if let Some(error) = lost {
            self.away(&reason(error));
        }
    }

    /// Says that the camera is open.
    pub fn up(&self) {
        if self.change(Availability::Up) {
            tracing::info!(camera = %self.shared.name, "camera up");
        }
    }

    /// Says that the camera is away.
    pub fn away(&self, reason: &str) {
        if self.change(Availability::Away { reason: reason.to_owned() }) {
            tracing::warn!(camera = %self.shared.name, reason, "camera away");
        }
    }

    fn change(&self, to: Availability) -> bool {
        self.own(|slots| {
            let to = match to {
                // What keeps it away is most likely the call that still holds it.
                Availability::Away { reason } if slots.hanging > 0 => Availability::Stuck { reason },
                to => to,
            };
            self.shared.change(slots, to)
        })
        .unwrap_or(false)
    }

    /// Does something in the camera's name; nothing where this thread was left behind.
    fn own<T>(&self, act: impl FnOnce(&mut Slots) -> T) -> Option<T> {
        let mut slots = self.shared.slots();
        (slots.thread == self.thread).then(|| act(&mut slots))
    }

    /// The thread's life: open, serve, and again, until the handle is gone.
    pub(super) fn keep_open(&self, open: &Opener) {
        let mut wait = REOPEN_FIRST;
        loop {
            match self.contain("open", OPEN_LIMIT, || open()) {
                Ok(mut camera) => {
                    let proven = self.serve(camera.as_mut());
                    self.own(Slots::closed_camera);
                    // A driver may panic or hang while it closes, too; the next open tells what is wrong.
                    let _ = self.contain("close", OPEN_LIMIT, || {
                        drop(camera);
                        Ok(())
                    });
                    match proven {
                        None => return,
                        Some(true) => wait = REOPEN_FIRST,
                        Some(false) => {}
                    }
                }
                Err(e) => self.away(&reason(&e)),
            }
            if !self.sit_out(wait) {
                return;
            }
            wait = (wait * 2).min(REOPEN_MOST);
        }
    }

    /// Runs a call of the camera, which must come back within `limit`; a panic is its loss.
    fn contain<T>(
        &self,
        what: &'static str,
        limit: Duration,
        call: impl FnOnce() -> Result<T, CameraError>,
    ) -> Result<T, CameraError> {
        let began = Instant::now();
        self.own(|slots| slots.running = Some(Running { what, began, until: began + limit }));
        let result = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
            Err(self.shared.away(format!("its driver panicked: {}", panic_text(panic.as_ref()))))
        });
        match self.own(|slots| slots.running = None) {
            Some(()) => result,
            None => Err(self.shared.away(format!("`{what}` came back after its thread was left behind"))),
        }
    }

    /// Brings the camera to the exposure that is wanted. Whether it is lost: also one that refuses while nobody waits
    /// is, for its frames would be exposed otherwise.
    fn expose(&self, camera: &mut dyn Camera, exposure_us: Option<f64>, reply: Option<Reply<()>>) -> bool {
        let result = self.contain("expose", CALL_LIMIT, || camera.expose(exposure_us));
        let lost = match &result {
            Ok(()) => {
                self.own(|slots| slots.exposed_us = Some(exposure_us));
                false
            }
            Err(CameraError::Refused { .. }) if reply.is_some() => {
                let mut slots = self.shared.slots();
                // It goes on as it was, until its asker says what is wanted instead.
                if slots.exposure_us == exposure_us {
                    slots.exposure_us = slots.exposed_us.flatten();
                }
                false
            }
            Err(error) => {
                self.away(&reason(error));
                true
            }
        };
        if let Some(reply) = reply {
            let _ = reply.0.send(result); // whoever asked may have walked away
        }
        lost
    }

    /// Serves calls until the camera is lost: then whether it had worked, or none when the handle is gone.
    fn serve(&self, camera: &mut dyn Camera) -> Option<bool> {
        let mut worked = false;
        match self.contain("life", CALL_LIMIT, || camera.life()) {
            Ok(_) => {
                let wanted = self.own(|slots| {
                    slots.exposed_us = Some(None);
                    slots.exposure_us
                })?;
                if wanted.is_some() && self.expose(camera, wanted, None) {
                    return Some(worked);
                }
                self.up();
            }
            Err(e) => {
                self.away(&reason(&e));
                return Some(worked);
            }
        }
        loop {
            let prepared = self.contain("prepare", CALL_LIMIT, || {
                camera.prepare();
                Ok(())
            });
            if let Err(e) = prepared {
                self.away(&reason(&e));
                return Some(worked);
            }
            let lost = match self.wait(None)? {
                None => continue,
                Some(Call::Grab { deadline, wanted, reply }) => {
                    let timeout = deadline.into_std().saturating_duration_since(std::time::Instant::now());
                    let result = self.contain("grab", timeout + CALL_LIMIT, || match wanted {
                        Wanted::Fresh => camera.grab(timeout),
                        Wanted::Newest => camera.next(timeout),
                    });
                    worked |= result.is_ok();
                    let lost = matches!(result, Err(CameraError::Away { .. }));
                    self.answer_grab(reply, result);
                    lost
                }
                Some(Call::Life { reply }) => {
                    let result = self.contain("life", CALL_LIMIT, || camera.life());
                    worked |= result.is_ok();
                    let lost = result.is_err();
                    self.answer_life(reply, result);
                    lost
                }
                Some(Call::Expose { exposure_us, reply }) => self.expose(camera, exposure_us, reply),
            };
            if lost {
                return Some(worked);
            }
        }
    }

    /// Answers every call with "away" for a while; false when the handle is gone.
    fn sit_out(&self, wait: Duration) -> bool {
        let until = std::time::Instant::now() + wait;
        loop {
            let away =
                || self.shared.not_up().unwrap_or_else(|| self.shared.away("it is being opened".into()));
            match self.wait(Some(until)) {
                None => return false,
                Some(None) => return true,
                Some(Some(Call::Grab { reply, .. })) => self.answer_grab(reply, Err(away())),
                Some(Some(Call::Life { reply })) => self.answer_life(reply, Err(away())),
                Some(Some(Call::Expose { .. })) => {} // none is asked for while it is not open
            }
        }
    }

    /// Blocks for the next call, at most `until`. None when the handle is gone, or this thread was left behind.
    fn wait(&self, until: Option<std::time::Instant>) -> Option<Option<Call>> {
        let mut slots = self.shared.slots();
        loop {
            if slots.closed || slots.thread != self.thread {
                return None;
            }
            if let Some(call) = slots.take() {
                return Some(Some(call));
            }
            let left = until.map(|until| until.saturating_duration_since(std::time::Instant::now()));
            slots = match left {
                Some(Duration::ZERO) => return Some(None),
                Some(left) => {
                    let waited = self.shared.called.wait_timeout(slots, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.shared.called.wait(slots).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// The part of an error that is not the camera's name, which every use of it names by itself.
fn reason(error: &CameraError) -> String {
    match error {
        CameraError::Away { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

#[cfg(test)]
#[path = "thread_tests.rs"]
mod tests;
