//! Picks the device, the first thing that a program does with libtorch, and proves that this has been done.
//!
//! The linker drops libtorch_cuda, because nothing here refers to its symbols. If it is opened before the process's first
//! libtorch call, it registers itself as if it were linked; after one (even after asking whether CUDA is available),
//! libtorch takes CUDA to be absent for the rest of the process.

use std::fs;
use std::path::PathBuf;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::{Cuda, Device, Kind, TchError};

use super::{memory, native};

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
    /// A setting of the device could not be made.
    #[error("device = \"{request}\" could not be set up: {source}")]
    Setup {
        /// The requested device.
        request: String,
        /// Error of libtorch.
        source: TchError,
    },
}

/// Proof that libtorch is prepared, with the device that was picked.
///
/// Whatever loads a model or another policy takes it, so that nothing calls libtorch before the device is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Libtorch {
    device: Device,
}

impl Libtorch {
    /// Prepares nothing and picks the CPU: for a process that never uses another device.
    #[must_use]
    pub fn cpu() -> Self {
        Self { device: Device::Cpu }
    }

    /// Returns the device.
    #[must_use]
    pub fn device(self) -> Device {
        self.device
    }

    /// Lets float32 products on CUDA round their factors to TF32 (10 bits of mantissa), or forbids it, which is the
    /// default. Nothing changes on the CPU.
    ///
    /// # Errors
    ///
    /// Errors from libtorch.
    pub fn allow_tf32(self, is_allowed: bool) -> Result<(), TchError> {
        native::allow_tf32(is_allowed)
    }

    /// Waits until the device has done all work that is queued; on the CPU, nothing is.
    pub fn synchronize(self) {
        if let Device::Cuda(index) = self.device {
            Cuda::synchronize(index as i64);
        }
    }

    /// Returns a sentence for a user who left the device open, if it is a GPU whose tensor cores float32 leaves idle.
    #[must_use]
    pub fn float32_notice(self, request: &str, kind: Kind) -> Option<String> {
        match (parse(request), self.device, kind) {
            (Some(Request::Auto), Device::Cuda(index), Kind::Float) => Some(format!(
                "device \"auto\" is cuda:{index}, and the dtype is float32: bfloat16 is faster on a GPU and takes half the \
                 memory; choose it with dtype bfloat16, or name the device to keep float32 without this line"
            )),
            _ => None,
        }
    }
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

/// Prepares libtorch for the device that `request` names: "auto", "cpu", "cuda" or "cuda:N".
///
/// Call it before anything else uses libtorch. "auto" is the first CUDA device if there is one, else the CPU.
///
/// # Errors
///
/// Returns [`DeviceError`] if `request` is not a device, or asks for a CUDA device that does not exist.
pub fn prepare(request: &str) -> Result<Libtorch, DeviceError> {
    let parsed = parse(request).ok_or_else(|| DeviceError::Unknown { request: request.into() })?;
    // Not a call that registers devices: CUDA can still be opened after it.
    keep_num_threads();
    if parsed == Request::Cpu {
        return Ok(Libtorch::cpu());
    }
    let opened = open_libtorch_cuda();
    let num_devices = if opened.is_ok() && Cuda::is_available() { Cuda::device_count() } else { 0 };
    if num_devices > 0 {
        // Benchmarking picks kernels by their time, so results would differ from run to run.
        Cuda::cudnn_set_benchmark(false);
        memory::use_expandable_segments().map_err(|source| DeviceError::Setup { request: request.into(), source })?;
    }
    let device = match parsed {
        Request::Cuda(_) if num_devices == 0 => {
            let reason = opened.err().unwrap_or_else(|| "libtorch_cuda is loaded, but sees no NVIDIA device".into());
            return Err(DeviceError::NoCuda { request: request.into(), reason });
        }
        Request::Cuda(index) if index as i64 >= num_devices => {
            return Err(DeviceError::NoSuchDevice { request: request.into(), num_devices });
        }
        Request::Cuda(index) => Device::Cuda(index),
        Request::Auto if num_devices > 0 => Device::Cuda(0),
        Request::Auto | Request::Cpu => Device::Cpu,
    };
    Ok(Libtorch { device })
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
    fn float32_on_a_gpu_that_nobody_named_is_mentioned() {
        let notice = |device, request, kind| Libtorch { device }.float32_notice(request, kind);
        let sentence = notice(Device::Cuda(0), "auto", Kind::Float).unwrap();
        assert!(sentence.starts_with("device \"auto\" is cuda:0, and the dtype is float32: bfloat16 is"), "{sentence}");
        assert_eq!(notice(Device::Cuda(0), "auto", Kind::BFloat16), None);
        assert_eq!(notice(Device::Cuda(1), "cuda:1", Kind::Float), None);
        assert_eq!(notice(Device::Cpu, "auto", Kind::Float), None);
    }

    #[test]
    fn tf32_is_off_until_it_is_allowed_and_never_touches_the_cpu() {
        let factors = [3, 4].map(|seed| {
            tch::manual_seed(seed);
            tch::Tensor::randn([65, 65], (Kind::Float, Device::Cpu))
        });
        let product = || factors[0].matmul(&factors[1]);
        let exact = product();
        assert!(!native::allows_tf32());
        Libtorch::cpu().allow_tf32(true).unwrap();
        assert!(native::allows_tf32());
        assert_eq!(product(), exact);
        Libtorch::cpu().allow_tf32(false).unwrap();
        assert!(!native::allows_tf32());
    }

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
