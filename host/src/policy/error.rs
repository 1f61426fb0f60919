//! Why a policy cannot be used.

use std::path::PathBuf;

use crate::model::ModelError;
use crate::plugin::PluginError;

/// One sentence with the file, what is wrong with it, and a way out.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// There is no runtime.
    #[error(
        "ONNX Runtime was not found {searched}; run make setup, install the Python package onnxruntime, or name the \
         library with --onnxruntime FILE or ORT_DYLIB_PATH"
    )]
    NoRuntime {
        /// Where it was looked for.
        searched: String,
    },
    /// What was found is no runtime.
    #[error("{} is not a library of ONNX Runtime: {reason}", path.display())]
    NotARuntime {
        /// The library.
        path: PathBuf,
        /// What the loader says.
        reason: String,
    },
    /// An old runtime.
    #[error("{} is ONNX Runtime {found}, which is too old: 1.{needed} or newer is needed", path.display())]
    OldRuntime {
        /// The library.
        path: PathBuf,
        /// Its version.
        found: String,
        /// The oldest minor version that will do.
        needed: u32,
    },
    /// A file could not be read.
    #[error("could not read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file of another kind, or damaged.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what would do.
        problem: String,
    },
    /// A run failed.
    #[error("{} failed on a batch of {rows} rows of {tokens} tokens: {reason}", path.display())]
    Run {
        /// The policy's file.
        path: PathBuf,
        /// Rows of the batch.
        rows: i64,
        /// Tokens of a row.
        tokens: i64,
        /// What the runtime says.
        reason: String,
    },
    /// Tokens of another tokenizer.
    #[error(
        "token id {id} is not in the vocabulary of {vocab_size} of {}; the tokenizer belongs to another model", path.display()
    )]
    Vocabulary {
        /// The policy's file.
        path: PathBuf,
        /// The id.
        id: i64,
        /// Size of the policy's vocabulary.
        vocab_size: i64,
    },
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The plugin.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// libtorch refused.
    #[error("libtorch: {}", .0.to_string().lines().next().unwrap_or_default())]
    Torch(#[from] tch::TchError),
}
