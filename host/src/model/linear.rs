//! A linear layer, with or without an adapter.

use tch::Tensor;

use super::ModelError;
use super::decoder::Context;
use super::lora::Lora;

/// y = W x + b, plus what an adapter adds.
#[derive(Debug)]
pub(super) struct Linear {
    /// [out, in].
    pub(super) weight: Tensor,
    /// [out].
    pub(super) bias: Option<Tensor>,
    pub(super) lora: Option<Lora>,
}

impl Linear {
    /// # Shapes
    ///
    /// `input`: [R, T, in]; the result: [R, T, out].
    pub(super) fn forward(&self, input: &Tensor, context: &Context) -> Result<Tensor, ModelError> {
        let output = input.f_linear(&self.weight, self.bias.as_ref())?;
        match &self.lora {
            Some(lora) if context.adapter_enabled => {
                Ok(output.f_add(&lora.forward(input, context.lambda_scale.as_ref(), context.dropout_seed)?)?)
            }
            _ => Ok(output),
        }
    }
}
