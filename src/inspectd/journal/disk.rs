//! A simulated disk: what fails when, for tests in simulated time.
//!
//! Never here: the real one.

use std::path::Path;

use super::{JournalError, store};

/// When a simulated disk is asked whether it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Nothing is written yet.
    Before,
    /// All is written, and the disk says all the same that it is not.
    After,
}

/// A simulated disk: fails where it gives an error.
pub type Disk = Box<dyn FnMut(Moment) -> std::io::Result<()> + Send>;

/// Asks it, where there is one.
pub(super) fn ask(disk: &mut Option<Disk>, dir: &Path, moment: Moment) -> Result<(), JournalError> {
    let error = |source| JournalError::Io { path: dir.join(store::FILE), source };
    disk.as_mut().map_or(Ok(()), |disk| disk(moment)).map_err(error)
}
