//! ORPO's loss of pairs.

use super::pairs::{mean_over_pairs, negative_log_sigmoid, shares_of_wins};
use super::{Responses, Term};
use crate::LossOptions;

/// ORPO (Hong et al. 2024, eq. 6 and 7, where β is λ): the likelihood of the chosen response, and the ratio of the odds
/// of both, with means over tokens and no reference.
///
/// # Equation
///
/// L = −s_w − β log σ(o_w − o_l), with the log-odds o = s − log(1 − e^s), do/ds = 1 / (1 − e^s).
pub(super) fn orpo(responses: &Responses, options: &LossOptions) -> Term {
    let s = &responses.policy;
    // 1 − e^s without cancellation near s = 0.
    let complement = s.mapv(|s| -s.exp_m1());
    let log_odds = s - &complement.ln();
    let odds_ratio = mean_over_pairs(responses, &log_odds, negative_log_sigmoid);
    let wins = shares_of_wins(&responses.ranks);
    Term {
        loss: options.beta * odds_ratio.loss - (&wins * s).sum(),
        grad: options.beta * odds_ratio.grad / complement - wins,
    }
}
