//! The crate's error type. Every message is a full sentence with what a person needs to fix the problem.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;

/// Result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Kind of an [`Error`], for callers that branch on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// An argument is out of range, or has a wrong shape or dtype.
    InvalidArgument,
    /// A file is missing, unreadable or cannot be written, or a thread cannot be started.
    Io,
    /// A record, tokenizer or template does not parse or lacks a field.
    InvalidData,
    /// This version does not support the request.
    Unsupported,
    /// An error from libtorch.
    Torch,
    /// The caller's progress callback asked to stop.
    Cancelled,
}

/// An error: what went wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be opened or read.
    #[error("{}: {}", path.display(), io_problem(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("{}: cannot be written: {source}; make room there, or choose another cache folder", path.display())]
    Write {
        /// The file, or the folder it was meant for.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The operating system could not start a thread.
    #[error("a thread to {purpose} cannot be started: {source}; raise the limit on processes (ulimit -u)")]
    Thread {
        /// What the thread is for.
        purpose: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// The contents of a record file are invalid; `place` is "line 3" or "record 3".
    #[error("{}, {place}: {problem}", path.display())]
    InvalidRecord {
        /// The file.
        path: PathBuf,
        /// The line or record.
        place: String,
        /// The problem, with the field's name.
        problem: String,
    },
    /// Other data does not parse: a tokenizer, a template, a sample.
    #[error("{0}")]
    InvalidData(String),
    /// An argument is out of range, or has a wrong shape or dtype.
    #[error("{0}")]
    InvalidArgument(String),
    /// This version does not support the request.
    #[error("{0}")]
    Unsupported(String),
    /// An error from libtorch.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
    /// The caller's progress callback asked to stop.
    #[error("stopped by the caller")]
    Cancelled,
}

/// Describes an I/O error, without the operating system's error number if the kind says enough.
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
    /// Creates an I/O error at `path`.
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    /// Returns the kind of this error.
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

/// Returns the message of a panic.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

thread_local! {
    /// How many calls of [`contained`] this thread is in.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Runs a library on untrusted contents: a panic inside becomes an error with its message, and is printed nowhere else.
pub(crate) fn contained<T>(body: impl FnOnce() -> T) -> std::result::Result<T, String> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if DEPTH.get() == 0 {
                print(info);
            }
        }));
    });
    DEPTH.set(DEPTH.get() + 1);
    let outcome = catch_unwind(AssertUnwindSafe(body));
    DEPTH.set(DEPTH.get() - 1);
    // On one line: the message of an assertion has several.
    outcome.map_err(|panic| panic_text(&*panic).lines().map(str::trim).collect::<Vec<_>>().join(", "))
}
