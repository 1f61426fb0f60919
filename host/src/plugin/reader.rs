//! Stages 1 and 2: records are converted to samples, one at a time or as a stream.

use std::path::PathBuf;
use std::ptr::NonNull;

use lambda_dpo_abi as abi;

use super::call::{answer, call, handle, lend_str, lend_strs, no_bytes, parse, path_strings, take_text};
use super::error::PluginError;
use super::load::Plugin;
use super::options::ConvertOptions;
use super::report::Report;

handle!(
    /// Streams samples from record files.
    Reader, abi::Reader, reader_free
);

// SAFETY: the ABI allows one thread at a time to use a reader.
unsafe impl Send for Reader {}

impl Plugin {
    /// Converts one record (JSON) to a sample (JSON); None if the options filter it out.
    ///
    /// # Errors
    ///
    /// Returns an error if the record does not parse or lacks a field.
    pub fn convert_record(
        &self,
        record: &str,
        record_index: u64,
        options: &ConvertOptions,
    ) -> Result<Option<String>, PluginError> {
        let options = options.lend();
        let mut sample = no_bytes();
        let convert = self.api().convert_record;
        // SAFETY: all arguments live through the call.
        call(|error| unsafe { convert(lend_str(record), record_index, &options.raw, &mut sample, error) })?;
        Ok(take_text(self.api(), sample))
    }

    /// Opens record files for streaming.
    ///
    /// # Errors
    ///
    /// Returns an error if a file is missing or does not contain records of the format.
    pub fn reader(&self, paths: &[PathBuf], options: &ConvertOptions) -> Result<Reader, PluginError> {
        let options = options.lend();
        let paths = path_strings(paths)?;
        let paths = lend_strs(&paths);
        let mut handle = std::ptr::null_mut();
        let open = self.api().reader_open;
        // SAFETY: all arguments live through the call.
        call(|error| unsafe { open(paths.as_ptr(), paths.len(), &options.raw, &mut handle, error) })?;
        let handle = NonNull::new(handle).ok_or_else(|| answer("reader_open", "no reader"))?;
        Ok(Reader { plugin: self.clone(), handle })
    }
}

impl Reader {
    /// Returns the next sample as JSON; None at the end.
    ///
    /// # Errors
    ///
    /// Returns an error if a record does not parse or lacks a field.
    pub fn next_sample(&mut self) -> Result<Option<String>, PluginError> {
        let mut sample = no_bytes();
        // SAFETY: the handle is alive.
        call(|error| unsafe { (self.plugin.api().reader_next)(self.handle.as_ptr(), &mut sample, error) })?;
        Ok(take_text(self.plugin.api(), sample))
    }

    /// Returns the counts so far.
    ///
    /// # Errors
    ///
    /// Returns an error only if the plugin has a defect.
    pub fn report(&self) -> Result<Report, PluginError> {
        let mut report = no_bytes();
        // SAFETY: the handle is alive.
        call(|error| unsafe { (self.plugin.api().reader_report)(self.handle.as_ptr(), &mut report, error) })?;
        parse(self.plugin.api(), report, "reader_report")
    }
}
