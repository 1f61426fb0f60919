//! IPO's loss of pairs.

use super::pairs::{Scalar, mean_over_pairs};
use super::{Responses, Term};
use crate::LossOptions;

/// IPO (Azar et al. 2023, eq. 17, where β is τ): a regression of the difference of log-ratios, so that it does not grow
/// without bound.
///
/// # Equation
///
/// f(Δ) = (Δ − 1/(2β))², Δ the difference of s − s^ref.
pub(super) fn ipo(responses: &Responses, options: &LossOptions) -> Term {
    let f = |delta: f64| {
        let residual = delta - 1.0 / (2.0 * options.beta);
        Scalar { loss: residual * residual, slope: 2.0 * residual }
    };
    mean_over_pairs(responses, &responses.log_ratios(), f)
}
