//! The whole table with a careless caller: any sequence of its functions, with handles that are live, freed, of another
//! type or made up, options of any value, texts of any bytes, and tensors of any description over valid memory. Every call
//! must keep what `lambda_dpo_fuzz::checked` asks of it.
#![no_main]
#![expect(clippy::expect_used, reason = "a target cannot go on without its files")]

use std::path::PathBuf;
use std::ptr::{null, null_mut, without_provenance_mut};
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{RecordBatch, RecordBatchIterator};
use arrow_json::ReaderBuilder;
use arrow_json::reader::infer_json_schema;
use lambda_dpo_abi as abi;
use lambda_dpo_fuzz::checked::{bytes, succeeds, succeeds_on, tensor};
use lambda_dpo_fuzz::handles::{Handles, Kind, Picked};
use lambda_dpo_fuzz::ignore_library_panics;
use lambda_dpo_fuzz::lent::{Description, Lent};
use lambda_dpo_tests::table::{free_outputs, no_bytes, sized};
use libfuzzer_sys::fuzz_target;

/// Chooses one of a few values, or a handle.
type Choice = u8;

#[derive(Arbitrary, Debug)]
struct Convert<'a> {
    format: Choice,
    best_worst_pairs: Choice,
    dimensions: Option<Vec<&'a str>>,
    excluded: Option<Vec<&'a [u8]>>,
    missing_rating: f64,
    temperature: f64,
    max_samples: u8,
    keep_all: Choice,
    struct_size: Option<u8>,
}

#[derive(Arbitrary, Debug)]
struct Collate {
    lambda: [f64; 32],
    layout: Choice,
    max_tokens: u16,
    pad_to_multiple_of: u8,
}

#[derive(Arbitrary, Debug)]
struct Dataset<'a> {
    tokenizer: Choice,
    convert: Convert<'a>,
    cutoff_len: u8,
    keep_all: Choice,
    /// 0 to 99: no callback; then one that goes on, and one that stops.
    progress: Choice,
    has_cache: bool,
}

#[derive(Arbitrary, Debug)]
struct Schedule {
    kind: Choice,
    dimension: u8,
    num_dimensions: u8,
    alpha: f64,
    weights: Vec<f64>,
}

#[derive(Arbitrary, Debug)]
struct Loss {
    tensors: [Option<Description>; 14],
    num_sequences: u64,
    objective: Choice,
    reduction: Choice,
    beta: f64,
    label_smoothing: f64,
    simpo_gamma: f64,
    sft_weight: f64,
    normalizer: f64,
    logits_budget_bytes: u64,
    paper_exact: Choice,
    wants: Choice,
    cuda_stream: Choice,
}

#[derive(Arbitrary, Debug)]
enum Call<'a> {
    BuildInfo,
    ConvertRecord(&'a [u8], Convert<'a>),
    ReaderOpen(Vec<Choice>, &'a str, Convert<'a>),
    ReaderOpenArrow(&'a str, Convert<'a>),
    ReaderToArrow(Choice),
    /// The stream of one reader becomes the input of another.
    ReaderOfReader(Choice, Convert<'a>),
    ReaderNext(Choice),
    ReaderReport(Choice),
    TokenizerOpen(Choice, &'a str),
    TokenizerInfo(Choice),
    TokenizerRender(Choice, &'a [u8], Choice),
    TokenizerEncode(Choice, &'a [u8]),
    TokenizerDecode(Choice, Option<Description>, Choice),
    DecodeStreamNew(Choice, Choice),
    DecodeStreamStep(Choice, i16),
    DecodeStreamFinish(Choice),
    Tokenize(Choice, &'a [u8], u8, Choice),
    TokenizedSampleNew(&'a [u8]),
    TokenizedSampleTokens(Choice),
    Collate(Vec<Choice>, Box<Collate>, Box<Loss>),
    DatasetOpen(Vec<Choice>, &'a str, Box<Dataset<'a>>),
    DatasetOpenArrow(&'a str, Box<Dataset<'a>>),
    DatasetLen(Choice),
    DatasetInfo(Choice),
    DatasetSamples(Choice),
    DatasetBatch(Choice, Vec<u8>, Box<Collate>, Box<Loss>),
    DatasetPrefetch(Choice, Vec<u8>, Box<Collate>),
    ScheduleNew(Schedule),
    ScheduleDraws(Choice, u64, u64),
    RenormalizeLambda([Option<Description>; 3]),
    LogProbs(Box<Loss>),
    Loss(Box<Loss>),
    /// The backward of a context that another call has made, with inputs of its own.
    Backward(Choice, Box<Loss>),
    Free(Choice, Choice),
}

/// Files that calls may open.
static FILES: LazyLock<Files> = LazyLock::new(Files::make);

struct Files {
    folder: tempfile::TempDir,
    paths: Vec<PathBuf>,
}

impl Files {
    fn make() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let fixtures = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures"));
        let records = std::fs::read_to_string(fixtures.join("demo/records.jsonl")).expect("the demo's records");
        let few: Vec<&str> = records.lines().take(3).collect();
        let path = folder.path().join("few.jsonl");
        std::fs::write(&path, few.join("\n")).expect("a temporary file");
        let paths = vec![path, fixtures.join("tables/few.parquet"), fixtures.join("words"), folder.path().to_owned()];
        Self { folder, paths }
    }

    fn choose(&self, choice: Choice) -> abi::Str {
        let path = self.paths[usize::from(choice) % self.paths.len()].to_str().expect("UTF-8");
        text(path.as_bytes())
    }
}

fn text(bytes: &[u8]) -> abi::Str {
    abi::Str { data: bytes.as_ptr(), len: bytes.len() }
}

/// The options of a conversion, with the arrays they point to.
struct ConvertOptions {
    _dimensions: Option<Vec<abi::Str>>,
    _excluded: Option<Vec<abi::Str>>,
    raw: abi::ConvertOptions,
}

impl ConvertOptions {
    fn new(convert: &Convert) -> Self {
        let dimensions: Option<Vec<abi::Str>> =
            convert.dimensions.as_ref().map(|names| names.iter().map(|name| text(name.as_bytes())).collect());
        let excluded: Option<Vec<abi::Str>> =
            convert.excluded.as_ref().map(|names| names.iter().map(|name| text(name)).collect());
        let whole = size_of::<abi::ConvertOptions>();
        let raw = abi::ConvertOptions {
            struct_size: convert.struct_size.map_or(whole, usize::from).min(whole),
            format: u32::from(convert.format % 6),
            best_worst_pairs: u32::from(convert.best_worst_pairs % 3),
            dimensions: dimensions.as_ref().map_or(null(), Vec::as_ptr),
            num_dimensions: dimensions.as_ref().map_or(0, Vec::len),
            missing_rating: convert.missing_rating,
            temperature: convert.temperature,
            max_samples: convert.max_samples.into(),
            exclude_sources: excluded.as_ref().map_or(null(), Vec::as_ptr),
            num_exclude_sources: excluded.as_ref().map_or(0, Vec::len),
            keep_all: u32::from(convert.keep_all % 3),
            reserved: u32::from(convert.keep_all == 255),
        };
        Self { _dimensions: dimensions, _excluded: excluded, raw }
    }
}

impl Collate {
    fn options(&self) -> abi::CollateOptions {
        abi::CollateOptions {
            struct_size: size_of::<abi::CollateOptions>(),
            layout: u32::from(self.layout % 4),
            max_tokens: self.max_tokens.into(),
            pad_to_multiple_of: self.pad_to_multiple_of.into(),
            pad_token_id: 0,
        }
    }
}

/// Inputs of a loss, with the tensors they borrow.
struct Inputs {
    _lent: Vec<Option<Box<Lent>>>,
    raw: abi::LossInputs,
}

impl Loss {
    fn inputs(&self) -> Inputs {
        let mut lent: Vec<Option<Box<Lent>>> = self.tensors.iter().map(|t| t.as_ref().map(Lent::new)).collect();
        let mut raw = lent.iter_mut().map(|lent| lent.as_mut().map_or(null_mut(), |lent| lent.raw()));
        let mut next = || raw.next().unwrap_or(null_mut());
        let raw = abi::LossInputs {
            struct_size: size_of::<abi::LossInputs>(),
            hidden: next(),
            lm_head: next(),
            logits: next(),
            sequence_log_probs: next(),
            target_positions: next(),
            target_ids: next(),
            target_sequences: next(),
            num_sequences: if self.num_sequences < u64::MAX / 2 { self.num_sequences % 8 } else { self.num_sequences },
            prompt_offsets: next(),
            sequence_index: next(),
            pi_target: next(),
            target_mask: next(),
            lambda: next(),
            sequence_num_tokens: next(),
            ranks: next(),
            reference_log_probs: null_mut(),
            // Most are on the CPU, where there is no stream.
            cuda_stream: without_provenance_mut(usize::from(self.cuda_stream).saturating_sub(250)),
        };
        Inputs { _lent: lent, raw }
    }

    fn options(&self) -> abi::LossOptions {
        abi::LossOptions {
            objective: u32::from(self.objective % 9),
            reduction: u32::from(self.reduction % 3),
            beta: self.beta,
            label_smoothing: self.label_smoothing,
            simpo_gamma: self.simpo_gamma,
            sft_weight: self.sft_weight,
            normalizer: self.normalizer,
            logits_budget_bytes: self.logits_budget_bytes,
            paper_exact: u32::from(self.paper_exact % 3),
            wants: u32::from(self.wants % 32),
            // SAFETY: a struct of the ABI.
            ..unsafe { sized() }
        }
    }

    /// Computes the loss of inputs, keeps its context, and calls its backward twice at once if `wants` says so.
    fn forward(&self, handles: &mut Handles, api: &abi::Api, inputs: &abi::LossInputs) {
        let options = self.options();
        let mut context = null_mut();
        // SAFETY: every pointer is valid for its description; outputs are freed once.
        unsafe {
            let mut outputs = sized::<abi::LossOutputs>();
            let succeeded = succeeds(40, |e| (api.loss_forward)(inputs, &options, &mut outputs, &mut context, e));
            assert_eq!(succeeded, !outputs.loss.is_null());
            free_outputs(outputs);
            handles.keep(Kind::Context, context);
            if self.wants & 32 != 0 && !context.is_null() {
                let context = Picked { raw: context.cast(), is_live: true };
                let first = backward(api, context, inputs);
                assert!(!(first && backward(api, context, inputs)), "a context has served two backwards");
            }
        }
    }
}

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

/// Whether λ has room for the dimensions of all samples.
fn has_room(num_samples: usize, num_dimensions: usize, lambda: &[f64]) -> bool {
    num_samples.saturating_mul(num_dimensions) <= lambda.len()
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
        reference_log_probs: if loss.cuda_stream.is_multiple_of(2) { reference.raw() } else { null_mut() },
        prompt_offsets: batch.prompt_offsets,
        sequence_index: batch.sequence_index,
        pi_target: batch.pi_target,
        target_mask: batch.target_mask,
        ranks: batch.ranks,
        lambda: batch.lambda,
        // SAFETY: a struct of the ABI.
        ..unsafe { sized() }
    };
    loss.forward(handles, api, &inputs);
    // SAFETY: the batch is ours, and may be freed twice.
    unsafe {
        (api.batch_free)(&mut batch);
        (api.batch_free)(&mut batch);
    }
}

/// Records as an Arrow stream; None if the text is none.
fn stream_of(records: &str) -> Option<FFI_ArrowArrayStream> {
    let (schema, _) = infer_json_schema(records.as_bytes(), None).ok()?;
    let reader = ReaderBuilder::new(schema.into()).with_batch_size(2).build(records.as_bytes()).ok()?;
    let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>().ok()?;
    let schema = batches.first()?.schema();
    Some(FFI_ArrowArrayStream::new(Box::new(RecordBatchIterator::new(batches.into_iter().map(Ok), schema))))
}

unsafe extern "C" fn go_on(_: *mut std::ffi::c_void, _: u64, _: u64) -> i32 {
    0
}

unsafe extern "C" fn stop(_: *mut std::ffi::c_void, _: u64, _: u64) -> i32 {
    1
}

/// Makes `dataset_open` or `dataset_open_arrow`, with options that are valid during the call.
fn open_dataset(
    handles: &mut Handles,
    dataset: &Dataset,
    call: impl FnOnce(*const abi::Tokenizer, &abi::DatasetOptions, *mut *mut abi::Dataset, *mut abi::Error) -> abi::Status,
) {
    let convert = ConvertOptions::new(&dataset.convert);
    let tokenize = abi::TokenizeOptions {
        struct_size: size_of::<abi::TokenizeOptions>(),
        cutoff_len: dataset.cutoff_len.into(),
        keep_all: u32::from(dataset.keep_all % 3),
        reserved: 0,
    };
    let cache = FILES.folder.path().join("cache");
    let progress: abi::Progress = match dataset.progress {
        0..100 => None,
        100..200 => Some(go_on),
        _ => Some(stop),
    };
    let options = abi::DatasetOptions {
        struct_size: size_of::<abi::DatasetOptions>(),
        convert: &convert.raw,
        tokenize: &tokenize,
        progress,
        progress_user: null_mut(),
        cache_dir: if dataset.has_cache { text(cache.as_os_str().as_encoded_bytes()) } else { text(b"") },
    };
    let tokenizer = handles.pick(Kind::Tokenizer, dataset.tokenizer);
    let mut opened = null_mut();
    let succeeded = succeeds_on(tokenizer, |e| call(tokenizer.raw.cast(), &options, &mut opened, e));
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
                bytes(api, None, |out, e| (api.convert_record)(text(record), 0, &options.raw, out, e));
            }
            Call::ReaderOpen(choices, other, convert) => {
                let options = ConvertOptions::new(&convert);
                let choose = |choice: &Choice| {
                    if *choice < 240 { FILES.choose(*choice) } else { text(other.as_bytes()) }
                };
                let paths: Vec<abi::Str> = choices.iter().take(3).map(choose).collect();
                let mut reader = null_mut();
                succeeds(30, |e| (api.reader_open)(paths.as_ptr(), paths.len(), &options.raw, &mut reader, e));
                handles.keep(Kind::Reader, reader);
            }
            Call::ReaderOpenArrow(records, convert) => {
                let options = ConvertOptions::new(&convert);
                let Some(mut stream) = stream_of(records) else { return };
                let mut reader = null_mut();
                succeeds(30, |e| (api.reader_open_arrow)((&raw mut stream).cast(), &options.raw, &mut reader, e));
                assert!(stream.release.is_none(), "the library takes the stream, even if the call fails");
                handles.keep(Kind::Reader, reader);
            }
            Call::ReaderToArrow(choice) => {
                let (reader, mut stream) = (handles.pick(Kind::Reader, choice), FFI_ArrowArrayStream::empty());
                if succeeds_on(reader, |e| (api.reader_to_arrow)(reader.raw.cast(), (&raw mut stream).cast(), e)) {
                    let read = arrow_array::ffi_stream::ArrowArrayStreamReader::from_raw(&mut stream);
                    read.expect("a stream has a schema").for_each(drop);
                }
            }
            Call::ReaderOfReader(choice, convert) => {
                let (reader, mut stream) = (handles.pick(Kind::Reader, choice), FFI_ArrowArrayStream::empty());
                let options = ConvertOptions::new(&convert);
                if succeeds_on(reader, |e| (api.reader_to_arrow)(reader.raw.cast(), (&raw mut stream).cast(), e)) {
                    let mut opened = null_mut();
                    succeeds(30, |e| (api.reader_open_arrow)((&raw mut stream).cast(), &options.raw, &mut opened, e));
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
                let folder = FILES.choose(if choice < 200 { 2 } else { choice });
                let template = if choice.is_multiple_of(5) { text(template.as_bytes()) } else { text(b"") };
                succeeds(30, |e| (api.tokenizer_open)(folder, template, &mut tokenizer, e));
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
                let options = abi::TokenizeOptions {
                    struct_size: size_of::<abi::TokenizeOptions>(),
                    cutoff_len: cutoff_len.into(),
                    keep_all: u32::from(keep_all % 3),
                    reserved: 0,
                };
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
                let (options, lambda) = (collate.options(), collate.lambda.as_ptr());
                let mut batch = sized::<abi::Batch>();
                let succeeded =
                    succeeds(40, |e| (api.collate)(raw.as_ptr(), raw.len(), lambda, &options, &mut batch, e));
                assert!(!succeeded || samples.iter().all(|sample| sample.is_live));
                assert_eq!(succeeded, !batch.input_ids.is_null());
                train(handles, api, batch, &loss);
            }
            Call::DatasetOpen(choices, other, dataset) => {
                let choose = |choice: &Choice| {
                    if *choice < 240 { FILES.choose(choice % 2) } else { text(other.as_bytes()) }
                };
                let paths: Vec<abi::Str> = choices.iter().take(3).map(choose).collect();
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
                if !has_room(indices.len(), num_dimensions(api, dataset), &collate.lambda) {
                    return;
                }
                let (options, lambda) = (collate.options(), collate.lambda.as_ptr());
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
                if has_room(indices.len(), num_dimensions(api, dataset), &collate.lambda) {
                    let (options, lambda) = (collate.options(), collate.lambda.as_ptr());
                    succeeds_on(dataset, |e| {
                        let raw = dataset.raw.cast();
                        (api.dataset_prefetch)(raw, indices.as_ptr(), indices.len(), lambda, &options, e)
                    });
                }
            }
            Call::ScheduleNew(schedule) => {
                let m = usize::from(schedule.num_dimensions % 8);
                if schedule.weights.len() < m {
                    return;
                }
                let options = abi::ScheduleOptions {
                    struct_size: size_of::<abi::ScheduleOptions>(),
                    kind: u32::from(schedule.kind % 10),
                    dimension: schedule.dimension.into(),
                    num_dimensions: m,
                    alpha: schedule.alpha,
                    weights: schedule.weights.as_ptr(),
                    num_rows: schedule.weights.len() / m.max(1),
                    probabilities: schedule.weights.as_ptr(),
                };
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
                let succeeded = succeeds(40, |e| (api.log_probs)(&inputs.raw, &options, &mut token, &mut sequence, e));
                assert_eq!(succeeded, !sequence.is_null());
                abi::tensor::free_tensor(token);
                abi::tensor::free_tensor(sequence);
            }
            Call::Loss(loss) => loss.forward(handles, api, &loss.inputs().raw),
            Call::Backward(choice, loss) => {
                backward(api, handles.pick(Kind::Context, choice), &loss.inputs().raw);
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
