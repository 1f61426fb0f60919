//! Stages 1 to 4 behind one handle.

use std::ops::ControlFlow;

use lambda_dpo_abi as abi;
use lambda_dpo_core::dataset::{PREFETCH_CAPACITY, SampleInfo, TokenFolder};
use lambda_dpo_core::{CollateOptions, Dataset, DatasetOptions, Tokenizer};
use tch::Tensor;

use crate::arguments::{paths, slice, text};
use crate::arrow::ImportedStream;
use crate::collate::{collate_options, give_batch};
use crate::convert::convert_options;
use crate::failure::{Failure, Outcome};
use crate::growth;
use crate::guard::call;
use crate::handle::Handle;
use crate::tensors::{give_json, give_tensor};
use crate::tokenize::{TokenizerHandle, tokenize_options};

type DatasetHandle = Handle<Dataset>;

const _: () = assert!(PREFETCH_CAPACITY == abi::PREFETCH_CAPACITY);

/// Opens a dataset with `open`, the caller's options and its callback.
///
/// # Safety
/// As [`abi::Api::dataset_open`] demands of its caller.
unsafe fn give_dataset(
    tokenizer: *const abi::Tokenizer,
    options: *const abi::DatasetOptions,
    dataset: *mut *mut abi::Dataset,
    open: impl FnOnce(&Tokenizer, &DatasetOptions, &mut dyn FnMut(u64, u64) -> ControlFlow<()>) -> Outcome<Dataset>,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe {
        let options = growth::read(options, "options")?;
        let cache_dir = text(options.cache_dir, "cache_dir")?;
        let read = DatasetOptions {
            convert: convert_options(options.convert)?,
            tokenize: tokenize_options(options.tokenize)?,
            tokens: if cache_dir.is_empty() {
                TokenFolder::Scratch(std::env::temp_dir())
            } else {
                TokenFolder::Cache(cache_dir.into())
            },
        };
        let mut progress = |done, total| match options.progress {
            Some(progress) if progress(options.progress_user, done, total) != 0 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        let opened = TokenizerHandle::with(tokenizer, "tokenizer", |tokenizer| open(tokenizer, &read, &mut progress))?;
        DatasetHandle::give(opened, dataset, "dataset")
    }
}

/// See [`abi::Api::dataset_open`].
pub unsafe extern "C" fn dataset_open(
    files: *const abi::Str,
    num_files: usize,
    tokenizer: *const abi::Tokenizer,
    options: *const abi::DatasetOptions,
    dataset: *mut *mut abi::Dataset,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let files = paths(files, num_files, "paths")?;
        give_dataset(tokenizer, options, dataset, |tokenizer, options, progress| {
            Ok(Dataset::open(&files, tokenizer, options, progress)?)
        })
    })
}

/// See [`abi::Api::dataset_open_arrow`].
pub unsafe extern "C" fn dataset_open_arrow(
    stream: *mut abi::ArrowArrayStream,
    tokenizer: *const abi::Tokenizer,
    options: *const abi::DatasetOptions,
    dataset: *mut *mut abi::Dataset,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let stream = Box::new(ImportedStream::take(stream)?);
        give_dataset(tokenizer, options, dataset, |tokenizer, options, progress| {
            Ok(Dataset::open_stream(stream, tokenizer, options, progress)?)
        })
    })
}

/// See [`abi::Api::dataset_len`].
pub unsafe extern "C" fn dataset_len(dataset: *const abi::Dataset) -> u64 {
    let mut len = 0;
    call(std::ptr::null_mut(), || {
        len = DatasetHandle::with(dataset, "dataset", |dataset| Ok(dataset.len() as u64))?;
        Ok(())
    });
    len
}

/// See [`abi::Api::dataset_info`].
pub unsafe extern "C" fn dataset_info(
    dataset: *const abi::Dataset,
    info: *mut abi::Bytes,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        DatasetHandle::with(dataset, "dataset", |dataset| {
            let value = serde_json::json!({
                "dimensions": dataset.dimensions(),
                "report": dataset.report(),
                "hash": dataset.hash(),
                "longest_sequence": dataset.longest_sequence(),
                "cache": dataset.cache(),
            });
            give_json(&value, info, "info")
        })
    })
}

/// See [`abi::Api::dataset_samples`].
pub unsafe extern "C" fn dataset_samples(
    dataset: *const abi::Dataset,
    samples: *mut abi::Tensor,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let rows: Vec<i64> = DatasetHandle::with(dataset, "dataset", |dataset| {
            Ok(dataset.samples().flat_map(|info| row(&info)).collect())
        })?;
        give_tensor(&Tensor::f_from_slice(&rows)?.f_view([-1, SAMPLE_COLUMNS])?, samples, "samples")
    })
}

/// Columns of `dataset_samples`.
const SAMPLE_COLUMNS: i64 = 5;

fn row(info: &SampleInfo) -> [i64; SAMPLE_COLUMNS as usize] {
    let count = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    let [low, high] = halves(info.content_hash);
    let record_index = i64::try_from(info.record_index).unwrap_or(i64::MAX);
    [record_index, count(info.num_responses), count(info.num_tokens), low, high]
}

fn halves(hash: [u8; 16]) -> [i64; 2] {
    let hash = u128::from_le_bytes(hash);
    [hash as i64, (hash >> 64) as i64]
}

/// Reads the arguments that a batch and its prefetch share, and runs `body` on them.
///
/// # Safety
/// As [`abi::Api::dataset_batch`] demands of its caller.
unsafe fn with_request<T>(
    dataset: *const abi::Dataset,
    indices: *const u64,
    num_indices: usize,
    lambda: *const f64,
    options: *const abi::CollateOptions,
    body: impl FnOnce(&Dataset, &[usize], &[f64], &CollateOptions) -> Outcome<T>,
) -> Outcome<T> {
    // SAFETY: the caller's promise.
    unsafe {
        let options = collate_options(options)?;
        let indices = slice(indices, num_indices, "indices")?
            .iter()
            .map(|index| usize::try_from(*index))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| Failure::argument("`indices` has a number that is too large for this machine"))?;
        DatasetHandle::with(dataset, "dataset", |dataset| {
            let lambda = slice(lambda, indices.len() * dataset.dimensions().len(), "lambda")?;
            body(dataset, &indices, lambda, &options)
        })
    }
}

/// See [`abi::Api::dataset_batch`].
pub unsafe extern "C" fn dataset_batch(
    dataset: *const abi::Dataset,
    indices: *const u64,
    num_indices: usize,
    lambda: *const f64,
    options: *const abi::CollateOptions,
    batch: *mut abi::Batch,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let collated =
            with_request(dataset, indices, num_indices, lambda, options, |dataset, indices, lambda, options| {
                Ok(dataset.batch(indices, lambda, options)?)
            })?;
        give_batch(&collated, batch)
    })
}

/// See [`abi::Api::dataset_prefetch`].
pub unsafe extern "C" fn dataset_prefetch(
    dataset: *const abi::Dataset,
    indices: *const u64,
    num_indices: usize,
    lambda: *const f64,
    options: *const abi::CollateOptions,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        with_request(dataset, indices, num_indices, lambda, options, |dataset, indices, lambda, options| {
            Ok(dataset.prefetch(indices, lambda, options)?)
        })
    })
}

/// See [`abi::Api::dataset_free`].
pub unsafe extern "C" fn dataset_free(dataset: *mut abi::Dataset) {
    DatasetHandle::free(dataset);
}
