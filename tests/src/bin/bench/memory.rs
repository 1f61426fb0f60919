//! Gives memory back to the system, so that the resident set is what is in use.

unsafe extern "C" {
    fn malloc_trim(pad: usize) -> i32;
}

/// Returns every free page of the heap to the system.
pub fn trim() {
    // SAFETY: glibc's function takes any number, may be called at any time, and touches free memory only.
    unsafe { malloc_trim(0) };
}
