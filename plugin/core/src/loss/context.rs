//! The backward of the loss.

use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::log_probs::checks::invalid;
use crate::log_probs::partwise::Coefficients;
use crate::log_probs::projection::{Pass, Projection};
use crate::log_probs::{LogProbInputs, LossGradients, Projected, Wants};

/// State that a backward needs from its forward, except for the inputs, which are passed again. A context serves one
/// backward.
#[derive(Debug)]
pub struct LossContext {
    /// ∂loss/∂log-prob of each target token, or ∂loss/∂s if sequence log-probs were given.
    pub(super) coefficients: Coefficients,
    /// None if sequence log-probs were given.
    pub(super) projected: Option<Projected>,
    pub(super) budget_bytes: usize,
    pub(super) wants: Wants,
    pub(super) fingerprint: Fingerprint,
}

impl LossContext {
    /// Checks that [`backward`](Self::backward) would accept these inputs, without using the context up.
    ///
    /// # Errors
    ///
    /// Returns an error if an input differs from the forward's in shape, dtype or device.
    pub fn check<'a>(&self, inputs: impl Into<LogProbInputs<'a>>) -> Result<()> {
        if Fingerprint::of(&inputs.into())? == self.fingerprint {
            return Ok(());
        }
        invalid(
            "the inputs of the backward differ from those of its forward in shape, dtype or device: pass the same \
             tensors again"
                .into(),
        )
    }

    /// Returns the gradients of `grad_output` · loss that the forward was asked for; `inputs` are those of the forward,
    /// unchanged.
    ///
    /// # Equation
    ///
    /// ∂L/∂s_i of the objective, for `listwise` β / normaliser · Σ_k λ'_k (P^(k)_i − p^(k)_i) (29), then
    /// ∂L/∂z_v = c_i (1[v = y] − softmax(z)_v) with c_i = ∂L/∂s_i, divided by the response's length if s is a mean.
    ///
    /// # Numerics
    ///
    /// Sums are in float32 (float64 for float64 inputs); gradients are returned in the dtypes of their inputs.
    ///
    /// # Errors
    ///
    /// Returns an error if an input differs from the forward's in shape, dtype or device; and errors from libtorch.
    pub fn backward<'a>(self, inputs: impl Into<LogProbInputs<'a>>, grad_output: f64) -> Result<LossGradients> {
        let _no_grad = tch::no_grad_guard();
        let inputs = inputs.into();
        self.check(inputs)?;
        let Some(Projected { plan, kept }) = self.projected else {
            return grad_sequences(&inputs, &self.coefficients.times(grad_output));
        };
        let Some(projection) = Projection::new(&inputs)? else {
            return invalid("the backward was given neither hidden states nor logits".into());
        };
        let pass = Pass { plan: &plan, budget_bytes: self.budget_bytes, wants: self.wants };
        let mut gradients = projection.backward(&pass, kept, &self.coefficients, grad_output)?;
        let shaped = |grad: Option<Tensor>, like: Option<&Tensor>| -> Result<Option<Tensor>> {
            grad.zip(like).map(|(grad, like)| Ok(grad.f_reshape(like.size())?)).transpose()
        };
        gradients.hidden = shaped(gradients.hidden, inputs.hidden)?;
        gradients.logits = shaped(gradients.logits, inputs.logits)?;
        Ok(gradients)
    }
}

/// Returns ∂L/∂s, if sequence log-probs were given.
fn grad_sequences(inputs: &LogProbInputs, coefficients: &Coefficients) -> Result<LossGradients> {
    let Coefficients::Sequences(coefficients) = coefficients else {
        return invalid("the backward of a loss of tokens was given sequence_log_probs".into());
    };
    let grad = inputs.sequence_log_probs.map(|like| -> Result<Tensor> {
        Ok(Tensor::f_from_slice(coefficients)?.f_to_kind(like.kind())?.f_to_device(like.device())?)
    });
    Ok(LossGradients { sequence_log_probs: grad.transpose()?, ..LossGradients::default() })
}

/// Shape, dtype and device of the tensors that a backward needs again.
#[derive(Debug, PartialEq)]
pub(super) struct Fingerprint(Vec<Option<(Vec<i64>, Kind, Device)>>);

impl Fingerprint {
    /// Returns the fingerprint of these inputs.
    pub(super) fn of(inputs: &LogProbInputs) -> Result<Self> {
        let of = |tensor: Option<&Tensor>| {
            tensor.map(|tensor| Ok((tensor.size(), tensor.f_kind()?, tensor.device()))).transpose()
        };
        let fields = [inputs.hidden, inputs.lm_head, inputs.logits, inputs.sequence_log_probs];
        fields.into_iter().map(of).collect::<Result<_>>().map(Self)
    }
}
