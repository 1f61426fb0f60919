//! Stage 3: [`Sample`](crate::Sample) → [`TokenizedSample`].

use ndarray::Array2;

/// Bounds and filters of tokenisation; fields as in the ABI's `TokenizeOptions`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenizeOptions {
    /// Bound on prompt + longest response in tokens.
    pub cutoff_len: Option<usize>,
    /// Keep samples with fewer than two responses and responses without a token.
    pub keep_all: bool,
}

/// The tokens of one response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizedResponse {
    /// Which response of the record this is, counted before any were dropped.
    pub response_index: usize,
    /// Token ids, the end-of-turn token included.
    pub ids: Vec<i64>,
    /// Which of them are targets; None is all (in a conversation, user turns after the first answer are not).
    pub is_target: Option<Vec<bool>>,
}

/// A prompt and its N responses as tokens.
///
/// A conversation is one response: the prompt is what precedes the first assistant turn.
///
/// # Shapes
///
/// `pi_target` is [M, N] over the responses kept, NaN where masked; each row that has at least two finite entries sums
/// to 1.
#[derive(Clone, Debug)]
pub struct TokenizedSample {
    /// Position of the record in the concatenated inputs.
    pub record_index: u64,
    /// Token ids of the prompt, the assistant's header included.
    pub prompt: Vec<i64>,
    /// The responses.
    pub responses: Vec<TokenizedResponse>,
    /// Target distributions.
    pub pi_target: Array2<f32>,
}

/// A tokenizer with its chat template.
#[derive(Debug)]
pub struct Tokenizer {}
