//! The decoder layer, built of norm, attention and MLP, with the names of the checkpoint.

use tch::{Kind, Tensor};

use super::ModelError;
use super::attention::{Attention, Masks};
use super::cache::LayerCache;
use super::config::ModelConfig;
use super::linear::Linear;
use super::rope::Rotary;

/// What all layers of one forward pass share.
pub(super) struct Context {
    pub(super) rotary: Rotary,
    pub(super) masks: Masks,
    pub(super) adapter_enabled: bool,
    /// What a λ-adapter scales its low-rank activations with, see [`Model::lambda_scale`](super::Model::lambda_scale).
    pub(super) lambda_scale: Option<Tensor>,
    /// Seed of the adapters' dropout; `None` outside training.
    pub(super) dropout_seed: Option<i64>,
}

/// Division by the root mean square, then a weight for each dimension.
#[derive(Debug)]
pub(super) struct RmsNorm {
    pub(super) weight: Tensor,
    pub(super) eps: f64,
}

impl RmsNorm {
    /// # Numerics
    ///
    /// In float32; rounded to the input's dtype before the weight is applied, as in Transformers.
    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        let kind = input.f_kind()?;
        let wide = if kind == Kind::Double { input.shallow_clone() } else { input.f_to_kind(Kind::Float)? };
        let mean_square = wide.f_square()?.f_mean_dim(-1, true, None)?;
        let normed = wide.f_mul(&mean_square.f_add_scalar(self.eps)?.f_rsqrt()?)?;
        Ok(normed.f_to_kind(kind)?.f_mul(&self.weight)?)
    }
}

/// Gated feed-forward network: down(silu(gate(x)) ⊙ up(x)).
#[derive(Debug)]
pub(super) struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    fn forward(&self, input: &Tensor, context: &Context) -> Result<Tensor, ModelError> {
        let gate = self.gate_proj.forward(input, context)?.f_silu()?;
        let gated = gate.f_mul(&self.up_proj.forward(input, context)?)?;
        drop(gate);
        self.down_proj.forward(&gated, context)
    }
}

/// One layer of the decoder.
#[derive(Debug)]
pub(super) struct DecoderLayer {
    path: String,
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

impl DecoderLayer {
    /// Builds a layer of tensors that `take` finds by name.
    pub(super) fn new(
        config: &ModelConfig,
        layer: usize,
        take: &impl Fn(&str) -> Result<Tensor, ModelError>,
    ) -> Result<DecoderLayer, ModelError> {
        let path = format!("model.layers.{layer}");
        let norm = |name: &str| -> Result<RmsNorm, ModelError> {
            Ok(RmsNorm { weight: take(&format!("{path}.{name}.weight"))?, eps: config.rms_norm_eps })
        };
        let linear = |name: &str, has_bias: bool| -> Result<Linear, ModelError> {
            let weight = take(&format!("{path}.{name}.weight"))?;
            let bias = if has_bias { Some(take(&format!("{path}.{name}.bias"))?) } else { None };
            Ok(Linear { weight, bias, lora: None })
        };
        let qk_norm =
            if config.qk_norm() { Some((norm("self_attn.q_norm")?, norm("self_attn.k_norm")?)) } else { None };
        Ok(DecoderLayer {
            self_attn: Attention {
                q_proj: linear("self_attn.q_proj", config.attention_bias)?,
                k_proj: linear("self_attn.k_proj", config.attention_bias)?,
                v_proj: linear("self_attn.v_proj", config.attention_bias)?,
                o_proj: linear("self_attn.o_proj", config.o_proj_bias())?,
                qk_norm,
                layer,
                head_dim: config.head_dim,
                num_groups: config.num_attention_heads / config.num_key_value_heads,
                sliding_window: config.sliding_window,
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

    /// # Shapes
    ///
    /// `hidden` and the result: [R, T, H].
    pub(super) fn forward(
        &self,
        hidden: &Tensor,
        context: &Context,
        cache: Option<&mut LayerCache>,
    ) -> Result<Tensor, ModelError> {
        let normed = self.input_layernorm.forward(hidden)?;
        let attended = self.self_attn.forward(&normed, context, cache)?;
        drop(normed);
        let hidden = hidden.f_add(&attended)?;
        drop(attended);
        let normed = self.post_attention_layernorm.forward(&hidden)?;
        Ok(hidden.f_add(&self.mlp.forward(&normed, context)?)?)
    }

    /// Its linear layers with their paths, in checkpoint order.
    pub(super) fn linears_mut(&mut self) -> [(String, &mut Linear); 7] {
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
