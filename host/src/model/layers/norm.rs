//! RMS norm.

use tch::{Kind, Tensor};

use crate::libtorch::rows;
use crate::model::ModelError;

/// Root-mean-square norm with a weight for each dimension.
#[derive(Debug)]
pub(in crate::model) struct RmsNorm {
    pub(in crate::model) weight: Tensor,
    pub(in crate::model) eps: f64,
}

impl RmsNorm {
    /// Normalises the last dimension.
    ///
    /// # Numerics
    ///
    /// Computed in float32 and rounded to the input's dtype before the weight is applied, as in Transformers.
    pub(in crate::model) fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        if let Some(normed) = rows::rms_norm(input, &self.weight, self.eps) {
            return Ok(normed?);
        }
        let kind = input.f_kind()?;
        let wide = if kind == Kind::Double { input.shallow_clone() } else { input.f_to_kind(Kind::Float)? };
        let mean_square = wide.f_square()?.f_mean_dim(-1, true, None)?;
        let normed = wide.f_mul(&mean_square.f_add_scalar(self.eps)?.f_rsqrt()?)?;
        Ok(normed.f_to_kind(kind)?.f_mul(&self.weight)?)
    }
}
