//! The frame of every call: failures and panics inside become a status with a message.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use lambda_dpo_abi as abi;
use lambda_dpo_core::error::panic_text;

use crate::failure::{Failure, Outcome};
use crate::growth::Growing;

/// Runs the body of a call. No gradient is recorded (autograd does not cross the boundary), the caller's grad mode is
/// restored, and a panic becomes [`abi::STATUS_PANIC`].
pub fn call(error: *mut abi::Error, body: impl FnOnce() -> Outcome) -> abi::Status {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _no_grad = tch::no_grad_guard();
        body()
    }))
    .unwrap_or_else(|panic| Err(Failure::new(abi::STATUS_PANIC, panic_message(&*panic))));
    let (status, message) = match &outcome {
        Ok(()) => (abi::STATUS_OK, ""),
        Err(failure) => (failure.status, failure.message.as_str()),
    };
    // SAFETY: `error` is NULL or the caller's own struct, as the table demands.
    unsafe { report(error, message) };
    status
}

/// Runs the body of a function that frees: it cannot report a failure, and no panic may leave it.
pub fn release(body: impl FnOnce()) {
    drop(catch_unwind(AssertUnwindSafe(body)));
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    format!("a defect in the plugin stopped this call, please report it: {}", panic_text(panic))
}

/// Writes the message, truncated between characters if the buffer is too small.
///
/// # Safety
/// `error` is NULL or valid, and its buffer NULL or `capacity` bytes long.
unsafe fn report(error: *mut abi::Error, message: &str) {
    // SAFETY: the caller's promise.
    let Some(error) = (unsafe { error.as_mut() }) else { return };
    if error.struct_size < abi::Error::REVISION_1_SIZE {
        return;
    }
    error.len = message.len();
    if error.buffer.is_null() {
        return;
    }
    let cut = message.floor_char_boundary(error.capacity);
    // SAFETY: the buffer holds `capacity` bytes, and `cut` is no more than that.
    unsafe { std::ptr::copy_nonoverlapping(message.as_ptr(), error.buffer, cut) };
}
