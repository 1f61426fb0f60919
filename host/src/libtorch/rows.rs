//! Elementwise steps of a decoder layer in main memory, each in one pass over its rows, forward and backward.
//!
//! libtorch takes several calls for each of them. In training, each call reads and writes all activations once more and keeps
//! some for its backward pass; in decoding a single token, a call costs more than its arithmetic.

use lambda_dpo_kernels::{Bf16, Value};
use tch::{Device, Kind, TchError, Tensor};

use super::differentiable::{Backward, differentiable};
use super::parallel;
use super::slices::{Element, as_mut_slice, as_slice, as_span};

/// Values that one thread takes at a time, at least. It does not depend on the number of threads, so sums do not either.
const VALUES_AT_ONCE: usize = 1 << 14;

fn rows_at_once(size: usize) -> usize {
    VALUES_AT_ONCE.div_ceil(size)
}

/// Returns whether the functions here take the dtype and place of a tensor.
fn is_taken(tensor: &Tensor) -> bool {
    matches!(tensor.kind(), Kind::Float | Kind::BFloat16) && tensor.device() == Device::Cpu && tensor.numel() > 0
}

/// Returns whether two tensors have the same dtype and place.
fn are_alike(one: &Tensor, other: &Tensor) -> bool {
    one.kind() == other.kind() && one.device() == other.device()
}

/// Calls a function for the dtype of a tensor that is taken.
macro_rules! for_dtype {
    ($tensor:expr, $($function:ident)::+($($argument:expr),*)) => {
        match $tensor.kind() {
            Kind::BFloat16 => $($function)::+::<Bf16>($($argument),*),
            _ => $($function)::+::<f32>($($argument),*),
        }
    };
}

/// Normalises rows by their root mean square: x / √(mean x² + ε) · weight. Returns None for tensors that are not taken: those
/// that are not contiguous, not float32 or bfloat16, or not in main memory.
///
/// # Shapes
///
/// `input` and the result: [.., H]; `weight`: `[H]`.
///
/// # Numerics
///
/// Float32; the normed values are rounded to the dtype before the weight is applied, as in Transformers.
///
/// # Errors
///
/// Errors from libtorch, for example if memory is exhausted.
pub fn rms_norm(input: &Tensor, weight: &Tensor, eps: f64) -> Option<Result<Tensor, TchError>> {
    let is_row = weight.size().len() == 1 && input.size().last() == weight.size().last();
    let is_whole = input.is_contiguous() && weight.is_contiguous();
    let takes = is_taken(input) && are_alike(input, weight) && is_row && is_whole;
    takes.then(|| for_dtype!(input, norm(input, weight, eps as f32)))
}

fn norm<V: Value + Element>(input: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor, TchError> {
    differentiable(&[input, weight], || {
        let size = weight.numel();
        let mut normed = Tensor::f_empty(input.size(), (input.kind(), Device::Cpu))?;
        let mut scales = Tensor::f_empty([(input.numel() / size) as i64], (Kind::Float, Device::Cpu))?;
        let at_once = rows_at_once(size);
        let parts = as_slice::<V>(input)
            .chunks(at_once * size)
            .zip(as_mut_slice::<V>(&mut normed).chunks_mut(at_once * size))
            .zip(as_mut_slice::<f32>(&mut scales).chunks_mut(at_once));
        let weight_values = as_slice::<V>(weight);
        parallel::for_each(parts, |((rows, normed), scales)| V::rms_norm(rows, weight_values, eps, normed, scales))?;
        let takes_gradient = [input.requires_grad(), weight.requires_grad()];
        Ok((normed, Normed { input: input.f_detach()?, weight: weight.f_detach()?, scales, takes_gradient }))
    })
}

/// What [`rms_norm`] keeps.
struct Normed {
    input: Tensor,
    weight: Tensor,
    /// [rows] float32.
    scales: Tensor,
    /// Of input and weight.
    takes_gradient: [bool; 2],
}

impl Normed {
    fn input_grad<V: Value + Element>(&self, grad: &Tensor) -> Result<Tensor, TchError> {
        let mut input_grad = Tensor::f_empty(self.input.size(), (self.input.kind(), Device::Cpu))?;
        let (weight, size) = (as_slice::<V>(&self.weight), self.weight.numel());
        let at_once = rows_at_once(size);
        let parts = as_slice::<V>(&self.input)
            .chunks(at_once * size)
            .zip(as_slice::<f32>(&self.scales).chunks(at_once))
            .zip(as_slice::<V>(grad).chunks(at_once * size))
            .zip(as_mut_slice::<V>(&mut input_grad).chunks_mut(at_once * size));
        parallel::for_each(parts, |(((rows, scales), grads), row_grads)| {
            V::rms_norm_grad(rows, weight, scales, grads, row_grads);
        })?;
        Ok(input_grad)
    }

    fn weight_grad<V: Value + Element>(&self, grad: &Tensor) -> Result<Tensor, TchError> {
        let size = self.weight.numel();
        let at_once = rows_at_once(size);
        let num_parts = self.scales.numel().div_ceil(at_once);
        let mut sums = Tensor::f_zeros([num_parts as i64, size as i64], (Kind::Float, Device::Cpu))?;
        let parts = as_slice::<V>(&self.input)
            .chunks(at_once * size)
            .zip(as_slice::<f32>(&self.scales).chunks(at_once))
            .zip(as_slice::<V>(grad).chunks(at_once * size))
            .zip(as_mut_slice::<f32>(&mut sums).chunks_mut(size));
        parallel::for_each(parts, |(((rows, scales), grads), sums)| {
            V::rms_norm_weight_grad(rows, scales, grads, sums);
        })?;
        sums.f_sum_dim_intlist(0, false, Kind::Float)?.f_to_kind(self.weight.kind())
    }

    fn gradients_of<V: Value + Element>(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>, TchError> {
        let [of_input, of_weight] = self.takes_gradient;
        let input_grad = of_input.then(|| self.input_grad::<V>(grad)).transpose()?;
        Ok(vec![input_grad, of_weight.then(|| self.weight_grad::<V>(grad)).transpose()?])
    }
}

impl Backward for Normed {
    fn gradients(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>, TchError> {
        for_dtype!(self.input, Self::gradients_of(self, &grad.f_contiguous()?))
    }
}

/// Rotates the halves of heads: x ⊙ cos + (x₂, x₁) ⊙ `signed_sin`. Returns None for tensors that are not taken: those whose
/// heads are not contiguous, that are not float32 or bfloat16, or not in main memory.
///
/// # Shapes
///
/// `heads` and the result: [R, heads, T, D], the result with the heads of a token next to each other; `cos` and `signed_sin`:
/// [R, 1, T, D], contiguous, with equal halves, of opposite signs in `signed_sin`.
///
/// # Errors
///
/// Errors from libtorch, for example if memory is exhausted.
pub fn rotate(heads: &Tensor, cos: &Tensor, signed_sin: &Tensor) -> Option<Result<Tensor, TchError>> {
    let &[num_rows, _, num_tokens, head_dim] = heads.size().as_slice() else { return None };
    let is_angle = |angle: &Tensor| {
        angle.size() == [num_rows, 1, num_tokens, head_dim] && angle.is_contiguous() && are_alike(angle, heads)
    };
    let takes = is_taken(heads) && are_heads(heads) && head_dim % 2 == 0 && is_angle(cos) && is_angle(signed_sin);
    takes.then(|| {
        differentiable(&[heads], || {
            let rotated = for_dtype!(heads, turned(heads, cos, signed_sin))?;
            Ok((rotated, Rotation { cos: cos.shallow_clone(), signed_sin: signed_sin.shallow_clone() }))
        })
    })
}

fn are_heads(heads: &Tensor) -> bool {
    heads.stride().last() == Some(&1)
}

fn turned<V: Value + Element>(heads: &Tensor, cos: &Tensor, signed_sin: &Tensor) -> Result<Tensor, TchError> {
    let (num_rows, num_heads, num_tokens, head_dim) = heads.size4()?;
    let mut output = Tensor::f_empty([num_rows, num_tokens, num_heads, head_dim], (heads.kind(), Device::Cpu))?;
    let strides: Vec<usize> = heads.stride().into_iter().map(|stride| stride as usize).collect();
    let (size, num_tokens, token_size) = (head_dim as usize, num_tokens as usize, (num_heads * head_dim) as usize);
    let (inputs, cos, sin) = (as_span::<V>(heads), as_slice::<V>(cos), as_slice::<V>(signed_sin));
    let at_once = rows_at_once(token_size);
    let parts = as_mut_slice::<V>(&mut output).chunks_mut(at_once * token_size).enumerate();
    parallel::for_each(parts, |(part, rotated)| {
        for (token, rotated) in (part * at_once..).zip(rotated.chunks_exact_mut(token_size)) {
            let (cos, sin) = (&cos[token * size..][..size], &sin[token * size..][..size]);
            let first = token / num_tokens * strides[0] + token % num_tokens * strides[2];
            V::rotate(&inputs[first..], strides[1], cos, sin, rotated);
        }
    })?;
    output.f_transpose(1, 2)
}

/// What [`rotate`] keeps, which all layers share.
struct Rotation {
    cos: Tensor,
    signed_sin: Tensor,
}

impl Backward for Rotation {
    /// The rotation back, by the opposite angle.
    fn gradients(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>, TchError> {
        let grad = if are_heads(grad) { grad.shallow_clone() } else { grad.f_contiguous()? };
        let sin = self.signed_sin.f_neg()?;
        Ok(vec![Some(for_dtype!(grad, turned(&grad, &self.cos, &sin))?)])
    }
}

/// Computes silu(gate) ⊙ up, and keeps nothing but the two. Returns None for tensors that are not taken: those that are not
/// contiguous, not float32 or bfloat16, or not in main memory.
///
/// # Shapes
///
/// All of the same.
///
/// # Errors
///
/// Errors from libtorch, for example if memory is exhausted.
pub fn gated(gate: &Tensor, up: &Tensor) -> Option<Result<Tensor, TchError>> {
    let are_whole = gate.is_contiguous() && up.is_contiguous();
    let takes = is_taken(gate) && are_alike(gate, up) && gate.size() == up.size() && are_whole;
    takes.then(|| for_dtype!(gate, product(gate, up)))
}

fn product<V: Value + Element>(gate: &Tensor, up: &Tensor) -> Result<Tensor, TchError> {
    differentiable(&[gate, up], || {
        let mut gated = Tensor::f_empty(gate.size(), (gate.kind(), Device::Cpu))?;
        let parts = as_slice::<V>(gate)
            .chunks(VALUES_AT_ONCE)
            .zip(as_slice::<V>(up).chunks(VALUES_AT_ONCE))
            .zip(as_mut_slice::<V>(&mut gated).chunks_mut(VALUES_AT_ONCE));
        parallel::for_each(parts, |((gate, up), gated)| V::gated(gate, up, gated))?;
        Ok((gated, Gated { gate: gate.f_detach()?, up: up.f_detach()? }))
    })
}

/// What [`gated`] keeps.
struct Gated {
    gate: Tensor,
    up: Tensor,
}

impl Gated {
    fn gradients_of<V: Value + Element>(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>, TchError> {
        let empty = || Tensor::f_empty(self.gate.size(), (self.gate.kind(), Device::Cpu));
        let (mut gate_grad, mut up_grad) = (empty()?, empty()?);
        let parts = as_slice::<V>(&self.gate)
            .chunks(VALUES_AT_ONCE)
            .zip(as_slice::<V>(&self.up).chunks(VALUES_AT_ONCE))
            .zip(as_slice::<V>(grad).chunks(VALUES_AT_ONCE))
            .zip(as_mut_slice::<V>(&mut gate_grad).chunks_mut(VALUES_AT_ONCE))
            .zip(as_mut_slice::<V>(&mut up_grad).chunks_mut(VALUES_AT_ONCE));
        parallel::for_each(parts, |((((gate, up), grads), gate_grads), up_grads)| {
            V::gated_grad(gate, up, grads, gate_grads, up_grads);
        })?;
        Ok(vec![Some(gate_grad), Some(up_grad)])
    }
}

impl Backward for Gated {
    fn gradients(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>, TchError> {
        for_dtype!(self.gate, Self::gradients_of(self, &grad.f_contiguous()?))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// A function of some inputs.
    type Step<'a> = &'a dyn Fn(&[Tensor]) -> Tensor;

    /// Returns output and gradients for inputs of a dtype, all in float64.
    fn run(inputs: &[Tensor], kind: Kind, step: Step) -> Vec<Tensor> {
        let leaves: Vec<Tensor> =
            inputs.iter().map(|input| input.to_kind(kind).detach().set_requires_grad(true)).collect();
        let output = step(&leaves);
        let factors = Tensor::arange(output.numel() as i64, (Kind::Double, Device::Cpu)).cos().view_as(&output);
        (&output * factors.to_kind(kind)).sum(kind).backward();
        let grads = leaves.iter().map(Tensor::grad);
        std::iter::once(output.detach()).chain(grads).map(|tensor| tensor.to_kind(Kind::Double)).collect()
    }

    /// Compares a step with its float64 form: outputs and gradients relative to their largest value.
    fn check(inputs: &[Tensor], taken: Step, exact: Step) {
        // A few roundings of 24 and 8 bits; sums of up to 600 values of mixed sign.
        for (kind, tolerance) in [(Kind::Float, 2e-6), (Kind::BFloat16, 2e-2)] {
            let inputs: Vec<Tensor> = inputs.iter().map(|input| input.to_kind(kind).to_kind(Kind::Double)).collect();
            let (found, expected) = (run(&inputs, kind, taken), run(&inputs, Kind::Double, exact));
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert_eq!(found.size(), expected.size());
                let scale = expected.abs().max().double_value(&[]);
                let difference = (found - expected).abs().max().double_value(&[]) / scale;
                assert!(difference < tolerance, "{kind:?}, {at}: {difference:e}");
            }
        }
    }

    fn random(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Double, Device::Cpu))
    }

    #[test]
    fn norms_are_those_of_libtorch() {
        tch::manual_seed(3);
        for shape in [[1, 1, 576], [3, 2, 37], [2, 150, 200]] {
            let taken = |inputs: &[Tensor]| rms_norm(&inputs[0], &inputs[1], 1e-5).unwrap().unwrap();
            let exact = |inputs: &[Tensor]| {
                let [input, weight] = inputs else { panic!() };
                input * (input.square().mean_dim(-1, true, None) + 1e-5).rsqrt() * weight
            };
            check(&[random(&shape) * 3.0, random(&shape[2..])], &taken, &exact);
        }
        let (input, weight) = (random(&[2, 8]), random(&[8]));
        assert!(rms_norm(&input, &weight, 1e-5).is_none());
        let single = |tensor: &Tensor| tensor.to_kind(Kind::Float);
        assert!(rms_norm(&single(&input), &weight, 1e-5).is_none());
        assert!(rms_norm(&single(&random(&[8, 2])).transpose(0, 1), &single(&weight), 1e-5).is_none());
    }

    #[test]
    fn rotations_are_those_of_libtorch() {
        tch::manual_seed(4);
        for (rows, heads, tokens, size) in [(1, 9, 1, 64), (3, 2, 5, 6), (2, 9, 70, 64)] {
            let half = random(&[rows, 1, tokens, size / 2]);
            let cos = Tensor::cat(&[half.cos(), half.cos()], -1).to_kind(Kind::BFloat16);
            let sin = Tensor::cat(&[-half.sin(), half.sin()], -1).to_kind(Kind::BFloat16);
            let split = |input: &Tensor| input.unflatten(-1, [-1, size]).transpose(1, 2);
            let taken = |inputs: &[Tensor]| {
                let kind = inputs[0].kind();
                rotate(&split(&inputs[0]), &cos.to_kind(kind), &sin.to_kind(kind)).unwrap().unwrap()
            };
            let exact = |inputs: &[Tensor]| {
                let input = split(&inputs[0]);
                (&input * &cos.to_kind(Kind::Double)).addcmul(&input.roll([size / 2], [-1]), &sin.to_kind(Kind::Double))
            };
            check(&[random(&[rows, tokens, heads * size])], &taken, &exact);
            assert!(rotate(&random(&[rows, heads, tokens, size]), &cos, &sin).is_none());
        }
    }

    #[test]
    fn gates_are_those_of_libtorch() {
        tch::manual_seed(5);
        for shape in [[1, 1, 7], [3, 40, 300]] {
            let taken = |inputs: &[Tensor]| gated(&inputs[0], &inputs[1]).unwrap().unwrap();
            let exact = |inputs: &[Tensor]| inputs[0].silu() * &inputs[1];
            check(&[random(&shape) * 4.0, random(&shape)], &taken, &exact);
        }
        let input = random(&[4, 6]).to_kind(Kind::Float);
        assert!(gated(&input.transpose(0, 1), &input.transpose(0, 1)).is_none());
        assert!(gated(&input, &input.to_kind(Kind::BFloat16)).is_none());
    }
}
