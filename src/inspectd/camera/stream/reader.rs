//! The thread that reads a source all the time and keeps its newest frame.
//!
//! A read may block for as long as it likes: nobody waits for the thread, which ends after its present read once
//! its camera is gone. So that sources which hang for ever cannot fill the memory, only [`MAX_LEFT_BEHIND`] such
//! threads may be there.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use opencv::core::{LogLevel, Mat, MatTraitConst, Vector, set_log_level};
use opencv::videoio::{
    CAP_FFMPEG, CAP_GSTREAMER, CAP_PROP_FPS, CAP_PROP_FRAME_HEIGHT, CAP_PROP_FRAME_WIDTH,
    CAP_PROP_OPEN_TIMEOUT_MSEC, CAP_PROP_READ_TIMEOUT_MSEC, CAP_V4L2, VideoCapture, VideoCaptureTrait,
    VideoCaptureTraitConst,
};

use super::config::{Source, StreamConfig, without_password};

/// Threads that still hang in a source whose camera was given up.
const MAX_LEFT_BEHIND: usize = 8;
/// How long a source may take to open.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// What a GStreamer pipeline ends in.
const PIPELINE_END: &str = " ! videoconvert ! video/x-raw,format=BGR ! appsink max-buffers=2";

static LEFT_BEHIND: AtomicUsize = AtomicUsize::new(0);

/// A frame as OpenCV gave it.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) mat: Mat,
    pub(super) number: u64,
    /// When it was there: nothing tells when it was exposed.
    pub(super) arrived: Instant,
}

/// What the thread has for whoever waits.
#[derive(Debug)]
pub(super) enum Seen {
    Frame(Read),
    /// The source is lost, and why.
    Lost(String),
    /// Nothing in time.
    Nothing,
}

#[derive(Debug, Default)]
struct Slot {
    newest: Option<Read>,
    /// When the last frame came.
    last: Option<Instant>,
    /// Why the thread ended.
    ended: Option<String>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    slot: Mutex<Slot>,
    changed: Condvar,
}

impl Shared {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        // Each field is whole by itself.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The camera's end.
pub(super) struct Reader {
    shared: Arc<Shared>,
    /// For errors.
    source: String,
    stall: Duration,
}

impl Reader {
    /// Starts the thread, which opens the source, and waits for the first frame.
    ///
    /// Errors: in words, if the source cannot be opened or gives no frame, if too many hang, or if the system has
    /// no thread left.
    pub(super) fn start(config: &StreamConfig) -> Result<Self, String> {
        let source = config.source()?;
        let hanging = LEFT_BEHIND.load(Ordering::Relaxed);
        if hanging >= MAX_LEFT_BEHIND {
            return Err(format!("{source}: {hanging} earlier readings still hang: restart the daemon"));
        }
        let stall = Duration::from_millis(config.stall_ms);
        let shared = Arc::new(Shared::default());
        let reader = Self { shared: Arc::clone(&shared), source: source.to_string(), stall };
        let config = config.clone();
        let read = move || {
            let reason = open(&source, &config).and_then(|capture| read_on(capture, &shared));
            let mut slot = shared.slot();
            slot.ended = Some(reason.err().unwrap_or_default());
            if slot.closed {
                LEFT_BEHIND.fetch_sub(1, Ordering::Relaxed);
            }
            drop(slot);
            shared.changed.notify_all();
        };
        let thread = std::thread::Builder::new().name("camera reader".into()).spawn(read);
        thread.map_err(|e| format!("no thread to read it: {e}"))?;
        reader.first(Instant::now() + OPEN_TIMEOUT + stall)?;
        Ok(reader)
    }

    /// Waits for the first frame, and leaves it there.
    fn first(&self, until: Instant) -> Result<(), String> {
        let mut slot = self.shared.slot();
        loop {
            if slot.last.is_some() {
                return Ok(());
            }
            if let Some(reason) = &slot.ended {
                return Err(self.shown(reason));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.shown("no frame of it came"));
            }
            slot = self.shared.changed.wait_timeout(slot, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The newest frame that was not given yet, of those that came `since` then if that is given.
    pub(super) fn wait(&self, since: Option<Instant>, until: Instant) -> Seen {
        let mut slot = self.shared.slot();
        loop {
            let newest = slot.newest.take();
            if let Some(read) = newest.filter(|read| since.is_none_or(|since| read.arrived >= since)) {
                return Seen::Frame(read);
            }
            if let Some(reason) = self.lost_now(&slot) {
                return Seen::Lost(reason);
            }
            let now = Instant::now();
            if until <= now {
                return Seen::Nothing;
            }
            let stalls = slot.last.map_or(until, |last| last + self.stall);
            let left = until.min(stalls).saturating_duration_since(now);
            slot = self.shared.changed.wait_timeout(slot, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Why the source is lost, if it is.
    pub(super) fn lost(&self) -> Option<String> {
        self.lost_now(&self.shared.slot())
    }

    fn lost_now(&self, slot: &Slot) -> Option<String> {
        if let Some(reason) = &slot.ended {
            return Some(self.shown(reason));
        }
        let stalled = slot.last.is_none_or(|last| last.elapsed() >= self.stall);
        stalled.then(|| self.shown(&format!("no frame for {} ms", self.stall.as_millis())))
    }

    fn shown(&self, reason: &str) -> String {
        without_password(&format!("{}: {reason}", self.source))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut slot = self.shared.slot();
        slot.closed = true;
        slot.newest = None;
        if slot.ended.is_none() {
            LEFT_BEHIND.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn open(source: &Source, config: &StreamConfig) -> Result<VideoCapture, String> {
    // OpenCV's own lines on standard error repeat what the error says, and may hold a password.
    let _ = set_log_level(LogLevel::LOG_LEVEL_SILENT);
    let stall_ms = i32::try_from(config.stall_ms).unwrap_or(i32::MAX);
    let limits =
        [CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT.as_millis() as i32, CAP_PROP_READ_TIMEOUT_MSEC, stall_ms];
    let opened = match source {
        Source::Url(url) => {
            VideoCapture::from_file_with_params(url.reveal(), CAP_FFMPEG, &Vector::from_slice(&limits))
        }
        Source::Pipeline(text) => {
            VideoCapture::from_file(format!("{}{PIPELINE_END}", text.reveal()), CAP_GSTREAMER)
        }
        Source::Device(path) => VideoCapture::from_file(path, CAP_V4L2),
    };
    // What OpenCV says holds the whole pipeline.
    let mut capture = opened.map_err(|e| match source {
        Source::Pipeline(_) => "GStreamer cannot run it".to_owned(),
        _ => e.message,
    })?;
    match capture.is_opened() {
        Ok(true) => {}
        _ => {
            return Err(
                "expected a source that can be opened; is it there, and is nobody else using it?".into()
            );
        }
    }
    let asked = [
        (CAP_PROP_FRAME_WIDTH, "width", config.width.map(f64::from)),
        (CAP_PROP_FRAME_HEIGHT, "height", config.height.map(f64::from)),
        (CAP_PROP_FPS, "rate_hz", config.rate_hz),
    ];
    for (property, name, wanted) in asked {
        let Some(wanted) = wanted else { continue };
        let _ = capture.set(property, wanted); // what it says is known from what it keeps
        let got = capture.get(property).unwrap_or(f64::NAN);
        if (got - wanted).abs() >= 0.5 || got.is_nan() {
            return Err(format!("{name}: expected {wanted}, it keeps {got}"));
        }
    }
    Ok(capture)
}

/// Reads until the camera is gone or the source is lost; then says why.
fn read_on(mut capture: VideoCapture, shared: &Shared) -> Result<(), String> {
    for number in 0.. {
        // A new one each time: what was given away keeps its pixels.
        let mut mat = Mat::default();
        let read = capture.read(&mut mat).map_err(|e| e.message)?;
        let mut slot = shared.slot();
        if slot.closed {
            break;
        }
        if !read || mat.empty() {
            return Err("it ended, or broke off".into());
        }
        let arrived = Instant::now();
        slot.newest = Some(Read { mat, number, arrived });
        slot.last = Some(arrived);
        drop(slot);
        shared.changed.notify_all();
    }
    Ok(())
}
