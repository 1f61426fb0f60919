//! Tensors and bytes that cross the boundary.

use lambda_dpo_abi as abi;
use lambda_dpo_abi::tensor::{self, Exported};
use tch::Tensor;

use crate::arguments;
use crate::failure::{Failure, Outcome};
use crate::guard::release;

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

/// Copies a small tensor that may be absent, for use beyond the call.
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

/// Copies a small tensor of main memory that may be absent, for use beyond the call.
///
/// # Safety
/// `raw` is NULL or valid for the call.
pub unsafe fn copied_from_cpu(raw: abi::Tensor, name: &str) -> Outcome<Option<Tensor>> {
    // SAFETY: the caller's promise.
    let device = unsafe { raw.as_ref() }.map(|tensor| tensor.dl_tensor.device);
    if let Some(abi::DLDevice { device_type: abi::DL_CUDA, device_id }) = device {
        return Err(Failure::argument(format!(
            "tensor `{name}` is on CUDA device {device_id}, but it is read on the CPU: leave it in main memory"
        )));
    }
    // SAFETY: the caller's promise.
    unsafe { copied(raw, name) }
}

/// Exports a tensor for the caller.
pub fn export(tensor: &Tensor) -> Outcome<Exported> {
    tensor::export(tensor).map_err(|problem| Failure::new(abi::STATUS_TORCH, problem))
}

/// Exports an optional tensor for the caller.
pub fn export_option(tensor: Option<&Tensor>) -> Outcome<Option<Exported>> {
    tensor.map(export).transpose()
}

/// Writes a tensor to `out`.
///
/// # Safety
/// `out` is NULL or writable.
pub unsafe fn give_tensor(tensor: &Tensor, out: *mut abi::Tensor, name: &str) -> Outcome {
    let exported = export(tensor)?;
    // SAFETY: the caller's promise.
    unsafe { arguments::write(out, exported.as_raw(), name) }?;
    exported.into_raw();
    Ok(())
}

/// A field of the core that holds a tensor, always or sometimes.
pub trait Returned {
    /// The tensor, if there is one.
    fn tensor(&self) -> Option<&Tensor>;
}

impl Returned for Tensor {
    fn tensor(&self) -> Option<&Tensor> {
        Some(self)
    }
}

impl Returned for Option<Tensor> {
    fn tensor(&self) -> Option<&Tensor> {
        self.as_ref()
    }
}

/// Exports fields of a struct of the core, which may be absent, for the fields of the same names of an ABI struct, as
/// [`Output::put_tensors`](crate::growth::Output::put_tensors) takes them.
macro_rules! exported {
    ($target:ty, $from:expr => $($field:ident),+ $(,)?) => {
        [$((
            std::mem::offset_of!($target, $field),
            $crate::tensors::export_option($from.and_then(|from| $crate::tensors::Returned::tensor(&from.$field)))?,
        )),+]
    };
}
pub(crate) use exported;

/// Writes text to `out`; None is NULL.
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

/// Writes a value to `out` as JSON.
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
    // SAFETY: NULL or bytes from `give_text`, not freed before.
    release(|| unsafe {
        let Some(bytes) = bytes.as_mut() else { return };
        if !bytes.data.is_null() {
            drop(Vec::from_raw_parts(bytes.data, bytes.len, bytes.capacity));
        }
        *bytes = abi::Bytes { data: std::ptr::null_mut(), len: 0, capacity: 0 };
    });
}
