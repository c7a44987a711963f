//! Files are read whole or not at all, and never more of them than their limit.
//!
//! A size that was looked up before is no limit: the file may grow, and a device such as `/dev/zero` has none.
//!
//! Never here: what is in them.

use std::fs::File;
use std::io::{Error, ErrorKind, Read as _};
use std::path::Path;

/// The whole of a file of at most `most` bytes.
///
/// Errors: what the system said; [`ErrorKind::InvalidInput`] for what is no ordinary file, such as a folder, a pipe
/// or a device; [`ErrorKind::FileTooLarge`] over the limit. The path is left to the caller to name.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, Error> {
    let told = std::fs::metadata(path)?; // before it is opened: a pipe would be waited for
    if !told.is_file() {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "expected an ordinary file, got a folder, pipe or device",
        ));
    }
    let too_large = |got: u64| {
        let more = if got > most { got.to_string() } else { format!("more than {most}") };
        Error::new(ErrorKind::FileTooLarge, format!("expected at most {most} bytes, got {more}"))
    };
    if told.len() > most {
        return Err(too_large(told.len()));
    }
    let mut bytes = Vec::with_capacity(told.len() as usize + 1);
    File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(too_large(0)) } else { Ok(bytes) }
}

/// The same for text.
///
/// Errors: those of [`read`]; [`ErrorKind::InvalidData`] for what is not UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<String, Error> {
    String::from_utf8(read(path, most)?)
        .map_err(|e| Error::new(ErrorKind::InvalidData, format!("expected UTF-8 text: {}", e.utf8_error())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit_and_not_a_byte_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read_text(&path, 5).unwrap(), "12345");
        let error = read(&path, 4).unwrap_err();
        assert!(
            error.kind() == ErrorKind::FileTooLarge && error.to_string().contains("at most 4 bytes, got 5")
        );
        std::fs::write(&path, [0xFF]).unwrap();
        assert_eq!(read_text(&path, 5).unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(read(&dir.path().join("none"), 5).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn what_has_no_end_is_not_begun() {
        for endless in ["/dev/zero", "/dev", "/dev/null"] {
            assert_eq!(read(Path::new(endless), 5).unwrap_err().kind(), ErrorKind::InvalidInput, "{endless}");
        }
        // The system tells a size of 0 for it.
        assert!(read(Path::new("/proc/self/maps"), 5).unwrap_err().to_string().contains("more than 5"));
    }
}
