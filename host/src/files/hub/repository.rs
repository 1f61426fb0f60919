//! A repository that a person named.

use std::path::Path;

use hf_hub::{Repo, RepoType};

use super::error::HubError;
use super::name::HubName;

/// A repository by its name, with what the name says of it.
pub(super) struct Repository {
    /// As the person wrote it.
    pub(super) written: String,
    pub(super) name: HubName,
    pub(super) kind: RepoType,
}

impl Repository {
    /// Reads a path that does not exist as a name.
    pub(super) fn of(path: &Path, kind: RepoType) -> Result<Self, HubError> {
        let name = path.to_str().and_then(HubName::parse);
        let name = name.ok_or_else(|| HubError::Missing { path: path.to_path_buf() })?;
        Ok(Self { written: path.display().to_string(), name, kind })
    }

    /// The repository at the revision that is named, as hf-hub has it.
    pub(super) fn repo(&self) -> Repo {
        self.at(self.name.revision())
    }

    /// The repository at any revision.
    pub(super) fn at(&self, revision: &str) -> Repo {
        Repo::with_revision(self.name.repository.clone(), self.kind, revision.to_owned())
    }
}
