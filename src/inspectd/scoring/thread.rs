//! The thread itself: it loads, scores in batches, and proves itself on golden images while idle.
//!
//! Never here: who may ask ([`super::ScorerHandle`]).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use inspect_core::card::Input;
use inspect_core::reference::PictureMeasures;
use inspect_core::resize::Resizer;
use inspect_core::scorer::{GOLDEN_TOLERANCE, golden_inputs};
use inspect_core::verdict::FaultCode;
use tokio::sync::{oneshot, watch};

use super::{
    Doing, InHand, InService, LOAD_LIMIT, Load, Loaded, RUN_OVER, Request, Scored, ScoringError, Service,
    Work,
};

/// An idle scorer proves itself on a golden image this often.
const IDLE_PROOF: Duration = Duration::from_millis(1000);
/// A model that does not load is tried again after this long.
const RELOAD: Duration = Duration::from_secs(5);

/// A request whose input is at hand.
struct Fitted {
    in_hand: InHand,
    reply: oneshot::Sender<Scored>,
    resize: Duration,
}

pub(super) struct Thread {
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
    doing: Arc<Doing>,
}

impl Thread {
    pub(super) fn new(
        incoming: Receiver<Request>,
        service: watch::Sender<Service>,
        proved: watch::Sender<Option<Instant>>,
        doing: Arc<Doing>,
    ) -> Self {
        Self {
            incoming,
            service,
            proved,
            resizer: Resizer::default(),
            batch: Vec::new(),
            scores: Vec::new(),
            maps: Vec::new(),
            run_takes: Duration::ZERO,
            trouble: None,
            doing,
        }
    }

    pub(super) fn run(mut self, mut load: Load) {
        loop {
            match self.doing.during(Work::Load, LOAD_LIMIT, || contained(&mut load)) {
                Ok(loaded) => {
                    self.proved.send_replace(Some(Instant::now()));
                    self.service.send_replace(Service::Ready(InService {
                        card: Arc::clone(&loaded.card),
                        sha256: Arc::clone(&loaded.sha256),
                        map: loaded.map,
                        provider: loaded.provider,
                        fell_back: loaded.fell_back,
                    }));
                    self.doing.changed();
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
            self.doing.changed();
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
            let limit = self.run_takes + RUN_OVER;
            match self.doing.during(Work::Proof, limit, || prove(&mut loaded, &golden[n], n)) {
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
            let _ = late.answer(loaded, Err(FaultCode::ScorerBusy), Vec::new(), Duration::ZERO);
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
                let _ = fitted_in.answer(loaded, Err(fault), Vec::new(), Duration::ZERO);
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
        let limit = self.run_takes * count as u32 + RUN_OVER;
        let ran = self
            .doing
            .during(Work::Run, limit, || contained(|| Ok(loaded.scorer.run(inputs, scores, maps)?)));
        let took = start.elapsed();
        // Fast to believe in a faster run, slow in a slower one: one hiccup refuses no parts.
        self.run_takes = if took < self.run_takes { took } else { (self.run_takes * 7 + took) / 8 };
        if ran.is_ok() && scores.iter().all(|s| s.is_finite()) {
            self.proved.send_replace(Some(Instant::now()));
        }
        let mut measuring = Vec::new();
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
            measuring.extend(fitted.answer(loaded, score, map, took).map(|tell| (n, tell)));
        }
        measure(loaded.card.input, inputs, measuring);
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
    /// Gives back where the input's measures are awaited, if they are.
    fn answer(
        self,
        loaded: &Loaded,
        score: Result<f32, FaultCode>,
        map: Vec<f32>,
        run: Duration,
    ) -> Option<oneshot::Sender<PictureMeasures>> {
        let Self { in_hand, reply, resize } = self;
        drop(in_hand);
        let (tell, measured) = oneshot::channel();
        let measured = score.is_ok().then_some(measured);
        // Nobody may be waiting any more: the part was late.
        reply
            .send(Scored { score, card: Arc::clone(&loaded.card), map, resize, run, measured })
            .is_ok_and(|()| !tell.is_closed())
            .then_some(tell)
    }
}

/// Measures inputs that were answered: nobody waits for it but the next part, for some 50 microseconds each (256 x 256).
fn measure(input: Input, inputs: &[u8], measuring: Vec<(usize, oneshot::Sender<PictureMeasures>)>) {
    for (n, tell) in measuring {
        let pixels = inputs.get(n * input.bytes()..(n + 1) * input.bytes()).unwrap_or_default();
        if let Some(measures) = PictureMeasures::of(pixels, input) {
            let _ = tell.send(measures); // nobody watches any more
        }
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
