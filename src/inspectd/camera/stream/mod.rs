//! Sources that send by themselves: V4L2 devices, RTSP addresses and GStreamer pipelines, by OpenCV.
//!
//! None of them says when a frame was exposed: `exposed` is when the frame was there, later than its exposure by
//! what coding, network and buffers take (RTSP: tenths of a second). So they serve stations whose parts are the
//! frames, and none that a PLC or a clock triggers; the configuration's check sees to that.
//!
//! A thread of its own reads all the time, so that a frame that lay in a buffer is never given for a new one. A
//! source that is silent for `stall_ms` is away, and is opened anew.
//!
//! V4L2 devices were not tried on hardware.
//!
//! Never here: files (see [`super::video`]); a password in an error or a log.

pub mod config;
mod reader;

use std::time::{Duration, Instant};

use super::pace::no_frame;
use super::video::rgb;
use super::{Camera, CameraError, Frame, Life, no_exposure};
use config::StreamConfig;
use reader::{Reader, Seen};

/// A source that is being read.
pub struct StreamCamera {
    name: String,
    reader: Reader,
}

impl StreamCamera {
    /// Opens the source and waits for its first frame, up to some seconds.
    ///
    /// Errors: [`CameraError::Away`] if it is not there or sends nothing.
    pub fn open(name: &str, config: &StreamConfig) -> Result<Self, CameraError> {
        let away = |reason| CameraError::Away { camera: name.to_owned(), reason };
        if let Some(problem) = config.check().into_iter().next() {
            return Err(away(problem));
        }
        let reader = Reader::start(config).map_err(away)?;
        Ok(Self { name: name.to_owned(), reader })
    }

    fn take(&self, since: Option<Instant>, timeout: Duration) -> Result<Frame, CameraError> {
        let away = |reason| CameraError::Away { camera: self.name.clone(), reason };
        match self.reader.wait(since, Instant::now() + timeout) {
            Seen::Frame(read) => {
                let image = rgb(&read.mat).map_err(away)?;
                let image =
                    image.map_err(|source| CameraError::Image { camera: self.name.clone(), source })?;
                Ok(Frame { image, number: read.number, exposed: read.arrived, path: None, truth: None })
            }
            Seen::Lost(reason) => Err(away(reason)),
            Seen::Nothing => Err(no_frame(&self.name, timeout)),
        }
    }
}

impl Camera for StreamCamera {
    fn grab(&mut self, timeout: Duration) -> Result<Frame, CameraError> {
        self.take(Some(Instant::now()), timeout)
    }

    fn next(&mut self, timeout: Duration) -> Result<Frame, CameraError> {
        self.take(None, timeout)
    }

    /// It sends all the time: a frame within `stall_ms` is a sign of life.
    fn life(&mut self) -> Result<Life, CameraError> {
        match self.reader.lost() {
            None => Ok(Life::Proven),
            Some(reason) => Err(CameraError::Away { camera: self.name.clone(), reason }),
        }
    }

    fn expose(&mut self, exposure_us: Option<f64>) -> Result<(), CameraError> {
        no_exposure(&self.name, exposure_us)
    }
}
