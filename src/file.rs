//! Opening files that anyone may have written.

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Opens a regular file to read it.
///
/// # Errors
/// [`Error::Io`] when it cannot be opened, [`Error::Data`] when it is a folder, a pipe or a device.
pub(crate) fn open(path: &Path) -> Result<File> {
    let io = |source| Error::io("read", path, source);
    // Before opening: to open a pipe is to wait for its writer.
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Err(Error::data(path, "this is not a regular file; give the path of one"));
    }
    File::open(path).map_err(io)
}

/// What a regular file of at most so many bytes holds.
///
/// # Errors
/// As [`open`], and [`Error::Data`] when it is larger.
pub(crate) fn read(path: &Path, largest_bytes: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // A file may grow after it was measured.
    let read = open(path)?.take(largest_bytes + 1).read_to_end(&mut bytes);
    read.map_err(|source| Error::io("read", path, source))?;
    if bytes.len() as u64 > largest_bytes {
        return Err(Error::data(path, format!("the file is too large, at most {largest_bytes} bytes are accepted")));
    }
    Ok(bytes)
}

/// The text of a regular file of at most so many bytes.
///
/// # Errors
/// As [`read`], and [`Error::Io`] when it is no UTF-8.
pub(crate) fn read_text(path: &Path, largest_bytes: u64) -> Result<String> {
    let no_text = |error| Error::io("read", path, io::Error::new(io::ErrorKind::InvalidData, error));
    String::from_utf8(read(path, largest_bytes)?).map_err(no_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit_and_what_is_none_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        fs::write(&path, "four").unwrap();
        assert_eq!(read_text(&path, 4).unwrap(), "four");
        let message = read_text(&path, 3).unwrap_err().to_string();
        assert!(message.contains("too large, at most 3 bytes") && message.contains("text"), "{message}");
        let message = read_text(folder.path(), 4).unwrap_err().to_string();
        assert!(message.contains("not a regular file"), "{message}");
        fs::write(&path, b"\xff").unwrap();
        assert!(matches!(read_text(&path, 4), Err(Error::Io { .. })));
        assert!(matches!(read_text(&folder.path().join("absent"), 4), Err(Error::Io { .. })));
    }

    /// Opening it would wait for ever.
    #[cfg(unix)]
    #[test]
    fn a_pipe_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let message = open(&path).unwrap_err().to_string();
        assert!(message.contains("pipe: this is not a regular file"), "{message}");
    }
}
