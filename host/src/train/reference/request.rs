//! The samples whose reference log-probs a run needs.

use std::cmp::Reverse;

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
    let collate = train.collation.options;
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
        let length = |sample: usize| self.dataset.samples()[sample].num_tokens;
        let missing = |batch: &Vec<usize>| batch.iter().copied().filter(|sample| !is_known(*sample)).collect();
        let mut batches: Vec<Vec<usize>> = self.fixed_batches.iter().map(missing).collect();
        batches.retain(|batch| !batch.is_empty());
        batches.extend(rest_by_length(&self.samples, length, self.max_tokens, is_known));
        batches
    }
}

/// Batches the samples that are not known yet by length.
///
/// The last bits of a log-prob depend on its batch, so a batch of which nothing is known is the one that it would be if
/// nothing at all were known: a pass that was stopped between two batches and goes on gives the bits of one that was not.
/// Only what is missing from other batches is batched anew.
fn rest_by_length(
    samples: &[usize],
    length: impl Fn(usize) -> usize,
    max_tokens: usize,
    is_known: impl Fn(usize) -> bool,
) -> Vec<Vec<usize>> {
    let planned = batches_by_length(samples.to_vec(), &length, max_tokens);
    let (mut batches, others): (Vec<_>, Vec<_>) =
        planned.into_iter().partition(|batch| !batch.iter().any(|sample| is_known(*sample)));
    let missing = others.into_iter().flatten().filter(|sample| !is_known(*sample)).collect();
    batches.extend(batches_by_length(missing, &length, max_tokens));
    batches.sort_by_key(|batch| Reverse(batch.first().map_or(0, |sample| length(*sample))));
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_that_goes_on_has_the_batches_of_one_that_was_not_stopped() {
        let lengths = [9, 8, 7, 5, 5, 4, 3, 3, 2, 1];
        let samples: Vec<usize> = (0..lengths.len()).collect();
        let rest =
            |known: &[usize]| rest_by_length(&samples, |sample| lengths[sample], 12, |sample| known.contains(&sample));
        let all = rest(&[]);
        assert!(all.len() > 3, "{all:?}");
        for done in 0..=all.len() {
            assert_eq!(rest(&all[..done].concat()), all[done..]);
        }
        // Samples of other runs are known, in the middle of batches.
        let some = rest(&[3, 5]);
        let mut missing = some.concat();
        missing.sort_unstable();
        assert_eq!(missing, [0, 1, 2, 4, 6, 7, 8, 9]);
        let longest: Vec<usize> = some.iter().map(|batch| lengths[batch[0]]).collect();
        assert!(longest.is_sorted_by(|left, right| left >= right), "{some:?}");
    }
}
