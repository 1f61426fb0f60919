//! Memory that the process holds, in main memory and on a device.

use std::env;

use tch::{Device, TchError};

use super::native;

/// Variables with which libtorch's device allocators are configured.
const ALLOCATOR_VARIABLES: [&str; 3] = ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"];

/// Returns the largest amount of main memory that this process has held so far; None if the system does not report it.
#[must_use]
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Returns the largest amount of a CUDA device's memory that libtorch's allocator has reserved so far, which is what
/// other processes could not use; None for other devices.
#[must_use]
pub fn peak_device_memory_bytes(device: Device) -> Option<u64> {
    native::peak_reserved_bytes(cuda_index(device)?).ok()
}

/// Returns the memory of a CUDA device that no process uses; None for other devices.
#[must_use]
pub fn free_device_memory_bytes(device: Device) -> Option<u64> {
    native::free_bytes(cuda_index(device)?).ok()
}

/// Returns the main memory that processes can still take without swapping; None if the system does not report it.
#[must_use]
pub fn available_memory_bytes() -> Option<u64> {
    let information = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = information.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn cuda_index(device: Device) -> Option<i8> {
    match device {
        Device::Cuda(index) => i8::try_from(index).ok(),
        _ => None,
    }
}

/// Lets the allocators of devices grow their segments, unless the user has configured them.
///
/// Batches differ in length, and segments of fixed sizes are left behind in pieces that the next batch does not fit.
///
/// # Errors
///
/// Errors from libtorch.
pub(super) fn use_expandable_segments() -> Result<(), TchError> {
    if ALLOCATOR_VARIABLES.iter().any(|name| env::var_os(name).is_some()) {
        return Ok(());
    }
    native::configure_allocator(c"expandable_segments:True")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn memory_has_a_peak() {
        assert!(peak_memory_bytes().unwrap() > 1 << 20);
        assert!(available_memory_bytes().unwrap() > 1 << 20);
    }

    #[test]
    fn the_cpu_has_no_device_memory() {
        assert_eq!((peak_device_memory_bytes(Device::Cpu), free_device_memory_bytes(Device::Cpu)), (None, None));
    }

    #[test]
    fn segments_expand() {
        // As in a process whose user has not configured the allocators.
        assert!(ALLOCATOR_VARIABLES.iter().all(|name| env::var_os(name).is_none()));
        use_expandable_segments().unwrap();
        assert!(native::has_expandable_segments());
    }
}
