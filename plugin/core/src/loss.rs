//! Stage 7: log-probs, reference, targets, λ → loss, metrics and gradient.
//!
//! The forward reduces the batch to one number per sequence and evaluates the objective on those in closed form; the
//! backward needs one scalar per sequence from it and does the rest in [`log_probs`](mod@crate::log_probs).

mod inputs;
mod listwise;

use tch::{Device, Kind, Tensor};

use self::inputs::{Fingerprint, check_options, check_wants, read_listwise, read_reference};
use self::listwise::Listwise;
use crate::log_probs::checks::invalid;
use crate::log_probs::projection::{Pass, Projection};
use crate::log_probs::{Forward, Projected, forward};
use crate::{Objective, Reduction, Result};

/// The gradients that a backward will be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// ∂/∂hidden
    pub hidden: bool,
    /// ∂/∂lm_head
    pub lm_head: bool,
    /// ∂/∂logits
    pub logits: bool,
    /// ∂/∂sequence_log_probs
    pub sequence_log_probs: bool,
}

/// Inputs of log-probs and loss; fields and shapes as in the ABI's `LossInputs`, absent ones None.
#[derive(Debug)]
pub struct LossInputs<'a> {
    /// `[R, T, H]` or `[R·T, H]`
    pub hidden: Option<&'a Tensor>,
    /// `[V, H]`
    pub lm_head: Option<&'a Tensor>,
    /// `[R, T, V]` or `[R·T, V]`
    pub logits: Option<&'a Tensor>,
    /// `[S]`
    pub sequence_log_probs: Option<&'a Tensor>,
    /// `[K]`
    pub target_positions: Option<&'a Tensor>,
    /// `[K]`
    pub target_ids: Option<&'a Tensor>,
    /// `[K]`
    pub target_sequences: Option<&'a Tensor>,
    /// S
    pub num_sequences: i64,
    /// `[S]`
    pub reference_log_probs: Option<&'a Tensor>,
    /// `[B + 1]`
    pub prompt_offsets: Option<&'a Tensor>,
    /// `[M, C]`
    pub sequence_index: Option<&'a Tensor>,
    /// `[M, C]`
    pub pi_target: Option<&'a Tensor>,
    /// `[M, C]` bool
    pub target_mask: Option<&'a Tensor>,
    /// `[B, M]`
    pub lambda: Option<&'a Tensor>,
}

/// How log-probs and loss are computed; fields as in the ABI's `LossOptions`.
#[derive(Clone, Copy, Debug)]
pub struct LossOptions {
    /// The objective.
    pub objective: Objective,
    /// The reduction.
    pub reduction: Reduction,
    /// β (17).
    pub beta: f64,
    /// What the loss is divided by; None takes this call's own count.
    pub normalizer: Option<f64>,
    /// Bytes of logits that may be alive at once; one position is always projected, however little that is.
    pub logits_budget_bytes: usize,
    /// Add 1e-10 to the targets (Appendix B).
    pub paper_exact: bool,
    /// Gradients that a backward will be asked for.
    pub wants: Wants,
}

/// Fields and shapes as in the ABI's `LossOutputs`.
#[derive(Debug)]
pub struct LossOutputs {
    /// `[]`
    pub loss: Tensor,
    /// `[K]`; None where sequence log-probs came in.
    pub token_log_probs: Option<Tensor>,
    /// `[S]`
    pub sequence_log_probs: Tensor,
    /// None for the SFT objective.
    pub listwise: Option<ListwiseOutputs>,
}

/// What only the listwise objective has; fields and shapes as in the ABI's `LossOutputs`.
#[derive(Debug)]
pub struct ListwiseOutputs {
    /// `[S]`
    pub rewards: Tensor,
    /// `[B]`
    pub prompt_losses: Tensor,
    /// `[B, M]`
    pub dimension_losses: Tensor,
    /// `[B, M]` bool
    pub dimension_mask: Tensor,
    /// `[B]`
    pub accuracies: Tensor,
    /// `[B, M]`
    pub dimension_accuracies: Tensor,
    /// `[B]`
    pub margins: Tensor,
}

/// Gradients; fields as in the ABI's `LossGradients`.
#[derive(Debug, Default)]
pub struct LossGradients {
    /// Shape and dtype of `hidden`.
    pub hidden: Option<Tensor>,
    /// `[V, H]`
    pub lm_head: Option<Tensor>,
    /// Shape and dtype of `logits`.
    pub logits: Option<Tensor>,
    /// `[S]`
    pub sequence_log_probs: Option<Tensor>,
}

/// What a backward needs from its forward (never the inputs: they come again). A context serves one backward.
#[derive(Debug)]
pub struct LossContext {
    /// `[S]` ∂loss/∂(log-prob of each token of the sequence), or ∂loss/∂s where sequence log-probs came in.
    coefficients: Vec<f64>,
    /// None where sequence log-probs came in.
    projected: Option<Projected>,
    budget_bytes: usize,
    wants: Wants,
    fingerprint: Fingerprint,
}

/// The loss with its metrics, and a context for its backward where `options.wants` asks for one.
///
/// # Shapes
///
/// As in the ABI's `LossInputs` and `LossOutputs`; outputs are on the device of hidden states, logits or sequence
/// log-probs.
///
/// # Equation
///
/// Listwise: L = 1 / normaliser · Σ_prompts Σ_k λ'_k L^(k) (10), equal to (15) where every dimension rates the same
/// responses. SFT: L = −1 / normaliser · Σ_targets log p.
///
/// # Numerics
///
/// Log-probs in float32 (float64 for float64 inputs), everything after them in float64. A NaN that comes in comes out.
///
/// # Errors
///
/// Inputs or options that are missing, contradictory, of a wrong shape or dtype, or out of range; libtorch's failures.
pub fn loss_forward(inputs: &LossInputs, options: &LossOptions) -> Result<(LossOutputs, Option<LossContext>)> {
    let _no_grad = tch::no_grad_guard();
    check_options(options)?;
    check_wants(inputs, options.wants)?;
    // Read before the projection, so that a wrong field costs no time.
    let listwise = match options.objective {
        Objective::Listwise => Some(read_listwise(inputs, options.paper_exact)?),
        Objective::Sft => None,
    };
    let Forward { token_log_probs, sequence_log_probs, projected } = forward(inputs, options, options.wants)?;
    let objective = match listwise {
        Some(listwise) => listwise_objective(&listwise, inputs, options, &sequence_log_probs, projected.as_ref())?,
        None => sft_objective(inputs, options, token_log_probs.as_ref())?,
    };
    let context = if options.wants == Wants::default() {
        None
    } else {
        Some(LossContext {
            coefficients: objective.coefficients,
            projected,
            budget_bytes: options.logits_budget_bytes,
            wants: options.wants,
            fingerprint: Fingerprint::of(inputs)?,
        })
    };
    let loss = on_device(&[objective.loss], &[], sequence_log_probs.device())?;
    let outputs = LossOutputs { loss, token_log_probs, sequence_log_probs, listwise: objective.listwise };
    Ok((outputs, context))
}

/// What an objective gives, whichever it is.
struct Evaluated {
    loss: f64,
    /// As in [`LossContext`].
    coefficients: Vec<f64>,
    listwise: Option<ListwiseOutputs>,
}

fn listwise_objective(
    listwise: &Listwise,
    inputs: &LossInputs,
    options: &LossOptions,
    sequence_log_probs: &Tensor,
    projected: Option<&Projected>,
) -> Result<Evaluated> {
    let policy = Vec::<f64>::try_from(&sequence_log_probs.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?)?;
    let reference = read_reference(inputs)?;
    let rewards: Vec<f64> = policy.iter().zip(&reference).map(|(s, s_ref)| options.beta * (s - s_ref)).collect(); // (17)
    let evaluation = listwise.evaluate(&rewards);

    let normalizer = options.normalizer.unwrap_or(evaluation.num_contributing.max(1) as f64);
    let mut coefficients = scaled(&evaluation.grad_rewards, options.beta / normalizer);
    if let (Some(projected), Reduction::Mean) = (projected, options.reduction) {
        let lengths = &projected.plan.sequence_lengths;
        coefficients.iter_mut().zip(lengths).for_each(|(c, length)| *c /= (*length).max(1) as f64);
    }
    let (device, b, m) = (sequence_log_probs.device(), listwise.num_prompts() as i64, listwise.num_dimensions as i64);
    let mask = Tensor::f_from_slice(&evaluation.dimension_mask)?.f_reshape([b, m])?.f_to_device(device)?;
    let outputs = ListwiseOutputs {
        rewards: on_device(&rewards, &[inputs.num_sequences], device)?,
        prompt_losses: on_device(&evaluation.prompt_losses, &[b], device)?,
        dimension_losses: on_device(&evaluation.dimension_losses, &[b, m], device)?,
        dimension_mask: mask,
        accuracies: on_device(&evaluation.accuracies, &[b], device)?,
        dimension_accuracies: on_device(&evaluation.dimension_accuracies, &[b, m], device)?,
        margins: on_device(&evaluation.margins, &[b], device)?,
    };
    Ok(Evaluated { loss: evaluation.loss_sum / normalizer, coefficients, listwise: Some(outputs) })
}

fn sft_objective(inputs: &LossInputs, options: &LossOptions, token_log_probs: Option<&Tensor>) -> Result<Evaluated> {
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
        // Not −0 where there is no token.
        loss: (0.0 - sum) / normalizer,
        coefficients: vec![-1.0 / normalizer; inputs.num_sequences as usize],
        listwise: None,
    })
}

impl LossContext {
    /// Gradients of `grad_output` · loss by the inputs that were wanted; `inputs` are those of the forward, unchanged.
    ///
    /// # Equation
    ///
    /// ∂L/∂s_i = β / normaliser · Σ_k λ'_k (P^(k)_i − p^(k)_i) (29), then ∂L/∂z_v = c_i (1[v = y] − softmax(z)_v) with
    /// c_i = ∂L/∂s_i, divided by the response's length where s is a mean.
    ///
    /// # Numerics
    ///
    /// Sums run in float32 (float64 for float64 inputs); gradients are returned in their inputs' dtypes.
    ///
    /// # Errors
    ///
    /// Inputs that differ from the forward's in shape, dtype or device; libtorch's failures.
    pub fn backward(self, inputs: &LossInputs, grad_output: f64) -> Result<LossGradients> {
        let _no_grad = tch::no_grad_guard();
        if Fingerprint::of(inputs)? != self.fingerprint {
            return invalid(
                "the inputs of the backward differ from those of its forward in shape, dtype or device: pass the same \
                 tensors again"
                    .into(),
            );
        }
        let Some(Projected { plan, kept }) = self.projected else {
            return grad_sequences(inputs, &self.coefficients, grad_output);
        };
        let Some(projection) = Projection::new(inputs)? else {
            return invalid("the backward was given neither hidden states nor logits".into());
        };
        let coefficients = plan.per_target(&scaled(&self.coefficients, grad_output));
        let pass = Pass { plan: &plan, budget_bytes: self.budget_bytes, wants: self.wants };
        let mut gradients = projection.backward(&pass, kept, &coefficients)?;
        let shaped = |grad: Option<Tensor>, like: Option<&Tensor>| -> Result<Option<Tensor>> {
            grad.zip(like).map(|(grad, like)| Ok(grad.f_reshape(like.size())?)).transpose()
        };
        gradients.hidden = shaped(gradients.hidden, inputs.hidden)?;
        gradients.logits = shaped(gradients.logits, inputs.logits)?;
        Ok(gradients)
    }
}

/// ∂L/∂s where sequence log-probs came in.
fn grad_sequences(inputs: &LossInputs, coefficients: &[f64], grad_output: f64) -> Result<LossGradients> {
    let grad = inputs.sequence_log_probs.map(|like| -> Result<Tensor> {
        Ok(Tensor::f_from_slice(&scaled(coefficients, grad_output))?
            .f_to_kind(like.kind())?
            .f_to_device(like.device())?)
    });
    Ok(LossGradients { sequence_log_probs: grad.transpose()?, ..LossGradients::default() })
}

fn scaled(values: &[f64], factor: f64) -> Vec<f64> {
    values.iter().map(|value| value * factor).collect()
}

fn on_device(values: &[f64], shape: &[i64], device: Device) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(values)?.f_reshape(shape)?.f_to_device(device)?)
}
