//! Finds the local files of models and datasets on the Hugging Face hub: in its cache, else by downloading them.
//!
//! | module | what |
//! |---|---|
//! | `name` | `owner/name@revision:split` |
//! | `variables` | the settings in the environment: `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`, … |
//! | `card` | the configurations that a dataset's README.md describes |
//! | `splits` | the splits of a dataset, and the choice of one |
//!
//! Names of files come from the hub and are not trusted: none leads out of the repository's folder.

mod name;
mod variables;
mod card;
mod splits;

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::lock::{Lock, LockError, process};
use super::paths::{expand_home, expand_pattern, is_pattern};
use crate::console::say;

use variables::Settings;

pub use name::HubName;
pub use splits::Use;

use crate::files::git_lfs::{GitLfsPointer, refuse_pointer};
use crate::files::regular;

/// Small files of a model repository, fetched if they exist.
const MODEL_FILES: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
];
const WEIGHTS: &str = "model.safetensors";
const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
const CARD: &str = "README.md";
/// Name of the lock of a repository that is being fetched.
const LOCK: &str = "lambda-dpo.lock";
/// Time between two looks at it.
const LOCK_INTERVAL: Duration = Duration::from_millis(200);
/// Extension of a file that hf-hub has fetched in part.
const PART: &str = "part";

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

/// The cache in which repositories are looked up, and the hub from which they are fetched.
#[derive(Clone, Debug)]
pub struct Hub {
    cache: PathBuf,
    endpoint: Option<String>,
    token: Option<String>,
    offline: bool,
}

/// Returns true if the text can be the name of a repository: `owner/name`, perhaps with `@revision` and `:split`.
pub fn is_repository_name(text: &str) -> bool {
    HubName::parse(text).is_some()
}

impl Hub {
    /// Reads the settings from the environment.
    pub fn from_env() -> Self {
        let Settings { cache, endpoint, token, offline } = variables::read(|name| std::env::var(name).ok());
        Self { cache, endpoint, token, offline }
    }

    /// Uses only a cache folder, without the network.
    pub fn offline(cache: &Path) -> Self {
        Self { cache: cache.to_path_buf(), endpoint: None, token: None, offline: true }
    }

    /// Returns the folder of a model: `path` itself if it is a folder, else that of the repository with this name.
    ///
    /// # Errors
    ///
    /// Returns [`HubError`] if there is no such folder and no such repository, or if one of its small files is
    /// a Git LFS pointer.
    pub fn model_folder(&self, path: &Path) -> Result<PathBuf, HubError> {
        let folder = self.find_model_folder(&expand_home(path))?;
        for name in MODEL_FILES {
            refuse_pointer(&folder.join(name))?;
        }
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
        if let Some(folder) = self.snapshot(&repository) {
            let is_usable = match self.missing_files(&repository, &folder)? {
                missing if missing.is_empty() => true,
                // The loader names what is missing.
                _ => self.offline && folder.join("config.json").exists(),
            };
            if is_usable {
                return Ok(folder);
            }
        }
        self.fetch_model(&repository)
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
        if self.offline {
            let cached = self.cached_dataset(repository, purpose)?;
            return cached.ok_or_else(|| self.not_cached(&repository.written));
        }
        // Only the hub lists every file; a cache may hold some of them.
        match self.fetch_dataset(repository, purpose) {
            Err(error @ HubError::Fetch { .. }) => self.cached_dataset(repository, purpose)?.ok_or(error),
            fetched => fetched,
        }
    }

    /// Returns the chosen files of a dataset in the cache; None if it has no record files there.
    fn cached_dataset(&self, repository: &Repository, purpose: Use) -> Result<Option<Vec<PathBuf>>, HubError> {
        let Some(folder) = self.snapshot(repository) else { return Ok(None) };
        let mut names = Vec::new();
        list(&folder, Path::new(""), &mut names);
        let card = read_card(&folder.join(CARD))?;
        let chosen = repository.choose(&names, card.as_deref(), purpose)?;
        if let Some(problem) = splits::missing_shards(&chosen) {
            return Err(HubError::Choice { name: repository.written.clone(), problem });
        }
        let files = chosen.iter().map(|file| self.inside(repository, &folder, file)).collect::<Result<Vec<_>, _>>()?;
        Ok((!files.is_empty()).then_some(files))
    }

    /// Returns the folder of a repository's revision in the cache.
    fn snapshot(&self, repository: &Repository) -> Option<PathBuf> {
        let folder = self.cache.join(repository.repo().folder_name());
        let revision = repository.name.revision();
        let commit = regular::read_to_string(&folder.join("refs").join(revision)).ok();
        // A commit is its own snapshot.
        let commit = commit.unwrap_or_else(|| revision.to_owned());
        let folder = folder.join("snapshots").join(Some(commit.trim()).filter(|commit| is_file_name(commit))?);
        folder.is_dir().then_some(folder)
    }

    /// Returns the path of a file of a snapshot, which may be a link to a file of the same cache only.
    fn inside(&self, repository: &Repository, snapshot: &Path, file: &str) -> Result<PathBuf, HubError> {
        let outside = || HubError::Outside { name: repository.written.clone(), file: file.to_owned() };
        if !is_relative_name(file) {
            return Err(outside());
        }
        let path = snapshot.join(file);
        let Ok(target) = path.canonicalize() else { return Ok(path) };
        let repository = self.cache.join(repository.repo().folder_name());
        let roots = [self.cache.clone(), repository.clone(), repository.join("blobs"), snapshot.to_path_buf()];
        let is_inside = roots.iter().filter_map(|root| root.canonicalize().ok()).any(|root| target.starts_with(root));
        if is_inside { Ok(path) } else { Err(outside()) }
    }

    /// Returns the names of the files that a model's folder lacks.
    fn missing_files(&self, repository: &Repository, folder: &Path) -> Result<Vec<String>, HubError> {
        let mut needed = vec!["config.json".to_owned(), "tokenizer.json".to_owned()];
        let index = folder.join(WEIGHTS_INDEX);
        if folder.join(WEIGHTS).exists() || !index.exists() {
            needed.push(WEIGHTS.to_owned());
        } else {
            needed.extend(shards(&index)?);
        }
        let mut missing = Vec::new();
        for file in needed {
            if !self.inside(repository, folder, &file)?.exists() {
                missing.push(file);
            }
        }
        Ok(missing)
    }

    fn not_cached(&self, name: &str) -> HubError {
        HubError::Offline { name: name.to_owned(), cache: self.cache.clone() }
    }

    /// Waits until no other process fetches this repository: hf-hub would give up after a few seconds, and a model takes
    /// longer.
    fn lock(&self, repository: &Repository) -> Result<Option<Lock>, HubError> {
        if self.offline {
            return Ok(None);
        }
        let failed =
            |error| HubError::Fetch { name: repository.written.clone(), source: Box::new(ApiError::IoError(error)) };
        // Where Hugging Face's libraries keep theirs.
        let folder = self.cache.join(".locks").join(repository.repo().folder_name());
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let mut is_first = true;
        loop {
            match Lock::acquire(&folder.join(LOCK)) {
                Ok(lock) => return Ok(Some(lock)),
                Err(LockError::Io(error)) => return Err(failed(error)),
                Err(LockError::Held { pid }) => {
                    if std::mem::take(&mut is_first) {
                        say(&format!("{}: waiting for {}, which fetches it", repository.written, process(pid)));
                    }
                    std::thread::sleep(LOCK_INTERVAL);
                }
            }
        }
    }

    /// Returns the repository at the commit that its revision is now.
    fn remote<'a>(&'a self, repository: &'a Repository) -> Result<Remote<'a>, HubError> {
        if self.offline {
            return Err(self.not_cached(&repository.written));
        }
        let failed = |source| HubError::Fetch { name: repository.written.clone(), source: Box::new(source) };
        let cache = Cache::new(self.cache.clone());
        let mut builder = ApiBuilder::from_cache(cache.clone()).with_token(self.token.clone());
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        let api = builder.build().map_err(failed)?;
        let info = api.repo(repository.repo()).info().map_err(failed)?;
        let files: Vec<String> = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        if let Some(file) = files.iter().find(|file| !is_relative_name(file)) {
            return Err(HubError::Outside { name: repository.written.clone(), file: file.clone() });
        }
        if !is_file_name(&info.sha) {
            return Err(HubError::Outside { name: repository.written.clone(), file: info.sha });
        }
        let pinned = Repo::with_revision(repository.name.repository.clone(), repository.kind, info.sha.clone());
        let reference = cache.repo(repository.repo());
        Ok(Remote { hub: self, repository, api: api.repo(pinned), files, reference, commit: info.sha })
    }

    fn fetch_model(&self, repository: &Repository) -> Result<PathBuf, HubError> {
        let _lock = self.lock(repository)?;
        let remote = self.remote(repository)?;
        let lacks = |what| HubError::Lacks { name: repository.written.clone(), what };
        let mut folder = None;
        for file in MODEL_FILES.iter().filter(|file| remote.has(file)) {
            let path = remote.fetch(file)?;
            folder = folder.or_else(|| path.parent().map(Path::to_path_buf));
        }
        // As in Transformers, one file of weights takes precedence over an index.
        if remote.has(WEIGHTS) {
            remote.fetch(WEIGHTS)?;
        } else if remote.has(WEIGHTS_INDEX) {
            for shard in shards(&remote.fetch(WEIGHTS_INDEX)?)? {
                remote.fetch(&shard)?;
            }
        } else {
            return Err(lacks("safetensors weights"));
        }
        remote.finish()?;
        folder.ok_or_else(|| lacks("config.json"))
    }

    fn fetch_dataset(&self, repository: &Repository, purpose: Use) -> Result<Vec<PathBuf>, HubError> {
        let _lock = self.lock(repository)?;
        let remote = self.remote(repository)?;
        let card = if remote.has(CARD) { read_card(&remote.fetch(CARD)?)? } else { None };
        let files = repository.choose(&remote.files, card.as_deref(), purpose)?;
        if files.is_empty() {
            let what = ".jsonl, .json or .parquet files";
            return Err(HubError::Lacks { name: repository.written.clone(), what });
        }
        let paths = files.iter().map(|file| remote.fetch(file)).collect::<Result<Vec<_>, _>>()?;
        remote.finish()?;
        Ok(paths)
    }
}

/// A repository on the hub, at one commit: its files belong together, even if the branch moves meanwhile or the cache
/// has an older commit.
struct Remote<'a> {
    hub: &'a Hub,
    repository: &'a Repository,
    api: ApiRepo,
    files: Vec<String>,
    /// The revision in the cache, which will be this commit.
    reference: CacheRepo,
    commit: String,
}

impl Remote<'_> {
    fn has(&self, file: &str) -> bool {
        self.files.iter().any(|known| known == file)
    }

    fn fetch(&self, file: &str) -> Result<PathBuf, HubError> {
        if !is_relative_name(file) {
            return Err(HubError::Outside { name: self.repository.written.clone(), file: file.to_owned() });
        }
        let folder = self.hub.cache.join(self.repository.repo().folder_name()).join("snapshots").join(&self.commit);
        if folder.join(file).exists() {
            return self.hub.inside(self.repository, &folder, file);
        }
        let fetched = match self.api.get(file) {
            // Of a download that was killed when all was there: the hub has no part after the last.
            Err(error) if is_after_the_end(&error) && self.remove_parts() => self.api.get(file),
            other => other,
        };
        fetched.map_err(|source| self.failed(source))
    }

    /// Removes the parts of downloads that were killed; false if there are none.
    fn remove_parts(&self) -> bool {
        let blobs = self.hub.cache.join(self.repository.repo().folder_name()).join("blobs");
        let parts = std::fs::read_dir(blobs).into_iter().flatten().flatten().map(|entry| entry.path());
        let parts = parts.filter(|path| path.extension().is_some_and(|extension| extension == PART));
        // All of them, not only the first.
        parts.filter(|path| std::fs::remove_file(path).is_ok()).count() > 0
    }

    /// Makes this commit the cache's, once all files are there: a run without the network must not find half of them.
    fn finish(&self) -> Result<(), HubError> {
        self.reference.create_ref(&self.commit).map_err(|error| self.failed(ApiError::IoError(error)))
    }

    fn failed(&self, source: ApiError) -> HubError {
        HubError::Fetch { name: self.repository.written.clone(), source: Box::new(source) }
    }
}

/// Whether a download cannot go on because it would begin after the end of the file.
fn is_after_the_end(error: &ApiError) -> bool {
    matches!(error, ApiError::InvalidResume) || error.to_string().contains("status code 416")
}

/// A repository that a person named.
struct Repository {
    /// As the person wrote it.
    written: String,
    name: HubName,
    kind: RepoType,
}

impl Repository {
    fn of(path: &Path, kind: RepoType) -> Result<Self, HubError> {
        let name = path.to_str().and_then(HubName::parse);
        let name = name.ok_or_else(|| HubError::Missing { path: path.to_path_buf() })?;
        Ok(Self { written: path.display().to_string(), name, kind })
    }

    fn repo(&self) -> Repo {
        Repo::with_revision(self.name.repository.clone(), self.kind, self.name.revision().to_owned())
    }

    fn choose(&self, names: &[String], card: Option<&str>, purpose: Use) -> Result<Vec<String>, HubError> {
        let HubName { repository, revision, selector } = &self.name;
        // With the revision, so that what the problem proposes can be copied.
        let name = revision.as_ref().map_or_else(|| repository.clone(), |revision| format!("{repository}@{revision}"));
        splits::choose(&name, names, card, selector.as_deref(), purpose)
            .map_err(|problem| HubError::Choice { name: self.written.clone(), problem })
    }
}

/// Reads the card of a dataset, which says which files make up its splits; None if there is none.
fn read_card(path: &Path) -> Result<Option<String>, HubError> {
    match regular::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HubError::Card { path: path.to_path_buf(), source }),
    }
}

/// Returns the files of weights that an index names, sorted.
fn shards(index: &Path) -> Result<Vec<String>, HubError> {
    let failed = |problem: String| HubError::Index { path: index.to_path_buf(), problem };
    let text = regular::read_to_string(index).map_err(|error| failed(error.to_string()))?;
    let index: serde_json::Value = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
    let map = index["weight_map"].as_object().ok_or_else(|| failed("it has no `weight_map` object".into()))?;
    let names = map.iter().map(|(tensor, shard)| {
        shard.as_str().map(str::to_owned).ok_or_else(|| failed(format!("`weight_map.{tensor}` is not a file name")))
    });
    let mut names = names.collect::<Result<Vec<_>, _>>()?;
    names.sort();
    names.dedup();
    Ok(names)
}

/// Whether a file name of a repository stays in its folder.
fn is_relative_name(name: &str) -> bool {
    let mut parts = Path::new(name).components().peekable();
    parts.peek().is_some() && !name.contains('\\') && parts.all(|part| matches!(part, Component::Normal(_)))
}

fn is_file_name(name: &str) -> bool {
    is_relative_name(name) && !name.contains('/')
}

/// Adds the names of the files below a folder. Links to folders are not followed: a cache has none.
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::symlink;

    use super::*;

    fn snapshot(cache: &Path, repository: &str, files: &[&str]) -> PathBuf {
        let folder = cache.join(repository).join("snapshots/abc");
        std::fs::create_dir_all(cache.join(repository).join("refs")).unwrap();
        std::fs::write(cache.join(repository).join("refs/main"), "abc").unwrap();
        for file in files {
            std::fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
            std::fs::write(folder.join(file), "{}").unwrap();
        }
        folder
    }

    #[test]
    fn names_and_paths_are_distinguished() {
        for name in ["meta-llama/Llama-3.1-8B", "openbmb/UltraFeedback"] {
            assert!(is_repository_name(name), "{name}");
        }
        for path in ["model", "a/b/c", "./a/b", "../b", "/a/b", "data/train.jsonl", "data/x.parquet"] {
            assert!(!is_repository_name(path), "{path}");
        }
    }

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
    fn a_model_is_complete_only_with_all_shards_of_its_index() {
        let cache = tempfile::tempdir().unwrap();
        let files = ["config.json", "tokenizer.json", "a.safetensors"];
        let folder = snapshot(cache.path(), "models--o--m", &files);
        std::fs::write(folder.join(WEIGHTS_INDEX), r#"{"weight_map": {"x": "a.safetensors"}}"#).unwrap();
        let repository = Repository::of(Path::new("o/m"), RepoType::Model).unwrap();
        let missing = || Hub::offline(cache.path()).missing_files(&repository, &folder).unwrap();
        assert!(missing().is_empty());
        std::fs::remove_file(folder.join("a.safetensors")).unwrap();
        assert_eq!(missing(), ["a.safetensors"]);
    }

    #[test]
    fn no_name_leads_out_of_the_repositorys_folder() {
        let cache = tempfile::tempdir().unwrap();
        for shard in ["../../../../secret.safetensors", "/etc/passwd", "a/../../x", "..\\x"] {
            let folder = snapshot(cache.path(), "models--o--m", &["config.json", "tokenizer.json"]);
            let index = serde_json::json!({ "weight_map": { "x": shard } }).to_string();
            std::fs::write(folder.join(WEIGHTS_INDEX), index).unwrap();
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
    fn the_split_of_a_cached_dataset_is_chosen_or_asked_for() {
        let cache = tempfile::tempdir().unwrap();
        let files = ["train_prefs", "train_sft", "train_gen", "test_prefs"]
            .map(|split| format!("data/{split}-00000-of-00001.parquet"));
        let folder = snapshot(cache.path(), "datasets--o--d", &files.each_ref().map(String::as_str));
        let records = |name: &str| Hub::offline(cache.path()).record_files(&[PathBuf::from(name)], Use::Train);
        assert_eq!(
            records("o/d").unwrap_err().to_string(),
            "the Hugging Face dataset o/d: it has the splits test_prefs, train_gen, train_prefs, train_sft: name the one \
             that is meant, as o/d:train_gen"
        );
        assert_eq!(records("o/d:train_prefs").unwrap(), [folder.join(&files[0])]);
        // A cache that lacks some of a split's files is no smaller split.
        std::fs::write(folder.join("data/part-00001-of-00003.parquet"), "").unwrap();
        let problem = records("o/d:part").unwrap_err().to_string();
        assert!(problem.contains("the cache has 1 of the 3 files data/part-…-of-00003.parquet"), "{problem}");
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

    #[test]
    fn only_the_train_files_of_a_cached_dataset_are_read() {
        let cache = tempfile::tempdir().unwrap();
        let files = ["README.md", "data/train-1.parquet", "data/train-0.parquet", "data/test-0.parquet"];
        let folder = snapshot(cache.path(), "datasets--owner--set", &files);
        let found = Hub::offline(cache.path()).record_files(&[PathBuf::from("owner/set")], Use::Train).unwrap();
        assert_eq!(found, [folder.join("data/train-0.parquet"), folder.join("data/train-1.parquet")]);
    }
}
