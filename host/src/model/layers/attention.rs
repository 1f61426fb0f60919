//! Grouped-query self-attention.

use tch::{Device, Kind, Tensor};

use crate::libtorch::columns::by_columns;
use crate::libtorch::widened;
use crate::model::ModelError;
use crate::model::kv_cache::CachedPass;
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
}

impl Attention {
    /// Computes attention. In a pass over a cache, keys and values are added to it, and queries see those of earlier passes.
    ///
    /// # Shapes
    ///
    /// `hidden` and the result: [R, T, H].
    pub(in crate::model) fn forward(
        &self,
        hidden: &Tensor,
        context: &Context,
        cached: Option<CachedPass>,
    ) -> Result<Tensor, ModelError> {
        let mut query = self.heads(&self.q_proj.forward(hidden, context)?)?;
        let mut key = self.heads(&self.k_proj.forward(hidden, context)?)?;
        let value = self.heads(&self.v_proj.forward(hidden, context)?)?;
        if let Some((q_norm, k_norm)) = &self.qk_norm {
            query = q_norm.forward(&query)?;
            key = k_norm.forward(&key)?;
        }
        (query, key) = (context.rotary.rotate(&query)?, context.rotary.rotate(&key)?);
        let attended = match cached {
            Some(pass) if hidden.size3()?.1 == 1 => self.attend_grouped(pass, &query, &key, &value)?,
            Some(pass) => pass.attend(self.layer, [&query, &key, &value], |query, key, value, mask, is_causal| {
                self.attend_dense(query, key, value, mask, is_causal)
            })?,
            None => self.attend(&query, &key, &value, context.masks.for_layer(self.layer))?,
        }; // [R, heads, T, D]
        drop((query, key, value));
        let mut attended = attended.f_transpose(1, 2)?.f_flatten(2, 3)?; // [R, T, heads · D]
        if cached.is_some() {
            attended = by_columns(&attended)?;
        }
        self.o_proj.forward(&attended, context)
    }

    /// Reshapes [R, T, heads · D] to [R, heads, T, D].
    fn heads(&self, projected: &Tensor) -> Result<Tensor, ModelError> {
        Ok(projected.f_unflatten(-1, [-1, self.head_dim])?.f_transpose(1, 2)?)
    }

    /// Attention of one new token of each row. The queries of a group see the same keys, so they take the places of tokens:
    /// keys and values are read once for the group, not once for each of its heads.
    ///
    /// # Shapes
    ///
    /// `query` and the result: [R, heads, 1, D].
    fn attend_grouped(
        &self,
        pass: CachedPass,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
    ) -> Result<Tensor, ModelError> {
        let grouped = query.f_reshape([query.size()[0], -1, self.num_groups, self.head_dim])?;
        let attended = pass.attend(self.layer, [&grouped, key, value], |query, key, value, mask, _| {
            Heads::Single.attend(query, key, value, mask, false)
        })?;
        Ok(attended.f_reshape(query.size())?)
    }

    fn attend(&self, query: &Tensor, key: &Tensor, value: &Tensor, mask: &Mask) -> Result<Tensor, ModelError> {
        match mask {
            Mask::Causal => self.attend_dense(query, key, value, None, true),
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
        if let Some(attended) = widened::attention::attend(query, key, value, mask, is_causal) {
            return Ok(attended?);
        }
        let heads = Heads::for_kernel(query.device(), query.f_kind()?, mask.is_some(), self.num_groups);
        heads.attend(query, key, value, mask, is_causal)
    }
}

/// How queries of several heads reach the keys and values that they share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heads {
    /// Each query head has its own keys and values.
    Single,
    /// libtorch's kernel reads shared ones.
    Grouped,
    /// Shared ones are repeated, this many times each.
    Repeated(i64),
}

impl Heads {
    /// Chooses what keeps libtorch from materialising T × T scores.
    ///
    /// On CUDA, its flash and cuDNN kernels take shared heads, but only in 16-bit dtypes, and flash takes no mask. What
    /// is left for float32 and for masks is the memory-efficient kernel, which needs a key-value head for each query
    /// head; otherwise libtorch falls back to its math kernel (`sdp_utils.cpp` of libtorch 2.11). The CPU's kernel takes
    /// shared heads in every dtype.
    fn for_kernel(device: Device, kind: Kind, has_mask: bool, num_groups: i64) -> Self {
        let is_16_bit = matches!(kind, Kind::BFloat16 | Kind::Half);
        match num_groups {
            ..=1 => Self::Single,
            _ if device.is_cuda() && (has_mask || !is_16_bit) => Self::Repeated(num_groups),
            _ => Self::Grouped,
        }
    }

    fn attend(
        self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        mask: Option<&Tensor>,
        is_causal: bool,
    ) -> Result<Tensor, ModelError> {
        let sdpa = |key: &Tensor, value: &Tensor, is_grouped| {
            Tensor::f_scaled_dot_product_attention(query, key, value, mask, 0.0, is_causal, None, is_grouped)
        };
        Ok(match self {
            Self::Single => sdpa(key, value, false)?,
            Self::Grouped => sdpa(key, value, true)?,
            Self::Repeated(times) => {
                let repeated = |heads: &Tensor| heads.f_repeat_interleave_self_int(times, 1, None);
                sdpa(&repeated(key)?, &repeated(value)?, false)?
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::super::additive_mask::additive;
    use super::*;

    #[test]
    fn heads_are_repeated_for_kernels_that_cannot_share_them() {
        let (cpu, cuda) = (Device::Cpu, Device::Cuda(0));
        for (device, kind, has_mask, expected) in [
            (cuda, Kind::Float, false, Heads::Repeated(4)),
            (cuda, Kind::Float, true, Heads::Repeated(4)),
            (cuda, Kind::Double, false, Heads::Repeated(4)),
            (cuda, Kind::BFloat16, false, Heads::Grouped),
            (cuda, Kind::BFloat16, true, Heads::Repeated(4)),
            (cuda, Kind::Half, false, Heads::Grouped),
            (cpu, Kind::Float, true, Heads::Grouped),
            (cpu, Kind::Float, false, Heads::Grouped),
        ] {
            assert_eq!(
                Heads::for_kernel(device, kind, has_mask, 4),
                expected,
                "{device:?}, {kind:?}, mask: {has_mask}"
            );
            assert_eq!(Heads::for_kernel(device, kind, has_mask, 1), Heads::Single);
        }
    }

    #[test]
    fn repeated_heads_attend_like_shared_ones() {
        tch::manual_seed(5);
        let options = (Kind::Double, Device::Cpu);
        let leaf = |heads: i64| Tensor::randn([2, heads, 9, 8], options).set_requires_grad(true);
        let leaves = [leaf(6), leaf(2), leaf(2)];
        let [query, key, value] = &leaves;
        let visible = Tensor::ones([2, 9, 9], (Kind::Bool, Device::Cpu)).tril(0);
        let mask = additive(&visible, Kind::Double).unwrap();
        for mask in [None, Some(&mask)] {
            let [shared, repeated] = [Heads::Grouped, Heads::Repeated(3)].map(|heads| {
                let attended = heads.attend(query, key, value, mask, mask.is_none()).unwrap();
                let gradients = Tensor::run_backward(&[attended.square().sum(Kind::Double)], &leaves, false, false);
                std::iter::once(attended).chain(gradients).collect::<Vec<_>>()
            });
            for (one, other) in shared.iter().zip(&repeated) {
                assert!((one - other).abs().max().double_value(&[]) < 1e-12);
            }
        }
    }
}
