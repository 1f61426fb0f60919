//! Products of bfloat16 matrices, and attention, that are computed in float32, on processors that are faster so.
//!
//! Without AMX, libtorch multiplies bfloat16 on an Intel Xeon (AVX-512 BF16) at 0.55 to 0.67 of the rate of float32, from some
//! hundred tokens on. Widening is exact, and the result is rounded once, as libtorch rounds it.

pub(crate) mod attention;

use std::sync::LazyLock;

use tch::{Device, Kind, TchError, Tensor};

use super::differentiable::{Backward, differentiable};

/// With fewer tokens, reading and widening the weight takes longer than the product saves.
const MIN_TOKENS: i64 = 256;

/// Size of the float32 copy of a part of the weight: it stays in the processor's cache.
const BLOCK_BYTES: i64 = 8 << 20;

static IS_FASTER: LazyLock<bool> =
    LazyLock::new(|| std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| multiplies_float32_faster(&text)));

/// Whether a processor, as Linux describes it, has no fast products of bfloat16: AMX, or AMD's AVX-512, which multiplies
/// twice as many numbers of 16 bits as of 32 in an instruction.
fn multiplies_float32_faster(cpuinfo: &str) -> bool {
    let field = |name: &str| {
        let fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        fields.into_iter().find(|(key, _)| key.trim() == name).map_or("", |(_, value)| value.trim())
    };
    let flags: Vec<&str> = field("flags").split_whitespace().collect();
    let fast = if field("vendor_id") == "AuthenticAMD" { "avx512_bf16" } else { "amx_bf16" };
    !flags.is_empty() && !flags.contains(&fast)
}

/// Whether products of a dtype are computed in float32 on a device, for enough tokens.
pub(crate) fn is_faster(kind: Kind, device: Device) -> bool {
    kind == Kind::BFloat16 && device == Device::Cpu && *IS_FASTER
}

/// Returns the dtype in which a weight is multiplied by `input`, [R, T, in] or [n, in].
pub(crate) fn product_kind(input: &Tensor) -> Result<Kind, TchError> {
    let kind = input.f_kind()?;
    let size = input.size();
    let num_tokens: i64 = size[..size.len() - 1].iter().product();
    Ok(if num_tokens >= MIN_TOKENS && is_faster(kind, input.device()) { Kind::Float } else { kind })
}

/// Returns X Wᵀ + b in the dtype of X, with a gradient to X; None if libtorch's own product is faster, or if W or b takes a
/// gradient.
///
/// # Shapes
///
/// `input`: [R, T, in] or [n, in]; `weight`: [out, in]; `bias`: `[out]`; the result: as `input`, with out columns.
///
/// # Errors
///
/// Errors from libtorch.
pub(crate) fn linear(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Option<Result<Tensor, TchError>> {
    let is_frozen = !weight.requires_grad() && !bias.is_some_and(Tensor::requires_grad);
    if !is_frozen || !is_widened(input) {
        return None;
    }
    Some(differentiable(&[input], || Ok((product(input, weight, bias)?, Frozen { weight: weight.detach() }))))
}

/// Returns G W in the dtype of G; None if libtorch's own product is faster.
///
/// # Shapes
///
/// `grad`: [R, T, out] or [n, out]; `weight`: [out, in]; the result: as `grad`, with in columns.
///
/// # Errors
///
/// Errors from libtorch.
pub(crate) fn transposed(grad: &Tensor, weight: &Tensor) -> Option<Result<Tensor, TchError>> {
    is_widened(grad).then(|| transposed_product(grad, weight))
}

fn is_widened(input: &Tensor) -> bool {
    product_kind(input).is_ok_and(|kind| kind != input.kind())
}

/// A weight that takes no gradient.
struct Frozen {
    weight: Tensor,
}

impl Backward for Frozen {
    fn gradients(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>, TchError> {
        Ok(vec![Some(transposed_product(grad, &self.weight)?)])
    }
}

/// X Wᵀ + b, some rows of W at a time.
fn product(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, TchError> {
    let (num_outputs, num_inputs) = weight.size2()?;
    let rows = input.f_detach()?.f_reshape([-1, num_inputs])?.f_to_kind(Kind::Float)?;
    let output = Tensor::f_empty([rows.size()[0], num_outputs], (input.f_kind()?, input.device()))?;
    for (start, length) in blocks(num_outputs, num_inputs) {
        let block = weight.f_detach()?.f_narrow(0, start, length)?.f_to_kind(Kind::Float)?.f_transpose(0, 1)?;
        let sums = match bias {
            Some(bias) => {
                bias.f_detach()?.f_narrow(0, start, length)?.f_to_kind(Kind::Float)?.f_addmm(&rows, &block)?
            }
            None => rows.f_mm(&block)?,
        };
        output.f_narrow(1, start, length)?.f_copy_(&sums)?;
    }
    output.f_view(with_columns(input, num_outputs).as_slice())
}

/// G W, summed over some rows of W at a time.
fn transposed_product(grad: &Tensor, weight: &Tensor) -> Result<Tensor, TchError> {
    let (num_outputs, num_inputs) = weight.size2()?;
    let rows = grad.f_detach()?.f_reshape([-1, num_outputs])?;
    let mut sums: Option<Tensor> = None;
    for (start, length) in blocks(num_outputs, num_inputs) {
        let columns = rows.f_narrow(1, start, length)?.f_to_kind(Kind::Float)?;
        let block = weight.f_detach()?.f_narrow(0, start, length)?.f_to_kind(Kind::Float)?;
        sums = Some(match sums {
            Some(mut sums) => sums.f_addmm_(&columns, &block)?,
            None => columns.f_mm(&block)?,
        });
    }
    let sums = match sums {
        Some(sums) => sums.f_to_kind(grad.f_kind()?)?,
        None => Tensor::f_zeros([rows.size()[0], num_inputs], (grad.f_kind()?, grad.device()))?,
    };
    sums.f_view(with_columns(grad, num_inputs).as_slice())
}

/// Starts and numbers of the rows of a weight that are widened together.
fn blocks(num_outputs: i64, num_inputs: i64) -> impl Iterator<Item = (i64, i64)> {
    let length = (BLOCK_BYTES / (4 * num_inputs.max(1))).max(1);
    (0..num_outputs).step_by(length as usize).map(move |start| (start, length.min(num_outputs - start)))
}

/// The shape of a tensor with another number of columns.
fn with_columns(tensor: &Tensor, num_columns: i64) -> Vec<i64> {
    let mut size = tensor.size();
    if let Some(last) = size.last_mut() {
        *last = num_columns;
    }
    size
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn products_are_those_of_float64_rounded_once() {
        tch::manual_seed(8);
        let options = (Kind::Float, Device::Cpu);
        // Of one block, and of three.
        for (num_outputs, num_inputs) in [(40, 24), (1100, 5000)] {
            let draw = |size: &[i64]| Tensor::randn(size, options).to_kind(Kind::BFloat16);
            let (input, weight) = (draw(&[2, 3, num_inputs]), draw(&[num_outputs, num_inputs]));
            let (bias, grad) = (draw(&[num_outputs]), draw(&[2, 3, num_outputs]));
            let exact = |tensor: &Tensor| tensor.to_kind(Kind::Double);
            let close = |found: &Tensor, expected: &Tensor| {
                assert_eq!((found.kind(), found.size()), (Kind::BFloat16, expected.size()));
                // Half of a unit of bfloat16's eighth bit, and the float32's own error where sums cancel.
                let allowed = expected.abs() * 0.5f64.powi(8) + 1e-3;
                assert!(bool::try_from((exact(found) - expected).abs().le_tensor(&allowed).all()).unwrap());
            };
            let expected = exact(&input).matmul(&exact(&weight).tr());
            close(&product(&input, &weight, None).unwrap(), &expected);
            close(&product(&input, &weight, Some(&bias)).unwrap(), &(expected + exact(&bias)));
            close(&transposed_product(&grad, &weight).unwrap(), &exact(&grad).matmul(&exact(&weight)));
        }
        assert_eq!(blocks(1100, 5000).count(), 3);
    }

    #[test]
    fn processors_with_fast_products_of_16_bits_use_them() {
        let of = |vendor: &str, flags: &str| {
            multiplies_float32_faster(&format!(
                "processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags}\nbugs\t\t:\n"
            ))
        };
        assert!(of("GenuineIntel", "avx512f avx512_bf16"));
        assert!(!of("GenuineIntel", "avx512f avx512_bf16 amx_bf16"));
        assert!(of("AuthenticAMD", "avx2"));
        assert!(!of("AuthenticAMD", "avx512_bf16"));
        assert!(!multiplies_float32_faster("Features : asimd\n"), "of another kind: as libtorch does it");
    }

    #[test]
    fn other_dtypes_and_few_tokens_stay_with_libtorch() {
        let weight = Tensor::ones([4, 3], (Kind::Float, Device::Cpu));
        for input in [
            Tensor::ones([300, 3], (Kind::Float, Device::Cpu)),
            Tensor::ones([MIN_TOKENS - 1, 3], (Kind::BFloat16, Device::Cpu)),
        ] {
            assert!(linear(&input, &weight, None).is_none());
            assert_eq!(product_kind(&input).unwrap(), input.kind());
        }
        let input = Tensor::ones([2, MIN_TOKENS, 3], (Kind::BFloat16, Device::Cpu)).set_requires_grad(true);
        assert_eq!(linear(&input, &weight, None).is_some(), is_faster(Kind::BFloat16, Device::Cpu));
        assert!(linear(&input, &weight.set_requires_grad(true), None).is_none());
    }
}
