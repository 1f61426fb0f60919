//! Everything that the tokens of a dataset depend on, as one hash: contents, never names or times.

use std::fs::{File, Metadata};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::store::hash_file;
use crate::{ConvertOptions, Error, Result, TokenizeOptions, Tokenizer};

/// Raised when the same records and options begin to give other samples.
const VERSION: u32 = 3;

/// Hashes everything that a dataset's samples depend on.
///
/// `tick` is called from time to time and stops the work by returning `Break`.
///
/// # Errors
///
/// Returns an error if a file cannot be read, and [`Error::Cancelled`].
pub(super) fn key(
    paths: &[PathBuf],
    tokenizer: &Tokenizer,
    convert: &ConvertOptions,
    tokenize: &TokenizeOptions,
    tick: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<blake3::Hash> {
    let options = postcard::to_stdvec(&(VERSION, env!("CARGO_PKG_VERSION"), convert, tokenize))
        .map_err(|error| Error::InvalidArgument(format!("these options cannot be hashed: {error}")))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(blake3::hash(&options).as_bytes());
    hasher.update(tokenizer.hash().as_bytes());
    for path in paths {
        let mut stopped = false;
        let mut tick = || match tick() {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => {
                stopped = true;
                Err(io::ErrorKind::Interrupted.into())
            }
        };
        let hash = File::open(path).and_then(|mut file| hash_file(&mut file, &mut tick));
        let hash = match hash {
            Err(_) if stopped => return Err(Error::Cancelled),
            other => other.map_err(|source| Error::io(path, source))?,
        };
        hasher.update(hash.as_bytes());
    }
    Ok(hasher.finalize())
}

/// Detects files that were written to while they were read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp(Vec<[i64; 4]>);

impl Stamp {
    pub(super) fn of(paths: &[PathBuf]) -> Result<Self> {
        let stamp = |file: Metadata| [file.ino() as i64, file.size() as i64, file.mtime(), file.mtime_nsec()];
        let of = |path: &PathBuf| std::fs::metadata(path).map(stamp).map_err(|source| Error::io(path, source));
        Ok(Self(paths.iter().map(of).collect::<Result<_>>()?))
    }

    /// Fails if a file has changed.
    pub(super) fn check(&self, paths: &[PathBuf]) -> Result<()> {
        let now = Self::of(paths)?;
        match self.0.iter().zip(&now.0).position(|(then, now)| then != now) {
            None => Ok(()),
            Some(changed) => Err(Error::io(
                &paths[changed],
                io::Error::other("the file changed while it was read; run again once it is complete"),
            )),
        }
    }
}
