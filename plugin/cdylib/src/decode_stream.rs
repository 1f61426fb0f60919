//! Stage 3 backwards: text of tokens that come one by one.

use std::sync::{Arc, Mutex, MutexGuard};

use lambda_dpo_abi as abi;
use lambda_dpo_core::DecodeStream;

use crate::arguments::{flag, not_null};
use crate::failure::{Failure, Outcome};
use crate::guard::call;
use crate::handle::Handle;
use crate::tensors::give_text;
use crate::tokenize::TokenizerHandle;

type Stream = Handle<Mutex<DecodeStream>>;

/// See [`abi::Api::decode_stream_new`].
pub unsafe extern "C" fn decode_stream_new(
    tokenizer: *const abi::Tokenizer,
    skip_special_tokens: u32,
    stream: *mut *mut abi::DecodeStream,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let skip = flag(skip_special_tokens, "skip_special_tokens")?;
        let tokenizer = TokenizerHandle::with(tokenizer, "tokenizer", |tokenizer| Ok(Arc::clone(tokenizer)))?;
        Stream::give(Mutex::new(DecodeStream::new(tokenizer, skip)), stream, "stream")
    })
}

/// See [`abi::Api::decode_stream_step`].
pub unsafe extern "C" fn decode_stream_step(
    stream: *mut abi::DecodeStream,
    id: i64,
    text: *mut abi::Bytes,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe { give_piece(stream, text, |stream| stream.step(id)) })
}

/// See [`abi::Api::decode_stream_finish`].
pub unsafe extern "C" fn decode_stream_finish(
    stream: *mut abi::DecodeStream,
    text: *mut abi::Bytes,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe { give_piece(stream, text, DecodeStream::finish) })
}

/// Writes a piece of text; an empty one is NULL.
///
/// # Safety
/// `out` is NULL or writable.
unsafe fn give_piece(
    stream: *mut abi::DecodeStream,
    out: *mut abi::Bytes,
    next: impl FnOnce(&mut DecodeStream) -> lambda_dpo_core::Result<String>,
) -> Outcome {
    // Checked before the stream moves on: a piece that cannot be returned would be lost.
    not_null(out, "text")?;
    let piece = Stream::with(stream, "stream", |stream| Ok(next(&mut *locked(stream)?)?))?;
    // SAFETY: the caller's promise.
    unsafe { give_text((!piece.is_empty()).then_some(piece), out, "text") }
}

fn locked(stream: &Mutex<DecodeStream>) -> Outcome<MutexGuard<'_, DecodeStream>> {
    stream.lock().map_err(|_| {
        let problem = "the stream was left in an unknown state by an earlier defect; free it and make a new one";
        Failure::new(abi::STATUS_POISONED, problem)
    })
}

/// See [`abi::Api::decode_stream_free`].
pub unsafe extern "C" fn decode_stream_free(stream: *mut abi::DecodeStream) {
    Stream::free(stream);
}
