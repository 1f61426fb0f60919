//! Picks the device: the first thing that a program does with libtorch.
//!
//! The linker drops libtorch_cuda, because nothing here refers to its symbols. If it is opened before the process's first
//! libtorch call, it registers itself as if it were linked; after one (even after asking whether CUDA is available),
//! libtorch takes CUDA to be absent for the rest of the process.

use std::fs;
use std::path::PathBuf;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::{Cuda, Device};

use super::threads::keep_num_threads;

/// A device that is not available.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The request is not a device.
    #[error("device = \"{request}\" is not a device; use \"auto\", \"cpu\", \"cuda\" or \"cuda:N\" with a number N")]
    Unknown {
        /// The requested device.
        request: String,
    },
    /// CUDA was asked for, but is not available.
    #[error(
        "device = \"{request}\" asks for CUDA, but no CUDA device is available ({reason}); use \"cpu\" or \"auto\""
    )]
    NoCuda {
        /// The requested device.
        request: String,
        /// Why CUDA is not available.
        reason: String,
    },
    /// There are fewer devices than the number asks for.
    #[error(
        "device = \"{request}\" does not exist: this machine has {num_devices} CUDA device(s), numbered from 0; \
         use a smaller number, \"cpu\" or \"auto\""
    )]
    NoSuchDevice {
        /// The requested device.
        request: String,
        /// Number of devices that libtorch sees.
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

/// Prepares libtorch and returns the device that `request` names: "auto", "cpu", "cuda" or "cuda:N".
///
/// Call it before anything else uses libtorch. "auto" is the first CUDA device if there is one, else the CPU.
///
/// # Errors
///
/// Returns [`DeviceError`] if `request` is not a device, or asks for a CUDA device that does not exist.
pub fn prepare(request: &str) -> Result<Device, DeviceError> {
    let parsed = parse(request).ok_or_else(|| DeviceError::Unknown { request: request.into() })?;
    // Not a call that registers devices: CUDA can still be opened after it.
    keep_num_threads();
    if parsed == Request::Cpu {
        return Ok(Device::Cpu);
    }
    let opened = open_libtorch_cuda();
    let num_devices = if opened.is_ok() && Cuda::is_available() { Cuda::device_count() } else { 0 };
    if num_devices > 0 {
        // Benchmarking picks kernels by their time, so results would differ from run to run.
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

/// Opens libtorch_cuda beside the libtorch of this process, for the life of the process.
fn open_libtorch_cuda() -> Result<(), String> {
    let path = folder().ok_or("the folder of libtorch is not known")?.join("libtorch_cuda.so");
    if !path.exists() {
        return Err(format!("{} does not exist: this libtorch is built for the CPU only", path.display()));
    }
    // SAFETY: libtorch_cuda is part of the libtorch that is linked, and opening it runs what linking it would run. It is
    // never closed, so nothing that it registers dangles.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) }
        .map_err(|error| format!("{} could not be opened: {error}", path.display()))?;
    std::mem::forget(library);
    Ok(())
}

/// Returns the folder from which the dynamic linker loaded libtorch.
pub(crate) fn folder() -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| &line[at..]))
        .find(|path| path.ends_with("/libtorch_cpu.so"))?;
    PathBuf::from(path).parent().map(PathBuf::from)
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
}
