//! The exact divergence of one policy from another, token by token.

use tch::{Kind, TchError, Tensor};

/// Bytes of logits that may be alive at once.
const BUDGET_BYTES: i64 = 128 << 20;
/// Rows of that size alive at once: the logits and log-probs of both policies, the probabilities of one, and a product.
const ROWS_PER_TARGET: i64 = 6;

/// The Kullback–Leibler divergence of a policy's next token from a reference's.
///
/// # Numerics
///
/// Float64 for float64 weights, and float32 for others: hidden states and LM heads of 16 bits are widened before they are
/// multiplied.
pub struct Divergence {
    /// [V, H] of the policy.
    policy_head: Tensor,
    /// [V, H'] of the reference.
    reference_head: Tensor,
}

impl Divergence {
    /// Prepares the LM heads, `[V, H]` and `[V, H']`.
    ///
    /// # Errors
    ///
    /// Errors from libtorch.
    pub fn new(policy_head: &Tensor, reference_head: &Tensor) -> Result<Self, TchError> {
        let is_same = policy_head.data_ptr() == reference_head.data_ptr();
        let policy_head = wide(policy_head)?;
        let reference_head = if is_same { policy_head.shallow_clone() } else { wide(reference_head)? };
        Ok(Self { policy_head, reference_head })
    }

    /// Returns KL(π‖π_ref) in nats at each target position.
    ///
    /// # Equation
    ///
    /// Σ_v π(v) (log π(v) − log π_ref(v)), over the whole vocabulary.
    ///
    /// # Shapes
    ///
    /// `policy`: [R, T, H] hidden states; `reference`: [R, T, H']; `positions`: `[K]` indices into R·T; the result: `[K]`.
    ///
    /// # Errors
    ///
    /// Errors from libtorch, also if the vocabularies differ in size.
    pub fn at(&self, policy: &Tensor, reference: &Tensor, positions: &Tensor) -> Result<Vec<f64>, TchError> {
        tch::no_grad(|| {
            let positions = positions.f_to_device(policy.device())?;
            let (policy, reference) = (policy.f_flatten(0, 1)?, reference.f_flatten(0, 1)?);
            let row_bytes = self.policy_head.size()[0] * self.policy_head.kind().elt_size_in_bytes() as i64;
            let num_rows = (BUDGET_BYTES / (row_bytes * ROWS_PER_TARGET)).max(1);
            let num_positions = positions.numel() as i64;
            let mut found = Vec::with_capacity(positions.numel());
            for first in (0..num_positions).step_by(num_rows as usize) {
                let chunk = positions.f_narrow(0, first, num_rows.min(num_positions - first))?;
                let log_probs = |hidden: &Tensor, head: &Tensor| {
                    wide(&hidden.f_index_select(0, &chunk)?)?.f_linear(head, None::<Tensor>)?.f_log_softmax(-1, None)
                };
                let policy = log_probs(&policy, &self.policy_head)?;
                let reference = log_probs(&reference, &self.reference_head)?;
                let terms = policy.f_exp()?.f_mul(&policy.f_sub(&reference)?)?;
                let sums = terms.f_sum_dim_intlist([-1].as_slice(), false, Kind::Double)?;
                found.extend(Vec::<f64>::try_from(sums)?);
            }
            Ok(found)
        })
    }
}

/// Widens 16-bit numbers.
fn wide(tensor: &Tensor) -> Result<Tensor, TchError> {
    let tensor = tensor.f_detach()?;
    if tensor.kind() == Kind::Double { Ok(tensor) } else { tensor.f_to_kind(Kind::Float) }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use tch::Device;

    use super::*;

    #[test]
    fn it_is_the_sum_over_the_vocabulary() {
        let options = (Kind::Double, Device::Cpu);
        // Fixed numbers that look random.
        let values = |shape: &[i64], step: f64| {
            let count: i64 = shape.iter().product();
            (Tensor::arange(count, options) * step).sin().reshape(shape)
        };
        let (policy, reference) = (values(&[2, 5, 3], 1.7), values(&[2, 5, 4], 2.3));
        let (policy_head, reference_head) = (values(&[11, 3], 0.9), values(&[11, 4], 3.1));
        let positions = Tensor::from_slice(&[7_i64, 0, 7, 9]);
        let found =
            Divergence::new(&policy_head, &reference_head).unwrap().at(&policy, &reference, &positions).unwrap();
        for (position, found) in [7_i64, 0, 7, 9].into_iter().zip(&found) {
            let probabilities = |hidden: &Tensor, head: &Tensor| -> Vec<f64> {
                let logits = head.matmul(&hidden.flatten(0, 1).get(position));
                Vec::try_from(logits.softmax(-1, Kind::Double)).unwrap()
            };
            let (p, q) = (probabilities(&policy, &policy_head), probabilities(&reference, &reference_head));
            let expected: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
        let same = Divergence::new(&policy_head, &policy_head).unwrap().at(&policy, &policy, &positions).unwrap();
        assert_eq!(same, [0.0; 4]);
    }
}
