//! DPO's loss of pairs, with label smoothing.

use super::pairs::{Scalar, mean_over_pairs, negative_log_sigmoid};
use super::{Responses, Term};
use crate::LossOptions;

/// DPO (Rafailov et al. 2023, eq. 7; here (6)), and with ε = `label_smoothing` > 0 its conservative form (Mitchell 2023), in
/// which a preference is wrong with probability ε.
///
/// # Equation
///
/// f(Δr) = −(1 − ε) log σ(Δr) − ε log σ(−Δr).
pub(super) fn sigmoid(responses: &Responses, options: &LossOptions) -> Term {
    let epsilon = options.label_smoothing;
    let f = |delta: f64| {
        let (right, wrong) = (negative_log_sigmoid(delta), negative_log_sigmoid(-delta));
        Scalar {
            loss: (1.0 - epsilon) * right.loss + epsilon * wrong.loss,
            slope: (1.0 - epsilon) * right.slope - epsilon * wrong.slope,
        }
    };
    mean_over_pairs(responses, &responses.rewards(options.beta), f).through(options.beta)
}
