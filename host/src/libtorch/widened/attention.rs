//! Attention of bfloat16 in float32: without AMX, libtorch's backward pass in bfloat16 takes three times as long.

use tch::{Kind, TchError, Tensor};

use crate::libtorch::differentiable::{Backward, differentiable};

use super::is_faster;

/// Returns scaled dot-product attention in the dtype of the query, with gradients to all but the mask; None if libtorch's own
/// is as fast.
///
/// # Shapes
///
/// `query` and the result: [R, heads, T, D]; `key` and `value`: [R, key-value heads, S, D]; `mask`: additive, a shape that
/// broadcasts to [R, heads, T, S].
///
/// # Numerics
///
/// The result is rounded once. The backward pass computes it in float32 from the rounded one, as libtorch's does.
///
/// # Errors
///
/// Errors from libtorch.
pub(crate) fn attend(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    mask: Option<&Tensor>,
    is_causal: bool,
) -> Option<Result<Tensor, TchError>> {
    is_faster(query.kind(), query.device()).then(|| attend_in_float32([query, key, value], mask, is_causal))
}

fn attend_in_float32(inputs: [&Tensor; 3], mask: Option<&Tensor>, is_causal: bool) -> Result<Tensor, TchError> {
    differentiable(&inputs, || {
        let kind = inputs[0].f_kind()?;
        let [query, key, value] = [widen(inputs[0])?, widen(inputs[1])?, widen(inputs[2])?];
        let (attended, log_sum_exp) = Tensor::f_internal_scaled_dot_product_flash_attention_for_cpu(
            &query,
            &key,
            &value,
            0.0,
            is_causal,
            mask.map(widen).transpose()?,
            None,
        )?;
        let attended = attended.f_to_kind(kind)?;
        let kept = Kept {
            inputs: inputs.map(Tensor::detach),
            attended: attended.detach(),
            log_sum_exp,
            mask: mask.map(Tensor::detach),
            is_causal,
        };
        Ok((attended, kept))
    })
}

fn widen(tensor: &Tensor) -> Result<Tensor, TchError> {
    tensor.f_detach()?.f_to_kind(Kind::Float)
}

/// What the backward pass needs, as narrow as it came.
struct Kept {
    /// Query, key and value.
    inputs: [Tensor; 3],
    attended: Tensor,
    /// Of the scores of each query, in float32.
    log_sum_exp: Tensor,
    mask: Option<Tensor>,
    is_causal: bool,
}

impl Backward for Kept {
    fn gradients(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>, TchError> {
        let [query, key, value] = &self.inputs;
        let (query_grad, key_grad, value_grad) =
            Tensor::f_internal_scaled_dot_product_flash_attention_for_cpu_backward(
                &widen(grad)?,
                &widen(query)?,
                &widen(key)?,
                &widen(value)?,
                &widen(&self.attended)?,
                &self.log_sum_exp,
                0.0,
                self.is_causal,
                self.mask.as_ref().map(widen).transpose()?,
                None,
            )?;
        let narrow = |gradient: Tensor| gradient.f_to_kind(grad.f_kind()?).map(Some);
        [query_grad, key_grad, value_grad].into_iter().map(narrow).collect()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use tch::Device;

    use super::*;

    #[test]
    fn attention_and_gradients_are_those_of_float64_rounded() {
        tch::manual_seed(9);
        let draw = |heads: i64, num_tokens: i64| {
            // As a model splits heads: the dimension of tokens comes first in memory.
            let drawn = Tensor::randn([2, num_tokens, heads, 8], (Kind::Float, Device::Cpu)).to_kind(Kind::BFloat16);
            drawn.transpose(1, 2)
        };
        let hidden = Tensor::ones([5, 7], (Kind::Bool, Device::Cpu)).tril(2).logical_not();
        let mask = Tensor::zeros([1, 1, 5, 7], (Kind::BFloat16, Device::Cpu)).masked_fill(&hidden, f64::NEG_INFINITY);
        for (num_keys, mask) in [(7, Some(&mask)), (5, None)] {
            let leaves = [draw(6, 5), draw(2, num_keys), draw(2, num_keys)];
            let grad = draw(6, 5);
            let run = |leaves: [Tensor; 3], attend: &dyn Fn([&Tensor; 3]) -> Tensor| {
                let leaves = leaves.map(|leaf| leaf.set_requires_grad(true));
                let attended = attend([&leaves[0], &leaves[1], &leaves[2]]);
                let loss = (&attended * grad.to_kind(attended.kind())).sum(attended.kind());
                let gradients = Tensor::run_backward(&[loss], &leaves, false, false);
                std::iter::once(attended.detach()).chain(gradients).collect::<Vec<_>>()
            };
            let found = run(leaves.each_ref().map(Tensor::copy), &|inputs| {
                attend_in_float32(inputs, mask, mask.is_none()).unwrap()
            });
            let exact = run(leaves.each_ref().map(|leaf| leaf.to_kind(Kind::Double)), &|[query, key, value]| {
                let mask = mask.map(|mask| mask.to_kind(Kind::Double));
                Tensor::scaled_dot_product_attention(query, key, value, mask, 0.0, num_keys == 5, None, true)
            });
            for (index, (found, exact)) in found.iter().zip(&exact).enumerate() {
                assert_eq!((found.kind(), found.size()), (Kind::BFloat16, exact.size()));
                // Half of a unit of bfloat16's eighth bit; in gradients also that of the attended values, of size 1, that
                // they are computed from.
                let allowed = exact.abs() * 0.5f64.powi(8) + if index == 0 { 1e-6 } else { 0.5f64.powi(6) };
                let error = (found.to_kind(Kind::Double) - exact).abs();
                assert!(bool::try_from(error.le_tensor(&allowed).all()).unwrap(), "{index}, {num_keys} keys");
            }
        }
    }

    #[test]
    fn other_dtypes_stay_with_libtorch() {
        let ones = |kind| Tensor::ones([1, 2, 3, 8], (kind, Device::Cpu));
        for kind in [Kind::Float, Kind::Double, Kind::Half, Kind::BFloat16] {
            let attended = attend(&ones(kind), &ones(kind), &ones(kind), None, true);
            assert_eq!(attended.is_some(), is_faster(kind, Device::Cpu), "{kind:?}");
        }
    }
}
