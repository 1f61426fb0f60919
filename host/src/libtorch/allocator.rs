//! Large blocks of main memory in huge pages.

/// Lets libtorch allocate large blocks of main memory in huge pages, if Linux leaves that choice to the program.
///
/// A training step allocates and frees hundreds of MiB, and mapping them page by page takes a good part of its time
/// (docs/benchmarks.md). libtorch reads this setting from the environment, so call the function first in `main`: once the
/// process has other threads it does nothing. An existing value of the variable is kept.
pub fn use_huge_pages() {
    const NAME: &str = "THP_MEM_ALLOC_ENABLE";
    let is_single_threaded = std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if is_single_threaded && std::env::var_os(NAME).is_none() {
        // SAFETY: there is no other thread that could read the environment meanwhile.
        unsafe { std::env::set_var(NAME, "1") };
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_not_written_to_beside_other_threads() {
        let (finish, finished) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || finished.recv());
        let before = std::env::var_os("THP_MEM_ALLOC_ENABLE");
        use_huge_pages();
        assert_eq!(std::env::var_os("THP_MEM_ALLOC_ENABLE"), before);
        drop(finish);
        other.join().unwrap().unwrap_err();
    }
}
