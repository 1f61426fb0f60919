//! Stage 7: log-probs, reference, targets, λ → loss, metrics and gradient.
//!
//! The forward reduces the batch to one number per sequence and evaluates the objective on these in closed form. The
//! backward needs one scalar per sequence (or per target token) from the objective and does the rest in
//! [`log_probs`](mod@crate::log_probs).
//!
//! | module | what |
//! |---|---|
//! | `inputs` | inputs and options |
//! | `outputs` | loss and metrics |
//! | `preferences` | targets, orders and λ′, in main memory |
//! | `read` | checks of the inputs |
//! | `objectives` | each objective: loss and gradient as a function of log-probs |
//! | `metrics` | accuracies and margins |
//! | `mixture` | the losses of all dimensions, mixed by λ′ |
//! | `context` | the backward |

mod inputs;
mod outputs;
mod preferences;
mod read;
mod objectives;
mod metrics;
mod mixture;
mod context;

use ndarray::{Array1, ArrayBase, Data, Dimension};
use tch::{Kind, Tensor};

use self::context::Fingerprint;
use self::mixture::{Evaluation, Scores, evaluate};
use self::objectives::{PreferenceObjective, preference_objective, sft};
use self::preferences::Preferences;
use self::read::{check_options, check_wants, read_num_tokens, read_preferences, read_reference};
use crate::log_probs::checks::invalid;
use crate::log_probs::partwise::{Coefficients, LogProbs, Parts, PartwiseLoss};
use crate::log_probs::{Forward, Wants, check_num_sequences, forward};
use crate::{Objective, Reduction, Result};

pub use context::LossContext;
pub use inputs::{LossInputs, LossOptions};
pub use outputs::{LossOutputs, PreferenceOutputs};
pub use read::renormalize_lambda;

/// Computes the loss with its metrics, and a context for its backward if `options.wants` asks for gradients.
///
/// # Shapes
///
/// As in the ABI's `LossInputs` and `LossOutputs`; outputs are in main memory.
///
/// # Equation
///
/// L = 1 / normaliser · Σ_prompts (Σ_k λ'_k L^(k) + `sft_weight` · NLL of the best response) (10), with L^(k) of the
/// objective (docs/method.md, "Objectives"); for `listwise` equal to (15) if every dimension rates the same responses.
/// `sft`: L = −1 / normaliser · Σ_targets log p.
///
/// # Numerics
///
/// Log-probs are computed in float32 (float64 for float64 inputs), everything after them in float64. NaN propagates.
///
/// # Errors
///
/// Returns an error if an input or option is missing, contradictory, of a wrong shape or dtype, or out of range; and
/// errors from libtorch.
pub fn loss_forward(inputs: &LossInputs, options: &LossOptions) -> Result<(LossOutputs, Option<LossContext>)> {
    let _no_grad = tch::no_grad_guard();
    check_options(options)?;
    check_wants(inputs, options.wants)?;
    check_num_sequences(inputs.num_sequences)?;
    // Read before the projection, so that a wrong field fails at once.
    let reference = read_reference(inputs, options.objective)?;
    let preferences = match preference_objective(options.objective) {
        Some(objective) => Some((objective, read_preferences(inputs, options.objective)?)),
        None => None,
    };
    let evaluate = |log_probs: LogProbs| match &preferences {
        Some((objective, preferences)) => {
            evaluate_preferences(*objective, preferences, &reference, inputs, options, log_probs)
        }
        None => evaluate_sft(options, log_probs.tokens),
    };
    let parts = match &preferences {
        Some((_, preferences)) => preferences.prompts(inputs.num_sequences as usize).map(Parts::Sequences),
        None => Some(Parts::Targets),
    };
    let coefficients = |log_probs: LogProbs| Ok(evaluate(log_probs)?.coefficients);
    let partwise = parts.map(|parts| PartwiseLoss { parts, coefficients: &coefficients });
    let forward = forward(&inputs.into(), &options.into(), options.wants, partwise.as_ref())?;
    let evaluated = evaluate(forward.log_probs())?;
    let Forward { token_log_probs, sequence_log_probs, projected } = forward;
    let context = if options.wants == Wants::default() {
        None
    } else {
        Some(LossContext {
            coefficients: evaluated.coefficients,
            projected,
            budget_bytes: options.logits_budget_bytes,
            wants: options.wants,
            fingerprint: Fingerprint::of(&inputs.into())?,
        })
    };
    let loss = Tensor::f_from_slice(&[evaluated.loss])?.f_squeeze()?;
    let outputs = LossOutputs { loss, token_log_probs, sequence_log_probs, preferences: evaluated.preferences };
    Ok((outputs, context))
}

/// A loss with its gradient, divided by the normaliser, and its metrics.
struct Evaluated {
    loss: f64,
    coefficients: Coefficients,
    preferences: Option<PreferenceOutputs>,
}

/// Evaluates a preference objective; its normaliser is the number of contributing prompts.
fn evaluate_preferences(
    objective: PreferenceObjective,
    preferences: &Preferences,
    reference: &Array1<f64>,
    inputs: &LossInputs,
    options: &LossOptions,
    log_probs: LogProbs,
) -> Result<Evaluated> {
    let policy = Array1::from(Vec::<f64>::try_from(&log_probs.sequences.f_to_kind(Kind::Double)?)?);
    let num_tokens = read_num_tokens(inputs, log_probs.sequence_lengths)?;
    check_means(options, preferences, num_tokens.as_ref())?;
    let mean_per_s = mean_per_s(options, num_tokens.as_ref(), policy.len())?;
    let scores = Scores { policy, reference: reference.clone(), mean_per_s };
    let evaluation = evaluate(objective, preferences, &scores, options);

    let normalizer = options.normalizer.unwrap_or(evaluation.num_contributing.max(1) as f64);
    let mut coefficients = &evaluation.grad / normalizer;
    if let (Some(_), Reduction::Mean, Some(num_tokens)) = (log_probs.tokens, options.reduction, &num_tokens) {
        coefficients /= &num_tokens.mapv(|number| number.max(1.0));
    }
    Ok(Evaluated {
        loss: evaluation.loss_sum / normalizer,
        coefficients: Coefficients::Sequences(coefficients.to_vec()),
        preferences: Some(outputs_of(&evaluation)?),
    })
}

/// Rejects a sequence without tokens if the objective needs its mean.
fn check_means(options: &LossOptions, preferences: &Preferences, num_tokens: Option<&Array1<f64>>) -> Result<()> {
    let Some(num_tokens) = num_tokens.filter(|_| options.objective.reductions() == [Reduction::Mean]) else {
        return Ok(());
    };
    match preferences.sequence_index.iter().find(|sequence| num_tokens[**sequence] == 0.0) {
        Some(sequence) => invalid(format!(
            "sequence {sequence} has no target tokens, so it has no mean log-prob, which {} needs: leave this response out",
            options.objective
        )),
        None => Ok(()),
    }
}

/// Returns `[S]` ∂(mean log-prob)/∂s; None if neither loss nor metrics need the mean.
fn mean_per_s(
    options: &LossOptions,
    num_tokens: Option<&Array1<f64>>,
    num_sequences: usize,
) -> Result<Option<Array1<f64>>> {
    if options.sft_weight == 0.0 && options.objective != Objective::Orpo {
        return Ok(None);
    }
    match (options.reduction, num_tokens) {
        (Reduction::Mean, _) => Ok(Some(Array1::ones(num_sequences))),
        (Reduction::Sum, Some(num_tokens)) => Ok(Some(num_tokens.mapv(|number| 1.0 / number.max(1.0)))),
        (Reduction::Sum, None) => invalid(
            "sequence_num_tokens is missing: sft_weight needs it for the mean of sequence_log_probs that are sums"
                .into(),
        ),
    }
}

fn outputs_of(evaluation: &Evaluation) -> Result<PreferenceOutputs> {
    Ok(PreferenceOutputs {
        rewards: tensor_of(&evaluation.rewards)?,
        prompt_losses: tensor_of(&evaluation.prompt_losses)?,
        dimension_losses: tensor_of(&evaluation.dimension_losses)?,
        dimension_mask: tensor_of(&evaluation.dimension_mask)?,
        accuracies: tensor_of(&evaluation.accuracies)?,
        dimension_accuracies: tensor_of(&evaluation.dimension_accuracies)?,
        margins: tensor_of(&evaluation.margins)?,
        sft_losses: evaluation.sft_losses.as_ref().map(tensor_of).transpose()?,
    })
}

/// Evaluates `sft`; its normaliser is the number of target tokens.
fn evaluate_sft(options: &LossOptions, token_log_probs: Option<&Tensor>) -> Result<Evaluated> {
    let Some(token_log_probs) = token_log_probs else {
        return invalid(
            "the objective sft is a mean over tokens, but sequence_log_probs were given: give hidden and lm_head, or logits"
                .into(),
        );
    };
    let term = sft(token_log_probs)?;
    let normalizer = options.normalizer.unwrap_or(term.num_tokens.max(1) as f64);
    Ok(Evaluated {
        loss: term.loss_sum / normalizer,
        coefficients: Coefficients::Tokens(term.grad.iter().map(|grad| grad / normalizer).collect()),
        preferences: None,
    })
}

/// Copies numbers to a tensor of the same shape, in main memory.
fn tensor_of<T, S, D>(values: &ArrayBase<S, D>) -> Result<Tensor>
where
    T: tch::kind::Element + Clone,
    S: Data<Elem = T>,
    D: Dimension,
{
    let shape: Vec<i64> = values.shape().iter().map(|size| *size as i64).collect();
    let values: Vec<T> = values.iter().cloned().collect();
    Ok(Tensor::f_from_slice(&values)?.f_reshape(&shape)?)
}
