//! DLPack ↔ [`tch::Tensor`] without copies, and the CUDA stream on which work is queued.
//!
//! As the table demands, inputs are borrowed for a call ([`borrow`]) and outputs are owned by the receiver ([`export`],
//! then [`import`]).

extern crate std;

use std::borrow::ToOwned;
use std::ffi::CStr;
use std::format;
use std::string::String;

use core::ffi::{c_char, c_void};
use core::ptr::NonNull;

use torch_sys::C_tensor;

use crate::{
    DL_BFLOAT, DL_BOOL, DL_CPU, DL_CUDA, DL_FLOAT, DL_INT, DLDataType, DLManagedTensorVersioned, DLPACK_VERSION,
    DLTensor,
};

/// Version of torch that this build is compiled against; a process must have exactly this version loaded.
pub const TORCH_VERSION: &str = env!("LAMBDA_DPO_TORCH_VERSION");

unsafe extern "C" {
    fn ldpo_tensor_import(source: *mut DLManagedTensorVersioned, out: *mut *mut C_tensor) -> *mut c_char;
    fn ldpo_tensor_borrow(source: *mut DLManagedTensorVersioned, out: *mut *mut C_tensor) -> *mut c_char;
    fn ldpo_tensor_export(tensor: *const C_tensor, out: *mut *mut DLManagedTensorVersioned) -> *mut c_char;
    fn ldpo_stream_enter(device: i32, stream: *mut c_void, out: *mut *mut c_void) -> *mut c_char;
    fn ldpo_stream_leave(guard: *mut c_void);
    fn free(pointer: *mut c_void);
}

/// Maximum number of dimensions of a tensor, as in NumPy; libtorch itself has no limit.
const MAX_NDIM: usize = 64;

/// Takes ownership of a message that the C++ side allocated.
fn check(message: *mut c_char) -> Result<(), String> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: a non-NULL message is a NUL-terminated string from strdup, and ours to free.
    unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        free(message.cast());
        Err(text)
    }
}

/// An exported tensor; frees it unless [`into_raw`](Self::into_raw) hands it on.
#[derive(Debug)]
pub struct Exported(NonNull<DLManagedTensorVersioned>);

impl Exported {
    /// The tensor, still owned by this value: for lending it to a call.
    pub fn as_raw(&self) -> *mut DLManagedTensorVersioned {
        self.0.as_ptr()
    }

    /// The tensor, now owned by the caller.
    pub fn into_raw(self) -> *mut DLManagedTensorVersioned {
        let raw = self.0.as_ptr();
        core::mem::forget(self);
        raw
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `export` and was not handed on.
        unsafe { free_tensor(self.0.as_ptr()) }
    }
}

/// Calls a tensor's deleter; does nothing for NULL.
///
/// # Safety
/// `raw` is NULL or an owned tensor that nobody uses afterwards.
pub unsafe fn free_tensor(raw: *mut DLManagedTensorVersioned) {
    if raw.is_null() {
        return;
    }
    // SAFETY: owned by the caller, who promises not to use it again.
    unsafe {
        if let Some(deleter) = (*raw).deleter {
            deleter(raw);
        }
    }
}

/// Exports a tensor as DLPack, which shares its memory and keeps it alive.
///
/// # Errors
/// Errors from libtorch, for a tensor that DLPack cannot express (sparse, quantised).
pub fn export(tensor: &tch::Tensor) -> Result<Exported, String> {
    let mut raw = core::ptr::null_mut();
    // SAFETY: `tensor` is a live at::Tensor; `raw` is written on success.
    check(unsafe { ldpo_tensor_export(tensor.as_ptr().cast(), &mut raw) })?;
    NonNull::new(raw).map(Exported).ok_or_else(|| "libtorch exported no tensor".to_owned())
}

/// Takes ownership of a tensor: its deleter runs when the last handle to the result is dropped.
///
/// # Errors
/// Like [`borrow`]; on error the tensor still belongs to the caller.
///
/// # Safety
/// `raw` is a valid, owned tensor, and is not used again after success.
pub unsafe fn import(raw: *mut DLManagedTensorVersioned) -> Result<tch::Tensor, String> {
    // SAFETY: the caller's promise.
    unsafe {
        validate(raw)?;
        let mut tensor = core::ptr::null_mut();
        check(ldpo_tensor_import(raw, &mut tensor))?;
        Ok(tch::Tensor::from_ptr(tensor))
    }
}

/// Views a borrowed tensor. The result, and everything that shares its memory, must be dropped before `raw` is freed.
///
/// # Errors
/// Returns a message if the tensor has a DLPack major other than 1, an unsupported dtype or device, a NULL pointer where
/// memory is needed, a negative size or stride, memory that is not aligned to its dtype, or an impossible size.
///
/// # Safety
/// `raw` points to a tensor that is valid as long as the result lives.
pub unsafe fn borrow(raw: *mut DLManagedTensorVersioned) -> Result<tch::Tensor, String> {
    // SAFETY: the caller's promise.
    unsafe {
        validate(raw)?;
        let mut tensor = core::ptr::null_mut();
        check(ldpo_tensor_borrow(raw, &mut tensor))?;
        Ok(tch::Tensor::from_ptr(tensor))
    }
}

/// Makes a CUDA stream libtorch's current one on this thread until it is dropped.
#[derive(Debug)]
pub struct CurrentStream(NonNull<c_void>);

impl CurrentStream {
    /// Enters a stream of the CUDA device with this ordinal.
    ///
    /// # Errors
    /// Returns a message if the handle is not a CUDA stream, and errors from libtorch about the device.
    ///
    /// # Safety
    /// `stream` is 1, 2 or a live `cudaStream_t` of that device, which lives as long as the result.
    pub unsafe fn enter(device: usize, stream: *mut c_void) -> Result<Self, String> {
        let handle = stream.addr();
        // CUDA's streams are objects in memory, so even numbers; libtorch would take an odd one for a stream of its pool.
        if handle == 0 || (handle != 1 && !handle.is_multiple_of(2)) {
            return Err(format!("{handle:#x} is not a CUDA stream"));
        }
        let device = i32::try_from(device).map_err(|_| format!("{device} is not a CUDA device"))?;
        let mut guard = core::ptr::null_mut();
        // SAFETY: the caller's promise; `guard` is written on success.
        check(unsafe { ldpo_stream_enter(device, stream, &mut guard) })?;
        NonNull::new(guard).map(Self).ok_or_else(|| "libtorch entered no stream".to_owned())
    }
}

impl Drop for CurrentStream {
    fn drop(&mut self) {
        // SAFETY: from `ldpo_stream_enter`, on this thread: a NonNull stays where it is made.
        unsafe { ldpo_stream_leave(self.0.as_ptr()) }
    }
}

/// Checks what libtorch would take on trust.
///
/// # Safety
/// `raw` is NULL or points to a readable struct whose shape has `ndim` entries.
unsafe fn validate(raw: *mut DLManagedTensorVersioned) -> Result<(), String> {
    // SAFETY: the caller's promise, after the NULL check.
    let managed = unsafe { raw.as_ref() }.ok_or_else(|| "the tensor is NULL".to_owned())?;
    if managed.version.major != DLPACK_VERSION.major {
        let (found, known) = (managed.version.major, DLPACK_VERSION.major);
        return Err(format!("DLPack major version {found} is not supported, only {known}"));
    }
    let tensor = &managed.dl_tensor;
    if !matches!(tensor.device.device_type, DL_CPU | DL_CUDA) {
        return Err(format!("DLPack device type {} is not supported, only CPU and CUDA", tensor.device.device_type));
    }
    if tensor.device.device_type == DL_CUDA {
        let num_devices = tch::Cuda::device_count();
        if !(0..num_devices).contains(&i64::from(tensor.device.device_id)) {
            let device = tensor.device.device_id;
            return Err(format!("it is on CUDA device {device}, but libtorch has {num_devices} CUDA devices here"));
        }
    }
    let DLDataType { code, bits, lanes } = tensor.dtype;
    match (code, bits, lanes) {
        (DL_FLOAT, 16 | 32 | 64, 1) | (DL_BFLOAT, 16, 1) | (DL_INT, 64, 1) | (DL_BOOL, 8, 1) => {}
        _ => {
            return Err(format!(
                "dtype {} is not supported, only float32, float64, float16, bfloat16, int64 and bool",
                dtype_name(tensor.dtype)
            ));
        }
    }
    let Some(ndim) = usize::try_from(tensor.ndim).ok().filter(|ndim| *ndim <= MAX_NDIM) else {
        return Err(format!("ndim is {}, expected 0 to {MAX_NDIM}", tensor.ndim));
    };
    if ndim > 0 && tensor.shape.is_null() {
        return Err("the tensor's shape is NULL".to_owned());
    }
    let list = |pointer: *mut i64| {
        // SAFETY: the caller promises `ndim` entries where the pointer is not NULL.
        if ndim == 0 || pointer.is_null() { &[][..] } else { unsafe { core::slice::from_raw_parts(pointer, ndim) } }
    };
    validate_memory(tensor, list(tensor.shape), list(tensor.strides))
}

/// Checks where a tensor's elements lie. `strides` is empty for a compact tensor.
fn validate_memory(tensor: &DLTensor, shape: &[i64], strides: &[i64]) -> Result<(), String> {
    if let Some(size) = shape.iter().find(|size| **size < 0) {
        return Err(format!("the tensor has a negative size, {size}"));
    }
    if let Some(stride) = strides.iter().find(|stride| **stride < 0) {
        return Err(format!("the tensor has a negative stride, {stride}"));
    }
    let is_empty = shape.contains(&0);
    if tensor.data.is_null() && !is_empty {
        return Err("the tensor's data is NULL though it is not empty".to_owned());
    }
    let item = i64::from(tensor.dtype.bits) / 8;
    // Of an empty tensor libtorch works out strides all the same.
    let elements = shape.iter().try_fold(item, |product, size| product.checked_mul((*size).max(1)));
    let last = shape.iter().zip(strides).try_fold(0_i64, |last, (size, stride)| {
        last.checked_add((size - 1).max(0).checked_mul(*stride)?)?.checked_add(1)
    });
    if elements.is_none() || last.and_then(|last| last.checked_mul(item)).is_none() {
        return Err("the tensor's sizes and strides go beyond what memory can hold".to_owned());
    }
    if !is_empty && !(tensor.data as u64).wrapping_add(tensor.byte_offset).is_multiple_of(item.unsigned_abs()) {
        return Err("the tensor's data is not aligned to its dtype".to_owned());
    }
    Ok(())
}

/// A dtype as people write it: `float32`, `uint8`, ….
fn dtype_name(dtype: DLDataType) -> String {
    let kind = match dtype.code {
        DL_INT => "int",
        crate::DL_UINT => "uint",
        DL_FLOAT => "float",
        DL_BFLOAT => "bfloat",
        DL_BOOL => "bool",
        5 => "complex",
        code => return format!("with DLPack code {code} ({} bits)", dtype.bits),
    };
    let lanes = if dtype.lanes == 1 { String::new() } else { format!("x{}", dtype.lanes) };
    format!("{kind}{}{lanes}", dtype.bits)
}
