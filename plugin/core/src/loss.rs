//! Stage 7: log-probs, reference, targets, λ → loss, metrics and gradient.

use tch::Tensor;

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// λ-DPO (15); pairwise DPO (6) is its N = 2 case.
    Listwise,
    /// Mean negative log-likelihood of the target tokens.
    Sft,
}

/// What s is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Sum over the response's tokens.
    Sum,
    /// Mean over the response's tokens.
    Mean,
}

/// The gradients that a backward will be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// ∂/∂hidden
    pub hidden: bool,
    /// ∂/∂lm_head
    pub lm_head: bool,
    /// ∂/∂logits
    pub logits: bool,
    /// ∂/∂sequence_log_probs
    pub sequence_log_probs: bool,
}

/// Inputs of log-probs and loss; fields and shapes as in the ABI's `LossInputs`, absent ones None.
#[derive(Debug)]
pub struct LossInputs<'a> {
    /// [R, T, H] or [R·T, H]
    pub hidden: Option<&'a Tensor>,
    /// [V, H]
    pub lm_head: Option<&'a Tensor>,
    /// [R, T, V] or [R·T, V]
    pub logits: Option<&'a Tensor>,
    /// [S]
    pub sequence_log_probs: Option<&'a Tensor>,
    /// [K]
    pub target_positions: Option<&'a Tensor>,
    /// [K]
    pub target_ids: Option<&'a Tensor>,
    /// [K]
    pub target_sequences: Option<&'a Tensor>,
    /// S
    pub num_sequences: i64,
    /// [S]
    pub reference_log_probs: Option<&'a Tensor>,
    /// [B + 1]
    pub prompt_offsets: Option<&'a Tensor>,
    /// [M, C]
    pub sequence_index: Option<&'a Tensor>,
    /// [M, C]
    pub pi_target: Option<&'a Tensor>,
    /// [M, C] bool
    pub target_mask: Option<&'a Tensor>,
    /// [B, M]
    pub lambda: Option<&'a Tensor>,
}

/// How log-probs and loss are computed; fields as in the ABI's `LossOptions`.
#[derive(Clone, Copy, Debug)]
pub struct LossOptions {
    /// The objective.
    pub objective: Objective,
    /// The reduction.
    pub reduction: Reduction,
    /// β (17).
    pub beta: f64,
    /// What the loss is divided by; None takes this call's own count.
    pub normalizer: Option<f64>,
    /// Bytes of logits that may be alive at once.
    pub logits_budget_bytes: usize,
    /// Add 1e-10 to the targets (Appendix B).
    pub paper_exact: bool,
    /// Gradients that a backward will be asked for.
    pub wants: Wants,
}

/// Fields and shapes as in the ABI's `LossOutputs`.
#[derive(Debug)]
pub struct LossOutputs {
    /// []
    pub loss: Tensor,
    /// [K]; None where sequence log-probs came in.
    pub token_log_probs: Option<Tensor>,
    /// [S]
    pub sequence_log_probs: Tensor,
    /// None for the SFT objective.
    pub listwise: Option<ListwiseOutputs>,
}

/// What only the listwise objective has; fields and shapes as in the ABI's `LossOutputs`.
#[derive(Debug)]
pub struct ListwiseOutputs {
    /// [S]
    pub rewards: Tensor,
    /// [B]
    pub prompt_losses: Tensor,
    /// [B, M]
    pub dimension_losses: Tensor,
    /// [B, M] bool
    pub dimension_mask: Tensor,
    /// [B]
    pub accuracies: Tensor,
    /// [B, M]
    pub dimension_accuracies: Tensor,
    /// [B]
    pub margins: Tensor,
}

/// Gradients; fields as in the ABI's `LossGradients`.
#[derive(Debug, Default)]
pub struct LossGradients {
    /// Shape and dtype of `hidden`.
    pub hidden: Option<Tensor>,
    /// [V, H]
    pub lm_head: Option<Tensor>,
    /// Shape and dtype of `logits`.
    pub logits: Option<Tensor>,
    /// [S]
    pub sequence_log_probs: Option<Tensor>,
}

/// What a backward needs from its forward (never the inputs: they come again).
#[derive(Debug)]
pub struct LossContext {}
