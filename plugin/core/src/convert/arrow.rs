//! Records from Arrow record batches, and samples as Arrow record batches: stages 1 and 2 in bulk.
//!
//! Batches are read on demand, so a table of any length takes the memory of one batch.

use std::fmt;
use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchReader};
use arrow_json::ReaderBuilder;
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema, SchemaRef};
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::sample::Sample;
use crate::record::{self, Columns, Prompt, rows_to_json};
use crate::{Error, Format, Result};

/// Number of rows that are converted to JSON at a time, and of samples in an outgoing batch.
const BATCH_ROWS: usize = 256;

/// The rows of a stream of record batches as chunks of JSON, each read on the thread that asks for it.
pub(super) struct StreamChunks {
    batches: Box<dyn RecordBatchReader + Send>,
    /// Rest of the current batch.
    batch: Option<RecordBatch>,
    columns: Columns,
    next_index: u64,
    max_rows: u64,
}

impl fmt::Debug for StreamChunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { next_index, max_rows, .. } = self;
        f.debug_struct("StreamChunks")
            .field("next_index", next_index)
            .field("max_rows", max_rows)
            .finish_non_exhaustive()
    }
}

impl StreamChunks {
    /// Reads at most `max_rows` rows of a stream.
    pub(super) fn new(batches: Box<dyn RecordBatchReader + Send>, max_rows: Option<u64>) -> Self {
        let columns = Columns::of(&batches.schema());
        Self { batches, batch: None, columns, next_index: 0, max_rows: max_rows.unwrap_or(u64::MAX) }
    }

    fn next_chunk(&mut self) -> Result<Option<Vec<record::Row>>> {
        let left = usize::try_from(self.max_rows - self.next_index).unwrap_or(usize::MAX);
        if left == 0 {
            return Ok(None);
        }
        let batch = loop {
            if let Some(batch) = self.batch.take().filter(|batch| batch.num_rows() > 0) {
                break batch;
            }
            let batch = self.batches.next().transpose().map_err(|error| self.unreadable(&error.to_string()))?;
            let Some(batch) = batch else { return Ok(None) };
            self.batch = Some(self.columns.project(&batch).map_err(|problem| self.unreadable(&problem))?);
        };
        let len = batch.num_rows().min(BATCH_ROWS).min(left);
        let json = rows_to_json(&batch.slice(0, len)).map_err(|problem| self.unreadable(&problem))?;
        self.batch = Some(batch.slice(len, batch.num_rows() - len));
        let first = self.next_index;
        self.next_index += len as u64;
        let row = |(index, json)| record::Row::of_stream(index, json, Arc::clone(&self.columns.unread));
        Ok(Some((first..).zip(json).map(row).collect()))
    }

    fn unreadable(&self, problem: &str) -> Error {
        Error::InvalidData(format!("the stream cannot be read from record {} on: {problem}", self.next_index))
    }
}

impl Iterator for StreamChunks {
    type Item = Result<Vec<record::Row>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_chunk().transpose()
    }
}

/// Returns the names of the dimensions in a schema, sorted; None if it has no annotated completions or no rankings,
/// which reading the first record will report.
pub(super) fn dimensions_of(schema: &Schema, format: Format) -> Result<Option<Vec<String>>> {
    let items = |field: &Field| match field.data_type() {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => Some(Arc::clone(item)),
        DataType::ListView(item) | DataType::LargeListView(item) => Some(Arc::clone(item)),
        _ => None,
    };
    let child = |field: &Field, name: &str| match field.data_type() {
        DataType::Struct(fields) => fields.find(name).map(|(_, field)| Arc::clone(field)),
        _ => None,
    };
    let column = |name: &str| schema.column_with_name(name).map(|(_, column)| Arc::new(column.clone()));
    let (name, by_dimension) = match format {
        Format::Rankings => ("rankings", column("rankings")),
        _ => {
            let completion = column("completions").and_then(|completions| items(&completions));
            ("completions[].annotations", completion.and_then(|completion| child(&completion, "annotations")))
        }
    };
    let Some(by_dimension) = by_dimension else { return Ok(None) };
    match by_dimension.data_type() {
        DataType::Struct(fields) => {
            let mut names: Vec<String> = fields.iter().map(|field| field.name().clone()).collect();
            names.sort();
            Ok(Some(names))
        }
        other => {
            let other = if record::holds_json(&by_dimension) { "JSON".to_owned() } else { other.to_string() };
            Err(Error::InvalidArgument(format!(
                "`dimensions` must be named: in this stream `{name}` is of type {other}, so the dimensions are known only \
                 at its end"
            )))
        }
    }
}

/// Samples as record batches of up to 256 rows. The iterator ends after its first error.
///
/// # Schema
///
/// The fields of a sample's JSON: `prompt` (list of {role, content}; a text is one user turn), `responses`,
/// `dimensions` (lists of text), `ratings`, `pi_target` (`[M][N]` lists of float64, null if missing or masked),
/// `record`, `tools` (JSON as text, null without tools). A turn with other fields, such as `tool_calls`, is an error:
/// this schema has no place for them.
#[derive(Debug)]
pub struct SampleBatches<I> {
    samples: I,
    schema: SchemaRef,
    /// Error to return after the samples that were read before it.
    failed: Option<Error>,
    ended: bool,
}

impl<I: Iterator<Item = Result<Sample>>> SampleBatches<I> {
    /// Wraps an iterator of samples.
    pub fn new(samples: I) -> Self {
        Self { samples, schema: Arc::new(sample_schema()), failed: None, ended: false }
    }

    /// Returns the schema of every batch.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        let mut samples = Vec::new();
        while samples.len() < BATCH_ROWS && self.failed.is_none() {
            match self.samples.next() {
                Some(Ok(sample)) => samples.push(sample),
                Some(Err(error)) => self.failed = Some(error),
                None => break,
            }
        }
        if samples.is_empty()
            && let Some(error) = self.failed.take()
        {
            return Err(error);
        }
        if let Some(problem) = samples.iter().find_map(without_place) {
            return Err(Error::InvalidData(problem));
        }
        let rows: Vec<Row> = samples.iter().map(Row).collect();
        let write = || -> std::result::Result<Option<RecordBatch>, ArrowError> {
            let mut decoder = ReaderBuilder::new(self.schema()).with_batch_size(BATCH_ROWS).build_decoder()?;
            decoder.serialize(&rows)?;
            decoder.flush()
        };
        write().map_err(|error| {
            let first = samples.first().map_or(0, |sample| sample.record_index);
            Error::InvalidData(format!("the samples from record {first} on cannot be written to Arrow: {error}"))
        })
    }
}

impl<I: Iterator<Item = Result<Sample>>> Iterator for SampleBatches<I> {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let batch = self.next_batch().transpose();
        self.ended = !matches!(batch, Some(Ok(_)));
        batch
    }
}

/// A sample as a row of the schema, in which every prompt is a list of messages.
struct Row<'a>(&'a Sample);

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let prompt = Prompt::Messages(self.0.prompt.to_messages());
        let tools = self.0.tools.as_ref().map(|tools| Value::String(tools.to_string()));
        self.0.written(&prompt).with_tools(tools.as_ref()).serialize(serializer)
    }
}

/// Returns the problem with a sample one of whose turns has more fields than the schema.
fn without_place(sample: &Sample) -> Option<String> {
    let messages = match &sample.prompt {
        Prompt::Messages(messages) => messages.as_slice(),
        Prompt::Text(_) => &[],
    };
    let turns = messages.iter().map(|message| ("turn", &message.extras));
    let responses = sample.response_extras.iter().map(|extras| ("response", extras));
    let mut fields = turns.enumerate().chain(responses.enumerate());
    let (i, part, field) = fields.find_map(|(i, (part, extras))| Some((i, part, extras.keys().next()?)))?;
    Some(format!(
        "record {}: {part} {i} has `{field}`, for which a table of samples has no column; convert the records one by one, \
         or remove the field",
        sample.record_index
    ))
}

fn sample_schema() -> Schema {
    let list = |item: DataType, nullable: bool| DataType::List(Arc::new(Field::new("item", item, nullable)));
    let field = |name: &str, data_type: DataType| Field::new(name, data_type, false);
    let message = Fields::from(vec![field("role", DataType::Utf8), field("content", DataType::Utf8)]);
    let numbers = || list(list(DataType::Float64, true), false);
    Schema::new(vec![
        field("prompt", list(DataType::Struct(message), false)),
        field("responses", list(DataType::Utf8, false)),
        field("dimensions", list(DataType::Utf8, false)),
        field("ratings", numbers()),
        field("pi_target", numbers()),
        field("record", DataType::UInt64),
        Field::new("tools", DataType::Utf8, true),
    ])
}
