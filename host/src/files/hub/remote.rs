//! Repositories on the hub, whose files are fetched into the cache.

use std::path::PathBuf;
use std::time::Duration;

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo};

use super::cache::{CacheFolder, is_file_name, is_relative_name};
use super::error::HubError;
use super::repository::Repository;
use crate::console::say;
use crate::files::lock::{Lock, LockError, process};

/// Name of the lock of a repository that is being fetched.
const LOCK: &str = "lambda-dpo.lock";
/// Time between two looks at it.
const LOCK_INTERVAL: Duration = Duration::from_millis(200);
/// Extension of a file that hf-hub has fetched in part.
const PART: &str = "part";

/// How the hub is reached.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    /// Address of the hub; None means Hugging Face's.
    pub(super) endpoint: Option<String>,
    pub(super) token: Option<String>,
}

impl Connection {
    /// Returns the repository at the commit that its revision is now, once no other process fetches it.
    pub(super) fn open<'a>(&self, cache: &'a CacheFolder, repository: &'a Repository) -> Result<Remote<'a>, HubError> {
        let lock = lock(cache, repository)?;
        let failed = |source| failed(repository, source);
        let hf_cache = Cache::new(cache.path().to_path_buf());
        let mut builder = ApiBuilder::from_cache(hf_cache.clone()).with_token(self.token.clone());
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
        let api = api.repo(repository.at(&info.sha));
        let reference = hf_cache.repo(repository.repo());
        Ok(Remote { cache, repository, api, files, reference, commit: info.sha, _lock: lock })
    }
}

/// Waits until no other process fetches this repository: hf-hub would give up after a few seconds, and a model takes
/// longer.
fn lock(cache: &CacheFolder, repository: &Repository) -> Result<Lock, HubError> {
    let failed = |error| failed(repository, ApiError::IoError(error));
    let folder = cache.locks(repository);
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let mut is_first = true;
    loop {
        match Lock::acquire(&folder.join(LOCK)) {
            Ok(lock) => return Ok(lock),
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

fn failed(repository: &Repository, source: ApiError) -> HubError {
    HubError::Fetch { name: repository.written.clone(), source: Box::new(source) }
}

/// A repository on the hub, at one commit: its files belong together, even if the branch moves meanwhile or the cache
/// has an older commit.
pub(super) struct Remote<'a> {
    cache: &'a CacheFolder,
    repository: &'a Repository,
    api: ApiRepo,
    files: Vec<String>,
    /// The revision in the cache, which will be this commit.
    reference: CacheRepo,
    commit: String,
    /// No other process fetches the repository meanwhile.
    _lock: Lock,
}

impl Remote<'_> {
    pub(super) fn repository(&self) -> &Repository {
        self.repository
    }

    /// Returns the names of all its files.
    pub(super) fn files(&self) -> &[String] {
        &self.files
    }

    pub(super) fn has(&self, file: &str) -> bool {
        self.files.iter().any(|known| known == file)
    }

    /// Returns the path of a file in the cache, where it is put if it is not there.
    pub(super) fn fetch(&self, file: &str) -> Result<PathBuf, HubError> {
        if !is_relative_name(file) {
            return Err(HubError::Outside { name: self.repository.written.clone(), file: file.to_owned() });
        }
        let folder = self.cache.commit(self.repository, &self.commit);
        if folder.join(file).exists() {
            return self.cache.inside(self.repository, &folder, file);
        }
        let fetched = match self.api.get(file) {
            // Of a download that was killed when all was there: the hub has no part after the last.
            Err(error) if is_after_the_end(&error) && self.remove_parts() => self.api.get(file),
            other => other,
        };
        fetched.map_err(|source| failed(self.repository, source))
    }

    /// Removes the parts of downloads that were killed; false if there are none.
    fn remove_parts(&self) -> bool {
        let blobs = self.cache.blobs(self.repository);
        let parts = std::fs::read_dir(blobs).into_iter().flatten().flatten().map(|entry| entry.path());
        let parts = parts.filter(|path| path.extension().is_some_and(|extension| extension == PART));
        // All of them, not only the first.
        parts.filter(|path| std::fs::remove_file(path).is_ok()).count() > 0
    }

    /// Makes this commit the cache's, once all files are there: a run without the network must not find half of them.
    pub(super) fn finish(&self) -> Result<(), HubError> {
        self.reference.create_ref(&self.commit).map_err(|error| failed(self.repository, ApiError::IoError(error)))
    }

    /// The repository has no such files, which are needed.
    pub(super) fn lacks(&self, what: &'static str) -> HubError {
        HubError::Lacks { name: self.repository.written.clone(), what }
    }
}

/// Whether a download cannot go on because it would begin after the end of the file.
fn is_after_the_end(error: &ApiError) -> bool {
    matches!(error, ApiError::InvalidResume) || error.to_string().contains("status code 416")
}
