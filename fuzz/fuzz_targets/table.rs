//! The whole table with a careless caller: any sequence of its functions, with handles that are live, freed, of another
//! type or made up, options of any value, texts of any bytes, and tensors of any description over valid memory. Every call
//! must keep what `lambda_dpo_fuzz::checked` asks of it; what the calls are is in `lambda_dpo_fuzz::calls`.
#![no_main]
#![expect(clippy::expect_used, reason = "a stream that was opened has a schema")]

use std::ptr::{null, null_mut};

use arrow_array::ffi_stream::{ArrowArrayStreamReader, FFI_ArrowArrayStream};
use lambda_dpo_abi as abi;
use lambda_dpo_fuzz::arguments::{ConvertOptions, Dataset, paths, stream_of, text, tokenize_options};
use lambda_dpo_fuzz::calls::Call;
use lambda_dpo_fuzz::checked::{bytes, succeeds, succeeds_on, tensor};
use lambda_dpo_fuzz::files::FILES;
use lambda_dpo_fuzz::handles::{Handles, Kind, Picked};
use lambda_dpo_fuzz::ignore_library_panics;
use lambda_dpo_fuzz::lent::Lent;
use lambda_dpo_fuzz::losses::Loss;
use lambda_dpo_tests::table::{free_outputs, no_bytes, sized};
use libfuzzer_sys::fuzz_target;

/// Computes the loss of inputs, keeps its context, and calls its backward twice at once if the description says so.
fn forward(handles: &mut Handles, api: &abi::Api, inputs: &abi::LossInputs, loss: &Loss) {
    let options = loss.options();
    let mut context = null_mut();
    // SAFETY: every pointer is valid for its description; outputs are freed once.
    unsafe {
        let mut outputs = sized::<abi::LossOutputs>();
        let succeeded = succeeds(40, |e| (api.loss_forward)(inputs, &options, &mut outputs, &mut context, e));
        assert_eq!(succeeded, !outputs.loss.is_null());
        free_outputs(outputs);
        handles.keep(Kind::Context, context);
        if loss.has_backwards() && !context.is_null() {
            let context = Picked { raw: context.cast(), is_live: true };
            let first = backward(api, context, inputs);
            assert!(!(first && backward(api, context, inputs)), "a context has served two backwards");
        }
    }
}

/// Calls the backward of a context, and frees the gradients. Returns whether it succeeded.
///
/// # Safety
/// As `loss_backward`.
unsafe fn backward(api: &abi::Api, context: Picked, inputs: &abi::LossInputs) -> bool {
    // SAFETY: the caller's promise; gradients are freed once.
    unsafe {
        let mut gradients = sized::<abi::LossGradients>();
        let succeeded =
            succeeds_on(context, |e| (api.loss_backward)(context.raw.cast(), inputs, 1.0, &mut gradients, e));
        let all = [gradients.hidden, gradients.lm_head, gradients.logits, gradients.sequence_log_probs];
        assert!(succeeded || all.iter().all(|tensor| tensor.is_null()), "a failing call has written its output");
        all.into_iter().for_each(|tensor| abi::tensor::free_tensor(tensor));
        succeeded
    }
}

/// Whether a sample may have so many dimensions that λ of four samples has no room for them.
fn has_many_dimensions(sample: &[u8]) -> bool {
    sample.iter().filter(|byte| **byte == b'[').count() > 8
}

/// Computes the loss of a batch, with log-probs of any value for its sequences, and frees it twice.
fn train(handles: &mut Handles, api: &abi::Api, mut batch: abi::Batch, loss: &Loss) {
    let num_sequences = if batch.sequence_num_tokens.is_null() {
        0
    } else {
        // SAFETY: a tensor of the batch.
        unsafe { *(*batch.sequence_num_tokens).dl_tensor.shape as usize }
    };
    let (mut log_probs, mut reference) = (Lent::vector(num_sequences), Lent::vector(num_sequences));
    let inputs = abi::LossInputs {
        sequence_log_probs: log_probs.raw(),
        num_sequences: num_sequences as u64,
        sequence_num_tokens: batch.sequence_num_tokens,
        reference_log_probs: if loss.has_reference() { reference.raw() } else { null_mut() },
        prompt_offsets: batch.prompt_offsets,
        sequence_index: batch.sequence_index,
        pi_target: batch.pi_target,
        target_mask: batch.target_mask,
        ranks: batch.ranks,
        lambda: batch.lambda,
        // SAFETY: a struct of the ABI.
        ..unsafe { sized() }
    };
    forward(handles, api, &inputs, loss);
    // SAFETY: the batch is ours, and may be freed twice.
    unsafe {
        (api.batch_free)(&mut batch);
        (api.batch_free)(&mut batch);
    }
}

/// Makes `dataset_open` or `dataset_open_arrow`, with options that are valid during the call.
fn open_dataset(
    handles: &mut Handles,
    dataset: &Dataset,
    call: impl FnOnce(*const abi::Tokenizer, &abi::DatasetOptions, *mut *mut abi::Dataset, *mut abi::Error) -> abi::Status,
) {
    let (tokenizer, mut opened) = (handles.pick(Kind::Tokenizer, dataset.tokenizer), null_mut());
    let succeeded =
        dataset.with_options(|options| succeeds_on(tokenizer, |e| call(tokenizer.raw.cast(), options, &mut opened, e)));
    assert_eq!(succeeded, !opened.is_null());
    handles.keep(Kind::Dataset, opened);
}

/// Number of dimensions of a dataset.
fn num_dimensions(api: &abi::Api, dataset: Picked) -> usize {
    let mut info = no_bytes();
    // SAFETY: the handle is checked by the library, the bytes are ours.
    unsafe {
        (api.dataset_info)(dataset.raw.cast(), &mut info, null_mut());
        if info.data.is_null() {
            return 0;
        }
        // Names have no brackets in the files that calls open, and those of a stream are as long as they like.
        let text = std::slice::from_raw_parts(info.data, info.len);
        let num = text.iter().filter(|byte| **byte == b',').count() + 1;
        (api.bytes_free)(&mut info);
        num
    }
}

/// Makes a call, and checks what must hold for it.
///
/// # Safety
/// Handles are checked by the library; every other pointer is valid for its description.
unsafe fn make(api: &abi::Api, handles: &mut Handles, call: Call) {
    // SAFETY: the caller's promise.
    unsafe {
        match call {
            Call::BuildInfo => {
                let mut info = sized::<abi::BuildInfo>();
                assert!(succeeds(0, |e| (api.build_info)(&mut info, e)));
            }
            Call::ConvertRecord(record, convert) => {
                let options = ConvertOptions::new(&convert);
                bytes(api, None, |out, e| (api.convert_record)(text(record), 0, options.raw(), out, e));
            }
            Call::ReaderOpen(choices, other, convert) => {
                let options = ConvertOptions::new(&convert);
                let paths = paths(&choices, |choice| FILES.any(choice), other);
                let mut reader = null_mut();
                succeeds(30, |e| (api.reader_open)(paths.as_ptr(), paths.len(), options.raw(), &mut reader, e));
                handles.keep(Kind::Reader, reader);
            }
            Call::ReaderOpenArrow(records, convert) => {
                let options = ConvertOptions::new(&convert);
                let Some(mut stream) = stream_of(records) else { return };
                let mut reader = null_mut();
                succeeds(30, |e| (api.reader_open_arrow)((&raw mut stream).cast(), options.raw(), &mut reader, e));
                assert!(stream.release.is_none(), "the library takes the stream, even if the call fails");
                handles.keep(Kind::Reader, reader);
            }
            Call::ReaderToArrow(choice) => {
                let (reader, mut stream) = (handles.pick(Kind::Reader, choice), FFI_ArrowArrayStream::empty());
                if succeeds_on(reader, |e| (api.reader_to_arrow)(reader.raw.cast(), (&raw mut stream).cast(), e)) {
                    let read = ArrowArrayStreamReader::from_raw(&mut stream);
                    read.expect("a stream has a schema").for_each(drop);
                }
            }
            Call::ReaderOfReader(choice, convert) => {
                let (reader, mut stream) = (handles.pick(Kind::Reader, choice), FFI_ArrowArrayStream::empty());
                let options = ConvertOptions::new(&convert);
                if succeeds_on(reader, |e| (api.reader_to_arrow)(reader.raw.cast(), (&raw mut stream).cast(), e)) {
                    let mut opened = null_mut();
                    succeeds(30, |e| (api.reader_open_arrow)((&raw mut stream).cast(), options.raw(), &mut opened, e));
                    handles.keep(Kind::Reader, opened);
                }
            }
            Call::ReaderNext(choice) => {
                let reader = handles.pick(Kind::Reader, choice);
                bytes(api, Some(reader), |out, e| (api.reader_next)(reader.raw.cast(), out, e));
            }
            Call::ReaderReport(choice) => {
                let reader = handles.pick(Kind::Reader, choice);
                bytes(api, Some(reader), |out, e| (api.reader_report)(reader.raw.cast(), out, e));
            }
            Call::TokenizerOpen(choice, template) => {
                let mut tokenizer = null_mut();
                // Mostly the folder of words; rarely another.
                let folder = if choice < 200 { FILES.tokenizer() } else { FILES.any(choice) };
                let template = if choice.is_multiple_of(5) { text(template.as_bytes()) } else { text(b"") };
                succeeds(30, |e| (api.tokenizer_open)(text(folder.as_bytes()), template, &mut tokenizer, e));
                handles.keep(Kind::Tokenizer, tokenizer);
            }
            Call::TokenizerInfo(choice) => {
                let tokenizer = handles.pick(Kind::Tokenizer, choice);
                bytes(api, Some(tokenizer), |out, e| (api.tokenizer_info)(tokenizer.raw.cast(), out, e));
            }
            Call::TokenizerRender(choice, messages, prompt) => {
                let (tokenizer, prompt) = (handles.pick(Kind::Tokenizer, choice), u32::from(prompt % 3));
                bytes(api, Some(tokenizer), |out, e| {
                    (api.tokenizer_render)(tokenizer.raw.cast(), text(messages), prompt, out, e)
                });
            }
            Call::TokenizerEncode(choice, bytes) => {
                let tokenizer = handles.pick(Kind::Tokenizer, choice);
                tensor(Some(tokenizer), |out, e| (api.tokenizer_encode)(tokenizer.raw.cast(), text(bytes), out, e));
            }
            Call::TokenizerDecode(choice, ids, skip) => {
                let tokenizer = handles.pick(Kind::Tokenizer, choice);
                let mut ids = ids.as_ref().map(Lent::new);
                let ids = ids.as_mut().map_or(null_mut(), |ids| ids.raw());
                let skip = u32::from(skip % 3);
                bytes(api, Some(tokenizer), |out, e| (api.tokenizer_decode)(tokenizer.raw.cast(), ids, skip, out, e));
            }
            Call::DecodeStreamNew(choice, skip) => {
                let (tokenizer, mut stream) = (handles.pick(Kind::Tokenizer, choice), null_mut());
                let skip = u32::from(skip % 3);
                succeeds_on(tokenizer, |e| (api.decode_stream_new)(tokenizer.raw.cast(), skip, &mut stream, e));
                handles.keep(Kind::DecodeStream, stream);
            }
            Call::DecodeStreamStep(choice, id) => {
                let stream = handles.pick(Kind::DecodeStream, choice);
                bytes(api, Some(stream), |out, e| (api.decode_stream_step)(stream.raw.cast(), id.into(), out, e));
            }
            Call::DecodeStreamFinish(choice) => {
                let stream = handles.pick(Kind::DecodeStream, choice);
                bytes(api, Some(stream), |out, e| (api.decode_stream_finish)(stream.raw.cast(), out, e));
            }
            Call::Tokenize(choice, sample, cutoff_len, keep_all) => {
                let (tokenizer, mut tokenized) = (handles.pick(Kind::Tokenizer, choice), null_mut());
                if has_many_dimensions(sample) {
                    return;
                }
                let options = tokenize_options(cutoff_len, keep_all);
                succeeds_on(tokenizer, |e| {
                    (api.tokenize)(tokenizer.raw.cast(), text(sample), &options, &mut tokenized, e)
                });
                handles.keep(Kind::Sample, tokenized);
            }
            Call::TokenizedSampleNew(tokens) => {
                let mut sample = null_mut();
                if !has_many_dimensions(tokens) {
                    succeeds(30, |e| (api.tokenized_sample_new)(text(tokens), &mut sample, e));
                    handles.keep(Kind::Sample, sample);
                }
            }
            Call::TokenizedSampleTokens(choice) => {
                let sample = handles.pick(Kind::Sample, choice);
                bytes(api, Some(sample), |out, e| (api.tokenized_sample_tokens)(sample.raw.cast(), out, e));
            }
            Call::Collate(choices, collate, loss) => {
                let samples: Vec<Picked> =
                    choices.iter().take(4).map(|choice| handles.pick(Kind::Sample, *choice)).collect();
                let raw: Vec<*const abi::TokenizedSample> =
                    samples.iter().map(|sample| sample.raw.cast_const().cast()).collect();
                let (options, lambda) = (collate.options(), collate.lambda().as_ptr());
                let mut batch = sized::<abi::Batch>();
                let succeeded =
                    succeeds(40, |e| (api.collate)(raw.as_ptr(), raw.len(), lambda, &options, &mut batch, e));
                assert!(!succeeded || samples.iter().all(|sample| sample.is_live));
                assert_eq!(succeeded, !batch.input_ids.is_null());
                train(handles, api, batch, &loss);
            }
            Call::DatasetOpen(choices, other, dataset) => {
                let paths = paths(&choices, |choice| FILES.records(choice), other);
                open_dataset(handles, &dataset, |tokenizer, options, out, e| {
                    (api.dataset_open)(paths.as_ptr(), paths.len(), tokenizer, options, out, e)
                });
            }
            Call::DatasetOpenArrow(records, dataset) => {
                let Some(mut stream) = stream_of(records) else { return };
                open_dataset(handles, &dataset, |tokenizer, options, out, e| {
                    (api.dataset_open_arrow)((&raw mut stream).cast(), tokenizer, options, out, e)
                });
                assert!(stream.release.is_none(), "the library takes the stream, even if the call fails");
            }
            Call::DatasetLen(choice) => {
                let dataset = handles.pick(Kind::Dataset, choice);
                assert!(dataset.is_live || (api.dataset_len)(dataset.raw.cast()) == 0);
            }
            Call::DatasetInfo(choice) => {
                let dataset = handles.pick(Kind::Dataset, choice);
                bytes(api, Some(dataset), |out, e| (api.dataset_info)(dataset.raw.cast(), out, e));
            }
            Call::DatasetSamples(choice) => {
                let dataset = handles.pick(Kind::Dataset, choice);
                tensor(Some(dataset), |out, e| (api.dataset_samples)(dataset.raw.cast(), out, e));
            }
            Call::DatasetBatch(choice, indices, collate, loss) => {
                let dataset = handles.pick(Kind::Dataset, choice);
                let indices: Vec<u64> = indices.iter().take(4).map(|index| u64::from(*index % 8)).collect();
                if !collate.has_room(indices.len(), num_dimensions(api, dataset)) {
                    return;
                }
                let (options, lambda) = (collate.options(), collate.lambda().as_ptr());
                let mut batch = sized::<abi::Batch>();
                succeeds_on(dataset, |e| {
                    let raw = dataset.raw.cast();
                    (api.dataset_batch)(raw, indices.as_ptr(), indices.len(), lambda, &options, &mut batch, e)
                });
                train(handles, api, batch, &loss);
            }
            Call::DatasetPrefetch(choice, indices, collate) => {
                let dataset = handles.pick(Kind::Dataset, choice);
                let indices: Vec<u64> = indices.iter().take(4).map(|index| u64::from(*index % 8)).collect();
                if collate.has_room(indices.len(), num_dimensions(api, dataset)) {
                    let (options, lambda) = (collate.options(), collate.lambda().as_ptr());
                    succeeds_on(dataset, |e| {
                        let raw = dataset.raw.cast();
                        (api.dataset_prefetch)(raw, indices.as_ptr(), indices.len(), lambda, &options, e)
                    });
                }
            }
            Call::ScheduleNew(schedule) => {
                let Some(options) = schedule.options() else { return };
                let mut opened = null_mut();
                succeeds(30, |e| (api.schedule_new)(&options, &mut opened, e));
                handles.keep(Kind::Schedule, opened);
            }
            Call::ScheduleDraws(choice, seed, number) => {
                let (schedule, mut lambda) = (handles.pick(Kind::Schedule, choice), [0.0; 8]);
                let raw = schedule.raw.cast_const().cast();
                let out = lambda.as_mut_ptr();
                if succeeds_on(schedule, |e| (api.schedule_draw_instance)(raw, seed, 2, number, out, e)) {
                    is_simplex(&lambda);
                }
                if succeeds_on(schedule, |e| (api.schedule_draw_step)(raw, seed, number, out, e)) {
                    is_simplex(&lambda);
                }
            }
            Call::RenormalizeLambda(descriptions) => {
                let mut lent = descriptions.map(|tensor| tensor.as_ref().map(Lent::new));
                let [offsets, mask, lambda] =
                    [0, 1, 2].map(|at: usize| lent[at].as_mut().map_or(null_mut(), |lent| lent.raw()));
                tensor(None, |out, e| (api.renormalize_lambda)(offsets, mask, lambda, out, e));
            }
            Call::LogProbs(loss) => {
                let (inputs, options) = (loss.inputs(), loss.options());
                let (mut token, mut sequence): (abi::Tensor, abi::Tensor) = (null_mut(), null_mut());
                let succeeded = succeeds(40, |e| (api.log_probs)(inputs.raw(), &options, &mut token, &mut sequence, e));
                assert_eq!(succeeded, !sequence.is_null());
                abi::tensor::free_tensor(token);
                abi::tensor::free_tensor(sequence);
            }
            Call::Loss(loss) => forward(handles, api, loss.inputs().raw(), &loss),
            Call::Backward(choice, loss) => {
                backward(api, handles.pick(Kind::Context, choice), loss.inputs().raw());
            }
            Call::Free(kind, choice) => {
                let kind = Kind::ALL[usize::from(kind) % Kind::ALL.len()];
                handles.free(kind, handles.pick(kind, choice));
            }
        }
    }
}

fn is_simplex(lambda: &[f64]) {
    let sum: f64 = lambda.iter().sum();
    assert!((sum - 1.0).abs() < 1e-6 && lambda.iter().all(|weight| *weight >= 0.0), "{lambda:?}");
}

fuzz_target!(init: ignore_library_panics(), |calls: Vec<Call>| {
    let mut api = null();
    // SAFETY: every pointer is valid for its description.
    unsafe {
        assert_eq!(lambda_dpo::lambda_dpo_get_api(abi::ABI_MAJOR, abi::ABI_MINOR, &mut api, null_mut()), 0);
        let api = &*api;
        let mut handles = Handles::new(api);
        for call in calls {
            make(api, &mut handles, call);
            // A long sequence of calls says no more than several short ones.
            if handles.num_live() > 64 {
                break;
            }
        }
    }
});
