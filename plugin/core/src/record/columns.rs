//! Rows of tables as JSON text: Parquet files and Arrow record batches, of which only the columns of a record are read.

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::temporal_conversions::as_datetime;
use arrow_array::types::{
    ArrowTimestampType, Float16Type, Float32Type, Float64Type, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, PrimitiveArray, RecordBatch, StringArrayType, StructArray};
use arrow_json::writer::{LineDelimited, NullableEncoder, WriterBuilder};
use arrow_json::{Encoder, EncoderFactory, EncoderOptions};
use arrow_schema::extension::EXTENSION_TYPE_NAME_KEY;
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Schema, TimeUnit};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::fields::is_known;
use super::place::Place;
use super::{json, parquet_lengths};
use crate::error::contained;
use crate::{Error, Result};

const BATCH_ROWS: usize = 256;

/// The columns of a table that can matter to a record, and the names of the others.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    read: Vec<usize>,
    /// Names of the columns that are not read.
    pub(crate) unread: Arc<[String]>,
}

impl Columns {
    /// Divides the columns of a schema. If none is known, all are read, and the first record says what is missing.
    pub(crate) fn of(schema: &Schema) -> Self {
        let (read, unread): (Vec<_>, Vec<_>) =
            schema.fields().iter().enumerate().partition(|(_, field)| is_known(field.name()));
        if read.is_empty() {
            return Self { read: (0..schema.fields().len()).collect(), unread: Arc::default() };
        }
        let unread = unread.into_iter().map(|(_, field)| field.name().clone()).collect();
        Self { read: read.into_iter().map(|(index, _)| index).collect(), unread }
    }

    /// Returns a batch of only the columns that are read.
    pub(crate) fn project(&self, batch: &RecordBatch) -> std::result::Result<RecordBatch, String> {
        batch.project(&self.read).map_err(|error| error.to_string())
    }
}

/// The rows of a Parquet file, in batches that are converted to JSON.
#[derive(Debug)]
pub(super) struct Parquet {
    batches: ParquetRecordBatchReader,
    rows: VecDeque<String>,
    number: u64,
    unread: Arc<[String]>,
}

impl Parquet {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|source| Error::io(path, source))?;
        let unreadable = |problem: String| {
            Error::InvalidData(format!("{}: not a Parquet file that can be read: {problem}", path.display()))
        };
        parquet_lengths::check_footer(&file).map_err(|source| Error::io(path, source))?.map_err(unreadable)?;
        let own = file.try_clone().map_err(|source| Error::io(path, source))?;
        let opened = contained(|| ParquetRecordBatchReaderBuilder::try_new(own).map_err(|error| error.to_string()));
        let builder = opened.flatten().map_err(unreadable)?;
        let columns = Columns::of(builder.schema());
        let mask = ProjectionMask::roots(builder.parquet_schema(), columns.read.iter().copied());
        let is_read = |leaf| mask.leaf_included(leaf);
        let pages = parquet_lengths::check_pages(&file, builder.metadata(), is_read);
        pages.map_err(|source| Error::io(path, source))?.map_err(unreadable)?;
        let build =
            || builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().map_err(|error| error.to_string());
        let batches = contained(build).flatten().map_err(unreadable)?;
        Ok(Self { batches, rows: VecDeque::new(), number: 0, unread: columns.unread })
    }

    /// Returns the next row with its number, from 1.
    pub(super) fn next(&mut self, path: &Path) -> Result<Option<(u64, String)>> {
        while self.rows.is_empty() {
            let batches = &mut self.batches;
            // The crate checks what it reads, and panics at some of what it did not expect.
            let rows = contained(|| {
                let batch = batches.next()?;
                Some(batch.map_err(|error| error.to_string()).and_then(|batch| to_json(&batch)))
            });
            let Some(rows) = rows.transpose() else { return Ok(None) };
            self.rows = rows.flatten().map_err(|problem| {
                let place = Place::File { path: path.into(), unit: "record", number: self.number + 1 };
                place.error(format!("this batch of Parquet rows cannot be read: {problem}"))
            })?;
        }
        let Some(json) = self.rows.pop_front() else { return Ok(None) };
        self.number += 1;
        Ok(Some((self.number, json)))
    }

    /// Returns the names of the columns that are not read.
    pub(super) fn unread(&self) -> Arc<[String]> {
        Arc::clone(&self.unread)
    }
}

/// Converts each row to one line of JSON. Nulls are written, to distinguish a null rating from an absent one, and numbers
/// that JSON does not have as Python writes them.
pub(crate) fn to_json(batch: &RecordBatch) -> std::result::Result<VecDeque<String>, String> {
    let batch = with_source_alone(batch).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let builder = WriterBuilder::new().with_explicit_nulls(true).with_encoder_factory(Arc::new(Encoders));
    let mut writer = builder.build::<_, LineDelimited>(&mut bytes);
    writer.write(&batch).and_then(|()| writer.finish()).map_err(|error| error.to_string())?;
    drop(writer);
    let text = String::from_utf8(bytes).map_err(|error| error.to_string())?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Reduces a `metadata` of several fields to its `source`, the only one that is read.
fn with_source_alone(batch: &RecordBatch) -> std::result::Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let Some((index, field)) = schema.column_with_name("metadata") else { return Ok(batch.clone()) };
    let Some(metadata) = batch.column(index).as_struct_opt() else { return Ok(batch.clone()) };
    let Some((child, source)) = metadata.fields().find("source") else {
        let others: Vec<usize> = (0..batch.num_columns()).filter(|&column| column != index).collect();
        return if others.is_empty() { Ok(batch.clone()) } else { batch.project(&others) };
    };
    let fields = vec![Arc::clone(source)].into();
    let reduced = StructArray::try_new(fields, vec![Arc::clone(metadata.column(child))], metadata.nulls().cloned())?;
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    let mut fields: Vec<FieldRef> = schema.fields().to_vec();
    fields[index] = Arc::new(Field::new("metadata", reduced.data_type().clone(), field.is_nullable()));
    columns[index] = Arc::new(reduced);
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

/// Encoders for what Arrow's writer loses or refuses: NaN and infinities, times with a zone by name, and JSON in texts.
#[derive(Debug)]
struct Encoders;

impl EncoderFactory for Encoders {
    fn make_default_encoder<'a>(
        &self,
        field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> std::result::Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Option<Box<dyn Encoder + 'a>> = match array.data_type() {
            DataType::Utf8 if holds_json(field) => Some(Box::new(Json(array.as_string::<i32>()))),
            DataType::LargeUtf8 if holds_json(field) => Some(Box::new(Json(array.as_string::<i64>()))),
            DataType::Utf8View if holds_json(field) => Some(Box::new(Json(array.as_string_view()))),
            DataType::Float16 => float::<Float16Type>(array),
            DataType::Float32 => float::<Float32Type>(array),
            DataType::Float64 => float::<Float64Type>(array),
            DataType::Timestamp(unit, Some(_)) => Some(match unit {
                TimeUnit::Second => Box::new(Time(array.as_primitive::<TimestampSecondType>())),
                TimeUnit::Millisecond => Box::new(Time(array.as_primitive::<TimestampMillisecondType>())),
                TimeUnit::Microsecond => Box::new(Time(array.as_primitive::<TimestampMicrosecondType>())),
                TimeUnit::Nanosecond => Box::new(Time(array.as_primitive::<TimestampNanosecondType>())),
            }),
            _ => None,
        };
        Ok(encoder.map(|encoder| NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

/// Returns whether the texts of a field are JSON by its extension type, which `datasets` gives to objects whose keys or types
/// differ from row to row.
pub(crate) fn holds_json(field: &Field) -> bool {
    field.metadata().get(EXTENSION_TYPE_NAME_KEY).is_some_and(|name| name == "arrow.json")
}

/// Texts that are JSON, as what they say. One that is no JSON stays a text, at which the record's reader complains.
struct Json<T>(T);

impl<'a, T: StringArrayType<'a>> Encoder for Json<T> {
    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        let text = self.0.value(index);
        if json::parse(text).is_ok() {
            // A row is a line; line ends within JSON are white space.
            out.extend(text.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
        } else {
            out.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
        }
    }
}

/// Returns an encoder if a number of the array is NaN or infinite; Arrow's own encodes all others.
fn float<'a, T: ArrowPrimitiveType>(array: &'a dyn Array) -> Option<Box<dyn Encoder + 'a>>
where
    T::Native: Into<f64>,
{
    let array = array.as_primitive::<T>();
    let is_finite = |value: T::Native| Into::<f64>::into(value).is_finite();
    let all_finite = array.iter().flatten().all(is_finite);
    (!all_finite).then(|| Box::new(Floats(array)) as Box<dyn Encoder + 'a>)
}

struct Floats<'a, T: ArrowPrimitiveType>(&'a PrimitiveArray<T>);

impl<T: ArrowPrimitiveType> Encoder for Floats<'_, T>
where
    T::Native: Into<f64>,
{
    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        let value: f64 = self.0.value(index).into();
        let text = match value {
            _ if value.is_nan() => "NaN".to_owned(),
            f64::INFINITY => "Infinity".to_owned(),
            f64::NEG_INFINITY => "-Infinity".to_owned(),
            // Rust prints the shortest digits of the array's own precision.
            _ => format!("{:?}", self.0.value(index)),
        };
        out.extend_from_slice(text.as_bytes());
    }
}

/// Times with a zone, as UTC: what the zone is called changes nothing.
struct Time<'a, T: ArrowTimestampType>(&'a PrimitiveArray<T>);

impl<T: ArrowTimestampType> Encoder for Time<'_, T> {
    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        match as_datetime::<T>(self.0.value(index)) {
            Some(time) => out.extend_from_slice(format!("\"{time:?}Z\"").as_bytes()),
            None => out.extend_from_slice(b"null"),
        }
    }
}
