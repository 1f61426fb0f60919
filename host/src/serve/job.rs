//! A text to generate, and the pieces in which it comes back.

use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;

use crate::generate::request::{Request, TokenLogProbs};

/// A text that the worker is asked for.
pub(super) struct Job {
    /// The engine's request, without end tokens: the worker ends the text, because an end token's log-prob is wanted too.
    pub(super) request: Request,
    /// Strings before which the text ends.
    pub(super) stops: Vec<String>,
    /// Index among the texts of the HTTP request.
    pub(super) index: usize,
    /// Where its pieces go. Closed when the client is gone.
    pub(super) pieces: UnboundedSender<(usize, Piece)>,
    /// When the request was accepted.
    pub(super) accepted: Instant,
    /// The text's place in the server.
    pub(super) place: OwnedSemaphorePermit,
}

/// What the worker sends back of a text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    /// Log-probs of the prompt's tokens, if they were asked for.
    Prompt(Vec<Option<TokenLogProbs>>),
    /// More of the text, and the tokens that are complete with it if log-probs were asked for.
    Text {
        /// Not empty.
        text: String,
        /// The tokens.
        tokens: Vec<ScoredToken>,
    },
    /// The text has ended.
    End {
        /// Why.
        reason: FinishReason,
        /// Tokens after the last piece of text, such as the end token.
        tokens: Vec<ScoredToken>,
        /// Tokens that were generated, an end token and those of a stop string included.
        num_tokens: usize,
    },
    /// The text cannot be generated; the reason is the client's to know.
    Failed(Failure),
}

/// Why a text cannot be generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The request asks for what the model cannot do.
    Refused(String),
    /// Something failed here.
    Internal(String),
    /// The server stops.
    Stopping,
}

/// A generated token with its log-probs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ScoredToken {
    /// Token id.
    pub(super) id: i64,
    /// Its log-probs.
    pub(super) log_probs: TokenLogProbs,
    /// Characters of the text before it.
    pub(super) offset: usize,
}

/// Why a text ended, in OpenAI's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FinishReason {
    /// At an end token or before a stop string.
    Stop,
    /// At its greatest length.
    Length,
}

impl FinishReason {
    /// Returns OpenAI's word.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}
