//! The decoder layer: norms, attention and MLP, named as in the checkpoint.

use tch::Tensor;

use crate::libtorch::columns::by_columns;
use crate::libtorch::rows;
use crate::model::ModelError;
use crate::model::config::ModelConfig;
use crate::model::kv_cache::CachedPass;
use crate::model::parameters::Parameters;
use crate::model::pass::Context;

use super::attention::Attention;
use super::linear::Linear;
use super::norm::RmsNorm;

/// Gated feed-forward network: down(silu(gate(x)) ⊙ up(x)).
#[derive(Debug)]
pub(in crate::model) struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    fn forward(&self, input: &Tensor, context: &Context) -> Result<Tensor, ModelError> {
        let (gate, up) = (self.gate_proj.forward(input, context)?, self.up_proj.forward(input, context)?);
        let gated = match rows::gated(&gate, &up) {
            Some(gated) => gated?,
            None => gate.f_silu()?.f_mul(&up)?,
        };
        drop((gate, up));
        self.down_proj.forward(&gated, context)
    }
}

/// One layer of the decoder.
#[derive(Debug)]
pub(in crate::model) struct DecoderLayer {
    path: String,
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

impl DecoderLayer {
    /// Builds a layer from parameters, with which it shares its tensors.
    pub(in crate::model) fn new(
        config: &ModelConfig,
        layer: usize,
        parameters: &Parameters,
    ) -> Result<DecoderLayer, ModelError> {
        let path = format!("model.layers.{layer}");
        let norm = |name: &str| -> Result<RmsNorm, ModelError> {
            Ok(RmsNorm { weight: parameters.get(&format!("{path}.{name}.weight"))?, eps: config.rms_norm_eps })
        };
        let linear = |name: &str, has_bias: bool| -> Result<Linear, ModelError> {
            let weight = parameters.weight(&format!("{path}.{name}.weight"))?;
            let bias = if has_bias { Some(parameters.get(&format!("{path}.{name}.bias"))?) } else { None };
            Ok(Linear { weight, bias, lora: None })
        };
        let qk_norm = if config.architecture.qk_norm {
            Some((norm("self_attn.q_norm")?, norm("self_attn.k_norm")?))
        } else {
            None
        };
        Ok(DecoderLayer {
            self_attn: Attention {
                q_proj: linear("self_attn.q_proj", config.qkv_bias)?,
                k_proj: linear("self_attn.k_proj", config.qkv_bias)?,
                v_proj: linear("self_attn.v_proj", config.qkv_bias)?,
                o_proj: linear("self_attn.o_proj", config.o_proj_bias)?,
                qk_norm,
                layer,
                head_dim: config.head_dim,
                num_groups: config.num_attention_heads / config.num_key_value_heads,
            },
            mlp: Mlp {
                gate_proj: linear("mlp.gate_proj", config.mlp_bias)?,
                up_proj: linear("mlp.up_proj", config.mlp_bias)?,
                down_proj: linear("mlp.down_proj", config.mlp_bias)?,
            },
            input_layernorm: norm("input_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            path,
        })
    }

    /// Computes the layer's output.
    ///
    /// # Shapes
    ///
    /// `hidden` and the result: [R, T, H].
    pub(in crate::model) fn forward(
        &self,
        hidden: &Tensor,
        context: &Context,
        cached: Option<CachedPass>,
    ) -> Result<Tensor, ModelError> {
        let normed = self.input_layernorm.forward(hidden)?;
        let attended = self.self_attn.forward(&normed, context, cached)?;
        drop(normed);
        let hidden = hidden.f_add(&attended)?;
        drop(attended);
        let mut normed = self.post_attention_layernorm.forward(&hidden)?;
        if cached.is_some() {
            normed = by_columns(&normed)?;
        }
        Ok(hidden.f_add(&self.mlp.forward(&normed, context)?)?)
    }

    /// Returns the linear layers with their paths, in the checkpoint's order.
    pub(in crate::model) fn linears_mut(&mut self) -> [(String, &mut Linear); 7] {
        let path = |name: &str| format!("{}.{name}", self.path);
        [
            (path("self_attn.q_proj"), &mut self.self_attn.q_proj),
            (path("self_attn.k_proj"), &mut self.self_attn.k_proj),
            (path("self_attn.v_proj"), &mut self.self_attn.v_proj),
            (path("self_attn.o_proj"), &mut self.self_attn.o_proj),
            (path("mlp.gate_proj"), &mut self.mlp.gate_proj),
            (path("mlp.up_proj"), &mut self.mlp.up_proj),
            (path("mlp.down_proj"), &mut self.mlp.down_proj),
        ]
    }
}
