//! One pass that extends rows: where their new keys and values go, and which ones their queries see.

use tch::{Device, Kind, Tensor};

use crate::libtorch::upload;
use crate::model::ModelError;
use crate::model::config::ModelConfig;
use crate::model::layers::additive_mask::additive;

use super::cache::KvCache;
use super::row_key::RowKey;

/// New tokens of rows, and where they go.
pub(in crate::model) struct Extension {
    /// Token ids, [R, T], padded on the right with token 0.
    pub(in crate::model) input_ids: Tensor,
    /// Positions in their rows, [R, T].
    pub(in crate::model) position_ids: Tensor,
    runs: Vec<Run>,
    sliding_layers: Vec<bool>,
}

/// A cache and the pass that extends it, for the layers.
#[derive(Clone, Copy)]
pub(in crate::model) struct CachedPass<'a> {
    pub(in crate::model) cache: &'a KvCache,
    pub(in crate::model) extension: &'a Extension,
}

/// Rows that follow each other in the pass and in a block.
struct Run {
    block: usize,
    slot: i64,
    first_row: i64,
    num_rows: i64,
    /// New tokens of the longest row.
    num_new: i64,
    write: Write,
    full: Seen,
    sliding: Seen,
}

/// Where new keys and values go.
enum Write {
    /// To the same positions in all rows, from this one on.
    At(i64),
    /// One token to each of these places, [rows], counted over slots and positions.
    Scattered(Tensor),
}

/// Which keys and values queries see.
enum Seen {
    /// The new ones of their own row, up to their own position.
    New,
    /// The new ones that a mask [1, 1, T, T] leaves visible.
    NewMasked(Tensor),
    /// All in a range of positions: first, number.
    Range(i64, i64),
    /// Those among the first `.0` positions that a mask, [rows or 1, 1, T, S], leaves visible.
    Masked(i64, Tensor),
}

impl CachedPass<'_> {
    /// Adds a layer's new keys and values to the cache and returns what `attend(query, key, value, mask, is_causal)`
    /// makes of the queries and the keys and values that they see.
    ///
    /// # Shapes
    ///
    /// `query`, `key`, `value` and the result: [R, heads, T, D].
    pub(in crate::model) fn attend(
        self,
        layer: usize,
        [query, key, value]: [&Tensor; 3],
        attend: impl Fn(&Tensor, &Tensor, &Tensor, Option<&Tensor>, bool) -> Result<Tensor, ModelError>,
    ) -> Result<Tensor, ModelError> {
        let mut attended = Vec::with_capacity(self.extension.runs.len());
        for run in &self.extension.runs {
            let rows = |tensor: &Tensor| tensor.f_narrow(0, run.first_row, run.num_rows);
            let (query, new_key, new_value) = (rows(query)?, rows(key)?, rows(value)?);
            let (keys, values) = self.cache.blocks[run.block].layer(layer);
            run.write(keys, &new_key)?;
            run.write(values, &new_value)?;
            let seen = |tensor: &Tensor, first: i64, num: i64| -> Result<Tensor, ModelError> {
                let rows = tensor.f_narrow(0, run.slot, run.num_rows)?;
                Ok(rows.f_narrow(1, first, num)?.f_transpose(1, 2)?) // [rows, heads, S, D]
            };
            attended.push(match if self.extension.sliding_layers[layer] { &run.sliding } else { &run.full } {
                Seen::New => attend(&query, &new_key, &new_value, None, true)?,
                Seen::NewMasked(mask) => attend(&query, &new_key, &new_value, Some(mask), false)?,
                Seen::Range(first, num) => {
                    attend(&query, &seen(keys, *first, *num)?, &seen(values, *first, *num)?, None, false)?
                }
                Seen::Masked(num, mask) => {
                    attend(&query, &seen(keys, 0, *num)?, &seen(values, 0, *num)?, Some(mask), false)?
                }
            });
        }
        match attended.len() {
            1 => Ok(attended.remove(0)),
            _ => Ok(Tensor::f_cat(&attended, 0)?),
        }
    }
}

impl Extension {
    /// Makes room for new tokens of rows, pairs of (row, tokens), and plans the pass over them.
    pub(in crate::model) fn plan(
        config: &ModelConfig,
        cache: &mut KvCache,
        rows: &[(RowKey, &[i64])],
    ) -> Result<Extension, ModelError> {
        if rows.is_empty() || rows.iter().any(|(_, tokens)| tokens.is_empty()) {
            return Err(ModelError::Request("a row has no token to continue from".into()));
        }
        let num_new: Vec<i64> = rows.iter().map(|(_, tokens)| tokens.len() as i64).collect();
        let sizes: Vec<(RowKey, i64)> = rows.iter().zip(&num_new).map(|((key, _), num_new)| (*key, *num_new)).collect();
        cache.reserve(&sizes)?;
        let width = num_new.iter().max().copied().unwrap_or(1);
        let mut ids = Vec::with_capacity(rows.len() * width as usize);
        let mut starts = Vec::with_capacity(rows.len());
        for (key, tokens) in rows {
            ids.extend_from_slice(tokens);
            ids.resize(starts.len() * width as usize + width as usize, 0);
            starts.push(cache.length(*key)?);
        }
        let shape = [rows.len() as i64, width];
        let position_ids = positions(&starts, width)?.f_expand(shape, false)?;
        let mut runs = Vec::new();
        let mut first = 0;
        while first < rows.len() {
            let Some((block, slot)) = cache.place(rows[first].0) else {
                return Err(ModelError::Request("the cache has no place for a row".into()));
            };
            let follows = |(offset, (key, _)): (usize, &(RowKey, &[i64]))| {
                let is_next = cache.place(*key) == Some((block, slot + offset));
                // Several new tokens are written to one range of positions.
                is_next && (width == 1 || starts[first + offset] == starts[first])
            };
            let count = rows[first..].iter().enumerate().take_while(|row| follows(*row)).count();
            let of_run = first..first + count;
            runs.push(Run::new(
                config,
                cache,
                (block, slot as i64),
                first as i64,
                &starts[of_run.clone()],
                (num_new[of_run].iter().max().copied().unwrap_or(1), width),
            )?);
            first += count;
        }
        Ok(Extension {
            input_ids: Tensor::f_from_slice(&ids)?.f_view(shape)?,
            position_ids,
            runs,
            sliding_layers: config.sliding_layers.clone(),
        })
    }

    /// Counts the new tokens, after the pass over all layers.
    pub(in crate::model) fn finish(&self, cache: &mut KvCache, rows: &[(RowKey, &[i64])]) {
        for (key, tokens) in rows {
            cache.grow(*key, tokens.len() as i64);
        }
    }
}

impl Run {
    fn new(
        config: &ModelConfig,
        cache: &KvCache,
        (block, slot): (usize, i64),
        first_row: i64,
        starts: &[i64],
        (num_new, width): (i64, i64),
    ) -> Result<Run, ModelError> {
        let (kind, device) = cache.options;
        let (least, most) = (starts.iter().min().copied().unwrap_or(0), starts.iter().max().copied().unwrap_or(0));
        let write = if least == most {
            Write::At(least)
        } else {
            let capacity = cache.blocks[block].capacity();
            let places: Vec<i64> = (slot..).zip(starts).map(|(slot, start)| slot * capacity + start).collect();
            Write::Scattered(upload(&Tensor::f_from_slice(&places)?, device)?)
        };
        let num_seen = most + num_new;
        let mask = |window: Option<i64>, num_columns: i64| -> Result<Tensor, ModelError> {
            let rows = if least == most { &starts[..1] } else { starts };
            let positions = positions(rows, width)?.f_unsqueeze(-1)?; // [rows or 1, T, 1]
            let columns = Tensor::f_arange(num_columns, (Kind::Int64, Device::Cpu))?;
            let mut visible = columns.f_le_tensor(&positions)?;
            if let Some(window) = window {
                visible = visible.f_logical_and(&columns.f_gt_tensor(&positions.f_sub_scalar(window)?)?)?;
            }
            additive(&upload(&visible, device)?, kind)
        };
        let seen = |window: Option<i64>| -> Result<Seen, ModelError> {
            Ok(match window.filter(|window| *window < num_seen) {
                None if most == 0 => Seen::New,
                Some(window) if most == 0 => Seen::NewMasked(mask(Some(window), width)?),
                window if least == most && width == 1 => {
                    let num = window.unwrap_or(num_seen);
                    Seen::Range(num_seen - num, num)
                }
                window => Seen::Masked(num_seen, mask(window, num_seen)?),
            })
        };
        let num_rows = starts.len() as i64;
        let full = seen(None)?;
        let sliding = seen(config.sliding_window)?;
        Ok(Run { block, slot, first_row, num_rows, num_new, write, full, sliding })
    }

    /// Writes new keys or values, [rows, heads, T, D], to those of a layer, [slots, capacity, heads, D].
    fn write(&self, cached: &Tensor, new: &Tensor) -> Result<(), ModelError> {
        match &self.write {
            Write::At(start) => {
                let rows = cached.f_narrow(0, self.slot, self.num_rows)?.f_narrow(1, *start, self.num_new)?;
                rows.f_transpose(1, 2)?.f_copy_(&new.f_narrow(2, 0, self.num_new)?)?;
            }
            Write::Scattered(places) => {
                let flat = cached.f_flatten(0, 1)?;
                let _ = flat.shallow_clone().f_index_copy_(0, places, &new.f_squeeze_dim(2)?)?;
            }
        }
        Ok(())
    }
}

/// Returns the positions of `width` new tokens of each row, [rows, T].
fn positions(starts: &[i64], width: i64) -> Result<Tensor, ModelError> {
    let offsets = Tensor::f_arange(width, (Kind::Int64, Device::Cpu))?;
    Ok(Tensor::f_from_slice(starts)?.f_unsqueeze(1)?.f_add(&offsets)?)
}
