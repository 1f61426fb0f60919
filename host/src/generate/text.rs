//! Text of tokens that come one by one.

use crate::plugin::{PluginError, Tokenizer};

/// Decodes tokens one by one; returns only whole characters.
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    ids: Vec<i64>,
    /// Number of bytes of the decoded text that have been returned.
    returned: usize,
}

impl<'t> TextStream<'t> {
    /// Begins a text, without special tokens.
    #[must_use]
    pub fn new(tokenizer: &'t Tokenizer) -> Self {
        Self { tokenizer, ids: Vec::new(), returned: 0 }
    }

    /// Adds a token and returns the text that is complete with it, often none.
    ///
    /// # Errors
    ///
    /// Errors from the plugin.
    pub fn push(&mut self, id: i64) -> Result<String, PluginError> {
        self.ids.push(id);
        self.next(false)
    }

    /// Returns the rest of the text, in which bytes that are no whole character are U+FFFD.
    ///
    /// # Errors
    ///
    /// Errors from the plugin.
    pub fn finish(&mut self) -> Result<String, PluginError> {
        self.next(true)
    }

    fn next(&mut self, is_last: bool) -> Result<String, PluginError> {
        let text = self.tokenizer.decode(&self.ids, true)?;
        // A character whose bytes are spread over several tokens decodes to U+FFFD until the last of them is there.
        let whole = if is_last { text.as_str() } else { text.trim_end_matches('\u{fffd}') };
        let new = whole.get(self.returned..).unwrap_or_default().to_owned();
        self.returned += new.len();
        Ok(new)
    }
}
