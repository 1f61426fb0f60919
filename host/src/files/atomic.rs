//! Files and folders that appear whole or not at all.
//!
//! New content is written beside the target under the name `.<name>.partial`, synced, and renamed, while a lock in
//! `.<name>.partial.lock` keeps other processes away. The next write to the same target removes what an interrupted write left
//! behind.
//!
//! | module | contents |
//! |---|---|
//! | `place` | links are followed; a pipe or terminal is written directly |
//! | `partial` | what is beside the target until it is complete |
//! | `open_folders` | the folders that are being written |
//! | `folder` | folders |
//! | `error` | the error |
//!
//! # Invariants
//!
//! - A link stays a link, and a file that is replaced keeps its mode, and its owner as far as the process may set it.
//! - A file or folder inside a folder that is being written is written plainly: it appears with that folder, so a write
//!   never leaves more than one thing behind.

mod error;
mod folder;
mod open_folders;
mod partial;
mod place;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

pub use error::WriteError;
pub use folder::{Folder, remove_folder};
pub use partial::{sweep, tidy};

use partial::{Partial, sync_parent};
use place::Place;

/// Size of the write buffer: large, so that a file of many small values takes few system calls.
const BUFFER_BYTES: usize = 1 << 20;

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
    NewFile::create(path)?.fill(fill)
}

/// A file under construction: what can be found out about its path before there is content has been.
///
/// If it is dropped without being filled, the target is unchanged.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Beside its target until it is complete.
    Whole { file: File, partial: Partial },
    /// Inside a folder that is being written.
    Part(File),
    /// Written directly.
    Stream(File),
}

impl NewFile {
    /// Finds where `path` leads, and creates the partial file there.
    ///
    /// # Errors
    ///
    /// Returns [`WriteError`] if nothing can be written there, or another process is writing it.
    pub fn create(path: &Path) -> Result<Self, WriteError> {
        if let Some(final_path) = open_folders::final_path(path) {
            let file = File::create(path).map_err(WriteError::at(&final_path))?;
            return Ok(Self { path: final_path, kind: Kind::Part(file) });
        }
        let begin = || -> io::Result<Kind> {
            match place::of_file(path)? {
                Place::Stream(file) => Ok(Kind::Stream(file)),
                Place::Whole(target) => {
                    let partial = Partial::begin(&target)?;
                    let file = File::options().write(true).create_new(true).open(&partial.path)?;
                    Ok(Kind::Whole { file, partial })
                }
            }
        };
        Ok(Self { path: path.to_path_buf(), kind: begin().map_err(WriteError::at(path))? })
    }

    /// Writes the output of `fill`, and moves the file to its target.
    ///
    /// # Errors
    ///
    /// Returns [`WriteError`] if writing or `fill` fails; an existing file is then unchanged.
    pub fn fill(self, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), WriteError> {
        let Self { path, kind } = self;
        match kind {
            Kind::Stream(file) => buffered(&file, fill).map_err(WriteError::in_stream(&path)),
            // Synced with its folder.
            Kind::Part(file) => buffered(&file, fill).map_err(WriteError::at(&path)),
            Kind::Whole { file, partial } => {
                let finish = || -> io::Result<()> {
                    buffered(&file, fill)?;
                    keep_attributes(&file, &partial.target)?;
                    file.sync_all()?;
                    fs::rename(&partial.path, &partial.target)
                };
                finish().map_err(WriteError::at(&path))?;
                sync_parent(&partial.target).map_err(WriteError::after_rename(&path))
            }
        }
    }
}

fn buffered(file: &File, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(BUFFER_BYTES, file);
    let filled = fill(&mut writer);
    if filled.is_err() {
        // Else the rest would be written on the way out.
        drop(writer.into_parts());
        return filled;
    }
    writer.into_inner().map_err(io::IntoInnerError::into_error).map(drop)
}

/// Gives a new file the mode and owner of the one that it replaces.
fn keep_attributes(file: &File, target: &Path) -> io::Result<()> {
    let Ok(old) = fs::metadata(target) else { return Ok(()) };
    let new = file.metadata()?;
    if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
        // Only root may give a file away, and writing it is no reason to fail.
        let _ = fchown(file, Some(old.uid()), Some(old.gid()));
    }
    if old.permissions().mode() == new.permissions().mode() { Ok(()) } else { file.set_permissions(old.permissions()) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::{FileTypeExt, symlink};

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
    fn an_error_after_the_rename_says_what_is_there() {
        let error = WriteError::after_rename(Path::new("a.json"))(io::Error::from_raw_os_error(5));
        assert_eq!(
            error.to_string(),
            "could not write a.json: Input/output error (os error 5); all of it is there, but may be gone if the machine \
             loses power, so check the disk"
        );
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
    fn a_link_stays_and_what_it_leads_to_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let (link, target) = (folder.path().join("out"), other.path().join("real.json"));
        symlink(&target, &link).unwrap();
        // First the link leads to nothing, then to a file, then a link leads to the link.
        write(&link, b"one").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"one");
        write(&link, b"two").unwrap();
        symlink("out", folder.path().join("chain")).unwrap();
        write(&folder.path().join("chain"), b"three").unwrap();
        assert!(link.is_symlink() && folder.path().join("chain").is_symlink());
        assert_eq!(fs::read(&target).unwrap(), b"three");
        assert_eq!(
            (names(folder.path()), names(other.path())),
            (vec!["chain".into(), "out".into()], vec!["real.json".into()])
        );
        symlink("round", folder.path().join("round")).unwrap();
        assert!(write(&folder.path().join("round"), b"").unwrap_err().to_string().contains("too many links"));
    }

    #[test]
    fn a_file_that_is_replaced_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        for mode in [0o600, 0o664, 0o640] {
            write(&path, b"old").unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            write(&path, b"new").unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode);
        }
    }

    #[test]
    fn a_pipe_is_written_and_stays_a_pipe() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, link) = (folder.path().join("pipe"), folder.path().join("link"));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        symlink(&pipe, &link).unwrap();
        for path in [&pipe, &link] {
            let reader = {
                let pipe = pipe.clone();
                std::thread::spawn(move || fs::read(pipe).unwrap())
            };
            write(path, b"through").unwrap();
            assert_eq!(reader.join().unwrap(), b"through");
            assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        }
        assert_eq!(names(folder.path()), ["link", "pipe"]);
    }

    #[test]
    fn an_open_file_of_this_process_is_appended_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "before ").unwrap();
        let file = File::options().append(true).open(&path).unwrap();
        let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        write(Path::new(&name), b"after").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before after");
    }

    #[test]
    fn two_writers_of_one_file_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let first = NewFile::create(&path).unwrap();
        let error = write(&path, b"second").unwrap_err().to_string();
        assert!(error.contains(&format!(": process {} is writing it", std::process::id())), "{error}");
        first.fill(|file| file.write_all(b"first")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(names(folder.path()), ["a.json"]);
    }

    #[test]
    fn what_interrupted_writes_left_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let left =
            [".model.partial", ".model.partial.lock", "..model.partial.partial", "...model.partial.partial.partial"];
        for name in left.into_iter().chain([
            ".model.partial.old",
            ".model.old",
            ".other.partial",
            "model",
            ".model",
            ".env.old",
        ]) {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        sweep(folder.path(), |name| name == "model");
        assert_eq!(names(folder.path()), [".env.old", ".model", ".model.old", ".other.partial", "model"]);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = write(Path::new("no/such/folder/a.json"), b"").unwrap_err();
        assert!(error.to_string().starts_with("could not write no/such/folder/a.json: No such file"), "{error}");
    }
}
