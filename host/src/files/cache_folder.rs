//! The cache folder: results that can be recomputed are kept there between runs (tokenised records, reference log-probs).
//!
//! Files are named by hashes of everything they depend on, so a file that does not match is never used, and deleting the
//! folder costs only time. It is `LAMBDA_DPO_CACHE`, else `lambda-dpo` in `XDG_CACHE_HOME`, else in `~/.cache`.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::console::say;

const VARIABLE: &str = "LAMBDA_DPO_CACHE";

/// The folder of cached results; its subfolders are created when something is written to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheFolder {
    path: PathBuf,
}

impl CacheFolder {
    /// Uses the given folder.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Returns the folder that the environment names; if it names none, says so and returns None.
    pub fn from_env() -> Option<Self> {
        let found = Self::from_variables(|name| std::env::var_os(name));
        if found.is_none() {
            say(&format!("nothing is kept for later runs, since {VARIABLE}, XDG_CACHE_HOME and HOME are all unset"));
        }
        found
    }

    fn from_variables(get: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let folder = |name| get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // The XDG specification says to ignore relative paths.
        let xdg = || folder("XDG_CACHE_HOME").filter(|path| path.is_absolute()).map(|path| path.join("lambda-dpo"));
        let home = || folder("HOME").map(|home| home.join(".cache/lambda-dpo"));
        folder(VARIABLE).or_else(xdg).or_else(home).map(Self::new)
    }

    /// Returns the folder of tokenised records, whose files the plugin manages.
    pub fn samples(&self) -> PathBuf {
        self.path.join("samples")
    }

    /// Returns the folder of reference log-probs.
    pub fn reference(&self) -> PathBuf {
        self.path.join("reference")
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::path::Path;

    use super::*;

    #[test]
    fn the_first_folder_that_is_named_is_used() {
        let found = |variables: &[(&str, &str)]| {
            let get = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            CacheFolder::from_variables(get).map(|folder| folder.path)
        };
        let home = ("HOME", "/home/a");
        assert_eq!(found(&[home]).unwrap(), Path::new("/home/a/.cache/lambda-dpo"));
        assert_eq!(found(&[home, ("XDG_CACHE_HOME", "/c")]).unwrap(), Path::new("/c/lambda-dpo"));
        assert_eq!(found(&[home, ("XDG_CACHE_HOME", "c")]).unwrap(), Path::new("/home/a/.cache/lambda-dpo"));
        assert_eq!(found(&[home, ("XDG_CACHE_HOME", "/c"), (VARIABLE, "d")]).unwrap(), Path::new("d"));
        assert_eq!(found(&[home, (VARIABLE, "")]).unwrap(), Path::new("/home/a/.cache/lambda-dpo"));
        assert_eq!(found(&[("XDG_CACHE_HOME", "c"), ("HOME", "")]), None);
    }
}
