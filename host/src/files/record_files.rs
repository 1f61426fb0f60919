//! The files that records are read from, each of which can be read more than once.

use std::fs::{self, File};
use std::io;
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::files::git_lfs::{GitLfsPointer, refuse_pointer};
use crate::files::hub::{Hub, HubError, Use};

/// The records of a command or run cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordFilesError {
    /// An entry is neither a path nor a dataset.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A file is not the file itself.
    #[error(transparent)]
    Pointer(#[from] GitLfsPointer),
    /// What comes through a pipe could not be kept.
    #[error(
        "{} is not a regular file, and what it holds could not be kept in a temporary file: {source}; write it to a file, or \
         set TMPDIR to a folder with more room",
        path.display()
    )]
    Spool {
        /// As the user named it.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// Record files. What is no regular file, such as a pipe, can be read only once, and is copied to an unnamed temporary file
/// that is gone with this value.
#[derive(Debug)]
pub struct RecordFiles {
    paths: Vec<PathBuf>,
    spooled: Vec<Spooled>,
}

#[derive(Debug)]
struct Spooled {
    /// As the user named it.
    name: PathBuf,
    /// Where it is read now.
    path: PathBuf,
    /// Keeps the file, which has no other name.
    _file: File,
}

impl RecordFiles {
    /// Finds the record files: existing paths, and the files of datasets on the hub, whose split `purpose` decides if none is
    /// named.
    ///
    /// # Errors
    ///
    /// Returns a [`RecordFilesError`] if an entry is neither, a file is a Git LFS pointer, or a pipe cannot be read to its
    /// end.
    pub fn find(hub: &Hub, records: &[PathBuf], purpose: Use) -> Result<Self, RecordFilesError> {
        let mut paths = hub.record_files(records, purpose)?;
        let mut spooled = Vec::new();
        for path in &mut paths {
            refuse_pointer(path)?;
            let can_be_read_twice = fs::metadata(&*path).is_ok_and(|metadata| metadata.is_file() || metadata.is_dir());
            if !can_be_read_twice {
                let new = spool(path).map_err(|source| RecordFilesError::Spool { path: path.clone(), source })?;
                path.clone_from(&new.path);
                spooled.push(new);
            }
        }
        Ok(Self { paths, spooled })
    }

    /// Returns a message with the names that the user gave.
    #[must_use]
    pub fn with_names(&self, message: &str) -> String {
        let mut text = message.to_owned();
        for Spooled { name, path, .. } in &self.spooled {
            // With what follows a path in a message, since one number may begin another.
            for end in [",", ":"] {
                text = text.replace(&format!("{}{end}", path.display()), &format!("{}{end}", name.display()));
            }
        }
        text
    }
}

impl Deref for RecordFiles {
    type Target = [PathBuf];

    fn deref(&self) -> &[PathBuf] {
        &self.paths
    }
}

fn spool(name: &Path) -> io::Result<Spooled> {
    let mut file = tempfile::tempfile()?;
    io::copy(&mut File::open(name)?, &mut file)?;
    // Opened by this path, the file is read from its start.
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    Ok(Spooled { name: name.to_path_buf(), path, _file: file })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_pipe_is_read_as_often_as_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let writer = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::write(pipe, "{}\n").unwrap()
        });
        let files = RecordFiles::find(&Hub::offline(folder.path()), std::slice::from_ref(&pipe), Use::Train).unwrap();
        writer.join().unwrap();
        assert_eq!(files.len(), 1);
        for _ in 0..2 {
            assert_eq!(fs::read_to_string(&files[0]).unwrap(), "{}\n");
        }
        let said = files.with_names(&format!("{}, line 3: no", files[0].display()));
        assert_eq!(said, format!("{}, line 3: no", pipe.display()));
    }

    #[test]
    fn a_pointer_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.parquet");
        fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n").unwrap();
        let error = RecordFiles::find(&Hub::offline(folder.path()), &[path], Use::Train).unwrap_err().to_string();
        assert!(error.contains("records.parquet is a Git LFS pointer"), "{error}");
    }
}
