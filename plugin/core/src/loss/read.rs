//! Checks of the loss's inputs and options, and copies of the small ones in main memory.

use tch::Tensor;

use super::inputs::{LossInputs, LossOptions};
use super::listwise::Listwise;
use crate::log_probs::Wants;
use crate::log_probs::checks::{check_list, check_shape, invalid, read_bools, read_floats, read_indices, required};
use crate::{Objective, Result};

/// How far a sum of λ′ may be from 1: bfloat16 holds it this exactly.
const LAMBDA_SUM_TOLERANCE: f64 = 1e-2;

/// Rejects a β or a normaliser that is not above 0.
pub(super) fn check_options(options: &LossOptions) -> Result<()> {
    if options.objective == Objective::Listwise && !(options.beta.is_finite() && options.beta > 0.0) {
        return invalid(format!("beta is {}, but it must be a finite number above 0", options.beta));
    }
    match options.normalizer {
        Some(normalizer) if !(normalizer.is_finite() && normalizer > 0.0) => {
            invalid(format!("normalizer is {normalizer}, but it must be a finite number above 0"))
        }
        _ => Ok(()),
    }
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
pub(super) fn read_reference(inputs: &LossInputs) -> Result<Vec<f64>> {
    match inputs.reference_log_probs {
        None => Ok(vec![0.0; inputs.num_sequences as usize]),
        Some(reference) => {
            check_shape("reference_log_probs", reference, &[inputs.num_sequences])?;
            read_floats("reference_log_probs", reference)
        }
    }
}

/// Copies the listwise fields to main memory.
pub(super) fn read_listwise(inputs: &LossInputs, paper_exact: bool) -> Result<Listwise> {
    let field = |name, tensor| required(name, tensor, "the listwise objective");
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
    let mask = match inputs.target_mask {
        None => vec![true; num_dimensions as usize * num_responses],
        Some(mask) => {
            check_shape("target_mask", mask, &shape)?;
            read_bools("target_mask", mask)?
        }
    };
    let listwise = Listwise {
        num_dimensions: num_dimensions as usize,
        prompt_offsets,
        sequence_index: read_sequence_index(inputs, &shape)?,
        pi_target: read_floats("pi_target", pi_target)?,
        mask,
        lambda: read_lambda(lambda)?,
        paper_exact,
    };
    check_renormalized(&listwise)?;
    Ok(listwise)
}

/// Rejects a λ that is not λ′: the collator renormalises it, so that loss and adapter see the same.
fn check_renormalized(listwise: &Listwise) -> Result<()> {
    for prompt in 0..listwise.num_prompts() {
        let lambda = listwise.lambda_of(prompt);
        let outside = |k: &usize| lambda[*k] > 0.0 && !listwise.counts(prompt, *k);
        if let Some(k) = (0..lambda.len()).find(outside) {
            return invalid(format!(
                "lambda of prompt {prompt} is {} at dimension {k}, which rates fewer than two of its responses: pass the \
                 lambda of the batch, or of renormalize_lambda",
                lambda[k]
            ));
        }
        let sum: f64 = lambda.iter().sum();
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
