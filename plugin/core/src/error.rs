//! One error type for the crate; every variant is a full sentence with what a person needs to fix it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of failure an [`Error`] is, for callers that branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// An argument out of range, of a wrong shape or dtype.
    InvalidArgument,
    /// A file missing, unreadable or not to be written; no thread to be had.
    Io,
    /// A record, tokenizer or template that does not parse or lacks a field.
    InvalidData,
    /// Something this version does not support.
    Unsupported,
    /// libtorch refused.
    Torch,
    /// The caller's progress callback asked to stop.
    Cancelled,
}

/// What went wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be opened or read.
    #[error("{}: {}", path.display(), io_problem(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("{}: cannot be written: {source}; make room there, or choose another cache folder", path.display())]
    Write {
        /// The file, or the folder it was to appear in.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The operating system gives no thread.
    #[error("a thread to {purpose} cannot be started: {source}; raise the limit on processes (ulimit -u)")]
    Thread {
        /// What for.
        purpose: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A record file's contents are wrong; `place` is "line 3" or "record 3".
    #[error("{}, {place}: {problem}", path.display())]
    InvalidRecord {
        /// The file.
        path: PathBuf,
        /// Where in it.
        place: String,
        /// What is wrong, with the field's name.
        problem: String,
    },
    /// Anything else that does not parse: a tokenizer, a template, a sample.
    #[error("{0}")]
    InvalidData(String),
    /// An argument out of range, of a wrong shape or dtype.
    #[error("{0}")]
    InvalidArgument(String),
    /// Something this version does not support.
    #[error("{0}")]
    Unsupported(String),
    /// libtorch refused.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
    /// The caller's progress callback asked to stop.
    #[error("stopped by the caller")]
    Cancelled,
}

/// Says what an I/O error is without the operating system's error number where the kind alone is clear.
fn io_problem(source: &std::io::Error) -> String {
    match source.kind() {
        std::io::ErrorKind::NotFound if source.get_ref().is_none() => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied if source.get_ref().is_none() => {
            "permission to read it is denied".to_owned()
        }
        _ => source.to_string(),
    }
}

impl Error {
    /// An I/O error at `path`.
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    /// The kind of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } | Self::Write { .. } | Self::Thread { .. } => ErrorKind::Io,
            Self::InvalidRecord { .. } | Self::InvalidData(_) => ErrorKind::InvalidData,
            Self::InvalidArgument(_) => ErrorKind::InvalidArgument,
            Self::Unsupported(_) => ErrorKind::Unsupported,
            Self::Torch(_) => ErrorKind::Torch,
            Self::Cancelled => ErrorKind::Cancelled,
        }
    }
}

/// What a panic said.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// Runs a library on what anyone may have written: where it panics, what it said is an error of the contents.
pub(crate) fn contained<T>(body: impl FnOnce() -> T) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|panic| panic_text(&*panic).to_owned())
}
