//! Opaque handles: a value behind a pointer, poisoned when a call on it panicked.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use lambda_dpo_abi as abi;

use crate::arguments;
use crate::guard::{Failure, Outcome, release};

/// What an opaque pointer of the ABI points to.
pub struct Handle<T> {
    poisoned: AtomicBool,
    value: T,
}

impl<T> Handle<T> {
    /// Moves a value behind an opaque pointer, and writes that pointer.
    ///
    /// # Safety
    /// `out` is NULL or writable.
    pub unsafe fn give<C>(value: T, out: *mut *mut C, name: &str) -> Outcome {
        if out.is_null() {
            return Err(Failure::argument(format!("argument `{name}` is NULL")));
        }
        let handle = Box::into_raw(Box::new(Self { poisoned: AtomicBool::new(false), value }));
        // SAFETY: not NULL, and the caller's promise.
        unsafe { arguments::write(out, handle.cast(), name) }
    }

    /// Runs `body` on the value of a handle that is alive and not poisoned; a panic poisons it.
    ///
    /// # Safety
    /// `pointer` is NULL or came from [`give`](Self::give) with the same `T` and was not freed.
    pub unsafe fn with<C, R>(pointer: *const C, name: &str, body: impl FnOnce(&T) -> Outcome<R>) -> Outcome<R> {
        // SAFETY: the caller's promise.
        let handle = unsafe { arguments::reference(pointer.cast::<Self>(), name) }?;
        if handle.poisoned.load(Ordering::Acquire) {
            return Err(Failure::new(
                abi::STATUS_POISONED,
                format!("`{name}` was left in an unknown state by an earlier defect; free it and make a new one"),
            ));
        }
        catch_unwind(AssertUnwindSafe(|| body(&handle.value))).unwrap_or_else(|panic| {
            handle.poisoned.store(true, Ordering::Release);
            resume_unwind(panic)
        })
    }

    /// Frees a handle; does nothing for NULL.
    ///
    /// # Safety
    /// As [`with`](Self::with); the pointer is not used again.
    pub unsafe fn free<C>(pointer: *mut C) {
        if !pointer.is_null() {
            // SAFETY: the caller's promise.
            release(|| drop(unsafe { Box::from_raw(pointer.cast::<Self>()) }));
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::ptr::null_mut;

    use super::*;
    use crate::guard::call;

    /// Makes a call and gives its status and sentence.
    fn told(body: impl FnOnce() -> Outcome) -> (abi::Status, String) {
        let mut buffer = [0_u8; 256];
        let struct_size = size_of::<abi::Error>();
        let mut error = abi::Error { struct_size, buffer: buffer.as_mut_ptr(), capacity: buffer.len(), len: 0 };
        let status = call(&mut error, body);
        (status, String::from_utf8(buffer[..error.len].to_vec()).unwrap())
    }

    #[test]
    fn a_panic_is_a_status_and_poisons_its_handle() {
        let mut raw: *mut abi::Schedule = null_mut();
        // SAFETY: `raw` is writable, then a handle of this type, freed once.
        unsafe {
            Handle::give(7_u32, &mut raw, "schedule").unwrap();
            let (status, message) = told(|| Handle::<u32>::with(raw, "schedule", |_| panic!("on purpose")));
            assert_eq!(status, abi::STATUS_PANIC);
            assert_eq!(message, "a defect in the plugin stopped this call, please report it: on purpose");
            let (status, message) = told(|| Handle::<u32>::with(raw, "schedule", |_| Ok(())));
            assert_eq!(status, abi::STATUS_POISONED);
            assert!(message.ends_with("free it and make a new one"), "{message}");
            Handle::<u32>::free(raw);
        }
    }

    #[test]
    fn a_value_that_panics_when_dropped_leaves_the_process_alone() {
        struct Panics;
        impl Drop for Panics {
            fn drop(&mut self) {
                panic!("on purpose");
            }
        }
        let mut raw: *mut abi::Schedule = null_mut();
        // SAFETY: as above.
        unsafe {
            Handle::give(Panics, &mut raw, "schedule").unwrap();
            Handle::<Panics>::free(raw);
        }
    }
}
