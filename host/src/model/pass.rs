//! What one forward pass computes once for all layers.

use tch::Tensor;

use super::layers::mask::Masks;
use super::layers::rope::Rotary;

/// What all layers of one forward pass share.
pub(super) struct Context {
    pub(super) rotary: Rotary,
    pub(super) masks: Masks,
    pub(super) adapter_enabled: bool,
    /// What a λ-adapter scales its low-rank activations with, see [`Adapter::lambda_scale`](super::adapter::Adapter::lambda_scale).
    pub(super) lambda_scale: Option<Tensor>,
    /// Seed of the adapters' dropout; `None` outside training.
    pub(super) dropout_seed: Option<i64>,
}
