//! The stage: where the pictures of the part that comes next lie, and the cameras that show them.
//!
//! Pictures are read ahead, on a thread of its own: what decoding them takes is no camera's time.
//!
//! Never here: a picture shown twice, or for another part than it was laid out for.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use inspect_core::image::{Image, ImageError};
use tokio::sync::mpsc;

use super::source::Part;
use crate::camera::{Camera, CameraError, Frame, Life};

/// Parts that are read ahead.
const AHEAD: usize = 2;

/// A picture as it was read.
struct Picture {
    path: PathBuf,
    image: Result<Image, ImageError>,
}

/// A part whose pictures were read.
pub(super) struct Ready {
    /// The part.
    pub part: Part,
    pictures: Vec<(String, Picture)>,
}

impl Ready {
    fn read(part: Part) -> Self {
        let read = |(view, path): &(String, PathBuf)| {
            (view.clone(), Picture { path: path.clone(), image: Image::read(path) })
        };
        let pictures = part.pictures.iter().map(read).collect();
        Self { part, pictures }
    }

    /// Whether a picture was deleted since the part was found, as a running daemon does with its oldest.
    pub fn is_gone(&self) -> bool {
        let gone = |error: &ImageError| matches!(error, ImageError::Io { source, .. } if source.kind() == ErrorKind::NotFound);
        self.pictures.iter().any(|(_, picture)| picture.image.as_ref().err().is_some_and(gone))
    }
}

/// Reads parts in their order. The thread ends with the receiver.
pub(super) fn read_ahead(parts: Vec<Part>) -> std::io::Result<mpsc::Receiver<Ready>> {
    let (send, ready) = mpsc::channel(AHEAD);
    std::thread::Builder::new().name("replay".to_owned()).spawn(move || {
        for part in parts {
            if send.blocking_send(Ready::read(part)).is_err() {
                return;
            }
        }
    })?;
    Ok(ready)
}

#[derive(Default)]
struct Laid {
    /// By view.
    pictures: HashMap<String, Picture>,
    truth: Option<String>,
    number: u64,
}

/// The part that comes next.
#[derive(Default)]
pub(super) struct Stage {
    laid: Mutex<Laid>,
}

impl Stage {
    fn laid(&self) -> MutexGuard<'_, Laid> {
        // Nothing panics while it is held.
        self.laid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lays a part's pictures out in place of those of the part before.
    pub fn lay_out(&self, ready: Ready) -> Part {
        let mut laid = self.laid();
        laid.pictures = ready.pictures.into_iter().collect();
        laid.truth.clone_from(&ready.part.truth);
        laid.number += 1;
        ready.part
    }
}

/// A camera that shows what lies on the stage for its view.
pub(super) struct StageCamera {
    view: String,
    stage: Arc<Stage>,
}

impl StageCamera {
    pub fn new(view: &str, stage: Arc<Stage>) -> Self {
        Self { view: view.to_owned(), stage }
    }
}

impl Camera for StageCamera {
    fn grab(&mut self, timeout: Duration) -> Result<Frame, CameraError> {
        let exposed = Instant::now();
        let mut laid = self.stage.laid();
        let camera = self.view.clone();
        let Some(Picture { path, image }) = laid.pictures.remove(&self.view) else {
            let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            return Err(CameraError::NoFrame { camera, timeout_ms });
        };
        let image = image.map_err(|source| CameraError::Image { camera, source })?;
        Ok(Frame { image, number: laid.number, exposed, path: Some(path), truth: laid.truth.clone() })
    }

    fn life(&mut self) -> Result<Life, CameraError> {
        Ok(Life::Proven)
    }

    /// Its pictures were exposed long ago.
    fn expose(&mut self, _exposure_us: Option<f64>) -> Result<(), CameraError> {
        Ok(())
    }
}
