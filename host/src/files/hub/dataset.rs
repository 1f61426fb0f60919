//! The record files of a dataset's repository.

use std::path::{Path, PathBuf};

use super::cache::{self, CacheFolder};
use super::error::HubError;
use super::name::HubName;
use super::remote::Remote;
use super::repository::Repository;
use super::splits::{self, Use};
use crate::files::regular;

const CARD: &str = "README.md";

/// Returns the chosen files of a dataset in the cache; None if it has no record files there.
pub(super) fn cached(
    cache: &CacheFolder,
    repository: &Repository,
    purpose: Use,
) -> Result<Option<Vec<PathBuf>>, HubError> {
    let Some(folder) = cache.snapshot(repository) else { return Ok(None) };
    let names = cache::files(&folder);
    let card = read_card(&folder.join(CARD))?;
    let chosen = choose(repository, &names, card.as_deref(), purpose)?;
    if let Some(problem) = splits::missing_shards(&chosen) {
        return Err(HubError::Choice { name: repository.written.clone(), problem });
    }
    let files = chosen.iter().map(|file| cache.inside(repository, &folder, file)).collect::<Result<Vec<_>, _>>()?;
    Ok((!files.is_empty()).then_some(files))
}

/// Fetches the chosen files of a dataset, and returns their paths.
pub(super) fn fetch(remote: &Remote, purpose: Use) -> Result<Vec<PathBuf>, HubError> {
    let card = if remote.has(CARD) { read_card(&remote.fetch(CARD)?)? } else { None };
    let files = choose(remote.repository(), remote.files(), card.as_deref(), purpose)?;
    if files.is_empty() {
        return Err(remote.lacks(".jsonl, .json or .parquet files"));
    }
    let paths = files.iter().map(|file| remote.fetch(file)).collect::<Result<Vec<_>, _>>()?;
    remote.finish()?;
    Ok(paths)
}

/// Chooses from the names of a repository's files.
fn choose(
    repository: &Repository,
    names: &[String],
    card: Option<&str>,
    purpose: Use,
) -> Result<Vec<String>, HubError> {
    let HubName { repository: name, revision, selector } = &repository.name;
    // With the revision, so that what the problem proposes can be copied.
    let name = revision.as_ref().map_or_else(|| name.clone(), |revision| format!("{name}@{revision}"));
    splits::choose(&name, names, card, selector.as_deref(), purpose)
        .map_err(|problem| HubError::Choice { name: repository.written.clone(), problem })
}

/// Reads the card of a dataset, which says which files make up its splits; None if there is none.
fn read_card(path: &Path) -> Result<Option<String>, HubError> {
    match regular::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HubError::Card { path: path.to_path_buf(), source }),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use hf_hub::RepoType;

    use super::*;
    use crate::files::hub::testing::snapshot;

    /// The files of a dataset in a cache, for training.
    fn train_files(cache: &Path, name: &str) -> Result<Vec<PathBuf>, HubError> {
        let repository = Repository::of(Path::new(name), RepoType::Dataset)?;
        Ok(cached(&CacheFolder::new(cache.into()), &repository, Use::Train)?.unwrap())
    }

    #[test]
    fn the_split_of_a_cached_dataset_is_chosen_or_asked_for() {
        let cache = tempfile::tempdir().unwrap();
        let files = ["train_prefs", "train_sft", "train_gen", "test_prefs"]
            .map(|split| format!("data/{split}-00000-of-00001.parquet"));
        let folder = snapshot(cache.path(), "datasets--o--d", &files.each_ref().map(String::as_str));
        let records = |name: &str| train_files(cache.path(), name);
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
    fn only_the_train_files_of_a_cached_dataset_are_read() {
        let cache = tempfile::tempdir().unwrap();
        let files = ["README.md", "data/train-1.parquet", "data/train-0.parquet", "data/test-0.parquet"];
        let folder = snapshot(cache.path(), "datasets--owner--set", &files);
        let found = train_files(cache.path(), "owner/set").unwrap();
        assert_eq!(found, [folder.join("data/train-0.parquet"), folder.join("data/train-1.parquet")]);
    }
}
