//! What a run needs before it has data and a model: device, plugin, model folder, cache and loss options.

use std::path::{Path, PathBuf};

use crate::config::RunConfig;
use crate::console::say;
use crate::files::cache_folder::CacheFolder;
use crate::files::hub::Hub;
use crate::interrupt::Interrupt;
use crate::libtorch::{self, Libtorch};
use crate::model::ModelConfig;
use crate::plugin::{LossOptions, Plugin};

use super::TrainError;
use super::durable::Checkpoint;

/// What a run needs before it has data and a model.
pub(super) struct Setup<'a> {
    pub(super) config: &'a RunConfig,
    /// Checkpoint to resume from; None starts at the first step.
    pub(super) checkpoint: Option<&'a Checkpoint>,
    pub(super) interrupt: &'a Interrupt,
    pub(super) libtorch: Libtorch,
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
        let libtorch = libtorch::prepare(&config.model.device)?;
        libtorch.allow_tf32(config.model.tf32)?;
        if let Some(notice) = libtorch.float32_notice(&config.model.device, config.model.dtype.into()) {
            say(&notice);
        }
        if let Some(checkpoint) = checkpoint {
            libtorch::set_num_threads(checkpoint.state.num_threads);
        }
        let plugin = Plugin::load(plugin)?;
        let hub = Hub::from_env();
        let cache = CacheFolder::from_env();
        let model_folder = hub.model_folder(&config.model.path)?;
        // Rejects what cannot be trained now instead of after hours of tokenising.
        if config.model.torchscript.is_none() {
            let model = ModelConfig::load(&model_folder)?;
            if model.is_nf4 && config.adapter.is_none() {
                return Err(TrainError::QuantizedWeights { folder: model_folder });
            }
        }
        let loss = loss_options(config, libtorch);
        if let Some(notice) = beta_notice(&loss) {
            say(&notice);
        }
        Ok(Self { config, checkpoint, interrupt, libtorch, plugin, hub, cache, model_folder, loss })
    }
}

fn loss_options(config: &RunConfig, libtorch: Libtorch) -> LossOptions {
    let loss = &config.loss;
    let free_bytes = libtorch::free_device_memory_bytes(libtorch.device());
    LossOptions {
        objective: config.objective(),
        reduction: config.reduction(),
        beta: loss.beta,
        label_smoothing: loss.label_smoothing,
        simpo_gamma: config.simpo_gamma(),
        sft_weight: loss.sft_weight,
        logits_budget_bytes: logits_budget_bytes(loss.logits_budget_mib, free_bytes),
        paper_exact: loss.paper_exact,
        ..LossOptions::default()
    }
}

/// A β this many times outside of the usual range is a typing error, or β of another loss.
const FAR_OUTSIDE: f64 = 10.0;

/// Returns a notice if β is far from what its loss usually has.
fn beta_notice(loss: &LossOptions) -> Option<String> {
    let range = loss.objective.beta_range(loss.reduction)?;
    let (low, high) = (*range.start(), *range.end());
    let usual = low / FAR_OUTSIDE..=high * FAR_OUTSIDE;
    (!usual.contains(&loss.beta)).then(|| {
        format!(
            "loss.beta = {} is far outside of {low} to {high}, which is usual for loss.kind = \"{}\" with loss.reduction = \
             \"{}\"",
            loss.beta, loss.objective, loss.reduction
        )
    })
}

/// Returns the memory of logits at any time: what the config says, and otherwise what suits the device.
///
/// A chunk of logits reads the whole LM head, so on a GPU a larger one is better: 1/32 of the memory that is free
/// before the model is loaded, rounded down to a power of two, so that it does not depend on small differences. It is
/// never less than the default of the plugin, which is that of the CPU.
pub(super) fn logits_budget_bytes(configured_mib: Option<u64>, free_device_bytes: Option<u64>) -> usize {
    let default = LossOptions::default().logits_budget_bytes;
    match (configured_mib, free_device_bytes) {
        (Some(mib), _) => usize::try_from(mib.saturating_mul(1 << 20)).unwrap_or(usize::MAX),
        (None, Some(free)) => usize::try_from(free / 32).map_or(default, |share| prev_power_of_two(share).max(default)),
        (None, None) => default,
    }
}

fn prev_power_of_two(number: usize) -> usize {
    number.checked_ilog2().map_or(0, |exponent| 1 << exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_that_nobody_set_follows_the_device() {
        const MIB: usize = 1 << 20;
        let bytes = |mib: u64| Some(mib << 20);
        assert_eq!(logits_budget_bytes(None, None), 256 * MIB, "the CPU's");
        assert_eq!(logits_budget_bytes(None, bytes(80_000)), 2048 * MIB);
        assert_eq!(logits_budget_bytes(None, bytes(79_000)), 2048 * MIB, "not another for a little less memory");
        assert_eq!(logits_budget_bytes(None, bytes(24_000)), 512 * MIB);
        assert_eq!(logits_budget_bytes(None, bytes(4_000)), 256 * MIB);
        assert_eq!(logits_budget_bytes(Some(64), bytes(80_000)), 64 * MIB, "the user's");
        assert_eq!(logits_budget_bytes(Some(u64::MAX), None), usize::MAX);
    }
}
