//! Stages 1 to 4 for a trainer that brings no loader: open, length, batch.
//!
//! | module | what |
//! |---|---|
//! | `key` | what tokens depend on, as one hash |
//! | `store` | tokenised samples on disk |
//! | `prefetch` | batches collated ahead |
//!
//! # Invariants
//!
//! - Memory does not grow with the records, but for some 50 bytes for each sample.
//! - What a cache holds is used where its whole key matches and its checksum holds, and made anew otherwise.

mod key;
mod prefetch;
mod store;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use arrow_array::RecordBatchReader;
use serde::{Deserialize, Serialize};

use crate::convert::SampleReader;
use crate::record::{Place, check_files};
use crate::{
    Batch, CollateOptions, ConvertOptions, Error, Report, Result, Sample, TokenizeOptions, TokenizedSample, Tokenizer,
    collate,
};
use prefetch::{Prefetcher, Request};
use store::{Encoded, Found, Store, Writer};

pub use prefetch::PREFETCH_CAPACITY;

/// The key of tokens that nobody looks up.
const NO_KEY: blake3::Hash = blake3::Hash::from_bytes([0; blake3::OUT_LEN]);

/// How a dataset is opened.
#[derive(Clone, Debug)]
pub struct DatasetOptions {
    /// Stages 1 and 2.
    pub convert: ConvertOptions,
    /// Stage 3.
    pub tokenize: TokenizeOptions,
    /// Where the tokens are kept.
    pub tokens: TokenFolder,
}

/// Where tokens are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenFolder {
    /// A file in this folder serves whoever opens the same records in the same way. The folder is made where it is
    /// missing.
    Cache(PathBuf),
    /// A file without a name in this folder, gone with the dataset.
    Scratch(PathBuf),
}

/// What a caller needs to know of a sample to sort, pack and cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleInfo {
    /// Position of the record in the concatenated inputs.
    pub record_index: u64,
    /// N.
    pub num_responses: usize,
    /// Tokens of the prompt (once) and of all responses.
    pub num_tokens: usize,
    /// BLAKE3, its first 128 bits, of the prompt's tokens and each response's, with its targets: all that log-probs are
    /// a function of besides the model.
    pub content_hash: [u8; 16],
}

/// What a dataset had from its cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CacheUse {
    /// The file.
    pub path: PathBuf,
    /// The tokens were read from it; else they were written to it.
    pub was_read: bool,
    /// Why a file that stood there could not be used.
    pub damage: Option<String>,
}

/// Samples on disk, and how they come into a batch.
#[derive(Debug)]
struct Samples {
    store: Store,
}

impl Samples {
    fn collate(&self, indices: &[usize], lambda: &[f64], options: &CollateOptions) -> Result<Batch> {
        let samples = indices.iter().map(|&index| self.get(index)).collect::<Result<Vec<_>>>()?;
        collate(&samples.iter().collect::<Vec<_>>(), lambda, options)
    }

    fn get(&self, index: usize) -> Result<TokenizedSample> {
        self.store.read(index)?.ok_or_else(|| {
            let len = self.store.len();
            Error::InvalidArgument(format!("index {index} is out of range: the dataset has {len} samples"))
        })
    }
}

/// Tokenised records, ready to be batched, in the order of the inputs.
#[derive(Debug)]
pub struct Dataset {
    samples: Arc<Samples>,
    cache: Option<CacheUse>,
    prefetcher: OnceLock<Prefetcher>,
}

impl Dataset {
    /// Reads, converts and tokenises record files, all in parallel, or takes what an earlier opening left in the cache.
    ///
    /// `progress(done, total)` is told the records done now and then, with a total of 0 where it is not known, and stops
    /// the work by returning `Break`.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or changes meanwhile, a record that does not parse, a chat template that refuses a
    /// record (each named by file and line), a disk that is full, invalid options, or [`Error::Cancelled`].
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

    /// As [`open`](Self::open), of a stream of record batches, which are drawn on the calling thread.
    ///
    /// # Errors
    ///
    /// As there, with records named by their index, and a folder for a cache: what a stream holds is known at its end,
    /// when there is nothing left to save.
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

    /// How many samples there are.
    pub fn len(&self) -> usize {
        self.samples.store.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The dimensions of every sample, in order: `preference` for pairs, none for conversations.
    pub fn dimensions(&self) -> &[String] {
        self.samples.store.dimensions()
    }

    /// What was read, left out and cut.
    pub fn report(&self) -> &Report {
        self.samples.store.report()
    }

    /// What came from the cache; None where there is none.
    pub fn cache(&self) -> Option<&CacheUse> {
        self.cache.as_ref()
    }

    /// BLAKE3 of all samples in order, their targets included: tells other data from the same.
    pub fn hash(&self) -> String {
        self.samples.store.samples_hash().to_string()
    }

    /// What a caller needs to know of each sample to sort, pack and cache.
    pub fn samples(&self) -> impl ExactSizeIterator<Item = SampleInfo> + '_ {
        self.samples.store.infos()
    }

    /// One sample.
    ///
    /// # Errors
    ///
    /// An index beyond the end, or a disk that fails.
    pub fn sample(&self, index: usize) -> Result<TokenizedSample> {
        self.samples.get(index)
    }

    /// Collates the samples at `indices`, or gives what [`prefetch`](Self::prefetch) has collated of the same arguments:
    /// the result is the same.
    ///
    /// # Shapes
    ///
    /// `lambda` is `[B, M]`, row-major, B indices by M dimensions.
    ///
    /// # Errors
    ///
    /// An index beyond the end, a disk that fails, and what [`collate()`] refuses.
    pub fn batch(&self, indices: &[usize], lambda: &[f64], options: &CollateOptions) -> Result<Batch> {
        let collated = self.prefetcher.get().and_then(|prefetcher| {
            prefetcher.take(&Request { indices: indices.to_vec(), lambda: lambda.to_vec(), options: *options })
        });
        collated.unwrap_or_else(|| self.samples.collate(indices, lambda, options))
    }

    /// Asks for a batch to be collated on the dataset's own thread, for a [`batch`](Self::batch) of the same arguments
    /// soon: in the order asked for, [`PREFETCH_CAPACITY`] of them at a time. Whatever is wrong with one is told when it
    /// is taken. Dropping the dataset ends the thread.
    ///
    /// # Errors
    ///
    /// The operating system gives no thread.
    pub fn prefetch(&self, indices: &[usize], lambda: &[f64], options: &CollateOptions) -> Result<()> {
        let prefetcher = match self.prefetcher.get() {
            Some(prefetcher) => prefetcher,
            None => {
                let started = Prefetcher::start(Arc::clone(&self.samples))?;
                // Of two callers that come first, one's thread ends at once.
                self.prefetcher.get_or_init(|| started)
            }
        };
        prefetcher.push(Request { indices: indices.to_vec(), lambda: lambda.to_vec(), options: *options });
        Ok(())
    }
}

/// Ends a file of tokens with what the reader has told of its records.
fn finish(writer: Writer, key: &blake3::Hash, reader: &SampleReader) -> Result<Store> {
    let report = Report { num_samples: writer.len() as u64, ..reader.report().clone() };
    writer.finish(key, reader.dimensions(), report)
}

/// Stages 1 to 3 on all cores, in order: while a chunk is converted and tokenised, the next ones are read.
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
