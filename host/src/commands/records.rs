//! Records that a command reads in full.

use std::ops::ControlFlow;

use anyhow::Result;

use crate::config::Format;
use crate::console::Progress;
use crate::files::cache_folder::CacheFolder;
use crate::files::record_files::RecordFiles;
use crate::plugin::{ConvertOptions, Dataset, DatasetOptions, Plugin, TokenizeOptions, Tokenizer};

/// Reads and tokenises every record of the files: none is skipped, nothing is truncated, and ratings are not needed.
pub(super) fn open_records(
    plugin: &Plugin,
    tokenizer: &Tokenizer,
    files: &RecordFiles,
    format: Format,
) -> Result<Dataset> {
    let convert = ConvertOptions { format, keep_all: true, ..ConvertOptions::default() };
    let tokenize = TokenizeOptions { cutoff_len: None, keep_all: true };
    let options =
        DatasetOptions { convert, tokenize, cache_dir: CacheFolder::from_env().as_ref().map(CacheFolder::samples) };
    let mut progress = Progress::new("reading", 0, 0);
    let dataset = plugin.dataset(files, tokenizer, &options, &mut |done, total| {
        progress.update(done, total, "");
        ControlFlow::Continue(())
    });
    progress.clear();
    Ok(dataset.map_err(|error| error.reworded(|message| files.with_names(message)))?)
}
