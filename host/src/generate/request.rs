//! What to generate, and what comes of it.

use super::options::GenerateOptions;

/// A text to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Token ids to continue; at least one.
    pub prompt: Vec<i64>,
    /// λ of a λ-adapter, `[M]`; None takes the one that the model is fixed to.
    pub lambda: Option<Vec<f64>>,
    /// Length, sampling and end tokens.
    pub options: GenerateOptions,
    /// Number of the text's stream of random numbers among those of its seed.
    pub stream: u64,
    /// Number of most probable tokens to return with each token's log-prob; None returns no log-probs.
    pub top_log_probs: Option<usize>,
    /// Whether to return the log-probs of the prompt's tokens too.
    pub prompt_log_probs: bool,
}

/// Identifies a text in its engine; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId(pub(super) u64);

/// What happened to a text.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Log-probs of the prompt's tokens, None for the first, which nothing predicts. Comes before the first token, if they
    /// were asked for.
    Prompt(Vec<Option<TokenLogProbs>>),
    /// The next token.
    Token(Token),
    /// The text has ended.
    End(Ending),
}

/// A generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Token id.
    pub id: i64,
    /// Its log-prob, if log-probs were asked for.
    pub log_probs: Option<TokenLogProbs>,
}

/// Log-probs at one position under the model itself: at temperature 1, before any selection.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogProbs {
    /// Log-prob of the token in nats.
    pub log_prob: f64,
    /// The most probable tokens with their log-probs, best first.
    pub top: Vec<(i64, f64)>,
}

/// Why a text ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The model chose this end token, which is not among the text's tokens.
    Stop(i64),
    /// The text has as many tokens as it may have.
    Length,
    /// This text cannot go on, for the reason given; others can.
    Failed(String),
}
