//! Memory that the process holds.

/// Returns the largest amount of main memory that this process has held so far; None if the system does not report it.
///
/// Memory of a CUDA device is not counted, because libtorch's C interface does not report it.
#[must_use]
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn memory_has_a_peak() {
        assert!(peak_memory_bytes().unwrap() > 1 << 20);
    }
}
