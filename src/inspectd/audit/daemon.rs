//! What the daemon itself says in the audit trail, and the anchors that it puts into the journal.
//!
//! Never here: waiting on the line's way; a start that fails because the trail cannot be written.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use inspect_core::model::sha256;

use super::{Anchor, AuditError, ModelAt, What, append, check};
use crate::config::Config;
use crate::journal::Journal;
use crate::models::place::places;
use crate::record::{Event, EventKind};

/// Most models that one line tells of: a line with recipes has more, whose records name theirs.
const MAX_MODELS: usize = 256;

/// Folders in whose trail this process has said that it started.
static SAID: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// What is wrong with the audit trail, as far as the daemon has met it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// It is not as it was written; no further line heals that.
    pub changed: Option<String>,
    /// It could not be read, or the last line not be written.
    pub unwritten: Option<String>,
}

impl Health {
    fn of(error: &AuditError) -> Self {
        let why = Some(error.to_string());
        match error {
            AuditError::Io { .. }
            | AuditError::Busy { .. }
            | AuditError::Entry(_)
            | AuditError::Journal(_) => Self { unwritten: why, ..Self::default() },
            _ => Self { changed: why, ..Self::default() },
        }
    }

    /// This, and what was met later.
    pub fn then(self, later: Self) -> Self {
        Self { changed: self.changed.or(later.changed), unwritten: later.unwritten }
    }
}

/// Checks the chain, says that the daemon started and with which models, and anchors that. Blocks for reading the
/// models. It is said once: a daemon that takes another configuration starts anew inside its process, and says that as
/// [`configuration_taken`].
pub fn started(config: &Config, journal: &Journal) -> Health {
    let dir = config.journal.dir.as_path();
    let found = check(dir).err().map(|error| trouble(journal, &error)).unwrap_or_default();
    if !SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(dir.to_owned()) {
        return found;
    }
    let what = What::Started {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        configuration: fingerprint(config),
        models: models(config),
    };
    found.then(tell(dir, journal, what))
}

/// Says that a changed configuration was taken. Blocks as [`started`].
pub fn configuration_taken(config: &Config, journal: &Journal) -> Health {
    let what = What::ConfigurationTaken { sha256: fingerprint(config), models: models(config) };
    tell(&config.journal.dir, journal, what)
}

/// Says which models the daemon took while it ran, and which not.
pub fn models_taken(journal: &Journal, taken: &[String], refused: &[String]) -> Health {
    let what = What::ModelsTaken { taken: taken.to_vec(), refused: refused.to_vec() };
    tell(journal.dir(), journal, what)
}

/// Appends, and puts the anchor into the journal. What cannot be written is told.
pub fn tell(dir: &Path, journal: &Journal, what: What) -> Health {
    match append(dir, what) {
        Ok(anchor) => {
            journal.event(Event::now(EventKind::AuditLine, None, Anchor::message(&anchor)));
            Health::default()
        }
        Err(error) => trouble(journal, &error),
    }
}

fn trouble(journal: &Journal, error: &AuditError) -> Health {
    tracing::error!(%error, "audit trail");
    journal.event(Event::now(EventKind::AuditTrouble, None, error.to_string()));
    Health::of(error)
}

/// SHA-256 of the configuration as it was understood: the same whatever its comments.
fn fingerprint(config: &Config) -> String {
    serde_json::to_vec(config).map_or_else(|_| String::new(), |json| sha256(&json))
}

/// The files in their places now.
fn models(config: &Config) -> Vec<ModelAt> {
    let at = |path: PathBuf| ModelAt { sha256: hash(&path).ok(), place: path };
    places(config).into_iter().take(MAX_MODELS).map(|place| at(place.path)).collect()
}

/// SHA-256 of a file, a piece at a time.
pub fn hash(path: &Path) -> std::io::Result<String> {
    inspect_core::model::sha256_of(&mut File::open(path)?)
}
