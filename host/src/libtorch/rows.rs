//! Steps of a decoder for a few tokens in main memory, each in one pass over its rows.
//!
//! libtorch takes several calls for each of them, and for a single token a call costs more than its arithmetic: in a decoder
//! that reads its weights from memory for every token, what a call needs is never in the cache.

use std::slice;

use lambda_dpo_kernels as kernels;
use tch::{Device, Kind, TchError, Tensor};

/// Returns whether the functions here take a tensor: float32 in main memory, with the values of a row next to each other and
/// without a graph.
fn is_taken(tensor: &Tensor) -> bool {
    tensor.kind() == Kind::Float
        && tensor.device() == Device::Cpu
        && tensor.stride().last().is_none_or(|stride| *stride == 1)
        && !tensor.requires_grad()
}

/// Normalises rows by their root mean square: x / √(mean x² + ε) · weight. Returns None for tensors that are not taken.
///
/// # Shapes
///
/// `input` and the result: [.., H], contiguous; `weight`: `[H]`.
///
/// # Numerics
///
/// Float32.
///
/// # Errors
///
/// Returns an error if memory is exhausted.
pub fn rms_norm(input: &Tensor, weight: &Tensor, eps: f64) -> Option<Result<Tensor, TchError>> {
    let size = weight.numel();
    let is_row = input.is_contiguous() && weight.size().len() == 1 && input.size().last() == Some(&(size as i64));
    if size == 0 || !is_row || !is_taken(input) || weight.kind() != Kind::Float || weight.device() != Device::Cpu {
        return None;
    }
    if !weight.is_contiguous() {
        return None;
    }
    Some(Tensor::f_empty(input.size(), (Kind::Float, Device::Cpu)).inspect(|output| {
        // SAFETY: all three are contiguous float32 tensors in main memory that live through the call, and `output` is new.
        let (values, weight, normed) = unsafe {
            (
                slice::from_raw_parts(input.data_ptr().cast::<f32>(), input.numel()),
                slice::from_raw_parts(weight.data_ptr().cast::<f32>(), size),
                slice::from_raw_parts_mut(output.data_ptr().cast::<f32>(), input.numel()),
            )
        };
        kernels::rms_norm(values, weight, eps as f32, normed);
    }))
}

/// Rotates the halves of heads: x ⊙ cos + (x₂, x₁) ⊙ `signed_sin`. Returns None for tensors that are not taken.
///
/// # Shapes
///
/// `heads` and the result: [R, heads, T, D], the result with the heads of a token next to each other; `cos` and `signed_sin`:
/// [R or 1, 1, T, D], contiguous.
///
/// # Errors
///
/// Returns an error if memory is exhausted.
pub fn rotate(heads: &Tensor, cos: &Tensor, signed_sin: &Tensor) -> Option<Result<Tensor, TchError>> {
    let &[num_rows, num_heads, num_tokens, head_dim] = heads.size().as_slice() else { return None };
    let expected = [num_rows, 1, num_tokens, head_dim];
    let is_angle = |angle: &Tensor| angle.size() == expected && angle.is_contiguous() && is_taken(angle);
    if heads.numel() == 0 || head_dim % 2 != 0 || !is_taken(heads) || !is_angle(cos) || !is_angle(signed_sin) {
        return None;
    }
    let output = Tensor::f_empty([num_rows, num_tokens, num_heads, head_dim], (Kind::Float, Device::Cpu));
    Some(output.and_then(|output| {
        let strides: Vec<usize> = heads.stride().iter().map(|stride| *stride as usize).collect();
        let size = head_dim as usize;
        // SAFETY: the angles and `output` are contiguous float32 tensors in main memory; a head of `heads` has `head_dim` values
        // next to each other at the offset that its strides give. All live through the call, and `output` is new.
        let (cos, sin, rotated) = unsafe {
            (
                slice::from_raw_parts(cos.data_ptr().cast::<f32>(), cos.numel()),
                slice::from_raw_parts(signed_sin.data_ptr().cast::<f32>(), signed_sin.numel()),
                slice::from_raw_parts_mut(output.data_ptr().cast::<f32>(), output.numel()),
            )
        };
        let mut rotated = rotated.chunks_exact_mut(size);
        for row in 0..num_rows as usize {
            for token in 0..num_tokens as usize {
                let at = (row * num_tokens as usize + token) * size;
                let (cos, sin) = (&cos[at..at + size], &sin[at..at + size]);
                for (head, rotated) in (0..num_heads as usize).zip(&mut rotated) {
                    let offset = row * strides[0] + head * strides[1] + token * strides[2];
                    // SAFETY: as above.
                    let head = unsafe { slice::from_raw_parts(heads.data_ptr().cast::<f32>().add(offset), size) };
                    kernels::rotate(head, cos, sin, rotated);
                }
            }
        }
        output.f_transpose(1, 2)
    }))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const OPTIONS: (Kind, Device) = (Kind::Float, Device::Cpu);

    fn difference(left: &Tensor, right: &Tensor) -> f64 {
        (left - right).abs().max().double_value(&[])
    }

    #[test]
    fn norms_are_those_of_libtorch() {
        tch::manual_seed(3);
        for shape in [[1, 1, 576], [3, 2, 37], [16, 1, 7]] {
            let (input, weight) = (Tensor::randn(shape, OPTIONS) * 3.0, Tensor::randn([shape[2]], OPTIONS));
            let found = rms_norm(&input, &weight, 1e-5).unwrap().unwrap();
            let scale = (input.square().mean_dim(-1, true, None) + 1e-5).rsqrt();
            // Values of up to 10 with 24 bits of mantissa, in another order of sums.
            assert!(difference(&found, &(&input * scale * &weight)) < 1e-5);
        }
        let input = Tensor::randn([2, 8], OPTIONS);
        let weight = Tensor::ones([8], OPTIONS);
        assert!(rms_norm(&input.to_kind(Kind::Double), &weight, 1e-5).is_none());
        assert!(rms_norm(&input.to_kind(Kind::BFloat16), &weight, 1e-5).is_none());
        assert!(rms_norm(&input.set_requires_grad(true), &weight, 1e-5).is_none());
        assert!(rms_norm(&Tensor::randn([8, 2], OPTIONS).transpose(0, 1), &weight, 1e-5).is_none());
    }

    #[test]
    fn rotations_are_those_of_libtorch() {
        tch::manual_seed(4);
        for (rows, heads, tokens, size) in [(1, 9, 1, 64), (3, 2, 5, 6)] {
            let projected = Tensor::randn([rows, tokens, heads * size], OPTIONS);
            let input = projected.unflatten(-1, [-1, size]).transpose(1, 2);
            let angle = || Tensor::randn([rows, 1, tokens, size], OPTIONS);
            let (cos, sin) = (angle(), angle());
            let found = rotate(&input, &cos, &sin).unwrap().unwrap();
            let expected = (&input * &cos).addcmul(&input.roll([size / 2], [-1]), &sin);
            assert_eq!(found.size(), expected.size());
            // One rounding more or less of values of up to 10.
            assert!(difference(&found, &expected) < 2e-6);
            assert!(rotate(&input.to_kind(Kind::Double), &cos, &sin).is_none());
        }
    }
}
