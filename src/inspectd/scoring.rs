//! The scorer's thread: loads a model, proves it on its golden images, scores frames, and proves itself
//! again while idle.
//!
//! A request whose deadline has passed is still scored, for whoever wants to know it all the same, but not while others
//! wait: where parts come faster than they can be scored, time goes to those that can still be in time.
//!
//! Never here: deadlines, verdicts.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use inspect_core::card::Card;
use inspect_core::image::{Image, ImageError, Roi};
use inspect_core::model::{ModelError, ModelFile};
use inspect_core::resize::Resizer;
use inspect_core::runtime::{Provider, Runtime};
use inspect_core::scorer::{GOLDEN_TOLERANCE, OnnxScorer, Scorer, ScorerError, golden_inputs};
use inspect_core::verdict::FaultCode;
use tokio::sync::{oneshot, watch};

use crate::cores::keep_to;
use crate::models::ModelsConfig;
use crate::models::signature::{SignatureError, Signer};

/// Requests of one user that are not done: one that came too late and is still scored, and the next.
const IN_HAND: usize = 2;
/// Requests that wait for the thread, of all users, see [`ScorerHandle::another_user`]. More users than these
/// are told that the scorer is busy.
const QUEUE: usize = 64;
/// An idle scorer proves itself on a golden image this often.
const IDLE_PROOF: Duration = Duration::from_millis(1000);
/// A model that does not load is tried again after this long.
const RELOAD: Duration = Duration::from_secs(5);

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
}

struct Request {
    image: Arc<Image>,
    roi: Option<Roi>,
    deadline: Instant,
    /// Its user may ask again when this is dropped: before the reply, which makes it ask.
    in_hand: InHand,
    reply: oneshot::Sender<Scored>,
}

/// A request whose input is at hand.
struct Fitted {
    in_hand: InHand,
    reply: oneshot::Sender<Scored>,
    resize: Duration,
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
}

impl ScorerHandle {
    /// Starts the thread.
    ///
    /// Errors: the system's, if no thread can be had.
    pub fn start(view: &str, load: Load) -> std::io::Result<Self> {
        let (requests, incoming) = sync_channel(QUEUE);
        let (service_now, service) = watch::channel(Service::Starting);
        let (proved_now, proved) = watch::channel(None);
        std::thread::Builder::new().name(format!("score-{view}")).spawn(move || {
            Thread {
                incoming,
                service: service_now,
                proved: proved_now,
                resizer: Resizer::default(),
                batch: Vec::new(),
                scores: Vec::new(),
                maps: Vec::new(),
                run_takes: Duration::ZERO,
                trouble: None,
            }
            .run(load);
        })?;
        Ok(Self { in_hand: Arc::default(), users: Arc::default(), requests, service, proved })
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
    /// Errors: [`FaultCode::Starting`], [`FaultCode::ModelAway`], [`FaultCode::ScorerBusy`].
    pub fn request(
        &self,
        image: Arc<Image>,
        roi: Option<Roi>,
        deadline: Instant,
    ) -> Result<oneshot::Receiver<Scored>, FaultCode> {
        match &*self.service.borrow() {
            Service::Starting => return Err(FaultCode::Starting),
            Service::Away(_) => return Err(FaultCode::ModelAway),
            Service::Ready(_) => {}
        }
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

    /// What keeps the model from service, in words; empty where nothing does.
    pub fn why_away(&self) -> String {
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

struct Thread {
    incoming: Receiver<Request>,
    service: watch::Sender<Service>,
    proved: watch::Sender<Option<Instant>>,
    resizer: Resizer,
    /// Whose inputs are at hand, in their order.
    batch: Vec<Fitted>,
    scores: Vec<f32>,
    maps: Vec<f32>,
    /// What a run takes, about.
    run_takes: Duration,
    /// What went wrong last, so that a lasting trouble is logged once.
    trouble: Option<String>,
}

impl Thread {
    fn run(mut self, mut load: Load) {
        loop {
            match contained(&mut load) {
                Ok(loaded) => {
                    self.proved.send_replace(Some(Instant::now()));
                    self.service.send_replace(Service::Ready(InService {
                        card: Arc::clone(&loaded.card),
                        sha256: Arc::clone(&loaded.sha256),
                        map: loaded.map,
                        provider: loaded.provider,
                        fell_back: loaded.fell_back,
                    }));
                    match self.serve(loaded) {
                        Some(error) => self.away(&error),
                        None => return,
                    }
                }
                Err(error) => self.away(&error),
            }
            // Requests are refused at the handle while away; what slipped in is answered by dropping it.
            let retry = Instant::now() + RELOAD;
            while let Some(left) = retry.checked_duration_since(Instant::now()) {
                match self.incoming.recv_timeout(left) {
                    Ok(request) => drop(request),
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
    }

    /// Says that the model is away; logs only when the reason is new.
    fn away(&self, error: &ScoringError) {
        let text = error.to_string();
        let known = matches!(&*self.service.borrow(), Service::Away(old) if *old == text);
        if !known {
            tracing::error!(error = text, "model is not in service");
            self.service.send_replace(Service::Away(text));
        }
    }

    /// Scores until the handle is gone (`None`) or the model must be taken out of service.
    fn serve(&mut self, mut loaded: Loaded) -> Option<ScoringError> {
        let most = loaded.scorer.batch().max(1);
        let mut inputs = vec![0; loaded.card.input.bytes() * most];
        let golden = match golden_inputs(&loaded.card) {
            Ok(golden) => golden,
            Err(error) => return Some(error.into()),
        };
        for n in (0..golden.len()).cycle() {
            // A failure is followed by a golden image at once: a broken session must not go on serving.
            loop {
                match self.incoming.recv_timeout(IDLE_PROOF) {
                    Ok(request) => {
                        let request = self.in_time(&loaded, request);
                        // The first waits for the last of its batch: one that is in a hurry goes alone.
                        let hurried = request.deadline < Instant::now() + self.run_takes * (1 + most as u32);
                        let most = if hurried { 1 } else { most };
                        self.fit(&loaded, request, &mut inputs);
                        // Those that wait already; nobody is waited for.
                        while self.batch.len() < most
                            && let Ok(request) = self.incoming.try_recv()
                        {
                            let request = self.in_time(&loaded, request);
                            self.fit(&loaded, request, &mut inputs);
                        }
                        if !self.score(&mut loaded, &inputs) {
                            break;
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return None,
                }
            }
            match prove(&mut loaded, &golden[n], n) {
                Ok(()) => self.proved.send_replace(Some(Instant::now())),
                Err(error) => return Some(error),
            };
        }
        None
    }

    /// This request or, if its score would come too late, the next that waits.
    fn in_time(&mut self, loaded: &Loaded, mut request: Request) -> Request {
        while request.deadline < Instant::now() + self.run_takes
            && let Ok(next) = self.incoming.try_recv()
        {
            let Request { in_hand, reply, .. } = std::mem::replace(&mut request, next);
            let late = Fitted { in_hand, reply, resize: Duration::ZERO };
            late.answer(loaded, Err(FaultCode::ScorerBusy), Vec::new(), Duration::ZERO);
        }
        request
    }

    /// Makes a frame the batch's next input; answers at once if it cannot become one.
    fn fit(&mut self, loaded: &Loaded, request: Request, inputs: &mut [u8]) {
        let Request { image, roi, in_hand, reply, .. } = request;
        let start = Instant::now();
        let bytes = loaded.card.input.bytes();
        let input = &mut inputs[self.batch.len() * bytes..][..bytes];
        // A view's own region takes the place of the one that the training pictures were cut to.
        let roi = roi.or(loaded.card.preprocessing.roi);
        let fitted = contained(|| Ok(self.resizer.run(&image, roi, loaded.card.input, input)?));
        let fitted_in = Fitted { in_hand, reply, resize: start.elapsed() };
        match fitted {
            Ok(()) => self.batch.push(fitted_in),
            Err(error) => {
                let fault = match error {
                    ScoringError::Frame(_) => FaultCode::BadFrame,
                    _ => FaultCode::ScorerError,
                };
                fitted_in.answer(loaded, Err(fault), Vec::new(), Duration::ZERO);
                self.say_trouble(Some(error.to_string()));
            }
        }
    }

    /// Scores those that are at hand. `false` if the scorer itself failed.
    fn score(&mut self, loaded: &mut Loaded, inputs: &[u8]) -> bool {
        let bytes = loaded.card.input.bytes();
        let (mut at, mut good) = (0, true);
        while good && !self.batch.is_empty() {
            // Sizes that were tried at loading: powers of two.
            let count = 1 << self.batch.len().ilog2();
            good = self.score_batch(loaded, &inputs[at * bytes..(at + count) * bytes], count);
            at += count;
        }
        self.batch.clear(); // after a failure: their users see that the model is away
        good
    }

    /// Runs the first `count` as one batch and answers. `false` if the scorer itself failed.
    fn score_batch(&mut self, loaded: &mut Loaded, inputs: &[u8], count: usize) -> bool {
        let pixels = loaded.map.0 * loaded.map.1;
        let (scores, maps) = (&mut self.scores, &mut self.maps);
        maps.reserve(pixels * count);
        let start = Instant::now();
        let ran = contained(|| Ok(loaded.scorer.run(inputs, scores, maps)?));
        let took = start.elapsed();
        // Fast to believe in a faster run, slow in a slower one: one hiccup refuses no parts.
        self.run_takes = if took < self.run_takes { took } else { (self.run_takes * 7 + took) / 8 };
        if ran.is_ok() && scores.iter().all(|s| s.is_finite()) {
            self.proved.send_replace(Some(Instant::now()));
        }
        for (n, fitted) in self.batch.drain(..count).enumerate() {
            let score = match &ran {
                Ok(()) => scores.get(n).copied().ok_or(FaultCode::ScorerError),
                Err(_) => Err(FaultCode::ScorerError),
            };
            let map = match (&score, count) {
                (Err(_), _) => Vec::new(),
                (Ok(_), 1) => std::mem::take(maps),
                (Ok(_), _) => maps.get(n * pixels..(n + 1) * pixels).unwrap_or_default().to_vec(),
            };
            fitted.answer(loaded, score, map, took);
        }
        self.say_trouble(ran.as_ref().err().map(ToString::to_string));
        ran.is_ok()
    }

    /// Logs why a part has no score, when that changes.
    fn say_trouble(&mut self, trouble: Option<String>) {
        if let Some(error) = trouble.as_ref().filter(|_| trouble != self.trouble) {
            tracing::error!(error, "a part could not be scored; said once until it changes");
        }
        self.trouble = trouble;
    }
}

impl Fitted {
    fn answer(self, loaded: &Loaded, score: Result<f32, FaultCode>, map: Vec<f32>, run: Duration) {
        let Self { in_hand, reply, resize } = self;
        drop(in_hand);
        // Nobody may be waiting any more: the part was late.
        let _ = reply.send(Scored { score, card: Arc::clone(&loaded.card), map, resize, run });
    }
}

/// Scores golden image `n` and compares.
fn prove(loaded: &mut Loaded, golden: &[u8], n: usize) -> Result<(), ScoringError> {
    let mut map = Vec::new();
    let got = contained(|| Ok(loaded.scorer.score(golden, &mut map)?))?;
    let expected = &loaded.card.golden[n];
    if (got - expected.score).abs() <= loaded.card.thresholds.reject * GOLDEN_TOLERANCE {
        Ok(())
    } else {
        let name = expected.name.clone();
        Err(ScoringError::Drifted { name, expected: expected.score, got })
    }
}

/// Turns a panic into an error.
fn contained<T>(work: impl FnOnce() -> Result<T, ScoringError>) -> Result<T, ScoringError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".into());
        Err(ScoringError::Panic(text))
    })
}
