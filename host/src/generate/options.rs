//! Options of generation.

use crate::model::ModelError;

/// Options of generation.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Maximum number of tokens to generate.
    pub max_new_tokens: usize,
    /// Divides the logits before sampling; 0 always takes the most probable token.
    pub temperature: f64,
    /// Samples from the smallest set of most probable tokens whose total probability is at least this (nucleus
    /// sampling).
    pub top_p: f64,
    /// Seed of the sampling.
    pub seed: u64,
    /// Tokens that end the text.
    pub eos_token_ids: Vec<i64>,
}

/// Checks that all options are in range.
///
/// # Errors
///
/// Returns [`ModelError::Request`] if one is not.
pub(super) fn check(options: &GenerateOptions) -> Result<(), ModelError> {
    let GenerateOptions { temperature, top_p, .. } = options;
    if !(temperature.is_finite() && *temperature >= 0.0) {
        return Err(ModelError::Request(format!("`temperature` must be 0 or above, found {temperature}")));
    }
    if !(*top_p > 0.0 && *top_p <= 1.0) {
        return Err(ModelError::Request(format!("`top_p` must be above 0 and at most 1, found {top_p}")));
    }
    Ok(())
}
