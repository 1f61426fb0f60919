//! Stage 4: [`TokenizedSample`](crate::TokenizedSample)s and λ → [`Batch`].

use tch::Tensor;

/// The three layouts; all give the same loss and gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// M·N padded rows per prompt.
    Expanded,
    /// N padded rows per prompt.
    Rows,
    /// Prompt, then its responses, in one row.
    Packed,
}

/// How samples become a batch; fields as in the ABI's `CollateOptions`.
#[derive(Clone, Copy, Debug)]
pub struct CollateOptions {
    /// The layout.
    pub layout: Layout,
    /// Packed: prompts share a row up to this many tokens; None is one prompt a row.
    pub max_tokens: Option<usize>,
    /// Rows are padded to a multiple of this.
    pub pad_to_multiple_of: usize,
    /// Fills padding.
    pub pad_token_id: i64,
}

/// Tensors on the CPU; fields, shapes and dtypes as in the ABI's `Batch`.
#[derive(Debug)]
pub struct Batch {
    /// [R, T]
    pub input_ids: Tensor,
    /// [R, T]
    pub attention_mask: Tensor,
    /// [R, T]
    pub position_ids: Tensor,
    /// [R, T]
    pub labels: Tensor,
    /// [R, T]
    pub prompt_ids: Tensor,
    /// [R, T]
    pub sequence_ids: Tensor,
    /// [K]
    pub target_positions: Tensor,
    /// [K]
    pub target_ids: Tensor,
    /// [K]
    pub target_sequences: Tensor,
    /// [S]
    pub sequence_num_tokens: Tensor,
    /// [S]
    pub sequence_prompts: Tensor,
    /// [S]
    pub sequence_responses: Tensor,
    /// [B + 1]
    pub prompt_offsets: Tensor,
    /// [M, C]
    pub sequence_index: Tensor,
    /// [M, C] float32
    pub pi_target: Tensor,
    /// [M, C] bool
    pub target_mask: Tensor,
    /// [B, M] float32
    pub lambda: Tensor,
    /// [B]
    pub record_indices: Tensor,
    /// Prompts with a dimension of positive weight.
    pub num_contributing: u64,
}
