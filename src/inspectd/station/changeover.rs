//! Bringing a recipe into service: read, its models warmed beside the running ones, then swapped between two
//! parts. What cannot be used leaves everything as it is.
//!
//! Terms. A *setup* is what a recipe says of one view. *Warm*: its models are loaded already, because
//! another station uses them or they were in service before.
//!
//! Never here: waiting on the line's way; a recipe half in service.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use inspect_core::image::Roi;
use inspect_core::verdict::FaultCode;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::timeout;

use crate::recipe::{self, Bounds, Recipe, RecipeError, RecipeView};
use crate::scorers::Scorers;
use crate::scoring::{InService, ScorerHandle, Service};
use crate::thresholds::{ThresholdConfig, without_share};

/// Longest time that a model may take to load, prove itself and warm up.
const LOAD_LIMIT: Duration = Duration::from_secs(120);

/// How one view looks.
pub struct Setup {
    /// The scorer's thread.
    pub scorer: ScorerHandle,
    /// Part of the frame that is judged.
    pub roi: Option<Roi>,
    /// What is said of the thresholds.
    pub thresholds: ThresholdConfig,
    /// Exposure time of the camera; none: the usual one.
    pub exposure_us: Option<f64>,
}

/// A recipe that can go into service at once.
pub struct Prepared {
    /// It.
    pub recipe: Recipe,
    /// A setup for each of its views, by name.
    pub setups: Vec<(String, Setup)>,
}

/// Why a recipe stays out of service.
#[derive(Debug)]
pub struct Refusal {
    /// For the PLC.
    pub code: FaultCode,
    /// For people.
    pub why: String,
}

type Outcome = Result<Prepared, Refusal>;

/// The change-overs of one station; at most one is under way.
pub struct Changeover {
    folder: PathBuf,
    bounds: Bounds,
    scorers: Arc<Scorers>,
    under_way: Option<oneshot::Receiver<Outcome>>,
    outcome: Option<Outcome>,
}

impl Changeover {
    /// None is under way.
    pub fn new(folder: PathBuf, bounds: Bounds, scorers: Arc<Scorers>) -> Self {
        Self { folder, bounds, scorers, under_way: None, outcome: None }
    }

    /// Prepares the recipe `number` beside the line. One that was under way is forgotten.
    pub fn begin(&mut self, number: u16) {
        let (tell, told) = oneshot::channel();
        let (folder, bounds, scorers) = (self.folder.clone(), self.bounds.clone(), Arc::clone(&self.scorers));
        tokio::spawn(async move {
            // Nobody listens any more where the station has ended.
            let _ = tell.send(prepare(folder, number, bounds, scorers).await);
        });
        self.under_way = Some(told);
    }

    /// Returns when a preparation has ended; never, where none is under way. Can be left and called again.
    pub async fn ended(&mut self) {
        let outcome = match &mut self.under_way {
            Some(told) => told.await,
            None => std::future::pending().await,
        };
        self.under_way = None;
        self.outcome = Some(outcome.unwrap_or_else(|_| Err(broke_off())));
    }

    /// What it came to, once; none while it is under way.
    pub fn take(&mut self) -> Option<Outcome> {
        if let Some(told) = &mut self.under_way {
            match told.try_recv() {
                Err(TryRecvError::Empty) => {}
                outcome => {
                    self.under_way = None;
                    self.outcome = Some(outcome.unwrap_or_else(|_| Err(broke_off())));
                }
            }
        }
        self.outcome.take()
    }
}

fn broke_off() -> Refusal {
    Refusal { code: FaultCode::Internal, why: "its preparation broke off".to_owned() }
}

async fn prepare(folder: PathBuf, number: u16, bounds: Bounds, scorers: Arc<Scorers>) -> Outcome {
    let found = tokio::task::spawn_blocking(move || find(folder, number, bounds, &scorers));
    let (recipe, mut setups) =
        found.await.map_err(|error| Refusal { code: FaultCode::Internal, why: error.to_string() })??;
    let count = setups.len();
    for (view, setup) in &mut setups {
        let bad = |why: String| Refusal { code: FaultCode::BadRecipe, why: format!("view `{view}`: {why}") };
        let loaded = timeout(LOAD_LIMIT, loaded(&setup.scorer)).await;
        let in_service = loaded
            .map_err(|_| bad(format!("its model was not ready within {} s", LOAD_LIMIT.as_secs())))?
            .map_err(bad)?;
        setup.thresholds.under(&in_service.card, count).map_err(|why| bad(format!("thresholds: {why}")))?;
    }
    for (view, setup) in &setups {
        if let Service::Ready(model) = &*setup.scorer.service().borrow()
            && let Some(note) = without_share(&model.card, count)
        {
            tracing::warn!(
                recipe = recipe.number,
                view,
                model = model.card.name,
                note,
                "false rejects add up"
            );
        }
    }
    Ok(Prepared { recipe, setups })
}

/// Reads the recipe and asks for its scorers; blocks for the files.
fn find(
    folder: PathBuf,
    number: u16,
    bounds: Bounds,
    scorers: &Scorers,
) -> Result<(Recipe, Vec<(String, Setup)>), Refusal> {
    let recipe = recipe::read(&folder, number, &bounds).map_err(|error| {
        let code = match error {
            RecipeError::NoSuch { .. } => FaultCode::NoSuchRecipe,
            RecipeError::Bad { .. } | RecipeError::Folder { .. } => FaultCode::BadRecipe,
        };
        Refusal { code, why: error.to_string() }
    })?;
    let mut setups = Vec::with_capacity(recipe.views.len());
    for view in &recipe.views {
        let scorer = scorers
            .of(&view.model)
            .map_err(|error| Refusal { code: FaultCode::Internal, why: error.to_string() })?;
        let RecipeView { roi, thresholds, exposure_us, .. } = *view;
        setups.push((view.name.clone(), Setup { scorer, roi, thresholds, exposure_us }));
    }
    Ok((recipe, setups))
}

/// The model of a scorer when its first load has ended.
async fn loaded(scorer: &ScorerHandle) -> Result<InService, String> {
    let mut service = scorer.service();
    let ended = service.wait_for(|s| !matches!(s, Service::Starting)).await;
    match ended.as_deref() {
        Ok(Service::Ready(model)) => Ok(model.clone()),
        Ok(Service::Away(why)) => Err(why.clone()),
        Ok(Service::Starting) | Err(_) => Err("its scorer ended".to_owned()),
    }
}
