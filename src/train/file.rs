//! Files that are written whole or not at all.
//!
//! Never here: half a file under its final name; a part that stays behind after an error.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The name beside `path` that a file has while it is written.
pub fn part_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

/// Writes beside `path`, waits until the disk has it, then renames: readers see the old file or the new one.
///
/// Errors: what the system says; then what stood under `path` still does, and the part is removed.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = part_of(path);
    let write = || -> io::Result<()> {
        let mut file = File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&part, path)
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&part)))
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
