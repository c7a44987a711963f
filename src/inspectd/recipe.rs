//! Recipes: what a station does for one product, a TOML file each, chosen by number from the PLC.
//!
//! They are read when they are asked for, so that a new one needs no restart.
//!
//! Never here: loading models, cameras, bringing a recipe into service ([`crate::station::changeover`]).

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use inspect_core::file;
use inspect_core::image::Roi;
use inspect_core::model::{ModelFile, sha256};
use serde::{Deserialize, Serialize};

use crate::camera::aravis::config::MAX_EXPOSURE_US;
use crate::gate::{GateConfig, MIN_DEADLINE_MS};
use crate::thresholds::ThresholdConfig;

/// Most recipes in a folder.
pub const MAX_RECIPES: usize = 1000;
/// Largest recipe file, bytes.
pub const MAX_RECIPE_BYTES: u64 = 64 * 1024;

/// Why a recipe cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The folder cannot be read.
    #[error("recipes {path}: {source}; expected a folder with a .toml file for each recipe")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No file has this number.
    #[error("{path}: no recipe has the number {number}; expected a .toml file with `number = {number}`")]
    NoSuch {
        /// The folder.
        path: PathBuf,
        /// The number.
        number: u16,
    },
    /// A file is wrong.
    #[error("recipe {path}: {reason}")]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was expected.
        reason: String,
    },
}

/// What a station does for one product.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What the PLC asks for, 1 to 65535.
    pub number: u16,
    /// For people.
    pub name: String,
    /// In place of the station's deadline.
    pub deadline_ms: Option<u64>,
    /// The station's views that look at this product, and how.
    #[serde(rename = "view")]
    pub views: Vec<RecipeView>,
    /// SHA-256 of the file.
    #[serde(skip)]
    pub sha256: String,
}

/// How one view looks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeView {
    /// Name of the station's view, whose camera looks.
    pub name: String,
    /// Model file, relative to the recipe's folder.
    pub model: PathBuf,
    /// Part of the frame that is judged; absent: the one on the model's card, else the whole.
    pub roi: Option<Roi>,
    /// Exposure time of the camera; absent: as it is configured.
    pub exposure_us: Option<f64>,
    /// Tighter thresholds than the card's.
    #[serde(default)]
    pub thresholds: ThresholdConfig,
}

/// What a station allows its recipes.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Its views.
    pub views: Vec<ViewBounds>,
    /// The way to its gate.
    pub gate: GateConfig,
    /// From trigger to result, where a recipe says nothing else.
    pub deadline_ms: u64,
    /// Time between parts, where it is known.
    pub period_ms: Option<u64>,
}

/// What one view allows.
#[derive(Debug, Clone)]
pub struct ViewBounds {
    /// Its name.
    pub name: String,
    /// Whether its camera's exposure can be set.
    pub has_exposure: bool,
}

impl Recipe {
    /// Everything that is wrong with it under a station, but for its model files.
    fn problems(&self, bounds: &Bounds) -> Vec<String> {
        let mut problems = Vec::new();
        if self.number == 0 {
            problems.push("number: expected 1 to 65535; 0 means no recipe".to_owned());
        }
        let GateConfig { time_to_gate_ms, plc_poll_ms, plc_scan_ms } = bounds.gate;
        let way_ms = time_to_gate_ms.saturating_sub(plc_poll_ms).saturating_sub(plc_scan_ms);
        let most = way_ms.min(bounds.period_ms.unwrap_or(way_ms));
        if let Some(ms) = self.deadline_ms.filter(|ms| !(MIN_DEADLINE_MS..=most).contains(ms)) {
            problems.push(format!(
                "deadline_ms: expected {MIN_DEADLINE_MS} to {most}, what the way to the gate and the next part leave, got {ms}"
            ));
        }
        if self.views.is_empty() {
            problems.push("view: expected at least one of the station's views".to_owned());
        }
        let mut names = HashSet::new();
        for view in &self.views {
            let own = bounds.views.iter().find(|v| v.name == view.name);
            if own.is_none() || !names.insert(&view.name) {
                let known: Vec<_> = bounds.views.iter().map(|v| v.name.as_str()).collect();
                let known = known.join(", ");
                problems.push(format!("view `{}`: expected one of {known}, each once", view.name));
            }
            let Some(exposure_us) = view.exposure_us else { continue };
            let at = format!("view `{}`, exposure_us", view.name);
            if own.is_some_and(|own| !own.has_exposure) {
                problems
                    .push(format!("{at}: expected none, the exposure of this view's camera cannot be set"));
            }
            let deadline_ms = self.deadline_ms.unwrap_or(bounds.deadline_ms);
            if exposure_us >= deadline_ms as f64 * 1e3 {
                problems.push(format!(
                    "{at}: expected less than deadline_ms = {deadline_ms}, got {exposure_us} us"
                ));
            }
            if !(1.0..=MAX_EXPOSURE_US).contains(&exposure_us) {
                problems.push(format!("{at}: expected 1 to {MAX_EXPOSURE_US}, got {exposure_us}"));
            }
        }
        problems
    }
}

/// What each recipe file of a folder holds, in order of name.
///
/// Errors: [`RecipeError::Folder`]; [`RecipeError::Bad`] if there are too many.
fn read_each(folder: &Path, bounds: &Bounds) -> Result<Vec<Result<Recipe, RecipeError>>, RecipeError> {
    let io = |source| RecipeError::Folder { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|e| e == "toml") {
            files.push(path);
        }
    }
    if files.len() > MAX_RECIPES {
        let reason = format!("expected at most {MAX_RECIPES} recipes, got {}", files.len());
        return Err(RecipeError::Bad { path: folder.to_owned(), reason });
    }
    files.sort();
    Ok(files.iter().map(|path| read_file(path, folder, bounds)).collect())
}

/// The recipe of a number. Files that are wrong do not stand in the way of one that is right.
///
/// Errors: [`RecipeError`]: if no file has the number, what is wrong with the first that is wrong.
pub fn read(folder: &Path, number: u16, bounds: &Bounds) -> Result<Recipe, RecipeError> {
    let (mut found, mut wrong) = (None, None);
    for recipe in read_each(folder, bounds)? {
        match recipe {
            Ok(recipe) if recipe.number == number && found.is_some() => {
                return Err(twice(folder, number));
            }
            Ok(recipe) if recipe.number == number => found = Some(recipe),
            Ok(_) => {}
            Err(error) => wrong = wrong.or(Some(error)),
        }
    }
    found.ok_or_else(|| wrong.unwrap_or(RecipeError::NoSuch { path: folder.to_owned(), number }))
}

/// All recipes of a folder that can be read, in order of their files' names; none where the folder cannot.
pub fn readable(folder: &Path, bounds: &Bounds) -> Vec<Recipe> {
    read_each(folder, bounds).unwrap_or_default().into_iter().flatten().collect()
}

fn twice(folder: &Path, number: u16) -> RecipeError {
    let reason = format!("two recipes have the number {number}; each needs its own");
    RecipeError::Bad { path: folder.to_owned(), reason }
}

fn read_file(path: &Path, folder: &Path, bounds: &Bounds) -> Result<Recipe, RecipeError> {
    let bad = |reason: String| RecipeError::Bad { path: path.to_owned(), reason };
    let text = file::read_text(path, MAX_RECIPE_BYTES).map_err(|e| bad(e.to_string()))?;
    parse(&text, path, folder, bounds)
}

/// Parses and checks a recipe file's text; `path` names it in errors, models in it are below `folder`.
///
/// Errors: [`RecipeError::Bad`].
pub fn parse(text: &str, path: &Path, folder: &Path, bounds: &Bounds) -> Result<Recipe, RecipeError> {
    let bad = |reason: String| RecipeError::Bad { path: path.to_owned(), reason };
    let document = toml::Deserializer::parse(text).map_err(|e| bad(e.to_string()))?;
    let mut recipe: Recipe = serde_path_to_error::deserialize(document)
        .map_err(|e| bad(format!("{}: {}", e.path(), e.inner().to_string().trim_end())))?;
    let problems = recipe.problems(bounds);
    if !problems.is_empty() {
        return Err(bad(problems.join("; ")));
    }
    for view in &mut recipe.views {
        view.model = folder.join(&view.model);
    }
    recipe.sha256 = sha256(text.as_bytes());
    Ok(recipe)
}

/// What is wrong with the recipes of a folder and the models that they name, for `check`.
pub fn check(folder: &Path, bounds: &Bounds) -> Vec<String> {
    let read = match read_each(folder, bounds) {
        Ok(read) => read,
        Err(error) => return vec![error.to_string()],
    };
    let mut problems = Vec::new();
    let mut recipes: Vec<Recipe> = Vec::new();
    for recipe in read {
        match recipe {
            Ok(recipe) if recipes.iter().any(|r| r.number == recipe.number) => {
                problems.push(twice(folder, recipe.number).to_string());
            }
            Ok(recipe) => recipes.push(recipe),
            Err(error) => problems.push(error.to_string()),
        }
    }
    if recipes.is_empty() && problems.is_empty() {
        problems.push(format!("{}: expected at least one recipe, a .toml file", folder.display()));
    }
    for recipe in &recipes {
        for view in &recipe.views {
            let wrong = match ModelFile::read(&view.model) {
                Err(error) => Some(error.to_string()),
                Ok(model) => view
                    .thresholds
                    .under(&model.card, recipe.views.len())
                    .err()
                    .map(|e| format!("thresholds: {e}")),
            };
            problems.extend(wrong.map(|w| format!("recipe {}, view `{}`: {w}", recipe.number, view.name)));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> Bounds {
        let gate = GateConfig { time_to_gate_ms: 100, plc_poll_ms: 10, plc_scan_ms: 10 };
        let view = |name: &str, has_exposure| ViewBounds { name: name.to_owned(), has_exposure };
        Bounds { views: vec![view("top", true), view("side", false)], gate, deadline_ms: 80, period_ms: None }
    }

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    const GOOD: &str =
        "number = 3\nname = 'bracket'\ndeadline_ms = 80\n[[view]]\nname = 'top'\nmodel = 'm.onnx'\n";

    #[test]
    fn a_recipe_is_found_by_its_number_whatever_its_file_is_called() {
        let other = GOOD.replace("= 3", "= 4");
        let dir = folder(&[("a.toml", &other), ("b.toml", GOOD), ("notes.txt", "not a recipe")]);
        let recipe = read(dir.path(), 3, &bounds()).unwrap();
        assert_eq!((recipe.name.as_str(), recipe.sha256.len()), ("bracket", 64));
        assert_eq!(recipe.views[0].model, dir.path().join("m.onnx"));
        assert!(matches!(read(dir.path(), 5, &bounds()), Err(RecipeError::NoSuch { number: 5, .. })));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_file() {
        let cases = [
            (GOOD.replace("= 3", "= 0"), "number"),
            (GOOD.replace("80", "81"), "10 to 80"),
            (GOOD.replace("'top'", "'bottom'"), "`bottom`"),
            (format!("{GOOD}[[view]]\nname = 'top'\nmodel = 'n.onnx'\n"), "each once"),
            ("number = 3\nname = 'x'\nview = []\n".into(), "at least one"),
            (format!("{GOOD}exposure_us = 0.5\n"), "1 to 60000000"),
            (format!("{GOOD}exposure_us = nan\n"), "exposure_us"),
            (format!("{GOOD}exposure_us = 80000\n"), "less than deadline_ms = 80"),
            (format!("{GOOD}exposure_us = 100\n").replace("'top'", "'side'"), "cannot be set"),
            (GOOD.replace("name = 'bracket'", "nam = 'bracket'"), "nam"),
            (GOOD.replace("= 3", "= 70000"), "number"),
        ];
        for (text, words) in cases {
            let dir = folder(&[("x.toml", &text)]);
            let error = read(dir.path(), 3, &bounds()).unwrap_err().to_string();
            assert!(error.contains("x.toml") && error.contains(words), "{words}: {error}");
        }
        let dir = folder(&[("a.toml", GOOD), ("b.toml", GOOD)]);
        assert!(read(dir.path(), 3, &bounds()).unwrap_err().to_string().contains("two recipes"));
        assert!(read(Path::new("/no/such"), 3, &bounds()).is_err());
    }

    #[test]
    fn a_broken_recipe_stops_no_other() {
        let dir = folder(&[("a.toml", "number = "), ("b.toml", GOOD)]);
        assert_eq!(read(dir.path(), 3, &bounds()).unwrap().number, 3);
        assert!(read(dir.path(), 4, &bounds()).unwrap_err().to_string().contains("a.toml"));
        assert!(check(dir.path(), &bounds()).iter().any(|p| p.contains("a.toml")));
    }

    #[test]
    fn check_looks_at_the_models_too() {
        let dir = folder(&[("x.toml", GOOD)]);
        let problems = check(dir.path(), &bounds()).join("\n");
        assert!(problems.contains("recipe 3") && problems.contains("m.onnx"), "{problems}");
    }
}
