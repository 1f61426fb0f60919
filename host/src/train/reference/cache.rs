//! Reference log-probs on disk: one file for each reference model, an entry for each prompt with its responses.
//!
//! The file holds [`Content`] as postcard and the BLAKE3 of that. It is replaced as a whole, with what other runs have put
//! into it meanwhile; a lock keeps two of them from doing so at once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::console::say;
use crate::files::atomic;
use crate::train::TrainError;

const LOCK_FILE: &str = ".lock";

/// One response under the reference: enough for its sum and its mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// Σ over its target tokens.
    pub log_prob_sum: f64,
    /// Its target tokens.
    pub num_tokens: u32,
}

/// A prompt's responses by the hash of its tokens.
pub type Entries = BTreeMap<u128, Vec<Response>>;

#[derive(Serialize, Deserialize)]
struct Content {
    /// Of the file's own name: of a model, dtype and device.
    key: String,
    entries: Entries,
}

/// The entries of one reference model.
#[derive(Debug)]
pub struct ReferenceCache {
    path: PathBuf,
    key: String,
}

impl ReferenceCache {
    /// The entries under `key` in a folder, which is made where it is missing.
    ///
    /// # Errors
    ///
    /// The folder cannot be written to: better told before hours of computing than after.
    pub fn open(folder: &Path, key: &blake3::Hash) -> Result<Self, TrainError> {
        let key = key.to_string();
        let cache = Self { path: folder.join(format!("{key}.log_probs")), key };
        cache.lock()?;
        Ok(cache)
    }

    /// All entries; a file that cannot be used is told and passed over.
    pub fn load(&self) -> Entries {
        self.read().unwrap_or_else(|problem| {
            say(&format!("{}: {problem}; its log-probs are computed anew", self.path.display()));
            Entries::new()
        })
    }

    /// Adds entries to those on disk.
    ///
    /// # Errors
    ///
    /// The disk refuses; the file then is as it was.
    pub fn add(&self, new: Entries) -> Result<(), TrainError> {
        if new.is_empty() {
            return Ok(());
        }
        let _lock = self.lock()?;
        // What is wrong with the file was told when it was loaded.
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
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Entries::new()),
            Err(error) => return Err(error.to_string()),
        };
        let (encoded, checksum) = bytes.split_last_chunk::<{ blake3::OUT_LEN }>().ok_or("this file is cut short")?;
        if blake3::hash(encoded) != *checksum {
            return Err("this file is damaged".to_owned());
        }
        match postcard::from_bytes::<Content>(encoded) {
            Ok(content) if content.key == self.key => Ok(content.entries),
            _ => Err("this file holds something else than its name says".to_owned()),
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
        assert_eq!(cache.read().unwrap_err(), "this file holds something else than its name says");
        cache.add(entry(3)).unwrap();
        assert_eq!(cache.read().unwrap(), entry(3));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = ReferenceCache::open(&file.join("reference"), &blake3::hash(b"model")).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}/reference/.lock: cannot be written: ", file.display())), "{error}");
        assert!(error.ends_with("; set LAMBDA_DPO_CACHE to another folder, or reference.cache = false"), "{error}");
    }
}
