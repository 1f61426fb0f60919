//! Stage 3 backwards: text of tokens that come one by one.

use std::ptr::NonNull;

use lambda_dpo_abi as abi;

use super::call::{answer, call, handle, no_bytes, take_text};
use super::error::PluginError;
use super::load::Plugin;
use super::tokenizer::Tokenizer;

handle!(
    /// A text whose tokens come one by one. Its pieces are whole characters, and joined they are what
    /// [`Tokenizer::decode`] makes of all tokens.
    DecodeStream, abi::DecodeStream, decode_stream_free
);

// SAFETY: the ABI allows any thread to use a decode stream, one at a time.
unsafe impl Send for DecodeStream {}

impl Tokenizer {
    /// Begins a text whose tokens come one by one.
    ///
    /// # Errors
    ///
    /// Returns an error only if the plugin has a defect.
    pub fn decode_stream(&self, skip_special_tokens: bool) -> Result<DecodeStream, PluginError> {
        let mut handle = std::ptr::null_mut();
        let new = self.plugin().api().decode_stream_new;
        let skip = u32::from(skip_special_tokens);
        // SAFETY: all arguments live through the call.
        call(|error| unsafe { new(self.as_ptr(), skip, &mut handle, error) })?;
        let handle = NonNull::new(handle).ok_or_else(|| answer("decode_stream_new", "no stream"))?;
        Ok(DecodeStream { plugin: self.plugin().clone(), handle })
    }
}

impl DecodeStream {
    /// Adds a token and returns the text that is complete with it, often none.
    ///
    /// # Errors
    ///
    /// Returns an error if the id is negative, or if the tokenizer's decoder changes text that has been returned.
    pub fn step(&mut self, id: i64) -> Result<String, PluginError> {
        let mut text = no_bytes();
        let step = self.plugin.api().decode_stream_step;
        // SAFETY: the handle is alive, and the exclusive reference keeps other threads away.
        call(|error| unsafe { step(self.handle.as_ptr(), id, &mut text, error) })?;
        Ok(take_text(self.plugin.api(), text).unwrap_or_default())
    }

    /// Returns the rest of the text, with U+FFFD for bytes that are no whole character, and begins a new text.
    ///
    /// # Errors
    ///
    /// Returns an error if the tokenizer's decoder changes text that has been returned.
    pub fn finish(&mut self) -> Result<String, PluginError> {
        let mut text = no_bytes();
        let finish = self.plugin.api().decode_stream_finish;
        // SAFETY: as in `step`.
        call(|error| unsafe { finish(self.handle.as_ptr(), &mut text, error) })?;
        Ok(take_text(self.plugin.api(), text).unwrap_or_default())
    }
}
