//! Finds the local files of models and datasets on the Hugging Face hub: in its cache, else by downloading them.
//!
//! Honours `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE`.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

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
const RECORD_EXTENSIONS: &[&str] = &["jsonl", "json", "parquet"];

/// A path or name does not lead to files.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The text is neither an existing path nor a name on the hub.
    #[error("{} does not exist: give a path, or the name of a Hugging Face repository as owner/name", path.display())]
    Missing {
        /// As the user wrote it.
        path: PathBuf,
    },
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

/// Returns true if the text can be the name `owner/name` of a repository.
pub fn is_repository_name(text: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphanumeric())
            && part.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.'))
    };
    let has_known_extension = RECORD_EXTENSIONS.iter().any(|extension| text.ends_with(&format!(".{extension}")));
    match text.split_once('/') {
        Some((owner, name)) => is_part(owner) && is_part(name) && !has_known_extension,
        None => false,
    }
}

impl Hub {
    /// Reads the settings from the environment.
    pub fn from_env() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = variable("HF_HOME").map_or_else(
            || PathBuf::from(variable("HOME").unwrap_or_default()).join(".cache/huggingface"),
            PathBuf::from,
        );
        let offline = variable("HF_HUB_OFFLINE")
            .is_some_and(|value| matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"));
        Self {
            cache: variable("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            endpoint: variable("HF_ENDPOINT"),
            token: variable("HF_TOKEN"),
            offline,
        }
    }

    /// Uses only a cache folder, without the network.
    pub fn offline(cache: &Path) -> Self {
        Self { cache: cache.to_path_buf(), endpoint: None, token: None, offline: true }
    }

    /// Returns the folder of a model: `path` itself if it is a folder, else that of the repository with this name.
    ///
    /// # Errors
    ///
    /// Returns [`HubError`] if there is no such folder and no such repository.
    pub fn model_folder(&self, path: &Path) -> Result<PathBuf, HubError> {
        if path.is_dir() {
            return Ok(path.to_path_buf());
        }
        if path.is_file() {
            return Err(HubError::NotAFolder { path: path.to_path_buf() });
        }
        let name = repository_name(path)?;
        match self.snapshot(&name, RepoType::Model) {
            Some(folder) if is_complete(&folder) || (self.offline && folder.join("config.json").exists()) => Ok(folder),
            _ => self.fetch_model(&name),
        }
    }

    /// Returns the record files: existing paths as they are, and the files of dataset repositories.
    ///
    /// # Errors
    ///
    /// Returns [`HubError`] if an entry is neither.
    pub fn record_files(&self, records: &[PathBuf]) -> Result<Vec<PathBuf>, HubError> {
        let mut files = Vec::new();
        for path in records {
            if path.exists() {
                files.push(path.clone());
            } else {
                files.extend(self.dataset_files(&repository_name(path)?)?);
            }
        }
        Ok(files)
    }

    fn dataset_files(&self, name: &str) -> Result<Vec<PathBuf>, HubError> {
        let cached = || {
            let folder = self.snapshot(name, RepoType::Dataset)?;
            let mut names = Vec::new();
            list(&folder, Path::new(""), &mut names);
            let files: Vec<PathBuf> = record_names(&names).into_iter().map(|file| folder.join(file)).collect();
            (!files.is_empty()).then_some(files)
        };
        if self.offline {
            return cached().ok_or_else(|| self.not_cached(name));
        }
        // Only the hub lists every file; a cache may hold some of them.
        match self.fetch_dataset(name) {
            Err(HubError::Fetch { name, source }) => cached().ok_or(HubError::Fetch { name, source }),
            fetched => fetched,
        }
    }

    fn snapshot(&self, name: &str, kind: RepoType) -> Option<PathBuf> {
        let repository = self.cache.join(Repo::new(name.to_owned(), kind).folder_name());
        let commit = std::fs::read_to_string(repository.join("refs/main")).ok()?;
        let folder = repository.join("snapshots").join(commit.trim());
        folder.is_dir().then_some(folder)
    }

    fn not_cached(&self, name: &str) -> HubError {
        HubError::Offline { name: name.to_owned(), cache: self.cache.clone() }
    }

    fn repository(&self, name: &str, kind: RepoType) -> Result<ApiRepo, HubError> {
        if self.offline {
            return Err(self.not_cached(name));
        }
        let mut builder = ApiBuilder::from_cache(Cache::new(self.cache.clone()));
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        if let Some(token) = &self.token {
            builder = builder.with_token(Some(token.clone()));
        }
        let api = builder.build().map_err(|source| fetch_error(name, source))?;
        Ok(api.repo(Repo::new(name.to_owned(), kind)))
    }

    fn fetch_model(&self, name: &str) -> Result<PathBuf, HubError> {
        let repository = self.repository(name, RepoType::Model)?;
        let available = list_remote(&repository, name)?;
        let has = |file: &str| available.iter().any(|known| known == file);
        let mut wanted: Vec<&str> = MODEL_FILES.iter().copied().filter(|file| has(file)).collect();
        if has(WEIGHTS_INDEX) {
            wanted.push(WEIGHTS_INDEX);
            wanted.extend(available.iter().map(String::as_str).filter(|file| is_shard(file)));
        } else if has(WEIGHTS) {
            wanted.push(WEIGHTS);
        } else {
            return Err(HubError::Lacks { name: name.to_owned(), what: "safetensors weights" });
        }
        let mut folder = None;
        for file in wanted {
            let path = repository.get(file).map_err(|source| fetch_error(name, source))?;
            folder = folder.or_else(|| path.parent().map(Path::to_path_buf));
        }
        folder.ok_or_else(|| HubError::Lacks { name: name.to_owned(), what: "config.json" })
    }

    fn fetch_dataset(&self, name: &str) -> Result<Vec<PathBuf>, HubError> {
        let repository = self.repository(name, RepoType::Dataset)?;
        let files = record_names(&list_remote(&repository, name)?);
        if files.is_empty() {
            return Err(HubError::Lacks { name: name.to_owned(), what: ".jsonl, .json or .parquet files" });
        }
        files.iter().map(|file| repository.get(file).map_err(|source| fetch_error(name, source))).collect()
    }
}

fn repository_name(path: &Path) -> Result<String, HubError> {
    match path.to_str() {
        Some(text) if is_repository_name(text) => Ok(text.to_owned()),
        _ => Err(HubError::Missing { path: path.to_path_buf() }),
    }
}

fn fetch_error(name: &str, source: ApiError) -> HubError {
    HubError::Fetch { name: name.to_owned(), source: Box::new(source) }
}

fn list_remote(repository: &ApiRepo, name: &str) -> Result<Vec<String>, HubError> {
    let info = repository.info().map_err(|source| fetch_error(name, source))?;
    Ok(info.siblings.into_iter().map(|sibling| sibling.rfilename).collect())
}

fn is_shard(file: &str) -> bool {
    file.starts_with("model-") && file.ends_with(".safetensors")
}

/// Returns true if the folder contains config, tokenizer and all weights.
fn is_complete(folder: &Path) -> bool {
    let has = |file: &str| folder.join(file).exists();
    if !has("config.json") || !has("tokenizer.json") {
        return false;
    }
    if has(WEIGHTS) {
        return true;
    }
    let index = std::fs::read_to_string(folder.join(WEIGHTS_INDEX)).ok();
    let index = index.and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
    let shards = index.as_ref().and_then(|index| index["weight_map"].as_object());
    shards.is_some_and(|map| map.values().all(|shard| shard.as_str().is_some_and(has)))
}

/// Returns the record files of a repository, sorted; if it has splits, only those of `train`.
fn record_names(names: &[String]) -> Vec<String> {
    let is_record = |name: &&String| {
        let extension = Path::new(name.as_str()).extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| RECORD_EXTENSIONS.contains(&extension))
            && !name.ends_with("dataset_infos.json")
    };
    let mut records: Vec<String> = names.iter().filter(is_record).cloned().collect();
    records.sort();
    let in_train =
        |name: &String| Path::new(name).iter().any(|part| part.to_str().is_some_and(|part| part.starts_with("train")));
    if records.iter().any(in_train) {
        records.retain(in_train);
    }
    records
}

fn list(folder: &Path, prefix: &Path, names: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = prefix.join(entry.file_name());
        // Files in a cache are links; `is_dir` follows them.
        if entry.path().is_dir() {
            list(&entry.path(), &name, names);
        } else if let Some(name) = name.to_str() {
            names.push(name.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

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
    fn a_model_is_complete_only_with_all_shards() {
        let cache = tempfile::tempdir().unwrap();
        let folder = snapshot(cache.path(), "models--o--m", &["config.json", "tokenizer.json", "a.safetensors"]);
        std::fs::write(folder.join(WEIGHTS_INDEX), r#"{"weight_map": {"x": "a.safetensors"}}"#).unwrap();
        assert!(is_complete(&folder));
        std::fs::remove_file(folder.join("a.safetensors")).unwrap();
        assert!(!is_complete(&folder));
    }

    #[test]
    fn only_the_train_files_of_a_cached_dataset_are_read() {
        let cache = tempfile::tempdir().unwrap();
        let files = ["README.md", "data/train-1.parquet", "data/train-0.parquet", "data/test-0.parquet"];
        let folder = snapshot(cache.path(), "datasets--owner--set", &files);
        let found = Hub::offline(cache.path()).record_files(&[PathBuf::from("owner/set")]).unwrap();
        assert_eq!(found, [folder.join("data/train-0.parquet"), folder.join("data/train-1.parquet")]);
    }
}
