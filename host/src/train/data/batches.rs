//! Samples and λ → collated micro-batches.

use std::cmp::Reverse;

use tch::{Kind, Tensor};

use crate::model::ModelInputs;
use crate::plugin::{Batch, Dataset, PREFETCH_CAPACITY, PluginError};
use crate::policy::batch_inputs::model_inputs;
use crate::policy::collation::Collation;

use super::lambda::LambdaSource;
use super::order::{EpochOrder, Plan};

/// A micro-batch with its samples and λ.
#[derive(Debug)]
pub struct MicroBatch {
    /// The tensors, on the CPU.
    pub batch: Batch,
    /// Indices into the dataset.
    pub samples: Vec<usize>,
    /// λ `[B, M]` as drawn, before any renormalisation.
    pub lambda: Vec<f64>,
    /// λ `[B, M]` that a λ-adapter reads if the loss has none (sft, dpo); None: that of the batch.
    pub adapter_lambda: Option<Tensor>,
}

impl MicroBatch {
    /// Returns the model's inputs.
    pub fn model_inputs(&self) -> ModelInputs<'_> {
        let inputs = model_inputs(&self.batch);
        ModelInputs { lambda: self.adapter_lambda.as_ref().or(inputs.lambda), ..inputs }
    }

    /// Returns the number of tokens, without padding.
    ///
    /// # Errors
    ///
    /// Errors from libtorch.
    pub fn num_tokens(&self) -> Result<i64, tch::TchError> {
        self.batch.attention_mask.f_sum(tch::Kind::Int64)?.f_int64_value(&[])
    }
}

/// All batches of a run.
#[derive(Debug)]
pub struct RunBatches<'a> {
    /// Batches to train on.
    pub train: TrainBatches<'a>,
    /// Batches to evaluate on, if there are any.
    pub eval: Option<EvalBatches<'a>>,
    /// Optimiser steps of the run.
    pub max_steps: u64,
}

/// Batches to train on.
#[derive(Debug)]
pub struct TrainBatches<'a> {
    /// All samples, including held-out ones.
    pub dataset: &'a Dataset,
    /// Indices of the samples to train on.
    pub samples: Vec<usize>,
    /// Source of the loss's λ.
    pub lambda: LambdaSource,
    /// Source of the λ that a λ-adapter reads if the loss has none.
    pub adapter_lambda: Option<LambdaSource>,
    /// Layout and padding.
    pub collation: Collation,
    /// How epochs divide into steps and micro-batches.
    pub plan: Plan,
    /// Order of the samples in each epoch.
    pub order: EpochOrder,
}

impl TrainBatches<'_> {
    /// Returns the samples of each micro-batch of an optimiser step (from 0): a pure function of the step.
    ///
    /// The epoch's order determines the samples of the step. Within it they are sorted by length, the longest first, so
    /// that a micro-batch has rows of similar length; the loss is a mean over the step either way.
    pub fn samples_of(&self, step: u64) -> Vec<Vec<usize>> {
        let epoch = self.plan.epoch_of(step);
        let mut samples: Vec<usize> = self.order.with(epoch, |order| {
            order[self.plan.positions(step)].iter().map(|position| self.samples[*position]).collect()
        });
        sort_by_length(self.dataset, &mut samples);
        samples.chunks(self.plan.batch_size).map(<[usize]>::to_vec).collect()
    }

    /// Collates the micro-batches of an optimiser step (from 0): a pure function of the step.
    ///
    /// # Errors
    ///
    /// Errors from the plugin.
    pub fn step(&self, step: u64) -> Result<Vec<MicroBatch>, PluginError> {
        let micro_batches = self.samples_of(step).into_iter().map(|samples| {
            let lambda = self.lambda_of(&self.lambda, step, &samples)?;
            let batch = self.dataset.batch(&samples, &lambda, &self.collation.of(self.dataset, &samples))?;
            let adapter_lambda =
                self.adapter_lambda.as_ref().map(|source| self.lambda_of(source, step, &samples)).transpose()?;
            let adapter_lambda = adapter_lambda.map(|lambda| rows(&lambda, samples.len()));
            Ok(MicroBatch { batch, samples, lambda, adapter_lambda })
        });
        micro_batches.collect()
    }

    /// Starts collating the micro-batches of a step in the background.
    ///
    /// # Errors
    ///
    /// Errors from the plugin.
    pub fn prefetch(&self, step: u64) -> Result<(), PluginError> {
        for samples in self.samples_of(step).iter().take(PREFETCH_CAPACITY) {
            let lambda = self.lambda_of(&self.lambda, step, samples)?;
            self.dataset.prefetch(samples, &lambda, &self.collation.of(self.dataset, samples))?;
        }
        Ok(())
    }

    fn lambda_of(&self, source: &LambdaSource, step: u64, samples: &[usize]) -> Result<Vec<f64>, PluginError> {
        let records: Vec<u64> = samples.iter().map(|sample| self.dataset.samples()[*sample].record_index).collect();
        source.draw(self.plan.epoch_of(step), step, &records)
    }
}

/// Makes a tensor `[B, M]` of row-major λ.
fn rows(lambda: &[f64], num_prompts: usize) -> Tensor {
    Tensor::from_slice(lambda).view([num_prompts as i64, -1]).to_kind(Kind::Float)
}

/// Sorts by length, the longest first; samples of equal length stay in the dataset's order.
fn sort_by_length(dataset: &Dataset, samples: &mut [usize]) {
    samples.sort_by_key(|sample| (Reverse(dataset.samples()[*sample].num_tokens), *sample));
}

/// Batches to evaluate on, all with the same λ.
#[derive(Debug)]
pub struct EvalBatches<'a> {
    dataset: &'a Dataset,
    /// Indices into the dataset, the longest sample first.
    samples: Vec<usize>,
    /// λ `[M]`: uniform unless the schedule is fixed.
    lambda: Vec<f64>,
    /// λ `[M]` that a λ-adapter reads if the loss has none.
    adapter_lambda: Option<Vec<f64>>,
    collation: Collation,
    batch_size: usize,
}

impl<'a> EvalBatches<'a> {
    /// Groups samples into batches of `batch_size` by length; an evaluation sums over all of them, in any order.
    pub fn new(
        dataset: &'a Dataset,
        mut samples: Vec<usize>,
        lambda: Vec<f64>,
        adapter_lambda: Option<Vec<f64>>,
        collation: Collation,
        batch_size: usize,
    ) -> Self {
        sort_by_length(dataset, &mut samples);
        Self { dataset, samples, lambda, adapter_lambda, collation, batch_size }
    }

    /// Returns the dataset, which may have more samples than those to evaluate on.
    pub fn dataset(&self) -> &'a Dataset {
        self.dataset
    }

    /// Returns the samples of each batch.
    pub fn samples(&self) -> impl ExactSizeIterator<Item = &[usize]> {
        self.samples.chunks(self.batch_size)
    }

    /// Returns all batches in order, each collated while the model works on the one before.
    pub fn iter(&self) -> impl Iterator<Item = Result<MicroBatch, PluginError>> + '_ {
        let mut rest = self.samples().peekable();
        std::iter::from_fn(move || {
            let samples = rest.next()?;
            Some(self.batch(samples, rest.peek().copied()))
        })
    }

    fn batch(&self, samples: &[usize], next: Option<&[usize]>) -> Result<MicroBatch, PluginError> {
        let lambda = self.lambda.repeat(samples.len());
        let batch = self.dataset.batch(samples, &lambda, &self.collation.of(self.dataset, samples))?;
        if let Some(next) = next {
            let options = self.collation.of(self.dataset, next);
            self.dataset.prefetch(next, &self.lambda.repeat(next.len()), &options)?;
        }
        let adapter_lambda =
            self.adapter_lambda.as_ref().map(|lambda| rows(&lambda.repeat(samples.len()), samples.len()));
        Ok(MicroBatch { batch, samples: samples.to_vec(), lambda, adapter_lambda })
    }
}
