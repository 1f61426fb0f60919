//! A file's rows as JSON text, one at a time.

use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::Arc;

use super::columns::Parquet;
use super::place::Place;
use super::source::{Source, Text};
use crate::{Error, Result};

/// A longer record means that a quote or bracket is missing; reading on would fill the memory.
const MAX_RECORD_BYTES: usize = 256 << 20;

/// One row of one file.
pub(super) struct FileRow {
    /// Its line or its position in the file, counted from 1.
    pub(super) number: u64,
    pub(super) json: String,
    /// Line and column at which the text starts, if the row may span lines.
    pub(super) start: Option<(usize, usize)>,
}

/// The rows of one file.
#[derive(Debug)]
pub(super) enum Rows {
    Lines(Lines),
    Array(Array),
    Parquet(Box<Parquet>),
}

impl Rows {
    /// Opens a file and detects its format.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut text = match Source::open(path)? {
            Source::Parquet => return Ok(Self::Parquet(Box::new(Parquet::open(path)?))),
            Source::Text(text) => text,
        };
        let start = text.fill_buf().map_err(|source| Error::io(path, source))?;
        Ok(match start.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'[') => Self::Array(Array::new(text)),
            _ => Self::Lines(Lines { reader: text, number: 0 }),
        })
    }

    /// The unit that a row's number counts.
    pub(super) fn unit(&self) -> &'static str {
        match self {
            Self::Lines(_) => "line",
            Self::Array(_) | Self::Parquet(_) => "record",
        }
    }

    /// The names of the columns that are not read, if the file is a table.
    pub(super) fn unread(&self) -> Option<Arc<[String]>> {
        match self {
            Self::Lines(_) | Self::Array(_) => None,
            Self::Parquet(parquet) => Some(parquet.unread()),
        }
    }

    pub(super) fn next(&mut self, path: &Path) -> Result<Option<FileRow>> {
        match self {
            Self::Lines(lines) => lines.next(path),
            Self::Array(array) => array.next(path),
            Self::Parquet(parquet) => {
                Ok(parquet.next(path)?.map(|(number, json)| FileRow { number, json, start: None }))
            }
        }
    }
}

fn fail(path: &Path, unit: &'static str, number: u64, problem: impl Into<String>) -> Error {
    Place::File { path: path.into(), unit, number }.error(problem)
}

fn too_long() -> String {
    format!("longer than {} MiB: a quote, bracket or line break is missing", MAX_RECORD_BYTES >> 20)
}

fn into_text(bytes: Vec<u8>) -> std::result::Result<String, String> {
    String::from_utf8(bytes)
        .map_err(|error| format!("not valid UTF-8 at byte {}", error.utf8_error().valid_up_to() + 1))
}

/// JSON lines.
#[derive(Debug)]
pub(super) struct Lines {
    reader: Text,
    number: u64,
}

impl Lines {
    fn next(&mut self, path: &Path) -> Result<Option<FileRow>> {
        loop {
            let mut line = Vec::new();
            let mut limited = self.reader.by_ref().take(MAX_RECORD_BYTES as u64 + 1);
            limited.read_until(b'\n', &mut line).map_err(|source| Error::io(path, source))?;
            if line.is_empty() {
                return Ok(None);
            }
            self.number += 1;
            let number = self.number;
            if line.len() > MAX_RECORD_BYTES {
                return Err(fail(path, "line", number, too_long()));
            }
            if !line.trim_ascii().is_empty() {
                let json = into_text(line).map_err(|problem| fail(path, "line", number, problem))?;
                return Ok(Some(FileRow { number, json, start: None }));
            }
        }
    }
}

/// A JSON array: finds the end of each element without parsing it, so that one element is in memory at a time.
#[derive(Debug)]
pub(super) struct Array {
    reader: Text,
    number: u64,
    line: usize,
    column: usize,
    ended: bool,
}

impl Array {
    fn new(reader: Text) -> Self {
        Self { reader, number: 0, line: 1, column: 1, ended: false }
    }

    fn next(&mut self, path: &Path) -> Result<Option<FileRow>> {
        if self.ended {
            return Ok(None);
        }
        let io = |source| Error::io(path, source);
        // `[` precedes the first element, a comma each of the others, and `]` follows the last.
        let separator = self.skip_whitespace().map_err(io)?;
        let problem = match (separator, self.number) {
            (Some(b'['), 0) => {
                self.consume_one();
                if self.skip_whitespace().map_err(io)? == Some(b']') {
                    return self.end(path);
                }
                None
            }
            (Some(b','), 1..) => {
                self.consume_one();
                None
            }
            (Some(b']'), _) => return self.end(path),
            (None, _) => Some("the file ends before the array's closing `]`: it was cut short"),
            (Some(_), _) => Some("expected `,` or `]` after this record"),
        };
        if let Some(problem) = problem {
            return Err(fail(path, "record", self.number.max(1), problem));
        }
        self.skip_whitespace().map_err(io)?;
        self.number += 1;
        let start = Some((self.line, self.column));
        let json = self.element().map_err(io)?.map_err(|problem| fail(path, "record", self.number, problem))?;
        Ok(Some(FileRow { number: self.number, json, start }))
    }

    /// Consumes the closing bracket; only white space may follow it.
    fn end(&mut self, path: &Path) -> Result<Option<FileRow>> {
        self.consume_one();
        self.ended = true;
        match self.skip_whitespace().map_err(|source| Error::io(path, source))? {
            None => Ok(None),
            Some(_) => Err(fail(path, "record", self.number.max(1), "text follows the array's closing `]`")),
        }
    }

    /// Reads the element, up to the comma or bracket that follows it.
    fn element(&mut self) -> std::io::Result<std::result::Result<String, String>> {
        let mut text = Vec::new();
        let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
        loop {
            let chunk = self.reader.fill_buf()?;
            if chunk.is_empty() {
                return Ok(Err(
                    "the file ends inside this record: it was cut short, or a quote or bracket is missing".into()
                ));
            }
            let end = chunk.iter().position(|&byte| {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if in_string => escaped = true,
                    b'"' => in_string = !in_string,
                    _ if in_string => {}
                    b'{' | b'[' => depth += 1,
                    b',' | b']' if depth == 0 => return true,
                    b'}' | b']' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                false
            });
            let taken = end.unwrap_or(chunk.len());
            text.extend_from_slice(&chunk[..taken]);
            self.reader.consume(taken);
            if text.len() > MAX_RECORD_BYTES {
                return Ok(Err(too_long()));
            }
            if end.is_some() {
                break;
            }
        }
        for &byte in &text {
            self.advance(byte);
        }
        Ok(into_text(text))
    }

    /// Returns the next byte that is not white space without consuming it; None at the end of the file.
    fn skip_whitespace(&mut self) -> std::io::Result<Option<u8>> {
        loop {
            match self.reader.fill_buf()?.first().copied() {
                Some(byte) if byte.is_ascii_whitespace() => {
                    self.reader.consume(1);
                    self.advance(byte);
                }
                other => return Ok(other),
            }
        }
    }

    fn consume_one(&mut self) {
        self.reader.consume(1);
        self.column += 1;
    }

    fn advance(&mut self, byte: u8) {
        if byte == b'\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
    }
}
