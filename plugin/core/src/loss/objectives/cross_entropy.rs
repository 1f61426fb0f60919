//! The loss of a softmax over rewards against a target distribution.

use ndarray::Array1;

use super::Term;

/// Returns −Σ t log P with P = softmax(r), and its gradient with respect to r, P Σ t − t.
pub(super) fn cross_entropy(rewards: &Array1<f64>, targets: &Array1<f64>) -> Term {
    let log_p = log_softmax(rewards);
    Term { loss: -(targets * &log_p).sum(), grad: targets.sum() * log_p.exp() - targets }
}

/// Returns log softmax(r).
fn log_softmax(rewards: &Array1<f64>) -> Array1<f64> {
    let max = rewards.fold(f64::NEG_INFINITY, |max, reward| max.max(*reward));
    let log_sum_exp = max + (rewards - max).exp().sum().ln();
    rewards - log_sum_exp
}
