//! Status codes, strings, errors and the other plain values.

use core::ffi::c_void;

use crate::DLManagedTensorVersioned;

/// Major version of the table: a library of another major is another interface.
pub const ABI_MAJOR: u32 = 1;
/// Minor version of the table: grows by one with every revision that adds functions or fields at an end.
pub const ABI_MINOR: u32 = 0;
/// Name of the one exported symbol (a [`GetApi`](crate::GetApi)).
pub const ENTRY_POINT: &str = "lambda_dpo_get_api";

/// What every call returns: [`STATUS_OK`] or what kind of failure the error's message tells of.
pub type Status = i32;
/// Done; outputs are filled.
pub const STATUS_OK: Status = 0;
/// An argument is NULL, out of range, of a wrong dtype or shape, or contradicts another.
pub const STATUS_INVALID_ARGUMENT: Status = 1;
/// A file is missing, unreadable, or could not be written.
pub const STATUS_IO: Status = 2;
/// A record, tokenizer or template does not parse or lacks a field.
pub const STATUS_INVALID_DATA: Status = 3;
/// A request that this version does not support: a newer table, a dtype, a device.
pub const STATUS_UNSUPPORTED: Status = 4;
/// libtorch refused: out of memory, a failing kernel.
pub const STATUS_TORCH: Status = 5;
/// A defect in the plugin: it panicked. The handle of the call is poisoned.
pub const STATUS_PANIC: Status = 6;
/// The handle was poisoned by an earlier [`STATUS_PANIC`], or a context was used a second time.
pub const STATUS_POISONED: Status = 7;
/// The progress callback asked to stop.
pub const STATUS_CANCELLED: Status = 8;

/// Borrowed UTF-8 text: pointer and length in bytes, not NUL-terminated. `data` may be NULL where `len` is 0.
///
/// Valid until the call returns when passed in; for the library's life when it comes out (only [`BuildInfo`](crate::BuildInfo) does that).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Str {
    /// First byte.
    pub data: *const u8,
    /// Length in bytes.
    pub len: usize,
}

/// Text or bytes owned by the caller, given by the plugin: hand it to `bytes_free` once.
#[repr(C)]
#[derive(Debug)]
pub struct Bytes {
    /// First byte; NULL where there is nothing (the end of a reader).
    pub data: *mut u8,
    /// Length in bytes.
    pub len: usize,
    /// The plugin's own.
    pub capacity: usize,
}

/// Where a failing call writes its sentence. Owned by the caller, who also owns `buffer`; every call takes it or NULL.
#[repr(C)]
#[derive(Debug)]
pub struct Error {
    /// `sizeof` of this struct as the caller knows it.
    pub struct_size: usize,
    /// Receives UTF-8, cut at a character where `capacity` is short; not NUL-terminated. May be NULL.
    pub buffer: *mut u8,
    /// Bytes that `buffer` holds.
    pub capacity: usize,
    /// Out: bytes of the whole message, which may exceed `capacity`. 0 after success.
    pub len: usize,
}

/// Called now and then during long work, on the thread of the call; a return other than 0 asks the call to stop, which
/// then fails with [`STATUS_CANCELLED`]. `total` is 0 where it is not known.
pub type Progress = Option<unsafe extern "C" fn(user: *mut c_void, done: u64, total: u64) -> i32>;

/// A tensor in or out; NULL where a field is optional.
///
/// In: borrowed for the call, its deleter is never called. Out: owned by the caller, who calls its deleter.
pub type Tensor = *mut DLManagedTensorVersioned;

/// The result of collation: tensors on the CPU, owned by the caller.
///
/// A field that the caller keeps is taken out by setting it to NULL; `batch_free` frees the others. R rows of T tokens,
/// B prompts, M dimensions, C candidate responses (the sum of N over the prompts), S sequences (C, or M·C in the expanded
/// layout), K target tokens. All integers are int64.
#[repr(C)]
#[derive(Debug)]
pub struct Batch {
    /// `sizeof` of this struct as the caller knows it.
    pub struct_size: usize,
    /// `[R, T]` token ids; the pad id where there is no token.
    pub input_ids: Tensor,
    /// `[R, T]` 1 at tokens, 0 at padding.
    pub attention_mask: Tensor,
    /// `[R, T]` position of each token in its own sequence (restarts after the prompt for each packed response).
    pub position_ids: Tensor,
    /// `[R, T]` the token itself where it is a target, −100 elsewhere.
    pub labels: Tensor,
    /// `[R, T]` which prompt of the batch a token belongs to, −1 at padding.
    pub prompt_ids: Tensor,
    /// `[R, T]` which sequence a response token belongs to, −1 at prompt tokens and padding.
    ///
    /// A token attends to itself and to those before it in its row that have the same prompt id and either the same
    /// sequence id or −1.
    pub sequence_ids: Tensor,
    /// `[K]` index into the flattened `[R·T]` of the position whose hidden state predicts each target.
    pub target_positions: Tensor,
    /// `[K]` the token to predict.
    pub target_ids: Tensor,
    /// `[K]` the sequence each target belongs to, ascending.
    pub target_sequences: Tensor,
    /// `[S]` number of target tokens of each sequence.
    pub sequence_num_tokens: Tensor,
    /// `[S]` which prompt of the batch each sequence answers.
    pub sequence_prompts: Tensor,
    /// `[S]` which response of its record each sequence is, counted before any were dropped.
    pub sequence_responses: Tensor,
    /// `[B + 1]` responses of prompt b are the columns `prompt_offsets[b] .. prompt_offsets[b + 1]` of the C.
    pub prompt_offsets: Tensor,
    /// `[M, C]` the sequence that stands for a response in a dimension: the same in all, but for the expanded layout.
    pub sequence_index: Tensor,
    /// `[M, C]` float32 target distribution of each dimension over each prompt's responses; 0 where masked.
    pub pi_target: Tensor,
    /// `[M, C]` bool: the dimension counts for this prompt and rates this response.
    pub target_mask: Tensor,
    /// `[B, M]` float32 λ' : λ renormalised over the dimensions that count for the prompt; all 0 where none has weight.
    pub lambda: Tensor,
    /// `[B]` position of each record in the concatenated inputs.
    pub record_indices: Tensor,
    /// Prompts with a dimension of positive weight: what the loss is a mean over.
    pub num_contributing: u64,
}

/// A linear layer's worth of inputs to log-probs and loss: exactly one of hidden states with LM head, logits, or
/// sequence log-probs, and the targets. All borrowed for the call.
///
/// R rows of T tokens and so on as in [`Batch`], H hidden size, V vocabulary size.
#[repr(C)]
#[derive(Debug)]
pub struct LossInputs {
    /// `sizeof` of this struct as the caller knows it.
    pub struct_size: usize,
    /// `[R, T, H]` or `[R·T, H]` final hidden states, after the last norm.
    pub hidden: Tensor,
    /// `[V, H]` weight of the LM head; goes with `hidden`.
    pub lm_head: Tensor,
    /// `[R, T, V]` or `[R·T, V]`.
    pub logits: Tensor,
    /// `[S]` finished sequence log-probs (sums, or means under the mean reduction); needs no targets.
    pub sequence_log_probs: Tensor,
    /// `[K]` int64, see [`Batch`].
    pub target_positions: Tensor,
    /// `[K]` int64, see [`Batch`].
    pub target_ids: Tensor,
    /// `[K]` int64, see [`Batch`].
    pub target_sequences: Tensor,
    /// S.
    pub num_sequences: u64,
    /// `[S]` sequence log-probs under the reference, reduced as the loss is told to; NULL is s^ref = 0.
    pub reference_log_probs: Tensor,
    /// `[B + 1]` int64; listwise objective only, as are the following.
    pub prompt_offsets: Tensor,
    /// `[M, C]` int64; NULL where response c is sequence c in every dimension.
    pub sequence_index: Tensor,
    /// `[M, C]` floating.
    pub pi_target: Tensor,
    /// `[M, C]` bool; NULL where every dimension rates every response.
    pub target_mask: Tensor,
    /// `[B, M]` floating.
    pub lambda: Tensor,
    /// The `cudaStream_t` on which the call's work is queued, for tensors on a CUDA device: they must be ready, and the
    /// outputs will be, in the stream's order. NULL stands for libtorch's current stream of the calling thread, as a
    /// trainer over PyTorch wants it; CUDA's own handles 1 and 2 for the legacy and the per-thread default stream.
    pub cuda_stream: *mut c_void,
}

/// What the loss's forward returns; tensors owned by the caller, on the device of the inputs.
#[repr(C)]
#[derive(Debug)]
pub struct LossOutputs {
    /// `sizeof` of this struct as the caller knows it.
    pub struct_size: usize,
    /// `[]` float64 the loss, divided by the normaliser.
    pub loss: Tensor,
    /// `[K]` float32 (float64 for float64 inputs); NULL where sequence log-probs came in.
    pub token_log_probs: Tensor,
    /// `[S]` sums (or means under the mean reduction), dtype as above.
    pub sequence_log_probs: Tensor,
    /// `[S]` float64 β (s − s^ref); NULL for the SFT objective, as are the following.
    pub rewards: Tensor,
    /// `[B]` float64 Σ_k λ'_k L^(k); 0 for a prompt that does not contribute.
    pub prompt_losses: Tensor,
    /// `[B, M]` float64 L^(k); 0 where the dimension does not count for the prompt.
    pub dimension_losses: Tensor,
    /// `[B, M]` bool: the dimension counts for the prompt.
    pub dimension_mask: Tensor,
    /// `[B]` float64: 1 where the response of highest reward is best under λ', ties sharing the credit.
    pub accuracies: Tensor,
    /// `[B, M]` float64: the same under each dimension's own target.
    pub dimension_accuracies: Tensor,
    /// `[B]` float64 reward of the best minus reward of the worst response under λ'.
    pub margins: Tensor,
}

/// What the loss's backward returns: gradients in their inputs' dtypes, NULL for those not asked for.
#[repr(C)]
#[derive(Debug)]
pub struct LossGradients {
    /// `sizeof` of this struct as the caller knows it.
    pub struct_size: usize,
    /// Shape of `hidden`.
    pub hidden: Tensor,
    /// `[V, H]`.
    pub lm_head: Tensor,
    /// Shape of `logits`.
    pub logits: Tensor,
    /// `[S]`.
    pub sequence_log_probs: Tensor,
}

/// What was built; strings live as long as the library.
#[repr(C)]
#[derive(Debug)]
pub struct BuildInfo {
    /// `sizeof` of this struct as the caller knows it.
    pub struct_size: usize,
    /// Version of the plugin.
    pub version: Str,
    /// Version of torch it was built against and must run with.
    pub torch_version: Str,
}
