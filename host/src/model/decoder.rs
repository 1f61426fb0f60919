//! The decoder: embedding, layers and final norm, below any head.

use tch::{Device, Kind, Tensor};

use crate::libtorch::upload;

use super::ModelError;
use super::config::ModelConfig;
use super::inputs::ModelInputs;
use super::layers::decoder_layer::DecoderLayer;
use super::layers::mask::Masks;
use super::layers::norm::RmsNorm;
use super::layers::rope::Rope;
use super::parameters::{EMBEDDING, FINAL_NORM, Parameters};
use super::pass::Context;

/// Embedding, layers and final norm of a model, on one device and in one dtype.
#[derive(Debug)]
pub(super) struct Decoder {
    pub(super) config: ModelConfig,
    pub(super) device: Device,
    pub(super) kind: Kind,
    pub(super) embed_tokens: Tensor,
    pub(super) layers: Vec<DecoderLayer>,
    pub(super) norm: RmsNorm,
    pub(super) rope: Rope,
}

impl Decoder {
    /// Builds the decoder of a configuration from parameters, with which it shares its tensors.
    pub(super) fn build(
        config: ModelConfig,
        device: Device,
        kind: Kind,
        parameters: &Parameters,
    ) -> Result<Self, ModelError> {
        let layers = (0..config.num_hidden_layers)
            .map(|layer| DecoderLayer::new(&config, layer, parameters))
            .collect::<Result<Vec<_>, _>>()?;
        let norm = RmsNorm { weight: parameters.get(FINAL_NORM)?, eps: config.rms_norm_eps };
        let (embed_tokens, rope) = (parameters.get(EMBEDDING)?, Rope::new(&config, device)?);
        Ok(Self { config, device, kind, embed_tokens, layers, norm, rope })
    }

    /// Checks inputs, and computes the state that the layers share in a pass over them, without an adapter.
    pub(super) fn context(&self, inputs: &ModelInputs) -> Result<Context, ModelError> {
        let layout = inputs.check(self.config.vocab_size)?;
        Ok(Context {
            rotary: self.rope.at(&upload(inputs.position_ids, self.device)?, self.kind)?,
            masks: Masks::for_rows(&self.config, inputs, &layout, self.device, self.kind)?,
            adapter_enabled: false,
            lambda_scale: None,
            dropout_seed: None,
        })
    }

    /// Embeds [R, T] ids as [R, T, H]; the padding token's row gets no gradient, as in Transformers.
    pub(super) fn embed(&self, input_ids: &Tensor) -> Result<Tensor, ModelError> {
        let padding = self.config.pad_token_id.filter(|&pad| pad < self.config.vocab_size).unwrap_or(-1);
        Ok(Tensor::f_embedding(&self.embed_tokens, input_ids, padding, false, false)?)
    }

    /// Computes the hidden states after the final norm, [R, T, H], without gradients.
    pub(super) fn hidden(&self, input_ids: &Tensor, context: &Context) -> Result<Tensor, ModelError> {
        tch::no_grad(|| {
            let mut hidden = self.embed(&upload(input_ids, self.device)?)?;
            for layer in &self.layers {
                hidden = layer.forward(&hidden, context, None)?;
            }
            self.norm.forward(&hidden)
        })
    }
}
