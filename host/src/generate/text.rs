//! Text of tokens that come one by one.

use crate::plugin::{DecodeStream, PluginError, Tokenizer};

/// Decodes tokens one by one, without special tokens, into pieces that end where a character ends. Joined, they are what
/// [`Tokenizer::decode`] makes of all tokens.
#[derive(Debug)]
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    /// Made for the first token.
    stream: Option<DecodeStream>,
}

impl<'t> TextStream<'t> {
    /// Begins a text.
    #[must_use]
    pub fn new(tokenizer: &'t Tokenizer) -> Self {
        Self { tokenizer, stream: None }
    }

    /// Adds a token and returns the text that is complete with it, often none.
    ///
    /// # Errors
    ///
    /// Errors from the plugin.
    pub fn push(&mut self, id: i64) -> Result<String, PluginError> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(self.tokenizer.decode_stream(true)?),
        };
        stream.step(id)
    }

    /// Returns the rest of the text, in which bytes that are no whole character are U+FFFD, and begins a new one.
    ///
    /// # Errors
    ///
    /// Errors from the plugin.
    pub fn finish(&mut self) -> Result<String, PluginError> {
        self.stream.as_mut().map_or(Ok(String::new()), DecodeStream::finish)
    }
}
