//! Files and folders that appear whole or not at all.
//!
//! New content is written beside the target under the name `.<name>.partial`, synced, and renamed. The next write to the
//! same target removes what an interrupted write left behind.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Size of the write buffer: large, so that a file of many small values takes few system calls.
const BUFFER_BYTES: usize = 1 << 20;

/// A file or folder could not be written; the target is unchanged.
#[derive(Debug, thiserror::Error)]
#[error("could not write {}: {}", path.display(), explain(source))]
pub struct WriteError {
    /// The target.
    pub path: PathBuf,
    /// The error of the operating system.
    pub source: io::Error,
}

impl WriteError {
    fn at(path: &Path) -> impl FnOnce(io::Error) -> WriteError {
        let path = path.to_path_buf();
        move |source| WriteError { path, source }
    }
}

/// Returns the end of the error message: the cause and a way out.
fn explain(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the disk is full; nothing was changed there, so free some space or choose another folder and run again".into()
        }
        io::ErrorKind::FileTooLarge => {
            "the file would exceed the size limit of this process or file system; nothing was changed there, so raise the \
             limit or choose another folder"
                .into()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied; choose a folder that you may write to, or change its permissions".into()
        }
        _ => format!("{source}; nothing was changed there"),
    }
}

/// Writes `bytes` to `path`, replacing an existing file.
///
/// # Errors
///
/// Returns [`WriteError`] if the folder does not exist or writing fails; an existing file is then unchanged.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    write_with(path, |file| file.write_all(bytes))
}

/// Writes the output of `fill` to `path`, replacing an existing file.
///
/// # Errors
///
/// Returns [`WriteError`] if the folder does not exist, or if writing or `fill` fails; an existing file is then unchanged.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), WriteError> {
    let partial = partial_path(path).map_err(WriteError::at(path))?;
    let written = write_synced(&partial, fill).and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // The first error is the one to report; the next write removes a leftover.
        let _ = fs::remove_file(&partial);
    }
    written.and_then(|()| sync_parent(path)).map_err(WriteError::at(path))
}

fn write_synced(partial: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    match fs::remove_file(partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut writer =
        BufWriter::with_capacity(BUFFER_BYTES, File::options().write(true).create_new(true).open(partial)?);
    fill(&mut writer)?;
    writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// A folder under construction: fill [`path`](Self::path), then [`commit`](Self::commit).
///
/// If it is dropped without a commit, it is removed and the target is unchanged.
#[derive(Debug)]
pub struct Folder {
    partial: PathBuf,
    target: PathBuf,
}

impl Folder {
    /// Creates the partial folder of `target`, and missing parent folders.
    ///
    /// # Errors
    ///
    /// Returns [`WriteError`] if the folder cannot be created.
    pub fn create(target: &Path) -> Result<Folder, WriteError> {
        let begin = || -> io::Result<PathBuf> {
            let partial = partial_path(target)?;
            remove_folder(&partial)?;
            fs::create_dir_all(&partial)?;
            Ok(partial)
        };
        let partial = begin().map_err(WriteError::at(target))?;
        Ok(Folder { partial, target: target.to_path_buf() })
    }

    /// Returns the folder to write the content to.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Moves the folder to its target, replacing an existing folder.
    ///
    /// The existing folder is moved aside, and deleted after the new one has taken its name.
    ///
    /// # Errors
    ///
    /// Returns [`WriteError`] if a rename fails; the existing folder is then moved back.
    pub fn commit(self) -> Result<(), WriteError> {
        self.swap().map_err(WriteError::at(&self.target))
    }

    fn swap(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.partial)? {
            File::open(entry?.path())?.sync_all()?;
        }
        File::open(&self.partial)?.sync_all()?;
        let old = sibling(&self.target, ".old")?;
        remove_folder(&old)?;
        let replaces = self.target.exists();
        if replaces {
            fs::rename(&self.target, &old)?;
        }
        if let Err(error) = fs::rename(&self.partial, &self.target) {
            if replaces {
                fs::rename(&old, &self.target)?;
            }
            return Err(error);
        }
        sync_parent(&self.target)?;
        remove_folder(&old)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // After a commit there is nothing to remove; the next attempt removes a leftover.
        let _ = remove_folder(&self.partial);
    }
}

fn partial_path(path: &Path) -> io::Result<PathBuf> {
    sibling(path, ".partial")
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

fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes the rename itself durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(folder.path()), ["a.json"]);
    }

    #[test]
    fn a_full_disk_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write(&path, b"old").unwrap();
        let error = write_with(&path, |file| {
            file.write_all(b"new")?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "could not write {}: the disk is full; nothing was changed there, so free some space or choose another \
                 folder and run again",
                path.display()
            )
        );
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a.json"]);
    }

    #[test]
    fn a_folder_appears_only_on_commit() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("model");
        for content in ["one", "two"] {
            let folder = Folder::create(&target).unwrap();
            fs::write(folder.path().join("config.json"), content).unwrap();
            folder.commit().unwrap();
            assert_eq!(fs::read_to_string(target.join("config.json")).unwrap(), content);
        }
        let abandoned = Folder::create(&target).unwrap();
        fs::write(abandoned.path().join("config.json"), "half").unwrap();
        drop(abandoned);
        assert_eq!(fs::read_to_string(target.join("config.json")).unwrap(), "two");
        assert_eq!(names(parent.path()), ["model"]);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = write(Path::new("no/such/folder/a.json"), b"").unwrap_err();
        assert!(error.to_string().starts_with("could not write no/such/folder/a.json: No such file"), "{error}");
    }
}
