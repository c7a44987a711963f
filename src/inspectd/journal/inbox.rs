//! What the line and the readers hand to the writer thread: one lock, held for a push or a swap, never for the disk.
//!
//! Bounds: inspections by the ring's slots, events by [`EVENT_PLACES`], cursors by their names.
//!
//! Never here: waiting on the line's side, the disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::ring::{Found, FoundStation, Ring};
use super::{CLOSE_LIMIT, COMMIT_EVERY, CURSOR_DELAY, EVENT_PLACES, MAX_BATCH};
use crate::clock;
use crate::record::{Event, Inspection, Lost};

/// One record on its way to the disk.
pub(super) enum Item {
    /// Of one part, and its slot.
    Inspection(Box<Inspection>, u32),
    /// Anything else.
    Event(Event),
}

/// What the writer takes in one go.
#[derive(Default)]
pub(super) struct Work {
    /// In the order of handing over.
    pub items: Vec<Item>,
    /// Consumers' new places.
    pub cursors: BTreeMap<String, (Uuid, u64)>,
    /// Consumers that are gone.
    pub forgotten: BTreeSet<String>,
    /// Those that are there, wherever they are.
    pub consumers: BTreeSet<String>,
    /// Of each station, parts without a slot that no record tells of yet.
    pub lost: BTreeMap<String, Lost>,
    /// A journal that a reader found damaged, and how.
    pub suspect: Option<(Uuid, String)>,
    /// Set once the journal is to be closed: until when.
    pub closing: Option<Closing>,
    /// Slots taken and not yet written.
    pub open_slots: usize,
    /// Items left for the next go.
    pub more: bool,
}

/// How the journal is to be closed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closing {
    /// Until when the disk is waited for.
    pub deadline: Instant,
    /// Whether the stop is in order.
    pub clean: bool,
}

type Outcome = Result<(), (usize, String)>;

#[derive(Default)]
struct Inbox {
    items: VecDeque<Item>,
    /// When the oldest of them came.
    items_since: Option<Instant>,
    /// Each station's last part number; none before the journal was opened.
    numbers: Option<BTreeMap<String, u64>>,
    /// Slots that can be taken.
    free: Vec<u32>,
    /// Of the slot that was taken last; grows.
    order: u64,
    /// Slots taken, inspections queued and inspections in the writer's hands.
    reserved: usize,
    /// Of these, slots taken and not yet written.
    open_slots: usize,
    /// A slot stays taken for the next start to find.
    has_left: bool,
    events: usize,
    dropped_events: u64,
    cursors: BTreeMap<String, (Uuid, u64)>,
    cursors_since: Option<Instant>,
    forgotten: BTreeSet<String>,
    consumers: BTreeSet<String>,
    /// Of each station, the last part without a slot, and how many there were that no record tells of yet.
    lost: BTreeMap<String, Lost>,
    lost_since: Option<Instant>,
    suspect: Option<(Uuid, String)>,
    closing: Option<Closing>,
    closed: Option<Outcome>,
}

/// The inbox, between the handles and the writer thread.
pub(super) struct Shared {
    inbox: Mutex<Inbox>,
    /// Something came for the writer.
    work: Condvar,
    /// The writer is done.
    done: Condvar,
    pub ring: Ring,
}

/// The number of a part, and its slot with its order if there was one.
pub(super) type Place = (u64, Option<(u32, u64)>);

impl Shared {
    /// `found`: what the last run left, whose slots stay taken until they are [`written`](Self::written).
    pub fn new(ring: Ring, found: &Found) -> Self {
        let taken: BTreeSet<u32> = found.taken().collect();
        let slots = u32::try_from(found.slots).unwrap_or(0);
        let lost = |station: &FoundStation| {
            (station.name.clone(), Lost { parts: station.without_slot, last: station.last })
        };
        let inbox = Inbox {
            free: (0..slots).rev().filter(|slot| !taken.contains(slot)).collect(),
            order: found.order,
            reserved: taken.len(),
            lost: found.stations.iter().filter(|station| station.without_slot > 0).map(lost).collect(),
            ..Inbox::default()
        };
        Self { inbox: Mutex::new(inbox), work: Condvar::new(), done: Condvar::new(), ring }
    }

    /// The journal is open: from here on parts have numbers, those after these.
    pub fn number_from(&self, numbers: BTreeMap<String, u64>) {
        self.lock().numbers = Some(numbers);
    }

    /// Each station's last number; none while the ring has a part whose record is not written.
    pub fn numbers(&self) -> Option<BTreeMap<String, u64>> {
        let inbox = self.lock();
        inbox.numbers.clone().filter(|_| inbox.reserved == 0 && !inbox.has_left)
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next part of a station. Without a number (0) as long as the journal was never open; without a slot if
    /// the ring is full, or the journal closed.
    pub fn place(&self, station: &str) -> Place {
        let mut inbox = self.lock();
        let Some(numbers) = &mut inbox.numbers else { return (0, None) };
        let number = match numbers.get_mut(station) {
            Some(number) => {
                *number = number.saturating_add(1);
                *number
            }
            None => {
                numbers.insert(station.to_owned(), 1);
                1
            }
        };
        if inbox.closing.is_some() {
            return (number, None);
        }
        let Some(slot) = inbox.free.pop() else { return (number, None) };
        inbox.order = inbox.order.wrapping_add(1);
        inbox.reserved += 1;
        inbox.open_slots += 1;
        (number, Some((slot, inbox.order)))
    }

    /// Whether a part would find a slot now.
    pub fn has_place(&self) -> bool {
        let inbox = self.lock();
        inbox.numbers.is_some() && inbox.closing.is_none() && !inbox.free.is_empty()
    }

    /// A part without a slot: its record may be lost. It is told in the journal as soon as that can be written; until
    /// then the ring knows.
    ///
    /// Errors: the ring's.
    pub fn lose(&self, station: &str, part: u64) -> std::io::Result<()> {
        let mut inbox = self.lock();
        if !inbox.lost.contains_key(station) {
            inbox.lost.insert(station.to_owned(), Lost::default());
        }
        let Some(lost) = inbox.lost.get_mut(station) else { return Ok(()) };
        *lost = Lost { parts: lost.parts + 1, last: part.max(lost.last) };
        let Lost { parts, last } = *lost;
        if inbox.lost_since.is_none() {
            inbox.lost_since = Some(clock::now());
            self.work.notify_one();
        }
        // Under the lock: else an older count could take the place of a newer one.
        self.ring.without_slot(station, last, parts)
    }

    /// For the writer: parts that no record tells of yet.
    pub fn lost(&self) -> BTreeMap<String, Lost> {
        untold(&self.lock())
    }

    /// For the writer: records on the disk tell of these.
    pub fn told(&self, told: &BTreeMap<String, Lost>) {
        let mut inbox = self.lock();
        for (station, told) in told {
            let Some(lost) = inbox.lost.get_mut(station) else { continue };
            lost.parts = lost.parts.saturating_sub(told.parts);
            let Lost { parts, last } = *lost;
            if parts > 0 {
                inbox.lost_since.get_or_insert_with(clock::now);
            }
            if let Err(error) = self.ring.without_slot(station, last, parts) {
                tracing::warn!(%error, station, "the ring cannot be written: lost parts will be told twice");
            }
        }
    }

    /// A slot whose part was published and will not be written in this run: it stays taken.
    pub fn leave(&self) {
        let mut inbox = self.lock();
        inbox.has_left = true;
        inbox.open_slots = inbox.open_slots.saturating_sub(1);
        inbox.reserved = inbox.reserved.saturating_sub(1);
    }

    /// A slot that was taken and is not needed.
    pub fn give_back(&self, slot: u32) {
        let freed = self.ring.free(slot);
        let mut inbox = self.lock();
        inbox.open_slots = inbox.open_slots.saturating_sub(1);
        inbox.reserved = inbox.reserved.saturating_sub(1);
        if freed.is_ok() {
            inbox.free.push(slot);
        }
    }

    /// Hands an inspection over. Never waits.
    pub fn hand_over(&self, inspection: Inspection, slot: u32) {
        let mut inbox = self.lock();
        inbox.open_slots = inbox.open_slots.saturating_sub(1);
        if inbox.closed.is_some() {
            tracing::warn!(station = %inspection.station, part = inspection.part,
                "the journal is closed: the next start finds this part in the ring");
            return;
        }
        inbox.items.push_back(Item::Inspection(Box::new(inspection), slot));
        let first = inbox.items.len() == 1;
        let full = inbox.items.len() >= MAX_BATCH;
        inbox.items_since.get_or_insert_with(clock::now);
        drop(inbox); // else the writer wakes only to wait for the lock
        if first || full {
            self.work.notify_one();
        }
    }

    pub fn event(&self, event: Event) {
        let mut inbox = self.lock();
        if inbox.events >= EVENT_PLACES || inbox.closed.is_some() {
            inbox.dropped_events += 1;
            return;
        }
        inbox.events += 1;
        inbox.items.push_back(Item::Event(event));
        inbox.items_since.get_or_insert_with(clock::now);
        self.work.notify_one();
    }

    pub fn dropped_events(&self) -> u64 {
        self.lock().dropped_events
    }

    pub fn reserved(&self) -> usize {
        self.lock().reserved
    }

    pub fn is_settled(&self) -> bool {
        let inbox = self.lock();
        inbox.reserved == 0 && inbox.events == 0 && inbox.lost.values().all(|lost| lost.parts == 0)
    }

    pub fn cursor(&self, consumer: &str, journal: Uuid, sequence: u64) {
        let mut inbox = self.lock();
        inbox.cursors.insert(consumer.to_owned(), (journal, sequence));
        if inbox.cursors_since.is_none() {
            inbox.cursors_since = Some(clock::now());
            self.work.notify_one();
        }
    }

    pub fn consumer(&self, name: &str) {
        let mut inbox = self.lock();
        inbox.forgotten.remove(name);
        if inbox.consumers.insert(name.to_owned()) {
            inbox.cursors_since.get_or_insert_with(clock::now);
            self.work.notify_one();
        }
    }

    pub fn forget(&self, consumer: &str) {
        let mut inbox = self.lock();
        inbox.cursors.remove(consumer);
        inbox.consumers.remove(consumer);
        inbox.forgotten.insert(consumer.to_owned());
        self.work.notify_one();
    }

    pub fn suspect(&self, journal: Uuid, reason: String) {
        self.lock().suspect = Some((journal, reason));
        self.work.notify_one();
    }

    /// Asks the writer to finish and waits for it.
    pub fn close(&self) -> Outcome {
        let deadline = clock::now() + CLOSE_LIMIT;
        let mut inbox = self.lock();
        if inbox.closing.is_none() {
            inbox.closing = Some(Closing { deadline, clean: true });
            self.work.notify_one();
        }
        loop {
            if let Some(outcome) = &inbox.closed {
                return outcome.clone();
            }
            // The writer ends by the deadline unless the disk itself blocks it.
            let left = (deadline + CLOSE_LIMIT).saturating_duration_since(clock::now());
            if left.is_zero() {
                return Err((inbox.reserved + inbox.events, "the disk does not answer".to_owned()));
            }
            inbox = self.done.wait_timeout(inbox, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The last handle is gone without closing: finish, but not as a clean stop.
    pub fn abandon(&self) {
        let mut inbox = self.lock();
        if inbox.closing.is_none() {
            inbox.closing = Some(Closing { deadline: clock::now() + CLOSE_LIMIT, clean: false });
            self.work.notify_one();
        }
    }

    /// For the writer: waits at most `limit` for work. What comes within [`COMMIT_EVERY`] is one go.
    pub fn take(&self, limit: Duration) -> Work {
        let until = clock::now() + limit;
        let mut inbox = self.lock();
        loop {
            let now = clock::now();
            let cursors_due = inbox.cursors_since.map(|since| since + CURSOR_DELAY);
            let items_due = inbox.items_since.map(|since| since + COMMIT_EVERY);
            let lost_due = inbox.lost_since.map(|since| since + COMMIT_EVERY);
            let due = [cursors_due, items_due, lost_due].into_iter().flatten().min();
            let now_due = inbox.items.len() >= MAX_BATCH
                || inbox.free.is_empty() && !inbox.items.is_empty()
                || !inbox.forgotten.is_empty()
                || inbox.suspect.is_some()
                || inbox.closing.is_some()
                || due.is_some_and(|at| at <= now);
            if now_due || now >= until {
                break;
            }
            let wake = due.map_or(until, |at| at.min(until));
            let waited = self.work.wait_timeout(inbox, wake - now);
            inbox = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let count = inbox.items.len().min(MAX_BATCH);
        // With each commit: after a power cut nothing else tells why numbers before it are missing.
        (inbox.cursors_since, inbox.lost_since) = (None, None);
        inbox.items_since = inbox.items_since.filter(|_| inbox.items.len() > count);
        Work {
            items: inbox.items.drain(..count).collect(),
            cursors: std::mem::take(&mut inbox.cursors),
            forgotten: std::mem::take(&mut inbox.forgotten),
            consumers: inbox.consumers.clone(),
            lost: untold(&inbox),
            suspect: inbox.suspect.take(),
            closing: inbox.closing,
            open_slots: inbox.open_slots,
            more: !inbox.items.is_empty(),
        }
    }

    /// For the writer: pauses after a failure; closing ends the pause early only the first time it is seen.
    pub fn pause(&self, length: Duration) -> Option<Closing> {
        let until = clock::now() + length;
        let mut inbox = self.lock();
        let was_closing = inbox.closing.is_some();
        while clock::now() < until && (was_closing || inbox.closing.is_none()) {
            let left = until.saturating_duration_since(clock::now());
            inbox = self.work.wait_timeout(inbox, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        inbox.closing
    }

    /// For the writer: these are on the disk, their places are free. Takes them out of `slots`.
    pub fn written(&self, slots: &mut Vec<u32>, events: usize) {
        let count = slots.len();
        // A slot that cannot be freed stays taken: its part would come into the journal twice at the next start.
        slots.retain(|slot| self.ring.free(*slot).is_ok());
        let mut inbox = self.lock();
        inbox.reserved = inbox.reserved.saturating_sub(count);
        inbox.events = inbox.events.saturating_sub(events);
        inbox.free.append(slots);
    }

    /// For the writer: it ends.
    pub fn closed(&self, outcome: Outcome) {
        self.lock().closed = Some(outcome);
        self.done.notify_all();
    }
}

fn untold(inbox: &Inbox) -> BTreeMap<String, Lost> {
    let untold = inbox.lost.iter().filter(|(_, lost)| lost.parts > 0);
    untold.map(|(name, lost)| (name.clone(), *lost)).collect()
}
