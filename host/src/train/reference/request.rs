//! The samples whose reference log-probs a run needs.

use crate::plugin::{CollateOptions, Dataset};
use crate::policy::batches_by_length::batches_by_length;
use crate::train::data::RunBatches;

/// Samples of one dataset whose log-probs a run needs.
#[derive(Debug)]
pub struct LogProbRequest<'a> {
    /// The dataset.
    pub dataset: &'a Dataset,
    /// Batches that are computed exactly as given, unless the cache knows some of their samples. In them the policy is
    /// compared with itself before its first update, so all rewards must be 0 to the last bit.
    pub fixed_batches: Vec<Vec<usize>>,
    /// All other samples, which are batched by length.
    pub samples: Vec<usize>,
    /// Layout and padding.
    pub collate: CollateOptions,
    /// Tokens of a batch at most, padding included.
    pub max_tokens: usize,
}

/// Requests what a run will read: first of its training samples, then of its evaluation samples if it has any.
pub(super) fn requests<'a>(batches: &RunBatches<'a>) -> Vec<LogProbRequest<'a>> {
    let RunBatches { train, eval, max_steps } = batches;
    let num_steps = train.plan.steps_per_epoch().min(*max_steps);
    let collate = train.collate;
    let longest = train.dataset.samples().iter().map(|sample| sample.num_tokens).max().unwrap_or(0);
    // Training may meet a batch of the longest prompts anyway, with gradients on top.
    let max_tokens = train.plan.batch_size * longest;
    let mut requests = vec![LogProbRequest {
        dataset: train.dataset,
        fixed_batches: train.samples_of(0),
        samples: (1..num_steps).flat_map(|step| train.samples_of(step)).flatten().collect(),
        collate,
        max_tokens,
    }];
    requests.extend(eval.as_ref().map(|eval| LogProbRequest {
        dataset: eval.dataset(),
        fixed_batches: eval.samples().map(<[usize]>::to_vec).collect(),
        samples: Vec::new(),
        collate,
        max_tokens,
    }));
    requests
}

impl LogProbRequest<'_> {
    pub(super) fn all(&self) -> impl Iterator<Item = usize> + '_ {
        self.fixed_batches.iter().flatten().chain(&self.samples).copied()
    }

    /// Batches of the samples that are not known yet, the longest first: if memory runs out, it does so at once.
    pub(super) fn batches(&self, is_known: impl Fn(usize) -> bool) -> Vec<Vec<usize>> {
        let missing = |samples: &[usize]| samples.iter().copied().filter(|sample| !is_known(*sample)).collect();
        let mut batches: Vec<Vec<usize>> = self.fixed_batches.iter().map(|batch| missing(batch)).collect();
        let length = |sample: usize| self.dataset.samples()[sample].num_tokens;
        batches.extend(batches_by_length(missing(&self.samples), length, self.max_tokens));
        batches.retain(|batch| !batch.is_empty());
        batches
    }
}
