//! Stages 1 and 2: single records, and streams from record files or Arrow streams.

use std::sync::{Arc, Mutex, MutexGuard};

use lambda_dpo_abi as abi;
use lambda_dpo_core::convert::convert_record as core_convert_record;
use lambda_dpo_core::{ConvertOptions, MissingRating, SampleReader};

use crate::arguments::{flag, paths, text, texts, unused};
use crate::arrow::{ImportedStream, give_stream};
use crate::concepts::concept;
use crate::failure::{Failure, Outcome};
use crate::growth;
use crate::guard::call;
use crate::handle::Handle;
use crate::tensors::{give_json, give_text};

/// Reads the options.
///
/// # Safety
/// `options` is NULL or valid, with the arrays it names.
pub unsafe fn convert_options(options: *const abi::ConvertOptions) -> Outcome<ConvertOptions> {
    // SAFETY: the caller's promise.
    unsafe {
        let options = growth::read(options, "options")?;
        let format = concept(options.format, "format")?;
        let dimensions = if options.dimensions.is_null() {
            None
        } else {
            Some(texts(options.dimensions, options.num_dimensions, "dimensions")?)
        };
        let missing_rating = if options.missing_rating.is_nan() {
            MissingRating::Mask
        } else {
            MissingRating::Value(options.missing_rating)
        };
        unused(options.reserved, "reserved")?;
        Ok(ConvertOptions {
            format,
            best_worst_pairs: flag(options.best_worst_pairs, "best_worst_pairs")?,
            dimensions,
            missing_rating,
            temperature: options.temperature,
            max_samples: (options.max_samples > 0).then_some(options.max_samples),
            exclude_sources: texts(options.exclude_sources, options.num_exclude_sources, "exclude_sources")?,
            keep_all: flag(options.keep_all, "keep_all")?,
        })
    }
}

/// See [`abi::Api::convert_record`].
pub unsafe extern "C" fn convert_record(
    record: abi::Str,
    record_index: u64,
    options: *const abi::ConvertOptions,
    sample: *mut abi::Bytes,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let options = convert_options(options)?;
        match core_convert_record(text(record, "record")?, record_index, &options)? {
            Some(converted) => give_json(&converted, sample, "sample"),
            None => give_text(None, sample, "sample"),
        }
    })
}

/// A reader shares its samples with the Arrow streams that are made from it.
type Shared = Arc<Mutex<SampleReader>>;
type Reader = Handle<Shared>;

/// See [`abi::Api::reader_open`].
pub unsafe extern "C" fn reader_open(
    files: *const abi::Str,
    num_files: usize,
    options: *const abi::ConvertOptions,
    reader: *mut *mut abi::Reader,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let opened = SampleReader::open(&paths(files, num_files, "paths")?, convert_options(options)?)?;
        Reader::give(Arc::new(Mutex::new(opened)), reader, "reader")
    })
}

/// See [`abi::Api::reader_open_arrow`].
pub unsafe extern "C" fn reader_open_arrow(
    stream: *mut abi::ArrowArrayStream,
    options: *const abi::ConvertOptions,
    reader: *mut *mut abi::Reader,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let stream = ImportedStream::take(stream)?;
        let opened = SampleReader::from_stream(Box::new(stream), convert_options(options)?)?;
        Reader::give(Arc::new(Mutex::new(opened)), reader, "reader")
    })
}

/// See [`abi::Api::reader_to_arrow`].
pub unsafe extern "C" fn reader_to_arrow(
    reader: *mut abi::Reader,
    stream: *mut abi::ArrowArrayStream,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let shared = Reader::with(reader, "reader", |reader| Ok(Arc::clone(reader)))?;
        let next = move || match shared.lock() {
            Ok(mut reader) => reader.next(),
            Err(_) => Some(Err(lambda_dpo_core::Error::InvalidData(POISONED.to_owned()))),
        };
        give_stream(Box::new(std::iter::from_fn(next)), stream)
    })
}

const POISONED: &str = "the reader was left in an unknown state by an earlier defect; free it and open a new one";

/// See [`abi::Api::reader_next`].
pub unsafe extern "C" fn reader_next(
    reader: *mut abi::Reader,
    sample: *mut abi::Bytes,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let next = Reader::with(reader, "reader", |reader| Ok(locked(reader)?.next().transpose()?))?;
        match next {
            Some(next) => give_json(&next, sample, "sample"),
            None => give_text(None, sample, "sample"),
        }
    })
}

/// See [`abi::Api::reader_report`].
pub unsafe extern "C" fn reader_report(
    reader: *const abi::Reader,
    report: *mut abi::Bytes,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        Reader::with(reader, "reader", |reader| give_json(&locked(reader)?.report(), report, "report"))
    })
}

fn locked(reader: &Shared) -> Outcome<MutexGuard<'_, SampleReader>> {
    reader.lock().map_err(|_| Failure::new(abi::STATUS_POISONED, POISONED))
}

/// See [`abi::Api::reader_free`].
pub unsafe extern "C" fn reader_free(reader: *mut abi::Reader) {
    Reader::free(reader);
}
