//! What can be wrong with a run config.

use std::path::PathBuf;

/// One sentence each, naming where the key stands and what would do instead.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the run config {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{}, line {line}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where.
        line: usize,
        /// What the parser says.
        problem: String,
    },
    /// An argument that is no `key=value`.
    #[error("`{text}` is not an override: write key=value, as in train.learning_rate=1e-4")]
    Override {
        /// The argument.
        text: String,
    },
    /// A key that does not exist.
    #[error("{origin}: unknown key `{key}`{}", suggestion.as_ref().map(|known| format!("; did you mean `{known}`?")).unwrap_or_default())]
    UnknownKey {
        /// The layer it stands in.
        origin: String,
        /// The key.
        key: String,
        /// The nearest known key.
        suggestion: Option<String>,
    },
    /// A value of the wrong type or out of range.
    #[error("{origin}: `{key}` {problem}")]
    Value {
        /// The layer it stands in.
        origin: String,
        /// The key.
        key: String,
        /// What is wrong, as the rest of the sentence.
        problem: String,
    },
    /// A key without which there is no run.
    #[error("the run config lacks `{key}`: {hint}")]
    Missing {
        /// The key.
        key: String,
        /// What to set it to.
        hint: String,
    },
    /// Keys that contradict each other, or a value that makes no sense.
    #[error("{0}")]
    Invalid(String),
}
