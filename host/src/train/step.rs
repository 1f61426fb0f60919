//! One optimiser step: forward, loss, backward, clip, update.

use crate::metrics::{MetricOptions, Totals};
use crate::model::ForwardOptions;
use crate::model::random::split_mix64;
use crate::plugin::{LossOptions, Objective, Plugin, Wants};

use super::TrainError;
use super::data::MicroBatch;
use super::optimizer::{AdamW, clip_scale};
use super::reference::ReferenceLogProbs;
use super::trained_policy::TrainedPolicy;

/// Policy with everything that a step needs.
pub struct Learner {
    /// The policy.
    pub policy: TrainedPolicy,
    /// Optimiser of its trainable parameters.
    pub optimizer: AdamW,
    /// Computes the loss.
    pub plugin: Plugin,
    /// Objective, reduction, β, and the gradients needed; each step sets its own normaliser.
    pub loss: LossOptions,
    /// How metrics are computed from the loss's outputs.
    pub metric_options: MetricOptions,
    /// Norm to which gradients are clipped; 0 switches clipping off.
    pub max_grad_norm: f64,
    /// Whether activations are recomputed in the backward pass.
    pub checkpointing: bool,
    /// Seed of dropout, combined with the step; None without dropout.
    pub dropout_seed: Option<u64>,
}

/// Result of one optimiser step.
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
    /// The loss is a mean over the whole step, so one micro-batch of 4 prompts and 4 of one prompt give the same
    /// update.
    ///
    /// # Errors
    ///
    /// Returns [`TrainError::NotFinite`], before any weight changes, if loss or gradient is NaN or infinite. Errors
    /// from model, plugin or libtorch.
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
            if micro_batches.len() > 1 {
                self.optimizer.accumulate()?;
            }
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
    /// Errors from model, plugin or libtorch.
    pub fn evaluate(
        &self,
        micro_batch: &MicroBatch,
        reference: Option<&ReferenceLogProbs>,
        totals: &mut Totals,
    ) -> Result<(), TrainError> {
        let forward = self.policy.evaluate(micro_batch)?;
        let reference = reference.map(|reference| reference.of(micro_batch)).transpose()?;
        let inputs = forward.loss_inputs(&micro_batch.batch, reference.as_ref());
        // Sums, which the caller divides by the number of terms of the whole evaluation.
        let options = LossOptions { normalizer: Some(1.0), wants: Wants::default(), ..self.loss };
        let (outputs, _) = self.plugin.loss_forward(&inputs, &options)?;
        totals.add(&outputs, &micro_batch.batch, &self.metric_options)?;
        Ok(())
    }
}

/// Returns the number of terms that the loss of a step is a mean over; at least 1.
fn normalizer(objective: Objective, micro_batches: &[MicroBatch]) -> f64 {
    let total: u64 = micro_batches.iter().map(|micro_batch| num_terms(objective, micro_batch)).sum();
    total.max(1) as f64
}

/// Returns the number of terms of a micro-batch's loss: its contributing prompts, or its target tokens (sft).
pub fn num_terms(objective: Objective, micro_batch: &MicroBatch) -> u64 {
    if objective.has_preferences() {
        micro_batch.batch.num_contributing
    } else {
        micro_batch.batch.target_ids.numel() as u64
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
