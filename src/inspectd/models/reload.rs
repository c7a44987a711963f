//! Tells the running daemon that a place holds another model, and asks it which it runs.
//!
//! Never here: whether the daemon takes it; it loads the new one beside the old and swaps them between two parts, or
//! keeps the old one and says why.

use std::path::Path;

use crate::config::Config;
use crate::status::{Answer, Ask, DaemonStatus, ReloadOutcome, SOCKET, ask};

/// What became of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// The daemon looked at its files, and this is what it took and what not.
    Looked(ReloadOutcome),
    /// It was not told, or did not answer; why.
    NotTold(String),
}

/// Tells the daemon of this configuration. Blocks until it has loaded the model, or refused it.
pub fn reload(config: &Config) -> Told {
    match ask(&config.run_dir().join(SOCKET), &Ask::Reload) {
        Ok(Answer::Reload(outcome)) => Told::Looked(outcome),
        Ok(Answer::Refused { why }) => Told::NotTold(why),
        Ok(Answer::Status(_)) => Told::NotTold("it answered another question".to_owned()),
        Err(error) => Told::NotTold(error.to_string()),
    }
}

/// How the daemon of this configuration is; none where it does not answer.
pub fn running(config: &Config) -> Option<DaemonStatus> {
    match ask(&config.run_dir().join(SOCKET), &Ask::Status).ok()? {
        Answer::Status(status) => Some(*status),
        _ => None,
    }
}

/// SHA-256 of the model from this place by which the daemon judges parts.
pub fn in_service<'a>(running: Option<&'a DaemonStatus>, place: &Path) -> Option<&'a str> {
    let scorers = running.into_iter().flat_map(|status| &status.scorers);
    let mut used = scorers.filter(|scorer| scorer.users > 0 && scorer.model == place);
    used.find_map(|scorer| scorer.sha256.as_deref())
}
