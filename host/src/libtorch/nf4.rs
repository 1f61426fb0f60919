//! Matrices in 4-bit NormalFloat, as bitsandbytes quantises them: their codes and scales, and products with them.

use std::convert::Infallible;

use lambda_dpo_kernels::dynamic::{self, Quantized};
use lambda_dpo_kernels::nf4;
use tch::{Device, Kind, TchError, Tensor};

use super::differentiable::{Backward, differentiable};
use super::slices::{Element, as_mut_slice, as_slice};
use super::{columns, parallel, widened};

/// Values in a block with a scale of its own.
const BLOCK_SIZE: usize = 64;
/// Scales in a block that is quantised with a scale of its own.
const SCALE_BLOCK_SIZE: usize = 256;
/// Blocks that one thread takes at a time.
const BLOCKS_AT_ONCE: usize = 64;

/// A matrix in 4-bit NormalFloat, without gradients.
///
/// # Equation
///
/// `w = VALUES[code] · s`, where a block of consecutive values, row after row, shares the scale s, its largest absolute value.
/// The scales may be quantised as well.
#[derive(Debug)]
pub struct Nf4 {
    /// Shape of the matrix, [out, in].
    pub(crate) shape: [i64; 2],
    /// [⌈out · in / 2⌉] uint8: the code of a value of even index is in the high half of its byte.
    pub(crate) codes: Tensor,
    /// Values in a block; even.
    pub(crate) block_size: usize,
    /// The scales of the blocks.
    pub(crate) scales: Scales,
    /// Dtype of the values. Products with the matrix round to it before they round to their own.
    pub(crate) kind: Kind,
}

/// The scales of the ⌈out · in / block size⌉ blocks of a matrix.
#[derive(Debug)]
pub(crate) enum Scales {
    /// [blocks] float32.
    Plain(Tensor),
    /// In bitsandbytes' dynamic 8-bit code: s = values[code] · absmax + offset.
    Quantized {
        /// [blocks] uint8.
        codes: Tensor,
        /// [256] float32: what the codes stand for.
        values: Tensor,
        /// [⌈blocks / block size⌉] float32.
        absmax: Tensor,
        /// Scales in a block.
        block_size: usize,
        /// Mean of the scales.
        offset: f32,
    },
}

impl Nf4 {
    /// Quantises a matrix of finite values in main memory, in blocks of 64, and their scales in blocks of 256.
    ///
    /// # Shapes
    ///
    /// `weight`: [out, in], any floating-point dtype.
    ///
    /// # Numerics
    ///
    /// Codes and scales are bit for bit those of bitsandbytes on a CPU for the same values in float32. The mean of the scales is
    /// computed by libtorch as there, in an order that depends on the processor and on the number of threads.
    ///
    /// # Errors
    ///
    /// Errors from libtorch.
    pub fn quantize(weight: &Tensor) -> Result<Nf4, TchError> {
        Self::quantize_from(weight.size2()?.into(), || weight.f_detach())
    }

    /// Quantises the matrix of this shape that `read` returns, as [`quantize`](Self::quantize) does.
    ///
    /// Memory for what stays is allocated before that for what does not, so that no gaps are left between the weights of a model
    /// when it is loaded.
    pub(crate) fn quantize_from<E: From<TchError>>(
        shape: [i64; 2],
        read: impl FnOnce() -> Result<Tensor, E>,
    ) -> Result<Nf4, E> {
        let empty = |len: usize, kind: Kind| Tensor::f_empty([len as i64], (kind, Device::Cpu));
        let len = (shape[0] * shape[1]) as usize;
        let num_blocks = len.div_ceil(BLOCK_SIZE);
        let mut codes = empty(len.div_ceil(2), Kind::Uint8)?;
        let mut scale_codes = empty(num_blocks, Kind::Uint8)?;
        let mut absmax = empty(num_blocks.div_ceil(SCALE_BLOCK_SIZE), Kind::Float)?;
        let map = Tensor::f_from_slice(dynamic::values())?;

        let weight = read()?.f_to_kind(Kind::Float)?.f_contiguous()?;
        let mut scales = empty(num_blocks, Kind::Float)?;
        let parts = as_slice::<f32>(&weight)
            .chunks(BLOCK_SIZE * BLOCKS_AT_ONCE)
            .zip(as_mut_slice::<u8>(&mut codes).chunks_mut(BLOCK_SIZE / 2 * BLOCKS_AT_ONCE))
            .zip(as_mut_slice::<f32>(&mut scales).chunks_mut(BLOCKS_AT_ONCE));
        parallel::for_each(parts, |((values, codes), scales)| nf4::quantize(values, BLOCK_SIZE, codes, scales))?;
        let mean = scales.f_mean(None::<Kind>)?;
        let centred = scales.f_sub(&mean)?;
        let scale_block = SCALE_BLOCK_SIZE;
        dynamic::quantize(
            as_slice::<f32>(&centred),
            scale_block,
            as_mut_slice::<u8>(&mut scale_codes),
            as_mut_slice::<f32>(&mut absmax),
        );
        let offset = mean.f_double_value(&[])? as f32;
        let scales = Scales::Quantized { codes: scale_codes, values: map, absmax, block_size: scale_block, offset };
        Ok(Nf4 { shape, codes, block_size: BLOCK_SIZE, scales, kind: Kind::Float })
    }

    /// Returns the same matrix on a device.
    ///
    /// # Errors
    ///
    /// Errors from libtorch.
    pub fn to_device(&self, device: Device) -> Result<Nf4, TchError> {
        Ok(Nf4 { codes: self.codes.f_to_device(device)?, scales: self.scales.to_device(device)?, ..*self })
    }

    /// Returns the same matrix, which shares its memory.
    pub(crate) fn shallow_clone(&self) -> Nf4 {
        Nf4 { codes: self.codes.shallow_clone(), scales: self.scales.shallow_clone(), ..*self }
    }

    /// Returns all that the values follow from, each with the end of its name in a checkpoint of bitsandbytes.
    ///
    /// # Errors
    ///
    /// Errors from libtorch.
    pub fn parts(&self) -> Result<Vec<(&'static str, Tensor)>, TchError> {
        let state = Tensor::f_from_slice(&[self.block_size as i64])?.f_to_kind(self.kind)?;
        let mut parts = vec![("", self.codes.shallow_clone()), (".quant_state", state)];
        match &self.scales {
            Scales::Plain(scales) => parts.push((".absmax", scales.shallow_clone())),
            Scales::Quantized { codes, values, absmax, offset, .. } => parts.extend([
                (".absmax", codes.shallow_clone()),
                (".nested_quant_map", values.shallow_clone()),
                (".nested_absmax", absmax.shallow_clone()),
                (".nested_offset", Tensor::f_from_slice(&[*offset])?),
            ]),
        }
        Ok(parts)
    }

    /// Returns the values of the matrix, [out, in].
    ///
    /// # Numerics
    ///
    /// The product of value and scale is a float32, rounded to the dtype of the matrix and then to `kind`.
    ///
    /// # Errors
    ///
    /// Errors from libtorch.
    pub fn dequantize(&self, kind: Kind) -> Result<Tensor, TchError> {
        let values = match (self.codes.device(), if self.kind == Kind::Float { kind } else { self.kind }) {
            (Device::Cpu, Kind::Float) => self.by_kernel(nf4::dequantize)?,
            (Device::Cpu, Kind::BFloat16) => self.by_kernel(nf4::dequantize_to_bf16)?,
            (_, first) => self.by_operators()?.f_to_kind(first)?,
        };
        values.f_to_kind(kind)
    }

    /// W x + b, with a gradient to `input` alone. The values of the matrix exist only during a product: autograd keeps none, and
    /// the backward pass dequantises again.
    ///
    /// # Shapes
    ///
    /// `input`: [R, T, in]; `bias`: `[out]`; the result: [R, T, out] of the dtype of `input`, stored by columns if the input is.
    ///
    /// # Errors
    ///
    /// Errors from libtorch.
    pub fn linear(&self, input: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, TchError> {
        differentiable(&[input], || {
            let weight = self.dequantize(widened::product_kind(input)?)?;
            let output = columns::linear(input, &weight, bias)
                .or_else(|| widened::linear(&input.detach(), &weight, bias))
                .unwrap_or_else(|| input.f_linear(&weight, bias))?;
            Ok((output, self.shallow_clone()))
        })
    }

    /// Wᵀ g, the gradient of an input, given that of an output.
    ///
    /// # Shapes
    ///
    /// `grad`: [R, T, out] or [n, out]; the result: as `grad`, with in columns.
    ///
    /// # Errors
    ///
    /// Errors from libtorch.
    pub fn transposed(&self, grad: &Tensor) -> Result<Tensor, TchError> {
        let weight = self.dequantize(widened::product_kind(grad)?)?;
        widened::transposed(grad, &weight).unwrap_or_else(|| grad.f_matmul(&weight))
    }

    /// Dequantises in one pass over main memory, by a kernel that writes the dtype of `T`.
    fn by_kernel<T: Element + Send>(&self, kernel: Kernel<T>) -> Result<Tensor, TchError> {
        let mut output = Tensor::f_empty(self.shape, (T::KIND, Device::Cpu))?;
        let scales = self.scales.in_memory();
        let block_size = self.block_size;
        let parts = as_mut_slice(&mut output)
            .chunks_mut(block_size * BLOCKS_AT_ONCE)
            .zip(as_slice::<u8>(&self.codes).chunks(block_size / 2 * BLOCKS_AT_ONCE))
            .zip((0..).step_by(BLOCKS_AT_ONCE));
        parallel::for_each(parts, |((values, codes), first)| {
            let mut own = [0.0; BLOCKS_AT_ONCE];
            let own = &mut own[..values.len().div_ceil(block_size)];
            scales.read(first, own);
            kernel(codes, own, block_size, values);
        })?;
        Ok(output)
    }

    /// Dequantises by operators of libtorch, on any device, to float32.
    fn by_operators(&self) -> Result<Tensor, TchError> {
        let device = self.codes.device();
        let [num_outputs, num_inputs] = self.shape;
        let (len, block_size) = (num_outputs * num_inputs, self.block_size as i64);
        let pairs: Vec<f32> = (0..256).flat_map(|byte| [nf4::VALUES[byte >> 4], nf4::VALUES[byte & 15]]).collect();
        let pairs = Tensor::f_from_slice(&pairs)?.f_view([256, 2])?.f_to_device(device)?;
        let values = pairs.f_index_select(0, &self.codes.f_to_kind(Kind::Int)?)?.f_view([-1])?;
        let scales = self.scales.by_operators()?;
        let missing = scales.numel() as i64 * block_size - values.numel() as i64;
        let values = if missing > 0 { values.f_constant_pad_nd([0, missing])? } else { values };
        let scaled = values.f_view([-1, block_size])?.f_mul(&scales.f_unsqueeze(1)?)?;
        scaled.f_view([-1])?.f_narrow(0, 0, len)?.f_view(self.shape)
    }
}

/// Writes values of type `T`, given codes, scales and the size of a block.
type Kernel<T> = fn(&[u8], &[f32], usize, &mut [T]);

impl Backward for Nf4 {
    fn gradients(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>, TchError> {
        Ok(vec![Some(self.transposed(grad)?)])
    }
}

impl Scales {
    fn to_device(&self, device: Device) -> Result<Self, TchError> {
        self.map(|tensor| tensor.f_to_device(device))
    }

    fn shallow_clone(&self) -> Self {
        let Ok(clone) = self.map(|tensor| Ok::<_, Infallible>(tensor.shallow_clone()));
        clone
    }

    fn map<E>(&self, change: impl Fn(&Tensor) -> Result<Tensor, E>) -> Result<Self, E> {
        Ok(match self {
            Self::Plain(scales) => Self::Plain(change(scales)?),
            Self::Quantized { codes, values, absmax, block_size, offset } => Self::Quantized {
                codes: change(codes)?,
                values: change(values)?,
                absmax: change(absmax)?,
                block_size: *block_size,
                offset: *offset,
            },
        })
    }

    /// Returns the scales as they are in main memory.
    fn in_memory(&self) -> InMemory<'_> {
        match self {
            Self::Plain(scales) => InMemory::Plain(as_slice::<f32>(scales)),
            Self::Quantized { codes, values, absmax, block_size, offset } => InMemory::Quantized(Quantized {
                codes: as_slice::<u8>(codes),
                values: as_slice::<f32>(values),
                absmax: as_slice::<f32>(absmax),
                block_size: *block_size,
                offset: *offset,
            }),
        }
    }

    /// Returns the scales, `[blocks]` float32.
    fn by_operators(&self) -> Result<Tensor, TchError> {
        match self {
            Self::Plain(scales) => Ok(scales.shallow_clone()),
            Self::Quantized { codes, values, absmax, block_size, offset } => {
                let absmax = absmax.f_repeat_interleave_self_int(*block_size as i64, 0, None)?;
                let absmax = absmax.f_narrow(0, 0, codes.numel() as i64)?;
                let values = values.f_index_select(0, &codes.f_to_kind(Kind::Int)?)?;
                values.f_mul(&absmax)?.f_add_scalar(f64::from(*offset))
            }
        }
    }
}

/// Scales in main memory.
enum InMemory<'a> {
    Plain(&'a [f32]),
    Quantized(Quantized<'a>),
}

impl InMemory<'_> {
    /// Writes the scales from block `first` on.
    fn read(&self, first: usize, scales: &mut [f32]) {
        match self {
            Self::Plain(all) => scales.copy_from_slice(&all[first..first + scales.len()]),
            Self::Quantized(quantized) => quantized.dequantize(first, scales),
        }
    }
}

/// Returns whether all values of a tensor in main memory are finite.
///
/// # Errors
///
/// Errors from libtorch.
pub(crate) fn is_finite(tensor: &Tensor) -> Result<bool, TchError> {
    let tensor = tensor.f_to_kind(Kind::Float)?.f_contiguous()?;
    Ok(nf4::is_finite(as_slice::<f32>(&tensor)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const OPTIONS: (Kind, Device) = (Kind::Float, Device::Cpu);

    fn matrices() -> Vec<Nf4> {
        tch::manual_seed(5);
        let shapes = [[64, 64], [300, 128], [5, 13], [7, 96]];
        let quantize = |shape: [i64; 2]| Nf4::quantize(&(Tensor::randn(shape, OPTIONS) * 0.1)).unwrap();
        let mut matrices: Vec<Nf4> = shapes.into_iter().map(quantize).collect();
        let plain = quantize([300, 128]);
        let scales = Scales::Plain(plain.scales.by_operators().unwrap());
        matrices.push(Nf4 { scales, kind: Kind::BFloat16, ..plain });
        matrices
    }

    #[test]
    fn operators_and_kernels_dequantise_to_the_same_bits() {
        for matrix in matrices() {
            for kind in [Kind::Float, Kind::BFloat16, Kind::Double] {
                let found = matrix.dequantize(kind).unwrap();
                let expected = matrix.by_operators().unwrap().to_kind(matrix.kind).to_kind(kind);
                assert_eq!((found.kind(), found.size()), (kind, matrix.shape.to_vec()));
                assert_eq!(found, expected, "{:?}", matrix.shape);
            }
        }
    }

    #[test]
    fn products_and_gradients_are_those_of_the_values() {
        for matrix in matrices() {
            for kind in [Kind::Double, Kind::Float, Kind::BFloat16] {
                let [num_outputs, num_inputs] = matrix.shape;
                let input = Tensor::randn([2, 3, num_inputs], OPTIONS).to_kind(kind);
                let bias = Tensor::randn([num_outputs], OPTIONS).to_kind(kind);
                let run = |product: &dyn Fn(&Tensor) -> Tensor| {
                    let input = input.copy().set_requires_grad(true);
                    let output = product(&input);
                    (&output * &output).sum(kind).backward();
                    (output.detach(), input.grad())
                };
                let weight = matrix.dequantize(kind).unwrap();
                let expected = run(&|input| input.linear(&weight, Some(&bias)));
                let found = run(&|input| matrix.linear(input, Some(&bias)).unwrap());
                assert_eq!(found.0, expected.0);
                let scale = expected.1.abs().max().double_value(&[]);
                let difference = (found.1 - expected.1).abs().max().double_value(&[]) / scale;
                // The sums may be in another order: some roundings of the largest gradient.
                let tolerance = match kind {
                    Kind::Double => 1e-14,
                    Kind::Float => 1e-6,
                    _ => 2e-2,
                };
                assert!(difference < tolerance, "{kind:?}: {difference:e}");
                assert_eq!(matrix.linear(&input, Some(&bias)).unwrap(), expected.0);
            }
        }
    }

    #[test]
    fn a_gradient_outlives_its_matrix() {
        let mut all = matrices();
        let matrix = all.remove(0);
        let weight = matrix.dequantize(Kind::Float).unwrap();
        let input = Tensor::randn([1, 2, 64], OPTIONS).set_requires_grad(true);
        let output = matrix.linear(&input, None).unwrap();
        drop((all, matrix));
        output.sum(Kind::Float).backward();
        let expected = Tensor::ones([1, 2, 64], OPTIONS).matmul(&weight);
        // Sums of 64 values below 0.5.
        assert!((input.grad() - expected).abs().max().double_value(&[]) < 1e-5);
    }
}
