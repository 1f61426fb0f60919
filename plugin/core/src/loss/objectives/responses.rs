//! What a preference objective sees, and what it returns.

use ndarray::Array1;

/// The responses of a prompt that one dimension rates; all fields are `[N]`.
#[derive(Debug)]
pub(in crate::loss) struct Responses {
    /// s under the policy: a sum or a mean over tokens, as the reduction says.
    pub(in crate::loss) policy: Array1<f64>,
    /// s under the reference policy; 0 without one.
    pub(in crate::loss) reference: Array1<f64>,
    /// p^(k).
    pub(in crate::loss) targets: Array1<f64>,
    /// Places in the dimension's order: 1 is the best, and equal numbers tie.
    pub(in crate::loss) ranks: Array1<i64>,
}

impl Responses {
    /// Returns s − s^ref.
    pub(super) fn log_ratios(&self) -> Array1<f64> {
        &self.policy - &self.reference
    }

    /// Returns r = β (s − s^ref) (17).
    pub(super) fn rewards(&self, beta: f64) -> Array1<f64> {
        beta * self.log_ratios()
    }
}

/// A loss and its gradient.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::loss) struct Term {
    /// L^(k).
    pub(in crate::loss) loss: f64,
    /// `[N]` ∂L^(k)/∂s.
    pub(in crate::loss) grad: Array1<f64>,
}

impl Term {
    /// Applies the chain rule: the gradient is with respect to h(s), whose derivative is `slope`.
    pub(super) fn through(self, slope: f64) -> Self {
        Self { grad: slope * self.grad, ..self }
    }
}
