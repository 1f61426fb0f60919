//! Inputs and options of log-probs, and the gradients with respect to these inputs.

use tch::Tensor;

use crate::{Reduction, Result};

/// Bytes of logits that may be alive at once, unless the caller chooses another bound.
pub const DEFAULT_LOGITS_BUDGET_BYTES: usize = 256 << 20;

/// Inputs of log-probs: the target tokens with hidden states and the LM head, or with logits; or sequence log-probs
/// that the caller computed. Fields and shapes as in the ABI's `LossInputs`; absent ones are None.
#[derive(Clone, Copy, Debug)]
pub struct LogProbInputs<'a> {
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
}

/// How log-probs are computed.
#[derive(Clone, Copy, Debug)]
pub struct LogProbOptions {
    /// How the token log-probs of a sequence are reduced to one number.
    pub reduction: Reduction,
    /// Bytes of logits that may be alive at once; one position is always projected, however small the budget.
    pub logits_budget_bytes: usize,
}

/// Gradients that a backward will be asked for.
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

/// Gradients of the loss with respect to the inputs of log-probs; fields as in the ABI's `LossGradients`.
#[derive(Debug, Default)]
pub struct LossGradients {
    /// Shape and dtype of `hidden`.
    pub hidden: Option<Tensor>,
    /// `[V, H]`
    pub lm_head: Option<Tensor>,
    /// Shape and dtype of `logits`.
    pub logits: Option<Tensor>,
    /// `[S]`
    pub sequence_log_probs: Option<Tensor>,
}

impl LossGradients {
    /// Returns those of `factor` · loss, in their memory.
    pub(super) fn times(mut self, factor: f64) -> Result<Self> {
        if factor != 1.0 {
            let all = [&mut self.hidden, &mut self.lm_head, &mut self.logits, &mut self.sequence_log_probs];
            for gradient in all.into_iter().flatten() {
                let _ = gradient.f_mul_scalar_(factor)?;
            }
        }
        Ok(self)
    }
}
