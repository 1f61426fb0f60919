//! The gate of a feed-forward network and its gradients; [`Value`](crate::Value) says what they compute.

use std::f32::consts::LOG2_E;

use crate::element::Element;

pub(crate) fn gated<E: Element>(gate: &[E], up: &[E], gated: &mut [E]) {
    for ((gated, gate), up) in gated.iter_mut().zip(gate).zip(up) {
        let gate = gate.wide();
        *gated = E::rounded(E::rounded(gate * sigmoid(gate)).wide() * up.wide());
    }
}

pub(crate) fn gated_grad<E: Element>(gate: &[E], up: &[E], grads: &[E], gate_grads: &mut [E], up_grads: &mut [E]) {
    let inputs = gate.iter().zip(up).zip(grads);
    for (((gate, up), grad), (gate_grad, up_grad)) in inputs.zip(gate_grads.iter_mut().zip(up_grads)) {
        let (gate, grad) = (gate.wide(), grad.wide());
        let sigmoid = sigmoid(gate);
        *gate_grad = E::rounded(grad * up.wide() * sigmoid * (1.0 + gate * (1.0 - sigmoid)));
        *up_grad = E::rounded(grad * (gate * sigmoid));
    }
}

fn sigmoid(value: f32) -> f32 {
    1.0 / (1.0 + exp(-value))
}

/// The exponential, with a relative error below 2e-7, in arithmetic that is compiled to vectors: 2ⁿ · exp(r) with an integer n
/// and |r| ≤ ln 2 / 2, and the polynomial of Cephes' `expf` for exp(r).
fn exp(value: f32) -> f32 {
    /// Added to a number, leaves its nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first with few bits, so that n times it is exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let value = value.clamp(-87.0, 88.0);
    let shifted = value * LOG2_E + ROUND;
    let power = shifted - ROUND;
    let rest = value - power * LN_2[0] - power * LN_2[1];
    let mut polynomial = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        polynomial = polynomial * rest + coefficient;
    }
    let mantissa = polynomial * rest * rest + rest + 1.0;
    mantissa * f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_exact_to_its_bits() {
        for step in -8_700..=8_800 {
            let value = step as f32 * 0.01;
            let (found, expected) = (f64::from(exp(value)), f64::from(value).exp());
            assert!((found / expected - 1.0).abs() < 2e-7, "exp({value}) = {found}, not {expected}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert!((sigmoid(200.0), sigmoid(-200.0) < 1e-37) == (1.0, true));
    }

    #[test]
    fn gates_and_their_gradients() {
        let silu = |gate: f64| gate / (1.0 + (-gate).exp());
        for gate in [-20.0_f32, -3.0, -0.4, 0.0, 1e-3, 0.7, 5.0, 40.0] {
            let (up, grad) = (1.3_f32, -0.6_f32);
            let (mut output, mut gate_grad, mut up_grad) = ([0.0], [0.0], [0.0]);
            gated(&[gate], &[up], &mut output);
            gated_grad(&[gate], &[up], &[grad], &mut gate_grad, &mut up_grad);
            let (wide, up, grad) = (f64::from(gate), f64::from(up), f64::from(grad));
            let slope = (silu(wide + 1e-5) - silu(wide - 1e-5)) / 2e-5;
            for (found, expected) in
                [(output[0], silu(wide) * up), (gate_grad[0], grad * up * slope), (up_grad[0], grad * silu(wide))]
            {
                assert!(
                    (f64::from(found) - expected).abs() < 1e-6 * expected.abs().max(1.0),
                    "{gate}: {found}, {expected}"
                );
            }
        }
    }
}
