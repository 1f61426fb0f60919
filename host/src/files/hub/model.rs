//! The files of a model's repository.

use std::path::{Path, PathBuf};

use super::cache::CacheFolder;
use super::error::HubError;
use super::remote::Remote;
use super::repository::Repository;
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

/// Checks that the small files of a model's folder are the files themselves.
pub(super) fn refuse_pointers(folder: &Path) -> Result<(), GitLfsPointer> {
    MODEL_FILES.iter().try_for_each(|name| refuse_pointer(&folder.join(name)))
}

/// Returns the names of the files that a model's folder lacks.
pub(super) fn missing_files(
    cache: &CacheFolder,
    repository: &Repository,
    folder: &Path,
) -> Result<Vec<String>, HubError> {
    let mut needed = vec!["config.json".to_owned(), "tokenizer.json".to_owned()];
    let index = folder.join(WEIGHTS_INDEX);
    if folder.join(WEIGHTS).exists() || !index.exists() {
        needed.push(WEIGHTS.to_owned());
    } else {
        needed.extend(shards(&index)?);
    }
    let mut missing = Vec::new();
    for file in needed {
        if !cache.inside(repository, folder, &file)?.exists() {
            missing.push(file);
        }
    }
    Ok(missing)
}

/// Fetches a model, and returns its folder.
pub(super) fn fetch(remote: &Remote) -> Result<PathBuf, HubError> {
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
        return Err(remote.lacks("safetensors weights"));
    }
    remote.finish()?;
    folder.ok_or_else(|| remote.lacks("config.json"))
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use hf_hub::RepoType;

    use super::*;
    use crate::files::hub::testing::snapshot;

    #[test]
    fn a_model_is_complete_only_with_all_shards_of_its_index() {
        let cache = tempfile::tempdir().unwrap();
        let files = ["config.json", "tokenizer.json", "a.safetensors"];
        let folder = snapshot(cache.path(), "models--o--m", &files);
        std::fs::write(folder.join(WEIGHTS_INDEX), r#"{"weight_map": {"x": "a.safetensors"}}"#).unwrap();
        let repository = Repository::of(Path::new("o/m"), RepoType::Model).unwrap();
        let missing = || missing_files(&CacheFolder::new(cache.path().into()), &repository, &folder).unwrap();
        assert!(missing().is_empty());
        std::fs::remove_file(folder.join("a.safetensors")).unwrap();
        assert_eq!(missing(), ["a.safetensors"]);
    }
}
