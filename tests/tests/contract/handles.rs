//! Invalid handles: freed, freed twice, of another type, made up. Each call that takes a handle refuses them.

use std::ptr::{null, null_mut, without_provenance_mut};

use lambda_dpo_abi as abi;
use lambda_dpo_tests::table::{self, Handle, api, checked};

use crate::misuse::Given;

/// Checks that a call refuses made-up numbers and addresses, and the handle `freed`.
fn refuses(function: &str, name: &str, freed: *mut u8, mut call: impl FnMut(*mut u8, *mut abi::Error) -> abi::Status) {
    let mut byte = 0_u8;
    for dead in [freed, without_provenance_mut(usize::MAX), without_provenance_mut(16), &raw mut byte] {
        let (status, message) = checked(|error| call(dead, error)).expect_err(function);
        assert_eq!(status, abi::STATUS_INVALID_ARGUMENT, "{function}: {message}");
        let expected = format!("argument `{name}` is not a live handle of its type: it was freed, is of another");
        assert!(message.starts_with(&expected), "{function}: {message}");
    }
}

/// A λ schedule, whose type most of the calls below do not take.
fn schedule() -> Handle<abi::Schedule> {
    let mut raw = null_mut();
    // SAFETY: all pointers are valid; the handle is freed once.
    unsafe {
        let options = abi::ScheduleOptions { kind: abi::SCHEDULE_GAUSSIAN, num_dimensions: 1, ..table::sized() };
        checked(|e| (api().schedule_new)(&options, &mut raw, e)).unwrap();
        Handle::new(raw, api().schedule_free)
    }
}

#[test]
pub fn readers() {
    let (given, mut reader, api) = (Given::new(), null_mut(), api());
    let (mut bytes, other) = (table::no_bytes(), schedule());
    // SAFETY: every pointer is valid; the invalid handles are what is tested.
    unsafe {
        checked(|e| (api.reader_open)(&given.path(), 1, &given.convert, &mut reader, e)).unwrap();
        (api.reader_free)(other.raw().cast());
        (api.schedule_free)(reader.cast());
        checked(|e| (api.reader_next)(reader, &mut bytes, e)).unwrap();
        (api.bytes_free)(&mut bytes);
        (api.reader_free)(reader);
        (api.reader_free)(reader);
        for freed in [reader.cast(), other.raw().cast()] {
            refuses("reader_next", "reader", freed, |raw, e| (api.reader_next)(raw.cast(), &mut bytes, e));
            refuses("reader_report", "reader", freed, |raw, e| (api.reader_report)(raw.cast(), &mut bytes, e));
            let mut stream: abi::ArrowArrayStream = std::mem::zeroed();
            refuses("reader_to_arrow", "reader", freed, |raw, e| (api.reader_to_arrow)(raw.cast(), &mut stream, e));
            assert!(bytes.data.is_null() && stream.release.is_none(), "a failing call leaves its outputs untouched");
        }
    }
}

#[test]
pub fn tokenizers_and_samples() {
    let (given, api, mut bytes, mut ids, mut sample) = (Given::new(), api(), table::no_bytes(), null_mut(), null_mut());
    let options = table::tokenize_options();
    // SAFETY: as above; the handles are freed here, and again when `given` is dropped.
    unsafe {
        let lent = abi::tensor::export(&tch::Tensor::from_slice(&[5_i64])).unwrap();
        (api.tokenizer_free)(given.tokenizer.raw());
        (api.tokenized_sample_free)(given.tokenized.raw());
        for freed in [given.tokenizer.raw().cast(), given.tokenized.raw().cast(), schedule().raw().cast()] {
            let name = "tokenizer";
            refuses("tokenizer_info", name, freed, |raw, e| (api.tokenizer_info)(raw.cast(), &mut bytes, e));
            refuses("tokenizer_render", name, freed, |raw, e| {
                (api.tokenizer_render)(raw.cast(), table::text("[]"), 0, &mut bytes, e)
            });
            refuses("tokenizer_encode", name, freed, |raw, e| {
                (api.tokenizer_encode)(raw.cast(), table::text("hi"), &mut ids, e)
            });
            refuses("tokenizer_decode", name, freed, |raw, e| {
                (api.tokenizer_decode)(raw.cast(), lent.as_raw(), 0, &mut bytes, e)
            });
            refuses("tokenize", name, freed, |raw, e| {
                (api.tokenize)(raw.cast(), table::text(&given.sample), &options, &mut sample, e)
            });
            refuses("tokenized_sample_tokens", "sample", freed, |raw, e| {
                (api.tokenized_sample_tokens)(raw.cast(), &mut bytes, e)
            });
            let mut batch = table::sized::<abi::Batch>();
            refuses("collate", "samples[0]", freed, |raw, e| {
                (api.collate)(&raw.cast_const().cast(), 1, &1.0, &given.collate, &mut batch, e)
            });
            assert!(bytes.data.is_null() && ids.is_null() && sample.is_null() && batch.input_ids.is_null());
        }
    }
}

#[test]
pub fn decode_streams() {
    let (given, api, mut bytes, mut stream) = (Given::new(), api(), table::no_bytes(), null_mut());
    // SAFETY: as above; the handle is freed here, and again when `opened` is dropped.
    unsafe {
        let opened = table::decode_stream(&given.tokenizer, 0).unwrap();
        (api.tokenizer_free)(opened.raw().cast());
        (api.decode_stream_free)(given.tokenizer.raw().cast());
        assert!(table::decode_step(&opened, 5).unwrap().is_some(), "a handle freed as another type is still alive");
        (api.decode_stream_free)(opened.raw());
        (api.decode_stream_free)(opened.raw());
        for freed in [opened.raw().cast(), given.tokenizer.raw().cast(), schedule().raw().cast()] {
            refuses("decode_stream_step", "stream", freed, |raw, e| {
                (api.decode_stream_step)(raw.cast(), 5, &mut bytes, e)
            });
            refuses("decode_stream_finish", "stream", freed, |raw, e| {
                (api.decode_stream_finish)(raw.cast(), &mut bytes, e)
            });
        }
        refuses("decode_stream_new", "tokenizer", opened.raw().cast(), |raw, e| {
            (api.decode_stream_new)(raw.cast(), 0, &mut stream, e)
        });
        assert!(bytes.data.is_null() && stream.is_null(), "a failing call leaves its outputs untouched");
    }
}

#[test]
fn a_decode_stream_outlives_its_tokenizer() {
    let given = Given::new();
    let stream = table::decode_stream(&given.tokenizer, 0).unwrap();
    drop(given);
    assert!(table::decode_step(&stream, 5).unwrap().is_some());
    assert_eq!(table::decode_finish(&stream).unwrap(), None);
}

#[test]
pub fn datasets() {
    let (given, mut dataset, api, mut bytes) = (Given::new(), null_mut(), api(), table::no_bytes());
    // SAFETY: as above.
    unsafe {
        let options = given.dataset_options();
        let tokenizer = given.tokenizer.raw();
        checked(|e| (api.dataset_open)(&given.path(), 1, tokenizer, &options, &mut dataset, e)).unwrap();
        (api.dataset_free)(dataset);
        (api.dataset_free)(dataset);
        let (mut samples, mut batch) = (null_mut(), table::sized::<abi::Batch>());
        for freed in [dataset.cast::<u8>(), tokenizer.cast()] {
            assert_eq!((api.dataset_len)(freed.cast()), 0);
            let name = "dataset";
            refuses("dataset_info", name, freed, |raw, e| (api.dataset_info)(raw.cast(), &mut bytes, e));
            refuses("dataset_samples", name, freed, |raw, e| (api.dataset_samples)(raw.cast(), &mut samples, e));
            refuses("dataset_batch", name, freed, |raw, e| {
                (api.dataset_batch)(raw.cast(), &0, 1, &1.0, &given.collate, &mut batch, e)
            });
            refuses("dataset_prefetch", name, freed, |raw, e| {
                (api.dataset_prefetch)(raw.cast(), &0, 1, &1.0, &given.collate, e)
            });
        }
        refuses("dataset_open", "tokenizer", dataset.cast(), |raw, e| {
            (api.dataset_open)(&given.path(), 1, raw.cast(), &options, &mut dataset, e)
        });
    }
}

#[test]
pub fn schedules_and_contexts() {
    let (api, given, mut lambda) = (api(), Given::new(), [0.0]);
    let freed = schedule().raw().cast::<u8>();
    // SAFETY: as above.
    unsafe {
        for freed in [freed, given.tokenizer.raw().cast()] {
            refuses("schedule_draw_instance", "schedule", freed, |raw, e| {
                (api.schedule_draw_instance)(raw.cast(), 1, 2, 3, lambda.as_mut_ptr(), e)
            });
            refuses("schedule_draw_step", "schedule", freed, |raw, e| {
                (api.schedule_draw_step)(raw.cast(), 1, 2, lambda.as_mut_ptr(), e)
            });
        }
        let log_probs = abi::tensor::export(&tch::Tensor::from_slice(&[-1.0_f32, -2.0])).unwrap();
        let inputs = abi::LossInputs { sequence_log_probs: log_probs.as_raw(), num_sequences: 2, ..table::sized() };
        let mut gradients = table::sized::<abi::LossGradients>();
        (api.loss_context_free)(given.tokenizer.raw().cast());
        refuses("loss_backward", "context", given.tokenizer.raw().cast(), |raw, e| {
            (api.loss_backward)(raw.cast(), &inputs, 1.0, &mut gradients, e)
        });
        assert!(gradients.sequence_log_probs.is_null());
    }
    // A handle freed as another type is still alive.
    assert!(table::tokenize(&given.tokenizer, &given.sample, &given.tokenize).unwrap().is_some());
}

#[test]
fn freeing_nothing_does_nothing() {
    let api = api();
    // SAFETY: NULL is allowed, and so are invalid handles.
    unsafe {
        (api.bytes_free)(null_mut());
        (api.batch_free)(null_mut());
        for none in [null_mut::<u8>(), without_provenance_mut(16), without_provenance_mut(usize::MAX)] {
            (api.reader_free)(none.cast());
            (api.tokenizer_free)(none.cast());
            (api.decode_stream_free)(none.cast());
            (api.tokenized_sample_free)(none.cast());
            (api.dataset_free)(none.cast());
            (api.schedule_free)(none.cast());
            (api.loss_context_free)(none.cast());
        }
        assert_eq!((api.dataset_len)(null()), 0);
    }
}
