//! Error of a write, with a way out.

use std::io;
use std::path::{Path, PathBuf};

/// A file or folder could not be written.
#[derive(Debug, thiserror::Error)]
#[error("could not write {}: {}", path.display(), explain(source, *there))]
pub struct WriteError {
    /// The target.
    pub path: PathBuf,
    /// The error of the operating system.
    pub source: io::Error,
    there: There,
}

/// What is at the target.
#[derive(Clone, Copy, Debug)]
enum There {
    /// What was there before.
    Old,
    /// A pipe, terminal or the like, which keeps what it was given.
    Stream,
    /// All that was written, but perhaps not on disk.
    New,
}

impl WriteError {
    pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> WriteError {
        let path = path.to_path_buf();
        move |source| WriteError { path, source, there: There::Old }
    }

    pub(super) fn in_stream(path: &Path) -> impl FnOnce(io::Error) -> WriteError {
        let path = path.to_path_buf();
        move |source| WriteError { path, source, there: There::Stream }
    }

    pub(super) fn after_rename(path: &Path) -> impl FnOnce(io::Error) -> WriteError {
        let path = path.to_path_buf();
        move |source| WriteError { path, source, there: There::New }
    }
}

/// Returns the end of the error message: the cause and a way out.
fn explain(source: &io::Error, there: There) -> String {
    match there {
        There::Stream => return format!("{source}; what was written before stays there"),
        There::New => {
            return format!(
                "{source}; all of it is there, but may be gone if the machine loses power, so check the disk"
            );
        }
        There::Old => {}
    }
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the disk is full; nothing was changed there, so free some space or choose another folder and run again".into()
        }
        io::ErrorKind::FileTooLarge => {
            "the file would exceed the size limit of this process or file system; nothing was changed there, so raise the \
             limit or choose another folder"
                .into()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied; choose a folder that you may write to, or change its permissions".into()
        }
        _ => format!("{source}; nothing was changed there"),
    }
}
