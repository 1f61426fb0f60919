//! The folders that this process is writing: what is written inside one of them appears with it, and is written plainly.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

struct OpenFolder {
    partial: PathBuf,
    target: PathBuf,
}

static OPEN: Mutex<Vec<OpenFolder>> = Mutex::new(Vec::new());

fn lock() -> MutexGuard<'static, Vec<OpenFolder>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn add(partial: &Path, target: &Path) {
    lock().push(OpenFolder { partial: partial.to_path_buf(), target: target.to_path_buf() });
}

pub(super) fn remove(partial: &Path) {
    lock().retain(|folder| folder.partial != partial);
}

/// Returns the path that something inside an open folder will have, or None if it is not in one.
pub(super) fn final_path(path: &Path) -> Option<PathBuf> {
    let open = lock();
    let (folder, rest) = open.iter().find_map(|folder| Some((folder, path.strip_prefix(&folder.partial).ok()?)))?;
    Some(if rest.as_os_str().is_empty() { folder.target.clone() } else { folder.target.join(rest) })
}
