//! Stage 5 of the journey: `Batch` → hidden states, by one decoder for Llama, Mistral, Qwen 2 and Qwen 3.
//!
//! [`config`] says what `config.json` says; [`parameters`] finds or makes the tensors that it calls for; [`decoder`] and
//! [`attention`] compute; [`activations`] goes back; [`lora`] and [`adapter_file`] are the adapter and its PEFT format.
//!
//! # Invariants
//!
//! - Parameters keep the names that they have in Transformers' checkpoints.
//! - The vocabulary projection is not part of the forward pass: it belongs to the plugin, which takes hidden states.
//! - [`Model::hidden`] leaves no graph, [`Model::forward`] one that ends at the hidden states.

mod activations;
mod adapter_file;
mod attention;
mod cache;
mod config;
mod decoder;
mod error;
mod inputs;
mod json_fields;
mod linear;
mod lora;
mod parameters;
pub(crate) mod random;
mod rope;
mod save;

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use tch::{Device, Kind, Tensor};

pub use activations::{Activations, ForwardOptions};
pub use cache::KvCache;
pub use config::{Family, ModelConfig, RopeScaling, dtype_name};
pub use error::ModelError;
pub use inputs::ModelInputs;
pub use lora::{LINEAR_NAMES, LoraConfig, TargetModules};
pub use save::{carry_files, write_chat_template};

use attention::Masks;
use decoder::{Context, DecoderLayer, RmsNorm};
use lora::Lora;
use parameters::Parameters;
use rope::Rope;

/// A decoder with its LM head, on one device and of one dtype, with an adapter or without.
///
/// All parameters are trainable at first; with an adapter, those of the adapter alone.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    folder: PathBuf,
    device: Device,
    kind: Kind,
    parameters: Parameters,
    embed_tokens: Tensor,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    lm_head: Tensor,
    rope: Rope,
    adapter: Option<Adapter>,
}

/// The adapter as a whole; its pairs stand in the linear layers.
#[derive(Debug)]
struct Adapter {
    config: LoraConfig,
    is_enabled: bool,
    /// By their names in PEFT's file, in the order of the linear layers.
    parameters: IndexMap<String, Tensor>,
}

impl Model {
    /// Loads a model folder in Hugging Face's format, its weights in one safetensors file or several.
    ///
    /// # Errors
    ///
    /// [`ModelError`] naming the file and what it lacks or what does not fit.
    pub fn load(folder: &Path, device: Device, kind: Kind) -> Result<Model, ModelError> {
        let config = ModelConfig::load(folder)?;
        let parameters = tch::no_grad(|| parameters::load(folder, &config, device, kind))?;
        Self::build(folder, config, device, kind, parameters)
    }

    /// Makes a model of new weights for the `config.json` in `folder`.
    ///
    /// The weights depend on the configuration and `seed` alone.
    ///
    /// # Errors
    ///
    /// [`ModelError`] when the configuration is missing or not supported.
    pub fn random(folder: &Path, device: Device, kind: Kind, seed: u64) -> Result<Model, ModelError> {
        let config = ModelConfig::load(folder)?;
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
        let take = |name: &str| parameters::get(&parameters, name);
        let layers = (0..config.num_hidden_layers)
            .map(|layer| DecoderLayer::new(&config, layer, &take))
            .collect::<Result<Vec<_>, _>>()?;
        let norm = RmsNorm { weight: take("model.norm.weight")?, eps: config.rms_norm_eps };
        let (embed_tokens, lm_head) = parameters::embedding_and_head(&parameters)?;
        let rope = Rope::new(&config, device)?;
        let folder = folder.to_path_buf();
        let model = Model {
            config,
            folder,
            device,
            kind,
            parameters,
            embed_tokens,
            layers,
            norm,
            lm_head,
            rope,
            adapter: None,
        };
        model.unfreeze();
        Ok(model)
    }

    /// What `config.json` says.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the parameters lie.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// The dtype of the parameters (an adapter's are float32).
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Adds a new LoRA adapter, which changes nothing yet, and freezes everything else.
    ///
    /// # Errors
    ///
    /// [`ModelError::Request`] when there is an adapter already, a value is out of range, or a target is no linear layer
    /// of this model.
    pub fn add_lora(&mut self, config: &LoraConfig, seed: u64) -> Result<(), ModelError> {
        let device = self.device;
        self.insert_adapter(config, |_, shape, index| Lora::random(config, shape, index, seed, device))
    }

    /// Loads an adapter in PEFT's format, and freezes everything else.
    ///
    /// # Errors
    ///
    /// [`ModelError`] when the folder lacks a file, the adapter uses a feature of PEFT that is not supported (named), or it
    /// was made for another model.
    pub fn load_adapter(&mut self, folder: &Path) -> Result<(), ModelError> {
        let file = adapter_file::AdapterFile::open(folder, &self.folder)?;
        let device = self.device;
        let config = file.config().clone();
        file.check_targets(&self.linear_paths())?;
        self.insert_adapter(&config, |path, shape, index| file.read(path, shape, index, device))?;
        let names = self.adapter.iter().flat_map(|adapter| adapter.parameters.keys());
        let checked = file.check_no_others(names);
        if checked.is_err() {
            self.remove_adapter();
        }
        checked
    }

    /// Puts a pair from `make(path, (out, in), index)` into every target.
    fn insert_adapter(
        &mut self,
        config: &LoraConfig,
        make: impl Fn(&str, (i64, i64), u64) -> Result<Lora, ModelError>,
    ) -> Result<(), ModelError> {
        config.check()?;
        if self.adapter.is_some() {
            return Err(ModelError::Request("the model has an adapter already; merge or remove it first".into()));
        }
        if let Some(name) = config.target_modules.unknown_name(&self.linear_paths()) {
            return Err(ModelError::Request(format!(
                "`target_modules` names `{name}`, which is no linear layer of the model's decoder; there are {}",
                LINEAR_NAMES.join(", ")
            )));
        }
        let mut adapter = Adapter { config: config.clone(), is_enabled: true, parameters: IndexMap::new() };
        let mut pairs = Vec::new();
        for (index, (path, linear)) in self.linears_mut().enumerate() {
            if config.target_modules.contains(&path) {
                let lora = make(&path, linear.weight.size2()?, index as u64)?;
                adapter.parameters.insert(adapter_file::key(&path, "A"), lora.a.shallow_clone());
                adapter.parameters.insert(adapter_file::key(&path, "B"), lora.b.shallow_clone());
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

    /// Switches the adapter on or off, as for the reference policy; without an adapter it does nothing.
    pub fn set_adapter_enabled(&mut self, is_enabled: bool) {
        if let Some(adapter) = &mut self.adapter {
            adapter.is_enabled = is_enabled;
        }
    }

    /// Whether there is an adapter.
    #[must_use]
    pub fn has_adapter(&self) -> bool {
        self.adapter.is_some()
    }

    /// Takes the adapter off; the rest stays frozen.
    pub fn remove_adapter(&mut self) {
        self.adapter = None;
        for (_, linear) in self.linears_mut() {
            linear.lora = None;
        }
    }

    /// Adds the adapter to the weights, W + scaling · B A, and takes it off.
    ///
    /// # Numerics
    ///
    /// Added in float32, and rounded to the weights' dtype once.
    ///
    /// # Errors
    ///
    /// [`ModelError::Torch`] when libtorch fails.
    pub fn merge_adapter(&mut self) -> Result<(), ModelError> {
        tch::no_grad(|| -> Result<(), ModelError> {
            for (_, linear) in self.linears_mut() {
                if let Some(lora) = &linear.lora {
                    let merged = linear.weight.f_to_kind(Kind::Float)?.f_add(&lora.delta()?)?;
                    linear.weight.f_detach()?.f_copy_(&merged)?;
                }
            }
            Ok(())
        })?;
        self.remove_adapter();
        Ok(())
    }

    /// The same model with parameters of another dtype; an adapter's stay float32.
    ///
    /// # Errors
    ///
    /// [`ModelError::Request`] when there is an adapter, [`ModelError::Torch`] when libtorch fails.
    pub fn into_kind(self, kind: Kind) -> Result<Model, ModelError> {
        if kind == self.kind {
            return Ok(self);
        }
        if self.has_adapter() {
            return Err(ModelError::Request(
                "the dtype of a model with an adapter is fixed; merge the adapter first".into(),
            ));
        }
        let Model { config, folder, device, mut parameters, layers, norm, embed_tokens, lm_head, .. } = self;
        // So that each old tensor goes as soon as its new one is there.
        drop((layers, norm, embed_tokens, lm_head));
        for parameter in parameters.values_mut() {
            *parameter = parameter.f_detach()?.f_to_kind(kind)?;
        }
        Self::build(&folder, config, device, kind, parameters)
    }

    /// Makes nothing trainable.
    pub fn freeze(&self) {
        for (_, parameter) in self.named_parameters() {
            let _ = parameter.set_requires_grad(false);
        }
    }

    /// Makes the adapter's parameters trainable, or all parameters where there is no adapter.
    pub fn unfreeze(&self) {
        let parameters = self.adapter.as_ref().map_or(&self.parameters, |adapter| &adapter.parameters);
        for parameter in parameters.values() {
            let _ = parameter.set_requires_grad(true);
        }
    }

    /// All parameters, the adapter's last, by name, always in the same order.
    pub fn named_parameters(&self) -> impl Iterator<Item = (&String, &Tensor)> {
        self.parameters.iter().chain(self.adapter.iter().flat_map(|adapter| &adapter.parameters))
    }

    /// The trainable parameters with their names in the file that they are saved to, always in the same order.
    #[must_use]
    pub fn trainable(&self) -> Vec<(String, Tensor)> {
        let trainable = self.named_parameters().filter(|(_, parameter)| parameter.requires_grad());
        trainable.map(|(name, parameter)| (name.clone(), parameter.shallow_clone())).collect()
    }

    /// Frequencies of the rotary embedding with their scaling, [head_dim / 2].
    ///
    /// # Errors
    ///
    /// [`ModelError::Torch`] when libtorch fails.
    pub fn rotary_frequencies(&self) -> Result<Vec<f32>, ModelError> {
        self.rope.frequencies()
    }

    /// Weight of the LM head, [V, H]; the embedding where they are tied.
    pub fn lm_head(&self) -> &Tensor {
        &self.lm_head
    }

    /// Whether the LM head wants a gradient.
    #[must_use]
    pub fn lm_head_trainable(&self) -> bool {
        self.lm_head.requires_grad()
    }

    /// Adds a gradient to that of the LM head.
    ///
    /// # Shapes
    ///
    /// `grad`: [V, H].
    ///
    /// # Errors
    ///
    /// [`ModelError`] when the head is frozen or the shape differs.
    pub fn accumulate_lm_head_grad(&self, grad: &Tensor) -> Result<(), ModelError> {
        if !self.lm_head_trainable() || grad.size() != self.lm_head.size() {
            return Err(ModelError::Request(format!(
                "a gradient of shape {:?} does not belong to an LM head of shape {:?} (trainable: {})",
                grad.size(),
                self.lm_head.size(),
                self.lm_head_trainable()
            )));
        }
        let grad = grad.f_to_device(self.device)?.f_to_kind(self.kind)?;
        if self.lm_head.f_grad()?.defined() {
            let _ = tch::no_grad(|| self.lm_head.f_grad()?.f_add_(&grad))?;
        } else {
            // tch cannot set a gradient: let autograd make one of the right shape, then fill it.
            tch::with_grad(|| self.lm_head.f_sum(self.kind)?.f_backward())?;
            tch::no_grad(|| self.lm_head.f_grad()?.f_copy_(&grad))?;
        }
        Ok(())
    }

    /// Hidden states after the final norm, without a graph and without dropout.
    ///
    /// # Shapes
    ///
    /// [R, T, H].
    ///
    /// # Errors
    ///
    /// [`ModelError`] when the inputs do not fit together or the vocabulary, or libtorch fails.
    pub fn hidden(&self, inputs: &ModelInputs) -> Result<Tensor, ModelError> {
        tch::no_grad(|| {
            let context = self.context(inputs, None)?;
            let mut hidden = self.embed(&inputs.input_ids.f_to_device(self.device)?)?;
            for layer in &self.layers {
                hidden = layer.forward(&hidden, &context, None)?;
            }
            self.norm.forward(&hidden)
        })
    }

    /// The same, keeping what a backward pass needs.
    ///
    /// # Errors
    ///
    /// [`ModelError`] as [`hidden`](Self::hidden).
    pub fn forward(&self, inputs: &ModelInputs, options: &ForwardOptions) -> Result<Activations<'_>, ModelError> {
        let context = tch::no_grad(|| self.context(inputs, options.dropout_seed))?;
        let input_ids = inputs.input_ids.f_to_device(self.device)?;
        Activations::compute(self, context, input_ids, options.checkpointing)
    }

    /// Hidden states of new tokens that follow those in the cache: a prompt at first, then one token at a time.
    ///
    /// # Shapes
    ///
    /// `input_ids`: [R, T] int64, T = 1 unless the cache is empty; the result: [R, H], that of the last token.
    ///
    /// # Errors
    ///
    /// [`ModelError`] when the cache is full, an id is not in the vocabulary, or libtorch fails.
    pub fn extend(&self, cache: &mut KvCache, input_ids: &Tensor) -> Result<Tensor, ModelError> {
        let start = cache.num_tokens();
        let (num_rows, num_new) = input_ids.size2()?;
        if start > 0 && num_new != 1 {
            return Err(ModelError::Request(format!(
                "a cache that holds tokens is extended by one token at a time, not by {num_new}"
            )));
        }
        tch::no_grad(|| {
            let position_ids = Tensor::f_arange_start(start, start + num_new, (Kind::Int64, Device::Cpu))?
                .f_expand([num_rows, num_new], false)?;
            let rows = Tensor::f_zeros([num_rows, num_new], (Kind::Int64, Device::Cpu))?;
            let inputs = ModelInputs { input_ids, position_ids: &position_ids, prompt_ids: &rows, sequence_ids: &rows };
            let mut context = self.context(&inputs, None)?;
            if num_new == 1 {
                context.masks = Masks::of_new_token(&self.config);
            }
            cache.reserve(num_new)?;
            let mut hidden = self.embed(&input_ids.f_to_device(self.device)?)?;
            for (layer, cache) in self.layers.iter().zip(&mut cache.layers) {
                hidden = layer.forward(&hidden, &context, Some(cache))?;
            }
            self.norm.forward(&hidden.f_select(1, num_new - 1)?)
        })
    }

    fn context(&self, inputs: &ModelInputs, dropout_seed: Option<i64>) -> Result<Context, ModelError> {
        let layout = inputs.check(self.config.vocab_size)?;
        Ok(Context {
            rotary: self.rope.at(&inputs.position_ids.f_to_device(self.device)?, self.kind)?,
            masks: Masks::of_rows(&self.config, inputs, layout, self.device, self.kind)?,
            adapter_enabled: self.adapter.as_ref().is_some_and(|adapter| adapter.is_enabled),
            dropout_seed,
        })
    }

    /// [R, T] to [R, T, H]; the padding token's row gets no gradient, as in Transformers.
    fn embed(&self, input_ids: &Tensor) -> Result<Tensor, ModelError> {
        let padding = self.config.pad_token_id.filter(|&pad| pad < self.config.vocab_size).unwrap_or(-1);
        Ok(Tensor::f_embedding(&self.embed_tokens, input_ids, padding, false, false)?)
    }

    /// The first layer that a backward pass must reach: 0 for the embedding's sake too, the number of layers for the final
    /// norm alone, `None` where nothing but the LM head is trainable.
    fn first_trainable_layer(&self) -> Option<usize> {
        let trainable = self.named_parameters().filter(|(_, parameter)| parameter.requires_grad());
        let layers = trainable.filter_map(|(name, _)| match name.split_once("layers.") {
            Some((_, rest)) => rest.split('.').next()?.parse().ok(),
            None if name.contains("embed_tokens") => Some(0),
            None if name == "model.norm.weight" => Some(self.layers.len()),
            None => None,
        });
        layers.min()
    }

    fn linears_mut(&mut self) -> impl Iterator<Item = (String, &mut linear::Linear)> {
        self.layers.iter_mut().flat_map(DecoderLayer::linears_mut)
    }

    fn linear_paths(&mut self) -> Vec<String> {
        self.linears_mut().map(|(path, _)| path).collect()
    }
}
