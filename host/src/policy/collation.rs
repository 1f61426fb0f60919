//! How the samples of a batch are laid out in rows.

use tch::Device;

use crate::model::CPU_PAIRS_PER_CALL;
use crate::plugin::{CollateOptions, Dataset, Layout, SampleInfo};

/// Layout and padding of the batches of a run.
#[derive(Clone, Copy, Debug)]
pub struct Collation {
    /// What was asked for. In the packed layout without a limit of tokens, prompts of a batch may share a row.
    pub options: CollateOptions,
    /// Where the batches are computed.
    pub device: Device,
}

impl Collation {
    /// Returns the options for a batch of some samples of a dataset.
    ///
    /// With a row for each prompt, all rows are padded to the longest. In one row they need no padding, which is free if
    /// attention is computed response by response anyway: on a CPU, if the prompts with their responses are long enough. On
    /// CUDA attention takes one mask over the whole row, so there every prompt keeps its own, as everywhere do prompts with one
    /// response, which need no mask in a row of their own.
    #[must_use]
    pub fn of(&self, dataset: &Dataset, samples: &[usize]) -> CollateOptions {
        let is_free = || shares(samples.iter().map(|&sample| &dataset.samples()[sample]));
        match self.options {
            CollateOptions { layout: Layout::Packed, max_tokens: None, .. }
                if self.device == Device::Cpu && is_free() =>
            {
                CollateOptions { max_tokens: Some(usize::MAX), ..self.options }
            }
            options => options,
        }
    }
}

/// Whether attention over the responses one by one computes less than attention over padded rows.
fn shares<'a>(samples: impl Iterator<Item = &'a SampleInfo> + Clone) -> bool {
    let longest = samples.clone().map(|sample| sample.num_tokens).max().unwrap_or(0);
    let calls = |sample: &SampleInfo| CPU_PAIRS_PER_CALL as usize * sample.num_responses;
    // At most half of a sample's pairs, since no token sees those after it, and responses do not see each other.
    let by_response = |sample: &SampleInfo| calls(sample) + sample.num_tokens.pow(2) / 2;
    let num_samples = samples.clone().filter(|sample| sample.num_responses > 1).count();
    num_samples > 1 && samples.clone().map(by_response).sum::<usize>() < num_samples * longest.pow(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_prompts_share_a_row() {
        let shared = |num_responses: usize, lengths: &[usize]| {
            let sample =
                |&num_tokens: &usize| SampleInfo { record_index: 0, num_responses, num_tokens, content_hash: 0 };
            let samples: Vec<_> = lengths.iter().map(sample).collect();
            shares(samples.iter())
        };
        assert!(shared(4, &[1_000, 900]));
        assert!(shared(4, &[1_000, 10]));
        assert!(!shared(4, &[100, 90, 80]));
        // Alone it has no padding.
        assert!(!shared(4, &[1_000]));
        assert!(!shared(1, &[1_000, 900]));
        assert!(!shared(4, &[]));
    }
}
