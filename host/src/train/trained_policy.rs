//! The policy that is trained: loading it, its forward pass, saving it.

use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};

use crate::config::{AdapterSection, Init, ModelSection, Quantization, RunConfig, TargetModules};
use crate::files::atomic;
use crate::libtorch::Libtorch;
use crate::libtorch::script::SCRIPT_FILE;
use crate::model::{self, ForwardOptions, LambdaParts, LoraConfig, Model, Precision};
use crate::plugin::{Batch, Wants};
use crate::policy::{LogitsPolicy, Scorer, TorchScriptPolicy};

use super::TrainError;
use super::data::MicroBatch;
use super::durable::Checkpoint;
use super::forward::Forward;

/// A model that can be trained.
#[expect(clippy::large_enum_variant, reason = "a run has only one")]
pub enum TrainableModel {
    /// A model that this program implements.
    Native(Model),
    /// A TorchScript module, run by libtorch.
    TorchScript(TorchScriptPolicy),
}

/// The policy that is trained, with what is needed to save it.
pub struct TrainedPolicy {
    /// Its model, including an adapter.
    pub model: TrainableModel,
    /// Folder of `model.path`, from which tokenizer files are copied.
    source: PathBuf,
    /// Chat template that replaces the tokenizer's own, and is saved with the model.
    chat_template: Option<PathBuf>,
    /// Name of the base model in the adapter's config.
    base_name: String,
}

impl TrainableModel {
    /// Loads the weights that a run starts from, without an adapter.
    ///
    /// # Errors
    ///
    /// Returns an error if a file of the folder is missing, its architecture is not supported, or the TorchScript
    /// module cannot be loaded.
    pub fn load(config: &RunConfig, folder: &Path, libtorch: Libtorch) -> Result<Self, TrainError> {
        let precision = precision(&config.model);
        Ok(match (&config.model.torchscript, config.model.init) {
            (Some(file), _) => Self::TorchScript(TorchScriptPolicy::open(file, libtorch)?),
            (None, Init::Pretrained) => Self::Native(Model::load(folder, libtorch, precision)?),
            (None, Init::Random) => Self::Native(Model::random(folder, libtorch, precision.kind, config.seed)?),
        })
    }

    /// Returns the model as a [`Scorer`].
    pub fn scorer(&self) -> &dyn Scorer {
        match self {
            Self::Native(model) => model,
            Self::TorchScript(script) => script,
        }
    }

    /// Returns the dtype of the weights.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Native(model) => model.kind(),
            Self::TorchScript(script) => script.kind(),
        }
    }
}

/// Returns how precisely the config holds the weights of models.
pub fn precision(model: &ModelSection) -> Precision {
    Precision { kind: model.dtype.into(), nf4: model.quantize == Some(Quantization::Nf4) }
}

impl TrainedPolicy {
    /// Builds the policy of the first step, or of the step after the checkpoint, from the weights that the run starts
    /// from; `dimensions` are those of a λ-adapter.
    ///
    /// # Errors
    ///
    /// Returns an error if the adapter does not fit the model, or the checkpoint is damaged.
    pub fn start(
        config: &RunConfig,
        folder: &Path,
        libtorch: Libtorch,
        base: TrainableModel,
        dimensions: Option<&[String]>,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Self, TrainError> {
        let model = match (base, checkpoint) {
            (TrainableModel::Native(mut base), _) if config.adapter.is_some() => {
                match (&config.adapter, checkpoint) {
                    (_, Some(checkpoint)) => base.load_adapter(&checkpoint.folder)?,
                    (Some(adapter), None) => base.add_lora(&lora(adapter, dimensions), config.seed)?,
                    (None, None) => {}
                }
                TrainableModel::Native(base)
            }
            (TrainableModel::Native(base), _) if base.is_quantized() && !base.has_adapter() => {
                return Err(TrainError::QuantizedWeights { folder: folder.to_path_buf() });
            }
            (base, None) => base,
            (base, Some(checkpoint)) => {
                let is_script = matches!(base, TrainableModel::TorchScript(_));
                drop(base); // Memory never holds two models.
                if is_script {
                    TrainableModel::TorchScript(TorchScriptPolicy::open(&checkpoint.folder, libtorch)?)
                } else {
                    TrainableModel::Native(Model::load(&checkpoint.folder, libtorch, precision(&config.model).kind)?)
                }
            }
        };
        if let TrainableModel::TorchScript(script) = &model {
            script.unfreeze()?;
        }
        let base_name = if config.model.path.is_dir() {
            std::path::absolute(&config.model.path)?
        } else {
            config.model.path.clone()
        };
        Ok(Self {
            model,
            source: folder.to_path_buf(),
            chat_template: config.data.chat_template.clone(),
            base_name: base_name.display().to_string(),
        })
    }

    /// Returns the parameters to train with their names, always in the same order.
    ///
    /// # Errors
    ///
    /// Errors from libtorch.
    pub fn trainable(&self) -> Result<Vec<(String, Tensor)>, TrainError> {
        Ok(match &self.model {
            TrainableModel::Native(model) => model.trainable(),
            TrainableModel::TorchScript(script) => script.named_parameters()?,
        })
    }

    /// Checks that every weight that is trained is a finite number after a step, before it is saved.
    ///
    /// # Errors
    ///
    /// Returns [`TrainError::WeightNotFinite`] with the first weight that is not. Errors from libtorch.
    pub fn check_finite(&self, step: u64) -> Result<(), TrainError> {
        for (name, weight) in self.trainable()? {
            if weight.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
                return Err(TrainError::WeightNotFinite { name, step, checkpoint: None });
            }
        }
        Ok(())
    }

    /// Returns which gradients of the loss a backward pass needs.
    pub fn wants(&self) -> Wants {
        match &self.model {
            TrainableModel::Native(model) => {
                Wants { hidden: true, lm_head: model.lm_head_trainable(), ..Wants::default() }
            }
            TrainableModel::TorchScript(_) => Wants { logits: true, ..Wants::default() },
        }
    }

    /// Runs a forward pass that can be followed by a backward pass.
    ///
    /// # Errors
    ///
    /// Errors from model or libtorch.
    pub fn forward(&self, micro_batch: &MicroBatch, options: &ForwardOptions) -> Result<Forward<'_>, TrainError> {
        match &self.model {
            TrainableModel::Native(model) => {
                Ok(Forward::Activations(model, model.forward(&micro_batch.model_inputs(), options)?))
            }
            TrainableModel::TorchScript(script) => tch::with_grad(|| logits(script, &micro_batch.batch)),
        }
    }

    /// Runs a forward pass without gradients.
    ///
    /// # Errors
    ///
    /// Errors from model or libtorch.
    pub fn evaluate(&self, micro_batch: &MicroBatch) -> Result<Forward<'_>, TrainError> {
        match &self.model {
            TrainableModel::Native(model) => Ok(Forward::Hidden(model, model.hidden(&micro_batch.model_inputs())?)),
            TrainableModel::TorchScript(script) => tch::no_grad(|| logits(script, &micro_batch.batch)),
        }
    }

    /// Saves the adapter if there is one (PEFT's format), else the whole model (Hugging Face's) or TorchScript module.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be written; `target` is unchanged then.
    pub fn save(&self, target: &Path) -> Result<(), TrainError> {
        let folder = atomic::Folder::create(target)?;
        match &self.model {
            TrainableModel::Native(model) if model.has_adapter() => {
                model.save_adapter(folder.path(), &self.base_name)?
            }
            TrainableModel::Native(model) => model.save(folder.path(), &self.source)?,
            TrainableModel::TorchScript(script) => {
                model::carry_files(&self.source, folder.path())?;
                atomic::write_with(&folder.path().join(SCRIPT_FILE), |file| script.save(file))?;
            }
        }
        if let Some(template) = &self.chat_template {
            model::write_chat_template(template, folder.path())?;
        }
        Ok(folder.commit()?)
    }
}

fn logits<'m>(script: &TorchScriptPolicy, batch: &Batch) -> Result<Forward<'m>, TrainError> {
    script.check_ids(&batch.input_ids)?;
    let graph = script.forward([&batch.input_ids, &batch.attention_mask, &batch.position_ids])?;
    Ok(Forward::Logits { logits: graph.f_detach()?, graph })
}

/// Returns the configuration of the adapter; `dimensions` are those of a λ-adapter.
pub(super) fn lora(adapter: &AdapterSection, dimensions: Option<&[String]>) -> LoraConfig {
    let rank = |rank: u64| i64::try_from(rank).unwrap_or(i64::MAX);
    LoraConfig {
        rank: rank(adapter.rank),
        alpha: adapter.lora_alpha(),
        dropout: adapter.dropout,
        use_rslora: false,
        target_modules: match &adapter.target_modules {
            TargetModules::AllLinear => model::TargetModules::AllLinear,
            TargetModules::Names(names) => model::TargetModules::Names(names.clone()),
        },
        lambda: dimensions.map(|dimensions| LambdaParts {
            dimensions: dimensions.to_vec(),
            rank: rank(adapter.rank_of_a_dimension()),
        }),
    }
}
