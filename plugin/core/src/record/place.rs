//! Place of a record in the inputs, for error messages.

use std::path::Path;
use std::sync::Arc;

use crate::Error;

/// Place of a record in the inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File {
        /// The file.
        path: Arc<Path>,
        /// "line" (JSON lines) or "record" (JSON arrays, Parquet).
        unit: &'static str,
        /// Counted from 1.
        number: u64,
    },
    /// In a stream of record batches.
    Stream {
        /// Counted from 0, like the indices of samples.
        index: u64,
    },
}

impl Place {
    /// Creates an error about this record.
    pub fn error(&self, problem: impl Into<String>) -> Error {
        match self {
            Self::File { path, unit, number } => Error::InvalidRecord {
                path: path.to_path_buf(),
                place: format!("{unit} {number}"),
                problem: problem.into(),
            },
            Self::Stream { index } => Error::InvalidData(format!("record {index} of the stream: {}", problem.into())),
        }
    }
}
