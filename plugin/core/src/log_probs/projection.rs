//! The vocabulary projection, a chunk of target positions at a time, forward and backward.
//!
//! # Numerics
//!
//! "Accumulation" is float64 for float64 inputs and float32 for others. If the inputs have 16 bits:
//!
//! | what | rounded to 16 bits |
//! |---|---|
//! | logits, softmax, log-probs | never: float32 from the accumulator of their product on |
//! | residuals softmax(z)_v − 1[v = y] | if the backward gets them from the forward, or they are multiplied in 16 bits |
//! | the gradient of hidden states | when it is complete: its products, over blocks and targets, are summed in float32 |
//! | hidden states times their coefficients | as an operand of the gradient of the LM head |
//! | the gradient of the LM head | when it is complete: the scale that keeps float16 from underflowing rounds nothing |

use std::ops::Range;

use lambda_dpo_products::{add_product, product, rounded_product, widens};
use tch::{Device, Kind, Tensor};

use super::checks::{check_floating, dtype_name, invalid};
use super::inputs::{LogProbInputs, LossGradients, Wants};
use super::partwise::{Coefficients, Parts};
use super::targets::{Chunk, TargetPlan};
use super::upload::upload;
use crate::Result;

/// Source of the logits, flattened to one row per position.
pub(crate) enum Projection<'a> {
    /// logits = hidden · lm_headᵀ.
    Head {
        /// `[R·T, H]`
        hidden: Tensor,
        /// `[V, H]`
        lm_head: &'a Tensor,
    },
    /// `[R·T, V]` logits from the caller.
    Logits(Tensor),
}

/// Arguments that forward and backward share.
pub(crate) struct Pass<'a> {
    /// The targets.
    pub(crate) plan: &'a TargetPlan,
    /// Bytes of logits that may be alive at once.
    pub(crate) budget_bytes: usize,
    /// Gradients that are, or will be, asked for.
    pub(crate) wants: Wants,
}

/// State that the forward keeps for the backward.
#[derive(Debug)]
pub(crate) enum Kept {
    /// Nothing: logits are recomputed if needed.
    Nothing,
    /// What any part of a softmax can be recomputed from.
    Normalizers(Normalizers),
    /// `[K, V]` softmax(z)_v − 1[v = y] of the only chunk, in the inputs' dtype, if it fits the budget.
    Residuals(Tensor),
    /// `[K, H]` the residuals of every target times the LM head, in the accumulation dtype, if that is frozen: the
    /// vocabulary is not needed again.
    HiddenRows(Tensor),
    /// The gradients of the loss themselves, computed part by part.
    Gradients(LossGradients),
}

/// Of each target, what its softmax is normalised by; each `[K, 1]` in the accumulation dtype.
///
/// They are kept apart: as one number, log Σ exp z would be rounded as coarsely as the largest logit.
#[derive(Debug)]
pub(crate) struct Normalizers {
    /// max z
    largest: Tensor,
    /// log max softmax(z) = −log Σ exp(z − max z): the largest entry of a softmax is 1 / Σ exp(z − max z), and at least
    /// 1 / V.
    log_largest: Tensor,
}

impl Normalizers {
    fn empty(num_targets: i64, options: (Kind, Device)) -> Result<Self> {
        let column = || Tensor::f_empty([num_targets, 1], options);
        Ok(Self { largest: column()?, log_largest: column()? })
    }

    /// Writes those of a chunk's targets to the places of these targets.
    fn put(&self, chunk: &Chunk, of_chunk: &Self) -> Result<()> {
        chunk.of_targets(&self.largest)?.f_copy_(&of_chunk.largest)?;
        chunk.of_targets(&self.log_largest)?.f_copy_(&of_chunk.log_largest)?;
        Ok(())
    }

    /// Returns log softmax(z) of logits `[K, v]`, in their memory.
    ///
    /// # Equation
    ///
    /// (z − max z) + log max softmax(z): both terms are as small as the result, so neither rounds it coarsely.
    fn log_softmax(&self, mut logits: Tensor) -> Result<Tensor> {
        Ok(logits.f_sub_(&self.largest)?.f_add_(&self.log_largest)?)
    }
}

impl<'a> Projection<'a> {
    /// Uses hidden states or logits, whichever was given; None if neither was.
    pub(crate) fn new(inputs: &LogProbInputs<'a>) -> Result<Option<Self>> {
        match (inputs.hidden, inputs.lm_head, inputs.logits) {
            (None, None, None) => Ok(None),
            (None, None, Some(logits)) => Ok(Some(Self::Logits(rows("logits", logits)?))),
            (Some(hidden), Some(lm_head), None) => Self::from_head(hidden, lm_head).map(Some),
            (Some(_), None, None) => invalid("lm_head is missing: hidden states need it".into()),
            (None, Some(_), _) => invalid("hidden is missing: lm_head was given without it".into()),
            (Some(_), _, Some(_)) => invalid("hidden and logits were both given: give one of them".into()),
        }
    }

    fn from_head(hidden: &Tensor, lm_head: &'a Tensor) -> Result<Self> {
        let flat = rows("hidden", hidden)?;
        check_floating("lm_head", lm_head)?;
        let (hidden_kind, head_kind) = (hidden.f_kind()?, lm_head.f_kind()?);
        if hidden_kind != head_kind {
            return invalid(format!(
                "hidden is {}, but lm_head is {}: cast one to the other's dtype",
                dtype_name(hidden_kind),
                dtype_name(head_kind)
            ));
        }
        if hidden.device() != lm_head.device() {
            return invalid(format!("hidden is on {:?}, but lm_head is on {:?}", hidden.device(), lm_head.device()));
        }
        if lm_head.dim() != 2 || lm_head.size()[1] != flat.size()[1] {
            return invalid(format!(
                "lm_head has shape {:?}, but it must have shape [vocabulary, {}] for hidden states of shape {:?}",
                lm_head.size(),
                flat.size()[1],
                hidden.size()
            ));
        }
        Ok(Self::Head { hidden: flat, lm_head })
    }

    /// Returns hidden states or logits: the tensor that determines device and dtype.
    pub(crate) fn input(&self) -> &Tensor {
        match self {
            Self::Head { hidden, .. } => hidden,
            Self::Logits(logits) => logits,
        }
    }

    /// R·T
    pub(crate) fn num_positions(&self) -> i64 {
        self.input().size()[0]
    }

    /// V
    pub(crate) fn vocab_size(&self) -> i64 {
        match self {
            Self::Head { lm_head, .. } => lm_head.size()[0],
            Self::Logits(logits) => logits.size()[1],
        }
    }

    /// Returns the dtype of log-probs, and of gradients while they are summed: float64 for float64 inputs, float32 for
    /// others.
    pub(crate) fn accumulation(&self) -> Kind {
        if self.input().kind() == Kind::Double { Kind::Double } else { Kind::Float }
    }

    /// Returns the peak number of bytes for the logits of one target: a row in the accumulation dtype beside another, if
    /// the softmax is not computed in place, or beside one in a 16-bit input dtype, which holds the caller's logits
    /// before it and the residuals after it.
    fn bytes_per_target(&self) -> usize {
        let (accumulation, input) = (self.accumulation(), self.input().kind());
        let row = accumulation.elt_size_in_bytes();
        let second_row = if softmax_is_in_place(self.input()) { 0 } else { row };
        let narrow_row = if input == accumulation { 0 } else { input.elt_size_in_bytes() };
        (row + second_row.max(narrow_row)) * self.vocab_size().max(1) as usize
    }

    /// Splits the targets: into one chunk if all logits fit the budget, and otherwise into chunks of half of it, which
    /// are as fast, so that what is computed from a chunk fits beside it.
    fn chunks(&self, pass: &Pass) -> Vec<Chunk> {
        let num_fitting = pass.budget_bytes / self.bytes_per_target();
        let max_targets = if num_fitting >= pass.plan.len() { num_fitting } else { num_fitting / 2 };
        pass.plan.chunks(max_targets.max(1))
    }

    /// Splits the targets into chunks of whole parts of the loss, if this saves computing logits again: the LM head is
    /// trained, all logits do not fit the budget, and those of each part do.
    ///
    /// A head in 16 bits has its gradient written once, when it is complete, which needs all targets at once.
    pub(crate) fn partwise(&self, pass: &Pass, parts: &Parts) -> Option<Vec<Chunk>> {
        let num_fitting = pass.budget_bytes / self.bytes_per_target();
        let is_summed = self.accumulation() == self.input().kind();
        let has_head = matches!(self, Self::Head { .. });
        if !(has_head && pass.wants.lm_head && is_summed && num_fitting < pass.plan.len()) {
            return None;
        }
        pass.plan.chunks_of_parts(num_fitting.max(1), parts)
    }

    /// Returns the log-probs of the targets, `[K]` sorted, and their gradients: each chunk's as soon as its log-probs are
    /// known, while its logits are there. `coefficients` returns `[K]` sorted ∂loss/∂log-prob, of which those of the
    /// chunks so far are read.
    pub(crate) fn forward_partwise(
        &self,
        pass: &Pass,
        chunks: &[Chunk],
        coefficients: &dyn Fn(&Tensor) -> Result<Vec<f64>>,
    ) -> Result<(Tensor, Kept)> {
        let (Self::Head { hidden, lm_head }, plan) = (self, pass.plan) else {
            return invalid("logits have no head whose gradient could be computed".into());
        };
        let lm_head = lm_head.f_detach()?;
        let sorted = Tensor::f_zeros([plan.len() as i64], (self.accumulation(), hidden.device()))?;
        let grad_hidden = if pass.wants.hidden { Some(zeros_like(hidden, hidden.kind())?) } else { None };
        let grad_head = zeros_like(&lm_head, lm_head.kind())?;
        for chunk in chunks {
            let (log_probs, _, softmax) = self.log_probs(plan, chunk)?;
            chunk.of_targets(&sorted)?.f_copy_(&log_probs.f_squeeze_dim(1)?)?;
            let factors = chunk.of_targets(&self.column(&coefficients(&sorted)?, -1.0)?)?;
            let residuals = residuals(softmax, plan, chunk)?; // [t, V]
            let positions = chunk.target_positions(plan)?;
            if let Some(grad) = &grad_hidden {
                add_rows(grad, &positions, &product(&residuals, &lm_head)?.f_mul_(&factors)?)?;
            }
            let scaled = hidden.f_index_select(0, &positions)?.f_mul_(&factors)?;
            add_product(&residuals.f_transpose(0, 1)?, &scaled, &grad_head)?;
        }
        let gradients = LossGradients { hidden: grad_hidden, lm_head: Some(grad_head), ..LossGradients::default() };
        Ok((sorted, Kept::Gradients(gradients)))
    }

    /// Returns the log-probs of the targets, `[K]` sorted, and the state for the wanted backward.
    ///
    /// # Numerics
    ///
    /// The operands of a product are in the inputs' dtype; its result and everything after it are in the accumulation
    /// dtype.
    pub(crate) fn forward(&self, pass: &Pass) -> Result<(Tensor, Kept)> {
        let (plan, wants, chunks) = (pass.plan, pass.wants, self.chunks(pass));
        let options = (self.accumulation(), self.input().device());
        let sorted = Tensor::f_empty([plan.len() as i64], options)?;
        let mut kept = match self {
            Self::Head { hidden, .. } if wants.hidden && !wants.lm_head => {
                let shape = [plan.len() as i64, hidden.size()[1]];
                Kept::HiddenRows(Tensor::f_zeros(shape, options)?)
            }
            Self::Head { .. } if wants.lm_head && chunks.len() != 1 => {
                Kept::Normalizers(Normalizers::empty(plan.len() as i64, options)?)
            }
            _ => Kept::Nothing,
        };
        let keep_residuals = matches!(self, Self::Head { .. }) && wants.lm_head && chunks.len() == 1;
        for chunk in &chunks {
            let (log_probs, normalizers, softmax) = self.log_probs(plan, chunk)?;
            chunk.of_targets(&sorted)?.f_copy_(&log_probs.f_squeeze_dim(1)?)?;
            match (&mut kept, self) {
                (Kept::Normalizers(all), _) => all.put(chunk, &normalizers)?,
                (Kept::HiddenRows(rows), Self::Head { lm_head, .. }) => {
                    let residuals = as_operand(residuals(softmax, plan, chunk)?, lm_head)?;
                    add_product(&residuals, &lm_head.f_detach()?, &chunk.of_targets(rows)?)?;
                }
                (_, Self::Head { lm_head, .. }) if keep_residuals => {
                    kept = Kept::Residuals(residuals(softmax, plan, chunk)?.f_to_kind(lm_head.kind())?);
                }
                _ => {}
            }
        }
        Ok((sorted, kept))
    }

    /// Returns the [t, 1] log-probs of a chunk's targets, what normalises them, and the [t, V] softmax at each of them.
    fn log_probs(&self, plan: &TargetPlan, chunk: &Chunk) -> Result<(Tensor, Normalizers, Tensor)> {
        let logits = self.logits(plan, chunk)?;
        let of_targets = logits.f_gather(1, &chunk.target_ids(plan)?.f_unsqueeze(1)?, false)?;
        let largest = logits.f_amax([1], true)?;
        let softmax = softmax(logits)?;
        let normalizers = Normalizers { largest, log_largest: softmax.f_amax([1], true)?.f_log()? };
        Ok((normalizers.log_softmax(of_targets)?, normalizers, softmax))
    }

    /// Returns [t, V] in the accumulation dtype: the logits at each of a chunk's targets, as a new tensor.
    fn logits(&self, plan: &TargetPlan, chunk: &Chunk) -> Result<Tensor> {
        // A position with several targets is projected once for each; only the last token of a prompt has several.
        let rows = self.input().f_index_select(0, &chunk.target_positions(plan)?)?;
        Ok(match self {
            Self::Logits(_) => rows.f_to_kind(self.accumulation())?,
            Self::Head { lm_head, .. } => product(&rows, &lm_head.f_detach()?.f_transpose(0, 1)?)?,
        })
    }

    /// Returns the gradients of `grad_output` · loss, for the loss's ∂/∂log-prob c.
    ///
    /// # Equation
    ///
    /// ∂/∂z_v = c (1[v = y] − softmax(z)_v) for each target (docs/method.md, "Loss and gradient").
    pub(crate) fn backward(
        &self,
        pass: &Pass,
        kept: Kept,
        coefficients: &Coefficients,
        grad_output: f64,
    ) -> Result<LossGradients> {
        let coefficients = match kept {
            Kept::Gradients(gradients) => return gradients.times(grad_output),
            _ => pass.plan.coefficients(&coefficients.times(grad_output)),
        };
        let coefficients = &coefficients[..];
        match (self, kept) {
            (Self::Head { hidden, .. }, Kept::HiddenRows(rows)) => {
                let grad = zeros_like(hidden, self.accumulation())?;
                let mut scaled = rows;
                let _ = scaled.f_mul_(&self.column(coefficients, -1.0)?)?;
                add_rows(&grad, pass.plan.target_positions(), &scaled)?;
                Ok(LossGradients { hidden: Some(grad.f_to_kind(hidden.kind())?), ..LossGradients::default() })
            }
            (Self::Head { hidden, lm_head }, kept) => self.backward_head(hidden, lm_head, pass, kept, coefficients),
            (Self::Logits(logits), _) => self.backward_logits(logits, pass, coefficients),
        }
    }

    /// Returns the gradients with a trained LM head, a block of the vocabulary at a time, so that each entry of the
    /// head's gradient is written once: the whole vocabulary if the residuals were kept, and otherwise as many
    /// recomputed columns as fit half the budget.
    fn backward_head(
        &self,
        hidden: &Tensor,
        lm_head: &Tensor,
        pass: &Pass,
        kept: Kept,
        coefficients: &[f64],
    ) -> Result<LossGradients> {
        let (plan, accumulation, kind) = (pass.plan, self.accumulation(), hidden.kind());
        let scale = if kind == accumulation { 1.0 } else { power_of_two(coefficients) };
        let coefficients = self.column(coefficients, -1.0 / scale)?;
        let inputs = hidden.f_index_select(0, plan.target_positions())?; // [K, H]
        let scaled = inputs.f_to_kind(accumulation)?.f_mul(&coefficients)?.f_to_kind(kind)?;
        let rows = zeros_like(&inputs, accumulation)?;
        let empty = || Tensor::f_empty(lm_head.size(), (kind, lm_head.device()));
        let grad_head = if pass.wants.lm_head { Some(empty()?) } else { None };
        let width = match &kept {
            Kept::Residuals(_) => self.vocab_size(),
            _ => self.num_columns(pass),
        };
        let mut start = 0;
        while start < self.vocab_size() {
            let block = start..self.vocab_size().min(start + width);
            let length = block.end - block.start;
            let weights = lm_head.f_detach()?.f_narrow(0, start, length)?; // [v, H]
            let recomputed;
            let residuals = match &kept {
                Kept::Residuals(residuals) => residuals,
                Kept::Normalizers(normalizers) => {
                    let logits = product(&inputs, &weights.f_transpose(0, 1)?)?;
                    recomputed = as_operand(block_residuals(logits, normalizers, plan, block)?, lm_head)?;
                    &recomputed
                }
                _ => return invalid("the forward kept nothing for a gradient of lm_head".into()),
            }; // [K, v]
            if pass.wants.hidden {
                add_product(residuals, &weights, &rows)?;
            }
            if let Some(grad) = &grad_head {
                rounded_product(&residuals.f_transpose(0, 1)?, &scaled, &grad.f_narrow(0, start, length)?)?;
            }
            start += length;
        }
        let grad_hidden = if pass.wants.hidden { Some(zeros_like(hidden, accumulation)?) } else { None };
        if let Some(grad) = &grad_hidden {
            add_rows(grad, plan.target_positions(), &rows.f_mul(&coefficients)?)?;
        }
        let finish = |grad: Option<Tensor>| -> Result<Option<Tensor>> {
            let Some(mut grad) = grad else { return Ok(None) };
            if scale != 1.0 {
                let _ = grad.f_mul_scalar_(scale)?;
            }
            Ok(Some(grad.f_to_kind(kind)?))
        };
        Ok(LossGradients { hidden: finish(grad_hidden)?, lm_head: finish(grad_head)?, ..LossGradients::default() })
    }

    /// Returns the number of columns of logits, for all targets, that fit half the budget; at least one.
    fn num_columns(&self, pass: &Pass) -> i64 {
        let bytes_per_column = self.bytes_per_target() / self.vocab_size().max(1) as usize * pass.plan.len().max(1);
        ((pass.budget_bytes / 2 / bytes_per_column).max(1) as i64).min(self.vocab_size().max(1))
    }

    fn backward_logits(&self, logits: &Tensor, pass: &Pass, coefficients: &[f64]) -> Result<LossGradients> {
        let (plan, coefficients) = (pass.plan, self.column(coefficients, -1.0)?);
        let mut grad = zeros_like(logits, logits.kind())?;
        for chunk in self.chunks(pass) {
            let mut rows = residuals(softmax(self.logits(plan, &chunk)?)?, plan, &chunk)?;
            let _ = rows.f_mul_(&chunk.of_targets(&coefficients)?)?;
            if chunk.has_shared_positions() {
                // Summed in the accumulation dtype, so that a 16-bit gradient is rounded once.
                let summed = Tensor::f_zeros([chunk.num_rows(), self.vocab_size()], (rows.kind(), rows.device()))?;
                add_rows(&summed, &chunk.target_rows(plan)?, &rows)?;
                rows = summed;
            }
            let _ = grad.f_index_copy_(0, &chunk.positions(plan)?, &rows.f_to_kind(logits.kind())?)?;
        }
        Ok(LossGradients { logits: Some(grad), ..LossGradients::default() })
    }

    /// Returns [K, 1] the values times `factor`, in the accumulation dtype, on the device of the inputs.
    fn column(&self, values: &[f64], factor: f64) -> Result<Tensor> {
        let column = Tensor::f_from_slice(values)?.f_unsqueeze(1)?.f_mul_scalar(factor)?;
        upload(&column.f_to_kind(self.accumulation())?, self.input().device())
    }
}

/// Returns the power of two just above the largest |c|, or 1 if all are 0 or one is infinite: values divided by it do not
/// underflow float16, and neither dividing nor multiplying by it rounds.
fn power_of_two(coefficients: &[f64]) -> f64 {
    let largest = coefficients.iter().fold(0.0, |largest: f64, c| largest.max(c.abs()));
    if largest > 0.0 && largest.is_finite() { largest.log2().ceil().exp2() } else { 1.0 }
}

/// Returns the residuals in the dtype in which they are multiplied by the LM head.
fn as_operand(residuals: Tensor, lm_head: &Tensor) -> Result<Tensor> {
    if widens(lm_head.kind(), lm_head.device()) { Ok(residuals) } else { Ok(residuals.f_to_kind(lm_head.kind())?) }
}

/// Whether [`softmax`] works in place: it does on a CPU, where new memory costs more than the softmax itself.
fn softmax_is_in_place(tensor: &Tensor) -> bool {
    tensor.device() == Device::Cpu
}

/// Returns the softmax over the last dimension, in the memory of the logits if that is faster.
///
/// libtorch's CPU kernel no longer reads an entry once it has written the result there; a test checks this.
fn softmax(logits: Tensor) -> Result<Tensor> {
    if softmax_is_in_place(&logits) {
        Ok(logits.f_internal_softmax_out(&logits, -1, false)?)
    } else {
        Ok(logits.f_softmax(-1, None)?)
    }
}

/// Returns [t, V] softmax(z)_v − 1[v = y] for each target, in the memory of the softmax.
fn residuals(mut softmax: Tensor, plan: &TargetPlan, chunk: &Chunk) -> Result<Tensor> {
    let ids = chunk.target_ids(plan)?.f_unsqueeze(1)?;
    let minus_ones = Tensor::f_full(ids.size(), -1.0, (softmax.kind(), softmax.device()))?;
    Ok(softmax.f_scatter_add_(1, &ids, &minus_ones)?)
}

/// Returns [K, v] softmax(z)_v − 1[v = y] of a block of the vocabulary, in the memory of its logits.
fn block_residuals(logits: Tensor, normalizers: &Normalizers, plan: &TargetPlan, block: Range<i64>) -> Result<Tensor> {
    let mut residuals = normalizers.log_softmax(logits)?.f_exp_()?;
    let ids = plan.target_ids().f_unsqueeze(1)?;
    let is_inside = ids.f_ge(block.start)?.f_logical_and(&ids.f_lt(block.end)?)?;
    let minus_ones = is_inside.f_to_kind(residuals.kind())?.f_neg()?;
    // Targets outside the block add 0 to some column.
    let columns = ids.f_sub_scalar(block.start)?.f_clamp(0, block.end - block.start - 1)?;
    Ok(residuals.f_scatter_add_(1, &columns, &minus_ones)?)
}

/// Adds row j to row `positions[j]` of the gradient.
fn add_rows(grad: &Tensor, positions: &Tensor, rows: &Tensor) -> Result<()> {
    let _ = grad.shallow_clone().f_index_add_(0, positions, rows)?;
    Ok(())
}

fn zeros_like(tensor: &Tensor, kind: Kind) -> Result<Tensor> {
    Ok(Tensor::f_zeros(tensor.size(), (kind, tensor.device()))?)
}

/// Returns `[R, T, X]` or `[R·T, X]` as `[R·T, X]`.
fn rows(field: &str, tensor: &Tensor) -> Result<Tensor> {
    check_floating(field, tensor)?;
    let size = tensor.size();
    match size[..] {
        [_, _] => Ok(tensor.f_detach()?),
        [rows, tokens, width] => Ok(tensor.f_detach()?.f_reshape([rows * tokens, width])?),
        _ => invalid(format!("{field} has shape {size:?}, but it must have 2 or 3 dimensions")),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_softmax_in_place_is_the_softmax() {
        tch::manual_seed(1);
        for kind in [Kind::Float, Kind::Double] {
            for (num_rows, width) in [(1, 1), (3, 7), (5, 1000), (33, 4099)] {
                let logits = Tensor::randn([num_rows, width], (kind, Device::Cpu)) * 8.0;
                let expected = logits.softmax(-1, None);
                let address = logits.data_ptr();
                let found = softmax(logits).unwrap();
                assert_eq!(found, expected, "{kind:?}, {num_rows} rows of {width}");
                assert_eq!(found.data_ptr(), address);
            }
        }
    }
}
