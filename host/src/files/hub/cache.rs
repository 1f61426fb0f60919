//! The layout of the cache, which is that of Hugging Face's libraries:
//!
//! | path in the folder of a repository | what |
//! |---|---|
//! | `refs/REVISION` | the commit that a branch or tag was when it was fetched |
//! | `snapshots/COMMIT` | the files of a commit, which are links to blobs |
//! | `blobs` | contents of files, and parts of them while they are fetched |
//!
//! Names of files come from the hub and from files of it: none may lead out of the folder of its repository.

use std::path::{Component, Path, PathBuf};

use super::error::HubError;
use super::repository::Repository;
use crate::files::regular;

/// A folder of repositories.
#[derive(Clone, Debug)]
pub(super) struct CacheFolder {
    path: PathBuf,
}

impl CacheFolder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn repository(&self, repository: &Repository) -> PathBuf {
        self.path.join(repository.repo().folder_name())
    }

    /// Returns the folder of the contents of a repository's files.
    pub(super) fn blobs(&self, repository: &Repository) -> PathBuf {
        self.repository(repository).join("blobs")
    }

    /// Returns the folder of a repository's locks, where Hugging Face's libraries keep theirs.
    pub(super) fn locks(&self, repository: &Repository) -> PathBuf {
        self.path.join(".locks").join(repository.repo().folder_name())
    }

    /// Returns the folder of a commit, which may not exist.
    pub(super) fn commit(&self, repository: &Repository, commit: &str) -> PathBuf {
        self.repository(repository).join("snapshots").join(commit)
    }

    /// Returns the folder of a repository's revision, if there is one.
    pub(super) fn snapshot(&self, repository: &Repository) -> Option<PathBuf> {
        let revision = repository.name.revision();
        let commit = regular::read_to_string(&self.repository(repository).join("refs").join(revision)).ok();
        // A commit is its own snapshot.
        let commit = commit.unwrap_or_else(|| revision.to_owned());
        let folder = self.commit(repository, Some(commit.trim()).filter(|commit| is_file_name(commit))?);
        folder.is_dir().then_some(folder)
    }

    /// Returns the path of a file of a snapshot, which may be a link to a file of the same cache only.
    pub(super) fn inside(&self, repository: &Repository, snapshot: &Path, file: &str) -> Result<PathBuf, HubError> {
        let outside = || HubError::Outside { name: repository.written.clone(), file: file.to_owned() };
        if !is_relative_name(file) {
            return Err(outside());
        }
        let path = snapshot.join(file);
        let Ok(target) = path.canonicalize() else { return Ok(path) };
        let blobs = self.blobs(repository);
        let roots = [self.path(), &self.repository(repository), &blobs, snapshot];
        let is_inside = roots.iter().filter_map(|root| root.canonicalize().ok()).any(|root| target.starts_with(root));
        if is_inside { Ok(path) } else { Err(outside()) }
    }
}

/// Whether a file name of a repository stays in its folder.
pub(super) fn is_relative_name(name: &str) -> bool {
    let mut parts = Path::new(name).components().peekable();
    parts.peek().is_some() && !name.contains('\\') && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// Whether a name is that of a file of the folder itself.
pub(super) fn is_file_name(name: &str) -> bool {
    is_relative_name(name) && !name.contains('/')
}

/// Returns the names of the files of a snapshot. Links to folders are not followed: a cache has none.
pub(super) fn files(snapshot: &Path) -> Vec<String> {
    let mut names = Vec::new();
    list(snapshot, Path::new(""), &mut names);
    names
}

/// Adds the names of the files below a folder.
fn list(folder: &Path, prefix: &Path, names: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = prefix.join(entry.file_name());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&entry.path(), &name, names);
        } else if let Some(name) = name.to_str().filter(|_| entry.path().is_file()) {
            names.push(name.to_owned());
        }
    }
}
