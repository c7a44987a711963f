//! `inspectd capture`: training pictures through a station's camera.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use inspect_core::image::Roi;

use crate::camera::CameraConfig;
use crate::capture::{Parts, capture};
use crate::config::{Config, StationConfig, ViewConfig};
use crate::recipe;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file. The models that it names need not exist yet.
    #[arg(long, short, default_value = "/etc/inspectd/inspectd.toml")]
    config: PathBuf,
    /// Station; absent: the first.
    #[arg(long)]
    station: Option<String>,
    /// View; absent: the station's first.
    #[arg(long)]
    view: Option<String>,
    /// Recipe whose region and exposure are used, at a station with recipes.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    recipe: Option<u16>,
    /// Pictures to take. A simulated camera shows good parts only.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Also take this many parts with a defect, and write a test split: test/good, test/DEFECT. Needs a
    /// camera that knows the truth (simulated, or a folder in MVTec AD layout).
    #[arg(long)]
    defects: Option<u64>,
    /// In place of a simulated camera's configured seed: other parts than the daemon will show.
    #[arg(long)]
    seed: Option<u64>,
    /// Folder to write to: 000000.png and so on. Must be empty unless --resume is given.
    #[arg(long)]
    out: PathBuf,
    /// Go on where an earlier capture into this folder ended.
    #[arg(long)]
    resume: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = Config::read_unchecked(&args.config)?;
    let station = match &args.station {
        Some(name) => config.stations.iter().find(|s| s.name == *name),
        None => config.stations.first(),
    }
    .with_context(|| {
        let names: Vec<_> = config.stations.iter().map(|s| s.name.as_str()).collect();
        format!(
            "{}: no station `{}`, expected one of: {}",
            args.config.display(),
            args.station.as_deref().unwrap_or_default(),
            names.join(", ")
        )
    })?;
    let view = match &args.view {
        Some(name) => station.views.iter().find(|v| v.name == *name),
        None => station.views.first(),
    }
    .with_context(|| {
        let names: Vec<_> = station.views.iter().map(|v| v.name.as_str()).collect();
        format!("station {}: no such view, expected one of: {}", station.name, names.join(", "))
    })?;
    let mut camera = view.camera.clone();
    if let Some(seed) = args.seed {
        camera.set_seed(seed);
    }
    let roi = match args.recipe {
        None => view.roi,
        Some(number) => under_recipe(station, view, number, &mut camera)?,
    };
    let problems = camera.check();
    ensure!(problems.is_empty(), "camera of view {}: {}", view.name, problems.join("; "));
    let parts = match args.defects {
        None => Parts::Flat { count: args.count },
        Some(defects) => Parts::TestSplit { goods: args.count, defects },
    };
    let captured = capture(&view.name, &camera, roi, parts, &args.out, args.resume)?;
    eprintln!("{} pictures written to {}", captured.written, args.out.display());
    ensure!(!captured.ended, "the camera's source ended before all pictures were taken");
    Ok(ExitCode::SUCCESS)
}

/// The region of a view under a recipe, whose exposure the camera gets.
fn under_recipe(
    station: &StationConfig,
    view: &ViewConfig,
    number: u16,
    camera: &mut CameraConfig,
) -> anyhow::Result<Option<Roi>> {
    let folder = station.recipes.as_ref();
    let folder = folder.with_context(|| format!("--recipe: station {} has no recipes", station.name))?;
    let recipe = recipe::read(folder, number, &station.bounds())?;
    let named = recipe.views.iter().find(|v| v.name == view.name);
    let named = named.with_context(|| format!("recipe {number} has no view {}", view.name))?;
    if let Some(exposure_us) = named.exposure_us {
        camera.set_exposure(exposure_us);
    }
    Ok(named.roi)
}
