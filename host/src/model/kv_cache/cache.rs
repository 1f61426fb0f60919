//! Rows and the blocks that hold them.

use indexmap::IndexMap;
use tch::{Device, Kind};

use crate::model::ModelError;
use crate::model::config::ModelConfig;

use super::block::Block;
use super::row_key::RowKey;

/// Capacity of the smallest blocks, in tokens.
const MIN_CAPACITY: i64 = 128;

/// Most slots of a block that is not created for more rows at once.
const MAX_SLOTS: i64 = 64;

/// Keys and values of rows, for all layers.
pub struct KvCache {
    num_layers: usize,
    num_heads: i64,
    head_dim: i64,
    pub(super) options: (Kind, Device),
    next_key: u64,
    pub(super) blocks: Vec<Block>,
    /// Number of tokens of each row.
    lengths: IndexMap<RowKey, i64>,
}

impl KvCache {
    /// Creates an empty cache.
    pub(in crate::model) fn new(config: &ModelConfig, options: (Kind, Device)) -> KvCache {
        KvCache {
            num_layers: config.num_hidden_layers,
            num_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            options,
            next_key: 0,
            blocks: Vec::new(),
            lengths: IndexMap::new(),
        }
    }

    /// Adds a row without tokens. It takes memory when it gets its first.
    pub fn insert(&mut self) -> RowKey {
        let key = RowKey(self.next_key);
        self.next_key += 1;
        self.lengths.insert(key, 0);
        key
    }

    /// Adds a row with the same tokens as another one.
    ///
    /// # Errors
    ///
    /// Returns a [`ModelError`] if there is no such row or libtorch fails.
    pub fn fork(&mut self, key: RowKey) -> Result<RowKey, ModelError> {
        let length = self.length(key)?;
        let copy = self.insert();
        if let Some(from) = self.place(key) {
            let capacity = self.blocks[from.0].capacity();
            let to = self.allocate(copy, capacity, 1)?;
            self.copy_row(from, to, length)?;
        }
        self.lengths.insert(copy, length);
        Ok(copy)
    }

    /// Removes a row.
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Torch`] if libtorch fails to close the gap.
    pub fn remove(&mut self, key: RowKey) -> Result<(), ModelError> {
        if let Some(place) = self.place(key) {
            self.vacate(place)?;
        }
        self.lengths.swap_remove(&key);
        Ok(())
    }

    /// Returns the number of tokens of a row.
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Request`] if there is no such row.
    pub fn length(&self, key: RowKey) -> Result<i64, ModelError> {
        let length = self.lengths.get(&key).copied();
        length.ok_or_else(|| ModelError::Request("the cache has no such row: it was removed".into()))
    }

    /// Returns the rows that have tokens, in the order in which they are cheapest to extend together.
    pub fn rows(&self) -> impl Iterator<Item = RowKey> {
        self.blocks.iter().flat_map(|block| block.rows().iter().copied())
    }

    /// Returns the size of the blocks in bytes.
    #[must_use]
    pub fn num_bytes(&self) -> usize {
        self.blocks.iter().map(Block::num_bytes).sum()
    }

    /// Makes room for new tokens of rows, pairs of (row, number of tokens). It may change the order of the rows.
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Request`] if there is no such row, [`ModelError::Torch`] if memory is exhausted.
    pub fn reserve(&mut self, rows: &[(RowKey, i64)]) -> Result<(), ModelError> {
        for (index, &(key, num_new)) in rows.iter().enumerate() {
            let length = self.length(key)?;
            let place = self.place(key);
            if place.is_some_and(|(block, _)| length + num_new <= self.blocks[block].capacity()) {
                continue;
            }
            let capacity = capacity_for(length + num_new);
            let num_others = rows[index..].iter().filter(|(key, num_new)| {
                self.place(*key).is_none()
                    && capacity_for(self.lengths.get(key).map_or(0, |length| length + num_new)) == capacity
            });
            let num_others = num_others.count() as i64;
            match place {
                None => drop(self.allocate(key, capacity, num_others)?),
                Some(from) => {
                    let to = self.allocate(key, capacity, 1)?;
                    self.copy_row(from, to, length)?;
                    self.vacate(from)?;
                }
            }
        }
        Ok(())
    }

    /// Counts tokens that a pass has added.
    pub(super) fn grow(&mut self, key: RowKey, num_new: i64) {
        if let Some(length) = self.lengths.get_mut(&key) {
            *length += num_new;
        }
    }

    /// Returns the block and slot of a row, None if it has no tokens yet.
    pub(super) fn place(&self, key: RowKey) -> Option<(usize, usize)> {
        let mut places = self.blocks.iter().enumerate();
        places.find_map(|(block, slots)| Some((block, slots.rows().iter().position(|row| *row == key)?)))
    }

    /// Gives a row a slot in a block of this capacity. A new block gets room for as many rows as are wanted, or as there are
    /// in blocks of this capacity already.
    fn allocate(&mut self, key: RowKey, capacity: i64, num_wanted: i64) -> Result<(usize, usize), ModelError> {
        let same = self.blocks.iter().filter(|block| block.capacity() == capacity);
        let num_rows = same.map(|block| block.rows().len() as i64).sum::<i64>();
        let free = self.blocks.iter().position(|block| block.capacity() == capacity && block.num_free() > 0);
        let block = match free {
            Some(block) => block,
            None => {
                let num_slots = num_wanted.max(num_rows).clamp(1, MAX_SLOTS);
                let shape = [num_slots, capacity, self.num_heads, self.head_dim];
                self.blocks.push(Block::new(self.num_layers, shape, self.options)?);
                self.blocks.len() - 1
            }
        };
        Ok((block, self.blocks[block].push(key)))
    }

    fn copy_row(&self, from: (usize, usize), to: (usize, usize), num_tokens: i64) -> Result<(), ModelError> {
        self.blocks[to.0].copy_from(to.1, &self.blocks[from.0], from.1, num_tokens)
    }

    /// Frees a slot. A block whose rows fit into the free slots of another one of its capacity gives them up.
    fn vacate(&mut self, (index, slot): (usize, usize)) -> Result<(), ModelError> {
        let block = &mut self.blocks[index];
        let last = block.rows().last().and_then(|row| self.lengths.get(row)).copied().unwrap_or(0);
        block.swap_remove(slot, last)?;
        let (capacity, num_rows) = (block.capacity(), block.rows().len() as i64);
        let others = self.blocks.iter().enumerate();
        let mut with_room = others.filter(|(other, block)| {
            *other != index && block.capacity() == capacity && block.num_free() >= num_rows && !block.rows().is_empty()
        });
        let target = with_room.next().map(|(other, _)| other);
        if num_rows == 0 {
            self.blocks.swap_remove(index);
        } else if let Some(target) = target {
            for (from, key) in self.blocks[index].rows().to_vec().into_iter().enumerate() {
                let length = self.length(key)?;
                let to = (target, self.blocks[target].push(key));
                self.copy_row((index, from), to, length)?;
            }
            self.blocks.swap_remove(index);
        }
        Ok(())
    }
}

/// Returns the capacity of the block that a row of so many tokens begins in.
fn capacity_for(num_tokens: i64) -> i64 {
    num_tokens.max(MIN_CAPACITY).unsigned_abs().next_power_of_two() as i64
}
