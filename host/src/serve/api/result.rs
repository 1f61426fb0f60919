//! A generated text, as far as it has come.

use crate::generate::request::TokenLogProbs;
use crate::serve::job::{FinishReason, Piece, ScoredToken};

/// A generated text, or the next part of one.
#[derive(Debug, Default)]
pub(in crate::serve) struct Generated {
    /// Log-probs of the prompt's tokens, if they were asked for and are in this part.
    pub(super) prompt: Option<Vec<Option<TokenLogProbs>>>,
    /// The text.
    pub(super) text: String,
    /// The tokens, if log-probs were asked for.
    pub(super) tokens: Vec<ScoredToken>,
    /// Why it ended, if it has.
    pub(super) finish_reason: Option<FinishReason>,
}

impl Generated {
    /// Adds a piece.
    pub(in crate::serve) fn add(&mut self, piece: Piece) {
        match piece {
            Piece::Prompt(log_probs) => self.prompt = Some(log_probs),
            Piece::Text { text, tokens } => {
                self.text += &text;
                self.tokens.extend(tokens);
            }
            Piece::End { reason, tokens, .. } => {
                self.tokens.extend(tokens);
                self.finish_reason = Some(reason);
            }
            Piece::Failed(_) => {}
        }
    }

    /// Returns OpenAI's word for why it ended.
    pub(super) fn finish_word(&self) -> Option<&'static str> {
        self.finish_reason.map(FinishReason::word)
    }
}
