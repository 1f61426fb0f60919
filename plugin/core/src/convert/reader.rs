//! Stages 1 and 2 as one stream.

use std::path::PathBuf;

use super::{ConvertOptions, Converter, PREFERENCE, Report, Sample, dimensions};
use crate::record::{Place, RecordReader};
use crate::{Format, Result};

/// Reads and converts record files, a sample at a time. The iterator ends after its first error.
#[derive(Debug)]
pub struct SampleReader {
    records: RecordReader,
    converter: Converter,
    dimensions: Vec<String>,
    num_records: Option<u64>,
    ended: bool,
}

impl SampleReader {
    /// Opens record files. Where the options name no dimensions, a first pass over the files collects their names.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or invalid options.
    pub fn open(paths: &[PathBuf], mut options: ConvertOptions) -> Result<Self> {
        options.validate()?;
        let records = RecordReader::open(paths, options.format)?;
        let mut num_records = None;
        if options.uses_dimensions() && options.dimensions.is_none() {
            let found = dimensions::find(paths, options.max_samples, &options.exclude_sources)?;
            num_records = Some(found.num_records);
            // Without a single name the converter falls back to each record's own, of which there are none.
            options.dimensions = Some(found.dimensions).filter(|names| !names.is_empty());
        }
        let dimensions = match options.format {
            Format::Chat => Vec::new(),
            _ if options.uses_dimensions() => options.dimensions.clone().unwrap_or_default(),
            _ => vec![PREFERENCE.to_owned()],
        };
        Ok(Self { records, converter: Converter::new(options)?, dimensions, num_records, ended: false })
    }

    /// The dimensions of every sample, in order.
    pub fn dimensions(&self) -> &[String] {
        &self.dimensions
    }

    /// How many records there are, where a first pass has counted them.
    pub fn num_records(&self) -> Option<u64> {
        self.num_records
    }

    /// The counts so far.
    pub fn report(&self) -> &Report {
        self.converter.report()
    }

    pub(crate) fn report_mut(&mut self) -> &mut Report {
        &mut self.converter.report
    }

    /// Up to `len` samples; fewer at the end only.
    pub(crate) fn read_chunk(&mut self, len: usize) -> Result<Vec<(Place, Sample)>> {
        std::iter::from_fn(|| self.next_with_place()).take(len).collect()
    }

    /// Gives the next sample together with its record's place.
    pub fn next_with_place(&mut self) -> Option<Result<(Place, Sample)>> {
        while !self.ended {
            match self.next_record() {
                Ok(Some((place, record))) => {
                    if let Some(sample) = self.converter.convert(record) {
                        return Some(Ok((place, sample)));
                    }
                }
                Ok(None) => self.ended = true,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }

    /// The next record within the bound; at the end, the dimensions that the options name must have occurred.
    fn next_record(&mut self) -> Result<Option<(Place, crate::Record)>> {
        let within = self.converter.options.max_samples.is_none_or(|max| self.report().num_records < max);
        match if within { self.records.next_with_place() } else { None } {
            Some(record) => record.map(Some),
            None => self.converter.check_dimensions().map(|()| None),
        }
    }
}

impl Iterator for SampleReader {
    type Item = Result<Sample>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_with_place()?.map(|(_, sample)| sample))
    }
}
