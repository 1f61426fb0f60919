//! Stage 6: hidden states and LM head → token and sequence log-probs, a chunk of target positions at a time.
//!
//! Only positions that predict a target go through the vocabulary projection, and logits exist for one chunk at a time.
//! The gradient needs one scalar per response (docs/method.md, "Loss and gradient"). So if the LM head is frozen, the
//! forward keeps the unscaled ∂/∂hidden of each chunk, which is not projected again. If it is trained, logits are kept if
//! all of them fit the budget. If only those of a prompt do, its gradients are computed as soon as its log-probs are
//! known, since they depend on no others; otherwise the backward computes the logits again.

mod inputs;
pub(crate) mod checks;
pub(crate) mod partwise;
mod targets;
mod upload;
pub(crate) mod projection;

use tch::{Device, Kind, Tensor};

use self::checks::{check_floating, check_shape, invalid};
use self::partwise::{LogProbs, PartwiseLoss};
use self::projection::{Kept, Pass, Projection};
use self::targets::TargetPlan;
use crate::{Reduction, Result};

pub use inputs::{DEFAULT_LOGITS_BUDGET_BYTES, LogProbInputs, LogProbOptions, LossGradients, Wants};

/// Far more sequences than any batch has; bounds what a garbage value can allocate.
const MAX_SEQUENCES: i64 = 1 << 24;

/// Computes token log-probs and sequence log-probs s, without a loss and without keeping anything for a backward.
///
/// # Shapes
///
/// Returns `[K]` token log-probs (None if sequence log-probs were given) and `[S]` sequence log-probs: sums, or means
/// under the mean reduction, and 0 for a sequence without targets. Both are in main memory, whatever the device of the
/// inputs.
///
/// # Numerics
///
/// float64 for float64 inputs, float32 for all others; tokens are summed in float64.
///
/// # Errors
///
/// Returns an error if an input is missing, redundant, of a wrong shape or dtype, or has an index out of range; and
/// errors from libtorch.
pub fn log_probs<'a>(
    inputs: impl Into<LogProbInputs<'a>>,
    options: impl Into<LogProbOptions>,
) -> Result<(Option<Tensor>, Tensor)> {
    let _no_grad = tch::no_grad_guard();
    let forward = forward(&inputs.into(), &options.into(), Wants::default(), None)?;
    Ok((forward.token_log_probs, forward.sequence_log_probs))
}

/// Log-probs of a batch, and the state for a backward through them.
pub(crate) struct Forward {
    /// `[K]` in the accumulation dtype, in main memory; None if sequence log-probs were given.
    pub(crate) token_log_probs: Option<Tensor>,
    /// `[S]` in the accumulation dtype, in main memory.
    pub(crate) sequence_log_probs: Tensor,
    /// None if sequence log-probs were given.
    pub(crate) projected: Option<Projected>,
}

impl Forward {
    /// Returns what a loss needs of it.
    pub(crate) fn log_probs(&self) -> LogProbs<'_> {
        LogProbs {
            tokens: self.token_log_probs.as_ref(),
            sequences: &self.sequence_log_probs,
            sequence_lengths: self.projected.as_ref().map(|projected| &projected.plan.sequence_lengths[..]),
        }
    }
}

/// State for a backward through the vocabulary projection.
#[derive(Debug)]
pub(crate) struct Projected {
    /// The targets.
    pub(crate) plan: TargetPlan,
    /// What the forward kept.
    pub(crate) kept: Kept,
}

/// Stage 6 for the loss. The caller has disabled autograd.
pub(crate) fn forward(
    inputs: &LogProbInputs,
    options: &LogProbOptions,
    wants: Wants,
    loss: Option<&PartwiseLoss>,
) -> Result<Forward> {
    check_num_sequences(inputs.num_sequences)?;
    match (Projection::new(inputs)?, inputs.sequence_log_probs) {
        (Some(_), Some(_)) => {
            invalid("sequence_log_probs was given beside hidden states or logits: give one or the other".into())
        }
        (None, None) => invalid(
            "there is nothing to compute log-probs from: give hidden and lm_head, or logits, or sequence_log_probs"
                .into(),
        ),
        (None, Some(finished)) => {
            check_floating("sequence_log_probs", finished)?;
            check_shape("sequence_log_probs", finished, &[inputs.num_sequences])?;
            let kind = if finished.kind() == Kind::Double { Kind::Double } else { Kind::Float };
            let mut sequence_log_probs = Tensor::f_empty(finished.size(), (kind, Device::Cpu))?;
            sequence_log_probs.f_copy_(&finished.f_detach()?)?;
            Ok(Forward { token_log_probs: None, sequence_log_probs, projected: None })
        }
        (Some(projection), None) => {
            let device = projection.input().device();
            let plan = TargetPlan::new(inputs, projection.num_positions(), projection.vocab_size(), device)?;
            let pass = Pass { plan: &plan, budget_bytes: options.logits_budget_bytes, wants };
            // The only copy from the device: everything after it is a few numbers per sequence.
            let reduced = |sorted: &Tensor| -> Result<(Tensor, Tensor)> {
                let tokens = plan.unsort(sorted)?.f_to_device(Device::Cpu)?;
                let sequences = reduce(&tokens, &plan, options.reduction)?;
                Ok((tokens, sequences))
            };
            let coefficients = |sorted: &Tensor, loss: &PartwiseLoss| {
                let (tokens, sequences) = reduced(sorted)?;
                let sequence_lengths = Some(&plan.sequence_lengths[..]);
                let found =
                    (loss.coefficients)(LogProbs { tokens: Some(&tokens), sequences: &sequences, sequence_lengths })?;
                Ok(plan.coefficients(&found))
            };
            let (sorted, kept) = match loss.and_then(|loss| Some((loss, projection.partwise(&pass, &loss.parts)?))) {
                Some((loss, chunks)) => {
                    projection.forward_partwise(&pass, &chunks, &|sorted| coefficients(sorted, loss))?
                }
                None => projection.forward(&pass)?,
            };
            let (token_log_probs, sequence_log_probs) = reduced(&sorted)?;
            Ok(Forward {
                token_log_probs: Some(token_log_probs),
                sequence_log_probs,
                projected: Some(Projected { plan, kept }),
            })
        }
    }
}

/// Rejects a number of sequences that is no number of sequences, before anything is allocated by it.
pub(crate) fn check_num_sequences(num_sequences: i64) -> Result<()> {
    if (0..=MAX_SEQUENCES).contains(&num_sequences) {
        return Ok(());
    }
    invalid(format!("num_sequences is {num_sequences}, but it must be at least 0 and at most {MAX_SEQUENCES}"))
}

/// Reduces `[K]` token log-probs to `[S]` sums or means, in main memory.
fn reduce(token_log_probs: &Tensor, plan: &TargetPlan, reduction: Reduction) -> Result<Tensor> {
    let kind = token_log_probs.kind();
    let mut sums = Tensor::f_zeros([plan.sequence_lengths.len() as i64], (Kind::Double, Device::Cpu))?;
    let _ = sums.f_index_add_(0, &plan.sequences, &token_log_probs.f_to_kind(Kind::Double)?)?;
    if reduction == Reduction::Mean {
        let lengths: Vec<f64> = plan.sequence_lengths.iter().map(|length| (*length).max(1) as f64).collect();
        let _ = sums.f_div_(&Tensor::f_from_slice(&lengths)?)?;
    }
    Ok(sums.f_to_kind(kind)?)
}
