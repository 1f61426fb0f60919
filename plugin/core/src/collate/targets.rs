//! Target distributions and λ → the fields of the listwise loss.

use ndarray::ArrayView1;

use super::rows::{copies, offsets};
use crate::Layout;
use crate::lambda::renormalized;
use crate::tokenize::TokenizedSample;

/// The fields of the listwise loss.
pub(super) struct ListwiseTargets {
    /// C.
    pub(super) num_responses: usize,
    /// `[M, C]`
    pub(super) sequence_index: Vec<i64>,
    /// `[M, C]`
    pub(super) pi_target: Vec<f32>,
    /// `[M, C]`
    pub(super) mask: Vec<bool>,
    /// `[M, C]`
    pub(super) ranks: Vec<i64>,
    /// `[B, M]`
    pub(super) lambda: Vec<f32>,
    pub(super) num_contributing: u64,
}

impl ListwiseTargets {
    pub(super) fn new(samples: &[&TokenizedSample], lambda: &[f64], num_dimensions: usize, layout: Layout) -> Self {
        let (m, offsets) = (num_dimensions, offsets(samples));
        let num_responses = offsets[samples.len()];
        let copies = copies(m, layout);
        let mut targets = Self {
            num_responses,
            sequence_index: vec![0; m * num_responses],
            pi_target: vec![0.0; m * num_responses],
            mask: vec![false; m * num_responses],
            ranks: vec![0; m * num_responses],
            lambda: Vec::with_capacity(lambda.len()),
            num_contributing: 0,
        };
        for (b, sample) in samples.iter().enumerate() {
            let rates_two = |p: ArrayView1<f32>| p.iter().filter(|p| p.is_finite()).count() >= 2;
            let counts: Vec<bool> = sample.pi_target.rows().into_iter().map(rates_two).collect();
            let lambda = renormalized(&lambda[b * m..][..m], &counts);
            targets.num_contributing += u64::from(lambda.iter().any(|weight| *weight > 0.0));
            targets.lambda.extend(lambda);
            for (k, counts) in counts.into_iter().enumerate() {
                for i in 0..sample.responses.len() {
                    let (at, p) = (k * num_responses + offsets[b] + i, sample.pi_target[[k, i]]);
                    let copy = if copies > 1 { k } else { 0 };
                    targets.sequence_index[at] = (copies * offsets[b] + copy * sample.responses.len() + i) as i64;
                    targets.mask[at] = counts && p.is_finite();
                    targets.pi_target[at] = if targets.mask[at] { p } else { 0.0 };
                    targets.ranks[at] = if targets.mask[at] { sample.ranks[[k, i]] } else { 0 };
                }
            }
        }
        targets
    }
}
