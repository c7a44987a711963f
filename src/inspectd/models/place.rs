//! Places: the model files that a configuration and its recipes name, and which views look with each.
//!
//! Never here: what lies in a place.

use std::path::{Path, PathBuf};

use inspect_core::card::Card;
use inspect_core::image::Roi;

use crate::config::{Config, StationConfig};
use crate::recipe::readable;
use crate::thresholds::{ThresholdConfig, without_share};

/// A view that looks with a model.
#[derive(Debug, Clone)]
pub struct User {
    /// Its station.
    pub station: String,
    /// It.
    pub view: String,
    /// Under this recipe; none where the station has its own settings.
    pub recipe: Option<u16>,
    /// Part of the frame that is judged.
    pub roi: Option<Roi>,
    /// What is said of the thresholds.
    pub thresholds: ThresholdConfig,
    /// Views that judge the part together.
    pub views: usize,
    /// Size of the camera's frame, where it is known: width, height.
    pub frame_px: Option<(u32, u32)>,
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "station {}, view {}", self.station, self.view)?;
        self.recipe.map_or(Ok(()), |number| write!(f, ", recipe {number}"))
    }
}

/// Where a model lies, and who looks with it.
#[derive(Debug, Clone)]
pub struct Place {
    /// The file, as the configuration names it first.
    pub path: PathBuf,
    /// At least one.
    pub users: Vec<User>,
}

/// Why no place was chosen.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// None fits.
    #[error("{wanted}: no such place for a model; the configuration has: {}", .known.join("; "))]
    None {
        /// What was asked for.
        wanted: String,
        /// The places.
        known: Vec<String>,
    },
    /// More than one.
    #[error("expected --station and --view, or --as PATH, for one of these places: {}", .known.join("; "))]
    Several {
        /// The places.
        known: Vec<String>,
    },
}

/// The same file, however it is spelt: links are followed as far as there is something.
pub fn real(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    let parent = path.parent().and_then(|parent| parent.canonicalize().ok());
    match (parent, path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}

/// Every place of a configuration, in its order. Recipes that cannot be read have none.
pub fn places(config: &Config) -> Vec<Place> {
    let mut places: Vec<(PathBuf, Place)> = Vec::new();
    for (path, user) in config.stations.iter().flat_map(users) {
        let key = real(&path);
        match places.iter_mut().find(|(known, _)| *known == key) {
            Some((_, place)) => place.users.push(user),
            None => places.push((key, Place { path, users: vec![user] })),
        }
    }
    places.into_iter().map(|(_, place)| place).collect()
}

fn users(station: &StationConfig) -> Vec<(PathBuf, User)> {
    let frame_px = |name: &str| {
        let view = station.views.iter().find(|view| view.name == name)?;
        view.camera.frame_px()
    };
    let user = |view: &str, recipe, roi, thresholds, views| User {
        station: station.name.clone(),
        view: view.to_owned(),
        recipe,
        roi,
        thresholds,
        views,
        frame_px: frame_px(view),
    };
    let own = station.views.iter().filter_map(|view| {
        let user = user(&view.name, None, view.roi, view.thresholds, station.views.len());
        Some((view.model.clone()?, user))
    });
    let recipes = station.recipes.iter().flat_map(|folder| readable(folder, &station.bounds()));
    let of_recipes = recipes.flat_map(|recipe| {
        let count = recipe.views.len();
        let each = recipe.views.into_iter();
        each.map(|view| (view.model, user(&view.name, Some(recipe.number), view.roi, view.thresholds, count)))
            .collect::<Vec<_>>()
    });
    own.chain(of_recipes).collect()
}

/// The one place that is meant.
///
/// Errors: [`PlaceError`], with the places that there are.
pub fn choose(
    config: &Config,
    station: Option<&str>,
    view: Option<&str>,
    path: Option<&Path>,
) -> Result<Place, PlaceError> {
    let all = places(config);
    let known = || {
        let text = |place: &Place| {
            let users: Vec<_> = place.users.iter().map(User::to_string).collect();
            format!("{} ({})", place.path.display(), users.join(" and "))
        };
        all.iter().map(text).collect::<Vec<_>>()
    };
    let wants = |user: &User| {
        station.is_none_or(|name| name == user.station) && view.is_none_or(|name| name == user.view)
    };
    let fits = |place: &&Place| {
        path.is_none_or(|path| real(path) == real(&place.path)) && place.users.iter().any(wants)
    };
    let mut found = all.iter().filter(fits);
    match (found.next(), found.next()) {
        (Some(place), None) => Ok(place.clone()),
        (Some(_), Some(_)) => Err(PlaceError::Several { known: known() }),
        (None, _) => {
            let path = path.map(|path| path.display().to_string());
            let wanted = [path.as_deref(), station, view].into_iter().flatten().collect::<Vec<_>>().join(" ");
            Err(PlaceError::None { wanted, known: known() })
        }
    }
}

impl Place {
    /// Why a model cannot look for those who look from here.
    pub fn misfits(&self, card: &Card) -> Vec<String> {
        let mut misfits = Vec::new();
        for user in &self.users {
            if let Err(expected) = user.thresholds.under(card, user.views) {
                misfits.push(format!("{user}: thresholds: {expected}"));
            }
            // The view's own region is the configuration's to check; the card's takes effect only here.
            let roi = user.roi.or(card.preprocessing.roi).zip(user.frame_px);
            if let Some(error) = roi.and_then(|(roi, (width, height))| roi.within(width, height).err()) {
                misfits.push(format!("{user}: {error}"));
            }
        }
        misfits
    }

    /// What is not wrong and should be known all the same.
    pub fn notes(&self, card: &Card) -> Vec<String> {
        let note = |user: &User| Some(format!("{user}: {}", without_share(card, user.views)?));
        self.users.iter().filter_map(note).collect()
    }
}

#[cfg(test)]
mod tests {
    use inspect_core::model::ModelFile;

    use super::*;

    /// Two stations, the first with two views of which one shares the second station's model.
    fn config(folder: &Path) -> Config {
        let station = |name: &str, views: &str| {
            format!(
                "[[station]]\nname = '{name}'\ntrigger = {{ source = 'plc' }}\ndeadline_ms = 100\n\
                 gate = {{ time_to_gate_ms = 200, plc_poll_ms = 10, plc_scan_ms = 20 }}\n{views}"
            )
        };
        let view = |name: &str, more: &str| {
            format!(
                "[[station.view]]\nname = '{name}'\n{more}\n\
                 camera = {{ kind = 'simulated', width = 64, height = 64 }}\n"
            )
        };
        std::fs::create_dir(folder.join("recipes")).unwrap();
        let recipe = "number = 3\nname = 'r'\n[[view]]\nname = 'c'\nmodel = '../b.onnx'\n";
        std::fs::write(folder.join("recipes/3.toml"), recipe).unwrap();
        let text = "[journal]\ndir = 'j'\n".to_owned()
            + &station("s1", &(view("a", "model = 'a.onnx'") + &view("b", "model = './b.onnx'")))
            + &station("s2", &view("c", "")).replacen("deadline_ms", "recipes = 'recipes'\ndeadline_ms", 1);
        Config::parse(&text, Path::new("c.toml"), folder).unwrap()
    }

    #[test]
    fn a_file_is_one_place_however_many_look_from_there() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let users: Vec<Vec<String>> =
            places(&config).iter().map(|p| p.users.iter().map(User::to_string).collect()).collect();
        assert_eq!(users[0], ["station s1, view a"]);
        assert_eq!(users[1], ["station s1, view b", "station s2, view c, recipe 3"]);
        assert_eq!(users.len(), 2);
    }

    #[test]
    fn the_place_that_is_meant_is_chosen_and_a_guess_never() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let name = |station, view, path| {
            let place = choose(&config, station, view, path).map_err(|e| e.to_string())?;
            Ok::<_, String>(place.path.file_name().unwrap().to_owned())
        };
        assert_eq!(name(Some("s1"), Some("a"), None).unwrap(), "a.onnx");
        assert_eq!(name(Some("s2"), None, None).unwrap(), "b.onnx");
        let path = dir.path().join("recipes/../b.onnx");
        assert_eq!(name(None, None, Some(&path)).unwrap(), "b.onnx");
        assert!(name(None, None, None).unwrap_err().contains("--as PATH"));
        assert!(name(Some("s1"), None, None).unwrap_err().contains("a.onnx"));
        let error = name(Some("s9"), None, None).unwrap_err();
        assert!(error.contains("s9") && error.contains("station s2, view c, recipe 3"), "{error}");
    }

    #[test]
    fn a_card_that_does_not_suit_a_view_is_told_with_the_view() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let mut place = choose(&config, Some("s1"), Some("a"), None).unwrap();
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo.onnx");
        let mut card = ModelFile::read(&demo).unwrap().card;
        assert!(place.misfits(&card).is_empty());
        assert!(place.notes(&card)[0].contains("view a") && place.notes(&card)[0].contains("2 views"));
        card.preprocessing.roi = Some(Roi { x: 10, y: 0, width: 60, height: 60 });
        assert!(place.misfits(&card)[0].contains("view a"), "the card's region leaves the frame");
        place.users[0].roi = Some(Roi { x: 0, y: 0, width: 64, height: 64 });
        assert!(place.misfits(&card).is_empty(), "the view has its own");
        place.users[0].thresholds.reject = Some(card.thresholds.reject * 2.0);
        assert!(place.misfits(&card)[0].contains("thresholds"));
    }
}
