//! Tells the running daemon that a place holds another model.
//!
//! Never here: whether the daemon takes it; it loads the new one beside the old and swaps them between two parts, or
//! keeps the old one and says why.

use crate::config::Config;
use crate::status::{Answer, Ask, ReloadOutcome, SOCKET, ask};

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
