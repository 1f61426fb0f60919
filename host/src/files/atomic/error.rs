//! Error of a write, with a way out.

use std::io;
use std::path::{Path, PathBuf};

/// A file or folder could not be written; what was there is unchanged.
#[derive(Debug, thiserror::Error)]
#[error("could not write {}: {}", path.display(), explain(source, *is_stream))]
pub struct WriteError {
    /// The target.
    pub path: PathBuf,
    /// The error of the operating system.
    pub source: io::Error,
    /// Whether the target is a pipe, terminal or the like, which keeps what it was given.
    is_stream: bool,
}

impl WriteError {
    pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> WriteError {
        let path = path.to_path_buf();
        move |source| WriteError { path, source, is_stream: false }
    }

    pub(super) fn in_stream(path: &Path) -> impl FnOnce(io::Error) -> WriteError {
        let path = path.to_path_buf();
        move |source| WriteError { path, source, is_stream: true }
    }
}

/// Returns the end of the error message: the cause and a way out.
fn explain(source: &io::Error, is_stream: bool) -> String {
    if is_stream {
        return format!("{source}; what was written before stays there");
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
