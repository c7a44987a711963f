//! `inspectd capture`: training pictures through a station's camera, or of simulated parts with their labels.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, ensure};
use inspect_core::image::Roi;

use crate::camera::CameraConfig;
use crate::camera::defect::Kind;
use crate::camera::labelled::{LabelledConfig, Masks};
use crate::camera::process::{ActsOn, PARAMETERS, ProcessConfig, RANGES};
use crate::camera::simulated::SimulatedConfig;
use crate::capture::{Parts, capture};
use crate::config::{Config, StationConfig, ViewConfig};
use crate::labelled;
use crate::recipe;

/// Name of the view of a camera that is in no configuration.
const SIMULATED: &str = "simulated";
/// Side of its pictures, pixels, where none is given.
const PX: u32 = 128;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file. The models that it names need not exist yet.
    #[arg(long, short, default_value = "/etc/inspectd/inspectd.toml", conflicts_with = "simulated")]
    config: PathBuf,
    /// Station; absent: the first.
    #[arg(long, conflicts_with = "simulated")]
    station: Option<String>,
    /// View; absent: the station's first.
    #[arg(long, conflicts_with = "simulated")]
    view: Option<String>,
    /// Recipe whose region and exposure are used, at a station with recipes.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "simulated")]
    recipe: Option<u16>,
    /// Take simulated parts, without any configuration file.
    #[arg(long)]
    simulated: bool,
    /// Pictures to take, of good parts where --defects is given. A simulated camera shows good parts only.
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
    #[command(flatten)]
    simulation: Simulation,
}

/// What can be chosen of simulated parts alone.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "With --simulated")]
struct Simulation {
    /// Width and height of the pictures, pixels [default: 128].
    #[arg(long, requires = "simulated")]
    px: Option<u32>,
    /// Write a labelled set in MVTec AD layout: train/good, test/good, test/CLASS, the defects' masks in
    /// ground_truth, and manifest.csv with a caption and the process of each part. Needs --defects.
    #[arg(long, requires_all = ["simulated", "defects"])]
    labelled: bool,
    /// Classes of defects, which take turns.
    #[arg(long, value_delimiter = ',', requires = "labelled")]
    classes: Option<Vec<Kind>>,
    /// Fix a parameter of the process: wear (0 to 1) roughens, feed_mm (0.1 to 0.4) raises burrs, temperature_c
    /// (20 to 220) discolours. Others are drawn for each part, evenly. May be given again.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter, requires = "labelled")]
    set: Vec<(String, f64)>,
    /// Where wear and temperature are seen. By the default they cannot be read off the metal round a defect, so
    /// that what fills in the defect has to be told.
    #[arg(long, default_value = "defect", requires = "labelled")]
    acts_on: ActsOn,
    /// What the masks mark.
    #[arg(long, default_value = "exact", requires = "labelled")]
    masks: Masks,
    /// No process: empty columns.
    #[arg(long, conflicts_with_all = ["set", "acts_on"], requires = "labelled")]
    plain: bool,
}

/// `NAME=VALUE` of a parameter of the process.
fn parameter(text: &str) -> Result<(String, f64), String> {
    let expected = || {
        let known =
            PARAMETERS.iter().zip(RANGES).map(|(name, [low, high])| format!("{name}={low:.1}..{high:.1}"));
        format!("expected NAME=VALUE, one of {}", known.collect::<Vec<_>>().join(", "))
    };
    let (name, value) = text.split_once('=').ok_or_else(expected)?;
    let value = value.trim().parse().map_err(|_| expected())?;
    ProcessConfig::default().set(name.trim(), value).map_err(|_| expected())?;
    Ok((name.trim().to_owned(), value))
}

impl Args {
    /// The camera of `--simulated`.
    fn rendered(&self) -> SimulatedConfig {
        let (usual, px) = (SimulatedConfig::default(), self.simulation.px.unwrap_or(PX));
        SimulatedConfig { seed: self.seed.unwrap_or(usual.seed), width: px, height: px, ..usual }
    }

    /// View's name, camera and region of interest, out of the configuration or rendered.
    fn source(&self) -> anyhow::Result<(String, CameraConfig, Option<Roi>)> {
        if self.simulated {
            return Ok((SIMULATED.into(), CameraConfig::Simulated(self.rendered()), None));
        }
        let config = Config::read_unchecked(&self.config)?;
        let station = match &self.station {
            Some(name) => config.stations.iter().find(|s| s.name == *name),
            None => config.stations.first(),
        }
        .with_context(|| {
            let names: Vec<_> = config.stations.iter().map(|s| s.name.as_str()).collect();
            format!(
                "{}: no station `{}`, expected one of: {}",
                self.config.display(),
                self.station.as_deref().unwrap_or_default(),
                names.join(", ")
            )
        })?;
        let view = match &self.view {
            Some(name) => station.views.iter().find(|v| v.name == *name),
            None => station.views.first(),
        }
        .with_context(|| {
            let names: Vec<_> = station.views.iter().map(|v| v.name.as_str()).collect();
            format!("station {}: no such view, expected one of: {}", station.name, names.join(", "))
        })?;
        let mut camera = view.camera.clone();
        if let Some(seed) = self.seed {
            camera.set_seed(seed);
        }
        let roi = match self.recipe {
            None => view.roi,
            Some(number) => under_recipe(station, view, number, &mut camera)?,
        };
        Ok((view.name.clone(), camera, roi))
    }
}

impl Simulation {
    fn labelled(&self, mut camera: SimulatedConfig) -> anyhow::Result<LabelledConfig> {
        let mut process = ProcessConfig { acts_on: self.acts_on, ..ProcessConfig::default() };
        for (name, value) in &self.set {
            process.set(name, *value).map_err(|reason| anyhow!(reason))?;
        }
        camera.process = Some(process).filter(|_| !self.plain);
        let classes = self.classes.clone().unwrap_or_else(|| Kind::ALL.into());
        Ok(LabelledConfig { masks: self.masks, classes, camera })
    }
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.simulation.labelled {
        let config = args.simulation.labelled(args.rendered())?;
        let written =
            labelled::write(&config, args.count, args.defects.unwrap_or(0), &args.out, args.resume)?;
        eprintln!("{written} pictures written to {}", args.out.display());
        return Ok(ExitCode::SUCCESS);
    }
    let (name, camera, roi) = args.source()?;
    let problems = camera.check();
    ensure!(problems.is_empty(), "camera of view {name}: {}", problems.join("; "));
    let parts = match args.defects {
        None => Parts::Flat { count: args.count },
        Some(defects) => Parts::TestSplit { goods: args.count, defects },
    };
    let captured = capture(&name, &camera, roi, parts, &args.out, args.resume)?;
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
