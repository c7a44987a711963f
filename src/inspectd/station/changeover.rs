//! Bringing a recipe, or models whose files have changed, into service: read, warmed beside the running ones, then
//! swapped between two parts. What cannot be used leaves everything as it is.
//!
//! Terms. A *setup* is what a recipe says of one view. *Warm*: its models are loaded already, because
//! another station uses them or they were in service before.
//!
//! Never here: waiting on the line's way; a recipe half in service.

use std::path::PathBuf;
use std::sync::Arc;

use inspect_core::image::Roi;
use inspect_core::model::ModelFile;
use inspect_core::verdict::FaultCode;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::timeout;

use crate::recipe::{self, Bounds, Recipe, RecipeError, RecipeView};
use crate::record::RecipeStamp;
use crate::scorers::Scorers;
use crate::scoring::{InService, LOAD_LIMIT, ScorerHandle, Service};
use crate::thresholds::{ThresholdConfig, without_share};

/// How one view looks.
pub struct Setup {
    /// The model file.
    pub model: PathBuf,
    /// The scorer's thread.
    pub scorer: ScorerHandle,
    /// Part of the frame that is judged.
    pub roi: Option<Roi>,
    /// What is said of the thresholds.
    pub thresholds: ThresholdConfig,
    /// Exposure time of the camera; none: the usual one.
    pub exposure_us: Option<f64>,
}

/// What can go into service at once.
pub struct Prepared {
    /// A recipe; none: only models have changed.
    pub recipe: Option<Recipe>,
    /// A setup for each of the recipe's views, or for each with a changed model, by name.
    pub setups: Vec<(String, Setup)>,
}

/// What a view looks with now.
pub struct InUse {
    /// Its name.
    pub view: String,
    /// The model file.
    pub model: PathBuf,
    /// SHA-256 of the file when it was loaded; none where no model is in service.
    pub sha256: Option<String>,
    /// See [`Setup`].
    pub roi: Option<Roi>,
    /// See [`Setup`].
    pub thresholds: ThresholdConfig,
    /// See [`Setup`].
    pub exposure_us: Option<f64>,
}

/// Why something stays out of service.
#[derive(Debug)]
pub struct Refusal {
    /// For the PLC.
    pub code: FaultCode,
    /// For people.
    pub why: String,
}

/// None where nothing has changed.
pub type Outcome = Result<Option<Prepared>, Refusal>;

/// The change-overs of one station; at most one is under way.
pub struct Changeover {
    folder: Option<PathBuf>,
    bounds: Bounds,
    scorers: Arc<Scorers>,
    under_way: Option<oneshot::Receiver<Outcome>>,
    outcome: Option<Outcome>,
}

impl Changeover {
    /// None is under way. `folder`: the recipes', where there are any.
    pub fn new(folder: Option<PathBuf>, bounds: Bounds, scorers: Arc<Scorers>) -> Self {
        Self { folder, bounds, scorers, under_way: None, outcome: None }
    }

    /// Whether the station has recipes; else its views are as configured.
    pub fn has_recipes(&self) -> bool {
        self.folder.is_some()
    }

    /// Whether something is being prepared, or waits to be taken.
    pub fn is_under_way(&self) -> bool {
        self.under_way.is_some() || self.outcome.is_some()
    }

    /// Prepares the recipe `number` beside the line. What was under way is forgotten.
    pub fn begin(&mut self, number: u16) {
        let Some(folder) = self.folder.clone() else { return };
        let (bounds, scorers) = (self.bounds.clone(), Arc::clone(&self.scorers));
        self.start(async move { prepare(folder, number, bounds, scorers).await.map(Some) });
    }

    /// Looks at the recipe in service and the models that views look with, and prepares beside the line what has
    /// changed in their files.
    pub fn renew(&mut self, recipe: Option<RecipeStamp>, in_use: Vec<InUse>) {
        let (folder, bounds, scorers) = (self.folder.clone(), self.bounds.clone(), Arc::clone(&self.scorers));
        self.start(renew(folder, recipe, in_use, bounds, scorers));
    }

    fn start(&mut self, preparing: impl Future<Output = Outcome> + Send + 'static) {
        let (tell, told) = oneshot::channel();
        let scorers = Arc::clone(&self.scorers);
        tokio::spawn(async move {
            let outcome = preparing.await;
            if outcome.is_err() {
                scorers.drop_refused();
            }
            // Nobody listens any more where the station has ended.
            let _ = tell.send(outcome);
        });
        self.under_way = Some(told);
        self.outcome = None;
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

async fn prepare(
    folder: PathBuf,
    number: u16,
    bounds: Bounds,
    scorers: Arc<Scorers>,
) -> Result<Prepared, Refusal> {
    let found = tokio::task::spawn_blocking(move || find(folder, number, bounds, &scorers));
    let (recipe, setups) =
        found.await.map_err(|error| Refusal { code: FaultCode::Internal, why: error.to_string() })??;
    let count = setups.len();
    warm(&setups, count, FaultCode::BadRecipe).await?;
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
    Ok(Prepared { recipe: Some(recipe), setups })
}

/// Waits until each model has loaded and proven itself, and its thresholds fit one of `count` views.
async fn warm(setups: &[(String, Setup)], count: usize, code: FaultCode) -> Result<(), Refusal> {
    for (view, setup) in setups {
        let bad = |why: String| Refusal { code, why: format!("view `{view}`: {why}") };
        let loaded = timeout(LOAD_LIMIT, loaded(&setup.scorer)).await;
        let in_service = loaded
            .map_err(|_| bad(format!("its model was not ready within {} s", LOAD_LIMIT.as_secs())))?
            .map_err(bad)?;
        setup.thresholds.under(&in_service.card, count).map_err(|why| bad(format!("thresholds: {why}")))?;
    }
    Ok(())
}

async fn renew(
    folder: Option<PathBuf>,
    recipe: Option<RecipeStamp>,
    in_use: Vec<InUse>,
    bounds: Bounds,
    scorers: Arc<Scorers>,
) -> Outcome {
    let (count, pool) = (in_use.len(), Arc::clone(&scorers));
    let (of, limits) = (folder.clone(), bounds.clone());
    let look = move || -> Result<Changed, Refusal> {
        let mut changed = Vec::new();
        for used in in_use {
            if has_changed(&used)? {
                changed.push(used);
            }
        }
        match (of, recipe) {
            (None, _) => {
                let setups = changed.into_iter().map(|used| setup_anew(used, &pool));
                setups.collect::<Result<Vec<_>, _>>().map(Changed::Models)
            }
            (Some(_), None) => Ok(Changed::Models(Vec::new())),
            (Some(of), Some(stamp)) => {
                let refused =
                    |error: RecipeError| Refusal { code: FaultCode::BadRecipe, why: error.to_string() };
                let now = recipe::read(&of, stamp.number, &limits).map_err(refused)?;
                let same = now.sha256 == stamp.sha256 && changed.is_empty();
                Ok(if same { Changed::Models(Vec::new()) } else { Changed::Recipe(stamp.number) })
            }
        }
    };
    let looked = tokio::task::spawn_blocking(look).await;
    match looked.map_err(|error| Refusal { code: FaultCode::Internal, why: error.to_string() })?? {
        Changed::Models(setups) if setups.is_empty() => Ok(None),
        Changed::Models(setups) => {
            warm(&setups, count, FaultCode::ModelAway).await?;
            Ok(Some(Prepared { recipe: None, setups }))
        }
        Changed::Recipe(number) => match folder {
            Some(folder) => prepare(folder, number, bounds, scorers).await.map(Some),
            None => Ok(None),
        },
    }
}

/// What has changed in a station's files.
enum Changed {
    Models(Vec<(String, Setup)>),
    /// Something in the recipe of this number.
    Recipe(u16),
}

/// Whether the file is another than the one that was loaded. A model that is not in service tries by itself.
fn has_changed(used: &InUse) -> Result<bool, Refusal> {
    let Some(loaded) = &used.sha256 else { return Ok(false) };
    let file = ModelFile::read(&used.model).map_err(|error| Refusal {
        code: FaultCode::ModelAway,
        why: format!("view `{}`: {error}", used.view),
    })?;
    Ok(file.sha256 != *loaded)
}

fn setup_anew(used: InUse, scorers: &Scorers) -> Result<(String, Setup), Refusal> {
    let InUse { view, model, roi, thresholds, exposure_us, .. } = used;
    let scorer =
        scorers.of(&model).map_err(|error| Refusal { code: FaultCode::Internal, why: error.to_string() })?;
    Ok((view, Setup { model, scorer, roi, thresholds, exposure_us }))
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
        let model = view.model.clone();
        setups.push((view.name.clone(), Setup { model, scorer, roi, thresholds, exposure_us }));
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
