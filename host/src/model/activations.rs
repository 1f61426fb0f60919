//! Forward pass with gradients: the activations that it saves, and the backward pass over them.
//!
//! With gradient checkpointing only the input of each layer is saved, and the layer is computed again in the backward
//! pass. The arithmetic, including dropout, is the same, so on a CPU the gradients are equal bit for bit.

use tch::Tensor;

use crate::libtorch::{native, upload};

use super::ModelError;
use super::causal_lm::Model;
use super::inputs::ModelInputs;
use super::pass::Context;

/// Options of a forward pass for training.
#[derive(Clone, Copy, Debug, Default)]
pub struct ForwardOptions {
    /// Save only each layer's input, and compute the layers again in the backward pass.
    pub checkpointing: bool,
    /// Seed of the adapter's dropout; `None` disables dropout.
    pub dropout_seed: Option<i64>,
}

/// Hidden states, and the activations saved for the backward pass.
pub struct Activations<'m> {
    model: &'m Model,
    context: Context,
    input_ids: Tensor,
    /// Detached from the graph.
    hidden: Tensor,
    saved: Saved,
}

/// Tensors saved for the backward pass.
enum Saved {
    /// The hidden states with their graph.
    Graph(Tensor),
    /// The input of each layer and finally that of the last norm, without a graph.
    LayerInputs(Vec<Tensor>),
}

impl Model {
    /// Computes hidden states like [`hidden`](Self::hidden), and saves the activations for a backward pass.
    ///
    /// # Errors
    ///
    /// The same as those of [`hidden`](Self::hidden).
    pub fn forward(&self, inputs: &ModelInputs, options: &ForwardOptions) -> Result<Activations<'_>, ModelError> {
        let context = tch::no_grad(|| self.context(inputs, options.dropout_seed))?;
        let input_ids = upload(inputs.input_ids, self.device())?;
        Activations::compute(self, context, input_ids, options.checkpointing)
    }
}

impl<'m> Activations<'m> {
    fn compute(
        model: &'m Model,
        context: Context,
        input_ids: Tensor,
        checkpointing: bool,
    ) -> Result<Activations<'m>, ModelError> {
        let decoder = &model.decoder;
        if checkpointing {
            let mut inputs = Vec::with_capacity(decoder.layers.len() + 1);
            let hidden = tch::no_grad(|| -> Result<Tensor, ModelError> {
                inputs.push(decoder.embed(&input_ids)?);
                for (index, layer) in decoder.layers.iter().enumerate() {
                    inputs.push(layer.forward(&inputs[index], &context, None)?);
                }
                decoder.norm.forward(&inputs[decoder.layers.len()])
            })?;
            return Ok(Activations { model, context, input_ids, hidden, saved: Saved::LayerInputs(inputs) });
        }
        let hidden = tch::with_grad(|| -> Result<Tensor, ModelError> {
            let mut hidden = decoder.embed(&input_ids)?;
            for layer in &decoder.layers {
                hidden = layer.forward(&hidden, &context, None)?;
            }
            decoder.norm.forward(&hidden)
        })?;
        Ok(Activations { model, context, input_ids, hidden: hidden.f_detach()?, saved: Saved::Graph(hidden) })
    }

    /// Returns the hidden states after the final norm, [R, T, H], detached from the graph.
    pub fn hidden(&self) -> &Tensor {
        &self.hidden
    }

    /// Accumulates the parameters' gradients in their `.grad`, given the gradient of the hidden states.
    ///
    /// # Shapes
    ///
    /// `grad_hidden`: [R, T, H] or [R·T, H].
    ///
    /// # Errors
    ///
    /// Returns a [`ModelError`] if the shape differs from that of the hidden states or libtorch fails.
    pub fn backward(self, grad_hidden: &Tensor) -> Result<(), ModelError> {
        let Activations { model, context, input_ids, hidden, saved } = self;
        let (shape, found) = (hidden.size(), grad_hidden.size());
        if grad_hidden.numel() != hidden.numel() || found.last() != shape.last() {
            return Err(ModelError::Request(format!(
                "the gradient of hidden states of shape {shape:?} cannot have shape {found:?}"
            )));
        }
        let grad = grad_hidden.f_detach()?.f_view(shape.as_slice())?.f_to_device(hidden.device())?;
        let grad = grad.f_to_kind(hidden.f_kind()?)?;
        drop(hidden);
        tch::with_grad(|| match saved {
            Saved::Graph(hidden) => backward(&hidden, &grad),
            Saved::LayerInputs(inputs) => backward_layers(model, &context, &input_ids, inputs, grad),
        })
    }
}

/// Computes the layers again and their gradients, from the last layer down to the first that has trainable parameters.
fn backward_layers(
    model: &Model,
    context: &Context,
    input_ids: &Tensor,
    mut inputs: Vec<Tensor>,
    mut grad: Tensor,
) -> Result<(), ModelError> {
    let (decoder, first) = (&model.decoder, model.first_trainable_layer());
    for index in (0..=decoder.layers.len()).rev() {
        if first.is_none_or(|first| index < first) {
            return Ok(());
        }
        let Some(input) = inputs.pop() else { break };
        let needs_grad = decoder.embed_tokens.requires_grad() || first.is_some_and(|first| first < index);
        let input = input.f_detach()?.f_set_requires_grad(needs_grad)?;
        let output = match decoder.layers.get(index) {
            Some(layer) => layer.forward(&input, context, None)?,
            None => decoder.norm.forward(&input)?,
        };
        backward(&output, &grad)?;
        drop(output);
        if !needs_grad {
            return Ok(());
        }
        grad = input.f_grad()?;
    }
    backward(&decoder.embed(input_ids)?, &grad)
}

/// Runs autograd's backward from `output`, given its gradient.
fn backward(output: &Tensor, grad: &Tensor) -> Result<(), ModelError> {
    if output.requires_grad() { Ok(native::backward(output, grad)?) } else { Ok(()) }
}
