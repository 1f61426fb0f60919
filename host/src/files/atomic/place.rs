//! Where a write to a path goes: links are followed, and what is no regular file is written directly.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

/// Links that are followed one after another; the kernel has the same limit.
const MAX_LINKS: usize = 40;

/// Where a write goes.
#[derive(Debug)]
pub(super) enum Place {
    /// A regular file, which may not exist yet, at this path; its last part is no link.
    Whole(PathBuf),
    /// A pipe, a terminal or an open file, which is written directly.
    Stream(File),
}

/// Finds where a write to `path` goes.
pub(super) fn of_file(path: &Path) -> io::Result<Place> {
    let target = match follow(path)? {
        Target::Named(target) => target,
        // Opened again, standard output would be written from its start.
        Target::Descriptor(_, Some(1)) => return own(io::stdout()),
        Target::Descriptor(_, Some(2)) => return own(io::stderr()),
        Target::Descriptor(path, _) => return Ok(Place::Stream(File::options().append(true).open(path)?)),
    };
    let kind = match fs::metadata(&target) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Place::Whole(target)),
        Err(error) => return Err(error),
    };
    if kind.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder, but a file is to be written"));
    }
    if kind.is_block_device() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a block device"));
    }
    if !kind.is_file() {
        return Ok(Place::Stream(File::options().write(true).open(target)?));
    }
    // A file that may not be written may not be replaced either.
    File::options().write(true).open(&target)?;
    Ok(Place::Whole(target))
}

/// Returns the path of a folder to write, whose last part is no link.
pub(super) fn of_folder(path: &Path) -> io::Result<PathBuf> {
    let target = match follow(path)? {
        Target::Named(target) | Target::Descriptor(target, _) => target,
    };
    match fs::metadata(&target) {
        Ok(metadata) if !metadata.is_dir() => {
            Err(io::Error::new(io::ErrorKind::NotADirectory, "it is a file, but a folder is to be written"))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(target),
    }
}

/// What a chain of links leads to.
enum Target {
    Named(PathBuf),
    /// An open file of a process; its number, if the process is this one.
    Descriptor(PathBuf, Option<u32>),
}

fn follow(path: &Path) -> io::Result<Target> {
    // Without a slash at its end, which would follow the last link unseen.
    let mut path: PathBuf = path.components().collect();
    for _ in 0..MAX_LINKS {
        if let Some(number) = descriptor(&path) {
            return Ok(Target::Descriptor(path, number));
        }
        if !path.is_symlink() {
            return Ok(Target::Named(path));
        }
        let link = fs::read_link(&path)?;
        path = path.parent().unwrap_or(Path::new("")).join(link);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "too many links lead to one another"))
}

/// Returns Some if the path is an entry of `/proc/<process>/fd`, with its number if the process is this one.
fn descriptor(path: &Path) -> Option<Option<u32>> {
    let folder = fs::canonicalize(path.parent()?).ok()?;
    let parts: Vec<&str> = folder
        .components()
        .filter_map(|part| if let Component::Normal(name) = part { name.to_str() } else { None })
        .collect();
    let ["proc", process, .., "fd"] = parts.as_slice() else { return None };
    let number = path.file_name()?.to_str()?.parse().ok();
    Some(number.filter(|_| *process == std::process::id().to_string()))
}

fn own(stream: impl AsFd) -> io::Result<Place> {
    Ok(Place::Stream(File::from(stream.as_fd().try_clone_to_owned()?)))
}
