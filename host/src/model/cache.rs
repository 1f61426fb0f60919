//! Keys and values of the tokens decoded so far.

use tch::Tensor;

use super::ModelError;
use super::config::ModelConfig;

/// The cache of a batch of equally long rows, every layer's.
pub struct KvCache {
    pub(super) layers: Vec<LayerCache>,
    num_tokens: i64,
    capacity: i64,
}

impl KvCache {
    /// An empty cache for up to `capacity` tokens a row; memory is taken with the first tokens.
    #[must_use]
    pub fn new(config: &ModelConfig, capacity: usize) -> KvCache {
        let capacity = capacity as i64;
        let layers =
            (0..config.num_hidden_layers).map(|_| LayerCache { kept: None, num_tokens: 0, capacity }).collect();
        KvCache { layers, num_tokens: 0, capacity }
    }

    /// Tokens held for each row.
    #[must_use]
    pub fn num_tokens(&self) -> i64 {
        self.num_tokens
    }

    /// Counts tokens that are about to be added.
    pub(super) fn reserve(&mut self, num_new: i64) -> Result<(), ModelError> {
        if self.num_tokens + num_new > self.capacity {
            let (held, capacity) = (self.num_tokens, self.capacity);
            return Err(ModelError::Request(format!(
                "a cache for {capacity} tokens that holds {held} cannot take {num_new} more"
            )));
        }
        self.num_tokens += num_new;
        Ok(())
    }
}

/// The cache of one layer.
pub(super) struct LayerCache {
    /// Keys and values, [R, key-value heads, capacity, D] each.
    kept: Option<(Tensor, Tensor)>,
    num_tokens: i64,
    capacity: i64,
}

impl LayerCache {
    /// Keeps new keys and values; gives all of them, or the last `window` where one new token looks back no further.
    pub(super) fn extend(
        &mut self,
        key: &Tensor,
        value: &Tensor,
        window: Option<i64>,
    ) -> Result<(Tensor, Tensor), ModelError> {
        let (num_rows, num_heads, num_new, head_dim) = key.size4()?;
        let (keys, values) = match &self.kept {
            Some(kept) => kept,
            None => {
                let shape = [num_rows, num_heads, self.capacity, head_dim];
                let options = (key.kind(), key.device());
                self.kept.insert((Tensor::f_empty(shape, options)?, Tensor::f_empty(shape, options)?))
            }
        };
        keys.f_narrow(2, self.num_tokens, num_new)?.f_copy_(key)?;
        values.f_narrow(2, self.num_tokens, num_new)?.f_copy_(value)?;
        self.num_tokens += num_new;
        let start = match window {
            Some(window) if num_new == 1 => (self.num_tokens - window).max(0),
            _ => 0,
        };
        let seen = self.num_tokens - start;
        Ok((keys.f_narrow(2, start, seen)?, values.f_narrow(2, start, seen)?))
    }
}
