//! `inspectd capture`: takes pictures through a station's camera, to train and to judge models on.
//!
//! Terms. A *flat* folder holds `000000.png` onwards, good parts only where the camera is simulated. A *test
//! split* has MVTec AD's layout, `test/<truth>/000000.png`, and needs a camera that knows the truth.
//!
//! Pictures are numbered as the camera numbers its frames, so that `resume` goes on with the part after the last
//! one instead of taking the first ones twice.
//!
//! Never here: a picture written half, a picture overwritten.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use inspect_core::image::{ImageError, Roi};

use crate::camera::simulated::GOOD;
use crate::camera::{self, Camera, CameraConfig, CameraError, Frame};
use crate::progress::Progress;

/// How long one frame is waited for.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// Failed grabs one after the other at which the capture ends.
const FAILURES_IN_A_ROW: u32 = 10;

/// Why pictures could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The camera failed; what had been written stays.
    #[error("{written} of {wanted} pictures written, then: {source}")]
    Camera {
        /// Pictures that are there.
        written: u64,
        /// Pictures that were wanted.
        wanted: u64,
        /// What the camera said.
        source: CameraError,
    },
    /// The folder holds something already.
    #[error("{out} is not empty ({files} files): give --resume to go on where it ends, or another folder")]
    NotEmpty {
        /// The folder.
        out: PathBuf,
        /// Files in it.
        files: u64,
    },
    /// A test split of a camera that does not know the truth.
    #[error(
        "camera {camera} does not say what its parts are: only a simulated camera, or a folder with test/<class>/, can give a test split"
    )]
    NoTruth {
        /// The view.
        camera: String,
    },
    /// A truth that is no folder's name.
    #[error("{truth:?} cannot be a folder's name under test/")]
    Truth {
        /// The truth.
        truth: String,
    },
    /// A folder cannot be read or made.
    #[error("{path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A picture cannot be written.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// What is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    /// A flat folder of this many pictures; of a simulated camera, good parts only.
    Flat {
        /// Pictures.
        count: u64,
    },
    /// A test split with this many pictures of each sort.
    TestSplit {
        /// Good parts.
        goods: u64,
        /// Parts with a defect, of all kinds together.
        defects: u64,
    },
}

/// What was taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captured {
    /// Pictures that this call wrote.
    pub written: u64,
    /// Pictures that are there now, by truth; `""` is the flat folder.
    pub total: BTreeMap<String, u64>,
    /// Pictures of the source that could not be read.
    pub unreadable: u64,
    /// Whether the source ended before the count was reached.
    pub ended: bool,
}

/// Takes `parts` through the camera of view `name` into `out`, cut to `roi` (the whole frame where `None`) as
/// the station cuts them; with `resume`, what is there already counts.
///
/// Errors: [`CaptureError`]; pictures written before it stay.
pub fn capture(
    name: &str,
    config: &CameraConfig,
    roi: Option<Roi>,
    parts: Parts,
    out: &Path,
    resume: bool,
) -> Result<Captured, CaptureError> {
    let there = pictures_in(out)?;
    if !resume && there.files > 0 {
        return Err(CaptureError::NotEmpty { out: out.to_owned(), files: there.files });
    }
    std::fs::create_dir_all(out).map_err(|source| CaptureError::Io { path: out.to_owned(), source })?;
    let wanted = parts.wanted();
    let mut job = Capture {
        name,
        roi,
        parts,
        out,
        camera: source(name, config, parts, there.next).map_err(|e| failed(e, &there.by_truth, wanted))?,
        done: Captured { total: there.by_truth, ..Captured::default() },
        next: there.next,
    };
    job.run()?;
    Ok(job.done)
}

/// The camera, and how many of its parts have a defect where that can be chosen.
fn source(
    name: &str,
    config: &CameraConfig,
    parts: Parts,
    next: u64,
) -> Result<Box<dyn Camera>, CameraError> {
    let mut config = config.clone();
    if let CameraConfig::Simulated(simulated) = &mut config {
        simulated.defect_rate = match parts {
            Parts::Flat { .. } => 0.0,
            Parts::TestSplit { goods, defects } => defects as f64 / (goods + defects).max(1) as f64,
        };
    }
    camera::open_series(name, &config, next)
}

fn failed(source: CameraError, total: &BTreeMap<String, u64>, wanted: u64) -> CaptureError {
    CaptureError::Camera { written: total.values().sum(), wanted, source }
}

struct Capture<'a> {
    name: &'a str,
    roi: Option<Roi>,
    parts: Parts,
    out: &'a Path,
    camera: Box<dyn Camera>,
    done: Captured,
    /// Number of the next picture.
    next: u64,
}

impl Capture<'_> {
    fn run(&mut self) -> Result<(), CaptureError> {
        let mut progress = Progress::new(self.parts.wanted(), "pictures");
        let mut failures = 0;
        while !self.parts.reached(&self.done.total) {
            match self.camera.grab(FRAME_TIMEOUT) {
                Ok(frame) => {
                    failures = 0;
                    self.take(frame)?;
                    progress.show(self.done.total.values().sum());
                }
                Err(CameraError::End { .. }) => {
                    self.done.ended = true;
                    break;
                }
                Err(e) if failures + 1 >= FAILURES_IN_A_ROW => {
                    return Err(failed(e, &self.done.total, self.parts.wanted()));
                }
                Err(e @ CameraError::Away { .. }) => {
                    return Err(failed(e, &self.done.total, self.parts.wanted()));
                }
                Err(e) => {
                    failures += 1;
                    self.done.unreadable += u64::from(matches!(e, CameraError::Image { .. }));
                    tracing::warn!(camera = self.name, error = %e, "no picture");
                }
            }
        }
        progress.end(self.done.total.values().sum());
        Ok(())
    }

    /// Writes a frame if it is wanted.
    fn take(&mut self, frame: Frame) -> Result<(), CaptureError> {
        if frame.number < self.next {
            return Ok(());
        }
        let truth = match self.parts {
            Parts::Flat { .. } => String::new(),
            Parts::TestSplit { .. } => {
                frame.truth.ok_or_else(|| CaptureError::NoTruth { camera: self.name.to_owned() })?
            }
        };
        if !self.parts.wants(&self.done.total, &truth) {
            return Ok(());
        }
        let folder = self.folder(&truth)?;
        let image = match self.roi {
            Some(roi) => frame.image.crop(roi)?,
            None => frame.image,
        };
        image.write_png(&folder.join(format!("{:06}.png", frame.number)))?;
        self.next = frame.number + 1;
        self.done.written += 1;
        *self.done.total.entry(truth).or_default() += 1;
        Ok(())
    }

    fn folder(&self, truth: &str) -> Result<PathBuf, CaptureError> {
        if truth.is_empty() {
            return Ok(self.out.to_owned());
        }
        let plain = truth.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | ' '));
        if !plain {
            return Err(CaptureError::Truth { truth: truth.to_owned() });
        }
        let path = self.out.join("test").join(truth);
        std::fs::create_dir_all(&path).map_err(|source| CaptureError::Io { path: path.clone(), source })?;
        Ok(path)
    }
}

impl Parts {
    /// Pictures in all.
    fn wanted(self) -> u64 {
        match self {
            Self::Flat { count } => count,
            Self::TestSplit { goods, defects } => goods + defects,
        }
    }

    fn wants(self, total: &BTreeMap<String, u64>, truth: &str) -> bool {
        let goods = total.get(GOOD).copied().unwrap_or(0);
        match self {
            Self::Flat { count } => total.values().sum::<u64>() < count,
            Self::TestSplit { goods: wanted, .. } if truth == GOOD => goods < wanted,
            Self::TestSplit { defects, .. } => total.values().sum::<u64>() - goods < defects,
        }
    }

    fn reached(self, total: &BTreeMap<String, u64>) -> bool {
        match self {
            Self::Flat { .. } => !self.wants(total, ""),
            // Any name but "good" stands for a defect here.
            Self::TestSplit { .. } => !self.wants(total, GOOD) && !self.wants(total, "defect"),
        }
    }
}

/// What a folder holds of earlier captures.
#[derive(Debug, Default)]
struct Pictures {
    files: u64,
    next: u64,
    by_truth: BTreeMap<String, u64>,
}

fn pictures_in(out: &Path) -> Result<Pictures, CaptureError> {
    let mut found = Pictures::default();
    count(out, "", &mut found)?;
    for truth in entries(&out.join("test"))? {
        count(&truth, &truth.file_name().unwrap_or_default().to_string_lossy(), &mut found)?;
    }
    Ok(found)
}

fn count(folder: &Path, truth: &str, found: &mut Pictures) -> Result<(), CaptureError> {
    for path in entries(folder)?.into_iter().filter(|path| path.is_file()) {
        found.files += 1;
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let number = stem.and_then(|stem| stem.parse::<u64>().ok());
        if let (Some(number), Some("png")) = (number, path.extension().and_then(|e| e.to_str())) {
            found.next = found.next.max(number + 1);
            *found.by_truth.entry(truth.to_owned()).or_default() += 1;
        }
    }
    Ok(())
}

/// What lies in a folder; nothing if there is no such folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, CaptureError> {
    let io = |source| CaptureError::Io { path: folder.to_owned(), source };
    match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(io)?.map(|entry| entry.map(|e| e.path()).map_err(io)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::camera::folder::{FolderConfig, Order};
    use crate::camera::simulated::SimulatedConfig;
    use inspect_core::image::Image;

    fn simulated() -> CameraConfig {
        let small = SimulatedConfig { width: 32, height: 32, defect_rate: 0.5, ..SimulatedConfig::default() };
        CameraConfig::Simulated(small)
    }

    fn flat(out: &Path, count: u64, resume: bool) -> Result<Captured, CaptureError> {
        capture("v", &simulated(), None, Parts::Flat { count }, out, resume)
    }

    fn read(out: &Path, number: u64) -> Image {
        Image::read(&out.join(format!("{number:06}.png"))).unwrap()
    }

    #[test]
    fn a_capture_that_is_resumed_is_the_same_as_one_in_a_go() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, halves) = (dir.path().join("whole"), dir.path().join("halves"));
        assert_eq!(flat(&whole, 6, false).unwrap().written, 6);
        flat(&halves, 2, false).unwrap();
        assert_eq!(flat(&halves, 6, true).unwrap().written, 4);
        assert_eq!(flat(&halves, 6, true).unwrap().written, 0);
        for number in 0..6 {
            assert_eq!(read(&whole, number), read(&halves, number));
        }
        assert_ne!(read(&whole, 0), read(&whole, 5));
    }

    #[test]
    fn pictures_that_are_there_are_never_mixed_with_new_ones_unasked() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        let error = flat(dir.path(), 3, false).unwrap_err();
        assert!(matches!(error, CaptureError::NotEmpty { files: 1, .. }));
        assert!(error.to_string().contains("--resume"));
    }

    #[test]
    fn a_test_split_has_as_many_of_each_as_asked_by_their_truth() {
        let dir = tempfile::tempdir().unwrap();
        let parts = Parts::TestSplit { goods: 5, defects: 20 };
        let done = capture("v", &simulated(), None, parts, dir.path(), false).unwrap();
        assert_eq!((done.written, done.total[GOOD], done.ended), (25, 5, false));
        assert!(done.total.len() > 3, "{done:?}");
        for (truth, &count) in &done.total {
            assert_eq!(entries(&dir.path().join("test").join(truth)).unwrap().len() as u64, count);
        }
    }

    #[test]
    fn a_folder_gives_what_it_has_and_says_that_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let (from, out) = (dir.path().join("from"), dir.path().join("out"));
        flat(&from, 3, false).unwrap();
        std::fs::write(from.join("000001.png"), "broken").unwrap();
        let folder =
            FolderConfig { path: from, order: Order::Name, seed: 0, repeat: true, rate_hz: Some(0.1) };
        let folder = CameraConfig::Folder(folder);
        let done = capture("v", &folder, None, Parts::Flat { count: 9 }, &out, false).unwrap();
        assert_eq!((done.written, done.unreadable, done.ended), (2, 1, true));
        let again = capture("v", &folder, None, Parts::Flat { count: 9 }, &out, true).unwrap();
        assert_eq!((again.written, again.total[""]), (0, 2));
        let split = Parts::TestSplit { goods: 1, defects: 1 };
        let error = capture("v", &folder, None, split, &dir.path().join("split"), false).unwrap_err();
        assert!(matches!(error, CaptureError::NoTruth { .. }));
    }
}
