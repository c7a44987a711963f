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
            // `fit --real` looks in one place; what stays lies where its manifest says.
            let kept = mask.strip_prefix(dir).unwrap_or(&mask).to_owned();
            let target = if moves.contains(name) { real_mask(target) } else { kept };
            place(&mask, &folder.join(target)).map_err(|e| fail(&mask, e))?;
        }
    }
    for (table, file) in [(&manifest, "manifest.csv"), (&boxes, "boxes.csv")] {
        let Some(table) = table else { continue };
        table.write(&rest.join(file), &stays, &[], |name| name).map_err(|e| fail(&rest.join(file), e))?;
        // Masks have other names now, which follow from the pictures' names.
        let target = real.join(file);
        table.write(&target, &moves, &["mask"], below_class).map_err(|e| fail(&target, e))?;
    }
    let json = serde_json::to_string_pretty(plan).map_err(|e| fail(part, e.into()))?;
    let path = part.join("split.json");
    std::fs::write(&path, json + "\n").map_err(|e| fail(&path, e))
}

/// "test/scratch/1.png" → "scratch/1.png"
fn below_class(name: &str) -> &str {
    name.strip_prefix("test/").unwrap_or(name)
}

/// "scratch/lot2/1.png" → "ground_truth/scratch/lot2/1_mask.png", where [`crate::real`] looks for it.
fn real_mask(picture: &str) -> PathBuf {
    let path = Path::new(picture);
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    Path::new("ground_truth").join(path).with_file_name(format!("{stem}_mask.png"))
}

/// A hard link, or a copy where that cannot be (another disk). A link's target is taken, not the link.
///
/// What is there already stays as it is and must be the same: it may be a link to `from` itself (one mask of two
/// pictures), and a copy over it would empty both.
fn place(from: &Path, to: &Path) -> std::io::Result<()> {
    if to.exists() {
        let same = std::fs::read(from)? == std::fs::read(to)?;
        let why = "another file has this name already; two pictures that differ in their extension alone?";
        return if same { Ok(()) } else { Err(std::io::Error::other(why)) };
    }
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let from = from.canonicalize()?;
    std::fs::hard_link(&from, to).or_else(|_| {
        let mut new = std::fs::File::create_new(to)?;
        std::io::copy(&mut std::fs::File::open(&from)?, &mut new).map(drop)
    })
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
        let mut reader =
            csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(path).map_err(|e| bad(e.to_string()))?;
        let headers = reader.headers().map_err(|e| bad(e.to_string()))?.clone();
        let file = headers.iter().position(|h| h == "file").ok_or_else(|| bad("no column `file`".into()))?;
        let rows = reader.records().collect::<Result<Vec<_>, _>>().map_err(|e| bad(e.to_string()))?;
        Ok(Some(Self { headers, rows, file }))
    }

    fn field(&self, name: &str, column: &str) -> Option<&str> {
        let column = self.headers.iter().position(|h| h == column)?;
        self.rows.iter().find(|row| row.get(self.file) == Some(name))?.get(column)
    }

    /// The rows of the files in `names` without the columns `left_out`, their `file` turned by `renamed`.
    fn write(
        &self,
        path: &Path,
        names: &BTreeSet<&str>,
        left_out: &[&str],
        renamed: impl Fn(&str) -> &str,
    ) -> std::io::Result<()> {
        let kept: Vec<usize> =
            (0..self.headers.len()).filter(|&i| !left_out.contains(&&self.headers[i])).collect();
        let mut writer = csv::Writer::from_path(path)?;
        writer.write_record(kept.iter().map(|&i| &self.headers[i]))?;
        for row in &self.rows {
            if row.get(self.file).is_some_and(|name| names.contains(name)) {
                let field = |i: usize| row.get(i).map(|f| if i == self.file { renamed(f) } else { f });
                writer.write_record(kept.iter().filter_map(|&i| field(i)))?;
            }
        }
        writer.flush()
    }
}
