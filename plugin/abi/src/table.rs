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
    /// A text whose tokens come one by one. One thread at a time.
    DecodeStream,
    /// One tokenised sample. Any number of threads at once.
    TokenizedSample,
    /// Tokenised records, ready to be batched. Any number of threads at once.
    Dataset,
    /// A λ schedule. Any number of threads at once.
    Schedule,
    /// State that a backward needs from its forward. Used once, from any thread.
    LossContext,
}

/// Type of the only exported symbol.
///
/// Writes the table for a caller that was compiled against (`major`, `minor`). The major must equal the plugin's, the
/// minor must not exceed it. The table is static and never freed.
pub type GetApi = unsafe extern "C" fn(major: u32, minor: u32, api: *mut *const Api, error: *mut Error) -> Status;

/// The function table, revision 1.0.
///
/// # Growth
///
/// The table, and every struct that starts with `struct_size`, grows only at its end. A table of a later minor version
/// serves callers of an earlier one, which do not look beyond the fields they know.
///
/// A caller sets `struct_size` to the `sizeof` of the struct in the header it was compiled with, and zeroes the fields
/// it does not use. Fields beyond the end of a shorter struct count as zero, which always means the behaviour from
/// before the field was added; outputs beyond its end are not written (and leave nothing to free). The fields of
/// revision 1.0 are required. A longer struct, from a header that is newer than the plugin, is accepted if the fields
/// that the plugin does not know are all zero, and rejected with [`STATUS_UNSUPPORTED`](crate::STATUS_UNSUPPORTED)
/// otherwise; in an output struct the plugin leaves those fields unchanged.
///
/// # Rules for every function
///
/// - It returns a status. On failure it fills `error` (which may be NULL) with a message and leaves its outputs
///   unchanged.
/// - Arguments are borrowed for the call. Outputs are owned by the caller and freed by the function that its comment
///   names.
/// - Any thread may call it. The comment of a handle's type says how many threads may use one at a time.
/// - A handle is a number, not an address, and no number is used twice: a handle that was freed, or is of another type,
///   is rejected with [`STATUS_INVALID_ARGUMENT`](crate::STATUS_INVALID_ARGUMENT). Freeing NULL, or a handle that was
///   freed before, does nothing.
/// - A panic inside becomes [`STATUS_PANIC`](crate::STATUS_PANIC) and poisons the handle; the process goes on.
#[repr(C)]
#[derive(Debug)]
pub struct Api {
    /// `sizeof` of this table as the plugin knows it.
    pub struct_size: usize,
    /// [`ABI_MAJOR`](crate::ABI_MAJOR) of the plugin.
    pub major: u32,
    /// [`ABI_MINOR`](crate::ABI_MINOR) of the plugin.
    pub minor: u32,

    /// Returns the versions of the library and of its torch.
    pub build_info: unsafe extern "C" fn(info: *mut BuildInfo, error: *mut Error) -> Status,
    /// Frees bytes that the plugin returned, and sets them to NULL and 0.
    pub bytes_free: unsafe extern "C" fn(bytes: *mut Bytes),

    /// Converts one record (JSON) to one sample (JSON). `record_index` is for messages and becomes the sample's index.
    /// Returns NULL bytes if the options filter the record out.
    pub convert_record: unsafe extern "C" fn(
        record: Str,
        record_index: u64,
        options: *const ConvertOptions,
        sample: *mut Bytes,
        error: *mut Error,
    ) -> Status,

    /// Opens record files (JSON array, JSON lines, Parquet; compressed with gzip or zstd, too) for streaming. Free with
    /// `reader_free`.
    pub reader_open: unsafe extern "C" fn(
        paths: *const Str,
        num_paths: usize,
        options: *const ConvertOptions,
        reader: *mut *mut Reader,
        error: *mut Error,
    ) -> Status,
    /// Opens an Arrow C stream of records: structs and lists as Parquet files hold them. Free with `reader_free`.
    ///
    /// The plugin takes ownership of the stream and releases it, even if the call fails, unless `stream` itself is
    /// invalid (NULL, or released already). Its callbacks are called during `reader_next` and by the stream of
    /// `reader_to_arrow`. If the options name no dimensions, the schema must: annotations or rankings are then a struct.
    pub reader_open_arrow: unsafe extern "C" fn(
        stream: *mut ArrowArrayStream,
        options: *const ConvertOptions,
        reader: *mut *mut Reader,
        error: *mut Error,
    ) -> Status,
    /// Returns the remaining samples of a reader as an Arrow C stream, in batches that are read on demand.
    ///
    /// Columns: `prompt` (list of {role, content}; a text is one user turn), `responses` and `dimensions` (lists of
    /// utf8), `ratings` and `pi_target` (`[M][N]` lists of float64, null if missing or masked), `record` (uint64),
    /// `tools` (utf8: a JSON list, null without tools). A turn with fields beyond {role, content} is a failure. `stream`
    /// is overwritten; the caller calls its `release`. It may outlive the reader, and both read the same samples. A
    /// failure inside it is an `errno` code, with a message from `get_last_error`; the stream ends there.
    pub reader_to_arrow:
        unsafe extern "C" fn(reader: *mut Reader, stream: *mut ArrowArrayStream, error: *mut Error) -> Status,
    /// Returns the next sample as JSON; NULL bytes at the end.
    pub reader_next: unsafe extern "C" fn(reader: *mut Reader, sample: *mut Bytes, error: *mut Error) -> Status,
    /// Returns the counts so far as JSON: records read, samples returned, skipped by reason, missing ratings by kind,
    /// fields without effect.
    pub reader_report: unsafe extern "C" fn(reader: *const Reader, report: *mut Bytes, error: *mut Error) -> Status,
    /// Frees a reader.
    pub reader_free: unsafe extern "C" fn(reader: *mut Reader),

    /// Opens the tokenizer of a model folder (`tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`).
    /// `chat_template` is the path of a template to use instead of the folder's own, or empty. Free with
    /// `tokenizer_free`.
    pub tokenizer_open: unsafe extern "C" fn(
        folder: Str,
        chat_template: Str,
        tokenizer: *mut *mut Tokenizer,
        error: *mut Error,
    ) -> Status,
    /// Returns JSON: `vocab_size`, `bos_token_id`, `eos_token_id`, `pad_token_id` (null if there is none),
    /// `has_chat_template`.
    pub tokenizer_info:
        unsafe extern "C" fn(tokenizer: *const Tokenizer, info: *mut Bytes, error: *mut Error) -> Status,
    /// Renders messages (a JSON list of `{role, content}`, whose other fields the template sees) with the chat template.
    pub tokenizer_render: unsafe extern "C" fn(
        tokenizer: *const Tokenizer,
        messages: Str,
        add_generation_prompt: u32,
        text: *mut Bytes,
        error: *mut Error,
    ) -> Status,
    /// Encodes text as it is (special tokens in it are recognised, none are added) to `[num_tokens]` int64.
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
    /// Frees a tokenizer; datasets and decode streams made with it stay usable.
    pub tokenizer_free: unsafe extern "C" fn(tokenizer: *mut Tokenizer),

    /// Begins a text whose tokens come one by one. The pieces that `decode_stream_step` and `decode_stream_finish` return
    /// are whole characters, and joined they are what `tokenizer_decode` makes of all tokens. Free with
    /// `decode_stream_free`.
    pub decode_stream_new: unsafe extern "C" fn(
        tokenizer: *const Tokenizer,
        skip_special_tokens: u32,
        stream: *mut *mut DecodeStream,
        error: *mut Error,
    ) -> Status,
    /// Adds a token and returns the text that is complete with it; NULL bytes if none is. Text is held back while the
    /// next tokens may change it: a character of which bytes are missing, and tokens that each stand for one byte
    /// (`<0xE2>`) until another token follows.
    pub decode_stream_step:
        unsafe extern "C" fn(stream: *mut DecodeStream, id: i64, text: *mut Bytes, error: *mut Error) -> Status,
    /// Returns the text that was held back, with U+FFFD for bytes that are no whole character; NULL bytes if there is
    /// none. The stream can then be used for another text.
    pub decode_stream_finish:
        unsafe extern "C" fn(stream: *mut DecodeStream, text: *mut Bytes, error: *mut Error) -> Status,
    /// Frees a decode stream.
    pub decode_stream_free: unsafe extern "C" fn(stream: *mut DecodeStream),

    /// Tokenises one sample (JSON, as `convert_record` returns it). Returns NULL if nothing is left of it. Free with
    /// `tokenized_sample_free`.
    pub tokenize: unsafe extern "C" fn(
        tokenizer: *const Tokenizer,
        sample: Str,
        options: *const TokenizeOptions,
        tokenized: *mut *mut TokenizedSample,
        error: *mut Error,
    ) -> Status,
    /// Creates a sample from tokens of another tokenizer, as JSON: `record` (its index), `prompt_ids`, `response_ids`
    /// (lists of token ids), `response_indices` (the index of each response in the record), `pi_target` (`[M][N]`, null
    /// if masked) and, optionally, `ranks` (`[M][N]` as in [`Batch`], 0 if masked; without them, the order is that of
    /// `pi_target`). Free with `tokenized_sample_free`.
    pub tokenized_sample_new:
        unsafe extern "C" fn(tokens: Str, tokenized: *mut *mut TokenizedSample, error: *mut Error) -> Status,
    /// Returns a sample's tokens in the JSON of `tokenized_sample_new`, for the caller to store. Fails for a
    /// conversation.
    pub tokenized_sample_tokens:
        unsafe extern "C" fn(sample: *const TokenizedSample, tokens: *mut Bytes, error: *mut Error) -> Status,
    /// Frees a tokenised sample.
    pub tokenized_sample_free: unsafe extern "C" fn(sample: *mut TokenizedSample),
    /// Collates samples; `lambda` is `[num_samples, M]` (NULL if M = 0). Free with `batch_free`.
    pub collate: unsafe extern "C" fn(
        samples: *const *const TokenizedSample,
        num_samples: usize,
        lambda: *const f64,
        options: *const CollateOptions,
        batch: *mut Batch,
        error: *mut Error,
    ) -> Status,
    /// Frees the tensors that are still in a batch, and sets its fields to NULL.
    pub batch_free: unsafe extern "C" fn(batch: *mut Batch),

    /// Reads, converts and tokenises record files, in parallel, or uses what an earlier call kept in
    /// `options.cache_dir`. The samples stay on disk. Free with `dataset_free`.
    pub dataset_open: unsafe extern "C" fn(
        paths: *const Str,
        num_paths: usize,
        tokenizer: *const Tokenizer,
        options: *const DatasetOptions,
        dataset: *mut *mut Dataset,
        error: *mut Error,
    ) -> Status,
    /// Like `dataset_open`, from an Arrow C stream of records, of which it takes ownership as `reader_open_arrow` does;
    /// its callbacks are called only during this call. `options.cache_dir` must be empty: a stream's contents are known
    /// only at its end.
    pub dataset_open_arrow: unsafe extern "C" fn(
        stream: *mut ArrowArrayStream,
        tokenizer: *const Tokenizer,
        options: *const DatasetOptions,
        dataset: *mut *mut Dataset,
        error: *mut Error,
    ) -> Status,
    /// Returns the number of samples, or 0 for NULL.
    pub dataset_len: unsafe extern "C" fn(dataset: *const Dataset) -> u64,
    /// Returns JSON: `dimensions` (names in order), `report` (as from `reader_report`, with truncated samples and
    /// dropped responses), `hash` (of all samples, targets included), `longest_sequence` (tokens of the longest prompt with
    /// one of its responses) and `cache`: null, or `path`, `was_read` (whether the tokens came from it) and `damage` (why
    /// an existing file was replaced, or null).
    pub dataset_info: unsafe extern "C" fn(dataset: *const Dataset, info: *mut Bytes, error: *mut Error) -> Status,
    /// Returns `[len, 5]` int64: each sample's record index, number of responses, number of tokens (with the prompt
    /// once), and the two halves of a 128-bit hash of its tokens and their targets but not its ratings: everything that
    /// its log-probs depend on besides the model.
    pub dataset_samples:
        unsafe extern "C" fn(dataset: *const Dataset, samples: *mut Tensor, error: *mut Error) -> Status,
    /// Collates the samples at `indices` (each below the length), or returns the batch that `dataset_prefetch` has
    /// collated from the same arguments; `lambda` is `[num_indices, M]`. Free with `batch_free`.
    pub dataset_batch: unsafe extern "C" fn(
        dataset: *const Dataset,
        indices: *const u64,
        num_indices: usize,
        lambda: *const f64,
        options: *const CollateOptions,
        batch: *mut Batch,
        error: *mut Error,
    ) -> Status,
    /// Starts to collate a batch on the dataset's own thread, for a later `dataset_batch` with the same arguments, and
    /// returns immediately. Up to [`PREFETCH_CAPACITY`](crate::PREFETCH_CAPACITY) batches are held; beyond that the
    /// oldest are dropped. This affects only speed: errors of a batch are reported by `dataset_batch`.
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

    /// Creates a λ schedule. Free with `schedule_free`.
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
    /// Returns λ' `[B, M]` float32 for a batch whose λ `[B, M]` (floating point) is drawn after it was collated: λ over
    /// the dimensions that count for each prompt, scaled to sum to 1 again; all 0 if none of them has weight.
    /// `prompt_offsets` and `target_mask` are the batch's. The result is on the CPU.
    pub renormalize_lambda: unsafe extern "C" fn(
        prompt_offsets: Tensor,
        target_mask: Tensor,
        lambda: Tensor,
        renormalized: *mut Tensor,
        error: *mut Error,
    ) -> Status,

    /// Computes token log-probs `[K]` and sequence log-probs `[S]`, on the CPU, without a loss. Of the options, the
    /// reduction and the budget apply; nothing is kept for a backward.
    pub log_probs: unsafe extern "C" fn(
        inputs: *const LossInputs,
        options: *const LossOptions,
        token_log_probs: *mut Tensor,
        sequence_log_probs: *mut Tensor,
        error: *mut Error,
    ) -> Status,
    /// Computes the loss. `context` may be NULL if `options.wants` is 0; otherwise free it with `loss_context_free`,
    /// after its backward or without one.
    pub loss_forward: unsafe extern "C" fn(
        inputs: *const LossInputs,
        options: *const LossOptions,
        outputs: *mut LossOutputs,
        context: *mut *mut LossContext,
        error: *mut Error,
    ) -> Status,
    /// Computes the gradients of `grad_output` · loss. `inputs` are those of the forward, unchanged, with the same
    /// `cuda_stream`. A context serves one backward; a call that rejects its inputs leaves it as it was.
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
