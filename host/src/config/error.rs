//! Errors of the run config.

use std::path::PathBuf;

/// The run config is invalid; the message names the key, the layer that sets it and a way out.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the run config {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}, line {line}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// The parser's message.
        problem: String,
    },
    /// The argument is not `key=value`.
    #[error("`{text}` is not an override: write key=value, as in train.learning_rate=1e-4")]
    Override {
        /// The argument.
        text: String,
    },
    /// The key does not exist.
    #[error(
        "{origin}: unknown key `{key}`{}",
        suggestion.as_ref().map(|known| format!("; did you mean `{known}`?")).unwrap_or_default()
    )]
    UnknownKey {
        /// The layer that sets it.
        origin: String,
        /// The key.
        key: String,
        /// The nearest known key.
        suggestion: Option<String>,
    },
    /// The value has the wrong type or is out of range.
    #[error("{origin}: `{key}` {problem}")]
    Value {
        /// The layer that sets it.
        origin: String,
        /// The key.
        key: String,
        /// What is wrong, as the rest of the sentence.
        problem: String,
    },
    /// A required key is not set.
    #[error("the run config lacks `{key}`: {hint}")]
    Missing {
        /// The key.
        key: String,
        /// What to set it to.
        hint: String,
    },
    /// Keys contradict each other, or a value is out of range.
    #[error("{0}")]
    Invalid(String),
}
