//! The scorer's thread: loads a model, proves it on its golden images, scores frames, and proves itself
//! again while idle.
//!
//! A request whose deadline has passed is still scored, for whoever wants to know it all the same, but not while others
//! wait: where parts come faster than they can be scored, time goes to those that can still be in time.
//!
//! A GPU or its driver may hang: a run, a load or a proof that has not come back within its bound ([`Doing`]) is a stuck
//! scorer. Its thread cannot be ended, and a session beside one that hangs is not worth a try: the process ends
//! ([`crate::supervise`]).
//!
//! Never here: deadlines, verdicts.

mod doing;
mod port;
mod thread;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use inspect_core::card::Card;
use inspect_core::image::{Image, ImageError, Roi};
use inspect_core::model::{ModelError, ModelFile};
use inspect_core::reference::PictureMeasures;
use inspect_core::runtime::{Provider, Runtime};
use inspect_core::scorer::{OnnxScorer, Scorer, ScorerError};
use inspect_core::verdict::FaultCode;
use tokio::sync::{oneshot, watch};

use crate::cores::keep_to;
use crate::models::ModelsConfig;
use crate::models::signature::{SignatureError, Signer};
pub use doing::{Doing, LOAD_LIMIT, RUN_OVER, Stuck, Work};
pub use port::{Asked, ScorerPort};
use thread::Thread;

/// Requests of one user that are not done: one that came too late and is still scored, and the next.
const IN_HAND: usize = 2;
/// Requests that wait for the thread, of all users, see [`ScorerHandle::another_user`]. More users than these
/// are told that the scorer is busy.
const QUEUE: usize = 64;

/// Why a model is not in service.
#[derive(Debug, thiserror::Error)]
pub enum ScoringError {
    /// The file is refused.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A key is set, and nobody that it belongs to vouches for the file.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// It does not load, run, or reproduce its golden images.
    #[error(transparent)]
    Scorer(#[from] ScorerError),
    /// The frame cannot be brought to the model's input.
    #[error("the frame does not fit the view: {0}")]
    Frame(#[from] ImageError),
    /// A golden image scored otherwise than its card says, after it had been right at loading.
    #[error("golden image `{name}` scored {got} while idle, its card says {expected}")]
    Drifted {
        /// Which golden image.
        name: String,
        /// The card's score.
        expected: f32,
        /// What came out now.
        got: f32,
    },
    /// The scorer panicked.
    #[error("the scorer panicked: {0}")]
    Panic(String),
}

/// A model in service.
pub struct Loaded {
    /// The scorer.
    pub scorer: Box<dyn Scorer>,
    /// What the model's card says.
    pub card: Arc<Card>,
    /// SHA-256 of the model file.
    pub sha256: Arc<str>,
    /// Shape of the anomaly map: height, width.
    pub map: (usize, usize),
    /// Provider that really runs it.
    pub provider: Provider,
    /// Whether a more preferred provider could not be had.
    pub fell_back: bool,
}

/// Makes a model ready for service; called on the scorer's thread, again after a failure.
pub type Load = Box<dyn FnMut() -> Result<Loaded, ScoringError> + Send>;

/// The production loader: file, card, signature, session, warm-up, golden images. `cores`: where it and its session run.
pub fn load_onnx(path: PathBuf, runtime: Runtime, cores: Vec<usize>, models: ModelsConfig) -> Load {
    Box::new(move || {
        if let Err(error) = keep_to(&cores) {
            tracing::warn!(%error, "the scorer runs on any core");
        }
        let file = ModelFile::read(&path)?;
        if let Some(signer) = Signer::of(&models)? {
            signer.verify_in_place(&file)?;
        }
        let mut scorer = OnnxScorer::load(&file, &runtime)?;
        if let Err(error) = scorer.find_batch(&file) {
            // Single inputs are proven; only larger batches than the last that was good are not used.
            tracing::warn!(model = %path.display(), %error, batch = scorer.batch(), "a larger batch does not work here");
        }
        let provider = scorer.provider();
        tracing::info!(
            model = %path.display(), name = file.card.name, sha256 = file.sha256, %provider,
            golden_difference = scorer.golden_difference(), batch = scorer.batch(), "model ready"
        );
        Ok(Loaded {
            scorer: Box::new(scorer),
            card: Arc::new(file.card),
            sha256: file.sha256.into(),
            map: file.map,
            provider,
            fell_back: runtime.providers.first() != Some(&provider),
        })
    })
}

/// What is known of the model, for everyone but the scorer's thread.
#[derive(Debug, Clone)]
pub struct InService {
    /// Its card.
    pub card: Arc<Card>,
    /// SHA-256 of the file.
    pub sha256: Arc<str>,
    /// Shape of the anomaly map: height, width.
    pub map: (usize, usize),
    /// Provider that really runs it.
    pub provider: Provider,
    /// Whether a more preferred provider could not be had.
    pub fell_back: bool,
}

/// The scorer's state.
#[derive(Debug, Clone, Default)]
pub enum Service {
    /// The first load is under way.
    #[default]
    Starting,
    /// Ready.
    Ready(InService),
    /// Not to be had; why.
    Away(String),
}

/// A score with its map and what it cost.
#[derive(Debug)]
pub struct Scored {
    /// The score or why there is none.
    pub score: Result<f32, FaultCode>,
    /// Card of the model that gave it.
    pub card: Arc<Card>,
    /// Shape: `[h, w]`, see [`InService::map`].
    pub map: Vec<f32>,
    /// Frame to input.
    pub resize: Duration,
    /// The model's run.
    pub run: Duration,
    /// What the input measures; sent after this, so that no part waits for it. None where there is no score.
    pub measured: Option<oneshot::Receiver<PictureMeasures>>,
}

struct Request {
    image: Arc<Image>,
    roi: Option<Roi>,
    deadline: Instant,
    /// Its user may ask again when this is dropped: before the reply, which makes it ask.
    in_hand: InHand,
    reply: oneshot::Sender<Scored>,
}

/// One of a user's requests, counted.
struct InHand(Arc<AtomicUsize>);

impl InHand {
    /// None, if there are [`IN_HAND`] already.
    fn take(count: &Arc<AtomicUsize>) -> Option<Self> {
        let more = |n: usize| (n < IN_HAND).then_some(n + 1);
        count.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Self(Arc::clone(count)))
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The way to the scorer's thread, for one user. When the last is dropped the thread ends after the run in hand.
#[derive(Clone)]
pub struct ScorerHandle {
    /// Requests of this user that are not done.
    in_hand: Arc<AtomicUsize>,
    /// As many as there are users, and one.
    users: Arc<()>,
    requests: SyncSender<Request>,
    service: watch::Receiver<Service>,
    proved: watch::Receiver<Option<Instant>>,
    doing: Arc<Doing>,
}

impl ScorerHandle {
    /// Starts the thread.
    ///
    /// Errors: the system's, if no thread can be had.
    pub fn start(view: &str, load: Load) -> std::io::Result<Self> {
        let (requests, incoming) = sync_channel(QUEUE);
        let (service_now, service) = watch::channel(Service::Starting);
        let (proved_now, proved) = watch::channel(None);
        let doing = Arc::<Doing>::default();
        let thread = Thread::new(incoming, service_now, proved_now, Arc::clone(&doing));
        std::thread::Builder::new().name(format!("score-{view}")).spawn(move || thread.run(load))?;
        Ok(Self { in_hand: Arc::default(), users: Arc::default(), requests, service, proved, doing })
    }

    /// The same thread for one user more: what others ask does not count as this one's.
    pub fn another_user(&self) -> Self {
        Self { in_hand: Arc::default(), ..self.clone() }
    }

    /// How many other users there are than this.
    pub fn users(&self) -> usize {
        Arc::strong_count(&self.users) - 1
    }

    /// Hands a frame over and gives the receiver of its score. Where it could not be there by `deadline` and others
    /// wait, the answer is [`FaultCode::ScorerBusy`].
    ///
    /// Errors: as [`in_service`](Self::in_service); [`FaultCode::ScorerBusy`].
    pub fn request(
        &self,
        image: Arc<Image>,
        roi: Option<Roi>,
        deadline: Instant,
    ) -> Result<oneshot::Receiver<Scored>, FaultCode> {
        self.in_service()?;
        let in_hand = InHand::take(&self.in_hand).ok_or(FaultCode::ScorerBusy)?;
        let (reply, receiver) = oneshot::channel();
        self.requests.try_send(Request { image, roi, deadline, in_hand, reply }).map_err(|e| match e {
            TrySendError::Full(_) => FaultCode::ScorerBusy,
            TrySendError::Disconnected(_) => FaultCode::Internal,
        })?;
        Ok(receiver)
    }

    /// The state, to look at or to wait on.
    pub fn service(&self) -> watch::Receiver<Service> {
        self.service.clone()
    }

    /// The model, where it can be asked now.
    ///
    /// Errors: [`FaultCode::Starting`], [`FaultCode::ModelAway`], [`FaultCode::ScorerStuck`].
    pub fn in_service(&self) -> Result<InService, FaultCode> {
        if self.stuck().is_some() {
            return Err(FaultCode::ScorerStuck);
        }
        match &*self.service.borrow() {
            Service::Starting => Err(FaultCode::Starting),
            Service::Away(_) => Err(FaultCode::ModelAway),
            Service::Ready(model) => Ok(model.clone()),
        }
    }

    /// What it hangs in, where it does.
    pub fn stuck(&self) -> Option<Stuck> {
        self.doing.stuck()
    }

    /// When its state changed last.
    pub fn since(&self) -> Option<Instant> {
        self.doing.since()
    }

    /// What keeps the model from service, in words; empty where nothing does.
    pub fn why_away(&self) -> String {
        if let Some(stuck) = self.stuck() {
            return stuck.to_string();
        }
        match &*self.service.borrow() {
            Service::Away(why) => why.clone(),
            _ => String::new(),
        }
    }

    /// When the scorer last proved itself: a part scored, or a golden image reproduced.
    pub fn proved(&self) -> Option<Instant> {
        *self.proved.borrow()
    }
}
