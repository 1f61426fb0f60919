//! The model that is trained: from where it is loaded, how it is saved.

use std::path::{Path, PathBuf};

use tch::{Device, Kind};

use crate::atomic;
use crate::config::{AdapterSection, DType, Init, RunConfig, TargetModules};
use crate::model::{self, LambdaParts, LoraConfig, Model, ModelError};

use super::TrainError;
use super::checkpoint::Checkpoint;

/// A model with what saving it needs.
pub struct Policy {
    /// The model.
    pub model: Model,
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
/// The folder lacks something or its architecture is not supported.
pub fn load_base(config: &RunConfig, folder: &Path, device: Device) -> Result<Model, ModelError> {
    match config.model.init {
        Init::Pretrained => Model::load(folder, device, kind(config)),
        Init::Random => Model::random(folder, device, kind(config), config.seed),
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
        mut base: Model,
        dimensions: Option<&[String]>,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Self, TrainError> {
        match (&config.adapter, checkpoint) {
            (Some(adapter), None) => base.add_lora(&lora(adapter, dimensions), config.seed)?,
            (Some(_), Some(checkpoint)) => base.load_adapter(&checkpoint.folder)?,
            (None, None) => {}
            (None, Some(checkpoint)) => {
                let device = base.device();
                drop(base); // Never two of them.
                base = Model::load(&checkpoint.folder, device, kind(config))?;
            }
        }
        let base_name = if config.model.path.is_dir() {
            std::path::absolute(&config.model.path)?
        } else {
            config.model.path.clone()
        };
        Ok(Self {
            model: base,
            source: folder.to_path_buf(),
            chat_template: config.data.chat_template.clone(),
            base_name: base_name.display().to_string(),
        })
    }

    /// Writes the adapter where there is one (PEFT's form), else the whole model (Hugging Face's).
    ///
    /// # Errors
    ///
    /// The disk refuses; what stood at `target` then still does.
    pub fn save(&self, target: &Path) -> Result<(), TrainError> {
        let folder = atomic::Folder::create(target)?;
        if self.model.has_adapter() {
            self.model.save_adapter(folder.path(), &self.base_name)?;
        } else {
            self.model.save(folder.path(), &self.source)?;
        }
        if let Some(template) = &self.chat_template {
            model::write_chat_template(template, folder.path())?;
        }
        Ok(folder.commit()?)
    }
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
