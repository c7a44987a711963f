//! A station's parts: each gets its number and its slot in the ring when it is accepted, and keeps the slot until
//! the journal has its record on the disk.
//!
//! Never here: waiting, the disk, a verdict but Fault(internal) for a part that the station gave up.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use inspect_core::verdict::{FaultCode, Verdict};

use super::inbox::Shared;
use super::ring::{Last, Opened};
use crate::plc::result::{Accepted, Published};
use crate::record::{Gate, Inspection, RECORD_SCHEMA, Times, TriggerSource};

/// Gives the parts of one station their numbers and slots.
pub struct Parts {
    shared: Arc<Shared>,
    station: String,
    source: TriggerSource,
    simulated: bool,
    failing: AtomicBool,
    /// The newest part found no slot.
    refused: AtomicBool,
}

/// A trigger that was accepted, with its number, and its slot if there was one.
pub struct Taken {
    /// What the PLC said.
    pub accepted: Accepted,
    /// Number of the part at its station; 0 where there is no station yet, or the journal was never open.
    pub part: u64,
    /// None: the ring is full, so the part cannot be proven.
    pub slot: Option<Slot>,
}

impl Parts {
    pub(super) fn new(
        shared: Arc<Shared>,
        station: &str,
        (source, simulated): (TriggerSource, bool),
    ) -> Self {
        let (failing, refused) = Default::default();
        Self { shared, station: station.to_owned(), source, simulated, failing, refused }
    }

    /// Takes a part in. Two writes into memory, microseconds.
    pub fn take(&self, accepted: Accepted) -> Taken {
        let shared = &self.shared;
        let (part, place) = shared.place(&self.station);
        let trigger = accepted.trigger(self.source);
        let opened = Opened { station: self.station.clone(), part, trigger, simulated: self.simulated };
        let slot = place.and_then(|(at, order)| match shared.ring.accept(at, order, &opened) {
            Ok(()) => Some(Slot {
                shared: Arc::clone(shared),
                at,
                order,
                opened: Some(opened),
                is_published: Cell::new(false),
            }),
            Err(error) => {
                shared.give_back(at);
                self.failed(&error);
                None
            }
        });
        self.refused.store(slot.is_none(), Ordering::Relaxed);
        if slot.is_none()
            && let Err(error) = shared.lose(&self.station, part)
        {
            self.failed(&error);
        }
        Taken { accepted, part, slot }
    }

    /// Whether the newest part found no slot, and the next would find none either.
    pub fn has_no_place(&self) -> bool {
        self.refused.load(Ordering::Relaxed) && !self.shared.has_place()
    }

    fn failed(&self, error: &std::io::Error) {
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(station = self.station, %error, "the ring cannot be written; said once");
        }
    }
}

/// The place of one part. Dropped unwritten, the part's record says Fault(internal); once it was published the place
/// stays as it is, and the next start finds what the PLC was told.
#[must_use]
pub struct Slot {
    shared: Arc<Shared>,
    at: u32,
    order: u64,
    /// None once it was handed over or given back.
    opened: Option<Opened>,
    is_published: Cell<bool>,
}

impl Slot {
    /// Puts the record into the ring, but for what publication adds. Whether that could be done.
    pub fn judged(&self, record: &Inspection) -> bool {
        let written = self.shared.ring.judged(self.at, self.order, record);
        written.inspect_err(|error| tracing::error!(%error, "the ring cannot be written")).is_ok()
    }

    /// Puts into the ring what publication decided; call before it can be read.
    pub fn published(&self, published: &Published, total_us: u64) {
        let Published { verdict, gate, .. } = *published;
        self.is_published.set(true);
        if let Err(error) = self.shared.ring.last(self.at, self.order, Last { verdict, gate, total_us }) {
            tracing::error!(%error, "the ring cannot be written");
        }
    }

    /// Hands the record over to the journal. Never waits.
    pub fn write(mut self, inspection: Inspection) {
        if self.opened.take().is_some() {
            self.shared.hand_over(inspection, self.at);
        }
    }

    /// The trigger was not accepted after all.
    pub fn give_back(mut self) {
        if self.opened.take().is_some() {
            self.shared.give_back(self.at);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        match self.opened.take() {
            Some(opened) if self.is_published.get() => {
                tracing::error!(
                    station = opened.station,
                    part = opened.part,
                    "the station gave up a part after it was published: the next start finds it in the ring"
                );
                self.shared.leave();
            }
            Some(opened) => self.shared.hand_over(opened.fault(FaultCode::Internal), self.at),
            None => {}
        }
    }
}

impl Opened {
    /// The record of a part that was never judged.
    pub fn fault(self, code: FaultCode) -> Inspection {
        Inspection {
            schema: RECORD_SCHEMA,
            station: self.station,
            part: self.part,
            trigger: self.trigger,
            recipe: None,
            views: Vec::new(),
            verdict: Verdict::Fault(code),
            reason: Some(code.meaning().to_owned()),
            gate: Gate::Reject,
            review_at_gate: Gate::Reject,
            simulated: self.simulated,
            truth: None,
            times_us: Times::default(),
        }
    }
}
