//! Threads of libtorch's operations.

/// Returns the number of threads that one libtorch operation uses; sums differ bit for bit between numbers.
#[must_use]
pub fn num_threads() -> i32 {
    tch::get_num_threads()
}

/// Keeps the number of threads that libtorch chose, as if it had been set.
///
/// A number that is set also ends MKL's own choice of a smaller one for each product, so the order of its sums depends on
/// whether it was ever set. A resumed run sets the number of its checkpoint; so every process sets one before it computes
/// anything.
pub(super) fn keep_num_threads() {
    set_num_threads(num_threads());
}

/// Sets the number of threads that one libtorch operation uses.
pub fn set_num_threads(num_threads: i32) {
    tch::set_num_threads(num_threads);
}
