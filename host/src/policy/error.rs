//! Errors of policies.

use std::path::PathBuf;

use crate::files::git_lfs::GitLfsPointer;
use crate::model::ModelError;
use crate::plugin::PluginError;

/// A policy cannot be opened or run.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// ONNX Runtime was not found.
    #[error(
        "ONNX Runtime was not found {searched}; run make setup, install the Python package onnxruntime, or name the \
         library with --onnxruntime FILE or ORT_DYLIB_PATH"
    )]
    NoRuntime {
        /// The places that were searched.
        searched: String,
    },
    /// A library is not ONNX Runtime.
    #[error("{} is not a library of ONNX Runtime: {reason}", path.display())]
    NotARuntime {
        /// The library.
        path: PathBuf,
        /// The loader's error.
        reason: String,
    },
    /// The runtime is too old.
    #[error("{} is ONNX Runtime {found}, which is too old: 1.{needed} or newer is needed", path.display())]
    OldRuntime {
        /// The library.
        path: PathBuf,
        /// Its version.
        found: String,
        /// The oldest minor version that is supported.
        needed: u32,
    },
    /// A file could not be read.
    #[error("could not read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A file is not the file itself.
    #[error(transparent)]
    Pointer(#[from] GitLfsPointer),
    /// A file is of another kind, damaged, or not a policy.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and a way out.
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
        /// The runtime's error.
        reason: String,
    },
    /// A token is not in the policy's vocabulary.
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
    /// A model gives a log-prob that is not a finite number, so that nothing can be compared with it.
    #[error("a log-prob of the model is {value} in record {record}: check the model's weights, and this record")]
    ModelNotFinite {
        /// Index of the record in the concatenated files.
        record: u64,
        /// NaN or ±∞.
        value: f64,
    },
    /// An error of the model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An error of the plugin.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// An error of libtorch.
    #[error("libtorch: {}", .0.to_string().lines().next().unwrap_or_default())]
    Torch(#[from] tch::TchError),
}
