//! The one door between C and the core: failures become statuses with a sentence, panics too.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use lambda_dpo_abi as abi;
use lambda_dpo_core::error::panic_text;
use lambda_dpo_core::{Error, ErrorKind};

use crate::growth::Growing;

/// What a call reports instead of its outputs.
#[derive(Debug)]
pub struct Failure {
    status: abi::Status,
    message: String,
}

impl Failure {
    /// A failure of the given kind.
    pub fn new(status: abi::Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// An argument that cannot be used.
    pub fn argument(message: impl Into<String>) -> Self {
        Self::new(abi::STATUS_INVALID_ARGUMENT, message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            ErrorKind::InvalidArgument => abi::STATUS_INVALID_ARGUMENT,
            ErrorKind::Io => abi::STATUS_IO,
            ErrorKind::InvalidData => abi::STATUS_INVALID_DATA,
            ErrorKind::Unsupported => abi::STATUS_UNSUPPORTED,
            ErrorKind::Torch => abi::STATUS_TORCH,
            ErrorKind::Cancelled => abi::STATUS_CANCELLED,
        };
        Self::new(status, error.to_string())
    }
}

impl From<tch::TchError> for Failure {
    fn from(error: tch::TchError) -> Self {
        Error::from(error).into()
    }
}

/// The result of an export's body.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Runs an export's body: no gradient is recorded (autograd does not cross the boundary), the caller's grad mode is
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
    // SAFETY: `error` is NULL or the caller's own struct, as every export demands.
    unsafe { report(error, message) };
    status
}

/// Runs a free function's body: there is nowhere to report to, and nothing may leave.
pub fn release(body: impl FnOnce()) {
    drop(catch_unwind(AssertUnwindSafe(body)));
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    format!("a defect in the plugin stopped this call, please report it: {}", panic_text(panic))
}

/// Writes the message, cut at a character where the buffer is short.
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
