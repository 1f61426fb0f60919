//! The error of a call: a status with a message.

use lambda_dpo_abi as abi;
use lambda_dpo_core::{Error, ErrorKind};

/// A status with a message.
#[derive(Debug)]
pub struct Failure {
    /// The kind of the failure.
    pub status: abi::Status,
    /// The message.
    pub message: String,
}

impl Failure {
    /// Creates a failure.
    pub fn new(status: abi::Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// Creates the failure of an argument that cannot be used.
    pub fn argument(message: impl Into<String>) -> Self {
        Self::new(abi::STATUS_INVALID_ARGUMENT, message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            ErrorKind::InvalidArgument => abi::STATUS_INVALID_ARGUMENT,
            ErrorKind::Io => abi::STATUS_IO,
            ErrorKind::InvalidData => abi::STATUS_INVALID_DATA,
            ErrorKind::Unsupported => abi::STATUS_UNSUPPORTED,
            ErrorKind::Torch => abi::STATUS_TORCH,
            ErrorKind::Cancelled => abi::STATUS_CANCELLED,
        };
        Self::new(status, error.to_string())
    }
}

impl From<tch::TchError> for Failure {
    fn from(error: tch::TchError) -> Self {
        Error::from(error).into()
    }
}

/// Result of the body of a call.
pub type Outcome<T = ()> = Result<T, Failure>;
