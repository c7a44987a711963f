//! `manifest.csv`: what is said of single pictures.
//!
//! Columns: `file` (path below the data folder) and any of `group`, `mask` (path below the data folder), `part`
//! (the same name for several pictures of one physical part) and `caption` (a sentence). Further columns that
//! hold numbers alone are *process parameters*; an empty cell is a missing value. Others are left to their owners.
//!
//! Never here: whether the files that it names are there.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::DataError;

/// Columns that are never process parameters: those above, and those of made sets.
const NO_PARAMETERS: [&str; 9] =
    ["file", "group", "mask", "part", "caption", "origin", "seed", "generator", "good"];

/// What the manifest says of one file; empty fields say nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    /// Lot, shift or session.
    pub group: String,
    /// Path of the mask below the data folder.
    pub mask: String,
    /// The physical part.
    pub part: String,
    /// What it shows, in words.
    pub caption: String,
    /// Process parameters that are known of it.
    pub parameters: BTreeMap<String, f64>,
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
    let said = ["group", "mask", "part", "caption"].map(column);
    let records = reader.records().collect::<Result<Vec<_>, _>>().map_err(csv)?;
    let parameters = parameters(&headers, &records).map_err(bad)?;
    if said.iter().all(Option::is_none) && parameters.is_empty() {
        return Err(bad(
            "no column `group`, `mask`, `part` or `caption`, and none of numbers, so it says nothing".into(),
        ));
    }
    let mut rows = HashMap::<String, Row>::new();
    for record in &records {
        let field = |at: Option<usize>| at.and_then(|i| record.get(i)).unwrap_or_default().to_owned();
        let [group, mask, part, caption] = said.map(field);
        let known = |&i: &usize| Some((headers[i].to_owned(), record.get(i)?.parse().ok()?));
        let parameters = parameters.iter().filter_map(known).collect();
        let (name, row) = (field(Some(file)), Row { group, mask, part, caption, parameters });
        if rows.get(&name).is_some_and(|earlier| *earlier != row) {
            return Err(bad(format!("two rows say different things of `{name}`")));
        }
        rows.insert(name, row);
    }
    Ok(rows)
}

/// Columns that hold finite numbers alone, and at least one. Errors: a column that holds numbers but for a few
/// cells, since a slip of the pen there would take the whole parameter away unseen.
fn parameters(headers: &csv::StringRecord, records: &[csv::StringRecord]) -> Result<Vec<usize>, String> {
    let mut found = Vec::new();
    for (i, name) in headers.iter().enumerate().filter(|(_, h)| !NO_PARAMETERS.contains(h) && !h.is_empty()) {
        let cells: Vec<&str> = records.iter().filter_map(|r| r.get(i)).filter(|c| !c.is_empty()).collect();
        let is_number = |cell: &&&str| cell.parse().is_ok_and(f64::is_finite);
        let numbers = cells.iter().filter(is_number).count();
        if numbers > 0 && numbers == cells.len() {
            found.push(i);
        } else if numbers * 2 > cells.len() {
            let odd = cells.iter().find(|c| !is_number(c)).copied().unwrap_or_default();
            return Err(format!(
                "column `{name}` holds {numbers} numbers and `{odd}`; write numbers as 0.5, and leave a cell empty where the value is not known"
            ));
        }
    }
    Ok(found)
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
    fn columns_of_numbers_are_process_parameters_and_empty_cells_are_missing() {
        let text = "file,caption,wear,operator,seed,feed\na,thin scratch,0.5,7b,3,\nb,,,8c,4,-2e1\n";
        let rows = rows(text).unwrap();
        assert_eq!(rows["a"].caption, "thin scratch");
        assert_eq!(rows["a"].parameters, BTreeMap::from([("wear".to_owned(), 0.5)]));
        assert_eq!(rows["b"].parameters, BTreeMap::from([("feed".to_owned(), -20.0)]));
    }

    #[test]
    fn columns_of_made_sets_are_no_process_parameters() {
        let rows = rows("file,caption,origin,seed,good,wear\na,thin,1,2,3,4\n").unwrap();
        assert_eq!(rows["a"].parameters, BTreeMap::from([("wear".to_owned(), 4.0)]));
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() {
        for (text, words) in [
            ("picture,group\na,b\n", "no column `file`"),
            ("file,lot\na,b\n", "no column `group`"),
            ("file,wear\na,0.1\nb,0.2\nc,\"0,3\"\n", "column `wear` holds 2 numbers and `0,3`"),
            ("file,group\na,lot1\na,lot2\n", "two rows say different things of `a`"),
            ("file,group\na\n", "manifest.csv"),
        ] {
            let error = rows(text).unwrap_err();
            assert!(error.contains(words), "{text:?}: {error}");
        }
        assert!(rows("file,group\na,lot1\na,lot1\n").is_ok(), "said twice is no contradiction");
    }
}
