//! Attention over packed rows, response by response, so that no time is spent on tokens that do not see each other.
//!
//! A packed row is `[prompt][y₁]…[y_N]`, possibly several times, then padding. A prompt and its first response (the
//! trunk) are one causal sequence. The tokens of each further response (a branch) attend to the prompt and to their own
//! response, under a mask that all layers share. One T × T mask over the row gives the same result; [`pays`] returns
//! which is cheaper.

use tch::{Device, Kind, Tensor};

use crate::model::ModelError;

use super::additive_mask::additive;
use super::packed_row::{PackedPrompt, PackedRow};

/// Cost of one more attention call, forward and backward, in (query, key) pairs: it takes about as long as this many
/// pairs with 8 heads of width 32. Measured on CPUs (which ones is not recorded). It only decides which of two exact
/// computations runs.
pub(crate) const CPU_PAIRS_PER_CALL: i64 = 4_000;
/// The same on CUDA: about ten kernel launches, during which a GPU computes millions of pairs. An estimate, not
/// measured.
const CUDA_PAIRS_PER_CALL: i64 = 1_000_000;

/// Returns whether attention by segments is cheaper than one mask over rows of `num_tokens`.
pub(in crate::model) fn pays(rows: &[PackedRow], num_tokens: i64, device: Device) -> bool {
    let pairs_per_call = if device.is_cuda() { CUDA_PAIRS_PER_CALL } else { CPU_PAIRS_PER_CALL };
    let prompts = || rows.iter().flat_map(|row| &row.prompts);
    let num_pairs: i64 = prompts().map(PackedPrompt::num_pairs).sum();
    let num_calls: i64 = prompts().map(|prompt| 1 + prompt.branches().len() as i64).sum();
    num_pairs + pairs_per_call * num_calls < rows.len() as i64 * num_tokens * num_tokens
}

/// The segments of a batch and their masks.
pub(in crate::model) struct Segments {
    /// Of all parts of all rows, in order.
    lengths: Vec<i64>,
    segments: Vec<Segment>,
}

enum Segment {
    /// A prompt and its responses.
    Prompt {
        /// Mask of the trunk; None: causal attention without a mask.
        trunk: Option<Tensor>,
        has_response: bool,
        /// Masks of the branches, [1, 1, r, P + r] each.
        branches: Vec<Tensor>,
    },
    Padding,
}

impl Segments {
    /// Builds the masks. With a `window`, a token sees only tokens less than `window` positions before it.
    pub(in crate::model) fn new(
        rows: &[PackedRow],
        window: Option<i64>,
        options: (Kind, Device),
    ) -> Result<Segments, ModelError> {
        let mut segments = Vec::new();
        for row in rows {
            for prompt in &row.prompts {
                segments.push(Segment::new(prompt, window, options)?);
            }
            if row.padding > 0 {
                segments.push(Segment::Padding);
            }
        }
        Ok(Segments { lengths: rows.iter().flat_map(PackedRow::lengths).collect(), segments })
    }

    /// Computes attention segment by segment with `attend(query, key, value, mask)`, which is causal without a mask.
    ///
    /// # Shapes
    ///
    /// `query` and the result: [R, heads, T, D]; `key` and `value`: [R, key-value heads, T, D]; the arguments of
    /// `attend`: [1, heads, n, D]. The result is 0 at padding.
    pub(in crate::model) fn attend(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        attend: impl Fn(&Tensor, &Tensor, &Tensor, Option<&Tensor>) -> Result<Tensor, ModelError>,
    ) -> Result<Tensor, ModelError> {
        let (num_rows, num_heads, num_tokens, head_dim) = query.size4()?;
        let mut parts = Parts::split([query, key, value], &self.lengths)?;
        // [1, n, heads, D], the memory layout of SDPA's results.
        let mut attended = Vec::with_capacity(self.lengths.len());
        let by_heads = |tensor: &Tensor| tensor.f_transpose(1, 2);
        for segment in &self.segments {
            let Segment::Prompt { trunk, has_response, branches } = segment else {
                attended.push(parts.take()?[0].f_zeros_like()?);
                continue;
            };
            let [query, prompt_key, prompt_value] = parts.take()?;
            let mut first = [query, prompt_key.shallow_clone(), prompt_value.shallow_clone()];
            if *has_response {
                for (part, response) in first.iter_mut().zip(parts.take()?) {
                    *part = Tensor::f_cat(&[&*part, &response], 1)?;
                }
            }
            let [query, key, value] = &first;
            attended.push(by_heads(&attend(&by_heads(query)?, &by_heads(key)?, &by_heads(value)?, trunk.as_ref())?)?);
            for mask in branches {
                let [query, key, value] = parts.take()?;
                let key = Tensor::f_cat(&[&prompt_key, &key], 1)?;
                let value = Tensor::f_cat(&[&prompt_value, &value], 1)?;
                attended.push(by_heads(&attend(
                    &by_heads(&query)?,
                    &by_heads(&key)?,
                    &by_heads(&value)?,
                    Some(mask),
                )?)?);
            }
        }
        let attended = Tensor::f_cat(&attended, 1)?;
        Ok(by_heads(&attended.f_view([num_rows, num_tokens, num_heads, head_dim])?)?)
    }
}

impl Segment {
    fn new(prompt: &PackedPrompt, window: Option<i64>, options: (Kind, Device)) -> Result<Segment, ModelError> {
        let trunk = match window {
            Some(window) if window < prompt.trunk() => Some(mask(0, prompt.trunk(), Some(window), options)?),
            _ => None,
        };
        let longest = prompt.branches().iter().copied().max().unwrap_or(0);
        let longest_mask = mask(prompt.length, longest, window, options)?;
        // The mask of a shorter response is a corner of that of the longest one.
        let corner = |&length: &i64| -> Result<Tensor, ModelError> {
            Ok(longest_mask.f_narrow(2, 0, length)?.f_narrow(3, 0, prompt.length + length)?)
        };
        let branches = prompt.branches().iter().map(corner).collect::<Result<_, _>>()?;
        Ok(Segment::Prompt { trunk, has_response: !prompt.responses.is_empty(), branches })
    }
}

/// Mask [1, 1, length, start + length] for `length` tokens at positions from `start` on, which see the tokens before
/// them within the window.
fn mask(start: i64, length: i64, window: Option<i64>, options: (Kind, Device)) -> Result<Tensor, ModelError> {
    let (kind, device) = options;
    let mut visible = Tensor::f_ones([1, length, start + length], (Kind::Bool, device))?.f_tril(start)?;
    if let Some(window) = window {
        visible = visible.f_triu(start - window + 1)?;
    }
    additive(&visible, kind)
}

/// Iterator over the parts' queries, keys and values, [1, n, heads, D] each.
struct Parts(std::vec::IntoIter<[Tensor; 3]>);

impl Parts {
    fn split(tensors: [&Tensor; 3], lengths: &[i64]) -> Result<Parts, ModelError> {
        let split = |tensor: &Tensor| -> Result<Vec<Tensor>, ModelError> {
            let (num_rows, num_heads, num_tokens, head_dim) = tensor.size4()?;
            let by_tokens = tensor.f_transpose(1, 2)?.f_reshape([1, num_rows * num_tokens, num_heads, head_dim])?;
            Ok(by_tokens.f_split_with_sizes(lengths, 1)?)
        };
        let [queries, keys, values] = tensors;
        let keys_and_values = split(keys)?.into_iter().zip(split(values)?);
        let parts = split(queries)?.into_iter().zip(keys_and_values).map(|(query, (key, value))| [query, key, value]);
        Ok(Parts(parts.collect::<Vec<_>>().into_iter()))
    }

    fn take(&mut self) -> Result<[Tensor; 3], ModelError> {
        self.0.next().ok_or_else(|| ModelError::Request("a packed row has fewer parts than its segments".into()))
    }
}

#[cfg(test)]
#[path = "segments/tests.rs"]
mod tests;
