//! The objectives as functions of log-probs: loss, metrics and coefficients of the gradient.

use tch::{Kind, Tensor};

use super::inputs::{LossInputs, LossOptions};
use super::listwise::Listwise;
use super::outputs::ListwiseOutputs;
use super::read::read_reference;
use crate::log_probs::Projected;
use crate::log_probs::checks::invalid;
use crate::{Reduction, Result};

/// Result of an objective.
pub(super) struct Evaluated {
    pub(super) loss: f64,
    /// `[S]` ∂loss/∂(log-prob of each token of the sequence), or ∂loss/∂s if sequence log-probs came in.
    pub(super) coefficients: Vec<f64>,
    pub(super) listwise: Option<ListwiseOutputs>,
}

/// λ-DPO, and pairwise DPO as its case N = 2.
pub(super) fn listwise_objective(
    listwise: &Listwise,
    inputs: &LossInputs,
    options: &LossOptions,
    sequence_log_probs: &Tensor,
    projected: Option<&Projected>,
) -> Result<Evaluated> {
    let policy = Vec::<f64>::try_from(&sequence_log_probs.f_to_kind(Kind::Double)?)?;
    let reference = read_reference(inputs)?;
    let rewards: Vec<f64> = policy.iter().zip(&reference).map(|(s, s_ref)| options.beta * (s - s_ref)).collect(); // (17)
    let evaluation = listwise.evaluate(&rewards);

    let normalizer = options.normalizer.unwrap_or(evaluation.num_contributing.max(1) as f64);
    let scale = options.beta / normalizer;
    let mut coefficients: Vec<f64> = evaluation.grad_rewards.iter().map(|grad| grad * scale).collect();
    if let (Some(projected), Reduction::Mean) = (projected, options.reduction) {
        let lengths = &projected.plan.sequence_lengths;
        coefficients.iter_mut().zip(lengths).for_each(|(c, length)| *c /= (*length).max(1) as f64);
    }
    let (b, m) = (listwise.num_prompts() as i64, listwise.num_dimensions as i64);
    let outputs = ListwiseOutputs {
        rewards: tensor_of(&rewards, &[inputs.num_sequences])?,
        prompt_losses: tensor_of(&evaluation.prompt_losses, &[b])?,
        dimension_losses: tensor_of(&evaluation.dimension_losses, &[b, m])?,
        dimension_mask: Tensor::f_from_slice(&evaluation.dimension_mask)?.f_reshape([b, m])?,
        accuracies: tensor_of(&evaluation.accuracies, &[b])?,
        dimension_accuracies: tensor_of(&evaluation.dimension_accuracies, &[b, m])?,
        margins: tensor_of(&evaluation.margins, &[b])?,
    };
    Ok(Evaluated { loss: evaluation.loss_sum / normalizer, coefficients, listwise: Some(outputs) })
}

/// Mean negative log-likelihood of the target tokens.
pub(super) fn sft_objective(
    inputs: &LossInputs,
    options: &LossOptions,
    token_log_probs: Option<&Tensor>,
) -> Result<Evaluated> {
    let Some(token_log_probs) = token_log_probs else {
        return invalid(
            "the sft objective is a mean over tokens, but sequence_log_probs were given: give hidden and lm_head, or logits"
                .into(),
        );
    };
    let num_tokens = token_log_probs.size()[0];
    let normalizer = options.normalizer.unwrap_or(num_tokens.max(1) as f64);
    let sum = token_log_probs.f_sum(Kind::Double)?.f_double_value(&[])?;
    Ok(Evaluated {
        // 0, not −0, without tokens.
        loss: (0.0 - sum) / normalizer,
        coefficients: vec![-1.0 / normalizer; inputs.num_sequences as usize],
        listwise: None,
    })
}

/// Copies numbers to a tensor of this shape, in main memory.
pub(super) fn tensor_of(values: &[f64], shape: &[i64]) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(values)?.f_reshape(shape)?)
}
