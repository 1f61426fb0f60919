//! What the program needs of libtorch beyond tch: devices, threads, memory, and the functions that tch leaves out.
//!
//! With [`crate::plugin`], this is the host's only unsafe code.

mod allocator;
mod device;
mod threads;
mod memory;
pub(crate) mod native;
pub mod script;

pub use allocator::use_huge_pages;
pub(crate) use device::folder;
pub use device::{DeviceError, prepare};
pub use memory::peak_memory_bytes;
pub use native::use_deterministic_algorithms;
pub use threads::{num_threads, set_num_threads};
