//! What a station has in service, recipe and models, and its change between two parts: because the PLC asked for another
//! recipe, or because the files have changed ([`Renew`]).
//!
//! A recipe takes effect for the parts triggered after it. A changed model takes the place of the old one without any part
//! noticing: it has loaded and proven itself beside it.
//!
//! Never here: reading, loading ([`super::changeover`]).

use std::time::Duration;

use futures_util::future::join_all;
use inspect_core::verdict::FaultCode;
use tokio::sync::oneshot;

use super::Station;
use super::changeover::{InUse, Outcome, Prepared, Refusal, Setup};
use super::view::{Eye, View};
use crate::clock;
use crate::plc::handshake::Command;
use crate::recipe::Recipe;
use crate::record::{Event, EventKind, RecipeStamp};
use crate::scoring::LOAD_LIMIT;

/// Longest wait for the cameras to take their exposure times.
const EXPOSE_LIMIT: Duration = Duration::from_secs(1);
/// Longest that looking at a station's files anew may take: one load, and what lies around it.
pub const RENEW_LIMIT: Duration = LOAD_LIMIT.saturating_add(Duration::from_secs(10));

/// Asks a station to look at its recipe and models anew.
#[derive(Debug)]
pub struct Renew {
    /// Where the answer goes.
    pub reply: oneshot::Sender<Renewed>,
}

/// What that came to; where nothing had changed, nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Renewed {
    /// What went into service.
    pub taken: Vec<String>,
    /// Why something did not, and all stays as it was.
    pub refused: Option<String>,
}

impl Renewed {
    /// It did not come to its end.
    pub fn broke_off() -> Self {
        let why = "it was broken off: a recipe was asked for, another look is under way, or it took too long";
        Self { taken: Vec::new(), refused: Some(why.to_owned()) }
    }
}

impl Station {
    /// Begins a change-over that was asked for, or ends one, between two parts.
    pub(super) async fn change_over(&mut self) {
        let command = self.command.take().or_else(|| self.asks.commands.try_recv().ok());
        if let Some(Command::LoadRecipe(number)) = command {
            if self.changeover.has_recipes() {
                self.renewing = None; // the recipe's files are read anew all the same
                self.changeover.begin(number);
            } else {
                let why = "this station has no folder of recipes";
                self.refuse_recipe(&Refusal { code: FaultCode::NoSuchRecipe, why: why.to_owned() });
            }
        }
        if !self.changeover.is_under_way()
            && let Ok(Renew { reply }) = self.renews.try_recv()
        {
            self.renewing = Some(reply);
            self.changeover.renew(self.recipe.clone(), self.in_use());
        }
        if !self.asks.accepted.is_empty() {
            return; // a part waits that the recipe before is for
        }
        let Some(outcome) = self.changeover.take() else { return };
        match self.renewing.take() {
            Some(reply) => {
                let renewed = self.take_renewed(outcome).await;
                let _ = reply.send(renewed); // who asked may have walked away
            }
            None => self.take_recipe(outcome).await,
        }
    }

    /// Ends the PLC's command.
    async fn take_recipe(&mut self, outcome: Outcome) {
        match outcome {
            Ok(Some(Prepared { recipe: Some(recipe), setups })) => match self.expose(&setups).await {
                Ok(()) => {
                    self.serve(recipe, setups);
                    self.registers.end_command(Ok(()));
                }
                Err(refusal) => self.refuse_recipe(&refusal),
            },
            Ok(_) => {
                let why = "its preparation gave no recipe".to_owned();
                self.refuse_recipe(&Refusal { code: FaultCode::Internal, why });
            }
            Err(refusal) => self.refuse_recipe(&refusal),
        }
    }

    /// Takes what has changed, or leaves all as it is.
    async fn take_renewed(&mut self, outcome: Outcome) -> Renewed {
        let taken = match outcome {
            Ok(None) => return Renewed::default(),
            Ok(Some(Prepared { recipe: Some(recipe), setups })) => match self.expose(&setups).await {
                Ok(()) => {
                    let before = self.in_use();
                    let message =
                        format!("recipe {} ({}), read anew, is in service", recipe.number, recipe.name);
                    self.serve(recipe, setups);
                    [message].into_iter().chain(self.exchanged(&before)).collect()
                }
                Err(refusal) => return self.refuse_renewed(refusal),
            },
            Ok(Some(Prepared { recipe: None, setups })) => {
                let before = self.in_use();
                for (name, setup) in setups {
                    if let Some(view) = self.views.iter_mut().find(|view| view.eye.name == name) {
                        view.setup = setup;
                    }
                }
                self.look_after();
                self.exchanged(&before)
            }
            Err(refusal) => return self.refuse_renewed(refusal),
        };
        Renewed { taken, refused: None }
    }

    fn refuse_renewed(&self, refusal: Refusal) -> Renewed {
        let message = format!("what is in service stays: {}", refusal.why);
        tracing::warn!(station = self.name, why = refusal.why, "a changed model or recipe is refused");
        self.journal.event(Event::now(EventKind::ModelRefused, Some(&self.name), message));
        Renewed { taken: Vec::new(), refused: Some(refusal.why) }
    }

    /// Tells which views have another model than before.
    fn exchanged(&self, before: &[InUse]) -> Vec<String> {
        let mut told = Vec::new();
        for view in &self.views {
            let Ok(now) = view.in_service() else { continue };
            let old =
                before.iter().find(|old| old.view == view.eye.name).and_then(|old| old.sha256.as_deref());
            if old == Some(&*now.sha256) {
                continue;
            }
            let old = old.map_or("none", short);
            let message = format!(
                "view {}: model {} ({}) is in service, in place of {old}",
                view.eye.name,
                now.card.name,
                short(&now.sha256)
            );
            tracing::info!(station = self.name, message);
            self.journal.event(Event::now(EventKind::ModelChanged, Some(&self.name), &message));
            told.push(message);
        }
        told
    }

    /// What each view looks with.
    fn in_use(&self) -> Vec<InUse> {
        let of = |view: &View| InUse {
            view: view.eye.name.clone(),
            model: view.setup.model.clone(),
            sha256: view.in_service().ok().map(|model| model.sha256.to_string()),
            roi: view.setup.roi,
            thresholds: view.setup.thresholds,
            exposure_us: view.setup.exposure_us,
        };
        self.views.iter().map(of).collect()
    }

    /// Sets its cameras' exposures; all or none.
    async fn expose(&self, setups: &[(String, Setup)]) -> Result<(), Refusal> {
        let until = tokio::time::Instant::now() + EXPOSE_LIMIT;
        let eyes = self.views.iter().map(|view| &view.eye).chain(&self.spare);
        let changes: Vec<(&Eye, Option<f64>)> = eyes
            .filter_map(|eye| {
                let setup = setups.iter().find(|(name, _)| *name == eye.name)?;
                Some((eye, setup.1.exposure_us))
            })
            .collect();
        let before: Vec<Option<f64>> = changes.iter().map(|(eye, _)| eye.camera.exposure_us()).collect();
        let set = changes.iter().map(|(eye, exposure_us)| eye.camera.expose(*exposure_us, until));
        let Some(error) = join_all(set).await.into_iter().find_map(Result::err) else { return Ok(()) };
        for ((eye, _), before) in changes.iter().zip(before) {
            eye.camera.want_exposure(before);
        }
        Err(Refusal { code: FaultCode::BadRecipe, why: error.to_string() })
    }

    /// Puts a recipe into service.
    fn serve(&mut self, recipe: Recipe, setups: Vec<(String, Setup)>) {
        self.spare.extend(self.views.drain(..).map(|view| view.eye));
        for (name, setup) in setups {
            if let Some(at) = self.spare.iter().position(|eye| eye.name == name) {
                self.views.push(View { eye: self.spare.swap_remove(at), setup });
            }
        }
        self.deadline = recipe.deadline_ms.map_or(self.usual_deadline, Duration::from_millis);
        let message = format!("recipe {} ({}) is in service", recipe.number, recipe.name);
        self.serves_since = clock::now();
        self.process.restart_drift();
        self.recipe = Some(RecipeStamp { number: recipe.number, name: recipe.name, sha256: recipe.sha256 });
        tracing::info!(station = self.name, message);
        self.journal.event(Event::now(EventKind::RecipeChanged, Some(&self.name), message));
        self.look_after();
    }

    fn refuse_recipe(&self, refusal: &Refusal) {
        let message = format!("{} {}", refusal.code.meaning(), refusal.why);
        tracing::warn!(station = self.name, message, "recipe refused");
        self.journal.event(Event::now(EventKind::RecipeRefused, Some(&self.name), message));
        self.registers.end_command(Err(refusal.code));
    }
}

/// The beginning of a SHA-256, which tells versions apart for people.
fn short(sha256: &str) -> &str {
    sha256.get(..8).unwrap_or(sha256)
}
