//! The loops over activations, for each dtype.

use crate::element::Bf16;
use crate::{gate, norm, rotary};

/// A dtype of activations. Its functions are compiled in this crate, which generic ones would not be.
pub trait Value: Copy + Send + Sync + 'static {
    /// Normalises rows by their root mean square: x · s · weight with s = 1 / √(mean x² + ε), and writes s of each row.
    ///
    /// # Shapes
    ///
    /// `rows` and `normed`: n rows of the length of `weight`, one after another; `scales`: n.
    ///
    /// # Numerics
    ///
    /// Float32, sums in eight parts; x · s is rounded to the dtype before it is multiplied by the weight.
    ///
    /// # Panics
    ///
    /// Panics if `weight` is empty.
    fn rms_norm(rows: &[Self], weight: &[Self], eps: f32, normed: &mut [Self], scales: &mut [f32]);

    /// Writes the gradients of the rows of [`rms_norm`](Self::rms_norm), given those of what it wrote.
    ///
    /// # Equation
    ///
    /// dx = s (g ⊙ weight) − s³ / H · (Σ g ⊙ weight ⊙ x) x
    ///
    /// # Shapes
    ///
    /// As there.
    ///
    /// # Panics
    ///
    /// Panics if `weight` is empty.
    fn rms_norm_grad(rows: &[Self], weight: &[Self], scales: &[f32], grads: &[Self], row_grads: &mut [Self]);

    /// Adds the gradient of the weight of [`rms_norm`](Self::rms_norm), Σ g ⊙ (s x) over the rows, to `sums`.
    ///
    /// # Shapes
    ///
    /// `sums`: the length of a row.
    ///
    /// # Panics
    ///
    /// Panics if `sums` is empty.
    fn rms_norm_weight_grad(rows: &[Self], scales: &[f32], grads: &[Self], sums: &mut [f32]);

    /// Rotates the halves of each head of a token: x ⊙ cos + (x₂, x₁) ⊙ `signed_sin`.
    ///
    /// # Shapes
    ///
    /// `cos` and `signed_sin`: the even length of a head; `heads`: heads that begin `stride` values apart; `rotated`: heads one
    /// after another.
    ///
    /// # Panics
    ///
    /// Panics if `cos` is empty, or an argument is too short.
    fn rotate(heads: &[Self], stride: usize, cos: &[Self], signed_sin: &[Self], rotated: &mut [Self]);

    /// Writes silu(gate) ⊙ up.
    ///
    /// # Shapes
    ///
    /// All of the same length.
    ///
    /// # Numerics
    ///
    /// Float32, with a relative error of silu below 3e-7; silu is rounded to the dtype before the product.
    fn gated(gate: &[Self], up: &[Self], gated: &mut [Self]);

    /// Writes the gradients of gate and up, given that of [`gated`](Self::gated).
    ///
    /// # Equation
    ///
    /// With σ = 1 / (1 + exp(−gate)): g ⊙ up ⊙ σ (1 + gate (1 − σ)), and g ⊙ gate σ.
    ///
    /// # Shapes
    ///
    /// All of the same length.
    fn gated_grad(gate: &[Self], up: &[Self], grads: &[Self], gate_grads: &mut [Self], up_grads: &mut [Self]);
}

macro_rules! compiled_here {
    ($($value:ty),*) => {$(
        impl Value for $value {
            fn rms_norm(rows: &[Self], weight: &[Self], eps: f32, normed: &mut [Self], scales: &mut [f32]) {
                norm::rms_norm(rows, weight, eps, normed, scales);
            }

            fn rms_norm_grad(rows: &[Self], weight: &[Self], scales: &[f32], grads: &[Self], row_grads: &mut [Self]) {
                norm::row_grads(rows, weight, scales, grads, row_grads);
            }

            fn rms_norm_weight_grad(rows: &[Self], scales: &[f32], grads: &[Self], sums: &mut [f32]) {
                norm::weight_grad(rows, scales, grads, sums);
            }

            fn rotate(heads: &[Self], stride: usize, cos: &[Self], signed_sin: &[Self], rotated: &mut [Self]) {
                rotary::rotate(heads, stride, cos, signed_sin, rotated);
            }

            fn gated(gate: &[Self], up: &[Self], gated: &mut [Self]) {
                gate::gated(gate, up, gated);
            }

            fn gated_grad(gate: &[Self], up: &[Self], grads: &[Self], gate_grads: &mut [Self], up_grads: &mut [Self]) {
                gate::gated_grad(gate, up, grads, gate_grads, up_grads);
            }
        }
    )*};
}

compiled_here!(f32, Bf16);
