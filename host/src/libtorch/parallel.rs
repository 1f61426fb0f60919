//! Loops that the threads of libtorch share, so that a process has one team of them.

use std::ffi::{c_char, c_void};
use std::sync::{Mutex, PoisonError};

use tch::TchError;

use super::native::check;

unsafe extern "C" {
    fn ldpo_in_parallel(
        count: i64,
        body: unsafe extern "C" fn(data: *const c_void, begin: i64, end: i64),
        data: *const c_void,
    ) -> *mut c_char;
}

/// What the threads share: the parts that are left, and what is done with one.
struct Work<P, F> {
    parts: Vec<Mutex<Option<P>>>,
    body: F,
}

/// Calls `body` with each part, by the threads of libtorch. It must not panic.
///
/// # Errors
///
/// Errors from libtorch.
pub(crate) fn for_each<P: Send, F: Fn(P) + Sync>(parts: impl IntoIterator<Item = P>, body: F) -> Result<(), TchError> {
    let mut parts: Vec<_> = parts.into_iter().map(|part| Mutex::new(Some(part))).collect();
    if parts.len() == 1 {
        // For a few tokens, waking the threads would take longer than the work.
        parts.pop().and_then(|part| part.into_inner().unwrap_or_else(PoisonError::into_inner)).map(body);
        return Ok(());
    }
    let count = parts.len() as i64;
    let work = Work { parts, body };
    // SAFETY: the function takes the type that `data` points to, which lives through the call and may be shared by threads.
    check(unsafe { ldpo_in_parallel(count, do_range::<P, F>, (&raw const work).cast()) })
}

/// Does the parts of a range. A panic ends the process, as it cannot leave the C++ side.
unsafe extern "C" fn do_range<P: Send, F: Fn(P) + Sync>(data: *const c_void, begin: i64, end: i64) {
    // SAFETY: `data` is the work of `for_each`.
    let work = unsafe { &*data.cast::<Work<P, F>>() };
    for part in &work.parts[begin as usize..end as usize] {
        if let Some(part) = part.lock().unwrap_or_else(PoisonError::into_inner).take() {
            (work.body)(part);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn every_part_is_done_once() {
        for len in [0, 1, 7, 1000] {
            let mut values = vec![0_usize; len];
            for_each(values.chunks_mut(3).enumerate(), |(index, chunk)| {
                chunk.iter_mut().for_each(|value| *value += index + 1);
            })
            .unwrap();
            assert!(values.iter().enumerate().all(|(index, value)| *value == index / 3 + 1), "{len}");
        }
    }
}
