//! Errors of models and adapters.

use std::io;
use std::path::{Path, PathBuf};

use crate::files::atomic::WriteError;
use crate::files::git_lfs::GitLfsPointer;
use crate::files::safetensors::SafetensorsError;

/// Reading, running or writing a model or adapter failed.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The path is not a folder.
    #[error("{} is not a folder; give a model folder with config.json and safetensors weights", folder.display())]
    NoFolder {
        /// The path.
        folder: PathBuf,
    },
    /// The folder lacks a file.
    #[error("{} has no {file}; {way_out}", folder.display())]
    NoFile {
        /// The model's or adapter's folder.
        folder: PathBuf,
        /// The missing file.
        file: &'static str,
        /// How to fix it.
        way_out: &'static str,
    },
    /// A file could not be read.
    #[error("could not read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// A JSON file is not valid, lacks a field, or has a field of a wrong type.
    #[error("{}: {message}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The field, what was found and what is expected.
        message: String,
    },
    /// A file asks for a feature that is not supported.
    #[error("{}: {feature} is not supported; {way_out}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The field and its value.
        feature: String,
        /// What is supported instead.
        way_out: String,
    },
    /// The weights lack a tensor.
    #[error("{} has no tensor `{tensor}` of shape {shape:?}, which config.json calls for{way_out}", file.display())]
    MissingTensor {
        /// The file, or the index of sharded files.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape according to config.json.
        shape: Vec<i64>,
        /// How to fix it, after a semicolon; may be empty.
        way_out: &'static str,
    },
    /// The weights have a tensor that is not a parameter of the model.
    #[error("{} has a tensor `{tensor}` that a model of this config.json does not have; {way_out}", file.display())]
    UnexpectedTensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// How to fix it.
        way_out: String,
    },
    /// A tensor's shape differs from that of the configuration.
    #[error("{}: tensor `{tensor}` has shape {found:?}, but {source_of_shape} calls for {expected:?}", file.display())]
    TensorShape {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The file that determines the expected shape.
        source_of_shape: String,
        /// The shape that was expected.
        expected: Vec<i64>,
        /// The shape in the file.
        found: Vec<i64>,
    },
    /// A weight that bitsandbytes quantised lacks a part, or a part is not what it writes.
    #[error("{}: the 4-bit weight `{tensor}` cannot be read, because {problem}; {way_out}", file.display())]
    QuantizedTensor {
        /// The file.
        file: PathBuf,
        /// The weight.
        tensor: String,
        /// What is wrong with it.
        problem: String,
        /// How to fix it.
        way_out: &'static str,
    },
    /// A weight that is to be quantised is not finite.
    #[error(
        "{}: tensor `{tensor}` has values that are not finite numbers, which 4 bits cannot hold; copy or download the \
         model again, or mend the run that wrote it",
        file.display()
    )]
    NotFinite {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// The adapter was made for another model.
    #[error("the adapter {} does not fit the model {}: {message}", adapter.display(), model.display())]
    AdapterMismatch {
        /// The adapter's folder.
        adapter: PathBuf,
        /// The model's folder.
        model: PathBuf,
        /// How they differ.
        message: String,
    },
    /// A call with arguments that the model cannot take.
    #[error("{0}")]
    Request(String),
    /// A safetensors file could not be read or written.
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),
    /// A file is not the file itself.
    #[error(transparent)]
    Pointer(#[from] GitLfsPointer),
    /// A file or folder could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// An error from libtorch, most likely out of memory.
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
