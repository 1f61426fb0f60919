//! The samples whose log-probs a run needs.

use crate::plugin::{CollateOptions, Dataset};
use crate::policy::batches_by_length::batches_by_length;

/// Samples of one dataset whose log-probs a run needs.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The dataset.
    pub dataset: &'a Dataset,
    /// Batches to be computed as they are, where nothing of them is known: those in which the policy is compared with
    /// itself before its first update, so that all rewards are 0 to the last bit.
    pub as_they_are: Vec<Vec<usize>>,
    /// The rest, to be batched by length.
    pub samples: Vec<usize>,
    /// Layout and padding.
    pub collate: CollateOptions,
    /// Tokens of a batch, padding included.
    pub max_tokens: usize,
}

impl Wanted<'_> {
    pub(super) fn all(&self) -> impl Iterator<Item = usize> + '_ {
        self.as_they_are.iter().flatten().chain(&self.samples).copied()
    }

    /// The batches to compute: what is not known, the longest first, so that memory runs out at once or not at all.
    pub(super) fn batches(&self, is_known: impl Fn(usize) -> bool) -> Vec<Vec<usize>> {
        let missing = |samples: &[usize]| samples.iter().copied().filter(|sample| !is_known(*sample)).collect();
        let mut batches: Vec<Vec<usize>> = self.as_they_are.iter().map(|batch| missing(batch)).collect();
        let length = |sample: usize| self.dataset.samples()[sample].num_tokens;
        batches.extend(batches_by_length(missing(&self.samples), length, self.max_tokens));
        batches.retain(|batch| !batch.is_empty());
        batches
    }
}
