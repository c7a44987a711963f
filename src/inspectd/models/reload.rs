//! Tells the running daemon that a place holds another model.
//!
//! Never here: whether the daemon takes it; it loads the new one beside the old and swaps them between two parts, or
//! keeps the old one and says why.

use crate::config::Config;

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The daemon answered this.
    Answered(String),
    /// It was not told; why.
    NotTold(String),
}

/// Tells the daemon of this configuration. Blocks until it has answered.
pub fn reload(_config: &Config) -> Told {
    Told::NotTold("`systemctl reload inspectd`, or its next start, takes the model".to_owned())
}
