//! Stages 1 and 2 as one stream: read ahead, converted in parallel, returned in order.

use std::collections::VecDeque;
use std::path::PathBuf;

use arrow_array::RecordBatchReader;
use rayon::prelude::*;

use super::arrow::{StreamChunks, dimensions_of};
use super::converter::{Converter, PREFERENCE};
use super::dimensions;
use super::options::ConvertOptions;
use super::report::Report;
use super::sample::Sample;
use crate::record::{Place, Row, RowChunks};
use crate::{Error, Format, Result};

/// Number of records that a thread converts at a time: few enough to share a chunk, many enough to pay for the
/// dispatch.
const GROUP_ROWS: usize = 16;

/// Source of the rows, in chunks.
#[derive(Debug)]
enum Chunks {
    Files(RowChunks),
    Stream(StreamChunks),
}

impl Iterator for Chunks {
    type Item = Result<Vec<Row>>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Files(chunks) => chunks.next(),
            Self::Stream(chunks) => chunks.next(),
        }
    }
}

/// Reads and converts record files, or a stream of record batches. The iterator ends after its first error.
#[derive(Debug)]
pub struct SampleReader {
    rows: Chunks,
    converter: Converter,
    dimensions: Vec<String>,
    num_records: Option<u64>,
    /// Samples of the last chunk that were not returned yet, and the error after them.
    ready: VecDeque<Sample>,
    failed: Option<Error>,
    ended: bool,
}

/// Results of a chunk of records, in order, up to its first error.
#[derive(Debug)]
pub(crate) struct Chunk<T> {
    pub(crate) items: Vec<T>,
    pub(crate) error: Option<Error>,
}

impl SampleReader {
    /// Opens record files. If the options name no dimensions, a first pass over the files collects their names.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read or the options are invalid.
    pub fn open(paths: &[PathBuf], mut options: ConvertOptions) -> Result<Self> {
        options.validate()?;
        let mut num_records = None;
        if options.uses_dimensions() && options.dimensions.is_none() {
            let found = dimensions::find(paths, &options)?;
            num_records = Some(found.num_records);
            options.dimensions = Some(found.dimensions);
        }
        let rows = RowChunks::open(paths, options.max_samples)?;
        Self::new(Chunks::Files(rows), options, num_records)
    }

    /// Reads a stream whose rows are records: nested structs and lists, as in Parquet files and `datasets`. Its batches
    /// are read on demand, on the thread that asks for samples.
    ///
    /// If the options name no dimensions, they are the fields of the schema's annotations or rankings, sorted.
    ///
    /// # Errors
    ///
    /// Returns an error if the options are invalid, or if neither they nor the schema name the dimensions (because
    /// annotations are a list, or they or rankings a map).
    pub fn from_stream(batches: Box<dyn RecordBatchReader + Send>, mut options: ConvertOptions) -> Result<Self> {
        options.validate()?;
        if options.uses_dimensions() && options.dimensions.is_none() {
            options.dimensions = dimensions_of(&batches.schema(), options.format)?;
        }
        let rows = StreamChunks::new(batches, options.max_samples);
        Self::new(Chunks::Stream(rows), options, None)
    }

    fn new(rows: Chunks, mut options: ConvertOptions, num_records: Option<u64>) -> Result<Self> {
        // An empty list would be invalid; without names the converter uses each record's own, and there are none.
        options.dimensions = options.dimensions.filter(|names| !names.is_empty());
        let dimensions = match options.format {
            Format::Chat => Vec::new(),
            _ if options.uses_dimensions() => options.dimensions.clone().unwrap_or_default(),
            _ => vec![PREFERENCE.to_owned()],
        };
        let converter = Converter::new(options)?;
        Ok(Self { rows, converter, dimensions, num_records, ready: VecDeque::new(), failed: None, ended: false })
    }

    /// Returns the dimensions of every sample, in order.
    pub fn dimensions(&self) -> &[String] {
        &self.dimensions
    }

    /// Returns the number of records, if a first pass has counted them.
    pub fn num_records(&self) -> Option<u64> {
        self.num_records
    }

    /// Returns the counts of the records converted so far, which may be a few hundred ahead of the samples returned.
    pub fn report(&self) -> &Report {
        self.converter.report()
    }

    /// Converts the next chunk of records and applies `then` to each sample, all in parallel. Returns None at the end.
    pub(crate) fn next_chunk<T, F>(&mut self, then: F) -> Option<Chunk<T>>
    where
        T: Send,
        F: Fn(&Place, Sample, &mut Report) -> Result<T> + Sync,
    {
        if self.ended {
            return None;
        }
        let chunk = match self.rows.next() {
            Some(Ok(rows)) => self.convert_rows(&rows, &then),
            Some(Err(error)) => Chunk { items: Vec::new(), error: Some(error) },
            None => {
                self.ended = true;
                // Each dimension that the options name must have occurred.
                Chunk { items: Vec::new(), error: Some(self.converter.check_dimensions().err()?) }
            }
        };
        self.ended |= chunk.error.is_some();
        Some(chunk)
    }

    fn convert_rows<T, F>(&mut self, rows: &[Row], then: &F) -> Chunk<T>
    where
        T: Send,
        F: Fn(&Place, Sample, &mut Report) -> Result<T> + Sync,
    {
        let converter = &self.converter;
        let groups: Vec<_> = rows
            .par_chunks(GROUP_ROWS)
            .map(|rows| {
                let mut fork = converter.fork();
                let group = fork.convert_group(rows, then);
                (fork, group)
            })
            .collect();
        let mut chunk = Chunk { items: Vec::with_capacity(rows.len()), error: None };
        for (fork, group) in groups {
            self.converter.absorb(fork);
            chunk.items.extend(group.items);
            if group.error.is_some() {
                chunk.error = group.error;
                break;
            }
        }
        chunk
    }

    /// Returns the next sample.
    fn try_next(&mut self) -> Result<Option<Sample>> {
        loop {
            if let Some(sample) = self.ready.pop_front() {
                return Ok(Some(sample));
            }
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            let Some(chunk) = self.next_chunk(|_, sample, _| Ok(sample)) else { return Ok(None) };
            self.ready = chunk.items.into();
            self.failed = chunk.error;
        }
    }
}

impl Converter {
    /// Converts rows one by one, up to the first error.
    fn convert_group<T, F>(&mut self, rows: &[Row], then: &F) -> Chunk<T>
    where
        F: Fn(&Place, Sample, &mut Report) -> Result<T>,
    {
        let mut chunk = Chunk { items: Vec::with_capacity(rows.len()), error: None };
        for row in rows {
            let item = row
                .parse(self.options.format)
                .map(|record| self.convert(record))
                .and_then(|sample| sample.map(|sample| then(&row.place, sample, &mut self.report)).transpose());
            match item {
                Ok(item) => chunk.items.extend(item),
                Err(error) => {
                    chunk.error = Some(error);
                    break;
                }
            }
        }
        chunk
    }
}

impl Iterator for SampleReader {
    type Item = Result<Sample>;

    fn next(&mut self) -> Option<Self::Item> {
        self.try_next().transpose()
    }
}
