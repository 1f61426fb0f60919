//! One optimiser step: forward, loss, backward, clip, update.

use crate::metrics::{MetricOptions, Totals};
use crate::model::ForwardOptions;
use crate::model::random::split_mix64;
use crate::plugin::{LossOptions, Objective, Plugin, Wants};

use super::TrainError;
use super::data::MicroBatch;
use super::optimizer::{AdamW, clip_scale};
use super::policy::Policy;
use super::reference::ReferenceLogProbs;

/// What a step works on.
pub struct Learner {
    /// The policy.
    pub policy: Policy,
    /// Over its trainable parameters.
    pub optimizer: AdamW,
    /// What computes the loss.
    pub plugin: Plugin,
    /// Objective, reduction, β, gradients wanted; the normaliser is the step's own.
    pub loss: LossOptions,
    /// How outputs become metrics.
    pub metric_options: MetricOptions,
    /// Gradients are scaled down to this norm; 0 is off.
    pub max_grad_norm: f64,
    /// Recompute activations in the backward.
    pub checkpointing: bool,
    /// Seeds dropout together with the step; None where there is none.
    pub dropout_seed: Option<u64>,
}

/// What a step tells.
#[derive(Debug)]
pub struct StepReport {
    /// Sums over its micro-batches.
    pub totals: Totals,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
}

impl Learner {
    /// Accumulates the gradient of `micro_batches`, clips it, and updates the weights once.
    ///
    /// The loss is a mean over the whole step, so 4 prompts at once and 4 times one give the same update.
    ///
    /// # Errors
    ///
    /// [`TrainError::NotFinite`] before any weight changes, where loss or gradient is NaN or infinite; what model, plugin or
    /// libtorch refuse.
    pub fn step(
        &mut self,
        step: u64,
        learning_rate: f64,
        micro_batches: &[MicroBatch],
        reference: Option<&ReferenceLogProbs>,
    ) -> Result<StepReport, TrainError> {
        let options = LossOptions { normalizer: Some(normalizer(self.loss.objective, micro_batches)), ..self.loss };
        let mut totals = Totals::default();

        for (index, micro_batch) in micro_batches.iter().enumerate() {
            let batch = &micro_batch.batch;
            let forward_options = ForwardOptions {
                checkpointing: self.checkpointing,
                dropout_seed: self.dropout_seed.map(|seed| dropout_seed(seed, step, index as u64)),
            };
            let forward = self.policy.forward(micro_batch, &forward_options)?;
            let reference = reference.map(|reference| reference.of(micro_batch)).transpose()?;
            let inputs = forward.loss_inputs(batch, reference.as_ref());

            let (outputs, context) = self.plugin.loss_forward(&inputs, &options)?;
            totals.add(&outputs, batch, &self.metric_options)?;
            ensure_finite("loss", totals.loss, step, micro_batches)?;

            let Some(context) = context else { continue };
            let gradients = context.backward(&inputs, 1.0)?;
            forward.backward(gradients)?;
        }

        let grad_norm = self.optimizer.grad_norm()?;
        ensure_finite("gradient", grad_norm, step, micro_batches)?;
        self.optimizer.step(learning_rate, clip_scale(grad_norm, self.max_grad_norm))?;
        Ok(StepReport { totals, grad_norm })
    }

    /// Adds the loss of a held-out batch, summed over its prompts or target tokens, and its metrics to `totals`.
    ///
    /// # Errors
    ///
    /// What model, plugin or libtorch refuse.
    pub fn evaluate(
        &self,
        micro_batch: &MicroBatch,
        reference: Option<&ReferenceLogProbs>,
        totals: &mut Totals,
    ) -> Result<(), TrainError> {
        let forward = self.policy.evaluate(micro_batch)?;
        let reference = reference.map(|reference| reference.of(micro_batch)).transpose()?;
        let inputs = forward.loss_inputs(&micro_batch.batch, reference.as_ref());
        // Sums: the caller divides by the count of the whole evaluation.
        let options = LossOptions { normalizer: Some(1.0), wants: Wants::default(), ..self.loss };
        let (outputs, _) = self.plugin.loss_forward(&inputs, &options)?;
        totals.add(&outputs, &micro_batch.batch, &self.metric_options)?;
        Ok(())
    }
}

/// What the loss of a step is a mean over; never 0.
fn normalizer(objective: Objective, micro_batches: &[MicroBatch]) -> f64 {
    let total: u64 = micro_batches.iter().map(|micro_batch| count(objective, micro_batch)).sum();
    total.max(1) as f64
}

/// A micro-batch's share of the normaliser: its contributing prompts, or its target tokens (sft).
pub fn count(objective: Objective, micro_batch: &MicroBatch) -> u64 {
    match objective {
        Objective::Listwise => micro_batch.batch.num_contributing,
        Objective::Sft => micro_batch.batch.target_ids.numel() as u64,
    }
}

fn ensure_finite(what: &'static str, value: f64, step: u64, micro_batches: &[MicroBatch]) -> Result<(), TrainError> {
    if value.is_finite() {
        return Ok(());
    }
    let mut records = Vec::new();
    for micro_batch in micro_batches {
        records.extend(Vec::<i64>::try_from(&micro_batch.batch.record_indices)?);
    }
    Err(TrainError::NotFinite { what, value, step: step + 1, records, checkpoint: None })
}

/// A separate dropout seed for each micro-batch of each step.
fn dropout_seed(seed: u64, step: u64, micro_batch: u64) -> i64 {
    let mixed = split_mix64(split_mix64(seed ^ step) ^ micro_batch);
    // libtorch's seeds are signed, so one bit is dropped.
    (mixed >> 1) as i64
}
