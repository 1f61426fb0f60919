//! Stage 3: the tokenizer with its chat template.

use std::path::Path;
use std::ptr::NonNull;

use lambda_dpo_abi as abi;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tch::Tensor;

use super::call::{answer, call, handle, lend, lend_str, no_bytes, parse, path_strings, take, take_text};
use super::error::PluginError;
use super::load::Plugin;

handle!(
    /// A tokenizer with its chat template.
    Tokenizer, abi::Tokenizer, tokenizer_free
);

// SAFETY: the ABI allows any number of threads to use a tokenizer at once.
unsafe impl Send for Tokenizer {}
// SAFETY: as above.
unsafe impl Sync for Tokenizer {}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, ….
    pub role: String,
    /// The text; None for a turn that only calls tools.
    pub content: Option<String>,
    /// Every other field, for the chat template.
    #[serde(flatten)]
    pub extras: Map<String, Value>,
}

impl Message {
    /// Creates a message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: Some(content.into()), extras: Map::new() }
    }
}

/// Sizes and special tokens of a tokenizer.
#[derive(Clone, Debug, Deserialize)]
pub struct TokenizerInfo {
    /// Number of token ids, including added tokens.
    pub vocab_size: usize,
    /// Beginning of sequence.
    pub bos_token_id: Option<i64>,
    /// End of sequence or turn.
    pub eos_token_id: Option<i64>,
    /// Padding.
    pub pad_token_id: Option<i64>,
    /// True if messages can be rendered.
    pub has_chat_template: bool,
}

impl Plugin {
    /// Opens the tokenizer of a model folder.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder has no tokenizer.json, or if a file does not parse.
    pub fn tokenizer(&self, folder: &Path, chat_template: Option<&Path>) -> Result<Tokenizer, PluginError> {
        let template = chat_template.map(Path::to_path_buf).unwrap_or_default();
        let paths = path_strings(&[folder.to_path_buf(), template])?;
        let mut handle = std::ptr::null_mut();
        let open = self.api().tokenizer_open;
        // SAFETY: all arguments live through the call.
        call(|error| unsafe { open(lend_str(&paths[0]), lend_str(&paths[1]), &mut handle, error) })?;
        let handle = NonNull::new(handle).ok_or_else(|| answer("tokenizer_open", "no tokenizer"))?;
        Ok(Tokenizer { plugin: self.clone(), handle })
    }
}

impl Tokenizer {
    /// Returns the handle, for a call that takes a tokenizer.
    pub(super) fn as_ptr(&self) -> *const abi::Tokenizer {
        self.handle.as_ptr()
    }

    /// Returns the library that the tokenizer belongs to.
    pub(super) fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    /// Returns sizes and special tokens.
    ///
    /// # Errors
    ///
    /// Returns an error only if the plugin has a defect.
    pub fn info(&self) -> Result<TokenizerInfo, PluginError> {
        let mut info = no_bytes();
        // SAFETY: the handle is alive.
        call(|error| unsafe { (self.plugin.api().tokenizer_info)(self.as_ptr(), &mut info, error) })?;
        parse(self.plugin.api(), info, "tokenizer_info")
    }

    /// Renders messages with the chat template.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no template, or if it rejects the messages.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, PluginError> {
        let messages = serde_json::to_string(messages).map_err(|error| answer("tokenizer_render", error))?;
        let mut text = no_bytes();
        let render = self.plugin.api().tokenizer_render;
        let add = u32::from(add_generation_prompt);
        // SAFETY: all arguments live through the call.
        call(|error| unsafe { render(self.as_ptr(), lend_str(&messages), add, &mut text, error) })?;
        take_text(self.plugin.api(), text).ok_or_else(|| answer("tokenizer_render", "nothing"))
    }

    /// Encodes text as it is: special tokens in it are recognised, none are added.
    ///
    /// # Errors
    ///
    /// Returns an error if the tokenizer's model cannot express the text.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>, PluginError> {
        let mut ids = std::ptr::null_mut();
        let encode = self.plugin.api().tokenizer_encode;
        // SAFETY: all arguments live through the call.
        call(|error| unsafe { encode(self.as_ptr(), lend_str(text), &mut ids, error) })?;
        let ids = take(ids, "tokenizer_encode")?;
        Vec::try_from(ids).map_err(|error| answer("tokenizer_encode", error))
    }

    /// Decodes ids to text; ids beyond the vocabulary decode to nothing.
    ///
    /// # Errors
    ///
    /// Returns an error if an id is negative.
    pub fn decode(&self, ids: &[i64], skip_special_tokens: bool) -> Result<String, PluginError> {
        let ids = lend(&Tensor::from_slice(ids))?;
        let mut text = no_bytes();
        let decode = self.plugin.api().tokenizer_decode;
        let skip = u32::from(skip_special_tokens);
        // SAFETY: all arguments live through the call.
        call(|error| unsafe { decode(self.as_ptr(), ids.as_raw(), skip, &mut text, error) })?;
        take_text(self.plugin.api(), text).ok_or_else(|| answer("tokenizer_decode", "nothing"))
    }
}
