//! Outputs of the loss.

use tch::Tensor;

/// The loss with its metrics, in main memory; fields and shapes as in the ABI's `LossOutputs`.
#[derive(Debug)]
pub struct LossOutputs {
    /// `[]`
    pub loss: Tensor,
    /// `[K]`; None if sequence log-probs were given.
    pub token_log_probs: Option<Tensor>,
    /// `[S]`
    pub sequence_log_probs: Tensor,
    /// None for the SFT objective.
    pub listwise: Option<ListwiseOutputs>,
}

/// Metrics of the listwise objective; fields and shapes as in the ABI's `LossOutputs`.
#[derive(Debug)]
pub struct ListwiseOutputs {
    /// `[S]`
    pub rewards: Tensor,
    /// `[B]`
    pub prompt_losses: Tensor,
    /// `[B, M]`
    pub dimension_losses: Tensor,
    /// `[B, M]` bool
    pub dimension_mask: Tensor,
    /// `[B]`
    pub accuracies: Tensor,
    /// `[B, M]`
    pub dimension_accuracies: Tensor,
    /// `[B]`
    pub margins: Tensor,
}
