//! A loss as a function of log-probs, which may be a sum over parts of the batch.

use tch::Tensor;

use crate::Result;

/// ∂loss/∂log-prob.
#[derive(Debug)]
pub(crate) enum Coefficients {
    /// `[S]` that of every token of a sequence, or of s itself if sequence log-probs were given.
    Sequences(Vec<f64>),
    /// `[K]` that of each target token, in the caller's order.
    Tokens(Vec<f64>),
}

impl Coefficients {
    /// Returns those of `factor` · loss.
    pub(crate) fn times(&self, factor: f64) -> Self {
        let scaled = |values: &[f64]| values.iter().map(|value| value * factor).collect();
        match self {
            Self::Sequences(values) => Self::Sequences(scaled(values)),
            Self::Tokens(values) => Self::Tokens(scaled(values)),
        }
    }
}

/// What a loss is a function of.
#[derive(Clone, Copy)]
pub(crate) struct LogProbs<'a> {
    /// `[K]` in the caller's order; None if sequence log-probs were given.
    pub(crate) tokens: Option<&'a Tensor>,
    /// `[S]`
    pub(crate) sequences: &'a Tensor,
    /// `[S]` number of targets of each sequence; None if sequence log-probs were given.
    pub(crate) sequence_lengths: Option<&'a [u64]>,
}

/// Parts of a batch that a loss is a sum over.
#[derive(Debug)]
pub(crate) enum Parts {
    /// Each target is one.
    Targets,
    /// `[S]` the part that each sequence belongs to: its prompt.
    Sequences(Vec<usize>),
}

/// A loss that is a sum over parts of the batch, so that the gradient of a part can be computed before the others' log-probs
/// are known.
pub(crate) struct PartwiseLoss<'a> {
    /// The parts.
    pub(crate) parts: Parts,
    /// Returns the coefficients; those of a part mean something once all its log-probs are known. Unknown ones are 0.
    pub(crate) coefficients: &'a dyn Fn(LogProbs) -> Result<Coefficients>,
}
