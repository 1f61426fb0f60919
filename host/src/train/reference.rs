//! Reference log-probs: computed once before training, held per response.

use tch::{Device, Kind, Tensor};

use crate::model::{Model, ModelInputs};
use crate::plugin::{Batch, LossInputs, LossOptions, Plugin};

use super::TrainError;
use super::batches::MicroBatch;

/// s^ref of every response of a dataset that was asked for.
#[derive(Debug, Default)]
pub struct ReferenceLogProbs {
    /// By sample and response, the response counted before any were dropped; NaN where there is none.
    by_sample: Vec<Vec<f32>>,
}

impl ReferenceLogProbs {
    /// Room for a dataset of `num_samples`.
    pub fn new(num_samples: usize) -> Self {
        Self { by_sample: vec![Vec::new(); num_samples] }
    }

    /// Runs `model` over a micro-batch and keeps its sequence log-probs.
    ///
    /// # Errors
    ///
    /// What model, plugin or libtorch refuse.
    pub fn compute(
        &mut self,
        model: &Model,
        plugin: &Plugin,
        micro_batch: &MicroBatch,
        options: &LossOptions,
    ) -> Result<(), TrainError> {
        let sequence = sequence_log_probs(model, plugin, &micro_batch.batch, options)?;
        let sequence: Vec<f32> = Vec::try_from(sequence.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?)?;
        for (place, log_prob) in places(micro_batch)?.into_iter().zip(sequence) {
            let (sample, response) = place;
            let responses = &mut self.by_sample[sample];
            if responses.len() <= response {
                responses.resize(response + 1, f32::NAN);
            }
            responses[response] = log_prob;
        }
        Ok(())
    }

    /// s^ref `[S]` of a micro-batch.
    ///
    /// # Errors
    ///
    /// What libtorch refuses.
    pub fn of(&self, micro_batch: &MicroBatch) -> Result<Tensor, TrainError> {
        let log_prob =
            |(sample, response): (usize, usize)| self.by_sample[sample].get(response).copied().unwrap_or(f32::NAN);
        let values: Vec<f32> = places(micro_batch)?.into_iter().map(log_prob).collect();
        Ok(Tensor::f_from_slice(&values)?)
    }
}

/// (sample, response) of every sequence `[S]`; in the expanded layout several sequences share one.
fn places(micro_batch: &MicroBatch) -> Result<Vec<(usize, usize)>, TrainError> {
    let indices = |tensor: &Tensor| -> Result<Vec<i64>, TrainError> { Ok(Vec::try_from(tensor)?) };
    let prompts = indices(&micro_batch.batch.sequence_prompts)?;
    let responses = indices(&micro_batch.batch.sequence_responses)?;
    let place = |(prompt, response): (i64, i64)| (micro_batch.samples[prompt as usize], response as usize);
    Ok(prompts.into_iter().zip(responses).map(place).collect())
}

/// Sequence log-probs `[S]` of a batch, without gradients.
///
/// # Errors
///
/// What model, plugin or libtorch refuse.
pub fn sequence_log_probs(
    model: &Model,
    plugin: &Plugin,
    batch: &Batch,
    options: &LossOptions,
) -> Result<Tensor, TrainError> {
    let hidden = model.hidden(&model_inputs(batch))?;
    let inputs = LossInputs { hidden: Some(&hidden), lm_head: Some(model.lm_head()), ..targets(batch) };
    let (_, sequence) = plugin.log_probs(&inputs, options)?;
    Ok(sequence)
}

/// What the model reads of a batch.
pub fn model_inputs(batch: &Batch) -> ModelInputs<'_> {
    ModelInputs {
        input_ids: &batch.input_ids,
        position_ids: &batch.position_ids,
        prompt_ids: &batch.prompt_ids,
        sequence_ids: &batch.sequence_ids,
    }
}

/// What the log-probs read of a batch.
pub fn targets(batch: &Batch) -> LossInputs<'_> {
    LossInputs {
        target_positions: Some(&batch.target_positions),
        target_ids: Some(&batch.target_ids),
        target_sequences: Some(&batch.target_sequences),
        num_sequences: batch.sequence_num_tokens.numel() as i64,
        ..LossInputs::default()
    }
}
