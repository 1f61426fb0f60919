//! Compares the log-probs of two policies over the same records.

use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::plugin::{Batch, CollateOptions, Dataset, Layout, LossInputs, LossOptions, Plugin};

use super::batch_inputs::{targets_and_weights, uniform_lambda};
use super::{PolicyError, Scorer};

/// Options of log-probs, which are sums, and of the λ-DPO loss, with uniform λ and without a reference.
fn options() -> LossOptions {
    LossOptions { beta: 0.1, ..LossOptions::default() }
}

/// Returns the default tolerance: the largest difference of a token's log-prob that passes, by the coarser of the
/// dtypes.
#[must_use]
pub fn usual_tolerance(model: Kind, policy: Kind) -> f64 {
    let tolerance = |kind| match kind {
        Kind::Half => 2e-2,
        Kind::BFloat16 => 2e-1,
        _ => 1e-4,
    };
    f64::max(tolerance(model), tolerance(policy))
}

/// Inputs of [`compare`]: a policy, the model that it should agree with, and samples of a dataset.
#[derive(Clone, Copy)]
pub struct ComparisonInputs<'a> {
    /// The model.
    pub model: &'a dyn Scorer,
    /// The policy.
    pub policy: &'a dyn Scorer,
    /// Computes log-probs and loss.
    pub plugin: &'a Plugin,
    /// The tokenised records.
    pub dataset: &'a Dataset,
    /// Indices into the dataset.
    pub samples: &'a [usize],
    /// Largest difference of a token's log-prob that passes.
    pub tolerance: f64,
}

/// Result of comparing a policy (`policy`) with its model (`model`).
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Largest difference of a token's log-prob that passes.
    pub tolerance: f64,
    /// Whether the differences of all tokens are within the tolerance.
    pub passed: bool,
    /// Number of records compared.
    pub num_records: usize,
    /// Number of their responses.
    pub num_responses: usize,
    /// Number of their responses' tokens.
    pub num_tokens: usize,
    /// Differences of the tokens' log-probs.
    pub token_log_probs: Spread,
    /// Differences of the responses' log-probs, summed over tokens.
    pub sequence_log_probs: Spread,
    /// Losses of the records that have one.
    pub loss: Option<Losses>,
    /// Order of the responses by their log-probs.
    pub ranking: Ranking,
    /// The token with the largest difference.
    pub worst: Option<WorstToken>,
}

/// Distribution of absolute differences; null in JSON if one is not a number.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    /// The largest.
    pub max: f64,
    /// Their mean.
    pub mean: f64,
    /// The 99th percentile.
    pub p99: f64,
}

/// The λ-DPO loss with uniform λ, β = 0.1 and s^ref = 0.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Losses {
    /// Mean loss of the model over records.
    pub model: f64,
    /// Mean loss of the policy.
    pub policy: f64,
    /// Largest difference of one record.
    pub max_difference: f64,
}

/// How the responses of a record are ordered by their log-probs.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Ranking {
    /// Number of records whose orders differ.
    pub num_different: usize,
    /// The first of them.
    pub first_record: Option<u64>,
}

/// The token with the largest difference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct WorstToken {
    /// Position of the record in the concatenated inputs.
    pub record: u64,
    /// Number of the response in the record.
    pub response: i64,
    /// Number of the token in the response.
    pub token: usize,
    /// The token.
    pub token_id: i64,
    /// Its log-prob under the model.
    pub model: f64,
    /// Under the policy.
    pub policy: f64,
}

/// Differences of the records so far.
#[derive(Default)]
struct Differences {
    tokens: Vec<f64>,
    sequences: Vec<f64>,
    losses: Vec<(f64, f64)>,
    ranking: Ranking,
    worst: Option<WorstToken>,
}

/// Compares the policies, one record at a time; `on_record` is called with the number of records done.
///
/// # Errors
///
/// Returns [`PolicyError::ModelNotFinite`] if a log-prob of the model, which is the measure, is not a finite number. Errors
/// from policy, model or plugin.
pub fn compare(inputs: &ComparisonInputs, on_record: &mut dyn FnMut(usize)) -> Result<Comparison, PolicyError> {
    let ComparisonInputs { model, policy, plugin, dataset, samples, tolerance } = *inputs;
    let mut differences = Differences::default();
    let wanted = CollateOptions { layout: Layout::Packed, ..CollateOptions::default() };
    for (number, &sample) in samples.iter().enumerate() {
        // The layout that both support, so that tokens are in the same order.
        let collate = policy.collate(wanted, dataset, &[sample]);
        let batch = dataset.batch(&[sample], &uniform_lambda(dataset.dimensions().len()), &collate)?;
        let sides = [model, policy].map(|side| side.log_probs(plugin, &batch, &options()));
        let [expected, found] = sides;
        let (expected, found) = (expected?, found?);
        let record = dataset.samples()[sample].record_index;
        if let Some(value) = values(&expected.0)?.into_iter().find(|value| !value.is_finite()) {
            return Err(PolicyError::ModelNotFinite { record, value });
        }
        differences.add_tokens(record, &batch, &expected.0, &found.0)?;
        differences.add_sequences(record, &expected.1, &found.1)?;
        if batch.num_contributing > 0 {
            differences.losses.push((loss(plugin, &batch, &expected.1)?, loss(plugin, &batch, &found.1)?));
        }
        on_record(number + 1);
    }
    Ok(differences.finish(samples.len(), tolerance))
}

impl Differences {
    fn add_tokens(&mut self, record: u64, batch: &Batch, expected: &Tensor, found: &Tensor) -> Result<(), PolicyError> {
        let ids: Vec<i64> = Vec::try_from(&batch.target_ids)?;
        let sequences: Vec<i64> = Vec::try_from(&batch.target_sequences)?;
        let responses: Vec<i64> = Vec::try_from(&batch.sequence_responses)?;
        let mut token = 0;
        for (at, (model, policy)) in values(expected)?.into_iter().zip(values(found)?).enumerate() {
            token = if at > 0 && sequences[at] == sequences[at - 1] { token + 1 } else { 0 };
            let difference = difference(model, policy);
            let is_worst = self.worst.is_none_or(|worst| difference > self::difference(worst.model, worst.policy));
            if is_worst {
                let response = responses[sequences[at] as usize];
                self.worst = Some(WorstToken { record, response, token, token_id: ids[at], model, policy });
            }
            self.tokens.push(difference);
        }
        Ok(())
    }

    fn add_sequences(&mut self, record: u64, expected: &Tensor, found: &Tensor) -> Result<(), PolicyError> {
        let (expected, found) = (values(expected)?, values(found)?);
        if ranking(&expected) != ranking(&found) {
            self.ranking.num_different += 1;
            self.ranking.first_record.get_or_insert(record);
        }
        self.sequences.extend(expected.iter().zip(&found).map(|(model, policy)| difference(*model, *policy)));
        Ok(())
    }

    fn finish(self, num_records: usize, tolerance: f64) -> Comparison {
        let (num_tokens, num_responses) = (self.tokens.len(), self.sequences.len());
        let token_log_probs = Spread::new(self.tokens);
        Comparison {
            tolerance,
            passed: token_log_probs.max <= tolerance,
            num_records,
            num_responses,
            num_tokens,
            token_log_probs,
            sequence_log_probs: Spread::new(self.sequences),
            loss: Losses::new(&self.losses),
            ranking: self.ranking,
            worst: self.worst,
        }
    }
}

impl Spread {
    /// 0 if there are no differences.
    fn new(mut differences: Vec<f64>) -> Self {
        differences.sort_by(f64::total_cmp);
        let Some(&max) = differences.last() else { return Self { max: 0.0, mean: 0.0, p99: 0.0 } };
        let mean = differences.iter().sum::<f64>() / differences.len() as f64;
        let rank = (differences.len() * 99).div_ceil(100);
        Self { max, mean, p99: differences[rank - 1] }
    }
}

impl Losses {
    fn new(losses: &[(f64, f64)]) -> Option<Self> {
        let count = losses.len() as f64;
        let mean = |side: fn(&(f64, f64)) -> f64| losses.iter().map(side).sum::<f64>() / count;
        let max_difference = losses.iter().map(|(model, policy)| difference(*model, *policy)).fold(0.0, f64::max);
        (!losses.is_empty()).then(|| Self { model: mean(|loss| loss.0), policy: mean(|loss| loss.1), max_difference })
    }
}

/// Returns the absolute difference, infinite if one side is not a number.
fn difference(model: f64, policy: f64) -> f64 {
    let difference = (model - policy).abs();
    if difference.is_nan() { f64::INFINITY } else { difference }
}

/// Returns the responses from the most to the least probable.
fn ranking(log_probs: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..log_probs.len()).collect();
    order.sort_by(|&left, &right| log_probs[right].total_cmp(&log_probs[left]));
    order
}

fn values(tensor: &Tensor) -> Result<Vec<f64>, PolicyError> {
    Ok(Vec::try_from(tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?)?)
}

/// Returns the loss of one record, given the log-probs of its responses.
fn loss(plugin: &Plugin, batch: &Batch, log_probs: &Tensor) -> Result<f64, PolicyError> {
    let inputs = LossInputs { sequence_log_probs: Some(log_probs), ..targets_and_weights(batch, None) };
    let (outputs, _) = plugin.loss_forward(&inputs, &options())?;
    Ok(outputs.loss.f_double_value(&[])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_never_passes() {
        let differences = Differences { tokens: vec![difference(f64::NAN, -1.0), 0.0], ..Differences::default() };
        assert!(!differences.finish(1, 1e9).passed);
        assert_eq!(difference(-1.0, f64::NEG_INFINITY), f64::INFINITY);
    }

    #[test]
    fn the_99th_percentile_leaves_out_one_of_a_hundred() {
        let spread = Spread::new((0..200).map(f64::from).collect());
        assert_eq!((spread.max, spread.mean, spread.p99), (199.0, 99.5, 197.0));
        assert_eq!(Spread::new(vec![3.0]).p99, 3.0);
    }

    #[test]
    fn rankings_go_from_the_most_probable_down() {
        assert_eq!(ranking(&[-3.0, -1.0, -2.0]), [1, 2, 0]);
    }
}
