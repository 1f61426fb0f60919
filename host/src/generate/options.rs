//! Options of generation.

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
