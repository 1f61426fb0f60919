//! Linear layers whose weight exists only while it is multiplied: autograd does not keep it, and it is made anew in the
//! backward pass. `remade.cpp` is the C++ side.

use std::ffi::{CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use tch::{TchError, Tensor};
use torch_sys::C_tensor;

use super::native::check;

type Make = unsafe extern "C" fn(ingredients: *const c_void, weight: *mut *mut C_tensor) -> *mut c_char;
type Release = unsafe extern "C" fn(ingredients: *mut c_void);

unsafe extern "C" {
    fn ldpo_remade_linear(
        input: *const C_tensor,
        bias: *const C_tensor,
        ingredients: *mut c_void,
        make: Make,
        release: Release,
        output: *mut *mut C_tensor,
    ) -> *mut c_char;
    fn strdup(text: *const c_char) -> *mut c_char;
}

/// What a weight is made of. Autograd may make it on a thread of its own.
pub(super) trait Ingredients: Send {
    /// Makes the weight, [out, in].
    fn make(&self) -> Result<Tensor, TchError>;
}

/// W x + b with a gradient to `input` alone.
///
/// # Shapes
///
/// `input`: [.., in]; `bias`: `[out]`; the result: [.., out].
///
/// # Errors
///
/// Errors of the ingredients and from libtorch; those of the backward pass come from there.
pub(super) fn linear<I: Ingredients>(
    input: &Tensor,
    bias: Option<&Tensor>,
    ingredients: I,
) -> Result<Tensor, TchError> {
    let ingredients = Box::into_raw(Box::new(ingredients)).cast();
    let bias = bias.map_or(std::ptr::null(), Tensor::as_ptr);
    let mut output = null_mut();
    // SAFETY: the tensors live through the call; the ingredients are a box of the type that both functions take, and the C++
    // side owns them from here on.
    check(unsafe { ldpo_remade_linear(input.as_ptr(), bias, ingredients, make::<I>, release::<I>, &mut output) })?;
    // SAFETY: on success, `output` is a new tensor of ours.
    Ok(unsafe { Tensor::from_ptr(output) })
}

/// Makes the weight for the C++ side, which owns it then.
unsafe extern "C" fn make<I: Ingredients>(ingredients: *const c_void, weight: *mut *mut C_tensor) -> *mut c_char {
    // SAFETY: the C++ side keeps the box alive, and calls this from one thread at a time.
    let ingredients = unsafe { &*ingredients.cast::<I>() };
    let message = match catch_unwind(AssertUnwindSafe(|| tch::no_grad(|| ingredients.make()))) {
        Ok(Ok(mut made)) => {
            // SAFETY: `weight` is a place for a pointer; the tensor is not freed here.
            unsafe { *weight = made.as_mut_ptr() };
            std::mem::forget(made);
            return null_mut();
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "making the weight of a linear layer panicked".to_owned(),
    };
    let message = CString::new(message.replace('\0', " ")).unwrap_or_default();
    // SAFETY: a NUL-terminated text; the C++ side frees the copy.
    unsafe { strdup(message.as_ptr()) }
}

unsafe extern "C" fn release<I: Ingredients>(ingredients: *mut c_void) {
    // SAFETY: it is the box of `linear`, and this is its last use.
    drop(unsafe { Box::from_raw(ingredients.cast::<I>()) });
}
