//! Stage 1: record files → [`Record`]s.
//!
//! | module | what |
//! |---|---|
//! | `rows` | a file's rows as JSON text, one at a time: JSON lines, a JSON array, Parquet |
//! | `parse` | one row's JSON → a [`Record`], by [`Format`] |
//! | `messages` | the shapes in which conversations come |
//! | `ahead` | rows read on a thread of their own, by chunks |
//! | `schema` | the JSON of a record, as a JSON Schema |
//!
//! Whatever is wrong is told with the file, the line or record, and the field; nothing is skipped in silence.

mod ahead;
mod messages;
mod parse;
mod rows;
mod schema;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Format, Result};

pub(crate) use ahead::RowChunks;
use rows::Rows;
pub(crate) use rows::to_json as rows_to_json;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    /// `system`, `user`, `assistant`, ….
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// A turn of `role` that says `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }

    /// Whether this is a turn of the model's.
    pub fn is_assistant(&self) -> bool {
        self.role == "assistant"
    }
}

/// What the model answers: a text (one user turn) or a conversation so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Prompt {
    /// One user turn.
    Text(String),
    /// A conversation.
    Messages(Vec<Message>),
}

impl Prompt {
    /// The prompt as turns: a text is one `user` turn.
    pub fn to_messages(&self) -> Vec<Message> {
        match self {
            Self::Text(text) => vec![Message::new("user", text)],
            Self::Messages(messages) => messages.clone(),
        }
    }
}

/// A rating as found in a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Rating {
    /// A finite number.
    Value(f64),
    /// Why there is none, the kind under which it is reported: `absent`, `null`, `empty`, `N/A`, `nan`, `inf`, `text`,
    /// `boolean`, `list` or `object`.
    Missing(&'static str),
}

/// One response of a record, with its ratings by dimension.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The response's text.
    pub response: String,
    /// Ratings by dimension, in the record's order.
    pub ratings: IndexMap<String, Rating>,
}

/// What a row of a record file holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A prompt with rated responses (`Format::UltraFeedback`).
    Rated(Vec<Completion>),
    /// A prompt with a chosen and a rejected response (`Format::Pairs`).
    Pair {
        /// The better response.
        chosen: String,
        /// The worse response.
        rejected: String,
    },
    /// A conversation whose assistant turns are all to be learned (`Format::Chat`); the prompt holds all of it.
    Conversation,
}

/// One row of a record file.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Position in the concatenated inputs, before any filtering.
    pub index: u64,
    /// The row's `source` (or `metadata.source`), where it has one.
    pub source: Option<String>,
    /// The prompt, or the whole conversation.
    pub prompt: Prompt,
    /// The rest.
    pub body: Body,
}

impl Record {
    /// Parses one row's JSON.
    ///
    /// # Errors
    ///
    /// The problem as a clause without a place ("`completions` is missing: …"): the caller knows the file and line.
    pub fn parse(json: &str, format: Format, index: u64) -> std::result::Result<Self, String> {
        parse::parse(json, format, index).map_err(|problem| problem.to_string())
    }
}

/// Where a record stands in the inputs: for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File {
        /// The file.
        path: Arc<Path>,
        /// "line" (JSON lines) or "record" (JSON arrays, Parquet).
        unit: &'static str,
        /// Counted from 1.
        number: u64,
    },
    /// In a stream of record batches.
    Stream {
        /// Counted from 0, as the samples' own.
        index: u64,
    },
}

impl Place {
    /// An error about this record.
    pub fn error(&self, problem: impl Into<String>) -> Error {
        match self {
            Self::File { path, unit, number } => Error::InvalidRecord {
                path: path.to_path_buf(),
                place: format!("{unit} {number}"),
                problem: problem.into(),
            },
            Self::Stream { index } => Error::InvalidData(format!("record {index} of the stream: {}", problem.into())),
        }
    }
}

/// One row as JSON text.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) index: u64,
    pub(crate) place: Place,
    pub(crate) json: String,
    /// Line and column of the text's first character, both from 1, where the row may span lines.
    start: Option<(usize, usize)>,
}

impl Row {
    /// A row of a stream of record batches.
    pub(crate) fn of_stream(index: u64, json: String) -> Self {
        Self { index, place: Place::Stream { index }, json, start: None }
    }

    /// Parses the row; what is wrong with it is told with its place.
    pub(crate) fn parse(&self, format: Format) -> Result<Record> {
        parse::parse(&self.json, format, self.index).map_err(|problem| self.place.error(problem.text(self.start)))
    }
}

/// Fails where a path is not that of a file.
pub(crate) fn check_files(paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        let metadata = std::fs::metadata(path).map_err(|source| Error::io(path, source))?;
        if metadata.is_dir() {
            let source = std::io::Error::other("this is a folder; name the record files in it");
            return Err(Error::io(path, source));
        }
    }
    Ok(())
}

/// Streams the rows of files in order, in memory for one row (Parquet: for one batch of rows).
///
/// A file is Parquet where it is named `.parquet` or starts with `PAR1`, a JSON array where its first character is `[`,
/// and JSON lines otherwise. A byte order mark and blank lines are passed over. The iterator ends after its first error.
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

    /// Ends the stream: nothing sensible follows an error.
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
                return Ok(Some(Row { index, place, json: row.json, start: row.start }));
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
