//! The samples of each step: pure functions of seed and epoch, so that a resumed run continues where it stopped.

use std::cell::RefCell;
use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

// Different uses of one seed read different streams of the generator.
const EPOCH_STREAM: u64 = 0;
const SPLIT_STREAM: u64 = 1 << 63;

/// Returns the permutation of `0..len` for one epoch.
pub fn permutation(len: usize, seed: u64, epoch: u64) -> Vec<usize> {
    shuffled(len, seed, EPOCH_STREAM | epoch)
}

/// The permutations of a run. The last one used is cached, because making one of a large dataset takes time.
#[derive(Debug)]
pub struct EpochOrder {
    len: usize,
    seed: u64,
    last: RefCell<Option<(u64, Vec<usize>)>>,
}

impl EpochOrder {
    /// Makes the permutations of `0..len`.
    pub fn new(len: usize, seed: u64) -> Self {
        Self { len, seed, last: RefCell::new(None) }
    }

    /// Calls `read` with the permutation of an epoch.
    pub fn with<T>(&self, epoch: u64, read: impl FnOnce(&[usize]) -> T) -> T {
        let mut last = self.last.borrow_mut();
        if last.as_ref().is_none_or(|(of, _)| *of != epoch) {
            *last = Some((epoch, permutation(self.len, self.seed, epoch)));
        }
        read(last.as_ref().map_or(&[], |(_, order)| order))
    }
}

/// Splits `0..len` into training and held-out samples, both ascending. If `fraction` is above 0, each has at least one.
pub fn split(len: usize, fraction: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let held_out =
        ((len as f64 * fraction).round() as usize).clamp(usize::from(fraction > 0.0), len.saturating_sub(1).max(1));
    if fraction == 0.0 {
        return ((0..len).collect(), Vec::new());
    }
    let mut order = shuffled(len, seed, SPLIT_STREAM);
    let mut train = order.split_off(held_out.min(len));
    train.sort_unstable();
    order.sort_unstable();
    (train, order)
}

fn shuffled(len: usize, seed: u64, stream: u64) -> Vec<usize> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(stream);
    let mut order: Vec<usize> = (0..len).collect();
    // Fisher-Yates, written out so that a dependency's new version cannot change the order.
    for last in (1..len).rev() {
        order.swap(last, below(&mut generator, last as u64 + 1));
    }
    order
}

/// Draws uniformly from `0..bound`, without modulo bias.
fn below(generator: &mut ChaCha8Rng, bound: u64) -> usize {
    let limit = u64::MAX - u64::MAX % bound;
    loop {
        let draw = generator.next_u64();
        if draw < limit {
            return (draw % bound) as usize;
        }
    }
}

/// How epochs divide into optimiser steps and steps into micro-batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Number of samples to train on.
    pub num_samples: usize,
    /// Prompts per micro-batch.
    pub batch_size: usize,
    /// Micro-batches per step; the last step of an epoch may have fewer.
    pub accumulation_steps: usize,
}

impl Plan {
    /// Returns the optimiser steps per epoch; a last partial step counts.
    pub fn steps_per_epoch(&self) -> u64 {
        self.num_samples.div_ceil(self.batch_size).div_ceil(self.accumulation_steps) as u64
    }

    /// Returns the steps of a run of `num_train_epochs`, which need not be whole.
    pub fn max_steps(&self, num_train_epochs: f64) -> u64 {
        ((num_train_epochs * self.steps_per_epoch() as f64).ceil() as u64).max(1)
    }

    /// Returns the epoch of a step (both from 0).
    pub fn epoch_of(&self, step: u64) -> u64 {
        step / self.steps_per_epoch()
    }

    /// Returns the samples of a step, as positions in its epoch's permutation.
    pub fn positions(&self, step: u64) -> Range<usize> {
        let step_in_epoch = (step % self.steps_per_epoch()) as usize;
        let per_step = self.batch_size * self.accumulation_steps;
        let start = step_in_epoch * per_step;
        start..(start + per_step).min(self.num_samples)
    }

    /// Returns the epochs done after `steps`, as metrics report it.
    pub fn epochs_after(&self, steps: u64) -> f64 {
        steps as f64 / self.steps_per_epoch() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epochs_order_is_a_pure_permutation() {
        let order = permutation(100, 42, 3);
        assert_eq!(order, permutation(100, 42, 3));
        assert_ne!(order, permutation(100, 42, 4));
        assert_ne!(order, permutation(100, 43, 3));
        let mut sorted = order;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        // Pinned: a resumed run must have the same order as its first part.
        assert_eq!(permutation(8, 42, 0), PINNED);
        let orders = EpochOrder::new(8, 42);
        for epoch in [0, 1, 1, 0] {
            assert_eq!(orders.with(epoch, <[usize]>::to_vec), permutation(8, 42, epoch));
        }
    }

    const PINNED: [usize; 8] = [5, 3, 2, 6, 7, 4, 0, 1];

    #[test]
    fn a_split_is_complete_and_pure() {
        let (train, held_out) = split(50, 0.1, 7);
        assert_eq!(held_out.len(), 5);
        assert_eq!((train.clone(), held_out.clone()), split(50, 0.1, 7));
        let mut all = [train, held_out].concat();
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
        assert_eq!(split(5, 0.0, 7), ((0..5).collect(), Vec::new()));
        assert_eq!(split(5, 0.01, 7).1.len(), 1);
    }

    #[test]
    fn a_partial_accumulation_is_a_step_of_its_own() {
        let plan = Plan { num_samples: 11, batch_size: 2, accumulation_steps: 2 };
        assert_eq!(plan.steps_per_epoch(), 3);
        assert_eq!(plan.max_steps(1.5), 5);
        assert_eq!((plan.positions(0), plan.positions(2), plan.positions(3)), (0..4, 8..11, 0..4));
        assert_eq!((plan.epoch_of(2), plan.epoch_of(3)), (0, 1));
    }
}
