//! A model's adapter: configuration, parameters, and the λ that it is fixed to.

use indexmap::IndexMap;
use tch::{Device, Kind, Tensor};

use crate::libtorch::upload;
use crate::model::ModelError;
use crate::model::inputs::ModelInputs;

use super::lambda_parts::LambdaParts;
use super::lora::LoraConfig;

/// The adapter of a model; the linear layers hold its low-rank pairs.
#[derive(Debug)]
pub(in crate::model) struct Adapter {
    pub(in crate::model) config: LoraConfig,
    pub(in crate::model) is_enabled: bool,
    /// [1, M] float64; overrides the batch's λ.
    pub(in crate::model) fixed_lambda: Option<Tensor>,
    /// Keyed by their names in the adapter's file, in the order of the linear layers.
    pub(in crate::model) parameters: IndexMap<String, Tensor>,
}

impl Adapter {
    /// Returns s(λ) of the fixed λ, [1, R] float64; None if the adapter does not depend on λ.
    pub(in crate::model) fn fixed_columns(&self) -> Result<Option<Tensor>, ModelError> {
        match (&self.config.lambda, &self.fixed_lambda) {
            (None, _) => Ok(None),
            (Some(parts), Some(lambda)) => Ok(Some(parts.columns(lambda, self.config.rank)?)),
            (Some(parts), None) => Err(no_lambda(parts)),
        }
    }

    /// Returns the scale of the low-rank activations: scaling · s(λ) of each token's prompt, or of the fixed λ for all
    /// tokens; None if the adapter does not depend on λ.
    ///
    /// # Shapes
    ///
    /// [rows, T, R] or [1, 1, R], in the model's dtype.
    pub(in crate::model) fn lambda_scale(
        &self,
        inputs: &ModelInputs,
        kind: Kind,
        device: Device,
    ) -> Result<Option<Tensor>, ModelError> {
        let Some(parts) = self.config.lambda.as_ref().filter(|_| self.is_enabled) else { return Ok(None) };
        let scale = match (&self.fixed_lambda, inputs.lambda) {
            (Some(lambda), _) => upload(&parts.columns(lambda, self.config.rank)?.f_unsqueeze(0)?, device)?,
            (None, Some(lambda)) => LambdaParts::by_token(&self.columns_of(parts, lambda)?, inputs.prompt_ids, device)?,
            (None, None) => return Err(no_lambda(parts)),
        };
        Ok(Some(scale.f_mul_scalar(self.config.scaling())?.f_to_kind(kind)?))
    }

    /// Returns the scale of the low-rank activations of rows with a λ each, or of the fixed λ if there is none; None if the
    /// adapter does not depend on λ.
    ///
    /// # Shapes
    ///
    /// `lambda`: [rows, M]; the result: [rows, 1, R] or [1, 1, R], in the model's dtype.
    pub(in crate::model) fn lambda_scale_of_rows(
        &self,
        lambda: Option<&Tensor>,
        kind: Kind,
        device: Device,
    ) -> Result<Option<Tensor>, ModelError> {
        let Some(parts) = self.config.lambda.as_ref().filter(|_| self.is_enabled) else { return Ok(None) };
        let columns = match (lambda, &self.fixed_lambda) {
            (Some(lambda), _) => self.columns_of(parts, lambda)?,
            (None, Some(lambda)) => parts.columns(lambda, self.config.rank)?,
            (None, None) => return Err(no_lambda(parts)),
        };
        let scale = upload(&columns.f_unsqueeze(1)?, device)?;
        Ok(Some(scale.f_mul_scalar(self.config.scaling())?.f_to_kind(kind)?))
    }

    fn columns_of(&self, parts: &LambdaParts, lambda: &Tensor) -> Result<Tensor, ModelError> {
        let (size, num_dimensions) = (lambda.size(), parts.dimensions.len() as i64);
        if size.len() != 2 || size[1] != num_dimensions {
            return Err(ModelError::Request(format!(
                "the batch's λ has shape {size:?}, but the adapter weighs {num_dimensions} dimensions: {}",
                parts.dimensions.join(", ")
            )));
        }
        parts.columns(lambda, self.config.rank)
    }
}

fn no_lambda(parts: &LambdaParts) -> ModelError {
    ModelError::Request(format!(
        "the adapter depends on λ over {}, and none is given: fix one, or give each prompt its own",
        parts.dimensions.join(", ")
    ))
}
