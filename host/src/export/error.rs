//! Why a policy is not written.

use std::path::PathBuf;

use crate::files::atomic::WriteError;
use crate::model::ModelError;

/// An export that was not made; there is no folder then.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Something stands where the folder is to stand.
    #[error("{} exists already; choose another folder to export to, or delete it first", path.display())]
    Exists {
        /// What was given.
        path: PathBuf,
    },
    /// A weight beyond the dtype's range.
    #[error(
        "`{tensor}` has values that float16 cannot hold (beyond ±65504, or not finite); export in float32 or bfloat16"
    )]
    Range {
        /// The tensor.
        tensor: String,
    },
    /// A caller's mistake.
    #[error("a model with an adapter cannot be exported; merge the adapter first")]
    Adapter,
    /// A dtype that the format's readers do not compute in.
    #[error(
        "ONNX is written in float32 or float16: the CPU provider of ONNX Runtime computes in no {dtype}; choose one with --dtype"
    )]
    Dtype {
        /// The dtype.
        dtype: &'static str,
    },
    /// libtorch did not write a module.
    #[error("could not write {}: {problem}", path.display())]
    Script {
        /// The file.
        path: PathBuf,
        /// What libtorch says.
        problem: String,
    },
    /// The model.
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
