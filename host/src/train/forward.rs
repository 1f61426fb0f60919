//! The forward pass of a policy: the loss's inputs, and the backward pass to the parameters.

use tch::Tensor;

use crate::libtorch::native;
use crate::model::{Activations, Model};
use crate::plugin::{Batch, LossGradients, LossInputs};
use crate::policy::batch_inputs::{loss_inputs, targets_and_weights};

use super::TrainError;

/// Result of a forward pass.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and it is never copied")]
pub enum Forward<'m> {
    /// A model's hidden states, with the activations that a backward pass needs.
    Activations(&'m Model, Activations<'m>),
    /// A model's hidden states, without gradients.
    Hidden(&'m Model, Tensor),
    /// A TorchScript module's logits.
    Logits {
        /// The logits in their autograd graph, if gradients are switched on.
        graph: Tensor,
        /// The same logits, detached.
        logits: Tensor,
    },
}

impl Forward<'_> {
    /// Returns the loss's inputs: hidden states and LM head, or logits.
    pub fn loss_inputs<'a>(&'a self, batch: &'a Batch, reference: Option<&'a Tensor>) -> LossInputs<'a> {
        match self {
            Self::Activations(model, activations) => {
                loss_inputs(batch, activations.hidden(), model.lm_head(), reference)
            }
            Self::Hidden(model, hidden) => loss_inputs(batch, hidden, model.lm_head(), reference),
            Self::Logits { logits, .. } => LossInputs { logits: Some(logits), ..targets_and_weights(batch, reference) },
        }
    }

    /// Accumulates the parameters' gradients in their `.grad`, given the gradients of the loss's inputs.
    ///
    /// # Errors
    ///
    /// Errors from libtorch.
    pub fn backward(self, gradients: LossGradients) -> Result<(), TrainError> {
        match self {
            Self::Activations(model, activations) => {
                if let Some(gradient) = gradients.lm_head {
                    model.accumulate_lm_head_grad(gradient)?;
                }
                if let Some(gradient) = gradients.hidden {
                    activations.backward(&gradient)?;
                }
            }
            Self::Logits { graph, .. } => {
                if let Some(gradient) = gradients.logits {
                    native::backward(&graph, &gradient.f_view(graph.size().as_slice())?.f_to_kind(graph.kind())?)?;
                }
            }
            Self::Hidden(..) => {}
        }
        Ok(())
    }
}
