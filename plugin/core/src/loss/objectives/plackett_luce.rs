//! The likelihood of a dimension's order.

use ndarray::{Array1, Axis};

use super::cross_entropy::cross_entropy;
use super::{Responses, Term};
use crate::LossOptions;

/// The negative log-likelihood of an order under the Plackett–Luce model, in which tied responses share a place.
///
/// # Equation
///
/// Places are filled from the best to the worst, each by a response drawn with softmax(r) from those not yet placed
/// (Plackett 1975; Luce 1959). The responses G_g of place g share it equally, so with U_g = G_g ∪ G_{g+1} ∪ …
///
/// L^(k) = −Σ_g 1/|G_g| Σ_{i ∈ G_g} (r_i − log Σ_{j ∈ U_g} e^{r_j}).
///
/// Without ties it is the likelihood of the order, in which the last place is certain.
pub(super) fn plackett_luce(responses: &Responses, options: &LossOptions) -> Term {
    let rewards = responses.rewards(options.beta);
    let ranks = &responses.ranks;
    let mut places = ranks.to_vec();
    places.sort_unstable();
    places.dedup();

    let mut total = Term { loss: 0.0, grad: Array1::zeros(rewards.len()) };
    for place in places {
        let unplaced: Vec<usize> = (0..rewards.len()).filter(|i| ranks[*i] >= place).collect(); // U_g
        let in_place = |i: &usize| f64::from(u8::from(ranks[*i] == place));
        let shares: Array1<f64> = unplaced.iter().map(in_place).collect();
        let num_tied = shares.sum();
        let term = cross_entropy(&rewards.select(Axis(0), &unplaced), &(shares / num_tied));
        total.loss += term.loss;
        unplaced.iter().zip(term.grad).for_each(|(i, grad)| total.grad[*i] += grad);
    }
    total.through(options.beta)
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::loss::objectives::tests::{options, responses};

    #[test]
    fn without_ties_it_is_the_product_of_the_draws() {
        let responses = responses(array![0.3, -1.2, 0.8], array![2, 1, 3]);
        let (a, b, c) = (0.3_f64.exp(), (-1.2_f64).exp(), 0.8_f64.exp());
        let likelihood = b / (a + b + c) * (a / (a + c));
        let term = plackett_luce(&responses, &options(1.0));
        assert!((term.loss + likelihood.ln()).abs() < 1e-12);
    }

    #[test]
    fn tied_responses_share_a_place() {
        let tie = |rewards, ranks| plackett_luce(&responses(rewards, ranks), &options(1.0));
        // Two tie in the first place: each is drawn with half the weight, and the third's place is certain.
        let (a, b, c) = (0.3_f64.exp(), (-1.2_f64).exp(), 0.8_f64.exp());
        let share = |x: f64| (x / (a + b + c)).ln();
        assert!((tie(array![0.3, -1.2, 0.8], array![1, 1, 2]).loss + 0.5 * (share(a) + share(b))).abs() < 1e-12);
        // Exchanging what ties changes nothing, and equal rewards are the best that a tie can have.
        assert_eq!(
            tie(array![0.3, -1.2, 0.8], array![1, 1, 2]).loss,
            tie(array![-1.2, 0.3, 0.8], array![1, 1, 2]).loss
        );
        assert!(tie(array![0.5, 0.5], array![1, 1]).grad.iter().all(|grad| grad.abs() < 1e-15));
    }
}
