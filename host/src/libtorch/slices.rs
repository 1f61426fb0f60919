//! The values of tensors in main memory as slices.

use std::slice;

use lambda_dpo_kernels::Bf16;
use tch::{Device, Kind, Tensor};

/// A type whose values are laid out as those of a dtype.
pub(super) trait Element: Copy {
    const KIND: Kind;
}

impl Element for f32 {
    const KIND: Kind = Kind::Float;
}

impl Element for Bf16 {
    const KIND: Kind = Kind::BFloat16;
}

impl Element for u8 {
    const KIND: Kind = Kind::Uint8;
}

/// Returns the values of a contiguous tensor of the dtype of `E` in main memory; none of any other.
pub(super) fn as_slice<E: Element>(tensor: &Tensor) -> &[E] {
    let len = len_in_memory::<E>(tensor);
    // SAFETY: it has so many values, which live as long as it; where there are none, the address is not read.
    if len == 0 { &[] } else { unsafe { slice::from_raw_parts(tensor.data_ptr().cast::<E>(), len) } }
}

/// Returns the values of a tensor that nothing else refers to, as [`as_slice`] does.
pub(super) fn as_mut_slice<E: Element>(tensor: &mut Tensor) -> &mut [E] {
    let len = len_in_memory::<E>(tensor);
    // SAFETY: as above, and nothing else refers to them.
    if len == 0 { &mut [] } else { unsafe { slice::from_raw_parts_mut(tensor.data_ptr().cast::<E>(), len) } }
}

/// Returns the values that lie between the first and the last of a strided tensor, and that of the first is at index 0; none of
/// a tensor of another dtype, or elsewhere than in main memory.
pub(super) fn as_span<E: Element>(tensor: &Tensor) -> &[E] {
    if tensor.kind() != E::KIND || tensor.device() != Device::Cpu || tensor.numel() == 0 {
        return &[];
    }
    let steps = tensor.size().into_iter().zip(tensor.stride()).map(|(size, stride)| (size - 1) * stride);
    let len = 1 + steps.sum::<i64>() as usize;
    // SAFETY: libtorch's strides are not negative, so all of these lie between values of the tensor, in its memory.
    unsafe { slice::from_raw_parts(tensor.data_ptr().cast::<E>(), len) }
}

fn len_in_memory<E: Element>(tensor: &Tensor) -> usize {
    let is_such = tensor.is_contiguous() && tensor.kind() == E::KIND && tensor.device() == Device::Cpu;
    if is_such { tensor.numel() } else { 0 }
}
