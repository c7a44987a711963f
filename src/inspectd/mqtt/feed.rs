//! Reads the journal ahead of the connection, in order, one bounded batch at a time.
//!
//! Never here: blocking the runtime (each read is a blocking task), the network.

use std::time::Duration;

use tokio::sync::mpsc;
use uuid::Uuid;

use super::{CURSOR, READ_BATCH};
use crate::journal::{Committed, Entry, Journal, JournalError, JournalReader};

/// Pause after a read that failed.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Records of one journal.
pub(super) struct Batch {
    /// Which journal.
    pub journal: Uuid,
    /// Everything up to this sequence was delivered or sent on before.
    pub after: u64,
    /// In order; empty where a journal begins.
    pub entries: Vec<Entry>,
}

/// Sends everything after `from`, or after the stored cursor, until the receiver is gone.
pub(super) async fn run(journal: Journal, from: Option<Committed>, batches: mpsc::Sender<Batch>) {
    let mut feed = Feed { journal, reader: None, from };
    let is_stepped = feed.journal.is_stepped();
    let mut committed = feed.journal.committed();
    let mut failing = false;
    loop {
        let seen = *feed.journal.committed().borrow();
        let read = move || {
            let result = feed.read(seen);
            (feed, result)
        };
        let (back, result) = if is_stepped {
            read()
        } else {
            let Ok(done) = tokio::task::spawn_blocking(read).await else { return }; // at shutdown, or after a panic
            done
        };
        feed = back;
        match result {
            Ok(Some(batch)) => {
                failing = false;
                if batches.send(batch).await.is_err() {
                    return;
                }
            }
            Ok(None) => {
                failing = false;
                // The reader may be ahead: what a disk has written and then said it had not, is there all the same.
                let is_news = |now: &Committed, place: Committed| {
                    now.journal != place.journal || now.sequence > place.sequence
                };
                let place = feed.from;
                // Nothing was in it for what was seen, be it that the journal is not open yet.
                let is_other =
                    |now: &Committed| *now != seen && place.is_none_or(|place| is_news(now, place));
                tokio::select! {
                    biased;
                    changed = committed.wait_for(is_other) => {
                        if changed.is_err() {
                            return; // the journal is closed
                        }
                    }
                    () = batches.closed() => return,
                }
            }
            Err(error) => {
                if !failing {
                    tracing::error!(%error, "MQTT cannot read the journal; trying again");
                }
                failing = true;
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(READ_AGAIN) => {}
                    () = batches.closed() => return,
                }
            }
        }
    }
}

struct Feed {
    journal: Journal,
    reader: Option<JournalReader>,
    /// The last record sent on.
    from: Option<Committed>,
}

impl Feed {
    /// The next batch, of the journal as it is `now`; `None` if there is nothing new.
    fn read(&mut self, now: Committed) -> Result<Option<Batch>, JournalError> {
        let result = self.try_read(now);
        if let Err(error) = &result {
            self.reader = None;
            if let JournalError::Corrupt { reason, .. } = error {
                self.journal.suspect(now.journal, reason.clone());
            }
        }
        result
    }

    fn try_read(&mut self, now: Committed) -> Result<Option<Batch>, JournalError> {
        let fits = self.reader.as_ref().is_some_and(|r| r.uuid() == now.journal);
        if !fits {
            self.reader = Some(JournalReader::open(self.journal.dir())?);
        }
        let Some(reader) = self.reader.as_ref().filter(|r| r.uuid() == now.journal) else {
            return Ok(None); // put aside at this moment: `committed` changes
        };
        let begun = self.from.filter(|from| from.journal == now.journal);
        let (after, new) = match begun {
            Some(from) => (from.sequence, false),
            None => (reader.cursor(CURSOR)?.unwrap_or(0), true),
        };
        let entries = reader.after(after, READ_BATCH)?;
        let sequence = entries.last().map_or(after, |e| e.sequence);
        // Up to `now` there is nothing else: a jump in the sequences is not waited for.
        let sequence = if entries.len() < READ_BATCH { sequence.max(now.sequence) } else { sequence };
        self.from = Some(Committed { journal: now.journal, sequence });
        Ok((new || !entries.is_empty()).then_some(Batch { journal: now.journal, after, entries }))
    }
}
