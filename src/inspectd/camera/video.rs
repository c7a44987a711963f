//! A camera that plays a video file, by OpenCV on FFmpeg.
//!
//! It runs at the file's own rate or a given one, once or for ever. OpenCV only reads: its BGR becomes RGB here.
//!
//! Never here: live sources (see [`super::stream`]); a frame skipped because its taker was late.

use std::path::PathBuf;
use std::time::Duration;

use inspect_core::image::{Image, ImageError};
use opencv::core::{CV_8UC1, CV_8UC3, LogLevel, Mat, MatTraitConst, MatTraitConstManual, set_log_level};
use opencv::videoio::{CAP_FFMPEG, CAP_PROP_FPS, VideoCapture, VideoCaptureTrait, VideoCaptureTraitConst};
use serde::{Deserialize, Serialize};

use super::folder::yes;
use super::pace::{RATES_HZ, check_rate};
use super::{Camera, CameraError, Frame, Life, Pace, no_exposure};

/// Settings of a video file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoConfig {
    /// The file.
    pub path: PathBuf,
    /// Whether to begin again after the last frame.
    #[serde(default = "yes")]
    pub repeat: bool,
    /// Frames a second; absent: the file's own rate.
    #[serde(default)]
    pub rate_hz: Option<f64>,
}

impl VideoConfig {
    /// Every setting that cannot work.
    pub(super) fn check(&self) -> Vec<String> {
        let mut errors = Vec::new();
        if !self.path.is_file() {
            errors.push(format!("path = {:?}: expected a video file that exists", self.path));
        }
        errors.extend(check_rate(self.rate_hz));
        errors
    }
}

/// A camera over a video file.
pub struct VideoCamera {
    name: String,
    config: VideoConfig,
    /// None once a video that is played once has ended.
    video: Option<VideoCapture>,
    pace: Pace,
    /// Frames given so far, and in this round.
    given: u64,
    this_round: u64,
    /// The next frame, or what came in its place, if read ahead.
    ready: Option<Result<Image, CameraError>>,
}

impl VideoCamera {
    /// Opens the file.
    ///
    /// Errors: [`CameraError::Away`] if it is not there, is no video, or has no rate and none is given.
    pub fn open(name: &str, config: &VideoConfig) -> Result<Self, CameraError> {
        let away = |reason| CameraError::Away { camera: name.to_owned(), reason };
        let video = open_file(config).map_err(away)?;
        let own = video.get(CAP_PROP_FPS).unwrap_or(0.0);
        let rate_hz = config.rate_hz.unwrap_or(own);
        if !RATES_HZ.contains(&rate_hz) {
            let path = config.path.display();
            return Err(away(format!("{path}: its rate is {rate_hz} frames a second: give rate_hz")));
        }
        Ok(Self {
            name: name.into(),
            config: config.clone(),
            video: Some(video),
            pace: Pace::new(Some(rate_hz)),
            given: 0,
            this_round: 0,
            ready: None,
        })
    }

    /// The same camera as fast as it is asked.
    pub fn unpaced(mut self) -> Self {
        self.pace = Pace::new(None);
        self
    }

    fn away(&self, reason: String) -> CameraError {
        CameraError::Away { camera: self.name.clone(), reason }
    }

    /// Reads the next frame; after the last one begins again or ends.
    fn read(&mut self) -> Result<Image, CameraError> {
        loop {
            let Some(video) = &mut self.video else {
                return Err(CameraError::End { camera: self.name.clone() });
            };
            let mut mat = Mat::default();
            let path = self.config.path.display().to_string();
            let read = video.read(&mut mat).map_err(|e| self.away(format!("{path}: {e}")))?;
            if read && !mat.empty() {
                self.this_round += 1;
                return self.convert(&mat);
            }
            if self.this_round == 0 {
                return Err(self.away(format!("{path}: expected a video, no frame of it can be decoded")));
            }
            self.this_round = 0;
            self.video = match self.config.repeat {
                true => Some(open_file(&self.config).map_err(|reason| self.away(reason))?),
                false => None,
            };
        }
    }

    fn convert(&self, mat: &Mat) -> Result<Image, CameraError> {
        let path = self.config.path.display();
        rgb(mat)
            .map_err(|reason| self.away(format!("{path}: {reason}")))?
            .map_err(|source| CameraError::Image { camera: self.name.clone(), source })
    }

    fn find(&self) -> Result<(), CameraError> {
        if self.config.path.is_file() {
            return Ok(());
        }
        Err(self.away(format!("{}: expected a video file, it is not there", self.config.path.display())))
    }
}

/// OpenCV's BGR or grey as an image of ours.
///
/// Errors: in words, if it holds anything else; inside, if it has no such shape.
pub(super) fn rgb(mat: &Mat) -> Result<Result<Image, ImageError>, String> {
    let bytes = mat.data_bytes().map_err(|e| e.message)?;
    let (channels, data) = match mat.typ() {
        CV_8UC3 => (3, bytes.chunks_exact(3).flat_map(|p| [p[2], p[1], p[0]]).collect()),
        CV_8UC1 => (1, bytes.to_vec()),
        other => return Err(format!("expected 8-bit BGR or grey frames, got OpenCV type {other}")),
    };
    // A side that is negative is none: the image then says that it has no such shape.
    let side = |px: i32| u32::try_from(px).unwrap_or(0);
    Ok(Image::new(side(mat.cols()), side(mat.rows()), channels, data))
}

/// Opens the video, or says what is wrong with it.
fn open_file(config: &VideoConfig) -> Result<VideoCapture, String> {
    // OpenCV's own lines on standard error repeat what the error says.
    let _ = set_log_level(LogLevel::LOG_LEVEL_SILENT);
    // FFmpeg takes "x:y" for a protocol: an absolute path cannot be one.
    let path = std::fs::canonicalize(&config.path).map_err(|e| format!("{}: {e}", config.path.display()))?;
    let shown = config.path.display();
    if !path.is_file() {
        return Err(format!("{shown}: expected a video file, it is none"));
    }
    let video = VideoCapture::from_file(&path, CAP_FFMPEG).map_err(|e| format!("{shown}: {e}"))?;
    match video.is_opened() {
        Ok(true) => Ok(video),
        Ok(false) => Err(format!("{shown}: expected a video that FFmpeg can read")),
        Err(e) => Err(format!("{shown}: {e}")),
    }
}

impl Camera for VideoCamera {
    fn grab(&mut self, timeout: Duration) -> Result<Frame, CameraError> {
        let exposed = self.pace.wait(&self.name, timeout)?;
        self.find()?;
        let ready = self.ready.take();
        let image = ready.unwrap_or_else(|| self.read())?;
        let number = self.given;
        self.given += 1;
        Ok(Frame { image, number, exposed, path: Some(self.config.path.clone()), truth: None })
    }

    fn life(&mut self) -> Result<Life, CameraError> {
        self.find().map(|()| Life::Unproven)
    }

    fn expose(&mut self, exposure_us: Option<f64>) -> Result<(), CameraError> {
        no_exposure(&self.name, exposure_us)
    }

    fn prepare(&mut self) {
        if self.ready.is_none() {
            self.ready = Some(self.read());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opencv::core::{Scalar, Size};
    use opencv::videoio::{VideoWriter, VideoWriterTrait, VideoWriterTraitConst};
    use std::path::Path;

    const SOON: Duration = Duration::from_secs(5);
    /// RGB of each frame.
    const COLOURS: [[u8; 3]; 4] = [[220, 30, 30], [30, 200, 40], [20, 40, 210], [200, 200, 40]];

    fn write(path: &Path) {
        let mjpg = VideoWriter::fourcc('M', 'J', 'P', 'G').unwrap();
        let mut writer = VideoWriter::new(path, mjpg, 50.0, Size::new(64, 48), true).unwrap();
        assert!(writer.is_opened().unwrap());
        for [r, g, b] in COLOURS {
            let bgr = Scalar::new(f64::from(b), f64::from(g), f64::from(r), 0.0);
            writer.write(&Mat::new_rows_cols_with_default(48, 64, CV_8UC3, bgr).unwrap()).unwrap();
        }
        writer.release().unwrap();
    }

    fn config(path: &Path, repeat: bool) -> VideoConfig {
        VideoConfig { path: path.into(), repeat, rate_hz: None }
    }

    fn assert_colour(frame: &Frame, colour: [u8; 3]) {
        let image = &frame.image;
        assert_eq!((image.width(), image.height(), image.channels()), (64, 48, 3));
        let pixel = &image.data()[3 * (24 * 64 + 32)..][..3];
        let near = pixel.iter().zip(colour).all(|(got, wanted)| got.abs_diff(wanted) < 12);
        assert!(near, "frame {}: expected {colour:?}, got {pixel:?}", frame.number);
    }

    #[test]
    fn every_frame_comes_in_its_own_colour_at_the_files_pace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("line.avi");
        write(&path);
        let mut camera = VideoCamera::open("v", &config(&path, false)).unwrap();
        assert_eq!(camera.life().unwrap(), Life::Unproven);
        let frames: Vec<Frame> = COLOURS.iter().map(|_| camera.grab(SOON).unwrap()).collect();
        frames.iter().zip(COLOURS).for_each(|(frame, colour)| assert_colour(frame, colour));
        let paced = frames.windows(2).all(|f| f[1].exposed - f[0].exposed >= Duration::from_millis(19));
        assert!(paced, "50 frames a second");
        for _ in 0..2 {
            camera.prepare();
            assert!(matches!(camera.grab(SOON), Err(CameraError::End { .. })));
        }
    }

    #[test]
    fn for_ever_begins_again_and_counts_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("line.avi");
        write(&path);
        let mut camera = VideoCamera::open("v", &config(&path, true)).unwrap().unpaced();
        for number in 0..10 {
            camera.prepare();
            let frame = camera.grab(SOON).unwrap();
            assert_eq!(frame.number, number as u64);
            assert_colour(&frame, COLOURS[number % COLOURS.len()]);
        }
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(camera.grab(SOON), Err(CameraError::Away { .. })));
    }

    #[test]
    fn what_is_no_video_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("line.mp4");
        for bytes in [&b""[..], b"garbage", &[0u8; 70_000], b"RIFF\xff\xff\xff\xffAVI LIST"] {
            std::fs::write(&path, bytes).unwrap();
            let error = VideoCamera::open("v", &config(&path, true))
                .and_then(|mut camera| camera.grab(SOON))
                .unwrap_err();
            assert!(
                matches!(error, CameraError::Away { .. }) && error.to_string().contains("line.mp4"),
                "{error}"
            );
        }
        let folder = VideoCamera::open("v", &config(dir.path(), true)).err().unwrap();
        assert!(folder.to_string().contains("expected a video file"), "{folder}");
        assert_eq!(config(dir.path(), true).check().len(), 1);
    }

    #[test]
    fn a_video_cut_short_ends_and_does_not_hang() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("line.avi");
        write(&path);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() * 3 / 5]).unwrap();
        let grabbed = VideoCamera::open("v", &config(&path, false))
            .map(|mut camera| (0..10).take_while(|_| camera.grab(SOON).is_ok()).count());
        assert!(grabbed.is_err() || grabbed.is_ok_and(|count| count <= COLOURS.len()));
    }
}
