//! What is simulated around one station: parts with their fates, a camera, a model. All follows from the seed.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use inspect_core::card::Card;
use inspect_core::image::Image;
use inspect_core::scorer::{Scorer, ScorerError};
use inspect_core::verdict::FaultCode;
use inspectd::camera::calls::Call;
use inspectd::camera::thread::CameraPort;
use inspectd::camera::{CameraError, Frame, Life};
use inspectd::clock;
use inspectd::scoring::{InService, Loaded, ScorerPort, Service};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::sleep;

use crate::{DEADLINE, stub};

/// What happens to a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    Judged,
    CameraLost,
    FrameLate,
    FrameIncomplete,
    FrameRepeated,
    FrameStale,
    FrameGap,
    NoFrame,
    ScoreNan,
    ScoreLate,
    ScorerFails,
    ModelCrashes,
}

const FAULTS: [Fate; 11] = [
    Fate::CameraLost,
    Fate::FrameLate,
    Fate::FrameIncomplete,
    Fate::FrameRepeated,
    Fate::FrameStale,
    Fate::FrameGap,
    Fate::NoFrame,
    Fate::ScoreNan,
    Fate::ScoreLate,
    Fate::ScorerFails,
    Fate::ModelCrashes,
];

impl Fate {
    pub fn random(chance: &mut StdRng) -> Self {
        if chance.random_bool(0.75) { Self::Judged } else { FAULTS[chance.random_range(0..FAULTS.len())] }
    }

    /// The faults that explain themselves by this fate.
    pub fn own(self) -> &'static [FaultCode] {
        use FaultCode::*;
        match self {
            Self::Judged => &[],
            Self::CameraLost => &[CameraAway],
            Self::FrameLate | Self::NoFrame => &[NoFrame, Late],
            Self::FrameIncomplete => &[IncompleteFrame],
            // It shows the part before, if that had a picture.
            Self::FrameRepeated | Self::FrameStale => &[RepeatedFrame, StaleFrame],
            Self::FrameGap => &[FrameGap],
            Self::ScoreNan => &[ScoreNotFinite],
            Self::ScoreLate => &[Late],
            Self::ScorerFails => &[ScorerError],
            Self::ModelCrashes => &[ModelAway, ScorerError],
        }
    }
}

/// A part that lies before the camera.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Its number in the whole simulation; stands in its picture, its serial and its score.
    pub number: u64,
    pub fate: Fate,
    pub score: f32,
}

impl Part {
    pub fn new(number: u64, chance: &mut StdRng) -> Self {
        Self { number, fate: Fate::random(chance), score: chance.random_range(0.05..2.95) }
    }

    /// What its score says: 1 pass, 2 review, 3 reject.
    pub fn verdict(&self) -> u16 {
        self.score.ceil() as u16
    }

    pub fn serial(&self) -> String {
        format!("P{:06}", self.number)
    }
}

/// What lies before one station's camera.
#[derive(Clone, Default)]
pub struct World(Arc<Mutex<Option<Part>>>);

impl World {
    fn lock(&self) -> MutexGuard<'_, Option<Part>> {
        self.0.lock().unwrap()
    }

    pub fn lay(&self, part: Part) {
        *self.lock() = Some(part);
    }

    fn part(&self) -> Option<Part> {
        *self.lock()
    }
}

fn picture(number: u64) -> Image {
    let mut pixels = vec![0; 16];
    pixels[..8].copy_from_slice(&number.to_le_bytes());
    Image::new(4, 4, 1, pixels).unwrap()
}

/// Serves a camera's calls for ever.
pub async fn camera(port: CameraPort, world: World, seed: u64) {
    let mut chance = StdRng::seed_from_u64(seed);
    let mut before = None;
    let mut frames = 0;
    sleep(Duration::from_millis(chance.random_range(0..200))).await;
    port.up();
    while let Some(call) = port.call().await {
        match call {
            Call::Life { reply } => port.answer_life(reply, Ok(Life::Proven)),
            Call::Expose { .. } => {}
            Call::Grab { reply, .. } => {
                let Some(part) = world.part() else { continue };
                let (camera, asked) = (|| "simulated".to_owned(), clock::now());
                frames += 1;
                sleep(Duration::from_millis(chance.random_range(0..8))).await;
                let whole = |image: &Image, exposed| Frame {
                    image: image.clone(),
                    number: frames,
                    exposed,
                    path: None,
                    truth: None,
                };
                let image = picture(part.number);
                let answer = match part.fate {
                    Fate::CameraLost => {
                        Err(CameraError::Away { camera: camera(), reason: "unplugged".into() })
                    }
                    Fate::FrameLate => {
                        sleep(DEADLINE * 2).await;
                        Ok(whole(&image, asked))
                    }
                    Fate::FrameIncomplete => {
                        Err(CameraError::Incomplete { camera: camera(), number: frames, status: "simulated" })
                    }
                    Fate::FrameGap => {
                        Err(CameraError::Gap { camera: camera(), number: frames, last: frames - 1 })
                    }
                    Fate::NoFrame => Err(CameraError::NoFrame { camera: camera(), timeout_ms: 0 }),
                    Fate::FrameRepeated | Fate::FrameStale if before.is_none() => {
                        Err(CameraError::NoFrame { camera: camera(), timeout_ms: 0 })
                    }
                    Fate::FrameRepeated => Ok(whole(before.as_ref().unwrap(), clock::now())),
                    Fate::FrameStale => Ok(whole(&image, asked - Duration::from_secs(1))),
                    _ => Ok(whole(&image, clock::now())),
                };
                if let Ok(frame) = &answer {
                    before = Some(frame.image.clone());
                }
                let lost = matches!(answer, Err(CameraError::Away { .. }));
                port.answer_grab(reply, answer);
                if lost {
                    sleep(Duration::from_millis(chance.random_range(10..2_000))).await;
                    port.up();
                }
            }
        }
    }
}

/// The port stands in its place.
struct NoScorer;

impl Scorer for NoScorer {
    fn run(&mut self, _: &[u8], _: &mut Vec<f32>, _: &mut Vec<f32>) -> Result<(), ScorerError> {
        unreachable!("nothing asks it")
    }
}

/// What the model in service is.
pub fn in_service() -> InService {
    let Loaded { card, sha256, map, provider, fell_back, .. } = stub::loaded(Box::new(NoScorer));
    InService { card, sha256, map, provider, fell_back }
}

/// Serves a scorer's requests for ever: the score of the part in the picture, or what befalls it.
pub async fn scorer(port: ScorerPort, world: World, seed: u64) {
    let mut chance = StdRng::seed_from_u64(seed);
    let model = in_service();
    let card: Arc<Card> = Arc::clone(&model.card);
    sleep(Duration::from_millis(chance.random_range(0..500))).await;
    port.say(Service::Ready(model.clone()));
    loop {
        port.prove();
        sleep(Duration::from_millis(1)).await;
        let Some(asked) = port.take() else { continue };
        let shown = asked.image.data()[..8].try_into().map(u64::from_le_bytes).unwrap();
        let part = world.part().filter(|part| part.number == shown);
        let fate = part.map_or(Fate::Judged, |part| part.fate);
        sleep(Duration::from_millis(chance.random_range(1..6))).await;
        match fate {
            Fate::ScoreNan => asked.answer(&card, Ok(f32::NAN)),
            Fate::ScorerFails => asked.answer(&card, Err(FaultCode::ScorerError)),
            Fate::ScoreLate => {
                sleep(DEADLINE).await;
                asked.answer(&card, Ok(0.1)); // it would pass
            }
            Fate::ModelCrashes => {
                port.say(Service::Away("crashed".into()));
                drop(asked);
                sleep(Duration::from_millis(chance.random_range(10..1_000))).await;
                port.say(Service::Ready(model.clone()));
            }
            // A picture of no part that lies there: nothing of it may pass.
            _ => asked.answer(&card, Ok(part.map_or(0.1, |part| part.score))),
        }
    }
}
