//! The part of a λ-adapter that depends on λ: which columns of a low-rank pair belong to which preference dimension.

use tch::{Device, Kind, Tensor};

use crate::libtorch::upload;
use crate::model::ModelError;

/// A low-rank pair for each preference dimension, in addition to the pair that is independent of λ.
///
/// # Equation
///
/// y = W x + scaling · B (s(λ) ⊙ (A x)) with A of shape [R, in], R = r₀ + M r, and s(λ) = (1, …, 1, λ₁, …, λ₁, …, λ_M),
/// after the idea of Panacea (arXiv 2402.02030). For a fixed λ it is an ordinary LoRA of rank R.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LambdaParts {
    /// Names of the M dimensions, in the order of λ.
    pub dimensions: Vec<String>,
    /// r: width of each dimension's pair.
    pub rank: i64,
}

impl LambdaParts {
    /// Returns the width of all dimensions' pairs together, M r.
    #[must_use]
    pub fn total_rank(&self) -> i64 {
        self.dimensions.len() as i64 * self.rank
    }

    /// Returns s(λ), the weights of the columns of B.
    ///
    /// # Shapes
    ///
    /// `lambda`: [B, M]; the result: [B, R] of its dtype.
    pub(in crate::model) fn columns(&self, lambda: &Tensor, shared_rank: i64) -> Result<Tensor, ModelError> {
        let num_rows = lambda.size2()?.0;
        let shared = Tensor::f_ones([num_rows, shared_rank], (lambda.f_kind()?, lambda.device()))?;
        let own = lambda.f_repeat_interleave_self_int(self.rank, 1, None)?;
        Ok(Tensor::f_cat(&[shared, own], 1)?)
    }

    /// Returns the weights of one λ as a [1, M] float64 tensor.
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Request`] if there are not M weights, or one is negative or not finite.
    pub(in crate::model) fn one(&self, weights: &[f64]) -> Result<Tensor, ModelError> {
        if weights.len() != self.dimensions.len() {
            return Err(ModelError::Request(format!(
                "λ has {} weights, but the adapter has {} dimensions: {}",
                weights.len(),
                self.dimensions.len(),
                self.dimensions.join(", ")
            )));
        }
        let named = self.dimensions.iter().zip(weights);
        if let Some((name, weight)) = named.into_iter().find(|(_, weight)| !(weight.is_finite() && **weight >= 0.0)) {
            return Err(ModelError::Request(format!(
                "λ gives `{name}` the weight {weight}: weights must be finite and not negative"
            )));
        }
        Ok(Tensor::f_from_slice(weights)?.f_unsqueeze(0)?)
    }

    /// Returns the columns' weights for each token, which are those of its prompt; padding gets those of the first
    /// prompt.
    ///
    /// # Shapes
    ///
    /// `columns`: [B, R] on any device; `prompt_ids`: [rows, T] int64; the result: [rows, T, R] on `device`.
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Request`] if a prompt has no λ.
    pub(in crate::model) fn by_token(
        columns: &Tensor,
        prompt_ids: &Tensor,
        device: Device,
    ) -> Result<Tensor, ModelError> {
        let (num_prompts, rank) = columns.size2()?;
        let last = prompt_ids.f_max()?.f_int64_value(&[])?;
        if last >= num_prompts {
            return Err(ModelError::Request(format!(
                "the batch has λ for {num_prompts} prompts, but its rows refer to prompt {last}"
            )));
        }
        let (num_rows, num_tokens) = prompt_ids.size2()?;
        let prompts = upload(&prompt_ids.f_clamp_min(0)?.f_reshape([-1])?, device)?;
        let by_token = upload(columns, device)?.f_index_select(0, &prompts)?;
        Ok(by_token.f_view([num_rows, num_tokens, rank])?)
    }
}

/// Returns the dtype of an adapter's parameters: float32, or float64 in a float64 model (which tests use).
pub(in crate::model) fn parameter_kind(model: Kind) -> Kind {
    if model == Kind::Double { Kind::Double } else { Kind::Float }
}
