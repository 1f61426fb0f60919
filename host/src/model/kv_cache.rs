//! Key-value cache for decoding.

use tch::{Device, Kind, Tensor};

use super::ModelError;
use super::config::ModelConfig;

/// Keys and values of a batch of rows, for all layers. Prompts are padded on the left, so that all rows end together.
pub struct KvCache {
    pub(super) layers: Vec<LayerCache>,
    num_tokens: i64,
    capacity: i64,
    /// Number of padding tokens before each row's prompt; empty if no row has any.
    padding: Vec<i64>,
}

impl KvCache {
    /// Creates an empty cache for up to `capacity` tokens per row. Memory is allocated with the first tokens.
    #[must_use]
    pub fn new(config: &ModelConfig, capacity: usize) -> KvCache {
        let capacity = capacity as i64;
        let layers = (0..config.num_hidden_layers)
            .map(|_| LayerCache { keys_and_values: None, num_tokens: 0, capacity })
            .collect();
        KvCache { layers, num_tokens: 0, capacity, padding: Vec::new() }
    }

    /// Creates an empty cache for rows that begin with `padding` tokens of padding, a number for each row.
    #[must_use]
    pub fn with_padding(config: &ModelConfig, capacity: usize, padding: Vec<i64>) -> KvCache {
        let mut cache = Self::new(config, capacity);
        if padding.iter().any(|&num_tokens| num_tokens > 0) {
            cache.padding = padding;
        }
        cache
    }

    /// Selects rows, in the given order, and drops the others.
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Torch`] if libtorch fails.
    pub fn keep_rows(&mut self, rows: &[i64]) -> Result<(), ModelError> {
        let index = Tensor::f_from_slice(rows)?;
        for layer in &mut self.layers {
            if let Some((keys, values)) = &mut layer.keys_and_values {
                let index = index.f_to_device(keys.device())?;
                *keys = keys.f_index_select(0, &index)?;
                *values = values.f_index_select(0, &index)?;
            }
        }
        if !self.padding.is_empty() {
            self.padding = rows.iter().map(|&row| self.padding[row as usize]).collect();
        }
        Ok(())
    }

    /// Returns position ids and prompt ids (−1 at padding) of the next `num_new` tokens, [R, T] each.
    pub(super) fn places(&self, num_rows: i64, num_new: i64) -> Result<(Tensor, Tensor), ModelError> {
        let options = (Kind::Int64, Device::Cpu);
        let columns = Tensor::f_arange_start(self.num_tokens, self.num_tokens + num_new, options)?;
        if self.padding.is_empty() {
            return Ok((columns.f_expand([num_rows, num_new], false)?, Tensor::f_zeros([num_rows, num_new], options)?));
        }
        let positions = columns.f_unsqueeze(0)?.f_sub(&Tensor::f_from_slice(&self.padding)?.f_unsqueeze(1)?)?;
        let prompts = positions.f_lt(0)?.f_to_kind(Kind::Int64)?.f_neg()?;
        Ok((positions.f_clamp_min(0)?, prompts))
    }

    /// Returns [R, S] bool, false at padding; None if there is no padding.
    pub(super) fn visible(&self) -> Result<Option<Tensor>, ModelError> {
        if self.padding.is_empty() {
            return Ok(None);
        }
        let columns = Tensor::f_arange(self.num_tokens, (Kind::Int64, Device::Cpu))?.f_unsqueeze(0)?;
        Ok(Some(columns.f_ge_tensor(&Tensor::f_from_slice(&self.padding)?.f_unsqueeze(1)?)?))
    }

    /// Returns the number of tokens in the cache, padding included.
    #[must_use]
    pub fn num_tokens(&self) -> i64 {
        self.num_tokens
    }

    /// Counts tokens that are about to be added, if there is room for them.
    pub(super) fn reserve(&mut self, num_new: i64) -> Result<(), ModelError> {
        if self.num_tokens + num_new > self.capacity {
            let (held, capacity) = (self.num_tokens, self.capacity);
            return Err(ModelError::Request(format!(
                "a cache of {capacity} tokens that holds {held} has no room for {num_new} more"
            )));
        }
        self.num_tokens += num_new;
        Ok(())
    }
}

/// The cache of one layer.
pub(super) struct LayerCache {
    /// Keys and values, [R, key-value heads, capacity, D] each.
    keys_and_values: Option<(Tensor, Tensor)>,
    num_tokens: i64,
    capacity: i64,
}

impl LayerCache {
    /// Appends new keys and values. Returns all of them, or only the last `window` if there is one new token.
    pub(super) fn extend(
        &mut self,
        key: &Tensor,
        value: &Tensor,
        window: Option<i64>,
    ) -> Result<(Tensor, Tensor), ModelError> {
        let (num_rows, num_heads, num_new, head_dim) = key.size4()?;
        let (keys, values) = match &self.keys_and_values {
            Some(held) => held,
            None => {
                let shape = [num_rows, num_heads, self.capacity, head_dim];
                let options = (key.kind(), key.device());
                self.keys_and_values.insert((Tensor::f_empty(shape, options)?, Tensor::f_empty(shape, options)?))
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
