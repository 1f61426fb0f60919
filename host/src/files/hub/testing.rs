//! Caches for tests.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

/// Adds a repository with these files to a cache; returns the folder of its commit, which its branch main names.
pub(super) fn snapshot(cache: &Path, repository: &str, files: &[&str]) -> PathBuf {
    let folder = cache.join(repository).join("snapshots/abc");
    std::fs::create_dir_all(cache.join(repository).join("refs")).unwrap();
    std::fs::write(cache.join(repository).join("refs/main"), "abc").unwrap();
    for file in files {
        std::fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
        std::fs::write(folder.join(file), "{}").unwrap();
    }
    folder
}
