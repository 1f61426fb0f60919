//! s^ref of each response of a dataset.

use std::ops::Range;

use tch::Tensor;

use crate::plugin::{Batch, Dataset, Reduction};
use crate::train::TrainError;
use crate::train::data::MicroBatch;

use super::cache::Response;

/// What an unknown response has.
const UNKNOWN: Response = Response { log_prob_sum: f64::NAN, num_tokens: 0 };

/// s^ref of every response of a dataset that was asked for.
#[derive(Debug)]
pub struct ReferenceLogProbs {
    /// By response, all samples' one after the other.
    responses: Vec<Response>,
    /// Where each sample's begin.
    offsets: Vec<usize>,
    reduction: Reduction,
}

impl ReferenceLogProbs {
    /// Room for a dataset; `reduction` is what the loss reads.
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

    /// Takes a sample's responses; false where there are fewer or more of them than it has.
    pub(super) fn set(&mut self, sample: usize, responses: &[Response]) -> bool {
        let place = &mut self.responses[self.offsets[sample]..self.offsets[sample + 1]];
        let fits = place.len() == responses.len();
        if fits {
            place.copy_from_slice(responses);
        }
        fits
    }

    /// s^ref `[S]` of a micro-batch.
    ///
    /// # Errors
    ///
    /// What libtorch refuses.
    pub fn of(&self, micro_batch: &MicroBatch) -> Result<Tensor, TrainError> {
        let mut values = Vec::new();
        for (sample, sequences) in by_prompt(&micro_batch.batch, &micro_batch.samples)? {
            let responses = self.of_sample(sample).iter().map(|response| match self.reduction {
                Reduction::Sum => response.log_prob_sum as f32,
                Reduction::Mean => (response.log_prob_sum / f64::from(response.num_tokens.max(1))) as f32,
            });
            // In the expanded layout a prompt's responses stand there once for each dimension.
            values.extend(responses.cycle().take(sequences.len()));
        }
        Ok(Tensor::f_from_slice(&values)?)
    }
}

/// The sequences of each prompt of a batch, in order.
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
