//! One look at a part: a frame of its trigger, and the model's score of it, by the deadline.
//!
//! Never here: the verdict, registers, records' storage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use inspect_core::card::Card;
use inspect_core::image::Image;
use inspect_core::reference::PictureMeasures;
use inspect_core::verdict::{FaultCode, ViewOutcome};
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use crate::camera::calls::Availability;
use crate::camera::thread::CameraHandle;
use crate::camera::{CameraError, Frame, Life};
use crate::clock;
use crate::drift::Seen;
use crate::record::{ThresholdSource, ViewRecord};
use crate::scoring::{InService, Scored};
use crate::station::changeover::Setup;

/// A view's camera, which stays whatever the recipe.
pub struct Eye {
    /// Name.
    pub name: String,
    /// The camera's thread.
    pub camera: Arc<CameraHandle>,
    /// Whether the camera cannot prove life while idle.
    pub unproven: Arc<AtomicBool>,
    /// Two identical frames in a row are a fault: no live camera gives them.
    pub live: bool,
    /// The last frame of a live camera.
    pub last: Option<Arc<Image>>,
    /// What the camera said last, so that a lasting trouble is logged once.
    pub trouble: Option<String>,
}

/// A camera, a region of interest and a model.
pub struct View {
    /// Looks.
    pub eye: Eye,
    /// How.
    pub setup: Setup,
}

/// What one look brought.
pub struct Look {
    /// For the verdict.
    pub outcome: ViewOutcome,
    /// For the journal.
    pub record: ViewRecord,
    /// The frame, if there was one.
    pub image: Option<Arc<Image>>,
    /// What a simulated part really is.
    pub truth: Option<String>,
    /// Shape: `[h, w]` of `map_shape`. Empty if there is no score.
    pub map: Vec<f32>,
    /// Height and width of the map.
    pub map_shape: (usize, usize),
    /// Trigger to frame.
    pub grab: Duration,
    /// Frame to model input.
    pub resize: Duration,
    /// The model's run.
    pub run: Duration,
    /// The card of the model that gave the score.
    pub card: Option<Arc<Card>>,
    /// What the model's input measures, once it is known.
    pub measured: Option<oneshot::Receiver<PictureMeasures>>,
    /// The score that did not come in time, for whoever wants to know it all the same.
    pub late: Option<oneshot::Receiver<Scored>>,
}

/// A camera that proved nothing for this long is asked for a sign of life.
const LIFE_PERIOD: Duration = Duration::from_millis(500);
/// How long a sign of life is waited for.
const LIFE_WAIT: Duration = Duration::from_secs(1);

/// Asks an idle camera for signs of life, for ever; beside the station, so that a slow answer delays no part.
pub async fn ask_for_life(camera: Arc<CameraHandle>, unproven: Arc<AtomicBool>) {
    loop {
        tokio::time::sleep(LIFE_PERIOD).await;
        if camera.last_proof().is_none_or(|at| at.elapsed() >= LIFE_PERIOD) {
            let life = camera.life(tokio::time::Instant::now() + LIFE_WAIT).await;
            if let Ok(life) = life {
                unproven.store(life == Life::Unproven, Ordering::Relaxed);
            }
        }
    }
}

impl Look {
    /// What the drift watch takes of it; none where there is no score.
    pub fn seen(&mut self) -> Option<Seen<'_>> {
        let (score, thresholds) = self.outcome.ok()?;
        Some(Seen {
            view: &self.record.view,
            model_sha256: &self.record.model_sha256,
            card: self.card.as_ref()?,
            score: (score, thresholds.reject),
            measured: self.measured.take(),
        })
    }
}

impl Eye {
    /// Why the camera cannot be asked: code, and its own words.
    pub fn camera_fault(&self) -> Option<(FaultCode, String)> {
        match self.camera.availability() {
            Availability::Up => None,
            Availability::Opening => Some((FaultCode::Starting, String::new())),
            Availability::Away { reason } => Some((FaultCode::CameraAway, reason)),
            Availability::Stuck { reason } => Some((FaultCode::CameraStuck, reason)),
        }
    }

    /// Logs what the camera says in place of a frame, when it changes. Being away is logged by its thread.
    pub fn say_trouble(&mut self, error: Option<&CameraError>) {
        let trouble = error
            .filter(|e| !matches!(e, CameraError::Away { .. } | CameraError::Stuck { .. }))
            .map(|e| fault_of(e).meaning().to_owned());
        if trouble.is_some() && trouble != self.trouble {
            let error = error.map(ToString::to_string);
            tracing::warn!(view = self.name, error, "no frame; said once until it changes");
        }
        self.trouble = trouble;
    }
}

impl View {
    /// When scorer and camera had both proved themselves last. A camera that cannot while idle counts as
    /// long as its scorer does, where that is tolerated.
    pub fn proved(&self, allow_unproven: bool) -> Option<Instant> {
        let scorer = self.setup.scorer.proved()?;
        if allow_unproven && self.eye.unproven.load(Ordering::Relaxed) {
            return Some(scorer);
        }
        Some(scorer.min(self.eye.camera.last_proof()?.into_std()))
    }

    /// What is in service now.
    pub fn in_service(&self) -> Result<InService, FaultCode> {
        self.setup.scorer.in_service()
    }

    /// Looks at the part of the trigger at `trigger` as one of `views`, and comes back by `deadline` whatever
    /// happens.
    /// `frame` is the frame that was itself the trigger, or why there is none.
    pub async fn look(
        &mut self,
        views: usize,
        trigger: Instant,
        deadline: Instant,
        frame: Option<Result<Frame, CameraError>>,
    ) -> Look {
        let service = self.in_service();
        let mut look = self.nothing_yet(&service);
        look.outcome = match service {
            Err(fault) => Err(fault),
            Ok(model) => match self.setup.thresholds.under(&model.card, views) {
                Err(_) => Err(FaultCode::BadThreshold),
                Ok((thresholds, from)) => {
                    look.record.thresholds = Some(thresholds);
                    look.record.thresholds_from = from;
                    let score = self.score(&mut look, &model, trigger, deadline, frame).await;
                    if let Ok(score) = score {
                        look.record.score = Some(score).filter(|s| s.is_finite());
                        look.record.relative_score = look.record.score.map(|s| s / thresholds.reject);
                    }
                    score.map(|score| (score, thresholds))
                }
            },
        };
        look.record.fault = look.outcome.err();
        look
    }

    fn nothing_yet(&self, service: &Result<InService, FaultCode>) -> Look {
        let model = service.as_ref().ok();
        Look {
            outcome: Err(FaultCode::Internal),
            record: ViewRecord {
                view: self.eye.name.clone(),
                frame: None,
                exposed: None,
                score: None,
                relative_score: None,
                thresholds: None,
                thresholds_from: ThresholdSource::Card,
                model: model.map_or_else(String::new, |m| m.card.name.clone()),
                model_sha256: model.map_or_else(String::new, |m| m.sha256.to_string()),
                provider: model.map(|m| m.provider),
                fault: None,
            },
            image: None,
            truth: None,
            map: Vec::new(),
            map_shape: model.map_or((0, 0), |m| m.map),
            grab: Duration::ZERO,
            resize: Duration::ZERO,
            run: Duration::ZERO,
            card: model.map(|m| Arc::clone(&m.card)),
            measured: None,
            late: None,
        }
    }

    async fn score(
        &mut self,
        look: &mut Look,
        model: &InService,
        trigger: Instant,
        deadline: Instant,
        frame: Option<Result<Frame, CameraError>>,
    ) -> Result<f32, FaultCode> {
        let grabbed = match frame {
            Some(frame) => frame,
            None => self.eye.camera.grab(deadline.into()).await,
        };
        self.eye.say_trouble(grabbed.as_ref().err());
        let frame = grabbed.map_err(|e| fault_of(&e))?;
        look.grab = clock::since(trigger);
        look.record.frame = Some(frame.number);
        look.record.exposed = Some(clock::wall_at(frame.exposed));
        look.truth = frame.truth;
        let image = Arc::new(frame.image);
        look.image = Some(Arc::clone(&image));
        // Each frame counts as a last one, also one that is refused below, or came when nobody waited any more.
        if self.eye.live {
            let missed = self.eye.camera.take_missed();
            let last = self.eye.last.replace(Arc::clone(&image));
            if missed.as_ref() == Some(&*image) || last.as_deref() == Some(&*image) {
                return Err(FaultCode::RepeatedFrame);
            }
        }
        if frame.exposed < trigger {
            return Err(FaultCode::StaleFrame);
        }
        let mut scored = self.setup.scorer.request(image, self.setup.roi, deadline)?;
        match timeout_at(deadline.into(), &mut scored).await {
            // A score belongs to the model that the thresholds were taken from.
            Ok(Ok(scored)) if !Arc::ptr_eq(&scored.card, &model.card) => Err(FaultCode::ModelAway),
            Ok(Ok(scored)) => {
                look.resize = scored.resize;
                look.run = scored.run;
                look.map = scored.map;
                look.measured = scored.measured;
                scored.score
            }
            Ok(Err(_)) => Err(FaultCode::ModelAway), // taken out of service with the request in hand
            Err(_) => {
                look.late = Some(scored);
                Err(FaultCode::Late)
            }
        }
    }
}

fn fault_of(error: &CameraError) -> FaultCode {
    match error {
        CameraError::Away { .. } | CameraError::End { .. } | CameraError::Refused { .. } => {
            FaultCode::CameraAway
        }
        CameraError::Stuck { .. } => FaultCode::CameraStuck,
        CameraError::NoFrame { .. } => FaultCode::NoFrame,
        CameraError::Image { .. } => FaultCode::BadFrame,
        CameraError::Incomplete { .. } => FaultCode::IncompleteFrame,
        CameraError::Gap { .. } => FaultCode::FrameGap,
    }
}
