//! The preferences of a batch: targets, orders and λ′ over its prompts' responses, in main memory.

use std::ops::Range;

use ndarray::Array2;

use crate::tokenize::dense_ranks;

/// Inputs of a preference objective besides the log-probs.
///
/// # Shapes
///
/// As in the ABI's `LossInputs`: B prompts, M dimensions, C responses.
#[derive(Debug)]
pub(super) struct Preferences {
    /// `[B + 1]`
    pub(super) prompt_offsets: Vec<usize>,
    /// `[M, C]`
    pub(super) sequence_index: Array2<usize>,
    /// `[M, C]` p^(k); read only where `mask` is set.
    pub(super) pi_target: Array2<f64>,
    /// `[M, C]` 1 is the best of its prompt; read only where `mask` is set.
    pub(super) ranks: Array2<i64>,
    /// `[M, C]`
    pub(super) mask: Array2<bool>,
    /// `[B, M]` λ′
    pub(super) lambda: Array2<f64>,
}

impl Preferences {
    /// B
    pub(super) fn num_prompts(&self) -> usize {
        self.prompt_offsets.len() - 1
    }

    /// M
    pub(super) fn num_dimensions(&self) -> usize {
        self.lambda.ncols()
    }

    /// Returns the columns of a prompt's responses.
    pub(super) fn columns(&self, prompt: usize) -> Range<usize> {
        self.prompt_offsets[prompt]..self.prompt_offsets[prompt + 1]
    }

    /// Returns `[S]` the prompt of each sequence, and a number of its own for one that no prompt has; None if a sequence
    /// belongs to several, so that their losses have something in common.
    pub(super) fn prompts(&self, num_sequences: usize) -> Option<Vec<usize>> {
        let mut prompts = vec![None; num_sequences];
        for prompt in 0..self.num_prompts() {
            for column in self.columns(prompt) {
                for sequence in self.sequence_index.column(column) {
                    if *prompts[*sequence].get_or_insert(prompt) != prompt {
                        return None;
                    }
                }
            }
        }
        let alone = |(sequence, prompt): (usize, Option<usize>)| prompt.unwrap_or(self.num_prompts() + sequence);
        Some(prompts.into_iter().enumerate().map(alone).collect())
    }

    /// Returns S_k: the columns of the responses of a prompt that a dimension rates.
    pub(super) fn rated(&self, prompt: usize, dimension: usize) -> Vec<usize> {
        self.columns(prompt).filter(|column| self.mask[[dimension, *column]]).collect()
    }

    /// Whether a dimension rates at least two of a prompt's responses.
    pub(super) fn counts(&self, prompt: usize, dimension: usize) -> bool {
        self.columns(prompt).filter(|column| self.mask[[dimension, *column]]).nth(1).is_some()
    }
}

/// Fills in ranks from the target distributions: within each prompt and dimension, the largest target is 1, and equal
/// ones tie.
pub(super) fn ranks_of(pi_target: &Array2<f64>, mask: &Array2<bool>, prompt_offsets: &[usize]) -> Array2<i64> {
    let mut ranks = Array2::zeros(pi_target.dim());
    for (k, targets) in pi_target.rows().into_iter().enumerate() {
        for bounds in prompt_offsets.windows(2) {
            let rated: Vec<usize> = (bounds[0]..bounds[1]).filter(|column| mask[[k, *column]]).collect();
            let places = dense_ranks(&rated.iter().map(|column| targets[*column]).collect::<Vec<_>>());
            rated.into_iter().zip(places).for_each(|(column, place)| ranks[[k, column]] = place);
        }
    }
    ranks
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn a_sequence_of_two_prompts_leaves_them_together() {
        let of = |sequence_index: Array2<usize>| Preferences {
            prompt_offsets: vec![0, 2, 4],
            pi_target: Array2::zeros(sequence_index.dim()),
            ranks: Array2::zeros(sequence_index.dim()),
            mask: Array2::from_elem(sequence_index.dim(), true),
            lambda: Array2::zeros((2, sequence_index.nrows())),
            sequence_index,
        };
        assert_eq!(of(array![[0, 1, 3, 2]]).prompts(5), Some(vec![0, 0, 1, 1, 6]));
        // As in the expanded layout, where each dimension has its own copies.
        assert_eq!(of(array![[0, 1, 2, 3], [4, 5, 6, 7]]).prompts(8), Some(vec![0, 0, 1, 1, 0, 0, 1, 1]));
        assert_eq!(of(array![[0, 1, 1, 2]]).prompts(3), None);
    }
}
