//! Tensors and bytes across the boundary.

use lambda_dpo_abi as abi;
use lambda_dpo_abi::tensor::{self, Exported};
use tch::Tensor;

use crate::arguments;
use crate::guard::{Failure, Outcome, release};

/// Views a tensor that may be absent (NULL).
///
/// # Safety
/// `raw` is NULL or valid as long as the result lives.
pub unsafe fn borrow(raw: abi::Tensor, name: &str) -> Outcome<Option<Tensor>> {
    if raw.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    unsafe { tensor::borrow(raw) }.map(Some).map_err(|problem| Failure::argument(format!("tensor `{name}`: {problem}")))
}

/// Copies a small tensor that may be absent, so that what is kept of it outlives the call.
///
/// # Safety
/// `raw` is NULL or valid for the call.
pub unsafe fn copied(raw: abi::Tensor, name: &str) -> Outcome<Option<Tensor>> {
    // SAFETY: the caller's promise.
    let view = unsafe { borrow(raw, name) }?;
    view.map(|view| {
        let mut copy = view.f_empty_like()?;
        copy.f_copy_(&view)?;
        Ok(copy)
    })
    .transpose()
}

/// Gives a tensor away.
pub fn export(tensor: &Tensor) -> Outcome<Exported> {
    tensor::export(tensor).map_err(|problem| Failure::new(abi::STATUS_TORCH, problem))
}

/// Gives an optional tensor away.
pub fn export_option(tensor: Option<&Tensor>) -> Outcome<Option<Exported>> {
    tensor.map(export).transpose()
}

/// The pointer that C sees: NULL for none.
pub fn raw_option(tensor: Option<Exported>) -> abi::Tensor {
    tensor.map_or(std::ptr::null_mut(), Exported::into_raw)
}

/// Gives text away; None is NULL.
///
/// # Safety
/// `out` is NULL or writable.
pub unsafe fn give_text(text: Option<String>, out: *mut abi::Bytes, name: &str) -> Outcome {
    let bytes = match text {
        None => abi::Bytes { data: std::ptr::null_mut(), len: 0, capacity: 0 },
        Some(text) => {
            if out.is_null() {
                return Err(Failure::argument(format!("argument `{name}` is NULL")));
            }
            let mut bytes = std::mem::ManuallyDrop::new(text.into_bytes());
            abi::Bytes { data: bytes.as_mut_ptr(), len: bytes.len(), capacity: bytes.capacity() }
        }
    };
    // SAFETY: the caller's promise.
    unsafe { arguments::write(out, bytes, name) }
}

/// Gives a value away as JSON.
///
/// # Safety
/// `out` is NULL or writable.
pub unsafe fn give_json(value: &impl serde::Serialize, out: *mut abi::Bytes, name: &str) -> Outcome {
    let json = serde_json::to_string(value)
        .map_err(|error| Failure::new(abi::STATUS_INVALID_DATA, format!("cannot be written as JSON: {error}")))?;
    // SAFETY: the caller's promise.
    unsafe { give_text(Some(json), out, name) }
}

/// See [`abi::Api::bytes_free`].
pub unsafe extern "C" fn bytes_free(bytes: *mut abi::Bytes) {
    // SAFETY: NULL or bytes that `give_text` gave, not freed before.
    release(|| unsafe {
        let Some(bytes) = bytes.as_mut() else { return };
        if !bytes.data.is_null() {
            drop(Vec::from_raw_parts(bytes.data, bytes.len, bytes.capacity));
        }
        *bytes = abi::Bytes { data: std::ptr::null_mut(), len: 0, capacity: 0 };
    });
}
