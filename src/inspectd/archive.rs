//! The archive: frame and anomaly map of the last non-passing parts' views, as PNG files beside the journal.
//!
//! Files in `<journal dir>/rejects/`: `<station>-<view>-<part>-<verdict>-frame.png` and `…-map.png`. In the map black
//! is 0, yellow the reject threshold, red twice that and more, magenta not a number.
//!
//! Encoding and writing happen on a thread of its own. A part that finds no place in the queue is counted
//! and left out: a slow disk never slows the line.
//!
//! Never here: passing parts, waiting on the line's path, records (the journal has them).

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

use inspect_core::image::{Image, ImageError};
use inspect_core::verdict::Verdict;

/// Parts that wait to be written; with them the frames of at most this many are in memory.
pub const QUEUE_PARTS: usize = 4;
/// Folder in the journal's directory.
pub const FOLDER: &str = "rejects";

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The folder cannot be made or read, or there is no thread.
    #[error("archive {path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What is kept of one view of a part.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Station that judged it.
    pub station: String,
    /// The view that the pictures are of.
    pub view: String,
    /// Its number there.
    pub part: u64,
    /// The verdict; a passing part is not kept.
    pub verdict: Verdict,
    /// The frame as the camera gave it; none where none came.
    pub frame: Option<Arc<Image>>,
    /// The anomaly map, row by row; empty where there is none.
    pub map: Vec<f32>,
    /// Height and width of the map.
    pub map_shape: (usize, usize),
    /// The value of the map that counts as the limit; NaN where no model was in service.
    pub reject_threshold: f32,
}

/// Counters of the archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArchiveCounters {
    /// Parts written.
    pub written: u64,
    /// Parts left out because the queue was full.
    pub dropped: u64,
    /// Parts that could not be written.
    pub failed: u64,
}

#[derive(Default)]
struct Counts {
    written: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

/// Handle of the archive; clones are cheap. The thread ends with the last one.
#[derive(Clone)]
pub struct Archive {
    inner: Arc<Inner>,
}

struct Inner {
    queue: Mutex<Option<SyncSender<Vec<Kept>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    counts: Arc<Counts>,
}

impl Archive {
    /// Opens the archive beside the journal, takes stock of what is there and starts the writing thread.
    /// `keep` views of parts are kept; 0 keeps nothing and touches nothing.
    ///
    /// Errors: [`ArchiveError::Io`].
    pub fn open(journal_dir: &Path, keep: usize) -> Result<Self, ArchiveError> {
        let counts = Arc::new(Counts::default());
        let (queue, thread) = if keep == 0 {
            (None, None)
        } else {
            let dir = journal_dir.join(FOLDER);
            let io = |source| ArchiveError::Io { path: dir.clone(), source };
            std::fs::create_dir_all(&dir).map_err(io)?;
            let mut shelf = Shelf { parts: take_stock(&dir).map_err(io)?, dir: dir.clone(), keep };
            shelf.make_room();
            let (queue, kept) = sync_channel(QUEUE_PARTS);
            let counts = Arc::clone(&counts);
            let thread = std::thread::Builder::new()
                .name("archive".to_owned())
                .spawn(move || write_all(&mut shelf, &kept, &counts))
                .map_err(io)?;
            (Some(queue), Some(thread))
        };
        let inner = Inner { queue: Mutex::new(queue), thread: Mutex::new(thread), counts };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Hands over a part, all views of it. Never waits; a passing part is ignored.
    pub fn keep(&self, mut part: Vec<Kept>) {
        part.retain(|kept| kept.verdict != Verdict::Pass);
        if part.is_empty() {
            return;
        }
        let queue = self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queue.as_ref()
            && queue.try_send(part).is_err()
        {
            self.inner.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was done so far.
    pub fn counters(&self) -> ArchiveCounters {
        let counts = &self.inner.counts;
        ArchiveCounters {
            written: counts.written.load(Ordering::Relaxed),
            dropped: counts.dropped.load(Ordering::Relaxed),
            failed: counts.failed.load(Ordering::Relaxed),
        }
    }

    /// Writes what is in the queue, at most [`QUEUE_PARTS`] parts, and ends the thread. Blocks for that long.
    pub fn close(&self) {
        drop(self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|t| t.join().is_err()) {
            tracing::error!("the archive's thread had panicked");
        }
    }
}

fn write_all(shelf: &mut Shelf, queue: &Receiver<Vec<Kept>>, counts: &Counts) {
    let mut failing: Option<String> = None;
    for part in queue {
        let put = part.iter().try_for_each(|kept| shelf.put(kept));
        let error = put.err().map(|e| e.to_string());
        let count = if error.is_none() { &counts.written } else { &counts.failed };
        count.fetch_add(1, Ordering::Relaxed);
        if error.is_some() != failing.is_some() {
            match &error {
                Some(error) => tracing::warn!(%error, "pictures of non-passing parts cannot be kept"),
                None => tracing::info!("pictures of non-passing parts are kept again"),
            }
        }
        failing = error;
    }
}

/// The files, oldest part first. A part is known by the beginning of its files' names.
struct Shelf {
    dir: PathBuf,
    keep: usize,
    parts: VecDeque<String>,
}

impl Shelf {
    fn put(&mut self, kept: &Kept) -> Result<(), ImageError> {
        if kept.frame.is_none() && kept.map.is_empty() {
            return Ok(()); // a part without pictures must not push out one with them
        }
        let stem = stem(&kept.station, &kept.view, kept.part, kept.verdict);
        self.parts.retain(|known| *known != stem);
        self.parts.push_back(stem.clone());
        self.make_room();
        let write = |image: &Image, what: &str| {
            let path = self.dir.join(format!("{stem}-{what}.png"));
            image.write_png(&path).inspect_err(|_| {
                let _ = std::fs::remove_file(path.with_extension("png.part")); // may not be there
            })
        };
        if let Some(frame) = &kept.frame {
            write(frame, "frame")?;
        }
        if !kept.map.is_empty() {
            write(&paint(&kept.map, kept.map_shape, kept.reject_threshold)?, "map")?;
        }
        Ok(())
    }

    fn make_room(&mut self) {
        while self.parts.len() > self.keep {
            let Some(oldest) = self.parts.pop_front() else { return };
            for what in ["frame", "map"] {
                let path = self.dir.join(format!("{oldest}-{what}.png"));
                match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        tracing::warn!(%error, path = %path.display(), "an old picture cannot be deleted");
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Parts whose files are there, oldest first; halves of files from a crash are removed.
fn take_stock(dir: &Path) -> std::io::Result<VecDeque<String>> {
    let mut found: Vec<(SystemTime, String)> = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".png.part") {
            std::fs::remove_file(entry.path())?;
            continue;
        }
        let stem = name.strip_suffix("-frame.png").or(name.strip_suffix("-map.png"));
        if let Some(stem) = stem.filter(|s| is_ours(s)) {
            found.push((entry.metadata()?.modified()?, stem.to_owned()));
        }
    }
    found.sort();
    let mut parts = VecDeque::new();
    for (_, stem) in found {
        if parts.back() != Some(&stem) && !parts.contains(&stem) {
            parts.push_back(stem);
        }
    }
    Ok(parts)
}

/// `<station>-<view>-<part>-<verdict>`: what else lies in the folder is left alone.
fn is_ours(stem: &str) -> bool {
    let mut fields = stem.rsplitn(3, '-');
    let verdict = fields.next().is_some_and(|v| matches!(v, "review" | "reject" | "fault"));
    verdict && fields.next().is_some_and(|p| p.parse::<u64>().is_ok()) && fields.next().is_some()
}

/// Where the frame of a part lies, if it was kept: whole, and without loss.
pub fn frame_path(journal_dir: &Path, station: &str, view: &str, part: u64, verdict: Verdict) -> PathBuf {
    journal_dir.join(FOLDER).join(format!("{}-frame.png", stem(station, view, part, verdict)))
}

/// The beginning of the names of a part's files.
fn stem(station: &str, view: &str, part: u64, verdict: Verdict) -> String {
    format!("{}-{}-{part}-{}", plain(station), plain(view), verdict.word())
}

/// A station's name as it may stand in a file name.
fn plain(station: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    station.chars().map(|c| if fits(c) { c } else { '_' }).collect()
}

/// The map in colours. Shape: `[h, w]` → RGB. Source of the ramp: ours; see the module's head.
///
/// Errors: [`ImageError::Shape`] if the map is not as long as its shape says.
pub fn paint(
    map: &[f32],
    (height, width): (usize, usize),
    reject_threshold: f32,
) -> Result<Image, ImageError> {
    // What does not fit a u32 is no image's side: 0 is refused as such.
    let side = |px: usize| u32::try_from(px).unwrap_or(0);
    let (height, width) = (side(height), side(width));
    let data = map.iter().flat_map(|&value| colour(value / reject_threshold)).collect();
    Image::new(width, height, 3, data)
}

/// 0 black, 1 yellow, 2 red, straight lines between.
fn colour(relative: f32) -> [u8; 3] {
    if relative.is_nan() {
        return [255, 0, 255];
    }
    let byte = |share: f32| (share.clamp(0.0, 1.0) * 255.0).round() as u8;
    [byte(relative), byte(if relative <= 1.0 { relative } else { 2.0 - relative }), 0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use inspect_core::verdict::FaultCode;

    fn kept(station: &str, part: u64, verdict: Verdict) -> Kept {
        let frame = Some(Arc::new(Image::new(4, 3, 1, vec![9; 12]).unwrap()));
        let map = vec![0.0, 1.0, 2.0, f32::NAN];
        Kept {
            station: station.into(),
            view: "top".into(),
            part,
            verdict,
            frame,
            map,
            map_shape: (2, 2),
            reject_threshold: 1.0,
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir.join(FOLDER)).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Hands over without ever finding the queue full.
    fn put(archive: &Archive, kept: Kept) {
        let before = archive.counters();
        archive.keep(vec![kept]);
        while archive.counters() == before {
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_last_parts_are_kept_also_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::open(dir.path(), 3).unwrap();
        archive.keep(vec![kept("a", 1, Verdict::Pass)]);
        for part in 2..=5 {
            put(&archive, kept("a", part, Verdict::Reject));
        }
        archive.close();
        let foreign = dir.path().join(FOLDER).join("notes-1.png");
        std::fs::write(&foreign, b"x").unwrap();
        std::fs::write(dir.path().join(FOLDER).join("a-9-reject-map.png.part"), b"x").unwrap();
        let archive = Archive::open(dir.path(), 3).unwrap();
        put(&archive, kept("b/../c", 1, Verdict::Fault(FaultCode::Late)));
        archive.close();
        let expected = ["a-top-4-reject", "a-top-5-reject", "b____c-top-1-fault"]
            .iter()
            .flat_map(|s| [format!("{s}-frame.png"), format!("{s}-map.png")])
            .chain(["notes-1.png".to_owned()]);
        assert_eq!(names(dir.path()), expected.collect::<Vec<_>>());
        let map = Image::read(&dir.path().join(FOLDER).join("a-top-5-reject-map.png")).unwrap();
        assert_eq!(map.data(), [0, 0, 0, 255, 255, 0, 255, 0, 0, 255, 0, 255]);
        Archive::open(dir.path(), 1).unwrap().close();
        assert_eq!(names(dir.path()).len(), 3, "a smaller limit deletes at once");
    }

    #[test]
    fn a_part_without_frame_or_with_a_wrong_map_harms_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::open(dir.path(), 3).unwrap();
        put(&archive, Kept { frame: None, map: vec![], ..kept("a", 1, Verdict::Reject) });
        put(&archive, Kept { map_shape: (9, 9), ..kept("a", 2, Verdict::Reject) });
        assert_eq!(archive.counters(), ArchiveCounters { written: 1, dropped: 0, failed: 1 });
        assert_eq!(names(dir.path()), ["a-top-2-reject-frame.png"]);
    }

    #[test]
    fn a_full_queue_is_counted_and_never_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::open(dir.path(), 1_000).unwrap();
        let frame = Some(Arc::new(Image::new(1_500, 1_500, 3, vec![7; 6_750_000]).unwrap()));
        let parts: Vec<_> =
            (0..30).map(|part| Kept { frame: frame.clone(), ..kept("a", part, Verdict::Review) }).collect();
        let began = std::time::Instant::now();
        parts.into_iter().for_each(|part| archive.keep(vec![part]));
        let handing_over = began.elapsed();
        archive.close();
        let counters = archive.counters();
        assert!(counters.dropped > 0 && counters.written >= QUEUE_PARTS as u64, "{counters:?}");
        assert_eq!(counters.written + counters.dropped, 30);
        assert!(handing_over.as_millis() < 100, "{handing_over:?}");
    }
}
