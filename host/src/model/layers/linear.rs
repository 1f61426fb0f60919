//! Linear layer, with or without an adapter.

use tch::Tensor;

use crate::libtorch::columns;
use crate::model::ModelError;
use crate::model::adapter::lora::Lora;
use crate::model::pass::Context;

/// y = W x + b, plus the output of the adapter.
#[derive(Debug)]
pub(in crate::model) struct Linear {
    /// [out, in].
    pub(in crate::model) weight: Tensor,
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
        let output = match columns::linear(input, &self.weight, self.bias.as_ref()) {
            Some(output) => output?,
            None => input.f_linear(&self.weight, self.bias.as_ref())?,
        };
        match &self.lora {
            Some(lora) if context.adapter_enabled => {
                Ok(output.f_add(&lora.forward(input, context.lambda_scale.as_ref(), context.dropout_seed)?)?)
            }
            _ => Ok(output),
        }
    }
}
