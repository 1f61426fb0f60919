//! Threads of libtorch's operations.

/// Returns the number of threads that one libtorch operation uses; sums differ bit for bit between numbers.
#[must_use]
pub fn num_threads() -> i32 {
    tch::get_num_threads()
}

/// Sets the number of threads that one libtorch operation uses.
pub fn set_num_threads(num_threads: i32) {
    tch::set_num_threads(num_threads);
}
