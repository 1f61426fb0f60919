//! The model that is trained: from where it is loaded, how it is saved.

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use crate::config::{AdapterSection, DType, Init, RunConfig, TargetModules};
use crate::files::atomic;
use crate::libtorch::script::SCRIPT_FILE;
use crate::model::{self, ForwardOptions, LambdaParts, LoraConfig, Model};
use crate::plugin::{Batch, Wants};
use crate::policy::{LogitsPolicy, Scorer, TorchScriptPolicy};

use super::TrainError;
use super::data::MicroBatch;
use super::durable::Checkpoint;
use super::forward::Forward;
use super::reference::{model_key, policy_key};

/// What is trained.
#[expect(clippy::large_enum_variant, reason = "there is one in a run")]
pub enum Learned {
    /// A model that this program computes.
    Model(Model),
    /// A module that libtorch runs.
    Script(TorchScriptPolicy),
}

/// What is trained, with what saving it needs.
pub struct Policy {
    /// The model or module.
    pub learned: Learned,
    /// The folder of `model.path`: tokenizer files are copied from it.
    source: PathBuf,
    /// A chat template that takes the place of the tokenizer's own, and goes where the model goes.
    chat_template: Option<PathBuf>,
    /// What an adapter calls its base.
    base_name: String,
}

/// Loads the weights that a run starts from, without any adapter.
///
/// # Errors
///
/// The folder lacks something or its architecture is not supported; the module is none.
pub fn load_base(config: &RunConfig, folder: &Path, device: Device) -> Result<Learned, TrainError> {
    Ok(match (&config.model.torchscript, config.model.init) {
        (Some(file), _) => Learned::Script(TorchScriptPolicy::open(file, device)?),
        (None, Init::Pretrained) => Learned::Model(Model::load(folder, device, kind(config))?),
        (None, Init::Random) => Learned::Model(Model::random(folder, device, kind(config), config.seed)?),
    })
}

impl Learned {
    /// As what gives log-probs.
    pub fn scorer(&self) -> &dyn Scorer {
        match self {
            Self::Model(model) => model,
            Self::Script(script) => script,
        }
    }

    /// Dtype of the weights.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Model(model) => model.kind(),
            Self::Script(script) => script.kind(),
        }
    }

    /// Hash of all that log-probs depend on; `folder` is that of `config.json`.
    ///
    /// # Errors
    ///
    /// A file that cannot be read.
    pub fn key(&self, folder: &Path) -> Result<blake3::Hash, TrainError> {
        match self {
            Self::Model(model) => model_key(model, folder),
            Self::Script(script) => policy_key(script),
        }
    }

    fn device(&self) -> Device {
        match self {
            Self::Model(model) => model.device(),
            Self::Script(script) => script.device(),
        }
    }
}

/// The dtype of weights and forward.
pub fn kind(config: &RunConfig) -> Kind {
    match config.model.dtype {
        DType::Float32 => Kind::Float,
        DType::BFloat16 => Kind::BFloat16,
    }
}

impl Policy {
    /// What step 1 (or the step after the checkpoint) starts from; `base` is what [`load_base`] gave, `dimensions` are those of
    /// a λ-adapter.
    ///
    /// # Errors
    ///
    /// An adapter that does not fit; a damaged checkpoint.
    pub fn start(
        config: &RunConfig,
        folder: &Path,
        base: Learned,
        dimensions: Option<&[String]>,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Self, TrainError> {
        let learned = match (base, checkpoint) {
            (Learned::Model(mut base), _) if config.adapter.is_some() => {
                match (&config.adapter, checkpoint) {
                    (_, Some(checkpoint)) => base.load_adapter(&checkpoint.folder)?,
                    (Some(adapter), None) => base.add_lora(&lora(adapter, dimensions), config.seed)?,
                    (None, None) => {}
                }
                Learned::Model(base)
            }
            (base, None) => base,
            (base, Some(checkpoint)) => {
                let device = base.device();
                let is_script = matches!(base, Learned::Script(_));
                drop(base); // Never two of them.
                if is_script {
                    Learned::Script(TorchScriptPolicy::open(&checkpoint.folder, device)?)
                } else {
                    Learned::Model(Model::load(&checkpoint.folder, device, kind(config))?)
                }
            }
        };
        if let Learned::Script(script) = &learned {
            script.unfreeze()?;
        }
        let base_name = if config.model.path.is_dir() {
            std::path::absolute(&config.model.path)?
        } else {
            config.model.path.clone()
        };
        Ok(Self {
            learned,
            source: folder.to_path_buf(),
            chat_template: config.data.chat_template.clone(),
            base_name: base_name.display().to_string(),
        })
    }

    /// The parameters to train, with their names, always in the same order.
    ///
    /// # Errors
    ///
    /// What libtorch refuses.
    pub fn trainable(&self) -> Result<Vec<(String, Tensor)>, TrainError> {
        Ok(match &self.learned {
            Learned::Model(model) => model.trainable(),
            Learned::Script(script) => script.named_parameters()?,
        })
    }

    /// The gradients that a backward needs of the loss.
    pub fn wants(&self) -> Wants {
        match &self.learned {
            Learned::Model(model) => Wants { hidden: true, lm_head: model.lm_head_trainable(), ..Wants::default() },
            Learned::Script(_) => Wants { logits: true, ..Wants::default() },
        }
    }

    /// A forward pass that a backward can follow.
    ///
    /// # Errors
    ///
    /// What model or libtorch refuse.
    pub fn forward(&self, micro_batch: &MicroBatch, options: &ForwardOptions) -> Result<Forward<'_>, TrainError> {
        match &self.learned {
            Learned::Model(model) => {
                Ok(Forward::Activations(model, model.forward(&micro_batch.model_inputs(), options)?))
            }
            Learned::Script(script) => tch::with_grad(|| logits(script, &micro_batch.batch)),
        }
    }

    /// A forward pass without a graph.
    ///
    /// # Errors
    ///
    /// What model or libtorch refuse.
    pub fn evaluate(&self, micro_batch: &MicroBatch) -> Result<Forward<'_>, TrainError> {
        match &self.learned {
            Learned::Model(model) => Ok(Forward::Hidden(model, model.hidden(&micro_batch.model_inputs())?)),
            Learned::Script(script) => tch::no_grad(|| logits(script, &micro_batch.batch)),
        }
    }

    /// Writes the adapter where there is one (PEFT's form), else the whole model (Hugging Face's) or module.
    ///
    /// # Errors
    ///
    /// The disk refuses; what stood at `target` then still does.
    pub fn save(&self, target: &Path) -> Result<(), TrainError> {
        let folder = atomic::Folder::create(target)?;
        match &self.learned {
            Learned::Model(model) if model.has_adapter() => model.save_adapter(folder.path(), &self.base_name)?,
            Learned::Model(model) => model.save(folder.path(), &self.source)?,
            Learned::Script(script) => {
                model::carry_files(&self.source, folder.path())?;
                script.save(&folder.path().join(SCRIPT_FILE))?;
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

fn lora(adapter: &AdapterSection, dimensions: Option<&[String]>) -> LoraConfig {
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
