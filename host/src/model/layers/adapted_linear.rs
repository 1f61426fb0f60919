//! A linear layer with an adapter as one operation: what the adapter adds goes into the layer's output by its last product,
//! and what it adds to the gradient of the input into that, so neither is written, read and added on its own.

use tch::{Kind, TchError, Tensor};

use crate::libtorch::differentiable::{Backward, differentiable};
use crate::model::ModelError;
use crate::model::adapter::lora::Lora;

use super::weight::Weight;

/// Computes W x + b + B (scale ⊙ (A x)), with gradients to x, A and B.
///
/// # Shapes
///
/// `input`: [R, T, in], contiguous; `lambda_scale`: [R, T, rank], or 1 in the place of R or T, which replaces the adapter's
/// scaling; the result: [R, T, out].
///
/// # Numerics
///
/// A and B are rounded to the dtype of `input` for the products; their gradients are rounded to it and then widened.
pub(super) fn forward(
    input: &Tensor,
    weight: &Weight,
    bias: Option<&Tensor>,
    lora: &Lora,
    lambda_scale: Option<&Tensor>,
) -> Result<Tensor, ModelError> {
    differentiable(&[input, &lora.a, &lora.b], || {
        let kind = input.f_kind()?;
        let (num_rows, num_tokens, num_inputs) = input.size3()?;
        let rows = input.f_detach()?.f_view([-1, num_inputs])?;
        let (a, b) = (lora.a.f_detach()?.f_to_kind(kind)?, lora.b.f_detach()?.f_to_kind(kind)?);
        let scale = lambda_scale.map_or(Scale::All(lora.scaling), |scale| Scale::Columns(scale.shallow_clone()));
        let reduced = scale.apply(rows.f_mm(&a.f_transpose(0, 1)?)?, (num_rows, num_tokens))?;
        let mut output = weight.linear(&rows, bias)?;
        let _ = output.f_addmm_(&reduced, &b.f_transpose(0, 1)?)?;
        let output = output.f_view([num_rows, num_tokens, -1])?;
        let kept =
            Kept { rows, reduced, a, b, scale, weight: weight.shallow_clone(), needs_input: input.requires_grad() };
        Ok((output, kept))
    })
}

/// The factor of A x.
enum Scale {
    All(f64),
    /// [R, T, rank], or 1 in the place of R or T.
    Columns(Tensor),
}

impl Scale {
    /// Multiplies a new tensor [R · T, rank].
    fn apply(&self, mut reduced: Tensor, (num_rows, num_tokens): (i64, i64)) -> Result<Tensor, TchError> {
        match self {
            Self::All(scaling) => reduced.f_mul_scalar_(*scaling),
            Self::Columns(scale) => {
                let _ = reduced.f_view([num_rows, num_tokens, -1])?.f_mul_(scale)?;
                Ok(reduced)
            }
        }
    }
}

/// What [`forward`] keeps, with n = R · T.
struct Kept {
    /// [n, in].
    rows: Tensor,
    /// scale ⊙ (A x), [n, rank].
    reduced: Tensor,
    a: Tensor,
    b: Tensor,
    scale: Scale,
    weight: Weight,
    needs_input: bool,
}

impl Backward for Kept {
    fn gradients(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>, TchError> {
        let (num_rows, num_tokens, num_outputs) = grad.size3()?;
        let grad = grad.f_reshape([-1, num_outputs])?;
        let reduced_grad = self.scale.apply(grad.f_mm(&self.b)?, (num_rows, num_tokens))?;
        let input_grad = if self.needs_input {
            let mut input_grad = self.weight.transposed(&grad)?;
            let _ = input_grad.f_addmm_(&reduced_grad, &self.a)?;
            Some(input_grad.f_view([num_rows, num_tokens, -1])?)
        } else {
            None
        };
        let parameter =
            |grad: Tensor| grad.f_to_kind(if self.a.kind() == Kind::Double { Kind::Double } else { Kind::Float });
        let a_grad = parameter(reduced_grad.f_transpose(0, 1)?.f_mm(&self.rows)?)?;
        // The transpose of the product of the transposes, which reads the wide matrix in the order of its memory.
        let b_grad = parameter(self.reduced.f_transpose(0, 1)?.f_mm(&grad)?)?.f_transpose(0, 1)?.f_contiguous()?;
        Ok(vec![input_grad, Some(a_grad), Some(b_grad)])
    }
}
