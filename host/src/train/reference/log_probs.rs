//! s^ref of each response of a dataset.

use std::ops::Range;

use tch::Tensor;

use crate::plugin::{Batch, Dataset, Reduction};
use crate::train::TrainError;
use crate::train::data::MicroBatch;

use super::cache::Response;

/// A response that is not known.
const UNKNOWN: Response = Response { log_prob_sum: f64::NAN, num_tokens: 0 };

/// s^ref of the requested responses of a dataset.
#[derive(Debug)]
pub struct ReferenceLogProbs {
    /// The responses of all samples, one sample after the other.
    responses: Vec<Response>,
    /// Index of each sample's first response.
    offsets: Vec<usize>,
    reduction: Reduction,
}

impl ReferenceLogProbs {
    /// Makes room for a dataset, with every response unknown; `reduction` is the loss's.
    pub fn new(dataset: &Dataset, reduction: Reduction) -> Self {
        let mut offsets = vec![0];
        let mut end = 0;
        offsets.extend(dataset.samples().iter().map(|sample| {
            end += sample.num_responses;
            end
        }));
        Self { responses: vec![UNKNOWN; end], offsets, reduction }
    }

    pub(super) fn of_sample(&self, sample: usize) -> &[Response] {
        &self.responses[self.offsets[sample]..self.offsets[sample + 1]]
    }

    /// Sets a sample's responses; returns false if their number differs from the sample's.
    pub(super) fn set(&mut self, sample: usize, responses: &[Response]) -> bool {
        let place = &mut self.responses[self.offsets[sample]..self.offsets[sample + 1]];
        let fits = place.len() == responses.len();
        if fits {
            place.copy_from_slice(responses);
        }
        fits
    }

    /// Returns s^ref `[S]` of a micro-batch.
    ///
    /// # Errors
    ///
    /// Errors from libtorch.
    pub fn of(&self, micro_batch: &MicroBatch) -> Result<Tensor, TrainError> {
        let mut values = Vec::new();
        for (sample, sequences) in by_prompt(&micro_batch.batch, &micro_batch.samples)? {
            let responses = self.of_sample(sample).iter().map(|response| match self.reduction {
                Reduction::Sum => response.log_prob_sum as f32,
                Reduction::Mean => (response.log_prob_sum / f64::from(response.num_tokens.max(1))) as f32,
            });
            // The expanded layout repeats a prompt's responses for each dimension.
            values.extend(responses.cycle().take(sequences.len()));
        }
        Ok(Tensor::f_from_slice(&values)?)
    }
}

/// Returns the range of sequences of each prompt of a batch, in order.
pub(super) fn by_prompt(batch: &Batch, samples: &[usize]) -> Result<Vec<(usize, Range<usize>)>, TrainError> {
    let prompts: Vec<i64> = Vec::try_from(&batch.sequence_prompts)?;
    let mut end = 0;
    let ranges = samples.iter().enumerate().map(|(slot, sample)| {
        let start = end;
        end = start + prompts[start..].iter().take_while(|prompt| **prompt == slot as i64).count();
        (*sample, start..end)
    });
    Ok(ranges.collect())
}
