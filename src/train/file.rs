//! Files that are written whole or not at all.
//!
//! Never here: half a file under its final name; a part that stays behind after an error.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// The name beside `path` that a file has while it is written.
pub fn part_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

/// Writes `bytes` beside `path`, waits until the disk has them, then renames: readers see the old file or the
/// new one.
///
/// Errors: what the system says; then the part is removed, and what stood under `path` still does (but where
/// only the folder could not be waited for).
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_whole_by(path, |part| std::fs::write(part, bytes))
}

/// As [`write_whole`]; `write` makes the file at the path that it gets.
///
/// Errors: those of `write`, and what the system says.
pub fn write_whole_by(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let part = part_of(path);
    let written = write(&part)
        .and_then(|()| File::open(&part)?.sync_all())
        .and_then(|()| std::fs::rename(&part, path))
        .and_then(|()| sync_folder(path));
    written.inspect_err(|_| drop(std::fs::remove_file(&part)))
}

/// The new name is on the disk only when its folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.onnx");
        write_whole(&path, b"old").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        let folder = dir.path().join("folder");
        std::fs::create_dir_all(folder.join("x")).unwrap();
        assert!(write_whole(&folder, b"new").is_err(), "a folder cannot be replaced");
        assert!(write_whole(&dir.path().join("no/where"), b"new").is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "m.onnx and the folder");
    }
}
