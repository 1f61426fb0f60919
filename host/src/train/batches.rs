//! Samples and λ → collated micro-batches.

use crate::config::Per;
use crate::plugin::{Batch, CollateOptions, Dataset, PluginError, Schedule};

use super::order::{Plan, permutation};

/// Where λ comes from.
#[derive(Debug)]
pub enum LambdaSource {
    /// The stage has none (sft) or a constant one (dpo: one dimension).
    Constant(Vec<f64>),
    /// Drawn.
    Schedule {
        /// What draws.
        schedule: Schedule,
        /// How often.
        per: Per,
        /// Of the run.
        seed: u64,
    },
}

impl LambdaSource {
    /// λ `[B, M]` of a micro-batch, row-major.
    fn draw(&self, epoch: u64, global_step: u64, records: &[u64]) -> Result<Vec<f64>, PluginError> {
        let mut lambda = Vec::new();
        for record in records {
            lambda.extend(match self {
                Self::Constant(lambda) => lambda.clone(),
                Self::Schedule { schedule, per: Per::Instance, seed } => {
                    schedule.draw_instance(*seed, epoch, *record)?
                }
                Self::Schedule { schedule, per: Per::Step, seed } => schedule.draw_step(*seed, global_step)?,
            });
        }
        Ok(lambda)
    }
}

/// A micro-batch with what it was made of.
#[derive(Debug)]
pub struct MicroBatch {
    /// The tensors, on the CPU.
    pub batch: Batch,
    /// Positions in the dataset.
    pub samples: Vec<usize>,
    /// λ `[B, M]` as drawn, before any renormalisation.
    pub lambda: Vec<f64>,
}

impl MicroBatch {
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
    /// Layout and padding.
    pub collate: CollateOptions,
    /// Steps and micro-batches.
    pub plan: Plan,
    /// Of the run.
    pub seed: u64,
}

impl TrainBatches<'_> {
    /// The micro-batches of an optimiser step (from 0): a pure function of the step.
    ///
    /// # Errors
    ///
    /// What the plugin refuses.
    pub fn step(&self, step: u64) -> Result<Vec<MicroBatch>, PluginError> {
        let epoch = self.plan.epoch_of(step);
        let order = permutation(self.samples.len(), self.seed, epoch);
        let micro_batches = self.plan.micro_batches(step).into_iter().map(|range| {
            let samples: Vec<usize> = order[range].iter().map(|position| self.samples[*position]).collect();
            let records: Vec<u64> = samples.iter().map(|sample| self.dataset.samples()[*sample].record_index).collect();
            let lambda = self.lambda.draw(epoch, step, &records)?;
            let batch = self.dataset.batch(&samples, &lambda, &self.collate)?;
            Ok(MicroBatch { batch, samples, lambda })
        });
        micro_batches.collect()
    }
}

/// Held-out samples with the λ that judges them.
#[derive(Debug)]
pub struct EvalBatches<'a> {
    /// All samples.
    pub dataset: &'a Dataset,
    /// Those to evaluate on.
    pub samples: Vec<usize>,
    /// λ, `[M]`: uniform unless the schedule is fixed.
    pub lambda: Vec<f64>,
    /// Layout and padding.
    pub collate: CollateOptions,
    /// Prompts in a batch.
    pub batch_size: usize,
}

impl EvalBatches<'_> {
    /// All batches, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Result<MicroBatch, PluginError>> + '_ {
        self.samples.chunks(self.batch_size).map(|samples| {
            let lambda = self.lambda.repeat(samples.len());
            let batch = self.dataset.batch(samples, &lambda, &self.collate)?;
            Ok(MicroBatch { batch, samples: samples.to_vec(), lambda })
        })
    }
}
