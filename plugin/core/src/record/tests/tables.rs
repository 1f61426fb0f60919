//! Parquet and Arrow: only the columns of a record are read, whatever the types of the others.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, DurationSecondArray, FixedSizeListArray, Float32Array, Float64Array, Int64Array, IntervalDayTimeArray,
    RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field};
use parquet::arrow::ArrowWriter;

use super::records;
use crate::Format;
use crate::record::reader::RowReader;
use crate::record::{Body, Prompt, Rating, Record, rows_to_json};

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn read(columns: Vec<(&str, ArrayRef)>, format: Format) -> Vec<Result<Record, String>> {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("x.parquet");
    write(&path, columns);
    let prefix = format!("{}/", folder.path().display());
    records(&[path], format).map(|record| record.map_err(|error| error.to_string().replace(&prefix, ""))).collect()
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn times() -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(vec![Some(1_700_000_000_000_000), None]).with_timezone("Europe/Paris"))
}

/// Lists of one item each.
fn list(item: ArrayRef) -> ArrayRef {
    let field = Arc::new(Field::new("item", item.data_type().clone(), true));
    Arc::new(FixedSizeListArray::new(field, 1, item, None))
}

fn structure(fields: Vec<(&str, ArrayRef)>) -> ArrayRef {
    let fields: Vec<_> = fields
        .into_iter()
        .map(|(name, array)| (Arc::new(Field::new(name, array.data_type().clone(), true)), array))
        .collect();
    Arc::new(StructArray::from(fields))
}

#[test]
fn a_column_that_is_not_needed_may_have_any_type() {
    let columns = vec![
        ("prompt", texts(&["p", "q"])),
        ("created", times()),
        ("chosen", texts(&["a", "b"])),
        ("length", Arc::new(DurationSecondArray::from(vec![1, 2])) as ArrayRef),
        ("metadata", structure(vec![("when", times()), ("source", texts(&["s", "t"]))])),
        ("rejected", texts(&["c", "d"])),
    ];
    let found: Vec<Record> = read(columns, Format::Pairs).into_iter().map(Result::unwrap).collect();
    assert_eq!(found[1].prompt, Prompt::Text("q".into()));
    assert_eq!(found[1].body, Body::Pair { chosen: "b".into(), rejected: "d".into() });
    assert_eq!(found[1].source.as_deref(), Some("t"));
    assert_eq!(found[0].ignored.iter().collect::<Vec<_>>(), ["created", "length"]);
}

#[test]
fn a_field_of_a_turn_may_be_a_time_with_a_zone() {
    let turns = structure(vec![("role", texts(&["user", "user"])), ("content", texts(&["x", "y"])), ("at", times())]);
    let found: Vec<Record> =
        read(vec![("messages", list(turns))], Format::Chat).into_iter().map(Result::unwrap).collect();
    let Prompt::Messages(messages) = &found[0].prompt else { panic!() };
    assert_eq!(messages[0].extras["at"], "2023-11-14T22:13:20Z");
    let Prompt::Messages(messages) = &found[1].prompt else { panic!() };
    assert!(messages[0].extras.is_empty(), "nulls fill the fields that a turn does not have");
}

#[test]
fn nulls_that_fill_a_table_are_no_fields() {
    let arguments =
        structure(vec![("city", texts(&["Paris", "x"])), ("days", Arc::new(Int64Array::from(vec![None, Some(1)])))]);
    let calls = list(structure(vec![("name", texts(&["a", "b"])), ("arguments", arguments)]));
    let turns = structure(vec![
        ("role", texts(&["assistant", "assistant"])),
        ("content", texts(&["", ""])),
        ("tool_calls", calls),
    ]);
    let found: Vec<Record> =
        read(vec![("messages", list(turns))], Format::Chat).into_iter().map(Result::unwrap).collect();
    let Prompt::Messages(messages) = &found[0].prompt else { panic!() };
    assert_eq!(messages[0].extras["tool_calls"].to_string(), r#"[{"name":"a","arguments":{"city":"Paris"}}]"#);
}

fn rated(ratings: ArrayRef) -> Vec<(&'static str, ArrayRef)> {
    let annotations = structure(vec![("h", structure(vec![("Rating", ratings)]))]);
    let completions = structure(vec![("response", texts(&["a", "b"])), ("annotations", annotations)]);
    vec![("instruction", texts(&["x", "y"])), ("completions", list(completions))]
}

#[test]
fn numbers_of_every_width_are_ratings_and_nan_is_a_missing_one() {
    let single: ArrayRef = Arc::new(Float32Array::from(vec![3.3, f32::NAN]));
    let double: ArrayRef = Arc::new(Float64Array::from(vec![3.3, f64::NAN]));
    for ratings in [single, double] {
        let found: Vec<Rating> = read(rated(ratings), Format::UltraFeedback)
            .into_iter()
            .map(|record| match record.unwrap().body {
                Body::Rated(completions) => completions[0].ratings["h"].clone(),
                body => panic!("{body:?}"),
            })
            .collect();
        assert_eq!(found, [Rating::Value(3.3), Rating::Missing("nan")]);
    }
    let infinite: ArrayRef = Arc::new(Float64Array::from(vec![1.0, f64::INFINITY]));
    let error = read(rated(infinite), Format::UltraFeedback).pop().unwrap().unwrap_err();
    assert!(error.starts_with("x.parquet, record 2: `completions[0].annotations.h.Rating` is Infinity"), "{error}");
}

/// `datasets` stores objects whose keys differ from row to row as texts, with a mark at the field.
#[test]
fn objects_that_are_stored_as_json_are_read_as_objects() {
    let json = |name: &str, values: &[&str]| {
        let mark = HashMap::from([("ARROW:extension:name".to_owned(), "arrow.json".to_owned())]);
        (Arc::new(Field::new(name, DataType::Utf8, true).with_metadata(mark)), texts(values))
    };
    let rated = |annotations: &[&str]| {
        let response = (Arc::new(Field::new("response", DataType::Utf8, true)), texts(&["a", "b"]));
        let completions: ArrayRef = Arc::new(StructArray::from(vec![response, json("annotations", annotations)]));
        read(vec![("instruction", texts(&["x", "y"])), ("completions", list(completions))], Format::UltraFeedback)
    };
    let body = |record: Result<Record, String>| match record.unwrap().body {
        Body::Rated(completions) => completions[0].ratings.clone(),
        body => panic!("{body:?}"),
    };
    let found: Vec<_> =
        rated(&["{\"h\": {\"Rating\": 3.5},\n \"t\": {\"Rating\": NaN}}", "{}"]).into_iter().map(body).collect();
    assert_eq!((&found[0]["h"], &found[0]["t"]), (&Rating::Value(3.5), &Rating::Missing("nan")));
    assert_eq!((found[0].len(), found[1].len()), (2, 0));
    // What is no JSON cannot change the object around it.
    let error = rated(&["{}", "{}}, {\"response\": \"c\""]).pop().unwrap().unwrap_err();
    let expected = "x.parquet, record 2: `completions[0].annotations` is text: expected an object by dimension";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn a_table_without_a_known_column_is_no_empty_result() {
    let error = read(vec![("text", texts(&["a", "b"]))], Format::Chat).pop().unwrap().unwrap_err();
    assert_eq!(error, "x.parquet, record 1: `messages` is missing: expected a list of {role, content} objects");
}

#[test]
fn a_batch_of_an_unknown_type_is_an_error_and_no_loss() {
    let interval: ArrayRef = Arc::new(IntervalDayTimeArray::from(vec![None, None]));
    assert!(matches!(interval.data_type(), DataType::Interval(_)));
    let batch = RecordBatch::try_from_iter([("prompt", interval)]).unwrap();
    let rows = rows_to_json(&batch);
    assert!(rows.is_err() || rows.unwrap().len() == 2);
    let mut lists = ListBuilder::new(StringBuilder::new());
    lists.values().append_value("a");
    lists.append(true);
    let batch = RecordBatch::try_from_iter([("tools", Arc::new(lists.finish()) as ArrayRef)]).unwrap();
    assert_eq!(rows_to_json(&batch).unwrap(), [r#"{"tools":["a"]}"#]);
}

/// What is read of a file that is damaged is an error or something else; nothing panics, and nothing asks for more memory than
/// there is, which would end the process.
#[test]
fn damaged_parquet_is_refused_or_read() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("x.parquet");
    let name = path.display().to_string();
    for file in ["few.parquet", "plain.parquet"] {
        let whole = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tables").join(file)).unwrap();
        let read = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let error = match RowReader::open(std::slice::from_ref(&path)) {
                Ok(rows) => rows.map(|row| row?.parse(Format::UltraFeedback)).find_map(Result::err),
                Err(error) => Some(error),
            };
            error.map(|error| error.to_string())
        };
        assert_eq!(read(&whole), None);
        // The longest lists that Thrift's compact protocol can tell of, and a number that is too long for it.
        let lies = [&[0xF8, 0xFF, 0xFF, 0xFF, 0xFF, 0x07][..], &[0xFC, 0xFF, 0xFF, 0xFF, 0x7F], &[0xFF; 11], &[0x00]];
        let mut num_refused = 0;
        for at in (0..whole.len()).step_by(3) {
            for lie in lies {
                let rest = whole.get(at + lie.len()..).unwrap_or_default();
                if let Some(error) = read(&[&whole[..at], lie, rest].concat()) {
                    num_refused += 1;
                    assert!(error.starts_with(&name) && !error.contains('\n'), "byte {at}, {lie:X?}: {error}");
                }
            }
        }
        assert!(num_refused > whole.len() / 10, "{num_refused}");
        for end in (0..whole.len()).step_by(7) {
            assert!(read(&whole[..end]).is_some(), "{end} bytes");
        }
    }
}
