//! Finds the local files of models and datasets on the Hugging Face hub: in its cache, else by downloading them.
//!
//! | module | what |
//! |---|---|
//! | `name` | `owner/name@revision:split` |
//! | `error` | why a path or name does not lead to files |
//! | `repository` | a repository that a person named |
//! | `variables` | the settings in the environment: `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`, … |
//! | `cache` | the layout of the cache |
//! | `remote` | repositories on the hub: downloading |
//! | `model` | the files of a model |
//! | `card` | the configurations that a dataset's README.md describes |
//! | `splits` | the splits of a dataset, and the choice of one |
//! | `dataset` | the record files of a dataset |
//!
//! Names of files come from the hub and are not trusted: none leads out of the repository's folder.

mod name;
mod error;
mod repository;
mod variables;
mod cache;
mod remote;
mod model;
mod card;
mod splits;
mod dataset;
#[cfg(test)]
mod testing;

use std::path::{Path, PathBuf};

use hf_hub::RepoType;

use super::paths::{expand_home, expand_pattern, is_pattern};

use cache::CacheFolder;
use remote::{Connection, Remote};
use repository::Repository;
use variables::Settings;

pub use error::HubError;
pub use name::{HubName, is_repository_name};
pub use splits::Use;

/// The cache in which repositories are looked up, and the hub from which they are fetched.
#[derive(Clone, Debug)]
pub struct Hub {
    cache: CacheFolder,
    /// None means that only the cache is used.
    connection: Option<Connection>,
}

impl Hub {
    /// Reads the settings from the environment.
    pub fn from_env() -> Self {
        let Settings { cache, endpoint, token, offline } = variables::read(|name| std::env::var(name).ok());
        let connection = (!offline).then_some(Connection { endpoint, token });
        Self { cache: CacheFolder::new(cache), connection }
    }

    /// Uses only a cache folder, without the network.
    pub fn offline(cache: &Path) -> Self {
        Self { cache: CacheFolder::new(cache.to_path_buf()), connection: None }
    }

    /// Returns the folder of a model: `path` itself if it is a folder, else that of the repository with this name.
    ///
    /// # Errors
    ///
    /// Returns [`HubError`] if there is no such folder and no such repository, or if one of its small files is
    /// a Git LFS pointer.
    pub fn model_folder(&self, path: &Path) -> Result<PathBuf, HubError> {
        let folder = self.find_model_folder(&expand_home(path))?;
        model::refuse_pointers(&folder)?;
        Ok(folder)
    }

    fn find_model_folder(&self, path: &Path) -> Result<PathBuf, HubError> {
        if path.is_dir() {
            return Ok(path.to_path_buf());
        }
        if path.is_file() {
            return Err(HubError::NotAFolder { path: path.to_path_buf() });
        }
        let repository = Repository::of(path, RepoType::Model)?;
        if repository.name.selector.is_some() {
            return Err(HubError::ModelWithSplit { name: repository.written });
        }
        if let Some(folder) = self.cache.snapshot(&repository) {
            let is_usable = match model::missing_files(&self.cache, &repository, &folder)? {
                missing if missing.is_empty() => true,
                // The loader names what is missing.
                _ => self.connection.is_none() && folder.join("config.json").exists(),
            };
            if is_usable {
                return Ok(folder);
            }
        }
        model::fetch(&self.remote(&repository)?)
    }

    /// Returns the record files: existing paths as they are, those that a pattern matches, and the files of dataset
    /// repositories. A repository's split is the one after `:`; `purpose` decides if none is named.
    ///
    /// # Errors
    ///
    /// Returns [`HubError`] if an entry is none of these, or if it is not known which of a dataset's files are meant.
    pub fn record_files(&self, records: &[PathBuf], purpose: Use) -> Result<Vec<PathBuf>, HubError> {
        let mut files = Vec::new();
        for path in records {
            let path = expand_home(path);
            if path.exists() {
                files.push(path);
            } else if HubName::parse(&path.to_string_lossy()).is_none() && is_pattern(&path.to_string_lossy()) {
                let found = expand_pattern(&path).map_err(|source| HubError::List { path: path.clone(), source })?;
                if found.is_empty() {
                    return Err(HubError::NoMatch { path });
                }
                files.extend(found);
            } else {
                files.extend(self.dataset_files(&Repository::of(&path, RepoType::Dataset)?, purpose)?);
            }
        }
        Ok(files)
    }

    fn dataset_files(&self, repository: &Repository, purpose: Use) -> Result<Vec<PathBuf>, HubError> {
        let cached = || dataset::cached(&self.cache, repository, purpose);
        if self.connection.is_none() {
            return cached()?.ok_or_else(|| self.not_cached(repository));
        }
        // Only the hub lists every file; a cache may hold some of them.
        match self.remote(repository).and_then(|remote| dataset::fetch(&remote, purpose)) {
            Err(error @ HubError::Fetch { .. }) => cached()?.ok_or(error),
            fetched => fetched,
        }
    }

    /// Returns the repository on the hub, unless only the cache is used.
    fn remote<'a>(&'a self, repository: &'a Repository) -> Result<Remote<'a>, HubError> {
        let connection = self.connection.as_ref().ok_or_else(|| self.not_cached(repository))?;
        connection.open(&self.cache, repository)
    }

    fn not_cached(&self, repository: &Repository) -> HubError {
        HubError::Offline { name: repository.written.clone(), cache: self.cache.path().to_path_buf() }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::symlink;

    use super::testing::snapshot;
    use super::*;

    #[test]
    fn a_cached_model_is_found() {
        let cache = tempfile::tempdir().unwrap();
        let files = ["config.json", "tokenizer.json", "model.safetensors"];
        let folder = snapshot(cache.path(), "models--owner--tiny", &files);
        assert_eq!(Hub::offline(cache.path()).model_folder(Path::new("owner/tiny")).unwrap(), folder);
    }

    #[test]
    fn a_missing_model_is_reported_with_the_searched_cache() {
        let error = Hub::offline(Path::new("cache")).model_folder(Path::new("owner/none")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "owner/none is not an existing path, and not in the Hugging Face cache cache: give a path, or unset HF_HUB_OFFLINE"
        );
        let error = Hub::offline(Path::new("cache")).model_folder(Path::new("no/such/folder")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no/such/folder does not exist: give a path, or the name of a Hugging Face repository as owner/name"
        );
    }

    #[test]
    fn no_name_leads_out_of_the_repositorys_folder() {
        let cache = tempfile::tempdir().unwrap();
        for shard in ["../../../../secret.safetensors", "/etc/passwd", "a/../../x", "..\\x"] {
            let folder = snapshot(cache.path(), "models--o--m", &["config.json", "tokenizer.json"]);
            let index = serde_json::json!({ "weight_map": { "x": shard } }).to_string();
            std::fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
            let error = Hub::offline(cache.path()).model_folder(Path::new("o/m")).unwrap_err();
            assert!(matches!(&error, HubError::Outside { file, .. } if file == shard), "{error}");
        }
        // A link to a file elsewhere is no file of the repository; one to a blob is.
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(elsewhere.path().join("private.jsonl"), "{}").unwrap();
        let folder = snapshot(cache.path(), "datasets--o--d", &["train.jsonl"]);
        symlink(elsewhere.path().join("private.jsonl"), folder.join("train-1.jsonl")).unwrap();
        let records = || Hub::offline(cache.path()).record_files(&[PathBuf::from("o/d")], Use::Train);
        let error = records().unwrap_err();
        assert!(matches!(&error, HubError::Outside { file, .. } if file == "train-1.jsonl"), "{error}");
        std::fs::remove_file(folder.join("train-1.jsonl")).unwrap();
        let blobs = cache.path().join("datasets--o--d/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join("abc"), "{}").unwrap();
        symlink("../../blobs/abc", folder.join("train-1.jsonl")).unwrap();
        assert_eq!(records().unwrap().len(), 2);
    }

    #[test]
    fn a_name_pins_a_revision() {
        let cache = tempfile::tempdir().unwrap();
        let main = snapshot(cache.path(), "datasets--o--d", &["train.jsonl"]);
        let repository = cache.path().join("datasets--o--d");
        std::fs::create_dir_all(repository.join("refs/refs/pr")).unwrap();
        std::fs::create_dir_all(repository.join("snapshots/def")).unwrap();
        std::fs::write(repository.join("refs/refs/pr/1"), "def").unwrap();
        std::fs::write(repository.join("snapshots/def/train.jsonl"), "{}").unwrap();
        let records = |name: &str| Hub::offline(cache.path()).record_files(&[PathBuf::from(name)], Use::Train);
        assert_eq!(records("o/d").unwrap(), [main.join("train.jsonl")]);
        let pinned = [repository.join("snapshots/def/train.jsonl")];
        for name in ["o/d@refs/pr/1", "o/d@def", "o/d@def:train", "o/d:train@def"] {
            assert_eq!(records(name).unwrap(), pinned, "{name}");
        }
        assert!(matches!(records("o/d@v2").unwrap_err(), HubError::Offline { .. }));
        let model = Hub::offline(cache.path()).model_folder(Path::new("o/m:train")).unwrap_err();
        assert_eq!(model.to_string(), "o/m:train names a model, which has no splits: leave out what follows `:`");
    }

    #[test]
    fn a_pattern_names_record_files() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["b.jsonl", "a.jsonl", "c.txt"] {
            std::fs::write(folder.path().join(file), "{}").unwrap();
        }
        let records =
            |pattern: &str| Hub::offline(Path::new("cache")).record_files(&[folder.path().join(pattern)], Use::Train);
        assert_eq!(records("*.jsonl").unwrap(), [folder.path().join("a.jsonl"), folder.path().join("b.jsonl")]);
        assert!(matches!(records("*.parquet").unwrap_err(), HubError::NoMatch { .. }));
    }
}
