//! λ-DPO's listwise loss of one dimension.

use super::cross_entropy::cross_entropy;
use super::{Responses, Term};
use crate::LossOptions;

/// Added to the targets in paper-exact mode (Appendix B).
const PAPER_EPSILON: f64 = 1e-10;

/// The cross-entropy between a dimension's target distribution and the policy's listwise distribution.
///
/// # Equation
///
/// L^(k) = −Σ p^(k) log P_θ (8), (20), with P_θ = softmax(r) (7), (19); ∂L^(k)/∂s = β (P_θ − p^(k)) (29).
pub(super) fn listwise(responses: &Responses, options: &LossOptions) -> Term {
    let epsilon = if options.paper_exact { PAPER_EPSILON } else { 0.0 };
    let targets = &responses.targets + epsilon;
    cross_entropy(&responses.rewards(options.beta), &targets).through(options.beta)
}
