//! Slots for rows of one capacity.

use tch::{Device, Kind, Tensor};

use crate::model::ModelError;

use super::row_key::RowKey;

/// Keys and values of up to `num_slots` rows of up to `capacity` tokens. Its rows are in its first slots.
pub(super) struct Block {
    /// Keys and values of each layer, [slots, capacity, key-value heads, D] each.
    layers: Vec<(Tensor, Tensor)>,
    num_slots: i64,
    capacity: i64,
    rows: Vec<RowKey>,
}

impl Block {
    /// Creates a block without rows. What no row has written is 0, so that keys that a mask hides are numbers.
    pub(super) fn new(
        num_layers: usize,
        [num_slots, capacity, num_heads, head_dim]: [i64; 4],
        options: (Kind, Device),
    ) -> Result<Block, ModelError> {
        let zeros = || Tensor::f_zeros([num_slots, capacity, num_heads, head_dim], options);
        let layers = (0..num_layers).map(|_| Ok((zeros()?, zeros()?))).collect::<Result<_, ModelError>>()?;
        Ok(Block { layers, num_slots, capacity, rows: Vec::new() })
    }

    pub(super) fn capacity(&self) -> i64 {
        self.capacity
    }

    /// Returns the rows by slot.
    pub(super) fn rows(&self) -> &[RowKey] {
        &self.rows
    }

    pub(super) fn num_free(&self) -> i64 {
        self.num_slots - self.rows.len() as i64
    }

    pub(super) fn num_bytes(&self) -> usize {
        let bytes = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
        self.layers.iter().map(|(keys, values)| bytes(keys) + bytes(values)).sum()
    }

    /// Gives a row the next free slot, and returns it.
    pub(super) fn push(&mut self, row: RowKey) -> usize {
        self.rows.push(row);
        self.rows.len() - 1
    }

    /// Takes the row out of a slot, and moves the last one, of `num_tokens` tokens, into it.
    pub(super) fn swap_remove(&mut self, slot: usize, num_tokens: i64) -> Result<(), ModelError> {
        let last = self.rows.len() - 1;
        if slot < last {
            for (keys, values) in &self.layers {
                for tensor in [keys, values] {
                    row(tensor, slot, num_tokens)?.f_copy_(&row(tensor, last, num_tokens)?)?;
                }
            }
        }
        self.rows.swap_remove(slot);
        Ok(())
    }

    /// Copies the first tokens of a row from another block.
    pub(super) fn copy_from(&self, slot: usize, other: &Block, from: usize, num_tokens: i64) -> Result<(), ModelError> {
        for ((keys, values), (other_keys, other_values)) in self.layers.iter().zip(&other.layers) {
            for (tensor, other) in [(keys, other_keys), (values, other_values)] {
                row(tensor, slot, num_tokens)?.f_copy_(&row(other, from, num_tokens)?)?;
            }
        }
        Ok(())
    }

    /// Returns keys and values of a layer, [slots, capacity, key-value heads, D] each.
    pub(super) fn layer(&self, layer: usize) -> &(Tensor, Tensor) {
        &self.layers[layer]
    }
}

/// Returns the first tokens in a slot, [tokens, heads, D], as a view.
fn row(tensor: &Tensor, slot: usize, num_tokens: i64) -> Result<Tensor, ModelError> {
    Ok(tensor.f_select(0, slot as i64)?.f_narrow(0, 0, num_tokens)?)
}
