//! What a run needs before it has data and a model: device, plugin, model folder, cache and loss options.

use std::path::{Path, PathBuf};

use tch::Device;

use crate::config::{RunConfig, Stage};
use crate::files::cache_folder::CacheFolder;
use crate::files::hub::Hub;
use crate::libtorch;
use crate::model::ModelConfig;
use crate::plugin::{LossOptions, Objective, Plugin};

use super::TrainError;
use super::durable::{Checkpoint, Interrupt};

/// What a run needs before it has data and a model.
pub(super) struct Setup<'a> {
    pub(super) config: &'a RunConfig,
    /// Checkpoint to resume from; None starts at the first step.
    pub(super) checkpoint: Option<&'a Checkpoint>,
    pub(super) interrupt: &'a Interrupt,
    pub(super) device: Device,
    pub(super) plugin: Plugin,
    pub(super) hub: Hub,
    /// None if the environment names no folder for it.
    pub(super) cache: Option<CacheFolder>,
    /// Local folder of `model.path`.
    pub(super) model_folder: PathBuf,
    pub(super) loss: LossOptions,
}

impl<'a> Setup<'a> {
    pub(super) fn new(
        config: &'a RunConfig,
        plugin: Option<&Path>,
        checkpoint: Option<&'a Checkpoint>,
        interrupt: &'a Interrupt,
    ) -> Result<Self, TrainError> {
        if config.train.deterministic {
            // Before CUDA starts.
            libtorch::use_deterministic_algorithms()?;
        }
        let device = libtorch::prepare(&config.model.device)?;
        if let Some(checkpoint) = checkpoint {
            libtorch::set_num_threads(checkpoint.state.num_threads);
        }
        let plugin = Plugin::load(plugin)?;
        let hub = Hub::from_env();
        let cache = CacheFolder::from_env();
        let model_folder = hub.model_folder(&config.model.path)?;
        // Rejects an unsupported architecture now instead of after hours of tokenising.
        if config.model.torchscript.is_none() {
            ModelConfig::load(&model_folder)?;
        }
        let loss = loss_options(config);
        Ok(Self { config, checkpoint, interrupt, device, plugin, hub, cache, model_folder, loss })
    }
}

fn loss_options(config: &RunConfig) -> LossOptions {
    let loss = &config.loss;
    LossOptions {
        objective: if config.stage == Stage::Sft { Objective::Sft } else { Objective::Listwise },
        reduction: loss.reduction,
        beta: loss.beta,
        logits_budget_bytes: usize::try_from(loss.logits_budget_mib << 20).unwrap_or(usize::MAX),
        paper_exact: loss.paper_exact,
        ..LossOptions::default()
    }
}
