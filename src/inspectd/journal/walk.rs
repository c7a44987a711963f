//! Reads a journal from its oldest record to its newest, also one that is damaged: what cannot be read is gone round,
//! and told.
//!
//! Never here: writing, repairing.

use serde::Serialize;

use super::JournalError;
use super::reader::{Choice, Entry, JournalReader};

/// Records that are read in one go. Between two the writer may go on, so that its `-wal` does not grow.
pub const PAGE: usize = 1_000;
/// Most damaged places that are gone round; then the rest counts as unreadable.
const MAX_PLACES: usize = 1_000;

/// Records that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Everything up to this sequence was read, or told before.
    pub after: u64,
    /// The next record that can be read; none to the journal's end.
    pub next: Option<u64>,
    /// What SQLite said.
    pub reason: String,
}

/// The way through a journal.
pub struct Walk<'a> {
    reader: &'a JournalReader,
    of: Choice,
    at: u64,
    until: u64,
    /// Records yet to be read one by one, as there is damage near.
    careful: usize,
    unreadable: Vec<Unreadable>,
    ended: bool,
}

impl<'a> Walk<'a> {
    /// Over the records of `of`, up to sequence `until`.
    pub fn new(reader: &'a JournalReader, of: Choice, until: u64) -> Self {
        Self { reader, of, at: 0, until, careful: 0, unreadable: Vec::new(), ended: false }
    }

    /// The next records, at most [`PAGE`]; empty at the end.
    ///
    /// Errors: [`JournalError`], but for damage.
    pub fn page(&mut self) -> Result<Vec<Entry>, JournalError> {
        while !self.ended {
            let limit = if self.careful > 0 { 1 } else { PAGE };
            match self.reader.chosen_after(&self.of, self.at, limit) {
                Ok(entries) => {
                    self.careful = self.careful.saturating_sub(1);
                    return Ok(self.up_to_end(entries));
                }
                Err(JournalError::Corrupt { .. }) if limit > 1 => self.careful = PAGE,
                Err(JournalError::Corrupt { reason, .. }) => self.go_round(reason)?,
                Err(other) => return Err(other),
            }
        }
        Ok(Vec::new())
    }

    /// Sequence of the last record that was read or gone round.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// What could not be read so far.
    pub fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    fn up_to_end(&mut self, mut entries: Vec<Entry>) -> Vec<Entry> {
        entries.retain(|entry| entry.sequence <= self.until);
        match entries.last() {
            Some(last) => self.at = last.sequence,
            None => self.ended = true,
        }
        entries
    }

    /// Looks for the next record that can be read: ever further, then back by halves.
    fn go_round(&mut self, reason: String) -> Result<(), JournalError> {
        let mut bad = self.at;
        let mut step: u64 = 1;
        let mut found = None;
        while self.unreadable.len() < MAX_PLACES && bad < self.until {
            let probe = self.at.saturating_add(step).min(self.until);
            if let Some(next) = self.probe(probe)? {
                found = Some((probe, next));
                break;
            }
            (bad, step) = (probe, step.saturating_mul(2));
        }
        while let Some((good, _)) = found.filter(|(good, _)| good - bad > 1) {
            let middle = bad + (good - bad) / 2;
            match self.probe(middle)? {
                Some(next) => found = Some((middle, next)),
                None => bad = middle,
            }
        }
        let next = found.and_then(|(_, next)| next).filter(|next| *next <= self.until);
        self.unreadable.push(Unreadable { after: self.at, next, reason });
        match next {
            Some(next) => self.at = next - 1,
            None => self.ended = true,
        }
        Ok(())
    }

    /// The first record after `sequence`, if there is one; `None` where it cannot be read.
    fn probe(&self, sequence: u64) -> Result<Option<Option<u64>>, JournalError> {
        match self.reader.chosen_after(&self.of, sequence, 1) {
            Ok(entries) => Ok(Some(entries.first().map(|entry| entry.sequence))),
            Err(JournalError::Corrupt { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }
}
