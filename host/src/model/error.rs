//! What can go wrong with a model, as sentences.

use std::io;
use std::path::{Path, PathBuf};

use crate::files::atomic::WriteError;
use crate::files::safetensors::SafetensorsError;

/// A model or adapter could not be read, run or written.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The path is no folder.
    #[error("{} is not a folder; give a model folder with config.json and safetensors weights", folder.display())]
    NoFolder {
        /// What was given.
        folder: PathBuf,
    },
    /// The folder lacks a file.
    #[error("{} has no {file}; {way_out}", folder.display())]
    NoFile {
        /// The model's or adapter's folder.
        folder: PathBuf,
        /// What it lacks.
        file: &'static str,
        /// What to do.
        way_out: &'static str,
    },
    /// A file could not be read.
    #[error("could not read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A JSON file does not parse, lacks a field, or has one of a wrong type.
    #[error("{}: {message}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Which field, what was found, what is expected.
        message: String,
    },
    /// Something that the file asks for is not supported.
    #[error("{}: {feature} is not supported; {way_out}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The field and its value.
        feature: String,
        /// What is supported.
        way_out: String,
    },
    /// The weights lack a tensor.
    #[error("{} has no tensor `{tensor}` of shape {shape:?}, which config.json calls for", file.display())]
    MissingTensor {
        /// The file, or the index of sharded files.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape according to config.json.
        shape: Vec<i64>,
    },
    /// The weights have a tensor that the model has no place for.
    #[error("{} has a tensor `{tensor}` that a model of this config.json does not have", file.display())]
    UnexpectedTensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{}: tensor `{tensor}` has shape {found:?}, but {source_of_shape} calls for {expected:?}", file.display())]
    TensorShape {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// What `expected` follows from.
        source_of_shape: String,
        /// The shape that was expected.
        expected: Vec<i64>,
        /// The shape in the file.
        found: Vec<i64>,
    },
    /// The adapter was made for another model.
    #[error("the adapter {} does not fit the model {}: {message}", adapter.display(), model.display())]
    AdapterMismatch {
        /// The adapter's folder.
        adapter: PathBuf,
        /// The model's folder.
        model: PathBuf,
        /// Where they differ.
        message: String,
    },
    /// A request that the model cannot follow.
    #[error("{0}")]
    Request(String),
    /// A safetensors file could not be read or written.
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),
    /// A file or folder could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// libtorch refused: out of memory, most likely.
    #[error("libtorch failed in the model: {0}")]
    Torch(String),
}

impl From<tch::TchError> for ModelError {
    /// Keeps the first line: the rest is a C++ stack trace.
    fn from(error: tch::TchError) -> Self {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        ModelError::Torch(line.trim_start_matches("Internal torch error: ").trim_end_matches('.').to_owned())
    }
}

impl ModelError {
    pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> ModelError {
        let path = path.to_path_buf();
        move |source| ModelError::Read { path, source }
    }
}
