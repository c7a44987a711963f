//! A labelled set of simulated parts on disk, for what learns from labels and has to be judged against a truth.
//!
//! MVTec AD's layout, with what is known of each picture beside it:
//!
//! ```text
//! DIR/train/good/000000.png               four of five good parts
//! DIR/test/good/000004.png                each fifth
//! DIR/test/CLASS/000000.png               parts with a defect
//! DIR/ground_truth/CLASS/000000_mask.png  where it is
//! DIR/twin/CLASS/000000.png               the same part without it
//! DIR/manifest.csv                        file, mask, part, caption, and a column for each process parameter
//! DIR/simulated.toml                      the settings of which all of it follows
//! ```
//!
//! An empty cell of the manifest says that nothing is known or seen: the caption of a good part, the process of
//! a good part where it acts on defects alone. A set that was stopped goes on where it ended, and is then the
//! same as one in a go; a larger one begins with the smaller one.
//!
//! Never here: how parts look (see [`crate::camera::labelled`]); a picture without its mask and twin, or overwritten.

use std::fs::File;
use std::path::{Path, PathBuf};

use inspect_core::image::ImageError;

use crate::camera::labelled::{Label, LabelledConfig, LabelledParts};
use crate::camera::process::PARAMETERS;
use crate::progress::Progress;

/// One of so many good parts goes to the test split.
const GOODS_A_TEST: u64 = 5;
/// The settings' file.
const SETTINGS: &str = "simulated.toml";

/// Why there is no labelled set.
#[derive(Debug, thiserror::Error)]
pub enum LabelledError {
    /// Settings that cannot work.
    #[error("{}", .0.join("; "))]
    Settings(Vec<String>),
    /// Too few good parts for both splits.
    #[error("{got} good parts: expected at least {GOODS_A_TEST}, of which one goes to test/good")]
    Goods {
        /// Good parts that were wanted.
        got: u64,
    },
    /// The folder holds something already.
    #[error("{out} is not empty: give --resume to go on where it ends, or another folder")]
    NotEmpty {
        /// The folder.
        out: PathBuf,
    },
    /// The folder holds no labelled set, or one of other settings.
    #[error(
        "{out}: its {SETTINGS} is not there or says other settings; give the same ones, or another folder"
    )]
    Other {
        /// The folder.
        out: PathBuf,
    },
    /// A defect that changes no pixel.
    #[error(
        "the {class} of {file} cannot be seen at this size of the picture: expected more pixels (--px) or another --seed"
    )]
    Unseen {
        /// Its picture.
        file: String,
        /// Its class.
        class: &'static str,
    },
    /// A folder or file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The manifest cannot be written.
    #[error("{path}: {source}")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What went wrong.
        source: csv::Error,
    },
    /// A picture cannot be made or written.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// One part of the set.
#[derive(Debug, Clone, Copy)]
struct Place {
    good: bool,
    index: u64,
}

impl Place {
    fn all(goods: u64, defects: u64) -> impl Iterator<Item = Self> {
        let series = |good, count| (0..count).map(move |index| Self { good, index });
        series(true, goods).chain(series(false, defects))
    }

    /// Its picture, below the set's folder.
    fn file(self, label: &Label) -> String {
        let train = self.good && self.index % GOODS_A_TEST != GOODS_A_TEST - 1;
        format!("{}/{}/{:06}.png", if train { "train" } else { "test" }, label.class, self.index)
    }

    /// The picture of its twin, below the set's folder; for a part with a defect.
    fn twin(self, label: &Label) -> String {
        format!("twin/{}/{:06}.png", label.class, self.index)
    }

    /// Its mask, below the set's folder; empty for a good part.
    fn mask(self, label: &Label) -> String {
        if self.good {
            return String::new();
        }
        format!("ground_truth/{}/{:06}_mask.png", label.class, self.index)
    }

    fn row(self, label: &Label) -> Vec<String> {
        let part = LabelledParts::number(self.good, self.index);
        let mut row = vec![self.file(label), self.mask(label), format!("{part:06}"), label.caption.clone()];
        match label.process {
            Some(values) => row.extend(values.map(|value| value.to_string())),
            None => row.extend(PARAMETERS.map(|_| String::new())),
        }
        row
    }
}

/// Writes a set of `goods` good parts and `defects` with a defect into `out`; with `resume`, what is there of it
/// stays. Gives the number of pictures that were written.
///
/// Errors: [`LabelledError`]; pictures written before it stay, each with its mask and twin.
pub fn write(
    config: &LabelledConfig,
    goods: u64,
    defects: u64,
    out: &Path,
    resume: bool,
) -> Result<u64, LabelledError> {
    let parts = LabelledParts::new(config).map_err(LabelledError::Settings)?;
    if goods < GOODS_A_TEST {
        return Err(LabelledError::Goods { got: goods });
    }
    settle(config, out, resume)?;
    let mut set = Set { parts, out, manifest: out.join("manifest.csv") };
    let there = |place: &Place| out.join(place.file(&set.parts.label(place.good, place.index))).exists();
    let (done, left): (Vec<Place>, Vec<Place>) = Place::all(goods, defects).partition(there);
    set.list(&done)?;
    set.write(done.len() as u64, &left)?;
    Ok(left.len() as u64)
}

/// Makes the folder one of these settings, or sees that it is.
fn settle(config: &LabelledConfig, out: &Path, resume: bool) -> Result<(), LabelledError> {
    let io = |source| LabelledError::Io { path: out.to_owned(), source };
    std::fs::create_dir_all(out).map_err(io)?;
    let settings = toml::to_string(config).map_err(|e| LabelledError::Settings(vec![e.to_string()]))?;
    let file = out.join(SETTINGS);
    if std::fs::read_dir(out).map_err(io)?.next().is_none() {
        return std::fs::write(&file, settings).map_err(|source| LabelledError::Io { path: file, source });
    }
    if !resume {
        return Err(LabelledError::NotEmpty { out: out.to_owned() });
    }
    match std::fs::read_to_string(&file) {
        Ok(there) if there == settings => Ok(()),
        _ => Err(LabelledError::Other { out: out.to_owned() }),
    }
}

struct Set<'a> {
    parts: LabelledParts,
    out: &'a Path,
    manifest: PathBuf,
}

impl Set<'_> {
    fn io(&self, source: std::io::Error) -> LabelledError {
        LabelledError::Io { path: self.manifest.clone(), source }
    }

    fn csv(&self, source: csv::Error) -> LabelledError {
        LabelledError::Manifest { path: self.manifest.clone(), source }
    }

    /// Writes the manifest anew, of the parts that are there.
    fn list(&self, done: &[Place]) -> Result<(), LabelledError> {
        let part = self.manifest.with_extension("csv.part");
        let mut rows = csv::Writer::from_path(&part).map_err(|e| self.csv(e))?;
        let header = ["file", "mask", "part", "caption"].into_iter().chain(PARAMETERS);
        rows.write_record(header).map_err(|e| self.csv(e))?;
        for place in done {
            let label = self.parts.label(place.good, place.index);
            rows.write_record(place.row(&label)).map_err(|e| self.csv(e))?;
        }
        rows.flush().map_err(|e| self.io(e))?;
        std::fs::rename(&part, &self.manifest).map_err(|e| self.io(e))
    }

    fn write(&mut self, done: u64, left: &[Place]) -> Result<(), LabelledError> {
        let file = File::options().append(true).open(&self.manifest).map_err(|e| self.io(e))?;
        let mut rows = csv::Writer::from_writer(file);
        let mut progress = Progress::new(done + left.len() as u64, "pictures");
        for (place, written) in left.iter().zip(done + 1..) {
            let part = self.parts.part(place.good, place.index)?;
            if let Some(mask) = &part.mask {
                if mask.data().iter().all(|level| *level == 0) {
                    let (file, class) = (place.file(&part.label), part.label.class);
                    return Err(LabelledError::Unseen { file, class });
                }
                mask.write_png(&self.path(&place.mask(&part.label))?)?;
            }
            if let Some(twin) = &part.twin {
                twin.write_png(&self.path(&place.twin(&part.label))?)?;
            }
            part.image.write_png(&self.path(&place.file(&part.label))?)?;
            rows.write_record(place.row(&part.label)).map_err(|e| self.csv(e))?;
            rows.flush().map_err(|e| self.io(e))?;
            progress.show(written);
        }
        progress.end(done + left.len() as u64);
        Ok(())
    }

    /// A file of the set, its folder made.
    fn path(&self, file: &str) -> Result<PathBuf, LabelledError> {
        let path = self.out.join(file);
        let folder = path.parent().unwrap_or(self.out);
        std::fs::create_dir_all(folder)
            .map_err(|source| LabelledError::Io { path: folder.to_owned(), source })?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::camera::defect::Kind;
    use crate::camera::labelled::Masks;
    use crate::camera::process::{ActsOn, ProcessConfig};
    use crate::camera::simulated::SimulatedConfig;
    use inspect_core::image::Image;

    fn config(acts_on: ActsOn) -> LabelledConfig {
        let process = Some(ProcessConfig { acts_on, ..ProcessConfig::default() });
        let camera = SimulatedConfig { width: 96, height: 96, process, ..SimulatedConfig::default() };
        LabelledConfig { masks: Masks::Exact, classes: Kind::ALL.into(), camera }
    }

    /// File → its row by column.
    fn manifest(out: &Path) -> BTreeMap<String, BTreeMap<String, String>> {
        let mut reader = csv::Reader::from_path(out.join("manifest.csv")).unwrap();
        let rows = reader.deserialize::<BTreeMap<String, String>>().map(Result::unwrap);
        rows.map(|row| (row["file"].clone(), row)).collect()
    }

    #[test]
    fn a_set_has_the_layout_and_says_of_each_picture_what_is_known() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(write(&config(ActsOn::Defect), 10, 12, dir.path(), false).unwrap(), 22);
        let rows = manifest(dir.path());
        assert_eq!(rows.len(), 22);
        for (file, row) in &rows {
            let picture = Image::read(&dir.path().join(file)).unwrap();
            assert_eq!((picture.width(), picture.height(), picture.channels()), (96, 96, 1));
            let class = file.split('/').nth(1).unwrap();
            assert_eq!(class == "good", row["mask"].is_empty(), "{file}");
            assert_eq!(class == "good", row["wear"].is_empty(), "{file}");
            if class == "good" {
                assert_eq!(row["caption"], "");
                continue;
            }
            assert!(row["caption"].contains(&class.replace('_', " ")), "{row:?}");
            assert!((0.1..=0.4).contains(&row["feed_mm"].parse::<f64>().unwrap()), "{row:?}");
            assert_eq!(
                row["mask"],
                format!("ground_truth/{class}/{}_mask.png", &file[file.len() - 10..][..6])
            );
            let mask = Image::read(&dir.path().join(&row["mask"])).unwrap();
            assert!(mask.data().iter().all(|v| [0, 255].contains(v)) && mask.data().contains(&255), "{file}");
            let twin = Image::read(&dir.path().join(file.replacen("test", "twin", 1))).unwrap();
            let differs = picture.data().iter().zip(twin.data()).map(|(a, b)| a != b);
            assert!(differs.eq(mask.data().iter().map(|v| *v == 255)), "{file}");
        }
        let count = |below: &str| rows.keys().filter(|file| file.starts_with(below)).count();
        assert_eq!((count("train/good/"), count("test/good/"), count("test/burr/")), (8, 2, 2));
        let parts: std::collections::BTreeSet<_> = rows.values().map(|row| &row["part"]).collect();
        assert_eq!(parts.len(), 22, "no good part is the twin of one with a defect");
    }

    #[test]
    fn a_set_that_was_stopped_or_grows_is_the_same_as_one_in_a_go() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, halves) = (dir.path().join("whole"), dir.path().join("halves"));
        let config = config(ActsOn::Part);
        write(&config, 8, 9, &whole, false).unwrap();
        write(&config, 5, 2, &halves, false).unwrap();
        // Stopped after a picture, before its row.
        let text = std::fs::read_to_string(halves.join("manifest.csv")).unwrap();
        let cut = text.trim_end().rfind('\n').unwrap();
        std::fs::write(halves.join("manifest.csv"), &text[..cut + 4]).unwrap();
        assert_eq!(write(&config, 8, 9, &halves, true).unwrap(), 10);
        assert_eq!(manifest(&whole), manifest(&halves));
        for file in manifest(&whole).values().flat_map(|row| [&row["file"], &row["mask"]]) {
            assert!(
                file.is_empty()
                    || std::fs::read(whole.join(file)).unwrap() == std::fs::read(halves.join(file)).unwrap()
            );
        }
        assert!(manifest(&whole).values().all(|row| !row["wear"].is_empty()), "goods show the process too");
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (config, out) = (config(ActsOn::Defect), dir.path().join("set"));
        assert!(matches!(write(&config, 4, 2, &out, false), Err(LabelledError::Goods { got: 4 })));
        write(&config, 5, 1, &out, false).unwrap();
        assert!(matches!(write(&config, 5, 1, &out, false), Err(LabelledError::NotEmpty { .. })));
        let mut other = config.clone();
        other.camera.seed = 9;
        assert!(matches!(write(&other, 5, 1, &out, true), Err(LabelledError::Other { .. })));
        other.camera.process.as_mut().unwrap().wear = Some(7.0);
        (other.camera.width, other.classes) = (48, Vec::new());
        let error = write(&other, 5, 1, &out, true).unwrap_err().to_string();
        assert!(["wear = 7", "48x96", "no class"].iter().all(|words| error.contains(words)), "{error}");
    }
}
