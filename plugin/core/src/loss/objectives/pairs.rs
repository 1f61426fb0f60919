//! The mean of a loss over the pairs that an order has.

use ndarray::Array1;

use super::{Responses, Term};

/// A loss of one number, and its derivative.
pub(super) struct Scalar {
    /// f(Δ).
    pub(super) loss: f64,
    /// f′(Δ).
    pub(super) slope: f64,
}

/// Returns the mean of f(h_w − h_l) over the pairs in which the dimension prefers w to l, with its gradient with respect
/// to h; 0 if all responses tie.
///
/// # Equation
///
/// L^(k) = 1/|{(w, l): w ≻ l}| Σ_{w ≻ l} f(h_w − h_l); a record with one chosen and one rejected response has one pair.
pub(super) fn mean_over_pairs(responses: &Responses, h: &Array1<f64>, f: impl Fn(f64) -> Scalar) -> Term {
    let mut total = Term { loss: 0.0, grad: Array1::zeros(h.len()) };
    let mut num_pairs = 0.0;
    for (w, l) in ordered_pairs(&responses.ranks) {
        let pair = f(h[w] - h[l]);
        total.loss += pair.loss;
        total.grad[w] += pair.slope;
        total.grad[l] -= pair.slope;
        num_pairs += 1.0;
    }
    if num_pairs > 0.0 {
        total.loss /= num_pairs;
        total.grad /= num_pairs;
    }
    total
}

/// Returns the share of the pairs in which each response is the preferred one; 0 if all responses tie.
pub(super) fn shares_of_wins(ranks: &Array1<i64>) -> Array1<f64> {
    let mut wins = Array1::<f64>::zeros(ranks.len());
    ordered_pairs(ranks).for_each(|(w, _)| wins[w] += 1.0);
    let num_pairs = wins.sum();
    if num_pairs > 0.0 { wins / num_pairs } else { wins }
}

/// Returns the pairs (w, l) with w ≻ l.
fn ordered_pairs(ranks: &Array1<i64>) -> impl Iterator<Item = (usize, usize)> {
    let all = 0..ranks.len();
    all.clone().flat_map(move |w| all.clone().map(move |l| (w, l))).filter(|(w, l)| ranks[*w] < ranks[*l])
}

/// Returns −log σ(x), with its derivative −σ(−x).
pub(super) fn negative_log_sigmoid(x: f64) -> Scalar {
    // ln(1 + e^−x), with a negative exponent on both sides of 0.
    let loss = (-x).max(0.0) + (-x.abs()).exp().ln_1p();
    Scalar { loss, slope: -1.0 / (1.0 + x.exp()) }
}
