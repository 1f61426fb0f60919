//! Copies of small tensors to the device of a computation.

use tch::{Device, Tensor};

use crate::Result;

/// Returns a tensor of main memory on a device.
///
/// A copy to CUDA goes through pinned memory: from pageable memory, libtorch waits for all work that is queued on the
/// device before it copies.
pub(crate) fn upload(tensor: &Tensor, device: Device) -> Result<Tensor> {
    if !device.is_cuda() {
        return Ok(tensor.f_to_device(device)?);
    }
    let pinned = tensor.f_internal_pin_memory(device)?;
    Ok(pinned.f_to_device_(device, tensor.f_kind()?, true, false)?)
}
