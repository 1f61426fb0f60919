//! Linear layer, with or without an adapter.

use tch::Tensor;

use crate::model::ModelError;
use crate::model::adapter::lora::Lora;
use crate::model::pass::Context;

use super::adapted_linear;
use super::weight::Weight;

/// y = W x + b, plus the output of the adapter.
#[derive(Debug)]
pub(in crate::model) struct Linear {
    /// [out, in].
    pub(in crate::model) weight: Weight,
    /// [out].
    pub(in crate::model) bias: Option<Tensor>,
    pub(in crate::model) lora: Option<Lora>,
}

impl Linear {
    /// Computes the layer's output.
    ///
    /// # Shapes
    ///
    /// `input`: [R, T, in]; the result: [R, T, out], stored by columns if the input is.
    pub(in crate::model) fn forward(&self, input: &Tensor, context: &Context) -> Result<Tensor, ModelError> {
        let output = || self.weight.linear(input, self.bias.as_ref());
        let Some(lora) = self.lora.as_ref().filter(|_| context.adapter_enabled) else { return Ok(output()?) };
        let lambda_scale = context.lambda_scale.as_ref();
        if input.is_contiguous() && lora.used_seed(context.dropout_seed).is_none() {
            return adapted_linear::forward(input, &self.weight, self.bias.as_ref(), lora, lambda_scale);
        }
        Ok(output()?.f_add(&lora.forward(input, lambda_scale, context.dropout_seed)?)?)
    }
}
