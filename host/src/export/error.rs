//! Errors of exports.

use std::path::PathBuf;

use crate::files::atomic::WriteError;
use crate::model::ModelError;

/// An export failed; nothing is left at the destination.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The destination exists already.
    #[error("{} exists already; choose another folder to export to, or delete it first", path.display())]
    Exists {
        /// The destination.
        path: PathBuf,
    },
    /// A weight is out of the dtype's range.
    #[error(
        "`{tensor}` has values that float16 cannot hold (beyond ±65504, or not finite); export in float32 or bfloat16"
    )]
    Range {
        /// The tensor.
        tensor: String,
    },
    /// A weight is not a finite number.
    #[error("`{tensor}` has values that are not finite numbers; check the weights of the model and its adapter")]
    NotFinite {
        /// The tensor.
        tensor: String,
    },
    /// The model has an adapter that is not merged.
    #[error("a model with an adapter cannot be exported; merge the adapter first")]
    Adapter,
    /// A dtype that ONNX Runtime's CPU provider does not compute in.
    #[error(
        "ONNX is written in float32 or float16: the CPU provider of ONNX Runtime does not compute in {dtype}; choose one \
         with --dtype"
    )]
    Dtype {
        /// The dtype.
        dtype: &'static str,
    },
    /// An error of the model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file or folder could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl From<tch::TchError> for ExportError {
    fn from(error: tch::TchError) -> Self {
        Self::Model(error.into())
    }
}
