//! A tokenizer with its chat template: text ↔ tokens.

use std::collections::HashSet;

use serde::Serialize;
use serde_json::Value;

use crate::chat_template::ChatTemplate;
use crate::error::contained;
use crate::record::Message;
use crate::{Error, Result};

/// Properties of a tokenizer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenizerInfo {
    /// Number of tokens, added ones included.
    pub vocab_size: usize,
    /// Id of the beginning-of-sequence token.
    pub bos_token_id: Option<i64>,
    /// Id of the end-of-sequence token.
    pub eos_token_id: Option<i64>,
    /// Id of the padding token.
    pub pad_token_id: Option<i64>,
    /// Whether there is a chat template, so that conversations can be rendered.
    pub has_chat_template: bool,
}

/// A tokenizer with its chat template.
#[derive(Debug)]
pub struct Tokenizer {
    pub(super) encoder: tokenizers::Tokenizer,
    /// The encoder of a text that another precedes, if the one for whole texts puts a space before them.
    pub(super) continuing: Option<tokenizers::Tokenizer>,
    pub(super) template: Option<ChatTemplate>,
    /// Ids of special tokens, at which the encoder splits a text first.
    pub(super) special_ids: HashSet<u32>,
    pub(super) info: TokenizerInfo,
    pub(super) folder: String,
    /// BLAKE3 of the contents of the files.
    pub(super) hash: blake3::Hash,
}

/// Result whose error lacks a place: the caller knows the record.
pub(super) type Outcome<T> = std::result::Result<T, String>;

impl Tokenizer {
    /// Returns vocabulary size, special ids, and whether there is a chat template.
    pub fn info(&self) -> &TokenizerInfo {
        &self.info
    }

    /// Returns a hash of everything that tokens depend on: the tokenizer, its special tokens, the chat template.
    pub(crate) fn hash(&self) -> blake3::Hash {
        self.hash
    }

    /// Renders a conversation with the chat template, with the assistant's header at the end if `add_generation_prompt`
    /// is set.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no chat template or it rejects the conversation.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_text(messages, add_generation_prompt).map_err(Error::InvalidData)
    }

    /// Encodes a text as it is: special tokens in it are recognised, none are added.
    ///
    /// # Errors
    ///
    /// Returns an error if the tokenizer's model cannot express the text (it has neither byte fallback nor an unknown
    /// token).
    pub fn encode(&self, text: &str) -> Result<Vec<i64>> {
        self.encode_text(text).map_err(Error::InvalidData)
    }

    /// Decodes token ids to text; ids beyond the vocabulary decode to nothing, as in Transformers.
    ///
    /// # Errors
    ///
    /// Returns an error if an id is negative.
    pub fn decode(&self, ids: &[i64], skip_special_tokens: bool) -> Result<String> {
        let id = |&id: &i64| u32::try_from(id).map_err(|_| Error::InvalidArgument(format!("{id} is not a token id")));
        let ids = ids.iter().map(id).collect::<Result<Vec<u32>>>()?;
        contained(|| self.encoder.decode(&ids, skip_special_tokens).map_err(|error| error.to_string()))
            .flatten()
            .map_err(|problem| Error::InvalidData(format!("{}: decoding fails: {problem}", self.folder)))
    }

    /// Renders a conversation without tools.
    pub(super) fn render_text(&self, messages: &[Message], add_generation_prompt: bool) -> Outcome<String> {
        self.render_with_tools(messages, None, add_generation_prompt)
    }

    pub(super) fn render_with_tools(
        &self,
        messages: &[Message],
        tools: Option<&Value>,
        add_generation_prompt: bool,
    ) -> Outcome<String> {
        let template = self.template.as_ref().ok_or_else(|| {
            format!("{}: the tokenizer has no chat template; name a file with one as `data.chat_template`", self.folder)
        })?;
        template.render_with_tools(messages, tools, add_generation_prompt)
    }

    pub(super) fn encode_text(&self, text: &str) -> Outcome<Vec<i64>> {
        let encoding = self.encoded(|encoder| encoder.encode_fast(text, false))?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    }

    /// Encodes a text that follows the tokens `before`: without the space that SentencePiece's tokenizers put before a
    /// text, unless they put it after the special token that the text follows.
    pub(super) fn encode_after(&self, before: &[i64], text: &str) -> Outcome<Vec<i64>> {
        let Some(continuing) = &self.continuing else { return self.encode_text(text) };
        let last = before.last().and_then(|&id| u32::try_from(id).ok()).filter(|id| self.special_ids.contains(id));
        if let Some(id) = last
            && let Some(token) = self.encoder.id_to_token(id)
            && let [first, after @ ..] = self.encode_text(&(token + text))?.as_slice()
            && *first == i64::from(id)
        {
            return Ok(after.to_vec());
        }
        // From the first special token on, a text is encoded alike wherever it stands.
        let encoding = self.encoded(|encoder| encoder.encode(text, false))?;
        let special = encoding.get_ids().iter().position(|id| self.special_ids.contains(id));
        let end = special.map_or(text.len(), |token| encoding.get_offsets()[token].0);
        let (start, rest) = text.split_at_checked(end).unwrap_or((text, ""));
        let encoding = self.contained(|| continuing.encode_fast(start, false))?;
        let ids = encoding.get_ids().iter().map(|&id| i64::from(id));
        Ok(ids.chain(self.encode_text(rest)?).collect())
    }

    pub(super) fn encoded(
        &self,
        encode: impl FnOnce(&tokenizers::Tokenizer) -> tokenizers::Result<tokenizers::Encoding>,
    ) -> Outcome<tokenizers::Encoding> {
        self.contained(|| encode(&self.encoder))
    }

    fn contained(
        &self,
        encode: impl FnOnce() -> tokenizers::Result<tokenizers::Encoding>,
    ) -> Outcome<tokenizers::Encoding> {
        contained(|| encode().map_err(|error| error.to_string()))
            .flatten()
            .map_err(|problem| format!("{}: encoding fails: {problem}", self.folder))
    }
}
