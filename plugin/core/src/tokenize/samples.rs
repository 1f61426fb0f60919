//! Tokenised samples, and the options of tokenisation.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::ranks::ranks;
use crate::convert::{Report, Skipped};

/// How samples are tokenised; fields as in the ABI's `TokenizeOptions`.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct TokenizeOptions {
    /// Maximum length of prompt + longest response in tokens.
    pub cutoff_len: Option<usize>,
    /// Keep samples with fewer than two responses and responses without a token.
    pub keep_all: bool,
}

/// The tokens of one response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizedResponse {
    /// Index of the response in its record, counted before any were dropped.
    pub response_index: usize,
    /// Token ids, the end-of-turn token included.
    pub ids: Vec<i64>,
    /// Which of them are targets; None means all (in a conversation, user turns after the first answer are not).
    pub is_target: Option<Vec<bool>>,
}

/// A prompt and its N responses as tokens.
///
/// A conversation has one response: everything after the prompt, which ends before the first assistant turn.
///
/// # Shapes
///
/// `pi_target` and `ranks` are `[M, N]` over the responses kept, NaN and 0 if masked; each row of `pi_target` that has
/// at least two finite entries sums to 1.
#[derive(Clone, Debug)]
pub struct TokenizedSample {
    /// Index of the record in the concatenated inputs.
    pub record_index: u64,
    /// Token ids of the prompt, the assistant's header included.
    pub prompt: Vec<i64>,
    /// The responses.
    pub responses: Vec<TokenizedResponse>,
    /// Target distributions p^(k).
    pub pi_target: Array2<f32>,
    /// Place of each response in each dimension: 1 is best, equal ones tie, and places have no gaps. This is the order
    /// of the ratings if they are known: in `pi_target`, ratings that lie far apart may tie at 0.
    pub ranks: Array2<i64>,
}

impl TokenizedSample {
    /// Creates a sample whose responses are in the order of their targets.
    pub fn new(record_index: u64, prompt: Vec<i64>, responses: Vec<TokenizedResponse>, pi_target: Array2<f32>) -> Self {
        let ranks = ranks(&pi_target.mapv(f64::from), None);
        Self { record_index, prompt, responses, pi_target, ranks }
    }

    /// Returns the number of tokens of the prompt (once) and of all responses.
    pub fn num_tokens(&self) -> usize {
        self.prompt.len() + self.responses.iter().map(|response| response.ids.len()).sum::<usize>()
    }

    /// Returns the number of tokens of the prompt with the longest response.
    pub fn longest_sequence(&self) -> usize {
        self.prompt.len() + self.responses.iter().map(|response| response.ids.len()).max().unwrap_or(0)
    }
}

/// Result of tokenising one sample.
#[derive(Clone, Debug, Default)]
pub struct Tokenized {
    /// One sample; none if it was skipped; several if the template renders an earlier turn of a conversation
    /// differently once later ones follow.
    pub samples: Vec<TokenizedSample>,
    /// Reasons why samples were skipped.
    pub skipped: Vec<Skipped>,
    /// Number of samples that the cutoff shortened.
    pub num_truncated: u64,
    /// Number of responses dropped because the cutoff left none of their tokens.
    pub num_dropped_responses: u64,
}

impl Report {
    /// Adds what tokenisation cut and left out of one sample.
    pub fn add_tokenized(&mut self, tokenized: &Tokenized) {
        self.num_truncated += tokenized.num_truncated;
        self.num_dropped_responses += tokenized.num_dropped_responses;
        for reason in &tokenized.skipped {
            self.skip(*reason);
        }
    }
}
