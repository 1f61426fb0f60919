//! Operations whose backward pass is written here instead of being recorded call by call: they keep less for it, and take
//! fewer passes over memory. `differentiable.cpp` is the C++ side.

use std::ffi::{CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::slice;

use tch::{TchError, Tensor};
use torch_sys::C_tensor;

use super::native::check;

type Run = unsafe extern "C" fn(
    saved: *const c_void,
    grad: *const C_tensor,
    grads: *mut *mut C_tensor,
    num_inputs: usize,
) -> *mut c_char;
type Release = unsafe extern "C" fn(saved: *mut c_void);

unsafe extern "C" {
    fn ldpo_differentiable(
        inputs: *const *const C_tensor,
        num_inputs: usize,
        output: *const C_tensor,
        saved: *mut c_void,
        run: Run,
        release: Release,
        recorded: *mut *mut C_tensor,
    ) -> *mut c_char;
    fn strdup(text: *const c_char) -> *mut c_char;
}

/// What an operation has saved for its backward pass, which autograd may run on a thread of its own.
///
/// Saved inputs and outputs must be detached, so that the graph does not hold itself.
pub(crate) trait Backward: Send + 'static {
    /// Returns the gradients of the inputs, in their order, given that of the output; None where an input takes none.
    ///
    /// # Errors
    ///
    /// Errors from libtorch, which reach the caller of the backward pass.
    fn gradients(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>, TchError>;
}

/// Computes an output, and tells autograd how the gradients of its inputs follow. `forward` runs without gradients.
///
/// # Errors
///
/// Errors of `forward` and from libtorch.
pub(crate) fn differentiable<B: Backward, E: From<TchError>>(
    inputs: &[&Tensor],
    forward: impl FnOnce() -> Result<(Tensor, B), E>,
) -> Result<Tensor, E> {
    let (output, backward) = tch::no_grad(forward)?;
    if !inputs.iter().any(|input| input.requires_grad()) {
        return Ok(output);
    }
    let inputs: Vec<*const C_tensor> = inputs.iter().map(|input| input.as_ptr()).collect();
    let saved = Box::into_raw(Box::new(backward)).cast();
    let (output, mut recorded) = (output.as_ptr(), null_mut());
    // SAFETY: the tensors live through the call; what is saved is a box of the type that both functions take, and the C++ side
    // owns it from here on.
    check(unsafe {
        ldpo_differentiable(inputs.as_ptr(), inputs.len(), output, saved, run::<B>, release::<B>, &mut recorded)
    })?;
    // SAFETY: on success, `recorded` is a new tensor of ours.
    Ok(unsafe { Tensor::from_ptr(recorded) })
}

/// Computes the gradients for the C++ side, which owns them then.
unsafe extern "C" fn run<B: Backward>(
    saved: *const c_void,
    grad: *const C_tensor,
    grads: *mut *mut C_tensor,
    num_inputs: usize,
) -> *mut c_char {
    // SAFETY: the C++ side keeps the box alive; `grads` has a place for each input.
    let (backward, grads) = unsafe { (&*saved.cast::<B>(), slice::from_raw_parts_mut(grads, num_inputs)) };
    // SAFETY: `grad` is a tensor that lives through the call.
    let grad = unsafe { Tensor::clone_from_ptr(grad.cast_mut()) };
    let message = match catch_unwind(AssertUnwindSafe(|| tch::no_grad(|| backward.gradients(&grad)))) {
        Ok(Ok(found)) => {
            for (place, mut gradient) in grads.iter_mut().zip(found) {
                *place = gradient.as_mut().map_or(null_mut(), Tensor::as_mut_ptr);
                std::mem::forget(gradient);
            }
            return null_mut();
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the backward pass of an operation panicked".to_owned(),
    };
    let message = CString::new(message.replace('\0', " ")).unwrap_or_default();
    // SAFETY: a NUL-terminated text; the C++ side frees the copy.
    unsafe { strdup(message.as_ptr()) }
}

unsafe extern "C" fn release<B: Backward>(saved: *mut c_void) {
    // SAFETY: it is the box of `differentiable`, and this is its last use.
    drop(unsafe { Box::from_raw(saved.cast::<B>()) });
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use tch::{Device, Kind};

    use super::*;

    /// Gives `factor` times the gradient to the first input and none to the others.
    struct Scale(Result<f64, &'static str>);

    impl Backward for Scale {
        fn gradients(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>, TchError> {
            let factor = self.0.map_err(|reason| TchError::Convert(reason.to_owned()))?;
            Ok(vec![Some(grad.f_mul_scalar(factor)?), None])
        }
    }

    fn leaf() -> Tensor {
        Tensor::from_slice(&[1.0, 2.0]).set_requires_grad(true)
    }

    #[test]
    fn gradients_are_those_of_the_operation() {
        let (first, second) = (leaf(), leaf());
        let output = differentiable(&[&first, &second], || {
            assert!(!(&first * 2.0).requires_grad());
            Ok::<_, TchError>((&first + &second, Scale(Ok(3.0))))
        })
        .unwrap();
        assert_eq!(output, &first + &second);
        (output * 2.0).sum(Kind::Double).backward();
        assert_eq!(first.grad(), Tensor::from_slice(&[6.0, 6.0]));
        assert!(!second.grad().defined());
    }

    #[test]
    fn nothing_is_recorded_without_need() {
        let input = Tensor::zeros([2], (Kind::Double, Device::Cpu));
        let output = differentiable(&[&input], || Ok::<_, TchError>((&input + 1.0, Scale(Ok(1.0))))).unwrap();
        assert!(!output.requires_grad());
        let twice = || Ok::<_, TchError>((&input * 2.0, Scale(Ok(2.0))));
        assert!(!tch::no_grad(|| differentiable(&[&leaf()], twice)).unwrap().requires_grad());
    }
}
