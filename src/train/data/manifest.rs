//! `manifest.csv`: what is said of single pictures.
//!
//! Columns: `file` (path below the data folder) and any of `group`, `mask` (path below the data folder) and
//! `part` (the same name for several pictures of one physical part); others are left to their owners.
//!
//! Never here: whether the files that it names are there.

use std::collections::HashMap;
use std::path::Path;

use super::DataError;

/// What the manifest says of one file; empty fields say nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// Lot, shift or session.
    pub group: String,
    /// Path of the mask below the data folder.
    pub mask: String,
    /// The physical part.
    pub part: String,
}

/// File name → what is said of it; empty where there is no manifest.
///
/// Errors: [`DataError::Manifest`].
pub fn read(path: &Path) -> Result<HashMap<String, Row>, DataError> {
    if !path.exists() {
        return Ok(HashMap::new());
    }
    let bad = |reason: String| DataError::Manifest { path: path.to_owned(), reason };
    let csv = |e: csv::Error| bad(e.to_string());
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(path).map_err(csv)?;
    let headers = reader.headers().map_err(csv)?.clone();
    let column = |name: &str| headers.iter().position(|h| h == name);
    let file = column("file").ok_or_else(|| bad("no column `file`".into()))?;
    let said = ["group", "mask", "part"].map(column);
    if said.iter().all(Option::is_none) {
        return Err(bad("no column `group`, `mask` or `part`, so it says nothing".into()));
    }
    let mut rows = HashMap::<String, Row>::new();
    for record in reader.records() {
        let record = record.map_err(csv)?;
        let field = |at: Option<usize>| at.and_then(|i| record.get(i)).unwrap_or_default().to_owned();
        let [group, mask, part] = said.map(field);
        let (name, row) = (field(Some(file)), Row { group, mask, part });
        if rows.get(&name).is_some_and(|earlier| *earlier != row) {
            return Err(bad(format!("two rows say different things of `{name}`")));
        }
        rows.insert(name, row);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Result<HashMap<String, Row>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest.csv");
        std::fs::write(&path, text).unwrap();
        read(&path).map_err(|e| e.to_string())
    }

    #[test]
    fn columns_come_in_any_order_and_blanks_around_them_do_not_count() {
        let rows = rows("\u{feff}group, file ,source\n lot1 ,a.png,x\n,b.png,y\n").unwrap();
        assert_eq!((rows["a.png"].group.as_str(), rows["b.png"].group.as_str()), ("lot1", ""));
        assert_eq!((rows["a.png"].mask.as_str(), rows.len()), ("", 2));
        assert!(read(Path::new("/no/manifest.csv")).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() {
        for (text, words) in [
            ("picture,group\na,b\n", "no column `file`"),
            ("file,lot\na,b\n", "no column `group`"),
            ("file,group\na,lot1\na,lot2\n", "two rows say different things of `a`"),
            ("file,group\na\n", "manifest.csv"),
        ] {
            let error = rows(text).unwrap_err();
            assert!(error.contains(words), "{text:?}: {error}");
        }
        assert!(rows("file,group\na,lot1\na,lot1\n").is_ok(), "said twice is no contradiction");
    }
}
