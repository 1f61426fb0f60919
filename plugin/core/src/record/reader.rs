//! The rows of record files, one file after another.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::messages::Fill;
use super::parse::parse;
use super::place::Place;
use super::rows::Rows;
use super::types::Record;
use crate::{Error, Format, Result};

/// One row as JSON text.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) index: u64,
    pub(crate) place: Place,
    pub(crate) json: String,
    /// Line and column of the text's first character, both from 1, if the row may span lines.
    start: Option<(usize, usize)>,
    /// Names of the table's columns that are not read; None if the row is not of a table.
    unread: Option<Arc<[String]>>,
}

impl Row {
    /// Creates a row of a stream of record batches.
    pub(crate) fn of_stream(index: u64, json: String, unread: Arc<[String]>) -> Self {
        Self { index, place: Place::Stream { index }, json, start: None, unread: Some(unread) }
    }

    /// Parses the row; an error names its place.
    pub(crate) fn parse(&self, format: Format) -> Result<Record> {
        let fill = if self.unread.is_some() { Fill::Nulls } else { Fill::Nothing };
        let mut record = parse(&self.json, format, self.index, fill)
            .map_err(|problem| self.place.error(problem.text(self.start)))?;
        record.ignored.extend(self.unread.iter().flat_map(|names| names.iter().cloned()));
        Ok(record)
    }
}

/// Fails if a path is not a regular file: others, such as pipes, can be read only once, and record files are read twice.
pub(crate) fn check_files(paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        let metadata = std::fs::metadata(path).map_err(|source| Error::io(path, source))?;
        if metadata.is_dir() {
            let source = std::io::Error::other("this is a folder; name the record files in it");
            return Err(Error::io(path, source));
        }
        if !metadata.is_file() {
            let problem = "this is not a regular file and can be read only once; write it to a file first";
            return Err(Error::io(path, std::io::Error::other(problem)));
        }
    }
    Ok(())
}

/// Streams the rows of files in order, with one row in memory at a time (Parquet: one batch of rows).
///
/// A file is Parquet if it is named `.parquet` or starts with `PAR1`, a JSON array if its first character is `[`, and
/// JSON lines otherwise. What is compressed with gzip or zstd is decompressed. A byte order mark and blank lines are
/// skipped. The iterator ends after its first error.
#[derive(Debug)]
pub(crate) struct RowReader {
    files: std::vec::IntoIter<Arc<Path>>,
    rows: Option<(Arc<Path>, Rows)>,
    next_index: u64,
}

impl RowReader {
    /// Opens the first file and checks that the others exist.
    pub(crate) fn open(paths: &[PathBuf]) -> Result<Self> {
        check_files(paths)?;
        let files: Vec<Arc<Path>> = paths.iter().map(|path| Arc::from(path.as_path())).collect();
        let mut reader = Self { files: files.into_iter(), rows: None, next_index: 0 };
        reader.open_next_file()?;
        Ok(reader)
    }

    fn open_next_file(&mut self) -> Result<()> {
        self.rows = match self.files.next() {
            Some(path) => Some((Arc::clone(&path), Rows::open(&path)?)),
            None => None,
        };
        Ok(())
    }

    /// Ends the stream: what follows an error cannot be trusted.
    fn stop(&mut self) {
        self.files = Vec::new().into_iter();
        self.rows = None;
    }

    fn try_next(&mut self) -> Result<Option<Row>> {
        while let Some((path, rows)) = &mut self.rows {
            if let Some(row) = rows.next(path)? {
                let place = Place::File { path: Arc::clone(path), unit: rows.unit(), number: row.number };
                let index = self.next_index;
                self.next_index += 1;
                let unread = rows.unread();
                return Ok(Some(Row { index, place, json: row.json, start: row.start, unread }));
            }
            self.open_next_file()?;
        }
        Ok(None)
    }
}

impl Iterator for RowReader {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.try_next();
        if result.is_err() {
            self.stop();
        }
        result.transpose()
    }
}
