//! Files in the service's own folders, opened and made by whoever does it, root among them.
//!
//! Whoever owns a folder can put a link there, and root that follows one writes to, or gives away, a file that is not the
//! service's. So: the last name of a path is never followed, only ordinary files are opened, and only what was made just
//! now gets the folder's owner.
//!
//! Never here: links on the way to the folder, which the configuration names; what is in a file.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::Path;

use rustix::fs::OFlags;

fn flags(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).unwrap_or(0)
}

/// Opens an ordinary file; a link is not followed, a pipe not waited for.
///
/// Errors: what the system said; [`ErrorKind::InvalidInput`] for what is no ordinary file.
pub fn open(path: &Path, options: &mut OpenOptions) -> Result<File, Error> {
    let other = |got: &str| {
        Error::new(ErrorKind::InvalidInput, format!("expected an ordinary file, got {got}: take it away"))
    };
    let opened = options.custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK)).open(path);
    let file = opened.map_err(|error| {
        let is_link = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
        if is_link { other("a link") } else { error }
    })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(other("a folder, pipe or device")) }
}

/// Opens a file to append to, or makes it, with this mode and the owner of the folder that `like` tells of. The second is
/// whether it was made.
///
/// Errors: those of [`open`].
pub fn append_to(path: &Path, mode: u32, like: &Metadata) -> Result<(File, bool), Error> {
    match OpenOptions::new().append(true).create_new(true).mode(mode).open(path) {
        Ok(file) => give(&file, like).map(|()| (file, true)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            open(path, OpenOptions::new().append(true)).map(|file| (file, false))
        }
        Err(error) => Err(error),
    }
}

/// Makes a file anew; whatever has its name is taken away before.
///
/// Errors: the system's.
pub fn make(path: &Path, like: &Metadata) -> Result<File, Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    give(&file, like)?;
    Ok(file)
}

/// Gives a folder that was made just now the owner that `like` tells of; gives it open.
///
/// Errors: the system's; of what is no folder, or a link to one.
pub fn give_folder(path: &Path, like: &Metadata) -> Result<File, Error> {
    let only = flags(OFlags::NOFOLLOW | OFlags::DIRECTORY);
    let folder = OpenOptions::new().read(true).custom_flags(only).open(path)?;
    give(&folder, like)?;
    Ok(folder)
}

/// Owner and group, so that the daemon can read what root makes.
fn give(file: &File, like: &Metadata) -> Result<(), Error> {
    if rustix::process::geteuid().is_root() {
        fchown(file, Some(like.uid()), Some(like.gid()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ordinary_files_are_opened_and_only_new_ones_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let like = std::fs::metadata(dir.path()).unwrap();
        assert!(append_to(&path("a"), 0o640, &like).unwrap().1);
        assert!(!append_to(&path("a"), 0o640, &like).unwrap().1);
        std::os::unix::fs::symlink(path("a"), path("link")).unwrap();
        let error = append_to(&path("link"), 0o640, &like).unwrap_err();
        assert!(error.kind() == ErrorKind::InvalidInput && error.to_string().contains("a link"), "{error}");
        std::fs::create_dir(path("folder")).unwrap();
        assert!(
            open(&path("folder"), OpenOptions::new().read(true)).unwrap_err().to_string().contains("folder")
        );
        // A pipe without a writer would be waited for.
        assert!(std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
        assert!(open(&path("pipe"), OpenOptions::new().read(true)).unwrap_err().to_string().contains("pipe"));
        assert_eq!(
            open(&path("none"), OpenOptions::new().read(true)).unwrap_err().kind(),
            ErrorKind::NotFound
        );
        make(&path("link"), &like).unwrap();
        assert!(std::fs::symlink_metadata(path("link")).unwrap().is_file() && path("a").is_file());
        assert!(give_folder(&path("folder"), &like).is_ok() && give_folder(&path("a"), &like).is_err());
    }
}
