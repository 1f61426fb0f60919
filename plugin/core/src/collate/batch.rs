//! A batch, and how it is laid out.

use tch::Tensor;

use crate::Layout;

/// Label of a token that is not a target.
pub const IGNORE_INDEX: i64 = -100;

/// Row lengths are padded to a multiple of this, unless the caller chooses another: multiples of 8 suit tensor cores.
pub const DEFAULT_PAD_TO_MULTIPLE_OF: usize = 8;

/// How samples are collated; fields as in the ABI's `CollateOptions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollateOptions {
    /// The layout.
    pub layout: Layout,
    /// Packed: prompts share a row of at most this many tokens; None means one prompt per row.
    ///
    /// A prompt that is longer, with its responses, has a row to itself.
    pub max_tokens: Option<usize>,
    /// Row lengths are padded to a multiple of this.
    pub pad_to_multiple_of: usize,
    /// Token id at padding.
    pub pad_token_id: i64,
}

/// A batch, as tensors on the CPU; fields, shapes and dtypes as in the ABI's `Batch`.
#[derive(Debug)]
pub struct Batch {
    /// `[R, T]`
    pub input_ids: Tensor,
    /// `[R, T]`
    pub attention_mask: Tensor,
    /// `[R, T]`
    pub position_ids: Tensor,
    /// `[R, T]`
    pub labels: Tensor,
    /// `[R, T]`
    pub prompt_ids: Tensor,
    /// `[R, T]`
    pub sequence_ids: Tensor,
    /// `[K]`
    pub target_positions: Tensor,
    /// `[K]`
    pub target_ids: Tensor,
    /// `[K]`
    pub target_sequences: Tensor,
    /// `[S]`
    pub sequence_num_tokens: Tensor,
    /// `[S]`
    pub sequence_prompts: Tensor,
    /// `[S]`
    pub sequence_responses: Tensor,
    /// `[B + 1]`
    pub prompt_offsets: Tensor,
    /// `[M, C]`
    pub sequence_index: Tensor,
    /// `[M, C]` float32
    pub pi_target: Tensor,
    /// `[M, C]` bool
    pub target_mask: Tensor,
    /// `[M, C]`
    pub ranks: Tensor,
    /// `[B, M]` float32
    pub lambda: Tensor,
    /// `[B]`
    pub record_indices: Tensor,
    /// Number of prompts with a dimension of positive weight.
    pub num_contributing: u64,
}
