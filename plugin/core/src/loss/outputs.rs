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
    /// None for the objective `sft`.
    pub preferences: Option<PreferenceOutputs>,
}

/// Metrics of a preference objective; fields and shapes as in the ABI's `LossOutputs`.
#[derive(Debug)]
pub struct PreferenceOutputs {
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
    /// `[B]`; None unless `sft_weight` is above 0 or the objective is `orpo`.
    pub sft_losses: Option<Tensor>,
}
