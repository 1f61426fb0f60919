//! A λ-adapter as ordinary LoRAs, one for each of its parts.

use std::path::Path;

use indexmap::IndexMap;
use tch::Tensor;

use super::ModelError;
use super::adapter::lora::LoraConfig;
use super::adapter::peft_file;
use super::causal_lm::Model;

/// A part of a λ-adapter as an ordinary LoRA.
#[derive(Debug)]
pub struct LoraPart {
    config: LoraConfig,
    parameters: IndexMap<String, Tensor>,
}

impl LoraPart {
    /// Returns the width of the part's low-rank pairs.
    #[must_use]
    pub fn rank(&self) -> i64 {
        self.config.rank
    }

    /// Writes the part as a folder in PEFT's format, atomically.
    ///
    /// `base_name` is the base model's folder or hub name, for PEFT.
    ///
    /// # Errors
    ///
    /// Returns a [`ModelError`] if writing fails.
    pub fn save(&self, folder: &Path, base_name: &str) -> Result<(), ModelError> {
        peft_file::write(folder, &self.config, &self.parameters, base_name)
    }
}

/// The ordinary LoRAs that a λ-adapter is the weighted sum of.
///
/// # Equation
///
/// scaling · B (s(λ) ⊙ (A x)) = scaling · B₀ A₀ x + Σₖ λₖ · scaling · Bₖ Aₖ x, where A₀ has the first r₀ rows of A and Aₖ
/// the r rows of dimension k, and B₀ and Bₖ have the columns of the same numbers. Each LoRA's alpha is scaling times its
/// rank, so that its own scaling is that of the λ-adapter. They have no dropout.
#[derive(Debug)]
pub struct LoraParts {
    /// The part independent of λ, of weight 1; None if its rank is 0.
    pub shared: Option<LoraPart>,
    /// The dimensions' names and parts, in the order of λ; dimension k has the weight `λ_k`.
    pub dimensions: Vec<(String, LoraPart)>,
}

impl Model {
    /// Splits the λ-adapter into ordinary LoRAs.
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Request`] if there is no adapter, or it does not depend on λ.
    pub fn split_adapter(&self) -> Result<LoraParts, ModelError> {
        let adapter = self.adapter.as_ref();
        let Some((adapter, lambda)) = adapter.and_then(|adapter| Some((adapter, adapter.config.lambda.as_ref()?)))
        else {
            return Err(ModelError::Request(
                "there are no parts to split: that takes an adapter of kind \"lambda_lora\"".into(),
            ));
        };
        let part = |start: i64, rank: i64| -> Result<LoraPart, ModelError> {
            let own = |(name, whole): (&String, &Tensor)| -> Result<_, ModelError> {
                let own = whole.f_detach()?.f_narrow(peft_file::rank_dim(name), start, rank)?;
                Ok((name.clone(), own.f_contiguous()?))
            };
            let parameters = adapter.parameters.iter().map(own).collect::<Result<_, _>>()?;
            // Without dropout, because PEFT leaves it on in an adapter that it makes by mixing others.
            let config = LoraConfig { dropout: 0.0, ..adapter.config.with_scaling(rank) };
            Ok(LoraPart { config, parameters })
        };
        let shared_rank = adapter.config.rank;
        let shared = (shared_rank > 0).then(|| part(0, shared_rank)).transpose()?;
        let dimensions = (0..).zip(&lambda.dimensions).map(|(k, name)| {
            let start = shared_rank + k * lambda.rank;
            Ok((name.clone(), part(start, lambda.rank)?))
        });
        Ok(LoraParts { shared, dimensions: dimensions.collect::<Result<_, ModelError>>()? })
    }
}
