//! Folders that appear whole or not at all.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::error::WriteError;
use super::open_folders;
use super::partial::{Partial, old, remove, sync_parent};
use super::place;

/// A folder under construction: fill [`path`](Self::path), then [`commit`](Self::commit).
///
/// If it is dropped without a commit, it is removed and the target is unchanged. A folder inside another one that is being
/// written is created at its own path, and appears and disappears with the outer one.
#[derive(Debug)]
pub struct Folder {
    /// As the caller named the target.
    target: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Whole(Partial),
    Part(PathBuf),
}

impl Folder {
    /// Creates the partial folder of `target`, and missing parent folders.
    ///
    /// # Errors
    ///
    /// Returns [`WriteError`] if the folder cannot be created, there is a file in its place, or another process is writing
    /// it.
    pub fn create(target: &Path) -> Result<Folder, WriteError> {
        if let Some(final_path) = open_folders::final_path(target) {
            fs::create_dir_all(target).map_err(WriteError::at(&final_path))?;
            return Ok(Folder { target: final_path, kind: Kind::Part(target.to_path_buf()) });
        }
        let begin = || -> io::Result<Partial> {
            let place = place::of_folder(target)?;
            place.parent().map_or(Ok(()), fs::create_dir_all)?;
            let partial = Partial::begin(&place)?;
            fs::create_dir(&partial.path)?;
            Ok(partial)
        };
        let partial = begin().map_err(WriteError::at(target))?;
        open_folders::add(&partial.path, target);
        Ok(Folder { target: target.to_path_buf(), kind: Kind::Whole(partial) })
    }

    /// Returns the folder to write the content to.
    #[must_use]
    pub fn path(&self) -> &Path {
        match &self.kind {
            Kind::Whole(partial) => &partial.path,
            Kind::Part(path) => path,
        }
    }

    /// Moves the folder to its target, replacing an existing folder, whose mode it keeps.
    ///
    /// The two are exchanged, so that one of them is there at any time. On a file system that cannot exchange, the existing
    /// folder is moved aside, and deleted after the new one has taken its name.
    ///
    /// # Errors
    ///
    /// Returns [`WriteError`] if a rename fails, and the existing folder is then where it was; or if the new one is there,
    /// but cannot be synced.
    pub fn commit(self) -> Result<(), WriteError> {
        match &self.kind {
            Kind::Whole(partial) => {
                swap(partial, exchange).map_err(WriteError::at(&self.target))?;
                settle(partial).map_err(WriteError::after_rename(&self.target))
            }
            Kind::Part(_) => Ok(()),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Kind::Whole(partial) = &self.kind {
            open_folders::remove(&partial.path);
        }
    }
}

/// Removes a folder that exists: its name is taken first, so that it is never there in part.
///
/// # Errors
///
/// Returns [`WriteError`] if it cannot be renamed.
pub fn remove_folder(target: &Path) -> Result<(), WriteError> {
    let partial = Partial::begin(target).map_err(WriteError::at(target))?;
    fs::rename(target, &partial.path).map_err(WriteError::at(target))
}

/// Takes the target's place, with `exchange` if it exists.
fn swap(partial: &Partial, exchange: impl Fn(&Path, &Path) -> io::Result<bool>) -> io::Result<()> {
    let Partial { path, target, .. } = partial;
    let replaced = fs::metadata(target).ok();
    if let Some(replaced) = &replaced {
        fs::set_permissions(path, replaced.permissions())?;
    }
    sync(path)?;
    if replaced.is_none() {
        return fs::rename(path, target);
    }
    if !exchange(path, target)? {
        let old = old(target)?;
        fs::rename(target, &old)?;
        if let Err(error) = fs::rename(path, target) {
            fs::rename(&old, target)?;
            return Err(error);
        }
    }
    Ok(())
}

/// Makes the swap durable, and removes the old content, which an exchange leaves in the partial folder.
fn settle(partial: &Partial) -> io::Result<()> {
    sync_parent(&partial.target)?;
    // The next write removes a leftover.
    let _ = (remove(&partial.path), remove(&old(&partial.target)?));
    Ok(())
}

/// Exchanges two folders in one step; false if the kernel or file system cannot.
fn exchange(left: &Path, right: &Path) -> io::Result<bool> {
    match renameat_with(CWD, left, CWD, right, RenameFlags::EXCHANGE).map_err(io::Error::from) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Syncs everything in a folder, and the folder itself.
fn sync(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { sync(&entry.path())? } else { File::open(entry.path())?.sync_all()? }
    }
    File::open(folder)?.sync_all()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn write(target: &Path, content: &str) -> Folder {
        let folder = Folder::create(target).unwrap();
        fs::write(folder.path().join("config.json"), content).unwrap();
        folder
    }

    #[test]
    fn a_folder_that_is_replaced_is_there_at_any_time() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("model");
        write(&target, "first").commit().unwrap();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    fs::metadata(&target).unwrap();
                }
            });
            for number in 0..300 {
                write(&target, &number.to_string()).commit().unwrap();
            }
            ended.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
        assert_eq!(fs::read_to_string(target.join("config.json")).unwrap(), "299");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_system_without_exchange_replaces_with_two_renames() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("model");
        write(&target, "old").commit().unwrap();
        let folder = write(&target, "new");
        let Kind::Whole(partial) = &folder.kind else { panic!("it is not the outer folder") };
        swap(partial, |_, _| Ok(false)).unwrap();
        settle(partial).unwrap();
        drop(folder);
        assert_eq!(fs::read_to_string(target.join("config.json")).unwrap(), "new");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        // As left by a kill between the two renames.
        fs::rename(&target, parent.path().join(".model.partial.old")).unwrap();
        drop(Folder::create(&target).unwrap());
        assert_eq!(fs::read_to_string(target.join("config.json")).unwrap(), "new");
    }

    #[test]
    fn a_folder_in_a_folder_under_construction_appears_with_it() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("checkpoint-1");
        let outer = Folder::create(&target).unwrap();
        // A writer that is atomic by itself, given the outer folder, and one inside it.
        for inner in [Folder::create(outer.path()).unwrap(), Folder::create(&outer.path().join("adapter")).unwrap()] {
            super::super::write(&inner.path().join("config.json"), b"{}").unwrap();
            inner.commit().unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".checkpoint-1.partial", ".checkpoint-1.partial.lock"]);
        assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 2);
        let missing = super::super::write(&outer.path().join("no/such.json"), b"").unwrap_err().to_string();
        assert!(
            missing.starts_with(&format!("could not write {}: ", target.join("no/such.json").display())),
            "{missing}"
        );
        outer.commit().unwrap();
        assert!(target.join("adapter/config.json").exists());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_to_a_folder_and_the_folders_mode_stay() {
        let parent = tempfile::tempdir().unwrap();
        let (link, real) = (parent.path().join("link"), parent.path().join("real"));
        fs::create_dir(&real).unwrap();
        fs::set_permissions(&real, PermissionsExt::from_mode(0o750)).unwrap();
        std::os::unix::fs::symlink("real", &link).unwrap();
        write(&link, "old").commit().unwrap();
        // As a shell completes it.
        write(&parent.path().join("link/"), "new").commit().unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(real.join("config.json")).unwrap(), "new");
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o750);
    }

    #[test]
    fn a_file_is_not_replaced_by_a_folder() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("notes.txt");
        fs::write(&path, "mine").unwrap();
        let error = Folder::create(&path).unwrap_err().to_string();
        assert!(error.ends_with("it is a file, but a folder is to be written; nothing was changed there"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn a_second_writer_is_refused_by_the_first_ones_name() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("model");
        let first = write(&target, "first");
        let error = Folder::create(&target).unwrap_err().to_string();
        assert!(error.contains(&format!(": process {} is writing it", std::process::id())), "{error}");
        first.commit().unwrap();
        assert_eq!(fs::read_to_string(target.join("config.json")).unwrap(), "first");
    }
}
