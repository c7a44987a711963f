//! The thread that takes each buffer off the stream as it comes, and keeps the newest.
//!
//! It runs all the time, so that the camera never lacks a buffer and each gap in the frame numbers is seen,
//! whether or not anybody asks for a frame. A *loss* is a frame that came in pieces or not at all; it is kept
//! until it was told once.
//!
//! Never here: a choice by time of exposure (see the module above); a copy of a picture that nobody wants.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use aravis::prelude::*;
use aravis::{Buffer, BufferStatus, Stream};

use crate::camera::CameraError;

/// Buffers of a stream: one is kept, one may be looked at, the others fill.
const BUFFERS: usize = 8;
/// How often the thread looks whether it shall end.
const POLL: Duration = Duration::from_millis(50);
/// Most that a first packet can lie back when its frame is complete.
const MAX_AGE: Duration = Duration::from_secs(10);

/// Numbers of GigE Vision frames go from 1 to this and begin again, unless the camera has 64-bit numbers.
const LAST_SHORT_NUMBER: u64 = 65_535;

/// A complete frame. Its buffer goes back to the stream when it is dropped.
#[derive(Debug)]
pub(super) struct Received {
    stream: Stream,
    pub(super) buffer: Buffer,
    /// When its first packet came.
    pub(super) arrived: Instant,
}

impl Drop for Received {
    fn drop(&mut self) {
        self.stream.push_buffer(self.buffer.clone());
    }
}

/// A frame that is not there, or not whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Loss {
    /// Parts of it came.
    Incomplete { number: u64, status: &'static str },
    /// Frames between two others never came.
    Gap { number: u64, last: u64 },
}

impl Loss {
    pub(super) fn of(self, camera: &str) -> CameraError {
        let camera = camera.to_owned();
        match self {
            Self::Incomplete { number, status } => CameraError::Incomplete { camera, number, status },
            Self::Gap { number, last } => CameraError::Gap { camera, number, last },
        }
    }
}

/// What the thread has for whoever waits.
#[derive(Debug)]
pub(super) enum Seen {
    Frame(Received),
    Lost(Loss),
    /// The camera is not ours any more.
    Away,
    /// Nothing in time.
    Nothing,
}

#[derive(Debug, Default)]
struct Slot {
    newest: Option<Received>,
    loss: Option<Loss>,
    away: bool,
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

    fn put(&self, change: impl FnOnce(&mut Slot)) {
        change(&mut self.slot());
        self.changed.notify_all();
    }
}

/// The thread. It ends when this is dropped.
pub(super) struct Receiver {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Says that the camera is not ours any more, from whichever thread finds out.
pub(super) struct Alarm(Arc<Shared>);

impl Alarm {
    pub(super) fn raise(&self) {
        self.0.put(|slot| slot.away = true);
    }
}

impl Receiver {
    /// Gives the stream its buffers of `payload` bytes and starts the thread.
    ///
    /// Errors: the system's, if it has no thread left.
    pub(super) fn start(stream: Stream, payload: usize) -> std::io::Result<Self> {
        (0..BUFFERS).for_each(|_| stream.push_buffer(Buffer::new_allocate(payload)));
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("camera receiver".into())
            .spawn(move || receive(&stream, &seen))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(super) fn alarm(&self) -> Alarm {
        Alarm(Arc::clone(&self.shared))
    }

    /// Whether the camera is not ours any more, or nobody receives it.
    pub(super) fn is_away(&self) -> bool {
        self.shared.slot().away || self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Forgets a frame that was taken before now.
    pub(super) fn forget_frame(&self) {
        self.shared.put(|slot| slot.newest = None);
    }

    /// Forgets a loss that was seen before now.
    pub(super) fn forget_loss(&self) {
        self.shared.put(|slot| slot.loss = None);
    }

    /// The next thing to tell, at most `until`.
    pub(super) fn wait(&self, until: Instant) -> Seen {
        let mut slot = self.shared.slot();
        loop {
            if slot.away {
                return Seen::Away;
            }
            if let Some(loss) = slot.loss.take() {
                return Seen::Lost(loss);
            }
            if let Some(received) = slot.newest.take() {
                return Seen::Frame(received);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Seen::Nothing;
            }
            let waited = self.shared.changed.wait_timeout(slot, left);
            slot = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.put(|slot| slot.closed = true);
        // A panic of the thread has shown as a camera that is away.
        let _ = self.thread.take().map(JoinHandle::join);
        self.forget_frame();
    }
}

fn receive(stream: &Stream, shared: &Shared) {
    let mut numbers = Numbers::default();
    while !shared.slot().closed {
        let Some(buffer) = stream.timeout_pop_buffer(POLL.as_micros() as u64) else { continue };
        let arrived = arrival(&buffer);
        let received = Received { stream: stream.clone(), buffer, arrived };
        let number = received.buffer.frame_id();
        let gap = numbers.next(number);
        let incomplete = broken(received.buffer.status());
        shared.put(|slot| {
            if let Some(status) = incomplete {
                slot.loss = Some(Loss::Incomplete { number, status });
                return; // its buffer goes back
            }
            if let Some(last) = gap {
                slot.loss = Some(Loss::Gap { number, last });
            }
            slot.newest = Some(received);
        });
    }
}

/// Aravis notes the wall clock's time of the first packet.
fn arrival(buffer: &Buffer) -> Instant {
    let now = Instant::now();
    let noted = SystemTime::UNIX_EPOCH + Duration::from_nanos(buffer.system_timestamp());
    let age = SystemTime::now().duration_since(noted).ok().filter(|age| *age < MAX_AGE);
    age.and_then(|age| now.checked_sub(age)).unwrap_or(now)
}

/// What is wrong with a buffer, if anything.
fn broken(status: BufferStatus) -> Option<&'static str> {
    Some(match status {
        BufferStatus::Success => return None,
        BufferStatus::Timeout => "its packets did not all come in time",
        BufferStatus::MissingPackets => "packets of it are missing",
        BufferStatus::WrongPacketId => "a packet of it has a wrong number",
        BufferStatus::SizeMismatch => "it is larger than the camera said",
        BufferStatus::Aborted => "the camera or the stream broke it off",
        BufferStatus::PayloadNotSupported => "it is no picture",
        _ => "it was never filled",
    })
}

/// Watches the frame numbers.
#[derive(Debug, Default)]
struct Numbers {
    last: Option<u64>,
}

impl Numbers {
    /// Notes a frame's number; the one before it, if there is a gap between them.
    fn next(&mut self, number: u64) -> Option<u64> {
        let last = self.last.replace(number)?;
        // 0 is no GigE number, and all the same there are cameras that count through it.
        let begins_again = last == LAST_SHORT_NUMBER && number <= 1;
        (number != last + 1 && !begins_again).then_some(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(numbers: &[u64]) -> Vec<u64> {
        let mut seen = Numbers::default();
        numbers.iter().filter_map(|n| seen.next(*n)).collect()
    }

    #[test]
    fn a_gap_is_told_once_and_the_next_frame_is_good_again() {
        assert_eq!(gaps(&[7, 8, 11, 12, 13]), [8]);
        assert_eq!(gaps(&[7, 9, 11]), [7, 9]);
        assert_eq!(gaps(&[500, 1, 2]), [500], "a camera that began anew lost what it had");
        assert_eq!(gaps(&[5, 5, 6]), [5], "a number twice is no order");
    }

    #[test]
    fn numbers_of_16_and_of_64_bits_both_go_on_after_65535() {
        assert!(gaps(&[65_534, 65_535, 1, 2]).is_empty());
        assert!(gaps(&[65_535, 0, 1]).is_empty());
        assert!(gaps(&[65_535, 65_536, 65_537]).is_empty());
        assert_eq!(gaps(&[65_534, 1]), [65_534]);
        assert_eq!(gaps(&[65_535, 2]), [65_535]);
    }
}
