//! Supervised fine-tuning: the likelihood of all target tokens.

use tch::{Kind, Tensor};

use crate::Result;

/// The loss of `sft`, not yet divided by the normaliser.
pub(in crate::loss) struct SftTerm {
    /// −Σ log p over the target tokens.
    pub(in crate::loss) loss_sum: f64,
    /// K.
    pub(in crate::loss) num_tokens: usize,
    /// `[K]` ∂`loss_sum`/∂ log p.
    pub(in crate::loss) grad: Vec<f64>,
}

/// The negative log-likelihood of the target tokens `[K]`.
pub(in crate::loss) fn sft(token_log_probs: &Tensor) -> Result<SftTerm> {
    let num_tokens = token_log_probs.size()[0] as usize;
    let sum = token_log_probs.f_sum(Kind::Double)?.f_double_value(&[])?;
    // 0, not −0, without tokens.
    Ok(SftTerm { loss_sum: 0.0 - sum, num_tokens, grad: vec![-1.0; num_tokens] })
}
