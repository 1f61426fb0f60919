//! Text of tokens that come one by one.

use std::sync::Arc;

use tokenizers::{DecoderWrapper, step_decode_stream};

use super::tokenizer::{Outcome, Tokenizer};
use crate::error::contained;
use crate::{Error, Result};

/// Decodes tokens one by one into pieces that end where a character ends, and that together are what
/// [`Tokenizer::decode`] makes of all tokens.
#[derive(Debug)]
pub struct DecodeStream {
    tokenizer: Arc<Tokenizer>,
    skip_special_tokens: bool,
    /// Whether the decoder joins the bytes of tokens such as `<0xE2>`.
    joins_bytes: bool,
    /// Byte tokens since the last other token. Such a run decodes as a whole: to its text if all of it is UTF-8, else to
    /// one U+FFFD a byte. So its text is not known before its end.
    run: Vec<u32>,
    /// The tokens of the last piece and those since, which are decoded together because a token's text depends on whether
    /// it is the first.
    ids: Vec<u32>,
    /// Text of the last piece's tokens, which has been returned.
    prefix: String,
    /// Number of tokens of the last piece.
    prefix_index: usize,
}

impl DecodeStream {
    /// Begins a text.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special_tokens: bool) -> Self {
        let joins_bytes = tokenizer.encoder.get_decoder().is_some_and(joins_bytes);
        Self {
            tokenizer,
            skip_special_tokens,
            joins_bytes,
            run: Vec::new(),
            ids: Vec::new(),
            prefix: String::new(),
            prefix_index: 0,
        }
    }

    /// Adds a token and returns the text that is complete with it, often none.
    ///
    /// # Errors
    ///
    /// Returns an error if the id is negative, or if the tokenizer's decoder changes text that has been returned.
    pub fn step(&mut self, id: i64) -> Result<String> {
        let id = u32::try_from(id).map_err(|_| Error::InvalidArgument(format!("{id} is not a token id")))?;
        // What decoding leaves out need not be kept.
        let Some(token) = self.tokenizer.encoder.id_to_token(id) else { return Ok(String::new()) };
        if self.skip_special_tokens && self.tokenizer.encoder.get_added_vocabulary().is_special_token(&token) {
            return Ok(String::new());
        }
        self.run.push(id);
        if self.joins_bytes && is_byte(&token) {
            return Ok(String::new());
        }
        let (tokens, skip) = (std::mem::take(&mut self.run), self.skip_special_tokens);
        let (ids, prefix, prefix_index) = (&mut self.ids, &mut self.prefix, &mut self.prefix_index);
        let encoder = &self.tokenizer.encoder;
        let step = || step_decode_stream(encoder, tokens, skip, ids, prefix, prefix_index);
        let piece = contained(|| step().map_err(|error| error.to_string())).flatten();
        Ok(self.checked(piece)?.unwrap_or_default())
    }

    /// Returns the rest of the text, with U+FFFD for bytes that are no whole character, and begins a new text.
    ///
    /// # Errors
    ///
    /// Returns an error if the tokenizer's decoder changes text that has been returned.
    pub fn finish(&mut self) -> Result<String> {
        let mut ids = std::mem::take(&mut self.ids);
        ids.append(&mut self.run);
        let prefix = std::mem::take(&mut self.prefix);
        self.prefix_index = 0;
        let decode = || self.tokenizer.encoder.decode(&ids, self.skip_special_tokens);
        let text = contained(|| decode().map_err(|error| error.to_string())).flatten();
        let rest = text.and_then(|text| {
            let rest = text.strip_prefix(&prefix).map(str::to_owned);
            rest.ok_or_else(|| format!("`{prefix}` becomes `{text}` when tokens follow"))
        });
        self.checked(rest)
    }

    fn checked<T>(&self, outcome: Outcome<T>) -> Result<T> {
        let folder = &self.tokenizer.folder;
        outcome.map_err(|problem| Error::InvalidData(format!("{folder}: decoding token by token fails: {problem}")))
    }
}

fn joins_bytes(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteFallback(_) => true,
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().any(joins_bytes),
        _ => false,
    }
}

/// Whether the decoder takes the token for a byte.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

#[cfg(test)]
mod tests;
