//! Arrow's C stream interface: streams of records as input, streams of samples as output.

use std::ffi::{CStr, c_char, c_int};
use std::io::Cursor;
use std::ptr::{null, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_array::ffi_stream::{ArrowArrayStreamReader, FFI_ArrowArrayStream};
use arrow_array::{RecordBatch, RecordBatchIterator, RecordBatchReader};
use arrow_json::ReaderBuilder;
use arrow_json::reader::infer_json_schema;
use arrow_schema::{ArrowError, SchemaRef};
use lambda_dpo_abi as abi;
use lambda_dpo_core as core;
use lambda_dpo_tests::table::{self, Failure, Handle, api, checked};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::data_path;
use crate::misuse::Given;
use crate::records::{textual, usable};

/// Records as record batches of `rows` rows, with an inferred schema.
pub fn batches(records: &[Value], rows: usize) -> Vec<RecordBatch> {
    let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
    let (schema, _) = infer_json_schema(Cursor::new(&lines), None).unwrap();
    let reader = ReaderBuilder::new(Arc::new(schema)).with_batch_size(rows).build(Cursor::new(lines)).unwrap();
    reader.map(Result::unwrap).collect()
}

/// A stream that counts requested batches and its own release.
struct Counted {
    batches: std::vec::IntoIter<Result<RecordBatch, ArrowError>>,
    schema: SchemaRef,
    asked: Arc<AtomicUsize>,
    released: Arc<AtomicUsize>,
}

impl Iterator for Counted {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.batches.next()
    }
}

impl RecordBatchReader for Counted {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.released.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Clone, Default)]
struct Counts {
    asked: Arc<AtomicUsize>,
    released: Arc<AtomicUsize>,
}

impl Counts {
    fn stream(&self, batches: Vec<Result<RecordBatch, ArrowError>>) -> FFI_ArrowArrayStream {
        let schema = batches.iter().flatten().next().unwrap().schema();
        let (asked, released) = (Arc::clone(&self.asked), Arc::clone(&self.released));
        FFI_ArrowArrayStream::new(Box::new(Counted { batches: batches.into_iter(), schema, asked, released }))
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn released(&self) -> usize {
        self.released.load(Ordering::SeqCst)
    }
}

/// `reader_open_arrow`.
pub fn open(stream: &mut FFI_ArrowArrayStream, options: &abi::ConvertOptions) -> Result<Handle<abi::Reader>, Failure> {
    let mut raw = null_mut();
    // SAFETY: arrow's struct is that of the C interface; the reader is freed once.
    unsafe {
        checked(|e| (api().reader_open_arrow)((&raw mut *stream).cast(), options, &mut raw, e))?;
        Ok(Handle::new(raw, api().reader_free))
    }
}

/// `reader_to_arrow`, read by the arrow crate.
pub fn to_arrow(reader: &Handle<abi::Reader>) -> ArrowArrayStreamReader {
    let mut stream = FFI_ArrowArrayStream::empty();
    // SAFETY: as above; the stream is ours on success.
    unsafe {
        checked(|e| (api().reader_to_arrow)(reader.raw(), (&raw mut stream).cast(), e)).unwrap();
        ArrowArrayStreamReader::from_raw(&mut stream).unwrap()
    }
}

/// The rows of batches as JSON.
fn rows(batches: &[RecordBatch]) -> Vec<Value> {
    let mut writer = arrow_json::writer::WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, arrow_json::writer::LineDelimited>(Vec::new());
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.finish().unwrap();
    let text = String::from_utf8(writer.into_inner()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn options() -> abi::ConvertOptions {
    table::convert_options(abi::FORMAT_ULTRAFEEDBACK)
}

/// The sample that `convert_record` returns, with its prompt as a list of turns and its tools as text.
fn sample(record: &Value, index: usize, options: &abi::ConvertOptions) -> Option<Value> {
    let sample = table::convert_record(&record.to_string(), index as u64, options).unwrap()?;
    let mut sample: Value = serde_json::from_str(&sample).unwrap();
    if sample["prompt"].is_string() {
        sample["prompt"] = json!([{ "role": "user", "content": sample["prompt"] }]);
    }
    sample["tools"] = sample.get("tools").map_or(Value::Null, |tools| json!(tools.to_string()));
    Some(sample)
}

/// A record with 4 responses rated in 2 dimensions, one rating missing.
fn record(i: usize) -> Value {
    let completion = |j: usize| {
        let honesty = if j == 2 { json!("N/A") } else { json!((i + j).to_string()) };
        json!({ "response": format!("r{j}"), "annotations": {
            "honesty": { "Rating": honesty, "Rationale": "…" }, "helpfulness": { "Rating": j.to_string(), "Rationale": "…" } } })
    };
    json!({ "source": "s", "instruction": format!("prompt {i}"), "completions": (0..4).map(completion).collect::<Vec<_>>() })
}

#[test]
fn samples_equal_those_of_single_records() {
    let records: Vec<Value> = (0..600).map(record).collect();
    let counts = Counts::default();
    let mut stream = counts.stream(batches(&records, 100).into_iter().map(Ok).collect());
    let reader = open(&mut stream, &options()).unwrap();
    assert!(stream.release.is_none(), "the plugin has not taken ownership of the stream");
    let mut samples = to_arrow(&reader);
    let names: Vec<String> = samples.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["prompt", "responses", "dimensions", "ratings", "pi_target", "record", "tools"]);

    let first = samples.next().unwrap().unwrap();
    assert_eq!(first.num_rows(), 256);
    assert_eq!(counts.asked(), 3, "batches were requested before they were needed");
    // The stream takes samples from the reader and outlives its handle.
    drop(reader);
    let mut all = vec![first];
    all.extend(samples.by_ref().map(Result::unwrap));
    let expected: Vec<Value> = records.iter().enumerate().map(|(i, r)| sample(r, i, &options()).unwrap()).collect();
    assert_eq!(rows(&all), expected);
    assert_eq!(counts.released(), 0);
    drop(samples);
    assert_eq!(counts.released(), 1);
}

#[test]
fn annotations_may_be_a_list_that_names_its_dimensions() {
    let records: Vec<Value> = (0..3)
        .map(|i| {
            let completion = |j: usize| {
                json!({ "response": format!("r{j}"), "annotations": [
                    { "Type": "honesty", "Rating": (i + j).to_string() }, { "Type": "helpfulness", "Rating": null }] })
            };
            json!({ "prompt": [{ "role": "user", "content": "hi" }], "completions": [completion(0), completion(1)] })
        })
        .collect();
    let counts = Counts::default();
    let (status, message) =
        open(&mut counts.stream(batches(&records, 2).into_iter().map(Ok).collect()), &options()).unwrap_err();
    assert_eq!(status, abi::STATUS_INVALID_ARGUMENT);
    assert!(
        message.starts_with("`dimensions` must be named: in this stream `completions[].annotations` is of type List")
    );
    assert_eq!(counts.released(), 1, "the stream is not released although the call failed");

    let names = [table::text("honesty"), table::text("helpfulness")];
    let options = abi::ConvertOptions { dimensions: names.as_ptr(), num_dimensions: 2, ..options() };
    let reader = open(&mut counts.stream(batches(&records, 2).into_iter().map(Ok).collect()), &options).unwrap();
    let found: Vec<RecordBatch> = to_arrow(&reader).map(Result::unwrap).collect();
    let expected: Vec<Value> = records.iter().enumerate().map(|(i, r)| sample(r, i, &options).unwrap()).collect();
    assert_eq!(rows(&found), expected);
    drop(reader);
    assert_eq!(counts.released(), 2);
}

/// Rankings as `datasets` and pyarrow write them: a struct of lists, with a null list for a dimension that a row lacks.
#[test]
fn rankings_may_be_a_struct_of_lists() {
    let record = |i: usize| {
        let second = if i.is_multiple_of(2) { json!(null) } else { json!([2, null, 1]) };
        json!({ "prompt": format!("prompt {i}"), "responses": ["one", "two", "plum"],
                "rankings": { "honesty": [1, 1 + i % 2, 2], "helpfulness": second } })
    };
    let mut records: Vec<Value> = (0..300).map(record).collect();
    let options = table::convert_options(abi::FORMAT_RANKINGS);
    let stream = |records: &[Value]| Counts::default().stream(batches(records, 64).into_iter().map(Ok).collect());
    let found: Vec<RecordBatch> =
        to_arrow(&open(&mut stream(&records), &options).unwrap()).map(Result::unwrap).collect();
    let expected: Vec<Value> = records.iter().enumerate().map(|(i, r)| sample(r, i, &options).unwrap()).collect();
    assert_eq!(rows(&found), expected);
    assert_eq!(expected[1]["dimensions"], json!(["helpfulness", "honesty"]));

    records[270]["rankings"]["honesty"] = json!([1, 3, 3]);
    let reader = open(&mut stream(&records), &options).unwrap();
    let message = to_arrow(&reader).find_map(Result::err).unwrap().to_string();
    assert!(message.contains("record 270 of the stream: `rankings.honesty` has rank 3 but no rank 2: "), "{message}");
}

#[test]
fn an_error_inside_the_stream_names_the_row() {
    let mut records: Vec<Value> = (0..300).map(record).collect();
    records[270]["completions"][1]["response"] = Value::Null;
    let mut stream = Counts::default().stream(batches(&records, 64).into_iter().map(Ok).collect());
    let reader = open(&mut stream, &options()).unwrap();
    let mut samples = to_arrow(&reader);
    assert_eq!(samples.next().unwrap().unwrap().num_rows(), 256);
    assert_eq!(samples.next().unwrap().unwrap().num_rows(), 14, "samples before the error are missing");
    let message = samples.next().unwrap().unwrap_err().to_string();
    assert!(
        message.ends_with("record 270 of the stream: `completions[1].response` is null: expected text"),
        "{message}"
    );
    assert!(samples.next().is_none(), "a batch follows the error");
}

#[test]
fn a_failing_producer_is_quoted() {
    let good = batches(&(0..3).map(record).collect::<Vec<_>>(), 8).remove(0);
    let failing = vec![Ok(good), Err(ArrowError::ComputeError("the disk is on fire".to_owned()))];
    let reader = open(&mut Counts::default().stream(failing), &options()).unwrap();
    let next = || {
        let mut bytes = table::no_bytes();
        // SAFETY: all pointers are valid.
        checked(|e| unsafe { (api().reader_next)(reader.raw(), &mut bytes, e) }).map(|()| table::take_text(bytes))
    };
    for _ in 0..3 {
        assert!(next().unwrap().is_some());
    }
    let (status, message) = next().unwrap_err();
    assert_eq!(status, abi::STATUS_INVALID_DATA);
    assert!(message.starts_with("the stream cannot be read from record 3 on: "), "{message}");
    assert!(message.contains("the disk is on fire"), "{message}");
    assert_eq!(next().unwrap(), None);
}

/// Producers that break the interface's rules, or fail without a message.
mod broken {
    use super::*;

    pub static RELEASED: AtomicUsize = AtomicUsize::new(0);

    unsafe extern "C" fn fail(_: *mut abi::ArrowArrayStream, _: *mut abi::ArrowSchema) -> c_int {
        5
    }

    unsafe extern "C" fn nothing(_: *mut abi::ArrowArrayStream, _: *mut abi::ArrowSchema) -> c_int {
        0
    }

    unsafe extern "C" fn no_text(_: *mut abi::ArrowArrayStream) -> *const c_char {
        null()
    }

    unsafe extern "C" fn release(stream: *mut abi::ArrowArrayStream) {
        RELEASED.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the stream being released.
        unsafe { (*stream).release = None };
    }

    type GetSchema = unsafe extern "C" fn(*mut abi::ArrowArrayStream, *mut abi::ArrowSchema) -> c_int;

    pub fn streams() -> [(abi::ArrowArrayStream, &'static str); 4] {
        let stream = |get_schema: Option<GetSchema>, has_text: bool| abi::ArrowArrayStream {
            get_schema,
            get_next: None,
            get_last_error: has_text.then_some(no_text),
            release: Some(release),
            private_data: null_mut(),
        };
        [
            (stream(None, true), "`get_schema` is NULL"),
            (stream(Some(fail), true), "its producer failed with error code 5"),
            (stream(Some(fail), false), "its producer failed with error code 5"),
            (stream(Some(nothing), true), "it violates Arrow's C data interface"),
        ]
    }
}

#[test]
fn a_stream_that_breaks_the_interface_is_an_error() {
    for (i, (mut stream, problem)) in broken::streams().into_iter().enumerate() {
        let mut reader = null_mut();
        // SAFETY: all pointers are valid, and the stream's callbacks are sound.
        let result = checked(|e| unsafe { (api().reader_open_arrow)(&mut stream, &options(), &mut reader, e) });
        let (status, message) = result.unwrap_err();
        assert_eq!(status, abi::STATUS_INVALID_DATA);
        assert!(message.starts_with(&format!("the schema of `stream` cannot be read: {problem}")), "{message}");
        assert_eq!(broken::RELEASED.load(Ordering::SeqCst), i + 1);
        assert!(stream.release.is_none() && reader.is_null());
    }
}

#[test]
fn null_and_released_streams_are_refused_by_name() {
    let (mut reader, mut released) = (null_mut(), FFI_ArrowArrayStream::empty());
    let counts = Counts::default();
    let mut stream = counts.stream(vec![Ok(batches(&[record(0)], 8).remove(0))]);
    let stream_raw = (&raw mut stream).cast::<abi::ArrowArrayStream>();
    let open = api().reader_open_arrow;
    let refused = |call: Result<(), Failure>, message: &str| {
        assert_eq!(call.unwrap_err(), (abi::STATUS_INVALID_ARGUMENT, message.to_owned()));
    };
    // SAFETY: every pointer is NULL or valid.
    unsafe {
        refused(checked(|e| open(null_mut(), &options(), &mut reader, e)), "argument `stream` is NULL");
        let released = (&raw mut released).cast();
        refused(checked(|e| open(released, &options(), &mut reader, e)), "argument `stream` is released already");
        refused(checked(|e| (api().reader_to_arrow)(null_mut(), released, e)), "argument `reader` is NULL");
        refused(checked(|e| open(stream_raw, null(), &mut reader, e)), "argument `options` is NULL");
        assert_eq!(counts.released(), 1);

        let mut again = counts.stream(vec![Ok(batches(&[record(0)], 8).remove(0))]);
        let again = (&raw mut again).cast();
        refused(checked(|e| open(again, &options(), null_mut(), e)), "argument `reader` is NULL");
        assert_eq!(counts.released(), 2);
        let mut last = counts.stream(vec![Ok(batches(&[record(0)], 8).remove(0))]);
        let last = (&raw mut last).cast();
        checked(|e| open(last, &options(), &mut reader, e)).unwrap();
        refused(checked(|e| (api().reader_to_arrow)(reader, null_mut(), e)), "argument `stream` is NULL");
        (api().reader_free)(reader);
        assert_eq!(counts.released(), 3);
    }
}

#[test]
fn a_dataset_of_a_stream_refuses_nulls_and_releases_it() {
    let (given, counts, mut dataset) = (Given::new(), Counts::default(), null_mut());
    let (options, tokenizer) = (given.dataset_options(), given.tokenizer.raw());
    let refused = |tokenizer, options, dataset, message: &str| {
        let mut stream = counts.stream(vec![Ok(batches(&[record(0)], 8).remove(0))]);
        // SAFETY: every pointer is NULL or valid.
        let call = checked(|e| unsafe {
            (api().dataset_open_arrow)((&raw mut stream).cast(), tokenizer, options, dataset, e)
        });
        assert_eq!(call.unwrap_err(), (abi::STATUS_INVALID_ARGUMENT, message.to_owned()));
        assert!(stream.release.is_none());
    };
    refused(null(), &options, &mut dataset, "argument `tokenizer` is NULL");
    refused(tokenizer, null(), &mut dataset, "argument `options` is NULL");
    refused(tokenizer, &options, null_mut(), "argument `dataset` is NULL");
    assert_eq!(counts.released(), 3);
    // SAFETY: as above.
    let call = checked(|e| unsafe { (api().dataset_open_arrow)(null_mut(), tokenizer, &options, &mut dataset, e) });
    assert_eq!(call.unwrap_err(), (abi::STATUS_INVALID_ARGUMENT, "argument `stream` is NULL".to_owned()));
    assert!(dataset.is_null());
}

/// A released stream from the plugin can still be called, and may be released twice.
#[test]
fn a_released_stream_of_samples_can_be_called() {
    let reader = open(&mut Counts::default().stream(vec![Ok(batches(&[record(0)], 8).remove(0))]), &options()).unwrap();
    // SAFETY: a zeroed struct is a released stream.
    let mut stream: abi::ArrowArrayStream = unsafe { std::mem::zeroed() };
    // SAFETY: all pointers are valid; calls after the release are what is tested.
    unsafe {
        checked(|e| (api().reader_to_arrow)(reader.raw(), &mut stream, e)).unwrap();
        let (get_next, get_last_error) = (stream.get_next.unwrap(), stream.get_last_error.unwrap());
        let release = stream.release.unwrap();
        assert_eq!(get_next(&mut stream, null_mut()), 22);
        assert_eq!(CStr::from_ptr(get_last_error(&mut stream)).to_str().unwrap(), "argument `out` is NULL");
        release(&mut stream);
        assert!(stream.release.is_none());
        assert_eq!(get_next(&mut stream, null_mut()), 22);
        assert!(get_last_error(&mut stream).is_null());
        release(&mut stream);
    }
}

/// The functions that the property test below compares with the core.
pub const COVERED: [(&str, fn()); 2] =
    [("reader_open_arrow", streams_of_samples), ("reader_to_arrow", streams_of_samples)];

/// `reader_report`.
fn report(reader: &Handle<abi::Reader>) -> String {
    let mut bytes = table::no_bytes();
    // SAFETY: all pointers are valid.
    checked(|e| unsafe { (api().reader_report)(reader.raw(), &mut bytes, e) }).unwrap();
    table::take_text(bytes).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The core directly and the table give the same batches, up to the same error.
    #[test]
    fn streams_of_samples(
        first in usable(),
        others in prop::collection::vec(textual(), 0..20),
        rows_at_once in 1_usize..9,
        options in data_path::options(),
    ) {
        let records: Vec<Value> = std::iter::once(first).chain(others).collect();
        let batches = batches(&records, rows_at_once);
        let native = {
            let stream = RecordBatchIterator::new(batches.clone().into_iter().map(Ok), batches[0].schema());
            data_path::native(core::SampleReader::from_stream(Box::new(stream), options.native()))
        };
        let exported = options.lend(|options| open(&mut Counts::default().stream(batches.into_iter().map(Ok).collect()), options));
        match (native, exported) {
            (Ok(mut native), Ok(exported)) => {
                let mut found = to_arrow(&exported);
                for expected in core::SampleBatches::new(native.by_ref()) {
                    match (expected, found.next().unwrap()) {
                        (Ok(expected), Ok(found)) => prop_assert_eq!(found, expected),
                        (expected, found) => {
                            let (expected, found) = (expected.unwrap_err().to_string(), found.unwrap_err().to_string());
                            prop_assert!(found.ends_with(&expected), "{} for {}", found, expected);
                        }
                    }
                }
                prop_assert!(found.next().is_none());
                prop_assert_eq!(report(&exported), serde_json::to_string(native.report()).unwrap());
            }
            (native, exported) => {
                let native = native.map(|_| "a reader").unwrap_err();
                prop_assert_eq!(exported.map(|_| "a reader").unwrap_err(), native);
            }
        }
    }

    #[test]
    fn streams_of_any_batch_size_give_the_same(
        records in prop::collection::vec(usable(), 1..20),
        rows_at_once in 1_usize..9,
        max_samples in 0_u64..12,
    ) {
        let options = abi::ConvertOptions { max_samples, ..options() };
        let stream = batches(&records, rows_at_once).into_iter().map(Ok).collect();
        let reader = open(&mut Counts::default().stream(stream), &options).unwrap();
        let found: Vec<RecordBatch> = to_arrow(&reader).map(Result::unwrap).collect();
        let most = if max_samples == 0 { records.len() } else { max_samples as usize };
        let expected: Vec<Value> =
            records.iter().take(most).enumerate().filter_map(|(i, r)| sample(r, i, &options)).collect();
        prop_assert_eq!(rows(&found), expected);
    }

    /// A reader of files can return its samples as a stream as well.
    #[test]
    fn files_to_streams(records in prop::collection::vec(usable(), 1..6)) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), records.iter().map(|record| format!("{record}\n")).collect::<String>()).unwrap();
        let (path, mut raw) = (table::text(file.path().to_str().unwrap()), null_mut());
        // SAFETY: all pointers are valid; the reader is freed once.
        let reader = unsafe {
            checked(|e| (api().reader_open)(&path, 1, &options(), &mut raw, e)).unwrap();
            Handle::new(raw, api().reader_free)
        };
        let found: Vec<RecordBatch> = to_arrow(&reader).map(Result::unwrap).collect();
        let expected: Vec<Value> = records.iter().enumerate().filter_map(|(i, r)| sample(r, i, &options())).collect();
        prop_assert_eq!(rows(&found), expected);
    }
}
