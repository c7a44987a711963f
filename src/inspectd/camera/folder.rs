//! A camera that shows the pictures of a folder and the folders in it.
//!
//! For replay, bench and demonstration. Pictures come sorted by path or shuffled, once or for ever; the folder
//! is listed anew for each round. A picture that cannot be read is an error that names it, and the next grab
//! goes on with the next one. A folder that is gone is a camera that is away; opened anew it begins again.
//!
//! The truth comes from MVTec AD's layout: `test/<class>/x.png` is of that class, "good" being good. Folders
//! named `ground_truth`, which hold that layout's masks, are passed over.
//!
//! Never here: a picture left out without a word.

use std::path::{Path, PathBuf};
use std::time::Duration;

use inspect_core::image::{Image, ImageError, is_image_path};
use serde::{Deserialize, Serialize};

use super::pace::check_rate;
use super::random::Random;
use super::{Camera, CameraError, Frame, Life, Pace, no_exposure};

/// Folders within folders that are looked into: a link that leads back upwards must end somewhere.
const MAX_DEPTH: usize = 16;
/// Most pictures that one folder may hold.
const MAX_PICTURES: usize = 1_000_000;
/// Purpose of the random stream that shuffles.
const FOR_ORDER: u64 = 7;

/// In which order pictures come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Sorted by path.
    #[default]
    Name,
    /// In an order that follows from the seed and is another in each round.
    Shuffled,
}

/// Settings of a folder of pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// The folder.
    pub path: PathBuf,
    /// In which order its pictures come.
    #[serde(default)]
    pub order: Order,
    /// Names the order of `shuffled`.
    #[serde(default)]
    pub seed: u64,
    /// Whether to begin again after the last picture.
    #[serde(default = "yes")]
    pub repeat: bool,
    /// Frames a second by itself; absent: one for each trigger.
    #[serde(default)]
    pub rate_hz: Option<f64>,
}

pub(super) fn yes() -> bool {
    true
}

impl FolderConfig {
    /// Every setting that cannot work.
    pub(super) fn check(&self) -> Vec<String> {
        let mut errors = Vec::new();
        if !self.path.is_dir() {
            errors.push(format!("path = {:?}: expected a folder that exists", self.path));
        }
        errors.extend(check_rate(self.rate_hz));
        errors
    }
}

/// A camera over a folder.
pub struct FolderCamera {
    name: String,
    config: FolderConfig,
    pace: Pace,
    /// This round's pictures, and how many of them have been taken.
    files: Vec<PathBuf>,
    taken: usize,
    round: u64,
    /// Frames given so far.
    given: u64,
    /// The next picture, if read ahead.
    ready: Option<(PathBuf, Result<Image, ImageError>)>,
}

impl FolderCamera {
    /// Lists the folder.
    ///
    /// Errors: [`CameraError::Away`] if it is not there, holds no picture or more than a million.
    pub fn open(name: &str, config: &FolderConfig) -> Result<Self, CameraError> {
        let mut camera = Self {
            name: name.into(),
            config: config.clone(),
            pace: Pace::new(config.rate_hz),
            files: Vec::new(),
            taken: 0,
            round: 0,
            given: 0,
            ready: None,
        };
        camera.begin_round()?;
        Ok(camera)
    }

    fn away(&self, reason: String) -> CameraError {
        CameraError::Away { camera: self.name.clone(), reason }
    }

    fn begin_round(&mut self) -> Result<(), CameraError> {
        let mut files = pictures(&self.config.path).map_err(|reason| self.away(reason))?;
        if files.is_empty() {
            let path = self.config.path.display();
            return Err(self.away(format!("{path}: expected PNG, JPEG, BMP or TIFF pictures, found none")));
        }
        if self.config.order == Order::Shuffled {
            Random::new(self.config.seed, self.round, FOR_ORDER).shuffle(&mut files);
        }
        (self.files, self.taken) = (files, 0);
        self.round += 1;
        Ok(())
    }

    /// Reads the next picture.
    fn read(&mut self) -> Result<(PathBuf, Result<Image, ImageError>), CameraError> {
        if self.taken >= self.files.len() {
            if !self.config.repeat {
                return Err(CameraError::End { camera: self.name.clone() });
            }
            self.begin_round()?;
        }
        let path = self.files[self.taken].clone();
        self.taken += 1;
        let image = Image::read(&path);
        Ok((path, image))
    }

    fn find(&self) -> Result<(), CameraError> {
        if self.config.path.is_dir() {
            return Ok(());
        }
        Err(self.away(format!("{}: expected a folder, it is not there", self.config.path.display())))
    }
}

impl Camera for FolderCamera {
    fn grab(&mut self, timeout: Duration) -> Result<Frame, CameraError> {
        let exposed = self.pace.wait(&self.name, timeout)?;
        self.find()?;
        let (path, image) = match self.ready.take() {
            Some(ready) => ready,
            None => self.read()?,
        };
        let image = image.map_err(|source| CameraError::Image { camera: self.name.clone(), source })?;
        let number = self.given;
        self.given += 1;
        let truth = truth(&path);
        Ok(Frame { image, number, exposed, path: Some(path), truth })
    }

    fn life(&mut self) -> Result<Life, CameraError> {
        self.find().map(|()| Life::Proven)
    }

    fn expose(&mut self, exposure_us: Option<f64>) -> Result<(), CameraError> {
        no_exposure(&self.name, exposure_us)
    }

    fn prepare(&mut self) {
        if self.ready.is_none() {
            // The end, or a loss, comes again and is told at the next grab.
            self.ready = self.read().ok();
        }
    }
}

/// All pictures in a folder and the folders in it, sorted by path.
///
/// Errors: in words, if a folder cannot be read or holds more than a million.
pub(crate) fn pictures(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    list(folder, MAX_DEPTH, &mut files)?;
    files.sort();
    Ok(files)
}

fn list(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            if depth > 0 && path.file_name().is_some_and(|name| name != "ground_truth") {
                list(&path, depth - 1, files)?;
            }
        } else if is_image_path(&path) {
            files.push(path);
        }
        if files.len() > MAX_PICTURES {
            return Err(format!("{}: holds more than {MAX_PICTURES} pictures", folder.display()));
        }
    }
    Ok(())
}

/// The class of a picture in MVTec AD's layout, `…/test/<class>/x.png`.
pub(crate) fn truth(path: &Path) -> Option<String> {
    let class = path.parent()?;
    let name = class.file_name()?.to_str()?;
    // The folder given may be the class itself, by a relative path.
    let absolute = std::path::absolute(class).ok()?;
    (absolute.parent()?.file_name()? == "test").then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::camera::CameraConfig;
    use crate::camera::thread::CameraHandle;

    const SOON: Duration = Duration::from_secs(5);

    fn picture(path: &Path, shade: u8) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        Image::new(4, 3, 1, vec![shade; 12]).unwrap().write_png(path).unwrap();
    }

    fn config(path: &Path, repeat: bool) -> FolderConfig {
        FolderConfig { path: path.into(), order: Order::Name, seed: 1, repeat, rate_hz: None }
    }

    fn names(camera: &mut FolderCamera, count: usize) -> Vec<String> {
        let name = |frame: Frame| frame.path.unwrap().file_stem().unwrap().to_str().unwrap().to_owned();
        (0..count).map(|_| name(camera.grab(SOON).unwrap())).collect()
    }

    #[test]
    fn once_shows_each_picture_in_order_and_then_ends() {
        let dir = tempfile::tempdir().unwrap();
        for (i, name) in ["b/2.png", "a/1.png", "c.png"].iter().enumerate() {
            picture(&dir.path().join(name), i as u8);
        }
        std::fs::write(dir.path().join("notes.txt"), "no picture").unwrap();
        let mut camera = FolderCamera::open("v", &config(dir.path(), false)).unwrap();
        camera.prepare();
        assert_eq!(names(&mut camera, 3), ["1", "2", "c"]);
        for _ in 0..2 {
            camera.prepare();
            assert!(matches!(camera.grab(SOON), Err(CameraError::End { .. })));
        }
    }

    #[test]
    fn for_ever_begins_again_with_what_is_there_then() {
        let dir = tempfile::tempdir().unwrap();
        picture(&dir.path().join("1.png"), 1);
        let mut camera = FolderCamera::open("v", &config(dir.path(), true)).unwrap();
        assert_eq!(names(&mut camera, 2), ["1", "1"]);
        picture(&dir.path().join("2.png"), 2);
        assert_eq!(names(&mut camera, 4), ["1", "2", "1", "2"]);
    }

    #[test]
    fn shuffled_shows_each_picture_once_a_round_in_an_order_of_the_seed() {
        let dir = tempfile::tempdir().unwrap();
        (0..20).for_each(|i| picture(&dir.path().join(format!("{i:02}.png")), i));
        let shuffled = FolderConfig { order: Order::Shuffled, ..config(dir.path(), true) };
        let mut rounds = Vec::new();
        for seed in [1, 1, 2] {
            let config = FolderConfig { seed, ..shuffled.clone() };
            rounds.push(names(&mut FolderCamera::open("v", &config).unwrap(), 20));
        }
        assert_eq!(rounds[0], rounds[1]);
        assert_ne!(rounds[0], rounds[2]);
        rounds[0].sort();
        assert_eq!(rounds[0], (0..20).map(|i| format!("{i:02}")).collect::<Vec<_>>());
    }

    #[test]
    fn an_unreadable_picture_is_named_and_the_next_one_comes() {
        let dir = tempfile::tempdir().unwrap();
        picture(&dir.path().join("1.png"), 1);
        std::fs::write(dir.path().join("2.png"), b"not a picture").unwrap();
        picture(&dir.path().join("3.png"), 3);
        let mut camera = FolderCamera::open("v", &config(dir.path(), false)).unwrap();
        assert_eq!(camera.grab(SOON).unwrap().number, 0);
        camera.prepare();
        let error = camera.grab(SOON).unwrap_err();
        assert!(matches!(error, CameraError::Image { .. }) && error.to_string().contains("2.png"), "{error}");
        assert_eq!(camera.grab(SOON).unwrap().image.data()[0], 3);
    }

    #[test]
    fn truth_is_the_class_folder_under_test_and_nothing_else() {
        let truth = |path: &str| truth(Path::new(path));
        assert_eq!(truth("/d/bottle/test/broken_large/000.png").as_deref(), Some("broken_large"));
        assert_eq!(truth("/d/bottle/test/good/000.png").as_deref(), Some("good"));
        assert_eq!(truth("/d/bottle/train/good/000.png"), None);
        assert_eq!(truth("/d/test/000.png"), None);
    }

    #[test]
    fn masks_are_no_parts() {
        let dir = tempfile::tempdir().unwrap();
        picture(&dir.path().join("test/scratch/1.png"), 1);
        picture(&dir.path().join("ground_truth/scratch/1_mask.png"), 255);
        let mut camera = FolderCamera::open("v", &config(dir.path(), false)).unwrap();
        assert_eq!(camera.grab(SOON).unwrap().truth.as_deref(), Some("scratch"));
        assert!(matches!(camera.grab(SOON), Err(CameraError::End { .. })));
    }

    #[test]
    fn a_folder_that_is_missing_or_empty_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let gone = config(&dir.path().join("gone"), true);
        assert_eq!(gone.check().len(), 1);
        let missing = FolderCamera::open("v", &gone).err().unwrap().to_string();
        assert!(missing.contains("gone"), "{missing}");
        let empty = FolderCamera::open("v", &config(dir.path(), true)).err().unwrap().to_string();
        assert!(empty.contains("found none"), "{empty}");
    }

    #[tokio::test]
    async fn a_folder_that_goes_and_comes_back_heals_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let (here, gone) = (dir.path().join("here"), dir.path().join("gone"));
        picture(&here.join("1.png"), 1);
        let handle = CameraHandle::spawn("v", CameraConfig::Folder(config(&here, true))).unwrap();
        let mut watch = handle.watch();
        let up = |a: &crate::camera::calls::Availability| *a == crate::camera::calls::Availability::Up;
        let soon = || tokio::time::Instant::now() + SOON;
        watch.wait_for(up).await.unwrap();
        assert!(handle.grab(soon()).await.is_ok());
        std::fs::rename(&here, &gone).unwrap();
        assert!(matches!(handle.grab(soon()).await, Err(CameraError::Away { .. })));
        assert!(handle.is_away());
        std::fs::rename(&gone, &here).unwrap();
        tokio::time::timeout(SOON, watch.wait_for(up)).await.unwrap().unwrap();
        assert!(handle.grab(soon()).await.is_ok());
    }
}
