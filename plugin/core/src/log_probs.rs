//! Stage 6: hidden states and LM head → token and sequence log-probs, a chunk of target positions at a time.
//!
//! Only positions that predict a target go through the vocabulary projection, and logits never live for more than a
//! chunk. The gradient needs one scalar per response (METHOD, "Loss and gradient"), so with a frozen LM head each chunk
//! leaves its unscaled ∂/∂hidden behind and is never projected again; with a trained one its logits are kept where they
//! fit the budget, and are computed again where they do not.

pub(crate) mod checks;
pub(crate) mod projection;
pub(crate) mod targets;

use tch::{Kind, Tensor};

use self::checks::{check_floating, check_shape, invalid};
use self::projection::{Kept, Pass, Projection};
use self::targets::TargetPlan;
use crate::{LossInputs, LossOptions, Reduction, Result, Wants};

/// Bytes of logits that may be alive at once, where a caller has no wish of its own.
pub const DEFAULT_LOGITS_BUDGET_BYTES: usize = 256 << 20;

/// Far more sequences than any batch has; a number of garbage beyond it must not become an allocation.
const MAX_SEQUENCES: i64 = 1 << 24;

/// Token log-probs and sequence log-probs s, without a loss and without anything kept for a backward.
///
/// # Shapes
///
/// Gives `[K]` token log-probs (None where sequence log-probs came in) and `[S]` sequence log-probs: sums, or means under
/// the mean reduction, and 0 for a sequence without targets.
///
/// # Numerics
///
/// float64 for float64 inputs, else float32, whatever the inputs' dtype; tokens are summed in float64.
///
/// # Errors
///
/// Inputs that are missing, given twice, of a wrong shape or dtype, or an index out of range; libtorch's failures.
pub fn log_probs(inputs: &LossInputs, options: &LossOptions) -> Result<(Option<Tensor>, Tensor)> {
    let _no_grad = tch::no_grad_guard();
    let forward = forward(inputs, options, Wants::default())?;
    Ok((forward.token_log_probs, forward.sequence_log_probs))
}

/// The log-probs of a batch, and what a backward through them needs.
pub(crate) struct Forward {
    /// `[K]` in the accumulation dtype; None where sequence log-probs came in.
    pub(crate) token_log_probs: Option<Tensor>,
    /// `[S]` in the accumulation dtype.
    pub(crate) sequence_log_probs: Tensor,
    /// None where sequence log-probs came in.
    pub(crate) projected: Option<Projected>,
}

/// What a backward through the vocabulary projection needs.
#[derive(Debug)]
pub(crate) struct Projected {
    /// The targets.
    pub(crate) plan: TargetPlan,
    /// What the forward left.
    pub(crate) kept: Kept,
}

/// Stage 6 for the loss; the caller has switched gradients off.
pub(crate) fn forward(inputs: &LossInputs, options: &LossOptions, wants: Wants) -> Result<Forward> {
    if !(0..=MAX_SEQUENCES).contains(&inputs.num_sequences) {
        return invalid(format!(
            "num_sequences is {}, but it must be at least 0 and at most {MAX_SEQUENCES}",
            inputs.num_sequences
        ));
    }
    match (Projection::new(inputs)?, inputs.sequence_log_probs) {
        (Some(_), Some(_)) => {
            invalid("sequence_log_probs was given beside hidden states or logits: give the one or the other".into())
        }
        (None, None) => invalid(
            "there is nothing to take log-probs from: give hidden and lm_head, or logits, or sequence_log_probs".into(),
        ),
        (None, Some(finished)) => {
            check_floating("sequence_log_probs", finished)?;
            check_shape("sequence_log_probs", finished, &[inputs.num_sequences])?;
            let kind = if finished.kind() == Kind::Double { Kind::Double } else { Kind::Float };
            let mut sequence_log_probs = Tensor::f_empty(finished.size(), (kind, finished.device()))?;
            sequence_log_probs.f_copy_(&finished.f_detach()?)?;
            Ok(Forward { token_log_probs: None, sequence_log_probs, projected: None })
        }
        (Some(projection), None) => {
            let device = projection.input().device();
            let plan = TargetPlan::new(inputs, projection.num_positions(), projection.vocab_size(), device)?;
            let pass = Pass { plan: &plan, budget_bytes: options.logits_budget_bytes, wants };
            let (token_log_probs, kept) = projection.forward(&pass)?;
            let sequence_log_probs = reduce(&token_log_probs, &plan, options.reduction)?;
            Ok(Forward {
                token_log_probs: Some(token_log_probs),
                sequence_log_probs,
                projected: Some(Projected { plan, kept }),
            })
        }
    }
}

/// `[S]` sums or means of `[K]` token log-probs.
fn reduce(token_log_probs: &Tensor, plan: &TargetPlan, reduction: Reduction) -> Result<Tensor> {
    let (device, kind) = (token_log_probs.device(), token_log_probs.kind());
    let mut sums = Tensor::f_zeros([plan.sequence_lengths.len() as i64], (Kind::Double, device))?;
    let _ = sums.f_index_add_(0, &plan.sequences, &token_log_probs.f_to_kind(Kind::Double)?)?;
    if reduction == Reduction::Mean {
        let lengths: Vec<f64> = plan.sequence_lengths.iter().map(|length| (*length).max(1) as f64).collect();
        let _ = sums.f_div_(&Tensor::f_from_slice(&lengths)?.f_to_device(device)?)?;
    }
    Ok(sums.f_to_kind(kind)?)
}
