//! Copies of small tensors to the device of a computation.

use tch::{Device, TchError, Tensor};

/// Returns a tensor of main memory on a device.
///
/// A copy to CUDA goes through pinned memory: from pageable memory, libtorch waits for all work that is queued on the
/// device before it copies. (Pinning keeps strides, and a tensor that is expanded cannot be written to.)
///
/// # Errors
///
/// Errors from libtorch.
pub(crate) fn upload(tensor: &Tensor, device: Device) -> Result<Tensor, TchError> {
    if !device.is_cuda() || tensor.device() != Device::Cpu {
        return tensor.f_to_device(device);
    }
    tensor.f_contiguous()?.f_internal_pin_memory(device)?.f_to_device_(device, tensor.f_kind()?, true, false)
}
