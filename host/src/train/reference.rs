//! Reference log-probs: computed once before training, held for each response, shared between runs.
//!
//! | module | what |
//! |---|---|
//! | `key` | the reference model as a hash |
//! | `cache` | log-probs on disk |
//!
//! # Invariants
//!
//! - An entry is found by the hashes of the model and of the sample's tokens: of any change in either, nothing is found.
//! - What is computed depends on what is missing alone, so a cache that one run has filled gives the next, of the same
//!   config, the same bits. In batches of another make-up the last bits of a log-prob differ.

mod cache;
mod key;

use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use crate::foreign::Scorer;
use crate::model::{Model, ModelInputs};
use crate::plugin::{Batch, CollateOptions, Dataset, LossInputs, LossOptions, Plugin, Reduction};

use super::TrainError;
use super::batches::MicroBatch;
use super::data::uniform;
use super::progress::{Progress, say};
use super::signals::Interrupt;

pub use cache::{Entries, ReferenceCache, Response};
pub use key::{model_key, policy_key};

/// Between two times that what is computed is put on disk.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);

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

    fn of_sample(&self, sample: usize) -> &[Response] {
        &self.responses[self.offsets[sample]..self.offsets[sample + 1]]
    }

    /// Takes a sample's responses; false where there are fewer or more of them than it has.
    fn set(&mut self, sample: usize, responses: &[Response]) -> bool {
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
fn by_prompt(batch: &Batch, samples: &[usize]) -> Result<Vec<(usize, std::ops::Range<usize>)>, TrainError> {
    let prompts: Vec<i64> = Vec::try_from(&batch.sequence_prompts)?;
    let mut end = 0;
    let ranges = samples.iter().enumerate().map(|(slot, sample)| {
        let start = end;
        end = start + prompts[start..].iter().take_while(|prompt| **prompt == slot as i64).count();
        (*sample, start..end)
    });
    Ok(ranges.collect())
}

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
    fn all(&self) -> impl Iterator<Item = usize> + '_ {
        self.as_they_are.iter().flatten().chain(&self.samples).copied()
    }

    /// The batches to compute: what is not known, the longest first, so that memory runs out at once or not at all.
    fn batches(&self, is_known: impl Fn(usize) -> bool) -> Vec<Vec<usize>> {
        let missing = |samples: &[usize]| samples.iter().copied().filter(|sample| !is_known(*sample)).collect();
        let mut batches: Vec<Vec<usize>> = self.as_they_are.iter().map(|batch| missing(batch)).collect();
        let length = |sample: usize| self.dataset.samples()[sample].num_tokens;
        batches.extend(by_length(missing(&self.samples), length, self.max_tokens));
        batches.retain(|batch| !batch.is_empty());
        batches
    }
}

/// Batches of samples of similar length that come to no more than `max_tokens`, padding included; a longer sample has a
/// batch to itself.
fn by_length(mut samples: Vec<usize>, length: impl Fn(usize) -> usize, max_tokens: usize) -> Vec<Vec<usize>> {
    samples.sort_by_key(|sample| (std::cmp::Reverse(length(*sample)), *sample));
    let mut rest = samples.as_slice();
    let mut batches = Vec::new();
    while let Some(longest) = rest.first() {
        let num_rows = (max_tokens / length(*longest).max(1)).clamp(1, rest.len());
        let (batch, others) = rest.split_at(num_rows);
        batches.push(batch.to_vec());
        rest = others;
    }
    batches
}

/// What computes reference log-probs.
pub struct Reference<'a> {
    /// The reference policy: a model as it was at the start, or one from elsewhere.
    pub scorer: &'a dyn Scorer,
    /// What takes log-probs of hidden states.
    pub plugin: &'a Plugin,
    /// Reduction and logits budget.
    pub loss: LossOptions,
    /// Where they are kept; None computes all of them.
    pub cache: Option<ReferenceCache>,
    /// Asks to stop.
    pub interrupt: &'a Interrupt,
}

/// What is under way.
struct Pass {
    progress: Progress,
    done: u64,
    total: u64,
    unsaved: Entries,
    last_save: Instant,
}

impl Reference<'_> {
    /// s^ref of everything wanted, of each dataset in turn; on a signal, of a part of it.
    ///
    /// # Errors
    ///
    /// What model, plugin or libtorch refuse; a disk that refuses the cache.
    pub fn log_probs(&self, wanted: &[Wanted]) -> Result<Vec<ReferenceLogProbs>, TrainError> {
        let known = self.cache.as_ref().map(ReferenceCache::load).unwrap_or_default();
        let mut found = Vec::new();
        let (mut total, mut num_found) = (0, 0);
        for Wanted { dataset, .. } in wanted {
            found.push(ReferenceLogProbs::new(dataset, self.loss.reduction));
        }
        for (wanted, log_probs) in wanted.iter().zip(&mut found) {
            for sample in wanted.all() {
                let info = &wanted.dataset.samples()[sample];
                total += info.num_responses as u64;
                let entry = known.get(&info.content_hash);
                if entry.is_some_and(|responses| log_probs.set(sample, responses)) {
                    num_found += info.num_responses as u64;
                }
            }
        }
        drop(known);
        let mut pass = Pass {
            progress: Progress::new("reference log-probs", total, num_found),
            done: num_found,
            total,
            unsaved: Entries::new(),
            last_save: Instant::now(),
        };
        for (wanted, log_probs) in wanted.iter().zip(&mut found) {
            self.compute(wanted, log_probs, &mut pass)?;
        }
        self.save(&mut pass)?;
        pass.progress.clear();
        if self.interrupt.signal().is_none() {
            let from_cache = if self.cache.is_some() { format!(", {num_found} from the cache") } else { String::new() };
            say(&format!("reference: {total} log-probs{from_cache}"));
        }
        Ok(found)
    }

    fn compute(&self, wanted: &Wanted, log_probs: &mut ReferenceLogProbs, pass: &mut Pass) -> Result<(), TrainError> {
        let is_known = |sample: usize| !log_probs.of_sample(sample).iter().any(|known| known.log_prob_sum.is_nan());
        let batches = wanted.batches(is_known);
        let collate = self.scorer.collate(wanted.collate);
        let mut batches = batches.iter().peekable();
        while let Some(samples) = batches.next() {
            if self.interrupt.signal().is_some() {
                return Ok(());
            }
            let lambda = |samples: &[usize]| uniform(wanted.dataset.dimensions().len()).repeat(samples.len());
            let batch = wanted.dataset.batch(samples, &lambda(samples), &collate)?;
            if let Some(next) = batches.peek() {
                wanted.dataset.prefetch(next, &lambda(next), &collate)?;
            }
            let sequences = self.sequences(&batch)?;
            for (sample, range) in by_prompt(&batch, samples)? {
                let info = &wanted.dataset.samples()[sample];
                let responses = &sequences[range][..info.num_responses];
                log_probs.set(sample, responses);
                // A log-prob that is no number is looked at again next time.
                if responses.iter().all(|response| response.log_prob_sum.is_finite()) {
                    pass.unsaved.insert(info.content_hash, responses.to_vec());
                }
                pass.done += info.num_responses as u64;
            }
            pass.progress.update(pass.done, pass.total, "");
            if pass.last_save.elapsed() >= SAVE_INTERVAL {
                self.save(pass)?;
            }
        }
        Ok(())
    }

    fn save(&self, pass: &mut Pass) -> Result<(), TrainError> {
        let entries = std::mem::take(&mut pass.unsaved);
        pass.last_save = Instant::now();
        self.cache.as_ref().map_or(Ok(()), |cache| cache.add(entries))
    }

    /// Every sequence `[S]` of a batch.
    ///
    /// # Numerics
    ///
    /// Summed in float64 in the order of the tokens, as the plugin sums a policy's.
    fn sequences(&self, batch: &Batch) -> Result<Vec<Response>, TrainError> {
        let (tokens, _) = self.scorer.log_probs(self.plugin, batch, &self.loss)?;
        let tokens = tokens.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?;
        let mut sums = Tensor::f_zeros([batch.sequence_num_tokens.numel() as i64], (Kind::Double, Device::Cpu))?;
        let _ = sums.f_index_add_(0, &batch.target_sequences, &tokens)?;
        let sums: Vec<f64> = Vec::try_from(&sums)?;
        let lengths: Vec<i64> = Vec::try_from(&batch.sequence_num_tokens)?;
        let response = |(log_prob_sum, length): (f64, i64)| Response {
            log_prob_sum,
            num_tokens: u32::try_from(length).unwrap_or(u32::MAX),
        };
        Ok(sums.into_iter().zip(lengths).map(response).collect())
    }
}

/// Token log-probs `[K]` and sequence log-probs `[S]` of a batch, without gradients.
///
/// # Errors
///
/// What model, plugin or libtorch refuse.
pub fn log_probs(
    model: &Model,
    plugin: &Plugin,
    batch: &Batch,
    options: &LossOptions,
) -> Result<(Tensor, Tensor), TrainError> {
    let hidden = model.hidden(&model_inputs(batch))?;
    let inputs = LossInputs { hidden: Some(&hidden), lm_head: Some(model.lm_head()), ..targets(batch) };
    Ok(plugin.log_probs(&inputs, options)?)
}

/// What the model reads of a batch.
pub fn model_inputs(batch: &Batch) -> ModelInputs<'_> {
    ModelInputs {
        input_ids: &batch.input_ids,
        position_ids: &batch.position_ids,
        prompt_ids: &batch.prompt_ids,
        sequence_ids: &batch.sequence_ids,
        lambda: Some(&batch.lambda),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_fill_up_with_samples_of_similar_length() {
        let lengths = [10, 3, 3, 50, 4, 3, 0];
        let batches = by_length((0..7).collect(), |sample| lengths[sample], 20);
        assert_eq!(batches, [vec![3], vec![0, 4], vec![1, 2, 5, 6]]);
        assert!(by_length(Vec::new(), |_| 0, 20).is_empty());
    }
}
