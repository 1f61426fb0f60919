//! SimPO's loss of pairs.

use super::pairs::{mean_over_pairs, negative_log_sigmoid};
use super::{Responses, Term};
use crate::LossOptions;

/// SimPO (Meng et al. 2024, eq. 6): no reference, means over tokens, and a margin γ = `simpo_gamma`.
///
/// # Equation
///
/// f(Δs) = −log σ(β Δs − γ).
pub(super) fn simpo(responses: &Responses, options: &LossOptions) -> Term {
    let rewards = options.beta * &responses.policy;
    mean_over_pairs(responses, &rewards, |delta| negative_log_sigmoid(delta - options.simpo_gamma))
        .through(options.beta)
}
