//! Reference log-probs from the cache, or else from the reference policy.

use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use crate::console::{Progress, say};
use crate::plugin::{Batch, LossOptions, Plugin};
use crate::policy::Scorer;
use crate::policy::batch_inputs::uniform_lambda;
use crate::train::TrainError;
use crate::train::durable::Interrupt;

use super::cache::{Entries, ReferenceCache, Response};
use super::log_probs::{ReferenceLogProbs, by_prompt};
use super::wanted::Wanted;

/// Between two times that what is computed is put on disk.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);

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
            let lambda = |samples: &[usize]| uniform_lambda(wanted.dataset.dimensions().len()).repeat(samples.len());
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
