//! Stage 3: [`Sample`] → [`TokenizedSample`].
//!
//! | module | what |
//! |---|---|
//! | `folder` | a model folder's tokenizer, special tokens and chat template |
//! | `responses` | a prompt with its responses |
//! | `conversation` | a conversation in which every assistant turn is a target |
//! | `truncate` | the cutoff |
//! | `tokens` | a tokenised sample as JSON |
//!
//! # Invariants
//!
//! - Special tokens come from the chat template alone: the encoder adds none.
//! - What a response's tokens are conditioned on is what a prompt is tokenised to when the model generates.

mod conversation;
mod folder;
mod responses;
#[cfg(test)]
mod tests;
mod tokens;
mod truncate;

use std::collections::HashSet;
use std::path::Path;

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::chat_template::ChatTemplate;
use crate::convert::Skipped;
use crate::error::contained;
use crate::{Error, Message, Report, Result, Sample};

/// Bounds and filters of tokenisation; fields as in the ABI's `TokenizeOptions`.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct TokenizeOptions {
    /// Bound on prompt + longest response in tokens.
    pub cutoff_len: Option<usize>,
    /// Keep samples with fewer than two responses and responses without a token.
    pub keep_all: bool,
}

/// The tokens of one response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
/// `pi_target` is `[M, N]` over the responses kept, NaN where masked; each row that has at least two finite entries sums
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

impl TokenizedSample {
    /// Tokens of the prompt (once) and of all responses.
    pub fn num_tokens(&self) -> usize {
        self.prompt.len() + self.responses.iter().map(|response| response.ids.len()).sum::<usize>()
    }
}

/// What tokenisation made of one sample.
#[derive(Clone, Debug, Default)]
pub struct Tokenized {
    /// One; none where it was skipped; several where the template renders an earlier turn of a conversation otherwise
    /// once later ones follow.
    pub samples: Vec<TokenizedSample>,
    /// Why samples were skipped.
    pub skipped: Vec<Skipped>,
    /// Samples that the cutoff shortened.
    pub num_truncated: u64,
    /// Responses dropped because no token was left.
    pub num_dropped_responses: u64,
}

impl Report {
    /// Counts what tokenisation cut and left out of one sample.
    pub fn add_tokenized(&mut self, tokenized: &Tokenized) {
        self.num_truncated += tokenized.num_truncated;
        self.num_dropped_responses += tokenized.num_dropped_responses;
        for reason in &tokenized.skipped {
            self.skip(*reason);
        }
    }
}

/// What a tokenizer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenizerInfo {
    /// Tokens, added ones included.
    pub vocab_size: usize,
    /// Id of the beginning-of-sequence token.
    pub bos_token_id: Option<i64>,
    /// Id of the end-of-sequence token.
    pub eos_token_id: Option<i64>,
    /// Id of the padding token.
    pub pad_token_id: Option<i64>,
    /// Whether conversations can be rendered.
    pub has_chat_template: bool,
}

/// A tokenizer with its chat template.
#[derive(Debug)]
pub struct Tokenizer {
    encoder: tokenizers::Tokenizer,
    template: Option<ChatTemplate>,
    /// Ids at which the encoder splits a text before it does anything else.
    special_ids: HashSet<u32>,
    info: TokenizerInfo,
    folder: String,
    /// BLAKE3 of the files' contents.
    hash: blake3::Hash,
}

/// A failure without a place: the caller knows the record.
type Outcome<T> = std::result::Result<T, String>;

impl Tokenizer {
    /// Opens the tokenizer of a model folder: `tokenizer.json`, and where they are `tokenizer_config.json`,
    /// `special_tokens_map.json` and `chat_template.jinja`. `chat_template` is the file of a template that takes the place
    /// of the folder's own.
    ///
    /// # Errors
    ///
    /// A folder without `tokenizer.json`, or a file in it that does not parse.
    pub fn open(folder: &Path, chat_template: Option<&Path>) -> Result<Self> {
        folder::open(folder, chat_template)
    }

    /// Vocabulary size, special ids, and whether there is a chat template.
    pub fn info(&self) -> &TokenizerInfo {
        &self.info
    }

    /// A hash of everything that decides what texts become: the tokenizer, its special tokens, the chat template.
    pub(crate) fn hash(&self) -> blake3::Hash {
        self.hash
    }

    /// Renders a conversation with the chat template, with the assistant's header at the end where
    /// `add_generation_prompt` is set.
    ///
    /// # Errors
    ///
    /// No chat template, or one that refuses the conversation.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_text(messages, add_generation_prompt).map_err(Error::InvalidData)
    }

    /// Encodes a text as it stands: special tokens in it are recognised, none are added.
    ///
    /// # Errors
    ///
    /// A text that the tokenizer's model cannot express (it has neither byte fallback nor an unknown token).
    pub fn encode(&self, text: &str) -> Result<Vec<i64>> {
        self.encode_text(text).map_err(Error::InvalidData)
    }

    /// Decodes token ids to text; ids beyond the vocabulary give nothing, as in Transformers.
    ///
    /// # Errors
    ///
    /// A negative id.
    pub fn decode(&self, ids: &[i64], skip_special_tokens: bool) -> Result<String> {
        let id = |&id: &i64| u32::try_from(id).map_err(|_| Error::InvalidArgument(format!("{id} is not a token id")));
        let ids = ids.iter().map(id).collect::<Result<Vec<u32>>>()?;
        contained(|| self.encoder.decode(&ids, skip_special_tokens).map_err(|error| error.to_string()))
            .flatten()
            .map_err(|problem| Error::InvalidData(format!("{}: decoding fails: {problem}", self.folder)))
    }

    /// Tokenises one sample.
    ///
    /// # Errors
    ///
    /// No chat template, or one that refuses the sample, which is named by its record's index.
    pub fn tokenize(&self, sample: &Sample, options: &TokenizeOptions) -> Result<Tokenized> {
        self.tokenize_sample(sample, options)
            .map_err(|problem| Error::InvalidData(format!("record {}: {problem}", sample.record_index)))
    }

    pub(crate) fn tokenize_sample(&self, sample: &Sample, options: &TokenizeOptions) -> Outcome<Tokenized> {
        if sample.is_conversation() {
            conversation::tokenize(self, sample, options)
        } else {
            responses::tokenize(self, sample, options)
        }
    }

    fn render_text(&self, messages: &[Message], add_generation_prompt: bool) -> Outcome<String> {
        let template = self.template.as_ref().ok_or_else(|| {
            format!("{}: the tokenizer has no chat template; name a file with one as `data.chat_template`", self.folder)
        })?;
        template.render(messages, add_generation_prompt)
    }

    fn encode_text(&self, text: &str) -> Outcome<Vec<i64>> {
        let encoding = self.encoded(|encoder| encoder.encode_fast(text, false))?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    }

    fn encoded(
        &self,
        encode: impl FnOnce(&tokenizers::Tokenizer) -> tokenizers::Result<tokenizers::Encoding>,
    ) -> Outcome<tokenizers::Encoding> {
        contained(|| encode(&self.encoder).map_err(|error| error.to_string()))
            .flatten()
            .map_err(|problem| format!("{}: encoding fails: {problem}", self.folder))
    }
}
