//! The forward pass of a policy: what the loss reads of it, and the way back to the parameters.

use tch::Tensor;

use crate::libtorch::native;
use crate::model::{Activations, Model};
use crate::plugin::{Batch, LossGradients, LossInputs};
use crate::policy::batch_inputs::{loss_inputs, targets_and_weights};

use super::TrainError;

/// What a policy gave for a batch.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and it is never copied")]
pub enum Forward<'m> {
    /// A model's hidden states, with what their gradient needs.
    Activations(&'m Model, Activations<'m>),
    /// The same without.
    Hidden(&'m Model, Tensor),
    /// A module's logits, and the same outside their graph.
    Logits {
        /// With a graph, where gradients were switched on.
        graph: Tensor,
        /// Outside it.
        logits: Tensor,
    },
}

impl Forward<'_> {
    /// The loss's inputs: hidden states and LM head, or logits.
    pub fn loss_inputs<'a>(&'a self, batch: &'a Batch, reference: Option<&'a Tensor>) -> LossInputs<'a> {
        match self {
            Self::Activations(model, activations) => {
                loss_inputs(batch, activations.hidden(), model.lm_head(), reference)
            }
            Self::Hidden(model, hidden) => loss_inputs(batch, hidden, model.lm_head(), reference),
            Self::Logits { logits, .. } => LossInputs { logits: Some(logits), ..targets_and_weights(batch, reference) },
        }
    }

    /// Adds the parameters' gradients to their `.grad`, given those of the loss's inputs.
    ///
    /// # Errors
    ///
    /// What libtorch refuses.
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
