//! Datasets: the core directly, and through the table.

use std::ops::ControlFlow;
use std::path::Path;
use std::ptr::null_mut;

use arrow_array::RecordBatchIterator;
use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use lambda_dpo_abi as abi;
use lambda_dpo_core as core;
use lambda_dpo_core::dataset::{SampleInfo, TokenFolder};
use lambda_dpo_tests::table::{self, Failure, Handle, NamedBatch, api, checked};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use tch::Tensor;

use crate::arrow::batches;
use crate::data_path::{LAYOUTS, Options, native, options, same_batch, tokenizers};
use crate::records::{any_record, usable};

/// The functions that the property tests below compare with the core.
pub const COVERED: [(&str, fn()); 7] = [
    ("dataset_open", of_files),
    ("dataset_open_arrow", of_streams),
    ("dataset_len", of_files),
    ("dataset_info", of_files),
    ("dataset_samples", of_files),
    ("dataset_batch", of_files),
    ("dataset_prefetch", of_files),
];

/// Options that open the same dataset in the core and through the table.
#[derive(Debug)]
struct Opening<'a> {
    convert: &'a Options,
    cutoff_len: Option<usize>,
    keep_all: bool,
    cache_dir: Option<&'a Path>,
}

impl Opening<'_> {
    fn native(&self) -> core::DatasetOptions {
        core::DatasetOptions {
            convert: self.convert.native(),
            tokenize: core::TokenizeOptions { cutoff_len: self.cutoff_len, keep_all: self.keep_all },
            tokens: match self.cache_dir {
                Some(folder) => TokenFolder::Cache(folder.to_owned()),
                None => TokenFolder::Scratch(std::env::temp_dir()),
            },
        }
    }

    /// Opens through the table with `open`.
    fn exported(
        &self,
        open: impl FnOnce(*const abi::DatasetOptions, *mut *mut abi::Dataset, *mut abi::Error) -> abi::Status,
    ) -> Result<Handle<abi::Dataset>, Failure> {
        let tokenize = abi::TokenizeOptions {
            cutoff_len: self.cutoff_len.unwrap_or(0) as u64,
            keep_all: self.keep_all.into(),
            ..table::tokenize_options()
        };
        let cache_dir = self.cache_dir.map_or("", |folder| folder.to_str().unwrap());
        let mut raw = null_mut();
        self.convert.lend(|convert| {
            // SAFETY: zero is valid for the other fields.
            let options = unsafe {
                abi::DatasetOptions {
                    convert,
                    tokenize: &tokenize,
                    cache_dir: table::text(cache_dir),
                    ..table::sized::<abi::DatasetOptions>()
                }
            };
            checked(|error| open(&options, &mut raw, error))
        })?;
        // SAFETY: the handle is ours on success.
        Ok(unsafe { Handle::new(raw, api().dataset_free) })
    }
}

fn go_on() -> impl FnMut(u64, u64) -> ControlFlow<()> {
    |_, _| ControlFlow::Continue(())
}

fn info(dataset: &Handle<abi::Dataset>) -> Value {
    let mut bytes = table::no_bytes();
    // SAFETY: all pointers are valid.
    checked(|e| unsafe { (api().dataset_info)(dataset.raw(), &mut bytes, e) }).unwrap();
    serde_json::from_str(&table::take_text(bytes).unwrap()).unwrap()
}

fn samples(dataset: &Handle<abi::Dataset>) -> Tensor {
    let mut raw = null_mut();
    // SAFETY: all pointers are valid; the tensor is ours on success.
    unsafe {
        checked(|e| (api().dataset_samples)(dataset.raw(), &mut raw, e)).unwrap();
        abi::tensor::import(raw).unwrap()
    }
}

/// The row of `dataset_samples`.
fn row(info: &SampleInfo) -> [i64; 5] {
    let half = |at: usize| i64::from_le_bytes(info.content_hash[at..at + 8].try_into().unwrap());
    [info.record_index as i64, info.num_responses as i64, info.num_tokens as i64, half(0), half(8)]
}

/// Arguments of a request for a batch.
struct Asked<'a> {
    indices: &'a [u64],
    lambda: &'a [f64],
    options: &'a abi::CollateOptions,
}

fn prefetch(dataset: &Handle<abi::Dataset>, asked: &Asked) {
    let Asked { indices, lambda, options } = asked;
    // SAFETY: all pointers are valid.
    let call = checked(|e| unsafe {
        (api().dataset_prefetch)(dataset.raw(), indices.as_ptr(), indices.len(), lambda.as_ptr(), *options, e)
    });
    call.unwrap();
}

fn batch(dataset: &Handle<abi::Dataset>, asked: &Asked) -> Result<NamedBatch, Failure> {
    let Asked { indices, lambda, options } = asked;
    table::batch(|batch, e| {
        // SAFETY: all pointers are valid.
        unsafe {
            (api().dataset_batch)(dataset.raw(), indices.as_ptr(), indices.len(), lambda.as_ptr(), *options, batch, e)
        }
    })
}

/// Checks that two datasets report the same and give the same batches.
fn same_dataset(
    native: &core::Dataset,
    exported: &Handle<abi::Dataset>,
    (layout, code): (core::Layout, u32),
    picks: &[usize],
) {
    // SAFETY: the handle is alive.
    assert_eq!(unsafe { (api().dataset_len)(exported.raw()) }, native.len() as u64);
    let expected = json!({
        "dimensions": native.dimensions(), "report": native.report(), "hash": native.hash(),
        "longest_sequence": native.longest_sequence(), "cache": info(exported)["cache"],
    });
    assert_eq!(info(exported), expected);
    let rows: Vec<i64> = native.samples().flat_map(|info| row(&info)).collect();
    assert_eq!(samples(exported), Tensor::from_slice(&rows).view([-1, 5]));

    // Some picks are one beyond the end.
    let indices: Vec<usize> = picks.iter().map(|pick| pick % (native.len() + 1)).collect();
    let lambda = vec![0.5; indices.len() * native.dimensions().len()];
    let own = core::CollateOptions { layout, max_tokens: None, pad_to_multiple_of: 8, pad_token_id: 1 };
    let collate = abi::CollateOptions { pad_token_id: 1, ..table::collate_options(code) };
    let raw: Vec<u64> = indices.iter().map(|index| *index as u64).collect();
    let asked = Asked { indices: &raw, lambda: &lambda, options: &collate };
    for ahead in [false, true] {
        if ahead {
            prefetch(exported, &asked);
        }
        match (self::native(native.batch(&indices, &lambda, &own)), batch(exported, &asked)) {
            (Ok(native), Ok(exported)) => same_batch(&native, &exported),
            (native, exported) => assert_eq!(exported.unwrap_err(), native.unwrap_err()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn of_files(
        records in prop::collection::vec(prop_oneof![12 => usable().prop_map(|r| r.to_string()), 1 => any_record()], 0..6),
        convert in options(),
        cutoff_len in select(vec![None, Some(12), Some(3)]),
        keep_all in any::<bool>(),
        layout in select(LAYOUTS.to_vec()),
        picks in prop::collection::vec(any::<usize>(), 0..6),
        cached in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("records.jsonl");
        std::fs::write(&file, records.join("\n")).unwrap();
        let (own, handle) = tokenizers();
        let cache_dir = folder.path().join("cache");
        let opening = Opening { convert: &convert, cutoff_len, keep_all, cache_dir: cached.then_some(&cache_dir) };
        let path = table::text(file.to_str().unwrap());
        let native = native(core::Dataset::open(std::slice::from_ref(&file), &own, &opening.native(), &mut go_on()));
        // SAFETY: all pointers are valid.
        let exported = opening.exported(|options, dataset, e| unsafe {
            (api().dataset_open)(&path, 1, handle.raw(), options, dataset, e)
        });
        match (native, exported) {
            (Ok(native), Ok(exported)) => {
                let cache = info(&exported)["cache"].clone();
                // The core, which ran first, has written the cache that the table's call reads.
                let path = native.cache().map(|cache| cache.path.clone());
                let expected = path.map(|path| json!({ "path": path, "was_read": true, "damage": null }));
                prop_assert_eq!(cache, expected.unwrap_or(Value::Null));
                same_dataset(&native, &exported, layout, &picks);
            }
            (native, exported) => prop_assert_eq!(exported.unwrap_err(), native.unwrap_err()),
        }
    }

    #[test]
    fn of_streams(
        records in prop::collection::vec(usable(), 1..9),
        rows_at_once in 1_usize..5,
        convert in options(),
        cutoff_len in select(vec![None, Some(12)]),
        layout in select(LAYOUTS.to_vec()),
        picks in prop::collection::vec(any::<usize>(), 0..6),
    ) {
        let (own, handle) = tokenizers();
        let opening = Opening { convert: &convert, cutoff_len, keep_all: false, cache_dir: None };
        let batches = batches(&records, rows_at_once);
        let stream = || {
            let schema = batches[0].schema();
            Box::new(RecordBatchIterator::new(batches.clone().into_iter().map(Ok), schema))
        };
        let native = native(core::Dataset::open_stream(stream(), &own, &opening.native(), &mut go_on()));
        let mut lent = FFI_ArrowArrayStream::new(stream());
        // SAFETY: all pointers are valid; arrow's struct is that of the C interface.
        let exported = opening.exported(|options, dataset, e| unsafe {
            (api().dataset_open_arrow)((&raw mut lent).cast(), handle.raw(), options, dataset, e)
        });
        prop_assert!(lent.release.is_none(), "the plugin has not taken ownership of the stream");
        match (native, exported) {
            (Ok(native), Ok(exported)) => same_dataset(&native, &exported, layout, &picks),
            (native, exported) => prop_assert_eq!(exported.unwrap_err(), native.unwrap_err()),
        }
    }
}

/// A dataset from a stream equals that from a file of the same records, but cannot be cached.
#[test]
fn a_stream_gives_the_same_dataset_as_a_file_but_no_cache() {
    let records: Vec<Value> = (0..600)
        .map(|i| {
            let completion = |j: usize| {
                let response = ["one", "two", "blue"][(i + j) % 3];
                json!({ "response": response, "annotations": { "a": { "Rating": j.to_string() } } })
            };
            json!({ "instruction": "hi", "completions": [completion(0), completion(1)] })
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("records.jsonl");
    std::fs::write(&file, records.iter().map(|record| format!("{record}\n")).collect::<String>()).unwrap();
    let handle = tokenizers().1;
    let convert = Options::default();
    let opening = |cache_dir| Opening { convert: &convert, cutoff_len: None, keep_all: false, cache_dir };
    let open_stream = |opening: &Opening| {
        let batches = batches(&records, 100);
        let schema = batches[0].schema();
        let stream = RecordBatchIterator::new(batches.into_iter().map(Ok), schema);
        let mut lent = FFI_ArrowArrayStream::new(Box::new(stream));
        // SAFETY: all pointers are valid; arrow's struct is that of the C interface.
        opening.exported(|options, dataset, e| unsafe {
            (api().dataset_open_arrow)((&raw mut lent).cast(), handle.raw(), options, dataset, e)
        })
    };
    let path = table::text(file.to_str().unwrap());
    // SAFETY: all pointers are valid.
    let of_file = opening(None)
        .exported(|options, dataset, e| unsafe { (api().dataset_open)(&path, 1, handle.raw(), options, dataset, e) });
    let (of_file, of_stream) = (of_file.unwrap(), open_stream(&opening(None)).unwrap());
    assert_eq!(info(&of_stream), info(&of_file));
    assert_eq!(samples(&of_stream), samples(&of_file));

    let (status, message) = open_stream(&opening(Some(folder.path()))).unwrap_err();
    assert_eq!(status, abi::STATUS_INVALID_ARGUMENT);
    assert_eq!(
        message,
        "cache_dir is set, but the tokens of a stream cannot be looked up before it is read: leave it empty, or open the \
         files that the stream comes from"
    );
}
