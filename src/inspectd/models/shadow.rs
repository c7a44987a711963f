//! The shadow run: a new model and the present one score the frames that the archive kept, the way the station does.
//!
//! Terms. A *changed* verdict: the present model's and the new one's differ for a view of a part. Scores are divided by
//! the reject threshold of their model: 1.00 is the limit. A frame that was kept as JPEG counts, and is told: both
//! models see the same picture, but not quite the one that was judged.
//!
//! Never here: the line; an opinion which of the two is right; a change to the archive.

use std::path::{Path, PathBuf};

use inspect_core::card::Thresholds;
use inspect_core::file;
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
/// Most records that are looked at for the frames of a view: of a rare recipe the archive may hold few among very many.
pub const LOOKED_AT: usize = 20_000;
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

/// What was found of a view.
#[derive(Debug, Default)]
pub struct Found {
    /// The newest first.
    pub frames: Vec<Tried>,
    /// Whether the search ended at [`LOOKED_AT`] records, with fewer frames than wanted.
    pub cut_short: bool,
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
    /// Of these, with something to compare with: the present model's verdict, or the line's where it was this view's.
    pub compared: u64,
    /// Of those tried, JPEG.
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

/// One of those who look from the place, in a shadow run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ViewTotals {
    /// Station, view and recipe.
    pub view: String,
    /// Its frames that were tried.
    pub frames: u64,
    /// Of these, with something to compare with.
    pub compared: u64,
    /// See [`Found::cut_short`].
    pub cut_short: bool,
}

/// A shadow run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Shadow {
    /// The sum.
    pub totals: Totals,
    /// Each view that looks from the place; none: there was no run.
    pub views: Vec<ViewTotals>,
    /// Each frame.
    pub frames: Vec<Compared>,
}

impl Shadow {
    /// Why somebody has to agree; none where frames of every view were compared and no verdict changed.
    pub fn doubt(&self) -> Option<String> {
        if self.views.iter().all(|view| view.frames == 0) {
            return Some("there was no archived frame to try it on".to_owned());
        }
        let doubt = |view: &ViewTotals| match view {
            ViewTotals { frames: 0, view, .. } => Some(format!("there was no archived frame of {view}")),
            ViewTotals { compared: 0, view, .. } => Some(format!("no verdict of {view} could be compared")),
            _ => None,
        };
        let changed = self.totals.changed;
        let changed = (changed > 0).then(|| format!("{changed} verdicts change"));
        let doubts: Vec<String> = changed.into_iter().chain(self.views.iter().filter_map(doubt)).collect();
        (!doubts.is_empty()).then(|| doubts.join("; "))
    }
}

/// The newest frames of a view in the archive at `root`, at most `most`, the newest first; of a recipe, those of parts that
/// it judged. What cannot be read is left out.
pub fn newest(root: &Path, user: &User, most: usize) -> Found {
    newest_among(root, user, most, LOOKED_AT)
}

fn newest_among(root: &Path, user: &User, most: usize, mut looks: usize) -> Found {
    let mut found = Found::default();
    let station = plain(&user.station);
    for day in folders(&root.join(&station)) {
        for thousand in folders(&day) {
            for json in records(&day, &thousand) {
                if found.frames.len() >= most {
                    return found;
                }
                if looks == 0 {
                    found.cut_short = true;
                    return found;
                }
                looks -= 1;
                found.frames.extend(tried(root, user, &json));
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
    let record: Inspection = serde_json::from_str(&file::read_text(json, MAX_RECORD_BYTES).ok()?).ok()?;
    // What the record says is anybody's who may write there.
    let same_station = record.station == user.station;
    let same_recipe = record.recipe.as_ref().map(|recipe| recipe.number) == user.recipe;
    let frame = frame_path(root, &record, &user.view)?;
    (same_station && same_recipe).then_some(Tried { path: frame.path, lossless: frame.lossless, record })
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
    found: Found,
    new: &mut Proven,
    present: Option<&mut Proven>,
    shadow: &mut Shadow,
    each: &mut dyn FnMut(u64),
) {
    let Found { frames, cut_short } = found;
    let mut view = ViewTotals { view: user.to_string(), frames: 0, compared: 0, cut_short };
    let Some(mut new) = Side::new(new, user) else {
        shadow.views.push(view);
        return;
    };
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
        view.frames += 1;
        totals.compared += u64::from(was.is_some());
        view.compared += u64::from(was.is_some());
        totals.lossy += u64::from(!lossless);
        totals.changed += u64::from(changed);
        totals.pass_lost += u64::from(changed && was == Some("pass"));
        totals.pass_gained += u64::from(changed && now.verdict == "pass");
        shadow.frames.push(Compared {
            station: user.station.clone(),
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
    shadow.views.push(view);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Gate, RECORD_SCHEMA, Times, Trigger, TriggerSource};
    use crate::thresholds::ThresholdConfig;

    fn user() -> User {
        let (station, view, thresholds) = ("s1".to_owned(), "top".to_owned(), ThresholdConfig::default());
        User { station, view, recipe: None, roi: None, thresholds, views: 1, frame_px: None }
    }

    /// A part in the archive's folder of station s1, whose record says this of its station.
    fn keep(root: &Path, station: &str, part: u64) {
        let record = Inspection {
            schema: RECORD_SCHEMA,
            station: station.into(),
            part,
            trigger: Trigger::new(TriggerSource::Clock, jiff::Timestamp::now()),
            recipe: None,
            views: Vec::new(),
            verdict: Verdict::Reject,
            reason: None,
            gate: Gate::Reject,
            review_at_gate: Gate::Reject,
            simulated: true,
            truth: None,
            times_us: Times::default(),
        };
        let name = PartName::of(&record);
        for of in ["s1", station] {
            let folder = root.join(name.folder(of));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(name.file("top", Kind::Png)), "a frame").unwrap();
        }
        let json = serde_json::to_vec(&record).unwrap();
        std::fs::write(root.join(name.folder("s1")).join(name.file("", Kind::Record)), json).unwrap();
    }

    #[test]
    fn the_newest_are_found_and_the_search_has_an_end() {
        let root = tempfile::tempdir().unwrap();
        (1..=9).for_each(|part| keep(root.path(), "s1", part));
        let parts = |found: &Found| found.frames.iter().map(|tried| tried.record.part).collect::<Vec<_>>();
        let found = newest(root.path(), &user(), 3);
        assert_eq!((parts(&found), found.cut_short), (vec![9, 8, 7], false));
        let found = newest(root.path(), &user(), 99);
        assert_eq!((found.frames.len(), found.cut_short), (9, false));
        let rare = User { recipe: Some(7), ..user() };
        let found = newest_among(root.path(), &rare, 3, 5);
        assert_eq!((found.frames.len(), found.cut_short), (0, true));
        let view = ViewTotals { view: rare.to_string(), frames: 0, compared: 0, cut_short: true };
        let text = super::super::report::text(&Shadow { views: vec![view], ..Shadow::default() });
        assert!(text.contains("recipe 7: looked at the newest 20000 records"), "{text}");
    }

    #[test]
    fn a_record_that_says_it_is_another_stations_is_left_out() {
        let root = tempfile::tempdir().unwrap();
        keep(root.path(), "s1", 1);
        keep(root.path(), "../s2", 2);
        let found = newest(root.path(), &user(), 9);
        assert_eq!(found.frames.iter().map(|tried| tried.record.part).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn whoever_was_not_compared_has_to_be_agreed_to() {
        let doubt = |views: &[(u64, u64)], changed| {
            let view = |(n, (frames, compared)): (usize, &(u64, u64))| ViewTotals {
                view: format!("view {n}"),
                frames: *frames,
                compared: *compared,
                cut_short: false,
            };
            let views = views.iter().enumerate().map(view).collect();
            let totals = Totals { changed, ..Totals::default() };
            Shadow { totals, views, frames: Vec::new() }.doubt()
        };
        assert_eq!(doubt(&[(5, 5), (1, 1)], 0), None);
        assert!(doubt(&[], 0).unwrap().contains("no archived frame"));
        assert!(doubt(&[(0, 0), (0, 0)], 0).unwrap().contains("no archived frame to try"));
        assert_eq!(doubt(&[(5, 5), (0, 0)], 0).unwrap(), "there was no archived frame of view 1");
        assert_eq!(doubt(&[(5, 0), (5, 5)], 0).unwrap(), "no verdict of view 0 could be compared");
        let both = doubt(&[(5, 4), (5, 0)], 3).unwrap();
        assert!(both.contains("3 verdicts change") && both.contains("view 1"), "{both}");
    }
}
