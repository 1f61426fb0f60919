//! NULL for each pointer of each function in turn.

use std::ptr::{null, null_mut};

use lambda_dpo_abi as abi;
use lambda_dpo_tests::fixture;
use lambda_dpo_tests::table::{self, api, checked};

use crate::misuse::{Given, RECORD};

/// Returns `pointer`, or NULL if its name is the one to leave out.
fn unless<T>(left_out: &str, name: &str, pointer: *mut T) -> *mut T {
    if left_out == name { null_mut() } else { pointer }
}

/// Borrows text, or NULL with a length if its name is the one to leave out.
fn text_unless(left_out: &str, name: &str, text: &str) -> abi::Str {
    if left_out == name { abi::Str { data: null(), len: 3 } } else { table::text(text) }
}

/// Leaves out each of the named arguments in turn: the call must fail and name it, with and without an error struct,
/// and succeed if none is left out.
fn refuses_null(function: &str, names: &[&str], mut call: impl FnMut(&str, *mut abi::Error) -> abi::Status) {
    for name in names {
        let (status, message) = checked(|error| call(name, error)).expect_err(&format!("{function} without {name}"));
        assert_eq!(status, abi::STATUS_INVALID_ARGUMENT, "{function} without {name}: {message}");
        assert!(message.contains(&format!("`{name}` is NULL")), "{function} without {name}: {message}");
        assert_eq!(call(name, null_mut()), abi::STATUS_INVALID_ARGUMENT, "{function} without {name}");
    }
    checked(|error| call("", error)).unwrap_or_else(|failure| panic!("{function}: {failure:?}"));
    assert_eq!(call("", null_mut()), abi::STATUS_OK, "{function} without an error struct");
}

#[test]
fn readers_and_single_records() {
    let mut given = Given::new();
    let api = api();
    let path = given.path();
    let convert = &raw mut given.convert;
    // SAFETY: every pointer is NULL or valid, and every result is freed once.
    unsafe {
        let mut api_out = null();
        refuses_null("get_api", &["api"], |name, e| {
            let out = unless(name, "api", &mut api_out);
            table::entry_point()(abi::ABI_MAJOR, abi::ABI_MINOR, out, e)
        });
        let mut info = table::sized::<abi::BuildInfo>();
        refuses_null("build_info", &["info"], |name, e| (api.build_info)(unless(name, "info", &mut info), e));

        let free = |bytes: &mut abi::Bytes| (api.bytes_free)(bytes);
        let mut bytes = table::no_bytes();
        refuses_null("convert_record", &["record", "options", "sample"], |name, e| {
            free(&mut bytes);
            let record = text_unless(name, "record", RECORD);
            (api.convert_record)(record, 0, unless(name, "options", convert), unless(name, "sample", &mut bytes), e)
        });
        let mut paths = [path];
        let mut reader = null_mut();
        refuses_null("reader_open", &["paths", "options", "reader"], |name, e| {
            (api.reader_free)(std::mem::replace(&mut reader, null_mut()));
            let paths = unless(name, "paths", paths.as_mut_ptr());
            (api.reader_open)(paths, 1, unless(name, "options", convert), unless(name, "reader", &mut reader), e)
        });
        refuses_null("reader_next", &["reader", "sample"], |name, e| {
            free(&mut bytes);
            (api.reader_next)(unless(name, "reader", reader), unless(name, "sample", &mut bytes), e)
        });
        refuses_null("reader_report", &["reader", "report"], |name, e| {
            free(&mut bytes);
            (api.reader_report)(unless(name, "reader", reader), unless(name, "report", &mut bytes), e)
        });
        (api.reader_free)(reader);
        free(&mut bytes);
    }
}

#[test]
fn tokenizers() {
    let mut given = Given::new();
    let api = api();
    let (tokenizer, tokenize) = (given.tokenizer.raw(), &raw mut given.tokenize);
    let (mut bytes, free) = (table::no_bytes(), |bytes: &mut abi::Bytes| {
        // SAFETY: NULL, or the result of the last call.
        unsafe { (api.bytes_free)(bytes) }
    });
    // SAFETY: every pointer is NULL or valid, and every result is freed once.
    unsafe {
        let folder = fixture("words");
        let folder = folder.to_str().unwrap();
        let mut opened = null_mut();
        refuses_null("tokenizer_open", &["folder", "chat_template", "tokenizer"], |name, e| {
            (api.tokenizer_free)(std::mem::replace(&mut opened, null_mut()));
            let (folder, template) = (text_unless(name, "folder", folder), text_unless(name, "chat_template", ""));
            (api.tokenizer_open)(folder, template, unless(name, "tokenizer", &mut opened), e)
        });
        (api.tokenizer_free)(opened);
        refuses_null("tokenizer_info", &["tokenizer", "info"], |name, e| {
            free(&mut bytes);
            (api.tokenizer_info)(unless(name, "tokenizer", tokenizer), unless(name, "info", &mut bytes), e)
        });
        let messages = r#"[{"role": "user", "content": "hi"}]"#;
        refuses_null("tokenizer_render", &["tokenizer", "messages", "text"], |name, e| {
            free(&mut bytes);
            let messages = text_unless(name, "messages", messages);
            (api.tokenizer_render)(
                unless(name, "tokenizer", tokenizer),
                messages,
                1,
                unless(name, "text", &mut bytes),
                e,
            )
        });
        let mut ids = null_mut();
        refuses_null("tokenizer_encode", &["tokenizer", "text", "ids"], |name, e| {
            abi::tensor::free_tensor(std::mem::replace(&mut ids, null_mut()));
            let text = text_unless(name, "text", "hi one");
            (api.tokenizer_encode)(unless(name, "tokenizer", tokenizer), text, unless(name, "ids", &mut ids), e)
        });
        refuses_null("tokenizer_decode", &["tokenizer", "ids", "text"], |name, e| {
            free(&mut bytes);
            let (tokenizer, ids) = (unless(name, "tokenizer", tokenizer), unless(name, "ids", ids));
            (api.tokenizer_decode)(tokenizer, ids, 0, unless(name, "text", &mut bytes), e)
        });
        abi::tensor::free_tensor(ids);
        let mut stream = null_mut();
        refuses_null("decode_stream_new", &["tokenizer", "stream"], |name, e| {
            (api.decode_stream_free)(std::mem::replace(&mut stream, null_mut()));
            (api.decode_stream_new)(unless(name, "tokenizer", tokenizer), 0, unless(name, "stream", &mut stream), e)
        });
        refuses_null("decode_stream_step", &["stream", "text"], |name, e| {
            free(&mut bytes);
            (api.decode_stream_step)(unless(name, "stream", stream), 5, unless(name, "text", &mut bytes), e)
        });
        refuses_null("decode_stream_finish", &["stream", "text"], |name, e| {
            free(&mut bytes);
            (api.decode_stream_finish)(unless(name, "stream", stream), unless(name, "text", &mut bytes), e)
        });
        (api.decode_stream_free)(stream);
        let mut tokenized = null_mut();
        refuses_null("tokenize", &["tokenizer", "sample", "options", "tokenized"], |name, e| {
            (api.tokenized_sample_free)(std::mem::replace(&mut tokenized, null_mut()));
            let (sample, options) = (text_unless(name, "sample", &given.sample), unless(name, "options", tokenize));
            (api.tokenize)(
                unless(name, "tokenizer", tokenizer),
                sample,
                options,
                unless(name, "tokenized", &mut tokenized),
                e,
            )
        });
        refuses_null("tokenized_sample_tokens", &["sample", "tokens"], |name, e| {
            free(&mut bytes);
            (api.tokenized_sample_tokens)(unless(name, "sample", tokenized), unless(name, "tokens", &mut bytes), e)
        });
        let tokens = r#"{"record":0,"prompt_ids":[1],"response_ids":[],"response_indices":[],"pi_target":[]}"#;
        refuses_null("tokenized_sample_new", &["tokens", "tokenized"], |name, e| {
            (api.tokenized_sample_free)(std::mem::replace(&mut tokenized, null_mut()));
            let tokens = text_unless(name, "tokens", tokens);
            (api.tokenized_sample_new)(tokens, unless(name, "tokenized", &mut tokenized), e)
        });
        (api.tokenized_sample_free)(tokenized);
        free(&mut bytes);
    }
}

#[test]
fn batches_and_datasets() {
    let mut given = Given::new();
    let api = api();
    let (tokenizer, path) = (given.tokenizer.raw(), given.path());
    let collate = &raw mut given.collate;
    let mut lambda = [1.0_f64];
    let mut samples = [given.tokenized.raw().cast_const()];
    let mut options = given.dataset_options();
    // SAFETY: every pointer is NULL or valid, and every result is freed once.
    unsafe {
        let mut batch = table::sized::<abi::Batch>();
        refuses_null("collate", &["samples", "lambda", "options", "batch"], |name, e| {
            (api.batch_free)(&mut batch);
            let (samples, options) = (unless(name, "samples", samples.as_mut_ptr()), unless(name, "options", collate));
            let lambda = unless(name, "lambda", lambda.as_mut_ptr());
            (api.collate)(samples, 1, lambda, options, unless(name, "batch", &mut batch), e)
        });
        let mut paths = [path];
        let mut dataset = null_mut();
        refuses_null("dataset_open", &["paths", "tokenizer", "options", "dataset"], |name, e| {
            (api.dataset_free)(std::mem::replace(&mut dataset, null_mut()));
            let (paths, options) = (unless(name, "paths", paths.as_mut_ptr()), unless(name, "options", &mut options));
            let tokenizer = unless(name, "tokenizer", tokenizer);
            (api.dataset_open)(paths, 1, tokenizer, options, unless(name, "dataset", &mut dataset), e)
        });
        assert_eq!((api.dataset_len)(dataset), 1);
        assert_eq!((api.dataset_len)(null()), 0);
        let mut bytes = table::no_bytes();
        refuses_null("dataset_info", &["dataset", "info"], |name, e| {
            (api.bytes_free)(&mut bytes);
            (api.dataset_info)(unless(name, "dataset", dataset), unless(name, "info", &mut bytes), e)
        });
        (api.bytes_free)(&mut bytes);
        let mut infos = null_mut();
        refuses_null("dataset_samples", &["dataset", "samples"], |name, e| {
            abi::tensor::free_tensor(std::mem::replace(&mut infos, null_mut()));
            (api.dataset_samples)(unless(name, "dataset", dataset), unless(name, "samples", &mut infos), e)
        });
        abi::tensor::free_tensor(infos);
        let mut indices = [0_u64];
        refuses_null("dataset_batch", &["dataset", "indices", "lambda", "options", "batch"], |name, e| {
            (api.batch_free)(&mut batch);
            let (indices, lambda) =
                (unless(name, "indices", indices.as_mut_ptr()), unless(name, "lambda", lambda.as_mut_ptr()));
            let (options, batch) = (unless(name, "options", collate), unless(name, "batch", &mut batch));
            (api.dataset_batch)(unless(name, "dataset", dataset), indices, 1, lambda, options, batch, e)
        });
        (api.batch_free)(&mut batch);
        refuses_null("dataset_prefetch", &["dataset", "indices", "lambda", "options"], |name, e| {
            let (indices, lambda) =
                (unless(name, "indices", indices.as_mut_ptr()), unless(name, "lambda", lambda.as_mut_ptr()));
            let options = unless(name, "options", collate);
            (api.dataset_prefetch)(unless(name, "dataset", dataset), indices, 1, lambda, options, e)
        });
        (api.dataset_free)(dataset);
    }
}

#[test]
fn schedules() {
    let api = api();
    // SAFETY: every pointer is NULL or valid, and every result is freed once.
    unsafe {
        let mut options = abi::ScheduleOptions { kind: abi::SCHEDULE_GAUSSIAN, num_dimensions: 2, ..table::sized() };
        let (mut schedule, mut lambda) = (null_mut(), [0.0_f64; 2]);
        refuses_null("schedule_new", &["options", "schedule"], |name, e| {
            (api.schedule_free)(std::mem::replace(&mut schedule, null_mut()));
            (api.schedule_new)(unless(name, "options", &mut options), unless(name, "schedule", &mut schedule), e)
        });
        refuses_null("schedule_draw_instance", &["schedule", "lambda"], |name, e| {
            let lambda = unless(name, "lambda", lambda.as_mut_ptr());
            (api.schedule_draw_instance)(unless(name, "schedule", schedule), 1, 2, 3, lambda, e)
        });
        refuses_null("schedule_draw_step", &["schedule", "lambda"], |name, e| {
            let lambda = unless(name, "lambda", lambda.as_mut_ptr());
            (api.schedule_draw_step)(unless(name, "schedule", schedule), 1, 2, lambda, e)
        });
        (api.schedule_free)(schedule);

        let lend = |tensor: &tch::Tensor| abi::tensor::export(tensor).unwrap();
        let offsets = lend(&tch::Tensor::from_slice(&[0_i64, 2]));
        let mask = lend(&tch::Tensor::ones([1, 2], (tch::Kind::Bool, tch::Device::Cpu)));
        let weights = lend(&tch::Tensor::ones([1, 1], (tch::Kind::Double, tch::Device::Cpu)));
        let mut given: abi::Tensor = null_mut();
        refuses_null("renormalize_lambda", &["prompt_offsets", "target_mask", "lambda", "renormalized"], |name, e| {
            let (offsets, mask) =
                (unless(name, "prompt_offsets", offsets.as_raw()), unless(name, "target_mask", mask.as_raw()));
            if !given.is_null() {
                drop(abi::tensor::import(given).unwrap());
            }
            let renormalized = unless(name, "renormalized", &raw mut given);
            (api.renormalize_lambda)(offsets, mask, unless(name, "lambda", weights.as_raw()), renormalized, e)
        });
        drop(abi::tensor::import(given).unwrap());
    }
}

#[test]
fn log_probs_and_losses() {
    let api = api();
    // SAFETY: every pointer is NULL or valid, and every result is freed once.
    unsafe {
        let tensor = |tensor: tch::Tensor| abi::tensor::export(&tensor).unwrap();
        let logits = tensor(tch::Tensor::from_slice(&[0.5_f32, 1.0, 0.0, 2.0]).reshape([2, 2]));
        let (positions, ids) =
            (tensor(tch::Tensor::from_slice(&[0_i64, 1])), tensor(tch::Tensor::from_slice(&[1_i64, 0])));
        let sequences = tensor(tch::Tensor::from_slice(&[0_i64, 0]));
        let mut inputs = abi::LossInputs {
            logits: logits.as_raw(),
            target_positions: positions.as_raw(),
            target_ids: ids.as_raw(),
            target_sequences: sequences.as_raw(),
            num_sequences: 1,
            ..table::sized()
        };
        let mut options =
            abi::LossOptions { objective: abi::OBJECTIVE_SFT, beta: 0.1, wants: abi::WANTS_LOGITS, ..table::sized() };
        let (mut token, mut sequence) = (null_mut(), null_mut());
        let names = ["inputs", "options", "token_log_probs", "sequence_log_probs"];
        refuses_null("log_probs", &names, |name, e| {
            abi::tensor::free_tensor(std::mem::replace(&mut token, null_mut()));
            abi::tensor::free_tensor(std::mem::replace(&mut sequence, null_mut()));
            let (inputs, options) = (unless(name, "inputs", &mut inputs), unless(name, "options", &mut options));
            let token = unless(name, "token_log_probs", &mut token);
            (api.log_probs)(inputs, options, token, unless(name, "sequence_log_probs", &mut sequence), e)
        });
        abi::tensor::free_tensor(token);
        abi::tensor::free_tensor(sequence);

        let (mut outputs, mut context) = (table::sized::<abi::LossOutputs>(), null_mut());
        refuses_null("loss_forward", &["inputs", "options", "outputs", "context"], |name, e| {
            (api.loss_context_free)(std::mem::replace(&mut context, null_mut()));
            for tensor in [&mut outputs.loss, &mut outputs.token_log_probs, &mut outputs.sequence_log_probs] {
                abi::tensor::free_tensor(std::mem::replace(tensor, null_mut()));
            }
            let (inputs, options) = (unless(name, "inputs", &mut inputs), unless(name, "options", &mut options));
            let outputs = unless(name, "outputs", &mut outputs);
            (api.loss_forward)(inputs, options, outputs, unless(name, "context", &mut context), e)
        });
        for tensor in [outputs.loss, outputs.token_log_probs, outputs.sequence_log_probs] {
            abi::tensor::free_tensor(tensor);
        }
        // A context can be used once, so each call that succeeds needs a new one.
        let mut gradients = table::sized::<abi::LossGradients>();
        refuses_null("loss_backward", &["context", "inputs", "gradients"], |name, e| {
            abi::tensor::free_tensor(std::mem::replace(&mut gradients.logits, null_mut()));
            if name.is_empty() {
                (api.loss_context_free)(context);
                let mut outputs = table::sized::<abi::LossOutputs>();
                checked(|e| (api.loss_forward)(&inputs, &options, &mut outputs, &mut context, e)).unwrap();
                for tensor in [outputs.loss, outputs.token_log_probs, outputs.sequence_log_probs] {
                    abi::tensor::free_tensor(tensor);
                }
            }
            let (context, inputs) = (unless(name, "context", context), unless(name, "inputs", &mut inputs));
            (api.loss_backward)(context, inputs, 1.0, unless(name, "gradients", &mut gradients), e)
        });
        abi::tensor::free_tensor(gradients.logits);
        (api.loss_context_free)(context);
    }
}
