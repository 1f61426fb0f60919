//! The objectives: each a pure function of sequence log-probs, in float64, with its gradient in closed form.
//!
//! A *preference objective* is a loss over the responses that one dimension rates ([`Responses`]); the losses of a
//! prompt's dimensions are mixed by λ′ in [`mixture`](super::mixture). The likelihood of the best response is a term
//! that can be added to any of them. The objective `sft` has no preferences: it is a mean over target tokens.
//!
//! | module | what |
//! |---|---|
//! | `responses` | what a preference objective sees, and what it returns |
//! | `cross_entropy` | the loss of a softmax over rewards against a target distribution |
//! | `listwise` | λ-DPO (8) |
//! | `plackett_luce` | the likelihood of an order |
//! | `pairs` | the mean of a loss over the pairs that an order has |
//! | `sigmoid` | DPO, with label smoothing |
//! | `hinge` | SLiC's hinge |
//! | `ipo` | IPO |
//! | `simpo` | SimPO |
//! | `orpo` | ORPO |
//! | `sft` | the likelihood of all target tokens |

mod responses;
mod cross_entropy;
mod listwise;
mod plackett_luce;
mod pairs;
mod sigmoid;
mod hinge;
mod ipo;
mod simpo;
mod orpo;
mod sft;

use super::inputs::LossOptions;
use crate::Objective;

pub(super) use responses::{Responses, Term};
pub(super) use sft::sft;

/// Computes L^(k) of the responses that a dimension rates.
pub(super) type PreferenceObjective = fn(&Responses, &LossOptions) -> Term;

/// Returns the function of a preference objective; None for `sft`, which has no preferences.
pub(super) fn preference_objective(objective: Objective) -> Option<PreferenceObjective> {
    match objective {
        Objective::Listwise => Some(listwise::listwise),
        Objective::PlackettLuce => Some(plackett_luce::plackett_luce),
        Objective::Sigmoid => Some(sigmoid::sigmoid),
        Objective::Hinge => Some(hinge::hinge),
        Objective::Ipo => Some(ipo::ipo),
        Objective::Simpo => Some(simpo::simpo),
        Objective::Orpo => Some(orpo::orpo),
        Objective::Sft => None,
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, array};

    use super::*;

    pub(super) fn options(beta: f64) -> LossOptions {
        LossOptions { beta, ..LossOptions::default() }
    }

    /// Responses without a reference, and with one target distribution or another.
    pub(super) fn responses(policy: Array1<f64>, ranks: Array1<i64>) -> Responses {
        let weights = ranks.mapv(|rank| (-(rank as f64)).exp());
        Responses { reference: Array1::zeros(policy.len()), targets: &weights / weights.sum(), policy, ranks }
    }

    fn all() -> impl Iterator<Item = (Objective, PreferenceObjective)> {
        let objectives = (0..).map_while(Objective::from_code);
        objectives.filter_map(|objective| Some((objective, preference_objective(objective)?)))
    }

    #[test]
    fn gradients_are_the_slopes_of_the_losses() {
        let reference = array![-1.3, -2.2, -0.7, -1.9];
        for (objective, loss) in all() {
            for ranks in [array![2, 1, 3, 4], array![1, 1, 2, 2], array![1, 1, 1, 1]] {
                let options = LossOptions { label_smoothing: 0.1, simpo_gamma: 0.5, ..options(0.7) };
                let at = |s: Array1<f64>| Responses { reference: reference.clone(), ..responses(s, ranks.clone()) };
                let s = array![-1.1, -2.5, -0.9, -1.4];
                let term = loss(&at(s.clone()), &options);
                for i in 0..s.len() {
                    let moved = |step: f64| {
                        let mut moved = s.clone();
                        moved[i] += step;
                        loss(&at(moved), &options).loss
                    };
                    // A central difference of step h errs by h² and by rounding / h: 1e-10 each.
                    let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                    assert!((term.grad[i] - slope).abs() < 1e-8, "{objective}, {ranks}: {} {slope}", term.grad[i]);
                }
            }
        }
    }

    #[test]
    fn nan_is_not_hidden() {
        for (objective, loss) in all() {
            let term = loss(&responses(array![f64::NAN, -1.0, -2.0], array![2, 1, 3]), &options(0.1));
            assert!(term.loss.is_nan() && term.grad.iter().any(|grad| grad.is_nan()), "{objective}");
        }
    }

    #[test]
    fn extreme_differences_stay_finite() {
        for (objective, loss) in all() {
            let term = loss(&responses(array![-1e-9, -5e3, -1e4], array![3, 2, 1]), &options(1.0));
            assert!(term.loss.is_finite() && term.grad.iter().all(|grad| grad.is_finite()), "{objective}: {term:?}");
        }
    }
}
