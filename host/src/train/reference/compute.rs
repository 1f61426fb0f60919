//! Reference log-probs from the cache, or else from the reference policy.

use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use crate::console::{Progress, say};
use crate::interrupt::Interrupt;
use crate::plugin::{Batch, LossOptions, Plugin};
use crate::policy::Scorer;
use crate::policy::batch_inputs::uniform_lambda;
use crate::train::TrainError;

use super::cache::{Entries, ReferenceCache, Response};
use super::log_probs::{ReferenceLogProbs, by_prompt};
use super::request::LogProbRequest;

/// Interval at which computed log-probs are saved.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);

/// Computes reference log-probs.
pub struct Reference<'a> {
    /// The reference policy.
    pub scorer: &'a dyn Scorer,
    /// Computes log-probs from hidden states.
    pub plugin: &'a Plugin,
    /// Reduction and logits budget.
    pub loss: LossOptions,
    /// Log-probs from earlier runs; None computes all of them.
    pub cache: Option<ReferenceCache>,
    /// Stops the computation on a signal.
    pub interrupt: &'a Interrupt,
}

/// State of a computation.
struct Pass {
    progress: Progress,
    done: u64,
    total: u64,
    unsaved: Entries,
    last_save: Instant,
}

impl Reference<'_> {
    /// Returns s^ref of the requested samples, for each request in turn; after a signal, only some of them are known.
    ///
    /// # Errors
    ///
    /// Returns an error if a log-prob is not a finite number, or the cache cannot be written. Errors from model, plugin or
    /// libtorch.
    pub fn log_probs(&self, requests: &[LogProbRequest]) -> Result<Vec<ReferenceLogProbs>, TrainError> {
        let known = self.cache.as_ref().map(ReferenceCache::load).unwrap_or_default();
        let mut found = Vec::new();
        let (mut total, mut num_found) = (0, 0);
        for request in requests {
            found.push(ReferenceLogProbs::new(request.dataset, self.loss.reduction));
        }
        for (request, log_probs) in requests.iter().zip(&mut found) {
            for sample in request.all() {
                let info = &request.dataset.samples()[sample];
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
        for (request, log_probs) in requests.iter().zip(&mut found) {
            self.compute(request, log_probs, &mut pass)?;
        }
        self.save(&mut pass)?;
        pass.progress.clear();
        if self.interrupt.signal().is_none() {
            let from_cache = if self.cache.is_some() { format!(", {num_found} from the cache") } else { String::new() };
            say(&format!("reference: {total} log-probs{from_cache}"));
        }
        Ok(found)
    }

    fn compute(
        &self,
        request: &LogProbRequest,
        log_probs: &mut ReferenceLogProbs,
        pass: &mut Pass,
    ) -> Result<(), TrainError> {
        let is_known = |sample: usize| !log_probs.of_sample(sample).iter().any(|known| known.log_prob_sum.is_nan());
        let batches = request.batches(is_known);
        let collate = |samples: &[usize]| self.scorer.collate(request.collate, request.dataset, samples);
        let mut batches = batches.iter().peekable();
        while let Some(samples) = batches.next() {
            if self.interrupt.signal().is_some() {
                return Ok(());
            }
            let lambda = |samples: &[usize]| uniform_lambda(request.dataset.dimensions().len()).repeat(samples.len());
            let batch = request.dataset.batch(samples, &lambda(samples), &collate(samples))?;
            if let Some(next) = batches.peek() {
                request.dataset.prefetch(next, &lambda(next), &collate(next))?;
            }
            let sequences = self.sequences(&batch)?;
            for (sample, range) in by_prompt(&batch, samples)? {
                let info = &request.dataset.samples()[sample];
                let responses = &sequences[range][..info.num_responses];
                log_probs.set(sample, responses);
                if let Some(response) = responses.iter().position(|response| !response.log_prob_sum.is_finite()) {
                    // What is known by now is worth keeping.
                    self.save(pass)?;
                    let (record, value) = (info.record_index, responses[response].log_prob_sum);
                    return Err(TrainError::ReferenceNotFinite { record, response, value });
                }
                pass.unsaved.insert(info.content_hash, responses.to_vec());
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

    /// Computes every sequence `[S]` of a batch.
    ///
    /// # Numerics
    ///
    /// Summed in float64 in the order of the tokens, as the plugin does for the policy.
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
