//! Report files: all of them or none, each replaced in one step.
//!
//! Never here: what is in them.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::page;
use crate::evaluate::{EvaluateError, Evaluation};
use crate::file::part_of;

/// Name of the page.
pub const HTML_NAME: &str = "report.html";
/// Name of the figures.
pub const JSON_NAME: &str = "report.json";

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The folder or a file cannot be written.
    #[error("{path}: {source}; the report was not written")]
    Write {
        /// Folder or file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The figures are no JSON.
    #[error("the figures cannot be written as JSON: {0}; this is a fault of inspect-train, please report it")]
    Json(#[from] serde_json::Error),
    /// A curve cannot be drawn.
    #[error(
        "the figure `{figure}` cannot be drawn: {reason}; this is a fault of inspect-train, please report it"
    )]
    Figure {
        /// Which.
        figure: &'static str,
        /// What the plotting library said.
        reason: String,
    },
    /// A picture that was judged cannot be shown.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
}

/// Makes the folder of a report if it is missing and proves that files can be written there, before an
/// evaluation is spent on it.
///
/// Errors: [`ReportError::Write`].
pub fn prepare(dir: &Path) -> Result<(), ReportError> {
    let fail = |source| ReportError::Write { path: dir.to_owned(), source };
    std::fs::create_dir_all(dir).map_err(fail)?;
    Part::write(&dir.join(HTML_NAME), b"").map(|_| ())
}

/// Writes [`HTML_NAME`] and [`JSON_NAME`] into `dir`, which is made if missing.
///
/// Errors: [`ReportError`]; then the files that were there before are still there, whole.
pub fn write(evaluation: &mut Evaluation, dir: &Path) -> Result<(), ReportError> {
    prepare(dir)?;
    let html = page::html(evaluation)?;
    let json = json(evaluation)?;
    // Both are on the disk before either takes its place.
    let parts = [
        Part::write(&dir.join(HTML_NAME), html.as_bytes())?,
        Part::write(&dir.join(JSON_NAME), json.as_bytes())?,
    ];
    parts.into_iter().try_for_each(Part::keep)
}

/// Writes the figures as JSON to `path`, which may be a pipe or a device.
///
/// Errors: [`ReportError`].
pub fn write_json(evaluation: &Evaluation, path: &Path) -> Result<(), ReportError> {
    let json = json(evaluation)?;
    let special = std::fs::metadata(path).is_ok_and(|m| !m.is_file());
    if special {
        return std::fs::write(path, json)
            .map_err(|source| ReportError::Write { path: path.to_owned(), source });
    }
    Part::write(path, json.as_bytes())?.keep()
}

fn json(evaluation: &Evaluation) -> Result<String, ReportError> {
    Ok(serde_json::to_string_pretty(&evaluation.report)? + "\n")
}

/// A file under a passing name; gone unless it is kept.
struct Part {
    part: PathBuf,
    path: PathBuf,
}

impl Part {
    fn write(path: &Path, bytes: &[u8]) -> Result<Self, ReportError> {
        let this = Self { part: part_of(path), path: path.to_owned() };
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::File::create(&this.part)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        match write() {
            Ok(()) => Ok(this),
            Err(source) => Err(ReportError::Write { path: this.path.clone(), source }),
        }
    }

    fn keep(self) -> Result<(), ReportError> {
        std::fs::rename(&self.part, &self.path)
            .map_err(|source| ReportError::Write { path: self.path.clone(), source })
    }
}

impl Drop for Part {
    /// After [`Part::keep`] there is nothing left to remove.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_takes_its_place_whole_or_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        std::fs::write(&path, "old").unwrap();
        drop(Part::write(&path, b"new").unwrap()); // something else failed before it was kept
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        Part::write(&path, b"new").unwrap().keep().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_folder_that_cannot_be_is_told_before_the_work() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = prepare(&file.join("below")).unwrap_err().to_string();
        assert!(error.contains("below") && error.contains("not written"), "{error}");
        prepare(&dir.path().join("a/b")).unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("a/b")).unwrap().count(), 0);
    }
}
