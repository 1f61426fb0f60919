//! A decoder with its LM head: loads or initialises it, and runs it without gradients.

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use crate::libtorch::{Libtorch, native, upload};

use super::ModelError;
use super::adapter::Adapter;
use super::config::ModelConfig;
use super::decoder::Decoder;
use super::families::Head;
use super::inputs::ModelInputs;
use super::kv_cache::{CachedPass, Extension, KvCache, RowKey};
use super::layers::decoder_layer::DecoderLayer;
use super::layers::linear::Linear;
use super::layers::mask::Masks;
use super::parameters::{self, FINAL_NORM, Parameters};
use super::pass::Context;
use super::precision::Precision;

/// A decoder with its LM head, on one device and in one dtype, with or without an adapter.
///
/// Initially all parameters are trainable; with an adapter, only those of the adapter, and none if there are weights in 4 bits.
#[derive(Debug)]
pub struct Model {
    pub(super) folder: PathBuf,
    pub(super) parameters: Parameters,
    pub(super) decoder: Decoder,
    lm_head: Tensor,
    pub(super) adapter: Option<Adapter>,
}

impl Model {
    /// Loads a model folder in Hugging Face's format, with weights in one or several safetensors files, to weights of a
    /// dtype, or of any [`Precision`].
    ///
    /// # Errors
    ///
    /// Returns a [`ModelError`] if a file is missing, is not valid, or does not match the configuration.
    pub fn load(folder: &Path, libtorch: Libtorch, precision: impl Into<Precision>) -> Result<Model, ModelError> {
        let (config, device, precision) = (ModelConfig::load(folder)?, libtorch.device(), precision.into());
        let parameters = tch::no_grad(|| parameters::load(folder, &config, Head::LanguageModel, device, precision))?;
        Self::build(folder, config, device, precision.kind, parameters)
    }

    /// Creates a model with random weights from the `config.json` in `folder`.
    ///
    /// The weights depend only on the configuration and `seed`.
    ///
    /// # Errors
    ///
    /// Returns a [`ModelError`] if the configuration is missing or not supported.
    pub fn random(folder: &Path, libtorch: Libtorch, kind: Kind, seed: u64) -> Result<Model, ModelError> {
        let (config, device) = (ModelConfig::load(folder)?, libtorch.device());
        let parameters = tch::no_grad(|| parameters::random(&config, device, kind, seed))?;
        Self::build(folder, config, device, kind, parameters)
    }

    fn build(
        folder: &Path,
        config: ModelConfig,
        device: Device,
        kind: Kind,
        parameters: Parameters,
    ) -> Result<Model, ModelError> {
        let decoder = Decoder::build(config, device, kind, &parameters)?;
        let lm_head = parameters.lm_head()?;
        let model = Model { folder: folder.to_path_buf(), parameters, decoder, lm_head, adapter: None };
        model.unfreeze();
        Ok(model)
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.decoder.config
    }

    /// Returns the device of the parameters.
    #[must_use]
    pub fn device(&self) -> Device {
        self.decoder.device
    }

    /// Returns the dtype of the parameters (an adapter's are float32).
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.decoder.kind
    }

    /// Converts the parameters to another dtype.
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Request`] if the model has an adapter, [`ModelError::Torch`] if libtorch fails.
    pub fn into_kind(self, kind: Kind) -> Result<Model, ModelError> {
        if kind == self.kind() {
            return Ok(self);
        }
        if self.has_adapter() {
            return Err(ModelError::Request(
                "the dtype of a model with an adapter is fixed; merge the adapter first".into(),
            ));
        }
        let Model { folder, mut parameters, decoder, lm_head, .. } = self;
        let Decoder { config, device, layers, norm, embed_tokens, .. } = decoder;
        // So that each tensor is freed as soon as it has been converted.
        drop((layers, norm, embed_tokens, lm_head));
        for parameter in parameters.dense.values_mut() {
            *parameter = parameter.f_detach()?.f_to_kind(kind)?;
        }
        Self::build(&folder, config, device, kind, parameters)
    }

    /// Freezes all parameters.
    pub fn freeze(&self) {
        for (_, parameter) in self.named_parameters() {
            let _ = parameter.set_requires_grad(false);
        }
    }

    /// Makes the adapter's parameters trainable, or all parameters if there is no adapter; none of a model with weights in 4
    /// bits, whose linear layers compute no gradients but those of their inputs.
    pub fn unfreeze(&self) {
        let parameters = match &self.adapter {
            Some(adapter) => &adapter.parameters,
            None if self.is_quantized() => return,
            None => &self.parameters.dense,
        };
        for parameter in parameters.values() {
            let _ = parameter.set_requires_grad(true);
        }
    }

    /// Returns whether there are weights in 4 bits.
    #[must_use]
    pub fn is_quantized(&self) -> bool {
        !self.parameters.nf4.is_empty()
    }

    /// Checks that no weight is in 4 bits.
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Request`] if one is.
    pub fn check_not_quantized(&self) -> Result<(), ModelError> {
        if self.is_quantized() {
            return Err(ModelError::Request(
                "a model with weights in 4 bits cannot be saved or exported as a whole; dequantise it first".into(),
            ));
        }
        Ok(())
    }

    /// Returns all that the weights in 4 bits follow from, with names, always in the same order.
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Torch`] if libtorch fails.
    pub fn quantized_parts(&self) -> Result<Vec<(String, Tensor)>, ModelError> {
        let mut all = Vec::new();
        for (name, weight) in &self.parameters.nf4 {
            all.extend(weight.parts()?.into_iter().map(|(part, tensor)| (format!("{name}{part}"), tensor)));
        }
        Ok(all)
    }

    /// Iterates over all parameters but those in 4 bits with their names, the adapter's last, always in the same order.
    pub fn named_parameters(&self) -> impl Iterator<Item = (&String, &Tensor)> {
        self.parameters.dense.iter().chain(self.adapter.iter().flat_map(|adapter| &adapter.parameters))
    }

    /// Returns the trainable parameters with their names in the file that they are saved to, always in the same order.
    #[must_use]
    pub fn trainable(&self) -> Vec<(String, Tensor)> {
        let trainable = self.named_parameters().filter(|(_, parameter)| parameter.requires_grad());
        trainable.map(|(name, parameter)| (name.clone(), parameter.shallow_clone())).collect()
    }

    /// Returns the frequencies of the rotary embedding with their scaling, [head_dim / 2].
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Torch`] if libtorch fails.
    pub fn rotary_frequencies(&self) -> Result<Vec<f32>, ModelError> {
        self.decoder.rope.frequencies()
    }

    /// Returns the weight of the LM head, [V, H], which is the embedding if they are tied.
    pub fn lm_head(&self) -> &Tensor {
        &self.lm_head
    }

    /// Returns whether the LM head is trainable.
    #[must_use]
    pub fn lm_head_trainable(&self) -> bool {
        self.lm_head.requires_grad()
    }

    /// Adds a gradient to that of the LM head, without a copy if it has none yet.
    ///
    /// # Shapes
    ///
    /// `grad`: [V, H].
    ///
    /// # Errors
    ///
    /// Returns a [`ModelError`] if the head is frozen or the shape differs.
    pub fn accumulate_lm_head_grad(&self, grad: Tensor) -> Result<(), ModelError> {
        if !self.lm_head_trainable() || grad.size() != self.lm_head.size() {
            return Err(ModelError::Request(format!(
                "a gradient of shape {:?} does not belong to an LM head of shape {:?} (trainable: {})",
                grad.size(),
                self.lm_head.size(),
                self.lm_head_trainable()
            )));
        }
        let grad = grad.f_to_device(self.device())?.f_to_kind(self.kind())?;
        let mut accumulated = self.lm_head.f_grad()?;
        if accumulated.defined() {
            let _ = tch::no_grad(|| accumulated.f_add_(&grad))?;
        } else {
            native::set_grad(&self.lm_head, Some(&grad))?;
        }
        Ok(())
    }

    /// Computes the hidden states after the final norm, without gradients and without dropout.
    ///
    /// # Shapes
    ///
    /// [R, T, H].
    ///
    /// # Errors
    ///
    /// Returns a [`ModelError`] if shapes or dtypes of the inputs are wrong, an id is not in the vocabulary, or
    /// libtorch fails.
    pub fn hidden(&self, inputs: &ModelInputs) -> Result<Tensor, ModelError> {
        let context = tch::no_grad(|| self.context(inputs, None))?;
        self.decoder.hidden(inputs.input_ids, &context)
    }

    /// Checks that token ids are in the model's vocabulary.
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Request`] with the first that is not.
    pub fn check_ids(&self, ids: &[i64]) -> Result<(), ModelError> {
        let vocab_size = self.decoder.config.vocab_size;
        match ids.iter().find(|id| !(0..vocab_size).contains(*id)) {
            Some(id) => Err(ModelError::Request(format!(
                "token id {id} is not in the model's vocabulary of {vocab_size}; the tokenizer belongs to another model"
            ))),
            None => Ok(()),
        }
    }

    /// Creates an empty key-value cache.
    #[must_use]
    pub fn kv_cache(&self) -> KvCache {
        KvCache::new(self.config(), (self.kind(), self.device()))
    }

    /// Computes the hidden states of new tokens of rows, which follow those in the cache, and adds them to it.
    ///
    /// # Shapes
    ///
    /// `rows`: R pairs of row and new token ids, of any lengths up to T; `lambda`: [R, M], None for the fixed λ; the result:
    /// [R, T, H], of any value where a row has no token.
    ///
    /// # Errors
    ///
    /// Returns a [`ModelError`] if a row has no new token, an id is not in the vocabulary, λ is missing,
    /// or libtorch fails. The rows then have no more tokens than before.
    pub fn extend(
        &self,
        cache: &mut KvCache,
        rows: &[(RowKey, &[i64])],
        lambda: Option<&Tensor>,
    ) -> Result<Tensor, ModelError> {
        tch::no_grad(|| {
            let hidden = self.extended(cache, rows, lambda)?;
            self.decoder.norm.forward(&hidden)
        })
    }

    /// Does the same as [`extend`](Self::extend), but returns only the hidden states of each row's last token, [R, H].
    ///
    /// # Errors
    ///
    /// The same as those of [`extend`](Self::extend).
    pub fn extend_to_last(
        &self,
        cache: &mut KvCache,
        rows: &[(RowKey, &[i64])],
        lambda: Option<&Tensor>,
    ) -> Result<Tensor, ModelError> {
        tch::no_grad(|| {
            let hidden = self.extended(cache, rows, lambda)?; // [R, T, H]
            let (_, num_tokens, size) = hidden.size3()?;
            if num_tokens == 1 {
                return self.decoder.norm.forward(&hidden.f_squeeze_dim(1)?);
            }
            let last = (0..).zip(rows).map(|(row, (_, tokens))| row * num_tokens + tokens.len() as i64 - 1);
            let last = upload(&Tensor::f_from_slice(&last.collect::<Vec<i64>>())?, self.device())?;
            self.decoder.norm.forward(&hidden.f_view([-1, size])?.f_index_select(0, &last)?)
        })
    }

    /// Adds new tokens of rows to the cache, and computes their hidden states before the final norm, [R, T, H].
    fn extended(
        &self,
        cache: &mut KvCache,
        rows: &[(RowKey, &[i64])],
        lambda: Option<&Tensor>,
    ) -> Result<Tensor, ModelError> {
        for (_, tokens) in rows {
            self.check_ids(tokens)?;
        }
        let decoder = &self.decoder;
        let extension = Extension::plan(&decoder.config, cache, rows)?;
        let context = Context {
            rotary: decoder.rope.at(&upload(&extension.position_ids, decoder.device)?, decoder.kind)?,
            masks: Masks::none(),
            adapter_enabled: self.adapter.as_ref().is_some_and(|adapter| adapter.is_enabled),
            lambda_scale: match &self.adapter {
                Some(adapter) => adapter.lambda_scale_of_rows(lambda, decoder.kind, decoder.device)?,
                None => None,
            },
            dropout_seed: None,
        };
        let mut hidden = decoder.embed(&upload(&extension.input_ids, decoder.device)?)?;
        for layer in &decoder.layers {
            hidden = layer.forward(&hidden, &context, Some(CachedPass { cache, extension: &extension }))?;
        }
        extension.finish(cache, rows);
        Ok(hidden)
    }

    pub(super) fn context(&self, inputs: &ModelInputs, dropout_seed: Option<i64>) -> Result<Context, ModelError> {
        Ok(Context {
            adapter_enabled: self.adapter.as_ref().is_some_and(|adapter| adapter.is_enabled),
            lambda_scale: match &self.adapter {
                Some(adapter) => adapter.lambda_scale(inputs, self.kind(), self.device())?,
                None => None,
            },
            dropout_seed,
            ..self.decoder.context(inputs)?
        })
    }

    /// Returns the first layer that a backward pass must reach: 0 if the embedding is trainable, the number of layers
    /// if only the final norm is, `None` if no parameter but the LM head is.
    pub(super) fn first_trainable_layer(&self) -> Option<usize> {
        let trainable = self.named_parameters().filter(|(_, parameter)| parameter.requires_grad());
        let layers = trainable.filter_map(|(name, _)| match name.split_once("layers.") {
            Some((_, rest)) => rest.split('.').next()?.parse().ok(),
            None if name.contains("embed_tokens") => Some(0),
            None if name == FINAL_NORM => Some(self.decoder.layers.len()),
            None => None,
        });
        layers.min()
    }

    pub(super) fn linears_mut(&mut self) -> impl Iterator<Item = (String, &mut Linear)> {
        self.decoder.layers.iter_mut().flat_map(DecoderLayer::linears_mut)
    }

    pub(super) fn linear_paths(&mut self) -> Vec<String> {
        self.linears_mut().map(|(path, _)| path).collect()
    }
}
