//! What a forward pass keeps for its backward pass.
//!
//! With checkpointing only the input of each layer is kept, and the layer is computed again when its gradient is due. The
//! arithmetic is the same, dropout included, so on a CPU the gradients are equal bit for bit.

use tch::Tensor;

use crate::libtorch::native;

use super::ModelError;
use super::causal_lm::Model;
use super::inputs::ModelInputs;
use super::pass::Context;

/// How a forward pass for training runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct ForwardOptions {
    /// Keep only each layer's input and compute the layers again in the backward pass.
    pub checkpointing: bool,
    /// Seed of the adapter's dropout; `None` switches dropout off.
    pub dropout_seed: Option<i64>,
}

/// Hidden states, and what their gradient needs to go on to the parameters.
pub struct Activations<'m> {
    model: &'m Model,
    context: Context,
    input_ids: Tensor,
    /// Outside the graph.
    hidden: Tensor,
    saved: Saved,
}

/// Tensors saved for the backward pass.
enum Saved {
    /// The hidden states with their graph.
    Graph(Tensor),
    /// The input of each layer, and last that of the final norm; no graph.
    LayerInputs(Vec<Tensor>),
}

impl Model {
    /// Hidden states as [`hidden`](Self::hidden), keeping what a backward pass needs.
    ///
    /// # Errors
    ///
    /// [`ModelError`] as [`hidden`](Self::hidden).
    pub fn forward(&self, inputs: &ModelInputs, options: &ForwardOptions) -> Result<Activations<'_>, ModelError> {
        let context = tch::no_grad(|| self.context(inputs, options.dropout_seed))?;
        let input_ids = inputs.input_ids.f_to_device(self.device)?;
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
        if checkpointing {
            let mut inputs = Vec::with_capacity(model.layers.len() + 1);
            let hidden = tch::no_grad(|| -> Result<Tensor, ModelError> {
                inputs.push(model.embed(&input_ids)?);
                for (index, layer) in model.layers.iter().enumerate() {
                    inputs.push(layer.forward(&inputs[index], &context, None)?);
                }
                model.norm.forward(&inputs[model.layers.len()])
            })?;
            return Ok(Activations { model, context, input_ids, hidden, saved: Saved::LayerInputs(inputs) });
        }
        let hidden = tch::with_grad(|| -> Result<Tensor, ModelError> {
            let mut hidden = model.embed(&input_ids)?;
            for layer in &model.layers {
                hidden = layer.forward(&hidden, &context, None)?;
            }
            model.norm.forward(&hidden)
        })?;
        Ok(Activations { model, context, input_ids, hidden: hidden.f_detach()?, saved: Saved::Graph(hidden) })
    }

    /// Hidden states after the final norm, [R, T, H], outside the graph.
    pub fn hidden(&self) -> &Tensor {
        &self.hidden
    }

    /// Adds the parameters' gradients to their `.grad`, given that of the hidden states.
    ///
    /// # Shapes
    ///
    /// `grad_hidden`: [R, T, H] or [R·T, H].
    ///
    /// # Errors
    ///
    /// [`ModelError`] when the shape differs or libtorch fails.
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

/// From the last layer to the first, as far down as there is something to train.
fn backward_layers(
    model: &Model,
    context: &Context,
    input_ids: &Tensor,
    mut inputs: Vec<Tensor>,
    mut grad: Tensor,
) -> Result<(), ModelError> {
    let first = model.first_trainable_layer();
    for index in (0..=model.layers.len()).rev() {
        if first.is_none_or(|first| index < first) {
            return Ok(());
        }
        let Some(input) = inputs.pop() else { break };
        let needs_grad = model.embed_tokens.requires_grad() || first.is_some_and(|first| first < index);
        let input = input.f_detach()?.f_set_requires_grad(needs_grad)?;
        let output = match model.layers.get(index) {
            Some(layer) => layer.forward(&input, context, None)?,
            None => model.norm.forward(&input)?,
        };
        backward(&output, &grad)?;
        drop(output);
        if !needs_grad {
            return Ok(());
        }
        grad = input.f_grad()?;
    }
    backward(&model.embed(input_ids)?, &grad)
}

/// Continues autograd from `output` with its gradient.
fn backward(output: &Tensor, grad: &Tensor) -> Result<(), ModelError> {
    if output.requires_grad() { Ok(native::backward(output, grad)?) } else { Ok(()) }
}
