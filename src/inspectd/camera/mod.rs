//! The seam to cameras: one trait, its frames, and the thread that keeps a camera open.
//!
//! Terms. A *frame* is one image off one camera. A camera is *away* while it cannot be opened or read.
//! *Truth* is what a simulated part really is.
//!
//! Never here: verdicts, resizing, a frame made up in place of one that did not come.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use inspect_core::image::{Image, ImageError};

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

    /// Asks the camera for a sign of life without exposing.
    ///
    /// Errors: [`CameraError::Away`].
    fn life(&mut self) -> Result<Life, CameraError>;
}
