//! What the program needs of libtorch beyond tch: devices, threads, memory, and the functions that tch leaves out.
//!
//! With [`crate::plugin`] and the allocator's setting in `main.rs`, this is the host's only unsafe code.

mod upload;
pub(crate) mod native;
mod memory;
mod device;
mod threads;
pub(crate) mod parallel;
mod slices;
pub(crate) mod differentiable;
pub(crate) mod columns;
pub(crate) mod widened;
pub mod nf4;
pub(crate) mod rows;
pub mod script;
mod exit;

pub(crate) use device::folder;
pub use device::{DeviceError, Libtorch, prepare};
pub use exit::exit;
pub use memory::{available_memory_bytes, free_device_memory_bytes, peak_device_memory_bytes, peak_memory_bytes};
pub use native::use_deterministic_algorithms;
pub use threads::{num_threads, set_num_threads};
pub(crate) use upload::upload;
