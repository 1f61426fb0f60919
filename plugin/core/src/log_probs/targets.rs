//! Target tokens in the order in which the vocabulary projection visits them.

use std::collections::HashSet;
use std::ops::Range;

use tch::{Device, Tensor};

use super::checks::{check_list, invalid, read_indices, required};
use super::inputs::LogProbInputs;
use super::partwise::{Coefficients, Parts};
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

    /// Splits the positions into chunks of at most `max_targets` targets, each of whole parts; None if a part has more, or
    /// lies apart.
    pub(crate) fn chunks_of_parts(&self, max_targets: usize, parts: &Parts) -> Option<Vec<Chunk>> {
        let Parts::Sequences(part_of) = parts else { return Some(self.chunks(max_targets)) };
        let mut chunks: Vec<Chunk> = Vec::new();
        let (mut finished, mut start) = (HashSet::new(), 0);
        while start < self.first_target.len() - 1 {
            let part = self.part(start, part_of)?;
            let mut end = start + 1;
            while end < self.first_target.len() - 1 && self.part(end, part_of)? == part {
                end += 1;
            }
            let targets = self.first_target[start]..self.first_target[end];
            if targets.len() > max_targets || !finished.insert(part) {
                return None;
            }
            match chunks.last_mut() {
                Some(chunk) if targets.end - chunk.targets.start <= max_targets => {
                    chunk.rows.end = end;
                    chunk.targets.end = targets.end;
                }
                _ => chunks.push(Chunk { rows: start..end, targets }),
            }
            start = end;
        }
        Some(chunks)
    }

    /// Returns the part that the targets of a position belong to; None if they belong to several.
    fn part(&self, row: usize, part_of: &[usize]) -> Option<usize> {
        let sequences = &self.sorted_sequences[self.first_target[row]..self.first_target[row + 1]];
        let part = part_of[sequences[0] as usize];
        sequences.iter().all(|sequence| part_of[*sequence as usize] == part).then_some(part)
    }

    /// Brings sorted values `[K]` into the caller's order.
    pub(crate) fn unsort(&self, sorted: &Tensor) -> Result<Tensor> {
        Ok(sorted.f_index_select(0, &self.sorted_places)?)
    }

    /// Returns `[K]` sorted: the coefficient of each target.
    pub(crate) fn coefficients(&self, of: &Coefficients) -> Vec<f64> {
        match of {
            Coefficients::Sequences(values) => {
                self.sorted_sequences.iter().map(|sequence| values[*sequence as usize]).collect()
            }
            Coefficients::Tokens(values) => self.order.iter().map(|target| values[*target]).collect(),
        }
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// Targets of the sequences, each at a position of its own unless given.
    fn plan(sequences: &[i64], positions: &[i64]) -> TargetPlan {
        let list = |values: &[i64]| Tensor::from_slice(values);
        let (sequences, positions) = (list(sequences), list(positions));
        let inputs = LogProbInputs {
            hidden: None,
            lm_head: None,
            logits: None,
            sequence_log_probs: None,
            target_positions: Some(&positions),
            target_ids: Some(&sequences),
            target_sequences: Some(&sequences),
            num_sequences: 4,
        };
        TargetPlan::new(&inputs, 16, 16, Device::Cpu).unwrap()
    }

    fn chunks(plan: &TargetPlan, max_targets: usize, part_of: [usize; 4]) -> Option<Vec<(Range<usize>, Range<usize>)>> {
        let found = plan.chunks_of_parts(max_targets, &Parts::Sequences(part_of.to_vec()))?;
        Some(found.into_iter().map(|chunk| (chunk.rows, chunk.targets)).collect())
    }

    #[test]
    fn chunks_hold_whole_parts() {
        // Two prompts of two responses, whose first tokens share a position; the caller's order is another.
        let plan = plan(&[3, 0, 0, 1, 2, 2, 3], &[6, 1, 2, 1, 5, 7, 5]);
        let prompts = [0, 0, 1, 1];
        assert_eq!(chunks(&plan, 7, prompts), Some(vec![(0..5, 0..7)]));
        assert_eq!(chunks(&plan, 6, prompts), Some(vec![(0..2, 0..3), (2..5, 3..7)]));
        assert_eq!(chunks(&plan, 4, prompts), Some(vec![(0..2, 0..3), (2..5, 3..7)]));
        assert_eq!(chunks(&plan, 3, prompts), None, "the second prompt has four targets");
        assert_eq!(chunks(&plan, 7, [0, 1, 2, 3]), None, "a position predicts tokens of two parts");
        assert_eq!(plan.chunks_of_parts(3, &Parts::Targets).unwrap().len(), plan.chunks(3).len());
    }

    #[test]
    fn parts_that_lie_apart_have_no_chunks() {
        let plan = plan(&[0, 1, 2], &[0, 1, 2]);
        assert_eq!(chunks(&plan, 2, [0, 1, 0, 9]), None);
        assert_eq!(chunks(&plan, 2, [0, 0, 1, 9]), Some(vec![(0..2, 0..2), (2..3, 2..3)]));
    }
}
