//! A scorer without its thread, for simulated time: a task takes what is asked and answers it.
//!
//! Never here: a model.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use inspect_core::card::Card;
use inspect_core::image::Image;
use inspect_core::verdict::FaultCode;
use tokio::sync::{oneshot, watch};

use super::{Doing, InHand, QUEUE, Request, Scored, ScorerHandle, Service};
use crate::clock;

/// The scorer's end: says what is in service, takes requests.
pub struct ScorerPort {
    incoming: Receiver<Request>,
    service: watch::Sender<Service>,
    proved: watch::Sender<Option<std::time::Instant>>,
}

/// One frame to be scored. Dropped, it says that the model is away.
pub struct Asked {
    /// The frame, as the camera gave it.
    pub image: Arc<Image>,
    in_hand: InHand,
    reply: oneshot::Sender<Scored>,
}

impl ScorerHandle {
    /// Both ends without a thread.
    pub fn pair() -> (Self, ScorerPort) {
        let (requests, incoming) = sync_channel(QUEUE);
        let (service_now, service) = watch::channel(Service::Starting);
        let (proved_now, proved) = watch::channel(None);
        let doing = Arc::<Doing>::default();
        let handle =
            Self { in_hand: Arc::default(), users: Arc::default(), requests, service, proved, doing };
        (handle, ScorerPort { incoming, service: service_now, proved: proved_now })
    }
}

impl ScorerPort {
    /// Says what is in service from now on.
    pub fn say(&self, service: Service) {
        self.service.send_replace(service);
    }

    /// Proves itself, as by a golden image.
    pub fn prove(&self) {
        self.proved.send_replace(Some(clock::now()));
    }

    /// The next request, if one waits.
    pub fn take(&self) -> Option<Asked> {
        let Request { image, in_hand, reply, .. } = self.incoming.try_recv().ok()?;
        Some(Asked { image, in_hand, reply })
    }
}

impl Asked {
    /// Gives the score of the model with this card.
    pub fn answer(self, card: &Arc<Card>, score: Result<f32, FaultCode>) {
        let Self { in_hand, reply, .. } = self;
        drop(in_hand);
        let scored = Scored {
            score,
            card: Arc::clone(card),
            map: Vec::new(),
            resize: Duration::ZERO,
            run: Duration::ZERO,
            measured: None,
        };
        let _ = reply.send(scored); // nobody may be waiting any more
    }
}
