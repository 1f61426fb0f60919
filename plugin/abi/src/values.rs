//! Status codes, strings, errors and the other plain values.

use core::ffi::c_void;

use crate::DLManagedTensorVersioned;

/// Major version of the table: libraries of different major versions are incompatible.
pub const ABI_MAJOR: u32 = 1;
/// Minor version of the table: grows by one with every revision that appends functions or fields.
pub const ABI_MINOR: u32 = 0;
/// Name of the one exported symbol (a [`GetApi`](crate::GetApi)).
pub const ENTRY_POINT: &str = "lambda_dpo_get_api";

/// Result of a call: [`STATUS_OK`], or the kind of failure that the error message describes.
pub type Status = i32;
/// Success; outputs are filled.
pub const STATUS_OK: Status = 0;
/// An argument is NULL, out of range, of a wrong dtype or shape, or contradicts another.
pub const STATUS_INVALID_ARGUMENT: Status = 1;
/// A file is missing, unreadable, or could not be written.
pub const STATUS_IO: Status = 2;
/// A record, tokenizer or template does not parse or lacks a field.
pub const STATUS_INVALID_DATA: Status = 3;
/// A request that this version does not support: a newer table, a dtype, a device.
pub const STATUS_UNSUPPORTED: Status = 4;
/// libtorch failed: out of memory, or an error in a kernel.
pub const STATUS_TORCH: Status = 5;
/// A bug in the plugin: it panicked. The handle of the call is poisoned.
pub const STATUS_PANIC: Status = 6;
/// The handle was poisoned by an earlier [`STATUS_PANIC`], or a context was used a second time.
pub const STATUS_POISONED: Status = 7;
/// The progress callback asked to stop.
pub const STATUS_CANCELLED: Status = 8;

/// Borrowed UTF-8 text: pointer and length in bytes, not NUL-terminated. `data` may be NULL if `len` is 0.
///
/// An argument must stay valid until the call returns. Text in an output (only [`BuildInfo`](crate::BuildInfo) has any)
/// lives as long as the library.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Str {
    /// First byte.
    pub data: *const u8,
    /// Length in bytes.
    pub len: usize,
}

/// Text or bytes that the plugin returns and the caller owns: pass it to `bytes_free` once.
#[repr(C)]
#[derive(Debug)]
pub struct Bytes {
    /// First byte; NULL if there is nothing (at the end of a reader).
    pub data: *mut u8,
    /// Length in bytes.
    pub len: usize,
    /// Private to the plugin.
    pub capacity: usize,
}

/// Receives the message of a failed call. The caller owns it and its `buffer`; every call accepts NULL instead.
#[repr(C)]
#[derive(Debug)]
pub struct Error {
    /// `sizeof` of this struct as the caller knows it.
    pub struct_size: usize,
    /// Receives UTF-8, truncated between characters if `capacity` is too small; not NUL-terminated. May be NULL.
    pub buffer: *mut u8,
    /// Size of `buffer` in bytes.
    pub capacity: usize,
    /// Out: length of the whole message in bytes, which may exceed `capacity`; 0 on success.
    pub len: usize,
}

/// Called from time to time during long work, on the thread of the call. A return value other than 0 asks the call to
/// stop, which then fails with [`STATUS_CANCELLED`]. `total` is 0 if it is not known.
pub type Progress = Option<unsafe extern "C" fn(user: *mut c_void, done: u64, total: u64) -> i32>;

/// A tensor, in or out; NULL if it is optional and absent.
///
/// In: borrowed for the call, its deleter is never called. Out: owned by the caller, who calls its deleter.
pub type Tensor = *mut DLManagedTensorVersioned;

/// The result of collation: tensors on the CPU, owned by the caller.
///
/// To keep a tensor, copy its pointer and set the field to NULL; `batch_free` frees the others. R rows of T tokens, B
/// prompts, M dimensions, C candidate responses (the sum of N over the prompts), S sequences (C, or M·C in the expanded
/// layout), K target tokens. All integers are int64.
#[repr(C)]
#[derive(Debug)]
pub struct Batch {
    /// `sizeof` of this struct as the caller knows it.
    pub struct_size: usize,
    /// `[R, T]` token ids; the pad id at padding.
    pub input_ids: Tensor,
    /// `[R, T]` 1 at tokens, 0 at padding.
    pub attention_mask: Tensor,
    /// `[R, T]` position of each token in its own sequence (restarts after the prompt for each packed response).
    pub position_ids: Tensor,
    /// `[R, T]` the token id at targets, −100 at all other positions.
    pub labels: Tensor,
    /// `[R, T]` index in the batch of the prompt that each token belongs to; −1 at padding.
    pub prompt_ids: Tensor,
    /// `[R, T]` index of the sequence that each response token belongs to; −1 at prompt tokens and padding.
    ///
    /// A token attends to itself and to those before it in its row that have the same prompt id and either the same
    /// sequence id or −1.
    pub sequence_ids: Tensor,
    /// `[K]` index into the flattened `[R·T]` of the position whose hidden state predicts each target.
    pub target_positions: Tensor,
    /// `[K]` id of each target token.
    pub target_ids: Tensor,
    /// `[K]` index of the sequence that each target belongs to, ascending.
    pub target_sequences: Tensor,
    /// `[S]` number of target tokens of each sequence.
    pub sequence_num_tokens: Tensor,
    /// `[S]` index in the batch of the prompt that each sequence answers.
    pub sequence_prompts: Tensor,
    /// `[S]` index in its record of each sequence's response, counted before any were dropped.
    pub sequence_responses: Tensor,
    /// `[B + 1]` responses of prompt b are the columns `prompt_offsets[b] .. prompt_offsets[b + 1]` of the C.
    pub prompt_offsets: Tensor,
    /// `[M, C]` index of each response's sequence in each dimension; dimensions differ in the expanded layout only.
    pub sequence_index: Tensor,
    /// `[M, C]` float32 target distribution of each dimension over each prompt's responses; 0 if masked.
    pub pi_target: Tensor,
    /// `[M, C]` bool: the dimension counts for this prompt and rates this response.
    pub target_mask: Tensor,
    /// `[M, C]` place of each response among those of its prompt that the dimension rates: 1 is best, equal ones tie,
    /// and the next is one more; 0 if masked. The order is that of the ratings where these are known, else that of
    /// `pi_target`, in which ratings that lie far apart may tie at 0.
    pub ranks: Tensor,
    /// `[B, M]` float32 λ': λ renormalised over the dimensions that count for the prompt; all 0 if none of them has
    /// weight.
    pub lambda: Tensor,
    /// `[B]` index of each record in the concatenated inputs.
    pub record_indices: Tensor,
    /// Number of prompts with a dimension of positive weight: the loss is a mean over these.
    pub num_contributing: u64,
}

/// Inputs of `log_probs` and `loss_forward`: exactly one of hidden states with the LM head, logits, or sequence
/// log-probs; and the targets. All are borrowed for the call.
///
/// Letters of shapes as in [`Batch`]; H is the hidden size, V the vocabulary size. What is scored (`hidden` with
/// `lm_head`, `logits`, or `sequence_log_probs`) is on any device; the fields after it are on the CPU, where they are
/// read, as [`Batch`] returns them.
#[repr(C)]
#[derive(Debug)]
pub struct LossInputs {
    /// `sizeof` of this struct as the caller knows it.
    pub struct_size: usize,
    /// `[R, T, H]` or `[R·T, H]` final hidden states, after the last norm.
    pub hidden: Tensor,
    /// `[V, H]` weight of the LM head; required with `hidden`.
    pub lm_head: Tensor,
    /// `[R, T, V]` or `[R·T, V]`.
    pub logits: Tensor,
    /// `[S]` sequence log-probs (sums, or means under the mean reduction), computed by the caller; no target fields
    /// needed.
    pub sequence_log_probs: Tensor,
    /// `[K]` int64, see [`Batch`]; on the CPU, like all tensors below.
    pub target_positions: Tensor,
    /// `[K]` int64, see [`Batch`].
    pub target_ids: Tensor,
    /// `[K]` int64, see [`Batch`].
    pub target_sequences: Tensor,
    /// S.
    pub num_sequences: u64,
    /// `[S]` int64, see [`Batch`]: number of tokens that each of `sequence_log_probs` is a sum of; needed if
    /// `options.sft_weight` is above 0. NULL otherwise, or if the target fields say it.
    pub sequence_num_tokens: Tensor,
    /// `[S]` sequence log-probs under the reference policy, reduced as `options.reduction` says; NULL means s^ref = 0,
    /// and is the only choice for objectives without a reference (SimPO, ORPO, SFT).
    pub reference_log_probs: Tensor,
    /// `[B + 1]` int64; for all objectives but SFT, like the fields after it.
    pub prompt_offsets: Tensor,
    /// `[M, C]` int64; NULL if response c is sequence c in every dimension.
    pub sequence_index: Tensor,
    /// `[M, C]` floating point.
    pub pi_target: Tensor,
    /// `[M, C]` bool; NULL if every dimension rates every response.
    pub target_mask: Tensor,
    /// `[M, C]` int64 place of each response in its prompt's order: 1 is the best, and equal numbers tie; read where
    /// `target_mask` is set, by the objectives of orders and pairs. NULL means the order of `pi_target`.
    pub ranks: Tensor,
    /// `[B, M]` floating point λ': that of the batch, or of `renormalize_lambda`.
    pub lambda: Tensor,
    /// The `cudaStream_t` on which the call queues its work, if the tensors are on a CUDA device: inputs must be ready,
    /// and outputs become ready, in the order of the stream. NULL means libtorch's current stream of the calling
    /// thread, which suits trainers that use PyTorch; CUDA's handles 1 and 2 are its legacy and its per-thread default
    /// stream.
    pub cuda_stream: *mut c_void,
}

/// Outputs of `loss_forward`; the tensors are owned by the caller, on the CPU, whatever the device of the inputs.
#[repr(C)]
#[derive(Debug)]
pub struct LossOutputs {
    /// `sizeof` of this struct as the caller knows it.
    pub struct_size: usize,
    /// `[]` float64 the loss, divided by the normaliser.
    pub loss: Tensor,
    /// `[K]` float32 (float64 for float64 inputs); NULL if sequence log-probs were given.
    pub token_log_probs: Tensor,
    /// `[S]` sums (or means under the mean reduction), dtype as above.
    pub sequence_log_probs: Tensor,
    /// `[S]` float64 β (s − s^ref); NULL for the SFT objective, like all fields below.
    pub rewards: Tensor,
    /// `[B]` float64 Σ_k λ'_k L^(k) + `sft_weight` times `sft_losses`; 0 for a prompt that does not contribute.
    pub prompt_losses: Tensor,
    /// `[B, M]` float64 L^(k); 0 if the dimension does not count for the prompt.
    pub dimension_losses: Tensor,
    /// `[B, M]` bool: the dimension counts for the prompt.
    pub dimension_mask: Tensor,
    /// `[B]` float64: 1 if the response with the highest reward is the best under λ'; ties share the credit.
    pub accuracies: Tensor,
    /// `[B, M]` float64: the same under each dimension's own target distribution.
    pub dimension_accuracies: Tensor,
    /// `[B]` float64 reward of the best response under λ' minus that of the worst.
    pub margins: Tensor,
    /// `[B]` float64 mean negative log-likelihood per token of the best response under λ'; NULL unless `sft_weight` is
    /// above 0 or the objective is ORPO.
    pub sft_losses: Tensor,
}

/// Gradients from `loss_backward`, in the dtypes and on the devices of their inputs; NULL for those not requested.
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

/// Versions of this build; the strings live as long as the library.
#[repr(C)]
#[derive(Debug)]
pub struct BuildInfo {
    /// `sizeof` of this struct as the caller knows it.
    pub struct_size: usize,
    /// Version of the plugin.
    pub version: Str,
    /// Version of torch that it was built against and must run with.
    pub torch_version: Str,
}
