//! The values of a tensor as bytes, one block at a time, so that hashing, writing and reading need no copy of the whole.

use std::io;

use tch::{Device, Kind, Tensor};

/// Values in a block: 32 MiB of float32, large enough for sequential reads and small beside a model.
const BLOCK_VALUES: i64 = 8 << 20;

/// Calls `take` with each block of the values of `tensor`, in contiguous order.
///
/// # Errors
///
/// Errors from `take` and from libtorch.
pub fn for_each_block(tensor: &Tensor, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let values = tensor.f_detach().and_then(|tensor| tensor.f_contiguous()?.f_view([-1])).map_err(io::Error::other)?;
    let len = values.numel() as i64;
    // Zeroed pages are the system's; filling them here would take as long as reading.
    let mut bytes = vec![0; BLOCK_VALUES.min(len) as usize * values.kind().elt_size_in_bytes()];
    for start in (0..len).step_by(BLOCK_VALUES as usize) {
        let block = values.f_narrow(0, start, BLOCK_VALUES.min(len - start));
        let block = block.and_then(|block| block.f_to_device(Device::Cpu)).map_err(io::Error::other)?;
        bytes.truncate(block.numel() * block.kind().elt_size_in_bytes());
        block.f_copy_data_u8(&mut bytes, block.numel()).map_err(io::Error::other)?;
        take(&bytes)?;
    }
    Ok(())
}

/// Makes a tensor on the CPU from the bytes that `fill` writes to one block after another.
///
/// # Errors
///
/// Errors from `fill` and from libtorch.
pub fn read(shape: &[i64], kind: Kind, mut fill: impl FnMut(&mut [u8]) -> io::Result<()>) -> io::Result<Tensor> {
    let len = shape.iter().product::<i64>();
    let values = Tensor::f_empty([len], (kind, Device::Cpu)).map_err(io::Error::other)?;
    let mut bytes = vec![0; BLOCK_VALUES.min(len) as usize * kind.elt_size_in_bytes()];
    for start in (0..len).step_by(BLOCK_VALUES as usize) {
        let count = BLOCK_VALUES.min(len - start);
        bytes.truncate(count as usize * kind.elt_size_in_bytes());
        fill(&mut bytes)?;
        let block = Tensor::f_from_data_size(&bytes, &[count], kind);
        let place = values.f_narrow(0, start, count);
        let copied = block.and_then(|block| place?.f_copy_(&block));
        copied.map_err(io::Error::other)?;
    }
    values.f_view(shape).map_err(io::Error::other)
}
