//! Stage 4: [`TokenizedSample`]s and λ → [`Batch`].
//!
//! All layouts are lists of rows, rows are lists of segments, and a segment is a prompt followed by some of its
//! responses. Layouts differ only in the list of rows, not in how a row is written.

mod batch;
mod rows;
mod text;
mod targets;

use tch::Tensor;

use self::rows::{offsets, rows, sequences};
use self::targets::ListwiseTargets;
use self::text::Text;
use crate::tokenize::TokenizedSample;
use crate::{Error, Result};

pub use batch::{Batch, CollateOptions, DEFAULT_PAD_TO_MULTIPLE_OF, IGNORE_INDEX};

/// Lays out samples as tensors and renormalises λ over the dimensions that count for each prompt.
///
/// `lambda` is `[B, M]` row-major, as drawn; it is empty for conversations (M = 0). In the expanded layout a sample
/// without dimensions has one row per response. Packed rows are filled first-fit, the longest prompt first; prompts
/// keep the caller's order in the batch. The first token of a response to an empty prompt has no predictor and is not a
/// target.
///
/// # Shapes
///
/// As in the ABI's `Batch`. Rows are padded on the right to the length of the longest, rounded up to a multiple of
/// `pad_to_multiple_of`.
///
/// # Errors
///
/// Returns an error if there are no samples, samples differ in M or are inconsistent, or λ has the wrong length or a
/// number that is negative or not finite.
pub fn collate(samples: &[&TokenizedSample], lambda: &[f64], options: &CollateOptions) -> Result<Batch> {
    let num_dimensions = check(samples, lambda, options)?;
    let sequences = sequences(samples, num_dimensions, options.layout);
    let rows = rows(samples, &sequences, options);
    let mut text = Text::new(samples, &rows, &sequences, options);
    let predicted = text.targets();
    let targets = ListwiseTargets::new(samples, lambda, num_dimensions, options.layout);
    let (b, m, c) = (samples.len() as i64, num_dimensions as i64, targets.num_responses as i64);

    Ok(Batch {
        input_ids: text.input_ids(options.pad_token_id)?,
        attention_mask: text.attention_mask()?,
        position_ids: text.position_ids()?,
        labels: text.labels()?,
        prompt_ids: text.prompt_ids()?,
        sequence_ids: text.sequence_ids()?,
        target_positions: Tensor::f_from_slice(&predicted.positions)?,
        target_ids: Tensor::f_from_slice(&predicted.ids)?,
        target_sequences: Tensor::f_from_slice(&predicted.sequences)?,
        sequence_num_tokens: Tensor::f_from_slice(&predicted.num_tokens)?,
        sequence_prompts: list(sequences.iter().map(|sequence| sequence.prompt as i64))?,
        sequence_responses: list(
            sequences
                .iter()
                .map(|sequence| samples[sequence.prompt].responses[sequence.response].response_index as i64),
        )?,
        prompt_offsets: list(offsets(samples).into_iter().map(|offset| offset as i64))?,
        sequence_index: Tensor::f_from_slice(&targets.sequence_index)?.f_reshape([m, c])?,
        pi_target: Tensor::f_from_slice(&targets.pi_target)?.f_reshape([m, c])?,
        target_mask: Tensor::f_from_slice(&targets.mask)?.f_reshape([m, c])?,
        ranks: Tensor::f_from_slice(&targets.ranks)?.f_reshape([m, c])?,
        lambda: Tensor::f_from_slice(&targets.lambda)?.f_reshape([b, m])?,
        record_indices: list(samples.iter().map(|sample| sample.record_index as i64))?,
        num_contributing: targets.num_contributing,
    })
}

/// Checks the arguments and returns M.
fn check(samples: &[&TokenizedSample], lambda: &[f64], options: &CollateOptions) -> Result<usize> {
    let Some(first) = samples.first() else {
        return invalid("a batch needs at least one sample, but none were given".into());
    };
    if options.pad_to_multiple_of == 0 {
        return invalid("pad_to_multiple_of is 0, but it must be at least 1".into());
    }
    let m = first.pi_target.nrows();
    for sample in samples {
        let record = sample.record_index;
        if sample.pi_target.nrows() != m {
            return invalid(format!(
                "record {record} has {} dimensions, but record {} of the same batch has {m}: convert all with the same \
                 dimensions",
                sample.pi_target.nrows(),
                first.record_index
            ));
        }
        if m > 0 && sample.pi_target.ncols() != sample.responses.len() {
            return invalid(format!(
                "record {record} has {} responses, but its pi_target has {} columns",
                sample.responses.len(),
                sample.pi_target.ncols()
            ));
        }
        if sample.ranks.dim() != sample.pi_target.dim() {
            return invalid(format!(
                "record {record} has ranks of shape {:?}, but its pi_target has shape {:?}",
                sample.ranks.shape(),
                sample.pi_target.shape()
            ));
        }
        for (i, response) in sample.responses.iter().enumerate() {
            if response.is_target.as_ref().is_some_and(|is_target| is_target.len() != response.ids.len()) {
                return invalid(format!("response {i} of record {record}: is_target and ids differ in length"));
            }
        }
    }
    if lambda.len() != samples.len() * m {
        return invalid(format!(
            "lambda has {} numbers, but {} samples of {m} dimensions need {}",
            lambda.len(),
            samples.len(),
            samples.len() * m
        ));
    }
    if let Some(at) = lambda.iter().position(|weight| !(weight.is_finite() && *weight >= 0.0)) {
        return invalid(format!(
            "lambda of record {} is {} at dimension {}, but it must be a finite number of at least 0",
            samples[at / m].record_index,
            lambda[at],
            at % m
        ));
    }
    Ok(m)
}

fn list(values: impl Iterator<Item = i64>) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(&values.collect::<Vec<_>>())?)
}

fn invalid<T>(message: String) -> Result<T> {
    Err(Error::InvalidArgument(message))
}
