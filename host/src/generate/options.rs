//! How text is generated.

/// How to continue.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Ends after this many tokens at the latest.
    pub max_new_tokens: usize,
    /// 0 takes the most probable token each time; otherwise logits are divided by it before sampling.
    pub temperature: f64,
    /// Samples among the most probable tokens that together have at least this probability.
    pub top_p: f64,
    /// Of the sampling.
    pub seed: u64,
    /// Tokens that end the text.
    pub eos_token_ids: Vec<i64>,
}
