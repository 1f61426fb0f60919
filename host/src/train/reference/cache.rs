//! Reference log-probs on disk: one file for each reference model, an entry for each prompt with its responses.
//!
//! The file holds [`Content`] as postcard, followed by the BLAKE3 hash of that. It is always replaced as a whole, and
//! keeps the entries that other runs have added in the meantime; a lock keeps two runs from replacing it at once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::console::say;
use crate::files::{atomic, regular};
use crate::train::TrainError;

const LOCK_FILE: &str = ".lock";
const EXTENSION: &str = "log_probs";

/// One response under the reference: enough to compute the sum and the mean of its token log-probs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// Sum over its target tokens.
    pub log_prob_sum: f64,
    /// Number of its target tokens.
    pub num_tokens: u32,
}

/// Responses of prompts, by the hash of their tokens.
pub type Entries = BTreeMap<u128, Vec<Response>>;

#[derive(Serialize, Deserialize)]
struct Content {
    /// The hash in the file's name, which identifies model, dtype and device.
    key: String,
    entries: Entries,
}

/// Cache of one reference model.
#[derive(Debug)]
pub struct ReferenceCache {
    path: PathBuf,
    key: String,
}

impl ReferenceCache {
    /// Opens the cache of the model with hash `key` in a folder, which is created if missing, and removes what writes that
    /// were interrupted left there.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder is not writable: better before hours of computing than after.
    pub fn open(folder: &Path, key: &blake3::Hash) -> Result<Self, TrainError> {
        let key = key.to_string();
        let cache = Self { path: folder.join(format!("{key}.{EXTENSION}")), key };
        // While this process has the lock, no other is writing.
        let _lock = cache.lock()?;
        atomic::sweep(folder, |name| name.ends_with(EXTENSION));
        Ok(cache)
    }

    /// Reads all entries; reports a file that cannot be used, and returns no entries of it.
    pub fn load(&self) -> Entries {
        self.read().unwrap_or_else(|problem| {
            say(&format!("{}: {problem}; its log-probs are computed again", self.path.display()));
            Entries::new()
        })
    }

    /// Adds entries to those on disk.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be written; it is unchanged then.
    pub fn add(&self, new: Entries) -> Result<(), TrainError> {
        if new.is_empty() {
            return Ok(());
        }
        let _lock = self.lock()?;
        // Written to, a pipe or a link to itself would not become a file.
        if !fs::metadata(&self.path)
            .map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |found| found.is_file())
        {
            fs::remove_file(&self.path).map_err(|error| self.failed(error))?;
        }
        // A damaged file was reported when it was loaded.
        let mut entries = self.read().unwrap_or_default();
        entries.extend(new);
        let content = Content { key: self.key.clone(), entries };
        let encoded = postcard::to_stdvec(&content).map_err(|error| self.failed(io::Error::other(error)))?;
        let checksum = *blake3::hash(&encoded).as_bytes();
        Ok(atomic::write(&self.path, &[encoded.as_slice(), &checksum].concat())?)
    }

    fn lock(&self) -> Result<File, TrainError> {
        let path = self.path.with_file_name(LOCK_FILE);
        let lock = || -> io::Result<File> {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            let file = File::create(&path)?;
            file.lock()?;
            Ok(file)
        };
        lock().map_err(|source| TrainError::Cache { path: path.clone(), source })
    }

    fn read(&self) -> Result<Entries, String> {
        let bytes = match regular::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Entries::new()),
            Err(error) => return Err(error.to_string()),
        };
        let (encoded, checksum) = bytes.split_last_chunk::<{ blake3::OUT_LEN }>().ok_or("this file is truncated")?;
        if blake3::hash(encoded) != *checksum {
            return Err("this file is damaged".to_owned());
        }
        match postcard::from_bytes::<Content>(encoded) {
            Ok(content) if content.key == self.key => Ok(content.entries),
            _ => Err("this file holds the log-probs of another model".to_owned()),
        }
    }

    fn failed(&self, source: io::Error) -> TrainError {
        TrainError::Cache { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn entry(hash: u128) -> Entries {
        [(hash, vec![Response { log_prob_sum: -1.5 / 3.0, num_tokens: 7 }])].into()
    }

    #[test]
    fn runs_share_what_they_add() {
        let folder = tempfile::tempdir().unwrap();
        let key = blake3::hash(b"model");
        let [one, other] = [(); 2].map(|()| ReferenceCache::open(folder.path(), &key).unwrap());
        assert_eq!(one.load(), Entries::new());
        one.add(entry(1)).unwrap();
        other.add(entry(u128::MAX)).unwrap();
        assert_eq!(one.load(), entry(1).into_iter().chain(entry(u128::MAX)).collect());
        let another_model = ReferenceCache::open(folder.path(), &blake3::hash(b"another")).unwrap();
        assert_eq!(another_model.load(), Entries::new());
    }

    #[test]
    fn what_interrupted_writes_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let key = blake3::hash(b"model");
        let name = ReferenceCache::open(folder.path(), &key).unwrap().path.file_name().unwrap().to_owned();
        for ending in ["partial", "partial.lock"] {
            fs::write(folder.path().join(format!(".{}.{ending}", name.display())), "1").unwrap();
        }
        ReferenceCache::open(folder.path(), &key).unwrap();
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [LOCK_FILE]);
    }

    #[test]
    fn every_damaged_byte_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ReferenceCache::open(folder.path(), &blake3::hash(b"model")).unwrap();
        cache.add(entry(1)).unwrap();
        let whole = fs::read(&cache.path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&cache.path, &bytes).unwrap();
            assert_eq!(cache.read().unwrap_err(), "this file is damaged");
            fs::write(&cache.path, &whole[..at]).unwrap();
            assert!(cache.read().is_err());
        }
        // A file of another model under this one's name.
        let another = ReferenceCache::open(folder.path(), &blake3::hash(b"another")).unwrap();
        another.add(entry(2)).unwrap();
        fs::copy(&another.path, &cache.path).unwrap();
        assert_eq!(cache.read().unwrap_err(), "this file holds the log-probs of another model");
        cache.add(entry(3)).unwrap();
        assert_eq!(cache.read().unwrap(), entry(3));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = ReferenceCache::open(&file.join("reference"), &blake3::hash(b"model")).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}/reference/.lock cannot be written: ", file.display())), "{error}");
        assert!(error.ends_with("; set LAMBDA_DPO_CACHE to another folder, or reference.cache = false"), "{error}");
    }
}
