//! A plan as folders: links or copies of the pictures and masks, the rows of the tables that belong to them.
//!
//! Everything is written into `OUT.part` and renamed at the end.
//!
//! Never here: a write below the data folder.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::{Plan, WithholdError};

/// Checks that `out` can become the folder. Errors: [`WithholdError::Out`].
fn check_out(dir: &Path, out: &Path) -> Result<(), WithholdError> {
    let bad = |reason: String| Err(WithholdError::Out { path: out.to_owned(), reason });
    if out.exists() && std::fs::read_dir(out).map_or(true, |mut entries| entries.next().is_some()) {
        return bad("is there already and not an empty folder; give --out a new name".into());
    }
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(parent) = parent.canonicalize() else {
        return bad("the folder that it should lie in is not there; make it first".into());
    };
    if dir.canonicalize().is_ok_and(|dir| parent.starts_with(dir)) {
        return bad("lies inside --data, which is not to be changed; give a folder elsewhere".into());
    }
    let part = part_of(out);
    if part.exists() {
        return bad(format!("{} is left from an earlier run; remove it", part.display()));
    }
    Ok(())
}

fn part_of(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    out.with_file_name(name)
}

/// Writes `out/real`, `out/rest` and `out/split.json` from the folder `dir` that `plan` was made of.
///
/// Errors: [`WithholdError`]; then `out` is not there.
pub fn write(plan: &Plan, dir: &Path, out: &Path) -> Result<(), WithholdError> {
    check_out(dir, out)?;
    let part = part_of(out);
    let done = write_part(plan, dir, out, &part).and_then(|()| {
        let fail = |source| WithholdError::Write { path: out.to_owned(), out: out.to_owned(), source };
        if out.exists() {
            std::fs::remove_dir(out).map_err(fail)?; // empty, as was checked
        }
        std::fs::rename(&part, out).map_err(fail)
    });
    done.inspect_err(|_| drop(std::fs::remove_dir_all(&part)))
}

fn write_part(plan: &Plan, dir: &Path, out: &Path, part: &Path) -> Result<(), WithholdError> {
    let fail = |path: &Path, source| WithholdError::Write { path: path.into(), out: out.into(), source };
    let manifest = Table::read(&dir.join("manifest.csv"))?;
    let boxes = Table::read(&dir.join("boxes.csv"))?;
    let stays: BTreeSet<&str> = plan.rest.values().flatten().chain(&plan.train).map(String::as_str).collect();
    let moves: BTreeSet<&str> = plan.real.values().flatten().map(String::as_str).collect();
    let (real, rest) = (part.join("real"), part.join("rest"));
    for folder in [&real, &rest] {
        std::fs::create_dir_all(folder).map_err(|e| fail(folder, e))?;
    }
    let all = moves.iter().map(|n| (*n, &real, below_class(n))).chain(stays.iter().map(|n| (*n, &rest, *n)));
    for (name, folder, target) in all {
        let Some(path) = plan.paths.get(name) else { continue };
        place(path, &folder.join(target)).map_err(|e| fail(path, e))?;
        if let Some(mask) = mask_of(dir, name, path, manifest.as_ref()) {
            let target = folder.join(mask.strip_prefix(dir).unwrap_or(&mask));
            place(&mask, &target).map_err(|e| fail(&mask, e))?;
        }
    }
    for (table, file) in [(&manifest, "manifest.csv"), (&boxes, "boxes.csv")] {
        let Some(table) = table else { continue };
        table.write(&rest.join(file), &stays, |name| name).map_err(|e| fail(&rest.join(file), e))?;
        table.write(&real.join(file), &moves, below_class).map_err(|e| fail(&real.join(file), e))?;
    }
    let json = serde_json::to_string_pretty(plan).map_err(|e| fail(part, e.into()))?;
    let path = part.join("split.json");
    std::fs::write(&path, json + "\n").map_err(|e| fail(&path, e))
}

/// "test/scratch/1.png" → "scratch/1.png"
fn below_class(name: &str) -> &str {
    name.strip_prefix("test/").unwrap_or(name)
}

/// A hard link, or a copy where that cannot be (another disk). A link's target is taken, not the link.
fn place(from: &Path, to: &Path) -> std::io::Result<()> {
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let from = from.canonicalize()?;
    std::fs::hard_link(&from, to).or_else(|_| std::fs::copy(&from, to).map(drop))
}

/// The mask of a test picture: by the manifest, else by its place in ground_truth.
fn mask_of(dir: &Path, name: &str, path: &Path, manifest: Option<&Table>) -> Option<PathBuf> {
    let listed = manifest.and_then(|m| m.field(name, "mask")).filter(|m| !m.is_empty());
    if let Some(listed) = listed.map(Path::new)
        && listed.components().all(|c| matches!(c, Component::Normal(_)))
        && dir.join(listed).is_file()
    {
        return Some(dir.join(listed));
    }
    let folder = dir.join("ground_truth").join(below_class(name)).parent()?.to_owned();
    let stem = path.file_stem()?.to_string_lossy();
    let names = [format!("{stem}_mask.png"), format!("{stem}.png")];
    names.into_iter().map(|n| folder.join(n)).find(|p| p.is_file()).filter(|_| name.starts_with("test/"))
}

/// A CSV table with a row or rows for each file.
struct Table {
    headers: csv::StringRecord,
    rows: Vec<csv::StringRecord>,
    file: usize,
}

impl Table {
    /// `None` if there is no such file. Errors: [`WithholdError::Table`].
    fn read(path: &Path) -> Result<Option<Self>, WithholdError> {
        if !path.exists() {
            return Ok(None);
        }
        let bad = |reason: String| WithholdError::Table { path: path.to_owned(), reason };
        let mut reader = csv::Reader::from_path(path).map_err(|e| bad(e.to_string()))?;
        let headers = reader.headers().map_err(|e| bad(e.to_string()))?.clone();
        let file = headers.iter().position(|h| h == "file").ok_or_else(|| bad("no column `file`".into()))?;
        let rows = reader.records().collect::<Result<Vec<_>, _>>().map_err(|e| bad(e.to_string()))?;
        Ok(Some(Self { headers, rows, file }))
    }

    fn field(&self, name: &str, column: &str) -> Option<&str> {
        let column = self.headers.iter().position(|h| h == column)?;
        self.rows.iter().find(|row| row.get(self.file) == Some(name))?.get(column)
    }

    /// The rows of the files in `names`, their `file` turned by `renamed`.
    fn write(
        &self,
        path: &Path,
        names: &BTreeSet<&str>,
        renamed: impl Fn(&str) -> &str,
    ) -> std::io::Result<()> {
        let mut writer = csv::Writer::from_path(path)?;
        writer.write_record(&self.headers)?;
        for row in &self.rows {
            if row.get(self.file).is_some_and(|name| names.contains(name)) {
                let fields = row.iter().enumerate();
                writer.write_record(fields.map(|(i, f)| if i == self.file { renamed(f) } else { f }))?;
            }
        }
        writer.flush()
    }
}
