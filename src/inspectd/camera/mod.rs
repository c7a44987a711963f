//! The seam to cameras: one trait, its frames, and the thread that keeps a camera open.
//!
//! Terms. A *frame* is one image off one camera. A camera is *away* while it cannot be opened or read.
//! *Truth* is what a simulated part really is.
//!
//! Never here: verdicts, resizing, a frame made up in place of one that did not come.

pub mod aravis;
pub mod calls;
pub mod defect;
pub mod folder;
pub mod labelled;
mod pace;
mod part;
pub mod process;
mod random;
pub mod simulated;
pub mod stream;
pub mod thread;
pub mod video;
pub mod watch;
mod worded;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use inspect_core::image::{Image, ImageError};
use serde::{Deserialize, Serialize};

use aravis::AravisCamera;
use aravis::config::{AravisConfig, Exposes};
use folder::{FolderCamera, FolderConfig};
use pace::Pace;
use simulated::{SimulatedCamera, SimulatedConfig};
use stream::StreamCamera;
use stream::config::StreamConfig;
use video::{VideoCamera, VideoConfig};

/// Why there is no frame.
#[derive(Debug, thiserror::Error)]
pub enum CameraError {
    /// The camera cannot be opened or was lost. It is reopened.
    #[error("camera {camera} is away: {reason}")]
    Away {
        /// Name of the view that uses it.
        camera: String,
        /// What went wrong, and what was expected.
        reason: String,
    },
    /// A call of its driver does not come back. It is reopened from another thread.
    #[error("camera {camera} is stuck: {reason}")]
    Stuck {
        /// Name of the view that uses it.
        camera: String,
        /// Which call, and since when.
        reason: String,
    },
    /// It is there but gave no frame in time.
    #[error("camera {camera} gave no frame within {timeout_ms} ms")]
    NoFrame {
        /// Name of the view that uses it.
        camera: String,
        /// How long it was waited for.
        timeout_ms: u64,
    },
    /// The source is at its end (a folder read once, a video file).
    #[error("camera {camera} has no more frames")]
    End {
        /// Name of the view that uses it.
        camera: String,
    },
    /// A picture of the source cannot be read. The next one is tried at the next grab.
    #[error("camera {camera}: {source}")]
    Image {
        /// Name of the view that uses it.
        camera: String,
        /// Which picture, and what is wrong with it.
        source: ImageError,
    },
    /// Only parts of a frame came. The next one is tried at the next grab.
    #[error("camera {camera}: frame {number} is incomplete: {status}")]
    Incomplete {
        /// Name of the view that uses it.
        camera: String,
        /// The camera's own number of the frame.
        number: u64,
        /// What is wrong with it.
        status: &'static str,
    },
    /// Frames never came. Told once; the next one is good again.
    #[error("camera {camera}: frame {number} came after frame {last}: what was between them is lost")]
    Gap {
        /// Name of the view that uses it.
        camera: String,
        /// The camera's own number of the frame that came.
        number: u64,
        /// The one before it.
        last: u64,
    },
    /// It is there and does not take a setting.
    #[error("camera {camera}: {reason}")]
    Refused {
        /// Name of the view that uses it.
        camera: String,
        /// Which setting, what was expected and what it keeps.
        reason: String,
    },
}

/// One image off one camera.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The picture, RGB or grey.
    pub image: Image,
    /// The camera's own number of the frame.
    pub number: u64,
    /// Start of exposure on this machine's monotonic clock, as near as the camera tells it.
    pub exposed: Instant,
    /// File that it was read from.
    pub path: Option<PathBuf>,
    /// What the simulated part really is: "good" or the name of its defect.
    pub truth: Option<String>,
}

/// What a camera can say of itself while no part is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It answered.
    Proven,
    /// It has no channel to ask on.
    Unproven,
}

/// A camera. Calls block; each camera lives on a thread of its own.
pub trait Camera: Send {
    /// The next frame: for a triggered source a new exposure, for a free-running one the next of its own pace.
    ///
    /// Errors: [`CameraError`]; after `Away` the camera is dropped and opened anew.
    fn grab(&mut self, timeout: Duration) -> Result<Frame, CameraError>;

    /// The newest frame that was not given yet, whenever it was exposed: for whom each frame is a part.
    ///
    /// Errors: as [`grab`](Self::grab).
    fn next(&mut self, timeout: Duration) -> Result<Frame, CameraError> {
        self.grab(timeout)
    }

    /// Asks the camera for a sign of life without exposing.
    ///
    /// Errors: [`CameraError::Away`].
    fn life(&mut self) -> Result<Life, CameraError>;

    /// Sets the exposure time; `None`: as the camera was set up. Frames that are given afterwards were exposed so.
    ///
    /// Errors: [`CameraError::Refused`], after which the camera goes on as it was; [`CameraError::Away`].
    fn expose(&mut self, exposure_us: Option<f64>) -> Result<(), CameraError>;

    /// Does ahead what the next grab needs and may be done before its trigger. Called while nothing is asked.
    ///
    /// Whatever goes wrong here is told by the next grab.
    fn prepare(&mut self) {}
}

/// Where a station's frames come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum CameraConfig {
    /// Renders machined parts, some of them with a defect, and knows the truth.
    Simulated(SimulatedConfig),
    /// Shows the pictures of a folder.
    Folder(FolderConfig),
    /// Plays a video file.
    Video(VideoConfig),
    /// A GigE Vision or USB3 Vision camera.
    Aravis(AravisConfig),
    /// A V4L2 device, an RTSP address or a GStreamer pipeline.
    Opencv(StreamConfig),
    /// What [`crate::replay`] hands out; in no configuration file, and opened by nobody else.
    #[serde(skip)]
    Replayed,
}

impl CameraConfig {
    /// Every setting that cannot work, in words that say what was expected. Touches no device.
    pub fn check(&self) -> Vec<String> {
        match self {
            Self::Simulated(config) => config.check(),
            Self::Folder(config) => config.check(),
            Self::Video(config) => config.check(),
            Self::Aravis(config) => config.check(),
            Self::Opencv(config) => config.check(),
            Self::Replayed => Vec::new(),
        }
    }

    /// Whether frames come at the camera's own pace, not one for each trigger.
    pub fn free_runs(&self) -> bool {
        match self {
            Self::Simulated(config) => config.rate_hz.is_some(),
            Self::Folder(config) => config.rate_hz.is_some(),
            Self::Video(_) | Self::Opencv(_) => true,
            Self::Aravis(config) => config.trigger == Exposes::FreeRun,
            Self::Replayed => false,
        }
    }

    /// Whether recipes may set an exposure time: only where there is one to go back to. What a camera was left with is
    /// none.
    pub fn has_exposure(&self) -> bool {
        match self {
            Self::Simulated(_) | Self::Replayed => true,
            Self::Aravis(config) => config.exposure_us.is_some(),
            Self::Folder(_) | Self::Video(_) | Self::Opencv(_) => false,
        }
    }

    /// Sets the exposure time that the camera is opened with, where it has one.
    pub fn set_exposure(&mut self, exposure_us: f64) {
        match self {
            Self::Simulated(config) => config.exposure_us = exposure_us,
            Self::Aravis(config) => config.exposure_us = Some(exposure_us),
            Self::Folder(_) | Self::Video(_) | Self::Opencv(_) | Self::Replayed => {}
        }
    }

    /// Whether a frame says when it was exposed, so that it can be told from one before its trigger.
    pub fn tells_exposure(&self) -> bool {
        !matches!(self, Self::Opencv(_))
    }

    /// Makes relative paths relative to `folder`.
    pub fn resolve(&mut self, folder: &Path) {
        match self {
            Self::Simulated(_) | Self::Aravis(_) | Self::Opencv(_) | Self::Replayed => {}
            Self::Folder(config) => config.path = folder.join(&config.path),
            Self::Video(config) => config.path = folder.join(&config.path),
        }
    }

    /// Width and height of the frames, where they are known beforehand.
    pub fn frame_px(&self) -> Option<(u32, u32)> {
        match self {
            Self::Simulated(config) => Some((config.width, config.height)),
            Self::Aravis(config) => config.roi.map(|roi| (roi.width, roi.height)),
            Self::Folder(_) | Self::Video(_) | Self::Opencv(_) | Self::Replayed => None,
        }
    }

    /// Chooses other parts, where parts are rendered.
    pub fn set_seed(&mut self, seed: u64) {
        if let Self::Simulated(config) = self {
            config.seed = seed;
        }
    }

    /// Whether two identical frames in a row mean a fault. Files may hold the same picture twice.
    pub fn is_live(&self) -> bool {
        match self {
            Self::Simulated(_) | Self::Aravis(_) | Self::Opencv(_) => true,
            Self::Folder(_) | Self::Video(_) | Self::Replayed => false,
        }
    }

    /// Whether no part is really there: it is rendered, or was there before.
    pub fn is_simulated(&self) -> bool {
        matches!(self, Self::Simulated(_) | Self::Replayed)
    }
}

/// The answer of a source that has no exposure time which could be set.
fn no_exposure(camera: &str, exposure_us: Option<f64>) -> Result<(), CameraError> {
    match exposure_us {
        None => Ok(()),
        Some(us) => {
            let reason = format!("exposure_us = {us}: expected none, this source's exposure cannot be set");
            Err(CameraError::Refused { camera: camera.to_owned(), reason })
        }
    }
}

/// Opens a camera. `name` is its view's, for errors.
///
/// Errors: [`CameraError::Away`] if it is not there or its settings cannot work.
pub fn open(name: &str, config: &CameraConfig) -> Result<Box<dyn Camera>, CameraError> {
    Ok(match config {
        CameraConfig::Simulated(config) => Box::new(SimulatedCamera::open(name, config)?),
        CameraConfig::Folder(config) => Box::new(FolderCamera::open(name, config)?),
        CameraConfig::Video(config) => Box::new(VideoCamera::open(name, config)?),
        CameraConfig::Aravis(config) => Box::new(AravisCamera::open(name, config)?),
        CameraConfig::Opencv(config) => Box::new(StreamCamera::open(name, config)?),
        CameraConfig::Replayed => return Err(no_replay(name)),
    })
}

fn no_replay(name: &str) -> CameraError {
    let reason = "expected a camera, got pictures that only a replay can hand out".to_owned();
    CameraError::Away { camera: name.to_owned(), reason }
}

/// Opens a camera to take a series of pictures from: as fast as it is asked, once through, and with number
/// `first` next: of a simulated camera the part, of a live one only the number.
///
/// Errors: as [`open`].
pub(crate) fn open_series(
    name: &str,
    config: &CameraConfig,
    first: u64,
) -> Result<Box<dyn Camera>, CameraError> {
    Ok(match config {
        CameraConfig::Simulated(config) => {
            let config = SimulatedConfig { rate_hz: None, lose_every: None, ..config.clone() };
            Box::new(SimulatedCamera::open(name, &config)?.starting_at(first))
        }
        CameraConfig::Folder(config) => {
            let config = FolderConfig { rate_hz: None, repeat: false, ..config.clone() };
            Box::new(FolderCamera::open(name, &config)?)
        }
        CameraConfig::Video(config) => {
            let config = VideoConfig { repeat: false, ..config.clone() };
            Box::new(VideoCamera::open(name, &config)?.unpaced())
        }
        CameraConfig::Aravis(_) | CameraConfig::Opencv(_) => {
            Box::new(Numbered { camera: open(name, config)?, next: first })
        }
        CameraConfig::Replayed => return Err(no_replay(name)),
    })
}

/// A live camera whose frames are numbered in the order in which they are taken: its own numbers begin anew
/// whenever it pleases.
struct Numbered {
    camera: Box<dyn Camera>,
    next: u64,
}

impl Camera for Numbered {
    fn grab(&mut self, timeout: Duration) -> Result<Frame, CameraError> {
        let frame = self.camera.grab(timeout)?;
        self.next += 1;
        Ok(Frame { number: self.next - 1, ..frame })
    }

    fn life(&mut self) -> Result<Life, CameraError> {
        self.camera.life()
    }

    fn expose(&mut self, exposure_us: Option<f64>) -> Result<(), CameraError> {
        self.camera.expose(exposure_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_by_kind_and_unknown_ones_refused() {
        let read = |text: &str| toml::from_str::<CameraConfig>(text);
        let simulated = read("kind = 'simulated'\nseed = 7\nrate_hz = 5.0").unwrap();
        assert!(simulated.free_runs() && simulated.is_simulated() && simulated.check().is_empty());
        let folder = read("kind = 'folder'\npath = 'parts'\norder = 'shuffled'").unwrap();
        assert!(!folder.free_runs() && !folder.is_simulated());
        assert!(read("kind = 'video'\npath = 'line.mp4'").unwrap().free_runs());
        for text in ["kind = 'simulated'\nsede = 7", "kind = 'folder'", "kind = 'webcam'", "seed = 7"] {
            assert!(read(text).is_err(), "{text}");
        }
        let unknown = read("kind = 'folder'\npath = 'p'\nrepaet = true").unwrap_err().to_string();
        assert!(unknown.contains("repaet"), "{unknown}");
    }

    #[test]
    fn every_senseless_setting_is_named() {
        let text = "kind = 'simulated'\nwidth = 3\ndefect_rate = 1.5\nrate_hz = 0.0\nlose_every = 0";
        let config: CameraConfig = toml::from_str(text).unwrap();
        let errors = config.check();
        for setting in ["width", "defect_rate", "rate_hz", "lose_every"] {
            assert_eq!(errors.iter().filter(|e| e.starts_with(setting)).count(), 1, "{setting}: {errors:?}");
        }
        assert!(matches!(open("v", &config), Err(CameraError::Away { .. })));
    }
}
