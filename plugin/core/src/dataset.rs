//! Stages 1 to 4 for a trainer that brings no loader: open, length, batch.

#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use rayon::prelude::*;

use crate::convert::SampleReader;
use crate::record::Place;
use crate::tokenize::Tokenized;
use crate::{
    Batch, CollateOptions, ConvertOptions, Error, Report, Result, Sample, TokenizeOptions, TokenizedSample, Tokenizer,
    collate,
};

/// Samples read and converted before the next parallel round of tokenisation: bounds what is in memory as text.
const CHUNK_SAMPLES: usize = 256;

/// What a caller needs to know of a sample to sort, pack and cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleInfo {
    /// Position of the record in the concatenated inputs.
    pub record_index: u64,
    /// N.
    pub num_responses: usize,
    /// Tokens of the prompt (once) and of all responses.
    pub num_tokens: usize,
}

/// Tokenised records, ready to be batched, in the order of the inputs.
#[derive(Clone, Debug)]
pub struct Dataset {
    samples: Vec<Arc<TokenizedSample>>,
    dimensions: Vec<String>,
    report: Report,
}

impl Dataset {
    /// Reads, converts and tokenises record files; tokenisation runs in parallel.
    ///
    /// `progress(done, total)` is told the records done now and then, with a total of 0 where it is not known, and stops
    /// the work by returning `Break`.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, a record that does not parse, a chat template that refuses a record (each named by
    /// file and line), invalid options, or [`Error::Cancelled`].
    pub fn open(
        paths: &[PathBuf],
        tokenizer: &Tokenizer,
        convert_options: &ConvertOptions,
        tokenize_options: &TokenizeOptions,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Self> {
        let mut reader = SampleReader::open(paths, convert_options.clone())?;
        let total = reader.num_records().unwrap_or(0);
        let mut samples = Vec::new();
        loop {
            let chunk = reader.read_chunk(CHUNK_SAMPLES)?;
            let tokenized: Vec<Result<Tokenized>> =
                chunk.par_iter().map(|(place, sample)| tokenize(tokenizer, place, sample, tokenize_options)).collect();
            for tokenized in tokenized {
                let tokenized = tokenized?;
                reader.report_mut().add_tokenized(&tokenized);
                samples.extend(tokenized.samples.into_iter().map(Arc::new));
            }
            if progress(reader.report().num_records, total).is_break() {
                return Err(Error::Cancelled);
            }
            if chunk.len() < CHUNK_SAMPLES {
                break;
            }
        }
        let report = Report { num_samples: samples.len() as u64, ..reader.report().clone() };
        Ok(Self { samples, dimensions: reader.dimensions().to_vec(), report })
    }

    /// How many samples there are.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The dimensions of every sample, in order: `preference` for pairs, none for conversations.
    pub fn dimensions(&self) -> &[String] {
        &self.dimensions
    }

    /// What was read, left out and cut.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// What a caller needs to know of each sample to sort, pack and cache.
    pub fn samples(&self) -> Vec<SampleInfo> {
        let info = |sample: &Arc<TokenizedSample>| SampleInfo {
            record_index: sample.record_index,
            num_responses: sample.responses.len(),
            num_tokens: sample.num_tokens(),
        };
        self.samples.iter().map(info).collect()
    }

    /// One sample.
    ///
    /// # Errors
    ///
    /// An index beyond the end.
    pub fn sample(&self, index: usize) -> Result<&Arc<TokenizedSample>> {
        self.samples.get(index).ok_or_else(|| {
            Error::InvalidArgument(format!("index {index} is out of range: the dataset has {} samples", self.len()))
        })
    }

    /// Collates the samples at `indices`.
    ///
    /// # Shapes
    ///
    /// `lambda` is `[B, M]`, row-major, B indices by M dimensions.
    ///
    /// # Errors
    ///
    /// An index beyond the end, and what [`collate()`] refuses.
    pub fn batch(&self, indices: &[usize], lambda: &[f64], options: &CollateOptions) -> Result<Batch> {
        let samples = indices.iter().map(|&index| Ok(&**self.sample(index)?)).collect::<Result<Vec<_>>>()?;
        collate(&samples, lambda, options)
    }
}

fn tokenize(tokenizer: &Tokenizer, place: &Place, sample: &Sample, options: &TokenizeOptions) -> Result<Tokenized> {
    tokenizer.tokenize_sample(sample, options).map_err(|problem| place.error(problem))
}
