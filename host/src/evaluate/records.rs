//! The policy on held-out records: loss, accuracy, expected ratings, exact divergence, correlation with length.

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::console::Progress;
use crate::metrics::Row;
use crate::plugin::{Batch, LossInputs, LossOptions, Plugin, Reduction};
use crate::policy::batch_inputs::{model_inputs, targets};
use crate::policy::divergence::Divergence;
use crate::policy::held_out::HeldOut;

use super::estimate::Estimate;
use super::evaluation::{PolicyAndReference, Spearman};
use super::policies::Policies;
use super::spearman::spearman;

/// What is measured on held-out records.
#[derive(Serialize, Deserialize)]
pub(super) struct Records {
    pub(super) row: Row,
    /// Exact KL of a token, if there is a reference.
    pub(super) kl: Option<Estimate>,
    pub(super) spearman: Spearman,
}

/// A sequence log-prob as a sum over tokens, with the number of tokens.
type Sequence = (f64, f64);

/// Measures the policy under λ, `[M]`. Each sequence passes through each model once.
pub(super) fn measure(
    policies: &mut Policies,
    plugin: &Plugin,
    held_out: &HeldOut,
    options: &LossOptions,
    lambda: &[f64],
) -> Result<Records> {
    let lm_head = policies.policy().lm_head().shallow_clone();
    let reference_head = policies.with_reference(|model| Ok(model.lm_head().shallow_clone()))?;
    let divergence = reference_head.as_ref().map(|head| Divergence::new(&lm_head, head)).transpose()?;
    let mut measurement = held_out.measurement(options, policies.has_reference());
    let (mut of_policy, mut of_reference, mut of_tokens) = (Vec::new(), Vec::new(), Vec::new());
    let total = held_out.num_records() as u64;
    let mut progress = Progress::new("measuring records", total, 0);
    for batch in held_out.batches(lambda) {
        let batch = batch?;
        let hidden = policies.policy().hidden(&model_inputs(&batch))?;
        let reference = policies.with_reference(|model| {
            let hidden = model.hidden(&model_inputs(&batch))?;
            let inputs = LossInputs { hidden: Some(&hidden), lm_head: Some(model.lm_head()), ..targets(&batch) };
            let (_, log_probs) = plugin.log_probs(&inputs, options)?;
            Ok((hidden, log_probs))
        })?;
        let log_probs =
            measurement.add(plugin, &batch, (&hidden, &lm_head), reference.as_ref().map(|(_, log_probs)| log_probs))?;
        of_policy.extend(by_record(&batch, sequences(&batch, &log_probs, options.reduction)?)?);
        if let (Some((reference, log_probs)), Some(divergence)) = (&reference, &divergence) {
            of_reference.extend(by_record(&batch, sequences(&batch, log_probs, options.reduction)?)?);
            let values = divergence.at(&hidden, reference, &batch.target_positions)?;
            of_tokens.extend(tokens_by_record(&batch, values)?);
        }
        progress.update(of_policy.len() as u64, total, "");
    }
    progress.clear();
    let correlation = |value: fn(&Sequence) -> f64| PolicyAndReference {
        policy: spearman(&with_lengths(&of_policy, value)),
        reference: spearman(&with_lengths(&of_reference, value)),
    };
    Ok(Records {
        row: measurement.row(""),
        kl: Estimate::of_groups(&of_tokens),
        spearman: Spearman {
            sum: correlation(|sequence| sequence.0),
            mean: correlation(|sequence| sequence.0 / sequence.1),
        },
    })
}

fn with_lengths(groups: &[Vec<Sequence>], value: fn(&Sequence) -> f64) -> Vec<Vec<(f64, f64)>> {
    let pairs = |group: &Vec<Sequence>| group.iter().map(|sequence| (value(sequence), sequence.1)).collect();
    groups.iter().map(pairs).collect()
}

/// Returns the sequences of a batch from their log-probs, `[S]`.
fn sequences(batch: &Batch, log_probs: &Tensor, reduction: Reduction) -> Result<Vec<Sequence>> {
    let lengths: Vec<f64> = Vec::try_from(batch.sequence_num_tokens.f_to_kind(Kind::Double)?)?;
    let log_probs: Vec<f64> = Vec::try_from(log_probs.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?)?;
    let sum = |(log_prob, length): (f64, f64)| match reduction {
        Reduction::Sum => (log_prob, length),
        Reduction::Mean => (log_prob * length, length),
    };
    Ok(log_probs.into_iter().zip(lengths).map(sum).collect())
}

/// Groups what there is for each sequence by the sequence's record.
fn by_record<T>(batch: &Batch, values: Vec<T>) -> Result<Vec<Vec<T>>> {
    let prompts: Vec<i64> = Vec::try_from(&batch.sequence_prompts)?;
    let mut groups: Vec<Vec<T>> = (0..batch.record_indices.numel()).map(|_| Vec::new()).collect();
    for (prompt, value) in prompts.into_iter().zip(values) {
        groups.get_mut(prompt as usize).context("the plugin numbered a prompt beyond the batch")?.push(value);
    }
    Ok(groups)
}

/// Groups what there is for each target token by the token's record.
fn tokens_by_record(batch: &Batch, values: Vec<f64>) -> Result<Vec<Vec<f64>>> {
    let of_token: Vec<i64> = Vec::try_from(&batch.target_sequences)?;
    let mut of_sequence: Vec<Vec<f64>> = vec![Vec::new(); batch.sequence_num_tokens.numel()];
    for (sequence, value) in of_token.into_iter().zip(values) {
        of_sequence.get_mut(sequence as usize).context("the plugin numbered a sequence beyond the batch")?.push(value);
    }
    Ok(by_record(batch, of_sequence)?.into_iter().map(|sequences| sequences.concat()).collect())
}
