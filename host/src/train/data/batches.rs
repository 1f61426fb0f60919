//! Samples and λ → collated micro-batches.

use std::cmp::Reverse;

use tch::{Kind, Tensor};

use crate::model::ModelInputs;
use crate::plugin::{Batch, CollateOptions, Dataset, PREFETCH_CAPACITY, PluginError};
use crate::policy::batch_inputs::model_inputs;

use super::lambda::LambdaSource;
use super::order::{EpochOrder, Plan};

/// A micro-batch with what it was made of.
#[derive(Debug)]
pub struct MicroBatch {
    /// The tensors, on the CPU.
    pub batch: Batch,
    /// Positions in the dataset.
    pub samples: Vec<usize>,
    /// λ `[B, M]` as drawn, before any renormalisation.
    pub lambda: Vec<f64>,
    /// λ `[B, M]` that a λ-adapter sees where the loss has none (sft, dpo); None is that of the batch.
    pub adapter_lambda: Option<Tensor>,
}

impl MicroBatch {
    /// What the model reads of it.
    pub fn model_inputs(&self) -> ModelInputs<'_> {
        let inputs = model_inputs(&self.batch);
        ModelInputs { lambda: self.adapter_lambda.as_ref().or(inputs.lambda), ..inputs }
    }

    /// Tokens of its rows, padding aside.
    ///
    /// # Errors
    ///
    /// What libtorch refuses.
    pub fn num_tokens(&self) -> Result<i64, tch::TchError> {
        self.batch.attention_mask.f_sum(tch::Kind::Int64)?.f_int64_value(&[])
    }
}

/// The training side of a run's data.
#[derive(Debug)]
pub struct TrainBatches<'a> {
    /// All samples.
    pub dataset: &'a Dataset,
    /// Those to train on.
    pub samples: Vec<usize>,
    /// Where λ comes from.
    pub lambda: LambdaSource,
    /// Where the λ comes from that a λ-adapter sees and the loss does not have.
    pub adapter_lambda: Option<LambdaSource>,
    /// Layout and padding.
    pub collate: CollateOptions,
    /// Steps and micro-batches.
    pub plan: Plan,
    /// The order of one epoch at a time.
    pub order: EpochOrder,
}

impl TrainBatches<'_> {
    /// The samples of each micro-batch of an optimiser step (from 0): a pure function of the step.
    ///
    /// Which samples form the step is the order's to say; among its micro-batches they are shared out by length, the
    /// longest first, so that rows of similar length stand together. The loss is a mean over the step either way.
    pub fn samples_of(&self, step: u64) -> Vec<Vec<usize>> {
        let epoch = self.plan.epoch_of(step);
        let mut samples: Vec<usize> = self.order.with(epoch, |order| {
            order[self.plan.positions(step)].iter().map(|position| self.samples[*position]).collect()
        });
        sort_by_length(self.dataset, &mut samples);
        samples.chunks(self.plan.batch_size).map(<[usize]>::to_vec).collect()
    }

    /// The micro-batches of an optimiser step (from 0): a pure function of the step.
    ///
    /// # Errors
    ///
    /// What the plugin refuses.
    pub fn step(&self, step: u64) -> Result<Vec<MicroBatch>, PluginError> {
        let micro_batches = self.samples_of(step).into_iter().map(|samples| {
            let lambda = self.lambda_of(&self.lambda, step, &samples)?;
            let batch = self.dataset.batch(&samples, &lambda, &self.collate)?;
            let shown =
                self.adapter_lambda.as_ref().map(|source| self.lambda_of(source, step, &samples)).transpose()?;
            let adapter_lambda = shown.map(|shown| rows(&shown, samples.len()));
            Ok(MicroBatch { batch, samples, lambda, adapter_lambda })
        });
        micro_batches.collect()
    }

    /// Has the micro-batches of a step collated while the model works on an earlier one.
    ///
    /// # Errors
    ///
    /// What the plugin refuses.
    pub fn prefetch(&self, step: u64) -> Result<(), PluginError> {
        for samples in self.samples_of(step).iter().take(PREFETCH_CAPACITY) {
            let lambda = self.lambda_of(&self.lambda, step, samples)?;
            self.dataset.prefetch(samples, &lambda, &self.collate)?;
        }
        Ok(())
    }

    fn lambda_of(&self, source: &LambdaSource, step: u64, samples: &[usize]) -> Result<Vec<f64>, PluginError> {
        let records: Vec<u64> = samples.iter().map(|sample| self.dataset.samples()[*sample].record_index).collect();
        source.draw(self.plan.epoch_of(step), step, &records)
    }
}

/// λ `[B, M]` as a tensor of its rows.
fn rows(lambda: &[f64], num_prompts: usize) -> Tensor {
    Tensor::from_slice(lambda).view([num_prompts as i64, -1]).to_kind(Kind::Float)
}

/// The longest first; of equal ones, the first.
fn sort_by_length(dataset: &Dataset, samples: &mut [usize]) {
    samples.sort_by_key(|sample| (Reverse(dataset.samples()[*sample].num_tokens), *sample));
}

/// Held-out samples with the λ that judges them.
#[derive(Debug)]
pub struct EvalBatches<'a> {
    dataset: &'a Dataset,
    /// The longest first.
    samples: Vec<usize>,
    /// λ, `[M]`: uniform unless the schedule is fixed.
    lambda: Vec<f64>,
    /// λ, `[M]`, that a λ-adapter sees and the loss does not have.
    adapter_lambda: Option<Vec<f64>>,
    collate: CollateOptions,
    batch_size: usize,
}

impl<'a> EvalBatches<'a> {
    /// Batches of `batch_size` of these samples, similar lengths together: an evaluation is a sum over all of them.
    pub fn new(
        dataset: &'a Dataset,
        mut samples: Vec<usize>,
        lambda: Vec<f64>,
        adapter_lambda: Option<Vec<f64>>,
        collate: CollateOptions,
        batch_size: usize,
    ) -> Self {
        sort_by_length(dataset, &mut samples);
        Self { dataset, samples, lambda, adapter_lambda, collate, batch_size }
    }

    /// All samples of the dataset, not only those to evaluate on.
    pub fn dataset(&self) -> &'a Dataset {
        self.dataset
    }

    /// The samples of each batch.
    pub fn samples(&self) -> impl ExactSizeIterator<Item = &[usize]> {
        self.samples.chunks(self.batch_size)
    }

    /// All batches, in order, each collated while the model works on the one before.
    pub fn iter(&self) -> impl Iterator<Item = Result<MicroBatch, PluginError>> + '_ {
        let mut rest = self.samples().peekable();
        std::iter::from_fn(move || {
            let samples = rest.next()?;
            Some(self.batch(samples, rest.peek().copied()))
        })
    }

    fn batch(&self, samples: &[usize], next: Option<&[usize]>) -> Result<MicroBatch, PluginError> {
        let lambda = self.lambda.repeat(samples.len());
        let batch = self.dataset.batch(samples, &lambda, &self.collate)?;
        if let Some(next) = next {
            self.dataset.prefetch(next, &self.lambda.repeat(next.len()), &self.collate)?;
        }
        let shown = self.adapter_lambda.as_ref();
        let adapter_lambda = shown.map(|shown| rows(&shown.repeat(samples.len()), samples.len()));
        Ok(MicroBatch { batch, samples: samples.to_vec(), lambda, adapter_lambda })
    }
}
