//! The weight of a linear layer, as it is held in memory.

use tch::{Kind, TchError, Tensor};

use crate::libtorch::nf4::Nf4;
use crate::libtorch::{columns, widened};
use crate::model::ModelError;

/// The weight of a linear layer, [out, in].
#[derive(Debug)]
pub(in crate::model) enum Weight {
    /// In the model's dtype.
    Dense(Tensor),
    /// In 4 bits: it takes no gradient.
    Nf4(Nf4),
}

impl Weight {
    /// Returns the numbers of outputs and inputs.
    pub(in crate::model) fn size(&self) -> Result<(i64, i64), ModelError> {
        match self {
            Self::Dense(weight) => Ok(weight.size2()?),
            Self::Nf4(weight) => Ok(weight.shape.into()),
        }
    }

    /// Computes W x + b.
    ///
    /// # Shapes
    ///
    /// `input`: [R, T, in] or [n, in]; the result: [R, T, out] or [n, out], stored by columns if the input is.
    pub(super) fn linear(&self, input: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, TchError> {
        match self {
            Self::Dense(weight) => columns::linear(input, weight, bias)
                .or_else(|| widened::linear(input, weight, bias))
                .unwrap_or_else(|| input.f_linear(weight, bias)),
            Self::Nf4(weight) => weight.linear(input, bias),
        }
    }

    /// Computes Wᵀ g, the gradient of an input, given that of an output.
    ///
    /// # Shapes
    ///
    /// `grad`: [n, out]; the result: [n, in].
    pub(super) fn transposed(&self, grad: &Tensor) -> Result<Tensor, TchError> {
        match self {
            Self::Dense(weight) => widened::transposed(grad, weight).unwrap_or_else(|| grad.f_mm(weight)),
            Self::Nf4(weight) => weight.transposed(grad),
        }
    }

    /// Returns the same weight, which shares its memory, without a graph.
    pub(super) fn shallow_clone(&self) -> Weight {
        match self {
            Self::Dense(weight) => Self::Dense(weight.detach()),
            Self::Nf4(weight) => Self::Nf4(weight.shallow_clone()),
        }
    }

    /// Returns the values in float32, without a graph.
    pub(in crate::model) fn to_float32(&self) -> Result<Tensor, ModelError> {
        Ok(match self {
            Self::Dense(weight) => weight.f_detach()?.f_to_kind(Kind::Float)?,
            Self::Nf4(weight) => weight.dequantize(Kind::Float)?,
        })
    }
}
