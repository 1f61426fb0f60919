//! Stages 1 and 2: single records, and streams of record files.

use std::path::PathBuf;
use std::ptr::NonNull;

use lambda_dpo_abi as abi;

use super::load::{answer, call, handle, lend_str, lend_strs, no_bytes, parse, path_strings, take_text};
use super::{ConvertOptions, Plugin, PluginError, Report};

handle!(
    /// Streams samples out of record files.
    Reader, abi::Reader, reader_free
);

// SAFETY: the table lets one thread at a time use a reader; using it takes `&mut`, but for its report, which locks.
unsafe impl Send for Reader {}

impl Plugin {
    /// Converts one record (JSON) to a sample (JSON); None where the options filter it out.
    ///
    /// # Errors
    /// A record that does not parse or lacks a field.
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
        Ok(take_text(self, sample))
    }

    /// Opens record files for streaming.
    ///
    /// # Errors
    /// A file that is missing or holds no records of the format.
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
    /// The next sample as JSON; None at the end.
    ///
    /// # Errors
    /// A record that does not parse or lacks a field.
    pub fn next_sample(&mut self) -> Result<Option<String>, PluginError> {
        let mut sample = no_bytes();
        // SAFETY: the handle is alive.
        call(|error| unsafe { (self.plugin.api().reader_next)(self.handle.as_ptr(), &mut sample, error) })?;
        Ok(take_text(&self.plugin, sample))
    }

    /// The counts so far.
    ///
    /// # Errors
    /// Only a defect in the plugin.
    pub fn report(&self) -> Result<Report, PluginError> {
        let mut report = no_bytes();
        // SAFETY: the handle is alive.
        call(|error| unsafe { (self.plugin.api().reader_report)(self.handle.as_ptr(), &mut report, error) })?;
        parse(&self.plugin, report, "reader_report")
    }
}
