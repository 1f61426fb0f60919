//! Opens libtorch_cuda and picks devices: the first thing a program does with libtorch.
//!
//! The linker drops libtorch_cuda, because nothing here refers to its symbols. Opened before the process's first libtorch
//! call it registers itself as if it were linked; after one (even after asking whether CUDA is available) libtorch holds
//! CUDA for absent for good.

pub(crate) mod native;
pub mod script;

use std::fs;
use std::path::PathBuf;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::{Cuda, Device};

/// A device that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The request is no device.
    #[error("device = \"{request}\" is not a device; use \"auto\", \"cpu\", \"cuda\" or \"cuda:N\" with a number N")]
    Unknown {
        /// What was asked for.
        request: String,
    },
    /// CUDA was asked for, and there is none.
    #[error(
        "device = \"{request}\" asks for CUDA, but no CUDA device is available ({reason}); use \"cpu\" or \"auto\""
    )]
    NoCuda {
        /// What was asked for.
        request: String,
        /// What is missing.
        reason: String,
    },
    /// There are fewer devices than the number asks for.
    #[error(
        "device = \"{request}\" does not exist: this machine has {num_devices} CUDA device(s), numbered from 0; \
         use a smaller number, \"cpu\" or \"auto\""
    )]
    NoSuchDevice {
        /// What was asked for.
        request: String,
        /// Devices that libtorch sees.
        num_devices: i64,
    },
}

/// A parsed request for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Auto,
    Cpu,
    Cuda(usize),
}

fn parse(request: &str) -> Option<Request> {
    match request {
        "auto" => Some(Request::Auto),
        "cpu" => Some(Request::Cpu),
        "cuda" => Some(Request::Cuda(0)),
        _ => request.strip_prefix("cuda:")?.parse().ok().map(Request::Cuda),
    }
}

/// Lets libtorch take large blocks of main memory in huge pages, where Linux leaves that to the program.
///
/// A training step allocates and frees hundreds of MiB; mapped page by page, that takes a good part of its time. libtorch
/// is told through the environment, so call it first in `main`: once the process has other threads it does nothing. A value
/// that the environment has already stays.
pub fn use_huge_pages() {
    const NAME: &str = "THP_MEM_ALLOC_ENABLE";
    let is_single_threaded = fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if is_single_threaded && std::env::var_os(NAME).is_none() {
        // SAFETY: there is no other thread that could read the environment meanwhile.
        unsafe { std::env::set_var(NAME, "1") };
    }
}

/// Makes libtorch ready and gives the device that `request` names: "auto", "cpu", "cuda" or "cuda:N".
///
/// Call it before anything else touches libtorch. "auto" is the first CUDA device where there is one, else the CPU.
///
/// # Errors
///
/// [`DeviceError`] when `request` is no device, or asks for CUDA where there is none.
pub fn prepare(request: &str) -> Result<Device, DeviceError> {
    let parsed = parse(request).ok_or_else(|| DeviceError::Unknown { request: request.into() })?;
    if parsed == Request::Cpu {
        return Ok(Device::Cpu);
    }
    let opened = open_libtorch_cuda();
    let num_devices = if opened.is_ok() && Cuda::is_available() { Cuda::device_count() } else { 0 };
    if num_devices > 0 {
        // Kernels chosen by timing them differ from run to run.
        Cuda::cudnn_set_benchmark(false);
    }
    match parsed {
        Request::Cuda(_) if num_devices == 0 => {
            let reason = opened.err().unwrap_or_else(|| "libtorch_cuda is loaded, but sees no NVIDIA device".into());
            Err(DeviceError::NoCuda { request: request.into(), reason })
        }
        Request::Cuda(index) if index as i64 >= num_devices => {
            Err(DeviceError::NoSuchDevice { request: request.into(), num_devices })
        }
        Request::Cuda(index) => Ok(Device::Cuda(index)),
        Request::Auto if num_devices > 0 => Ok(Device::Cuda(0)),
        Request::Auto | Request::Cpu => Ok(Device::Cpu),
    }
}

/// Opens libtorch_cuda beside the libtorch of this process, for as long as the process lives.
fn open_libtorch_cuda() -> Result<(), String> {
    let path = folder().ok_or("the folder of libtorch is not known")?.join("libtorch_cuda.so");
    if !path.exists() {
        return Err(format!("{} does not exist: this libtorch is built for the CPU alone", path.display()));
    }
    // SAFETY: libtorch_cuda is part of the libtorch that is linked, and opening it runs what linking it would run. It is
    // never closed, so nothing that it registers dangles.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) }
        .map_err(|error| format!("{} could not be opened: {error}", path.display()))?;
    std::mem::forget(library);
    Ok(())
}

/// The folder that the dynamic linker took libtorch from.
pub(crate) fn folder() -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| &line[at..]))
        .find(|path| path.ends_with("/libtorch_cpu.so"))?;
    PathBuf::from(path).parent().map(PathBuf::from)
}

/// The number of threads that one libtorch operation uses; sums differ between numbers, bit for bit.
#[must_use]
pub fn num_threads() -> i32 {
    tch::get_num_threads()
}

/// Sets the number of threads that one libtorch operation uses.
pub fn set_num_threads(num_threads: i32) {
    tch::set_num_threads(num_threads);
}

/// The most memory of the machine that this process has held so far; `None` where the system does not tell.
///
/// Memory of a CUDA device is not counted: libtorch's C interface has no figures for it.
#[must_use]
pub fn peak_memory_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn requests_parse() {
        assert_eq!(parse("cuda:3"), Some(Request::Cuda(3)));
        assert_eq!(parse("cuda"), Some(Request::Cuda(0)));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            let message = prepare(wrong).unwrap_err().to_string();
            assert!(message.starts_with(&format!("device = \"{wrong}\" is not a device; use")), "{message}");
        }
    }

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

    #[test]
    fn memory_has_a_peak() {
        assert!(peak_memory_bytes().unwrap() > 1 << 20);
    }
}
