//! Grouped-query self-attention.

use tch::Tensor;

use crate::model::ModelError;
use crate::model::kv_cache::LayerCache;
use crate::model::pass::Context;

use super::linear::Linear;
use super::mask::Mask;
use super::norm::RmsNorm;

/// Grouped-query self-attention of one layer.
#[derive(Debug)]
pub(in crate::model) struct Attention {
    pub(in crate::model) q_proj: Linear,
    pub(in crate::model) k_proj: Linear,
    pub(in crate::model) v_proj: Linear,
    pub(in crate::model) o_proj: Linear,
    /// Norms of queries and keys, over each head; None if the architecture has none.
    pub(in crate::model) qk_norm: Option<(RmsNorm, RmsNorm)>,
    pub(in crate::model) layer: usize,
    pub(in crate::model) head_dim: i64,
    pub(in crate::model) num_groups: i64,
    pub(in crate::model) sliding_window: Option<i64>,
}

impl Attention {
    /// Computes attention. With a cache, keys and values are added to it, and queries see those of earlier calls too.
    ///
    /// # Shapes
    ///
    /// `hidden` and the result: [R, T, H].
    pub(in crate::model) fn forward(
        &self,
        hidden: &Tensor,
        context: &Context,
        cache: Option<&mut LayerCache>,
    ) -> Result<Tensor, ModelError> {
        let mut query = self.heads(&self.q_proj.forward(hidden, context)?)?;
        let mut key = self.heads(&self.k_proj.forward(hidden, context)?)?;
        let mut value = self.heads(&self.v_proj.forward(hidden, context)?)?;
        if let Some((q_norm, k_norm)) = &self.qk_norm {
            query = q_norm.forward(&query)?;
            key = k_norm.forward(&key)?;
        }
        query = context.rotary.rotate(&query)?;
        key = context.rotary.rotate(&key)?;
        if let Some(cache) = cache {
            let window = self.sliding_window.filter(|_| context.masks.sliding_layers[self.layer]);
            (key, value) = cache.extend(&key, &value, window)?;
        }
        let attended = self.attend(&query, &key, &value, context.masks.for_layer(self.layer))?; // [R, heads, T, D]
        drop((query, key, value));
        let attended = attended.f_transpose(1, 2)?.f_flatten(2, 3)?; // [R, T, heads · D]
        self.o_proj.forward(&attended, context)
    }

    /// Reshapes [R, T, heads · D] to [R, heads, T, D].
    fn heads(&self, projected: &Tensor) -> Result<Tensor, ModelError> {
        Ok(projected.f_unflatten(-1, [-1, self.head_dim])?.f_transpose(1, 2)?)
    }

    fn attend(&self, query: &Tensor, key: &Tensor, value: &Tensor, mask: &Mask) -> Result<Tensor, ModelError> {
        match mask {
            Mask::Causal => self.attend_dense(query, key, value, None, true),
            Mask::All => self.attend_dense(query, key, value, None, false),
            Mask::Additive(mask) => self.attend_dense(query, key, value, Some(mask), false),
            Mask::Segments(segments) => segments.attend(query, key, value, |query, key, value, mask| {
                self.attend_dense(query, key, value, mask, mask.is_none())
            }),
        }
    }

    /// Attention of all queries over all keys of a row, under a mask or causally.
    fn attend_dense(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        mask: Option<&Tensor>,
        is_causal: bool,
    ) -> Result<Tensor, ModelError> {
        let is_grouped = self.num_groups > 1;
        if is_grouped && mask.is_some() && query.device().is_cuda() {
            // libtorch's memory-efficient CUDA kernel supports a mask, but not with grouped queries; the fallback would
            // materialise T × T scores.
            let key = key.f_repeat_interleave_self_int(self.num_groups, 1, None)?;
            let value = value.f_repeat_interleave_self_int(self.num_groups, 1, None)?;
            return Ok(Tensor::f_scaled_dot_product_attention(query, &key, &value, mask, 0.0, false, None, false)?);
        }
        Ok(Tensor::f_scaled_dot_product_attention(query, key, value, mask, 0.0, is_causal, None, is_grouped)?)
    }
}
