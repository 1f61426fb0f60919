//! State that is computed once in a forward pass and shared by all layers.

use tch::Tensor;

use super::layers::mask::Masks;
use super::layers::rope::Rotary;

/// State that all layers of one forward pass share.
pub(super) struct Context {
    pub(super) rotary: Rotary,
    pub(super) masks: Masks,
    pub(super) adapter_enabled: bool,
    /// Scale of a λ-adapter's low-rank activations, from
    /// [`Adapter::lambda_scale`](super::adapter::Adapter::lambda_scale).
    pub(super) lambda_scale: Option<Tensor>,
    /// Seed of the adapters' dropout; `None` outside training.
    pub(super) dropout_seed: Option<i64>,
}
