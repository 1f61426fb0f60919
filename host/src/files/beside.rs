//! Files that another file names: they may not be outside of its folder, because what names them is often downloaded.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// Returns the path of the file that `file` names `name`, relative to its own folder.
///
/// A link may lead to the folder that `file` itself is really in, as in the cache of the Hugging Face hub, and nowhere else
/// outside.
///
/// # Errors
///
/// Returns what is wrong with the name, to follow the path of `file` in a message, if it leads out of the folder.
pub fn beside(file: &Path, name: &str) -> Result<PathBuf, String> {
    let is_inside = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
    let path = file.with_file_name(name);
    if name.is_empty() || !Path::new(name).components().all(is_inside) {
        return Err(format!(
            "it names the file `{name}`, but only files in its own folder and below are read; put the file there"
        ));
    }
    // A missing file is reported by whoever reads it.
    let Ok(real) = fs::canonicalize(&path) else { return Ok(path) };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folders =
        [fs::canonicalize(folder).ok(), fs::canonicalize(file).ok().and_then(|real| Some(real.parent()?.into()))];
    if folders.iter().flatten().any(|folder: &PathBuf| real.starts_with(folder)) {
        return Ok(path);
    }
    Err(format!(
        "it names the file `{name}`, a link to {}, but only files in its own folder and below are read; copy the file there",
        real.display()
    ))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn names_cannot_leave_the_folder() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("model");
        fs::create_dir_all(folder.join("parts")).unwrap();
        fs::write(parent.path().join("secret"), "").unwrap();
        fs::write(folder.join("parts/1"), "").unwrap();
        let index = folder.join("index.json");
        fs::write(&index, "").unwrap();
        symlink("parts/1", folder.join("one")).unwrap();
        symlink("../secret", folder.join("out")).unwrap();
        for name in ["parts/1", "./parts/1", "one", "missing"] {
            assert_eq!(beside(&index, name).unwrap(), folder.join(name));
        }
        let absolute = parent.path().join("secret").display().to_string();
        for name in ["", "../secret", "parts/../../secret", &absolute, ".."] {
            let problem = beside(&index, name).unwrap_err();
            assert!(
                problem.starts_with(&format!("it names the file `{name}`, but only files in its own")),
                "{problem}"
            );
        }
        let problem = beside(&index, "out").unwrap_err();
        assert!(problem.starts_with("it names the file `out`, a link to /"), "{problem}");
    }

    #[test]
    fn the_links_of_the_hubs_cache_are_followed() {
        let cache = tempfile::tempdir().unwrap();
        let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/abc"));
        fs::create_dir_all(&blobs).unwrap();
        fs::create_dir_all(&snapshot).unwrap();
        for name in ["index.json", "part"] {
            fs::write(blobs.join(name), "").unwrap();
            symlink(format!("../../blobs/{name}"), snapshot.join(name)).unwrap();
        }
        beside(&snapshot.join("index.json"), "part").unwrap();
    }
}
