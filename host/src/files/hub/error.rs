//! Why a path or name does not lead to files.

use std::path::PathBuf;

use hf_hub::api::sync::ApiError;

use crate::files::git_lfs::GitLfsPointer;

/// A path or name does not lead to files.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The text is neither an existing path nor a name on the hub.
    #[error("{} does not exist: give a path, or the name of a Hugging Face repository as owner/name", path.display())]
    Missing {
        /// As the user wrote it.
        path: PathBuf,
    },
    /// A file of a model is not the file itself.
    #[error(transparent)]
    Pointer(#[from] GitLfsPointer),
    /// The path of a model is a file.
    #[error("{} is a file: give the model's folder", path.display())]
    NotAFolder {
        /// As the user wrote it.
        path: PathBuf,
    },
    /// The name is not in the cache, and HF_HUB_OFFLINE is set.
    #[error(
        "{name} is not an existing path, and not in the Hugging Face cache {}: give a path, or unset HF_HUB_OFFLINE",
        cache.display()
    )]
    Offline {
        /// As the user wrote it.
        name: String,
        /// The cache folder.
        cache: PathBuf,
    },
    /// The name could not be fetched from the hub.
    #[error("{name} is not an existing path, is not in the Hugging Face cache, and could not be fetched: {source}")]
    Fetch {
        /// As the user wrote it.
        name: String,
        /// The error of the hub's client.
        source: Box<ApiError>,
    },
    /// Which files of a dataset are meant is not known.
    #[error("the Hugging Face dataset {name}: {problem}")]
    Choice {
        /// As the user wrote it.
        name: String,
        /// The problem, with what there is to choose from.
        problem: String,
    },
    /// The name of a model says which files are meant.
    #[error("{name} names a model, which has no splits: leave out what follows `:`")]
    ModelWithSplit {
        /// As the user wrote it.
        name: String,
    },
    /// A file of a repository would lie outside of its folder.
    #[error(
        "the Hugging Face repository {name} names the file {file:?}, which lies outside of its folder: do not use it"
    )]
    Outside {
        /// As the user wrote it.
        name: String,
        /// As the hub names it.
        file: String,
    },
    /// The index of a model's weights is not understood.
    #[error("{}: the index of the weights cannot be read: {problem}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// The problem.
        problem: String,
    },
    /// The card of a dataset cannot be read.
    #[error(
        "{}: the card of the dataset, which says what its splits are, cannot be read: {source}; delete it to fetch it again",
        path.display()
    )]
    Card {
        /// The card.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// No file matches a pattern.
    #[error("{} matches no file: `*`, `?`, `[…]` and `**` stand for names of files and folders", path.display())]
    NoMatch {
        /// As the user wrote it.
        path: PathBuf,
    },
    /// A folder cannot be listed.
    #[error("{}: its files cannot be listed: {source}", path.display())]
    List {
        /// As the user wrote it.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The repository lacks files that are needed.
    #[error("the Hugging Face repository {name} has no {what}")]
    Lacks {
        /// As the user wrote it.
        name: String,
        /// The missing files.
        what: &'static str,
    },
}
