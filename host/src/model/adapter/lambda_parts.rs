//! The λ-adapter's part that depends on λ: which columns of a low-rank pair belong to which preference dimension.

use tch::{Device, Kind, Tensor};

use crate::model::ModelError;

/// A low-rank pair for each preference dimension, beside the one that all λ share.
///
/// # Equation
///
/// y = W x + scaling · B (s(λ) ⊙ (A x)) with A of shape [R, in], R = r₀ + M r, and s(λ) = (1, …, 1, λ₁, …, λ₁, …, λ_M), after
/// the idea of Panacea (arXiv 2402.02030). For a fixed λ it is an ordinary LoRA of rank R.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LambdaParts {
    /// Names of the M dimensions, in the order of λ.
    pub dimensions: Vec<String>,
    /// r: width of each dimension's pair.
    pub rank: i64,
}

impl LambdaParts {
    /// Width of all dimensions' pairs together, M r.
    #[must_use]
    pub fn total_rank(&self) -> i64 {
        self.dimensions.len() as i64 * self.rank
    }

    /// s(λ), what the columns of B count.
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

    /// [1, M] float64 of the weights of one λ.
    ///
    /// # Errors
    ///
    /// [`ModelError::Request`] where their number is not M, or one is negative or no number.
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
                "λ gives `{name}` the weight {weight}: weights are numbers from 0"
            )));
        }
        Ok(Tensor::f_from_slice(weights)?.f_unsqueeze(0)?)
    }

    /// λ of each token, out of that of its prompt; padding has the first prompt's.
    ///
    /// # Shapes
    ///
    /// `columns`: [B, R] on any device; `prompt_ids`: [rows, T] int64; the result: [rows, T, R] on `device`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Request`] where a prompt has no λ.
    pub(in crate::model) fn by_token(
        columns: &Tensor,
        prompt_ids: &Tensor,
        device: Device,
    ) -> Result<Tensor, ModelError> {
        let (num_prompts, rank) = columns.size2()?;
        let last = prompt_ids.f_max()?.f_int64_value(&[])?;
        if last >= num_prompts {
            return Err(ModelError::Request(format!(
                "the batch holds λ for {num_prompts} prompts, but its rows name prompt {last}"
            )));
        }
        let (num_rows, num_tokens) = prompt_ids.size2()?;
        let prompts = prompt_ids.f_clamp_min(0)?.f_reshape([-1])?.f_to_device(device)?;
        let by_token = columns.f_to_device(device)?.f_index_select(0, &prompts)?;
        Ok(by_token.f_view([num_rows, num_tokens, rank])?)
    }
}

/// The dtype of an adapter's parameters: float32, but float64 in a model of that dtype, which is for exact comparisons.
pub(in crate::model) fn parameter_kind(model: Kind) -> Kind {
    if model == Kind::Double { Kind::Double } else { Kind::Float }
}
