//! Stage 3: [`Sample`] → [`TokenizedSample`].
//!
//! | module | what |
//! |---|---|
//! | `samples` | a tokenised sample, and the options |
//! | `tokens` | a tokenised sample as JSON |
//! | `tokenizer` | text ↔ tokens |
//! | `decode_stream` | text of tokens that come one by one |
//! | `special_tokens` | the special and added tokens that the files of a folder name |
//! | `folder` | a model folder's tokenizer, special tokens and chat template |
//! | `truncate` | the cutoff |
//! | `printed` | checks that the chat template prints the fields that a record fills |
//! | `answers` | the check that the template prints all of an answer |
//! | `ranks` | the order of the responses in each dimension |
//! | `responses` | a prompt with its responses |
//! | `conversation` | a conversation in which every assistant turn is a target |
//!
//! # Invariants
//!
//! - Special tokens come from the chat template only: the encoder adds none.
//! - The tokens of a prompt and a response decode to the rendered text.
//! - The tokens that a response is conditioned on are those that the prompt has when the model generates.

mod ranks;
mod samples;
mod tokens;
mod tokenizer;
mod decode_stream;
mod special_tokens;
mod folder;
mod truncate;
mod printed;
mod answers;
mod responses;
mod conversation;
#[cfg(test)]
mod tests;

use crate::{Error, Result, Sample};

pub use decode_stream::DecodeStream;
pub(crate) use ranks::dense_ranks;
pub use samples::{TokenizeOptions, Tokenized, TokenizedResponse, TokenizedSample};
pub use tokenizer::{Tokenizer, TokenizerInfo};

impl Tokenizer {
    /// Tokenises one sample.
    ///
    /// # Errors
    ///
    /// Returns an error, with the record's index, if there is no chat template or it rejects the sample.
    pub fn tokenize(&self, sample: &Sample, options: &TokenizeOptions) -> Result<Tokenized> {
        self.tokenize_sample(sample, options)
            .map_err(|problem| Error::InvalidData(format!("record {}: {problem}", sample.record_index)))
    }

    /// [`tokenize`](Self::tokenize) with an error that lacks a place: the caller knows the record.
    pub(crate) fn tokenize_sample(
        &self,
        sample: &Sample,
        options: &TokenizeOptions,
    ) -> std::result::Result<Tokenized, String> {
        if sample.is_conversation() {
            conversation::tokenize(self, sample, options)
        } else {
            responses::tokenize(self, sample, options)
        }
    }
}
