//! Files that hold a secret: the broker's password, the key of a client certificate.
//!
//! A path `credential:NAME` means the file NAME among those that systemd gives a service whose unit says
//! `LoadCredential=NAME:FILE`, in `$CREDENTIALS_DIRECTORY`. Then the file itself may be root's alone.
//!
//! Never here: what is in the files. No error shows any of it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use inspect_core::file;

/// What such a path begins with.
pub const CREDENTIAL: &str = "credential:";
/// Where systemd puts them.
const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no secret.
    #[error("{path}: expected a file that others cannot read, got mode {mode:03o}; run: chmod 600 {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// No systemd gives credentials here.
    #[error(
        "{CREDENTIAL}{name}: ${DIRECTORY} is not set; systemd sets it for a service whose unit says LoadCredential={name}:FILE"
    )]
    NoDirectory {
        /// The credential.
        name: String,
    },
    /// Not a name of systemd's.
    #[error(
        "{CREDENTIAL}{name}: expected a name of letters, digits, `-`, `_` and `.`, beginning with none of the last"
    )]
    Name {
        /// What stands there.
        name: String,
    },
}

/// Makes a path relative to `folder`; a credential's name stays what it is.
pub fn resolve(path: &Path, folder: &Path) -> PathBuf {
    if credential(path).is_some() { path.to_owned() } else { folder.join(path) }
}

/// A secret of at most `most` bytes.
///
/// Errors: [`SecretError`], never with a part of the secret.
pub fn read(path: &Path, most: u64) -> Result<String, SecretError> {
    read_from(path, most, directory().as_deref())
}

/// Whether it is a credential and this process is given none, as `inspectd check` by hand is not.
pub fn is_out_of_reach(path: &Path) -> bool {
    credential(path).is_some() && directory().is_none()
}

fn directory() -> Option<PathBuf> {
    std::env::var_os(DIRECTORY).map(PathBuf::from)
}

fn credential(path: &Path) -> Option<&str> {
    path.to_str()?.strip_prefix(CREDENTIAL)
}

fn read_from(path: &Path, most: u64, directory: Option<&Path>) -> Result<String, SecretError> {
    let path = match credential(path) {
        None => path.to_owned(),
        Some(name) => {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let name = name.to_owned();
            if name.is_empty() || name.starts_with('.') || !name.chars().all(allowed) {
                return Err(SecretError::Name { name });
            }
            match directory {
                Some(directory) => directory.join(name),
                None => return Err(SecretError::NoDirectory { name }),
            }
        }
    };
    let io = |source| SecretError::Io { path: path.clone(), source };
    // systemd makes 0400, or 0440 where the owner is root and the service's user gets in by an access list.
    let mode = std::fs::metadata(&path).map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o007 != 0 {
        return Err(SecretError::Open { path, mode });
    }
    file::read_text(&path, most).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: &Path, mode: u32) {
        std::fs::write(path, "geheim").unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_that_others_can_read_is_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        for (mode, good) in
            [(0o600, true), (0o640, true), (0o400, true), (0o440, true), (0o644, false), (0o602, false)]
        {
            put(&path, mode);
            let read = read_from(&path, 100, None);
            assert_eq!(read.is_ok(), good, "{mode:o}: {read:?}");
            std::fs::remove_file(&path).unwrap();
        }
        put(&path, 0o600);
        let error = read_from(&path, 5, None).unwrap_err().to_string();
        assert!(error.contains("at most 5 bytes") && !error.contains("geheim"), "{error}");
    }

    #[test]
    fn a_credential_is_looked_for_where_systemd_puts_it() {
        let dir = tempfile::tempdir().unwrap();
        put(&dir.path().join("mqtt.key"), 0o400);
        let path = Path::new("credential:mqtt.key");
        assert_eq!(resolve(path, Path::new("/etc/inspectd")), path);
        assert_eq!(read_from(path, 100, Some(dir.path())).unwrap(), "geheim");
        assert!(read_from(path, 100, None).unwrap_err().to_string().contains("LoadCredential=mqtt.key:FILE"));
        for bad in ["credential:", "credential:../etc/shadow", "credential:a/b", "credential:.hidden"] {
            let error = read_from(Path::new(bad), 100, Some(dir.path())).unwrap_err();
            assert!(matches!(error, SecretError::Name { .. }), "{bad}: {error}");
        }
        assert_eq!(resolve(Path::new("key"), Path::new("/etc/inspectd")), Path::new("/etc/inspectd/key"));
    }
}
