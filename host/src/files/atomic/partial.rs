//! What is beside a target until it is complete: `.<name>.partial`, and a lock in `.<name>.partial.lock`.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::files::lock::{Lock, LockError, process};

const PARTIAL: &str = ".partial";
const OLD: &str = ".partial.old";
const LOCK: &str = ".partial.lock";

/// The place of a new file or folder beside its target; dropping it removes what is there.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) path: PathBuf,
    pub(super) target: PathBuf,
    /// Held until the last leftover is removed.
    _lock: Lock,
}

impl Partial {
    /// Locks the target, and removes what an interrupted write left behind.
    pub(super) fn begin(target: &Path) -> io::Result<Self> {
        let lock = Lock::acquire(&sibling(target, LOCK)?).map_err(|error| match error {
            LockError::Held { pid } => io::Error::other(format!("{} is writing it", process(pid))),
            LockError::Io(error) => error,
        })?;
        let (path, old) = (sibling(target, PARTIAL)?, old(target)?);
        // A write that was interrupted between the two renames of a replacement.
        if old.is_dir() && !target.exists() {
            fs::rename(&old, target)?;
        }
        remove(&old)?;
        remove(&path)?;
        Ok(Self { path, target: target.to_path_buf(), _lock: lock })
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After a rename there is nothing, after an exchange the old content; the next write removes a leftover.
        let _ = remove(&self.path);
    }
}

/// Returns the name under which a replaced folder is kept for a moment.
pub(super) fn old(target: &Path) -> io::Result<PathBuf> {
    sibling(target, OLD)
}

/// Returns `.<name><suffix>` beside `path`: on the same file system, so that a rename is atomic.
fn sibling(path: &Path, suffix: &str) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "the path does not end in the name of a file or folder")
    })?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(suffix);
    Ok(path.with_file_name(hidden))
}

/// Removes a file or folder, if there is one.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes the rename itself durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Removes what an interrupted write of a target left, unless another process is writing it.
pub fn tidy(target: &Path) {
    drop(Partial::begin(target));
}

/// Removes what interrupted writes left in a folder to which no other process writes: of each target that `is_ours` by its
/// name.
pub fn sweep(folder: &Path, is_ours: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(target) = name.to_str().and_then(target_of).filter(|target| is_ours(target)) else { continue };
        if name.to_str().is_some_and(|name| name.ends_with(OLD)) && !folder.join(target).exists() {
            // The only copy; the next write to the target moves it back.
            continue;
        }
        // A leftover that cannot be removed does no harm.
        let _ = remove(&entry.path());
    }
}

/// Returns the name of the target that a leftover belongs to.
fn target_of(name: &str) -> Option<&str> {
    let mut stem = name.strip_prefix('.')?;
    let whole = stem;
    while let Some(shorter) = [PARTIAL, OLD, LOCK].iter().find_map(|suffix| stem.strip_suffix(suffix)) {
        // Earlier versions wrote folders inside each other: `..<name>.partial.partial`.
        stem = shorter.strip_prefix('.').unwrap_or(shorter);
    }
    (stem != whole && !stem.is_empty()).then_some(stem)
}
