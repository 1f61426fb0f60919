//! Opaque handles: a value behind a number that is never given twice, poisoned when a call on it panicked.
//!
//! What C holds is no address. So a handle that was freed, or belongs to another kind of handle, is a sentence where
//! following it would read what happens to lie there; and one that is freed during a call on another thread lives until
//! that call is done.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::without_provenance_mut;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use lambda_dpo_abi as abi;

use crate::arguments::{not_null, write};
use crate::guard::{Failure, Outcome, release};

type Numbered = HashMap<usize, Arc<dyn Any + Send + Sync>>;

/// Every handle that was given and not freed. Between any two statements that hold the lock it is whole, so that a panic
/// elsewhere does not matter.
static LIVE: LazyLock<RwLock<Numbered>> = LazyLock::new(RwLock::default);

/// Odd, so that no pointer to anything is taken for a handle.
static NEXT: AtomicUsize = AtomicUsize::new(1);
const STEP: usize = 2;

/// What an opaque pointer of the ABI stands for.
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

    /// The handle behind a pointer; None where it was freed or is of another kind.
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
                "argument `{name}` is no handle of that kind that is alive: it was freed, or is of another kind, or did \
                 not come from this library"
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

    /// Frees a handle; does nothing for NULL, and for what is no handle of this kind that is alive.
    pub fn free<C>(pointer: *mut C) {
        release(|| {
            let handle = Self::find(pointer);
            if handle.is_some() {
                let removed = LIVE.write().unwrap_or_else(PoisonError::into_inner).remove(&pointer.addr());
                // Dropped with the lock open: a value may call back into the library as it goes.
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
        // SAFETY: `raw` is writable.
        unsafe { Handle::give(7_u32, &mut raw, "schedule") }.unwrap();
        let (status, message) = told(|| Handle::<u32>::with(raw, "schedule", |_| panic!("on purpose")));
        assert_eq!(status, abi::STATUS_PANIC);
        assert_eq!(message, "a defect in the plugin stopped this call, please report it: on purpose");
        let (status, message) = told(|| Handle::<u32>::with(raw, "schedule", |_| Ok(())));
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

    /// A value that tells when it goes.
    struct Told(Arc<AtomicBool>);

    impl Drop for Told {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }

    #[test]
    fn a_handle_that_is_freed_during_a_call_lives_until_its_end() {
        let (mut raw, gone): (*mut abi::Schedule, _) = (null_mut(), Arc::new(AtomicBool::new(false)));
        // SAFETY: as above.
        unsafe { Handle::give(Told(Arc::clone(&gone)), &mut raw, "schedule") }.unwrap();
        let is_gone = || gone.load(Ordering::Acquire);
        let during = Handle::<Told>::with(raw, "schedule", |_| {
            Handle::<Told>::free(raw);
            Ok(is_gone())
        });
        assert_eq!((during.unwrap(), is_gone()), (false, true));
    }
}
