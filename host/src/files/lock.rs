//! Locks: files that one process holds at a time, and that name it.
//!
//! The operating system releases a lock when its process ends, however it ends, so a lock file that a killed process left
//! behind locks nothing.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Once;

use crate::console::say;

/// Name of the lock file of a folder.
const FOLDER_LOCK: &str = ".lambda-dpo.lock";
/// Said once, not for every file.
static NO_LOCKS: Once = Once::new();
/// Longest text of a process id that is read.
const MAX_PID_BYTES: u64 = 20;

/// Why a lock was not obtained.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{} holds it", process(*pid))]
    Held {
        /// Its id, if the lock file names it.
        pid: Option<u32>,
    },
    /// The lock file cannot be created or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Returns the name of a process in messages.
pub fn process(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// A held lock; dropping it removes its file.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    /// Holds the lock until it is closed.
    _file: File,
}

impl Lock {
    /// Creates the lock file and locks it, without waiting for another process. On a file system without locks it says so
    /// and succeeds.
    ///
    /// # Errors
    ///
    /// Returns [`LockError::Held`] if another process holds the lock, [`LockError::Io`] if the file cannot be written.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        loop {
            let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(LockError::Held { pid: read_pid(&mut file) }),
                Err(TryLockError::Error(error)) => {
                    NO_LOCKS.call_once(|| {
                        say(&format!(
                            "{} cannot be locked ({error}): do not write there with two processes at once",
                            path.display()
                        ));
                    });
                }
            }
            // The last holder may have removed the file between the two calls; then another process may lock a new one.
            if is_at(&file, path)? {
                file.set_len(0)?;
                write!(file, "{}", std::process::id())?;
                return Ok(Self { path: path.to_path_buf(), _file: file });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Still locked, so the file is this process's own; one that stays locks nothing.
        let _ = fs::remove_file(&self.path);
    }
}

/// Returns whether `path` still leads to the open file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(MAX_PID_BYTES).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// A folder that this process alone writes to, while it holds the lock in it.
#[derive(Debug)]
pub struct FolderLock {
    /// None only while it is dropped.
    lock: Option<Lock>,
    /// Folders that were created for it, the outermost first.
    created: Vec<PathBuf>,
}

impl FolderLock {
    /// Creates the folder if it is missing, and locks it. Folders that are still empty when the lock is dropped are
    /// removed again.
    ///
    /// # Errors
    ///
    /// Returns a [`LockError`] if another process holds the lock, or the folder cannot be written.
    pub fn acquire(folder: &Path) -> Result<Self, LockError> {
        let mut created: Vec<PathBuf> = folder
            .ancestors()
            .take_while(|part| !part.as_os_str().is_empty() && !part.exists())
            .map(Path::to_path_buf)
            .collect();
        created.reverse();
        fs::create_dir_all(folder)?;
        let mut lock = Self { lock: None, created };
        lock.lock = Some(Lock::acquire(&folder.join(FOLDER_LOCK))?);
        Ok(lock)
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        drop(self.lock.take());
        for folder in self.created.iter().rev() {
            // Fails for a folder that holds something, as it should.
            let _ = fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_names_its_process_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".lock");
        let lock = Lock::acquire(&path).unwrap();
        let held = Lock::acquire(&path).unwrap_err();
        assert_eq!(held.to_string(), format!("process {} holds it", std::process::id()));
        drop(lock);
        assert!(!path.exists());
        drop(Lock::acquire(&path).unwrap());
    }

    #[test]
    fn a_lock_file_of_a_killed_process_locks_nothing() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FOLDER_LOCK), "12345").unwrap();
        let lock = FolderLock::acquire(folder.path()).unwrap();
        let text = fs::read_to_string(folder.path().join(FOLDER_LOCK)).unwrap();
        assert_eq!(text, std::process::id().to_string());
        drop(lock);
        assert!(folder.path().exists());
    }

    #[test]
    fn folders_created_for_nothing_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let nested = folder.path().join("a/b");
        drop(FolderLock::acquire(&nested).unwrap());
        assert!(!folder.path().join("a").exists());
        let lock = FolderLock::acquire(&nested).unwrap();
        fs::write(nested.join("result"), "").unwrap();
        drop(lock);
        assert!(nested.join("result").exists());
    }
}
