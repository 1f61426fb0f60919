//! The hinge loss of pairs.

use super::pairs::{Scalar, mean_over_pairs};
use super::{Responses, Term};
use crate::LossOptions;

/// The hinge of SLiC (Zhao et al. 2023) on DPO's rewards (RSO, Liu et al. 2023).
///
/// # Equation
///
/// f(Δr) = max(0, 1 − Δr), whose derivative is 0 at the kink.
pub(super) fn hinge(responses: &Responses, options: &LossOptions) -> Term {
    let f = |delta: f64| match 1.0 - delta {
        missing if missing > 0.0 => Scalar { loss: missing, slope: -1.0 },
        missing if missing <= 0.0 => Scalar { loss: 0.0, slope: 0.0 },
        nan => Scalar { loss: nan, slope: nan },
    };
    mean_over_pairs(responses, &responses.rewards(options.beta), f).through(options.beta)
}
