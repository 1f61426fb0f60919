//! Log-probs of a batch under any policy.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::PolicyError;
use super::batch_inputs::{log_probs, targets};
use super::collation::Collation;
use crate::model::{Model, ModelConfig};
use crate::plugin::{Batch, CollateOptions, Dataset, Layout, LossInputs, LossOptions, Plugin, Reduction};

/// A policy that returns logits of padded rows: an ONNX graph or a TorchScript module.
///
/// Each is a [`Scorer`]; the plugin computes log-probs from the logits.
pub trait LogitsPolicy {
    /// Returns the path of its file.
    fn path(&self) -> &Path;

    /// Returns V, the size of its vocabulary.
    fn vocab_size(&self) -> i64;

    /// Returns the dtype of the weights.
    fn kind(&self) -> Kind;

    /// Computes logits from `input_ids`, `attention_mask` and `position_ids`, without gradients.
    ///
    /// # Shapes
    ///
    /// `inputs`: [R, T] int64; the result: [R, T, V] of a floating-point dtype.
    ///
    /// # Errors
    ///
    /// Returns [`PolicyError::Run`] if the run fails.
    fn logits(&self, inputs: [&Tensor; 3]) -> Result<Tensor, PolicyError>;

    /// Checks that all tokens are in the vocabulary: others would abort the process on CUDA.
    ///
    /// # Errors
    ///
    /// Returns [`PolicyError::Vocabulary`] with the largest id if it is not.
    fn check_ids(&self, input_ids: &Tensor) -> Result<(), PolicyError> {
        let id = input_ids.f_max()?.f_int64_value(&[])?;
        let vocab_size = self.vocab_size();
        if id < vocab_size {
            return Ok(());
        }
        Err(PolicyError::Vocabulary { path: self.path().to_path_buf(), id, vocab_size })
    }

    /// Returns a hash of everything that determines its results.
    ///
    /// # Errors
    ///
    /// Returns [`PolicyError::Read`] if a file cannot be read.
    fn content_hash(&self) -> Result<blake3::Hash, PolicyError>;
}

/// A policy as a source of log-probs, whatever computes them: a [`Model`] or a [`LogitsPolicy`].
pub trait Scorer {
    /// Returns the config of the program's own models; None if nothing but the file is known.
    fn config(&self) -> Option<&ModelConfig>;

    /// Returns `wanted` for a batch of some samples, adapted to the layouts that the policy supports.
    fn collate(&self, wanted: CollateOptions, dataset: &Dataset, samples: &[usize]) -> CollateOptions;

    /// Computes token log-probs `[K]` and sequence log-probs `[S]`, without gradients.
    ///
    /// # Errors
    ///
    /// Errors from policy, plugin or libtorch.
    fn log_probs(&self, plugin: &Plugin, batch: &Batch, options: &LossOptions)
    -> Result<(Tensor, Tensor), PolicyError>;
}

impl Scorer for Model {
    fn config(&self) -> Option<&ModelConfig> {
        Some(self.config())
    }

    fn collate(&self, wanted: CollateOptions, dataset: &Dataset, samples: &[usize]) -> CollateOptions {
        Collation { options: wanted, device: self.device() }.of(dataset, samples)
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
    fn config(&self) -> Option<&ModelConfig> {
        None
    }

    fn collate(&self, wanted: CollateOptions, _: &Dataset, _: &[usize]) -> CollateOptions {
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

/// Computes token log-probs `[K]`, with as many rows at a time as fit the logits' budget.
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
        // Sums: sequences of other rows have no token here, so that their mean would be undefined.
        let (tokens, _) = plugin.log_probs(&inputs, &LossOptions { reduction: Reduction::Sum, ..*options })?;
        let _ = found.f_index_copy_(0, &here, &tokens.f_to_device(Device::Cpu)?)?;
    }
    Ok(found)
}

/// Runs a policy on two rows of three tokens, one of them padding, and returns V.
///
/// # Errors
///
/// Returns a [`PolicyError`] if it does not run, or its output is not of shape [2, 3, V].
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
                "for tokens [2, 3] it returns {:?} {shape:?} instead of logits [2, 3, vocabulary]; export it again",
                logits.kind()
            ),
        }),
    }
}
