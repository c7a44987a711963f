//! The ring: every part from its trigger to the journal's disk, in a file in memory, so that `kill -9` at any
//! moment loses none.
//!
//! Terms. A *slot* holds one part: *open* from its trigger on, *judged* from the moment before its verdict can be
//! read in the registers, free once the journal has it on the disk. Its *order* says when it was opened.
//!
//! A slot has two halves, each with a checksum of its own (CRC-32): the first is written when the part is
//! accepted, the second when it is judged. A process that dies between two bytes leaves the first whole.
//!
//! Why plain writes and not a mapping: the file lies in memory (tmpfs), so a write is a copy of a microsecond
//! that outlives the process as a mapping would; but a file that another process cut short, or a memory that is
//! full, gives an error here and would kill the process there (SIGBUS).
//!
//! File, little-endian: the header ([`HEADER_BYTES`]), a place for each of [`STATION_PLACES`] stations, the slots of
//! [`SLOT_BYTES`]. It is written whole when it is made, so that nothing can be missing later.
//!
//! Never here: the disk (see [`super::store`]), which slot is whose (see [`super::inbox`]).

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use inspect_core::verdict::Verdict;
use serde::{Deserialize, Serialize};

use super::JournalError;
use crate::record::{Gate, Inspection, Trigger};

/// The ring's file name in the run directory.
pub const FILE: &str = "ring.bin";
/// Most stations in one journal.
pub const STATION_PLACES: usize = 64;
/// Longest name of a station.
pub(super) const MAX_NAME_BYTES: usize = 64;
/// Bytes of a slot. An inspection of eight views is about 6,000; one that does not fit is kept without its views.
pub const SLOT_BYTES: usize = 8_192;
/// Where the second half of a slot begins.
const JUDGED_AT: usize = 1_024;
const HEADER_BYTES: usize = 128;
const STATION_BYTES: usize = 256;
/// Where the second half of a station's place begins.
const NUMBERED_AT: usize = 128;
const SLOTS_AT: u64 = (HEADER_BYTES + STATION_PLACES * STATION_BYTES) as u64;
const MAGIC: [u8; 8] = *b"INSPRNG1";
/// Head of each half: order, length of its JSON, CRC-32 of both and of the JSON.
const HEAD_BYTES: usize = 16;
/// Most slots that a file is believed to have.
const MAX_SLOTS: usize = 1 << 16;

/// What is known of a part when it is accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Opened {
    pub station: String,
    pub part: u64,
    pub trigger: Trigger,
    pub simulated: bool,
}

/// What publication adds, last: it has a place of its own before the record, so that the registers' lock is held
/// for one short write only.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Last {
    #[serde(flatten)]
    pub verdict: Verdict,
    pub gate: Gate,
    pub total_us: u64,
}

/// A part that a process left in the ring.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Left {
    pub slot: u32,
    pub order: u64,
    pub opened: Opened,
    /// Its record, if it had been judged: its verdict may have been read in the registers.
    pub judged: Option<Inspection>,
}

/// What a ring held when it was opened.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// In the order of their acceptance.
    pub parts: Vec<Left>,
    /// Each station that had a place.
    pub stations: Vec<FoundStation>,
    /// Slots in the file.
    pub slots: usize,
    /// The greatest order of any part that is, or was, in a slot.
    pub order: u64,
    /// Of these, and of the stations' places, those that do not check.
    pub damaged: usize,
    /// Which slots those are.
    pub damaged_slots: Vec<u32>,
}

/// What a ring knows of a station beside its parts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct FoundStation {
    pub name: String,
    /// The last part number that is known to be given.
    pub last: u64,
    /// Parts that found no slot and were not told yet.
    pub without_slot: u64,
}

/// The open file.
#[derive(Debug)]
pub(super) struct Ring {
    file: File,
    path: PathBuf,
    /// Stations by place.
    places: Mutex<Vec<String>>,
}

/// Bytes of a file.
fn length_of(slots: usize) -> u64 {
    SLOTS_AT + (slots * SLOT_BYTES) as u64
}

impl Found {
    /// Slots that are not free until what they hold is in the journal, or told there.
    pub fn taken(&self) -> impl Iterator<Item = u32> {
        self.parts.iter().map(|left| left.slot).chain(self.damaged_slots.iter().copied())
    }
}

/// Where the last facts of a slot stand, and the record after them.
const LAST_AT: usize = JUDGED_AT;
const LAST_BYTES: usize = 256;
const RECORD_AT: usize = LAST_AT + LAST_BYTES;

impl Ring {
    /// Opens the ring in `dir`, and tells what the last process left in it: those slots stay taken until they are
    /// freed. A file that is none, or has another number of slots and nothing in them, is made anew. One process at a
    /// time has it, until [`release`](Self::release).
    ///
    /// Errors: [`JournalError::Io`], [`JournalError::InUse`].
    pub fn open(dir: &Path, slots: usize) -> Result<(Self, Found), JournalError> {
        let path = dir.join(FILE);
        let io = |source| JournalError::Io { path: path.clone(), source };
        std::fs::create_dir_all(dir).map_err(io)?;
        let file =
            File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JournalError::InUse { path }),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let length = file.metadata().map_err(io)?.len();
        let (mut found, is_ring) = found_in(&file, length.min(length_of(MAX_SLOTS))).map_err(io)?;
        if found.damaged > 0 {
            tracing::error!(path = %path.display(), damaged = found.damaged,
                "slots of the ring are damaged: whether their parts are in the journal cannot be told");
        }
        if found.parts.is_empty() && (length != length_of(slots) || !is_ring) {
            let mut head = vec![0; SLOTS_AT as usize];
            if is_ring && length >= SLOTS_AT {
                // What is still to be told of stations.
                file.read_exact_at(&mut head, 0).map_err(io)?;
            }
            head[..8].copy_from_slice(&MAGIC);
            file.write_all_at(&head, 0).map_err(io)?;
            for slot in 0..slots as u32 {
                file.write_all_at(&[0; SLOT_BYTES], Self::at(slot)).map_err(io)?;
            }
            found.damaged_slots.clear();
            file.set_len(length_of(slots)).map_err(io)?;
            found.slots = slots;
        }
        let places = Mutex::new(found.stations.iter().map(|station| station.name.clone()).collect());
        Ok((Self { file, path, places }, found))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets another have it.
    pub fn release(&self) {
        if let Err(error) = self.file.unlock() {
            tracing::warn!(%error, path = %self.path.display(), "the ring cannot be unlocked");
        }
    }

    fn at(slot: u32) -> u64 {
        SLOTS_AT + u64::from(slot) * SLOT_BYTES as u64
    }

    /// A part was accepted.
    pub fn accept(&self, slot: u32, order: u64, opened: &Opened) -> io::Result<()> {
        let json = serde_json::to_vec(opened)?;
        let half = half(order, &json).filter(|half| half.len() <= JUDGED_AT).ok_or_else(too_long)?;
        self.file.write_all_at(&half, Self::at(slot))
    }

    /// Its record but for what publication adds. It counts with [`last`](Self::last).
    pub fn judged(&self, slot: u32, order: u64, record: &Inspection) -> io::Result<()> {
        let fits = |half: &Vec<u8>| half.len() <= SLOT_BYTES - RECORD_AT;
        let whole = half(order, &serde_json::to_vec(record)?).filter(fits);
        let written = match whole {
            Some(whole) => whole,
            None => {
                let short = Inspection { views: Vec::new(), truth: None, ..record.clone() };
                half(order, &serde_json::to_vec(&short)?).filter(fits).ok_or_else(too_long)?
            }
        };
        self.file.write_all_at(&written, Self::at(slot) + RECORD_AT as u64)
    }

    /// What publication adds. From here on the part is judged.
    pub fn last(&self, slot: u32, order: u64, last: Last) -> io::Result<()> {
        let json = serde_json::to_vec(&last)?;
        let half = half(order, &json).filter(|half| half.len() <= LAST_BYTES).ok_or_else(too_long)?;
        self.file.write_all_at(&half, Self::at(slot) + LAST_AT as u64)
    }

    /// The journal has it.
    pub fn free(&self, slot: u32) -> io::Result<()> {
        self.file.write_all_at(&[0; HEAD_BYTES], Self::at(slot))
    }

    /// The place of a station, which it gets if it has none. `None`: there is none left, or its name is too long.
    pub fn place(&self, station: &str) -> Option<usize> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = places.iter().position(|known| known == station) {
            return Some(place);
        }
        let fits = (1..=MAX_NAME_BYTES).contains(&station.len()) && places.len() < STATION_PLACES;
        fits.then(|| {
            places.push(station.to_owned());
            places.len() - 1
        })
    }

    /// A station's last part without a slot, and how many there were since that was told.
    pub fn without_slot(&self, station: &str, part: u64, count: u64) -> io::Result<()> {
        self.station(station, 0, part, count)
    }

    /// The last part of a station that the journal has.
    pub fn journaled(&self, station: &str, part: u64) -> io::Result<()> {
        self.station(station, NUMBERED_AT, part, 0)
    }

    fn station(&self, name: &str, at: usize, part: u64, count: u64) -> io::Result<()> {
        let place = self.place(name).ok_or_else(too_long)?;
        let json = serde_json::to_vec(&(name, part, count))?;
        let half = half(u64::MAX, &json).filter(|half| half.len() <= NUMBERED_AT).ok_or_else(too_long)?;
        self.file.write_all_at(&half, (HEADER_BYTES + place * STATION_BYTES + at) as u64)
    }
}

fn too_long() -> io::Error {
    io::Error::other("a record does not fit into its slot")
}

/// JSON with its head. `None` if it is too long for any slot.
fn half(order: u64, json: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(json.len()).ok().filter(|length| *length as usize <= SLOT_BYTES)?;
    let mut bytes = Vec::with_capacity(HEAD_BYTES + json.len());
    bytes.extend_from_slice(&order.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&checksum(&bytes, json).to_le_bytes());
    bytes.extend_from_slice(json);
    Some(bytes)
}

fn checksum(head: &[u8], json: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(json);
    crc.finalize()
}

/// The order in the head of one half, where that checks.
fn order_of(bytes: &[u8]) -> Option<u64> {
    match read::<serde::de::IgnoredAny>(bytes) {
        Half::Holds(order, _) => Some(order),
        _ => None,
    }
}

/// What stands in one half.
enum Half<T> {
    Empty,
    Damaged,
    Holds(u64, T),
}

fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Half<T> {
    let Some((head, rest)) = bytes.split_at_checked(HEAD_BYTES) else { return Half::Damaged };
    if head.iter().all(|byte| *byte == 0) {
        return Half::Empty;
    }
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let order = u64::from(word(4)) << 32 | u64::from(word(0));
    let json = usize::try_from(word(8)).ok().and_then(|length| rest.get(..length));
    let Some(json) = json.filter(|json| checksum(&head[..12], json) == word(12)) else {
        return Half::Damaged;
    };
    serde_json::from_slice(json).map_or(Half::Damaged, |value| Half::Holds(order, value))
}

/// What a ring's bytes hold. Any bytes are read; what does not check counts as damaged.
pub(super) fn found(bytes: &[u8]) -> Found {
    let mut found = Found::default();
    if bytes.get(..8) != Some(&MAGIC[..]) {
        found.damaged = usize::from(bytes.iter().any(|byte| *byte != 0));
        return found;
    }
    let (stations, slots) = bytes.split_at(bytes.len().min(SLOTS_AT as usize));
    found.take_stations(stations);
    for (slot, bytes) in (0..).zip(slots.chunks_exact(SLOT_BYTES)) {
        found.take_slot(slot, bytes);
    }
    found.parts.sort_by_key(|left| left.order);
    found
}

/// The same of a file, and whether it is a ring. Slot by slot: a block as large as the ring, taken and given back at each
/// start in process, leaves a hole in the allocator's memory that others settle in, and the process grows by a ring.
fn found_in(file: &File, length: u64) -> io::Result<(Found, bool)> {
    let mut head = vec![0; length.min(SLOTS_AT) as usize];
    file.read_exact_at(&mut head, 0)?;
    if !head.starts_with(&MAGIC) {
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, 0)?;
        return Ok((found(&bytes), false));
    }
    let mut found = Found::default();
    found.take_stations(&head);
    let mut bytes = [0; SLOT_BYTES];
    for slot in 0..(length.saturating_sub(SLOTS_AT) / SLOT_BYTES as u64) as u32 {
        file.read_exact_at(&mut bytes, Ring::at(slot))?;
        found.take_slot(slot, &bytes);
    }
    found.parts.sort_by_key(|left| left.order);
    Ok((found, true))
}

impl Found {
    fn take_stations(&mut self, head: &[u8]) {
        for place in head.get(HEADER_BYTES..).unwrap_or_default().chunks_exact(STATION_BYTES) {
            // The two halves are written apart, by whoever numbers and by whoever commits.
            for half in place.chunks_exact(NUMBERED_AT) {
                match read::<(String, u64, u64)>(half) {
                    Half::Empty => {}
                    Half::Damaged => self.damaged += 1,
                    Half::Holds(_, (name, last, without_slot)) => {
                        add(&mut self.stations, name, last, without_slot)
                    }
                }
            }
        }
    }

    /// `bytes` is a whole slot.
    fn take_slot(&mut self, slot: u32, bytes: &[u8]) {
        self.slots += 1;
        // Of parts that are gone, too: what they left must not be taken for a later part's.
        let halves = [&bytes[..JUDGED_AT], &bytes[LAST_AT..RECORD_AT], &bytes[RECORD_AT..]];
        self.order = halves.into_iter().filter_map(order_of).fold(self.order, u64::max);
        match read::<Opened>(&bytes[..JUDGED_AT]) {
            Half::Empty => {}
            Half::Damaged => {
                self.damaged += 1;
                self.damaged_slots.push(slot);
            }
            Half::Holds(order, opened) => {
                self.parts.push(Left { slot, order, judged: judged(bytes, order, &opened), opened });
            }
        }
    }
}

fn add(stations: &mut Vec<FoundStation>, name: String, last: u64, without_slot: u64) {
    match stations.iter_mut().find(|known| known.name == name) {
        Some(known) => {
            known.last = last.max(known.last);
            known.without_slot = without_slot.max(known.without_slot);
        }
        None => stations.push(FoundStation { name, last, without_slot }),
    }
}

/// The record of a slot, where both it and what publication added are this part's.
fn judged(slot: &[u8], order: u64, opened: &Opened) -> Option<Inspection> {
    let Half::Holds(of, last) = read::<Last>(&slot[LAST_AT..RECORD_AT]) else { return None };
    let Half::Holds(and_of, mut record) = read::<Inspection>(&slot[RECORD_AT..]) else { return None };
    let same = (record.part, &record.station) == (opened.part, &opened.station);
    let ours = same && of == order && and_of == order;
    ours.then(|| {
        record.publish(last.verdict, last.gate, last.total_us);
        record
    })
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
