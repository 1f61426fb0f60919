//! The weight of a linear layer, as it is held in memory.

use tch::{Kind, Tensor};

use crate::libtorch::columns;
use crate::libtorch::nf4::Nf4;
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
    /// `input`: [R, T, in]; the result: [R, T, out], stored by columns if the input is.
    pub(super) fn linear(&self, input: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, ModelError> {
        Ok(match self {
            Self::Dense(weight) => match columns::linear(input, weight, bias) {
                Some(output) => output?,
                None => input.f_linear(weight, bias)?,
            },
            Self::Nf4(weight) => weight.linear(input, bias)?,
        })
    }

    /// Returns the values in float32, without a graph.
    pub(in crate::model) fn to_float32(&self) -> Result<Tensor, ModelError> {
        Ok(match self {
            Self::Dense(weight) => weight.f_detach()?.f_to_kind(Kind::Float)?,
            Self::Nf4(weight) => weight.dequantize(Kind::Float)?,
        })
    }
}
