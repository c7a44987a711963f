//! The shadow run: a new model and the present one score the frames that the archive kept, the way the station does.
//!
//! Terms. A *changed* verdict: the present model's and the new one's differ for a view of a part. Scores are divided by
//! the reject threshold of their model: 1.00 is the limit. A frame that was kept as JPEG counts, and is told: both
//! models see the same picture, but not quite the one that was judged.
//!
//! Never here: the line; an opinion which of the two is right; a change to the archive.

use std::path::{Path, PathBuf};

use inspect_core::card::Thresholds;
use inspect_core::image::Image;
use inspect_core::resize::Resizer;
use inspect_core::scorer::{OnnxScorer, Scorer as _};
use inspect_core::verdict::{FaultCode, Verdict, judge};
use serde::Serialize;

use super::gate::Proven;
use super::place::User;
use crate::archive::frame_path;
use crate::archive::name::{Kind, PartName, plain};
use crate::record::Inspection;

/// Frames of each view that are tried, where nobody says otherwise.
pub const FRAMES: usize = 200;
/// Largest record that is read, bytes.
const MAX_RECORD_BYTES: u64 = 1 << 20;

/// A frame to try.
#[derive(Debug, Clone)]
pub struct Tried {
    /// Where it lies.
    pub path: PathBuf,
    /// Whether it is the frame pixel by pixel.
    pub lossless: bool,
    /// The part's record.
    pub record: Inspection,
}

/// What a model says of a frame.
#[derive(Debug, Clone, Serialize)]
pub struct Said {
    /// Verdict by this view alone: pass, review, reject, fault.
    pub verdict: &'static str,
    /// Score over the reject threshold; none of a fault.
    pub score: Option<f32>,
    /// The anomaly map, for the report; empty where the verdict is the other model's too.
    #[serde(skip)]
    pub map: Vec<f32>,
    /// The value of the map that is the limit.
    #[serde(skip)]
    pub limit: f32,
}

/// One frame by both models.
#[derive(Debug, Clone, Serialize)]
pub struct Compared {
    /// The view's station.
    pub station: String,
    /// The view.
    pub view: String,
    /// The recipe that it was tried under.
    pub recipe: Option<u16>,
    /// The part.
    pub part: u64,
    /// What it really is, where somebody knows.
    pub truth: Option<String>,
    /// The frame.
    pub picture: PathBuf,
    /// The part's verdict on the line, then.
    pub then: &'static str,
    /// The present model; none where there is none that works.
    pub present: Option<Said>,
    /// The new one.
    pub new: Said,
    /// Whether the verdicts differ.
    pub changed: bool,
}

/// The sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Frames tried.
    pub frames: u64,
    /// Of these, JPEG.
    pub lossy: u64,
    /// Frames that could not be read.
    pub unreadable: u64,
    /// Changed verdicts, or, where there is no present model, those that differ from the line's.
    pub changed: u64,
    /// Of these, from pass to another.
    pub pass_lost: u64,
    /// Of these, from another to pass.
    pub pass_gained: u64,
}

/// A shadow run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Shadow {
    /// The sum.
    pub totals: Totals,
    /// Each frame.
    pub frames: Vec<Compared>,
}

/// The newest frames of a view in the archive at `root`, at most `most`, the newest first; of a recipe, those of parts that
/// it judged. What cannot be read is left out.
pub fn newest(root: &Path, user: &User, most: usize) -> Vec<Tried> {
    let mut found = Vec::new();
    let station = plain(&user.station);
    for day in folders(&root.join(&station)) {
        for thousand in folders(&day) {
            for json in records(&day, &thousand) {
                if found.len() >= most {
                    return found;
                }
                found.extend(tried(root, user, &json));
            }
        }
    }
    found
}

/// Folders below, the last by name first: days and thousands have names of one length.
fn folders(below: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(below).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> =
        entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect();
    folders.sort_by(|a, b| b.cmp(a));
    folders
}

/// Records in a folder, the highest part number first.
fn records(day: &Path, folder: &Path) -> Vec<PathBuf> {
    let day = day.file_name().and_then(|day| day.to_str()?.parse().ok());
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let part = |path: PathBuf| {
        let (name, _, kind) = PartName::parse(day?, path.file_name()?.to_str()?)?;
        (kind == Kind::Record).then_some((name.part, path.clone()))
    };
    let mut found: Vec<(u64, PathBuf)> = entries.filter_map(|e| part(e.path())).collect();
    found.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    found.into_iter().map(|(_, path)| path).collect()
}

fn tried(root: &Path, user: &User, json: &Path) -> Option<Tried> {
    if std::fs::metadata(json).ok()?.len() > MAX_RECORD_BYTES {
        return None;
    }
    let record: Inspection = serde_json::from_str(&std::fs::read_to_string(json).ok()?).ok()?;
    let same_recipe = record.recipe.as_ref().map(|recipe| recipe.number) == user.recipe;
    let frame = frame_path(root, &record, &user.view)?;
    same_recipe.then_some(Tried { path: frame.path, lossless: frame.lossless, record })
}

/// A model ready for a view.
struct Side<'a> {
    proven: &'a mut Proven,
    thresholds: Thresholds,
    resizer: Resizer,
    input: Vec<u8>,
}

impl<'a> Side<'a> {
    fn new(proven: &'a mut Proven, user: &User) -> Option<Self> {
        let card = &proven.file.card;
        let thresholds = user.thresholds.under(card, user.views).ok()?.0;
        let input = vec![0; card.input.bytes()];
        Some(Self { thresholds, resizer: Resizer::default(), input, proven })
    }

    fn say(&mut self, image: &Image, user: &User) -> Said {
        let mut map = Vec::new();
        let card = &self.proven.file.card;
        let roi = user.roi.or(card.preprocessing.roi);
        let fitted = self.resizer.run(image, roi, card.input, &mut self.input);
        let scorer: &mut OnnxScorer = &mut self.proven.scorer;
        let outcome = fitted
            .map_err(|_| FaultCode::BadFrame)
            .and_then(|()| scorer.score(&self.input, &mut map).map_err(|_| FaultCode::ScorerError));
        let verdict = judge(1, &[outcome.map(|score| (score, self.thresholds))]);
        let score = outcome.ok().filter(|s| s.is_finite()).map(|s| s / self.thresholds.reject);
        Said { verdict: verdict.word(), score, map, limit: self.thresholds.reject }
    }
}

/// Scores frames of a view with both models; `each` is told how many are done.
pub fn compare(
    user: &User,
    frames: Vec<Tried>,
    new: &mut Proven,
    present: Option<&mut Proven>,
    shadow: &mut Shadow,
    each: &mut dyn FnMut(u64),
) {
    let Some(mut new) = Side::new(new, user) else { return };
    let mut present = present.and_then(|present| Side::new(present, user));
    for Tried { path, lossless, record } in frames {
        let Ok(image) = Image::read(&path) else {
            shadow.totals.unreadable += 1;
            continue;
        };
        let mut now = new.say(&image, user);
        let mut before = present.as_mut().map(|present| present.say(&image, user));
        let then = record.verdict.word();
        // On a line of several views the part's verdict may be another view's.
        let alone = record.views.len() == 1 && !matches!(record.verdict, Verdict::Fault(_));
        let was = before.as_ref().map(|said| said.verdict).or(alone.then_some(then));
        let changed = was.is_some_and(|was| was != now.verdict);
        if !changed {
            // Nobody looks at them, and hundreds take memory.
            now.map = Vec::new();
            before.iter_mut().for_each(|said| said.map = Vec::new());
        }
        let totals = &mut shadow.totals;
        totals.frames += 1;
        totals.lossy += u64::from(!lossless);
        totals.changed += u64::from(changed);
        totals.pass_lost += u64::from(changed && was == Some("pass"));
        totals.pass_gained += u64::from(changed && now.verdict == "pass");
        shadow.frames.push(Compared {
            station: record.station,
            view: user.view.clone(),
            recipe: user.recipe,
            part: record.part,
            truth: record.truth,
            picture: path,
            then,
            present: before,
            new: now,
            changed,
        });
        each(totals.frames);
    }
}
