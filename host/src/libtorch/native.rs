//! Functions of libtorch that tch leaves out: backward from a given gradient, setting a leaf's gradient, the fused AdamW,
//! deterministic algorithms, and what concerns devices: memory, allocators and TF32. `native.cpp` is the C++ side.

use std::ffi::{CStr, c_char, c_void};

use tch::{TchError, Tensor};
use torch_sys::C_tensor;

use super::upload::upload;

unsafe extern "C" {
    fn ldpo_backward(output: *const C_tensor, grad: *const C_tensor) -> *mut c_char;
    fn ldpo_set_grad(leaf: *const C_tensor, grad: *const C_tensor) -> *mut c_char;
    fn ldpo_fused_adamw(
        weights: *const *const C_tensor,
        grads: *const *const C_tensor,
        exp_avgs: *const *const C_tensor,
        exp_avg_sqs: *const *const C_tensor,
        num_tensors: usize,
        step: *const C_tensor,
        grad_scale: *const C_tensor,
        learning_rate: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        epsilon: f64,
    ) -> *mut c_char;
    fn ldpo_peak_reserved_bytes(device: i8, out: *mut u64) -> *mut c_char;
    fn ldpo_free_bytes(device: i8, out: *mut u64) -> *mut c_char;
    fn ldpo_configure_allocator(settings: *const c_char) -> *mut c_char;
    #[cfg(test)]
    fn ldpo_has_expandable_segments() -> bool;
    fn ldpo_allow_tf32(allowed: bool) -> *mut c_char;
    #[cfg(test)]
    fn ldpo_allows_tf32() -> bool;
    fn ldpo_use_deterministic_algorithms() -> *mut c_char;
    fn free(pointer: *mut c_void);
}

/// Turns the message that the C++ side allocated into an error; NULL is success.
pub(super) fn check(message: *mut c_char) -> Result<(), TchError> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: a non-NULL message is a NUL-terminated string from strdup, and ours to free.
    unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        free(message.cast());
        Err(TchError::Torch(text))
    }
}

/// Backpropagates `grad`, the gradient of `output`, adding to the gradients of the leaves, and frees the graph.
///
/// # Errors
///
/// Returns an error if `output` has no graph, if the shapes differ, or if libtorch fails.
pub fn backward(output: &Tensor, grad: &Tensor) -> Result<(), TchError> {
    // SAFETY: both tensors live through the call.
    check(unsafe { ldpo_backward(output.as_ptr(), grad.as_ptr()) })
}

/// Sets the gradient of `leaf` to `grad`, without a copy; None removes it.
///
/// # Errors
///
/// Returns an error if `leaf` is not a leaf.
pub fn set_grad(leaf: &Tensor, grad: Option<&Tensor>) -> Result<(), TchError> {
    let grad = grad.map_or(std::ptr::null(), Tensor::as_ptr);
    // SAFETY: the tensors live through the call; the C++ side shares the gradient and takes NULL.
    check(unsafe { ldpo_set_grad(leaf.as_ptr(), grad) })
}

/// Restricts libtorch to algorithms whose results are the same in every run, for the rest of the process.
///
/// An operation that has none on the device fails, and says so. cuBLAS needs a fixed workspace for this, which it reads
/// from the environment when CUDA starts, so call it before; a workspace that the environment already names is kept.
///
/// # Errors
///
/// Errors from libtorch.
pub fn use_deterministic_algorithms() -> Result<(), TchError> {
    // SAFETY: it sets an environment variable, which no other thread reads before CUDA starts, and libtorch's settings.
    check(unsafe { ldpo_use_deterministic_algorithms() })
}

/// The tensors of one fused update, one entry in each list per parameter; all contiguous, of one dtype and device.
#[derive(Debug, Default)]
pub struct AdamWTensors {
    /// Parameters; updated.
    pub weights: Vec<Tensor>,
    /// Gradients; read divided by `grad_scale`.
    pub grads: Vec<Tensor>,
    /// First moments; updated.
    pub exp_avgs: Vec<Tensor>,
    /// Second moments; updated.
    pub exp_avg_sqs: Vec<Tensor>,
}

/// The scalars of one fused update.
#[derive(Clone, Copy, Debug)]
pub struct AdamWScalars {
    /// η.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Added to the square root of the second moment.
    pub epsilon: f64,
    /// t: number of updates, including this one.
    pub num_updates: u64,
    /// Divisor of the gradients.
    pub grad_scale: f64,
}

/// Updates all tensors with libtorch's fused AdamW.
///
/// # Errors
///
/// Returns an error if the lists differ in length, and errors from libtorch.
pub fn fused_adamw(tensors: &AdamWTensors, scalars: &AdamWScalars) -> Result<(), TchError> {
    let Some(first) = tensors.weights.first() else { return Ok(()) };
    let num_tensors = tensors.weights.len();
    if [&tensors.grads, &tensors.exp_avgs, &tensors.exp_avg_sqs].iter().any(|list| list.len() != num_tensors) {
        return Err(TchError::Torch("the fused AdamW needs a gradient and two moments for each weight".into()));
    }
    let scalar = |value: f64| upload(&Tensor::f_from_slice(&[value as f32])?.f_squeeze()?, first.device());
    let (step, grad_scale) = (scalar(scalars.num_updates as f64)?, scalar(scalars.grad_scale)?);
    let pointers = |list: &[Tensor]| list.iter().map(Tensor::as_ptr).collect::<Vec<_>>();
    let (weights, grads) = (pointers(&tensors.weights), pointers(&tensors.grads));
    let (exp_avgs, exp_avg_sqs) = (pointers(&tensors.exp_avgs), pointers(&tensors.exp_avg_sqs));
    // SAFETY: each list holds `num_tensors` pointers to tensors that live through the call, as do the two scalars.
    check(unsafe {
        ldpo_fused_adamw(
            weights.as_ptr(),
            grads.as_ptr(),
            exp_avgs.as_ptr(),
            exp_avg_sqs.as_ptr(),
            num_tensors,
            step.as_ptr(),
            grad_scale.as_ptr(),
            scalars.learning_rate,
            scalars.beta1,
            scalars.beta2,
            scalars.weight_decay,
            scalars.epsilon,
        )
    })
}

/// Returns the largest number of bytes that the allocator of a CUDA device has reserved.
///
/// # Errors
///
/// Returns an error if CUDA is not available or has no such device.
pub(super) fn peak_reserved_bytes(device: i8) -> Result<u64, TchError> {
    let mut bytes = 0;
    // SAFETY: `bytes` is written on success.
    check(unsafe { ldpo_peak_reserved_bytes(device, &mut bytes) })?;
    Ok(bytes)
}

/// Returns the number of bytes of a CUDA device that no process uses.
///
/// # Errors
///
/// The same as those of [`peak_reserved_bytes`].
pub(super) fn free_bytes(device: i8) -> Result<u64, TchError> {
    let mut bytes = 0;
    // SAFETY: `bytes` is written on success.
    check(unsafe { ldpo_free_bytes(device, &mut bytes) })?;
    Ok(bytes)
}

/// Configures the allocators of devices, in the syntax of `PYTORCH_ALLOC_CONF`.
///
/// # Errors
///
/// Returns an error if the settings do not parse.
pub(super) fn configure_allocator(settings: &CStr) -> Result<(), TchError> {
    // SAFETY: the text lives through the call.
    check(unsafe { ldpo_configure_allocator(settings.as_ptr()) })
}

/// Returns whether the segments of device memory may grow.
#[cfg(test)]
pub(super) fn has_expandable_segments() -> bool {
    // SAFETY: reads a setting.
    unsafe { ldpo_has_expandable_segments() }
}

/// Lets float32 products on CUDA round their factors to TF32, or forbids it. Nothing changes on the CPU.
///
/// # Errors
///
/// Errors from libtorch.
pub(super) fn allow_tf32(is_allowed: bool) -> Result<(), TchError> {
    // SAFETY: changes a setting.
    check(unsafe { ldpo_allow_tf32(is_allowed) })
}

/// Returns whether float32 products on CUDA use TF32.
#[cfg(test)]
pub(super) fn allows_tf32() -> bool {
    // SAFETY: reads a setting.
    unsafe { ldpo_allows_tf32() }
}
