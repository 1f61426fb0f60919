//! Target tokens in the order in which the vocabulary projection visits them.

use std::ops::Range;

use tch::{Device, Tensor};

use super::checks::{check_list, invalid, read_indices, required};
use super::inputs::LogProbInputs;
use super::upload::upload;
use crate::Result;

/// The targets of a batch, sorted by the position that predicts them.
///
/// The last token of a packed prompt predicts the first token of each of its responses. Sorting puts such targets next
/// to each other, so that the gradient of their position is summed before it is rounded.
///
/// # Shapes
///
/// K targets of P ≤ K positions; "sorted" fields are in the plan's order, others in the caller's.
#[derive(Debug)]
pub(crate) struct TargetPlan {
    /// `[P]` the distinct positions, ascending.
    positions: Tensor,
    /// `[P + 1]` the sorted targets of position p are `first_target[p] .. first_target[p + 1]`.
    first_target: Vec<usize>,
    /// `[K]` sorted: position of each target.
    target_positions: Tensor,
    /// `[K]` sorted: index of each target's position among the P positions.
    target_rows: Tensor,
    /// `[K]` sorted: id of each target.
    target_ids: Tensor,
    /// `[K]` index of each of the caller's targets among the sorted ones.
    sorted_places: Tensor,
    /// `[K]` sorted: index of each target among the caller's, in main memory.
    order: Vec<usize>,
    /// `[K]` sorted: sequence of each target, in main memory.
    sorted_sequences: Vec<i64>,
    /// `[K]` sequence of each target, in main memory.
    pub(crate) sequences: Tensor,
    /// `[S]` number of targets of each sequence.
    pub(crate) sequence_lengths: Vec<u64>,
}

/// Positions, with all their targets, that are projected together.
pub(crate) struct Chunk {
    /// Range of the P positions.
    rows: Range<usize>,
    /// Range of the K sorted targets.
    targets: Range<usize>,
}

impl TargetPlan {
    /// Reads and checks the target fields, and sorts them.
    pub(crate) fn new(inputs: &LogProbInputs, num_positions: i64, vocab_size: i64, device: Device) -> Result<Self> {
        let reason = "a loss from hidden states or logits";
        let field = |name, tensor, below| {
            let tensor = required(name, tensor, reason)?;
            check_list(name, tensor)?;
            read_indices(name, tensor, below)
        };
        let positions = field("target_positions", inputs.target_positions, num_positions)?;
        let ids = field("target_ids", inputs.target_ids, vocab_size)?;
        let sequences = field("target_sequences", inputs.target_sequences, inputs.num_sequences)?;
        if ids.len() != positions.len() || sequences.len() != positions.len() {
            return invalid(format!(
                "target_positions, target_ids and target_sequences must be of one length, but they have {}, {} and {}",
                positions.len(),
                ids.len(),
                sequences.len()
            ));
        }
        let mut order: Vec<usize> = (0..positions.len()).collect();
        order.sort_by_key(|target| positions[*target]);
        let mut plan = SortedPositions::default();
        for (place, &target) in order.iter().enumerate() {
            if plan.positions.last() != Some(&positions[target]) {
                plan.positions.push(positions[target]);
                plan.first_target.push(place);
            }
            plan.rows.push(plan.positions.len() as i64 - 1);
        }
        plan.first_target.push(order.len());
        let mut places = vec![0; order.len()];
        order.iter().enumerate().for_each(|(place, target)| places[*target] = place as i64);
        let mut sequence_lengths = vec![0; inputs.num_sequences as usize];
        sequences.iter().for_each(|sequence| sequence_lengths[*sequence as usize] += 1);

        let sorted = |values: &[i64]| order.iter().map(|target| values[*target]).collect::<Vec<_>>();
        let num_positions = plan.positions.len();
        plan.positions.resize(order.len(), 0);
        // All in one copy.
        let lists = [plan.positions, sorted(&positions), plan.rows, sorted(&ids), places];
        let lists = Tensor::f_from_slice(&lists.concat())?.f_view([lists.len() as i64, order.len() as i64])?;
        let lists = upload(&lists, device)?;
        Ok(Self {
            positions: lists.f_select(0, 0)?.f_narrow(0, 0, num_positions as i64)?,
            first_target: plan.first_target,
            target_positions: lists.f_select(0, 1)?,
            target_rows: lists.f_select(0, 2)?,
            target_ids: lists.f_select(0, 3)?,
            sorted_places: lists.f_select(0, 4)?,
            sorted_sequences: sorted(&sequences),
            order,
            sequences: Tensor::f_from_slice(&sequences)?,
            sequence_lengths,
        })
    }

    /// K.
    pub(crate) fn len(&self) -> usize {
        self.sorted_sequences.len()
    }

    /// Splits the positions into chunks of at most `max_targets` targets, but at least one position.
    pub(crate) fn chunks(&self, max_targets: usize) -> Vec<Chunk> {
        let num_rows = self.first_target.len() - 1;
        let (mut chunks, mut start) = (Vec::new(), 0);
        while start < num_rows {
            let limit = self.first_target[start].saturating_add(max_targets);
            let end = self.first_target.partition_point(|first| *first <= limit).saturating_sub(1).max(start + 1);
            chunks.push(Chunk { rows: start..end, targets: self.first_target[start]..self.first_target[end] });
            start = end;
        }
        chunks
    }

    /// Brings sorted values `[K]` into the caller's order.
    pub(crate) fn unsort(&self, sorted: &Tensor) -> Result<Tensor> {
        Ok(sorted.f_index_select(0, &self.sorted_places)?)
    }

    /// Returns `[K]` sorted: the value of each target's sequence.
    pub(crate) fn per_target(&self, by_sequence: &[f64]) -> Vec<f64> {
        self.sorted_sequences.iter().map(|sequence| by_sequence[*sequence as usize]).collect()
    }

    /// Returns `[K]` sorted: values in the caller's order.
    pub(crate) fn sorted(&self, by_target: &[f64]) -> Vec<f64> {
        self.order.iter().map(|target| by_target[*target]).collect()
    }

    /// `[K]` sorted: id of each target.
    pub(crate) fn target_ids(&self) -> &Tensor {
        &self.target_ids
    }

    /// `[K]` sorted: position of each target.
    pub(crate) fn target_positions(&self) -> &Tensor {
        &self.target_positions
    }
}

/// Fields of the plan while it is built.
#[derive(Default)]
struct SortedPositions {
    positions: Vec<i64>,
    first_target: Vec<usize>,
    rows: Vec<i64>,
}

impl Chunk {
    /// Returns [p] the positions to project.
    pub(crate) fn positions(&self, plan: &TargetPlan) -> Result<Tensor> {
        Ok(plan.positions.f_narrow(0, self.rows.start as i64, self.rows.len() as i64)?)
    }

    /// Returns [t] the position of each target.
    pub(crate) fn target_positions(&self, plan: &TargetPlan) -> Result<Tensor> {
        self.of_targets(&plan.target_positions)
    }

    /// Returns [t] the row of the chunk that predicts each target.
    pub(crate) fn target_rows(&self, plan: &TargetPlan) -> Result<Tensor> {
        Ok(self.of_targets(&plan.target_rows)?.f_sub_scalar(self.rows.start as i64)?)
    }

    /// Returns [t] the id of each target.
    pub(crate) fn target_ids(&self, plan: &TargetPlan) -> Result<Tensor> {
        self.of_targets(&plan.target_ids)
    }

    /// Returns the chunk's part of a [K, …] tensor in sorted order, as a view.
    pub(crate) fn of_targets(&self, sorted: &Tensor) -> Result<Tensor> {
        Ok(sorted.f_narrow(0, self.targets.start as i64, self.targets.len() as i64)?)
    }

    /// Whether a position of the chunk has more than one target.
    pub(crate) fn has_shared_positions(&self) -> bool {
        self.targets.len() > self.rows.len()
    }

    /// p
    pub(crate) fn num_rows(&self) -> i64 {
        self.rows.len() as i64
    }
}
