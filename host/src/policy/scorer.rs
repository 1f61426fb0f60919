//! Log-probs of a batch under any policy.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::PolicyError;
use super::batch_inputs::{log_probs, targets};
use crate::model::Model;
use crate::plugin::{Batch, CollateOptions, Layout, LossInputs, LossOptions, Plugin, Reduction};

/// What gives logits of padded rows.
pub trait LogitsPolicy {
    /// Its file.
    fn path(&self) -> &Path;

    /// V.
    fn vocab_size(&self) -> i64;

    /// Dtype of the weights.
    fn kind(&self) -> Kind;

    /// Logits of `input_ids`, `attention_mask` and `position_ids`, without a graph.
    ///
    /// # Shapes
    ///
    /// Inputs [R, T] int64; the result [R, T, V] of a floating dtype.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Run`]
    fn logits(&self, inputs: [&Tensor; 3]) -> Result<Tensor, PolicyError>;

    /// Refuses tokens that are not in its vocabulary, which would end the process on CUDA.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Vocabulary`] with the largest.
    fn check_ids(&self, input_ids: &Tensor) -> Result<(), PolicyError> {
        let id = input_ids.f_max()?.f_int64_value(&[])?;
        let vocab_size = self.vocab_size();
        if id < vocab_size {
            return Ok(());
        }
        Err(PolicyError::Vocabulary { path: self.path().to_path_buf(), id, vocab_size })
    }

    /// The hash of its contents.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Read`]
    fn content_hash(&self) -> Result<blake3::Hash, PolicyError>;
}

/// What gives log-probs of a batch.
pub trait Scorer {
    /// How it wants batches that a caller would have collated by `wanted`.
    fn collate(&self, wanted: CollateOptions) -> CollateOptions;

    /// Token log-probs `[K]` and sequence log-probs `[S]`, without gradients.
    ///
    /// # Errors
    ///
    /// What policy, plugin or libtorch refuse.
    fn log_probs(&self, plugin: &Plugin, batch: &Batch, options: &LossOptions)
    -> Result<(Tensor, Tensor), PolicyError>;
}

impl Scorer for Model {
    fn collate(&self, wanted: CollateOptions) -> CollateOptions {
        wanted
    }

    fn log_probs(
        &self,
        plugin: &Plugin,
        batch: &Batch,
        options: &LossOptions,
    ) -> Result<(Tensor, Tensor), PolicyError> {
        log_probs(self, plugin, batch, options)
    }
}

impl<P: LogitsPolicy> Scorer for P {
    fn collate(&self, wanted: CollateOptions) -> CollateOptions {
        CollateOptions { layout: Layout::Rows, max_tokens: None, ..wanted }
    }

    fn log_probs(
        &self,
        plugin: &Plugin,
        batch: &Batch,
        options: &LossOptions,
    ) -> Result<(Tensor, Tensor), PolicyError> {
        self.check_ids(&batch.input_ids)?;
        let tokens = token_log_probs(self, plugin, batch, options)?;
        let wide = tokens.f_to_kind(Kind::Double)?;
        let mut sums = Tensor::f_zeros([batch.sequence_num_tokens.numel() as i64], (Kind::Double, Device::Cpu))?;
        let _ = sums.f_index_add_(0, &batch.target_sequences, &wide)?;
        let sequences = match options.reduction {
            Reduction::Sum => sums,
            Reduction::Mean => sums.f_div(&batch.sequence_num_tokens.f_clamp_min(1)?)?,
        };
        Ok((tokens, sequences.f_to_kind(Kind::Float)?))
    }
}

/// Token log-probs `[K]`, as many rows at a time as the logits' budget holds.
fn token_log_probs(
    policy: &impl LogitsPolicy,
    plugin: &Plugin,
    batch: &Batch,
    options: &LossOptions,
) -> Result<Tensor, PolicyError> {
    let (num_rows, num_tokens) = batch.input_ids.size2()?;
    let row_bytes = num_tokens * policy.vocab_size() * 4;
    let budget = i64::try_from(options.logits_budget_bytes).unwrap_or(i64::MAX);
    let rows_at_once = (budget / row_bytes.max(1)).clamp(1, num_rows);
    let mut found = Tensor::f_zeros([batch.target_positions.numel() as i64], (Kind::Float, Device::Cpu))?;
    for first in (0..num_rows).step_by(rows_at_once as usize) {
        let rows = rows_at_once.min(num_rows - first);
        let part = |tensor: &Tensor| tensor.f_narrow(0, first, rows);
        let (start, end) = (first * num_tokens, (first + rows) * num_tokens);
        let is_here = batch.target_positions.f_ge(start)?.f_logical_and(&batch.target_positions.f_lt(end)?)?;
        let here = is_here.f_nonzero()?.f_view([-1])?;
        if here.numel() == 0 {
            continue;
        }
        let inputs = [part(&batch.input_ids)?, part(&batch.attention_mask)?, part(&batch.position_ids)?];
        let logits = policy.logits(inputs.each_ref())?;
        let positions = batch.target_positions.f_index_select(0, &here)?.f_sub_scalar(start)?;
        let (ids, sequences) =
            (batch.target_ids.f_index_select(0, &here)?, batch.target_sequences.f_index_select(0, &here)?);
        let inputs = LossInputs {
            logits: Some(&logits),
            target_positions: Some(&positions),
            target_ids: Some(&ids),
            target_sequences: Some(&sequences),
            ..targets(batch)
        };
        // The sequences of other rows have no token here, and so no mean.
        let (tokens, _) = plugin.log_probs(&inputs, &LossOptions { reduction: Reduction::Sum, ..*options })?;
        let _ = found.f_index_copy_(0, &here, &tokens.f_to_device(Device::Cpu)?)?;
    }
    Ok(found)
}

/// Runs a policy on two rows of three tokens, one of them padding, and gives V.
///
/// # Errors
///
/// [`PolicyError`] when it does not run, or gives something else than [2, 3, V].
pub(super) fn probe(policy: &impl LogitsPolicy) -> Result<i64, PolicyError> {
    let ids = Tensor::f_zeros([2, 3], (Kind::Int64, Device::Cpu))?;
    let mask = Tensor::f_from_slice(&[1_i64, 1, 1, 1, 1, 0])?.f_view([2, 3])?;
    let positions = Tensor::f_from_slice(&[0_i64, 1, 2, 0, 1, 0])?.f_view([2, 3])?;
    let logits = policy.logits([&ids, &mask, &positions])?;
    match logits.size().as_slice() {
        &[2, 3, vocab_size] if logits.is_floating_point() => Ok(vocab_size),
        shape => Err(PolicyError::File {
            path: policy.path().to_path_buf(),
            problem: format!(
                "of tokens [2, 3] it gives {:?} {shape:?}, but must give logits [2, 3, vocabulary]; export it again",
                logits.kind()
            ),
        }),
    }
}
