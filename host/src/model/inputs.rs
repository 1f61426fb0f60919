//! Inputs of a forward pass, and how sequences are laid out in them.

use tch::{Device, Kind, Tensor};

use super::ModelError;
use super::layers::packed_row::PackedRow;

/// Rows of tokens as the collator lays them out, on any device.
///
/// # Shapes
///
/// [R, T] int64, except λ; as in the ABI's `Batch`.
#[derive(Clone, Copy, Debug)]
pub struct ModelInputs<'a> {
    /// Token ids.
    pub input_ids: &'a Tensor,
    /// Position of each token in its own sequence.
    pub position_ids: &'a Tensor,
    /// Number of the prompt that a token belongs to; −1 at padding.
    pub prompt_ids: &'a Tensor,
    /// Number of the sequence that a response token belongs to; −1 at prompt tokens and padding.
    pub sequence_ids: &'a Tensor,
    /// [B, M] float, λ of each prompt; read only by λ-adapters.
    pub lambda: Option<&'a Tensor>,
}

/// How sequences are laid out in the rows, from which attention chooses its mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Each row is one sequence followed by padding, so that causal attention without a mask is exact.
    pub(super) one_sequence_per_row: bool,
    /// One more than the last position.
    pub(super) num_positions: i64,
    /// How prompts and responses are packed in each row; None if a row is not packed as the collator packs.
    pub(super) packed_rows: Option<Vec<PackedRow>>,
}

impl ModelInputs<'_> {
    /// Checks shapes, dtypes and token ids, and determines the layout of the rows.
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Request`] for the first input that is invalid. Without the check, an id outside the
    /// vocabulary would abort the process on CUDA.
    pub(super) fn check(&self, vocab_size: i64) -> Result<Layout, ModelError> {
        let size = self.input_ids.size();
        let &[num_rows, num_tokens] = size.as_slice() else {
            return Err(ModelError::Request(format!("`input_ids` must have shape [rows, tokens], found {size:?}")));
        };
        if num_rows == 0 || num_tokens == 0 {
            return Err(ModelError::Request(format!("`input_ids` of shape {size:?} has no tokens")));
        }
        let input_ids = self.values("input_ids", self.input_ids)?;
        let width = num_tokens as usize;
        if let Some(at) = input_ids.iter().position(|id| !(0..vocab_size).contains(id)) {
            let (id, row, column) = (input_ids[at], at / width, at % width);
            return Err(ModelError::Request(format!(
                "token id {id} (row {row}, column {column}) is not in the model's vocabulary of {vocab_size}; the tokenizer \
                 belongs to another model"
            )));
        }
        self.layout()
    }

    /// Determines the layout of the rows, whatever their tokens are.
    pub(super) fn layout(&self) -> Result<Layout, ModelError> {
        let width = self.input_ids.size2()?.1 as usize;
        let position_ids = self.values("position_ids", self.position_ids)?;
        let prompt_ids = self.values("prompt_ids", self.prompt_ids)?;
        let sequence_ids = self.values("sequence_ids", self.sequence_ids)?;
        if let Some(&position) = position_ids.iter().find(|&&position| position < 0) {
            return Err(ModelError::Request(format!("`position_ids` must not be negative, found {position}")));
        }
        let rows = || prompt_ids.chunks(width).zip(sequence_ids.chunks(width));
        let packed_rows = rows().zip(position_ids.chunks(width));
        Ok(Layout {
            one_sequence_per_row: rows().all(|(prompts, sequences)| is_one_sequence(prompts, sequences)),
            num_positions: position_ids.iter().max().map_or(0, |last| last + 1),
            packed_rows: packed_rows
                .map(|((prompts, sequences), positions)| PackedRow::read(prompts, sequences, positions))
                .collect(),
        })
    }

    fn values(&self, name: &str, tensor: &Tensor) -> Result<Vec<i64>, ModelError> {
        let (expected, found, kind) = (self.input_ids.size(), tensor.size(), tensor.f_kind()?);
        if found != expected || kind != Kind::Int64 {
            return Err(ModelError::Request(format!(
                "`{name}` must be int64 of shape {expected:?}, found {kind:?} of shape {found:?}"
            )));
        }
        Ok(Vec::try_from(tensor.f_to_device(Device::Cpu)?.f_reshape([-1])?)?)
    }
}

/// Returns whether a row is a prompt, then tokens of one sequence, then padding.
fn is_one_sequence(prompts: &[i64], sequences: &[i64]) -> bool {
    let length = prompts.iter().position(|&prompt| prompt == -1).unwrap_or(prompts.len());
    let (prompts, padding) = prompts.split_at(length);
    let sequences = &sequences[..length];
    let response = sequences.iter().position(|&sequence| sequence != -1).unwrap_or(length);
    padding.iter().all(|&prompt| prompt == -1)
        && prompts.windows(2).all(|pair| pair[0] == pair[1])
        && sequences[response..].windows(2).all(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_sequence_are_recognised() {
        assert!(is_one_sequence(&[0, 0, 0, 0], &[-1, -1, 7, 7]));
        assert!(is_one_sequence(&[3, 3, 3, -1], &[-1, 2, 2, -1]));
        assert!(is_one_sequence(&[-1, -1], &[-1, -1]));
        assert!(!is_one_sequence(&[0, 0, 0, 0], &[-1, 0, 1, 1]), "two responses");
        assert!(!is_one_sequence(&[0, 0, 1, 1], &[-1, 0, -1, 1]), "two prompts");
        assert!(!is_one_sequence(&[-1, 0, 0, 0], &[-1, -1, 0, 0]), "padding at the left");
        assert!(!is_one_sequence(&[0, 0, 0], &[0, -1, 0]), "a prompt token after a response");
    }

    #[test]
    fn ids_beyond_the_vocabulary_are_named() {
        let zeros = Tensor::zeros([2, 2], (Kind::Int64, Device::Cpu));
        let input_ids = Tensor::from_slice(&[0_i64, 1, 2, 130]).view([2, 2]);
        let inputs = ModelInputs {
            input_ids: &input_ids,
            position_ids: &zeros,
            prompt_ids: &zeros,
            sequence_ids: &zeros,
            lambda: None,
        };
        let message = inputs.check(128).map_err(|error| error.to_string());
        assert_eq!(
            message,
            Err("token id 130 (row 1, column 1) is not in the model's vocabulary of 128; the tokenizer belongs to another \
                 model"
                .into())
        );
    }
}
