//! Inputs and options of the loss.

use tch::Tensor;

use crate::log_probs::{DEFAULT_LOGITS_BUDGET_BYTES, LogProbInputs, LogProbOptions, Wants};
use crate::{Objective, Reduction};

/// Inputs of the loss; fields and shapes as in the ABI's `LossInputs`, absent ones None.
#[derive(Clone, Copy, Debug, Default)]
pub struct LossInputs<'a> {
    /// `[R, T, H]` or `[R·T, H]`
    pub hidden: Option<&'a Tensor>,
    /// `[V, H]`
    pub lm_head: Option<&'a Tensor>,
    /// `[R, T, V]` or `[R·T, V]`
    pub logits: Option<&'a Tensor>,
    /// `[S]`
    pub sequence_log_probs: Option<&'a Tensor>,
    /// `[K]`
    pub target_positions: Option<&'a Tensor>,
    /// `[K]`
    pub target_ids: Option<&'a Tensor>,
    /// `[K]`
    pub target_sequences: Option<&'a Tensor>,
    /// S
    pub num_sequences: i64,
    /// `[S]`
    pub sequence_num_tokens: Option<&'a Tensor>,
    /// `[S]`
    pub reference_log_probs: Option<&'a Tensor>,
    /// `[B + 1]`
    pub prompt_offsets: Option<&'a Tensor>,
    /// `[M, C]`
    pub sequence_index: Option<&'a Tensor>,
    /// `[M, C]`
    pub pi_target: Option<&'a Tensor>,
    /// `[M, C]` bool
    pub target_mask: Option<&'a Tensor>,
    /// `[M, C]`
    pub ranks: Option<&'a Tensor>,
    /// `[B, M]`
    pub lambda: Option<&'a Tensor>,
}

/// How the loss is computed; fields as in the ABI's `LossOptions`.
#[derive(Clone, Copy, Debug)]
pub struct LossOptions {
    /// The objective.
    pub objective: Objective,
    /// The reduction.
    pub reduction: Reduction,
    /// β (17).
    pub beta: f64,
    /// ε of `sigmoid`.
    pub label_smoothing: f64,
    /// γ of `simpo`.
    pub simpo_gamma: f64,
    /// Weight of the negative log-likelihood of the best response.
    pub sft_weight: f64,
    /// Divisor of the loss; None means the count of this call.
    pub normalizer: Option<f64>,
    /// Bytes of logits that may be alive at once; one position is always projected, however small the budget.
    pub logits_budget_bytes: usize,
    /// Add 1e-10 to the target distributions (Appendix B).
    pub paper_exact: bool,
    /// Gradients that a backward will be asked for.
    pub wants: Wants,
}

impl Default for LossOptions {
    /// The meaning of the ABI's zeros.
    fn default() -> Self {
        Self {
            objective: Objective::default(),
            reduction: Reduction::default(),
            beta: 0.0,
            label_smoothing: 0.0,
            simpo_gamma: 0.0,
            sft_weight: 0.0,
            normalizer: None,
            logits_budget_bytes: DEFAULT_LOGITS_BUDGET_BYTES,
            paper_exact: false,
            wants: Wants::default(),
        }
    }
}

impl<'a> From<&LossInputs<'a>> for LogProbInputs<'a> {
    fn from(inputs: &LossInputs<'a>) -> Self {
        Self {
            hidden: inputs.hidden,
            lm_head: inputs.lm_head,
            logits: inputs.logits,
            sequence_log_probs: inputs.sequence_log_probs,
            target_positions: inputs.target_positions,
            target_ids: inputs.target_ids,
            target_sequences: inputs.target_sequences,
            num_sequences: inputs.num_sequences,
        }
    }
}

impl From<&LossOptions> for LogProbOptions {
    fn from(options: &LossOptions) -> Self {
        Self { reduction: options.reduction, logits_budget_bytes: options.logits_budget_bytes }
    }
}
