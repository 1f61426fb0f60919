//! How every call is made: arguments are lent for the call, its error is read, and its outputs are taken over.

use std::path::PathBuf;

use lambda_dpo_abi as abi;
use lambda_dpo_abi::tensor::{Exported, export, import};
use serde::de::DeserializeOwned;
use tch::Tensor;

use super::error::PluginError;

/// Room for an error message; the plugin's are one sentence each, and a longer one ends in "…".
const MESSAGE_BYTES: usize = 4096;

/// Declares a handle that is freed when dropped.
macro_rules! handle {
    ($(#[$doc:meta])* $name:ident, $raw:ty, $free:ident $(, $field:ident: $type:ty)*) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name {
            plugin: Plugin,
            handle: NonNull<$raw>,
            $($field: $type,)*
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: the handle is alive and not used again.
                unsafe { (self.plugin.api().$free)(self.handle.as_ptr()) }
            }
        }
    };
}
pub(super) use handle;

/// A struct of the ABI with `struct_size` set and zeros elsewhere, which are the ABI's defaults.
macro_rules! zeroed {
    ($raw:ty) => {{
        // SAFETY: the structs of the ABI are made of numbers, NULL pointers and optional functions, for which zeros are
        // valid.
        let mut raw: $raw = unsafe { std::mem::zeroed() };
        raw.struct_size = size_of::<$raw>();
        raw
    }};
}
pub(super) use zeroed;

/// Declares a struct of outputs, and how to take them over from the fields of the same names of a struct of the ABI.
macro_rules! outputs {
    (
        $(#[$doc:meta])*
        $name:ident, $raw:ty, $call:literal { $($(#[$field_doc:meta])* $field:ident: $type:ty),+ $(,)? }
    ) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)+ }

        impl $name {
            fn take(raw: &$raw) -> Result<Self, PluginError> {
                Ok(Self { $($field: $crate::plugin::call::Output::take(raw.$field, $call)?,)+ })
            }
        }
    };
}
pub(super) use outputs;

/// A field of a struct that a call filled in.
pub(super) trait Output<Raw>: Sized {
    /// Takes it over.
    fn take(raw: Raw, call: &'static str) -> Result<Self, PluginError>;
}

impl Output<abi::Tensor> for Tensor {
    fn take(raw: abi::Tensor, call: &'static str) -> Result<Self, PluginError> {
        take(raw, call)
    }
}

impl Output<abi::Tensor> for Option<Tensor> {
    fn take(raw: abi::Tensor, call: &'static str) -> Result<Self, PluginError> {
        if raw.is_null() { Ok(None) } else { take(raw, call).map(Some) }
    }
}

impl Output<u64> for u64 {
    fn take(raw: u64, _: &'static str) -> Result<Self, PluginError> {
        Ok(raw)
    }
}

/// Makes a call with a buffer for its error message, and turns a failing status into an error.
pub(super) fn call(body: impl FnOnce(*mut abi::Error) -> abi::Status) -> Result<(), PluginError> {
    let mut buffer = [0_u8; MESSAGE_BYTES];
    let mut error = abi::Error {
        struct_size: size_of::<abi::Error>(),
        buffer: buffer.as_mut_ptr(),
        capacity: buffer.len(),
        len: 0,
    };
    let status = body(&mut error);
    if status == abi::STATUS_OK {
        return Ok(());
    }
    let written = error.len.min(buffer.len());
    let mut message = String::from_utf8_lossy(&buffer[..written]).trim_end_matches('\u{fffd}').to_owned();
    if error.len > buffer.len() {
        message.push('…');
    }
    Err(PluginError::Call { status, message })
}

/// The error for an answer that breaks the contract of the ABI.
pub(super) fn answer(call: &'static str, problem: impl ToString) -> PluginError {
    PluginError::Answer { call, problem: problem.to_string() }
}

/// Lends text for a call.
pub(super) fn lend_str(text: &str) -> abi::Str {
    abi::Str { data: text.as_ptr(), len: text.len() }
}

/// Lends a list of texts for a call.
pub(super) fn lend_strs(texts: &[String]) -> Vec<abi::Str> {
    texts.iter().map(|text| lend_str(text)).collect()
}

/// Converts paths to text that can be lent for a call.
pub(super) fn path_strings(paths: &[PathBuf]) -> Result<Vec<String>, PluginError> {
    paths
        .iter()
        .map(|path| {
            path.to_str().map(str::to_owned).ok_or_else(|| PluginError::Call {
                status: abi::STATUS_INVALID_ARGUMENT,
                message: format!("{}: the path is not valid UTF-8; rename it", path.display()),
            })
        })
        .collect()
}

/// Lends a tensor for a call, for as long as the result lives.
pub(super) fn lend(tensor: &Tensor) -> Result<Exported, PluginError> {
    export(tensor).map_err(|problem| PluginError::Call { status: abi::STATUS_TORCH, message: problem })
}

/// Takes over a tensor that a call returned.
pub(super) fn take(raw: abi::Tensor, call: &'static str) -> Result<Tensor, PluginError> {
    // SAFETY: outputs of a successful call are owned by the caller.
    unsafe { import(raw) }.map_err(|problem| answer(call, problem))
}

/// Bytes for a call to fill in.
pub(super) fn no_bytes() -> abi::Bytes {
    abi::Bytes { data: std::ptr::null_mut(), len: 0, capacity: 0 }
}

/// Takes over text that a call returned; None for NULL.
pub(super) fn take_text(api: &abi::Api, mut bytes: abi::Bytes) -> Option<String> {
    if bytes.data.is_null() {
        return None;
    }
    // SAFETY: the plugin returned `len` readable bytes, which are copied and then freed once.
    unsafe {
        let text = String::from_utf8_lossy(std::slice::from_raw_parts(bytes.data, bytes.len)).into_owned();
        (api.bytes_free)(&mut bytes);
        Some(text)
    }
}

/// Parses JSON that a call returned.
pub(super) fn parse<T: DeserializeOwned>(
    api: &abi::Api,
    bytes: abi::Bytes,
    call: &'static str,
) -> Result<T, PluginError> {
    let text = take_text(api, bytes).ok_or_else(|| answer(call, "nothing"))?;
    serde_json::from_str(&text).map_err(|error| answer(call, error))
}
