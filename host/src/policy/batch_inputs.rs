//! Inputs of model, log-probs and loss, taken from a [`Batch`].

use tch::Tensor;

use crate::model::{Model, ModelInputs};
use crate::plugin::{Batch, LossInputs, LossOptions, Plugin};

use super::PolicyError;

/// Returns the λ that weighs all dimensions equally.
pub fn uniform_lambda(num_dimensions: usize) -> Vec<f64> {
    let weight = 1.0 / num_dimensions as f64;
    vec![weight; num_dimensions]
}

/// Computes token log-probs `[K]` and sequence log-probs `[S]` of a batch, without gradients.
///
/// # Errors
///
/// Errors from model, plugin or libtorch.
pub fn log_probs(
    model: &Model,
    plugin: &Plugin,
    batch: &Batch,
    options: &LossOptions,
) -> Result<(Tensor, Tensor), PolicyError> {
    let hidden = model.hidden(&model_inputs(batch))?;
    let inputs = LossInputs { hidden: Some(&hidden), lm_head: Some(model.lm_head()), ..targets(batch) };
    Ok(plugin.log_probs(&inputs, options)?)
}

/// Returns the model's inputs.
pub fn model_inputs(batch: &Batch) -> ModelInputs<'_> {
    ModelInputs {
        input_ids: &batch.input_ids,
        position_ids: &batch.position_ids,
        prompt_ids: &batch.prompt_ids,
        sequence_ids: &batch.sequence_ids,
        lambda: Some(&batch.lambda),
    }
}

/// Returns the inputs of the log-probs, without the policy's outputs.
pub fn targets(batch: &Batch) -> LossInputs<'_> {
    LossInputs {
        target_positions: Some(&batch.target_positions),
        target_ids: Some(&batch.target_ids),
        target_sequences: Some(&batch.target_sequences),
        num_sequences: batch.sequence_num_tokens.numel() as i64,
        ..LossInputs::default()
    }
}

/// Returns the inputs of the loss over hidden states.
pub fn loss_inputs<'a>(
    batch: &'a Batch,
    hidden: &'a Tensor,
    lm_head: &'a Tensor,
    reference: Option<&'a Tensor>,
) -> LossInputs<'a> {
    LossInputs { hidden: Some(hidden), lm_head: Some(lm_head), ..targets_and_weights(batch, reference) }
}

/// Returns the inputs of the loss, without the policy's outputs.
pub fn targets_and_weights<'a>(batch: &'a Batch, reference: Option<&'a Tensor>) -> LossInputs<'a> {
    LossInputs {
        reference_log_probs: reference,
        prompt_offsets: Some(&batch.prompt_offsets),
        sequence_index: Some(&batch.sequence_index),
        pi_target: Some(&batch.pi_target),
        target_mask: Some(&batch.target_mask),
        ranks: Some(&batch.ranks),
        lambda: Some(&batch.lambda),
        ..targets(batch)
    }
}
