//! A model with an adapter: adds or loads it, enables or disables it, fixes its λ, merges it.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use tch::Tensor;

use super::ModelError;
use super::adapter::lambda_parts::{LambdaParts, parameter_kind};
use super::adapter::lora::{LINEAR_NAMES, Lora, LoraConfig};
use super::adapter::peft_file;
use super::adapter::state::Adapter;
use super::causal_lm::Model;
use super::layers::weight::Weight;

impl Model {
    /// Adds a new LoRA adapter, whose output is 0 at first, and freezes all other parameters.
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Request`] if the model already has an adapter, a value is out of range, or a target is not
    /// a linear layer of this model.
    pub fn add_lora(&mut self, config: &LoraConfig, seed: u64) -> Result<(), ModelError> {
        let options = (parameter_kind(self.kind()), self.device());
        self.insert_adapter(config, |_, shape, index| Lora::random(config, shape, index, seed, options))
    }

    /// Loads an adapter in PEFT's format, and freezes all other parameters.
    ///
    /// # Errors
    ///
    /// Returns a [`ModelError`] if the folder lacks a file, the adapter uses a feature of PEFT that is not supported,
    /// or it was made for another model.
    pub fn load_adapter(&mut self, folder: &Path) -> Result<(), ModelError> {
        let file = peft_file::AdapterFile::open(folder, &self.folder)?;
        let options = (parameter_kind(self.kind()), self.device());
        let config = file.config().clone();
        file.check_targets(&self.linear_paths())?;
        self.insert_adapter(&config, |path, shape, index| file.read(path, shape, index, options))?;
        let names = self.adapter.iter().flat_map(|adapter| adapter.parameters.keys());
        let checked = file.check_no_others(names);
        if checked.is_err() {
            self.remove_adapter();
        }
        checked
    }

    /// Loads plain LoRA adapters as one λ-adapter, which mixes them linearly with the weights λ (a rewarded soup,
    /// arXiv 2306.04488). It has no part independent of λ.
    ///
    /// # Errors
    ///
    /// The same as those of [`load_adapter`](Self::load_adapter), and [`ModelError::Request`] if one is not a plain
    /// LoRA or they differ in rank, scaling or targets.
    pub fn load_soup(&mut self, specialists: &[(String, PathBuf)]) -> Result<(), ModelError> {
        let mut files = Vec::new();
        for (_, folder) in specialists {
            files.push(peft_file::AdapterFile::open(folder, &self.folder)?);
        }
        let Some(first) = files.first().map(|file| file.config().clone()) else {
            return Err(ModelError::Request("there is no adapter to mix".into()));
        };
        for (file, (name, folder)) in files.iter().zip(specialists) {
            file.check_targets(&self.linear_paths())?;
            let LoraConfig { dropout, .. } = first;
            if file.config().lambda.is_some() || (LoraConfig { dropout, ..file.config().clone() }) != first {
                return Err(ModelError::Request(format!(
                    "the adapter {} for {name} cannot be mixed: all must be plain LoRA of the same rank, scaling and targets",
                    folder.display()
                )));
            }
        }
        let dimensions = specialists.iter().map(|(name, _)| name.clone()).collect();
        let parts = LambdaParts { dimensions, rank: first.rank };
        // A λ-adapter scales by the rank per dimension, which is the rank of each adapter here.
        let alpha = first.scaling() * first.rank as f64;
        let config = LoraConfig { rank: 0, alpha, use_rslora: false, lambda: Some(parts), ..first };
        let options = (parameter_kind(self.kind()), self.device());
        self.insert_adapter(&config, |path, shape, index| {
            let pairs = files.iter().map(|file| file.read(path, shape, index, options));
            let pairs = pairs.collect::<Result<Vec<_>, _>>()?;
            let (a, b): (Vec<_>, Vec<_>) = pairs.iter().map(|pair| (&pair.a, &pair.b)).unzip();
            let (dropout, scaling) = (config.dropout, config.scaling());
            Ok(Lora { a: Tensor::f_cat(&a, 0)?, b: Tensor::f_cat(&b, 1)?, scaling, dropout, index })
        })
    }

    /// Inserts a pair from `make(path, (out, in), index)` into each target layer.
    fn insert_adapter(
        &mut self,
        config: &LoraConfig,
        mut make: impl FnMut(&str, (i64, i64), u64) -> Result<Lora, ModelError>,
    ) -> Result<(), ModelError> {
        config.check()?;
        if self.adapter.is_some() {
            return Err(ModelError::Request("the model has an adapter already; merge or remove it first".into()));
        }
        if let Some(name) = config.target_modules.unknown_name(&self.linear_paths()) {
            return Err(ModelError::Request(format!(
                "`target_modules` names `{name}`, which is not a linear layer of the model's decoder; there are {}",
                LINEAR_NAMES.join(", ")
            )));
        }
        let mut adapter =
            Adapter { config: config.clone(), is_enabled: true, fixed_lambda: None, parameters: IndexMap::new() };
        let mut pairs = Vec::new();
        for (index, (path, linear)) in self.linears_mut().enumerate() {
            if config.target_modules.contains(&path) {
                let lora = make(&path, linear.weight.size()?, index as u64)?;
                adapter.parameters.insert(peft_file::key(&path, "A"), lora.a.shallow_clone());
                adapter.parameters.insert(peft_file::key(&path, "B"), lora.b.shallow_clone());
                pairs.push((index, lora));
            }
        }
        let mut pairs = pairs.into_iter().peekable();
        for (index, (_, linear)) in self.linears_mut().enumerate() {
            linear.lora = pairs.next_if(|(at, _)| *at == index).map(|(_, lora)| lora);
        }
        self.adapter = Some(adapter);
        self.freeze();
        self.unfreeze();
        Ok(())
    }

    /// Enables or disables the adapter; without it the model is the reference policy. Does nothing if there is no
    /// adapter.
    pub fn set_adapter_enabled(&mut self, is_enabled: bool) {
        if let Some(adapter) = &mut self.adapter {
            adapter.is_enabled = is_enabled;
        }
    }

    /// Returns whether the model has an adapter.
    #[must_use]
    pub fn has_adapter(&self) -> bool {
        self.adapter.is_some()
    }

    /// Returns the names of the preference dimensions of the adapter's λ, in order; None if the adapter does not depend
    /// on λ.
    #[must_use]
    pub fn adapter_dimensions(&self) -> Option<&[String]> {
        let parts = self.adapter.as_ref()?.config.lambda.as_ref()?;
        Some(&parts.dimensions)
    }

    /// Fixes the adapter's λ, which from then on overrides that of the batches.
    ///
    /// # Shapes
    ///
    /// `weights`: `[M]`, in the order of [`adapter_dimensions`](Self::adapter_dimensions).
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Request`] if the adapter does not depend on λ, there are not M weights, or one is negative
    /// or not finite.
    pub fn fix_lambda(&mut self, weights: &[f64]) -> Result<(), ModelError> {
        let fixed = self.lambda_parts()?.one(weights)?;
        if let Some(adapter) = &mut self.adapter {
            adapter.fixed_lambda = Some(fixed);
        }
        Ok(())
    }

    /// Checks that λ belongs to the adapter.
    ///
    /// # Errors
    ///
    /// The same as those of [`fix_lambda`](Self::fix_lambda).
    pub fn check_lambda(&self, weights: &[f64]) -> Result<(), ModelError> {
        self.lambda_parts()?.one(weights).map(drop)
    }

    /// Returns the fixed λ, `[M]`; None if the adapter does not depend on λ.
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Request`] if it does and no λ is fixed.
    pub fn default_lambda(&self) -> Result<Option<Vec<f64>>, ModelError> {
        match (&self.adapter, self.lambda()) {
            (Some(adapter), None) if adapter.is_enabled => adapter.fixed_columns().map(|_| None),
            (_, lambda) => Ok(lambda),
        }
    }

    fn lambda_parts(&self) -> Result<&LambdaParts, ModelError> {
        let parts = self.adapter.as_ref().and_then(|adapter| adapter.config.lambda.as_ref());
        parts.ok_or_else(|| {
            ModelError::Request("there is no λ to choose: that takes an adapter of kind \"lambda_lora\"".into())
        })
    }

    /// Lets each batch have its own λ again, after [`fix_lambda`](Self::fix_lambda).
    pub fn free_lambda(&mut self) {
        if let Some(adapter) = &mut self.adapter {
            adapter.fixed_lambda = None;
        }
    }

    /// Returns the fixed λ, `[M]`, if there is one.
    #[must_use]
    pub fn lambda(&self) -> Option<Vec<f64>> {
        let fixed = self.adapter.as_ref()?.fixed_lambda.as_ref()?;
        Vec::try_from(fixed.flatten(0, -1)).ok()
    }

    /// Replaces a λ-adapter by the plain LoRA of rank R that it equals at the fixed λ: B is multiplied by s(λ), and
    /// alpha is scaled with the rank so that the scaling is unchanged. Does nothing to an adapter without λ.
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Request`] if no λ is fixed.
    pub fn fold_lambda(&mut self) -> Result<(), ModelError> {
        let Some(adapter) = &self.adapter else { return Ok(()) };
        let Some(columns) = adapter.fixed_columns()? else { return Ok(()) };
        let plain = adapter.config.with_scaling(adapter.config.total_rank());
        let device = self.device();
        let mut folded = Vec::new();
        for (_, linear) in self.linears_mut() {
            folded.push(match linear.lora.take() {
                Some(lora) => {
                    let columns = columns.f_to_device(device)?.f_to_kind(lora.b.f_kind()?)?;
                    let b = tch::no_grad(|| lora.b.f_mul(&columns))?;
                    Some(Lora { a: lora.a.f_detach()?, b, ..lora })
                }
                None => None,
            });
        }
        self.adapter = None;
        let mut folded = folded.into_iter();
        self.insert_adapter(&plain, |path, _, _| {
            let next = folded.next().flatten();
            next.ok_or_else(|| ModelError::Request(format!("the adapter has no pair for {path}")))
        })
    }

    /// Removes the adapter; the other parameters stay frozen.
    pub fn remove_adapter(&mut self) {
        self.adapter = None;
        for (_, linear) in self.linears_mut() {
            linear.lora = None;
        }
    }

    /// Merges the adapter into the weights, W + scaling · B A, and removes it. A λ-adapter is merged at its fixed λ. Weights in
    /// 4 bits are dequantised, those without a pair too.
    ///
    /// # Numerics
    ///
    /// The sum is computed in float32 and rounded to the weights' dtype once.
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Request`] if a λ-adapter has no fixed λ, [`ModelError::Torch`] if libtorch fails.
    pub fn merge_adapter(&mut self) -> Result<(), ModelError> {
        self.fold_lambda()?;
        let kind = self.kind();
        let mut dequantized = IndexMap::new();
        tch::no_grad(|| -> Result<(), ModelError> {
            for (path, linear) in self.linears_mut() {
                let merged = match &linear.lora {
                    Some(lora) => linear.weight.to_float32()?.f_add(&lora.delta()?)?,
                    None if matches!(linear.weight, Weight::Nf4(_)) => linear.weight.to_float32()?,
                    None => continue,
                };
                match &linear.weight {
                    Weight::Dense(weight) => weight.f_detach()?.f_copy_(&merged)?,
                    Weight::Nf4(_) => {
                        let merged = merged.f_to_kind(kind)?;
                        dequantized.insert(format!("{path}.weight"), merged.shallow_clone());
                        linear.weight = Weight::Dense(merged);
                    }
                }
            }
            Ok(())
        })?;
        let config = &self.decoder.config;
        self.parameters.replace_nf4(config, dequantized);
        self.remove_adapter();
        Ok(())
    }
}
