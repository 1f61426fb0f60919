//! Stage 7: log-probs, reference, targets, λ → loss, metrics and gradient.
//!
//! The forward reduces the batch to one number per sequence and evaluates the objective on these in closed form. The
//! backward needs one scalar per sequence from the objective and does the rest in [`log_probs`](mod@crate::log_probs).
//!
//! | module | what |
//! |---|---|
//! | `inputs` | inputs and options |
//! | `outputs` | loss and metrics |
//! | `listwise` | the listwise objective, on one number per sequence |
//! | `read` | checks of the inputs |
//! | `objective` | each objective: loss, metrics, coefficients of the gradient |
//! | `context` | the backward |

mod inputs;
mod outputs;
mod listwise;
mod read;
mod objective;
mod context;

use self::context::Fingerprint;
use self::objective::{listwise_objective, sft_objective, tensor_of};
use self::read::{check_options, check_wants, read_listwise};
use crate::log_probs::{Forward, Wants, forward};
use crate::{Objective, Result};

pub use context::LossContext;
pub use inputs::{LossInputs, LossOptions};
pub use outputs::{ListwiseOutputs, LossOutputs};
pub use read::renormalize_lambda;

/// Computes the loss with its metrics, and a context for its backward if `options.wants` asks for gradients.
///
/// # Shapes
///
/// As in the ABI's `LossInputs` and `LossOutputs`; outputs are in main memory.
///
/// # Equation
///
/// Listwise: L = 1 / normaliser · Σ_prompts Σ_k λ'_k L^(k) (10), equal to (15) if every dimension rates the same
/// responses. SFT: L = −1 / normaliser · Σ_targets log p.
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
    // Checked before the projection, so that a wrong field fails at once.
    let listwise = match options.objective {
        Objective::Listwise => Some(read_listwise(inputs, options.paper_exact)?),
        Objective::Sft => None,
    };
    let Forward { token_log_probs, sequence_log_probs, projected } =
        forward(&inputs.into(), &options.into(), options.wants)?;
    let evaluated = match listwise {
        Some(listwise) => listwise_objective(&listwise, inputs, options, &sequence_log_probs, projected.as_ref())?,
        None => sft_objective(inputs, options, token_log_probs.as_ref())?,
    };
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
    let loss = tensor_of(&[evaluated.loss], &[])?;
    let outputs = LossOutputs { loss, token_log_probs, sequence_log_probs, listwise: evaluated.listwise };
    Ok((outputs, context))
}
