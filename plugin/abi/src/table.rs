//! The function table and the opaque handles it works on.

use crate::{
    ArrowArrayStream, Batch, BuildInfo, Bytes, CollateOptions, ConvertOptions, DatasetOptions, Error, LossGradients,
    LossInputs, LossOptions, LossOutputs, ScheduleOptions, Status, Str, Tensor, TokenizeOptions,
};

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Debug)]
            pub struct $name {
                _private: [u8; 0],
            }
        )*
    };
}

handles! {
    /// Streams samples out of record files or an Arrow stream. One thread at a time.
    Reader,
    /// A tokenizer with its chat template. Any number of threads at once.
    Tokenizer,
    /// One tokenised sample. Any number of threads at once.
    TokenizedSample,
    /// Tokenised records, ready to be batched. Any number of threads at once.
    Dataset,
    /// A λ schedule. Any number of threads at once.
    Schedule,
    /// What a backward needs from its forward. Used once, from any one thread.
    LossContext,
}

/// The type of the one exported symbol.
///
/// Writes the table that serves a caller compiled against (`major`, `minor`): equal majors, and a minor not above the
/// plugin's. The table is static and never freed.
pub type GetApi = unsafe extern "C" fn(major: u32, minor: u32, api: *mut *const Api, error: *mut Error) -> Status;

/// The function table, revision 1.0.
///
/// # Growth
///
/// The table, and every struct that starts with `struct_size`, only ever grows at its end. A table of a later minor
/// version serves callers of an earlier one, who do not look beyond what they know.
///
/// A caller sets `struct_size` to the struct's `sizeof` in the header it was compiled with, and zeroes what it does not
/// set. What a shorter struct leaves out counts as zero, which always stands for the behaviour before the field was
/// added; outputs beyond its end are not written (and nothing is left to free for them). The fields of revision 1.0
/// cannot be left out. A longer struct, from a header later than the plugin, is accepted where the fields that the
/// plugin does not know are all zero, and refused with [`STATUS_UNSUPPORTED`](crate::STATUS_UNSUPPORTED) else; of an
/// output struct the plugin leaves them as they are.
///
/// # Rules for every function
///
/// - Returns a status; on failure fills `error` (which may be NULL) with a sentence and leaves its outputs untouched.
/// - Arguments are borrowed for the call; what comes out is owned by the caller and freed by the function named beside it.
/// - Any thread may call; a handle says how many threads may use it at once.
/// - A handle is a number, not an address, and no number is given twice: one that was freed, or is of another kind, is
///   refused with [`STATUS_INVALID_ARGUMENT`](crate::STATUS_INVALID_ARGUMENT). Freeing NULL, or a second time, does nothing.
/// - A panic inside becomes [`STATUS_PANIC`](crate::STATUS_PANIC) and poisons the handle; the process lives.
#[repr(C)]
#[derive(Debug)]
pub struct Api {
    /// `sizeof` of this table as the plugin knows it.
    pub struct_size: usize,
    /// [`ABI_MAJOR`](crate::ABI_MAJOR) of the plugin.
    pub major: u32,
    /// [`ABI_MINOR`](crate::ABI_MINOR) of the plugin.
    pub minor: u32,

    /// Tells what was built.
    pub build_info: unsafe extern "C" fn(info: *mut BuildInfo, error: *mut Error) -> Status,
    /// Frees bytes that the plugin gave, and sets them to NULL and 0.
    pub bytes_free: unsafe extern "C" fn(bytes: *mut Bytes),

    /// Converts one record (JSON) to one sample (JSON). `record_index` is for messages and becomes the sample's.
    /// A record that the options filter out gives NULL bytes.
    pub convert_record: unsafe extern "C" fn(
        record: Str,
        record_index: u64,
        options: *const ConvertOptions,
        sample: *mut Bytes,
        error: *mut Error,
    ) -> Status,

    /// Opens record files (JSON array, JSON lines, Parquet) for streaming. Free with `reader_free`.
    pub reader_open: unsafe extern "C" fn(
        paths: *const Str,
        num_paths: usize,
        options: *const ConvertOptions,
        reader: *mut *mut Reader,
        error: *mut Error,
    ) -> Status,
    /// Opens an Arrow C stream of records: structs and lists as Parquet files hold them. Free with `reader_free`.
    ///
    /// The plugin takes the stream over, and releases it, even where the call fails, unless `stream` itself is refused
    /// (NULL, or released already). Its callbacks are called during `reader_next` and by the stream of
    /// `reader_to_arrow`. Where the options name no dimensions, the schema must: annotations are then a struct.
    pub reader_open_arrow: unsafe extern "C" fn(
        stream: *mut ArrowArrayStream,
        options: *const ConvertOptions,
        reader: *mut *mut Reader,
        error: *mut Error,
    ) -> Status,
    /// Gives the samples that a reader has left as an Arrow C stream, in batches, read as they are asked for.
    ///
    /// Columns: `prompt` (list of {role, content}; a text is one user turn), `responses` and `dimensions` (lists of utf8),
    /// `ratings` and `pi_target` (`[M][N]` lists of float64, null where missing and where masked), `record` (uint64).
    /// `stream` is overwritten; the caller calls its `release`. It may outlive the reader; both draw on the same samples.
    /// A failure inside it is an `errno` code, with the sentence from `get_last_error`; nothing follows it.
    pub reader_to_arrow:
        unsafe extern "C" fn(reader: *mut Reader, stream: *mut ArrowArrayStream, error: *mut Error) -> Status,
    /// Gives the next sample as JSON; NULL bytes at the end.
    pub reader_next: unsafe extern "C" fn(reader: *mut Reader, sample: *mut Bytes, error: *mut Error) -> Status,
    /// Gives the counts so far as JSON: records read, samples given, skipped by reason, missing ratings by kind.
    pub reader_report: unsafe extern "C" fn(reader: *const Reader, report: *mut Bytes, error: *mut Error) -> Status,
    /// Frees a reader.
    pub reader_free: unsafe extern "C" fn(reader: *mut Reader),

    /// Opens the tokenizer of a model folder (`tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`).
    /// `chat_template` is the path of a template that takes the place of the folder's own, or empty. Free with
    /// `tokenizer_free`.
    pub tokenizer_open: unsafe extern "C" fn(
        folder: Str,
        chat_template: Str,
        tokenizer: *mut *mut Tokenizer,
        error: *mut Error,
    ) -> Status,
    /// Gives JSON: `vocab_size`, `bos_token_id`, `eos_token_id`, `pad_token_id` (null where there is none),
    /// `has_chat_template`.
    pub tokenizer_info:
        unsafe extern "C" fn(tokenizer: *const Tokenizer, info: *mut Bytes, error: *mut Error) -> Status,
    /// Renders messages (a JSON list of `{role, content}`) with the chat template.
    pub tokenizer_render: unsafe extern "C" fn(
        tokenizer: *const Tokenizer,
        messages: Str,
        add_generation_prompt: u32,
        text: *mut Bytes,
        error: *mut Error,
    ) -> Status,
    /// Encodes text as it stands (special tokens in it are recognised, none are added) to `[num_tokens]` int64.
    pub tokenizer_encode:
        unsafe extern "C" fn(tokenizer: *const Tokenizer, text: Str, ids: *mut Tensor, error: *mut Error) -> Status,
    /// Decodes `[num_tokens]` int64 to text.
    pub tokenizer_decode: unsafe extern "C" fn(
        tokenizer: *const Tokenizer,
        ids: Tensor,
        skip_special_tokens: u32,
        text: *mut Bytes,
        error: *mut Error,
    ) -> Status,
    /// Frees a tokenizer; datasets made with it live on.
    pub tokenizer_free: unsafe extern "C" fn(tokenizer: *mut Tokenizer),

    /// Tokenises one sample (JSON, as `convert_record` gives it); NULL where nothing is left of it. Free with
    /// `tokenized_sample_free`.
    pub tokenize: unsafe extern "C" fn(
        tokenizer: *const Tokenizer,
        sample: Str,
        options: *const TokenizeOptions,
        tokenized: *mut *mut TokenizedSample,
        error: *mut Error,
    ) -> Status,
    /// Takes a sample that another tokenizer made, as JSON: `record` (its index), `prompt_ids`, `response_ids` (lists of
    /// token ids), `response_indices` (which response of the record each is) and `pi_target` (`[M][N]`, null where masked).
    /// Free with `tokenized_sample_free`.
    pub tokenized_sample_new:
        unsafe extern "C" fn(tokens: Str, tokenized: *mut *mut TokenizedSample, error: *mut Error) -> Status,
    /// Gives a sample's tokens as such JSON, for a store of the caller's. A conversation is refused.
    pub tokenized_sample_tokens:
        unsafe extern "C" fn(sample: *const TokenizedSample, tokens: *mut Bytes, error: *mut Error) -> Status,
    /// Frees a tokenised sample.
    pub tokenized_sample_free: unsafe extern "C" fn(sample: *mut TokenizedSample),
    /// Collates samples; `lambda` is `[num_samples, M]` (NULL where M = 0). Free with `batch_free`.
    pub collate: unsafe extern "C" fn(
        samples: *const *const TokenizedSample,
        num_samples: usize,
        lambda: *const f64,
        options: *const CollateOptions,
        batch: *mut Batch,
        error: *mut Error,
    ) -> Status,
    /// Frees the tensors that are still in a batch, and sets them to NULL.
    pub batch_free: unsafe extern "C" fn(batch: *mut Batch),

    /// Reads, converts and tokenises record files, in parallel, or takes what an earlier opening left in
    /// `options.cache_dir`. The samples stay on disk. Free with `dataset_free`.
    pub dataset_open: unsafe extern "C" fn(
        paths: *const Str,
        num_paths: usize,
        tokenizer: *const Tokenizer,
        options: *const DatasetOptions,
        dataset: *mut *mut Dataset,
        error: *mut Error,
    ) -> Status,
    /// As `dataset_open`, of an Arrow C stream of records, which is taken over as by `reader_open_arrow`; its callbacks are
    /// called during this call alone. `options.cache_dir` must be empty: what a stream holds is known at its end only.
    pub dataset_open_arrow: unsafe extern "C" fn(
        stream: *mut ArrowArrayStream,
        tokenizer: *const Tokenizer,
        options: *const DatasetOptions,
        dataset: *mut *mut Dataset,
        error: *mut Error,
    ) -> Status,
    /// Gives the number of samples, or 0 for NULL.
    pub dataset_len: unsafe extern "C" fn(dataset: *const Dataset) -> u64,
    /// Gives JSON: `dimensions` (names in order), `report` (as `reader_report`, with truncated and dropped ones), `hash` (of
    /// all samples, targets included) and `cache`: null, or `path`, `was_read` (the tokens came from it) and `damage` (why a
    /// file that stood there was made anew, or null).
    pub dataset_info: unsafe extern "C" fn(dataset: *const Dataset, info: *mut Bytes, error: *mut Error) -> Status,
    /// Gives `[len, 5]` int64: each sample's record index, number of responses, number of tokens (prompt once), and the two
    /// halves of a 128-bit hash of its tokens and their targets, ratings aside: all that log-probs are a function of besides
    /// the model.
    pub dataset_samples:
        unsafe extern "C" fn(dataset: *const Dataset, samples: *mut Tensor, error: *mut Error) -> Status,
    /// Collates the samples at `indices` (each below the length), or takes what `dataset_prefetch` has collated of the same
    /// arguments; `lambda` is `[num_indices, M]`. Free with `batch_free`.
    pub dataset_batch: unsafe extern "C" fn(
        dataset: *const Dataset,
        indices: *const u64,
        num_indices: usize,
        lambda: *const f64,
        options: *const CollateOptions,
        batch: *mut Batch,
        error: *mut Error,
    ) -> Status,
    /// Asks for a batch to be collated ahead, on a thread of the dataset's, for a `dataset_batch` of the same arguments
    /// soon; returns at once. Up to [`PREFETCH_CAPACITY`](crate::PREFETCH_CAPACITY) batches are held, of more the oldest are
    /// given up. Nothing depends on it but time: what is wrong with a batch is told by `dataset_batch`.
    pub dataset_prefetch: unsafe extern "C" fn(
        dataset: *const Dataset,
        indices: *const u64,
        num_indices: usize,
        lambda: *const f64,
        options: *const CollateOptions,
        error: *mut Error,
    ) -> Status,
    /// Frees a dataset, after its thread has ended.
    pub dataset_free: unsafe extern "C" fn(dataset: *mut Dataset),

    /// Makes a λ schedule. Free with `schedule_free`.
    pub schedule_new: unsafe extern "C" fn(
        options: *const ScheduleOptions,
        schedule: *mut *mut Schedule,
        error: *mut Error,
    ) -> Status,
    /// Draws λ `[M]` for one prompt instance: a pure function of its arguments.
    pub schedule_draw_instance: unsafe extern "C" fn(
        schedule: *const Schedule,
        seed: u64,
        epoch: u64,
        record_index: u64,
        lambda: *mut f64,
        error: *mut Error,
    ) -> Status,
    /// Draws λ `[M]` for one optimiser step: a pure function of its arguments.
    pub schedule_draw_step: unsafe extern "C" fn(
        schedule: *const Schedule,
        seed: u64,
        global_step: u64,
        lambda: *mut f64,
        error: *mut Error,
    ) -> Status,
    /// Frees a schedule.
    pub schedule_free: unsafe extern "C" fn(schedule: *mut Schedule),

    /// Token log-probs `[K]` and sequence log-probs `[S]` without a loss; `options.reduction` holds, no gradient is kept.
    pub log_probs: unsafe extern "C" fn(
        inputs: *const LossInputs,
        options: *const LossOptions,
        token_log_probs: *mut Tensor,
        sequence_log_probs: *mut Tensor,
        error: *mut Error,
    ) -> Status,
    /// The loss. `context` may be NULL where `options.wants` is 0; else free it with `loss_context_free`, after its
    /// backward or instead of it.
    pub loss_forward: unsafe extern "C" fn(
        inputs: *const LossInputs,
        options: *const LossOptions,
        outputs: *mut LossOutputs,
        context: *mut *mut LossContext,
        error: *mut Error,
    ) -> Status,
    /// Gradients of `grad_output` · loss. `inputs` are those of the forward, unchanged, with its `cuda_stream`; a context
    /// serves one backward.
    pub loss_backward: unsafe extern "C" fn(
        context: *mut LossContext,
        inputs: *const LossInputs,
        grad_output: f64,
        gradients: *mut LossGradients,
        error: *mut Error,
    ) -> Status,
    /// Frees a context, used or not.
    pub loss_context_free: unsafe extern "C" fn(context: *mut LossContext),
}

// The table is immutable and its pointers are functions.
// SAFETY: nothing in it can be written through.
unsafe impl Sync for Api {}
