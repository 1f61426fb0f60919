//! Checks of the loss's inputs and options, and copies of the small ones in main memory.

use tch::Tensor;

use super::inputs::{LossInputs, LossOptions};
use super::listwise::Listwise;
use crate::log_probs::Wants;
use crate::log_probs::checks::{check_list, check_shape, invalid, read_bools, read_floats, read_indices, required};
use crate::{Objective, Result};

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
    Ok(Listwise {
        num_dimensions: num_dimensions as usize,
        prompt_offsets,
        sequence_index: read_sequence_index(inputs, &shape)?,
        pi_target: read_floats("pi_target", pi_target)?,
        mask,
        lambda: read_lambda(lambda)?,
        paper_exact,
    })
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
