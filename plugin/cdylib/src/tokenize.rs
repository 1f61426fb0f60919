//! Stage 3: tokenizers and tokenised samples.

use std::path::Path;
use std::sync::Arc;

use lambda_dpo_abi as abi;
use lambda_dpo_core::{Message, Sample, TokenizeOptions, TokenizedSample, Tokenizer};
use tch::{Kind, Tensor};

use crate::arguments::{flag, text, unused, write};
use crate::failure::{Failure, Outcome};
use crate::growth;
use crate::guard::call;
use crate::handle::Handle;
use crate::tensors::{borrow, give_json, give_tensor, give_text};

/// A tokenizer, which datasets share.
pub type TokenizerHandle = Handle<Arc<Tokenizer>>;
/// The tokens of one sample: one part, or several for a conversation whose template rewrites history.
pub type TokenizedHandle = Handle<Vec<TokenizedSample>>;

/// Reads the options.
///
/// # Safety
/// `options` is NULL or valid.
pub unsafe fn tokenize_options(options: *const abi::TokenizeOptions) -> Outcome<TokenizeOptions> {
    // SAFETY: the caller's promise.
    let options = unsafe { growth::read(options, "options") }?;
    unused(options.reserved, "reserved")?;
    let cutoff_len = usize::try_from(options.cutoff_len).map_err(|_| {
        Failure::argument(format!("`cutoff_len` is {}, more than this machine can count", options.cutoff_len))
    })?;
    Ok(TokenizeOptions {
        cutoff_len: (cutoff_len > 0).then_some(cutoff_len),
        keep_all: flag(options.keep_all, "keep_all")?,
    })
}

/// See [`abi::Api::tokenizer_open`].
pub unsafe extern "C" fn tokenizer_open(
    folder: abi::Str,
    chat_template: abi::Str,
    tokenizer: *mut *mut abi::Tokenizer,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let chat_template = text(chat_template, "chat_template")?;
        let chat_template = (!chat_template.is_empty()).then(|| Path::new(chat_template));
        let opened = Tokenizer::open(Path::new(text(folder, "folder")?), chat_template)?;
        TokenizerHandle::give(Arc::new(opened), tokenizer, "tokenizer")
    })
}

/// See [`abi::Api::tokenizer_info`].
pub unsafe extern "C" fn tokenizer_info(
    tokenizer: *const abi::Tokenizer,
    info: *mut abi::Bytes,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        TokenizerHandle::with(tokenizer, "tokenizer", |tokenizer| give_json(&tokenizer.info(), info, "info"))
    })
}

/// See [`abi::Api::tokenizer_render`].
pub unsafe extern "C" fn tokenizer_render(
    tokenizer: *const abi::Tokenizer,
    messages: abi::Str,
    add_generation_prompt: u32,
    rendered: *mut abi::Bytes,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let messages: Vec<Message> = serde_json::from_str(text(messages, "messages")?).map_err(|problem| {
            Failure::argument(format!("`messages` is not a JSON list of {{role, content}}: {problem}"))
        })?;
        let add_generation_prompt = flag(add_generation_prompt, "add_generation_prompt")?;
        let text = TokenizerHandle::with(tokenizer, "tokenizer", |tokenizer| {
            Ok(tokenizer.render(&messages, add_generation_prompt)?)
        })?;
        give_text(Some(text), rendered, "text")
    })
}

/// See [`abi::Api::tokenizer_encode`].
pub unsafe extern "C" fn tokenizer_encode(
    tokenizer: *const abi::Tokenizer,
    input: abi::Str,
    ids: *mut abi::Tensor,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let input = text(input, "text")?;
        let encoded = TokenizerHandle::with(tokenizer, "tokenizer", |tokenizer| Ok(tokenizer.encode(input)?))?;
        give_tensor(&Tensor::f_from_slice(&encoded)?, ids, "ids")
    })
}

/// See [`abi::Api::tokenizer_decode`].
pub unsafe extern "C" fn tokenizer_decode(
    tokenizer: *const abi::Tokenizer,
    ids: abi::Tensor,
    skip_special_tokens: u32,
    decoded: *mut abi::Bytes,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let ids = borrow(ids, "ids")?.ok_or_else(|| Failure::argument("argument `ids` is NULL"))?;
        if ids.kind() != Kind::Int64 || ids.dim() != 1 {
            return Err(Failure::argument(format!(
                "`ids` is {:?} {:?}, expected int64 [num_tokens]",
                ids.kind(),
                ids.size()
            )));
        }
        let ids = Vec::<i64>::try_from(&ids)?;
        let skip = flag(skip_special_tokens, "skip_special_tokens")?;
        let text = TokenizerHandle::with(tokenizer, "tokenizer", |tokenizer| Ok(tokenizer.decode(&ids, skip)?))?;
        give_text(Some(text), decoded, "text")
    })
}

/// See [`abi::Api::tokenizer_free`].
pub unsafe extern "C" fn tokenizer_free(tokenizer: *mut abi::Tokenizer) {
    TokenizerHandle::free(tokenizer);
}

/// See [`abi::Api::tokenize`].
pub unsafe extern "C" fn tokenize(
    tokenizer: *const abi::Tokenizer,
    sample: abi::Str,
    options: *const abi::TokenizeOptions,
    tokenized: *mut *mut abi::TokenizedSample,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let options = tokenize_options(options)?;
        let sample: Sample = serde_json::from_str(text(sample, "sample")?).map_err(|problem| {
            Failure::new(abi::STATUS_INVALID_DATA, format!("`sample` is not a sample: {problem}"))
        })?;
        let parts = TokenizerHandle::with(tokenizer, "tokenizer", |tokenizer| {
            Ok(tokenizer.tokenize(&sample, &options)?.samples)
        })?;
        if parts.is_empty() {
            return write(tokenized, std::ptr::null_mut(), "tokenized");
        }
        TokenizedHandle::give(parts, tokenized, "tokenized")
    })
}

/// See [`abi::Api::tokenized_sample_new`].
pub unsafe extern "C" fn tokenized_sample_new(
    tokens: abi::Str,
    tokenized: *mut *mut abi::TokenizedSample,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let sample = TokenizedSample::from_json(text(tokens, "tokens")?)?;
        TokenizedHandle::give(vec![sample], tokenized, "tokenized")
    })
}

/// See [`abi::Api::tokenized_sample_tokens`].
pub unsafe extern "C" fn tokenized_sample_tokens(
    sample: *const abi::TokenizedSample,
    tokens: *mut abi::Bytes,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let json = TokenizedHandle::with(sample, "sample", |parts| {
            let parts = parts.iter().map(TokenizedSample::to_json).collect::<Result<Vec<_>, _>>()?;
            Ok(parts.join("\n"))
        })?;
        give_text(Some(json), tokens, "tokens")
    })
}

/// See [`abi::Api::tokenized_sample_free`].
pub unsafe extern "C" fn tokenized_sample_free(sample: *mut abi::TokenizedSample) {
    TokenizedHandle::free(sample);
}
