//! Checks of the loss's inputs and options, and copies of the small ones in main memory.

use ndarray::{Array1, Array2};
use tch::Tensor;

use super::inputs::{LossInputs, LossOptions};
use super::preferences::{Preferences, ranks_of};
use crate::log_probs::Wants;
use crate::log_probs::checks::{check_list, check_shape, invalid, read_bools, read_floats, read_indices, required};
use crate::{Error, Objective, Result};

/// How far a sum of λ′ may be from 1: bfloat16 holds it this exactly.
const LAMBDA_SUM_TOLERANCE: f64 = 1e-2;

/// Rejects options that are out of range, or that the objective does not have.
pub(super) fn check_options(options: &LossOptions) -> Result<()> {
    let LossOptions { objective, label_smoothing, simpo_gamma, sft_weight, .. } = *options;
    match options.normalizer {
        Some(normalizer) if !(normalizer.is_finite() && normalizer > 0.0) => {
            return invalid(format!("normalizer is {normalizer}, but it must be a finite number above 0"));
        }
        _ => {}
    }
    let belongs_to = |name: &str, value: f64, owner: Objective| match value {
        value if value != 0.0 && objective != owner => {
            invalid(format!("{name} is {value}, but only {owner} has it, not {objective}: leave it at 0"))
        }
        _ => Ok(()),
    };
    belongs_to("label_smoothing", label_smoothing, Objective::Sigmoid)?;
    belongs_to("simpo_gamma", simpo_gamma, Objective::Simpo)?;
    if options.paper_exact && objective != Objective::Listwise {
        return invalid(format!("paper_exact is 1, but only listwise has it, not {objective}"));
    }
    if !(0.0..0.5).contains(&label_smoothing) {
        return invalid(format!("label_smoothing is {label_smoothing}, but it must be at least 0 and below 0.5"));
    }
    for (name, value) in [("simpo_gamma", simpo_gamma), ("sft_weight", sft_weight)] {
        if !(value.is_finite() && value >= 0.0) {
            return invalid(format!("{name} is {value}, but it must be a finite number of at least 0"));
        }
    }
    if objective == Objective::Sft {
        return match sft_weight {
            0.0 => Ok(()),
            _ => invalid("sft_weight adds a likelihood to a preference objective, but the objective is sft".into()),
        };
    }
    if !(options.beta.is_finite() && options.beta > 0.0) {
        return invalid(format!("beta is {}, but it must be a finite number above 0", options.beta));
    }
    if !objective.reductions().contains(&options.reduction) {
        return invalid(format!("{objective} is defined on means over tokens: set the reduction to mean"));
    }
    Ok(())
}

/// Rejects a request for the gradient of an input that was not given.
pub(super) fn check_wants(inputs: &LossInputs, wants: Wants) -> Result<()> {
    let fields = [
        ("hidden", wants.hidden, inputs.hidden.is_some()),
        ("lm_head", wants.lm_head, inputs.lm_head.is_some()),
        ("logits", wants.logits, inputs.logits.is_some()),
        ("sequence_log_probs", wants.sequence_log_probs, inputs.sequence_log_probs.is_some()),
    ];
    match fields.iter().find(|(_, wanted, given)| *wanted && !given) {
        Some((field, ..)) => invalid(format!("a gradient for {field} is wanted, but {field} was not given")),
        None => Ok(()),
    }
}

/// Returns `[S]` s^ref; 0 without a reference.
pub(super) fn read_reference(inputs: &LossInputs, objective: Objective) -> Result<Array1<f64>> {
    match inputs.reference_log_probs {
        None => Ok(Array1::zeros(inputs.num_sequences as usize)),
        Some(_) if !objective.has_reference() => {
            invalid(format!("reference_log_probs was given, but {objective} has no reference: leave it out"))
        }
        Some(reference) => {
            check_shape("reference_log_probs", reference, &[inputs.num_sequences])?;
            Ok(read_floats("reference_log_probs", reference)?.into())
        }
    }
}

/// Returns `[S]` the number of target tokens of each sequence, if it was given or follows from the targets.
pub(super) fn read_num_tokens(inputs: &LossInputs, sequence_lengths: Option<&[u64]>) -> Result<Option<Array1<f64>>> {
    if let Some(lengths) = sequence_lengths {
        return Ok(Some(lengths.iter().map(|length| *length as f64).collect()));
    }
    let Some(num_tokens) = inputs.sequence_num_tokens else { return Ok(None) };
    check_shape("sequence_num_tokens", num_tokens, &[inputs.num_sequences])?;
    let values = read_indices("sequence_num_tokens", num_tokens, i64::MAX)?;
    Ok(Some(values.into_iter().map(|number| number as f64).collect()))
}

/// Copies the fields of a preference objective to main memory.
pub(super) fn read_preferences(inputs: &LossInputs, objective: Objective) -> Result<Preferences> {
    let reason = format!("the objective {objective}");
    let field = |name, tensor| required(name, tensor, &reason);
    let offsets = field("prompt_offsets", inputs.prompt_offsets)?;
    let prompt_offsets = read_offsets(offsets)?;
    let (num_prompts, num_responses) = (prompt_offsets.len() as i64 - 1, prompt_offsets[prompt_offsets.len() - 1]);

    let lambda = field("lambda", inputs.lambda)?;
    let num_dimensions = match lambda.size()[..] {
        [prompts, dimensions] if prompts == num_prompts && dimensions > 0 => dimensions,
        _ => {
            return invalid(format!(
                "lambda has shape {:?}, but it must have shape [{num_prompts}, dimensions], with at least one dimension",
                lambda.size()
            ));
        }
    };
    let shape = [num_dimensions, num_responses as i64];
    let pi_target = field("pi_target", inputs.pi_target)?;
    check_shape("pi_target", pi_target, &shape)?;
    let pi_target = matrix(read_floats("pi_target", pi_target)?, shape)?;
    let mask = match inputs.target_mask {
        None => Array2::from_elem(pi_target.dim(), true),
        Some(mask) => {
            check_shape("target_mask", mask, &shape)?;
            matrix(read_bools("target_mask", mask)?, shape)?
        }
    };
    let preferences = Preferences {
        ranks: match inputs.ranks {
            None => ranks_of(&pi_target, &mask, &prompt_offsets),
            Some(ranks) => read_ranks(ranks, &mask, &shape)?,
        },
        prompt_offsets,
        sequence_index: matrix(read_sequence_index(inputs, &shape)?, shape)?,
        pi_target,
        mask,
        lambda: matrix(read_lambda(lambda)?, [num_prompts, num_dimensions])?,
    };
    check_renormalized(&preferences)?;
    Ok(preferences)
}

fn read_ranks(ranks: &Tensor, mask: &Array2<bool>, shape: &[i64; 2]) -> Result<Array2<i64>> {
    check_shape("ranks", ranks, shape)?;
    let ranks = matrix(read_indices("ranks", ranks, i64::MAX)?, *shape)?;
    if let Some(((k, column), _)) = mask.indexed_iter().find(|(at, rated)| **rated && ranks[*at] == 0) {
        return invalid(format!(
            "ranks is 0 at dimension {k} and response {column}, but the dimension rates this response: ranks count from 1"
        ));
    }
    Ok(ranks)
}

/// Shapes values that a check of their tensor has counted.
fn matrix<T>(values: Vec<T>, [rows, columns]: [i64; 2]) -> Result<Array2<T>> {
    Array2::from_shape_vec((rows as usize, columns as usize), values)
        .map_err(|error| Error::InvalidArgument(error.to_string()))
}

/// Rejects a λ that is not λ′: the collator renormalises it, so that loss and adapter see the same.
fn check_renormalized(preferences: &Preferences) -> Result<()> {
    for (prompt, lambda) in preferences.lambda.rows().into_iter().enumerate() {
        let outside = |k: &usize| lambda[*k] > 0.0 && !preferences.counts(prompt, *k);
        if let Some(k) = (0..lambda.len()).find(outside) {
            return invalid(format!(
                "lambda of prompt {prompt} is {} at dimension {k}, which rates fewer than two of its responses: pass the \
                 lambda of the batch, or of renormalize_lambda",
                lambda[k]
            ));
        }
        let sum = lambda.sum();
        if sum > 0.0 && (sum - 1.0).abs() > LAMBDA_SUM_TOLERANCE {
            return invalid(format!(
                "lambda of prompt {prompt} sums to {sum}, but it must sum to 1, or be 0: pass the lambda of the batch, or \
                 of renormalize_lambda"
            ));
        }
    }
    Ok(())
}

/// Returns λ′ `[B, M]` of a batch whose λ is drawn after it was collated.
///
/// # Shapes
///
/// `prompt_offsets`: `[B + 1]`, `target_mask`: `[M, C]`, as in the batch; `lambda`: `[B, M]`. The result is float32, in
/// main memory.
///
/// # Equation
///
/// λ′_k = λ_k / Σ_{j counts} λ_j if k counts, else 0 (docs/method.md, "Missing ratings").
///
/// # Errors
///
/// Returns an error if a tensor has a wrong shape or dtype, or λ is negative or not finite; and errors from libtorch.
pub fn renormalize_lambda(prompt_offsets: &Tensor, target_mask: &Tensor, lambda: &Tensor) -> Result<Tensor> {
    let offsets = read_offsets(prompt_offsets)?;
    let (num_prompts, num_responses) = (offsets.len() - 1, offsets[offsets.len() - 1]);
    let num_dimensions = match target_mask.size()[..] {
        [dimensions, responses] if responses == num_responses as i64 => dimensions,
        _ => {
            return invalid(format!(
                "target_mask has shape {:?}, but it must have shape [dimensions, {num_responses}]",
                target_mask.size()
            ));
        }
    };
    let shape = [num_prompts as i64, num_dimensions];
    check_shape("lambda", lambda, &shape)?;
    let (mask, lambda) = (read_bools("target_mask", target_mask)?, read_lambda(lambda)?);
    let mut renormalized = Vec::with_capacity(lambda.len());
    for (prompt, lambda) in lambda.chunks(num_dimensions.max(1) as usize).enumerate() {
        let rated = |k: usize| &mask[k * num_responses..][offsets[prompt]..offsets[prompt + 1]];
        let counts = |k| rated(k).iter().filter(|rated| **rated).nth(1).is_some();
        renormalized.extend(crate::lambda::renormalized(lambda, &(0..lambda.len()).map(counts).collect::<Vec<_>>()));
    }
    Ok(Tensor::f_from_slice(&renormalized)?.f_reshape(shape)?)
}

fn read_offsets(offsets: &Tensor) -> Result<Vec<usize>> {
    check_list("prompt_offsets", offsets)?;
    let values = read_indices("prompt_offsets", offsets, i64::MAX)?;
    if values.first() != Some(&0) || !values.is_sorted() {
        return invalid(
            "prompt_offsets must begin with 0 and never fall: it holds the index of each prompt's first response"
                .into(),
        );
    }
    Ok(values.into_iter().map(|offset| offset as usize).collect())
}

fn read_lambda(lambda: &Tensor) -> Result<Vec<f64>> {
    let values = read_floats("lambda", lambda)?;
    if let Some(at) = values.iter().position(|weight| !(weight.is_finite() && *weight >= 0.0)) {
        let dimensions = values.len() / lambda.size()[0] as usize;
        return invalid(format!(
            "lambda of prompt {} is {} at dimension {}, but it must be a finite number of at least 0",
            at / dimensions,
            values[at],
            at % dimensions
        ));
    }
    Ok(values)
}

fn read_sequence_index(inputs: &LossInputs, shape: &[i64; 2]) -> Result<Vec<usize>> {
    let [num_dimensions, num_responses] = *shape;
    match inputs.sequence_index {
        Some(index) => {
            check_shape("sequence_index", index, shape)?;
            let values = read_indices("sequence_index", index, inputs.num_sequences)?;
            Ok(values.into_iter().map(|sequence| sequence as usize).collect())
        }
        None if num_responses == inputs.num_sequences => {
            Ok((0..num_dimensions).flat_map(|_| 0..num_responses as usize).collect())
        }
        None => invalid(format!(
            "sequence_index is missing: prompt_offsets has {num_responses} responses, but there are {} sequences",
            inputs.num_sequences
        )),
    }
}
