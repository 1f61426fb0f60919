//! Reads files that must be regular ones: a pipe in their place would keep the program waiting for whoever writes to it, and a
//! device without an end would fill its memory.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Opens a regular file, or one that a link leads to.
///
/// # Errors
///
/// Returns an error if it cannot be opened, or is something else.
pub fn open(path: &Path) -> io::Result<File> {
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder, but a file is to be read"));
    }
    if !metadata.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is a pipe or a device, but a regular file is to be read",
        ));
    }
    File::open(path)
}

/// Returns true if there is something at a path. What cannot be looked up, such as a link to itself, counts, too: it is
/// not missing, and whoever opens it is told what is wrong.
pub fn is_there(path: &Path) -> bool {
    path.try_exists().unwrap_or(true)
}

/// Reads a regular file.
///
/// # Errors
///
/// As [`open`], and errors from reading.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a regular file that is UTF-8 text.
///
/// # Errors
///
/// As [`open`], and errors from reading.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn only_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link, pipe) = (folder.path().join("file"), folder.path().join("link"), folder.path().join("pipe"));
        fs::write(&file, "text").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!((read(&file).unwrap(), read_to_string(&link).unwrap()), (b"text".to_vec(), "text".to_owned()));
        let problem = "it is a pipe or a device, but a regular file is to be read";
        for path in [&pipe, Path::new("/dev/zero")] {
            assert_eq!(read_to_string(path).unwrap_err().to_string(), problem);
        }
        assert_eq!(open(folder.path()).unwrap_err().to_string(), "it is a folder, but a file is to be read");
        let (none, round) = (folder.path().join("none"), folder.path().join("round"));
        std::os::unix::fs::symlink("round", &round).unwrap();
        assert_eq!(read(&none).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(read(&round).unwrap_err().to_string().contains("oo many"));
        assert_eq!([&none, &file, &pipe, &round].map(|path| is_there(path)), [false, true, true, true]);
    }
}
