//! The count file: per station the last part number that was reported to the line.
//!
//! It is written just before a result is published, by one `pwrite` into a page that the kernel already
//! holds, so that after `kill -9` the next start can tell which reported parts never reached the journal.
//!
//! Format: [`MAX_STATIONS`] places of [`PLACE_BYTES`]: magic, part number (u64 LE), FNV-1a 64 of what
//! follows and precedes it, length of the name (u16 LE), name. A place that does not check is disregarded:
//! the journal's own last part number then stands alone.
//!
//! Never here: syncing to the disk (a power cut is covered by skipping numbers), an error on the line's path.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::JournalError;

/// Most stations in one journal.
pub const MAX_STATIONS: usize = 64;
/// Longest name of a station.
pub(super) const MAX_NAME_BYTES: usize = 128;
const PLACE_BYTES: usize = 256;
const MAGIC: [u8; 8] = *b"INSPCNT1";
const NAME_AT: usize = 26;

/// The open count file.
pub(super) struct ReportedFile {
    file: Arc<File>,
    path: PathBuf,
    places: Mutex<Vec<Option<(String, u64)>>>,
    /// Last part number known of each station, from the file or the journal.
    last: Mutex<BTreeMap<String, u64>>,
}

impl ReportedFile {
    /// Opens the file, or makes it in its full length so that a full disk cannot stop it later.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let io = |source| JournalError::Io { path: path.to_owned(), source };
        let file =
            File::options().create(true).truncate(false).read(true).write(true).open(path).map_err(io)?;
        let length = (MAX_STATIONS * PLACE_BYTES) as u64;
        let had = file.metadata().map_err(io)?.len();
        if had < length {
            let missing = vec![0; (length - had) as usize];
            file.write_all_at(&missing, had).map_err(io)?;
        }
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, 0).map_err(io)?;
        let mut places = Vec::with_capacity(MAX_STATIONS);
        let mut last = BTreeMap::new();
        for place in bytes.chunks_exact(PLACE_BYTES) {
            let decoded = decode(place);
            if decoded.is_none() && place.iter().any(|&b| b != 0) {
                tracing::warn!(path = %path.display(),
                    "a place of the count file is damaged: whether its station's last parts are in the journal cannot be told");
            }
            if let Some((name, part)) = &decoded {
                last.insert(name.clone(), *part);
            }
            places.push(decoded);
        }
        Ok(Self {
            file: Arc::new(file),
            path: path.to_owned(),
            places: Mutex::new(places),
            last: Mutex::new(last),
        })
    }

    /// Last reported part of each station.
    pub fn parts(&self) -> BTreeMap<String, u64> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Numbers go on from what the journal knows, where that is more.
    pub fn start_from(&self, parts: &BTreeMap<String, u64>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, &part) in parts {
            let known = last.entry(name.clone()).or_default();
            *known = part.max(*known);
        }
    }

    /// The counter of one station; gives it a place if it has none.
    pub fn station(&self, name: &str) -> Result<PartCounter, JournalError> {
        let full = || JournalError::Stations { path: self.path.clone(), station: name.to_owned() };
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(full());
        }
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let own = places.iter().position(|p| p.as_ref().is_some_and(|(n, _)| n == name));
        let place = own.or_else(|| places.iter().position(Option::is_none)).ok_or_else(full)?;
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let part = last.get(name).copied().unwrap_or(0);
        let counter = PartCounter {
            file: Arc::clone(&self.file),
            offset: (place * PLACE_BYTES) as u64,
            next: part.saturating_add(1),
            station: name.to_owned(),
            failing: AtomicBool::new(false),
        };
        places[place] = Some((name.to_owned(), part));
        Ok(counter)
    }
}

/// The part numbers of one station.
#[derive(Debug)]
pub struct PartCounter {
    file: Arc<File>,
    offset: u64,
    next: u64,
    station: String,
    failing: AtomicBool,
}

impl PartCounter {
    /// The first number to use after this start: above all that were reported or journaled before.
    pub fn next_part(&self) -> u64 {
        self.next
    }

    /// Call before the result of `part` is published. Microseconds; survives `kill -9`. A failure is logged
    /// once and costs only the knowledge of a gap.
    pub fn reported(&self, part: u64) {
        let result = self.file.write_all_at(&encode(&self.station, part), self.offset);
        let failing = result.is_err();
        if self.failing.swap(failing, Ordering::Relaxed) != failing {
            match result {
                Ok(()) => tracing::info!(station = %self.station, "the count file can be written again"),
                Err(error) => tracing::error!(station = %self.station, %error,
                    "the count file cannot be written: a gap after a crash would go unseen"),
            }
        }
    }
}

fn encode(station: &str, part: u64) -> [u8; PLACE_BYTES] {
    let mut place = [0; PLACE_BYTES];
    let name = station.as_bytes();
    place[..8].copy_from_slice(&MAGIC);
    place[8..16].copy_from_slice(&part.to_le_bytes());
    place[24..NAME_AT].copy_from_slice(&(name.len() as u16).to_le_bytes());
    place[NAME_AT..NAME_AT + name.len()].copy_from_slice(name);
    let sum = checksum(&place);
    place[16..24].copy_from_slice(&sum.to_le_bytes());
    place
}

fn decode(place: &[u8]) -> Option<(String, u64)> {
    let word = |at: usize| place.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    if place.len() != PLACE_BYTES || place[..8] != MAGIC || word(16)? != checksum(place) {
        return None;
    }
    let length = usize::from(u16::from_le_bytes([place[24], place[25]]));
    let name = place.get(NAME_AT..NAME_AT + length)?;
    let name = String::from_utf8(name.to_vec()).ok()?;
    (!name.is_empty() && length <= MAX_NAME_BYTES).then_some((name, word(8)?))
}

/// FNV-1a, 64 bits, over the place without the checksum itself. Source: RFC 9923 (FNV).
fn checksum(place: &[u8]) -> u64 {
    place[..16].iter().chain(&place[24..]).fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_place_comes_back_and_a_damaged_one_does_not(
            name in "[a-zäöü]{1,30}", part: u64, at in 0..PLACE_BYTES, flip in 1u8..,
        ) {
            let mut place = encode(&name, part);
            prop_assert_eq!(decode(&place), Some((name, part)));
            place[at] ^= flip;
            prop_assert_eq!(decode(&place), None);
        }

        #[test]
        fn garbage_is_no_place(garbage in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(decode(&garbage), None);
        }
    }

    #[test]
    fn numbers_go_on_after_damage_and_stations_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reported.bin");
        let file = ReportedFile::open(&path).unwrap();
        let counter = file.station("a").unwrap();
        assert_eq!(counter.next_part(), 1);
        counter.reported(41);
        for n in 1..MAX_STATIONS {
            file.station(&format!("s{n}")).unwrap();
        }
        assert!(matches!(file.station("one more"), Err(JournalError::Stations { .. })));
        assert!(matches!(file.station(&"x".repeat(200)), Err(JournalError::Stations { .. })));
        let again = ReportedFile::open(&path).unwrap();
        assert_eq!(again.parts(), BTreeMap::from([("a".to_owned(), 41)]));
        std::fs::write(&path, b"INSPCNT1 garbage").unwrap();
        let damaged = ReportedFile::open(&path).unwrap();
        damaged.start_from(&BTreeMap::from([("a".to_owned(), 7)]));
        assert_eq!(damaged.station("a").unwrap().next_part(), 8);
    }
}
