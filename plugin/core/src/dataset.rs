//! Stages 1 to 4 for trainers without a loader: open, length, batch.
//!
//! | module | what |
//! |---|---|
//! | `store` | tokenised samples in a file |
//! | `key` | everything that the tokens depend on, as one hash |
//! | `samples` | samples of the file → batches |
//! | `prefetch` | batches collated ahead |
//!
//! # Invariants
//!
//! - Memory does not grow with the records, except for some 50 bytes per sample.
//! - A file of the cache is used if its whole key matches and its checksum is right, and replaced otherwise.

mod store;
mod key;
mod samples;
mod prefetch;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use arrow_array::RecordBatchReader;
use serde::Serialize;

use self::prefetch::{Prefetcher, Request};
use self::samples::Samples;
use self::store::{Encoded, Found, Store, Writer};
use crate::convert::SampleReader;
use crate::record::{Place, check_files};
use crate::{
    Batch, CollateOptions, ConvertOptions, Error, Report, Result, Sample, TokenizeOptions, TokenizedSample, Tokenizer,
};

pub use prefetch::PREFETCH_CAPACITY;
pub use store::SampleInfo;

/// Key of tokens that are not in a cache.
const NO_KEY: blake3::Hash = blake3::Hash::from_bytes([0; blake3::OUT_LEN]);

/// How a dataset is opened.
#[derive(Clone, Debug)]
pub struct DatasetOptions {
    /// Stages 1 and 2.
    pub convert: ConvertOptions,
    /// Stage 3.
    pub tokenize: TokenizeOptions,
    /// Place of the tokens.
    pub tokens: TokenFolder,
}

/// Place of the tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenFolder {
    /// A file in this folder, which serves everyone who opens the same records with the same options. The folder is
    /// created if missing.
    Cache(PathBuf),
    /// An unnamed file in this folder, gone with the dataset.
    Scratch(PathBuf),
}

/// How a dataset used its cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CacheUse {
    /// The file.
    pub path: PathBuf,
    /// Whether the tokens were read from it; if not, they were written to it.
    pub was_read: bool,
    /// Why an existing file could not be used.
    pub damage: Option<String>,
}

/// Tokenised records, ready to be batched, in the order of the inputs.
#[derive(Debug)]
pub struct Dataset {
    samples: Arc<Samples>,
    cache: Option<CacheUse>,
    prefetcher: OnceLock<Prefetcher>,
}

impl Dataset {
    /// Reads, converts and tokenises record files, all in parallel, or uses the tokens that an earlier opening left in
    /// the cache.
    ///
    /// `progress(done, total)` is called from time to time with the number of records done, and with a total of 0 if it
    /// is not known; it stops the work by returning `Break`.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read or changes meanwhile, a record does not parse or the chat template
    /// rejects it (with file and line), the disk is full, or the options are invalid; and [`Error::Cancelled`].
    pub fn open(
        paths: &[PathBuf],
        tokenizer: &Tokenizer,
        options: &DatasetOptions,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Self> {
        let DatasetOptions { convert, tokenize, tokens } = options;
        convert.validate()?;
        check_files(paths)?;
        let stamp = key::Stamp::of(paths)?;
        let (key, mut writer, cache) = match tokens {
            TokenFolder::Scratch(folder) => (NO_KEY, Writer::unnamed(folder)?, None),
            TokenFolder::Cache(folder) => {
                let key = key::key(paths, tokenizer, convert, tokenize, &mut || progress(0, 0))?;
                let path = folder.join(format!("{key}.samples"));
                let damage = match Store::open(&path, &key) {
                    Found::Whole(store) => {
                        store::tidy(folder);
                        return Ok(Self::new(*store, Some(CacheUse { path, was_read: true, damage: None })));
                    }
                    Found::Nothing => None,
                    Found::Damaged(problem) => Some(problem),
                };
                (key, Writer::create(&path)?, Some(CacheUse { path, was_read: false, damage }))
            }
        };
        let mut reader = SampleReader::open(paths, convert.clone())?;
        tokenize_into(&mut writer, &mut reader, tokenizer, tokenize, progress)?;
        stamp.check(paths)?;
        Ok(Self::new(finish(writer, &key, &reader)?, cache))
    }

    /// Like [`open`](Self::open), from a stream of record batches, which are read on the calling thread.
    ///
    /// # Errors
    ///
    /// Like there, with records named by their index. Returns an error for a cache folder, too: a stream's contents are
    /// known only at its end, when there is nothing left to save.
    pub fn open_stream(
        batches: Box<dyn RecordBatchReader + Send>,
        tokenizer: &Tokenizer,
        options: &DatasetOptions,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Self> {
        let DatasetOptions { convert, tokenize, tokens } = options;
        let TokenFolder::Scratch(folder) = tokens else {
            return Err(Error::InvalidArgument(
                "cache_dir is set, but the tokens of a stream cannot be looked up before it is read: leave it empty, or \
                 open the files that the stream comes from"
                    .to_owned(),
            ));
        };
        let mut reader = SampleReader::from_stream(batches, convert.clone())?;
        let mut writer = Writer::unnamed(folder)?;
        tokenize_into(&mut writer, &mut reader, tokenizer, tokenize, progress)?;
        Ok(Self::new(finish(writer, &NO_KEY, &reader)?, None))
    }

    fn new(store: Store, cache: Option<CacheUse>) -> Self {
        Self { samples: Arc::new(Samples { store }), cache, prefetcher: OnceLock::new() }
    }

    /// Returns the number of samples.
    pub fn len(&self) -> usize {
        self.samples.store.len()
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the dimensions of every sample, in order: `preference` for pairs, none for conversations.
    pub fn dimensions(&self) -> &[String] {
        self.samples.store.dimensions()
    }

    /// Returns the counts of what was read, left out and cut.
    pub fn report(&self) -> &Report {
        self.samples.store.report()
    }

    /// Returns how the cache was used; None without a cache.
    pub fn cache(&self) -> Option<&CacheUse> {
        self.cache.as_ref()
    }

    /// Returns BLAKE3 of all samples in order, targets included, which identifies the data.
    pub fn hash(&self) -> String {
        self.samples.store.samples_hash().to_string()
    }

    /// Returns the number of tokens of the longest prompt with one of its responses.
    pub fn longest_sequence(&self) -> usize {
        self.samples.store.longest_sequence()
    }

    /// Returns the properties of each sample by which callers sort, pack and cache.
    pub fn samples(&self) -> impl ExactSizeIterator<Item = SampleInfo> + '_ {
        self.samples.store.infos()
    }

    /// Reads one sample.
    ///
    /// # Errors
    ///
    /// Returns an error if the index is out of range or the disk fails.
    pub fn sample(&self, index: usize) -> Result<TokenizedSample> {
        self.samples.get(index)
    }

    /// Collates the samples at `indices`, or returns the batch that [`prefetch`](Self::prefetch) has collated from the
    /// same arguments: the result is the same.
    ///
    /// # Shapes
    ///
    /// `lambda` is `[B, M]`, row-major, B indices by M dimensions.
    ///
    /// # Errors
    ///
    /// Returns an error if an index is out of range or the disk fails, and those of [`collate()`](crate::collate()).
    pub fn batch(&self, indices: &[usize], lambda: &[f64], options: &CollateOptions) -> Result<Batch> {
        let collated = self.prefetcher.get().and_then(|prefetcher| {
            prefetcher.take(&Request { indices: indices.to_vec(), lambda: lambda.to_vec(), options: *options })
        });
        collated.unwrap_or_else(|| self.samples.collate(indices, lambda, options))
    }

    /// Asks the dataset's own thread to collate a batch for a later [`batch`](Self::batch) with the same arguments.
    /// Batches are collated in the order of the requests, and up to [`PREFETCH_CAPACITY`] are held. `batch` returns the
    /// errors. Dropping the dataset ends the thread.
    ///
    /// # Errors
    ///
    /// Returns an error if the operating system cannot start the thread.
    pub fn prefetch(&self, indices: &[usize], lambda: &[f64], options: &CollateOptions) -> Result<()> {
        let prefetcher = match self.prefetcher.get() {
            Some(prefetcher) => prefetcher,
            None => {
                let started = Prefetcher::start(Arc::clone(&self.samples))?;
                // If two callers race, the thread of one of them ends at once.
                self.prefetcher.get_or_init(|| started)
            }
        };
        prefetcher.push(Request { indices: indices.to_vec(), lambda: lambda.to_vec(), options: *options });
        Ok(())
    }
}

/// Completes a file of tokens with the reader's counts and dimensions.
fn finish(writer: Writer, key: &blake3::Hash, reader: &SampleReader) -> Result<Store> {
    let report = Report { num_samples: writer.len() as u64, ..reader.report().clone() };
    writer.finish(key, reader.dimensions(), report)
}

/// Runs stages 1 to 3 on all cores, in order: while a chunk is converted and tokenised, the next ones are read.
fn tokenize_into(
    writer: &mut Writer,
    reader: &mut SampleReader,
    tokenizer: &Tokenizer,
    options: &TokenizeOptions,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<()> {
    let total = reader.num_records().unwrap_or(0);
    let tokenize = |place: &Place, sample: Sample, report: &mut Report| {
        let tokenized = tokenizer.tokenize_sample(&sample, options).map_err(|problem| place.error(problem))?;
        report.add_tokenized(&tokenized);
        tokenized.samples.iter().map(Encoded::new).collect::<Result<Vec<_>>>()
    };
    while let Some(chunk) = reader.next_chunk(tokenize) {
        for encoded in chunk.items.into_iter().flatten() {
            writer.push(&encoded)?;
        }
        if let Some(error) = chunk.error {
            return Err(error);
        }
        if progress(reader.report().num_records, total).is_break() {
            return Err(Error::Cancelled);
        }
    }
    Ok(())
}
