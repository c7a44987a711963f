//! The archive: frames and anomaly maps of the parts that somebody may want to look at again, with their records.
//!
//! Kept are parts that did not pass (review, reject, fault) and a sample of those that did, each with a JSON beside it
//! that is its record: a folder that is copied away explains itself. [`name`] says where files lie. In a map black is 0,
//! yellow the reject threshold, red twice that and more, magenta not a number.
//!
//! What it may take is bounded by size, by age and by what the disk must have free ([`stock`] says what goes first).
//!
//! Encoding and writing happen on a thread of its own, behind a queue bounded by parts and bytes. A part that finds no
//! place is counted and left out: a slow disk costs pictures and never slows the line. The first one left out is told
//! in the log and as an event; so is the end of it.
//!
//! Never here: waiting on the line's way; a verdict; the only copy of a record (the journal has it).

pub mod config;
mod disk;
pub mod name;
mod paint;
pub mod stock;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use inspect_core::image::{Image, ImageError};
use inspect_core::verdict::Verdict;

pub use config::{ArchiveConfig, FOLDER, Format};
pub use name::{FramePath, frame_path};
pub use paint::paint;

use crate::record::{Event, EventKind, Inspection};
use disk::{CLOCK_SETTLES, Disk, Encoded};

/// Most parts that wait to be written.
pub const QUEUE_PARTS: usize = 64;
/// Most bytes of frames and maps that wait; one part finds a place however large it is.
pub const QUEUE_BYTES: usize = 256 << 20;
/// At a stop what waits is written for at most this long; the rest is left out and counted.
pub const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// An archive that nothing comes for makes room this often, for others may fill the disk.
const IDLE: Duration = Duration::from_secs(30);
/// A trouble is over when parts are written again and none was left out for this long.
const HEALED_AFTER: Duration = Duration::from_secs(10);

/// Why a part is not in the archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file or folder cannot be made, read or removed.
    #[error("archive {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The disk, or what the archive may take of it, is too small, with all else removed.
    #[error(
        "archive {path}: {lacking} bytes too few; free the disk, or change max_gb or min_free_gb in [archive]"
    )]
    NoRoom {
        /// The archive.
        path: PathBuf,
        /// What is missing.
        lacking: u64,
    },
    /// A picture cannot be encoded.
    #[error("archive, part {part}: {source}")]
    Encode {
        /// Its number.
        part: u64,
        /// Why.
        source: ImageError,
    },
    /// A record is no JSON: a defect of inspectd.
    #[error("archive, part {part}: record: {source}")]
    Record {
        /// Its number.
        part: u64,
        /// Why.
        source: serde_json::Error,
    },
}

impl ArchiveError {
    fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// What a view saw.
#[derive(Debug, Clone)]
pub struct Pictures {
    /// The view.
    pub view: String,
    /// The frame as the camera gave it; none where none came.
    pub frame: Option<Arc<Image>>,
    /// The anomaly map, row by row; empty where there is none.
    pub map: Vec<f32>,
    /// Height and width of the map.
    pub map_shape: (usize, usize),
}

/// A part with its pictures.
#[derive(Debug, Clone)]
pub struct Kept {
    /// As the journal has it.
    pub record: Inspection,
    /// Of each view.
    pub views: Vec<Pictures>,
}

impl Kept {
    fn bytes(&self) -> usize {
        let of = |p: &Pictures| p.frame.as_ref().map_or(0, |f| f.data().len()) + p.map.len() * 4;
        self.views.iter().map(of).sum()
    }
}

/// Counters of the archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct ArchiveCounters {
    /// Parts written.
    pub written: u64,
    /// Parts left out because the queue was full, or at a stop.
    pub dropped: u64,
    /// Parts that could not be written.
    pub failed: u64,
    /// Parts removed to keep the bounds.
    pub deleted: u64,
    /// Bytes that lie there now, as far as they are known: a start takes stock beside the line.
    pub bytes: u64,
}

#[derive(Default)]
struct Counts {
    written: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    deleted: AtomicU64,
    bytes: AtomicU64,
}

/// Who is told of a trouble.
pub type Tell = Box<dyn Fn(Event) + Send + Sync>;

/// Handle of the archive; clones are cheap. The thread ends with the last one.
#[derive(Clone)]
pub struct Archive {
    shared: Arc<Handle>,
    config: Arc<ArchiveConfig>,
}

struct Handle(Arc<Shared>);

impl std::ops::Deref for Handle {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.lock().closing.get_or_insert(Instant::now() + CLOSE_LIMIT);
        self.work.notify_all();
    }
}

#[derive(Default)]
struct Queue {
    parts: VecDeque<Kept>,
    /// Of those that wait, and of the one that is being written.
    bytes: usize,
    /// Until when what waits is written; set by a stop.
    closing: Option<Instant>,
    /// The thread has ended, or there is none.
    ended: bool,
    /// When a part was left out last and why, until that is over.
    trouble: Option<(Instant, String)>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Something came, or a stop.
    work: Condvar,
    /// The thread has ended.
    ended: Condvar,
    counts: Counts,
    tell: Tell,
}

impl Archive {
    /// Starts the writing thread for the archive in `root`. A folder that cannot be made is a trouble that is told, and
    /// tried again with each part.
    ///
    /// Errors: the system's, if there is no thread.
    pub fn open(root: &Path, config: &ArchiveConfig, tell: Tell) -> std::io::Result<Self> {
        Self::open_with(root, config, tell, CLOCK_SETTLES)
    }

    fn open_with(
        root: &Path,
        config: &ArchiveConfig,
        tell: Tell,
        clock_settles: Duration,
    ) -> std::io::Result<Self> {
        let off = config.max_bytes() == 0;
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { ended: off, ..Queue::default() }),
            work: Condvar::new(),
            ended: Condvar::new(),
            counts: Counts::default(),
            tell,
        });
        let config = Arc::new(config.clone());
        if !off {
            let disk = Disk::new(root.to_owned(), ArchiveConfig::clone(&config), clock_settles);
            let (thread, config) = (Arc::clone(&shared), Arc::clone(&config));
            std::thread::Builder::new().name("archive".to_owned()).spawn(move || {
                // However it ends, nobody waits for it in vain.
                let _ended = Ended(Arc::clone(&thread));
                thread.write_all(disk, &config);
            })?;
        }
        Ok(Self { shared: Arc::new(Handle(shared)), config })
    }

    /// Whether a part with this number and verdict is kept at all.
    pub fn wants(&self, part: u64, verdict: Verdict) -> bool {
        self.config.max_gb > 0.0 && (verdict != Verdict::Pass || self.config.samples(part))
    }

    /// Hands over a part. Never waits; one that [`wants`](Self::wants) says no to is ignored.
    pub fn keep(&self, part: Kept) {
        if self.wants(part.record.part, part.record.verdict) {
            self.shared.put(part);
        }
    }

    /// What was done so far.
    pub fn counters(&self) -> ArchiveCounters {
        let of = |count: &AtomicU64| count.load(Ordering::Acquire);
        let counts = &self.shared.counts;
        ArchiveCounters {
            written: of(&counts.written),
            dropped: of(&counts.dropped),
            failed: of(&counts.failed),
            deleted: of(&counts.deleted),
            bytes: of(&counts.bytes),
        }
    }

    /// Why parts are left out; none where none was for a while.
    pub fn trouble(&self) -> Option<String> {
        self.shared.lock().trouble.as_ref().map(|(_, why)| why.clone())
    }

    /// Writes what waits, for at most [`CLOSE_LIMIT`], and ends the thread. A disk that hangs is not waited for.
    pub fn close(&self) {
        let until = Instant::now() + CLOSE_LIMIT;
        let mut queue = self.shared.lock();
        queue.closing = Some(until);
        self.shared.work.notify_all();
        while !queue.ended {
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                let parts = queue.parts.len() as u64;
                queue.parts.clear();
                self.shared.counts.dropped.fetch_add(parts, Ordering::Relaxed);
                tracing::warn!(parts, "the archive's disk is too slow to wait for: pictures are left out");
                return;
            };
            let waited = self.shared.ended.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.ended.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, part: Kept) {
        let bytes = part.bytes();
        let mut queue = self.lock();
        if queue.closing.is_some() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let full = queue.parts.len() >= QUEUE_PARTS || (queue.bytes > 0 && queue.bytes + bytes > QUEUE_BYTES);
        if full || queue.ended {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            self.trouble(queue, "the disk is slower than parts come");
            return;
        }
        queue.bytes += bytes;
        queue.parts.push_back(part);
        drop(queue);
        self.work.notify_all();
    }

    /// Says that parts are left out, once until that is over.
    fn trouble(&self, mut queue: MutexGuard<'_, Queue>, why: &str) {
        let known = queue.trouble.replace((Instant::now(), why.to_owned())).is_some();
        drop(queue);
        if !known {
            tracing::warn!(why, "pictures are left out of the archive; further ones are only counted");
            let message = format!("pictures are left out of the archive: {why}; verdicts and records go on");
            (self.tell)(Event::now(EventKind::ArchiveTrouble, None, message));
        }
    }

    /// Says that the trouble is over, if one was told and nothing was left out for a while.
    fn healed(&self) {
        let mut queue = self.lock();
        if queue.trouble.as_ref().is_none_or(|(last, _)| last.elapsed() < HEALED_AFTER) {
            return;
        }
        queue.trouble = None;
        drop(queue);
        let dropped = self.counts.dropped.load(Ordering::Relaxed);
        let failed = self.counts.failed.load(Ordering::Relaxed);
        let message = format!(
            "the archive keeps pictures again; since the start {dropped} parts found no place and {failed} could not be written"
        );
        tracing::info!(dropped, failed, "the archive keeps pictures again");
        (self.tell)(Event::now(EventKind::ArchiveHealed, None, message));
    }

    /// The next part with its bytes; `Err(true)`: none for now, `Err(false)`: the end.
    fn next(&self, wait: Duration) -> Result<(Kept, usize), bool> {
        let mut queue = self.lock();
        if queue.parts.is_empty() && queue.closing.is_none() {
            let waited = self.work.wait_timeout(queue, wait);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if queue.closing.is_some_and(|until| Instant::now() >= until) {
            return Err(false); // who waited has counted what is left
        }
        match queue.parts.pop_front() {
            Some(part) => {
                let bytes = part.bytes();
                Ok((part, bytes))
            }
            None => Err(queue.closing.is_none()),
        }
    }

    fn count(&self, disk: &Disk) {
        self.counts.deleted.store(disk.deleted, Ordering::Relaxed);
        self.counts.bytes.store(disk.bytes(), Ordering::Relaxed);
    }

    fn write_all(&self, mut disk: Disk, config: &ArchiveConfig) {
        let mut more = true;
        loop {
            // Stock is taken a folder at a time, so that parts need not wait for all of them.
            let wait = if more { Duration::ZERO } else { IDLE };
            let done = match self.next(wait) {
                Ok((part, bytes)) => {
                    let put = Encoded::of(&part, config).and_then(|encoded| match encoded {
                        None => Ok(false),
                        Some(part) => {
                            more = disk.look_on()?;
                            disk.put(&part).map(|()| true)
                        }
                    });
                    self.lock().bytes -= bytes;
                    self.count(&disk);
                    let count = if put.is_ok() { &self.counts.written } else { &self.counts.failed };
                    if !matches!(put, Ok(false)) {
                        count.fetch_add(1, Ordering::Release); // who sees it sees what the disk holds with it
                    }
                    if put.is_ok() {
                        self.healed();
                    }
                    put.map(|_| ())
                }
                Err(true) => disk.look_on().and_then(|left| {
                    more = left;
                    disk.make_room(0)
                }),
                Err(false) => return,
            };
            self.count(&disk);
            if let Err(error) = done {
                more = false; // tried again with the next part
                self.trouble(self.lock(), &error.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests;
