//! Git LFS pointers: the small texts that a clone without Git LFS has in the place of large files.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// How a pointer begins; a version number follows.
const START: &[u8] = b"version https://git-lfs.github.com/spec/";
/// Pointers are shorter than this, by their specification.
const MAX_BYTES: u64 = 1024;

/// A file is a Git LFS pointer.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} is a Git LFS pointer, not the file that it stands for: run `git lfs pull` in its folder, or download the file",
    path.display()
)]
pub struct GitLfsPointer {
    /// The file.
    pub path: PathBuf,
}

/// Fails if the file is a pointer. A file that cannot be read passes: whoever reads it reports why.
///
/// # Errors
///
/// Returns [`GitLfsPointer`] if it is one.
pub fn refuse_pointer(path: &Path) -> Result<(), GitLfsPointer> {
    let is_small_file = fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() < MAX_BYTES);
    let mut start = [0; START.len()];
    let read = is_small_file && File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok();
    if read && start == START { Err(GitLfsPointer { path: path.to_path_buf() }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn only_pointers_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n").unwrap();
        assert_eq!(
            refuse_pointer(&path).unwrap_err().to_string(),
            format!(
                "{} is a Git LFS pointer, not the file that it stands for: run `git lfs pull` in its folder, or download the \
                 file",
                path.display()
            )
        );
        for other in ["", "version 2", &"version https://git-lfs.github.com/spec/v1\n".repeat(100)] {
            fs::write(&path, other).unwrap();
            refuse_pointer(&path).unwrap();
        }
        refuse_pointer(folder.path()).unwrap();
        refuse_pointer(&folder.path().join("none")).unwrap();
    }
}
