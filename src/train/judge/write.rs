//! The files of a judgement: page, figures, blind sheet and its key.
//!
//! Never here: what is in them.

use std::path::Path;

use super::figures::Blind;
use super::{JudgeError, Judged, blind, kept, page};
use crate::evaluate::EvaluateError;
use crate::file::write_whole;
use crate::report::ReportError;

/// Name of the page.
pub const HTML_NAME: &str = "judge.html";
/// Name of the figures.
pub const JSON_NAME: &str = "judge.json";
/// Name of the sheet for people.
pub const SHEET_NAME: &str = "blind.png";
/// Name of its key.
pub const KEY_NAME: &str = "blind_key.csv";

/// Makes the folder if it is missing and proves that files can be written there, before work is spent on it.
///
/// Errors: [`ReportError::Write`].
pub fn prepare(dir: &Path) -> Result<(), ReportError> {
    let path = dir.join(".inspect-train.part");
    let proof = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&path, b""));
    proof
        .and_then(|()| std::fs::remove_file(&path))
        .map_err(|source| ReportError::Write { path: dir.to_owned(), source })
}

/// Writes all files into `dir`, which is made if missing; the figures come last, so that whoever finds them finds
/// the rest. What was kept of the fits is removed once the report is whole. `seed`: the order of the blind sheet.
///
/// Errors: [`JudgeError::Report`], [`JudgeError::Kept`].
pub fn write(judged: &mut Judged, dir: &Path, seed: u64) -> Result<(), JudgeError> {
    prepare(dir)?;
    let image = |e| ReportError::Evaluate(EvaluateError::Data(crate::data::DataError::from(e)));
    let sheet = blind::mix(&judged.real, judged.sets.get(1..).unwrap_or_default(), seed).map_err(image)?;
    let real = sheet.real();
    judged.report.blind =
        Some(Blind { sheet: SHEET_NAME.into(), key: KEY_NAME.into(), real, made: sheet.key.len() - real });
    let table =
        |e: csv::Error| ReportError::Figure { figure: "key of the blind sheet", reason: e.to_string() };
    let key = sheet.key_csv().map_err(table)?;
    let png = sheet.page.encode_png().map_err(image)?;
    let html = page::html(judged)?;
    let json = serde_json::to_string_pretty(&judged.report).map_err(ReportError::Json)? + "\n";
    let files: [(&str, &[u8]); 4] =
        [(SHEET_NAME, &png), (KEY_NAME, &key), (HTML_NAME, html.as_bytes()), (JSON_NAME, json.as_bytes())];
    for (name, bytes) in files {
        let path = dir.join(name);
        write_whole(&path, bytes).map_err(|source| ReportError::Write { path, source })?;
    }
    if !judged.report.stopped && judged.report.fits.is_some() {
        kept::remove(dir)?;
    }
    Ok(())
}
