//! Builds the learner of a run: policy, optimiser and loss options, for the first step or from a checkpoint.

use crate::console::say;
use crate::metrics::MetricOptions;
use crate::plugin::LossOptions;

use super::TrainError;
use super::optimizer::AdamW;
use super::setup::Setup;
use super::step::Learner;
use super::trained_policy::{TrainableModel, TrainedPolicy};

/// Builds the learner from the weights that the run starts from; `adapter_dimensions` are those of a λ-adapter.
pub(super) fn start(
    setup: &Setup,
    model: TrainableModel,
    adapter_dimensions: Option<&[String]>,
    has_reference: bool,
) -> Result<Learner, TrainError> {
    let Setup { config, checkpoint, libtorch, loss, .. } = *setup;
    let policy = TrainedPolicy::start(config, &setup.model_folder, libtorch, model, adapter_dimensions, checkpoint)?;
    let mut optimizer = AdamW::new(policy.trainable()?, (&config.train).into())?;
    if let Some(checkpoint) = checkpoint {
        checkpoint.load_optimizer(&mut optimizer)?;
        say(&format!("resuming from {} after step {}", checkpoint.folder.display(), checkpoint.state.global_step));
    }
    let wants = policy.wants();
    Ok(Learner {
        policy,
        optimizer,
        plugin: setup.plugin.clone(),
        loss: LossOptions { wants, ..loss },
        metric_options: MetricOptions { beta: loss.beta, reduction: loss.reduction, has_reference },
        max_grad_norm: config.train.max_grad_norm,
        checkpointing: config.train.gradient_checkpointing,
        dropout_seed: config.adapter.as_ref().filter(|adapter| adapter.dropout > 0.0).map(|_| config.seed),
    })
}
