//! The values of a tensor as bytes, a block at a time: what hashing and writing need no whole copy for.

use std::io;

use tch::{Device, Tensor};

/// Values in a block.
const BLOCK_VALUES: i64 = 8 << 20;

/// Hands the values of `tensor`, in the order of its contiguous form, to `take`.
///
/// # Errors
///
/// What `take` gives; what libtorch refuses.
pub fn for_each_block(tensor: &Tensor, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let values = tensor.f_detach().and_then(|tensor| tensor.f_contiguous()?.f_view([-1])).map_err(io::Error::other)?;
    let len = values.numel() as i64;
    let mut bytes = Vec::new();
    for start in (0..len).step_by(BLOCK_VALUES as usize) {
        let block = values.f_narrow(0, start, BLOCK_VALUES.min(len - start));
        let block = block.and_then(|block| block.f_to_device(Device::Cpu)).map_err(io::Error::other)?;
        bytes.resize(block.numel() * block.kind().elt_size_in_bytes(), 0);
        block.f_copy_data_u8(&mut bytes, block.numel()).map_err(io::Error::other)?;
        take(&bytes)?;
    }
    Ok(())
}
