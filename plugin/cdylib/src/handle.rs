//! Opaque handles: a value behind a number that is never used twice, poisoned once a call on it has panicked.
//!
//! A handle in C is not an address. So one that was freed, or is of another type, gives an error instead of a read of
//! arbitrary memory; and a value that is freed during a call on another thread lives until that call is done.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::without_provenance_mut;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use lambda_dpo_abi as abi;

use crate::arguments::{not_null, write};
use crate::failure::{Failure, Outcome};
use crate::guard::release;

type Numbered = HashMap<usize, Arc<dyn Any + Send + Sync>>;

/// Every live handle. Poisoning of the lock is ignored: no statement that holds it leaves the map inconsistent.
static LIVE: LazyLock<RwLock<Numbered>> = LazyLock::new(RwLock::default);

/// Odd, so that no pointer is mistaken for a handle.
static NEXT: AtomicUsize = AtomicUsize::new(1);
const STEP: usize = 2;

/// The value of an opaque pointer of the ABI.
pub struct Handle<T> {
    poisoned: AtomicBool,
    value: T,
}

impl<T: Send + Sync + 'static> Handle<T> {
    /// Puts a value behind an opaque pointer, and writes that pointer.
    ///
    /// # Safety
    /// `out` is NULL or writable.
    pub unsafe fn give<C>(value: T, out: *mut *mut C, name: &str) -> Outcome {
        not_null(out, name)?;
        let number = NEXT.fetch_add(STEP, Ordering::Relaxed);
        let handle = Self { poisoned: AtomicBool::new(false), value };
        LIVE.write().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::new(handle));
        // SAFETY: the caller's promise.
        unsafe { write(out, without_provenance_mut(number), name) }
    }

    /// Finds the handle of a pointer; None if it was freed or is of another type.
    fn find<C>(pointer: *const C) -> Option<Arc<Self>> {
        let live = LIVE.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(live.get(&pointer.addr())?).downcast().ok()
    }

    /// Runs `body` on the value of a handle that is alive and not poisoned; a panic poisons it.
    pub fn with<C, R>(pointer: *const C, name: &str, body: impl FnOnce(&T) -> Outcome<R>) -> Outcome<R> {
        if pointer.is_null() {
            return Err(Failure::argument(format!("argument `{name}` is NULL")));
        }
        let Some(handle) = Self::find(pointer) else {
            return Err(Failure::argument(format!(
                "argument `{name}` is not a live handle of its type: it was freed, is of another type, or does not come \
                 from this library"
            )));
        };
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

    /// Frees a handle; does nothing for NULL, or if it is not a live handle of this type.
    pub fn free<C>(pointer: *mut C) {
        release(|| {
            let handle = Self::find(pointer);
            if handle.is_some() {
                let removed = LIVE.write().unwrap_or_else(PoisonError::into_inner).remove(&pointer.addr());
                // Dropped after the lock is released: dropping a value may call back into the library.
                drop(removed);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::ptr::null_mut;

    use super::*;
    use crate::guard::call;

    /// Makes a call and returns its status and message.
    fn outcome_of(body: impl FnOnce() -> Outcome) -> (abi::Status, String) {
        let mut buffer = [0_u8; 256];
        let struct_size = size_of::<abi::Error>();
        let mut error = abi::Error { struct_size, buffer: buffer.as_mut_ptr(), capacity: buffer.len(), len: 0 };
        let status = call(&mut error, body);
        (status, String::from_utf8(buffer[..error.len].to_vec()).unwrap())
    }

    #[test]
    fn a_panic_is_a_status_and_poisons_its_handle() {
        let mut raw: *mut abi::Schedule = null_mut();
        // SAFETY: `raw` is writable.
        unsafe { Handle::give(7_u32, &mut raw, "schedule") }.unwrap();
        let (status, message) = outcome_of(|| Handle::<u32>::with(raw, "schedule", |_| panic!("on purpose")));
        assert_eq!(status, abi::STATUS_PANIC);
        assert_eq!(message, "a defect in the plugin stopped this call, please report it: on purpose");
        let (status, message) = outcome_of(|| Handle::<u32>::with(raw, "schedule", |_| Ok(())));
        assert_eq!(status, abi::STATUS_POISONED);
        assert!(message.ends_with("free it and make a new one"), "{message}");
        Handle::<u32>::free(raw);
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
        unsafe { Handle::give(Panics, &mut raw, "schedule") }.unwrap();
        Handle::<Panics>::free(raw);
    }

    /// A value that reports when it is dropped.
    struct Reporting(Arc<AtomicBool>);

    impl Drop for Reporting {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }

    #[test]
    fn a_handle_that_is_freed_during_a_call_lives_until_its_end() {
        let (mut raw, gone): (*mut abi::Schedule, _) = (null_mut(), Arc::new(AtomicBool::new(false)));
        // SAFETY: as above.
        unsafe { Handle::give(Reporting(Arc::clone(&gone)), &mut raw, "schedule") }.unwrap();
        let is_gone = || gone.load(Ordering::Acquire);
        let during = Handle::<Reporting>::with(raw, "schedule", |_| {
            Handle::<Reporting>::free(raw);
            Ok(is_gone())
        });
        assert_eq!((during.unwrap(), is_gone()), (false, true));
    }
}
